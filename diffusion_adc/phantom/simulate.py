"""A simulated cohort on disk, and its sealed truth beside it."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import DiffusionAdcError, StoppedBySignal, UsageError
from diffusion_adc.phantom.case import SimulatedCase, simulate_case
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.readers import law
from diffusion_adc.phantom.truth import (
    read_truth_manifest,
    truth_dir_of,
    write_case_truth,
    write_truth_manifest,
)
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.cohort import read_cohort, write_case, write_manifest

__all__ = ["SimulatedCase", "cohort_up_to_date", "simulate_case", "simulate_cohort"]

PHANTOM_VERSION: Final = 2
"""Raised whenever the same options give another cohort."""

Progress = Callable[[int, int], None]


def simulate_cohort(
    out: Path, options: PhantomOptions, jobs: int = 1, progress: Progress | None = None
) -> Path:
    """Simulate a cohort and its sealed truth ``OUT.truth``.

    Cases are built in hidden folders beside `out` that take their names at the end. A run that was stopped
    goes on where it was when started again with the same options; a run that failed leaves nothing behind.

    Args:
        out: Folder of the cohort; an earlier simulated cohort there is replaced.
        options: What to simulate.
        jobs: Worker processes; the bytes written do not depend on it.
        progress: Called with (done, total) after every case.

    Returns:
        `out`.

    Raises:
        UsageError: `out` holds something else than a simulated cohort.
        DiffusionAdcError: The disk is full or the folder cannot be written.
    """
    _check_target(out)
    if jobs < 1:
        raise UsageError(f"{jobs} jobs", "at least 1")
    key = hashlib.sha256(json.dumps(_identity(options), sort_keys=True).encode()).hexdigest()[:12]
    staged = out.with_name(f".{out.name}.{key}.part")
    staged_truth = out.with_name(f".{out.name}.truth.{key}.part")
    done_dir = out.with_name(f".{out.name}.done.{key}.part")
    folders = (staged, staged_truth, done_dir)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        _write_cases(options, folders, jobs, progress)
        cases: list[Case] = []
        clinical: dict[str, Covariates] = {}
        for index in range(options.cases):
            record = json.loads(_done_path(done_dir, index).read_text(encoding="utf-8"))
            row = record["case"]
            cases.append(
                Case(**{**row, "readers": tuple(row["readers"]), "declared": tuple(row["declared"])})
            )
            clinical.setdefault(row["research_id"], Covariates(**record["covariates"]))
        cohort = Cohort(tuple(cases), clinical, provenance="synthetic", legal_basis="none needed: simulated")
        write_manifest(staged, cohort)
        write_truth_manifest(staged_truth, _identity(options), law(), cohort.digest)
        truth = truth_dir_of(out)
        # The truth first: a cohort without its truth would look complete.
        for folder, target in ((staged_truth, truth), (staged, out)):
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)
        shutil.rmtree(done_dir, ignore_errors=True)
    except StoppedBySignal:
        raise  # what is finished stays for the next start
    except OSError as error:
        _remove(folders)
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise DiffusionAdcError(
            f"the cohort {out.name} could not be written ({reason})",
            do="free disk space or choose another folder",
        ) from error
    except Exception:
        _remove(folders)
        raise
    return out


def cohort_up_to_date(out: Path, options: PhantomOptions) -> bool:
    """Whether `out` and its truth are a complete cohort made with exactly these options."""
    try:
        manifest = read_truth_manifest(truth_dir_of(out))
        digest = read_cohort(out).digest
    except DiffusionAdcError:
        return False
    return manifest.get("options") == _identity(options) and manifest.get("cohort_digest") == digest


def _identity(options: PhantomOptions) -> dict[str, Any]:
    return {"phantom_version": PHANTOM_VERSION, **options.as_json()}


def _check_target(out: Path) -> None:
    """Refuse to replace anything but an earlier simulated cohort and its truth."""
    truth = truth_dir_of(out)
    try:
        if _occupied(out) and read_cohort(out).provenance != "synthetic":
            raise UsageError("a cohort of persons")
        if _occupied(truth):
            read_truth_manifest(truth)
    except DiffusionAdcError:
        raise UsageError(
            f"{out.name} or {truth.name} already holds something else", "an earlier simulated cohort or nothing",
            "choose another folder or remove it",
        ) from None  # fmt: skip


def _occupied(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _remove(folders: tuple[Path, ...]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _done_path(done_dir: Path, index: int) -> Path:
    return done_dir / f"{index:05d}.json"


def _write_cases(
    options: PhantomOptions, folders: tuple[Path, Path, Path], jobs: int, progress: Progress | None
) -> None:
    waiting = [index for index in range(options.cases) if not _done_path(folders[2], index).exists()]
    finished = options.cases - len(waiting)

    def report() -> None:
        if progress is not None:
            progress(finished, options.cases)

    if min(jobs, len(waiting)) <= 1:
        for index in waiting:
            _write_case(options, index, folders)
            finished += 1
            report()
        return
    # Spawned workers inherit no threads and no locks of the caller, whatever it has loaded.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(waiting)), mp_context=context) as pool:
        running: set[Future[None]] = {pool.submit(_write_case, options, i, folders) for i in waiting}
        try:
            while running:
                completed, running = wait(running, return_when=FIRST_COMPLETED)
                for future in completed:
                    future.result()
                    finished += 1
                    report()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_case(options: PhantomOptions, index: int, folders: tuple[Path, Path, Path]) -> None:
    staged, staged_truth, done_dir = folders
    simulated = simulate_case(options, index)
    written = write_case(
        staged, simulated.case, simulated.volumes, simulated.affine, simulated.readers,
        extra={"b_values": {"low": options.b_low, "high": options.b_high}, "simulated": True},
    )  # fmt: skip
    write_case_truth(staged_truth, simulated.truth)
    row = asdict(written)
    # Written last: its presence says that the case is complete.
    write_json(_done_path(done_dir, index), {"case": row, "covariates": asdict(simulated.covariates)})
