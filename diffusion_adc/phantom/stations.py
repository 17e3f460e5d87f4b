"""Stations of a whole-body examination: where each begins, how its images differ, how they are composed.

A whole body is imaged in four or five stations that overlap by a few slices. Each has its own receiver gain
and shim: the composed series shows steps of intensity and of position at the seams. Composition takes each
slice from one station, the seam in the middle of the overlap, so that every voxel is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from diffusion_adc.phantom.fields import Array
from diffusion_adc.phantom.truth import StationTruth

_OVERLAP_SLICES: Final = (2, 6)
_EDGE_MM: Final = 18.0
"""Distance over which the coil's sensitivity falls at a station's ends."""
_EDGE_LOSS: Final = 0.30
_SINGLE_MM: Final = 320.0
"""A field of view no longer than this is one station."""


def draw_stations(
    rng: np.random.Generator, slices: int, slice_mm: float, wanted: bool
) -> tuple[StationTruth, ...]:
    """Stations of one examination from the feet upward; without artifacts they differ in nothing.

    Args:
        rng: Generator of this examination.
        slices: Of the composed series.
        slice_mm: Their distance.
        wanted: Whether stations differ in gain and position.
    """
    extent = slices * slice_mm
    wide = int(rng.integers(4, 6))
    count = 1 if extent <= _SINGLE_MM else max(2, min(wide, int(round(extent / 180.0))))
    overlap = int(rng.integers(_OVERLAP_SLICES[0], _OVERLAP_SLICES[1] + 1))
    overlap = max(1, min(overlap, slices // (3 * count)))
    edges = np.rint(np.linspace(0, slices, count + 1)).astype(int)
    z = np.clip(rng.standard_normal((4, 5)), -1.8, 1.8)
    stations = []
    for n in range(count):
        first, last = int(edges[n]), int(edges[n + 1]) - 1
        before, after = overlap // 2, overlap - overlap // 2
        stations.append(StationTruth(
            index=n, first=first, last=last, acquired_first=max(0, first - before) if n else 0,
            acquired_last=min(slices - 1, last + after), gain=round(float(np.exp(0.2 * z[0, n])), 4) if wanted else 1.0,
            gain_t1w=round(float(np.exp(0.08 * z[2, n])), 4) if wanted else 1.0,
            gain_t2w=round(float(np.exp(0.08 * z[3, n])), 4) if wanted else 1.0,
            shift_mm=round(float(2.0 * z[1, n]), 3) if wanted else 0.0,
        ))  # fmt: skip
    return tuple(stations)


def slice_profile(stations: Sequence[StationTruth], slices: int, what: str) -> Array:
    """(K,) a field of the station each slice is taken from: ``gain``, ``gain_t1w``, ``gain_t2w``, ``shift_mm``."""
    out = np.zeros(slices, dtype=np.float32)
    for station in stations:
        out[station.first : station.last + 1] = getattr(station, what)
    return out


def edge_loss(stations: Sequence[StationTruth], slices: int, slice_mm: float) -> Array:
    """(K,) sensitivity within a station, 1 in its middle and less toward its ends."""
    out = np.ones(slices, dtype=np.float32)
    for station in stations:
        k = np.arange(station.first, station.last + 1, dtype=np.float32)
        distance = np.minimum(k - station.acquired_first, station.acquired_last - k) * np.float32(slice_mm)
        out[station.first : station.last + 1] = 1 - np.float32(_EDGE_LOSS) * np.exp(
            -distance / np.float32(_EDGE_MM)
        )
    return out
