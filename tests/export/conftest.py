"""A clinic in miniature: an ADC series in DICOM, the cohort made of it, and the tumor map drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.export.dicom import ExportReport, export_dicom
from diffusion_adc.export.sources import decimals
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.records.cohort import write_case, write_manifest
from diffusion_adc.records.dicom_reference import DicomReference, write_dicom_reference
from diffusion_adc.records.maps import write_map_case, write_maps_manifest

Array = NDArray[Any]
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.98480775301221, 0.17364817766693, 0.0, -0.16317591116653, 0.92541657839832, 0.34202014332567)
CHECKPOINT = "c" * 64


def references(
    name: str = "1", orientation: Sequence[float] = STRAIGHT, shape: tuple[int, int, int] = (9, 7, 5),
    layout: str = "classic",
) -> DicomReference:  # fmt: skip
    """A series whose slices run against the normal; the numbers are ones that a scanner would write."""
    normal = np.cross(orientation[:3], orientation[3:])
    start = np.array([-71.328125, -44.501953125, 33.25])
    positions = [tuple(round(float(x), 10) for x in start - 3.3 * k * normal) for k in range(shape[2])]
    many = layout != "classic"
    return DicomReference(
        study_uid=f"1.2.3.{name}", frame_of_reference_uid=f"1.2.3.{name}.9", adc_series_uid=f"1.2.3.{name}.7",
        adc_sop_class=EnhancedMRImageStorage if layout == "enhanced" else MRImageStorage,
        adc_sop_uids=tuple(f"1.2.3.{name}.7.{1 if many else k + 1}" for k in range(shape[2])),
        positions_mm=tuple(positions), orientation=tuple(orientation), pixel_spacing_mm=(2.25, 1.75),
        rows=shape[1], columns=shape[0], layout=layout,
        adc_frames=tuple(range(shape[2], 0, -1)) if layout == "enhanced" else (), slice_thickness_mm=3.0,
        b_values=(50.0, 800.0), manufacturer="VENDOR", model="M", field_t=3.0,
    )  # fmt: skip


def write_series(folder: Path, reference: DicomReference, adc: Array, **header: Any) -> Path:
    """The ADC series on disk, int16 in 1e-6 mm²/s; `adc` is (I, J, K) in 1e-3 mm²/s."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.rint(np.transpose(adc, (2, 1, 0)).astype(np.float64) * 1000).astype("<u2")

    def dataset(uid: str, pixels: Array) -> Dataset:
        ds = Dataset()
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = "CLINIC^NAME", "CLINIC-77", "19500101"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = reference.study_uid, reference.adc_series_uid
        ds.SOPInstanceUID, ds.SOPClassUID = uid, reference.adc_sop_class
        ds.FrameOfReferenceUID, ds.Modality = reference.frame_of_reference_uid, "MR"
        ds.Manufacturer, ds.ManufacturerModelName, ds.MagneticFieldStrength = "VENDOR", "M", "3"
        ds.Rows, ds.Columns, ds.SamplesPerPixel = reference.rows, reference.columns, 1
        ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
        for name, value in header.items():
            setattr(ds, name, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return ds

    if reference.layout == "classic":
        for k, uid in enumerate(reference.adc_sop_uids):
            ds = dataset(uid, frames[k])
            ds.ImagePositionPatient = decimals(*reference.positions_mm[k])
            ds.ImageOrientationPatient = decimals(*reference.orientation)
            ds.PixelSpacing, ds.SliceThickness = (
                list(reference.pixel_spacing_mm),
                reference.slice_thickness_mm,
            )
            ds.save_as(folder / f"{k:03d}", enforce_file_format=True)
        return folder
    order = np.argsort(reference.adc_frames)
    ds = dataset(reference.adc_sop_uids[0], frames[order])
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = (
        list(reference.pixel_spacing_mm),
        reference.slice_thickness_mm,
    )
    plane.ImageOrientationPatient = decimals(*reference.orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    ds.SharedFunctionalGroupsSequence, ds.NumberOfFrames = [shared], len(order)
    items = []
    for k in order:
        item, position = Dataset(), Dataset()
        position.ImagePositionPatient = decimals(*reference.positions_mm[k])
        item.PlanePositionSequence = [position]
        items.append(item)
    ds.PerFrameFunctionalGroupsSequence = items
    ds.save_as(folder / "enhanced.MRDC.1", enforce_file_format=True)
    return folder


@dataclass
class Clinic:
    """Cohort, maps and the place for results; `add` brings one case in."""

    root: Path
    cases: list[Case]

    @property
    def cohort(self) -> Path:
        return self.root / "cohort"

    @property
    def maps(self) -> Path:
        return self.root / "maps"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def add(
        self, reference: DicomReference | None, *, research_id: str = "CASE-001", tumor: bool = True, seed: int = 0,
        affine: Array | None = None, adc: Array | None = None, presence: Array | None = None,
    ) -> Array:  # fmt: skip
        """One case with seven draws; returns its ADC map (I, J, K) in 1e-3 mm²/s."""
        rng = np.random.default_rng(seed)
        shape = reference.shape if adc is None and reference is not None else np.shape(adc)
        if adc is None:
            adc = (rng.integers(300, 2600, shape) / 1000).astype(np.float32)
            adc[:, 0, :] = 0
        grid = reference.affine if affine is None and reference is not None else affine
        assert grid is not None
        if presence is None:
            presence = np.zeros(shape, dtype=bool)
            presence[1:4, 2:5, 1:4] = presence[6:8, 5:6, 3:5] = tumor
        draws = np.repeat(presence[..., None], 7, axis=-1).astype(np.uint8)
        for k in range(4, 7):  # three draws see less of it
            draws[..., k] &= rng.random(shape) < 0.6
        valid = (adc > 0).astype(np.uint8)
        volumes = {seq.ADC: adc, seq.DWI_HIGH: adc + 1, seq.VALID: valid}
        case = Case(research_id, 1, provenance="public", b_high=800.0)
        case = write_case(self.cohort, case, volumes, np.asarray(grid))
        if reference is not None and affine is None:
            write_dicom_reference(self.cohort, case.case_id, reference)
        self.cases.append(case)
        cohort = Cohort(tuple(self.cases), provenance="public")
        write_manifest(self.cohort, cohort)
        stored = np.asarray(grid, dtype=np.float32).astype(np.float64)
        tumor_map = build_tumor_map(adc, valid, stored, draws, draws.mean(axis=-1), tau=0.5)
        about = {
            "run": "small",
            "checkpoint_sha256": CHECKPOINT,
            "seed": 3,
            "steps": 8,
            "research_use_only": True,
        }
        record = {"case_id": case.case_id, **about, **tumor_map.record()}
        write_map_case(self.maps, case.case_id, tumor_map.volumes(), stored, tumor_map.lesions.rows, record)
        write_maps_manifest(self.maps, {**about, "cohort_digest": cohort.digest, "provenance": "public"})
        return adc

    def export(self, **how: Any) -> ExportReport:
        return export_dicom(self.maps, self.cohort, self.out, **how)

    def case_folder(self, research_id: str = "CASE-001") -> Path:
        return self.out / f"{research_id}_01"

    def refusal(self, **how: Any) -> str:
        """The one refusal of an export that wrote nothing for the case."""
        report = self.export(**how)
        assert not report.rows
        (message,) = report.refused
        assert not (self.out / "CASE-001_01").exists()
        assert str(self.root) not in message
        return message


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path, [])


def renamed(reference: DicomReference, name: str) -> DicomReference:
    """The same slices under other UIDs, as after a hand-over that hashed them."""
    other = references(name, shape=reference.shape, layout=reference.layout)
    return replace(
        reference,
        study_uid=other.study_uid,
        adc_series_uid=other.adc_series_uid,
        adc_sop_uids=other.adc_sop_uids,
    )
