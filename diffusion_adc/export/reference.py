"""Find a case's ADC series in a folder of DICOM files, and say how the case lies on it.

By the UIDs that intake kept; where those are not in the folder (a case from NIfTI, or UIDs hashed at the
hand-over), by geometry and by the measured values themselves: every voxel of the case's ADC map must be that
series' value, or results would be filed under another person.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.domain.units import ADC_UNITS
from diffusion_adc.records.dicom_reference import DicomReference

GRID_TOLERANCE_MM: Final = 1e-3
"""Single precision of a NIfTI affine; also the tolerance within which two grids are one (S20)."""
_VALUE_TOLERANCE: Final = 1e-5
_IMAGES: Final = (MRImageStorage, EnhancedMRImageStorage)
_TAGS: Final = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "RescaleSlope", "RescaleIntercept", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """How a case's array lies in the source: axes permuted, then flipped.

    Attributes:
        axes: For each axis of the source (i, j, k), the case's axis.
        flipped: For each axis of the source, whether it runs the other way.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def frames(self, array: NDArray[Any]) -> NDArray[Any]:
        """(I, J, K) of the case → (K, rows, columns) of the source."""
        turned = np.transpose(array, self.axes)
        flipped = turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        return np.ascontiguousarray(np.transpose(flipped, (2, 1, 0)))


def placement(
    affine: NDArray[np.floating], shape: tuple[int, ...], reference: DicomReference
) -> Placement | None:
    """How the case's grid lies on the reference's; None if the voxel centers are not the same ones.

    Args:
        affine: (4, 4) of the case, RAS mm.
        shape: (I, J, K) of the case.
        reference: The source.
    """
    target = reference.affine
    if not np.isfinite(target[:3, 2]).all():
        target[:3, 2] = np.asarray(affine)[:3, 2]  # a single slice of unknown thickness has any
    turn = np.linalg.solve(target, np.asarray(affine, dtype=np.float64))[:3, :3]
    whole = np.rint(turn)
    if not np.array_equal(np.abs(whole).sum(axis=0), np.ones(3)) or not np.array_equal(
        np.abs(whole).sum(axis=1), np.ones(3)
    ):
        return None
    axes = tuple(int(np.argmax(np.abs(row))) for row in whole)
    flipped = tuple(bool(whole[i, axis] < 0) for i, axis in enumerate(axes))
    found = Placement((axes[0], axes[1], axes[2]), (flipped[0], flipped[1], flipped[2]))
    if tuple(shape[axis] for axis in axes) != reference.shape:
        return None
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in reference.shape], indexing="ij")).reshape(3, -1)
    own = np.empty_like(corners)
    for i, axis in enumerate(axes):
        own[axis] = reference.shape[i] - 1 - corners[i] if flipped[i] else corners[i]
    apart = _points(np.asarray(affine, dtype=np.float64), own) - _points(target, corners)
    return found if np.abs(apart).max() <= GRID_TOLERANCE_MM else None


def _points(affine: NDArray[np.float64], index: NDArray[np.integer]) -> NDArray[np.float64]:
    return affine[:3, :3] @ index + affine[:3, 3:]


class ReferenceFolder:
    """The MR series below a folder, read once by their headers; unreadable and other files are passed over.

    Raises:
        UsageError: The folder holds no MR image.
    """

    def __init__(self, folder: Path) -> None:
        self._series: dict[str, dict[str, Path]] = defaultdict(dict)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            head = _read(path, header=True)
            if head is not None and head.SOPClassUID in _IMAGES:
                self._series[str(head.SeriesInstanceUID)].setdefault(str(head.SOPInstanceUID), path)
        if not self._series:
            raise UsageError(
                "no MR image below --reference",
                "a folder with the DICOM series of the ADC map",
                "check the folder",
            )

    def holds(self, reference: DicomReference) -> bool:
        """Whether the series that intake recorded is here, every slice at the very position recorded.

        Raises:
            CohortError: The series is here, but it is not the one that intake read.
        """
        files = self._series.get(reference.adc_series_uid)
        if files is None:
            return False
        expected: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        for uid, position in zip(reference.adc_sop_uids, reference.positions_mm, strict=True):
            expected[uid].append(position)
        for uid, positions in expected.items():
            head = _read(files[uid], header=True) if uid in files else None
            held = None if head is None else {position for position, _ in _planes(head)}
            # A mosaic's own position is not that of any of its slices.
            if held is None or (reference.layout != "mosaic" and not set(positions) <= held):
                raise CohortError(
                    "the ADC series below --reference lacks a slice or has it elsewhere",
                    "the series that was ingested", "give the folder that was ingested",
                )  # fmt: skip
        return True

    def same_map(self, adc: NDArray[np.floating], affine: NDArray[np.floating]) -> list[DicomReference]:
        """Every series that is this ADC map: voxel centers and values, in any unit in circulation.

        Args:
            adc: (I, J, K) of the case, 1e-3 mm²/s.
            affine: (4, 4) of the case.
        """
        found = []
        for series in sorted(self._series):
            paths = self._series[series].values()
            reference = _reference([head for path in paths if (head := _read(path, header=True)) is not None])
            where = None if reference is None else placement(affine, adc.shape, reference)
            if reference is None or where is None:
                continue
            values = _values(reference, self._series[series])
            if values is not None and _same_values(where.frames(adc), values):
                found.append(reference)
        return found


def _read(path: Path, *, header: bool) -> Dataset | None:
    """The file, or None for whatever cannot be read: pydicom raises many kinds of errors on damaged files."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=header, specific_tags=_TAGS if header else None)
        names = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
        return dataset if all(dataset.get(name) for name in names) else None
    except Exception:
        return None


def _planes(head: Dataset) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Position and orientation of each frame, as stored; empty if an image says nothing of them."""
    try:
        frames = head.get("PerFrameFunctionalGroupsSequence")
        if not frames:
            return [(_floats(head.ImagePositionPatient), _floats(head.ImageOrientationPatient))]
        return [
            (
                _floats(_group(head, frame, "PlanePositionSequence").ImagePositionPatient),
                _floats(_group(head, frame, "PlaneOrientationSequence").ImageOrientationPatient),
            )
            for frame in frames
        ]
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        return []


def _group(head: Dataset, frame: Dataset, name: str) -> Dataset:
    if name in frame:
        return frame[name].value[0]
    return head.SharedFunctionalGroupsSequence[0][name].value[0]


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _reference(heads: list[Dataset]) -> DicomReference | None:
    """The series as one stack of slices; None if it is not one (several volumes, orientations or sizes)."""
    try:
        first = heads[0]
        enhanced = first.SOPClassUID == EnhancedMRImageStorage
        slices = [
            (position, orientation, str(head.SOPInstanceUID), number)
            for head in heads
            for number, (position, orientation) in enumerate(_planes(head), start=1)
        ]
        orientation = slices[0][1]
        normal = np.cross(orientation[:3], orientation[3:])
        slices.sort(key=lambda s: float(normal @ np.array(s[0])))
        along = np.array([normal @ np.array(s[0]) for s in slices])
        same = {(h.Rows, h.Columns, h.SOPClassUID, h.StudyInstanceUID, h.FrameOfReferenceUID) for h in heads}
        if len(same) != 1 or {s[1] for s in slices} != {orientation} or (np.diff(along) < 1e-3).any():
            return None
        measures = first
        if enhanced:
            measures = _group(first, first.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
        thickness, field = measures.get("SliceThickness"), first.get("MagneticFieldStrength")
        return DicomReference(
            study_uid=str(first.StudyInstanceUID), frame_of_reference_uid=str(first.FrameOfReferenceUID),
            adc_series_uid=str(first.SeriesInstanceUID), adc_sop_class=str(first.SOPClassUID),
            adc_sop_uids=tuple(s[2] for s in slices), positions_mm=tuple(s[0] for s in slices),  # type: ignore[misc]
            orientation=orientation, pixel_spacing_mm=_floats(measures.PixelSpacing),  # type: ignore[arg-type]
            rows=int(first.Rows), columns=int(first.Columns), layout="enhanced" if enhanced else "classic",
            adc_frames=tuple(s[3] for s in slices) if enhanced else (),
            slice_thickness_mm=float(thickness) if thickness else None,
            manufacturer=str(first.get("Manufacturer") or ""), model=str(first.get("ManufacturerModelName") or ""),
            field_t=float(field) if field else None,
        )  # fmt: skip
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, CohortError):
        return None


def _values(reference: DicomReference, files: dict[str, Path]) -> NDArray[np.float64] | None:
    """(K, rows, columns) in the order of the reference, rescaled; None if the pixels cannot be decoded."""
    held: dict[str, Callable[[int], NDArray[np.float64]] | None] = {}
    frames = reference.adc_frames or (1,) * len(reference.positions_mm)
    out = []
    for uid, number in zip(reference.adc_sop_uids, frames, strict=True):
        if uid not in held:
            held[uid] = _frames(files[uid])
        frame = held[uid]
        if frame is None:
            return None
        out.append(frame(number))
    return np.stack(out)


def _frames(path: Path) -> Callable[[int], NDArray[np.float64]] | None:
    dataset = _read(path, header=False)
    if dataset is None:
        return None
    try:
        pixels = np.asarray(dataset.pixel_array, dtype=np.float64)
    except Exception:
        return None
    pixels = pixels.reshape(-1, *pixels.shape[-2:])

    def frame(number: int) -> NDArray[np.float64]:
        said: Any = dataset
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
        if groups:
            try:
                said = _group(dataset, groups[number - 1], "PixelValueTransformationSequence")
            except (AttributeError, KeyError, IndexError):
                said = Dataset()
        slope, intercept = said.get("RescaleSlope"), said.get("RescaleIntercept")
        scaled = pixels[number - 1] * float(1 if slope is None else slope)
        return scaled + float(intercept or 0)

    return frame


def _same_values(adc: NDArray[np.floating], values: NDArray[np.float64]) -> bool:
    if not np.any(adc):
        return False  # an empty map is everybody's
    close = _VALUE_TOLERANCE * max(float(np.abs(adc).max()), math.ulp(1.0))
    return any(bool(np.allclose(values * factor, adc, rtol=0, atol=close)) for factor in ADC_UNITS.values())
