"""From a composed experiment to a trained run folder."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_adc.config import Experiment, dump, instantiate, parse
from diffusion_adc.custody.lineage import refuse_tainted, refuse_tainted_checkpoint
from diffusion_adc.domain.errors import StoppedBySignal, UsageError
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.runs import read_taint

if TYPE_CHECKING:
    import lightning.pytorch as pl


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
        False if the run was finished already.

    Raises:
        UsageError: Wrong configuration, a run of another experiment in the folder, a missing or tainted
            checkpoint.
        NonFiniteError: Training met NaN or infinity.
        StoppedBySignal: SIGTERM or SIGUSR1; saved, resumable.
    """
    parser, namespace = parse(experiment)
    text = dump(parser, namespace)

    from diffusion_adc.callbacks.checkpoints import StopOnSignal, newest_verified
    from diffusion_adc.callbacks.record import RunRecord, read_record

    earlier = read_record(run_dir)
    if earlier and resume == "never":
        raise UsageError(f"{run_dir.name} holds a run already", "an empty folder", "choose another --out")
    cohort_dir = Path(experiment.values["cohort"])
    if earlier:
        refuse_tainted(run_dir, allow_tainted, use="resume", cohort=cohort_dir)
        _refuse_other_experiment(run_dir, text)
    checkpoint = _checkpoint(run_dir, resume, newest_verified)
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
    built, trainer = build(parser, namespace, run_dir, command, text, quiet=quiet)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    record = next(callback for callback in callbacks if isinstance(callback, RunRecord))
    if checkpoint is not None:
        record.started_from(checkpoint)
    trainer.fit(built.model, datamodule=built.data, ckpt_path=checkpoint, weights_only=True)
    stop = next(callback for callback in callbacks if isinstance(callback, StopOnSignal))
    if stop.stopped is not None:
        record.finish(trainer, "stopped")
        raise StoppedBySignal(
            f"stopped by signal {stop.stopped} after step {trainer.global_step}",
            do="run the same command again to resume",
        )
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
    built, trainer = build(parser, namespace, run_dir, command, dump(parser, namespace), quiet=quiet)
    rows = trainer.validate(
        built.model, datamodule=built.data, ckpt_path=checkpoint, weights_only=True, verbose=False
    )
    return dict(rows[0])


def build(
    parser: Any, namespace: Any, run_dir: Path, command: Sequence[str], text: str, *, quiet: bool
) -> tuple[Any, pl.Trainer]:
    """Model, data and trainer of a parsed experiment, with the house's callbacks in the order they need."""
    import lightning.pytorch as pl

    # Hardware banners and advertisements are neither metrics nor errors.
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Two of Lightning's warnings that no user can act on.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="The number of training batches.*logging interval")

    from diffusion_adc.callbacks.checkpoints import AtomicCheckpointIO, StopOnSignal
    from diffusion_adc.callbacks.record import RunRecord
    from diffusion_adc.callbacks.tracking import MetricsTable, PlainLines

    pl.seed_everything(namespace.seed, workers=True, verbose=False)
    built = instantiate(parser, namespace)
    settings = namespace.trainer.as_dict()
    if quiet:
        settings["enable_progress_bar"] = False
    restricted = built.data.cohort.provenance == "restricted"
    logger = built.tracking.logger(run_dir, namespace.name, {"seed": namespace.seed, "name": namespace.name})
    built.grids.attach(run_dir, pictures=built.tracking.pictures and not restricted)
    callbacks: list[pl.Callback] = [
        # Before the averaging callback: what is drawn at the end of a validation must be the averaged weights.
        built.grids,
        built.ema,
        MetricsTable(run_dir),
        RunRecord(run_dir, text, built.data.cohort, namespace.seed, command),
        *built.checkpoints.callbacks(run_dir),
        StopOnSignal(run_dir),
    ]
    if quiet:
        callbacks.append(PlainLines())
    trainer = pl.Trainer(
        **settings,
        callbacks=callbacks,
        logger=logger if logger is not None else False,
        default_root_dir=run_dir,
        plugins=[AtomicCheckpointIO()],
    )
    return built, trainer


def _checkpoint(run_dir: Path, resume: str, newest: Any) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        return newest(run_dir)
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
