"""How draws are made: one small record, shared by the command line, the experiment files and the maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from diffusion_adc.domain.errors import UsageError


@dataclass(frozen=True)
class DrawSettings:
    """How a case is drawn.

    Args:
        draws: Number of draws per case. 9 give an 80 % interval from smallest to largest, 19 from second to
            eighteenth.
        steps: Integration steps per draw.
        seed: Of the noise; draw number d of a case depends on (seed, case, d) alone.
        sampler: ``euler``, ``heun``, or null for the one the stage was trained with.
        slice_correlation: Correlation of the noise of neighboring slices, 0 to 1; null means 0.9 for 2-D
            stages, which see one slice at a time, and 0 for 3-D stages.
        batch: Draws (3-D) or slices (2-D) per network call; null chooses by the device. It changes speed
            and memory, not the draws.
        max_window_voxels: Largest volume that is run as one window; larger ones are tiled.
        overlap: Share of a tile shared with its neighbor when the flow is tiled.
    """

    draws: int = 9
    steps: int = 6
    seed: int = 0
    sampler: Literal["euler", "heun"] | None = None
    slice_correlation: float | None = None
    batch: int | None = None
    max_window_voxels: int = 4_000_000
    overlap: float = 0.5

    def __post_init__(self) -> None:
        for name, low in (("draws", 1), ("steps", 1), ("seed", 0), ("max_window_voxels", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} = {getattr(self, name)}", f"at least {low}")
        if self.draws > 255:
            raise UsageError(f"draws = {self.draws}", "at most 255")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch = {self.batch}", "at least 1, or null")
        if self.sampler not in (None, "euler", "heun"):
            raise UsageError(f"sampler {self.sampler!r}", "euler, heun or null")
        if self.slice_correlation is not None and not 0.0 <= self.slice_correlation <= 1.0:
            raise UsageError(f"slice_correlation = {self.slice_correlation}", "0 to 1, or null")
        if not 0.0 <= self.overlap < 1.0:
            raise UsageError(f"overlap = {self.overlap}", "at least 0 and below 1")

    def correlation(self, spatial_dims: int) -> float:
        """The slice correlation in force for a stage of 2 or 3 spatial dimensions."""
        if self.slice_correlation is not None:
            return self.slice_correlation
        return SLICE_CORRELATION_2D if spatial_dims == 2 else 0.0

    def what_decides_a_draw(self) -> dict[str, Any]:
        """The settings on which the drawn maps depend, plain JSON; speed settings are left out."""
        return {name: value for name, value in asdict(self).items() if name != "batch"}


SLICE_CORRELATION_2D = 0.9
