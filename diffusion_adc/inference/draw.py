"""A cohort's tumor maps from a run: resumable, repeatable, one folder per case.

A case whose folder is complete, undamaged and drawn with the same run, settings and inputs is kept; every
other one is drawn anew. The files of a rerun are the same bytes as those of an uninterrupted run, and those of
several processes that share the cases are the same bytes as one's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from diffusion_adc.custody.lineage import pass_on
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, CohortError, DiffusionAdcError, UsageError
from diffusion_adc.inference.calibrate import Calibration, calibration_for, validation_cases
from diffusion_adc.inference.components import coins_for
from diffusion_adc.inference.interventions import donor
from diffusion_adc.inference.native import draw_native, split_cohort
from diffusion_adc.inference.recalibration import Recalibration
from diffusion_adc.inference.run import LoadedRun, load_run, run_settings
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.share import Share
from diffusion_adc.inference.tumor_map import TumorMap, build_tumor_map
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import remove_leftovers, sha256_file
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.processes import launched_as

__all__ = ["DrawSettings", "draw_case", "draw_cohort", "run_settings"]

Progress = Callable[[int, int], None]
"""Called with the cases done and the number of cases."""


def draw_case(
    run: LoadedRun,
    cohort_dir: Path,
    cohort: Cohort,
    case: Case,
    calibration: Calibration,
    settings: DrawSettings,
    workers: int = 1,
) -> TumorMap:
    """The tumor map of one case.

    Args:
        run: The run.
        cohort_dir: The cohort's folder.
        cohort: The cohort, for the case's covariates.
        case: The case.
        calibration: Thresholds and temperature.
        settings: How to draw.
        workers: Draws made at once.

    Raises:
        CaseError: A volume is missing or damaged, or the ADC map has no valid voxel.
        DiffusionAdcError: A value of the map is not the scanner's.
    """
    drawn = draw_native(run, cohort_dir, cohort, case, settings, workers=workers)
    return build_tumor_map(
        drawn.adc,
        drawn.usable,
        drawn.affine,
        drawn.draws,
        calibration.base_probability(drawn.base_logit),
        calibration.tau,
        flags=case.declared,
        values=drawn.values,
        deterministic=drawn.deterministic,
    )


def with_method(run: LoadedRun, settings: DrawSettings, cohort_dir: Path) -> LoadedRun:
    """The run as it draws with another method than its own: with thresholds of their own, and coins for components.

    Raises:
        CohortError: No validation case is at hand to fit the coins of components.
    """
    own = run.settings.method or run.stage.draw_method
    method = settings.method or own
    if method != own:
        changed = replace(run.settings, method=method, draws=settings.draws)
        run = replace(run, settings=changed, calibration_file=f"calibration.{method}.json")
    if method == "components":
        run = replace(run, coins=coins_for(run, cohort_dir))
    return run


def draw_cohort(
    run_dir: Path,
    cohort_dir: Path,
    out: Path,
    split: str = "test",
    settings: DrawSettings | None = None,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
    resume: bool = True,
    allow_tainted: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    ranks: tuple[int, int] | None = None,
) -> Path:
    """Draw a split of a cohort.

    A case that cannot be used does not stop the others: maps.json lists it under ``refused``, by case ID with
    the reason.

    Args:
        run_dir: RUN.
        cohort_dir: The cohort to draw.
        out: MAPS.
        split: train, val, test or all.
        settings: How to draw; the experiment's own by default.
        checkpoint: ``best`` or ``last``.
        device: ``auto``, ``cpu``, ``cuda`` …
        threads: Draws made at once on a CPU, one core each; as many as torch has threads by default. The
            maps do not depend on it.
        resume: Keep complete cases drawn with the same run, settings and inputs.
        allow_tainted: Reference of the decision to draw although a person the run learned from has withdrawn;
            the maps are marked as the run is.
        command: Words of the command, for the record; never a path.
        progress: Called after every case, validation cases of a first calibration included.
        ranks: This process's number and how many there are; each draws its share of the cases, and the last
            to end completes maps.json. What torchrun or srun says by default.

    Returns:
        `out`.

    Raises:
        UsageError: No run, no cohort, no case in the split, no calibration, or other cases' maps in `out`.
        CohortError: The cohort or the checkpoint is damaged.
        CaseError: No case at all could be drawn; the first one's reason.
        DiffusionAdcError: Out of memory, or the disk is full.
    """
    share = Share(out, *(ranks or launched_as()))
    run = load_run(run_dir, checkpoint, share.device(device), allow_tainted=allow_tainted)
    cohort = read_cohort(cohort_dir)
    chosen = settings or run.settings
    cases = _cases(run, cohort, split)
    _refuse_strangers(out, cases)
    mine = share.of(cases)
    pending = _Pending(len(mine), progress)
    with _one_thread_each(threads, run.device) as workers:
        with share.in_turn(run_dir / ".calibrating"):  # fitted by the first process, read by the others
            run = with_method(run, chosen, cohort_dir)
            calibration = calibration_for(run, cohort_dir, pending.calibrating, workers)
        chosen = replace(chosen, method=chosen.method or run.settings.method)
        if (chosen.method or run.stage.draw_method) == "base":
            calibration = calibration.of_base()
        manifest = _manifest(run, cohort, cases, split, chosen, calibration, checkpoint, command)
        refused: dict[str, str] = {}
        first_refusal: DiffusionAdcError | None = None
        share.begin(manifest)
        pass_on(run_dir, out)
        for case in mine:
            drawn_with = _drawn_with(run, cohort, case, chosen, calibration)
            if not (resume and _is_complete(out, case.case_id, drawn_with)):
                _drop_scores(out)
                remove_leftovers(out, case.case_id)
                try:
                    with _explained(case):
                        tumor_map = draw_case(run, cohort_dir, cohort, case, calibration, chosen, workers)
                except (CaseError, CohortError) as error:
                    # A damaged input concerns this case; anything else (a full disk) concerns all of them.
                    if isinstance(error, CohortError) and error.code is None:
                        raise
                    refused[case.case_id] = str(error)
                    first_refusal = first_refusal or error
                else:
                    _write(out, case, tumor_map, manifest, drawn_with)
            pending.done()
    share.end(manifest, refused)
    if first_refusal is not None and len(refused) == len(cases):
        raise first_refusal
    return out


@contextmanager
def _explained(case: Case) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DiffusionAdcError(
            "out of memory while drawing",
            do="lower draws.batch or draws.max_window_voxels in the run's experiment.yaml; complete maps are kept",
            research_id=case.research_id,
        ) from error


@contextmanager
def _one_thread_each(threads: int | None, device: torch.device) -> Iterator[int]:
    """How many draws to make at once; on a CPU each runs on one thread, and the old number comes back after."""
    before = torch.get_num_threads()
    if device.type != "cpu":
        yield 1  # an accelerator's draws come as a batch
        return
    torch.set_num_threads(1)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)


class _Pending:
    """One count over the validation cases of a first calibration and the cases to draw."""

    def __init__(self, cases: int, progress: Progress | None) -> None:
        self.progress, self.cases, self.before, self.count = progress, cases, 0, 0

    def calibrating(self, done: int, total: int) -> None:
        self.before = total
        self._show(done)

    def done(self) -> None:
        self.count += 1
        self._show(self.before + self.count)

    def _show(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.before + self.cases)


def _cases(run: LoadedRun, cohort: Cohort, split: str) -> list[Case]:
    chosen = cohort.cases if split == "all" else split_cohort(run, cohort).split(split)
    if not chosen:
        held = ", ".join(sorted({case.split for case in cohort.cases}))
        raise UsageError(
            f"no case in the split {split}", f"one of those the cohort has ({held})", "choose another --split"
        )
    return sorted(chosen, key=lambda case: case.case_id)


def _refuse_strangers(out: Path, cases: Sequence[Case]) -> None:
    wanted = {case.case_id for case in cases}
    strangers = [case_id for case_id in files.map_case_ids(out) if case_id not in wanted]
    if strangers:
        raise UsageError(
            f"{out.name} holds maps of {len(strangers)} cases that are not among the {len(wanted)} to draw",
            "an empty folder or maps of these cases",
            "choose another --out or remove the folder",
        )


def _manifest(
    run: LoadedRun,
    cohort: Cohort,
    cases: Sequence[Case],
    split: str,
    settings: DrawSettings,
    calibration: Calibration,
    checkpoint: str,
    command: str | None,
) -> dict[str, Any]:
    words = f"draw --split {split} --draws {settings.draws} --steps {settings.steps} --seed {settings.seed}"
    fitted_here = {case.case_id for case in validation_cases(run, cohort)} & {case.case_id for case in cases}
    return {
        "run": run.name,
        **({} if settings.id is None else {"id": settings.id}),
        "values": run.stage.values,
        "checkpoint": checkpoint,
        "checkpoint_sha256": run.checkpoint_sha256,
        "cohort_digest": cohort.digest,
        "provenance": cohort.provenance,
        "split": split,
        "split_kind": run.split,
        "cases": [case.case_id for case in cases],
        "command": command or words,
        "draws": 0 if (settings.method or run.stage.draw_method) == "base" else settings.draws,
        "steps": settings.steps,
        "seed": settings.seed,
        "settings": _settings_in_force(run, settings),
        "tau": calibration.tau,
        "base_tau": calibration.base_tau,
        "lesion_tau": calibration.lesion_tau,
        "base_lesion_tau": calibration.base_lesion_tau,
        "temperature": calibration.temperature,
        "calibration": calibration.record(),
        # Scores of cases on which the thresholds were fixed are not scores of unseen cases.
        "thresholds_fitted_on_these_cases": bool(fitted_here) and calibration.cohort_digest == cohort.digest,
        "research_use_only": True,
    }


def _settings_in_force(run: LoadedRun, settings: DrawSettings) -> dict[str, Any]:
    return {
        **settings.what_decides_a_draw(),
        "sampler": settings.sampler or run.stage.sampler_name,
        "slice_correlation": settings.correlation(run.stage.spatial_dims),
    }


def _drawn_with(
    run: LoadedRun, cohort: Cohort, case: Case, settings: DrawSettings, calibration: Calibration
) -> str:
    """SHA-256 over everything a case's map depends on; paths and names of runs are not among it."""
    inputs = {name: digest for name, digest in case.files.items() if "/" not in name}
    values = {
        "checkpoint": run.checkpoint_sha256,
        "settings": _settings_in_force(run, settings),
        "thresholds": [calibration.tau, calibration.base_tau, calibration.temperature],
        "recipe": run.recipe.fingerprint,
        "covariates": [list(run.covariates), asdict(cohort.covariates(case))],
        "inputs": inputs,
        "b": [case.b_low, case.b_high],
        "declared": list(case.declared),
    }
    if settings.covariates == "permuted":
        values["donor"] = asdict(
            cohort.covariates(
                next(c for c in cohort.cases if c.research_id == donor(cohort, case, settings.seed))
            )
        )
    if run.coins is not None:
        values["coins"] = asdict(run.coins)
    if calibration.recalibration_cases:
        values["recalibration"] = calibration.recalibration.record()
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_complete(out: Path, case_id: str, drawn_with: str) -> bool:
    """Whether a case's folder was drawn with the same things and its volumes are as they were written."""
    try:
        record = files.read_map_record(out, case_id)
        digests = record["sha256"]
        return (
            record["drawn_with"] == drawn_with
            and set(digests) >= set(files.MAP_VOLUMES) - {files.DRAWS}
            and (out / case_id / "lesions.csv").is_file()
            and all(
                sha256_file(out / case_id / f"{name}.nii.gz") == digest for name, digest in digests.items()
            )
        )
    except (CohortError, OSError, KeyError, TypeError):
        return False


def _drop_scores(out: Path) -> None:
    # Scores of maps that are about to be replaced would be read as scores of the new ones.
    for name in (*files.SCORE_SUMS, *files.SCORE_TABLES):
        (out / name).unlink(missing_ok=True)


def _write(out: Path, case: Case, tumor_map: TumorMap, manifest: Mapping[str, Any], drawn_with: str) -> None:
    record = {
        "case_id": case.case_id,
        **{
            name: manifest[name]
            for name in ("run", "checkpoint_sha256", "steps", "seed", "research_use_only")
        },
        **tumor_map.record(),
        "recalibrated": Recalibration.of(manifest["calibration"]["recalibration"]).of_map(tumor_map),
        "drawn_with": drawn_with,
    }
    files.write_map_case(
        out, case.case_id, tumor_map.volumes(), tumor_map.affine, tumor_map.lesions.rows, record
    )
