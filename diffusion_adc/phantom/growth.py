"""Irregular regions that grow from a seed inside their host tissue: lesions and their mimics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.phantom.canvas import Box, Canvas, rotation
from diffusion_adc.phantom.fields import Array, smooth_field
from diffusion_adc.phantom.structures import Structure

_SEED_REACH_MM = 9.0


@dataclass(frozen=True)
class Growth:
    """A grown region on the fine grid.

    Attributes:
        box: Where it lies.
        inside: Boolean in the box.
        level: Order of growth in the box, mm: small in the middle, large at the border.
        seed_mm: Its seed in unwarped fine coordinates.
    """

    box: Box
    inside: NDArray[np.bool_]
    level: Array
    seed_mm: NDArray[np.float64]

    def innermost(self, share: float) -> NDArray[np.bool_]:
        """The share of the region that grew first."""
        values = self.level[self.inside]
        count = int(round(share * values.size))
        if count <= 0:
            return np.zeros_like(self.inside)
        threshold = np.partition(values, count - 1)[count - 1]
        return self.inside & (self.level <= threshold)


def find_seed(
    canvas: Canvas, anchor_mm: NDArray[np.float64], hosts: Sequence[int], rng: np.random.Generator
) -> tuple[int, int, int] | None:
    """A host voxel near a place in body coordinates; None if there is none in the field of view."""
    where = anchor_mm + rng.normal(0, 2.5, 3)
    box = canvas.box(where - _SEED_REACH_MM, where + _SEED_REACH_MM)
    if box is None:
        return None
    allowed = np.isin(canvas.labels[box], list(hosts))
    if not allowed.any():
        return None
    x, y, z = canvas.coordinates(box)
    near = (x - where[0]) ** 2 + (y - where[1]) ** 2 + (z - where[2]) ** 2
    near[~allowed] = np.inf
    best = np.unravel_index(int(np.argmin(near)), near.shape)
    if near[best] > _SEED_REACH_MM**2:
        return None
    return tuple(int(b + s.start) for b, s in zip(best, box, strict=True))  # type: ignore[return-value]


def seed_position(canvas: Canvas, seed: tuple[int, int, int]) -> NDArray[np.float64]:
    """Unwarped fine coordinates of a voxel, mm."""
    return np.array([axis[i] for axis, i in zip(canvas.axes, seed, strict=True)], dtype=np.float64)


def grow(
    canvas: Canvas,
    seed: tuple[int, int, int],
    volume_ml: float,
    cost_mm: Mapping[int, float],
    rng: np.random.Generator,
    *,
    lobes: int = 1,
    roughness: float = 0.28,
) -> Growth | None:
    """Grow a lobed, rough region of a given volume around a seed.

    The region is the set of voxels of lowest level connected to the seed, where the level is the distance to
    the nearest of several ellipsoidal lobes plus a random field; tissues that resist add their cost.

    Args:
        canvas: Read only.
        seed: Fine voxel index.
        volume_ml: Wanted; less if the host is smaller.
        cost_mm: Cost of growing into a structure, by number; structures not named are walls.
        rng: Generator.
        lobes: Number of lobes.
        roughness: Standard deviation of the random field relative to the region's radius.

    Returns:
        The region; None if nothing could grow.
    """
    radius = (3000 * volume_ml / (4 * np.pi)) ** (1 / 3)
    center = seed_position(canvas, seed)
    reach = 2.3 * radius + 5.0
    slices = []
    for axis, c, extent in zip(canvas.axes, center, canvas.shape, strict=True):
        start = int(np.searchsorted(axis, c - reach))
        slices.append(slice(start, max(start + 1, min(extent, int(np.searchsorted(axis, c + reach))))))
    box: Box = (slices[0], slices[1], slices[2])
    resistance = np.full(256, np.inf, dtype=np.float32)
    for structure, cost in cost_mm.items():
        resistance[structure] = cost
    level = resistance[canvas.labels[box]]
    level += _lobes(canvas, box, center, radius, lobes, rng)
    shape = tuple(s.stop - s.start for s in box)
    level += np.float32(roughness * radius) * smooth_field(
        rng, shape, canvas.voxel_mm, max(5.0, 0.9 * radius)
    )
    finite = level[np.isfinite(level)]
    count = min(int(round(volume_ml / canvas.voxel_ml)), finite.size)
    if count < 1:
        return None
    inside = level <= np.partition(finite, count - 1)[count - 1]
    parts, _ = ndimage.label(inside)
    local = tuple(i - s.start for i, s in zip(seed, box, strict=True))
    number = parts[local]
    if number == 0:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        number = int(np.argmax(sizes))
    inside = parts == number
    return Growth(box, inside, np.where(np.isfinite(level), level, np.float32(1e3)), center)


def _lobes(
    canvas: Canvas,
    box: Box,
    center: NDArray[np.float64],
    radius: float,
    lobes: int,
    rng: np.random.Generator,
) -> Array:
    out: Array | None = None
    for n in range(lobes):
        offset = np.zeros(3) if n == 0 else rng.normal(0, 0.55 * radius, 3)
        stretch = np.exp(0.22 * rng.standard_normal(3)) * (1.0 if n == 0 else rng.uniform(0.6, 1.0))
        turn = rotation(*rng.uniform(-90, 90, 3)).astype(np.float32)
        x, y, z = (
            (axis[s] - np.float32(c + o)).reshape([-1 if a == n_axis else 1 for a in range(3)])
            for n_axis, (axis, s, c, o) in enumerate(zip(canvas.axes, box, center, offset, strict=True))
        )
        total = np.zeros(tuple(s.stop - s.start for s in box), dtype=np.float32)
        for a in range(3):
            along = (x * turn[0, a] + y * turn[1, a] + z * turn[2, a]) * np.float32(1 / stretch[a])
            total += along * along
        distance = np.sqrt(total)
        out = distance if out is None else np.minimum(out, distance)
    if out is None:
        raise ValueError("at least one lobe")
    return out


def costs(
    free: Sequence[Structure], dear: Sequence[Structure] = (), cost_mm: float = 5.0
) -> dict[int, float]:
    """Costs of growth: nothing in the `free` structures, `cost_mm` in the `dear` ones."""
    return {**{int(s): cost_mm for s in dear}, **{int(s): 0.0 for s in free}}
