"""Noise paths ``x_t = a(t) x_0 + sigma(t) eps``: rectified flow (default) and the variance-preserving path of DDPM.

**Rectified flow**, a straight line between data and noise: ``x_t = (1 - t) x_0 + t eps``, ``eps ~ N(0, 1)``, t from 0 (data) to 1 (noise); its velocity is
``dx_t / dt = eps - x_0`` (Liu et al. 2023, arXiv 2209.03003, eq. 1; Lipman et al. 2023, arXiv 2210.02747,
example II). The velocity field that moves noise to data is ``v(z, t) = E[eps - x_0 | x_t = z]``, and with the
posterior mean ``m(z, t) = E[x_0 | x_t = z]`` it is ``(z - m) / t``, because ``eps = (x_t - (1 - t) x_0) / t``.

**Variance-preserving** (DDPM; Ho et al. 2020, arXiv 2006.11239) with the cosine schedule of Nichol and Dhariwal 2021,
arXiv 2102.09672, eq. 17: ``a = cos(phi)``, ``sigma = sin(phi)``, ``tan(phi) = s tan(pi t / 2)``. Its "velocity" is the
v of progressive distillation, ``v = a eps - sigma x_0 = (a z - m) / sigma`` (Salimans and Ho 2022, arXiv 2202.00512).
The shift s moves the noise levels as in simple diffusion (Hoogeboom et al. 2023, arXiv 2301.11093, eq. 3).

Where on the path things are decided: a lesion whose standardized latent has norm a separates from "no lesion"
when ``(1 - t) a / t`` is about 1, that is at ``1 - t ≈ 1 / a``. Norms run from 20 (a few voxels in 2-D) to over
1000 (large lesions in 3-D), so an even grid of a few steps would jump over the decision: with 4 even steps and
a = 140, a lesion kept by a quarter of the readers is drawn in no draw at all. Time is therefore warped as for
high-resolution images (Esser et al. 2024, arXiv 2403.03206, eq. 23): ``t = s u / (1 + (s - 1) u)`` for even u,
in training and in drawing alike. The middle of the clock, u = 1/2, is where ``(1 - t) / t = 1 / s``; with s a
quarter of the typical norm the decision falls inside it (s five times larger and the clock ends too early for
small lesions, five times smaller and a few steps jump over large ones).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, final

import torch
from torch import Tensor, nn

__all__ = ["NoisePath", "PathName", "RectifiedFlow", "VariancePreserving", "make_path", "per_case"]

PathName = Literal["rectified", "ddpm"]

LEVEL_LIMIT = 8.0


def per_case(t: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …, 1), to multiply a tensor of `like`'s dimensions."""
    return t.reshape(-1, *(1,) * (like.ndim - 1))


class NoisePath(nn.Module, ABC):
    """A path and its clock.

    Attributes:
        shift: s of the clock, a scalar buffer, so that a checkpoint brings the clock it was trained with;
            1 is an even clock, larger spends more of it near noise.
    """

    shift: Tensor

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(1.0))
        self.set_shift(shift)

    def set_shift(self, shift: float) -> None:
        """Changes the clock.

        Raises:
            ValueError: Not a positive finite number.
        """
        if not (math.isfinite(shift) and shift > 0):
            raise ValueError(f"noise path: shift {shift}; expected a positive number")
        self.shift.fill_(shift)

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The factors a and sigma at times in [0, 1], each of t's shape."""

    @abstractmethod
    def warp(self, u: Tensor) -> Tensor:
        """Even time u in [0, 1] → the path's t in [0, 1]; keeps both ends."""

    @abstractmethod
    def velocity(self, z: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """What a sampler follows, from the posterior mean of x_0; for t > 0 (B,)."""

    def grid(self, steps: int) -> Tensor:
        """The `steps` + 1 times of a draw, from exactly 1 down to exactly 0, float64.

        Raises:
            ValueError: Fewer than one step.
        """
        if steps < 1:
            raise ValueError(f"sampler: {steps} steps; expected at least 1")
        times = self.warp(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        times[0], times[-1] = 1.0, 0.0  # not 1 + 2e-16
        return times

    def draw_times(self, groups: int, draws: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Training times: warped uniform, spread evenly over the `draws` of a group.

        The draws of one group are one uniform number shifted by 1 / draws: each is uniform by itself, and
        together they cover the path, which lowers the variance of the loss (Kingma et al. 2021,
        arXiv 2107.00630, appendix I.1).

        Returns:
            float32 (groups * draws,), the draws of a group next to each other.
        """
        first = torch.rand((groups, 1), generator=generator, device=device)
        offsets = torch.arange(draws, device=device, dtype=torch.float32) / draws
        u = (first + offsets).remainder(1.0)
        return self.warp(u.clamp(1e-4, 1.0)).flatten()

    def mix(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for data, noise of one shape (B, …) and times (B,)."""
        a, sigma = (per_case(c, x0) for c in self.coefficients(t))
        return a * x0 + sigma * noise

    def level(self, t: Tensor) -> Tensor:
        """What the network is told about time: ``log(a / sigma) + log s``, cut at ±8. (B,) → (B,)."""
        a, sigma = self.coefficients(t)
        ratio = a / sigma.clamp_min(1e-12)
        return (torch.log(ratio.clamp_min(1e-30)) + torch.log(self.shift)).clamp(-LEVEL_LIMIT, LEVEL_LIMIT)


@final
class RectifiedFlow(NoisePath):
    """The straight path; the default."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def warp(self, u: Tensor) -> Tensor:
        shift = self.shift.to(u)
        return shift * u / (1 + (shift - 1) * u)

    def velocity(self, z: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        return (z - clean) / per_case(t, z)


@final
class VariancePreserving(NoisePath):
    """DDPM's path with a shifted cosine schedule; its time is the even clock itself."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # atan2 of the two legs: finite at both ends, where the tangent is 0 or infinite.
        angle = torch.atan2(self.shift.to(t) * torch.sin(0.5 * math.pi * t), torch.cos(0.5 * math.pi * t))
        return torch.cos(angle).clamp_min(0.0), torch.sin(angle)

    def warp(self, u: Tensor) -> Tensor:
        return u

    def velocity(self, z: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        a, sigma = (per_case(c, z) for c in self.coefficients(t))
        return (a * z - clean) / sigma

    def time_of(self, energy: Tensor) -> Tensor:
        """The t at which ``a^2`` is `energy` (a scheduler's ``alphas_cumprod``), in (0, 1)."""
        tangent = torch.sqrt((1 - energy) / energy) / self.shift.to(energy)
        return torch.atan(tangent) * (2 / math.pi)

    def betas(self, number: int = 1000) -> list[float]:
        """DDPM's betas of this schedule in `number` discrete steps, at most .999 (Nichol and Dhariwal, eq. 17)."""
        times = torch.linspace(0, 1, number + 1, dtype=torch.float64)
        energy = self.coefficients(times)[0].square()
        return (1 - energy[1:] / energy[:-1]).clamp(1e-8, 0.999).tolist()


def make_path(name: PathName, shift: float = 1.0) -> NoisePath:
    """The path called `name`.

    Raises:
        ValueError: Unknown name, or a shift that is no positive number.
    """
    members: dict[str, type[NoisePath]] = {"rectified": RectifiedFlow, "ddpm": VariancePreserving}
    if name not in members:
        raise ValueError(f"noise path {name!r}; expected one of {', '.join(members)}")
    return members[name](shift)
