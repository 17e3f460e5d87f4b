"""Detection scores of pooled cases: precision-recall and FROC curves, average precision, case AUROC.

Everything is a function of counts per threshold and case, so that a bootstrap over persons forms each score
anew from weighted sums. A score without a denominator (no lesion, no candidate, no tumor-free case) is NaN,
never 0 or 1.

Shapes: ``T`` thresholds in descending order, ``N`` cases, ``…`` any leading axes (bootstrap replicates).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FROC_RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per case at which the FROC curve is read (LUNA16's seven rates)."""


@dataclass(frozen=True)
class CurveCounts:
    """What each case adds to the curve at every confidence at which a lesion is found.

    Between two such thresholds only false positives are added: average precision has no step there, and no
    sensitivity is reached that the higher threshold does not reach with fewer false positives. So both are
    exact on these few points, however many candidates there are.

    Attributes:
        threshold: float64 (T,), descending.
        hits: float64 (N, T), lesions of the case found at or above the threshold.
        false_positives: float64 (N, T), its false positives at or above the threshold.
    """

    threshold: NDArray[np.float64]
    hits: NDArray[np.float64]
    false_positives: NDArray[np.float64]


def curve_counts(found: Sequence[NDArray[np.float64]], false: Sequence[NDArray[np.float64]]) -> CurveCounts:
    """Cumulative counts per case; candidates of equal confidence enter together.

    Args:
        found: Per case, the confidences credited to its found lesions.
        false: Per case, the confidences of its false positives.
    """
    threshold = np.unique(np.concatenate([*found, np.zeros(0)]))[::-1]

    def at_or_above(cases: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        table = np.zeros((len(cases), threshold.size))
        for row, confidence in zip(table, cases, strict=True):
            row[:] = confidence.size - np.searchsorted(np.sort(confidence), threshold, side="left")
        return table

    return CurveCounts(threshold, at_or_above(found), at_or_above(false))


def average_precision(
    hits: NDArray[np.float64], false_positives: NDArray[np.float64], lesions: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Average precision, the sum of precision × recall step over descending confidence.

    ``AP = Σ_t (R_t − R_{t−1}) · P_t``, the step-function integral of scikit-learn and picai_eval; lesions
    never found only limit the recall that is reached.

    Args:
        hits: float (…, T), cumulative hits.
        false_positives: float (…, T), cumulative false positives.
        lesions: float (…), reference lesions.

    Returns:
        float (…): NaN where there is no reference lesion, 0 where nothing was found.
    """
    lesions = np.asarray(lesions, dtype=np.float64)
    precision = hits / np.maximum(hits + false_positives, 1.0e-12)
    area = (precision * np.diff(hits, axis=-1, prepend=0.0)).sum(axis=-1)
    return np.where(lesions > 0, area / np.where(lesions > 0, lesions, 1.0), np.nan)


def froc(
    hits: NDArray[np.float64],
    false_positives: NDArray[np.float64],
    lesions: NDArray[np.float64] | float,
    cases: NDArray[np.float64] | float,
    rate: float,
) -> NDArray[np.float64]:
    """Lesion sensitivity at a number of false positives per case.

    The curve is read as a step function: the highest sensitivity reached without exceeding the rate.

    Args:
        hits: float (…, T), cumulative hits.
        false_positives: float (…, T), cumulative false positives.
        lesions: float (…), reference lesions.
        cases: float (…), number of cases.
        rate: False positives per case.

    Returns:
        float (…): NaN where there is no reference lesion.
    """
    lesions = np.asarray(lesions, dtype=np.float64)
    allowed = false_positives <= rate * np.asarray(cases, dtype=np.float64)[..., None] + 1.0e-9
    reached = np.where(allowed, hits, 0.0).max(axis=-1, initial=0.0)
    return np.where(lesions > 0, reached / np.where(lesions > 0, lesions, 1.0), np.nan)


def case_auroc(
    score: NDArray[np.floating], diseased: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Area under the ROC curve of the cases' scores, by the Mann–Whitney statistic (ties count half).

    Args:
        score: float (N,), highest candidate confidence of each case, 0 without candidates.
        diseased: bool (N,), True where the case has a reference lesion.
        weights: float (…, N), how often each case counts; once if left out.

    Returns:
        float (…): NaN where no case, or every case, with weight is diseased.
    """
    if weights is None:
        weights = np.ones(len(score))
    values = np.asarray(score, dtype=np.float64)
    above = np.heaviside(values[diseased][:, None] - values[~diseased][None, :], 0.5)
    positive, negative = weights[..., diseased], weights[..., ~diseased]
    won = ((positive @ above) * negative).sum(axis=-1)
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan)
