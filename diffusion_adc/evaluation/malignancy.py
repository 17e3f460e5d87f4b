"""Does the measured ADC of a lesion tell its grade? Scores of a map's own values inside the true lesions.

Only where grades are known, and only of measured values: a generated ADC would answer for the network that made it.
Asked of untreated lesions that the map holds at least a voxel of; treatment, sclerosis and mucin move the ADC too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation.association import spearman
from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate
from diffusion_adc.evaluation.case import CaseResult
from diffusion_adc.evaluation.detection import case_auroc
from diffusion_adc.evaluation.presence import MARKERS

HIGH_GRADE: Final = 3
"""Grades 3 to 5 against 1 and 2."""

RISES: Final = frozenset({"entropy", "share_0.4-0.9"})
"""Markers that rise with the grade; all others fall."""

MIN_LESIONS: Final = 10
"""Fewer lesions of known grade are not scored."""

KEYS: Final[dict[str, str]] = {
    "grade_lesions": "lesions",
    **{f"grade_auroc_{name}": "" for name in MARKERS},
    **{f"grade_spearman_{name}": "" for name in MARKERS},
}
"""Unit by key. AUROC: that the marker points to a grade of 3 or more, 0.5 without any signal; Spearman: with the grade."""


def malignancy_scores(results: Sequence[CaseResult | None], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """AUROC and rank correlation of every marker, resampled by person; empty where too few grades are known."""
    owner: list[int] = []
    grades: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.float64]] = []
    for n, result in enumerate(results):
        if result is None or result.value_violations:  # a map with values of its own answers for its network
            continue
        held = (result.presence.grade > 0) & np.isfinite(result.presence.markers[:, 0])
        owner += [n] * int(held.sum())
        grades.append(result.presence.grade[held])
        rows.append(result.presence.markers[held])
    if len(owner) < MIN_LESIONS:
        return {}
    grade, markers = np.concatenate(grades), np.concatenate(rows)
    weights = bootstrap.weights[:, owner]
    scores = {"grade_lesions": bootstrap.estimate(weights.sum(axis=1))}
    for n, name in enumerate(MARKERS):
        sign = 1.0 if name in RISES else -1.0
        scores[f"grade_auroc_{name}"] = bootstrap.estimate(
            case_auroc(sign * markers[:, n], grade >= HIGH_GRADE, weights)
        )
        scores[f"grade_spearman_{name}"] = bootstrap.estimate(
            spearman(markers[:, n], grade.astype(np.float64), weights)
        )
    return scores
