"""Are the targets exact selections of the ADC map, and do readers agree?"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort


def audit_cohort(cohort_dir: Path) -> list[dict[str, Any]]:
    """Audit the targets of a cohort, every reader's.

    Returns:
        Per case with a target: ``case``, ``readers``, ``volume_ml`` of the first reader's presence, ``kept_share``
        (of the fitted voxels), ``residual`` (largest |T − ADC| / ADC of any reader where T and ADC > 0; 0 is an
        exact selection), ``without_adc_share`` (kept voxels with no fitted ADC: 0, negative or NaN),
        ``readers_dice`` (mean over pairs; None for one reader or where no pair kept anything), ``code`` and
        ``message``: S23 where a map is no selection of the ADC map, or not of what its label keeps.

    Raises:
        UsageError: No cohort there.
        CohortError: Its tables are damaged.
        CaseError: A file is damaged.
    """
    return [_audit_case(cohort_dir, case) for case in read_cohort(cohort_dir).cases if case.has_target]


def _audit_case(cohort_dir: Path, case: Case) -> dict[str, Any]:
    adc = load_volume(cohort_dir, case, seq.ADC)
    values = np.asarray(adc.array, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        fitted = values > 0
    presences = presence_readings(cohort_dir, case)
    worst, stray = 0.0, False
    for reader, presence in zip(case.readers or (None,), presences, strict=True):
        edited = np.asarray(load_volume(cohort_dir, case, seq.TUMOR_ADC, reader).array, dtype=np.float64)
        kept = edited != 0
        measured = kept & fitted
        residual = np.abs(edited - values)[measured] / values[measured]
        worst = max(worst, float(residual.max()) if residual.size else 0.0)
        stray |= bool(np.any(kept != (presence & fitted)))
    first = presences[0]
    scores = [_dice(a, b) for a, b in combinations(presences, 2)]
    pairs = [score for score in scores if score is not None]
    wrong = "values that are not the ADC map's" if worst > 0 else "voxels that its label does not keep"
    return {
        "case": case.case_id,
        "readers": len(presences),
        "volume_ml": float(first.sum()) * voxel_volume_ml(adc.affine),
        "kept_share": float((first & fitted).sum()) / max(1, int(np.count_nonzero(fitted))),
        "residual": worst,
        "without_adc_share": float((first & ~fitted).sum()) / max(1, int(first.sum())),
        "readers_dice": float(np.mean(pairs)) if pairs else None,
        "code": "S23" if worst > 0 or stray else "",
        "message": f"a tumor map holds {wrong}" if worst > 0 or stray else "",
    }


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float | None:
    total = int(a.sum()) + int(b.sum())
    return None if total == 0 else 2.0 * float((a & b).sum()) / total
