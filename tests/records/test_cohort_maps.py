"""Cohorts and maps on disk: what is written is read, what was changed is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, CohortError, DiffusionAdcError, UsageError
from diffusion_adc.records import maps
from diffusion_adc.records.cohort import (
    load_volume,
    presence_readings,
    read_cohort,
    write_case,
    write_manifest,
)
from diffusion_adc.records.runs import list_runs

AFFINE = np.diag([2.5, 2.5, 5.0, 1.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    cases = []
    for person in (1, 2, 3):
        adc = rng.uniform(0.5, 2.0, (6, 5, 4)).astype(np.float32)
        label = np.zeros(adc.shape, dtype=np.uint16)
        label[2:4, 2, 1] = 1
        reading = {seq.TUMOR_LABEL: label, seq.TUMOR_ADC: np.where(label > 0, adc, 0)}
        other = {name: np.zeros_like(array) for name, array in reading.items()}
        case = Case(
            f"SIM-{person:05d}",
            exam_order=1,
            provenance="synthetic",
            b_low=50,
            b_high=900.0,
            declared=("missing:t1w",),
        )
        volumes = {seq.ADC: adc, seq.DWI_HIGH: adc * 100, seq.VALID: adc > 0, **reading}
        cases.append(write_case(tmp_path, case, volumes, AFFINE, {"R1": reading, "R2": other}))
    clinical = {"SIM-00001": Covariates(age_years=63, sex="male", recurrence=False, psa_ng_ml=4.2)}
    write_manifest(tmp_path, Cohort(tuple(cases), clinical, provenance="synthetic"))
    return tmp_path


def test_a_cohort_is_read_as_it_was_written(folder: Path) -> None:
    cohort = read_cohort(folder)
    assert [case.case_id for case in cohort.cases] == ["SIM-00001_01", "SIM-00002_01", "SIM-00003_01"]
    case = cohort.cases[0]
    assert case.readers == ("R1", "R2")
    assert case.declared == ("missing:t1w",)
    assert (case.b_low, case.b_high, case.field_t) == (50.0, 900.0, None)
    assert cohort.covariates(case) == Covariates(age_years=63, sex="male", recurrence=False, psa_ng_ml=4.2)
    assert cohort.covariates(cohort.cases[1]) == Covariates()
    assert cohort.digest == json.loads((folder / "cohort.json").read_text())["digest"]
    first, second = presence_readings(folder, case)
    assert first.sum() == 2
    assert second.sum() == 0


def test_volumes_keep_type_and_grid(folder: Path) -> None:
    case = read_cohort(folder).cases[0]
    for name, kind in ((seq.ADC, np.float32), (seq.VALID, np.uint8), (seq.TUMOR_LABEL, np.uint16)):
        volume = load_volume(folder, case, name)
        assert volume.array.dtype == kind
        assert np.array_equal(volume.affine, AFFINE)
    with pytest.raises(DiffusionAdcError) as caught:
        load_volume(folder, case, seq.T2W)
    assert caught.value.code == "S01"


def test_a_changed_volume_is_refused(folder: Path) -> None:
    case = read_cohort(folder).cases[0]
    path = folder / "cases" / case.case_id / "adc.nii.gz"
    path.write_bytes((folder / "cases" / "SIM-00002_01" / "adc.nii.gz").read_bytes())
    with pytest.raises(CaseError) as caught:
        load_volume(folder, case, seq.ADC)
    assert caught.value.code == "S25"
    assert "SIM-00001" in str(caught.value)


@pytest.mark.parametrize("name", ["cases.csv", "clinical.csv"])
def test_a_changed_or_missing_table_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    text = path.read_text()
    path.write_text(text.replace("SIM-00001", "SIM-00009"))
    with pytest.raises(DiffusionAdcError):
        read_cohort(folder)
    path.unlink()
    with pytest.raises(CohortError, match="missing"):
        read_cohort(folder)


def test_withdrawn_persons_disappear_on_read(folder: Path) -> None:
    before = read_cohort(folder).digest
    (folder / "withdrawn.jsonl").write_text(json.dumps({"research_id": "SIM-00002"}) + "\n")
    cohort = read_cohort(folder)
    assert [case.research_id for case in cohort.cases] == ["SIM-00001", "SIM-00003"]
    assert cohort.digest != before
    lines = [json.dumps({"research_id": f"SIM-0000{n}"}) for n in (1, 2, 3)]
    (folder / "withdrawn.jsonl").write_text("\n".join(lines))
    with pytest.raises(CohortError, match="no case"):
        read_cohort(folder)


def test_no_cohort_is_wrong_usage_and_a_damaged_manifest_is_not(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="no cohort"):
        read_cohort(tmp_path / "nowhere")
    (folder / "cohort.json").write_text("{")
    with pytest.raises(CohortError, match="damaged"):
        read_cohort(folder)


def test_a_volume_of_another_shape_or_name_is_not_written(tmp_path: Path) -> None:
    case = Case("SIM-00001", exam_order=1)
    adc = np.ones((3, 3, 3), dtype=np.float32)
    for wrong in ({seq.DWI_HIGH: np.ones((3, 3, 2))}, {"flair": adc}):
        with pytest.raises(CohortError):
            write_case(tmp_path, case, {seq.ADC: adc, **wrong}, AFFINE)


def test_maps_round_trip_and_damage_is_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volumes = {
        maps.TUMOR_ADC: rng.random((4, 3, 2)).astype(np.float32),
        maps.PROBABILITY: rng.random((4, 3, 2)).astype(np.float32),
        maps.DRAWS: rng.integers(0, 2, (4, 3, 2, 5)).astype(np.uint8),
    }
    maps.write_map_case(tmp_path, "SIM-00001_01", volumes, AFFINE, [], {"tdv_ml": 1.5})
    maps.write_maps_manifest(tmp_path, {"run": "demo"})
    assert maps.map_case_ids(tmp_path) == ["SIM-00001_01"]
    assert maps.read_maps_manifest(tmp_path)["run"] == "demo"
    for name, array in volumes.items():
        assert np.array_equal(maps.read_map_volume(tmp_path, "SIM-00001_01", name).array, array)
    path = tmp_path / "SIM-00001_01" / "draws.nii.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CaseError):
        maps.read_map_volume(tmp_path, "SIM-00001_01", maps.DRAWS)
    with pytest.raises(UsageError, match="no tumor maps"):
        maps.read_maps_manifest(tmp_path / "nowhere")


def test_a_single_draw_keeps_its_axis(tmp_path: Path) -> None:
    draws = np.ones((4, 3, 2, 1), dtype=np.uint8)
    maps.write_map_case(tmp_path, "SIM-00001_01", {maps.DRAWS: draws}, AFFINE, [], {})
    assert maps.read_map_volume(tmp_path, "SIM-00001_01", maps.DRAWS).array.shape == (4, 3, 2, 1)


def test_runs_are_listed_without_opening_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "a" / "b"
    run.mkdir(parents=True)
    (run / "record.json").write_text(json.dumps({"state": "finished", "steps": 9, "cohort_digest": "d" * 64}))
    (run / "metrics.csv").write_text("step,val/loss\n4,2.5\n9,1.5\n")
    broken = tmp_path / "c"
    broken.mkdir()
    (broken / "record.json").write_text("{")
    (row,) = list_runs(tmp_path)
    assert row["run"] == "a/b"
    assert row["best_val_loss"] == 1.5
    assert row["cohort"] == "d" * 12
