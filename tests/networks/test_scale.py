from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from diffusion_adc.networks import HaarCodec, IdentityCodec, LatentScale, ScaleMismatchError


def patches(number: int, size: int = 16) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(number):
        block = torch.rand((4, 1, size // 4, size // 4), generator=generator) < 0.1
        yield block.float().repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_standardized_latents_have_zero_mean_and_unit_variance() -> None:
    codec = HaarCodec(2)
    scale = LatentScale(codec)
    assert not scale.measured
    assert scale.measure((p for p in patches(64)), at_least=256) == 256
    z = torch.cat([scale.standardize(codec.encode(p)) for p in patches(64)])
    # The blocks are aligned with the cells, so the details never vary: they keep the floor.
    torch.testing.assert_close(z[:, 0].mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(z[:, 0].std(), torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(scale.std[1:], (1e-3 * scale.std[0]).expand(3))
    torch.testing.assert_close(float(scale.prevalence), 0.1, atol=0.02, rtol=0)


def test_round_trip_and_streaming_equal_the_whole() -> None:
    codec = HaarCodec(2)
    batches = [(torch.rand(4, 1, 8, 8) < 0.2).float() for _ in range(8)]
    scale = LatentScale(codec)
    scale.measure(batches, 10**9)
    whole = codec.encode(torch.cat(batches))
    torch.testing.assert_close(scale.mean, whole.mean((0, 2, 3)))
    torch.testing.assert_close(scale.std, whole.std((0, 2, 3), correction=0))
    difference = scale.standardize(whole) - scale.standardize(codec.encode(torch.zeros(1, 1, 8, 8)))
    norms = difference.flatten(1).norm(dim=1)
    torch.testing.assert_close(scale.contrast, norms.median())
    torch.testing.assert_close(scale.unstandardize(scale.standardize(whole)), whole)


def test_stops_after_enough_patches() -> None:
    assert LatentScale(HaarCodec(2)).measure(patches(1000), at_least=10) == 12


def test_no_patch_and_no_tumor_are_refused() -> None:
    with pytest.raises(ValueError, match="no patch"):
        LatentScale(HaarCodec(2)).measure([])
    with pytest.raises(ValueError, match="no tumor voxel in 3 patches"):
        LatentScale(HaarCodec(2)).measure([torch.zeros(3, 1, 4, 4)])


def test_ignorance_is_the_entropy_of_the_prevalence() -> None:
    scale = LatentScale(HaarCodec(2))
    scale.prevalence.fill_(0.25)
    expected = torch.distributions.Bernoulli(0.25).entropy()
    torch.testing.assert_close(scale.ignorance(), expected)


def test_statistics_of_another_codec_are_refused() -> None:
    scale = LatentScale(HaarCodec(2))
    scale.measure(patches(4), 4)
    again = LatentScale(HaarCodec(2))
    again.load_state_dict(scale.state_dict())
    assert again.measured
    torch.testing.assert_close(again.std, scale.std)
    with pytest.raises(ScaleMismatchError, match="expected those of"):
        LatentScale(HaarCodec(2, "signed_distance", (1, 1))).load_state_dict(scale.state_dict())
    with pytest.raises(ScaleMismatchError):
        LatentScale(IdentityCodec(2)).load_state_dict(scale.state_dict())
