"""What must not go out, and how a case is led back to its series."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.export.reference import ReferenceFolder, placement
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.maps import LESION_COLUMNS
from diffusion_adc.records.nifti import write_nifti

from .conftest import OBLIQUE, STRAIGHT, Clinic, references, renamed, write_series


def rewrite(clinic: Clinic, name: str, change: Any) -> None:
    """Replace one volume of the map, its hash included: the damage of a faulty program, not of a disk."""
    from diffusion_adc.records.maps import read_map_record, read_map_volume

    volume = read_map_volume(clinic.maps, "CASE-001_01", name)
    array = volume.array.copy()
    affine = volume.affine.copy()
    change(array, affine)
    folder = clinic.maps / "CASE-001_01"
    record = read_map_record(clinic.maps, "CASE-001_01")
    record["sha256"][name] = write_nifti(folder / f"{name}.nii.gz", array, affine)
    write_json(folder / "case.json", record)


def put(index: Any, value: float) -> Any:
    def change(array: Any, _affine: Any) -> None:
        array[index] = value

    return change


def moved(_array: Any, affine: Any) -> None:
    affine[0, 3] += 1


@pytest.mark.parametrize(
    ("name", "change", "code", "words"),
    [
        ("tumor_adc", put((2, 3, 2), np.nan), "S18", "NaN"),
        ("tumor_adc", put((2, 3, 2), np.inf), "S18", "infinity"),
        ("probability", put((2, 3, 2), np.nan), "S18", "NaN"),
        ("probability", put((2, 3, 2), 1.5), "S22", "outside 0 to 1"),
        ("tumor_adc", put((2, 3, 2), 0.123), "S23", "not the scanner's"),
        ("tumor_adc", put((0, 5, 0), 1e-9), "S23", "not the scanner's"),
        ("tumor_adc", moved, "S20", "another grid"),
    ],
)
def test_a_wrong_map_stays_here(clinic: Clinic, name: str, change: Any, code: str, words: str) -> None:
    clinic.add(references())
    rewrite(clinic, name, change)
    message = clinic.refusal()
    assert message.startswith(f"{code} CASE-001 tumor_adc: ")
    assert words in message


@pytest.mark.parametrize("damage", ["row", "median", "columns", "gone"])
def test_a_table_of_other_lesions_stays_here(clinic: Clinic, damage: str) -> None:
    clinic.add(references())
    table = clinic.maps / "CASE-001_01" / "lesions.csv"
    lines = table.read_text().splitlines()
    if damage == "row":
        lines.pop()
    elif damage == "median":
        cells = lines[1].split(",")
        cells[LESION_COLUMNS.index("adc_median")] = "0.5"
        lines[1] = ",".join(cells)
    elif damage == "columns":
        lines[0] = lines[0].replace("volume_ml", "volume")
    table.write_text("\n".join(lines) + "\n")
    if damage == "gone":
        table.unlink()
    assert "S25 CASE-001 tumor_adc: lesions.csv does not fit" in clinic.refusal()


def test_a_case_from_nifti_needs_a_reference(clinic: Clinic) -> None:
    reference = references()
    adc = clinic.add(reference, affine=reference.affine)
    message = clinic.refusal()
    assert message.startswith("S01 CASE-001 tumor_adc: a case that did not come from DICOM")
    assert "--reference" in message
    write_series(clinic.root / "dicom" / "deep" / "er", reference, adc)
    (clinic.root / "dicom" / "DICOMDIR").write_bytes(b"not a DICOM file at all")
    report = clinic.export(reference=clinic.root / "dicom")
    assert not report.refused
    assert "voxels and values" in report.rows[0]["source"]
    ds = pydicom.dcmread(clinic.case_folder() / "report.dcm")
    assert ds.StudyInstanceUID == reference.study_uid
    assert b"CLINIC" not in (clinic.case_folder() / "report.dcm").read_bytes()


@pytest.mark.parametrize("flips", [(1, -1, 1), (-1, -1, -1)])
def test_a_converter_may_have_flipped_axes(clinic: Clinic, flips: tuple[int, int, int]) -> None:
    """NIfTI converters store rows bottom-up and slices feet-first: the voxels are still the source's."""
    reference = references(orientation=OBLIQUE, layout="enhanced")
    rng = np.random.default_rng(5)
    adc = (rng.integers(300, 2600, reference.shape) / 1000).astype(np.float32)
    write_series(clinic.root / "dicom", reference, adc)
    turn = np.eye(4)
    for axis, flip in enumerate(flips):
        if flip < 0:
            turn[axis, axis], turn[axis, 3] = -1, reference.shape[axis] - 1
    flipped = adc[:: flips[0], :: flips[1], :: flips[2]]
    clinic.add(None, affine=reference.affine @ turn, adc=np.ascontiguousarray(flipped))
    assert not clinic.export(reference=clinic.root / "dicom").refused
    for k, path in enumerate(sorted((clinic.case_folder() / "adc_series").iterdir())):
        ds = pydicom.dcmread(path)
        position = tuple(map(float, ds.ImagePositionPatient))
        source = reference.positions_mm.index(position)
        pixels = ds.pixel_array
        wanted = np.rint(adc[:, :, source].T * 1000)
        assert np.array_equal(pixels[pixels >= 0], wanted[pixels >= 0])
        assert (pixels >= 0).any() or k not in (2, 3)


def test_another_persons_series_is_not_taken(clinic: Clinic) -> None:
    reference = references()
    adc = clinic.add(reference, affine=reference.affine)
    stranger = adc.copy()
    stranger[4, 4, 2] += 0.001
    write_series(clinic.root / "dicom", references("2"), stranger)
    assert "S20" in clinic.refusal(reference=clinic.root / "dicom")
    for name in ("3", "4"):
        write_series(clinic.root / "dicom" / name, references(name), adc)
    message = clinic.refusal(reference=clinic.root / "dicom")
    assert message.startswith("S05")
    assert "2 series" in message


def test_hashed_uids_are_led_back_to_the_clinics_own(clinic: Clinic) -> None:
    original = references()
    adc = clinic.add(renamed(original, "55"))
    write_series(clinic.root / "dicom", original, adc)
    assert not clinic.export(reference=clinic.root / "dicom").refused
    ds = pydicom.dcmread(clinic.case_folder() / "adc_map.dcm")
    assert (ds.StudyInstanceUID, ds.PatientID) == (original.study_uid, "CASE-001")


@pytest.mark.parametrize("layout", ["classic", "enhanced"])
def test_the_recorded_series_is_checked(clinic: Clinic, layout: str) -> None:
    reference = references(layout=layout)
    adc = clinic.add(reference)
    write_series(clinic.root / "dicom", reference, adc)
    assert ReferenceFolder(clinic.root / "dicom").holds(reference)
    report = clinic.export(reference=clinic.root / "dicom")
    assert report.rows[0]["source"] == "as ingested, checked against --reference"
    shifted = tuple((x, y, z + 0.5) for x, y, z in reference.positions_mm)
    with pytest.raises(CohortError, match="has it elsewhere"):
        ReferenceFolder(clinic.root / "dicom").holds(replace(reference, positions_mm=shifted))
    if layout == "classic":
        (clinic.root / "dicom" / "002").unlink()
        with pytest.raises(CohortError, match="lacks a slice"):
            ReferenceFolder(clinic.root / "dicom").holds(reference)


def test_rescale_of_the_source_is_applied(clinic: Clinic) -> None:
    reference = references()
    adc = clinic.add(reference, affine=reference.affine)
    write_series(clinic.root / "dicom", reference, adc * 2, RescaleSlope="0.5", RescaleIntercept="0")
    assert not clinic.export(reference=clinic.root / "dicom").refused


def test_one_bad_case_does_not_stop_the_others(clinic: Clinic) -> None:
    clinic.add(references("1"))
    clinic.add(references("2"), research_id="CASE-002", seed=2)
    rewrite(clinic, "tumor_adc", put((2, 3, 2), np.nan))
    report = clinic.export()
    assert [row["case"] for row in report.rows] == ["CASE-002_01"]
    assert len(report.refused) == 1
    assert "refused: S18 CASE-001" in report.table()
    manifest = json.loads((clinic.out / "export.json").read_text())
    assert set(manifest["cases"]) == {"CASE-002_01"}
    assert manifest["research_use_only"] is True


def test_a_damaged_record_is_not_believed(clinic: Clinic) -> None:
    clinic.add(references())
    path = clinic.cohort / "cases" / "CASE-001_01" / "dicom.json"
    record = json.loads(path.read_text())
    for bad in (
        {**record, "study_uid": "1.2.x"},
        {**record, "patient": "x"},
        {**record, "positions_mm": [[0, 0]]},
    ):
        path.write_text(json.dumps(bad))
        assert clinic.refusal().startswith("S25 CASE-001 adc: a damaged DICOM reference")
    record["rows"] += 1
    path.write_text(json.dumps(record))
    assert "S20" in clinic.refusal()


def test_a_reference_without_images_is_named(clinic: Clinic, tmp_path: Path) -> None:
    clinic.add(references())
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="no MR image"):
        clinic.export(reference=tmp_path / "nothing")
    with pytest.raises(UsageError, match="no folder"):
        clinic.export(reference=tmp_path / "absent")


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    orientation=st.sampled_from([STRAIGHT, OBLIQUE]),
)
def test_placement_undoes_every_reordering(
    order: list[int], signs: tuple[int, int, int], orientation: tuple[float, ...]
) -> None:
    reference = references(orientation=orientation, shape=(4, 3, 5))
    source = np.arange(60, dtype=np.float32).reshape(4, 3, 5)
    case = np.transpose(source, order)[tuple(slice(None, None, sign) for sign in signs)]
    index = np.zeros((4, 4))  # case index → source index
    index[3, 3] = 1
    for axis, (into, sign) in enumerate(zip(order, signs, strict=True)):
        index[into, axis] = sign
        index[into, 3] = 0 if sign > 0 else case.shape[axis] - 1
    affine = (reference.affine @ index).astype(np.float32).astype(np.float64)
    found = placement(affine, case.shape, reference)
    assert found is not None
    assert np.array_equal(found.frames(case), np.transpose(source, (2, 1, 0)))
    affine[:3, 3] += 0.01
    assert placement(affine, case.shape, reference) is None
