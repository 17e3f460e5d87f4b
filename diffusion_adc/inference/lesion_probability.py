"""Is a region that a map calls a lesion really one? Its share of draws, recalibrated on validation regions.

The share of the draws in which a region is present is a probability only if the draws are honest. Two numbers fitted
on validation cases mend what a monotone map can mend: ``p' = σ(a · logit(p) + b)`` (Platt, Advances in Large Margin
Classifiers 1999), fitted with his smoothed targets, because a few dozen regions may be perfectly separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from diffusion_adc.inference.lesions import HIT_SHARE

MIN_REGIONS: Final = 20
"""Fewer validation regions, or none of one kind, fit nothing."""

_EDGE: Final = 0.02
"""Shares of 0 and 1 come from a finite number of draws; no logit is taken nearer to them than this."""


def held_shares(
    labels: NDArray[np.integer], count: int, presences: NDArray[np.generic]
) -> NDArray[np.float64]:
    """Share of every region's voxels that each presence holds, (N, D).

    Args:
        labels: int (I, J, K), region numbers from 1.
        count: Number of regions N; one without a voxel has share 0.
        presences: (I, J, K, D), non-zero where present.
    """
    inside = np.flatnonzero(labels.ravel() > 0)
    numbers = labels.ravel()[inside].astype(np.int64) - 1
    voxels = np.bincount(numbers, minlength=count)
    held = np.zeros((count, presences.shape[-1]))
    flat = presences.reshape(-1, presences.shape[-1])[inside]
    for d in range(presences.shape[-1]):
        held[:, d] = np.bincount(numbers[flat[:, d] != 0], minlength=count)
    return held / np.maximum(voxels, 1)[:, None]


def said_of(
    labels: NDArray[np.integer],
    count: int,
    draws: NDArray[np.generic] | None,
    probability: NDArray[np.floating],
) -> NDArray[np.float64]:
    """(count,) probability that a map gives each region: the share of its draws that hold `HIT_SHARE` of it, or,
    without draws, the highest probability inside.

    Args:
        labels: int (I, J, K), regions numbered from 1.
        count: Number of regions.
        draws: (I, J, K, D); None without any.
        probability: (I, J, K) in [0, 1].
    """
    if draws is not None:
        return (held_shares(labels, count, draws) >= HIT_SHARE).mean(axis=1)
    said = np.zeros(count)
    inside = labels > 0
    np.maximum.at(said, labels[inside] - 1, probability[inside].astype(np.float64))
    return said


@dataclass(frozen=True)
class RegionOutcomes:
    """Regions of one map, called lesions or not.

    Attributes:
        probability: float64 (N,), what the map says of each region.
        meets: float64 (N,), share of the readers one of whose lesions it meets.
    """

    probability: NDArray[np.float64]
    meets: NDArray[np.float64]


def region_outcomes(
    labels: NDArray[np.integer],
    count: int,
    readings: Sequence[NDArray[np.bool_]],
    draws: NDArray[np.generic] | None,
    probability: NDArray[np.floating],
) -> RegionOutcomes:
    """What a map says of its regions, and whether readers agree.

    Args:
        labels: int (I, J, K), regions of the map numbered from 1.
        count: Number of regions.
        readings: bool (I, J, K) each.
        draws: (I, J, K, D): a region's probability is the share of the draws that hold at least 10 % of its voxels,
            as in the map's own lesion table; None: the highest probability inside it.
        probability: (I, J, K) in [0, 1].
    """
    meets = (held_shares(labels, count, np.stack(readings, axis=-1)) > 0).mean(axis=1)
    said = said_of(labels, count, draws, probability)
    return RegionOutcomes(said.astype(np.float64), meets.astype(np.float64))


@dataclass(frozen=True)
class PlattFit:
    """A fitted recalibration.

    Attributes:
        slope: a.
        intercept: b.
        regions: How many regions it was fitted on.
        ece_before: Their calibration error as drawn.
        ece_after: The same with every case left out of the fit in turn of ten, so that it is no in-sample figure.
    """

    slope: float
    intercept: float
    regions: int
    ece_before: float
    ece_after: float

    def __call__(self, probability: NDArray[np.floating]) -> NDArray[np.float64]:
        """Recalibrated probabilities of the same shape."""
        return _platt(np.asarray(probability, dtype=np.float64), self.slope, self.intercept)


def fit_platt(cases: Sequence[RegionOutcomes]) -> PlattFit | None:
    """Fit on the regions of validation cases; None where there are too few to say anything."""
    p = np.concatenate([case.probability for case in cases] or [np.zeros(0)])
    y = np.concatenate([case.meets for case in cases] or [np.zeros(0)])
    if p.size < MIN_REGIONS or not 0.0 < y.sum() < y.size:
        return None
    fold = np.concatenate([np.full(case.probability.size, n % 10) for n, case in enumerate(cases)])
    held_out = np.zeros(p.size)
    for number in np.unique(fold):
        rest = fold != number
        found = _maximum_likelihood(p[rest], y[rest]) if 0.0 < y[rest].sum() < rest.sum() else (1.0, 0.0)
        held_out[~rest] = _platt(p[~rest], *found)
    slope, intercept = _maximum_likelihood(p, y)
    return PlattFit(slope, intercept, int(p.size), calibration_gap(p, y), calibration_gap(held_out, y))


def calibration_gap(probability: NDArray[np.float64], outcome: NDArray[np.float64], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins (Guo et al., ICML 2017); NaN without a region."""
    if probability.size == 0:
        return float("nan")
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(index, weights=probability - outcome, minlength=bins)
    return float(np.abs(gap).sum() / probability.size)


def _platt(p: NDArray[np.float64], slope: float, intercept: float) -> NDArray[np.float64]:
    return np.asarray(expit(slope * logit(np.clip(p, _EDGE, 1.0 - _EDGE)) + intercept))


def _maximum_likelihood(p: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    x = logit(np.clip(p, _EDGE, 1.0 - _EDGE))
    positive, negative = float(y.sum()), float((1.0 - y).sum())
    target = y * (positive + 1.0) / (positive + 2.0) + (1.0 - y) / (negative + 2.0)

    def loss(ab: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = ab[0] * x + ab[1]
        slope = expit(z) - target
        return float((np.logaddexp(0.0, z) - target * z).sum()), np.array([(slope * x).sum(), slope.sum()])

    # A higher share of draws must never mean a lower probability.
    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, None), (None, None)]
    )
    return float(found.x[0]), float(found.x[1])
