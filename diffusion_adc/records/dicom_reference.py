"""Where a case's ADC map came from in DICOM: the UIDs and the geometry that results need to find their way home.

Written as ``COHORT/cases/<case_id>/dicom.json`` when a case is made from DICOM, read when results go out again.
Allow-listed: no date, no name, no identifier of a person, no free text. In a restricted cohort the UIDs are the
ones already hashed at the hand-over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.errors import CaseError, CohortError
from diffusion_adc.records.atomic import write_json

DICOM_RECORD: Final = "dicom.json"
LAYOUTS: Final = ("classic", "enhanced", "mosaic")
"""One instance per slice, one instance of many frames, one instance that tiles the slices."""
_UID: Final = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*", re.ASCII)
_RAS_FROM_LPS: Final = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class DicomReference:
    """The ADC series behind one case; every per-slice tuple follows the case's third axis, k = 0 first.

    Raises:
        CohortError: A UID, a length or a number is not one that DICOM knows.
    """

    study_uid: str
    """(0020,000D)."""
    frame_of_reference_uid: str
    """(0020,0052)."""
    adc_series_uid: str
    """(0020,000E)."""
    adc_sop_class: str
    """(0008,0016)."""
    adc_sop_uids: tuple[str, ...]
    """(0008,0018) of the instance that holds slice k; for enhanced and mosaic the same one for every k."""
    positions_mm: tuple[tuple[float, float, float], ...]
    """(0020,0032) of slice k: the center of its first voxel, LPS, in mm, exactly as stored."""
    orientation: tuple[float, float, float, float, float, float]
    """(0020,0037), exactly as stored: direction of a row (i), then of a column (j), LPS."""
    pixel_spacing_mm: tuple[float, float]
    """(0028,0030), exactly as stored: between rows (along j), then between columns (along i)."""
    rows: int
    """Size of the case along j."""
    columns: int
    """Size of the case along i."""
    layout: str = "classic"
    """One of `LAYOUTS`."""
    adc_frames: tuple[int, ...] = ()
    """Enhanced only: the frame that holds slice k, counted from 1."""
    slice_thickness_mm: float | None = None
    """(0018,0050); says nothing of the distance between slices, which `positions_mm` gives."""
    b_values: tuple[float, ...] = ()
    """Measured b-values in s/mm², ascending, that the case's DWIs and ADC map rest on; empty if unknown."""
    manufacturer: str = ""
    """(0008,0070)."""
    model: str = ""
    """(0008,1090)."""
    field_t: float | None = None
    """(0018,0087), tesla."""

    def __post_init__(self) -> None:
        slices = len(self.positions_mm)
        uids = (self.study_uid, self.frame_of_reference_uid, self.adc_series_uid, self.adc_sop_class)
        numbers = [
            *self.orientation, *self.pixel_spacing_mm, *self.b_values, *(x for p in self.positions_mm for x in p),
            *(x for x in (self.slice_thickness_mm, self.field_t) if x is not None),
        ]  # fmt: skip
        whole = (
            slices >= 1
            and len(self.adc_sop_uids) == slices
            and all(len(position) == 3 for position in self.positions_mm)
            and (len(self.orientation), len(self.pixel_spacing_mm)) == (6, 2)
            and self.layout in LAYOUTS
            and len(self.adc_frames) == (slices if self.layout == "enhanced" else 0)
            and min(self.rows, self.columns) >= 1
        )
        if not whole or not all(_UID.fullmatch(uid) for uid in (*uids, *self.adc_sop_uids)):
            raise CohortError("a DICOM reference that is not whole", "UIDs and a position for every slice")
        if not all(math.isfinite(number) for number in numbers) or min(self.pixel_spacing_mm) <= 0:
            raise CohortError("a DICOM reference with impossible numbers", "finite numbers, positive spacing")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K) of the case."""
        return self.columns, self.rows, len(self.positions_mm)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel index to RAS mm; NaN step along k for a single slice without a thickness.

        The step is the mean one from the first to the last position (DICOM PS3.3 C.7.6.2.1.1).
        """
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        first, last = np.array(self.positions_mm[0]), np.array(self.positions_mm[-1])
        if len(self.positions_mm) > 1:
            step = (last - first) / (len(self.positions_mm) - 1)
        else:
            step = np.cross(row, column) * (self.slice_thickness_mm or math.nan)
        affine = np.eye(4)
        columns = (row * self.pixel_spacing_mm[1], column * self.pixel_spacing_mm[0], step, first)
        affine[:3] = _RAS_FROM_LPS @ np.stack(columns, axis=1)
        return affine


def write_dicom_reference(cohort_dir: Path, case_id: str, reference: DicomReference) -> str:
    """Write the case's dicom.json; returns its SHA-256."""
    return write_json(cohort_dir / "cases" / case_id / DICOM_RECORD, asdict(reference))


def read_dicom_reference(cohort_dir: Path, case_id: str) -> DicomReference | None:
    """The case's dicom.json; None for a case that did not come from DICOM.

    Raises:
        CaseError: S25, the file is there but damaged.
    """
    path = cohort_dir / "cases" / case_id / DICOM_RECORD
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        return reference_from_record(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, CohortError):
        raise CaseError(
            "a damaged DICOM reference",
            "the dicom.json that intake wrote",
            "ingest the case again",
            code="S25",
            research_id=case_id.rsplit("_", 1)[0],
            sequence="adc",
        ) from None


def reference_from_record(record: Mapping[str, Any]) -> DicomReference:
    """The reference from its JSON form; lists become tuples.

    Raises:
        CohortError: See `DicomReference`.
        TypeError: An unknown or missing key, or a value of another type.
    """
    names = {field.name for field in fields(DicomReference)}
    if not isinstance(record, Mapping) or not set(record) <= names:
        raise TypeError("not a DICOM reference")
    return DicomReference(**{name: _frozen(value) for name, value in record.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_frozen(item) for item in value)
    return value
