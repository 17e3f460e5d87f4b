"""From one result per case to the scores of a method, each with its bootstrap interval.

Keys and units (`UNITS` holds them for tables):

- ``n_cases``: cases scored.
- ``dice``: mean over cases whose reader's map holds tumor; ``dice_all_cases`` counts empty maps too.
- ``lesion_sensitivity``, ``lesion_precision``, ``lesion_f1``, ``fp_per_case``: at the operating point,
  lesions and candidates of all cases pooled; ``lesion_ap``, ``froc_*``: over all confidences;
  ``case_auroc``: by the highest confidence of each case.
- ``fp_volume_ml``: mean per case; ``fp_volume_reduction_vs_B2``: 1 − ΣFP/ΣFP of the clinical rule;
  ``volume_sensitivity``: covered share of the pooled lesion volume.
- ``log_tdv_error``: mean of |ln((TDV + 0.1 mL)/(TDV_ref + 0.1 mL))|, tumor-free cases included;
  ``gadc_error``: mean absolute error in percent of the reader's gADC.
- ``value_violations``: voxels that are neither 0 nor the scanner's value, all cases together.
- ``brier``, ``ece``: over the voxels in (reader's map ∪ map at the operating point) dilated by one voxel,
  pooled over cases; the region is each method's own.
- from draws: ``tdv_crps`` (mL), ``tdv_coverage80`` and the same without cases in which interval and reading
  are zero (``tdv_coverage80_informative``), ``tdv_width80`` (mL), ``seed_cov_tdv`` (percent, root mean
  square coefficient of variation between two disjoint halves of the draws, seeds of the same run).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate
from diffusion_adc.evaluation.calibration import expected_calibration_error
from diffusion_adc.evaluation.case import CaseResult, DrawScores
from diffusion_adc.evaluation.detection import (
    FROC_RATES,
    average_precision,
    case_auroc,
    curve_counts,
    froc,
)

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
}
"""Unit of each score; an empty one is a share or a plain number."""

DRAW_KEYS: Final = (
    "tdv_crps", "tdv_coverage80", "tdv_coverage80_informative", "tdv_width80", "seed_cov_tdv",
)  # fmt: skip
"""Scores that only a method with joint draws has."""

Results = Sequence[CaseResult | None]
"""One entry per case of the cohort; None where the method could not be applied."""


def estimates(results: Results, bootstrap: Bootstrap, rule: Results | None = None) -> dict[str, Estimate]:
    """Every score of one method with its bootstrap replicates.

    Two methods scored on the same cases and `bootstrap` may be subtracted key by key: the difference is
    paired.

    Args:
        results: One result per case, in the order of the bootstrap's research IDs.
        bootstrap: Resampling weights.
        rule: The clinical rule's results on the same cases, for the reduction of false positives.

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
    scores["volume_sensitivity"] = bootstrap.ratio(
        column(lambda r: r.covered_ml), column(lambda r: r.reference_ml)
    )
    scores["log_tdv_error"] = bootstrap.mean(column(lambda r: r.log_tdv_error))
    scores["gadc_error"] = bootstrap.mean(column(lambda r: r.gadc_error))
    scores["value_violations"] = bootstrap.total(column(lambda r: r.value_violations))
    scores |= _calibration(results, column, bootstrap)
    if any(r is not None and r.draws is not None for r in results):
        scores |= _draws(results, bootstrap)
    return scores


def method_scores(results: Results, bootstrap: Bootstrap, rule: Results | None = None) -> Scores:
    """The scores of one method as they are stored: ``{value, low95, high95}`` by key, None where undefined."""
    found = estimates(results, bootstrap, rule)
    wanted = [key for key in UNITS if key not in DRAW_KEYS or key in found]
    undefined = Estimate(float("nan"), np.zeros(0))
    scores: Scores = {key: found.get(key, undefined).summary() for key in wanted}
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
        "seed_cov_tdv": Estimate(100.0 * np.sqrt(squared.value), 100.0 * np.sqrt(squared.replicates)),
    }


CASE_COLUMNS: Final = (
    "method", "case_id", "lesions", "hits", "misses", "false_positives", "dice", "dice_all_cases",
    "fp_volume_ml", "covered_ml", "reference_ml", "tdv_ml", "tdv_reference_ml", "log_tdv_error", "gadc",
    "gadc_reference", "gadc_error", "band_0.4-0.9_ml", "band_0.9-1.4_ml", "band_1.4-1.8_ml",
    "value_violations", "tdv_median_ml", "tdv_low80_ml", "tdv_high80_ml", "tdv_crps_ml", "tdv_covered80",
    "tdv_pit",
)  # fmt: skip

LESION_COLUMNS: Final = (
    "method", "case_id", "kind", "number", "outcome", "partner", "confidence", "iou", "volume_ml",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "structure",
)  # fmt: skip


_CENTROID: Final = ("centroid_r_mm", "centroid_a_mm", "centroid_s_mm")


def case_row(method: str, result: CaseResult) -> dict[str, Any]:
    """One line of cases.csv; undefined values are empty. Several readers' PIT are joined by ``;``."""
    row: dict[str, Any] = {
        "method": method,
        "case_id": result.case_id,
        "lesions": result.matching.hits + result.matching.misses,
        "hits": result.matching.hits,
        "misses": result.matching.misses,
        "false_positives": result.matching.false_positives,
        "dice": result.dice,
        "dice_all_cases": result.dice_all_cases,
        "fp_volume_ml": result.fp_volume_ml,
        "covered_ml": result.covered_ml,
        "reference_ml": result.reference_ml,
        "tdv_ml": result.tdv_ml,
        "tdv_reference_ml": result.tdv_reference_ml,
        "log_tdv_error": result.log_tdv_error,
        "gadc": result.gadc,
        "gadc_reference": result.gadc_reference,
        "gadc_error": result.gadc_error,
        "value_violations": result.value_violations,
        **{f"band_{band}_ml": volume for band, volume in result.bands_ml.items()},
    }
    if result.draws is not None:
        row |= {
            "tdv_median_ml": result.draws.median,
            "tdv_low80_ml": result.draws.low,
            "tdv_high80_ml": result.draws.high,
            "tdv_crps_ml": result.draws.crps,
            "tdv_covered80": result.draws.covered,
            "tdv_pit": ";".join(f"{u:.4f}" for u in result.draws.pit),
        }
    return {name: _cell(row.get(name, "")) for name in CASE_COLUMNS}


def lesion_rows(
    method: str, result: CaseResult, affine: NDArray[np.floating], voxel_ml: float
) -> list[dict[str, Any]]:
    """Lines of lesions.csv: the reference lesions, then the candidates of the map at its operating point.

    ``structure`` says in which normal structure a candidate lies, where the truth is known: which mimic was
    taken for tumor.

    Args:
        method: The method's id.
        result: Its result on the case.
        affine: (4, 4), voxel index to RAS+ mm.
        voxel_ml: Volume of a voxel, mL.
    """
    match = result.matching
    partner = {int(p): n + 1 for n, p in enumerate(match.partner) if p}
    references = [
        {
            "kind": "reference",
            "outcome": "found" if found else "missed",
            "partner": partner.get(n + 1, ""),
            "confidence": match.found_confidence[n] if found else "",
            "iou": match.found_iou[n],
        }
        for n, found in enumerate(match.found)
    ]
    candidates = [
        {
            "kind": "candidate",
            "outcome": outcome,
            "partner": int(match.partner[n]) or "",
            "confidence": match.confidence[n],
            "iou": match.candidate_iou[n],
        }
        for n, outcome in enumerate(match.outcome)
    ]
    matrix = np.asarray(affine, dtype=np.float64)
    rows: list[dict[str, Any]] = []
    for group, places in ((references, result.lesions), (candidates, result.candidates)):
        centroids = places.center @ matrix[:3, :3].T + matrix[:3, 3]
        for n, fields in enumerate(group):
            row = {"method": method, "case_id": result.case_id, "number": n + 1, **fields}
            row["volume_ml"] = places.voxels[n] * voxel_ml
            row |= zip(_CENTROID, centroids[n], strict=True)
            row["structure"] = places.structure[n]
            rows.append({name: _cell(row[name]) for name in LESION_COLUMNS})
    return rows


def _cell(value: Any) -> Any:
    """A table's cell: empty for an undefined number, six significant digits for the others."""
    if isinstance(value, float | np.floating):
        return "" if not np.isfinite(value) else f"{float(value):.6g}"
    return value
