"""DICOM studies of many vendors and layouts become cases with the very same voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_builder import (
    EPI,
    ROOT,
    Series,
    adc,
    dwi,
    exam,
    grid,
    study,
    t1,
    t2,
    write_classic,
    write_enhanced,
    write_mosaic,
)

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.ingest import IngestOptions, ingest
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.dicom_reference import read_dicom_reference


def check_voxels(dicom: Any, case: Any, content: dict[str, np.ndarray], high: str = "b800") -> None:
    assert np.array_equal(dicom.stored(case, seq.ADC), (content["adc"] * 1e-3).astype(np.float32))
    assert np.array_equal(dicom.stored(case, seq.DWI_HIGH), content[high].astype(np.float32))
    assert case.available == (True,) * 5


def test_a_study_becomes_a_case_with_its_own_voxels(dicom: Any) -> None:
    content = exam()
    dicom.add(study(content))
    case = dicom.only_case()
    check_voxels(dicom, case, content)
    assert np.array_equal(dicom.stored(case, seq.T2W), content["t2w"].astype(np.float32))
    assert (case.case_id, case.b_low, case.b_high) == ("CASE-001_01", 50, 800)
    assert (case.adc_unit_source, case.scanner, case.field_t) == ("vendor:Siemens", "Siemens Testscan", 3)
    assert case.anatomy == "pelvis"
    affine = dicom.affine(case)
    np.testing.assert_allclose(affine, grid(), atol=1e-5)
    reference = read_dicom_reference(dicom.out, case.case_id)
    assert reference is not None
    assert reference.shape == content["adc"].shape
    np.testing.assert_allclose(reference.affine, affine, atol=1e-6)
    assert reference.b_values == (50, 400, 800)
    record = dicom.record(case)
    assert record["adc_agreement"]["verdict"] == "pass"
    assert record["b_source"] == "private:siemens"


@pytest.mark.parametrize(
    ("vendor", "source", "high"),
    [
        ("standard", "standard", 800), ("siemens", "private:siemens", 800), ("name", "sequence_name", 800),
        ("csa", "csa", 800), ("ge", "private:ge", 800), ("ge biased", "private:ge", 800),
        ("philips", "private:philips", 800), ("uih", "private:uih", 809), ("hitachi", "private:hitachi", 800),
        ("canon", "private:canon", 800),
    ],
)  # fmt: skip
def test_each_vendors_b_values_are_found(dicom: Any, vendor: str, source: str, high: float) -> None:
    content = exam()
    parts = [adc(content), *(dwi(content, b, vendor=vendor) for b in (0, 400, 800))]
    parts[0] = parts[0].but(Manufacturer=parts[1].tags["Manufacturer"], RescaleType="10^-6 mm2/s")
    dicom.add(parts)
    case = dicom.only_case(allow_missing=("t1w", "t2w", "tumor_label"))
    assert (case.b_low, case.b_high) == (pytest.approx(0, abs=1), high)
    assert source in dicom.record(case)["b_source"].split("+")
    assert case.adc_unit_source == "stated:rescale_type"
    assert np.array_equal(dicom.stored(case, seq.DWI_HIGH), content["b800"].astype(np.float32))


def philips_like(dicom: Any, content: dict[str, np.ndarray]) -> None:
    """ADC and DWI frames in one multi-frame file."""
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], **EPI}
    parts: list[tuple[Series, float | None]] = [
        (Series(6, content["b50"], tags=kind), 50), (Series(6, content["b800"], tags=kind), 800), (adc(content, 6), None),
    ]  # fmt: skip
    write_enhanced(dicom.source / "CASE-001" / "s" / "frames", parts, f"{ROOT}.5", "20200101")


def enhanced_by_series(dicom: Any, content: dict[str, np.ndarray]) -> None:
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], **EPI}
    for number, (name, b) in enumerate((("b50", 50), ("b800", 800))):
        part = Series(6, content[name], tags=kind, uid=f"{ROOT}.5.6{number}")
        write_enhanced(dicom.source / "CASE-001" / f"dwi{number}", [(part, b)], f"{ROOT}.5", "20200101")
    write_enhanced(dicom.source / "CASE-001" / "adc", [(adc(content), None)], f"{ROOT}.5", "20200101")


def mosaics(dicom: Any, content: dict[str, np.ndarray]) -> None:
    folder = dicom.source / "CASE-001"
    for number, part in enumerate((dwi(content, 50), dwi(content, 800), adc(content))):
        write_mosaic(folder / f"IM{number}", part, f"{ROOT}.5", "20200101")


@pytest.mark.parametrize("write", [philips_like, enhanced_by_series, mosaics])
def test_frames_and_tiles_become_the_same_case(dicom: Any, write: Callable[[Any, Any], None]) -> None:
    content = exam()
    write(dicom, content)
    case = dicom.only_case(allow_missing=("t1w", "t2w", "tumor_label"))
    assert (case.b_low, case.b_high) == (50, 800)
    assert np.array_equal(dicom.stored(case, seq.ADC), (content["adc"] * 1e-3).astype(np.float32))
    assert np.array_equal(dicom.stored(case, seq.DWI_LOW), content["b50"].astype(np.float32))
    np.testing.assert_allclose(dicom.affine(case), grid(), atol=1e-5)
    assert read_dicom_reference(dicom.out, case.case_id) is not None


def test_the_scale_is_applied_exactly_once(dicom: Any) -> None:
    content = exam()
    parts = study(content)
    halves = (content["adc"] // 2).astype(np.uint16)
    parts[-1] = replace(parts[-1], array=halves).but(RescaleSlope="2", RescaleIntercept="0")
    dicom.add(parts)
    case = dicom.only_case()
    assert np.array_equal(dicom.stored(case, seq.ADC), (halves * 2.0 * 1e-3).astype(np.float32))


def test_a_real_world_map_comes_before_the_rescale(dicom: Any) -> None:
    from pydicom.dataset import Dataset

    content = exam()
    unit, mapping = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = (
        "mm2/s",
        "UCUM",
        "square millimeter per second",
    )
    mapping.MeasurementUnitsCodeSequence = [unit]
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 1e-6, 0.0
    parts = study(content)
    parts[-1] = parts[-1].but(RescaleSlope="7", RescaleIntercept="3", RealWorldValueMappingSequence=[mapping])
    dicom.add(parts)
    case = dicom.only_case()
    assert case.adc_unit_source == "stated:real_world"
    np.testing.assert_allclose(dicom.stored(case, seq.ADC), content["adc"] * 1e-3, rtol=1e-6)


def test_what_is_no_sequence_is_ignored_and_listed(dicom: Any) -> None:
    content = exam()
    derived = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]
    extra = [
        t2(content, 10).but(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        Series(11, content["b1000"], tags={"ImageType": derived, **EPI, "SequenceName": "*ep_b50_800"}).but(DiffusionBValue=1000.0),
        t1(content, 12).but(ScanningSequence="GR", RepetitionTime=800, EchoTime=1.53, FlipAngle=14),
        t1(content, 13).but(ContrastBolusAgent="yes"),
        t2(content, 14).but(InversionTime=2500),
        t2(content, 15).but(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        adc(content, 16).but(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "EADC"]),
        t2(content, 17).but(ImageType=["ORIGINAL", "PRIMARY", "P"]),
    ]  # fmt: skip
    folder = dicom.add([*study(content), *extra])
    (folder / "notes.txt").write_text("nothing")
    (folder / "DICOMDIR").write_bytes(b"\0" * 200)
    case = dicom.only_case()
    check_voxels(dicom, case, content)
    reasons = {entry[0].split(" (")[0]: entry[1] for entry in dicom.record(case)["ignored"]}
    assert reasons == {
        "series 10": "localizer", "series 11": "calculated from other b-values", "series 12": "proton density",
        "series 13": "T1w after a contrast agent", "series 14": "fluid-attenuated", "series 15": "reformatted",
        "series 16": "another parametric map", "series 17": "phase or part of a complex image",
        "2 file(s)": "no DICOM",
    }  # fmt: skip


def test_the_t2w_of_the_maps_plane_is_taken(dicom: Any) -> None:
    content = exam()
    sagittal = np.ascontiguousarray(np.moveaxis(content["t2w"], 0, 2))
    affine = grid()[:, [1, 2, 0, 3]]
    dicom.add([*study(content), replace(t2(content, 9), array=sagittal, affine=affine)])
    case = dicom.only_case()
    assert np.array_equal(dicom.stored(case, seq.T2W), content["t2w"].astype(np.float32))


def test_directions_are_combined_to_their_trace(dicom: Any) -> None:
    content = exam()
    single = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
    high = content["b800"].astype(float)
    factors = (0.8, 1.0, 1.25)
    directions = [
        replace(dwi(content, 800), array=np.round(high * factor).astype(np.uint16)).but(ImageType=single, AcquisitionNumber=n)
        for n, factor in enumerate(factors)
    ]  # fmt: skip
    dicom.add([adc(content), dwi(content, 50).but(ImageType=single), *directions])
    case = dicom.only_case(allow_missing=("t1w", "t2w", "tumor_label"))
    body = high > 100
    np.testing.assert_allclose(dicom.stored(case, seq.DWI_HIGH)[body], high[body], rtol=0.02)


def test_rules_come_before_facts(dicom: Any) -> None:
    content = exam()
    dicom.add([*study(content), t2(content, 8).but(SeriesDescription="t2 the better one")])
    message = dicom.refusal()
    assert message.startswith(
        "S01 CASE-001 t2w: 2 series that could serve: series 4 (6 images), series 8 (6 images)"
    )
    assert "better" not in message
    rules = dicom.root / "rules.yaml"
    rules.write_text("rules:\n  - {sequence: ignore, where: {series_number: 4}}\n")
    assert dicom.only_case(rules=rules).available == (True,) * 5
    rules.write_text(
        "rules:\n  - {sequence: ignore, where: {description: '*BETTER*', echo_time: [90, 110]}}\n"
    )
    assert dicom.only_case(rules=rules, overwrite=True).available == (True,) * 5


def test_a_persons_studies_are_ordered_by_date_and_no_date_is_kept(dicom: Any) -> None:
    dicom.add(study(exam(1)), number=1, date="20220301")
    dicom.add(study(exam(2)), number=2, date="20190507")
    report = dicom.ingest()
    assert not report.refused
    assert any(text.startswith("S31 CASE-001: 2 studies") for text in report.warnings)
    first, second = sorted(read_cohort(dicom.out).cases, key=lambda case: case.exam_order)
    assert np.array_equal(dicom.stored(first, seq.ADC), (exam(2)["adc"] * 1e-3).astype(np.float32))
    assert (first.study_order, second.study_order) == (1, 2)
    text = b"".join(path.read_bytes() for path in dicom.out.rglob("*") if path.suffix in (".json", ".csv"))
    assert b"20220301" not in text
    assert b"20190507" not in text


def test_one_study_under_two_ids_is_refused_twice(dicom: Any) -> None:
    folder = dicom.add(study(exam(1)), "CASE-001")
    dicom.add(study(exam(2)), "CASE-003")
    target = dicom.source / "CASE-002" / "s"
    target.parent.mkdir()
    folder.rename(target)
    for path in sorted(target.rglob("IM*")):
        copy = dicom.source / "CASE-001" / path.relative_to(target)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    report = dicom.ingest()
    assert sorted(text[:12] for text in report.refused) == ["S31 CASE-001", "S31 CASE-002"]
    assert [case.research_id for case in read_cohort(dicom.out).cases] == ["CASE-003"]


def test_the_layout_is_told_from_the_files(dicom: Any) -> None:
    dicom.add()
    options = IngestOptions(layout="auto", provenance="public", allow_missing=("tumor_label",))
    assert not ingest(dicom.source, dicom.out, options).refused


def test_restricted_files_that_still_identify_are_refused(dicom: Any) -> None:
    dicom.add(study(exam()))
    message = dicom.refusal(provenance="restricted")
    assert message.startswith("T1 CASE-001: a file that still identifies")
    assert "PatientID" in message


def test_one_bad_study_among_others_costs_only_itself(dicom: Any) -> None:
    for number in range(4):
        dicom.add(study(exam(number)), f"CASE-{number:03d}")
    bad = sorted((dicom.source / "CASE-002").rglob("IM0*"))[3]
    bad.write_bytes(bad.read_bytes()[:-40])
    report = dicom.ingest(jobs=2)
    assert [text[:12] for text in report.refused] == ["S29 CASE-002"]
    assert [case.research_id for case in read_cohort(dicom.out).cases] == ["CASE-000", "CASE-001", "CASE-003"]
    assert "refused by code: S29 1" in report.table()


def test_the_unit_is_stated_or_the_vendors_and_never_guessed(dicom: Any) -> None:
    content = exam()
    parts = study(content, vendor="philips")
    dicom.add([part.but(Manufacturer="Philips") for part in parts])
    assert dicom.refusal().startswith("S14 CASE-001: ") or dicom.refusal().startswith("S14 CASE-001 adc: ")
    case = dicom.only_case(adc_unit="1e-6")
    assert case.adc_unit_source == "declared"


def test_a_target_beside_the_studies_is_brought_to_the_map_only_if_wanted(dicom: Any, desk: Any) -> None:
    content = exam()
    dicom.add(study(content))
    targets = dicom.root / "targets"
    fine = np.kron(content["label"], np.ones((2, 2, 1)))
    affine = grid(spacing=(1.0, 1.0, 4.0))
    affine[:3, 3] = (grid() @ [-0.25, -0.25, 0, 1])[:3]
    desk.put(targets, "CASE-001", fine, affine, dtype=np.uint8)
    options = {"target": str(targets), "allow_missing": ()}
    assert dicom.refusal(**options).startswith("S20 CASE-001 tumor_label: ")
    case = dicom.only_case(**options, target_resample="nearest")
    assert np.array_equal(dicom.stored(case, seq.TUMOR_LABEL) > 0, content["label"] > 0)
    assert any(text.startswith("S20 CASE-001") for text in dicom.record(case)["warnings"])
    desk.put(targets / "CASE-001" / "masks", "lesion", content["label"], grid(), dtype=np.uint8)
    (targets / "CASE-001.nii.gz").unlink()
    case = dicom.only_case(**options, names={"tumor_label": "lesion"}, overwrite=True)
    assert case.tumor_status == "present"


def test_a_series_of_the_study_may_be_the_target(dicom: Any) -> None:
    content = exam()
    edited = replace(adc(content, 20), array=(content["adc"] * content["label"]).astype(np.uint16))
    dicom.add([*study(content), edited.but(SeriesDescription="edited by reader")])
    case = dicom.only_case(target="*edited*", allow_missing=())
    assert case.tumor_status == "present"
    assert np.array_equal(
        dicom.stored(case, seq.TUMOR_LABEL) > 0, (content["label"] > 0) & (content["adc"] > 0)
    )


def test_scrambled_names_and_depths_do_not_matter(dicom: Any) -> None:
    content = exam()
    folder = dicom.source / "CASE-001"
    for tag, part in enumerate(study(content)):
        for number, path in enumerate(write_classic(folder, part, f"{ROOT}.8", "20200101", tag)):
            deep = folder / ("a" * (tag + 1)) / f"x{number % 2}"
            deep.mkdir(parents=True, exist_ok=True)
            path.rename(deep / f"e{tag}{number}.MRDC.{number}")
    check_voxels(dicom, dicom.only_case(), content)


def test_a_link_out_of_the_source_is_refused(dicom: Any, tmp_path: Path) -> None:
    folder = dicom.add(study(exam()))
    path = next(folder.rglob("IM*"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert dicom.refusal().startswith("X8 CASE-001: ")


def test_what_the_clinic_cleaned_gets_in_restricted_in_its_order(dicom: Any) -> None:
    from diffusion_adc.custody.deidentify import clean

    folders = [dicom.add(study(exam(n)), number=n, date=f"20{20 + n}0101") for n in (1, 2)]
    for order, folder in enumerate(
        folders[::-1], start=1
    ):  # the delivery's numbers count, whatever was first
        for path in sorted(folder.rglob("IM*")):
            cleaned = clean(
                pydicom.dcmread(path), secret=b"k" * 32, research_id="CASE-001", study_order=order
            )
            cleaned.dataset.save_as(path, enforce_file_format=True)
    report = dicom.ingest(provenance="restricted")
    assert not report.refused, report.refused
    first, second = sorted(read_cohort(dicom.out).cases, key=lambda case: case.exam_order)
    assert np.array_equal(dicom.stored(first, seq.ADC), (exam(2)["adc"] * 1e-3).astype(np.float32))
    assert (second.b_low, second.b_high) == (50, 800)
    assert any("as numbered in the delivery" in text for text in report.warnings)
    folders[0].parent.rename(dicom.source / "CASE-009")
    assert dicom.refusal(provenance="restricted", overwrite=True).startswith(
        "S31 CASE-009: files of another person"
    )


def test_two_persons_in_one_folder_are_refused(dicom: Any) -> None:
    parts = study(exam())
    dicom.add([*parts[:-1], parts[-1].but(PatientID="Y")])
    assert dicom.refusal().startswith("S31 CASE-001: files of another person, or of several")


def test_a_persons_own_folder_may_be_the_source(dicom: Any) -> None:
    dicom.add(study(exam()))
    options = IngestOptions(layout="dicom", provenance="public", allow_missing=("tumor_label",))
    report = ingest(dicom.source / "CASE-001", dicom.out, options)
    assert [row["case"] for row in report.cases] == ["CASE-001_01"]
