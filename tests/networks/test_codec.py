from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from diffusion_adc.networks import Codec, CodecGateError, HaarCodec, IdentityCodec, codec_gate
from diffusion_adc.networks.distance import signed_distance
from diffusion_adc.networks.gate import compact_lesion

CODECS = [
    HaarCodec(2),
    HaarCodec(3),
    HaarCodec(3, factor=(2, 2, 1)),
    IdentityCodec(3),
    HaarCodec(2, "signed_distance", (1.0, 2.5)),
    HaarCodec(3, "signed_distance", (0.5, 0.5, 3.0)),
    IdentityCodec(2, "signed_distance", (2.0, 2.0)),
]


class AveragingCodec(Codec):
    """Really loses small lesions: the mean over cells of four voxels per axis."""

    def __init__(self) -> None:
        super().__init__(3)
        self.factor, self.channels = (4, 4, 4), 1

    def encode_field(self, field: Tensor) -> Tensor:
        return functional.avg_pool3d(field, 4)

    def decode(self, latent: Tensor) -> Tensor:
        return functional.interpolate(latent, scale_factor=4)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{type(c).__name__}{c.spatial_dims}{c.target}")
def test_round_trip_gives_presence_back_exactly(codec: Codec) -> None:
    shape = [8 * f for f in codec.factor]
    presence = (torch.rand(3, 1, *shape) < 0.1).float()
    presence[1] = 0
    presence[2] = 1
    latent = codec.encode(presence)
    assert latent.shape[1:] == codec.latent_shape(shape)
    assert torch.equal((codec.decode(latent) > 0).float(), presence)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{type(c).__name__}{c.spatial_dims}{c.target}")
def test_gate_passes_lossless_codecs(codec: Codec) -> None:
    report = codec_gate(codec, lesions=6)
    assert report.recall == {3: 1.0, 10: 1.0, 100: 1.0}
    assert max(report.volume_error.values()) == 0
    assert report.noisy_recall == {}


def test_gate_refuses_a_codec_that_loses_lesions() -> None:
    with pytest.raises(CodecGateError, match="AveragingCodec keeps 0% of the lesions of 3 voxels"):
        codec_gate(AveragingCodec())


def test_gate_reports_small_lesions_under_latent_noise() -> None:
    quiet = codec_gate(HaarCodec(3), latent_std=0.2)
    loud = codec_gate(HaarCodec(3), latent_std=torch.full((8,), 1.5))
    assert set(quiet.noisy_recall) == {1, 2, 3, 10, 100}
    assert min(quiet.noisy_recall.values()) == 1
    assert (
        quiet.noisy_false < 1e-4
    )  # the field keeps unit distance to the threshold: five standard deviations
    # Noise of 1.5 against a distance of 1: a voxel flips with probability Phi(-1/1.5) = 0.2525.
    assert loud.noisy_false == pytest.approx(0.2525, abs=0.01)
    assert loud.noisy_recall[1] < 1


def test_fingerprint_tells_codecs_apart_and_is_stable() -> None:
    prints = [codec.fingerprint() for codec in CODECS]
    assert len(set(prints)) == len(CODECS)
    assert HaarCodec(3).fingerprint() == HaarCodec(3).fingerprint()
    assert len(prints[0]) == 64


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3"):
        HaarCodec(4)
    with pytest.raises(ValueError, match="spacing_mm None"):
        HaarCodec(3, "signed_distance")
    with pytest.raises(ValueError, match="plain, signed_distance or value"):
        HaarCodec(3, "soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiples"):
        HaarCodec(3).latent_shape((4, 4, 5))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.6))
def test_signed_distance_equals_brute_force(seed: int, share: float) -> None:
    spacing = np.array([0.7, 2.0, 1.1])
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 4, 6)) < share
    if not mask.any() or mask.all():
        return
    grid = np.argwhere(np.ones_like(mask)) * spacing
    flat = mask.ravel()
    nearest = np.where(
        flat, cdist(grid, grid[~flat]).min(1) - 0.35, -(cdist(grid, grid[flat]).min(1) - 0.35)
    ).reshape(mask.shape)
    field = signed_distance(torch.from_numpy(mask)[None, None].float(), tuple(spacing), 3.0)[0, 0].numpy()
    np.testing.assert_allclose(field, np.clip(nearest, -3, 3), atol=1e-5)
    assert np.array_equal(field > 0, mask)
    assert np.abs(field).min() >= 0.35 - 1e-6  # half a voxel on either side of the boundary


def test_signed_distance_of_empty_and_full_patches() -> None:
    assert torch.equal(signed_distance(torch.zeros(1, 1, 3, 3), (1, 1)), torch.full((1, 1, 3, 3), -10.0))
    assert torch.equal(signed_distance(torch.ones(1, 1, 1, 1), (1, 1)), torch.full((1, 1, 1, 1), 10.0))


@pytest.mark.parametrize("voxels", [1, 3, 100])
def test_compact_lesion_has_its_size(voxels: int) -> None:
    assert int(compact_lesion((16, 12), np.array([5.2, 6.9]), voxels).sum()) == voxels
