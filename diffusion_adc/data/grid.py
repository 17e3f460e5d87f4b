"""The working grid: the one spacing a network sees, and the way back to the ADC map's own grid.

Axes ``I J K``; leading axes are carried along. A working grid is centered on the crop it was made from, so
equal spacing is the identity, bit for bit. Interpolation is separable and linear, widened where voxels get
larger (otherwise fine noise would alias into the coarse grid).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.units import spacing_mm

SAME_SPACING: Final = 1e-3
"""Spacings closer than this share are the same one: scanners write 2.4999998 mm."""
_HALF: Final = 0.5 - 1e-6

Weights = tuple[Tensor | None, Tensor | None, Tensor | None]
"""One (target, source) matrix per axis; None where the axis does not change."""
Triple = tuple[int, int, int]


def axis_weights(source: int, target: int, ratio: float) -> Tensor | None:
    """Interpolation along one axis between two grids that share their center.

    Linear where voxels get smaller. Where they get larger, the linear interpolant is averaged over a width of
    ``ratio - 1`` source voxels: it turns into plain linear interpolation at ratio 1, is the exact mean of both
    voxels at ratio 2, and keeps every linear function as it is. Beyond the outermost centers the nearest
    voxel's value holds.

    Args:
        source: Voxels of the given grid.
        target: Voxels of the wanted grid.
        ratio: Target spacing divided by source spacing.

    Returns:
        float32 (target, source), rows adding up to 1; None if nothing changes.
    """
    if source == target and ratio == 1.0:
        return None
    center = (source - 1) / 2 + (np.arange(target) - (target - 1) / 2) * ratio
    reach = max(0.0, ratio - 1.0) / 2
    # Voxels beyond the border stand for the constant continuation; their weight is folded onto the border.
    pad = int(np.ceil(max(ratio * target - source, 0) / 2 + reach)) + 2
    distance: NDArray[np.float64] = center[:, None] - np.arange(-pad, source + pad, dtype=np.float64)[None]
    if reach > 0:
        wide = (_hat_integral(distance + reach) - _hat_integral(distance - reach)) / (2 * reach)
    else:
        wide = np.maximum(0.0, 1.0 - np.abs(distance))
    weights = wide[:, pad : pad + source].copy()
    weights[:, 0] += wide[:, :pad].sum(axis=1)
    weights[:, -1] += wide[:, pad + source :].sum(axis=1)
    return torch.from_numpy(weights.astype(np.float32))


def _hat_integral(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral from -∞ to u of the hat ``max(0, 1 - |u|)``."""
    u = np.clip(u, -1.0, 1.0)
    return np.where(u < 0, (u + 1) ** 2 / 2, 1 - (1 - u) ** 2 / 2)


def resample(volume: Tensor, weights: Weights) -> Tensor:
    """Apply one interpolation matrix per spatial axis to (..., I, J, K); the input itself if none changes."""
    for axis, matrix in zip((-3, -2, -1), weights, strict=True):
        if matrix is not None:
            moved = volume.to(torch.float32).movedim(axis, -1)
            volume = (moved @ matrix.to(moved.device).T).movedim(-1, axis)
    return volume.contiguous()


def resample_masked(values: Tensor, mask: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Interpolate where `mask` holds, without mixing in what lies outside it.

    ``R(m·v) / R(m)`` where at least half of the weight is inside the mask, else 0: a plain interpolation
    would mix a lesion's rim with the zeros around the body and lower its ADC.

    Args:
        values: (I, J, K).
        mask: boolean (I, J, K).
        weights: From `axis_weights`.

    Returns:
        The values, and the boolean mask on the new grid.
    """
    if all(matrix is None for matrix in weights):
        return torch.where(mask, values, 0.0), mask
    share = resample(mask.to(torch.float32), weights)
    total = resample(torch.where(mask, values, 0.0).to(torch.float32), weights)
    inside = share >= _HALF
    return torch.where(inside, total / share.clamp_min(_HALF), 0.0), inside


def resample_mask(mask: Tensor, weights: Weights) -> Tensor:
    """A boolean mask on the new grid: linear, at least half inside. Keeps volumes better than nearest."""
    if all(matrix is None for matrix in weights):
        return mask
    return resample(mask.to(torch.float32), weights) >= _HALF


def foreground_box(
    mask: NDArray[np.bool_], margin: Sequence[int], least: Sequence[int]
) -> tuple[Triple, Triple]:
    """First voxel and size of the box around a mask.

    Planes with fewer than eight voxels of the mask do not count: they are noise in air.

    Args:
        mask: (I, J, K).
        margin: Voxels added on each side of each axis.
        least: Smallest size of each axis, as far as the volume allows.
    """
    starts, sizes = [], []
    for axis, length in enumerate(mask.shape):
        counts = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        planes = np.flatnonzero(counts >= min(8, max(int(counts.max()), 1)))
        first, last = (0, length - 1) if planes.size == 0 else (int(planes[0]), int(planes[-1]))
        first, last = max(0, first - margin[axis]), min(length - 1, last + margin[axis])
        missing = min(length, least[axis]) - (last - first + 1)
        if missing > 0:
            first = min(max(0, first - missing // 2), length - min(length, least[axis]))
            last = first + min(length, least[axis]) - 1
        starts.append(first)
        sizes.append(last - first + 1)
    return (starts[0], starts[1], starts[2]), (sizes[0], sizes[1], sizes[2])


@dataclass(frozen=True)
class WorkingGrid:
    """A crop of a native grid at the network's spacing.

    Attributes:
        native_shape: (I, J, K) of the ADC map.
        native_affine: (4, 4) of the ADC map, voxel index → RAS+ mm.
        offset: First native voxel of the crop.
        crop: Native voxels of the crop.
        spacing_mm: The network's spacing; None keeps the native one.
    """

    native_shape: Triple
    native_affine: NDArray[np.float64] = field(compare=False)
    offset: Triple
    crop: Triple
    spacing_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and not all(0 < s <= 50 for s in self.spacing_mm):
            raise UsageError(f"spacing_mm {list(self.spacing_mm)}", "three numbers above 0 and up to 50 mm")

    @cached_property
    def ratio(self) -> tuple[float, float, float]:
        """Working spacing divided by native spacing, per axis."""
        if self.spacing_mm is None:
            return (1.0, 1.0, 1.0)
        native = spacing_mm(self.native_affine)
        ratios = [wanted / have for wanted, have in zip(self.spacing_mm, native, strict=True)]
        i, j, k = (1.0 if abs(r - 1) < SAME_SPACING else r for r in ratios)
        return i, j, k

    @cached_property
    def shape(self) -> Triple:
        """(I, J, K) of the working volume; it covers the whole crop."""
        i, j, k = (
            max(1, math.ceil(n / r - SAME_SPACING)) for n, r in zip(self.crop, self.ratio, strict=True)
        )
        return i, j, k

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) working voxel index → RAS+ mm."""
        step = np.eye(4)
        step[:3, :3] = np.diag(self.ratio)
        step[:3, 3] = [
            o + (n - 1) / 2 - (m - 1) / 2 * r
            for o, n, m, r in zip(self.offset, self.crop, self.shape, self.ratio, strict=True)
        ]
        return np.asarray(self.native_affine, dtype=np.float64) @ step

    @property
    def is_native(self) -> bool:
        """Whether working voxels are native voxels."""
        return self.shape == self.crop and self.ratio == (1.0, 1.0, 1.0)

    @cached_property
    def forward(self) -> Weights:
        """Interpolation from the native crop to the working grid."""
        i, j, k = map(axis_weights, self.crop, self.shape, self.ratio)
        return i, j, k

    @cached_property
    def backward(self) -> Weights:
        """Interpolation from the working grid to the native crop."""
        i, j, k = map(axis_weights, self.shape, self.crop, [1.0 / r for r in self.ratio])
        return i, j, k

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """The crop as slices of the native grid."""
        i, j, k = (slice(first, first + n) for first, n in zip(self.offset, self.crop, strict=True))
        return i, j, k

    def cropped(self, volume: NDArray[np.generic]) -> NDArray[np.generic]:
        """The crop of a native (..., I, J, K) volume."""
        return volume[..., *self.window]

    def to_native(self, field: Tensor | NDArray[np.generic], outside: float = 0.0) -> Tensor:
        """A working-grid field linearly on the full native grid.

        Args:
            field: (..., I, J, K) on the working grid.
            outside: Value outside the crop, e.g. a very negative logit.

        Returns:
            float32 (..., I, J, K) on the native grid.
        """
        inner = resample(torch.as_tensor(field).to(torch.float32), self.backward)
        if self.crop == self.native_shape:
            return inner
        full = inner.new_full((*inner.shape[:-3], *self.native_shape), outside)
        full[..., *self.window] = inner
        return full


def to_working_grid(
    volume: NDArray[np.generic],
    affine: NDArray[np.floating],
    spacing: Sequence[float] | None,
    mode: str = "linear",
) -> tuple[Tensor, NDArray[np.float64]]:
    """A whole native volume on a grid of the given spacing.

    Args:
        volume: (..., I, J, K).
        affine: (4, 4) voxel index → RAS+ mm.
        spacing: mm per axis, or None for the native spacing.
        mode: ``linear`` for images, ``mask`` for boolean volumes.

    Returns:
        The volume (float32, or boolean for ``mask``; the input's own type if nothing changes) and its affine.

    Raises:
        UsageError: Unknown mode or impossible spacing.
    """
    if mode not in ("linear", "mask"):
        raise UsageError(f"mode {mode!r}", "linear or mask")
    i, j, k = volume.shape[-3:]
    wanted = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    grid = WorkingGrid((i, j, k), np.asarray(affine, dtype=np.float64), (0, 0, 0), (i, j, k), wanted)
    tensor = torch.from_numpy(np.ascontiguousarray(volume))
    return (
        resample_mask(tensor.bool(), grid.forward) if mode == "mask" else resample(tensor, grid.forward)
    ), grid.affine
