"""Samplers against problems whose answer is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_adc.diffusion import RectifiedFlow, make_sampler

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.5, 0.3, 0.0], [0.3, 0.4, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT  # ROOT is symmetric positive definite, hence the square root of it


def gaussian_velocity(z: Tensor, t: float) -> Tensor:
    """v = (z - E[x_0 | x_t = z]) / t for x_0 ~ N(MEAN, COVARIANCE); z is (B, 3)."""
    noisy = (1 - t) ** 2 * COVARIANCE + t**2 * torch.eye(3, dtype=torch.float64)
    gain = (1 - t) * COVARIANCE @ torch.linalg.inv(noisy)
    return (z - MEAN - (z - (1 - t) * MEAN) @ gain.T) / t


@pytest.mark.parametrize(("name", "steps", "tolerance"), [("euler", 400, 0.02), ("heun", 40, 0.01)])
def test_gaussian_mean_and_covariance(name: str, steps: int, tolerance: float) -> None:
    noise = torch.randn((50_000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise - noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / len(noise))).T
    draws = make_sampler(name, RectifiedFlow(), steps).draw(gaussian_velocity, noise)  # type: ignore[arg-type]
    torch.testing.assert_close(draws.mean(0), MEAN, atol=1e-9, rtol=0)
    torch.testing.assert_close(draws.T.cov(correction=0), COVARIANCE, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_order_of_convergence(name: str, order: int, shift: float) -> None:
    # The flow's exact map of a Gaussian is linear: noise e goes to MEAN + COVARIANCE^(1/2) e.
    noise = torch.randn((20, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = MEAN + noise @ ROOT

    def error(steps: int) -> float:
        draws = make_sampler(name, RectifiedFlow(shift), steps).draw(gaussian_velocity, noise)  # type: ignore[arg-type]
        return float((draws - exact).abs().max())

    coarse, fine = error(80), error(160)
    assert coarse / fine == pytest.approx(2**order, rel=0.2)


@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_perfect_denoiser_is_exact_in_any_number_of_steps(name: str, steps: int) -> None:
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    seen: list[int] = []
    asked: list[float] = []

    def velocity(z: Tensor, t: float) -> Tensor:
        asked.append(t)
        return (z - x0) / t

    sampler = make_sampler(name, RectifiedFlow(20.0), steps)  # type: ignore[arg-type]
    draw = sampler.draw(velocity, noise, lambda index, _: seen.append(index))
    torch.testing.assert_close(draw, x0, atol=1e-5, rtol=0)
    assert seen == list(range(1, steps + 1))
    assert len(asked) == sampler.evaluations
    assert asked[0] == 1.0
    assert min(asked) > 0


def lesion_velocity(norm: float, share: float) -> Callable[[Tensor, float], Tensor]:
    """Exact velocity of a lesion that is there (latent norm `norm`) for a `share` of the readers."""

    def velocity(z: Tensor, t: float) -> Tensor:
        evidence = (1 - t) * norm * (z - (1 - t) * norm / 2) / t**2
        there = torch.sigmoid(torch.logit(torch.tensor(share, dtype=torch.float64)) + evidence)
        return (z - norm * there) / t

    return velocity


def test_an_even_clock_of_few_steps_loses_rare_lesions_and_the_warped_one_keeps_them() -> None:
    # The reason for the warp: quantiles of the noise instead of random draws, so the shares are exact.
    noise = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)

    def share_drawn(shift: float, steps: int) -> float:
        draws = make_sampler("euler", RectifiedFlow(shift), steps).draw(lesion_velocity(140, 0.25), noise)
        return float((draws > 70).double().mean())

    assert share_drawn(1.0, 4) < 0.001
    assert share_drawn(20.0, 4) == pytest.approx(0.25, abs=0.09)
    assert share_drawn(20.0, 12) == pytest.approx(0.25, abs=0.03)
    assert share_drawn(1.0, 2000) == pytest.approx(0.25, abs=0.01)


def test_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="euler, heun"):
        make_sampler("ancestral", RectifiedFlow(), 4)  # type: ignore[arg-type]
