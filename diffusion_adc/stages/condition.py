"""The condition of a batch: availability flags, and what training forgets on purpose.

Axes: ``B C I J K``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_adc.domain.sequences import (
    ADC_RECOMPUTED,
    CHANNELS,
    DWI_HIGH,
    DWI_LOW,
    OPTIONAL_SEQUENCES,
    SEQUENCES,
)

__all__ = ["FLAGS", "availability_flags", "drop_sequences"]

FLAGS = len(SEQUENCES) + 1
"""One flag per sequence, and one for the ADC recomputed from both diffusion-weighted images."""

_LOW, _HIGH = SEQUENCES.index(DWI_LOW), SEQUENCES.index(DWI_HIGH)
_RECOMPUTED = CHANNELS.index(ADC_RECOMPUTED)


def availability_flags(available: Tensor) -> Tensor:
    """Available sequences (B, 5) → flags (B, 6)."""
    return torch.cat((available, available[:, [_LOW]] * available[:, [_HIGH]]), dim=1)


def drop_sequences(
    images: Tensor, available: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Forgets sequences, each case and sequence by itself; never the ADC map, never both DWIs.

    Where one DWI goes, the ADC recomputed from the pair goes with it: it would give the DWI away.

    Args:
        images: (B, 7, *S).
        available: (B, 5).
        probability: Chance that an available optional sequence is forgotten.
        generator: Source of randomness on the images' device.

    Returns:
        New images and new availability.
    """
    if probability <= 0:
        return images, available
    rand = torch.rand(available.shape, generator=generator, device=available.device)
    optional = torch.tensor([s in OPTIONAL_SEQUENCES for s in SEQUENCES], device=available.device)
    keep = ((rand >= probability) | ~optional).to(available.dtype)
    kept = available * keep
    # Where no DWI is left, one that was there comes back: the one with the larger random number of the two.
    none_left = (kept[:, _LOW] + kept[:, _HIGH]) == 0
    low = (available[:, _LOW] > 0) & ((rand[:, _LOW] >= rand[:, _HIGH]) | (available[:, _HIGH] == 0))
    high = (available[:, _HIGH] > 0) & ~low
    kept[:, _LOW] = torch.where(none_left & low, available[:, _LOW], kept[:, _LOW])
    kept[:, _HIGH] = torch.where(none_left & high, available[:, _HIGH], kept[:, _HIGH])
    channels = images.new_ones((images.shape[0], images.shape[1]))
    channels[:, : len(SEQUENCES)] = kept.to(images.dtype)
    channels[:, _RECOMPUTED] = (kept[:, _LOW] * kept[:, _HIGH]).to(images.dtype)
    # torch.where, not a product: 0 times a non-finite voxel would keep it.
    shape = (*channels.shape, *(1,) * (images.ndim - 2))
    return torch.where(channels.view(shape) > 0, images, torch.zeros_like(images)), kept
