"""What is fixed on validation cases and nowhere else: the thresholds τ and the base head's temperature.

The criterion of a threshold is the mean Dice over the cases with tumor, a missed tumor counting 0, and within
a case over the readers who kept any. It is the Dice of the results table, so that no method is judged at a
threshold chosen for something else. The mean over cases is taken, not the pooled voxels, because one large
tumor would decide a pooled score. Among thresholds within `TIE` of the best the one with the smallest bias of
log-TDV over *all* cases is taken, because TDV is what is reported; there tumor-free cases speak up.

Giving tumor-free cases a score of their own in the criterion was tried (1 for an empty map, 1/2 for 1 mL of
false tumor): with a weak model and a third of the readings empty the best map was nearly always the empty one.
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
    """

    kept: NDArray[np.float64]
    common: NDArray[np.float64]
    reference: NDArray[np.float64]


def case_curve(
    score: NDArray[np.floating],
    readings: Sequence[NDArray[np.bool_]],
    usable: NDArray[np.bool_],
    voxel_ml: float,
    thresholds: ArrayLike,
) -> CaseCurve:
    """Measure one case at every threshold in one pass over its voxels.

    Args:
        score: (I, J, K), probability or logit.
        readings: Presence (I, J, K) of each reader, at least one.
        usable: bool (I, J, K), voxels with a valid ADC; the others do not count.
        voxel_ml: Volume of a voxel.
        thresholds: (M,) ascending.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    above = np.flatnonzero(usable.ravel() & (score.ravel() >= levels[0]))
    passed = np.searchsorted(levels, score.ravel()[above].astype(np.float64), side="right")

    def volume(selection: NDArray[np.intp]) -> NDArray[np.float64]:
        counts = np.bincount(selection, minlength=levels.size + 1)[1:]
        return counts[::-1].cumsum()[::-1] * voxel_ml

    common = [volume(passed[reading.ravel()[above]]) for reading in readings]
    reference = [float(np.count_nonzero(reading & usable)) * voxel_ml for reading in readings]
    return CaseCurve(volume(passed), np.stack(common), np.asarray(reference))


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
    near = np.flatnonzero(score >= score.max() - TIE)
    best = near[np.argmin(np.abs(bias[near]))]
    return float(levels[best]), float(score[best])


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
