"""A record of one evaluation after the CLAIM checklist, machine-readable and filled from facts on disk alone.

Checklist for Artificial Intelligence in Medical Imaging (Mongan, Moy & Kahn, Radiol Artif Intell 2020;2:e200029; update
2024;6:e240300). Items that no file answers are listed as not reported, never filled with good intentions. The record
names no research ID.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from diffusion_adc.evaluation import scores as table
from diffusion_adc.evaluation.reference import ARMS
from diffusion_adc.evaluation.scores import UNITS, Scores

if TYPE_CHECKING:
    from diffusion_adc.evaluation.evaluate import Evaluation
    from diffusion_adc.evaluation.material import Maps, Study

NOT_REPORTED: Final = (
    "clinical role and intended use beyond research", "study design against clinical care", "inclusion period",
    "demographics of the persons", "external validation", "comparison with readers at work",
    "registration of the protocol", "funding",
)  # fmt: skip
"""Items no file of an evaluation answers."""

_PROVENANCE: Final = {
    "synthetic": "digital patients; no figure here says anything about real ones",
    "public": "a public collection; the target is a surrogate made from its masks unless physicians' maps were given",
    "restricted": "clinical examinations under the cohort's legal basis",
}

WORST: Final = 5


def claim_record(
    maps: Maps, study: Study, found: Evaluation, scores: Mapping[str, Scores], bars: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record: data, split, reference standard, model, statistics, results, failures and limits."""
    cohort, manifest = study.cohort, maps.manifest
    scored = [r for r in found.results[table.MODEL] if r is not None]
    persons = len(set(found.research_ids))
    anatomy = Counter(case.anatomy for case in cohort.cases)
    calibration = dict(manifest.get("calibration") or {})
    return {
        "checklist": "CLAIM 2024",
        "intended_use": "research only, not for diagnosis",
        "data": {
            "provenance": cohort.provenance,
            "meaning": _PROVENANCE.get(cohort.provenance, ""),
            "legal_basis": cohort.legal_basis,
            "cohort_digest": cohort.digest,
            "cases_in_cohort": len(cohort.cases),
            "anatomy": dict(sorted(anatomy.items())),
            "withdrawn_persons": len(cohort.withdrawn),
        },
        "split": {
            "evaluated": manifest.get("split"),
            "kind": manifest.get("split_kind", "person"),
            "cases": len(scored),
            "persons": persons,
            "tumor_free": sum(r.tumor_free for r in scored),
            "cases_by_split": dict(sorted(Counter(case.split for case in cohort.cases).items())),
            "thresholds_fitted_on_these_cases": manifest.get("thresholds_fitted_on_these_cases"),
        },
        "reference_standard": {
            "readers_per_case": dict(sorted(Counter(str(len(r.tdv_readers_ml)) for r in scored).items())),
            "detection": "latent lesions of the simulation, ambiguous ones ignored"
            if study.truth is not None
            else "lesions of the first reader's map",
            "quantities": "each reader's map, averaged over readers; consensus: their mean",
            "lesions": sum(int(r.matching.found.size) for r in scored),
            "planted_ambiguity": study.planted_ambiguity,
            "lesions_by_ambiguity": _arms(scored) if study.truth is not None else None,
        },
        "model": {
            "method": maps.method,
            **{
                name: manifest.get(name)
                for name in (
                    "run", "checkpoint", "checkpoint_sha256", "command", "draws", "steps", "seed", "settings", "tau",
                    "lesion_tau", "temperature",
                )
            },
            "recalibrated": sorted(
                name for name, value in (calibration.get("recalibration") or {}).items() if value is not None
            ),
            "validation_cases": {
                "thresholds": calibration.get("cases"), "recalibration": calibration.get("recalibration_cases"),
            },
        },
        "statistics": {
            "unit_of_resampling": "person",
            "intervals": "95 % percentile cluster bootstrap; exact binomial for coverage of first readers",
            "units": {key: UNITS[key] for key in sorted(scores.get(table.MODEL, {})) if UNITS.get(key)},
        },
        "results": {method: dict(values) for method, values in scores.items()},
        "bars": bars,
        "failures": _failures(scored, manifest),
        "limits": _limits(scored, study, manifest),
        "not_reported": list(NOT_REPORTED),
    }  # fmt: skip


def _arms(scored: list[Any]) -> dict[str, int]:
    count = Counter(arm for r in scored for arm in r.presence.arm)
    return {"none": count[""], **{arm: count[arm] for arm in ARMS}}


def _failures(scored: list[Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Where the map failed, in numbers; cases are not named."""
    with_tumor = [r for r in scored if r.matching.found.size]
    free = [r for r in scored if r.tumor_free]
    return {
        "refused_cases": len(manifest.get("refused") or ()),
        "cases_with_tumor_and_an_empty_map": sum(r.tdv_ml == 0 for r in with_tumor),
        "cases_with_no_lesion_found": sum(not r.matching.hits for r in with_tumor),
        "missed_lesions_of_at_least_1_ml": int(
            sum(((r.lesion_ml >= 1.0) & ~r.matching.found).sum() for r in scored)
        ),
        "tumor_free_cases_with_more_than_1_ml": sum(r.fp_volume_ml > 1.0 for r in free),
        "largest_false_positive_volumes_ml": sorted((round(r.fp_volume_ml, 3) for r in scored), reverse=True)[:WORST],
        "largest_log_tdv_errors": sorted((round(r.log_tdv_error, 3) for r in scored), reverse=True)[:WORST],
    }  # fmt: skip


def _limits(scored: list[Any], study: Study, manifest: Mapping[str, Any]) -> list[str]:
    limits = ["no clinical validation"]
    if study.cohort.provenance == "synthetic":
        limits.append("digital patients: the simulation's laws, not those of a hospital")
    if len(scored) < 200:
        limits.append(f"{len(scored)} cases: coverage and rare failures are known only roughly")
    if not any(len(r.tdv_readers_ml) > 1 for r in scored):
        limits.append("one reader per case: disagreement between readers is unknown")
    if study.truth is not None and study.planted_ambiguity:
        limits.append("the planted ambiguity favors joint models; results without it belong beside these")
    calibration = manifest.get("calibration") or {}
    other = [
        name for name in ("draws", "steps") if calibration and calibration.get(name) != manifest.get(name)
    ]
    if other:
        limits.append(
            f"thresholds and recalibration were fitted with other {' and '.join(other)} than these maps"
        )
    if manifest.get("thresholds_fitted_on_these_cases"):
        limits.append("thresholds were fitted on these cases: no scores of unseen cases")
    return limits
