from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from diffusion_adc.diffusion import LatentDenoiser, PresenceDenoiser, RectifiedFlow


@dataclass
class Plain:
    maps: Tensor
    base_logit: Tensor
    token: Tensor


class Constant(nn.Module):
    """A network that answers one number everywhere."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor, level: Tensor, maps: Tensor, token: Tensor) -> Tensor:
        self.seen.append((z, level))
        return self.value.expand_as(z)


def plain(batch: int, logit: float = 0.0) -> Plain:
    return Plain(torch.zeros(batch, 1, 8), torch.full((batch, 1, 8), logit), torch.zeros(batch, 1))


def presence_denoiser(network: nn.Module) -> PresenceDenoiser:
    return PresenceDenoiser(
        network, RectifiedFlow(), lambda f: 3 * f + 1, lambda z: z, lambda: torch.tensor(2.0)
    )


def test_latent_denoiser_at_rest_is_the_best_linear_guess() -> None:
    # For Gaussian data of unit variance, E[x_0 | x_t] = (1 - t) x_t / ((1 - t)^2 + t^2): F = 0 is exact.
    denoiser = LatentDenoiser(Constant(), RectifiedFlow())
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1, 1, 200_000, generator=generator) for _ in range(2))
    for time in (0.1, 0.5, 0.9):
        t = torch.tensor([time])
        z = RectifiedFlow().mix(x0, noise, t)
        slope = float((x0 * z).mean() / z.square().mean())
        torch.testing.assert_close(denoiser.clean(z, t, plain(1)), slope * z, rtol=0, atol=0.05)
        loss = denoiser.loss(x0, x0, noise, t, plain(1))
        assert float(loss.detach()) == pytest.approx(1.0, abs=0.02)  # the target has unit variance at every t


def test_network_input_has_unit_variance() -> None:
    network = Constant()
    x0, noise = torch.randn(1, 1, 100_000), torch.randn(1, 1, 100_000)
    for time in (0.01, 0.5, 1.0):
        z = RectifiedFlow().mix(x0, noise, torch.tensor([time]))
        LatentDenoiser(network, RectifiedFlow()).raw(z, torch.tensor([time]), plain(1))
        assert float(network.seen[-1][0].std()) == pytest.approx(1.0, abs=0.02)


def test_presence_denoiser_at_rest_is_the_base_head() -> None:
    denoiser = presence_denoiser(Constant())
    z, t = torch.randn(2, 1, 8), torch.tensor([1.0, 0.3])
    clean = denoiser.clean(z, t, plain(2, logit=1.2))
    mean_field = 2 * torch.sigmoid(torch.tensor(1.2)) - 1
    torch.testing.assert_close(clean, torch.full_like(z, float(3 * mean_field + 1)))
    velocity = denoiser.velocity(z, t, plain(2, logit=1.2))
    torch.testing.assert_close(velocity, (z - clean) / t.view(2, 1, 1))


def test_presence_loss_is_cross_entropy_in_units_of_ignorance() -> None:
    denoiser = presence_denoiser(Constant(0.5))
    presence = (torch.rand(4, 1, 8) < 0.3).float()
    z = torch.randn(4, 1, 8)
    loss = denoiser.loss(presence, z, z, torch.full((4,), 0.5), plain(4, logit=-1.0))
    logit = torch.full_like(presence, -1.0 + 4.0 * 0.5)
    torch.testing.assert_close(loss, functional.binary_cross_entropy_with_logits(logit, presence) / 2)


def test_presence_loss_has_the_posterior_probability_as_its_minimum() -> None:
    network = Constant()
    denoiser = presence_denoiser(network)
    presence = torch.zeros(10, 1, 8)
    presence[:3] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=0.07)
    for _ in range(150):
        optimizer.zero_grad()
        z = torch.randn(10, 1, 8)
        denoiser.loss(presence, z, z, torch.full((10,), 1.0), plain(10)).backward()
        optimizer.step()
    logit = denoiser.logit(torch.zeros(1, 1, 8), torch.ones(1), plain(1))
    torch.testing.assert_close(torch.sigmoid(logit), torch.full_like(logit, 0.3), atol=0.01, rtol=0)


def test_batch_without_tumor_is_finite() -> None:
    denoiser = presence_denoiser(Constant())
    z = torch.randn(2, 1, 8)
    loss = denoiser.loss(torch.zeros(2, 1, 8), z, z, torch.tensor([0.01, 1.0]), plain(2, -30.0))
    assert bool(torch.isfinite(loss))
