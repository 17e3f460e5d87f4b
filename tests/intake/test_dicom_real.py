"""Real series of Siemens, GE and Philips scanners give their known figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import fit_adc
from diffusion_adc.intake.audit import audit_cohort
from diffusion_adc.intake.check import check_cohort
from diffusion_adc.intake.dicom.geometry import arrange, volumes
from diffusion_adc.intake.dicom.person import Study, read_person
from diffusion_adc.intake.dicom.pixels import Reader
from diffusion_adc.intake.dicom.series import Candidate, candidates
from diffusion_adc.intake.dicom.unit import adc_unit
from diffusion_adc.intake.ingest import IngestOptions, ingest
from diffusion_adc.intake.nifti import Refusal
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.dicom_reference import read_dicom_reference

REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not (REAL / "prostatex").is_dir(), reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder"
)
OPTIONS = IngestOptions(layout="dicom", provenance="public")


def found(*folders: str) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Candidates of series that may lie in several folders and studies."""
    studies: list[Study] = []
    for folder in folders:
        studies += read_person(REAL, REAL / folder, "REAL-0001", check_identity=False)[0]
    return candidates([one for study in studies for one in study.slices], ())


def pixels(candidate: Candidate, number: int = 0) -> np.ndarray:
    grid = arrange(candidate.slices, Refusal("REAL-0001"))
    parts, doubles = volumes(grid, Refusal("REAL-0001"))
    assert not doubles
    return Reader().volume(parts[number]).array


def by_b(images: list[Candidate]) -> dict[float, int]:
    return {round(c.b or 0.0, 4): len(c.slices) for c in images if c.kind == "dwi"}


@pytest.fixture(scope="module")
def prostatex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "cohort"
    options = IngestOptions(
        layout="auto", provenance="public", allow_missing=("t1w",), target=str(REAL / "prostatex"),
        names={"tumor_label": "lesion_human"}, label_values="1-5", target_resample="nearest", tumor_free_ok=True,
    )  # fmt: skip
    report = ingest(REAL / "prostatex", out, options)
    assert not report.refused, report.refused
    assert not [text for text in report.warnings if not text.startswith("S20")]
    return out


def test_prostatex_cases_have_their_series(prostatex: Path) -> None:
    first, second = sorted(read_cohort(prostatex).cases, key=lambda case: case.case_id)
    assert (first.case_id, second.case_id) == ("ProstateX-0000_01", "ProstateX-0001_01")
    for case in (first, second):
        assert (case.b_low, case.b_high) == (50, 800)
        assert case.declared == ("missing:t1w",)  # the proton-density series is no T1w
        assert (case.adc_unit_source, case.scanner, case.field_t) == ("vendor:Siemens", "Siemens Skyra", 3)
        record = json.loads((prostatex / "cases" / case.case_id / "case.json").read_text())
        assert record["b_measured"] == [50, 400, 800]
        assert record["b_source"] == "private:siemens"
        assert record["shape"] == [84, 128, 19]
        np.testing.assert_allclose(record["spacing_mm"], (2, 2, 3), atol=1e-5)
    ignored = json.loads((prostatex / "cases" / first.case_id / "case.json").read_text())["ignored"]
    assert ["series 8 (19 images)", "calculated from other b-values"] in ignored
    assert ["series 9 (16 images)", "proton density"] in ignored
    assert (first.tumor_status, second.tumor_status) == ("present", "absent")


def test_prostatex_geometry_is_the_headers_bit_for_bit(prostatex: Path) -> None:
    case = read_cohort(prostatex).cases[0]
    reference = read_dicom_reference(prostatex, case.case_id)
    assert reference is not None
    files = (REAL / "prostatex" / "ProstateX-0000").rglob("7.000000*/*.dcm")
    headers = {str(h.SOPInstanceUID): h for h in (pydicom.dcmread(p, stop_before_pixels=True) for p in files)}
    assert set(reference.adc_sop_uids) == set(headers)
    for k, uid in enumerate(reference.adc_sop_uids):
        assert reference.positions_mm[k] == tuple(float(v) for v in headers[uid].ImagePositionPatient)
    stored = load_volume(prostatex, case, seq.ADC)
    np.testing.assert_allclose(stored.affine, reference.affine, rtol=0, atol=1e-5)
    for k in (0, 9, 18):
        dataset = pydicom.dcmread(next(
            p for p in (REAL / "prostatex" / "ProstateX-0000").rglob("7.000000*/*.dcm")
            if str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) == reference.adc_sop_uids[k]
        ))  # fmt: skip
        assert np.array_equal(stored.array[..., k].T, (dataset.pixel_array * 1e-3).astype(np.float32))


@pytest.mark.parametrize(
    ("number", "voxels", "r", "ratio"), [(0, 85_443, 0.9984, 1.048), (1, 81_491, 0.9991, 1.041)]
)
def test_prostatex_recomputed_adc_agrees(
    prostatex: Path, number: int, voxels: int, r: float, ratio: float
) -> None:
    case = sorted(read_cohort(prostatex).cases, key=lambda c: c.case_id)[number]
    figures = json.loads((prostatex / "cases" / case.case_id / "case.json").read_text())["adc_agreement"]
    assert figures["voxels"] == pytest.approx(voxels, rel=0.001)
    assert figures["correlation"] == pytest.approx(r, abs=0.0005)
    assert figures["ratio"] == pytest.approx(ratio, abs=0.002)
    assert figures["correlation"] >= 0.99
    assert abs(figures["ratio"] - 1) <= 0.07
    row = next(row for row in check_cohort(prostatex) if row["case"] == case.case_id)
    assert row["code"] == ""


def test_prostatex_lesion_on_the_maps_grid(prostatex: Path) -> None:
    case = read_cohort(prostatex).cases[0]
    label = load_volume(prostatex, case, seq.TUMOR_LABEL).array > 0
    adc = load_volume(prostatex, case, seq.ADC).array
    assert label.sum() == 26
    assert adc[label].mean() == pytest.approx(1.134, abs=0.001)
    assert np.median(adc[label]) == pytest.approx(1.052, abs=0.001)
    rows = {row["case"]: row for row in audit_cohort(prostatex)}
    assert rows["ProstateX-0000_01"]["residual"] == 0
    assert rows["ProstateX-0001_01"]["volume_ml"] == 0


@pytest.mark.parametrize(
    ("folder", "kind", "b", "size"),
    [
        ("vendors/ge_signa_pioneer_dwi", "dwi", {0.0: 2, 1000.0: 8}, (256, 256, 2)),
        ("vendors/philips_ingenia_dwi", "dwi", {0.004: 32, 1000.0: 32}, (112, 112, 32)),
        ("vendors/siemens_xa30_enhanced_dwi", "dwi", {0.0: 39, 2500.0: 39}, (72, 72, 39)),
        ("vendors/siemens_xa30_enhanced_adc", "adc", {}, (72, 72, 39)),
        ("vendors/ge_signa_hdxt_adc", "adc", {}, (256, 256, 20)),
        ("phantom_mrbias/skyra_ep2d_diff_1", "dwi", {0.0: 25, 500.0: 25, 1000.0: 25, 1500.0: 25, 2000.0: 25}, (128, 128, 25)),
    ],
)  # fmt: skip
def test_b_values_and_sizes_by_series(
    folder: str, kind: str, b: dict[float, int], size: tuple[int, ...]
) -> None:
    images, _ = found(folder)
    assert by_b(images) == b
    one = next(c for c in images if c.kind == kind)
    assert arrange(one.slices, Refusal("REAL-0001")).shape == size


def test_ge_map_is_told_by_name_and_its_b_says_nothing() -> None:
    images, _ = found("vendors/ge_signa_hdxt_adc")
    (one,) = images
    assert (one.kind, one.reason) == ("adc", "derived, by name")
    assert one.b is None  # 500 without its creator is no b-value, and the map has none
    values = pixels(one)
    assert (values.min(), values.max()) == (0, 4095)
    assert adc_unit(one.slices, OPTIONS, "REAL-0001") == ("1e-6", "vendor:GE")
    grid = arrange(one.slices, Refusal("REAL-0001"))
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), (0.703, 0.703, 3.0), atol=1e-3)


def test_ge_directions_at_one_place() -> None:
    images, _ = found("vendors/ge_signa_pioneer_dwi")
    high = next(c for c in images if c.b == 1000)
    grid = arrange(high.slices, Refusal("REAL-0001"))
    assert [len(place) for place in grid.places] == [4, 4]
    low = next(c for c in images if c.b == 0)
    assert low.b_source == "private:ge"
    assert np.array_equal(pixels(low), pixels(high))  # the source copied one image into all volumes
    assert pixels(low).max() == 6375


def test_philips_scale_is_applied_once() -> None:
    images, _ = found("vendors/philips_ingenia_dwi")
    low, high = sorted(images, key=lambda c: c.b or 0.0)
    one, other = pixels(low), pixels(high)
    assert (round(one.max()), round(other.max())) == (3946, 1242)
    assert dict(low.slices[0].private_scale)["philips_slope"] == pytest.approx(0.0269347)
    bright = one > np.percentile(one, 75)
    adc = fit_adc(np.stack([one, other]), [low.b or 0.0, high.b or 0.0])
    assert np.nanmedian(adc[bright]) * 1000 == pytest.approx(967, abs=15)


def test_siemens_enhanced_map() -> None:
    images, _ = found("vendors/siemens_xa30_enhanced_dwi", "vendors/siemens_xa30_enhanced_adc")
    low, high = sorted((c for c in images if c.kind == "dwi"), key=lambda c: c.b or 0.0)
    (own,) = (c for c in images if c.kind == "adc")
    assert own.slices[0].b is None
    assert own.slices[0].scale.unit == "US"
    assert adc_unit(own.slices, OPTIONS, "REAL-0001") == ("1e-6", "vendor:Siemens")
    values, one, other = pixels(own), pixels(low), pixels(high)
    assert (values.max(), one.max(), other.max()) == (2320, 2866, 445)
    use = (values > 0) & (one > 0) & (other > 0)
    adc = fit_adc(np.stack([one, other]), [0, 2500])[use] * 1000
    assert np.corrcoef(adc, values[use])[0, 1] == pytest.approx(0.885, abs=0.01)
    assert np.median(np.abs(adc - values[use])) == pytest.approx(72.4, abs=5)


def test_phantom_fit_of_all_five_b_is_the_scanners() -> None:
    images, _ = found("phantom_mrbias/skyra_ep2d_diff_1")
    dwi = sorted((c for c in images if c.kind == "dwi"), key=lambda c: c.b or 0.0)
    (own,) = (c for c in images if c.kind == "adc")
    signals, values = np.stack([pixels(c) for c in dwi]), pixels(own)
    grid = arrange(own.slices, Refusal("REAL-0001"))
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), (1.719, 1.719, 5.0), atol=1e-3)
    assert (signals[0].max(), values.max()) == (4095, 2787)
    use = (signals[0] > 409.5) & (values > 0) & np.all(signals > 0, axis=0)
    assert use.sum() == pytest.approx(167_418, rel=0.001)
    adc = fit_adc(signals, [c.b or 0.0 for c in dwi], weighted=False)[use] * 1000
    assert np.corrcoef(adc, values[use])[0, 1] >= 0.999
    assert np.median(np.abs(adc - values[use])) <= 5
    assert np.median(adc / values[use]) == pytest.approx(1.003, abs=0.002)


def test_phantom_is_a_whole_case(tmp_path: Path) -> None:
    target = tmp_path / "in" / "PHANTOM-001"
    target.parent.mkdir()
    target.mkdir()
    for path in (REAL / "phantom_mrbias" / "skyra_ep2d_diff_1").rglob("*"):
        if path.is_file():
            (target / f"{path.parent.name}_{path.name}").write_bytes(path.read_bytes())
    options = IngestOptions(layout="dicom", provenance="public", allow_missing=("t1w", "t2w", "tumor_label"))
    report = ingest(tmp_path / "in", tmp_path / "cohort", options)
    assert not report.refused, report.refused
    (case,) = read_cohort(tmp_path / "cohort").cases
    assert (case.b_low, case.b_high, case.anatomy) == (0, 1000, "head")


def test_no_header_text_of_the_files_is_kept(prostatex: Path) -> None:
    text = b"".join(p.read_bytes() for p in prostatex.rglob("*") if p.suffix in (".json", ".csv", ".html"))
    for word in (b"DYNDIST", b"t2_tse", b"20110707", b"tfl_3d"):
        assert word not in text
