"""One case about to go out: its arrays in the source's slice order, and what every exported object shares.

Nothing is copied from the clinic's headers. The source images that highdicom wants are rebuilt from the
allow-listed `DicomReference`, so that no name, date or free text of theirs can come out again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from highdicom.enum import CoordinateSystemNames
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage
from pydicom.valuerep import DSfloat

from diffusion_adc import __version__
from diffusion_adc.records.dicom_reference import DicomReference

SOFTWARE: Final = "diffusion_adc"
_PLANE: Final = frozenset({"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"})
WARNING: Final = "research, not for diagnosis"
SERIES: Final[Mapping[str, tuple[int, str]]] = {
    "mr": (9701, f"AI tumor ADC, {WARNING}"),
    "parametric": (9702, f"AI tumor ADC map, {WARNING}"),
    "binary": (9703, f"AI tumor segmentation, {WARNING}"),
    "fractional": (9704, f"AI tumor probability, {WARNING}"),
    "report": (9705, f"AI tumor report, {WARNING}"),
}
"""Number and description of each exported series."""


@dataclass(frozen=True)
class Outgoing:
    """What one case sends out; arrays are (K, rows, columns) in the order of `reference.positions_mm`.

    Attributes:
        case_id: Of the case.
        research_id: Becomes PatientID and PatientName; a source's own are never taken over.
        reference: Where the ADC map came from.
        tumor_adc: float32, 1e-3 mm²/s, 0 outside the tumor map.
        probability: float32 in [0, 1], mean of the draws.
        labels: int32, lesion number as in lesions.csv, 0 elsewhere.
        lesions: Rows of lesions.csv.
        record: case.json of the map.
        manifest: maps.json.
        has_probability: Whether `probability` comes from draws rather than from the map itself.
        drawn: When the map was drawn, UTC; the exported objects carry this time and no other.
    """

    case_id: str
    research_id: str
    reference: DicomReference
    tumor_adc: NDArray[np.float32]
    probability: NDArray[np.float32]
    labels: NDArray[np.int32]
    lesions: tuple[Mapping[str, str], ...]
    record: Mapping[str, Any]
    manifest: Mapping[str, Any]
    has_probability: bool
    drawn: dt.datetime

    @property
    def checkpoint(self) -> str:
        """SHA-256 of the checkpoint that drew the map; ``unknown`` for a map of another method."""
        return str(
            self.record.get("checkpoint_sha256") or self.manifest.get("checkpoint_sha256") or "unknown"
        )

    @property
    def draws(self) -> int:
        """Number of draws behind `probability`; 0 if not recorded."""
        value = self.record.get("draws")
        return value if isinstance(value, int) and value > 0 else 0

    def uid(self, *what: object) -> str:
        """A UID under 2.25 that the same map of the same examination always gets (PS3.5 B.2).

        A UUID of version 8 (RFC 9562) from SHA-256 over the map's own hashes, its run and its study.
        """
        facts = [
            *(str(part) for part in what), self.case_id, self.reference.study_uid, self.reference.adc_series_uid,
            self.checkpoint, self.record.get("seed"), self.record.get("sha256"), __version__,
        ]  # fmt: skip
        raw = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
        number = int.from_bytes(raw[:16], "big")
        number = number & ~(0xF << 76) | (8 << 76)
        number = number & ~(0x3 << 62) | (2 << 62)
        return f"2.25.{number}"

    def series_arguments(self, kind: str) -> dict[str, Any]:
        """Constructor arguments that every highdicom object takes."""
        return {
            "series_instance_uid": self.uid("series", kind),
            "series_number": SERIES[kind][0],
            "sop_instance_uid": self.uid("instance", kind),
            "instance_number": 1,
            "manufacturer": SOFTWARE,
            "manufacturer_model_name": SOFTWARE,
            "software_versions": __version__,
            "device_serial_number": "none",
            "series_description": SERIES[kind][1],
        }

    def geometry_arguments(self) -> dict[str, Any]:
        """Planes exactly as the source stores them, so that no fitted affine gets between."""
        reference = self.reference
        patient = CoordinateSystemNames.PATIENT
        return {
            "plane_positions": [PlanePositionSequence(patient, p) for p in reference.positions_mm],
            "plane_orientation": PlaneOrientationSequence(patient, reference.orientation),
            "pixel_measures": PixelMeasuresSequence(
                reference.pixel_spacing_mm, self.slice_thickness_mm, self.slice_distance_mm
            ),
        }

    @property
    def slice_distance_mm(self) -> float | None:
        """Mean distance of the slices along the normal; None for a single one."""
        positions = self.reference.positions_mm
        if len(positions) < 2:
            return None
        normal = np.cross(self.reference.orientation[:3], self.reference.orientation[3:])
        span = abs(float(normal @ np.subtract(positions[-1], positions[0])))
        return round(span / (len(positions) - 1), 6)

    @property
    def slice_thickness_mm(self) -> float:
        """As the source states it; where it does not, the slice distance."""
        return self.reference.slice_thickness_mm or self.slice_distance_mm or 1.0

    @cached_property
    def sources(self) -> list[Dataset]:
        """The ADC series as highdicom wants to see it: one instance per slice, or one of many frames.

        A mosaic is shown as frames, since nothing else describes its slices; `finish` then writes the
        references as they truly are.
        """
        if self.reference.layout == "classic":
            return [self._slice(k) for k in range(len(self.reference.positions_mm))]
        return [self._frames()]

    def identity(self) -> Dataset:
        """Patient, study and frame of reference; what DICOM wants but we may not know stays empty."""
        dataset = Dataset()
        dataset.PatientName = dataset.PatientID = self.research_id
        dataset.PatientBirthDate = dataset.PatientSex = ""
        dataset.StudyInstanceUID = self.reference.study_uid
        dataset.StudyID = dataset.StudyDate = dataset.StudyTime = ""
        dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.FrameOfReferenceUID = self.reference.frame_of_reference_uid
        dataset.PositionReferenceIndicator = ""
        return dataset

    def _source(self) -> Dataset:
        dataset = self.identity()
        dataset.Modality = "MR"
        dataset.SeriesInstanceUID = self.reference.adc_series_uid
        dataset.SOPClassUID = self.reference.adc_sop_class
        dataset.SOPInstanceUID = self.reference.adc_sop_uids[0]
        dataset.Rows, dataset.Columns = self.reference.rows, self.reference.columns
        return dataset

    def _slice(self, k: int) -> Dataset:
        dataset = self._source()
        dataset.SOPInstanceUID = self.reference.adc_sop_uids[k]
        place(dataset, self, k)
        return dataset

    def _frames(self) -> Dataset:
        dataset = self._source()
        dataset.SOPClassUID = EnhancedMRImageStorage
        dataset.NumberOfFrames = len(self.reference.positions_mm)
        geometry = self.geometry_arguments()
        shared = Dataset()
        shared.PixelMeasuresSequence = geometry["pixel_measures"]
        shared.PlaneOrientationSequence = geometry["plane_orientation"]
        dataset.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for position in geometry["plane_positions"]:
            frame = Dataset()
            frame.PlanePositionSequence = position
            frames.append(frame)
        dataset.PerFrameFunctionalGroupsSequence = frames
        return dataset


def place(dataset: Dataset, out: Outgoing, k: int) -> None:
    """Write slice k's plane into a single-frame image, digit for digit as the source has it."""
    reference = out.reference
    dataset.ImagePositionPatient = decimals(*reference.positions_mm[k])
    dataset.ImageOrientationPatient = decimals(*reference.orientation)
    dataset.PixelSpacing = decimals(*reference.pixel_spacing_mm)
    (dataset.SliceThickness,) = decimals(out.slice_thickness_mm)
    if out.slice_distance_mm is not None:
        (dataset.SpacingBetweenSlices,) = decimals(out.slice_distance_mm)


def decimals(*values: float) -> list[DSfloat]:
    """Decimal strings of at most 16 characters; what came from one goes back to the same number.

    The general formatter of the DICOM library spends a character on a leading zero, and with it a digit.
    """
    return [DSfloat(_decimal(float(value)), auto_format=True) for value in values]


def _decimal(value: float) -> str | float:
    plain = repr(value)
    bare = plain.replace("-0.", "-.", 1) if value < 0 else plain.removeprefix("0")
    return next((text for text in (plain, bare) if len(text) <= 16 and text), value)


def finish(dataset: Dataset, out: Outgoing) -> Dataset:
    """Make an object reproducible and its references true; returns it.

    The library stamps the present time and a random dimension organization; the same map must give the same
    object. References to the ADC series are led from our stand-in's frames to the instance and frame that
    hold the slice.
    """
    day, time = out.drawn.strftime("%Y%m%d"), out.drawn.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.ContentTime = time
    dataset.TimezoneOffsetFromUTC = "+0000"
    organization = out.uid("dimensions", dataset.SOPInstanceUID)
    reference = out.reference
    stand_in = None if reference.layout == "classic" else reference.adc_sop_uids[0]
    for item in _items(dataset):
        for name in _PLANE & set(item.dir()):
            setattr(item, name, decimals(*item[name].value))
        if "DimensionOrganizationUID" in item:
            item.DimensionOrganizationUID = organization
        if "ContributionDateTime" in item:
            item.ContributionDateTime = day + time
        if stand_in is not None and item.get("ReferencedSOPInstanceUID") == stand_in:
            item.ReferencedSOPClassUID = reference.adc_sop_class
            frame = item.get("ReferencedFrameNumber")
            if frame is None:
                continue
            del item.ReferencedFrameNumber
            if reference.layout == "enhanced":
                item.ReferencedSOPInstanceUID = reference.adc_sop_uids[int(frame) - 1]
                item.ReferencedFrameNumber = reference.adc_frames[int(frame) - 1]
    return dataset


def _items(dataset: Dataset, seen: set[int] | None = None) -> Iterator[Dataset]:
    """The dataset and every item below it, each once: segments of one slice share their source's item."""
    seen = set() if seen is None else seen
    if id(dataset) in seen:
        return
    seen.add(id(dataset))
    yield dataset
    for element in dataset:
        if element.VR == "SQ" and element.value is not None:
            for item in element.value:
                yield from _items(item, seen)
