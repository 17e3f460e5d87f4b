"""Scores of a method over cases: closed forms, replicates against recounting, the contract's keys, the table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from diffusion_adc.evaluation import baselines, table
from diffusion_adc.evaluation.baselines import Prediction
from diffusion_adc.evaluation.bootstrap import Bootstrap
from diffusion_adc.evaluation.case import CaseResult, score_case
from diffusion_adc.evaluation.reference import Reference
from diffusion_adc.evaluation.rows import CASE_COLUMNS, LESION_COLUMNS, case_row, lesion_rows
from diffusion_adc.evaluation.scores import UNITS, Scores, estimates, method_scores

MakeCase = Callable[..., tuple[Reference, Prediction]]

CONTRACT = [
    "n_cases", "dice", "lesion_sensitivity", "lesion_precision", "lesion_f1", "lesion_ap", "fp_per_case",
    "fp_volume_ml", "fp_volume_reduction_vs_B2", "volume_sensitivity", "log_tdv_error", "gadc_error",
    "value_violations", "brier", "ece",
]  # fmt: skip
FROM_DRAWS = ["tdv_crps", "tdv_coverage80", "tdv_width80", "seed_cov_tdv"]


@pytest.fixture(scope="module")
def rows(make_case: MakeCase) -> dict[str, list[CaseResult]]:
    """Results of a model and two baselines on 14 cases, four of them tumor-free."""
    found: dict[str, list[CaseResult]] = {"model": [], "B0": [], "B1": []}
    for seed in range(14):
        reference, prediction = make_case(seed, tumor=seed % 4 != 3)
        made = {
            "model": prediction,
            "B0": baselines.empty_map(reference.adc),
            "B1": baselines.unedited_adc(reference.adc, reference.valid),
        }
        for name, one in made.items():
            found[name].append(score_case(one, reference, (0.2, 0.6)))
    return found


def boot(rows: list[CaseResult], replicates: int = 200) -> Bootstrap:
    return Bootstrap([row.research_id for row in rows], replicates)


def test_the_contracts_keys_and_shape(rows: dict[str, list[CaseResult]]) -> None:
    model = method_scores(rows["model"], boot(rows["model"]), rows["B1"])
    assert set(CONTRACT + FROM_DRAWS) <= set(model)
    empty = method_scores(rows["B0"], boot(rows["B0"]), rows["B1"])
    assert set(CONTRACT) <= set(empty)
    assert not set(FROM_DRAWS) & set(empty)
    for scores in (model, empty):
        assert set(scores) <= set(UNITS)
        for key, score in scores.items():
            assert list(score) == ["value", "low95", "high95"], key
            if score["low95"] is not None:
                assert score["low95"] <= score["high95"], key
        json.dumps(scores, allow_nan=False)
    assert model["n_cases"] == {"value": 14.0, "low95": None, "high95": None}


def test_the_empty_map_wins_nothing_it_should_not(rows: dict[str, list[CaseResult]]) -> None:
    empty = method_scores(rows["B0"], boot(rows["B0"]), rows["B1"])
    value = {key: score["value"] for key, score in empty.items()}
    for key in ("dice", "lesion_sensitivity", "lesion_f1", "lesion_ap", "fp_per_case", "fp_volume_ml"):
        assert value[key] == 0.0, key
    assert value["lesion_precision"] is None
    assert value["gadc_error"] is None
    assert value["volume_sensitivity"] == 0.0
    assert value["fp_volume_reduction_vs_B2"] == 1.0
    assert value["case_auroc"] == 0.5
    assert value["dice_all_cases"] < 0.5


def test_values_equal_a_plain_recount(rows: dict[str, list[CaseResult]]) -> None:
    found = rows["model"]
    value = {k: e.value for k, e in estimates(found, boot(found), rows["B1"]).items()}
    hits = sum(r.matching.hits for r in found)
    misses = sum(r.matching.misses for r in found)
    false = sum(r.matching.false_positives for r in found)
    assert hits > 0  # the fixture must not be trivial
    assert misses + false > 0
    assert value["lesion_sensitivity"] == pytest.approx(hits / (hits + misses))
    assert value["lesion_precision"] == pytest.approx(hits / (hits + false))
    assert value["lesion_f1"] == pytest.approx(2 * hits / (2 * hits + false + misses))
    assert value["fp_per_case"] == pytest.approx(false / 14)
    assert value["fp_volume_reduction_vs_B2"] == pytest.approx(
        1 - sum(r.fp_volume_ml for r in found) / sum(r.fp_volume_ml for r in rows["B1"])
    )
    assert value["volume_sensitivity"] == pytest.approx(
        sum(r.covered_ml for r in found) / sum(r.reference_ml for r in found)
    )
    assert value["dice"] == pytest.approx(np.nanmean([r.dice for r in found]))
    draws = [r.draws for r in found if r.draws is not None]
    assert len(draws) == 14
    assert value["tdv_crps"] == pytest.approx(np.mean([d.crps for d in draws]))
    assert value["tdv_width80"] == pytest.approx(np.mean([d.high - d.low for d in draws]))
    assert value["seed_cov_tdv"] == pytest.approx(
        100 * np.sqrt(np.nanmean([d.half_variation for d in draws]))
    )


def test_replicates_equal_scoring_the_resampled_cases(rows: dict[str, list[CaseResult]]) -> None:
    found = rows["model"]
    weights = boot(found, 12)
    scores = estimates(found, weights, rows["B1"])
    for r in range(12):
        chosen = np.repeat(np.arange(14), weights.weights[r + 1].astype(int))
        again = [replace(found[c], research_id=f"R-{n:03d}") for n, c in enumerate(chosen)]
        rule = [rows["B1"][c] for c in chosen]
        recount = estimates(again, boot(again, 1), rule)
        for key, estimate in scores.items():
            assert estimate.replicates[r] == pytest.approx(recount[key].value, nan_ok=True), key


def test_a_method_that_some_cases_lack_is_scored_on_the_others(rows: dict[str, list[CaseResult]]) -> None:
    found = rows["model"]
    partial = [None if n % 3 == 0 else row for n, row in enumerate(found)]
    there = [row for row in partial if row is not None]
    rule = [row for row, mine in zip(rows["B1"], partial, strict=True) if mine is not None]
    got = {k: e.value for k, e in estimates(partial, boot(found), rows["B1"]).items()}
    expected = {k: e.value for k, e in estimates(there, boot(there), rule).items()}
    assert got == pytest.approx(expected, nan_ok=True)
    assert method_scores(partial, boot(found))["n_cases"]["value"] == len(there)
    with pytest.raises(ValueError, match="results for"):
        estimates(there, boot(found))


def test_paired_difference_of_two_methods(rows: dict[str, list[CaseResult]]) -> None:
    weights = boot(rows["model"])
    model, unedited = (estimates(rows[name], weights) for name in ("model", "B1"))
    difference = (model["lesion_f1"] - unedited["lesion_f1"]).summary()
    assert difference["value"] == pytest.approx(model["lesion_f1"].value - unedited["lesion_f1"].value)
    assert difference["low95"] <= difference["value"] <= difference["high95"]
    assert (model["dice"] - model["dice"]).summary()["high95"] == 0.0


def test_rows_of_the_tables_agree_with_the_scores(rows: dict[str, list[CaseResult]]) -> None:
    affine = np.diag([2.5, -2.5, 5.0, 1.0])
    affine[:3, 3] = [10.0, 20.0, -30.0]
    for result in rows["model"]:
        row = case_row("model", result)
        assert tuple(row) == CASE_COLUMNS
        assert row["dice"] == "" or float(row["dice"]) == pytest.approx(result.dice, rel=1e-5)
        lines = lesion_rows("model", result, affine, 0.03125)
        assert all(tuple(line) == LESION_COLUMNS for line in lines)
        references = [line for line in lines if line["kind"] == "reference"]
        candidates = [line for line in lines if line["kind"] == "candidate"]
        assert sum(line["outcome"] == "found" for line in references) == result.matching.hits
        assert (
            sum(line["outcome"] == "false_positive" for line in candidates) == result.matching.false_positives
        )
        assert sum(float(line["volume_ml"]) for line in candidates) == pytest.approx(result.tdv_ml, rel=1e-4)
        for line in candidates:
            if line["outcome"] == "hit":
                partner = references[int(line["partner"]) - 1]
                assert int(partner["partner"]) == line["number"]
                assert partner["iou"] == line["iou"]
                apart = [float(line[c]) - float(partner[c]) for c in LESION_COLUMNS[-4:-1]]
                assert np.linalg.norm(apart) < 15.0


def make_scores(rows: dict[str, list[CaseResult]]) -> dict[str, Scores]:
    weights = boot(rows["model"])
    return {
        "B2": method_scores(rows["B1"], weights, rows["B1"]),
        "model": method_scores(rows["model"], weights, rows["B1"]),
        "B0": method_scores(rows["B0"], weights, rows["B1"]),
    }


def test_the_table_names_units_and_shows_intervals(rows: dict[str, list[CaseResult]]) -> None:
    scores = make_scores(rows)
    text = table.format_table(scores)
    lines = text.splitlines()
    assert lines[0] == "14 cases; [95 % interval over persons, none where all replicates agree]"
    for wanted in ("FP volume (mL)", "gADC error (%)", "TDV CRPS (mL)", "B0 empty map", "presence flow"):
        assert wanted in text
    # One block of aligned columns: every line of it ends at the same place or earlier.
    start = lines.index("Detection")
    assert [line.split("  ")[0] for line in lines[start + 3 : start + 6]] == [
        "B0 empty map", "B2 clinical rule", "presence flow",
    ]  # fmt: skip
    f1 = scores["model"]["lesion_f1"]
    assert f"{f1['value']:.2f} [{f1['low95']:.2f}, {f1['high95']:.2f}]" in text
    assert "–" in lines[start + 3]  # the empty map has no precision
    draws = text[text.index("Intervals of the draws") : text.index("Agreement with the readers")]
    assert "presence flow" in draws
    assert "empty map" not in draws
    markdown = table.format_markdown(scores)
    body = [line for line in markdown.splitlines() if line.startswith("|")]
    detection = body[: 2 + 3]
    assert len({line.replace("\\|", "").count("|") for line in detection}) == 1
    json_safe = json.loads(json.dumps(scores))
    assert table.format_table(json_safe) == text


def test_verdicts_fall_both_ways(rows: dict[str, list[CaseResult]]) -> None:
    def fixed(**values: float) -> Scores:
        return {key: {"value": v, "low95": v - 0.1, "high95": v + 0.1} for key, v in values.items()}

    good = {
        "model": fixed(
            fp_volume_reduction_vs_B2=0.92, volume_sensitivity_vs_B2=0.96, lesion_f1=0.7, value_violations=0.0,
            log_tdv_error_consensus_median=0.04, gadc_error_consensus_median=2.0, tdv_coverage80=0.66, seed_cov_tdv=6.0,
            tdv_coverage80_calibrated=0.8, n_cases=220.0, **{"froc_0.5_ge1ml": 0.97},
        ),
        "B2": fixed(lesion_f1=0.2),
        "B3": fixed(lesion_f1=0.75),
        "Oracle": fixed(seed_cov_tdv=5.5),
    }  # fmt: skip
    assert [v.reached for v in table.verdicts(good)] == [True] * 10
    bad = {
        "model": fixed(
            fp_volume_reduction_vs_B2=0.89, volume_sensitivity_vs_B2=0.94, lesion_f1=0.1, value_violations=2.0,
            log_tdv_error_consensus_median=0.06, gadc_error_consensus_median=3.2, tdv_coverage80_calibrated=0.9,
            seed_cov_tdv=6.7, **{"froc_0.5_ge1ml": 0.9},
        ),
        **{name: good[name] for name in ("B2", "B3", "Oracle")},
    }  # fmt: skip
    assert [v.reached for v in table.verdicts(bad)] == [False] * 10
    assert [v.reached for v in table.verdicts({"model": fixed(lesion_f1=0.5)})] == [None] * 10
    text = table.format_verdicts(bad)
    assert "missed by 1.0%" in text
    assert "missed by 2 voxels" in text
    assert text.count("missed ") == 10 + 10
    # Within 10 % of what the complete reader model reaches is enough, and too few cases cannot show a coverage.
    eased = {
        **bad,
        "Oracle": fixed(
            fp_volume_reduction_vs_B2=0.95, log_tdv_error_consensus_median=0.055, seed_cov_tdv=5.6
        ),
    }
    assert [v.reached for v in table.verdicts(eased)][:8:3] == [True, True, False]
    few = {"model": fixed(tdv_coverage80_calibrated=0.8, tdv_coverage80=0.4, n_cases=91.0)}
    shown = table.verdicts(few)[6]
    assert shown.reached is None
    assert "91 cases, fewer than 200" in shown.measured
    assert "40.0% as drawn" in shown.measured
    assert table.format_table({}).startswith("0 cases")
    assert table.verdicts(make_scores(rows))


def test_undefined_numbers_are_empty_cells(rows: dict[str, list[CaseResult]]) -> None:
    free = next(r for r in rows["B0"] if np.isnan(r.gadc))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CASE_COLUMNS)
    writer.writerow(case_row("B0", free))
    assert "nan" not in stream.getvalue()
