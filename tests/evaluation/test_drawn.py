"""Draws against readers: energy distance, volumes near ambiguous lesions, recalibrated intervals, exact coverage."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diffusion_adc.evaluation.calibration import exact_binomial_interval, fair_crps
from diffusion_adc.evaluation.drawn import arm_crps, draw_gadc, energy_distance, recalibrated, score_draws
from diffusion_adc.evaluation.reference import ARMS, KnownLesions, Reference
from diffusion_adc.inference.conformal import IntervalFit
from diffusion_adc.phantom.truth import LesionTruth


def distance(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return 1.0 - (a & b).sum() / union if union else 0.0


def test_energy_distance_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    for empty in (False, True):
        draws = rng.random((5, 4, 3, 6)) < 0.3
        readings = [rng.random((5, 4, 3)) < 0.4 for _ in range(3)]
        if empty:
            draws[..., :2] = False
            readings[0][:] = False
        s = [draws[..., k] for k in range(6)]
        across = np.mean([distance(a, b) for a in s for b in readings])
        within = np.mean([distance(a, b) for a, b in itertools.permutations(s, 2)])
        among = np.mean([distance(a, b) for a, b in itertools.permutations(readings, 2)])
        assert energy_distance(draws, readings) == pytest.approx(2 * across - within - among, abs=1e-6)
    nothing = np.zeros((5, 4, 3, 6), dtype=np.uint8)
    assert energy_distance(nothing, [nothing[..., 0] > 0] * 2) == 0.0
    assert np.isnan(energy_distance(draws, readings[:1]))
    assert np.isnan(energy_distance(draws[..., :1], readings))


def test_energy_distance_is_zero_on_average_for_one_law_and_positive_for_two() -> None:
    rng = np.random.default_rng(1)

    def law(p: float, n: int) -> np.ndarray:
        # One coin for the whole lesion: a joint law.
        return (rng.random(n) < p)[None, None, None, :] & np.ones((3, 3, 2, 1), dtype=bool)

    same, other = [], []
    for _ in range(150):
        readings = [law(0.5, 1)[..., 0] for _ in range(2)]
        same.append(energy_distance(law(0.5, 9), readings))
        other.append(energy_distance(law(0.95, 9), readings))
    assert np.mean(same) == pytest.approx(0.0, abs=3 * np.std(same) / 150**0.5)
    assert np.mean(other) > 0.2


def known(labels: np.ndarray, arms: tuple[str, ...]) -> KnownLesions:
    lesions = tuple(
        LesionTruth(
            number=n + 1, site="sacrum", group="bone", kind="untreated", grade=3, arm="whole", keep_probability=0.5,
            whole_probability=1.0, partner=0, ambiguous=True, mappable=True, volume_ml=1.0, core_ml=1.0, contrast=4.0,
            adc_median=0.9, adc_true=0.9, centroid_mm=(0.0, 0.0, 0.0),
        )
        for n in range(len(arms))
    )  # fmt: skip
    return KnownLesions(labels, lesions, arms)


def test_the_volume_near_ambiguous_lesions_is_scored_alone() -> None:
    shape = (30, 8, 6)
    labels = np.zeros(shape, dtype=np.uint8)
    labels[2:4, 2:4, 2:4], labels[24:26, 2:4, 2:4] = 1, 2
    adc = np.ones(shape, dtype=np.float32)
    reading = labels > 0
    reference = Reference(
        "A-001_01", "A-001", adc, np.ones(shape, dtype=bool), [reading, labels == 2], 0.5,
        spacing_mm=(2.5, 2.5, 5.0), known=known(labels, ("part", "")),
    )  # fmt: skip
    far = np.zeros(shape, dtype=bool)
    far[20:29] = True  # painted all over the certain lesion, more than 10 mm from the ambiguous one
    point = arm_crps(reference, far | reading, None)
    assert point[ARMS.index("part")] == pytest.approx((0.0 + 4.0) / 2)
    assert np.isnan(np.delete(point, ARMS.index("part"))).all()
    draws = np.stack([far | (labels == 2), far | reading, far | reading], axis=-1)
    drawn = arm_crps(reference, reading, draws)[ARMS.index("part")]
    volumes = np.array([0.0, 4.0, 4.0])
    assert drawn == pytest.approx((fair_crps(volumes, 4.0) + fair_crps(volumes, 0.0)) / 2)


def test_global_adc_of_draws_and_its_scores(make_case: Any) -> None:
    reference, prediction = make_case(2)
    found = score_draws(prediction.draws, reference, (0.5, 0.5))
    assert found is not None
    medians = [
        float(np.median(reference.adc[reference.valid & (prediction.draws[..., k] > 0)].astype(float)))
        for k in range(9)
    ]
    assert (found.gadc_low, found.gadc_high) == (min(medians), max(medians))
    assert found.gadc_crps == pytest.approx(
        np.mean([fair_crps(np.array(medians), r) for r in reference.gadc])
    )
    empty = np.zeros((4, 2), dtype=np.uint8)
    empty[:2, 1] = 1
    assert draw_gadc(empty, np.array([0.8, 1.0, 2.0, 2.0]))[1] == pytest.approx(0.9)
    assert np.isnan(draw_gadc(empty, np.ones(4))[0])
    assert score_draws(prediction.draws[..., :1], reference, (0.5, 0.5)) is None


def test_recalibrated_intervals_cover_what_they_hold(make_case: Any) -> None:
    reference, _ = make_case(2)
    tdv = np.array([np.mean(reference.tdv_ml)])
    half = (max(reference.tdv_ml) - min(reference.tdv_ml)) / 2
    nan = np.array([np.nan])
    wide = recalibrated(
        tdv, nan, reference, IntervalFit("linear", 0.0, half, 9), IntervalFit("linear", 0, 1, 9)
    )
    assert (wide.tdv_covered, wide.tdv_first_covered) == (1.0, 1.0)
    assert wide.tdv_high - wide.tdv_low == pytest.approx(2 * half)
    assert np.isnan([wide.gadc_covered, wide.gadc_low]).all()
    narrow = recalibrated(tdv, nan, reference, IntervalFit("linear", 0.0, -1.0, 9), None)
    assert narrow.tdv_low == narrow.tdv_high
    none = recalibrated(tdv, nan, reference, None, None)
    assert np.isnan([none.tdv_covered, none.tdv_low, none.tdv_first_covered]).all()


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 11), (161, 200)])
def test_the_exact_interval_is_scipys(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert exact_binomial_interval(k, n) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="trials"):
        exact_binomial_interval(n + 1, n)
