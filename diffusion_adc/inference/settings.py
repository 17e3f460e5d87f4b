"""How draws are made: one small record, shared by the command line, the experiment files and the maps."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import DWI_HIGH, DWI_LOW, OPTIONAL_SEQUENCES

METHODS: Final = ("draws", "base", "components")
COVARIATES: Final = ("given", "dropped", "permuted", "alone")
SAMPLERS: Final = ("euler", "heun", "ddim", "dpmsolver++", "unipc", "direct")


@dataclass(frozen=True)
class DrawSettings:
    """How a case is drawn.

    Args:
        draws: Number of draws per case. 9 give an 80 % interval from smallest to largest, 19 from second to
            eighteenth.
        steps: Integration steps per draw.
        seed: Of the noise; draw number d of a case depends on (seed, case, d) alone.
        sampler: ``euler`` or ``heun`` on the rectified path, ``ddim``, ``dpmsolver++`` or ``unipc`` on DDPM's; null
            for the one of the stage.
        slice_correlation: Correlation of the noise of neighboring slices, 0 to 1; null means 0.9 for 2-D
            stages, which see one slice at a time, and 0 for 3-D stages.
        batch: Draws (3-D) or slices (2-D) per network call; null chooses by the device. It changes speed
            and memory, not the draws.
        max_window_voxels: Largest volume that is run as one window; larger ones are tiled.
        overlap: Share of a tile shared with its neighbor when the flow is tiled.
        method: ``draws`` (of the stage), ``base`` (the base head's map, without draws: baseline B3) or ``components``
            (each component of the calibrated base head is one coin: baseline B4b); null for the stage's own.
        id: Name of the method in tables, such as ``B4c``; null names it after the run.
        covariates: ``given``, or for a report on what they contribute ``dropped`` (none known), ``permuted`` (another
            person's) or ``alone`` (no image).
        drop_sequences: Sequences hidden from the model as if they had not been acquired.
    """

    draws: int = 9
    steps: int = 6
    seed: int = 0
    sampler: Literal["euler", "heun"] | None = None
    slice_correlation: float | None = None
    batch: int | None = None
    max_window_voxels: int = 4_000_000
    overlap: float = 0.5
    method: Literal["draws", "base", "components"] | None = None
    id: str | None = None
    covariates: Literal["given", "dropped", "permuted", "alone"] = "given"
    drop_sequences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, low in (("draws", 1), ("steps", 1), ("seed", 0), ("max_window_voxels", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} = {getattr(self, name)}", f"at least {low}")
        if self.draws > 255:
            raise UsageError(f"draws = {self.draws}", "at most 255")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch = {self.batch}", "at least 1, or null")
        for name, allowed in (("sampler", SAMPLERS), ("method", METHODS), ("covariates", COVARIATES)):
            value = getattr(self, name)
            if value not in allowed and not (value is None and name != "covariates"):
                raise UsageError(f"{name} {value!r}", f"one of {', '.join(allowed)}")
        if self.id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}", self.id, re.ASCII):
            raise UsageError("an id of a method that is no name", "up to 32 of A-Z a-z 0-9 . _ + -")
        object.__setattr__(self, "drop_sequences", sorted(set(self.drop_sequences)))
        wrong = [name for name in self.drop_sequences if name not in OPTIONAL_SEQUENCES]
        if wrong or {DWI_LOW, DWI_HIGH} <= set(self.drop_sequences):
            raise UsageError(
                f"drop_sequences {', '.join(self.drop_sequences)}",
                f"some of {', '.join(OPTIONAL_SEQUENCES)}, but not both DWIs",
            )
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
        values = {name: value for name, value in asdict(self).items() if name not in ("batch", "id")}
        # What was added later is named only where it changes something: earlier maps stay complete.
        unchanged: dict[str, Any] = {"method": None, "covariates": "given", "drop_sequences": []}
        return {name: value for name, value in values.items() if unchanged.get(name, ...) != value}


SLICE_CORRELATION_2D = 0.9
