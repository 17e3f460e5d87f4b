"""The whole line on files: maps and cohort in, scores.json and tables out; refusals and repeatability."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.domain.errors import CaseError, CohortError, UsageError
from diffusion_adc.evaluation import evaluate as module
from diffusion_adc.evaluation.table import format_table
from diffusion_adc.phantom.structures import ORGAN_NAMES
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.maps import (
    read_map_volume,
    read_maps_manifest,
    write_map_case,
    write_maps_manifest,
)

evaluate = partial(module.evaluate, figures=False)
METHODS = {"model", "B0", "B1", "B2", "B3", "Oracle"}


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def rewrite(maps: Path, case_id: str, **changed: np.ndarray) -> None:
    """Write a map again with other volumes; None leaves one out."""
    names = ("tumor_adc", "probability", "draws", "base_probability")
    stored = {name: read_map_volume(maps, case_id, name) for name in names}
    affine = stored["tumor_adc"].affine
    volumes = {name: volume.array for name, volume in stored.items()} | changed
    write_map_case(maps, case_id, {k: v for k, v in volumes.items() if v is not None}, affine, [], {})


def value(scores: dict[str, Any], method: str, key: str) -> float:
    return scores[method][key]["value"]


def test_scores_with_the_sealed_truth(study: Any) -> None:
    seen: list[tuple[int, int]] = []
    scores = evaluate(
        study.maps, study.cohort, study.truth, bootstrap=300, progress=lambda *n: seen.append(n)
    )
    assert seen == [(n, 6) for n in range(1, 7)]
    assert set(scores) == METHODS
    assert json.loads((study.maps / "scores.json").read_text()) == scores
    # The maps are readings of the oracle's own law, so the two must be near each other and near the truth.
    for method in ("model", "Oracle", "B3"):
        assert value(scores, method, "lesion_sensitivity") == 1.0
        assert value(scores, method, "lesion_precision") == 1.0
        assert value(scores, method, "dice") > 0.6  # readers agree no better: borders and ceilings differ
        assert value(scores, method, "value_violations") == 0.0
    assert value(scores, "Oracle", "tdv_crps") == pytest.approx(value(scores, "model", "tdv_crps"), abs=1.0)
    assert value(scores, "model", "tdv_coverage80") > 0.4
    # The rule paints the mimic in every case; the model does not.
    assert value(scores, "B2", "fp_per_case") >= 1.0
    assert value(scores, "B2", "volume_sensitivity") > 0.9
    assert value(scores, "model", "fp_volume_reduction_vs_B2") > 0.8
    assert value(scores, "B2", "fp_volume_reduction_vs_B2") == 0.0
    assert value(scores, "B0", "lesion_f1") == 0.0
    assert value(scores, "B1", "volume_sensitivity") == 1.0
    for method in ("B0", "B1", "B2", "B3"):
        assert "tdv_crps" not in scores[method]
        assert value(scores, method, "n_cases") == 6.0
    assert "6 cases" in format_table(scores)


def test_tables_on_disk(study: Any) -> None:
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=50)
    cases, lesions = table_of(study.maps / "cases.csv"), table_of(study.maps / "lesions.csv")
    assert [(row["method"], row["case_id"]) for row in cases[:2]] == [
        ("model", "SIM-00001_01"), ("model", "SIM-00001_02"),
    ]  # fmt: skip
    assert len(cases) == 6 * 6
    mine = [row for row in cases if row["method"] == "model"]
    assert np.mean([float(row["dice"]) for row in mine if row["dice"]]) == pytest.approx(
        value(scores, "model", "dice"), rel=1e-4
    )
    free = next(row for row in mine if row["case_id"].startswith("SIM-00005"))
    assert (free["lesions"], free["tdv_reference_ml"]) == ("0", "0")
    pit = [float(u) for row in mine for u in row["tdv_pit"].split(";")]
    assert len(pit) == 12
    assert all(0 <= u <= 1 for u in pit)
    # Number and volume of the candidates are those of the map's own lesion table.
    for case_id in ("SIM-00001_01", "SIM-00003_01"):
        own = table_of(study.maps / case_id / "lesions.csv")
        found = [
            r for r in lesions if (r["method"], r["case_id"], r["kind"]) == ("model", case_id, "candidate")
        ]
        assert [r["number"] for r in found] == [r["lesion"] for r in own]
        for got, expected in zip(found, own, strict=True):
            for column in ("centroid_r_mm", "centroid_a_mm", "centroid_s_mm"):
                assert float(got[column]) == pytest.approx(float(expected[column]), abs=0.01)


def test_false_positives_name_the_structure_they_lie_in(study: Any) -> None:
    evaluate(study.maps, study.cohort, study.truth, bootstrap=5)
    rows = table_of(study.maps / "lesions.csv")
    rule = [row for row in rows if row["method"] == "B2" and row["outcome"] == "false_positive"]
    assert {row["structure"] for row in rule if float(row["volume_ml"]) > 1} == {ORGAN_NAMES[2]}
    assert {row["structure"] for row in rows if row["outcome"] == "hit"} == {ORGAN_NAMES[1]}
    assert not [row for row in rows if row["method"] == "B1"]
    evaluate(study.maps, study.cohort, bootstrap=5)
    assert {row["structure"] for row in table_of(study.maps / "lesions.csv")} == {""}


def test_the_same_inputs_give_the_same_bytes(study: Any) -> None:
    names = ("scores.json", "cases.csv", "lesions.csv", "histograms.csv", "false_positives.csv", "claim.json")
    evaluate(study.maps, study.cohort, study.truth, bootstrap=100)
    first = {name: (study.maps / name).read_bytes() for name in names}
    evaluate(study.maps, study.cohort, study.truth, bootstrap=100)
    assert {name: (study.maps / name).read_bytes() for name in names} == first


def test_without_truth_the_first_reader_is_the_reference(study: Any) -> None:
    scores = evaluate(study.maps, study.cohort, bootstrap=50)
    assert set(scores) == METHODS - {"Oracle"}
    cohort = read_cohort(study.cohort)
    ml = 0.03125
    expected = []
    for case in cohort.cases:
        label = load_volume(study.cohort, case, "tumor_label").array > 0
        mapped = read_map_volume(study.maps, case.case_id, "tumor_adc").array > 0
        expected.append(((mapped & ~label).sum() * ml, (mapped & label).sum(), label.sum()))
    wrong, covered, whole = np.array(expected).T
    assert value(scores, "model", "fp_volume_ml") == pytest.approx(wrong.mean())
    assert value(scores, "model", "volume_sensitivity") == pytest.approx(covered.sum() / whole.sum())


def test_ambiguous_lesions_count_only_without_truth(study: Any) -> None:
    # A map that holds every true lesion, ambiguous or not, has no false positive against the truth.
    with np.load(study.truth / "SIM-00002_01" / "truth.npz") as stored:
        mask = (stored["lesion_label"] > 0) & (stored["reading_adc"] > 0)
        adc = stored["reading_adc"]
    rewrite(
        study.maps, "SIM-00002_01", tumor_adc=np.where(mask, adc, 0), probability=mask.astype(np.float32), draws=None
    )  # fmt: skip
    evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    row = next(
        r
        for r in table_of(study.maps / "cases.csv")
        if (r["method"], r["case_id"]) == ("model", "SIM-00002_01")
    )
    assert (row["lesions"], row["hits"], row["false_positives"], row["fp_volume_ml"]) == ("2", "2", "0", "0")
    assert row["tdv_median_ml"] == ""  # this map has no draws


def test_a_case_without_high_b_lacks_the_rule_only(study: Any) -> None:
    from dataclasses import replace

    from diffusion_adc.records.cohort import write_manifest

    cohort = read_cohort(study.cohort)
    first = cohort.cases[0]
    files = {name: digest for name, digest in first.files.items() if name != "dwi_high"}
    changed = replace(cohort, cases=(replace(first, files=files), *cohort.cases[1:]))
    write_manifest(study.cohort, changed)
    manifest = read_maps_manifest(study.maps)
    write_maps_manifest(study.maps, {**manifest, "cohort_digest": read_cohort(study.cohort).digest})
    scores = evaluate(study.maps, study.cohort, bootstrap=30)
    assert value(scores, "B2", "n_cases") == 5.0
    assert value(scores, "model", "n_cases") == 6.0
    assert value(scores, "B2", "fp_volume_reduction_vs_B2") == 0.0


def test_withdrawn_persons_are_not_scored(study: Any) -> None:
    (study.cohort / "withdrawn.jsonl").write_text('{"research_id": "SIM-00001"}\n')
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    assert value(scores, "model", "n_cases") == 4.0
    for name in ("scores.json", "cases.csv", "lesions.csv"):
        assert "SIM-00001" not in (study.maps / name).read_text()


def test_violations_are_counted_not_hidden(study: Any) -> None:
    mapped = read_map_volume(study.maps, "SIM-00001_01", "tumor_adc").array.copy()
    wrong = np.flatnonzero(mapped)[:7]
    mapped.ravel()[wrong] += np.float32(1e-4)
    rewrite(study.maps, "SIM-00001_01", tumor_adc=mapped)
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    assert value(scores, "model", "value_violations") == 7.0


def test_refused_cases_are_left_out_and_missing_ones_refused(study: Any) -> None:
    import shutil

    shutil.rmtree(study.maps / "SIM-00003_01")
    with pytest.raises(CohortError, match=r"1 of 6 cases are missing, the first SIM-00003_01"):
        evaluate(study.maps, study.cohort, study.truth, bootstrap=10)
    manifest = read_maps_manifest(study.maps)
    write_maps_manifest(study.maps, {**manifest, "refused": {"SIM-00003_01": "too small"}})
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=10)
    assert value(scores, "model", "n_cases") == 5.0


def test_folders_that_do_not_belong_together_are_refused(study: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tumor maps"):
        evaluate(tmp_path / "nothing", study.cohort)
    with pytest.raises(UsageError, match="no cohort"):
        evaluate(study.maps, tmp_path / "nothing")
    with pytest.raises(UsageError, match="no sealed truth"):
        evaluate(study.maps, study.cohort, tmp_path / "nothing")
    with pytest.raises(UsageError, match="replicates"):
        evaluate(study.maps, study.cohort, bootstrap=0)
    manifest = read_maps_manifest(study.maps)
    write_maps_manifest(study.maps, {**manifest, "cohort_digest": "0" * 64})
    with pytest.raises(CohortError, match="another cohort"):
        evaluate(study.maps, study.cohort)
    write_maps_manifest(study.maps, manifest)
    sealed = json.loads((study.truth / "truth.json").read_text())
    write_json(study.truth / "truth.json", {**sealed, "cohort_digest": "0" * 64})
    with pytest.raises(CohortError, match="another cohort"):
        evaluate(study.maps, study.cohort, study.truth)
    assert not (study.maps / "scores.json").exists()


def test_damaged_maps_are_refused_with_one_line(study: Any) -> None:
    probability = read_map_volume(study.maps, "SIM-00001_01", "probability").array
    rewrite(study.maps, "SIM-00001_01", probability=1 / (1 + np.exp(-probability)))
    with pytest.raises(CohortError, match=r"runs from 0\.5") as caught:
        evaluate(study.maps, study.cohort)
    assert "\n" not in str(caught.value)
    rewrite(study.maps, "SIM-00001_01", probability=probability[:-1])
    with pytest.raises(CohortError, match="grid of"):
        evaluate(study.maps, study.cohort)
    rewrite(study.maps, "SIM-00001_01", probability=probability)
    raw = study.maps / "SIM-00001_01" / "probability.nii.gz"
    raw.write_bytes(raw.read_bytes()[:-4])
    with pytest.raises(CaseError, match="S25"):
        evaluate(study.maps, study.cohort)
    assert not (study.maps / "scores.json").exists()


def test_maps_without_base_head_or_draws_still_get_scores(study: Any) -> None:
    for case in read_cohort(study.cohort).cases:
        rewrite(study.maps, case.case_id, draws=None, base_probability=None)
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    assert "B3" not in scores
    assert "tdv_crps" not in scores["model"]
    assert "tdv_crps" in scores["Oracle"]


def test_the_record_is_made_of_facts_and_names_nobody(study: Any) -> None:
    module.evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    text = (study.maps / "claim.json").read_text()
    claim = json.loads(text)
    assert "SIM-0" not in text
    assert str(study.maps.parent) not in text
    assert claim["data"]["provenance"] == "synthetic"
    assert (claim["split"]["cases"], claim["split"]["persons"], claim["split"]["tumor_free"]) == (6, 5, 1)
    assert claim["reference_standard"]["readers_per_case"] == {"2": 6}
    assert claim["reference_standard"]["lesions_by_ambiguity"]["whole"] == 5
    assert claim["results"] == json.loads((study.maps / "scores.json").read_text())
    assert any("6 cases" in limit for limit in claim["limits"])
    assert claim["failures"]["missed_lesions_of_at_least_1_ml"] == 0
    pictures = {path.name: path.read_bytes() for path in (study.maps / "figures").iterdir()}
    assert set(pictures) == {"froc.png", "bland_altman.png", "reliability.png", "pit.png"}
    assert all(raw[:8] == b"\x89PNG\r\n\x1a\n" and b"Software" not in raw for raw in pictures.values())


def test_organs_and_histograms_have_their_tables(study: Any) -> None:
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    organs = table_of(study.maps / "false_positives.csv")
    rule = [row for row in organs if row["method"] == "B2"]
    assert rule[0]["structure"] == ORGAN_NAMES[2]  # the mimic that the rule paints in every case
    total = sum(float(row["mean_ml"]) for row in rule)
    assert total == pytest.approx(value(scores, "B2", "fp_volume_ml"), rel=1e-4)
    histograms = table_of(study.maps / "histograms.csv")
    mine = {(r["case_id"], r["region"]): r for r in histograms if r["method"] == "model"}
    mapped = read_map_volume(study.maps, "SIM-00001_01", "tumor_adc").array
    kept = mapped[mapped > 0].astype(float)
    assert float(mine["SIM-00001_01", "map"]["p10"]) == pytest.approx(np.percentile(kept, 10), rel=1e-5)
    assert mine["SIM-00005_01", "readers"]["median"] == ""


def test_stored_corrections_are_applied_and_never_to_the_oracle(study: Any) -> None:
    manifest = read_maps_manifest(study.maps)
    wide = {"scale": "linear", "shift": 0.0, "margin": 1000.0, "cases": 9}
    narrow = {"scale": "linear", "shift": 500.0, "margin": 0.0, "cases": 9}
    calibration = {
        "recalibration": {"tdv": wide, "gadc": None, "recall_threshold": 0.2},
        "base_recalibration": {"tdv": narrow},
    }
    write_maps_manifest(study.maps, {**manifest, "calibration": calibration})
    scores = evaluate(study.maps, study.cohort, study.truth, bootstrap=20)
    assert value(scores, "model", "tdv_coverage80_calibrated") == 1.0
    assert value(scores, "model", "tdv_width80_calibrated") > 1000.0
    assert value(scores, "B3", "tdv_coverage80_calibrated") == 0.0
    exact = scores["model"]["tdv_coverage80_calibrated_exact"]
    assert exact == {"value": 1.0, "low95": pytest.approx(0.025 ** (1 / 6)), "high95": 1.0}
    assert 0.0 <= value(scores, "model", "miss_rate_controlled") < 0.5
    assert "tdv_coverage80_calibrated" not in scores["Oracle"]
    write_maps_manifest(study.maps, {**manifest, "calibration": {"recalibration": {"tdv": {"no": 1}}}})
    with pytest.raises(CohortError, match=r"calibration in maps\.json is damaged"):
        evaluate(study.maps, study.cohort)
