"""The sampler: the integration loop, written once; a member adds only its step.

From noise at t = 1 to data at t = 0 along ``dz / dt = v(z, t)``. The velocity is any callable, so that whole
volumes can blend it over tiles at every step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, final

from torch import Tensor

from .path import RectifiedFlow

__all__ = ["EulerSampler", "HeunSampler", "Sampler", "SamplerName", "Velocity", "make_sampler"]

Velocity = Callable[[Tensor, float], Tensor]
"""Latents (B, C, *s) and one time in (0, 1] → velocity of the same shape."""

SamplerName = Literal["euler", "heun"]


class Sampler(ABC):
    """Integrates the flow on the clock of its path.

    Attributes:
        evaluations: How often the velocity is asked for per draw.
    """

    def __init__(self, path: RectifiedFlow, steps: int) -> None:
        """Args: path: Gives the time grid. steps: Number of steps, at least 1.

        Raises:
            ValueError: Fewer than one step.
        """
        self.times: list[float] = path.grid(steps).tolist()
        lengths = [a - b for a, b in zip(self.times[:-1], self.times[1:], strict=True)]
        # A grid that does not span the whole path scales every draw; published schedulers have done so.
        assert abs(sum(lengths) - 1) < 1e-9, "time steps must sum to 1"
        assert min(lengths) > 0, "time must run from noise to data"

    def draw(
        self, velocity: Velocity, noise: Tensor, after_step: Callable[[int, Tensor], None] | None = None
    ) -> Tensor:
        """One draw per row of `noise`.

        Args:
            velocity: v(z, t).
            noise: (B, C, *s), standard normal.
            after_step: Called with the step's number (from 1) and the latent, for progress and pictures.

        Returns:
            (B, C, *s) latents at t = 0.
        """
        z = noise
        for index, (t, s) in enumerate(zip(self.times[:-1], self.times[1:], strict=True)):
            z = self.step(velocity, z, t, s)
            if after_step is not None:
                after_step(index + 1, z)
        return z

    @property
    @abstractmethod
    def evaluations(self) -> int: ...

    @abstractmethod
    def step(self, velocity: Velocity, z: Tensor, t: float, s: float) -> Tensor:
        """The latent at time s < t, from the latent `z` at t."""


@final
class EulerSampler(Sampler):
    """``z_s = z_t + (s - t) v(z_t, t)``: first order, one evaluation per step."""

    @property
    def evaluations(self) -> int:
        return len(self.times) - 1

    def step(self, velocity: Velocity, z: Tensor, t: float, s: float) -> Tensor:
        return z + (s - t) * velocity(z, t)


@final
class HeunSampler(Sampler):
    """Euler, then the mean of both ends' velocities: second order, two evaluations per step.

    The last step is Euler's: at t = 0 a velocity derived from a posterior mean is 0 / 0 (Karras et al. 2022,
    arXiv 2206.00364, algorithm 1, does the same).
    """

    @property
    def evaluations(self) -> int:
        return 2 * (len(self.times) - 1) - 1

    def step(self, velocity: Velocity, z: Tensor, t: float, s: float) -> Tensor:
        first = velocity(z, t)
        guess = z + (s - t) * first
        if s <= 0:
            return guess
        return z + (s - t) * 0.5 * (first + velocity(guess, s))


def make_sampler(name: SamplerName, path: RectifiedFlow, steps: int) -> Sampler:
    """The sampler called `name`.

    Raises:
        ValueError: Unknown name or fewer than one step.
    """
    members: dict[str, type[Sampler]] = {"euler": EulerSampler, "heun": HeunSampler}
    if name not in members:
        raise ValueError(f"sampler {name!r}; expected one of {', '.join(members)}")
    return members[name](path, steps)
