"""Checkpoints that appear whole or not at all, carry their own hash, and survive a signal.

A checkpoint is written beside its target, flushed, hashed and renamed; a sidecar ``NAME.ckpt.json`` holds the
SHA-256, step and epoch. The newest checkpoint whose sidecar still matches is the one to resume from.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from diffusion_adc.callbacks.artifacts import sidecar
from diffusion_adc.domain.errors import NonFiniteError
from diffusion_adc.records.atomic import replacing_file, sha256_file, write_json

FOLDER = "checkpoints"
LAST = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint door with an atomic write, a finite check and a hash beside the file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path` and its sidecar.

        Raises:
            NonFiniteError: A weight is NaN or infinite; the earlier checkpoint stays as it is.
            DiffusionAdcError: The disk is full or the folder cannot be written.
        """
        target = Path(path)
        for name, value in checkpoint.get("state_dict", {}).items():
            if torch.is_tensor(value) and value.is_floating_point() and not torch.isfinite(value).all():
                raise NonFiniteError(
                    f"the weight {name} is not finite", do="resume from the last good checkpoint"
                )
        with replacing_file(target) as temporary:
            torch.save(checkpoint, temporary)
            digest = sha256_file(temporary)
        record = {"sha256": digest, "step": checkpoint.get("global_step"), "epoch": checkpoint.get("epoch")}
        write_json(sidecar(target), record)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and its sidecar."""
        super().remove_checkpoint(path)
        sidecar(Path(path)).unlink(missing_ok=True)


def newest_verified(run_dir: Path) -> Path | None:
    """The checkpoint with the highest step whose SHA-256 matches its sidecar; None if there is none."""
    found: list[tuple[int, Path]] = []
    for path in (run_dir / FOLDER).glob("*.ckpt"):
        try:
            record = json.loads(sidecar(path).read_text())
        except (OSError, ValueError):
            continue
        if record.get("sha256") == sha256_file(path):
            found.append((int(record.get("step") or 0), path))
    return max(found, default=(0, None), key=lambda pair: pair[0])[1]


class Checkpoints:
    """Which checkpoints a run keeps: the last one always, the best one by a monitored metric.

    Args:
        monitor: Metric that decides which is best; null keeps the last only.
        mode: ``min`` or ``max``.
        every_n_epochs: Write after every so many epochs.
    """

    def __init__(self, monitor: str | None = "val/loss", mode: str = "min", every_n_epochs: int = 1) -> None:
        self.monitor, self.mode, self.every_n_epochs = monitor, mode, every_n_epochs

    def callbacks(self, run_dir: Path) -> list[pl.Callback]:
        """The callbacks that write RUN/checkpoints/{last,best}.ckpt."""
        folder = run_dir / FOLDER
        last = ModelCheckpoint(
            folder, filename="last", save_top_k=1, monitor=None, every_n_epochs=self.every_n_epochs,
            save_on_train_epoch_end=True, enable_version_counter=False, auto_insert_metric_name=False,
        )  # fmt: skip
        if self.monitor is None:
            return [last]
        best = ModelCheckpoint(
            folder, filename="best", save_top_k=1, monitor=self.monitor, mode=self.mode,
            every_n_epochs=self.every_n_epochs, save_on_train_epoch_end=False,
            enable_version_counter=False, auto_insert_metric_name=False,
        )  # fmt: skip
        return [last, best]


class StopOnSignal(pl.Callback):
    """On SIGTERM or SIGUSR1 finish the step, save, and stop; `stopped` then tells the command line.

    Saving waits for the end of a training step because during validation the model holds averaged weights.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FOLDER / LAST
        self.stopped: int | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning puts its own handlers in after set-up, and its SIGTERM ends the process as if it were done.
        self._listen()

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            replaced = signal.signal(number, self._note)
            self._previous.setdefault(number, replaced)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.stopped is not None and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
