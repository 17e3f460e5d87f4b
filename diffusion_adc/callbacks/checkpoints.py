"""Checkpoints that appear whole or not at all, carry their own hash, and hold nothing but plain values.

A checkpoint is written beside its target, flushed, read back and renamed; its sidecar holds the SHA-256, step,
epoch and lineage. The newest checkpoint whose sidecar still matches is the one to resume from.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from diffusion_adc.custody.lineage import CHECKPOINTS as FOLDER
from diffusion_adc.custody.lineage import read_record
from diffusion_adc.domain.errors import CohortError, DiffusionAdcError, NonFiniteError
from diffusion_adc.records.atomic import publish, remove_leftovers
from diffusion_adc.records.sidecars import sidecar, verified, write_sidecar

LAST: Final = "last.ckpt"
_CHECKED: Final = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
"""Parts of a checkpoint in which every number must be finite; a best score may well be infinite."""
_LINEAGE: Final = (
    "experiment_sha256", "cohort_digest", "provenance", "git_commit", "case_key", "cases", "parents",
)  # fmt: skip
_COPIES: Final = 4
"""Tensors of the model's size in a checkpoint: weights, averages, two moments of the optimizer."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint door with an atomic write, a finite check and a sidecar.

    Args:
        run_dir: RUN, whose record gives the lineage; None leaves it out.
    """

    def __init__(self, run_dir: Path | None = None) -> None:
        super().__init__()
        self.run_dir = run_dir

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path`, its sidecar first.

        Raises:
            NonFiniteError: A tensor is NaN or infinite; the earlier checkpoint stays as it is.
            DiffusionAdcError: The disk is full or the folder cannot be written; the same.
        """
        target = Path(path)
        refuse_non_finite(checkpoint)
        _room_for(target.parent, sum(value.nbytes for _, value in _tensors(checkpoint, "")), times=1)
        record = read_record(self.run_dir) if self.run_dir is not None else {}
        lineage: dict[str, Any] = {name: record[name] for name in _LINEAGE if name in record}

        def announce(digest: str) -> None:
            said = {"sha256": digest, "step": checkpoint.get("global_step"), "epoch": checkpoint.get("epoch")}
            write_sidecar(target, {**said, **lineage})

        publish(target, lambda stream: torch.save(checkpoint, stream), announce)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and its sidecar."""
        super().remove_checkpoint(path)
        sidecar(Path(path)).unlink(missing_ok=True)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if torch.is_tensor(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _tensors(item, f"{name}.{number}")


def refuse_non_finite(checkpoint: Mapping[str, Any]) -> None:
    """Stop before weights, averages or moments that are not finite are published.

    Raises:
        NonFiniteError: The first such tensor by name.
    """
    for part in _CHECKED:
        for name, value in _tensors(checkpoint.get(part), part):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"the tensor {name} is not finite", do="resume from the last good checkpoint"
                )


def _room_for(folder: Path, size: int, *, times: int) -> None:
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < times * size:
        raise DiffusionAdcError(
            f"{free / 2**20:.0f} MiB free for a checkpoint of {size / 2**20:.0f} MiB",
            f"{times} times its size",
            "free disk space or choose another --out; the earlier checkpoint is as it was",
        )


def newest_verified(run_dir: Path) -> Path | None:
    """The checkpoint with the highest step whose bytes its sidecar proves; None if there is none.

    Of two at the same step the last one is taken: it was written at the end of the epoch.
    """
    found = []
    for path in (run_dir / FOLDER).glob("*.ckpt"):
        record = verified(path)
        if record is not None:
            found.append((int(record.get("step") or 0), path.name == LAST, path))
    return max(found)[2] if found else None


def to_resume(run_dir: Path) -> Path | None:
    """What ``--resume auto`` continues from; None for a run that never saved.

    Raises:
        CohortError: The run had saved, but nothing of it can be verified: starting anew would lose it silently.
    """
    found = newest_verified(run_dir)
    if found is not None:
        return found
    folder = run_dir / FOLDER
    steps = read_record(run_dir).get("steps")
    if any(folder.glob("*.ckpt")) or (isinstance(steps, int) and steps > 0):
        raise CohortError(
            f"no checkpoint of {run_dir.name} is the file its sidecar tells of",
            "one with its SHA-256",
            "restore RUN/checkpoints from a copy, name another one with --resume, or choose another --out",
        )
    return None


class KeptCheckpoint(ModelCheckpoint):
    """Lightning's callback with names instead of paths in its state.

    A path would carry the names of folders into every checkpoint, and a run folder that was moved would lose
    its best score.
    """

    _PATHS: Final = ("best_model_path", "kth_best_model_path", "last_model_path")

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state |= {name: Path(state[name]).name for name in self._PATHS}
        state["best_k_models"] = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return {**state, "dirpath": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))

        def placed(name: str) -> str:
            return str(folder / Path(name).name) if name else ""

        state = {**state_dict, "dirpath": self.dirpath}
        state |= {name: placed(state_dict[name]) for name in self._PATHS}
        state["best_k_models"] = {placed(name): score for name, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state)


class CheckpointFolder(pl.Callback):
    """Before the first step: leftovers of a killed writer go, and there must be room to write safely."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        remove_leftovers(self.folder)
        # The new checkpoint is written beside the old one, so there must be room for two.
        _room_for(self.folder, _COPIES * sum(p.nbytes for p in pl_module.parameters()), times=2)


class Checkpoints:
    """Which checkpoints a run keeps: the last one always, the best one by a monitored metric.

    Args:
        monitor: Metric that decides which is best; null keeps the last only.
        mode: ``min`` or ``max``.
        every_n_epochs: Write after every so many epochs.
        every_n_steps: Write the last one after every so many optimizer steps, too; 0 at the end of epochs only.
    """

    def __init__(
        self,
        monitor: str | None = "val/loss",
        mode: str = "min",
        every_n_epochs: int = 1,
        every_n_steps: int = 0,
    ) -> None:
        self.monitor, self.mode, self.every_n_epochs = monitor, mode, every_n_epochs
        self.every_n_steps = every_n_steps

    def callbacks(self, run_dir: Path) -> list[pl.Callback]:
        """The callbacks that write RUN/checkpoints/{last,best}.ckpt."""
        folder = run_dir / FOLDER
        same: dict[str, Any] = {
            "dirpath": folder, "save_top_k": 1, "enable_version_counter": False, "auto_insert_metric_name": False,
        }  # fmt: skip
        kept: list[pl.Callback] = [
            CheckpointFolder(run_dir),
            KeptCheckpoint(
                filename="last", monitor=None, every_n_epochs=self.every_n_epochs,
                save_on_train_epoch_end=True, **same,
            ),
        ]  # fmt: skip
        if self.every_n_steps > 0:
            kept.append(
                KeptCheckpoint(filename="last", monitor=None, every_n_train_steps=self.every_n_steps, **same)
            )
        if self.monitor is not None:
            kept.append(
                KeptCheckpoint(
                    filename="best", monitor=self.monitor, mode=self.mode, every_n_epochs=self.every_n_epochs,
                    save_on_train_epoch_end=False, **same,
                )
            )  # fmt: skip
        return kept
