"""The sweep's folder: one Optuna journal, one folder per trial, locks that die with their process.

``SWEEP/sweep.yaml, plan.json, journal.log, lock`` and ``SWEEP/trials/0007/{args.json, trial.json, run/, log.txt,
lock}``. A trial whose state is RUNNING and whose lock nobody holds was left by a killed process: the next
worker takes it up again, so that none is lost and none is run twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.atomic import write_json, write_text
from diffusion_adc.sweeps.space import Sweep, read_sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SAME_CAUSE_LIMIT: Final = 5
"""So many failures of one cause in a row mean that the next would fail, too."""
_STARTUP_TRIALS: Final = 8
_SPEC: Final = "sweep.yaml"
_PLAN: Final = "plan.json"


@dataclass(frozen=True)
class Plan:
    """How many trials, from which seed.

    Attributes:
        trials: Trials in all, failed ones included.
        seed: Of the search; trial n's values depend on it and on the trials before.
    """

    trials: int
    seed: int


def default_folder(sweep: Sweep) -> Path:
    """Where a sweep lives unless the command line says otherwise."""
    return Path("runs") / "sweeps" / sweep.name


def create(folder: Path, sweep: Sweep, trials: int | None, seed: int) -> Plan:
    """Make the sweep's folder, or join the one that is there.

    A larger number of trials extends a sweep that is there; everything else must be the same.

    Raises:
        UsageError: Another sweep is there, or nobody says how many trials.
    """
    wanted = trials or sweep.run_cap or (len(sweep.grid()) if sweep.method == "grid" else None)
    if sweep.method == "grid" and wanted is not None:
        wanted = min(wanted, len(sweep.grid()))
    if wanted is None or wanted < 1:
        raise UsageError("no number of trials", "--trials N, or run_cap in the sweep")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        spec, plan_file = folder / _SPEC, folder / _PLAN
        if not plan_file.is_file():
            if (
                any(path.name != "lock" for path in folder.iterdir() if not path.name.startswith("."))
                and not spec.is_file()
            ):
                raise UsageError(
                    f"{folder.name} already holds something else", "an empty place", "choose --out"
                )
            write_text(spec, sweep.text)
            study = _study(folder, sweep, new=True)
            if sweep.method == "grid":
                known = len(study.get_trials(deepcopy=False))
                for values in sweep.grid()[known:]:
                    study.enqueue_trial(values)
            plan = Plan(wanted, seed)
            write_json(plan_file, vars(plan))
            return plan
        if spec.read_text(encoding="utf-8") != sweep.text:
            raise UsageError(
                f"{folder.name} holds another sweep", "the same sweep YAML", "choose another --out or name"
            )
        plan = read_plan(folder)
        if trials is not None and wanted > plan.trials:
            plan = Plan(wanted, plan.seed)
            write_json(plan_file, vars(plan))
        return plan


def read_plan(folder: Path) -> Plan:
    """The plan of a sweep's folder.

    Raises:
        UsageError: The folder holds no sweep.
    """
    try:
        return Plan(**json.loads((folder / _PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UsageError(
            f"no sweep in {folder.name}", "a sweep's folder", "run `diffusion-adc sweep` first"
        ) from None


def load(folder: Path) -> tuple[Sweep, Study]:
    """The sweep and its study.

    Raises:
        UsageError: The folder holds no sweep.
    """
    read_plan(folder)
    sweep = read_sweep(folder / _SPEC)
    return sweep, _study(folder, sweep, new=False)


def _study(folder: Path, sweep: Sweep, *, new: bool) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna's own lock outlives a killed process by half a minute; the kernel frees ours at once.
    lock: Any = JournalLock(folder / "journal.lock")
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log"), lock_obj=lock))
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if sweep.prune is not None:
        pruner = optuna.pruners.HyperbandPruner(
            min_resource=int(sweep.prune.get("min_iter", 1)),
            max_resource=int(sweep.prune["max_iter"]) if "max_iter" in sweep.prune else "auto",
            reduction_factor=int(sweep.prune.get("eta", 3)),
        )
    direction: Any = "maximize" if sweep.maximize else "minimize"
    if new:
        return optuna.create_study(
            storage=storage, study_name=sweep.name, direction=direction, load_if_exists=True, pruner=pruner
        )
    return optuna.load_study(storage=storage, study_name=sweep.name, pruner=pruner)


def next_trial(folder: Path, sweep: Sweep, study: Study, plan: Plan) -> tuple[int, IO[str]] | None:
    """Take up an abandoned trial or ask for a new one; None if there is nothing left to do.

    Returns:
        The trial's number and its lock, held until it is closed.

    Raises:
        UsageError: The last `SAME_CAUSE_LIMIT` trials failed of one cause.
    """
    with locked(folder / "lock"):
        trials = study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state.name == "RUNNING"]
        for trial in running:
            lock = _take(trial_folder(folder, trial.number) / "lock")
            if lock is not None:
                _arguments(folder, sweep, study, trial)
                return trial.number, lock
        started = sum(trial.state.name != "WAITING" for trial in trials)
        if started >= plan.trials:
            return None
        refuse_same_cause(trials)
        # Seeded by the trial's number: any number of workers asks the same questions in the same order.
        study.sampler = _sampler(sweep, plan.seed + 7919 * started)
        asked = study.ask()
        lock = _take(trial_folder(folder, asked.number) / "lock")
        assert lock is not None  # nobody knows of this trial yet
        _arguments(folder, sweep, study, study.get_trials(deepcopy=False)[asked.number])
        return asked.number, lock


def _arguments(folder: Path, sweep: Sweep, study: Study, frozen: FrozenTrial) -> None:
    """Write a trial's values; those it does not have yet are asked for (a process may have died in between)."""
    import optuna

    path = trial_folder(folder, frozen.number) / "args.json"
    if path.is_file():
        return
    trial = optuna.trial.Trial(study, frozen._trial_id)
    chosen = {name: trial._suggest(name, kind) for name, kind in sweep.distributions().items()}
    write_json(path, sweep.arguments(chosen))


def refuse_same_cause(trials: list[FrozenTrial]) -> None:
    """Stop a sweep that fails again and again of one cause.

    Raises:
        UsageError: It does.
    """
    ended = sorted(
        (trial for trial in trials if trial.state.is_finished()),
        key=lambda trial: str(trial.datetime_complete),
    )[-SAME_CAUSE_LIMIT:]
    causes = {trial.user_attrs.get("cause") for trial in ended if trial.state.name == "FAIL"}
    if len(ended) == SAME_CAUSE_LIMIT and all(t.state.name == "FAIL" for t in ended) and len(causes) == 1:
        raise UsageError(
            f"{SAME_CAUSE_LIMIT} trials in a row failed: {causes.pop()}", do="mend the cause, then start again "
            "with another --out",
        )  # fmt: skip


def _sampler(sweep: Sweep, seed: int) -> Any:
    import optuna

    if sweep.method == "bayes":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def trial_folder(folder: Path, number: int) -> Path:
    """Folder of a trial."""
    return folder / "trials" / f"{number:04d}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel frees it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class JournalLock:
    """Exclusive right to write the journal, in the form Optuna's file backend asks for.

    Args:
        path: File that carries the lock, never deleted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait until nobody else holds it."""
        stream = self._path.open("a")
        fcntl.flock(stream, fcntl.LOCK_EX)
        self._held = stream
        return True

    def release(self) -> None:
        """Let the next one write."""
        if self._held is not None:
            self._held.close()


def _take(path: Path) -> IO[str] | None:
    """A trial's lock if nobody holds it. Its descriptor is inheritable: it lives as long as the trial's process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    os.set_inheritable(stream.fileno(), True)
    return stream
