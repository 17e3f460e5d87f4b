"""ADC statistics against scipy and numpy, and the value error that a gated map can never have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffusion_adc.evaluation.values import STATISTICS, gadc_error_parts, histogram_statistics, value_error


@pytest.mark.parametrize("seed", range(4))
def test_scipy_and_numpy_agree(seed: int) -> None:
    x = np.random.default_rng(seed).gamma(4.0, 0.3, 500).clip(0, 3.42)
    found = histogram_statistics(x.astype(np.float64))
    assert tuple(found) == STATISTICS
    assert found["skewness"] == pytest.approx(stats.skew(x))
    assert found["excess_kurtosis"] == pytest.approx(stats.kurtosis(x))
    assert (found["mean"], found["sd"], found["median"]) == pytest.approx((x.mean(), x.std(), np.median(x)))
    assert found["p10"] == pytest.approx(np.percentile(x, 10))
    counts = np.histogram(x, bins=70, range=(0.0, 3.5))[0]
    assert found["entropy"] == pytest.approx(stats.entropy(counts, base=2))


def test_edges_of_a_histogram() -> None:
    assert all(np.isnan(v) for v in histogram_statistics(np.zeros(0)).values())
    constant = histogram_statistics(np.full(9, 0.9))
    assert (constant["entropy"], constant["sd"]) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert np.isnan(constant["skewness"])
    one = histogram_statistics(np.array([1.2]))
    assert (one["median"], one["p2"], one["p98"]) == (1.2, 1.2, 1.2)
    # A value on an edge belongs to the bin that starts there; what lies above the range to the last bin.
    assert histogram_statistics(np.array([0.15, 0.19]))["entropy"] == 0.0
    assert histogram_statistics(np.array([3.47, 9.0]))["entropy"] == 0.0


def test_a_gated_map_has_a_selection_error_only() -> None:
    rng = np.random.default_rng(0)
    adc = rng.uniform(0.5, 2.0, (6, 6, 4)).astype(np.float32)
    presence = rng.random(adc.shape) < 0.3
    gated = np.where(presence, adc, np.float32(0))
    selection, value = gadc_error_parts(gated, adc, presence, 1.0)
    assert value == 0.0
    assert selection == pytest.approx(100 * abs(np.median(adc[presence].astype(float)) - 1.0))
    assert value_error(gated, adc, presence) == 0.0
    # A map that says other values has both.
    regressed = np.where(presence, adc + np.float32(0.125), np.float32(0))
    again, wrong = gadc_error_parts(regressed, adc, presence, 1.0)
    assert again == selection
    assert wrong == pytest.approx(12.5, rel=1e-5)
    assert value_error(regressed, adc, presence) == pytest.approx(0.125, rel=1e-5)
    nothing = np.zeros_like(presence)
    assert np.isnan(gadc_error_parts(gated, adc, nothing, 1.0)).all()
    assert np.isnan(gadc_error_parts(gated, adc, presence, float("nan"))).all()
    assert np.isnan(value_error(gated, adc, nothing))
