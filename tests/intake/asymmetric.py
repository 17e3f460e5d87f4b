"""Bodies whose sides differ: what a flip of left and right can be told from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
SHAPE = (96, 80, 14)


def pair(seed: int) -> tuple[Array, Array]:
    """ADC map and anatomical image of one body: paired organs alike on both sides, single ones on one side.

    Contrasts are unrelated, the coil shades the image, and the body lies off the middle, moved by a voxel at most
    between the two.
    """
    rng = np.random.default_rng(seed)
    center = np.array(SHAPE) / 2 + (rng.uniform(-3, 3), rng.uniform(-3, 3), 0)
    grids = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    moved = rng.uniform(-1, 1, 3) * (1, 1, 0.3)

    def labels(offset: Array) -> NDArray[np.int64]:
        x, y, z = (g - c - o for g, c, o in zip(grids, center, offset, strict=True))
        out = np.zeros(SHAPE, dtype=np.int64)
        for number, middle, radii in organs:
            r = sum(((a - m) / s) ** 2 for a, m, s in zip((x, y, z), middle, radii, strict=True))
            out[r < 1] = number
        return out

    organs = [(1, (0, 0, 0), (38, 26, 30))]
    for number in range(2, 6):  # paired: a mirror image has them too
        at = np.array([rng.uniform(10, 26), rng.uniform(-14, 14), rng.uniform(-5, 5)])
        radii = rng.uniform(3, 8, 3) * (1, 1, 0.6)
        organs += [(number, tuple(at * (side, 1, 1)), tuple(radii)) for side in (1, -1)]
    for number in range(6, 6 + int(rng.integers(4, 8))):
        at = (rng.choice([-1, 1]) * rng.uniform(6, 22), rng.uniform(-12, 12), rng.uniform(-4, 4))
        organs.append((number, at, tuple(rng.uniform(4, 8, 3) * (1, 1, 0.7))))
    count = 1 + organs[-1][0]
    adc = np.array([0, *rng.permutation(np.linspace(0.6, 2.4, count))])[labels(np.zeros(3))]
    image = np.array([0, *rng.permutation(np.linspace(80, 700, count))])[labels(moved)]
    shading = 1 + 0.3 * np.sin(grids[0] / rng.uniform(25, 60) + rng.uniform(0, 6))
    image = ndimage.gaussian_filter(image * shading, (0.7, 0.7, 0.3)) + rng.normal(0, 15, SHAPE)
    adc = np.where(adc > 0, adc + rng.normal(0, 0.15, SHAPE), 0)
    return adc, np.abs(image)
