"""One slice as the rest of the room sees it, and what a file can be instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from diffusion_adc.custody import diffusion_tags
from diffusion_adc.domain.errors import CaseError


class BadFile(Exception):
    """A file that claims to be DICOM and cannot be used; says what was found and what was expected."""

    def __init__(self, code: str, found: str, expected: str, do: str = "export the series again") -> None:
        super().__init__(found)
        self.code, self.found, self.expected, self.do = code, found, expected, do

    def refusal(self, research_id: str, sequence: str | None = None) -> CaseError:
        """The refusal of the case that holds the file."""
        return CaseError(
            self.found, self.expected, self.do, code=self.code, research_id=research_id, sequence=sequence
        )


@dataclass(frozen=True)
class Scale:
    """From stored values to real ones: once, here and nowhere else.

    Attributes:
        slope: Factor.
        intercept: Added after it.
        unit: UCUM code or RescaleType that goes with it, as written; empty where nothing is said.
        real_world: Whether a real-world value map states it.
    """

    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    real_world: bool = False


@dataclass(frozen=True)
class Slice:
    """What intake needs to know of one slice.

    Attributes:
        position: (0020,0032), LPS mm, as stored.
        orientation: (0020,0037), as stored.
        spacing: (0028,0030): between rows, between columns, mm.
        frame: Index of the frame or of the mosaic's tile, None for a classic image.
        layout: ``classic``, ``enhanced`` or ``mosaic``.
        b: The b-value, None where nobody states one.
        names: Series description, protocol and sequence name in lower case: for matching only.
    """

    path: Path
    frame: int | None
    layout: str
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference: str
    series_number: int | None
    instance_number: int | None
    acquisition: int | None
    temporal: int | None
    vendor: str
    model: str
    field_t: float | None
    body_part: str
    image_type: tuple[str, ...]
    scanning: tuple[str, ...]
    variant: tuple[str, ...]
    contrast: str
    component: str
    volumetric: str
    sequence_name: str
    echo_time: float | None
    repetition_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    contrast_agent: bool
    b: diffusion_tags.Resolved | None
    directionality: str
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing: tuple[float, float]
    thickness: float | None
    rows: int
    columns: int
    scale: Scale
    private_scale: tuple[tuple[str, float], ...]
    bits_allocated: int
    lossy: bool
    names: str = field(repr=False)
    described: str = field(repr=False)
    order: tuple[str, str] = field(repr=False)
    """Study date and time, or the delivery's number of the study: orders a person's studies, kept nowhere."""


@dataclass(frozen=True)
class Other:
    """A DICOM object that is no MR image: never an image of the case, perhaps a target.

    Attributes:
        path: Its file.
        kind: What it is, in words of ours.
        sop_class: Its UID.
        study_uid: Of its study.
        described: Its series description, for matching only.
    """

    path: Path
    kind: str
    sop_class: str
    study_uid: str
    described: str = field(repr=False)
