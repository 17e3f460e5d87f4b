"""Scores of a case's draws: TDV and global ADC against every reader, whole draws against whole readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import calibration
from diffusion_adc.evaluation.reference import ARMS, Reference
from diffusion_adc.inference.conformal import IntervalFit
from diffusion_adc.inference.intervals import order_statistic_interval

NAN = float("nan")


@dataclass(frozen=True)
class DrawScores:
    """Scores of the draws' TDV (mL) against every reader.

    Attributes:
        median, low, high: Median and order-statistic interval of the draws, mL.
        crps: Fair CRPS, mean over readers, mL.
        covered: Share of the readers inside the interval.
        informative: Share of the readers for whom interval or reading is not simply zero.
        informative_covered: Share of the readers that are both informative and covered.
        half_variation: Squared coefficient of variation between halves of the draws.
        pit: Randomized PIT of each reader.
        gadc_low, gadc_high: Order-statistic interval of the draws' global ADC, 1e-3 mm²/s; NaN if none holds tumor.
        gadc_crps: Fair CRPS of it, mean over the readers whose map holds tumor.
        gadc_covered: Share of those readers inside the interval.
        energy_distance: Generalized energy distance between draws and readings.
    """

    median: float
    low: float
    high: float
    crps: float
    covered: float
    informative: float
    informative_covered: float
    half_variation: float
    pit: tuple[float, ...]
    gadc_low: float
    gadc_high: float
    gadc_crps: float
    gadc_covered: float
    energy_distance: float


@dataclass(frozen=True)
class Recalibrated:
    """Recalibrated 80 % intervals of a method, with or without draws.

    Attributes:
        tdv_low, tdv_high: mL; NaN without a recalibration.
        tdv_covered: Share of the readers inside.
        tdv_first_covered: Whether the first reader is inside, 0 or 1: one yes or no per case for the exact interval.
        gadc_low, gadc_high: 1e-3 mm²/s.
        gadc_covered: Share of the readers whose map holds tumor inside.
    """

    tdv_low: float = NAN
    tdv_high: float = NAN
    tdv_covered: float = NAN
    tdv_first_covered: float = NAN
    gadc_low: float = NAN
    gadc_high: float = NAN
    gadc_covered: float = NAN


def draw_volumes(
    draws: NDArray[np.generic], valid: NDArray[np.bool_], voxel_ml: float
) -> NDArray[np.float64]:
    """TDV in mL of each draw, (I, J, K, D) → (D,), over the valid voxels."""
    return np.count_nonzero(draws[valid], axis=0) * voxel_ml


def draw_gadc(draws: NDArray[np.generic], adc: NDArray[np.floating]) -> NDArray[np.float64]:
    """Global ADC of each draw, (V, D) over voxels and their ADC (V,) → (D,), 1e-3 mm²/s; NaN for an empty draw."""
    values = adc.astype(np.float64)
    kept = [values[draws[:, d] != 0] for d in range(draws.shape[-1])]
    return np.array([np.median(v) if v.size else np.nan for v in kept], dtype=np.float64)


def energy_distance(draws: NDArray[np.generic], readings: Sequence[NDArray[np.bool_]]) -> float:
    """Squared generalized energy distance between draws and readings with d = 1 − IoU.

    ``2 E d(S, Y) − E d(S, S′) − E d(Y, Y′)`` (Székely & Rizzo, J Stat Plan Inference 2013;143:1249; Kohl et al.,
    NeurIPS 2018). S and S′ are different draws, Y and Y′ different readings, so that it is 0 on average where both
    come from one law, and may be slightly negative. Two empty maps have distance 0.

    Args:
        draws: (I, J, K, D), at least two.
        readings: bool (I, J, K) each, at least two.

    Returns:
        NaN for fewer than two draws or readings.
    """
    if draws.shape[-1] < 2 or len(readings) < 2:
        return NAN
    near = (draws != 0).any(axis=-1) | np.logical_or.reduce(list(readings))
    if not near.any():
        return 0.0
    s = (draws[near] != 0).astype(np.float32)
    y = np.stack([reading[near] for reading in readings], axis=-1).astype(np.float32)
    both = np.concatenate([s, y], axis=1)
    shared = (both.T @ both).astype(np.float64)
    size = np.diag(shared)
    union = size[:, None] + size[None, :] - shared
    distance = np.where(union > 0, 1.0 - shared / np.where(union > 0, union, 1.0), 0.0)
    k, r = s.shape[1], y.shape[1]
    across = distance[:k, k:].mean()
    within = distance[:k, :k].sum() / (k * (k - 1))
    among = distance[k:, k:].sum() / (r * (r - 1))
    return float(2.0 * across - within - among)


def score_draws(
    draws: NDArray[np.generic], reference: Reference, uniforms: Sequence[float]
) -> DrawScores | None:
    """Scores of draws (I, J, K, D) on the case's grid; None for fewer than two.

    Args:
        draws: Non-zero where present.
        reference: The case.
        uniforms: One uniform random number per reader, for the randomized PIT.
    """
    if draws.shape[-1] < 2:
        return None
    tdv = draw_volumes(draws, reference.valid, reference.voxel_ml)
    low, high, _ = order_statistic_interval(tdv)
    readers = reference.tdv_ml
    covered = [low <= r <= high for r in readers]
    informative = [high > 0 or r > 0 for r in readers]
    near = reference.valid & (draws != 0).any(axis=-1)
    gadc = draw_gadc(draws[near], reference.adc[near])
    known = gadc[np.isfinite(gadc)]
    gadc_low, gadc_high = (NAN, NAN) if known.size == 0 else order_statistic_interval(known)[:2]
    readings = [r for r in reference.gadc if np.isfinite(r)] if known.size else []
    return DrawScores(
        median=float(np.median(tdv)),
        low=low,
        high=high,
        crps=mean_known([calibration.fair_crps(tdv, r) for r in readers]),
        covered=mean_known(covered),
        informative=mean_known(informative),
        informative_covered=mean_known([c and i for c, i in zip(covered, informative, strict=True)]),
        half_variation=calibration.split_half_variation(tdv),
        pit=tuple(calibration.randomized_pit(tdv, r, u) for r, u in zip(readers, uniforms, strict=True)),
        gadc_low=gadc_low,
        gadc_high=gadc_high,
        gadc_crps=mean_known([calibration.fair_crps(known, r) for r in readings]),
        gadc_covered=mean_known([gadc_low <= r <= gadc_high for r in readings]),
        energy_distance=energy_distance(draws, reference.readings),
    )


def recalibrated(
    tdv: NDArray[np.float64],
    gadc: NDArray[np.float64],
    reference: Reference,
    tdv_fit: IntervalFit | None,
    gadc_fit: IntervalFit | None,
) -> Recalibrated:
    """Recalibrated intervals of a case and which readers they hold; from draws (D,) or a point forecast (1,)."""
    tdv_low, tdv_high = (NAN, NAN) if tdv_fit is None else tdv_fit.interval(tdv)
    gadc_low, gadc_high = (NAN, NAN) if gadc_fit is None else gadc_fit.interval(gadc)
    # Ends pass through a logarithm and back: a reading on one of them is inside.
    room = 1e-9
    inside = [tdv_low - room <= r <= tdv_high + room for r in reference.tdv_ml] if tdv_fit else []
    holds = np.isfinite(gadc_low)
    of_adc = [gadc_low <= r <= gadc_high for r in reference.gadc if np.isfinite(r)] if holds else []
    return Recalibrated(
        tdv_low=tdv_low,
        tdv_high=tdv_high,
        tdv_covered=mean_known(inside),
        tdv_first_covered=float(inside[0]) if inside else NAN,
        gadc_low=gadc_low,
        gadc_high=gadc_high,
        gadc_covered=mean_known(of_adc),
    )


def arm_crps(
    reference: Reference, presence: NDArray[np.bool_], draws: NDArray[np.generic] | None
) -> NDArray[np.float64]:
    """CRPS of the volume near the lesions of each kind of planted ambiguity, (len(ARMS),) mL, mean over readers.

    Near means: within 10 mm of such a lesion and no nearer to a lesion of another kind. What else is in the case
    cannot drown what is asked here. Without draws it is the absolute error, the CRPS of a point forecast.

    Args:
        reference: The case.
        presence: bool (I, J, K), the map.
        draws: (I, J, K, D), at least two; or None.

    Returns:
        NaN for a kind the case does not have.
    """
    zones = reference.arm_zones
    out = np.full(len(ARMS), NAN)
    for n in range(len(ARMS)):
        zone = np.flatnonzero(zones.ravel() == n + 1)
        if zone.size == 0:
            continue
        readings = [float(r.ravel()[zone].sum()) * reference.voxel_ml for r in reference.readings]
        if draws is None:
            volume = float(presence.ravel()[zone].sum()) * reference.voxel_ml
            out[n] = mean_known([abs(volume - r) for r in readings])
        else:
            drawn = np.count_nonzero(draws.reshape(-1, draws.shape[-1])[zone], axis=0) * reference.voxel_ml
            out[n] = mean_known([calibration.fair_crps(drawn, r) for r in readings])
    return out


def mean_known(values: Sequence[float]) -> float:
    """Mean over the values that are defined (readers for whom it is); NaN if there are none."""
    known = [float(v) for v in values if np.isfinite(v)]
    return sum(known) / len(known) if known else NAN
