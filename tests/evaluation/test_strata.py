"""Detection by size and patient, tumor-free cases, lesion presence and grades: recounts, scikit-learn, known signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from diffusion_adc.evaluation.baselines import Prediction
from diffusion_adc.evaluation.bootstrap import Bootstrap
from diffusion_adc.evaluation.case import CaseResult, score_case
from diffusion_adc.evaluation.malignancy import MARKERS, malignancy_scores
from diffusion_adc.evaluation.presence import LesionPresence
from diffusion_adc.evaluation.reference import KnownLesions, Reference
from diffusion_adc.evaluation.scores import estimates
from diffusion_adc.evaluation.strata import SIZES, strata_scores
from diffusion_adc.inference.recalibration import Recalibration

MakeCase = Callable[..., tuple[Reference, Prediction]]


@pytest.fixture(scope="module")
def results(make_case: MakeCase) -> list[CaseResult]:
    found = []
    for seed in range(20):
        reference, prediction = make_case(seed, tumor=seed % 3 != 2)
        if seed % 3 == 2:
            nothing = np.zeros(reference.adc.shape, dtype=bool)
            reference = replace(reference, ignored=nothing, readers=[nothing, nothing])
        found.append(score_case(prediction, reference, (0.3, 0.7), Recalibration(recall_threshold=0.3)))
    return found


def boot(results: list[CaseResult], replicates: int = 50) -> Bootstrap:
    return Bootstrap([r.research_id for r in results], replicates)


def test_sizes_add_up_and_patients_are_counted(results: list[CaseResult]) -> None:
    found = {key: e.value for key, e in strata_scores(results, boot(results)).items()}
    lesions = np.concatenate([r.lesion_ml for r in results])
    hit = np.concatenate([r.matching.found for r in results])
    for size, (low, high) in SIZES.items():
        inside = (lesions >= low) & (lesions < high)
        expected = hit[inside].mean() if inside.any() else np.nan
        assert found[f"lesion_sensitivity_{size}"] == pytest.approx(expected, nan_ok=True)
    shares = [r.matching.found.mean() for r in results if r.matching.found.size]
    assert found["patient_sensitivity"] == pytest.approx(np.mean(shares))
    assert found["patient_detection"] == pytest.approx(np.mean([s > 0 for s in shares]))
    free = [r for r in results if r.tumor_free]
    assert len(free) == 6
    for ml in (0.0, 0.5, 1.0):
        assert found[f"specificity_{ml:g}ml"] == pytest.approx(np.mean([r.fp_volume_ml <= ml for r in free]))
    assert found["fp_per_tumor_free_case"] == pytest.approx(
        np.mean([r.matching.false_positives for r in free])
    )
    # Reaching every lesion at any rate, the sensitivity for large ones cannot fall below that at the operating point.
    at_most = np.mean([r.matching.false_positives for r in results])
    if at_most <= 0.5:
        assert found["froc_0.5_ge1ml"] >= found["lesion_sensitivity_ge1ml"]


def test_afroc_is_the_mann_whitney_statistic(results: list[CaseResult]) -> None:
    lesion = np.concatenate([np.nan_to_num(r.curve_found) for r in results])
    clean = np.array([r.false_confidence.max(initial=0.0) for r in results if r.tumor_free])
    u = stats.mannwhitneyu(lesion, clean).statistic
    found = strata_scores(results, boot(results))["afroc"].value
    assert found == pytest.approx(u / (lesion.size * clean.size))
    nobody = [r for r in results if not r.tumor_free]
    assert np.isnan(strata_scores(nobody, boot(nobody))["afroc"].value)


def test_lesions_missed_at_the_recall_threshold(make_case: MakeCase) -> None:
    reference, prediction = make_case(1)
    fit = Recalibration(recall_threshold=0.5)
    nothing = np.zeros(reference.adc.shape, dtype=np.float32)
    silent = Prediction(nothing, nothing, 0.5)
    missed = score_case(silent, reference, (0.5, 0.5), fit)
    assert (missed.recall_missed, missed.recall_false) == (1.0, 0.0)
    loud = Prediction(reference.adc, reference.valid.astype(np.float32), 0.5)
    assert score_case(loud, reference, (0.5, 0.5), fit).recall_missed == 0.0
    assert np.isnan(score_case(prediction, reference, (0.5, 0.5)).recall_missed)


@pytest.mark.slow
def test_lesion_brier_and_calibration_equal_scikit_learn(results: list[CaseResult]) -> None:
    from sklearn.metrics import brier_score_loss

    found = {key: e.value for key, e in estimates(results, boot(results)).items()}
    p = np.concatenate([np.repeat(r.presence.probability, 2) for r in results])
    y = np.concatenate(
        [
            np.stack([np.zeros_like(r.presence.kept), np.ones_like(r.presence.kept)], 1).ravel()
            for r in results
        ]
    )
    w = np.concatenate([np.stack([1 - r.presence.kept, r.presence.kept], 1).ravel() for r in results])
    assert found["lesion_brier"] == pytest.approx(brier_score_loss(y, p, sample_weight=w))
    twice = {key: e.value for key, e in estimates(results, boot(results), None, lambda q: q**2).items()}
    assert twice["region_brier"] == found["region_brier"]
    q = np.concatenate([r.regions.probability for r in results]) ** 2
    meets = np.concatenate([r.regions.meets for r in results])
    assert twice["region_brier_calibrated"] == pytest.approx((q * q - 2 * q * meets + meets).mean())


def test_every_method_is_asked_about_the_same_lesions(make_case: MakeCase) -> None:
    reference, prediction = make_case(4)
    labels, count = reference.objects
    drawn = score_case(prediction, reference, (0.5, 0.5)).presence
    point = score_case(replace(prediction, draws=None), reference, (0.5, 0.5)).presence
    assert drawn.kept.tolist() == point.kept.tolist()
    assert drawn.kept.size == count
    for n in range(count):
        lesion = labels == n + 1
        shares = (prediction.draws[lesion] > 0).mean(axis=0)
        assert drawn.probability[n] == pytest.approx((shares >= 0.1).mean())
        assert point.probability[n] == pytest.approx(prediction.probability[lesion].max())
    empty = score_case(
        Prediction(np.zeros_like(reference.adc), np.zeros_like(reference.adc), 0.5), reference, (0.5, 0.5)
    )
    assert empty.presence.squared_error == pytest.approx(empty.presence.kept)


def graded(results: list[CaseResult], signal: float, seed: int = 0) -> list[CaseResult]:
    """The same cases with ten lesions each whose markers follow the grade with a strength of `signal`."""
    rng = np.random.default_rng(seed)
    made = []
    for result in results:
        grade = rng.integers(0, 6, 10)
        markers = rng.normal(size=(10, len(MARKERS))) - signal * grade[:, None]
        markers[0] = np.nan  # a lesion the map does not hold
        presence = LesionPresence(np.ones(10), np.ones(10), np.ones(10), ("",) * 10, grade, markers)
        made.append(replace(result, presence=presence))
    return made


def test_a_signal_is_found(results: list[CaseResult]) -> None:
    cases = graded(results, 0.5)
    found = malignancy_scores(cases, boot(cases, 150))
    assert found["grade_auroc_p10"].summary()["low95"] > 0.6
    assert found["grade_spearman_median"].summary()["high95"] < -0.3


@pytest.mark.slow
def test_grades_equal_scikit_learn_and_scipy(results: list[CaseResult]) -> None:
    from sklearn.metrics import roc_auc_score

    cases = graded(results, 0.5)
    found = malignancy_scores(cases, boot(cases, 400))
    held = [(r.presence.grade > 0) & np.isfinite(r.presence.markers[:, 0]) for r in cases]
    grade = np.concatenate([r.presence.grade[h] for r, h in zip(cases, held, strict=True)])
    marker = np.concatenate([r.presence.markers[h] for r, h in zip(cases, held, strict=True)])
    n = MARKERS.index("p10")
    assert found["grade_lesions"].value == grade.size
    assert found["grade_auroc_p10"].value == pytest.approx(roc_auc_score(grade >= 3, -marker[:, n]))
    assert found["grade_spearman_p10"].value == pytest.approx(stats.spearmanr(marker[:, n], grade).statistic)


def test_without_signal_the_interval_holds_one_half(results: list[CaseResult]) -> None:
    inside = 0
    for seed in range(10):
        cases = graded(results, 0.0, seed)
        summary = malignancy_scores(cases, boot(cases, 150))["grade_auroc_median"].summary()
        inside += summary["low95"] <= 0.5 <= summary["high95"]
    assert inside >= 7  # 9.5 expected; 6 or fewer would happen once in 1000 runs
    assert malignancy_scores(results, boot(results)) == {}  # no grade is known
    invented = [replace(r, value_violations=3) for r in graded(results, 1.0)]
    assert malignancy_scores(invented, boot(results)) == {}  # nor is a generated value ever asked


def test_arms_come_from_the_sealed_truth(finished_study: object) -> None:
    from diffusion_adc.phantom.truth import PairTruth, read_case_truth

    truth = read_case_truth(finished_study.truth, "SIM-00001_01")  # type: ignore[attr-defined]
    assert KnownLesions.of(truth).arm == ("", "", "whole")
    pair = PairTruth(
        first=1, second=2, correlation=0.9, both=0.5, only_first=0.1, only_second=0.1, neither=0.3, distance_mm=20.0, near=True
    )  # fmt: skip
    part = replace(truth.lesions[2], arm="part", whole_probability=0.4, ambiguous=False)
    changed = replace(truth, pairs=(pair,), lesions=(*truth.lesions[:2], part))
    assert KnownLesions.of(changed).arm == ("pair_near", "pair_near", "part")
    far = replace(changed, pairs=(replace(pair, near=False),))
    assert KnownLesions.of(far).arm == ("pair_far", "pair_far", "part")
    assert set(KnownLesions.of(replace(changed, ambiguity=False)).arm) == {""}
    hidden = replace(changed, lesions=(replace(truth.lesions[0], mappable=False), *truth.lesions[1:]))
    assert len(KnownLesions.of(hidden).lesions) == 2
