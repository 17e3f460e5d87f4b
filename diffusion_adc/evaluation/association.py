"""How well paired measurements agree, from weighted sums alone: Bland–Altman, ICC(2,1), Lin's CCC, Deming, Spearman.

Every statistic takes weights (…, N) that say how often each pair counts, so that a bootstrap over persons
forms it anew in all replicates at once. ``x`` is the map's value and ``y`` the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIMITS: Final = 1.96
"""Standard deviations of the differences to the limits of agreement (Bland & Altman, Lancet 1986;1:307)."""


@dataclass(frozen=True)
class Moments:
    """Weighted moments of pairs (…): number, means, population variances and covariance."""

    n: Array
    mean_x: Array
    mean_y: Array
    var_x: Array
    var_y: Array
    cov: Array

    @classmethod
    def of(cls, x: Array, y: Array, weights: Array) -> Moments:
        """Moments of the pairs (N,) in which both values are defined."""
        known = np.isfinite(x) & np.isfinite(y)
        w, x, y = np.asarray(weights, dtype=np.float64)[..., known], x[known], y[known]
        n = w.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Centered on the sample first: differences of large sums would lose digits.
            shift_x, shift_y = (x.mean(), y.mean()) if x.size else (0.0, 0.0)
            x, y = x - shift_x, y - shift_y
            mx, my = (w @ x) / n, (w @ y) / n
            return cls(
                n, mx + shift_x, my + shift_y, (w @ (x * x)) / n - mx**2, (w @ (y * y)) / n - my**2,
                (w @ (x * y)) / n - mx * my,
            )  # fmt: skip

    @property
    def bias(self) -> Array:
        """Mean difference x − y."""
        return self.mean_x - self.mean_y

    @property
    def _difference_variance(self) -> Array:
        return np.maximum(self.var_x + self.var_y - 2.0 * self.cov, 0.0)

    def limits_of_agreement(self) -> tuple[Array, Array]:
        """Lower and upper limit: bias ∓ 1.96 sample standard deviations of the differences."""
        sd = np.sqrt(_ratio(self.n * self._difference_variance, self.n - 1.0))
        return self.bias - LIMITS * sd, self.bias + LIMITS * sd

    def icc21(self) -> Array:
        """ICC(2,1), two-way random effects, absolute agreement, single measurement.

        Shrout & Fleiss, Psychol Bull 1979;86:420, with two raters: the map and the reference.
        """
        n = self.n
        rows = _ratio(n * (self.var_x + self.var_y + 2.0 * self.cov) / 2.0, n - 1.0)
        error = _ratio(n * self._difference_variance / 2.0, n - 1.0)
        columns = n * self.bias**2 / 2.0
        return _ratio(rows - error, rows + error + 2.0 * (columns - error) / np.maximum(n, 1.0))

    def ccc(self) -> Array:
        """Concordance correlation coefficient with population moments (Lin, Biometrics 1989;45:255)."""
        return _ratio(2.0 * self.cov, self.var_x + self.var_y + self.bias**2)

    def deming_slope(self) -> Array:
        """Slope of x on y where both have errors of equal variance (Deming regression)."""
        gap = self.var_x - self.var_y
        return _ratio(gap + np.sqrt(gap**2 + 4.0 * self.cov**2), 2.0 * self.cov)


def spearman(x: Array, y: Array, weights: Array) -> Array:
    """Spearman's rank correlation, midranks formed anew under each set of integer weights.

    Args:
        x: float (N,).
        y: float (N,).
        weights: float (…, N), how often each pair counts.

    Returns:
        float (…): NaN for fewer than two pairs or where one side is constant.
    """
    known = np.isfinite(x) & np.isfinite(y)
    w = np.asarray(weights, dtype=np.float64)[..., known]
    rx, ry = _midranks(x[known], w), _midranks(y[known], w)
    n = w.sum(axis=-1)
    middle = (n[..., None] + 1.0) / 2.0
    dx, dy = rx - middle, ry - middle
    above = (w * dx * dy).sum(axis=-1)
    below = np.sqrt((w * dx * dx).sum(axis=-1) * (w * dy * dy).sum(axis=-1))
    return _ratio(above, below)


def _midranks(values: Array, weights: Array) -> Array:
    """Midrank of each value in the multiset where value i occurs w_i times, (…, N)."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if ranked.size else np.zeros(0, dtype=int)
    if starts.size == 0:
        return np.zeros(weights.shape)
    at = np.add.reduceat(weights[..., order], starts, axis=-1)
    below = np.cumsum(at, axis=-1) - at
    group = np.repeat(np.arange(starts.size), np.diff(np.r_[starts, ranked.size]))
    ranks = np.empty(weights.shape)
    ranks[..., order] = (below + (at + 1.0) / 2.0)[..., group]
    return ranks


def _ratio(above: Array, below: Array) -> Array:
    """Quotient, NaN where the denominator is 0 or undefined."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    usable = np.isfinite(below) & (np.abs(below) > 1e-15)
    return np.where(usable, above / np.where(usable, below, 1.0), np.nan)
