from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diffusion_adc.networks import CovariateToken, DenoiserNetwork, Encoder, Features, set_base_prevalence
from diffusion_adc.networks.blocks import ChannelNorm, level_strides


def awake(module: nn.Module) -> nn.Module:
    """Zero-initialized layers would hide what the test looks for."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    return module.eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("stem", ["haar", "full"])
@pytest.mark.parametrize("factor", [1, 2])
def test_shapes(dims: int, stem: Any, factor: int) -> None:
    encoder = Encoder(dims, 7, 6, (8, 12, 16), stem, (factor,) * dims)
    shape = tuple(2 * a for a in encoder.alignment)
    maps, logit = encoder(torch.randn(2, 7, *shape), torch.ones(2, 6))
    assert maps.shape == (2, 8, *(s // factor for s in shape))
    assert logit.shape == (2, 1, *shape)
    assert logit.dtype == torch.float32


def test_unaligned_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of"):
        Encoder(2, 7, 6, (8, 8))(torch.zeros(1, 7, 8, 6), torch.ones(1, 6))


@pytest.mark.parametrize("stem", ["haar", "full"])
def test_a_tile_equals_the_whole_away_from_its_border(stem: Any) -> None:
    encoder = awake(Encoder(2, 7, 6, (8, 12), stem))
    whole = torch.randn(1, 7, 160, 96)
    flags = torch.ones(1, 6)
    margin = encoder.margin[0]
    start, size = 32, 96
    with torch.no_grad():
        maps, logit = encoder(whole, flags)
        tile_maps, tile = encoder(whole[:, :, start : start + size], flags)
    assert 0 < margin < size // 2
    inner = slice(margin, size - margin)
    torch.testing.assert_close(tile[:, :, inner], logit[:, :, start:][:, :, inner], rtol=1e-4, atol=1e-5)
    half = slice(-(-margin // 2), (size - margin) // 2)
    torch.testing.assert_close(
        tile_maps[:, :, half], maps[:, :, start // 2 :][:, :, half], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_margin_is_an_upper_bound_that_is_nearly_reached(dims: int) -> None:
    encoder = awake(Encoder(dims, 1, 1, (4, 4), slice_halvings=1))
    size = [128] + [8 if dims == 3 else 16] * (dims - 1)
    images = torch.randn(1, 1, *size, requires_grad=True)
    _, logit = encoder(images, torch.ones(1, 1))
    middle = logit[:, :, 64].sum()
    (gradient,) = torch.autograd.grad(middle, images)
    touched = gradient.abs().sum(dim=tuple(i for i in range(gradient.ndim) if i != 2)).nonzero().flatten()
    reach = int((touched - 64).abs().max())
    assert encoder.margin[0] * 0.6 <= reach <= encoder.margin[0]


def test_missing_sequence_is_not_the_same_as_a_dark_one() -> None:
    encoder = awake(Encoder(2, 7, 6, (8, 8)))
    images = torch.randn(1, 7, 8, 8)
    images[:, 0] = 0
    flags = torch.ones(1, 6)
    without = flags.clone()
    without[:, 0] = 0
    assert not torch.allclose(encoder(images, flags)[1], encoder(images, without)[1])


@pytest.mark.parametrize("stem", ["haar", "full"])
def test_base_head_starts_at_the_prevalence(stem: Any) -> None:
    encoder = Encoder(3, 7, 6, (8, 8), stem)
    nn.init.zeros_(encoder.head.weight)
    set_base_prevalence(encoder, 0.005)
    logit = encoder(torch.randn(1, 7, 8, 8, 8), torch.ones(1, 6))[1]
    torch.testing.assert_close(torch.sigmoid(logit), torch.full_like(logit, 0.005))


def test_slice_axis_stops_halving() -> None:
    assert level_strides(3, 3, 1) == [(2, 2, 2), (2, 2, 1), (2, 2, 1)]
    assert level_strides(2, 2, 0) == [(2, 2), (2, 2)]
    assert Encoder(3, 7, 6, (4, 4, 4), slice_halvings=1).alignment == (8, 8, 2)


@pytest.mark.parametrize("dims", [2, 3])
def test_channel_norm_sees_one_voxel_only(dims: int) -> None:
    norm = ChannelNorm(6)
    x = torch.randn(2, 6, *[5] * dims)
    y = norm(x)
    torch.testing.assert_close(y.mean(1), torch.zeros_like(y[:, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(y[..., :1], norm(x[..., :1]))


def test_features_window_and_repeat() -> None:
    features = Features(torch.randn(1, 3, 4, 6), torch.randn(1, 1, 8, 12), torch.randn(1, 5), (2, 2))
    part = features.window((1, 2), (2, 3))
    assert torch.equal(part.maps, features.maps[:, :, 1:3, 2:5])
    assert torch.equal(part.base_logit, features.base_logit[:, :, 2:6, 4:10])
    assert features.repeat(3).maps.shape[0] == 3
    two = Features(torch.arange(2.0).view(2, 1, 1, 1), torch.zeros(2, 1, 2, 2), torch.zeros(2, 1), (2, 2))
    assert two.repeat(2).maps.flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dims", [2, 3])
def test_denoiser_network_tile_equals_whole(dims: int) -> None:
    strides = level_strides(dims, 1, None)
    network = awake(DenoiserNetwork(dims, 4, 6, 5, 8, strides))
    other = [4] * (dims - 1)
    z, maps, token = torch.randn(1, 4, 96, *other), torch.randn(1, 6, 96, *other), torch.randn(1, 5)
    level = torch.tensor([1.0])
    with torch.no_grad():
        whole = network(z, level, network.prepare(maps, z), token)
        start, size, margin = 16, 64, network.margin[0]
        cut = slice(start, start + size)
        tile = network(z[:, :, cut], level, network.prepare(maps[:, :, cut], z[:, :, cut]), token)
    assert whole.shape == z.shape
    inner = slice(margin, size - margin)
    torch.testing.assert_close(tile[:, :, inner], whole[:, :, cut][:, :, inner], rtol=1e-4, atol=1e-5)


def test_token_with_nothing_known_is_image_only() -> None:
    token = CovariateToken(3, 8)
    unknown = torch.zeros(2, 3)
    values = torch.tensor([[1.0, float("nan"), 3.0], [9.0, 9.0, 9.0]])
    both = token(values, unknown)
    assert torch.equal(both[0], both[1])
    assert bool(torch.isfinite(both).all())
    assert not torch.allclose(token(torch.zeros(2, 3), torch.ones(2, 3)), token(torch.zeros(2, 3), unknown))
    assert CovariateToken(0, 8)(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 8)
    assert list(CovariateToken(0).parameters()) == []


def test_covariates_are_dropped_per_element_and_per_person() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.ones(20_000, 4)
    known[:, 3] = 0
    kept = CovariateToken.drop(known, 0.3, generator)
    assert float(kept[:, 3].max()) == 0
    assert float(kept[:, 0].mean()) == pytest.approx(0.7**2, abs=0.02)
    # Nobody's covariates known: all dropped at once, or three single drops.
    assert float((kept.sum(1) == 0).float().mean()) == pytest.approx(0.3 + 0.7 * 0.3**3, abs=0.02)
    assert torch.equal(CovariateToken.drop(known, 0.0), known)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_forward_on_the_gpu(dtype: torch.dtype) -> None:
    encoder = Encoder(3, 7, 6, (16, 32)).cuda()
    images, flags = torch.randn(1, 7, 16, 16, 8, device="cuda"), torch.ones(1, 6, device="cuda")
    reference = encoder(images, flags)[1]
    with torch.autocast("cuda", dtype=dtype):
        logit = encoder(images, flags)[1]
    assert logit.dtype == torch.float32
    assert bool(torch.isfinite(logit).all())
    torch.testing.assert_close(logit, reference, rtol=0.1, atol=0.1)
