"""One worker: take a trial, run it as a process of its own, watch its metrics, say how it ended."""

from __future__ import annotations

import csv
import ctypes
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from diffusion_adc.domain.errors import StoppedBySignal, UsageError
from diffusion_adc.records.atomic import write_json
from diffusion_adc.sweeps.folder import load, next_trial, read_plan, trial_folder
from diffusion_adc.sweeps.space import ARGS_FILE, Sweep

if TYPE_CHECKING:
    from optuna import Study

SIGNALLED: Final = 75
_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_LAST_WORDS: Final = 400
Report = Callable[[str], None]


def work(folder: Path, *, stall_s: float = 3600.0, poll_s: float = 1.0, report: Report = print) -> None:
    """Run trials until none is left.

    Args:
        folder: Of the sweep; any number of workers on any number of machines that share it.
        stall_s: A trial that writes no new row of metrics for so long is ended as hanging.
        poll_s: How often its metrics are read.
        report: Told one line per trial.

    Raises:
        StoppedBySignal: SIGTERM, SIGUSR1 or SIGINT; the running trial saved and is taken up at the next start.
        UsageError: The last trials all failed of one cause.
    """
    sweep, study = load(folder)
    stopping: list[int] = []
    earlier = {
        number: signal.signal(number, lambda caught, _frame: stopping.append(caught))
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    }
    try:
        while not stopping:
            taken = next_trial(folder, sweep, study, read_plan(folder))
            if taken is None:
                return
            number, lock = taken
            with lock:
                _run(folder, sweep, study, number, lock.fileno(), stopping, stall_s, poll_s, report)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    raise StoppedBySignal(
        f"sweep stopped by signal {stopping[0]}", do="run the same command again to resume the trial it left"
    )


def _run(
    folder: Path, sweep: Sweep, study: Study, number: int, lock: int, stopping: list[int], stall_s: float,
    poll_s: float, report: Report,
) -> None:  # fmt: skip
    import optuna

    where = trial_folder(folder, number)
    run_dir = where / "run"
    frozen = study.get_trials(deepcopy=False)[number]
    trial, known = optuna.trial.Trial(study, frozen._trial_id), frozenset(frozen.intermediate_values)
    started, told, pruned, hanging = time.monotonic(), 0, False, False
    with (where / "log.txt").open("a") as log:
        process = subprocess.Popen(
            command_of(sweep, where), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            pass_fds=(lock,), env=_environment(), preexec_fn=_die_with_parent,
        )  # fmt: skip
        last_news = time.monotonic()
        ended_s: float | None = None
        while process.poll() is None:
            time.sleep(poll_s)
            values = metric_values(run_dir / "metrics.csv", sweep.metric)
            for step, value in values[told:]:
                if math.isfinite(value) and step not in known:
                    trial.report(value, step)
            fresh, told = len(values) > told, len(values)
            if fresh:
                last_news = time.monotonic()  # after the reports, which may have waited for the journal
            if ended_s is None:
                hanging = time.monotonic() - last_news > stall_s
                pruned = bool(sweep.prune) and fresh and trial.should_prune()
                if stopping or pruned or hanging:
                    process.send_signal(signal.SIGTERM)
                    ended_s = time.monotonic()
            elif time.monotonic() - ended_s > 60:
                process.kill()  # it had a minute to save
    values = metric_values(run_dir / "metrics.csv", sweep.metric)
    code = process.returncode
    outcome: dict[str, Any] = {"exit_code": code, "seconds": round(time.monotonic() - started, 1)}
    finite = [value for _, value in values if math.isfinite(value)]
    best = (max if sweep.maximize else min)(finite) if finite else None
    if pruned:
        outcome["state"] = "pruned"
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
    elif hanging:
        _fail(study, number, outcome, f"no new metrics for {stall_s:g} s")
    elif code == SIGNALLED or (stopping and code != 0):
        stopping.append(signal.SIGTERM)  # whoever stopped the trial meant this worker, too
        outcome["state"] = "interrupted"
    elif code == 0 and best is not None:
        outcome |= {"state": "complete", "value": best}
        study.tell(number, best)
    else:
        _fail(study, number, outcome, _cause(code, best, sweep.metric, where / "log.txt"))
    write_json(where / "trial.json", outcome)
    report(
        f"trial {number}: {outcome['state']}" + (f"  {sweep.metric} {best:.6g}" if best is not None else "")
    )


def command_of(sweep: Sweep, where: Path) -> list[str]:
    """Words that run a trial; our own program is this interpreter's, whatever PATH says."""
    words = [str(where / "args.json") if word == ARGS_FILE else word for word in sweep.command]
    if words[0] == "diffusion-adc":
        words = [sys.executable, "-m", "diffusion_adc", *words[1:]]
    elif shutil.which(words[0]) is None:
        raise UsageError(f"no program {words[0]!r}", "one that can be run", "correct the sweep's command")
    return [*words, "--out", str(where / "run")]


def _environment() -> dict[str, str]:
    """Without SLURM's variables: who requeues a trial is the sweep, not the trainer inside it."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SUBMITIT_"))}


def _die_with_parent() -> None:
    """In the child: be told to save and stop when the worker dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)


def metric_values(metrics: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of a column of a run's metrics.csv, rows without it left out; empty before the first row."""
    try:
        with metrics.open(newline="") as stream:
            rows: Sequence[dict[str, str]] = list(csv.DictReader(stream))
    except OSError:
        return []
    found = []
    for row in rows:
        try:
            found.append((int(float(row["step"])), float(row[name])))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def _fail(study: Study, number: int, outcome: dict[str, Any], cause: str) -> None:
    import optuna

    outcome |= {"state": "failed", "cause": cause}
    frozen = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_user_attr(frozen._trial_id, "cause", cause)
    study.tell(number, state=optuna.trial.TrialState.FAIL)


def _cause(code: int, best: float | None, metric: str, log: Path) -> str:
    if code == 0 and best is None:
        return f"ended well but wrote no {metric}"
    if code < 0:
        return f"killed by signal {-code}"
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    said = next(
        (line for line in reversed(lines) if line.startswith("diffusion-adc")), lines[-1] if lines else ""
    )
    return f"exit code {code}" + (f": {said[-_LAST_WORDS:]}" if said else "")


def trial_record(where: Path) -> dict[str, Any]:
    """What a worker wrote of a trial's end; empty while it runs."""
    try:
        return dict(json.loads((where / "trial.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
