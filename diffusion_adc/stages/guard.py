"""Stops a training that met NaN or infinity, after a few chances, without publishing a broken weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, distributed, nn

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

    def check(
        self,
        parameters: Iterable[nn.Parameter],
        cases: list[int],
        step: int,
        suspects: Callable[[], list[int]] | None = None,
        *,
        sharded: bool = False,
    ) -> Tensor:
        """Returns the gradient norm; removes the gradients, so that no weight moves, where it is not finite.

        Args:
            parameters: What the optimizer is about to move.
            cases: Case indices of the batch, for the message.
            step: Optimizer step, for the message.
            suspects: Case indices of those parts of the batch whose own loss is not finite; named alone where
                there are any. Asked only in trouble.
            sharded: Each device holds other gradients, and the decision is shared.

        Raises:
            NonFiniteError: More than `max_skipped` steps were skipped.
        """
        moving = [p for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
        finite = torch.isfinite(norm)
        if sharded:
            agreed = finite.float()
            distributed.all_reduce(agreed, op=distributed.ReduceOp.MIN)
            finite = agreed > 0
        if bool(finite):
            return norm
        self.skipped += 1
        for parameter in moving:
            parameter.grad = None  # AdamW leaves a weight without gradient alone, decay included
        if self.skipped > self.max_skipped:
            named = _everywhere([] if suspects is None else suspects()) or _everywhere(cases)
            raise NonFiniteError(
                f"loss or gradient not finite at step {step} (case indices {named}), "
                f"{self.skipped} steps skipped so far",
                f"at most {self.max_skipped} skipped steps",
                "look at these cases, lower learning_rate or train in 32-bit precision",
            )
        return norm


def _everywhere(cases: list[int]) -> list[int]:
    """The cases of all devices; every device asks, because every device met the same gradient."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return cases
    every: list[list[int]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(every, cases)
    return [case for part in every for case in part]
