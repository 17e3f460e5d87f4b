"""What goes out is what was measured: bit for bit, plane for plane, under the right study and code."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.export.dicom import ExportReport
from diffusion_adc.export.parametric import PADDING
from diffusion_adc.records.dicom_reference import DicomReference
from diffusion_adc.records.maps import read_map_record, read_map_volume

from .conftest import CHECKPOINT, OBLIQUE, STRAIGHT, Clinic, references

LAYOUTS = [("classic", STRAIGHT), ("classic", OBLIQUE), ("enhanced", OBLIQUE), ("mosaic", STRAIGHT)]
CHECKER = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy absent: Debian package dicom3tools"
)
OBJECTS = ("adc_map.dcm", "segmentation.dcm", "probability.dcm", "report.dcm")


@dataclass(frozen=True)
class Done:
    clinic: Clinic
    reference: DicomReference
    adc: NDArray[Any]
    report: ExportReport


@pytest.fixture(scope="module", params=LAYOUTS, ids=["straight", "oblique", "enhanced", "mosaic"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One export per kind of source, read by many tests and changed by none."""
    layout, orientation = request.param
    reference = references(orientation=orientation, layout=layout)
    clinic = Clinic(tmp_path_factory.mktemp(layout), [])
    adc = clinic.add(reference)
    return Done(clinic, reference, adc, clinic.export())


def errors(folder: Path) -> list[str]:
    """What dciodvfy calls an error in any file below the folder."""
    found = []
    for path in sorted(folder.rglob("*.dcm")):
        run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        lines = (run.stdout + run.stderr).splitlines()
        found += [f"{path.name}: {line}" for line in lines if line.startswith("Error")]
    return found


def by_position(path: Path, reference: DicomReference, *, segments: bool = False) -> dict[Any, NDArray[Any]]:
    """Frames by (segment, slice): an independent reading, by the stored position alone."""
    dataset = pydicom.dcmread(path)
    slices = {position: k for k, position in enumerate(reference.positions_mm)}
    frames = np.asarray(dataset.pixel_array).reshape(-1, dataset.Rows, dataset.Columns)
    out: dict[Any, NDArray[Any]] = {}
    for frame, item in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        k = slices[tuple(float(x) for x in item.PlanePositionSequence[0].ImagePositionPatient)]
        named = item if "SegmentIdentificationSequence" in item else dataset.SharedFunctionalGroupsSequence[0]
        number = named.SegmentIdentificationSequence[0].ReferencedSegmentNumber if segments else 0
        out[number, k] = frame
    return out


def frames(array: NDArray[Any]) -> NDArray[Any]:
    return np.transpose(array, (2, 1, 0))


def test_every_object_belongs_to_the_study_and_to_nobody_else(done: Done) -> None:
    reference, clinic = done.reference, done.clinic
    report = done.report
    assert not report.refused
    files = sorted(clinic.case_folder().rglob("*.dcm"))
    assert len(files) == report.rows[0]["objects"] == 5 + 4
    datasets = [pydicom.dcmread(path) for path in files]
    assert {ds.StudyInstanceUID for ds in datasets} == {reference.study_uid}
    spatial = [ds for ds in datasets if "FrameOfReferenceUID" in ds]
    assert {ds.FrameOfReferenceUID for ds in spatial} == {reference.frame_of_reference_uid}
    assert {str(ds.PatientID) for ds in datasets} == {str(ds.PatientName) for ds in datasets} == {"CASE-001"}
    uids = [ds.SOPInstanceUID for ds in datasets]
    assert len(set(uids)) == 9
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 5
    assert all(uid.startswith("2.25.") and len(uid) <= 64 and pydicom.uid.UID(uid).is_valid for uid in uids)
    for ds in datasets:
        assert "research, not for diagnosis" in ds.SeriesDescription
        assert len(ds.SeriesDescription) <= 64
        assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert not ds.StudyDate
        assert not ds.PatientBirthDate


def test_planes_are_the_sources_digit_for_digit(done: Done) -> None:
    reference, clinic = done.reference, done.clinic
    adc, layout = done.adc, reference.layout
    tumor = read_map_volume(clinic.maps, "CASE-001_01", "tumor_adc").array
    for k, path in enumerate(sorted((clinic.case_folder() / "adc_series").iterdir())):
        ds = pydicom.dcmread(path)
        assert tuple(map(float, ds.ImagePositionPatient)) == reference.positions_mm[k]
        assert tuple(map(float, ds.ImageOrientationPatient)) == reference.orientation
        assert tuple(map(float, ds.PixelSpacing)) == reference.pixel_spacing_mm
        item = ds.SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == reference.adc_sop_uids[k]
        assert item.ReferencedSOPClassUID == reference.adc_sop_class
        wanted = reference.adc_frames[k] if reference.adc_frames else None
        assert item.get("ReferencedFrameNumber") == wanted
        stored = np.where(frames(tumor)[k] > 0, np.rint(frames(adc)[k] * 1000), -1)
        assert np.array_equal(ds.pixel_array, stored)
    for name in OBJECTS[:3]:
        ds = pydicom.dcmread(clinic.case_folder() / name)
        shared = ds.SharedFunctionalGroupsSequence[0]
        found = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert tuple(map(float, found)) == reference.orientation
        assert tuple(map(float, shared.PixelMeasuresSequence[0].PixelSpacing)) == reference.pixel_spacing_mm
        for item in ds.PerFrameFunctionalGroupsSequence:
            position = tuple(map(float, item.PlanePositionSequence[0].ImagePositionPatient))
            k = reference.positions_mm.index(position)
            for derivation in item.get("DerivationImageSequence", []):
                sources = derivation.SourceImageSequence
                assert [s.ReferencedSOPInstanceUID for s in sources] == [reference.adc_sop_uids[k]]
                assert {s.ReferencedSOPClassUID for s in sources} == {reference.adc_sop_class}
                if layout == "enhanced":
                    assert sources[0].ReferencedFrameNumber == reference.adc_frames[k]


def test_values_come_back_bit_exact(done: Done) -> None:
    reference, clinic = done.reference, done.clinic
    tumor, probability, draws = (
        read_map_volume(clinic.maps, "CASE-001_01", name).array
        for name in ("tumor_adc", "probability", "draws")
    )
    wanted = np.where(frames(tumor) > 0, frames(tumor).astype(np.float64) * 1e-3, PADDING).astype(np.float32)
    folder = clinic.case_folder()
    parts = by_position(folder / "adc_map.dcm", reference)
    assert all(np.array_equal(parts[0, k].view(np.uint32), wanted[k].view(np.uint32)) for k in range(5))
    counts = by_position(folder / "probability.dcm", reference, segments=True)
    assert pydicom.dcmread(folder / "probability.dcm").MaximumFractionalValue == 7
    for k in range(5):
        expected = frames(draws.sum(axis=-1))[k]
        assert np.array_equal(counts.get((1, k), np.zeros_like(expected)), expected)
    masks = by_position(folder / "segmentation.dcm", reference, segments=True)
    assert {number for number, _ in masks} == {1, 2}
    union = np.zeros(wanted.shape, dtype=bool)
    for (_, k), mask in masks.items():
        assert not (union[k] & (mask > 0)).any()
        union[k] |= mask > 0
    assert np.array_equal(union, frames(tumor) > 0)
    assert np.array_equal(frames(probability) >= 0.5, union)


def test_highdicom_reads_the_same(done: Done) -> None:
    reference, clinic = done.reference, done.clinic
    folder = clinic.case_folder()
    tumor = frames(read_map_volume(clinic.maps, "CASE-001_01", "tumor_adc").array)
    series = [hd.imread(path) for path in sorted((folder / "adc_series").iterdir())]
    volume = hd.get_volume_from_series(series)
    image = hd.imread(folder / "adc_map.dcm").get_volume(apply_real_world_transform=True)
    image = image.match_geometry(volume)
    assert np.allclose(image.array[image.array > 0] * 1e6, volume.array[image.array > 0], rtol=1e-6)
    seg = hd.seg.segread(folder / "segmentation.dcm")
    if reference.layout == "classic":
        mask = seg.get_pixels_by_source_instance(
            list(reference.adc_sop_uids), combine_segments=True, assert_missing_frames_are_empty=True
        )
        assert np.array_equal(mask > 0, tumor > 0)
    mask = seg.get_volume(combine_segments=True).match_geometry(volume).array
    assert np.array_equal(mask > 0, image.array > 0)
    values = hd.imread(folder / "adc_map.dcm").get_volume().match_geometry(volume).array
    order = [list(reference.positions_mm).index(tuple(map(float, ds.ImagePositionPatient))) for ds in series]
    assert order == list(range(5))
    inside = np.sort(values[values > 0])
    assert np.array_equal(inside, np.sort((tumor[tumor > 0].astype(np.float64) * 1e-3).astype(np.float32)))


def test_unit_survives_the_round_trip(clinic: Clinic) -> None:
    reference = references()
    clinic.add(reference, adc=np.full(reference.shape, 0.95, dtype=np.float32))
    clinic.export()
    image = hd.imread(clinic.case_folder() / "adc_map.dcm")
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "mm2/s"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    values = image.get_volume(apply_real_world_transform=True).array
    assert values.max() == pytest.approx(0.95e-3, rel=1e-6)
    assert not np.isnan(values).any()
    said = {
        item.ConceptNameCodeSequence[0].CodeValue: item
        for item in mapping.QuantityDefinitionSequence
        if item.ValueType == "CODE"
    }
    assert {name: item.ConceptCodeSequence[0].CodeValue for name, item in said.items()} == {
        "246205007": "113041", "370129005": "113250", "113241": "113260",
    }  # fmt: skip
    b_values = [i for i in mapping.QuantityDefinitionSequence if i.ValueType == "NUMERIC"]
    assert [float(i.NumericValue) for i in b_values] == [50, 800]
    classic = pydicom.dcmread(clinic.case_folder() / "adc_series" / "002.dcm")
    assert classic.pixel_array.max() == 950
    assert (classic.RescaleSlope, classic.PixelPaddingValue) == (1, -1)
    unit = classic.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0]
    assert unit.CodeValue == "um2/s"


def groups(report: pydicom.Dataset) -> list[list[pydicom.Dataset]]:
    """The measurement groups (125007) of a report, each as its items."""
    found = []

    def walk(item: pydicom.Dataset) -> None:
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == "125007":
            found.append(list(item.ContentSequence))
            return
        for child in item.get("ContentSequence", []):
            walk(child)

    walk(report)
    return found


def numbers(items: list[pydicom.Dataset]) -> dict[tuple[str, str], tuple[float, str]]:
    """Value and unit by (name, derivation) of one group."""
    out = {}
    for item in items:
        if item.ValueType != "NUM":
            continue
        derivation = [
            child.ConceptCodeSequence[0].CodeValue
            for child in item.get("ContentSequence", [])
            if child.ConceptNameCodeSequence[0].CodeValue == "121401"
        ]
        value = item.MeasuredValueSequence[0]
        key = (item.ConceptNameCodeSequence[0].CodeValue, "".join(derivation))
        out[key] = float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue
    return out


def test_report_repeats_the_tables(done: Done) -> None:
    clinic = done.clinic
    report = pydicom.dcmread(clinic.case_folder() / "report.dcm")
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    *lesions, case = groups(report)
    with (clinic.maps / "CASE-001_01" / "lesions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(lesions) == len(rows) == 2
    seg = pydicom.dcmread(clinic.case_folder() / "segmentation.dcm")
    tumor = read_map_volume(clinic.maps, "CASE-001_01", "tumor_adc")
    voxel_ml = abs(np.linalg.det(tumor.affine[:3, :3])) / 1000
    for items, row, segment in zip(lesions, rows, seg.SegmentSequence, strict=True):
        found = numbers(items)
        assert found["118565006", "DRAWS_MEDIAN"] == (float(row["volume_ml"]), "mL")
        assert found["118565006", "DRAWS_LOW80"][0] == float(row["volume_ml_low80"])
        for column, code in (("adc_median", "373099004"), ("adc_p10", "QG58"), ("adc_p90", "8DWT")):
            assert found["113041", code] == (float(f"{float(row[column]) * 1000:.6g}"), "um2/s")
        number = int(row["lesion"])
        inside = by_position(clinic.case_folder() / "segmentation.dcm", done.reference, segments=True)
        voxels = sum(int((mask > 0).sum()) for (n, _), mask in inside.items() if n == number)
        assert found["118565006", ""][0] == pytest.approx(voxels * voxel_ml, abs=1e-5)
        assert (
            found["113041", "255605001"][0]
            <= found["113041", "373098007"][0]
            <= found["113041", "56851009"][0]
        )
        uids = {str(item.UID) for item in items if item.ValueType == "UIDREF"}
        assert segment.TrackingUID in uids
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    record = read_map_record(clinic.maps, "CASE-001_01")
    found = numbers(case)
    assert found["118565006", ""][0] == record["tdv_ml"]["map"]
    assert found["118565006", "DRAWS_HIGH80"][0] == record["tdv_ml"]["high80"]
    assert found["113041", "373099004"][0] == pytest.approx(1000 * record["gadc"]["map"], rel=1e-12)
    texts = " | ".join(str(item.TextValue) for item in case if item.ValueType == "TEXT")
    assert CHECKPOINT in texts
    assert "seed 3" in texts


def test_a_map_without_tumor_is_a_finding(clinic: Clinic) -> None:
    reference = references()
    clinic.add(reference, tumor=False)
    assert clinic.export().rows[0]["lesions"] == 0
    folder = clinic.case_folder()
    for path in sorted((folder / "adc_series").iterdir()):
        assert (pydicom.dcmread(path).pixel_array == -1).all()
    seg = pydicom.dcmread(folder / "segmentation.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["tumor (none found)"]
    assert not seg.pixel_array.any()
    assert not pydicom.dcmread(folder / "probability.dcm").pixel_array.any()
    (case,) = groups(pydicom.dcmread(folder / "report.dcm"))
    found = numbers(case)
    assert found["118565006", ""] == (0.0, "mL")
    assert ("113041", "373099004") not in found


def test_the_same_map_gives_the_same_files(clinic: Clinic) -> None:
    clinic.add(references(layout="enhanced"))
    clinic.export()
    first = {p.relative_to(clinic.out): p.read_bytes() for p in clinic.out.rglob("*") if p.is_file()}
    clinic.export()
    assert {p.relative_to(clinic.out): p.read_bytes() for p in clinic.out.rglob("*") if p.is_file()} == first


def test_a_folder_with_something_else_is_left_alone(clinic: Clinic) -> None:
    clinic.add(references())
    clinic.out.mkdir()
    (clinic.out / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="something else"):
        clinic.export()
    with pytest.raises(UsageError, match="no map of"):
        clinic.export(cases=["CASE-404_01"])


@CHECKER
def test_an_independent_checker_finds_no_error(done: Done) -> None:
    assert not errors(done.clinic.case_folder())


@CHECKER
def test_an_independent_checker_finds_no_error_without_tumor(clinic: Clinic) -> None:
    clinic.add(references(), tumor=False)
    clinic.export()
    assert not errors(clinic.case_folder())
