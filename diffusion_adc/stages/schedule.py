"""Optimizer and learning-rate schedule of every stage."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["adamw", "warmup_cosine"]

FLOOR = 0.01


def adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); norms, biases and nulls are not decayed."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate)


def warmup_cosine(
    optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int, cycles: int = 1
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up (at most a fifth of the run), then a cosine from the peak down to 1 % of it.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup_steps: Optimizer steps of warm-up.
        total_steps: Optimizer steps of the run.
        cycles: How often the cosine is run through, each time from the peak; the warm-up comes once
            (Loshchilov and Hutter 2017, arXiv 1608.03983).
    """
    total = max(1, total_steps // cycles)
    warmup = min(warmup_steps, max(1, total // 5))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if cycles > 1 and step >= total:
            done = (step % total) / total if step < total * cycles else 1.0
        else:
            done = min(1.0, (step - warmup) / max(1, total - warmup))
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
