"""Score a folder of tumor maps against a cohort, beside the baselines: the work of ``evaluate``.

One case is in memory at a time. The same maps, cohort and number of replicates give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.evaluation import rows
from diffusion_adc.evaluation import scores as table
from diffusion_adc.evaluation.bars import bar_records
from diffusion_adc.evaluation.bootstrap import REPLICATES, Bootstrap
from diffusion_adc.evaluation.case import CaseResult, score_case
from diffusion_adc.evaluation.claim import claim_record
from diffusion_adc.evaluation.figures import write_figures
from diffusion_adc.evaluation.material import ORACLE_DRAWS, SEED, Maps, Study
from diffusion_adc.evaluation.scores import Scores, method_scores
from diffusion_adc.inference.recalibration import Recalibration
from diffusion_adc.records.atomic import write_csv, write_json

METHODS: Final = (table.MODEL, table.EMPTY, table.UNEDITED, table.RULE, table.BASE_HEAD, table.ORACLE)

Progress = Callable[[int, int], None]
"""Called with the cases done and the number of cases."""


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one folder of maps.

    Attributes:
        results: By method, one result per case, None where it could not be applied.
        research_ids: Person of each case.
        recalibration: What validation cases recalibrate, by method.
        affines: (4, 4) voxel index to RAS+ mm of each case.
        voxel_ml: Volume of a voxel of each case.
    """

    results: dict[str, list[CaseResult | None]]
    research_ids: list[str]
    recalibration: dict[str, Recalibration]
    affines: list[Any]
    voxel_ml: list[float]


def score_maps(
    maps: Maps, study: Study, *, progress: Progress | None = None, baselines: bool = True
) -> Evaluation:
    """Score every case of a folder of maps, with its base head and, if wanted, the baselines and the oracle.

    Raises:
        CohortError: The maps belong to another cohort, are incomplete, or no case can be scored.
        CaseError: A volume is missing or damaged.
    """
    cases = maps.cases(study.cohort)
    recalibration = {
        table.MODEL: maps.recalibration(),
        table.BASE_HEAD: maps.recalibration("base_recalibration"),
    }
    done = Evaluation({method: [] for method in METHODS}, [], recalibration, [], [])
    for number, case in enumerate(cases, start=1):
        opened = study.case(case)
        seen: dict[str, CaseResult] = {}
        draws = ORACLE_DRAWS
        for method, prediction in maps.predictions(opened):
            if method == table.MODEL and prediction.draws is not None:
                draws = prediction.draws.shape[-1]
            corrections = recalibration[method]
            seen[method] = score_case(prediction, opened.reference, opened.uniforms, corrections)
        if baselines:
            for method, prediction in opened.baselines():
                seen[method] = score_case(prediction, opened.reference, opened.uniforms)
            oracle = opened.oracle(draws)
            if oracle is not None:
                seen[table.ORACLE] = score_case(oracle, opened.reference, opened.uniforms)
        for method in METHODS:
            done.results[method].append(seen.get(method))
        done.research_ids.append(case.research_id)
        done.affines.append(opened.affine)
        done.voxel_ml.append(opened.reference.voxel_ml)
        if progress is not None:
            progress(number, len(cases))
    for method in METHODS:
        if all(result is None for result in done.results[method]):
            del done.results[method]
    return done


def evaluate(
    maps_dir: Path,
    cohort_dir: Path,
    truth_dir: Path | None = None,
    *,
    bootstrap: int = REPLICATES,
    progress: Progress | None = None,
    figures: bool = True,
) -> dict[str, Scores]:
    """Score tumor maps and the baselines on the same cases, and write the results into the maps' folder.

    Writes ``scores.json`` (by method: ``model``, ``B0`` … ``B3``, ``Oracle``), ``cases.csv``, ``lesions.csv``,
    ``histograms.csv``, ``false_positives.csv`` where organs are known, ``claim.json`` and the pictures in ``figures/``.
    Cases without any reader's map are left out unless they are known to be free of tumor; withdrawn persons are not
    read.

    Args:
        maps_dir: Folder of tumor maps with maps.json.
        cohort_dir: The cohort they were drawn for.
        truth_dir: Sealed truth of a simulated cohort. With it, detection is scored on the latent lesions,
            ambiguous ones ignored, and the oracle joins the table; without it, on the first reader's map.
        bootstrap: Number of bootstrap replicates over persons.
        progress: Called after every case.
        figures: Whether to draw the pictures.

    Returns:
        Scores by method and key, each ``{value, low95, high95}``, None where undefined.

    Raises:
        UsageError: A folder is none of its kind, or fewer than one replicate is asked for.
        CohortError: The maps belong to another cohort, are incomplete, or no case can be scored.
        CaseError: A volume is missing or damaged.
    """
    if bootstrap < 1:
        raise UsageError(f"{bootstrap} bootstrap replicates", "at least 1; intervals need 2000")
    maps = Maps.open(maps_dir)
    study = Study.open(cohort_dir, truth_dir)
    found = score_maps(maps, study, progress=progress)
    weights = Bootstrap(found.research_ids, bootstrap, SEED)
    rule = found.results.get(table.RULE)
    scores = {
        method: method_scores(results, weights, rule, found.recalibration.get(method, Recalibration()).lesion)
        for method, results in found.results.items()
    }
    _write_tables(maps_dir, found)
    write_json(maps_dir / "scores.json", scores)
    write_json(maps_dir / "claim.json", claim_record(maps, study, found, scores, bar_records(scores)))
    if figures:
        write_figures(maps_dir / "figures", found.results, found.recalibration)
    return scores


def _write_tables(maps_dir: Path, found: Evaluation) -> None:
    cases: list[dict[str, Any]] = []
    lesions: list[dict[str, Any]] = []
    histograms: list[dict[str, Any]] = []
    structures: list[dict[str, Any]] = []
    for method, results in found.results.items():
        for result, affine, voxel_ml in zip(results, found.affines, found.voxel_ml, strict=True):
            if result is None:
                continue
            cases.append(rows.case_row(method, result))
            histograms += rows.histogram_rows(method, result)
            if method != table.UNEDITED:  # its components are the body and specks of noise, not candidates
                lesions += rows.lesion_rows(method, result, affine, voxel_ml)
        structures += rows.structure_rows(method, results)
    write_csv(maps_dir / "cases.csv", cases, rows.CASE_COLUMNS)
    write_csv(maps_dir / "lesions.csv", lesions, rows.LESION_COLUMNS)
    write_csv(maps_dir / "histograms.csv", histograms, rows.HISTOGRAM_COLUMNS)
    if structures:
        write_csv(maps_dir / "false_positives.csv", structures, rows.STRUCTURE_COLUMNS)
    else:
        (maps_dir / "false_positives.csv").unlink(missing_ok=True)
