"""One examination as every layout yields it: what `case.ingest_examination` checks and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.intake.nifti import Loaded
from diffusion_adc.intake.target import Target
from diffusion_adc.records.dicom_reference import DicomReference

ReadTarget = Callable[[NDArray[np.float32], float], Target]
"""(ADC values in 1e-3 mm²/s, factor from the stored unit) → the target; read only once the ADC is known good."""


@dataclass(frozen=True)
class Facts:
    """What the files say about the scanner: words of a closed vocabulary or checked form, never free text."""

    vendor: str = "unknown"
    model: str = ""
    field_t: float | None = None
    enhanced: bool = False
    anatomy: str = "unknown"

    @property
    def scanner(self) -> str:
        """Vendor and model, as the cohort's table holds them."""
        return f"{self.vendor} {self.model}".strip()


@dataclass(frozen=True)
class Diffusion:
    """The diffusion-weighted images on the ADC grid.

    Attributes:
        images: ``dwi_low`` and ``dwi_high``, as far as there are: float32 (I, J, K).
        b_values: The same → s/mm², None where declared unknown.
        measured: Every measured b-value in s/mm², rising; empty where none is known.
        recomputed: (I, J, K) ADC fitted to all measured b, 1e-3 mm²/s; None where it cannot be fitted.
        source: Where the b-values come from.
        sha256: By series name, of the source files.
        stored_as: By series name, the numeric type in the file.
    """

    images: Mapping[str, NDArray[np.float32]]
    b_values: Mapping[str, float | None]
    measured: tuple[float, ...]
    recomputed: NDArray[np.float32] | None
    source: str
    sha256: Mapping[str, str]
    stored_as: Mapping[str, str]


@dataclass(frozen=True)
class Examination:
    """One examination, every volume checked alone and the diffusion images checked against the ADC map.

    Attributes:
        research_id: Of the person.
        exam_order: 1 for the person's first examination.
        adc: The scanner's ADC map in its stored unit, on its own grid.
        anatomy: ``t1w`` and ``t2w``, as far as there are, each on its own grid.
        diffusion: The diffusion-weighted images.
        adc_unit: Size of the stored unit in mm²/s, as stated by `adc_unit_source`.
        adc_unit_source: ``declared``, ``layout``, ``stated:…`` or ``vendor:…``.
        read_target: Reads the reader's map.
        facts: About the scanner.
        station: (I, J, K) station number of each voxel where several stations were stitched.
        reference: What a DICOM export of this case needs; None for other layouts.
        ignored: Series left out: (kind, reason).
        warnings: What was taken in with a doubt.
        record: Further JSON values for case.json.
    """

    research_id: str
    exam_order: int
    adc: Loaded
    anatomy: Mapping[str, Loaded]
    diffusion: Diffusion
    adc_unit: str
    adc_unit_source: str
    read_target: ReadTarget
    facts: Facts = field(default_factory=Facts)
    station: NDArray[np.uint8] | None = None
    reference: DicomReference | None = None
    ignored: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
