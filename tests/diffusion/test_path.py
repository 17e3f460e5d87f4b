from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.diffusion import RectifiedFlow


@settings(deadline=None)
@given(steps=st.integers(1, 300), shift=st.floats(0.1, 500))
def test_grid_runs_from_exactly_one_to_exactly_zero(steps: int, shift: float) -> None:
    grid = RectifiedFlow(shift).grid(steps)
    assert grid.shape == (steps + 1,)
    assert float(grid[0]) == 1.0
    assert float(grid[-1]) == 0.0
    assert bool((grid.diff() < 0).all())
    assert float(-grid.diff().sum()) == pytest.approx(1.0, abs=1e-9)


def test_even_clock_and_warped_clock() -> None:
    torch.testing.assert_close(RectifiedFlow(1.0).grid(4), torch.tensor([1, 0.75, 0.5, 0.25, 0.0]).double())
    # Esser et al. 2024, eq. 23: the odds of t are s times the odds of u.
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    t = RectifiedFlow(7.0).warp(u)
    torch.testing.assert_close(t / (1 - t), 7.0 * u / (1 - u))


def test_mix_and_velocity_are_each_other_s_inverse() -> None:
    x0, noise, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0.2, 0.7, 1.0])
    z = RectifiedFlow().mix(x0, noise, t)
    torch.testing.assert_close(z[2], noise[2])
    torch.testing.assert_close(RectifiedFlow().velocity(z, x0, t), noise - x0, rtol=1e-4, atol=1e-5)


def test_training_times_are_uniform_each_and_spread_together() -> None:
    path = RectifiedFlow(1.0)
    times = path.draw_times(20_000, 4, torch.Generator().manual_seed(0), torch.device("cpu")).view(-1, 4)
    assert float(times.min()) > 0
    assert float(times.max()) <= 1
    torch.testing.assert_close(times.mean(0), torch.full((4,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(times.var(0), torch.full((4,), 1 / 12), atol=0.002, rtol=0)
    gaps = times.sort(1).values.diff(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.25), atol=2e-4, rtol=0)


def test_level_is_finite_and_falls_with_time() -> None:
    path = RectifiedFlow(20.0)
    level = path.level(torch.tensor([0.0, 0.5, 20 / 21, 1.0]))
    assert level.tolist() == sorted(level.tolist(), reverse=True)
    assert abs(float(level[2])) < 1e-5  # the middle of the warped clock
    assert level[[0, 3]].tolist() == pytest.approx([8.0, -8.0])


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_shift_is_refused(shift: float) -> None:
    with pytest.raises(ValueError, match="shift"):
        RectifiedFlow(shift)


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        RectifiedFlow().grid(0)


def test_clock_travels_with_the_weights() -> None:
    path = RectifiedFlow(3.0)
    path.set_shift(12.5)
    again = RectifiedFlow()
    again.load_state_dict(path.state_dict())
    assert again.grid(5).tolist() == path.grid(5).tolist()
