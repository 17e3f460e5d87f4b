"""From one result per case to the scores of a method, each with its bootstrap interval.

Keys and units (`UNITS` holds them for tables):

- ``n_cases``: cases scored.
- ``dice``: mean over cases whose reader's map holds tumor; ``dice_all_cases`` counts empty maps too.
- ``lesion_sensitivity``, ``lesion_precision``, ``lesion_f1``, ``fp_per_case``: at the operating point,
  lesions and candidates of all cases pooled; ``lesion_ap``, ``froc_*``: over all confidences;
  ``case_auroc``: by the highest confidence of each case.
- ``fp_volume_ml``: mean per case; ``fp_volume_reduction_vs_B2``: 1 − ΣFP/ΣFP of the clinical rule;
  ``volume_sensitivity``: covered share of the pooled lesion volume; ``volume_sensitivity_vs_B2``: as a share of the
  clinical rule's.
- ``log_tdv_error``: mean of |ln((TDV + 0.1 mL)/(TDV_ref + 0.1 mL))|, tumor-free cases included;
  ``gadc_error``: mean absolute error in percent of the reader's gADC.
- ``value_violations``: voxels that are neither 0 nor the scanner's value, all cases together.
- ``brier``, ``ece``: over the voxels in (reader's map ∪ map at the operating point) dilated by one voxel,
  pooled over cases; the region is each method's own.
- from draws: ``tdv_crps`` (mL), ``tdv_coverage80`` and the same without cases in which interval and reading
  are zero (``tdv_coverage80_informative``), ``tdv_width80`` (mL), ``seed_cov_tdv`` (percent, root mean
  square coefficient of variation between two disjoint halves of the draws, seeds of the same run); the same of the
  global ADC (``gadc_…``, 1e-3 mm²/s) and ``energy_distance`` between draws and readings.
- recalibrated on validation cases, with or without draws: ``tdv_coverage80_calibrated``, ``tdv_width80_calibrated`` and
  the same of the global ADC. ``tdv_coverage80_exact`` (``…_calibrated_exact``): first readers only, whose ``low95`` and
  ``high95`` are the exact binomial interval (Clopper & Pearson, Biometrika 1934;26:404).
- lesions as a whole: ``lesion_brier`` and ``lesion_ece`` of the probability that a reader keeps each lesion that exists;
  ``region_…`` of the probability that a region of the map meets a reader's lesion, as drawn and recalibrated.
- ``crps_<arm>``: CRPS of the volume near the lesions of that planted ambiguity, mL; without draws the absolute error.

Further keys are described where they are made: `strata`, `quantities`, `malignancy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import malignancy, quantities, strata
from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate
from diffusion_adc.evaluation.calibration import exact_binomial_interval, expected_calibration_error
from diffusion_adc.evaluation.case import CaseResult
from diffusion_adc.evaluation.detection import (
    FROC_RATES,
    average_precision,
    case_auroc,
    curve_counts,
    froc,
)
from diffusion_adc.evaluation.drawn import DrawScores
from diffusion_adc.evaluation.presence import LESION_BINS
from diffusion_adc.evaluation.reference import ARMS

MODEL: Final = "model"
EMPTY: Final = "B0"
UNEDITED: Final = "B1"
RULE: Final = "B2"
BASE_HEAD: Final = "B3"
ORACLE: Final = "Oracle"

Scores = dict[str, dict[str, float | None]]
"""One method's scores by key, each ``{value, low95, high95}`` with None for what is undefined."""

UNITS: Final[dict[str, str]] = {
    "n_cases": "cases",
    "dice": "",
    "dice_all_cases": "",
    "lesion_sensitivity": "",
    "lesion_precision": "",
    "lesion_f1": "",
    "lesion_ap": "",
    "fp_per_case": "per case",
    "case_auroc": "",
    "fp_volume_ml": "mL",
    "fp_volume_reduction_vs_B2": "",
    "volume_sensitivity": "",
    "volume_sensitivity_vs_B2": "",
    "log_tdv_error": "",
    "gadc_error": "%",
    "value_violations": "voxels",
    "brier": "",
    "ece": "",
    "tdv_crps": "mL",
    "tdv_coverage80": "",
    "tdv_coverage80_informative": "",
    "tdv_width80": "mL",
    "seed_cov_tdv": "%",
    **{f"froc_{rate:g}": "" for rate in FROC_RATES},
    "tdv_coverage80_exact": "",
    "gadc_crps": "1e-3 mm²/s",
    "gadc_coverage80": "",
    "gadc_width80": "1e-3 mm²/s",
    "energy_distance": "",
    "tdv_coverage80_calibrated": "",
    "tdv_coverage80_calibrated_exact": "",
    "tdv_width80_calibrated": "mL",
    "gadc_coverage80_calibrated": "",
    "gadc_width80_calibrated": "1e-3 mm²/s",
    "lesion_brier": "",
    "lesion_ece": "",
    "region_brier": "",
    "region_ece": "",
    "region_brier_calibrated": "",
    "region_ece_calibrated": "",
    **{f"crps_{arm}": "mL" for arm in ARMS},
    **strata.KEYS,
    **quantities.KEYS,
    **malignancy.KEYS,
}
"""Unit of each score; an empty one is a share or a plain number."""

ALWAYS: Final = tuple(UNITS)[: tuple(UNITS).index("tdv_crps")] + tuple(
    f"froc_{rate:g}" for rate in FROC_RATES
)
"""Scores that every method has, undefined ones as None; the others are there where they can be measured."""

Results = strata.Results


Corrector = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def estimates(
    results: Results,
    bootstrap: Bootstrap,
    rule: Results | None = None,
    lesion: Corrector | None = None,
) -> dict[str, Estimate]:
    """Every score of one method with its bootstrap replicates.

    Two methods scored on the same cases and `bootstrap` may be subtracted key by key: the difference is
    paired.

    Args:
        results: One result per case, in the order of the bootstrap's research IDs.
        bootstrap: Resampling weights.
        rule: The clinical rule's results on the same cases, for the reduction of false positives.
        lesion: Recalibration of a region's probability, fitted on validation cases.

    Raises:
        ValueError: If the number of results is not that of the bootstrap's cases.
    """
    if len(results) != bootstrap.weights.shape[1] or (rule is not None and len(rule) != len(results)):
        raise ValueError(f"{len(results)} results for {bootstrap.weights.shape[1]} cases")

    def column(value: Callable[[CaseResult], float], of: Results = results) -> NDArray[np.float64]:
        return np.array([np.nan if r is None else float(value(r)) for r in of])

    scores = _detection(results, column, bootstrap)
    fp_ml = column(lambda r: r.fp_volume_ml)
    scores["dice"] = bootstrap.mean(column(lambda r: r.dice))
    scores["dice_all_cases"] = bootstrap.mean(column(lambda r: r.dice_all_cases))
    scores["fp_volume_ml"] = bootstrap.mean(fp_ml)
    if rule is not None:
        left = bootstrap.ratio(fp_ml, column(lambda r: r.fp_volume_ml, rule))
        scores["fp_volume_reduction_vs_B2"] = Estimate(1.0 - left.value, 1.0 - left.replicates)
        scores["volume_sensitivity_vs_B2"] = bootstrap.ratio(
            column(lambda r: r.covered_ml), column(lambda r: r.covered_ml, rule)
        )
    scores["volume_sensitivity"] = bootstrap.ratio(
        column(lambda r: r.covered_ml), column(lambda r: r.reference_ml)
    )
    scores["log_tdv_error"] = bootstrap.mean(column(lambda r: r.log_tdv_error))
    scores["gadc_error"] = bootstrap.mean(column(lambda r: r.gadc_error))
    scores["value_violations"] = bootstrap.total(column(lambda r: r.value_violations))
    scores |= _calibration(results, column, bootstrap)
    if any(r is not None and r.draws is not None for r in results):
        scores |= _draws(results, bootstrap)
    scores |= _recalibrated(results, column, bootstrap)
    scores |= _lesions(results, bootstrap, lesion)
    for n, arm in enumerate(ARMS):
        near = column(_near_arm(n))
        if np.isfinite(near).any():
            scores[f"crps_{arm}"] = bootstrap.mean(near)
    scores |= strata.strata_scores(results, bootstrap)
    scores |= quantities.quantity_scores(results, bootstrap)
    scores |= malignancy.malignancy_scores(results, bootstrap)
    return scores


def method_scores(
    results: Results,
    bootstrap: Bootstrap,
    rule: Results | None = None,
    lesion: Corrector | None = None,
) -> Scores:
    """The scores of one method as they are stored: ``{value, low95, high95}`` by key, None where undefined."""
    found = estimates(results, bootstrap, rule, lesion)
    undefined = Estimate(float("nan"), np.zeros(0))
    scores: Scores = {
        key: found.get(key, undefined).summary()
        for key in UNITS
        if key in ALWAYS or (key in found and np.isfinite(found[key].value))
    }
    scores |= _exact_coverages(results)
    count = float(sum(r is not None for r in results))
    scores["n_cases"] = {"value": count, "low95": None, "high95": None}
    return scores


Column = Callable[..., NDArray[np.float64]]


def _detection(results: Results, column: Column, bootstrap: Bootstrap) -> dict[str, Estimate]:
    hits = column(lambda r: r.matching.hits)
    misses = column(lambda r: r.matching.misses)
    false = column(lambda r: r.matching.false_positives)
    lesions = hits + misses
    nothing = np.zeros(0)
    counts = curve_counts(
        [nothing if r is None else r.found_confidence for r in results],
        [nothing if r is None else r.false_confidence for r in results],
    )
    known = np.isfinite(lesions)
    pooled_hits, pooled_false = bootstrap.sums(counts.hits), bootstrap.sums(counts.false_positives)
    pooled_lesions = bootstrap.sums(np.where(known, lesions, 0.0))
    pooled_cases = bootstrap.sums(known)
    scores = {
        "lesion_sensitivity": bootstrap.ratio(hits, lesions),
        "lesion_precision": bootstrap.ratio(hits, hits + false),
        "lesion_f1": bootstrap.ratio(2.0 * hits, 2.0 * hits + false + misses),
        "lesion_ap": bootstrap.estimate(average_precision(pooled_hits, pooled_false, pooled_lesions)),
        "fp_per_case": bootstrap.mean(false),
        "case_auroc": bootstrap.estimate(
            case_auroc(column(lambda r: r.case_score)[known], lesions[known] > 0, bootstrap.weights[:, known])
        ),
    }
    for rate in FROC_RATES:
        curve = froc(pooled_hits, pooled_false, pooled_lesions, pooled_cases, rate)
        scores[f"froc_{rate:g}"] = bootstrap.estimate(curve)
    return scores


def _calibration(results: Results, column: Column, bootstrap: Bootstrap) -> dict[str, Estimate]:
    known = [r.reliability for r in results if r is not None]
    if not known:
        return {}
    bins = known[0].voxels.size
    empty = np.zeros(bins)

    def table(name: str) -> NDArray[np.float64]:
        return np.stack([empty if r is None else getattr(r.reliability, name) for r in results])

    ece = expected_calibration_error(
        *(bootstrap.sums(table(name)) for name in ("voxels", "probability", "present"))
    )
    return {
        "brier": bootstrap.ratio(
            column(lambda r: r.reliability.squared_error), column(lambda r: r.reliability.voxels.sum())
        ),
        "ece": bootstrap.estimate(ece),
    }


def _recalibrated(results: Results, column: Column, bootstrap: Bootstrap) -> dict[str, Estimate]:
    return {
        "tdv_coverage80_calibrated": bootstrap.mean(column(lambda r: r.recalibrated.tdv_covered)),
        "tdv_width80_calibrated": bootstrap.mean(
            column(lambda r: r.recalibrated.tdv_high - r.recalibrated.tdv_low)
        ),
        "gadc_coverage80_calibrated": bootstrap.mean(column(lambda r: r.recalibrated.gadc_covered)),
        "gadc_width80_calibrated": bootstrap.mean(
            column(lambda r: r.recalibrated.gadc_high - r.recalibrated.gadc_low)
        ),
    }


def _near_arm(n: int) -> Callable[[CaseResult], float]:
    return lambda result: float(result.arm_crps[n])


def _exact_coverages(results: Results) -> Scores:
    """Coverage of the first readers, one yes or no per case, with the exact binomial interval."""
    known = [r for r in results if r is not None]
    inside: dict[str, list[float]] = {
        "tdv_coverage80_exact": [
            float(r.draws.low <= r.tdv_readers_ml[0] <= r.draws.high) for r in known if r.draws
        ],
        "tdv_coverage80_calibrated_exact": [
            r.recalibrated.tdv_first_covered for r in known if np.isfinite(r.recalibrated.tdv_first_covered)
        ],
    }
    scores: Scores = {}
    for key, covered in inside.items():
        if covered:
            low, high = exact_binomial_interval(int(sum(covered)), len(covered))
            scores[key] = {"value": float(sum(covered)) / len(covered), "low95": low, "high95": high}
    return scores


def _lesions(results: Results, bootstrap: Bootstrap, lesion: Corrector | None) -> dict[str, Estimate]:
    nothing = np.zeros(0)
    presences = [
        (nothing, nothing) if r is None else (r.presence.probability, r.presence.kept) for r in results
    ]
    regions = [(nothing, nothing) if r is None else (r.regions.probability, r.regions.meets) for r in results]
    groups = {"lesion": presences, "region": regions}
    if lesion is not None:
        groups["region_calibrated"] = [(lesion(p) if p.size else p, y) for p, y in regions]
    scores: dict[str, Estimate] = {}
    for name, pairs in groups.items():
        kind, _, suffix = name.partition("_")
        ending = f"_{suffix}" if suffix else ""
        # Several readers: the mean over them of (p − kept)², each kept being 0 or 1.
        squared = np.array([(p * p - 2.0 * p * y + y).sum() for p, y in pairs])
        count = np.array([float(p.size) for p, _ in pairs])
        bins = [_binned(p, y) for p, y in pairs]
        sums = [bootstrap.sums(np.stack([b[n] for b in bins])) for n in range(3)]
        scores[f"{kind}_brier{ending}"] = bootstrap.ratio(squared, count)
        scores[f"{kind}_ece{ending}"] = bootstrap.estimate(expected_calibration_error(*sums))
    return scores


def _binned(p: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    index = np.minimum((p * LESION_BINS).astype(np.int64), LESION_BINS - 1)
    return tuple(
        np.bincount(index, weights=w, minlength=LESION_BINS).astype(np.float64)
        for w in (np.ones(p.size), p, y)
    )


def _draws(results: Results, bootstrap: Bootstrap) -> dict[str, Estimate]:
    rows = [None if r is None else r.draws for r in results]

    def column(value: Callable[[DrawScores], float]) -> NDArray[np.float64]:
        return np.array([np.nan if row is None else float(value(row)) for row in rows])

    squared = bootstrap.mean(column(lambda d: d.half_variation))
    return {
        "tdv_crps": bootstrap.mean(column(lambda d: d.crps)),
        "tdv_coverage80": bootstrap.mean(column(lambda d: d.covered)),
        "tdv_coverage80_informative": bootstrap.ratio(
            column(lambda d: d.informative_covered), column(lambda d: d.informative)
        ),
        "tdv_width80": bootstrap.mean(column(lambda d: d.high - d.low)),
        "gadc_crps": bootstrap.mean(column(lambda d: d.gadc_crps)),
        "gadc_coverage80": bootstrap.mean(column(lambda d: d.gadc_covered)),
        "gadc_width80": bootstrap.mean(column(lambda d: d.gadc_high - d.gadc_low)),
        "energy_distance": bootstrap.mean(column(lambda d: d.energy_distance)),
        "seed_cov_tdv": Estimate(100.0 * np.sqrt(squared.value), 100.0 * np.sqrt(squared.replicates)),
    }
