"""Score a folder of tumor maps against a cohort, beside the baselines: the work of ``evaluate``.

One case is in memory at a time. The same maps, cohort and number of replicates give the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.evaluation import scores as table
from diffusion_adc.evaluation.baselines import (
    Prediction,
    base_head_map,
    empty_map,
    from_draws,
    rule_map,
    unedited_adc,
)
from diffusion_adc.evaluation.bootstrap import REPLICATES, Bootstrap
from diffusion_adc.evaluation.case import CaseResult, Reference, score_case
from diffusion_adc.evaluation.scores import Scores, case_row, lesion_rows, method_scores
from diffusion_adc.inference.tumor_map import usable_voxels
from diffusion_adc.phantom.readers import oracle_draws
from diffusion_adc.phantom.truth import CaseTruth, read_case_truth, read_truth_manifest
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import write_csv, write_json
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort
from diffusion_adc.records.maps import (
    map_case_ids,
    read_map_record,
    read_map_volume,
    read_maps_manifest,
)

SEED: Final = 0
"""Of the bootstrap, the randomized PIT and the oracle's draws."""

ORACLE_DRAWS: Final = 9
"""Draws of the oracle where the maps hold none; otherwise as many as the maps."""

METHODS: Final = (table.MODEL, table.EMPTY, table.UNEDITED, table.RULE, table.BASE_HEAD, table.ORACLE)

Progress = Callable[[int, int], None]
"""Called with the cases done and the number of cases."""


@dataclass(frozen=True)
class _ScoredCase:
    reference: Reference
    affine: NDArray[np.float64]
    predictions: Iterator[tuple[str, Prediction]]


def evaluate(
    maps_dir: Path,
    cohort_dir: Path,
    truth_dir: Path | None = None,
    *,
    bootstrap: int = REPLICATES,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Score tumor maps and the baselines on the same cases, and write the results into the maps' folder.

    Writes ``scores.json`` (by method: ``model``, ``B0`` … ``B3``, ``Oracle``), ``cases.csv`` and
    ``lesions.csv``. Cases without any reader's map are left out; withdrawn persons are not read.

    Args:
        maps_dir: Folder of tumor maps with maps.json.
        cohort_dir: The cohort they were drawn for.
        truth_dir: Sealed truth of a simulated cohort. With it, detection is scored on the latent lesions,
            ambiguous ones ignored, and the oracle joins the table; without it, on the first reader's map.
        bootstrap: Number of bootstrap replicates over persons.
        progress: Called after every case.

    Returns:
        Scores by method and key, each ``{value, low95, high95}``, None where undefined.

    Raises:
        UsageError: A folder is none of its kind, or fewer than one replicate is asked for.
        CohortError: The maps belong to another cohort, are incomplete, or no case can be scored.
        CaseError: A volume is missing or damaged.
    """
    if bootstrap < 1:
        raise UsageError(f"{bootstrap} bootstrap replicates", "at least 1; intervals need 2000")
    manifest = read_maps_manifest(maps_dir)
    cohort = read_cohort(cohort_dir)
    cases = _cases(maps_dir, manifest, cohort)
    if truth_dir is not None:
        _check_truth(truth_dir, cohort)
    results: dict[str, list[CaseResult | None]] = {method: [] for method in METHODS}
    case_rows: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    found_rows: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for number, case in enumerate(cases, start=1):
        scored = _open_case(maps_dir, manifest, cohort_dir, case, truth_dir)
        rng = np.random.default_rng(_case_seed(case))
        uniforms = rng.random(len(scored.reference.readers)).tolist()
        seen: dict[str, CaseResult] = {}
        for method, prediction in scored.predictions:
            seen[method] = result = score_case(prediction, scored.reference, uniforms)
            case_rows[method].append(case_row(method, result))
            if method != table.UNEDITED:  # its components are the body and specks of noise, not candidates
                found_rows[method] += lesion_rows(method, result, scored.affine, scored.reference.voxel_ml)
        for method in METHODS:
            results[method].append(seen.get(method))
        if progress is not None:
            progress(number, len(cases))

    weights = Bootstrap([case.research_id for case in cases], bootstrap, SEED)
    present = [method for method in METHODS if any(r is not None for r in results[method])]
    rule = results[table.RULE] if table.RULE in present else None
    scores = {method: method_scores(results[method], weights, rule) for method in present}
    write_csv(maps_dir / "cases.csv", _stacked(case_rows), table.CASE_COLUMNS)
    write_csv(maps_dir / "lesions.csv", _stacked(found_rows), table.LESION_COLUMNS)
    write_json(maps_dir / "scores.json", scores)
    return scores


def _stacked(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for method in METHODS for row in rows[method]]


def _case_seed(case: Case) -> list[int]:
    # By the case's name, so that its numbers do not depend on which other cases are scored.
    return [SEED, zlib.crc32(case.case_id.encode())]


def _cases(maps_dir: Path, manifest: dict[str, Any], cohort: Cohort) -> list[Case]:
    """The cases to score, after checking that maps and cohort belong together."""
    # A withdrawal changes the cohort's digest; the maps of the persons who remain are still theirs.
    if manifest.get("cohort_digest") != cohort.digest and not cohort.withdrawn:
        raise CohortError(
            "the maps were drawn for another cohort", "the cohort digest in maps.json",
            "give the cohort they were drawn for, or draw them again",
        )  # fmt: skip
    known = {case.case_id: case for case in cohort.cases}
    drawn = set(map_case_ids(maps_dir))
    strangers = sorted(
        case_id for case_id in drawn - set(known) if case_id.rsplit("_", 1)[0] not in cohort.withdrawn
    )
    if strangers:
        raise CohortError(
            f"a map of {strangers[0]}, which the cohort does not have", do="draw the maps again"
        )
    wanted = set(manifest.get("cases") or drawn) & set(known)
    missing = sorted(wanted - drawn - set(manifest.get("refused", ())))
    if missing:
        raise CohortError(
            f"maps of {len(missing)} of {len(wanted)} cases are missing, the first {missing[0]}",
            do="run `diffusion-adc draw` again; finished cases are kept",
        )
    cases = [known[case_id] for case_id in sorted(drawn & set(known))]
    scorable = [case for case in cases if case.readers or case.has_target]
    if not scorable:
        raise CohortError(
            f"{len(cases)} maps and no reader's map to score them against",
            "at least one case with a target", "ingest the targets",
        )  # fmt: skip
    return scorable


def _check_truth(truth_dir: Path, cohort: Cohort) -> None:
    digest = read_truth_manifest(truth_dir).get("cohort_digest")
    if digest != cohort.digest and not cohort.withdrawn:
        raise CohortError(
            "the sealed truth belongs to another cohort", "the cohort digest in truth.json",
            "give the truth that was written beside this cohort",
        )  # fmt: skip


def _open_case(
    maps_dir: Path, manifest: dict[str, Any], cohort_dir: Path, case: Case, truth_dir: Path | None
) -> _ScoredCase:
    volume = load_volume(cohort_dir, case, seq.ADC)
    adc = np.asarray(volume.array, dtype=np.float32)
    valid = usable_voxels(adc, load_volume(cohort_dir, case, seq.VALID).array)
    truth = None if truth_dir is None else _truth(truth_dir, case, adc.shape)
    lesions, ignored = (None, None) if truth is None else _lesions(truth)
    reference = Reference(
        case_id=case.case_id,
        research_id=case.research_id,
        adc=adc,
        valid=valid,
        readers=presence_readings(cohort_dir, case),
        voxel_ml=voxel_volume_ml(volume.affine),
        lesions=lesions,
        ignored=ignored,
        structures=None if truth is None else truth.organ_label,
        structure_names={} if truth is None else truth.organ_names,
    )
    predictions = _predictions(maps_dir, manifest, cohort_dir, case, reference, volume.affine, truth)
    return _ScoredCase(reference, volume.affine, predictions)


def _predictions(
    maps_dir: Path,
    manifest: dict[str, Any],
    cohort_dir: Path,
    case: Case,
    reference: Reference,
    affine: NDArray[np.float64],
    truth: CaseTruth | None,
) -> Iterator[tuple[str, Prediction]]:
    """The methods' maps of one case, made one after the other so that one is in memory at a time."""
    stored = read_map_record(maps_dir, case.case_id)["sha256"]

    def read(name: str) -> NDArray[np.generic]:
        volume = read_map_volume(maps_dir, case.case_id, name)
        shape = volume.array.shape[:3]
        if shape != reference.adc.shape or not np.allclose(volume.affine, affine, atol=1e-3):
            raise CohortError(
                f"{name} of {case.case_id} is on a grid of {shape} voxels",
                f"the ADC map's grid of {reference.adc.shape} voxels", "draw the map again",
            )  # fmt: skip
        return volume.array

    def read_probability(name: str) -> NDArray[np.float32]:
        probability = np.asarray(read(name), dtype=np.float32)
        low, high = float(probability.min()), float(probability.max())
        # A sigmoid applied twice never falls below 0.5: everything would be a candidate and AP near 0.
        if not (0.0 <= low < 0.5 and high <= 1.0):
            raise CohortError(
                f"{name} of {case.case_id} runs from {low:g} to {high:g}",
                "probabilities that are near 0 outside tumor", "draw the map again",
            )  # fmt: skip
        return probability

    draws = read(files.DRAWS) if files.DRAWS in stored else None
    yield (
        table.MODEL,
        Prediction(
            tumor_adc=np.asarray(read(files.TUMOR_ADC), dtype=np.float32),
            probability=read_probability(files.PROBABILITY),
            threshold=float(manifest.get("tau", 0.5)),
            draws=draws,
            lesion_threshold=float(manifest.get("lesion_tau", 0.0)),
        ),
    )
    adc, valid = reference.adc, reference.valid
    yield table.EMPTY, empty_map(adc)
    yield table.UNEDITED, unedited_adc(adc, valid)
    if seq.DWI_HIGH in case.files:
        high = np.asarray(load_volume(cohort_dir, case, seq.DWI_HIGH).array, dtype=np.float32)
        yield table.RULE, rule_map(high, adc, valid)
    if files.BASE_PROBABILITY in stored and manifest.get("base_tau") is not None:
        base = read_probability(files.BASE_PROBABILITY)
        yield (
            table.BASE_HEAD,
            base_head_map(
                base, float(manifest["base_tau"]), adc, valid, float(manifest.get("base_lesion_tau", 0.0))
            ),
        )
    if truth is not None:
        count = ORACLE_DRAWS if draws is None else draws.shape[-1]
        oracle = np.stack(oracle_draws(truth, count, SEED), axis=-1)
        yield table.ORACLE, from_draws(oracle, adc, valid)


def _lesions(truth: CaseTruth) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Lesions that count for detection, and those that are ignored, bool (I, J, K)."""
    ignored = np.isin(truth.lesion_label, truth.ambiguous_numbers)
    return (truth.lesion_label > 0) & ~ignored, ignored


def _truth(truth_dir: Path, case: Case, shape: Sequence[int]) -> CaseTruth:
    truth = read_case_truth(truth_dir, case.case_id)
    if truth.lesion_label.shape != tuple(shape):
        raise CohortError(
            f"the sealed truth of {case.case_id} has {truth.lesion_label.shape} voxels",
            f"the ADC map's {tuple(shape)}", "give the truth of this cohort",
        )  # fmt: skip
    return truth
