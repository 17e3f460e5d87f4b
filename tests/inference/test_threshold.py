from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from diffusion_adc.domain.errors import CohortError
from diffusion_adc.inference.threshold import (
    BASE_LOGITS,
    TemperatureFit,
    case_curve,
    choose_threshold,
    draw_thresholds,
)

ML = 0.03


def test_draw_thresholds_lie_between_the_values_a_mean_can_have() -> None:
    levels = draw_thresholds(4)
    assert levels == (0.125, 0.375, 0.625, 0.875)
    for count in (3, 7, 9, 16):
        means = np.arange(count + 1, dtype=np.float32) / np.float32(count)
        for k, level in enumerate(draw_thresholds(count), start=1):
            assert (means >= np.float32(level)).sum() == count + 1 - k


def test_a_curve_is_what_thresholding_says() -> None:
    rng = np.random.default_rng(0)
    shape = (9, 8, 7)
    score = rng.normal(size=shape).astype(np.float32)
    readings = [rng.random(shape) < 0.2, rng.random(shape) < 0.1]
    usable = rng.random(shape) < 0.7
    curve = case_curve(score, readings, usable, ML, BASE_LOGITS)
    for m in (0, 60, 80, 95, 160):
        kept = usable & (score >= BASE_LOGITS[m])
        assert curve.kept[m] == pytest.approx(kept.sum() * ML)
        assert curve.common[:, m] == pytest.approx([(kept & r).sum() * ML for r in readings])
    assert curve.reference == pytest.approx([(usable & r).sum() * ML for r in readings])


def _case(threshold: float, seed: int = 0, tumor: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 1, (20, 20, 10))
    return score, (score > threshold) if tumor else np.zeros(score.shape, dtype=bool)


def test_the_right_threshold_is_found() -> None:
    levels = np.linspace(0.05, 0.95, 19)
    curves = []
    for seed in range(4):
        score, reading = _case(0.72, seed)
        curves.append(case_curve(score, [reading], np.ones(score.shape, bool), ML, levels))
    tau, criterion = choose_threshold(curves, levels)
    assert tau in (pytest.approx(0.7), pytest.approx(0.75))
    assert criterion > 0.9


def test_tumor_free_cases_decide_among_equals_and_only_there() -> None:
    levels = (0.25, 0.5, 0.75)
    everywhere = np.ones((1, 1, 3), bool)
    score, reading = np.array([[[0.9, 0.6, 0.3]]]), np.array([[[True, True, False]]])
    tumor = case_curve(score, [reading], everywhere, 1.0, levels)
    free = case_curve(np.array([[[0.7, 0.6, 0.1]]]), [~everywhere], everywhere, 1.0, levels)
    assert choose_threshold([tumor], levels) == (0.5, 1.0)
    assert choose_threshold([tumor, free, free], levels) == (0.5, 1.0)
    flat = case_curve(np.array([[[0.9, 0.8, 0.1]]]), [reading], everywhere, 1.0, levels)
    assert choose_threshold([flat], levels)[0] == 0.25  # three equals: the first of the least biased
    assert choose_threshold([flat, free], levels)[0] == 0.75


def test_missing_a_small_tumor_is_never_worth_it() -> None:
    levels = (0.5, 0.9)
    score, reading = np.full((1, 1, 4), 0.6), np.array([[[True, False, False, False]]])
    small = case_curve(score, [reading], np.ones((1, 1, 4), bool), 0.1, levels)
    assert choose_threshold([small], levels) == (0.5, pytest.approx(0.4))


def test_dice_is_over_the_readers_who_kept_any() -> None:
    reading = np.array([[[True, True]]])
    curve = case_curve(
        np.array([[[0.9, 0.9]]]), [reading, ~reading], np.ones((1, 1, 2), bool), 1.0, (0.5, 0.95)
    )
    assert choose_threshold([curve], (0.5, 0.95)) == (0.5, 1.0)


def test_among_equals_the_least_biased_volume_wins() -> None:
    levels = (0.2, 0.8)
    # Half of a lesion and twice a lesion have one Dice, 2/3; a false voxel that both keep tips the volume.
    score, reading = np.array([[[0.9, 0.5, 0.5, 0.5]]]), np.array([[[True, True, False, False]]])
    tumor = case_curve(score, [reading], np.ones((1, 1, 4), bool), 100.0, levels)
    free = case_curve(np.array([[[0.9]]]), [np.array([[[False]]])], np.ones((1, 1, 1), bool), 100.0, levels)
    assert choose_threshold([tumor, free], levels)[0] == 0.8
    whole = case_curve(score, [reading | True], np.ones((1, 1, 4), bool), 100.0, levels)
    assert choose_threshold([tumor, whole, whole], levels)[0] == 0.2


def test_no_less_of_the_readers_tumor_is_kept_than_the_clinical_rule_keeps() -> None:
    levels = (0.2, 0.5, 0.8)
    score = np.array([[[0.9, 0.9, 0.6, 0.3, 0.6, 0.3, 0.3]]])
    reading = np.array([[[True, True, True, True, False, False, False]]])
    everywhere = np.ones(score.shape, bool)

    def chosen(rule: list[bool] | None) -> float:
        kept = None if rule is None else np.array([[rule]])
        return choose_threshold([case_curve(score, [reading], everywhere, 1.0, levels, kept)], levels)[0]

    assert chosen(None) == 0.5  # Dice .73, .75, .67
    assert chosen([True, True, True, False, False, False, False]) == 0.5
    assert chosen([True, True, True, True, True, True, True]) == 0.2  # the rule keeps all four
    far = np.array([[[0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]]])  # no threshold keeps as much: Dice decides alone
    curve = case_curve(far, [reading], everywhere, 1.0, levels, reading)
    assert choose_threshold([curve], levels) == (0.2, pytest.approx(0.4))


def test_no_tumor_in_validation_is_an_error() -> None:
    score, _ = _case(0.5)
    curve = case_curve(score, [np.zeros(score.shape, bool)], np.ones(score.shape, bool), ML, (0.5,))
    with pytest.raises(CohortError, match="no tumor in 1 validation cases"):
        choose_threshold([curve], (0.5,))
    with pytest.raises(CohortError, match="no tumor in 0"):
        choose_threshold([], (0.5,))


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_temperature_recovers_what_made_the_data(true: float) -> None:
    rng = np.random.default_rng(1)
    fit = TemperatureFit()
    for _ in range(3):
        logit = rng.normal(-2, 3, (40, 40, 20)).astype(np.float32)
        fit.add(logit, [rng.random(logit.shape) < expit(logit / true)], np.ones(logit.shape, bool))
    assert fit.temperature() == pytest.approx(true, rel=0.04)


def test_readers_count_equally_and_invalid_voxels_not_at_all() -> None:
    rng = np.random.default_rng(2)
    logit = rng.normal(-1, 2, (50, 50, 20))
    usable = rng.random(logit.shape) < 0.5
    readings = [rng.random(logit.shape) < expit(logit / 1.5) for _ in range(2)]
    fit, poisoned = TemperatureFit(), TemperatureFit()
    fit.add(logit, readings, usable)
    poisoned.add(np.where(usable, logit, 35.0), [r & usable for r in readings], usable)
    assert fit.temperature() == pytest.approx(1.5, rel=0.05)
    assert poisoned.temperature() == fit.temperature()


def test_a_temperature_that_cannot_be_fitted_is_one() -> None:
    assert TemperatureFit().temperature() == 1.0
    fit = TemperatureFit()
    fit.add(np.full((2, 2, 2), -90.0), [np.zeros((2, 2, 2), bool)], np.ones((2, 2, 2), bool))
    assert fit.temperature() == 1.0
