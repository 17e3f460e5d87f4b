"""Calibration scores against closed forms, numerical integration and exact laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from diffusion_adc.evaluation import calibration as cal
from diffusion_adc.inference.intervals import order_statistic_interval


def gaussian_crps(mean: float, sd: float, y: float) -> float:
    """CRPS of a normal distribution (Gneiting & Raftery, JASA 2007;102:359, section 4.2)."""
    z = (y - mean) / sd
    return sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


def test_fair_crps_has_the_gaussian_closed_form_as_its_mean_for_any_number_of_draws() -> None:
    rng = np.random.default_rng(1)
    for k in (2, 3, 9, 16):
        scores = [cal.fair_crps(rng.normal(2.0, 1.5, k), 3.1) for _ in range(6000)]
        assert np.mean(scores) == pytest.approx(
            gaussian_crps(2.0, 1.5, 3.1), abs=4 * np.std(scores) / np.sqrt(6000)
        )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0, 100, allow_subnormal=False), min_size=2, max_size=12),
    st.floats(0, 100, allow_subnormal=False),
)
def test_fair_crps_equals_the_integral_of_the_step_function_plus_its_correction(
    draws: list[float], y: float
) -> None:
    # ∫ (F_K(z) − 1[z ≥ y])² dz is the biased score; the fair one subtracts Σ Σ|x − x'| / (2 K² (K − 1)).
    x, k = np.array(draws), len(draws)
    knots = np.unique(np.append(x, y))
    middle = (knots[1:] + knots[:-1]) / 2
    step = (x[None, :] <= middle[:, None]).mean(axis=1) - (middle >= y)
    integral = float((step**2 * np.diff(knots)).sum())
    pairs = float(np.abs(x[:, None] - x[None, :]).sum())
    assert cal.fair_crps(x, y) == pytest.approx(integral - pairs / (2 * k * k * (k - 1)), abs=1e-7)


def test_fair_crps_of_many_draws_equals_scipys_quadrature() -> None:
    law = stats.gamma(2.0, scale=3.0)
    y = 4.0
    below, _ = integrate.quad(lambda z: law.cdf(z) ** 2, 0, y)
    above, _ = integrate.quad(lambda z: law.sf(z) ** 2, y, np.inf)
    draws = law.ppf((np.arange(4000) + 0.5) / 4000)
    assert cal.fair_crps(draws, y) == pytest.approx(below + above, abs=2e-3)


def test_fair_crps_edges() -> None:
    assert np.isnan(cal.fair_crps(np.array([1.0]), 1.0))
    assert cal.fair_crps(np.zeros(9), 0.0) == 0.0
    assert cal.fair_crps(np.zeros(9), 2.5) == pytest.approx(2.5)
    rng = np.random.default_rng(0)
    draws = rng.random(9)
    assert cal.fair_crps(draws, 0.3) == pytest.approx(cal.fair_crps(draws[::-1], 0.3))


def test_interval_of_exchangeable_draws_covers_as_it_says() -> None:
    rng = np.random.default_rng(5)
    for k in (4, 9, 16, 19):
        sample = rng.lognormal(size=(8000, k + 1))
        inside, nominal = 0, 0.0
        for row in sample:
            low, high, nominal = order_statistic_interval(row[:k])
            inside += low <= row[k] <= high
        assert inside / 8000 == pytest.approx(nominal, abs=0.02)


def test_randomized_pit_is_uniform_with_ties_and_shows_too_narrow_draws() -> None:
    rng = np.random.default_rng(7)
    counts = rng.poisson(1.2, size=(4000, 10)).astype(float)  # many ties, many empties
    pit = [cal.randomized_pit(row[:9], row[9], u) for row, u in zip(counts, rng.random(4000), strict=True)]
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    assert min(pit) >= 0
    assert max(pit) <= 1
    narrow = rng.normal(0, 0.4, (2000, 9))
    far = [
        cal.randomized_pit(x, y, u)
        for x, y, u in zip(narrow, rng.normal(size=2000), rng.random(2000), strict=True)
    ]
    outer = np.mean((np.array(far) < 0.1) | (np.array(far) > 0.9))
    assert outer > 0.4


def test_brier_and_ece_in_closed_form() -> None:
    rng = np.random.default_rng(2)
    shape = (40, 30, 20)
    probability = rng.choice([0.1, 0.5, 0.9], shape).astype(np.float32)
    honest = rng.random(shape) < probability
    everywhere = np.ones(shape, dtype=bool)
    sums = cal.reliability(probability, honest, everywhere)
    assert cal.brier_score(sums) == pytest.approx((0.09 + 0.25 + 0.09) / 3, abs=0.01)
    ece = cal.expected_calibration_error(sums.voxels, sums.probability, sums.present)
    assert float(ece) == pytest.approx(0.0, abs=0.01)
    lying = rng.random(shape) < np.clip(probability + 0.1, 0, 1)
    sums = cal.reliability(probability, lying, everywhere)
    assert float(
        cal.expected_calibration_error(sums.voxels, sums.probability, sums.present)
    ) == pytest.approx(0.1, abs=0.01)


def test_probabilities_of_0_and_1_and_an_empty_region() -> None:
    probability = np.array([0.0, 1.0, 1.0, 0.0]).reshape(4, 1, 1)
    reference = np.array([0, 1, 0, 1], dtype=bool).reshape(4, 1, 1)
    sums = cal.reliability(probability, reference, np.ones((4, 1, 1), dtype=bool))
    assert cal.brier_score(sums) == 0.5
    assert sums.voxels.tolist() == [2, *[0] * 13, 2]
    nothing = cal.reliability(probability, reference, np.zeros((4, 1, 1), dtype=bool))
    assert np.isnan(cal.brier_score(nothing))
    assert np.isnan(cal.expected_calibration_error(nothing.voxels, nothing.probability, nothing.present))


def test_scored_region_is_the_dilated_union_without_invalid_voxels() -> None:
    reference, presence = np.zeros((2, 9, 9, 5), dtype=bool)
    valid = np.ones((9, 9, 5), dtype=bool)
    assert not cal.scored_region(reference, presence, valid).any()
    reference[2, 2, 2] = True
    presence[6, 6, 2] = True
    region = cal.scored_region(reference, presence, valid)
    assert region.sum() == 2 * 27
    valid[1] = False
    assert cal.scored_region(reference, presence, valid).sum() == 2 * 27 - 9


def test_split_half_variation() -> None:
    assert cal.split_half_variation(np.array([4.0, 4.0, 4.0, 4.0])) == 0.0
    # Two values a, b: SD = |a − b|/√2, mean = (a + b)/2.
    a, b = 3.0, 5.0
    assert cal.split_half_variation(np.array([a, b])) == pytest.approx(np.var([a, b], ddof=1) / 16.0)
    assert cal.split_half_variation(np.array([a, a, 100.0, b, b])) == pytest.approx(2.0 / 16.0)
    assert np.isnan(cal.split_half_variation(np.zeros(8)))
    assert np.isnan(cal.split_half_variation(np.array([1.0])))
    rng = np.random.default_rng(0)
    squared = [cal.split_half_variation(rng.normal(10, 1, 2)) for _ in range(4000)]
    assert np.sqrt(np.mean(squared)) == pytest.approx(0.1, rel=0.05)


@pytest.mark.slow
def test_scoringrules_agrees_on_the_fair_crps() -> None:
    import scoringrules

    rng = np.random.default_rng(0)
    draws = np.r_[rng.gamma(2.0, 2.0, (40, 9)), np.zeros((2, 9)), np.full((1, 9), 3.0)]
    observed = np.r_[rng.gamma(2.0, 2.0, 40), 0.0, 1.5, 3.0]
    theirs = scoringrules.crps_ensemble(observed, draws, estimator="fair")
    ours = [cal.fair_crps(d, y) for d, y in zip(draws, observed, strict=True)]
    assert ours == pytest.approx(np.asarray(theirs), abs=1e-12)
    brier = scoringrules.brier_score(np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.7, 1.0]))
    region = np.ones((3, 1, 1), dtype=bool)
    sums = cal.reliability(
        np.array([0.2, 0.7, 1.0])[:, None, None], np.array([0, 1, 1])[:, None, None] > 0, region
    )
    assert cal.brier_score(sums) == pytest.approx(float(np.mean(brier)))


@pytest.mark.slow
def test_torchmetrics_agrees_on_the_calibration_error() -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(1)
    p = rng.random((9, 8, 7)).astype(np.float32)
    y = rng.random(p.shape) < p**2
    sums = cal.reliability(p, y, np.ones(p.shape, dtype=bool))
    ours = float(cal.expected_calibration_error(sums.voxels, sums.probability, sums.present))
    theirs = binary_calibration_error(
        torch.from_numpy(p.ravel()), torch.from_numpy(y.ravel().astype(int)), n_bins=15
    )
    assert ours == pytest.approx(float(theirs), abs=1e-5)
