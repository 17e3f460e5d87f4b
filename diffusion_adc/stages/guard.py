"""Stops a training that met NaN or infinity, after a few chances, without publishing a broken weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffusion_adc.domain.errors import NonFiniteError

__all__ = ["NonFiniteGuard"]


class NonFiniteGuard:
    """Skips optimizer steps whose gradient is not finite, and counts them.

    The check reads the gradients after they were averaged over devices, where one device's NaN has reached
    all of them: every device takes the same decision without talking about it.
    """

    def __init__(self, max_skipped: int) -> None:
        """Args: max_skipped: Steps that may be skipped in a run before it stops."""
        self.max_skipped = max_skipped
        self.skipped = 0

    def check(self, parameters: Iterable[nn.Parameter], cases: list[int], step: int) -> Tensor:
        """Returns the gradient norm; removes the gradients, so that no weight moves, where it is not finite.

        Args:
            parameters: What the optimizer is about to move.
            cases: Case indices of the batch, for the message.
            step: Optimizer step, for the message.

        Raises:
            NonFiniteError: More than `max_skipped` steps were skipped.
        """
        moving = [p for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
        if bool(torch.isfinite(norm)):
            return norm
        self.skipped += 1
        for parameter in moving:
            parameter.grad = None  # AdamW leaves a weight without gradient alone, decay included
        if self.skipped > self.max_skipped:
            raise NonFiniteError(
                f"loss or gradient not finite at step {step} (case indices {cases}), "
                f"{self.skipped} steps skipped so far",
                f"at most {self.max_skipped} skipped steps",
                "look at these cases, lower learning_rate or train in 32-bit precision",
            )
        return norm
