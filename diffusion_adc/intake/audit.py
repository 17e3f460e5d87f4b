"""Are the targets exact selections of the ADC map, and do readers agree?"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort


def audit_cohort(cohort_dir: Path) -> list[dict[str, Any]]:
    """Audit the targets of a cohort.

    Returns:
        Per case with a target: ``case``, ``readers``, ``volume_ml`` of the first reader's presence, ``kept_share``
        (of the fitted voxels), ``residual`` (largest |T − ADC| / ADC where T > 0; 0 is an exact selection),
        ``without_adc_share`` (kept voxels with no fitted ADC), ``readers_dice`` (mean over pairs, None for one).

    Raises:
        UsageError: No cohort there.
        CaseError: A file is damaged.
    """
    return [_audit_case(cohort_dir, case) for case in read_cohort(cohort_dir).cases if case.has_target]


def _audit_case(cohort_dir: Path, case: Case) -> dict[str, Any]:
    adc = load_volume(cohort_dir, case, seq.ADC)
    values = np.asarray(adc.array, dtype=np.float64)
    target = np.asarray(load_volume(cohort_dir, case, seq.TUMOR_ADC).array, dtype=np.float64)
    readings = presence_readings(cohort_dir, case)
    kept = target > 0
    measured = kept & (values > 0)
    residual = np.abs(target - values)[measured] / values[measured]
    presence = readings[0]
    pairs = [_dice(a, b) for a, b in combinations(readings, 2)]
    return {
        "case": case.case_id,
        "readers": len(readings),
        "volume_ml": float(presence.sum()) * voxel_volume_ml(adc.affine),
        "kept_share": float(kept.sum()) / max(1, int(np.count_nonzero(values > 0))),
        "residual": float(residual.max()) if residual.size else 0.0,
        "without_adc_share": float((presence & ~(values > 0)).sum()) / max(1, int(presence.sum())),
        "readers_dice": float(np.mean(pairs)) if pairs else None,
    }


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * float((a & b).sum()) / total
