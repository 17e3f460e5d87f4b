from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_adc.inference.noise import noise_field
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.volume import VolumeDrawing, draw_presence
from diffusion_adc.stages import PresenceFlowStage

CASE = "PH0001_01"
TILED = 8 * 8 * 4


def _tiny_stage(dims: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    stage = PresenceFlowStage(
        spatial_dims=dims, channels=[8, 8], denoiser_width=8, denoiser_levels=2, shift=1.0
    )
    with torch.no_grad():
        for parameter in stage.parameters():
            if parameter.abs().sum() == 0:  # blocks start at zero: an untrained network would ignore z
                parameter.normal_(0, 0.1)
    return stage.eval().requires_grad_(False)


def test_two_tilings_and_the_whole_volume_give_one_draw(oracle: Any, condition: Any) -> None:
    case = condition((20, 17, 9))
    whole = draw_presence(oracle(), case, CASE, DrawSettings(draws=3, steps=5))
    for window, overlap in ((TILED, 0.5), (2 * TILED, 0.25), (4 * 4 * 4, 0.75)):
        model = oracle()
        tiled = draw_presence(
            model, case, CASE, DrawSettings(draws=3, steps=5, max_window_voxels=window, overlap=overlap)
        )
        assert len(set(model.windows)) == 1
        assert np.prod(model.windows[0][2:]) <= window
        assert torch.allclose(tiled.signed, whole.signed, atol=1e-3)
        assert torch.allclose(tiled.base_logit, whole.base_logit, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_spread_in_overlaps_is_the_law_s_spread(oracle: Any, condition: Any, dims: int) -> None:
    case = condition((32, 32, 16), mean=0.0)
    window = 16 * 16 * (8 if dims == 3 else 1)
    tiled = DrawSettings(draws=3, steps=100, max_window_voxels=window, overlap=0.5)
    drawn = draw_presence(oracle(dims), case, CASE, tiled).signed
    # Blending finished draws of independent noise would give 0.7 where two tiles meet, and less at corners.
    k = slice(4, 12) if dims == 3 else slice(None)
    assert float(drawn[:, 8:24, 8:24, k].std()) == pytest.approx(1, abs=0.05)
    assert float(drawn.std()) == pytest.approx(1, abs=0.05)


def test_the_drawn_law_is_the_oracle_s(oracle: Any, condition: Any) -> None:
    case = condition((16, 16, 16), mean=0.7)
    drawn = draw_presence(oracle(sd=0.5), case, CASE, DrawSettings(draws=4, steps=200)).signed
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(*(st.integers(1, 21) for _ in range(3))), dims=st.sampled_from([2, 3]))
def test_any_shape_is_covered(oracle: Any, condition: Any, shape: tuple[int, ...], dims: int) -> None:
    case = condition(shape)
    model = oracle(dims, alignment=4)
    drawn = draw_presence(model, case, CASE, DrawSettings(draws=2, steps=2, max_window_voxels=64))
    assert drawn.signed.shape == (2, *shape)
    assert drawn.presence.dtype == torch.bool
    assert bool(torch.isfinite(drawn.signed).all())
    assert np.allclose(drawn.base_logit.numpy(), 3 * case.images[0], atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_draw_depends_on_its_number_alone(oracle: Any, condition: Any, dims: int) -> None:
    case = condition((12, 12, 6))
    few = draw_presence(oracle(dims), case, CASE, DrawSettings(draws=2, steps=3))
    many = draw_presence(oracle(dims), case, CASE, DrawSettings(draws=5, steps=3, batch=4))
    assert torch.allclose(few.signed, many.signed[:2], atol=1e-5)
    again = draw_presence(oracle(dims), case, CASE, DrawSettings(draws=2, steps=3))
    assert torch.equal(few.signed, again.signed)
    for name, other in ((CASE, DrawSettings(2, 3, seed=1)), ("PH0002_01", DrawSettings(2, 3))):
        assert not torch.allclose(few.signed, draw_presence(oracle(dims), case, name, other).signed, atol=0.1)


@pytest.mark.parametrize("dims", [2, 3])
def test_batch_of_one_and_eight_agree(condition: Any, dims: int) -> None:
    stage, case = _tiny_stage(dims), condition((20, 18, 10))
    one = draw_presence(stage, case, CASE, DrawSettings(draws=8, steps=4, batch=1))
    eight = draw_presence(stage, case, CASE, DrawSettings(draws=8, steps=4, batch=8))
    assert torch.allclose(one.signed, eight.signed, atol=1e-4)
    assert torch.allclose(one.base_logit, eight.base_logit, atol=1e-4)
    assert float(one.signed.std(0).mean()) > 1e-3  # the network does answer to the noise


@pytest.mark.parametrize("dims", [2, 3])
def test_a_real_stage_tiled_is_nearly_the_stage_in_one_piece(condition: Any, dims: int) -> None:
    stage, case = _tiny_stage(dims), condition((72, 40, 16))
    whole = draw_presence(stage, case, CASE, DrawSettings(draws=2, steps=4))
    window = 40 * 40 * (16 if dims == 3 else 1)
    tiled = draw_presence(stage, case, CASE, DrawSettings(draws=2, steps=4, max_window_voxels=window))
    # The encoder's tiles have a halo as wide as its reach, so that its part is exact.
    assert torch.allclose(tiled.base_logit, whole.base_logit, atol=1e-4)
    assert float((tiled.presence != whole.presence).float().mean()) < 0.02


def test_slices_are_a_batch_with_correlated_noise(oracle: Any, condition: Any) -> None:
    case = condition((12, 12, 8), mean=0.0)
    model = oracle(2)
    drawing = VolumeDrawing(model, case, CASE, DrawSettings(draws=1, steps=1, batch=8))
    assert model.encoded == [(8, 7, 12, 12)]
    noise = drawing._noise(0)
    expected = noise_field((1, 12, 12, 8), seed=0, case_id=CASE, draw=0, slice_correlation=0.9)
    assert torch.equal(noise, expected)
    free = VolumeDrawing(oracle(3), case, CASE, DrawSettings())
    assert torch.equal(free._noise(0), noise_field((1, 12, 12, 8), seed=0, case_id=CASE, draw=0))


def test_the_encoder_runs_once_however_many_draws(oracle: Any, condition: Any) -> None:
    model = oracle(3)
    draw_presence(model, condition((12, 12, 8)), CASE, DrawSettings(draws=6, steps=3))
    assert len(model.encoded) == 1


def test_progress_counts_every_step_of_every_draw(oracle: Any, condition: Any) -> None:
    for dims in (2, 3):
        done: list[int] = []
        drawing = VolumeDrawing(
            oracle(dims), condition((8, 8, 4)), CASE, DrawSettings(draws=3, steps=4, batch=2)
        )
        for workers in (1, 3):
            done.clear()
            list(drawing.draws(done.append, workers))
            assert sum(done) == 12


def test_heun_can_be_asked_for(oracle: Any, condition: Any) -> None:
    case = condition((8, 8, 4), mean=0.0)
    euler, heun, exact = (
        draw_presence(oracle(sd=0.3), case, CASE, DrawSettings(draws=1, steps=steps, sampler=name)).signed
        for name, steps in (("euler", 8), ("heun", 8), ("heun", 200))
    )
    assert float((heun - exact).abs().mean()) < float((euler - exact).abs().mean())
