"""Exponential moving average of the weights, from the first step on and safe to save at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["EMA", "WarmDecay"]


@dataclass(frozen=True)
class WarmDecay:
    """Updates averages in place with decay ``min(decay, (1 + n) / (10 + n))`` after n updates.

    The ramp is TensorFlow's ``ExponentialMovingAverage(num_updates=n)``. It forgets the untrained weights at
    once, where a fixed .999 would still hold a third of them after 1,000 steps. A class and not a closure, so
    that spawned processes can pickle it.

    Attributes:
        decay: Largest decay, in [0, 1).
    """

    decay: float

    def at(self, updates: int) -> float:
        """Decay of the update that follows `updates` earlier ones."""
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def __call__(self, averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        """Signature of torch's ``multi_avg_fn``."""
        torch._foreach_lerp_(averaged, current, 1 - self.at(int(updates)))


class EMA(WeightAveraging):
    """Validation, checkpoints and the finished model use averaged weights; raw ones go on training.

    A checkpoint has the averages under ``state_dict`` and the raw weights under ``current_model_state``, also
    when it is written while validation has the two swapped. Buffers are copied, never averaged. There is no
    start step on purpose: before it, validation would look at untrained weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        """Args:
            decay: Largest decay, in [0, 1); the average then spans about ``1 / (1 - decay)`` steps. 0 switches
                averaging off: no second model is kept, and checkpoints hold the raw weights.

        Raises:
            ValueError: Decay outside [0, 1).
        """
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay {decay}; expected a number in [0, 1)")
        super().__init__(use_buffers=False, multi_avg_fn=WarmDecay(decay))
        self._swapped = False
        self.on = decay > 0
        """Whether the trainer is to use it at all."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over what the module learned about its data between set-up and the first validation."""
        if self._average_model is not None and int(self._average_model.n_averaged) == 0:
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped and "current_model_state" in checkpoint:
            # Written during validation: the module holds the averages and the average model the raw weights.
            checkpoint["state_dict"], checkpoint["current_model_state"] = (
                checkpoint["current_model_state"],
                checkpoint["state_dict"],
            )
