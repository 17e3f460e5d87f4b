"""Regions of a map: what draws say of them, whether readers agree, and the recalibration of that probability."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import expit, logit

from diffusion_adc.inference.conformal import IntervalFit
from diffusion_adc.inference.lesion_probability import (
    PlattFit,
    RegionOutcomes,
    calibration_gap,
    fit_platt,
    held_shares,
    region_outcomes,
)
from diffusion_adc.inference.recalibration import Evidence, Forecasts, Recalibration, fit_recalibration
from diffusion_adc.inference.tumor_map import build_tumor_map


def regions(
    rng: np.random.Generator, cases: int, slope: float = 0.4, intercept: float = -1.0
) -> list[RegionOutcomes]:
    """Regions whose stated probability is far too bold."""
    made = []
    for _ in range(cases):
        stated = rng.integers(1, 20, rng.integers(0, 12)) / 20
        made.append(
            RegionOutcomes(stated, (rng.random(stated.size) < expit(slope * logit(stated) + intercept)) * 1.0)
        )
    return made


def test_the_law_behind_the_regions_is_found() -> None:
    rng = np.random.default_rng(0)
    fit = fit_platt(regions(rng, 400))
    assert fit is not None
    assert (fit.slope, fit.intercept) == (pytest.approx(0.4, abs=0.1), pytest.approx(-1.0, abs=0.12))
    assert fit.ece_after < 0.05 < 0.15 < fit.ece_before
    fresh = regions(rng, 400)
    p, y = (np.concatenate([getattr(r, name) for r in fresh]) for name in ("probability", "meets"))
    assert calibration_gap(fit(p), y) < 0.05 < calibration_gap(p, y)
    assert np.all(np.diff(fit(np.linspace(0, 1, 30))) >= 0)  # the order of regions stays


@pytest.mark.slow
def test_scikit_learn_finds_the_same_law() -> None:
    from sklearn.linear_model import LogisticRegression

    train = regions(np.random.default_rng(7), 400)
    p, y = (np.concatenate([getattr(r, name) for r in train]) for name in ("probability", "meets"))
    theirs = LogisticRegression(C=1e6).fit(logit(p)[:, None], y)
    ours = fit_platt(train)
    assert ours is not None
    assert ours.slope == pytest.approx(float(theirs.coef_[0, 0]), abs=0.01)
    assert ours.intercept == pytest.approx(float(theirs.intercept_[0]), abs=0.01)


def test_too_few_regions_or_one_kind_fit_nothing() -> None:
    few = [RegionOutcomes(np.full(19, 0.5), np.r_[np.ones(9), np.zeros(10)])]
    assert fit_platt(few) is None
    assert fit_platt([RegionOutcomes(np.full(40, 0.5), np.ones(40))]) is None
    assert fit_platt([]) is None
    # Perfectly separated: Platt's targets keep the fit finite.
    apart = [RegionOutcomes(np.r_[np.full(15, 0.1), np.full(15, 0.9)], np.r_[np.zeros(15), np.ones(15)])]
    fit = fit_platt(apart)
    assert fit is not None
    assert np.isfinite([fit.slope, fit.intercept]).all()
    assert 0.0 < fit(np.array([0.1]))[0] < 0.2 < 0.8 < fit(np.array([0.9]))[0] < 1.0
    assert np.isnan(calibration_gap(np.zeros(0), np.zeros(0)))


def test_what_draws_and_readers_say_of_a_region() -> None:
    labels = np.zeros((12, 4, 3), dtype=np.int32)
    labels[:5, :2, 0] = 1  # ten voxels: one of them is enough to be present
    labels[8:10, 0, 0] = 2
    draws = np.zeros((*labels.shape, 4), dtype=np.uint8)
    draws[0, 0, 0, 0] = draws[8, 0, 0, 1] = draws[8:10, 0, 0, 2] = 1
    readings = [labels == 2, np.zeros(labels.shape, dtype=bool)]
    found = region_outcomes(labels, 2, readings, draws, draws.mean(axis=-1))
    assert found.probability.tolist() == [0.25, 0.5]
    assert found.meets.tolist() == [0.0, 0.5]
    peak = np.where(labels == 1, 0.3, 0.0)
    peak[3, 1, 0] = 0.9
    assert region_outcomes(labels, 2, readings, None, peak).probability.tolist() == [0.9, 0.0]
    assert held_shares(labels, 3, draws)[:, 2].tolist() == [0.0, 1.0, 0.0]
    assert region_outcomes(labels * 0, 0, readings, draws, peak).probability.size == 0


def evidence(rng: np.random.Generator, draws: bool) -> tuple[Forecasts, Evidence]:
    shape = (14, 12, 4)
    adc = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    lesion = np.zeros(shape, dtype=bool)
    if rng.random() < 0.7:
        a, b = rng.integers(0, 8, 2)
        lesion[a : a + 4, b : b + 4, 1:3] = True
    noise = rng.random((*shape, 5)) < 0.02
    drawn = (lesion[..., None] & (rng.random(5) < 0.8)) | noise
    probability = drawn.mean(axis=-1)
    presence = probability >= 0.3
    made = Evidence.of(probability, presence, drawn if draws else None, [lesion, lesion], adc, 0.1)
    return made.forecasts, made


@pytest.mark.parametrize("draws", [True, False])
def test_everything_is_fitted_for_methods_with_and_without_draws(draws: bool) -> None:
    rng = np.random.default_rng(5)
    made = [evidence(rng, draws) for _ in range(60)]
    fit = fit_recalibration([f for f, _ in made[:30]], [e for _, e in made[30:]], np.linspace(0.1, 0.9, 9))
    assert fit.tdv is not None
    assert fit.gadc is not None
    assert fit.lesion is not None
    assert fit.recall_threshold is not None
    assert fit.tdv.cases == 30
    assert fit.gadc.scale == "linear"
    assert Recalibration.of(json.loads(json.dumps(fit.record()))) == fit
    assert Recalibration.of(None) == Recalibration() == Recalibration.of(Recalibration().record())


def test_a_map_carries_both_intervals() -> None:
    rng = np.random.default_rng(0)
    adc = rng.uniform(0.5, 1.5, (8, 8, 4)).astype(np.float32)
    draws = np.zeros((*adc.shape, 9), dtype=np.uint8)
    for k in range(9):
        draws[:3, : 1 + k % 4, 0, k] = 1
    tumor = build_tumor_map(adc, np.ones_like(adc), np.diag([10.0, 10, 10, 1]), draws, draws.mean(-1), 0.5)
    platt = PlattFit(0.5, -1.0, 30, 0.3, 0.1)
    fit = Recalibration(IntervalFit("linear", -1.0, 1.5, 20), None, platt, 0.2, 0.05)
    found = fit.of_map(tumor)
    assert found["tdv_ml"] == [0.5, 12.5]  # 3 to 12 mL as drawn
    assert found["gadc"] is None
    assert found["lesions"] == pytest.approx([float(platt(np.array([1.0]))[0])], abs=1e-6)
    assert Recalibration().of_map(tumor) == {"tdv_ml": None, "gadc": None, "lesions": None}
    assert asdict(fit) == fit.record()
