"""Tiles that cover any volume, their window weights, and the weighted mean of overlapping tiles.

Pure geometry on index tuples: the tiles of image space and of latent space come from the same functions.
A volume that fits into one window is one tile with weight 1, and nothing is blended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product

import torch
from torch import Tensor

Box = tuple[slice, ...]
"""One slice per spatial axis."""

MIN_WEIGHT = 1e-3
"""Lowest window weight per axis: a voxel covered by one tile's rim only is still well defined."""


def fit_window(shape: Sequence[int], max_voxels: int, alignment: Sequence[int]) -> tuple[int, ...]:
    """Largest window of at most `max_voxels` for a volume: the whole of it if it fits.

    The longest axis is halved until the window fits, so that windows stay compact; every side is a multiple
    of the alignment.

    Args:
        shape: Of the volume, each side a multiple of the alignment.
        max_voxels: Most voxels in a window.
        alignment: Multiple of which each side of the window must be.
    """
    window = list(shape)
    while math.prod(window) > max_voxels:
        halved = [align * math.ceil(side / 2 / align) for side, align in zip(window, alignment, strict=True)]
        shrinks = [axis for axis in range(len(window)) if halved[axis] < window[axis]]
        if not shrinks:
            break
        longest = max(shrinks, key=lambda axis: window[axis])
        window[longest] = halved[longest]
    return tuple(window)


def tile_boxes(
    shape: Sequence[int], window: Sequence[int], overlap: float = 0.5, alignment: Sequence[int] | None = None
) -> list[Box]:
    """Equal boxes that cover a volume.

    Args:
        shape: Of the volume.
        window: Of a tile; an axis shorter than its window gets the whole axis.
        overlap: Least share of a tile shared with the next one, in [0, 1).
        alignment: Starts are multiples of it, so that a network's downsampling sees the same phase in every
            tile; sides of volume and window must be multiples as well.

    Returns:
        Boxes in index order; the last one of an axis ends with the volume.

    Raises:
        ValueError: A side below 1, an overlap outside [0, 1), or a side that is no multiple of the alignment.
    """
    align = tuple(alignment) if alignment is not None else (1,) * len(shape)
    if min(*shape, *window) < 1 or not 0.0 <= overlap < 1.0:
        raise ValueError(f"tiles of {tuple(window)} with overlap {overlap} over {tuple(shape)}")
    axes: list[list[slice]] = []
    for side, wanted, step in zip(shape, window, align, strict=True):
        size = min(side, wanted)
        if side % step or size % step:
            raise ValueError(f"sides {side} and {size} are not multiples of {step}")
        stride = max(step, int(size * (1.0 - overlap)) // step * step)
        count = math.ceil((side - size) / stride) + 1
        # Evenly spread starts overlap more than asked rather than leaving one thin last tile.
        last = (side - size) // step
        starts = [step * round(last * n / max(1, count - 1)) for n in range(count)]
        axes.append([slice(start, start + size) for start in starts])
    return [tuple(box) for box in product(*axes)]


def window_weight(shape: Sequence[int]) -> Tensor:
    """Separable Hann window sampled at voxel centers, strictly positive; float32 of the given shape.

    ``w(n) = sin²(π (n + ½) / N)``, at least `MIN_WEIGHT`.
    """
    weight = torch.ones(tuple(shape), dtype=torch.float64)
    for axis, side in enumerate(shape):
        n = torch.arange(side, dtype=torch.float64)
        line = torch.sin(math.pi * (n + 0.5) / side).square().clamp_min(MIN_WEIGHT)
        weight = weight * line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return weight.float()


class Blend:
    """Weighted mean of values given tile by tile.

    Args:
        shape: Spatial shape of the whole.
        boxes: The tiles, together covering it.
        device: Where the sums are kept.
    """

    def __init__(
        self, shape: Sequence[int], boxes: Sequence[Box], device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.boxes = tuple(shape), list(boxes)
        total = torch.zeros(self.shape, device=device)
        self._weights: dict[tuple[int, ...], Tensor] = {}
        for box in self.boxes:
            total[box] += self.weight(box, total.device)
        # Normalized once: the mean needs one multiplication per voxel and step.
        self._inverse = total.reciprocal()

    def weight(self, box: Box, device: torch.device) -> Tensor:
        """Window weight of a tile, shared by tiles of equal shape."""
        size = tuple(part.stop - part.start for part in box)
        if size not in self._weights:
            self._weights[size] = window_weight(size).to(device)
        return self._weights[size]

    def mean(self, values: Iterable[tuple[Box, Tensor]]) -> Tensor:
        """Blend tiles (N, C, *tile) into the whole (N, C, *shape).

        Args:
            values: Each tile's box with its values, in any order.

        Raises:
            ValueError: No tile was given.
        """
        total: Tensor | None = None
        for box, value in values:
            if total is None:
                total = value.new_zeros((*value.shape[:2], *self.shape))
            total[(slice(None), slice(None), *box)] += value * self.weight(box, value.device)
        if total is None:
            raise ValueError("no tile to blend")
        return total * self._inverse.to(total.device)
