"""Several methods side by side: pairing, Holm, training seeds, pooling, the verdict either way, refusals, the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diffusion_adc.cli import main
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate, bootstrap_p, holm
from diffusion_adc.evaluation.comparison import (
    WITH_AMBIGUITY,
    WITHOUT_AMBIGUITY,
    Arena,
    Comparison,
    Method,
    compare,
)
from diffusion_adc.evaluation.evaluate import evaluate
from diffusion_adc.evaluation.report import comparison_record, format_comparison, nfe_picture
from diffusion_adc.evaluation.verdict import arm_bars, decide, format_decision
from diffusion_adc.phantom.truth import read_case_truth
from diffusion_adc.records.maps import (
    map_case_ids,
    read_map_volume,
    read_maps_manifest,
    write_map_case,
    write_maps_manifest,
)


def copy_as(study: Any, name: str, *, draws: bool = True, shift: int = 0, **manifest: Any) -> Path:
    """The study's maps under another id; `shift` moves every map, which makes it worse."""
    target = study.maps.with_name(name)
    shutil.copytree(study.maps, target)
    write_maps_manifest(target, {**read_maps_manifest(study.maps), **manifest})
    for case_id in map_case_ids(study.maps) if shift or not draws else ():
        stored = {n: read_map_volume(study.maps, case_id, n) for n in ("probability", "draws")}
        probability, drawn = (np.roll(stored[n].array, shift, axis=0) for n in ("probability", "draws"))
        adc = read_case_truth(study.truth, case_id).reading_adc
        volumes: dict[str, Any] = {
            "tumor_adc": np.where(probability >= 0.5, adc, np.float32(0)),
            "probability": probability,
        }
        if draws:
            volumes["draws"] = drawn
        write_map_case(target, case_id, volumes, stored["draws"].affine, [], {})
    return target


@pytest.fixture(scope="module")
def compared(
    finished_study: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[Path], Comparison]:
    """A flow drawn with two numbers of steps, a worse B4a of two training seeds, a B5 without draws."""
    folder = tmp_path_factory.mktemp("compared")
    study = type(finished_study)(*(shutil.copytree(part, folder / part.name) for part in finished_study))
    maps = [
        copy_as(study, "flow", id="B8", steps=3, checkpoint_sha256="a"),
        copy_as(study, "flow1", id="B8", steps=1, checkpoint_sha256="a", settings={"sampler": "heun"}),
        copy_as(study, "again", id="B8", steps=3, checkpoint_sha256="a", seed=1),
        copy_as(study, "b4a0", id="B4a", steps=1, shift=3, checkpoint_sha256="b"),
        copy_as(study, "b4a1", id="B4a", steps=1, shift=4, checkpoint_sha256="c"),
        copy_as(study, "b5", id="B5", draws=False, checkpoint_sha256="d"),
    ]
    return study, maps, compare(maps, [study.cohort], [study.truth], bootstrap=200)


def test_rows_of_the_table(compared: Any) -> None:
    study, _, found = compared
    (arena,) = found.arenas
    assert list(arena.methods) == ["B0", "B1", "B2", "B3", "B8 3 steps", "B8 1 steps", "B4a", "B5", "Oracle"]
    assert found.flow == "B8 3 steps"
    assert (arena.kind, arena.cases, arena.persons) == (WITH_AMBIGUITY, 6, 5)
    assert arena.arm_cases == {"whole": 5, "part": 0, "pair_near": 0, "pair_far": 0}
    flow, once, rival = (arena.methods[label] for label in ("B8 3 steps", "B8 1 steps", "B4a"))
    assert (flow.seeds, flow.evaluations, once.evaluations, rival.seeds) == (1, 3, 2, 2)
    assert set(rival.spread) == set(rival.estimates)
    assert flow.rerun_cov is not None
    assert flow.rerun_cov.value == 0.0  # the same draws under another seed
    assert arena.methods["Oracle"].rerun_cov is not None
    assert arena.methods["Oracle"].rerun_cov.value > 0.0
    # What `evaluate` gives for the same maps.
    alone = evaluate(study.maps, study.cohort, study.truth, bootstrap=200, figures=False)
    for key in ("lesion_f1", "dice", "tdv_crps", "lesion_brier", "lesion_ap"):
        assert flow.estimates[key].summary() == alone["model"][key]
    # A point forecast's CRPS is its absolute error.
    point = arena.methods["B5"].estimates
    assert point["tdv_crps"].value == point["tdv_error_ml"].value


@pytest.mark.slow
def test_training_seeds_are_averaged_and_differences_paired(compared: Any) -> None:
    study, maps, found = compared
    arena = found.arenas[0]
    singles = [compare([maps[0], m], [study.cohort], [study.truth], bootstrap=200) for m in maps[3:5]]
    parts = [one.arenas[0].methods["B4a"].estimates["dice"] for one in singles]
    both = arena.methods["B4a"]
    assert both.estimates["dice"].value == pytest.approx(np.mean([p.value for p in parts]))
    assert np.allclose(both.estimates["dice"].replicates, np.mean([p.replicates for p in parts], axis=0))
    assert both.spread["dice"] == pytest.approx(np.std([p.value for p in parts], ddof=1))
    by_rival = {(d.rival, d.key): d for d in found.differences(arena)}
    same = by_rival["B8 1 steps", "dice"]
    assert same.estimate.value == 0.0
    assert not same.estimate.replicates.any()
    assert same.p == 1.0
    worse = by_rival["B4a", "dice"]
    flow = arena.methods[found.flow].estimates["dice"]
    assert np.allclose(worse.estimate.replicates, flow.replicates - both.estimates["dice"].replicates)
    assert worse.estimate.summary()["low95"] > 0


def test_text_and_json(compared: Any) -> None:
    found = compared[2]
    text = format_comparison(found)
    for wanted in (
        "with ambiguity: 6 cases of 5 persons", "Detection", "TDV CRPS by planted ambiguity (whole in 5 cases",
        "Lesion sensitivity by size", "Standard deviation over training seeds", "minus each rival, paired by person",
        "Bars, cohort", "TDV coefficient of variation between two sampling seeds", "Verdict (with ambiguity only)",
    ):  # fmt: skip
        assert wanted in text
    record = json.loads(json.dumps(comparison_record(found)))
    assert record["verdict"]["stays_default"] in (True, False)
    assert record["verdict"]["caveat"]
    assert record["cohorts"][0]["methods"]["B4a"]["training_seeds"] == 2
    assert "SIM-" not in json.dumps(record)


@pytest.mark.slow
def test_score_against_network_evaluations_is_drawn(compared: Any, tmp_path: Path) -> None:
    picture = nfe_picture(compared[2], tmp_path / "figures")
    assert picture is not None
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_other_cases_or_cohorts_are_refused(compared: Any, study: Any) -> None:
    other, maps, _ = compared
    fewer = copy_as(study, "fewer", id="B4c")
    shutil.rmtree(fewer / "SIM-00003_01")
    manifest = read_maps_manifest(fewer)
    write_maps_manifest(fewer, {**manifest, "cases": [c for c in manifest["cases"] if c != "SIM-00003_01"]})
    with pytest.raises(CohortError, match=r"fewer holds 5 cases and maps 6, 5 of them in common"):
        compare([study.maps, fewer], [study.cohort], [study.truth], bootstrap=5)
    strange = copy_as(study, "strange", id="B4c", cohort_digest="0" * 64)
    with pytest.raises(CohortError, match="another cohort"):
        compare([study.maps, strange], [study.cohort], bootstrap=5)
    with pytest.raises(UsageError, match="at least two"):
        compare([study.maps], [study.cohort], bootstrap=5)
    with pytest.raises(UsageError, match="no maps of B9"):
        compare(maps[:2], [other.cohort], flow="B9", bootstrap=5)
    with pytest.raises(UsageError, match="replicates"):
        compare(maps[:2], [other.cohort], bootstrap=0)


def test_the_command_ends_with_0_whichever_way_the_verdict_falls(
    compared: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study, maps, _ = compared
    words = [str(maps[0]), str(maps[3]), "--cohort", str(study.cohort), "--truth", str(study.truth)]
    assert main(["compare", *words, "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "comparison.json").read_text())
    assert printed["flow"] == "B8"
    assert main(["compare", str(maps[0]), "--cohort", str(study.cohort)]) == 2
    assert main(["compare", str(maps[0]), str(tmp_path), "--cohort", str(study.cohort)]) == 2


# --- the verdict on invented scores -------------------------------------------------------------------------


def estimate(value: float, half: float = 0.1) -> Estimate:
    return Estimate(value, np.linspace(value - half, value + half, 401))


def arena(kind: str, **methods: dict[str, float]) -> Arena:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, 400)
    made = {
        name: Method(name, {k: Estimate(v, v + noise + rng.normal(0, 0.01, 400)) for k, v in scores.items()})
        for name, scores in methods.items()
    }
    return Arena(kind, kind, 100, 100, {"part": 10, "pair_near": 8, "pair_far": 4}, made)


def scores(crps: float, brier: float = 0.2, f1: float = 0.7, **more: float) -> dict[str, float]:
    return {"tdv_crps": crps, "lesion_brier": brier, "lesion_f1": f1, **more}


def test_the_verdict_falls_both_ways() -> None:
    def judged(flow: dict[str, float], rival: dict[str, float]) -> bool | None:
        return decide(Comparison("B8", (arena(WITH_AMBIGUITY, B8=flow, B4a=rival),))).stays

    assert judged(scores(1.0), scores(1.5)) is True
    assert judged(scores(1.0), scores(1.005)) is False  # the interval does not exclude 0
    assert judged(scores(1.5), scores(1.0)) is False
    assert judged(scores(1.5, brier=0.1), scores(1.0, brier=0.2)) is True  # one criterion is enough
    assert judged(scores(1.0, f1=0.70), scores(1.5, f1=0.72)) is False  # lesion F1 two points worse
    assert judged(scores(1.0, f1=0.70), scores(1.5, f1=0.71)) is True  # no more than one
    lonely = Comparison("B8", (arena(WITH_AMBIGUITY, B8=scores(1.0), B5=scores(2.0)),))
    decision = decide(lonely)
    assert decision.stays is None
    assert "no verdict" in format_decision(decision, "B8")


def test_the_best_rival_is_the_one_to_beat() -> None:
    three = arena(
        WITH_AMBIGUITY, B8=scores(1.0, 0.15), B4a=scores(1.5, 0.3), B4b=scores(0.9, 0.4), B4c=scores(2.0, 0.2)
    )
    decision = decide(Comparison("B8", (three,)))
    assert [c.rival for c in decision.criteria] == ["B4b", "B4c"]
    assert [c.met for c in decision.criteria] == [False, True]
    assert decision.stays is True


def test_cohorts_with_and_without_ambiguity_weigh_one_half_each() -> None:
    on = arena(WITH_AMBIGUITY, B8=scores(1.0), B4a=scores(2.0))
    off = arena(WITHOUT_AMBIGUITY, B8=scores(1.0), B4a=scores(0.5))
    worse_off = arena(WITHOUT_AMBIGUITY, B8=scores(2.5), B4a=scores(0.5))
    decision = decide(Comparison("B8", (on, off)))
    assert decision.criteria[0].difference.value == pytest.approx(0.5 * -1.0 + 0.5 * 0.5)
    assert decision.stays is True
    assert decision.caveat == ""
    assert decide(Comparison("B8", (on, worse_off))).stays is False
    # A second cohort with ambiguity does not tip the balance.
    again = decide(Comparison("B8", (on, on, worse_off)))
    assert again.criteria[0].difference.value == pytest.approx(0.5 * -1.0 + 0.5 * 2.0)
    text = format_decision(decide(Comparison("B8", (on, worse_off))), "B8")
    assert "B8 does not stay the default" in text


def test_bars_of_the_arms() -> None:
    flow = scores(1.0, crps_part=0.5, crps_pair_near=1.0)
    rival = scores(1.0, crps_part=0.8, crps_pair_near=0.9)
    best = scores(1.0, crps_part=0.4, crps_pair_near=0.4)
    found = arm_bars(Comparison("B8", (arena(WITH_AMBIGUITY, B8=flow, B4c=rival, Oracle=best),)))
    assert [bar.reached for bar in found] == [True, False]
    assert found[0].oracle == pytest.approx(-0.4)
    assert "10 cases" in found[0].measured


def test_holm_and_bootstrap_p() -> None:
    # Textbook case: Holm 1979.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2, None, 0.001, 0.9]) == [
        pytest.approx(0.4),
        None,
        pytest.approx(0.003),
        pytest.approx(0.9),
    ]
    assert holm([]) == []
    rng = np.random.default_rng(1)
    values = rng.normal(0.25, 1.0, 120)
    boot = Bootstrap([str(n) for n in range(120)], 4000)
    p = bootstrap_p(boot.mean(values))
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.015)
    assert bootstrap_p(Estimate(float("nan"), np.zeros(0))) is None
    assert bootstrap_p(estimate(5.0)) == pytest.approx(2 / 402)
