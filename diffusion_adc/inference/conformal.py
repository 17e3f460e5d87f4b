"""Intervals and a lesion threshold that keep their promise, by split conformal prediction on validation cases.

The validation persons are parted in two (`halves`): the first half fixes thresholds, temperature and the line below;
the second, which took no part in that, fixes how far an interval must be widened and which threshold keeps the miss
rate. A promise holds on average over cases exchangeable with the second half, whatever the model is worth.

Intervals. Draws of a scalar are shifted by the bias of the first half; their order-statistic interval is then widened
(or narrowed) at both ends by the quantile of the conformity score ``max(low − y, y − high)`` over the second half
(Romano, Patterson & Candès, NeurIPS 2019). A volume may be treated on a linear, a square-root or a logarithmic scale;
the first half says which gives the narrowest intervals. Several readers of a case are pooled with equal weights (Dunn,
Wasserman & Ramdas, J Am Stat Assoc 2023;118:2491). A method without draws has its point forecast for both ends.

A line in place of the shift, and a margin in proportion to the draws' own spread, gave wider intervals on validation
cases of the pelvis; the logarithm alone gave intervals twice as wide, because every tumor-free case with a few specks
is far off on it.

Miss rate. The highest peak probability at which ``n/(n+1) · R + 1/(n+1) ≤ α``, R being the mean over the n cases with
tumor of the share of the readers' lesions whose peak lies below it (Angelopoulos et al., ICLR 2024).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_adc.domain.case import Case
from diffusion_adc.inference.intervals import COVERAGE, order_statistic_interval
from diffusion_adc.inference.threshold import TDV_OFFSET_ML

MIN_PERSONS: Final = 12
"""With fewer validation persons all of them fix the thresholds, and nothing is recalibrated."""

MISS_RATE: Final = 0.1
"""Share of a case's lesions that may be missed on average at the controlled threshold."""

SCALES: Final = ("linear", "sqrt", "log")
"""Scales of a volume; the global ADC is linear."""

MIN_CASES: Final = 8
"""Fewer cases of the first half choose no scale and no shift."""


def halves(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Part validation cases by person: those that fix thresholds, and those that recalibrate.

    Persons with and without tumor are each put in the order of the SHA-256 of their research ID and dealt out in
    turn, so that both halves hold their share of either, whatever the order of the cohort's table. With fewer than
    `MIN_PERSONS` persons the second half is empty.
    """
    with_tumor: dict[str, bool] = {}
    for case in cases:
        with_tumor[case.research_id] = (
            with_tumor.get(case.research_id, False) or case.tumor_status != "absent"
        )
    if len(with_tumor) < MIN_PERSONS:
        return list(cases), []
    order = sorted(with_tumor, key=lambda p: (not with_tumor[p], hashlib.sha256(p.encode()).hexdigest()))
    first = set(order[::2])
    return (
        [case for case in cases if case.research_id in first],
        [case for case in cases if case.research_id not in first],
    )


@dataclass(frozen=True)
class Forecast:
    """What a method says of a scalar in one validation case, and what readers found.

    Attributes:
        draws: float64 (K,), one value per draw, or the point forecast alone; NaN where undefined.
        readings: float64 (R,), one per reader; NaN where undefined.
    """

    draws: NDArray[np.float64]
    readings: NDArray[np.float64]


@dataclass(frozen=True)
class IntervalFit:
    """How the 80 % interval of a scalar is recalibrated.

    Attributes:
        scale: `SCALES`: ``linear``, ``sqrt`` or ``log`` of value + 0.1.
        shift: What is added to every draw on that scale.
        margin: What is added at both ends, on that scale; negative narrows.
        cases: Validation cases behind the margin.
    """

    scale: str
    shift: float
    margin: float
    cases: int

    def interval(self, draws: ArrayLike) -> tuple[float, float]:
        """Recalibrated interval from a case's draws (K,) or point forecast (1,), in its unit; NaN without any."""
        found = _ends(np.asarray(draws, dtype=np.float64).ravel())
        return (float("nan"), float("nan")) if found is None else self.around(*found)

    def around(self, low: float, high: float) -> tuple[float, float]:
        """The same from the ends of the draws' order-statistic interval. No end lies below 0."""
        ends = _to_scale(np.array([low, high]), self.scale) + self.shift
        bottom, top = float(ends[0]) - self.margin, float(ends[1]) + self.margin
        if bottom > top:  # narrowed past its own middle
            bottom = top = 0.5 * (bottom + top)
        return _from_scale(bottom, self.scale), _from_scale(top, self.scale)

    def score(self, forecast: Forecast) -> NDArray[np.float64]:
        """Conformity score of every reading that is defined, on the fit's scale; empty where there is no forecast."""
        found = _ends(forecast.draws)
        readings = _to_scale(forecast.readings[np.isfinite(forecast.readings)], self.scale)
        if found is None or readings.size == 0:
            return np.zeros(0)
        low, high = _to_scale(np.array(found), self.scale) + self.shift
        return np.maximum(low - readings, readings - high)


def fit_interval(
    first: Sequence[Forecast],
    second: Sequence[Forecast],
    scales: Sequence[str] = SCALES,
    coverage: float = COVERAGE,
) -> IntervalFit | None:
    """Fit scale, shift and margin.

    Args:
        first: Cases that fix the scale and the shift. Of the scales the one is taken on which these cases would be
            covered with the smallest mean width; with fewer than `MIN_CASES` of them the first scale and no shift.
        second: Cases that fix the margin.
        scales: Candidates.
        coverage: Wanted coverage.

    Returns:
        None where the second half is too small to promise the coverage (4 cases for 80 %).
    """
    best, narrowest = IntervalFit(scales[0], 0.0, 0.0, 0), np.inf
    usable = [case for case in first if np.isfinite(case.draws).any() and np.isfinite(case.readings).any()]
    for scale in scales if len(usable) >= MIN_CASES else ():
        residuals = [_residual(case, scale) for case in usable]
        shifted = IntervalFit(scale, float(np.median(residuals)), 0.0, 0)
        margin = _margin([shifted.score(case) for case in usable], coverage)
        if margin is None:
            continue
        trial = IntervalFit(scale, shifted.shift, margin, 0)
        width = float(np.mean([high - low for low, high in (trial.interval(case.draws) for case in usable)]))
        if width < narrowest:
            best, narrowest = shifted, width
    scores = [score for score in (best.score(case) for case in second) if score.size]
    margin = _margin(scores, coverage)
    return None if margin is None else IntervalFit(best.scale, best.shift, margin, len(scores))


def _margin(scores: Sequence[NDArray[np.float64]], coverage: float) -> float | None:
    """Quantile of pooled scores at ``coverage · (n + 1)/n``, each case weighing the same; None if that exceeds 1."""
    n = len(scores)
    level = coverage * (n + 1) / max(n, 1)
    if n == 0 or level > 1.0:
        return None
    values = np.concatenate(list(scores))
    weights = np.concatenate([np.full(score.size, 1.0 / (n * score.size)) for score in scores])
    order = np.argsort(values, kind="stable")
    place = int(np.searchsorted(np.cumsum(weights[order]), level - 1e-9))
    return float(values[order][min(place, values.size - 1)])


def _residual(case: Forecast, scale: str) -> float:
    readings = _to_scale(case.readings[np.isfinite(case.readings)], scale)
    return float(readings.mean() - np.median(_to_scale(case.draws[np.isfinite(case.draws)], scale)))


def _ends(draws: NDArray[np.float64]) -> tuple[float, float] | None:
    """Order-statistic interval of the draws that are defined; None without any."""
    known = draws[np.isfinite(draws)]
    return order_statistic_interval(known)[:2] if known.size else None


def _to_scale(values: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    if scale == "log":
        return np.asarray(np.log(values + TDV_OFFSET_ML))
    return np.asarray(np.sqrt(values)) if scale == "sqrt" else values


def _from_scale(value: float, scale: str) -> float:
    if scale == "log":
        return max(0.0, float(np.exp(value)) - TDV_OFFSET_ML)
    return max(0.0, value) ** 2 if scale == "sqrt" else max(0.0, value)


def controlled_threshold(
    peaks: Sequence[Sequence[NDArray[np.float64]]], levels: ArrayLike, miss_rate: float = MISS_RATE
) -> tuple[float, float] | None:
    """The highest threshold whose expected miss rate is controlled.

    Args:
        peaks: Per validation case and reader, the highest probability inside each lesion, (L,). Readers without a
            lesion, and cases in which all are such, do not count.
        levels: (M,) ascending candidates.
        miss_rate: α.

    Returns:
        Threshold and the share missed there on these cases; None where no candidate can promise α.
    """
    losses: list[NDArray[np.float64]] = []
    candidates = np.asarray(levels, dtype=np.float64)
    for readers in peaks:
        shares = [(lesions[:, None] < candidates[None]).mean(axis=0) for lesions in readers if lesions.size]
        if shares:
            losses.append(np.mean(shares, axis=0))
    n = len(losses)
    if n == 0:
        return None
    risk = np.mean(losses, axis=0)
    allowed = np.flatnonzero((n * risk + 1.0) / (n + 1) <= miss_rate + 1e-12)
    if allowed.size == 0:
        return None
    best = int(allowed[-1])
    return float(candidates[best]), float(risk[best])
