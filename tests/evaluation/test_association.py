"""Agreement statistics against pingouin, scipy and direct formulas, plain and under resampling weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffusion_adc.evaluation.association import Moments, spearman


def pairs(seed: int, n: int = 25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.lognormal(1.0, 0.8, n)
    return truth * rng.lognormal(0.1, 0.2, n), truth + rng.normal(0.0, 0.5, n)


def plain(x: np.ndarray, y: np.ndarray) -> Moments:
    return Moments.of(x, y, np.ones(x.size))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_icc_agrees_with_pingouin(seed: int) -> None:
    import pandas as pd
    import pingouin

    x, y = pairs(seed)
    n = np.arange(x.size)
    frame = pd.DataFrame(
        {"case": np.r_[n, n], "rater": ["map"] * x.size + ["reader"] * x.size, "value": np.r_[x, y]}
    )
    table = pingouin.intraclass_corr(frame, targets="case", raters="rater", ratings="value").set_index("Type")
    # Single measurement, absolute agreement, two-way random effects; later versions spell it ICC(A,1).
    name = next(t for t in ("ICC2", "ICC(A,1)") if t in table.index)
    assert float(plain(x, y).icc21()) == pytest.approx(float(table.loc[name, "ICC"]), abs=1e-10)


def test_icc_is_that_of_the_analysis_of_variance() -> None:
    x, y = pairs(3)
    table = np.stack([x, y], axis=1)
    n, k = table.shape
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    msr = k * ((rows - grand) ** 2).sum() / (n - 1)
    msc = n * ((columns - grand) ** 2).sum() / (k - 1)
    mse = ((table - rows[:, None] - columns[None] + grand) ** 2).sum() / ((n - 1) * (k - 1))
    expected = (msr - mse) / (msr + (k - 1) * mse + k * (msc - mse) / n)
    assert float(plain(x, y).icc21()) == pytest.approx(expected, abs=1e-12)


def test_bland_altman_ccc_and_deming() -> None:
    x, y = pairs(1)
    found = plain(x, y)
    d = x - y
    low, high = found.limits_of_agreement()
    assert float(found.bias) == pytest.approx(d.mean())
    assert (float(low), float(high)) == pytest.approx(
        (d.mean() - 1.96 * d.std(ddof=1), d.mean() + 1.96 * d.std(ddof=1))
    )
    ccc = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert float(found.ccc()) == pytest.approx(ccc)
    # Deming with equal error variances is the first principal axis.
    values, vectors = np.linalg.eigh(np.cov(y, x))
    axis = vectors[:, values.argmax()]
    assert float(found.deming_slope()) == pytest.approx(axis[1] / axis[0])
    same = plain(y, y)
    assert (float(same.icc21()), float(same.ccc()), float(same.deming_slope())) == pytest.approx(
        (1.0, 1.0, 1.0)
    )


def test_undefined_where_nothing_varies_or_nothing_is_there() -> None:
    constant = np.full(5, 2.0)
    assert np.isnan([plain(constant, constant).icc21(), plain(constant, constant).ccc()]).all()
    assert np.isnan(spearman(constant, np.arange(5.0), np.ones(5)))
    nan = np.full(4, np.nan)
    none = plain(nan, np.arange(4.0))
    assert np.isnan([none.bias, none.icc21(), none.ccc(), none.deming_slope()]).all()
    assert np.isnan(spearman(nan, np.arange(4.0), np.ones(4)))
    one = plain(np.array([1.0]), np.array([2.0]))
    assert float(one.bias) == -1.0
    assert np.isnan(one.limits_of_agreement()).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 12))
def test_weights_count_as_repeated_pairs(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, n).astype(float), rng.integers(0, 6, n).astype(float)
    x[rng.random(n) < 0.15] = np.nan
    weights = rng.multinomial(n, np.full(n, 1 / n), size=3).astype(float)
    found = Moments.of(x, y, weights)
    ranks = spearman(x, y, weights)
    for row, w in enumerate(weights.astype(int)):
        rx, ry = np.repeat(x, w), np.repeat(y, w)
        known = np.isfinite(rx)
        rx, ry = rx[known], ry[known]
        if rx.size == 0:
            continue
        assert found.bias[row] == pytest.approx((rx - ry).mean())
        again = plain(rx, ry)
        assert found.icc21()[row] == pytest.approx(float(again.icc21()), abs=1e-9, nan_ok=True)
        if np.unique(rx).size > 1 and np.unique(ry).size > 1:
            assert ranks[row] == pytest.approx(stats.spearmanr(rx, ry).statistic, abs=1e-12)
