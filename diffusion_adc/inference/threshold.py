"""What is fixed on validation cases and nowhere else: the thresholds τ and the base head's temperature.

A map for cancer search must not lose tumor that today's practice keeps. So a threshold must keep at least as much
of the readers' tumor volume as the clinical rule does, pooled over the validation cases; among those the one with
the best Dice is taken, a missed tumor counting 0, averaged over the cases with tumor and within a case over the
readers who kept any. (The mean over cases, not the pooled voxels: one large tumor would decide.) Among thresholds
within `TIE` of the best the one with the smallest bias of log-TDV over *all* cases is taken, because there
tumor-free cases speak up. Where no threshold keeps as much as the rule, or a cohort has no high-b image for it, the
best Dice alone decides. Every method is judged at a threshold chosen this one way.

Tried before: the best Dice alone. It cut 98 % of the rule's false-positive volume but lost a quarter of the tumor
volume that the rule keeps. Giving tumor-free cases a score of their own (1 for an empty map, 1/2 for 1 mL of false
tumor): with a weak model and a third of the readings empty the best map was nearly always the empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from diffusion_adc.domain.errors import CohortError

TDV_OFFSET_ML: Final = 0.1
"""Offset of the logarithm of TDV, so that tumor-free cases have a finite error."""
TIE: Final = 0.01
"""Thresholds whose criterion differs by less are equal: a few dozen cases cannot tell them apart."""
BASE_LOGITS: Final = tuple(round(0.1 * n, 1) for n in range(-80, 81))
"""Candidate thresholds of the base head, as logits before the temperature, which keeps their order."""

_LOGIT_EDGES: Final = np.linspace(-40.0, 40.0, 3201)
_TEMPERATURES: Final = (0.1, 10.0)


def draw_thresholds(n_draws: int) -> tuple[float, ...]:
    """Candidate thresholds of a mean of K draws: half way between its K + 1 possible values."""
    return tuple((k - 0.5) / n_draws for k in range(1, n_draws + 1))


@dataclass(frozen=True)
class CaseCurve:
    """One validation case at every candidate threshold (M,); volumes in mL.

    Attributes:
        kept: float64 (M,), volume of the map.
        common: float64 (R, M), volume shared with each reading.
        reference: float64 (R,), volume of each reading.
        rule: float64 (R,), volume of each reading that the clinical rule keeps; None without a high-b image.
    """

    kept: NDArray[np.float64]
    common: NDArray[np.float64]
    reference: NDArray[np.float64]
    rule: NDArray[np.float64] | None = None


def case_curve(
    score: NDArray[np.floating],
    readings: Sequence[NDArray[np.bool_]],
    usable: NDArray[np.bool_],
    voxel_ml: float,
    thresholds: ArrayLike,
    rule: NDArray[np.bool_] | None = None,
) -> CaseCurve:
    """Measure one case at every threshold in one pass over its voxels.

    Args:
        score: (I, J, K), probability or logit.
        readings: Presence (I, J, K) of each reader, at least one.
        usable: bool (I, J, K), voxels with a valid ADC; the others do not count.
        voxel_ml: Volume of a voxel.
        thresholds: (M,) ascending.
        rule: bool (I, J, K), what the clinical rule keeps; None if it cannot be applied.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    above = np.flatnonzero(usable.ravel() & (score.ravel() >= levels[0]))
    passed = np.searchsorted(levels, score.ravel()[above].astype(np.float64), side="right")

    def volume(selection: NDArray[np.intp]) -> NDArray[np.float64]:
        counts = np.bincount(selection, minlength=levels.size + 1)[1:]
        return counts[::-1].cumsum()[::-1] * voxel_ml

    common = [volume(passed[reading.ravel()[above]]) for reading in readings]
    reference = [float(np.count_nonzero(reading & usable)) * voxel_ml for reading in readings]
    by_rule = None
    if rule is not None:
        by_rule = np.asarray([np.count_nonzero(reading & usable & rule) * voxel_ml for reading in readings])
    return CaseCurve(volume(passed), np.stack(common), np.asarray(reference), by_rule)


def choose_threshold(curves: Sequence[CaseCurve], thresholds: ArrayLike) -> tuple[float, float]:
    """The best threshold by the module's criterion.

    Args:
        curves: Of the validation cases.
        thresholds: (M,) ascending, those of the curves.

    Returns:
        Threshold and the criterion's mean there.

    Raises:
        CohortError: No case, or no case with tumor: nothing could be chosen.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    if not any(curve.reference.any() for curve in curves):
        raise CohortError(
            f"no tumor in {len(curves)} validation cases", "at least one validation case with tumor",
            "give a cohort whose validation split holds tumors",
        )  # fmt: skip
    score, bias = np.zeros(levels.size), np.zeros(levels.size)
    with_tumor = sum(bool(curve.reference.any()) for curve in curves)
    for curve in curves:
        reference = curve.reference[:, None]
        if curve.reference.any():
            dice = 2 * curve.common / np.maximum(curve.kept + reference, 1e-12)
            score += dice[curve.reference > 0].mean(axis=0) / with_tumor
        ratio = (curve.kept + TDV_OFFSET_ML) / (reference + TDV_OFFSET_ML)
        bias += np.log(ratio).mean(axis=0) / len(curves)
    allowed = _as_sensitive_as_the_rule(curves, levels.size)
    near = np.flatnonzero(allowed & (score >= score[allowed].max() - TIE))
    best = near[np.argmin(np.abs(bias[near]))]
    return float(levels[best]), float(score[best])


def _as_sensitive_as_the_rule(curves: Sequence[CaseCurve], levels: int) -> NDArray[np.bool_]:
    """Bool (M,): thresholds that keep as much of the readers' volume as the rule; all where none does."""
    ruled = [curve for curve in curves if curve.rule is not None]
    kept = sum((curve.common.sum(axis=0) for curve in ruled), np.zeros(levels))
    by_rule = sum(float(curve.rule.sum()) for curve in ruled if curve.rule is not None)
    allowed = np.asarray(kept >= by_rule)
    return allowed if allowed.any() else np.ones(levels, dtype=bool)


class TemperatureFit:
    """Temperature of the base head by maximum likelihood, from streamed cases.

    ``p = σ(logit / T)`` with one T > 0 (Guo et al., ICML 2017). Logits are kept as a histogram of bins of
    0.025, so that memory does not grow with the number of cases.
    """

    def __init__(self) -> None:
        self._voxels = np.zeros(_LOGIT_EDGES.size - 1)
        self._present = np.zeros(_LOGIT_EDGES.size - 1)

    def add(
        self, logit: NDArray[np.floating], readings: Sequence[NDArray[np.bool_]], usable: NDArray[np.bool_]
    ) -> None:
        """Add a case: logit, readings and usable voxels, all (I, J, K); each reader counts equally."""
        values = np.clip(logit[usable], _LOGIT_EDGES[0], _LOGIT_EDGES[-1])
        self._voxels += np.histogram(values, _LOGIT_EDGES)[0]
        for reading in readings:
            self._present += np.histogram(values[reading[usable]], _LOGIT_EDGES)[0] / len(readings)

    def temperature(self) -> float:
        """The fitted T in [0.1, 10]; 1 if no voxel, or none with or without tumor, was seen."""
        seen = self._voxels > 0
        present, voxels = self._present[seen], self._voxels[seen]
        if not 0 < present.sum() < voxels.sum():
            return 1.0
        logit = 0.5 * (_LOGIT_EDGES[:-1] + _LOGIT_EDGES[1:])[seen]

        def loss(log_temperature: float) -> float:
            x = logit * np.exp(-log_temperature)
            return float((voxels * np.logaddexp(0.0, x) - present * x).sum() / voxels.sum())

        low, high = np.log(_TEMPERATURES)
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
        return float(np.exp(found.x))
