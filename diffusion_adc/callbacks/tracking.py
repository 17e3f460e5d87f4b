"""Metrics in RUN/metrics.csv always; Weights & Biases beside it, offline unless asked otherwise.

The tracker never decides whether training succeeds, and by default nothing leaves the machine.
"""

from __future__ import annotations

import csv
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from diffusion_adc.callbacks.artifacts import log_models
from diffusion_adc.callbacks.settings import Tracking
from diffusion_adc.callbacks.tracker import STEP, Tracker
from diffusion_adc.records.atomic import write_csv

__all__ = ["STEP", "MetricsTable", "PlainLines", "RunWatch", "Tracker", "Tracking"]


class RunWatch(pl.Callback):
    """Throughput, memory and learning rate once per epoch, and the checkpoints at the end, for the tracker.

    They go to the tracker alone: RUN/metrics.csv keeps what judges the model.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.patches, self.started, self.ended = 0, 0.0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.patches, self.started = 0, time.monotonic()
        self.ended = self.started

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        tensors = batch.values() if isinstance(batch, Mapping) else (batch,)
        self.patches += next((len(value) for value in tensors if torch.is_tensor(value) and value.ndim), 0)
        self.ended = time.monotonic()  # validation and pictures after the last batch are no training

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.tracker.log_metrics(self.measured(trainer), trainer.global_step)

    def measured(self, trainer: pl.Trainer) -> dict[str, float]:
        """The epoch's figures by name; speeds in patches per second, memory in MiB."""
        values = {
            "speed/patches_per_s": self.patches * trainer.world_size / max(1e-9, self.ended - self.started),
            "memory/host_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if trainer.strategy.root_device.type == "cuda":
            values["memory/gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        for index, optimizer in enumerate(trainer.optimizers):
            name = "learning_rate" if index == 0 else f"learning_rate_{index}"
            values[f"optimizer/{name}"] = float(optimizer.param_groups[0]["lr"])
        return values

    def _models(self, run: Any) -> None:
        log_models(run, self.tracker.run_dir, Path(self.tracker.who.link))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tracker = self.tracker
        if trainer.is_global_zero and tracker.mode == "online" and tracker.policy.may_send_models:
            tracker.submit(self._models)


class MetricsTable(pl.Callback):
    """Writes RUN/metrics.csv: one row per validation with every scalar logged so far, and the time it took.

    A resumed run appends; an earlier row is never lost.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not when the fit starts: the step of a resumed run is restored after that.
        self.started = time.monotonic()
        if self.path.exists():
            with self.path.open(newline="") as stream:
                self.rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= trainer.global_step]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "seconds": round(time.monotonic() - self.started, 1),
        }
        row |= {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append(row)
        columns = list(dict.fromkeys(name for entry in self.rows for name in entry))
        write_csv(self.path, self.rows, columns)


class PlainLines(pl.Callback):
    """One line per epoch where no terminal can show a bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            shown = {k: float(v) for k, v in trainer.callback_metrics.items() if k.count("/") == 1}
            metrics = "  ".join(f"{name} {value:.4g}" for name, value in sorted(shown.items()))
            print(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {metrics}", flush=True)
