"""Intervals by resampling research IDs: percentile cluster bootstrap, vectorized over replicates.

The unit is the person: all examinations of a research ID enter a replicate together, as often as the ID
was drawn. Lesions and slices are never resampled as if they were independent. Two methods scored on the
same cases share the resampling weights, so that the difference of their replicates is a paired one.
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; Field & Welsh, JRSS B 2007;69:369.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

REPLICATES: Final = 2000

SMALLEST_DEFINED_SHARE: Final = 0.5
"""Below this share of defined replicates an interval would describe a selection, and none is given."""


@dataclass(frozen=True)
class Estimate:
    """A score and its replicates.

    Attributes:
        value: The score over all cases; NaN where undefined.
        replicates: float64 (R,), the score in every replicate; NaN where undefined there.
    """

    value: float
    replicates: NDArray[np.float64]

    def __sub__(self, other: Estimate) -> Estimate:
        """Paired difference; both must come from the same `Bootstrap`."""
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    @staticmethod
    def mean_of(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
        """Weighted mean replicate by replicate: of training seeds scored on the same cases, or of cohorts."""
        share = np.full(len(estimates), 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
        share = share / share.sum()
        value = sum(w * e.value for w, e in zip(share, estimates, strict=True))
        replicates = np.sum([w * e.replicates for w, e in zip(share, estimates, strict=True)], axis=0)
        return Estimate(float(value), np.asarray(replicates, dtype=np.float64))

    def summary(self) -> dict[str, float | None]:
        """``{value, low95, high95}`` with None for what is undefined.

        The interval runs from the 2.5th to the 97.5th percentile of the replicates in which the score is
        defined, and is withheld where those are fewer than half.
        """
        if not np.isfinite(self.value):
            return {"value": None, "low95": None, "high95": None}
        defined = self.replicates[np.isfinite(self.replicates)]
        if defined.size == 0 or defined.size < SMALLEST_DEFINED_SHARE * self.replicates.size:
            return {"value": float(self.value), "low95": None, "high95": None}
        low, high = np.percentile(defined, [2.5, 97.5])
        return {"value": float(self.value), "low95": float(low), "high95": float(high)}


class Bootstrap:
    """Resampling weights of one set of cases.

    Args:
        research_ids: Research ID of each case, (N,).
        replicates: Number of replicates R.
        seed: Seed of the resampling; the same IDs and seed give the same weights.

    Attributes:
        weights: float64 (R + 1, N): how often each case enters a replicate. Row 0 is the sample itself,
            so that value and replicates come from one formula.

    Raises:
        ValueError: If there are no cases or no replicates.
    """

    def __init__(self, research_ids: Sequence[str], replicates: int = REPLICATES, seed: int = 0) -> None:
        if not research_ids or replicates < 1:
            raise ValueError(f"{len(research_ids)} cases and {replicates} replicates: nothing to resample")
        _, cluster = np.unique(np.asarray(research_ids), return_inverse=True)
        clusters = int(cluster.max()) + 1
        rng = np.random.default_rng(np.random.SeedSequence([seed, clusters, replicates]))
        drawn = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=replicates)
        self.weights: NDArray[np.float64] = np.ones((replicates + 1, len(research_ids)))
        self.weights[1:] = drawn[:, cluster]

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Weighted sums of per-case values, (N,) or (N, F) → (R + 1,) or (R + 1, F)."""
        return np.asarray(self.weights @ np.asarray(values, dtype=np.float64))

    @staticmethod
    def estimate(scores: NDArray[np.floating]) -> Estimate:
        """Wrap scores computed from `sums`, float (R + 1,)."""
        return Estimate(float(scores[0]), np.asarray(scores[1:], dtype=np.float64))

    def ratio(self, numerator: NDArray[np.floating], denominator: NDArray[np.floating]) -> Estimate:
        """Ratio of sums, formed anew in every replicate; both (N,).

        A case with NaN in either is left out; a replicate whose denominator is 0 is undefined.
        """
        known = np.isfinite(numerator) & np.isfinite(denominator)
        above = self.sums(np.where(known, numerator, 0.0))
        below = self.sums(np.where(known, denominator, 0.0))
        return self.estimate(divide(above, below))

    def mean(self, values: NDArray[np.floating]) -> Estimate:
        """Mean over the cases in which the value is defined (not NaN), (N,)."""
        return self.ratio(values, np.where(np.isfinite(values), 1.0, np.nan))

    def median(self, values: NDArray[np.floating]) -> Estimate:
        """Median over the cases in which the value is defined, (N,), each counted as often as it was drawn."""
        known = np.isfinite(values)
        if not known.any():
            return self.estimate(np.full(self.weights.shape[0], np.nan))
        order = np.argsort(values[known], kind="stable")
        ranked = np.asarray(values, dtype=np.float64)[known][order]
        upto = np.cumsum(self.weights[:, known][:, order], axis=1)
        count = upto[:, -1:]
        # The two middle ones of an even number, the middle one twice of an odd number; whole numbers throughout.
        lower = (upto >= np.floor((count + 1) / 2)).argmax(axis=1)
        upper = (upto >= np.floor(count / 2) + 1).argmax(axis=1)
        middle = 0.5 * (ranked[lower] + ranked[upper])
        return self.estimate(np.where(count[:, 0] > 0, middle, np.nan))

    def total(self, values: NDArray[np.floating]) -> Estimate:
        """Sum over cases, (N,); NaN counts as 0."""
        return self.estimate(self.sums(np.where(np.isfinite(values), values, 0.0)))


def divide(numerator: NDArray[np.floating], denominator: NDArray[np.floating]) -> NDArray[np.float64]:
    """Elementwise quotient, NaN where the denominator is not positive."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.nan)


def bootstrap_p(difference: Estimate) -> float | None:
    """Two-sided p-value of no difference, from the replicates on either side of 0; None where undefined."""
    known = difference.replicates[np.isfinite(difference.replicates)]
    if known.size == 0 or not np.isfinite(difference.value):
        return None
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2.0 * (tail + 1) / (known.size + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None stays None and counts for nothing."""
    known = sorted((p, n) for n, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, n) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[n] = highest
    return corrected
