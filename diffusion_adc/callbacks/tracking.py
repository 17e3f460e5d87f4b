"""Metrics in RUN/metrics.csv always; Weights & Biases beside it, offline unless asked otherwise.

The tracker never decides whether training succeeds, and by default nothing leaves the machine.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.atomic import write_csv

STEP = "trainer/global_step"


class Tracking:
    """Weights & Biases settings of an experiment.

    Args:
        mode: ``offline`` (default), ``online`` (needs a key), or ``disabled``.
        project: Project the run belongs to.
        pictures: Send sample grids as well; cohorts of restricted provenance never do, whatever this says.
    """

    def __init__(
        self,
        mode: Literal["offline", "online", "disabled"] = "offline",
        project: str = "diffusion-adc",
        pictures: bool = True,
    ) -> None:
        self.mode, self.project, self.pictures = mode, project, pictures

    def logger(self, run_dir: Path, run_id: str, config: Mapping[str, Any]) -> WandbLogger | None:
        """The run's W&B logger, or None if disabled.

        Host, program, arguments, git, console, code and machine statistics are never recorded: they name
        folders and people.

        Raises:
            UsageError: Online was asked for without a key.
        """
        if self.mode == "disabled":
            return None
        if self.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise UsageError("tracking.mode=online without a key", "WANDB_API_KEY", "set it or use offline")
        import wandb

        # Artifacts are staged in user folders by default; a run folder must be complete in itself.
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ[name] = str(run_dir / "wandb" / name.removeprefix("WANDB_").lower())
        # Before the settings apply, the client prints notices of its own.
        os.environ.setdefault("WANDB_SILENT", "true")
        settings = wandb.Settings(
            console="off", disable_git=True, disable_code=True, save_code=False, x_disable_meta=True,
            x_disable_stats=True, x_disable_machine_info=True, host="anon", root_dir=str(run_dir), silent=True,
        )  # fmt: skip
        logger = WandbLogger(
            project=self.project, name=run_id, id=run_id, save_dir=str(run_dir), offline=self.mode == "offline",
            settings=settings, config=dict(config), log_model=False,
        )  # fmt: skip
        # Lightning always passes this retired argument, and the client warns of it in every run.
        logger._wandb_init.pop("anonymous", None)
        return logger


class MetricsTable(pl.Callback):
    """Writes RUN/metrics.csv: one row per validation with every scalar logged so far, and the time it took.

    A resumed run appends; an earlier row is never lost.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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
