"""Are the probabilities and the intervals honest? Brier, ECE, CRPS, interval coverage, PIT, repeatability.

Draws of a scalar (here the total diffusion volume, mL) are float (K,). A reader's map is one draw of the
truth, so that a score against several readers is the mean of the scores against each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

ECE_BINS: Final = 15
"""Equal-width bins of the expected calibration error (Guo et al., ICML 2017)."""


@dataclass(frozen=True)
class Reliability:
    """Sums over the scored voxels of one case, from which Brier score and ECE of any pooling follow.

    Attributes:
        voxels: float64 (bins,), voxels whose probability falls in the bin.
        probability: float64 (bins,), sum of their probabilities.
        present: float64 (bins,), how many of them are present in the reference.
        squared_error: Sum of (probability − presence)² over all of them.
    """

    voxels: NDArray[np.float64]
    probability: NDArray[np.float64]
    present: NDArray[np.float64]
    squared_error: float


def scored_region(
    reference: NDArray[np.bool_], presence: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Foreground region of the calibration scores, bool (I, J, K).

    The union of reference and prediction, dilated by one voxel in all 26 directions, without voxels whose
    ADC is not valid: over a whole volume 99.9 % easy background would make any probability look honest.
    """
    union = reference | presence
    if not union.any():
        return union
    return np.asarray(ndimage.binary_dilation(union, np.ones((3, 3, 3), dtype=bool)) & valid)


def reliability(
    probability: NDArray[np.floating],
    reference: NDArray[np.bool_],
    region: NDArray[np.bool_],
    bins: int = ECE_BINS,
) -> Reliability:
    """Collect the sums of one case inside ``region``; all (I, J, K), probability in [0, 1]."""
    p = probability[region].astype(np.float64)
    y = reference[region].astype(np.float64)
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    return Reliability(
        voxels=np.bincount(index, minlength=bins).astype(np.float64),
        probability=np.bincount(index, weights=p, minlength=bins).astype(np.float64),
        present=np.bincount(index, weights=y, minlength=bins).astype(np.float64),
        squared_error=float(np.square(p - y).sum()),
    )


def brier_score(sums: Reliability) -> float:
    """Mean squared difference of probability and presence (Brier 1950); NaN without a scored voxel."""
    voxels = float(sums.voxels.sum())
    return sums.squared_error / voxels if voxels else float("nan")


def expected_calibration_error(
    voxels: NDArray[np.float64], probability: NDArray[np.float64], present: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``ECE = Σ_b n_b/n · |mean probability_b − frequency_b|`` from sums per bin (Guo et al., ICML 2017).

    Args:
        voxels: float (…, bins), voxels per bin; the other two alike.
        probability: Sum of the probabilities per bin.
        present: Number of present voxels per bin.

    Returns:
        float (…): NaN where there is no voxel.
    """
    total = voxels.sum(axis=-1)
    gap = np.abs(probability - present).sum(axis=-1)
    return np.where(total > 0, gap / np.where(total > 0, total, 1.0), np.nan)


def fair_crps(draws: NDArray[np.floating], observed: float) -> float:
    """Continuous ranked probability score of an ensemble, unbiased for its size; unit of the draws.

    ``CRPS = 1/K Σ|x_k − y| − 1/(2K(K−1)) Σ_k Σ_l |x_k − x_l|`` (fair version: Ferro, Q J R Meteorol Soc
    2014;140:1917; Zamo & Naveau, Math Geosci 2018;50:209). Its expectation is the score of
    the distribution the draws come from, so that methods with different K compare; a single case's value
    may be slightly negative. The double sum is 2 Σ (2i − K − 1) x_(i) over the ordered draws.

    Args:
        draws: float (K,).
        observed: The reference's value.

    Returns:
        NaN for fewer than two draws, whose spread is unknown.
    """
    x = np.sort(np.asarray(draws, dtype=np.float64))
    k = x.size
    if k < 2:
        return float("nan")
    spread = float(((2 * np.arange(1, k + 1) - k - 1) * x).sum()) / (k * (k - 1))
    return float(np.abs(x - observed).mean()) - spread


def randomized_pit(draws: NDArray[np.floating], observed: float, uniform: float) -> float:
    """Probability integral transform of the observation among the draws, randomized over ranks and ties.

    ``(#{x_k < y} + U · (1 + #{x_k = y})) / (K + 1)`` with U uniform on (0, 1): exactly uniform if the
    observation is exchangeable with the draws, ties (empty maps) included (Czado, Gneiting & Held,
    Biometrics 2009;65:1254, applied to ranks).

    Args:
        draws: float (K,).
        observed: The reference's value.
        uniform: One uniform random number, given by the caller so that the result can be repeated.
    """
    x = np.asarray(draws, dtype=np.float64)
    below, equal = int((x < observed).sum()), int((x == observed).sum())
    return (below + uniform * (1 + equal)) / (x.size + 1)


def split_half_variation(draws: NDArray[np.floating]) -> float:
    """Squared coefficient of variation between two disjoint halves of the draws of one case.

    Each half's estimate is its median, the quantity that is reported; the standard deviation of two
    values is |a − b|/√2. The root of the mean over cases is the within-case coefficient of variation
    wCV as defined for repeatability (Raunig et al., Stat Methods Med Res 2015;24:27). A half holds K/2
    draws; the middle one of an odd number is left out.

    Returns:
        NaN for fewer than two draws or where both halves are 0.
    """
    x = np.asarray(draws, dtype=np.float64)
    half = x.size // 2
    if half == 0:
        return float("nan")
    a, b = float(np.median(x[:half])), float(np.median(x[x.size - half :]))
    if a + b == 0:
        return float("nan")
    return 2.0 * (a - b) ** 2 / (a + b) ** 2


def exact_binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper & Pearson, Biometrika 1934;26:404).

    Raises:
        ValueError: No trial, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    tail = (1.0 - confidence) / 2.0
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1.0 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)
