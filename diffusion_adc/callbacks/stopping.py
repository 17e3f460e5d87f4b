"""SIGTERM and SIGUSR1 end a training so that it can go on later; all processes decide together.

Who requeues is the job script, by the exit code (experiments/slurm): the trainer itself never calls the scheduler.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import lightning.pytorch as pl
import torch

from diffusion_adc.callbacks.checkpoints import FOLDER, LAST
from diffusion_adc.callbacks.exact_resume import ExactResume
from diffusion_adc.domain.errors import StoppedBySignal

SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """For as long as the block runs a signal ends it, with the exit code of a run that can be resumed.

    Raises:
        StoppedBySignal: In the block, when a signal arrives.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise StoppedBySignal(
            f"stopped by {signal.Signals(number).name} before training began",
            do="run the same command again",
        )

    with _handled_by(leave):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    earlier = {number: signal.signal(number, handler) for number in SIGNALS}
    stopped = False
    try:
        yield
    except StoppedBySignal:
        stopped = True
        raise
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
        if stopped and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # A launcher that sees one process end shoots the others, whose exit code would be lost.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


class StopOnSignal(pl.Callback):
    """Saves and stops after the training step or validation step in which a signal arrived.

    Before the first step there is nothing to save, and the signal ends the work at once; after the last one the
    run is finished and the signal is ignored.

    Args:
        run_dir: RUN.
        exact: Writes what a resume in mid-validation needs.

    Attributes:
        stopped: The signal, once one arrived.
    """

    def __init__(self, run_dir: Path, exact: ExactResume) -> None:
        self.path, self.exact = run_dir / FOLDER / LAST, exact
        self.stopped: int | None = None
        self._state = "before"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals for as long as the block runs."""
        with _handled_by(self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = self.stopped or number
        if self._state == "before":
            raise self._error(0)

    def _error(self, step: int) -> StoppedBySignal:
        name = signal.Signals(self.stopped or signal.SIGTERM).name
        return StoppedBySignal(
            f"stopped by {name} after step {step}", do="run the same command again to resume"
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning puts its own handlers in after set-up, and its SIGTERM ends the process as if it were done.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
        self._state = "training"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._state = "after"

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients that wait for their optimizer step are not part of a checkpoint.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if stepped and self._agreed(trainer):
            trainer.save_checkpoint(self.path)
            raise self._error(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Every process has as many validation batches, so all of them ask.
        if self._state == "training" and self._agreed(trainer):
            self.exact.in_validation = True
            trainer.save_checkpoint(self.path)
            raise self._error(trainer.global_step)

    def _agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any process was told to stop; then all of them are."""
        if trainer.world_size > 1:
            told = torch.tensor(float(self.stopped or 0), device=trainer.strategy.root_device)
            heard: Any = trainer.strategy.reduce(told, reduce_op="max")
            self.stopped = int(heard) or None
        return self.stopped is not None
