"""NIfTI folders become cohorts; every bad file gets exactly its code, every good one gets in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bad_nifti import BAD, Volumes, affine, save, volumes

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.audit import audit_cohort
from diffusion_adc.intake.check import check_cohort
from diffusion_adc.intake.ingest import IngestOptions, IngestReport, ingest
from diffusion_adc.records.cohort import load_volume, read_cohort

REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
OPTIONS = {"adc_unit": "1e-6", "b_values": {"dwi_low": "50", "dwi_high": "800"}}


def run(tmp_path: Path, **options: Any) -> tuple[IngestReport, Path]:
    out = tmp_path / "cohort"
    return ingest(tmp_path / "in", out, IngestOptions(**{**OPTIONS, **options})), out


def test_a_whole_examination_gets_in_untouched(tmp_path: Path) -> None:
    content = volumes()
    save(tmp_path / "in" / "CASE-001", content, affine(0.3))
    report, out = run(tmp_path)
    assert not report.refused
    (case,) = read_cohort(out).cases
    assert (case.case_id, case.provenance, case.tumor_status) == ("CASE-001_01", "restricted", "present")
    adc = load_volume(out, case, seq.ADC)
    assert np.array_equal(adc.array, (content["adc"] * 1e-3).astype(np.float32))
    np.testing.assert_allclose(adc.affine, affine(0.3), atol=1e-5)
    low = load_volume(out, case, seq.DWI_LOW).array
    assert np.array_equal(low, content["dwi_low"].astype(np.float32))
    tumor = load_volume(out, case, seq.TUMOR_ADC).array
    assert np.array_equal(tumor, np.where(content["tumor_label"] > 0, adc.array, 0))
    record = json.loads((out / "cases" / case.case_id / "case.json").read_text())
    assert record["adc_agreement"]["verdict"] == "pass"
    (checked,) = check_cohort(out)
    assert checked["code"] == ""
    assert checked["adc_ratio"] == pytest.approx(1, abs=0.01)
    (audited,) = audit_cohort(out)
    assert audited["residual"] == 0
    assert audited["volume_ml"] == pytest.approx(6 * 0.016)


@pytest.mark.parametrize(
    "missing", [["t1w"], ["t2w"], ["t1w", "t2w"], ["dwi_low"], ["dwi_high"], ["t1w", "dwi_low"]]
)
def test_declared_missing_sequences_get_in_and_are_recorded(tmp_path: Path, missing: list[str]) -> None:
    content = {name: array for name, array in volumes().items() if name not in missing}
    save(tmp_path / "in" / "CASE-001", content)
    report, out = run(tmp_path, allow_missing=tuple(missing))
    assert not report.refused
    (case,) = read_cohort(out).cases
    assert set(case.declared) == {f"missing:{name}" for name in missing}
    assert case.available == tuple(name not in missing for name in seq.SEQUENCES)


def test_anatomy_on_another_grid_is_resampled_and_adc_never(tmp_path: Path) -> None:
    content = volumes()
    save(tmp_path / "in" / "CASE-001", content)
    fine = np.kron(content["t2w"], np.ones((2, 2, 1)))
    grid = affine(spacing=(1.0, 1.0, 4.0))
    grid[:3, 3] -= (0.5, 0.5, 0)
    image = nib.Nifti1Image(fine.astype(np.float32), grid)
    image.set_qform(grid, 1)
    nib.save(image, tmp_path / "in" / "CASE-001" / "t2w.nii.gz")
    _, out = run(tmp_path)
    (case,) = read_cohort(out).cases
    # Two equal halves around a center: the linear value there is the original one.
    np.testing.assert_allclose(
        load_volume(out, case, seq.T2W).array[1:-1, 1:-1], content["t2w"][1:-1, 1:-1], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("code", "sequence", "spoil"), BAD, ids=[f"{c}-{s}-{n}" for n, (c, s, _) in enumerate(BAD)]
)
def test_each_bad_file_gets_exactly_its_code(
    tmp_path: Path, code: str, sequence: str, spoil: Callable[[Path, Volumes], Any]
) -> None:
    content = volumes()
    spoil(save(tmp_path / "in" / "CASE-001", content), content)
    save(tmp_path / "in" / "CASE-002", volumes(seed=1))
    report, out = run(tmp_path)
    assert [case.research_id for case in read_cohort(out).cases] == ["CASE-002"]
    (message,) = report.refused
    assert message.startswith(f"{code} CASE-001 {sequence}: "), message
    assert "expected" in message
    assert str(tmp_path) not in message
    assert "\n" not in message


def test_one_bad_among_fifty(tmp_path: Path) -> None:
    for number in range(50):
        save(tmp_path / "in" / f"CASE-{number:03d}", volumes((12, 12, 2), seed=number))
    (tmp_path / "in" / "CASE-031" / "adc.nii.gz").write_bytes(b"")
    report, out = run(tmp_path)
    assert len(report.cases) == 49
    assert len(report.refused) == 1
    assert "CASE-031" in report.refused[0]
    assert {case.split for case in read_cohort(out).cases} == {"train", "val", "test"}
    assert "49 cases in, 1 refused" in report.table()


@pytest.mark.parametrize("name", ["Müller_Hans", "19700101 Tanaka", "P1", "..hidden", "P001 (2)"])
def test_a_folder_name_that_is_no_research_id_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    save(tmp_path / "in" / name.lstrip("."), volumes())
    report, out = run(tmp_path)
    (message,) = report.refused
    assert message.startswith("X8")
    assert name.lstrip(".") not in message
    assert not out.exists(), "a cohort without a case was written"


@pytest.mark.parametrize(
    "b_values",
    [{}, {"dwi_low": "50"}, {"dwi_low": "900", "dwi_high": "800"}, {"dwi_low": "-5", "dwi_high": "800"}],
)
def test_b_values_must_be_declared_and_in_order(tmp_path: Path, b_values: dict[str, str]) -> None:
    save(tmp_path / "in" / "CASE-001", volumes())
    report, _ = run(tmp_path, b_values=b_values)
    assert not report.cases
    assert report.refused[0].startswith("S12")


def test_unknown_b_values_are_recorded_and_skip_the_comparison(tmp_path: Path) -> None:
    content = volumes()
    content["dwi_high"] = content["dwi_high"] * 3
    save(tmp_path / "in" / "CASE-001", content)
    _, out = run(tmp_path, b_values={"dwi_low": "50", "dwi_high": "unknown"})
    (case,) = read_cohort(out).cases
    assert case.b_high is None
    assert "unknown:b_high" in case.declared


@pytest.mark.parametrize(
    "options",
    [
        {"adc_unit": None}, {"label_values": "x"}, {"label_values": "0-2"}, {"allow_missing": ("adc",)},
        {"allow_missing": ("flair",)}, {"b_values": {"adc": "5"}}, {"b_values": {"dwi_low": "many"}},
        {"names": {"flair": "x"}}, {"provenance": "stolen"}, {"layout": "bids"},
    ],
)  # fmt: skip
def test_wrong_declarations_are_wrong_usage(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        IngestOptions(**{**OPTIONS, **options})


def test_a_declared_tumor_free_case_and_graded_labels_get_in(tmp_path: Path) -> None:
    content, other = volumes(), volumes(seed=1)
    save(tmp_path / "in" / "CASE-001", content | {"tumor_label": content["tumor_label"] * 0})
    save(tmp_path / "in" / "CASE-002", other | {"tumor_label": other["tumor_label"] * 4})
    report, out = run(tmp_path, tumor_free_ok=True, label_values="1-5")
    assert not report.refused
    assert [case.tumor_status for case in read_cohort(out).cases] == ["absent", "present"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    save(tmp_path / "in" / "CASE-001", volumes())
    run(tmp_path)
    with pytest.raises(UsageError, match="overwrite"):
        run(tmp_path)
    assert not run(tmp_path, overwrite=True)[0].refused
    (tmp_path / "cohort" / "cohort.json").unlink()
    with pytest.raises(UsageError, match="something else"):
        run(tmp_path, overwrite=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_source_without_cases_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        run(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="no case folder"):
        run(tmp_path)


def test_check_names_a_damaged_file(tmp_path: Path) -> None:
    save(tmp_path / "in" / "CASE-001", volumes())
    _, out = run(tmp_path)
    path = out / "cases" / "CASE-001_01" / "t1w.nii.gz"
    path.write_bytes(path.read_bytes()[:-3])
    (row,) = check_cohort(out)
    assert row["code"] == "S25"
    assert not re.search(r"[/\\]", row["message"])


@pytest.mark.skipif(
    not (REAL / "picai_pair").is_dir(), reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder"
)
def test_a_real_prostate_case_has_its_true_figures(tmp_path: Path) -> None:
    options = IngestOptions(
        names={"dwi_high": "hbv", "tumor_label": "lesion_human"}, id_prefix="PICAI", allow_missing=("t1w", "dwi_low"),
        b_values={"dwi_high": "unknown"}, adc_unit="1e-6", label_values="1-5",
    )  # fmt: skip
    ingest(REAL / "picai_pair", tmp_path / "cohort", options)
    (case,) = read_cohort(tmp_path / "cohort").cases
    assert case.case_id == "PICAI-10021_01"
    adc = load_volume(tmp_path / "cohort", case, seq.ADC)
    label = load_volume(tmp_path / "cohort", case, seq.TUMOR_LABEL).array > 0
    assert label.sum() == 11_645
    assert np.median(adc.array[label]) == pytest.approx(0.704, abs=0.001)
    assert adc.array[label].mean() == pytest.approx(0.805, abs=0.001)
    assert np.array_equal(adc.affine, nib.load(REAL / "picai_pair" / "10021" / "adc.nii.gz").affine)
    (row,) = audit_cohort(tmp_path / "cohort")
    assert row["volume_ml"] == pytest.approx(8.73, abs=0.01)
    assert row["without_adc_share"] == pytest.approx(81 / 11_645, abs=1e-4)
