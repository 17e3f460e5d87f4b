"""Detection by size and by patient, the tumor-free cases apart, and the threshold with a controlled miss rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate, divide
from diffusion_adc.evaluation.case import CaseResult
from diffusion_adc.evaluation.detection import curve_counts, froc

Results = Sequence[CaseResult | None]
"""One entry per case of the cohort; None where the method could not be applied."""

SIZES: Final[dict[str, tuple[float, float]]] = {
    "lt0.2ml": (0.0, 0.2), "0.2-1ml": (0.2, 1.0), "1-5ml": (1.0, 5.0), "ge5ml": (5.0, np.inf), "ge1ml": (1.0, np.inf),
}  # fmt: skip
"""Strata of lesion volume in mL, lower edge included; the last one is that of the published sensitivities."""

BAR_RATE: Final = 0.5
"""False positives per case at which lesions of at least 1 mL are asked for."""

SPECIFICITY_ML: Final = (0.0, 0.5, 1.0)
"""False-positive volumes up to which a tumor-free case counts as free in the map."""

KEYS: Final[dict[str, str]] = {
    **{f"lesion_sensitivity_{size}": "" for size in SIZES},
    "froc_0.5_ge1ml": "",
    "patient_sensitivity": "",
    "patient_detection": "",
    "afroc": "",
    **{f"specificity_{ml:g}ml": "" for ml in SPECIFICITY_ML},
    "fp_per_tumor_free_case": "per case",
    "miss_rate_controlled": "",
    "fp_at_controlled_miss_rate": "per case",
}
"""Unit by key.

- ``lesion_sensitivity_<size>``: at the operating point, pooled; ``froc_0.5_ge1ml``: sensitivity for lesions ≥ 1 mL where
  the curve has 0.5 false positives per case.
- ``patient_sensitivity``: share of a patient's lesions found, mean over patients with lesions; ``patient_detection``:
  share of those patients with a lesion found; ``afroc``: probability that a lesion is given a higher confidence than
  the most suspicious place of a tumor-free case (Chakraborty & Berbaum, Med Phys 2004;31:2313), unfound lesions and
  clean cases counting as confidence 0 and ties half.
- ``specificity_<x>ml``: share of the tumor-free cases with at most x mL of false-positive volume.
- ``miss_rate_controlled``: share of the readers' lesions missed, mean over cases with some, at the threshold chosen for
  a miss rate of at most 10 %; ``fp_at_controlled_miss_rate``: regions there that meet no reader's lesion.
"""


def strata_scores(results: Results, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Every score of `KEYS` with its replicates."""

    def column(values: Sequence[float]) -> NDArray[np.float64]:
        return np.asarray(values, dtype=np.float64)

    scores: dict[str, Estimate] = {}
    for size, (low, high) in SIZES.items():
        counts = [(np.nan, np.nan) if r is None else _found_of_size(r, low, high) for r in results]
        found, lesions = column([c[0] for c in counts]), column([c[1] for c in counts])
        scores[f"lesion_sensitivity_{size}"] = bootstrap.ratio(found, lesions)
    scores["froc_0.5_ge1ml"] = _froc_of_size(results, bootstrap, *SIZES["ge1ml"])
    share = [np.nan if r is None or not r.matching.found.size else r.matching.found.mean() for r in results]
    scores["patient_sensitivity"] = bootstrap.mean(column(share))
    scores["patient_detection"] = bootstrap.mean(column([np.nan if np.isnan(s) else s > 0 for s in share]))
    scores["afroc"] = bootstrap.estimate(_afroc(results, bootstrap))
    free = [r if r is not None and r.tumor_free else None for r in results]
    for ml in SPECIFICITY_ML:
        clean = [np.nan if r is None else float(r.fp_volume_ml <= ml + 1e-9) for r in free]
        scores[f"specificity_{ml:g}ml"] = bootstrap.mean(column(clean))
    scores["fp_per_tumor_free_case"] = bootstrap.mean(
        column([np.nan if r is None else r.matching.false_positives for r in free])
    )
    missed = column([np.nan if r is None else r.recall_missed for r in results])
    false = column([np.nan if r is None else r.recall_false for r in results])
    if np.isfinite(false).any():
        scores["miss_rate_controlled"] = bootstrap.mean(missed)
        scores["fp_at_controlled_miss_rate"] = bootstrap.mean(false)
    return scores


def _found_of_size(result: CaseResult, low: float, high: float) -> tuple[float, float]:
    inside = (result.lesion_ml >= low) & (result.lesion_ml < high)
    return float(result.matching.found[inside].sum()), float(inside.sum())


def _froc_of_size(results: Results, bootstrap: Bootstrap, low: float, high: float) -> Estimate:
    nothing = np.zeros(0)
    found, lesions = [], []
    for result in results:
        inside = nothing if result is None else (result.lesion_ml >= low) & (result.lesion_ml < high)
        confidence = nothing if result is None else result.curve_found[inside.astype(bool)]
        found.append(confidence[np.isfinite(confidence)])
        lesions.append(float(np.count_nonzero(inside)))
    counts = curve_counts(found, [nothing if r is None else r.false_confidence for r in results])
    known = np.array([r is not None for r in results])
    return bootstrap.estimate(
        froc(
            bootstrap.sums(counts.hits), bootstrap.sums(counts.false_positives),
            bootstrap.sums(np.asarray(lesions)), bootstrap.sums(known), BAR_RATE,
        )
    )  # fmt: skip


def _afroc(results: Results, bootstrap: Bootstrap) -> NDArray[np.float64]:
    lesion, owner, suspicious, free = [], [], [], []
    for n, result in enumerate(results):
        if result is None:
            continue
        if result.tumor_free:
            suspicious.append(float(result.false_confidence.max(initial=0.0)))
            free.append(n)
        lesion += np.nan_to_num(result.curve_found).tolist()
        owner += [n] * result.curve_found.size
    above = np.heaviside(np.asarray(lesion)[:, None] - np.asarray(suspicious)[None, :], 0.5)
    above = above.reshape(len(lesion), len(suspicious))
    lesions, cases = bootstrap.weights[:, owner], bootstrap.weights[:, free]
    won = ((lesions @ above) * cases).sum(axis=1)
    return divide(won, lesions.sum(axis=1) * cases.sum(axis=1))
