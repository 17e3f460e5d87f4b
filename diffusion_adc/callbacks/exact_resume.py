"""What a checkpoint needs beyond Lightning's own state so that a resumed run is the uninterrupted one, bit by bit.

Random states of every process; the loader's position, which Lightning drops where a stage asks for the number of
steps before the loops are restored; and, for a checkpoint written between an epoch's last step and the end of its
validation, the position before that validation. Lightning would skip it after the one, and continue it in the
middle of the loader after the other; here it is repeated as a whole.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import lightning.pytorch as pl
import numpy as np
import torch

RANDOM: Final = "random_states"
"""In a checkpoint: one entry per process."""


def capture() -> dict[str, Any]:
    """The random states of this process, as plain values that load without pickles."""
    version, internal, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": {"version": version, "internal": list(internal), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(state[1].astype(np.int64)), "position": int(state[2]),
            "has_gauss": int(state[3]), "gauss": float(state[4]),
        },
        "torch": torch.get_rng_state(),
    }  # fmt: skip
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore(states: Mapping[str, Any]) -> None:
    """Set the random states of this process to what `capture` gave."""
    python, numbers = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    keys = numbers["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numbers["position"], numbers["has_gauss"], numbers["gauss"]))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def before_validation(loops: dict[str, Any]) -> None:
    """Turn the state of Lightning's fit loop into that of an epoch whose validation is still to come.

    Lightning takes a validation of which one batch was begun and none processed for one to start anew.

    Args:
        loops: ``fit_loop`` of a checkpoint's ``loops``; changed in place.
    """
    training = loops["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        training[part] = {**training[part], "completed": training[part]["processed"]}
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation = loops["epoch_loop.val_loop.batch_progress"]
    loops["epoch_loop.val_loop.batch_progress"] = {
        **validation, "total": {**validation["total"], **begun}, "current": {**validation["current"], **begun},
        "is_last_batch": False,
    }  # fmt: skip


def _validation_follows(trainer: pl.Trainer) -> bool:
    """Whether the last step of an epoch is being left, and a validation comes after it."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    due = trainer.check_val_every_n_epoch
    return (
        not trainer.validating
        and progress.processed == progress.ready == trainer.num_training_batches
        and progress.completed == progress.processed - 1
        and trainer.enable_validation
        and due is not None
        and (trainer.current_epoch + 1) % due == 0
    )


class ExactResume(pl.Callback):
    """Saves and restores what `capture` gives, the loader's position, and the place before a validation.

    Attributes:
        in_validation: Set before a checkpoint is written in the middle of a validation.
    """

    def __init__(self) -> None:
        self.in_validation = False
        self._states: dict[str, Any] | None = None
        self._loaded: dict[str, Any] | None = None
        self._in_epoch = False
        self._loader: dict[str, Any] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            self._states = capture()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        mine = capture()
        if self.in_validation and self._states is not None:
            mine = self._states
        if self.in_validation or _validation_follows(trainer):
            before_validation(checkpoint["loops"]["fit_loop"])
        every: list[Any] = [mine]
        if trainer.world_size > 1:
            every = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, mine)
        checkpoint[RANDOM] = every

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        every = checkpoint.get(RANDOM) or []
        self._loaded = every[trainer.global_rank] if trainer.global_rank < len(every) else None
        positions = checkpoint["loops"]["fit_loop"].get("state_dict", {}).get("combined_loader") or [None]
        self._loader = positions[0]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        if self._loader is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._loader)
            self._loader = None
        if self._loaded is None:
            return
        restore(self._loaded)
        # In mid-epoch the loader's iterator was there already when the state was taken; here it is made anew
        # with the first batch, and draws a number for its workers.
        self._in_epoch = 0 < trainer.fit_loop.batch_idx + 1 < trainer.num_training_batches
        if not self._in_epoch:
            self._loaded = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._loaded is not None and self._in_epoch:
            restore(self._loaded)
            self._loaded = None
