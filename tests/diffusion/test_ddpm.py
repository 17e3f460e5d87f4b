"""DDPM's path and the diffusers samplers on it, against a Gaussian whose answer is known in closed form."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from diffusion_adc.diffusion import LatentDenoiser, RectifiedFlow, VariancePreserving, make_path, make_sampler

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.5, 0.3, 0.0], [0.3, 0.4, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
NAMES = ("ddim", "dpmsolver++", "unipc")


def gaussian_velocity(path: VariancePreserving):
    """v of x_0 ~ N(MEAN, ROOT²): the path's velocity of the exact posterior mean; z is (B, 3)."""

    def velocity(z: Tensor, t: float) -> Tensor:
        time = torch.tensor([t], dtype=torch.float64)
        a, sigma = (float(c) for c in path.coefficients(time))
        covariance = ROOT @ ROOT
        gain = (
            a
            * covariance
            @ torch.linalg.inv(a**2 * covariance + sigma**2 * torch.eye(3, dtype=torch.float64))
        )
        clean = MEAN + (z - a * MEAN) @ gain.T
        return path.velocity(z, clean, time)

    return velocity


def error(name: str, steps: int, shift: float = 1.0) -> float:
    path = VariancePreserving(shift)
    noise = torch.randn((40, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws = make_sampler(name, path, steps).draw(gaussian_velocity(path), noise)  # type: ignore[arg-type]
    return float((draws - (MEAN + noise @ ROOT)).abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_error_falls_with_steps(name: str, shift: float) -> None:
    errors = [error(name, steps, shift) for steps in (4, 8, 16, 32, 64)]
    assert all(fine < coarse for coarse, fine in itertools.pairwise(errors))
    # First order halves the error with twice the steps, second order quarters it.
    assert errors[-1] < (0.3 if name == "ddim" else 0.07)
    assert errors[-2] / errors[-1] > (1.5 if name == "ddim" else 2.2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_perfect_denoiser_is_exact(name: str, steps: int) -> None:
    path = VariancePreserving(8.0)
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    asked: list[float] = []

    def velocity(z: Tensor, t: float) -> Tensor:
        asked.append(t)
        return path.velocity(z, x0, torch.tensor([t, t]))

    sampler = make_sampler(name, path, steps)  # type: ignore[arg-type]
    torch.testing.assert_close(sampler.draw(velocity, noise), x0, atol=1e-4, rtol=0)
    assert len(asked) == sampler.evaluations == steps
    assert 0.998 < asked[0] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_two_draws_at_once_do_not_disturb_each_other(name: str) -> None:
    path = VariancePreserving(2.0)
    sampler = make_sampler(name, path, 5)  # type: ignore[arg-type]
    velocity = gaussian_velocity(path)
    noise = torch.randn((2, 3), dtype=torch.float64)
    alone = sampler.draw(velocity, noise)
    inner: list[Tensor] = []
    again = sampler.draw(velocity, noise, lambda n, _: inner.append(sampler.draw(velocity, noise)))
    torch.testing.assert_close(alone, again, atol=0, rtol=0)
    torch.testing.assert_close(alone, inner[-1], atol=0, rtol=0)


def test_path_keeps_variance_and_its_time_can_be_found_again() -> None:
    path = VariancePreserving(6.0)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    a, sigma = path.coefficients(t)
    torch.testing.assert_close(a.square() + sigma.square(), torch.ones_like(t))
    torch.testing.assert_close(sigma[1:-1] / a[1:-1], 6.0 * torch.tan(0.5 * math.pi * t[1:-1]))
    torch.testing.assert_close(path.time_of(a[1:-1].square()), t[1:-1])
    assert float(a[-1]) == pytest.approx(0, abs=1e-12)
    assert float(a[0]) == 1


@dataclass
class Plain:
    maps: Tensor
    base_logit: Tensor
    token: Tensor


class Zero(nn.Module):
    def forward(self, z: Tensor, level: Tensor, maps: Tensor, token: Tensor) -> Tensor:
        return torch.zeros_like(z)


def test_latent_denoiser_learns_minus_v() -> None:
    denoiser = LatentDenoiser(Zero(), VariancePreserving(3.0))
    x0, noise, t = torch.randn(4, 1, 5000), torch.randn(4, 1, 5000), torch.tensor([0.1, 0.4, 0.7, 0.95])
    plain = Plain(torch.zeros(4, 1, 5000), torch.zeros(4, 1, 5000), torch.zeros(4, 1))
    a, sigma = (c[:, None, None] for c in denoiser.path.coefficients(t))
    v = a * noise - sigma * x0
    # With F = 0 the loss is the mean square of its target.
    torch.testing.assert_close(denoiser.loss(x0, x0, noise, t, plain), v.square().mean(), rtol=1e-4, atol=0)
    z = denoiser.path.mix(x0, noise, t)
    torch.testing.assert_close(denoiser.path.velocity(z, x0, t), v, rtol=1e-3, atol=1e-3)


def test_a_sampler_of_the_other_path_is_refused() -> None:
    with pytest.raises(ValueError, match="expected ddim"):
        make_sampler("euler", VariancePreserving(), 4)
    with pytest.raises(ValueError, match="expected euler or heun"):
        make_sampler("ddim", RectifiedFlow(), 4)
    with pytest.raises(ValueError, match="rectified, ddpm"):
        make_path("bridge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 to 1000"):
        make_sampler("unipc", VariancePreserving(), 0)
