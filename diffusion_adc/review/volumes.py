"""A case's volumes as a page carries them: turned to R A S, in few bytes, unable to say more than voxels.

Browsers refuse to read files beside a page that was opened from disk, so every volume travels inside it as
base64 of a gzipped NIfTI-1. Headers are made from scratch. Images are copies for looking at: ADC keeps steps
of 1e-3 × 10⁻³ mm²/s, the other sequences 10 bits. Numbers are never taken from these copies.

Axes ``I J K`` run to the patient's right, front and head after `Grid.turn`.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from typing import Any, Final

import nibabel as nib
import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from diffusion_adc.evaluation.picture import canonical

_LEVELS: Final = 1023
_ADC_STEP: Final = 1e-3
"""10⁻³ mm²/s."""
_LEVEL: Final = 4


@dataclass(frozen=True)
class Grid:
    """A case's grid and how it is turned.

    Attributes:
        affine: (4, 4) voxel index → RAS+ mm, as stored.
        shape: (I, J, K) as stored.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array with axes flipped and permuted so that they run to the patient's right, front and head."""
        return canonical(array, self.affine)

    @property
    def turned(self) -> NDArray[np.float64]:
        """(4, 4) turned voxel index → RAS+ mm."""
        return self.affine @ inv_ornt_aff(io_orientation(self.affine), self.shape)

    def turned_index(self, voxels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Turned indices (N, 3) of stored indices (N, 3)."""
        back = np.linalg.inv(inv_ornt_aff(io_orientation(self.affine), self.shape))
        return np.rint(np.c_[voxels, np.ones(len(voxels))] @ back[:3].T).astype(np.int64)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Turned voxel spacing in mm."""
        i, j, k = np.linalg.norm(self.turned[:3, :3], axis=0)
        return float(i), float(j), float(k)


def packed(data: bytes) -> str:
    """Base64 of the gzipped bytes; same bytes, same text."""
    return base64.b64encode(gzip.compress(data, _LEVEL, mtime=0)).decode("ascii")


def nifti(grid: Grid, array: NDArray[np.generic], slope: float = 1.0, intercept: float = 0.0) -> str:
    """A volume of the case (I, J, K) as stored → packed NIfTI-1 of the turned one."""
    image = nib.Nifti1Image(np.ascontiguousarray(grid.turn(array)), grid.turned)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, intercept)
    # nibabel clears the scale of a header whose data it writes as they stand, so it is put back into the bytes.
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()
    return packed(bytes(raw))


def gray_volume(grid: Grid, array: NDArray[np.floating]) -> tuple[str, tuple[float, float]]:
    """A sequence in 10 bits and the window that shows it: 1st to 99.5th percentile of what is not 0."""
    values = np.nan_to_num(np.asarray(array, dtype=np.float64))
    seen = values[values != 0]
    if seen.size == 0:
        return nifti(grid, np.zeros(grid.shape, dtype=np.int16)), (0.0, 1.0)
    bottom = min(0.0, float(np.percentile(seen, 0.01)))
    top = float(np.percentile(seen, 99.99))
    step = max(top - bottom, 1e-6) / _LEVELS
    levels = np.clip(np.rint((values - bottom) / step), 0, _LEVELS).astype(np.int16)
    low, high = np.percentile(seen, (1, 99.5))
    return nifti(grid, levels, step, bottom), (float(min(low, 0.5 * high)), float(max(high, low + step)))


def adc_volume(grid: Grid, adc: NDArray[np.floating]) -> str:
    """ADC in 10⁻³ mm²/s, in steps of a thousandth."""
    levels = np.clip(np.rint(np.nan_to_num(np.asarray(adc, dtype=np.float64)) / _ADC_STEP), -32768, 32767)
    return nifti(grid, levels.astype(np.int16), _ADC_STEP)


def probability_volume(grid: Grid, probability: NDArray[np.floating]) -> str:
    """Probability in 255 steps, stored as 0 … 255."""
    return nifti(grid, np.rint(255 * np.clip(np.nan_to_num(probability), 0, 1)).astype(np.uint8))


def presence_volume(grid: Grid, presence: NDArray[np.generic]) -> str:
    """Presence as 0 and 1."""
    return nifti(grid, (np.asarray(presence) != 0).astype(np.uint8))


def tumor_levels(tumor_adc: NDArray[np.floating], window: tuple[float, float]) -> NDArray[np.uint8]:
    """0 outside the map, else 1 … 255 over the window: a low ADC inside the map stays visible."""
    values = np.asarray(tumor_adc, dtype=np.float64)
    share = np.clip((values - window[0]) / (window[1] - window[0]), 0, 1)
    return np.where(values != 0, 1 + np.rint(254 * share), 0).astype(np.uint8)


def packed_draws(grid: Grid, draws: NDArray[np.generic]) -> dict[str, Any]:
    """Draws (I, J, K, D) as the voxels of any draw and one bit per voxel and draw.

    Returns:
        ``count``; ``voxels``: packed little-endian uint32, turned index ``i + I·(j + J·k)``; ``bits``: packed,
        per draw ``ceil(N / 8)`` bytes, the first voxel in the highest bit.
    """
    flat = np.zeros((int(np.prod(grid.shape)), draws.shape[-1]), dtype=bool)
    for draw in range(draws.shape[-1]):
        flat[:, draw] = grid.turn(draws[..., draw]).ravel(order="F") != 0
    near = np.flatnonzero(flat.any(axis=1))
    bits = np.packbits(flat[near].T, axis=1)
    return {
        "count": int(draws.shape[-1]),
        "voxels": packed(near.astype("<u4").tobytes()),
        "bits": packed(np.ascontiguousarray(bits).tobytes()),
        "row": int(bits.shape[1]),
    }
