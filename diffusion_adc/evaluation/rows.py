"""The tables of an evaluation, one line per case, lesion, structure and histogram: cases.csv, lesions.csv and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation.case import CaseResult
from diffusion_adc.evaluation.values import STATISTICS

CASE_COLUMNS: Final = (
    "method", "case_id", "lesions", "hits", "misses", "false_positives", "dice", "dice_all_cases",
    "fp_volume_ml", "covered_ml", "reference_ml", "tdv_ml", "tdv_reference_ml", "log_tdv_error", "gadc",
    "gadc_reference", "gadc_error", "band_0.4-0.9_ml", "band_0.9-1.4_ml", "band_1.4-1.8_ml",
    "value_violations", "tdv_median_ml", "tdv_low80_ml", "tdv_high80_ml", "tdv_crps_ml", "tdv_covered80",
    "tdv_pit", "nsd_1voxel", "hd95_mm", "assd_mm", "gadc_selection_error", "gadc_value_error", "tdv_low80_calibrated_ml",
    "tdv_high80_calibrated_ml", "gadc_low80", "gadc_high80", "gadc_low80_calibrated", "gadc_high80_calibrated",
    "energy_distance", "lesion_squared_error",
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
        "nsd_1voxel": result.surface.nsd,
        "hd95_mm": result.surface.hd95,
        "assd_mm": result.surface.assd,
        "gadc_selection_error": result.gadc_selection_error,
        "gadc_value_error": result.gadc_value_error,
        "tdv_low80_calibrated_ml": result.recalibrated.tdv_low,
        "tdv_high80_calibrated_ml": result.recalibrated.tdv_high,
        "gadc_low80_calibrated": result.recalibrated.gadc_low,
        "gadc_high80_calibrated": result.recalibrated.gadc_high,
        "lesion_squared_error": float(result.presence.squared_error.sum()),
    }
    if result.draws is not None:
        row |= {
            "tdv_median_ml": result.draws.median,
            "tdv_low80_ml": result.draws.low,
            "tdv_high80_ml": result.draws.high,
            "tdv_crps_ml": result.draws.crps,
            "tdv_covered80": result.draws.covered,
            "tdv_pit": ";".join(f"{u:.4f}" for u in result.draws.pit),
            "gadc_low80": result.draws.gadc_low,
            "gadc_high80": result.draws.gadc_high,
            "energy_distance": result.draws.energy_distance,
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


STRUCTURE_COLUMNS: Final = (
    "method", "structure", "mean_ml", "median_ml", "q25_ml", "q75_ml", "share_above_1ml", "cases",
)  # fmt: skip
HISTOGRAM_COLUMNS: Final = ("method", "case_id", "region", *STATISTICS)


def structure_rows(method: str, results: Sequence[CaseResult | None]) -> list[dict[str, Any]]:
    """Lines of false_positives.csv: false-positive volume by normal structure or mimic, the largest first.

    Over all cases, those in which the map paints nothing there counting as 0 mL.
    """
    known = [r for r in results if r is not None]
    names = sorted({name for r in known for name in r.fp_by_structure_ml})
    rows = []
    for name in names:
        volumes = np.array([r.fp_by_structure_ml.get(name, 0.0) for r in known])
        low, middle, high = np.percentile(volumes, (25, 50, 75))
        values = (method, name, volumes.mean(), middle, low, high, float((volumes > 1.0).mean()), len(known))
        rows.append(dict(zip(STRUCTURE_COLUMNS, values, strict=True)))
    rows.sort(key=lambda row: (-row["mean_ml"], row["structure"]))
    return [{name: _cell(row[name]) for name in STRUCTURE_COLUMNS} for row in rows]


def histogram_rows(method: str, result: CaseResult) -> list[dict[str, Any]]:
    """Lines of histograms.csv: statistics of the ADC in the map, and their mean over the readers."""
    rows = []
    for region, statistics in (("map", result.histogram), ("readers", result.histogram_reference)):
        row = {"method": method, "case_id": result.case_id, "region": region, **statistics}
        rows.append({name: _cell(row[name]) for name in HISTOGRAM_COLUMNS})
    return rows


def _cell(value: Any) -> Any:
    """A table's cell: empty for an undefined number, six significant digits for the others."""
    if isinstance(value, float | np.floating):
        return "" if not np.isfinite(value) else f"{float(value):.6g}"
    return value
