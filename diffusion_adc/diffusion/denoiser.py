"""The denoiser: a network, what its output means, and the loss that inverts it.

Axes: ``B C I J K``. A denoiser estimates the posterior mean ``m(z, t) = E[x_0 | x_t = z, condition]``; the path
turns it into a velocity. Two members, by what the network's raw output F is taken for:

`PresenceDenoiser` (default): F is a correction to the presence logit, and m is the latent of the mean field
``2 p - 1``. Presence is a coin per voxel, so its posterior mean is its posterior probability, cross-entropy has
that as its minimum, and a linear codec commutes with the mean ("score interpolation", Dieleman et al. 2022,
arXiv 2211.15089, section 3.1). At t = 1 an untrained F = 0 already gives the base head's answer. Needs a linear
codec and the plain target.

`LatentDenoiser`: works for any latent, preconditioned as in Karras et al. 2022, arXiv 2206.00364, section 5.

No weight in a loss depends on the drawn target: that would move the minimum off the posterior mean and bias
every probability read off the draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .path import NoisePath, per_case

__all__ = ["Condition", "Denoiser", "LatentDenoiser", "PresenceDenoiser"]


class Condition(Protocol):
    """What a denoiser is given besides the noisy latent."""

    @property
    def maps(self) -> Tensor:
        """(B, F, *s), already prepared for the network."""

    @property
    def base_logit(self) -> Tensor:
        """(B, 1, *S)."""

    @property
    def token(self) -> Tensor:
        """(B, D)."""


class Denoiser(nn.Module, ABC):
    """Network and loss.

    The network takes ``(z, level, maps, token)`` and returns a tensor of z's shape.
    """

    def __init__(self, network: nn.Module, path: NoisePath) -> None:
        super().__init__()
        self.network = network
        self.path = path

    def raw(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's output F for z (B, C, *s) scaled to unit variance (x_0 and noise both have it)."""
        a, sigma = self.path.coefficients(t)
        scale = torch.rsqrt(a.square() + sigma.square())
        return self.network(
            z * per_case(scale, z), self.path.level(t), condition.maps, condition.token
        ).float()

    def velocity(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """v(z, t): z (B, C, *s), t (B,) in (0, 1] → (B, C, *s)."""
        return self.path.velocity(z, self.clean(z, t, condition), t)

    @abstractmethod
    def clean(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Posterior mean of x_0, (B, C, *s)."""

    @abstractmethod
    def loss(self, presence: Tensor, x0: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Mean loss, float32 scalar.

        Args:
            presence: (B, 1, *S) in {0, 1}.
            x0: (B, C, *s) standardized latent of `presence`.
            noise: (B, C, *s) standard normal.
            t: (B,) times.
            condition: Maps, base logit and token of the same B rows.
        """


@final
class LatentDenoiser(Denoiser):
    """``m = c_skip z + c_out F`` with unit data variance.

    ``c_skip = a / (a^2 + sigma^2)`` is the best linear guess of x_0 from x_t; its residual has standard deviation
    ``c_out = sigma / sqrt(a^2 + sigma^2)``, so that F's target has unit variance at every t. On DDPM's path, where
    ``a^2 + sigma^2 = 1``, that target is ``-v``: v-prediction.
    """

    def _coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a, sigma = (per_case(c, like) for c in self.path.coefficients(t))
        energy = a.square() + sigma.square()
        return a / energy, sigma * torch.rsqrt(energy)

    def clean(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        skip, out = self._coefficients(t, z)
        return skip * z + out * self.raw(z, t, condition)

    def loss(self, presence: Tensor, x0: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        z = self.path.mix(x0, noise, t)
        skip, out = self._coefficients(t, z)
        return functional.mse_loss(self.raw(z, t, condition), (x0 - skip * z) / out)


@final
class PresenceDenoiser(Denoiser):
    """``m = encode(2 sigmoid(base logit + decode(F)) - 1)``; loss: binary cross-entropy."""

    GAIN = 4.0
    """Logits per unit of decoded output: a logit of ±10 must be within the reach of a young network."""

    def __init__(
        self,
        network: nn.Module,
        path: NoisePath,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        ignorance: Callable[[], Tensor],
    ) -> None:
        """Args:
        network: See `Denoiser`.
        path: See `Denoiser`.
        encode: Field (B, 1, *S) → standardized latent (B, C, *s), affine.
        decode: Latent layout (B, C, *s) → field layout (B, 1, *S), linear, without the standardization.
        ignorance: Cross-entropy of knowing nothing but the prevalence; the loss is given in units of it.
        """
        super().__init__(network, path)
        self._encode, self._decode, self._ignorance = encode, decode, ignorance

    def logit(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Posterior presence logit given the noisy latent, float32 (B, 1, *S)."""
        return condition.base_logit + self.GAIN * self._decode(self.raw(z, t, condition))

    def clean(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        # 2 sigmoid(l) - 1 = tanh(l / 2)
        return self._encode(torch.tanh(0.5 * self.logit(z, t, condition)))

    def loss(self, presence: Tensor, x0: Tensor, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        logit = self.logit(self.path.mix(x0, noise, t), t, condition)
        return functional.binary_cross_entropy_with_logits(logit, presence) / self._ignorance()
