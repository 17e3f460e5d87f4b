"""From a composed experiment to a trained run folder."""

from __future__ import annotations

import contextlib
import difflib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml

from diffusion_adc.config import Experiment, dump, instantiate, parse
from diffusion_adc.custody.lineage import refuse_tainted, refuse_tainted_checkpoint
from diffusion_adc.domain.errors import StoppedBySignal, UsageError
from diffusion_adc.launching import cluster, explained, refuse_other_packages, refuse_sharded
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.processes import held, is_first
from diffusion_adc.records.runs import read_taint

if TYPE_CHECKING:
    import lightning.pytorch as pl

LOCK: Final = ".lock"
"""In a run: held by the process that trains there."""
PROFILE: Final = "profile"
"""In a run: what `trainer.profiler` measured."""


def fit(
    experiment: Experiment,
    run_dir: Path,
    resume: str,
    command: Sequence[str],
    *,
    quiet: bool,
    allow_tainted: str | None = None,
) -> bool:
    """Train an experiment into a run folder, or continue there.

    Args:
        experiment: The composed experiment.
        run_dir: RUN; made if absent.
        resume: ``auto`` (newest verified checkpoint, nothing to do if finished), ``never`` (the folder must be
            empty) or the path of a checkpoint.
        command: Words of the command, for the record.
        quiet: Plain lines instead of progress bars.
        allow_tainted: Reference of the decision to go on although a person whose data were used has withdrawn.

    Returns:
        False if the run was finished already. With ``trainer.fast_dev_run`` a few steps are tried and nothing is
        written into the folder, which may then be missing or hold a run.

    Raises:
        UsageError: Wrong configuration, a run of another experiment or other packages in the folder, a missing
            or tainted checkpoint, or another process that trains there.
        CohortError: The run had saved, but no checkpoint of it can be verified.
        NonFiniteError: Training met NaN or infinity.
        StoppedBySignal: SIGTERM or SIGUSR1; saved, resumable.
        DiffusionAdcError: Out of memory, or the disk is full.
    """
    parser, namespace = parse(experiment)
    text = dump(parser, namespace)
    if namespace.trainer.fast_dev_run:
        built, trainer = build(parser, namespace, run_dir, command, text, kind="rehearsal", quiet=quiet)
        with explained(namespace):
            trainer.fit(built.model, datamodule=built.data)
        return True

    # The processes that a launcher starts together work in one folder; any other one is a mistake.
    alone = held(run_dir / LOCK, run_dir.name) if is_first() else contextlib.nullcontext()
    from diffusion_adc.callbacks.stopping import ended_by_signals

    with ended_by_signals(), alone:
        return _train(
            experiment,
            parser,
            namespace,
            text,
            run_dir,
            resume,
            command,
            quiet=quiet,
            allow_tainted=allow_tainted,
        )


def _train(
    experiment: Experiment,
    parser: Any,
    namespace: Any,
    text: str,
    run_dir: Path,
    resume: str,
    command: Sequence[str],
    *,
    quiet: bool,
    allow_tainted: str | None,
) -> bool:
    from diffusion_adc.callbacks.record import RunRecord, read_record
    from diffusion_adc.callbacks.stopping import StopOnSignal

    earlier = read_record(run_dir)
    if earlier and resume == "never":
        raise UsageError(f"{run_dir.name} holds a run already", "an empty folder", "choose another --out")
    cohort_dir = Path(experiment.values["cohort"])
    if earlier:
        refuse_tainted(run_dir, allow_tainted, use="resume", cohort=cohort_dir)
        _refuse_other_experiment(run_dir, text)
    checkpoint = _checkpoint(run_dir, resume)
    if checkpoint is not None:
        refuse_tainted_checkpoint(checkpoint, allow_tainted, use="resume", cohort=cohort_dir)
    if earlier:
        # A run may go on without the persons who withdrew only under a decision, which is checked above.
        cohort = read_cohort(cohort_dir)
        split = namespace.data.init_args.split
        changed = (
            earlier.get("cohort_digest") != (cohort if split == "person" else cohort.resplit(split)).digest
        )
        if changed and not (allow_tainted and read_taint(run_dir)):
            raise UsageError(
                "the cohort changed since this run started",
                "the cohort it was trained on",
                "choose another --out",
            )
        if earlier.get("state") == "finished" and resume == "auto":
            return False
    built, trainer = build(parser, namespace, run_dir, command, text, kind="fit", quiet=quiet)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    record = next(callback for callback in callbacks if isinstance(callback, RunRecord))
    if earlier and resume == "auto":
        refuse_other_packages(run_dir, earlier.get("versions") or {}, record.record["versions"])
    if checkpoint is not None:
        record.started_from(checkpoint)
    codec = getattr(built.model, "codec_checkpoint", None)
    if codec is not None:  # its weights become part of this run's checkpoints, and so do its cases
        refuse_tainted_checkpoint(codec, allow_tainted, use="train from", cohort=cohort_dir)
        record.started_from(codec)
    stop = next(callback for callback in callbacks if isinstance(callback, StopOnSignal))
    try:
        with stop.listening(), explained(namespace):
            trainer.fit(built.model, datamodule=built.data, ckpt_path=checkpoint, weights_only=True)
    except StoppedBySignal:
        if record.path.exists():  # else it was stopped before there was anything to record
            record.finish(trainer, "stopped")
        raise
    if trainer.interrupted:
        record.finish(trainer, "stopped")
        raise StoppedBySignal("interrupted", do="run the same command again to resume")
    record.finish(trainer, "finished")
    return True


def validate(
    experiment: Experiment,
    run_dir: Path,
    command: Sequence[str],
    *,
    quiet: bool,
    allow_tainted: str | None = None,
) -> dict[str, float]:
    """Score a run's newest checkpoint on the validation patches of its experiment.

    Raises:
        UsageError: The run has no verified checkpoint, or is tainted and no decision is given.
    """
    parser, namespace = parse(experiment)

    from diffusion_adc.callbacks.checkpoints import newest_verified

    checkpoint = newest_verified(run_dir)
    if checkpoint is None:
        raise UsageError(
            f"no verified checkpoint in {run_dir.name}", "a trained run", "run `diffusion-adc fit` first"
        )
    refuse_tainted(run_dir, allow_tainted, use="validate", cohort=Path(experiment.values["cohort"]))
    built, trainer = build(
        parser, namespace, run_dir, command, dump(parser, namespace), kind="validate", quiet=quiet
    )
    rows = trainer.validate(
        built.model, datamodule=built.data, ckpt_path=checkpoint, weights_only=True, verbose=False
    )
    return dict(rows[0])


def build(
    parser: Any,
    namespace: Any,
    run_dir: Path,
    command: Sequence[str],
    text: str,
    *,
    kind: Literal["fit", "validate", "rehearsal"],
    quiet: bool,
) -> tuple[Any, pl.Trainer]:
    """Model, data and trainer of a parsed experiment, with the house's callbacks in the order they need.

    Only ``fit`` keeps anything: record, metrics, grids, checkpoints, profile, and what the tracker is told.
    """
    import lightning.pytorch as pl

    # Hardware banners and advertisements are neither metrics nor errors.
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Two of Lightning's warnings that no user can act on.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="The number of training batches.*logging interval")

    from diffusion_adc.callbacks.checkpoints import AtomicCheckpointIO
    from diffusion_adc.callbacks.tracking import PlainLines

    pl.seed_everything(namespace.seed, workers=True, verbose=False)
    built = instantiate(parser, namespace)
    settings = namespace.trainer.as_dict()
    if quiet:
        settings["enable_progress_bar"] = False
    loggers: list[Any] = []
    refuse_sharded(settings, averaging=built.ema.on)
    callbacks: list[pl.Callback] = [built.ema] if built.ema.on else []
    if kind == "fit":
        loggers, callbacks = _kept(built, namespace, run_dir, command, text)
        if isinstance(settings.get("profiler"), str):
            settings["profiler"] = profiler(settings["profiler"], run_dir)
    if quiet:
        callbacks.append(PlainLines())
    trainer = pl.Trainer(
        **settings,
        callbacks=callbacks,
        logger=loggers or False,
        enable_checkpointing=kind == "fit",
        default_root_dir=run_dir,
        plugins=[AtomicCheckpointIO(run_dir), *cluster()],
    )
    return built, trainer


def _kept(
    built: Any, namespace: Any, run_dir: Path, command: Sequence[str], text: str
) -> tuple[list[Any], list[pl.Callback]]:
    """Loggers and callbacks of a training that leaves a run folder."""
    from diffusion_adc.callbacks.exact_resume import ExactResume
    from diffusion_adc.callbacks.record import RunRecord
    from diffusion_adc.callbacks.stopping import StopOnSignal
    from diffusion_adc.callbacks.tracking import MetricsTable, RunWatch

    exact = ExactResume()
    cohort = built.data.cohort
    record = RunRecord(run_dir, text, cohort, namespace.seed, command)
    board = built.tracking.board(run_dir)
    tracker = built.tracking.logger(
        run_dir, namespace.name, yaml.safe_load(text), provenance=cohort.provenance, record=record.record
    )
    built.grids.attach(run_dir, pictures=built.tracking.pictures)
    callbacks: list[Any] = [
        # Before the averaging callback: what is drawn at the end of a validation must be the averaged weights.
        built.grids,
        *([built.ema] if built.ema.on else []),
        MetricsTable(run_dir),
        record,
        *built.checkpoints.callbacks(run_dir),
        exact,
        StopOnSignal(run_dir, exact),
        # Last: the tracker is offered checkpoints that are written.
        *([] if tracker is None else [RunWatch(tracker)]),
    ]
    return [logger for logger in (tracker, board) if logger is not None], callbacks


def profiler(name: str, run_dir: Path) -> Any:
    """Lightning's profiler of that name, writing RUN/profile/fit-NAME.txt.

    Args:
        name: ``simple`` (seconds per hook), ``advanced`` (per function) or ``pytorch`` (per operator).
        run_dir: RUN.

    Raises:
        UsageError: There is no such profiler.
    """
    from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

    kinds: dict[str, Any] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    if name not in kinds:
        raise UsageError(f"trainer.profiler {name!r}", f"one of {', '.join(kinds)}", "correct the value")
    return kinds[name](dirpath=run_dir / PROFILE, filename=name)


def _checkpoint(run_dir: Path, resume: str) -> Path | None:
    from diffusion_adc.callbacks.checkpoints import to_resume

    if resume == "never":
        return None
    if resume == "auto":
        return to_resume(run_dir)
    path = Path(resume)
    if not path.is_file():
        raise UsageError(f"no checkpoint {path.name}", "a .ckpt file, auto or never", "check --resume")
    return path


def _refuse_other_experiment(run_dir: Path, text: str) -> None:
    from diffusion_adc.callbacks.record import EXPERIMENT

    try:
        earlier = (run_dir / EXPERIMENT).read_text()
    except OSError:
        raise UsageError(
            f"{run_dir.name} has a record but no {EXPERIMENT}", do="choose another --out"
        ) from None
    if earlier == text:
        return
    lines = difflib.unified_diff(earlier.splitlines(), text.splitlines(), lineterm="", n=0)
    changed = [line.replace("  ", "") for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    raise UsageError(
        f"{run_dir.name} was trained with another experiment ({', '.join(changed[:6])})",
        "the same experiment",
        "choose another --out, or restore the setting",
    )
