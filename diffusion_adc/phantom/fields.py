"""Smooth random fields and linear interpolation along one axis: the small tools of anatomy and scanner.

Everything is float32 numpy without matrix products, so that results never depend on a thread count.
Axes I J K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]


def generator(seed: int, *path: int) -> np.random.Generator:
    """Generator of one purpose: independent streams for different paths under one seed."""
    return np.random.default_rng(np.random.SeedSequence([seed, *path]))


def lerp_axis(values: Array, axis: int, positions: NDArray[np.floating]) -> Array:
    """Values at fractional positions along one axis, linear between neighbors, constant beyond the ends."""
    last = values.shape[axis] - 1
    clipped = np.clip(positions, 0, last)
    first = np.minimum(np.floor(clipped).astype(np.intp), max(last - 1, 0))
    second = np.minimum(first + 1, last)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = (clipped - first).astype(np.float32).reshape(shape)
    low, high = values.take(first, axis), values.take(second, axis)
    high -= low
    high *= weight
    low += high
    return low


def upsample(coarse: Array, positions: Sequence[NDArray[np.floating]]) -> Array:
    """Separable linear interpolation at fractional positions, the axis that grows least first."""
    order = sorted(range(coarse.ndim), key=lambda axis: len(positions[axis]) / coarse.shape[axis])
    for axis in order:
        coarse = lerp_axis(coarse, axis, positions[axis])
    return coarse


def smooth_field(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    correlation_mm: float,
) -> Array:
    """Gaussian random field of mean 0 and standard deviation 1.

    Made on a lattice of half the correlation length, smoothed with σ = one lattice step (the correlation
    falls to exp(−1) at two steps, which is `correlation_mm`), and interpolated linearly.

    Args:
        rng: Generator.
        shape: (I, J, K).
        spacing_mm: Of the grid.
        correlation_mm: Distance at which the correlation is exp(−1).

    Returns:
        (I, J, K) float32.
    """
    step = correlation_mm / 2.0
    extents = [(n - 1) * s for n, s in zip(shape, spacing_mm, strict=True)]
    # Four extra lattice points on each side keep the smoothing's borders outside.
    lattice = [int(np.ceil(extent / step)) + 10 for extent in extents]
    noise = rng.standard_normal(lattice, dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, 1.0, mode="constant", truncate=3.0)
    # The variance left by the smoothing kernel on white noise, per axis 1 / (2 sqrt(pi) sigma).
    smooth *= np.float32((2.0 * np.sqrt(np.pi)) ** 1.5)
    positions = [4.5 + np.arange(n) * (s / step) for n, s in zip(shape, spacing_mm, strict=True)]
    # Linear interpolation between lattice points loses a little variance on average.
    return upsample(smooth, positions) * np.float32(1.12)


def smooth_curve(points: NDArray[np.floating], samples: int) -> NDArray[np.float64]:
    """Points on a Catmull-Rom spline through the given points.

    Args:
        points: (N, D), N ≥ 2; the columns may hold more than coordinates (a radius).
        samples: Number of points wanted.

    Returns:
        (samples, D).
    """
    p = np.asarray(points, dtype=np.float64)
    padded = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    u = np.linspace(0, len(p) - 1, samples)
    i = np.minimum(u.astype(int), len(p) - 2)
    t = (u - i)[:, None]
    a, b, c, d = (padded[i + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def downsample(fine: Array, factor: tuple[int, int, int]) -> Array:
    """Mean over blocks of `factor` voxels: the partial volume of the coarser grid."""
    out = fine
    for axis in (2, 1, 0):
        n = factor[axis]
        parts = [out[(slice(None),) * axis + (slice(k, None, n),)] for k in range(n)]
        out = parts[0] if n == 1 else sum(parts[1:], parts[0])
    return out * np.float32(1.0 / np.prod(factor))


def count_blocks(fine: NDArray[np.bool_], factor: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Number of true voxels in each block of `factor` voxels (at most 255)."""
    out = fine.view(np.uint8)
    for axis in (2, 1, 0):
        n = factor[axis]
        parts = [out[(slice(None),) * axis + (slice(k, None, n),)] for k in range(n)]
        out = parts[0] if n == 1 else sum(parts[1:], parts[0])
    return out.astype(np.uint8)
