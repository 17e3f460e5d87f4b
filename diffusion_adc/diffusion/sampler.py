"""The sampler: the integration loop, written once; a member adds only its step.

From noise at t = 1 to data at t = 0 along the path's velocity. The velocity is any callable, so that whole
volumes can blend it over tiles at every step.

By name: ``euler`` and ``heun`` on the rectified path; ``ddim`` (Song et al. 2021, arXiv 2010.02502), ``dpmsolver++``
(Lu et al. 2022, arXiv 2211.01095) and ``unipc`` (Zhao et al. 2023, arXiv 2302.04867) on DDPM's path, the three from
diffusers with v-prediction; ``direct`` for models that turn noise into presence in one evaluation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, final

from torch import Tensor

from .path import NoisePath, RectifiedFlow, VariancePreserving

__all__ = [
    "SAMPLERS",
    "DirectSampler",
    "EulerSampler",
    "HeunSampler",
    "Sampler",
    "SamplerName",
    "SchedulerSampler",
    "Velocity",
    "make_sampler",
]

Velocity = Callable[[Tensor, float], Tensor]
"""Latents (B, C, *s) and one time in (0, 1] → velocity of the same shape."""

Step = Callable[[Velocity, Tensor, float, float], Tensor]
"""Velocity, latent at t, t, s < t → latent at s."""

SamplerName = Literal["euler", "heun", "ddim", "dpmsolver++", "unipc", "direct"]

SAMPLERS: Final[tuple[str, ...]] = ("euler", "heun", "ddim", "dpmsolver++", "unipc", "direct")


class Sampler(ABC):
    """Integrates the flow on the clock of its path.

    Attributes:
        times: From the noisiest time down to exactly 0.
        evaluations: How often the velocity is asked for per draw.
    """

    def __init__(self, times: Sequence[float]) -> None:
        """Args: times: Of the draw, from noise to data.

        Raises:
            ValueError: Fewer than one step.
        """
        self.times = list(times)
        lengths = [a - b for a, b in zip(self.times[:-1], self.times[1:], strict=True)]
        # A grid that does not span the whole path scales every draw; published schedulers have done so.
        assert abs(sum(lengths) - 1) < 2e-3, "time steps must sum to 1"
        assert self.times[-1] == 0.0, "the last step must end at the data"
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
        z, step = noise, self.begin()
        for index, (t, s) in enumerate(zip(self.times[:-1], self.times[1:], strict=True)):
            z = step(velocity, z, t, s)
            if after_step is not None:
                after_step(index + 1, z)
        return z

    @property
    def evaluations(self) -> int:
        return len(self.times) - 1

    @abstractmethod
    def begin(self) -> Step:
        """The step of one draw; a multistep member keeps its memory in it, so that draws may run in threads."""


@final
class EulerSampler(Sampler):
    """``z_s = z_t + (s - t) v(z_t, t)``: first order, one evaluation per step."""

    def begin(self) -> Step:
        return lambda velocity, z, t, s: z + (s - t) * velocity(z, t)


@final
class HeunSampler(Sampler):
    """Euler, then the mean of both ends' velocities: second order, two evaluations per step.

    The last step is Euler's: at t = 0 a velocity derived from a posterior mean is 0 / 0 (Karras et al. 2022,
    arXiv 2206.00364, algorithm 1, does the same).
    """

    @property
    def evaluations(self) -> int:
        return 2 * (len(self.times) - 1) - 1

    def begin(self) -> Step:
        def step(velocity: Velocity, z: Tensor, t: float, s: float) -> Tensor:
            first = velocity(z, t)
            guess = z + (s - t) * first
            if s <= 0:
                return guess
            return z + (s - t) * 0.5 * (first + velocity(guess, s))

        return step


@final
class DirectSampler(Sampler):
    """One evaluation at t = 1: ``z_0 = z_1 - v(z_1, 1)``, whatever number of steps is asked for."""

    def __init__(self) -> None:
        super().__init__((1.0, 0.0))

    def begin(self) -> Step:
        return lambda velocity, z, t, s: z + (s - t) * velocity(z, t)


@final
class SchedulerSampler(Sampler):
    """A diffusers scheduler on DDPM's path: DDIM, DPM-Solver++ (2M) or UniPC (order 2), v-prediction.

    The discrete schedule is made from the path's own clock; timesteps are "trailing", so that a draw begins at
    the noisiest level (Lin et al. 2024, arXiv 2305.08891). Its length is a multiple of the steps: DDIM steps back by
    the whole-number quotient of the two, and would otherwise land beside the next timestep.
    """

    def __init__(self, name: str, path: VariancePreserving, steps: int) -> None:
        """Args: name: ddim, dpmsolver++ or unipc. path: Gives the schedule. steps: At least 1, at most 1000."""
        if not 1 <= steps <= 1000:
            raise ValueError(f"sampler: {steps} steps; expected 1 to 1000")
        self.name, self.steps = name, steps
        self.betas = path.betas(steps * math.ceil(1000 / steps))
        scheduler = self.scheduler()
        energy = scheduler.alphas_cumprod.double()[scheduler.timesteps.long()]
        super().__init__([*path.time_of(energy).tolist(), 0.0])

    def scheduler(self) -> Any:
        """A fresh scheduler with its timesteps set."""
        import diffusers

        shared: dict[str, Any] = {
            "num_train_timesteps": len(self.betas),
            "trained_betas": self.betas,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        }
        made: Any
        if self.name == "ddim":
            made = diffusers.DDIMScheduler(**shared, clip_sample=False, set_alpha_to_one=True)
        elif self.name == "dpmsolver++":
            made = diffusers.DPMSolverMultistepScheduler(**shared, solver_order=2, final_sigmas_type="zero")
        else:
            made = diffusers.UniPCMultistepScheduler(**shared, solver_order=2, final_sigmas_type="zero")
        made.set_timesteps(self.steps)
        return made

    def begin(self) -> Step:
        scheduler = self.scheduler()
        numbers = iter(scheduler.timesteps)

        def step(velocity: Velocity, z: Tensor, t: float, s: float) -> Tensor:
            return scheduler.step(velocity(z, t), next(numbers), z).prev_sample.to(z.dtype)

        return step


def make_sampler(name: SamplerName, path: NoisePath, steps: int) -> Sampler:
    """The sampler called `name`.

    Raises:
        ValueError: Unknown name, fewer than one step, or a sampler of another path.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r}; expected one of {', '.join(SAMPLERS)}")
    if name == "direct":
        return DirectSampler()
    straight = name in ("euler", "heun")
    if straight != isinstance(path, RectifiedFlow):
        wanted = "euler or heun" if isinstance(path, RectifiedFlow) else "ddim, dpmsolver++ or unipc"
        raise ValueError(f"sampler {name!r} on the path {type(path).__name__}; expected {wanted}")
    if straight:
        times = path.grid(steps).tolist()
        return EulerSampler(times) if name == "euler" else HeunSampler(times)
    assert isinstance(path, VariancePreserving)
    return SchedulerSampler(name, path, steps)
