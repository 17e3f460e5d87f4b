from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_adc.inference.intervals import interval_order, order_statistic_interval


@pytest.mark.parametrize(
    ("n_draws", "j", "nominal"),
    [(1, 1, 0.0), (2, 1, 1 / 3), (8, 1, 7 / 9), (9, 1, 0.8), (16, 1, 15 / 17), (19, 2, 0.8), (29, 3, 0.8)],
)
def test_order_statistics_of_the_known_counts(n_draws: int, j: int, nominal: float) -> None:
    assert interval_order(n_draws) == (j, pytest.approx(nominal))


@given(st.integers(9, 400))
def test_the_largest_j_that_reaches_the_coverage(n_draws: int) -> None:
    j, nominal = interval_order(n_draws)
    assert nominal >= 0.8 - 1e-12
    assert (n_draws + 1 - 2 * (j + 1)) / (n_draws + 1) < 0.8


@given(st.integers(1, 100), st.floats(0.01, 0.99))
def test_ends_never_cross(n_draws: int, coverage: float) -> None:
    j, nominal = interval_order(n_draws, coverage)
    assert 1 <= j <= n_draws + 1 - j
    assert 0 <= nominal < 1


def test_nine_draws_give_the_extremes_and_nineteen_the_second() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 20.0))
    assert order_statistic_interval(values) == (2.0, 18.0, pytest.approx(0.8))
    assert order_statistic_interval(values[:9])[:2] == (values[:9].min(), values[:9].max())


@pytest.mark.parametrize("n_draws", [9, 16, 19])
def test_coverage_of_exact_draws_is_the_nominal_one(n_draws: int) -> None:
    rng = np.random.default_rng(n_draws)
    draws, truth = rng.lognormal(size=(20_000, n_draws)), rng.lognormal(size=20_000)
    j, nominal = interval_order(n_draws)
    ordered = np.sort(draws, axis=1)
    inside = (ordered[:, j - 1] <= truth) & (truth <= ordered[:, n_draws - j])
    assert inside.mean() == pytest.approx(nominal, abs=0.012)


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        order_statistic_interval([1.0, np.nan])
    with pytest.raises(ValueError, match="interval needs"):
        order_statistic_interval([])
    with pytest.raises(ValueError, match="interval needs"):
        interval_order(9, 1.0)
