"""The lesions of a tumor map: one row each, with what the draws say about it.

Axes ``I J K``; volumes in mL, ADC in 1e-3 mm²/s, centroids in RAS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain.units import spacing_mm, voxel_volume_ml
from diffusion_adc.inference.intervals import order_statistic_interval
from diffusion_adc.records.maps import LESION_COLUMNS

REACH_MM: Final = 10.0
"""How far from a lesion a draw's presence still belongs to it, if no other lesion is nearer."""

HIT_SHARE: Final = 0.1
"""Share of a lesion's voxels that a draw must hold for the lesion to count as present in it."""

PARTIAL_VOLUME_VOXELS: Final = 16
"""Below this size every voxel may be a mixture with the neighboring tissue (0.5 mL at 2.5 × 2.5 × 5 mm)."""

_NEIGHBORS: Final = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Lesions:
    """Lesions of one map.

    Attributes:
        labels: int32 (I, J, K), lesion number from 1, the largest first; 0 elsewhere.
        rows: One mapping per lesion with the columns of lesions.csv.
        voxels: int64 (N,), size of each lesion in the map.
    """

    labels: NDArray[np.int32]
    rows: tuple[dict[str, Any], ...]
    voxels: NDArray[np.int64]


def connected_components(presence: NDArray[np.bool_]) -> NDArray[np.int32]:
    """26-connected components numbered from 1, the largest first; int32 (I, J, K)."""
    raw, count = ndimage.label(presence, structure=_NEIGHBORS, output=np.int32)
    size = np.bincount(raw.ravel(), minlength=count + 1)[1:]
    number = np.zeros(count + 1, dtype=np.int32)
    # Stable: components of equal size keep their index order, so that a rerun numbers them alike.
    number[np.argsort(-size, kind="stable") + 1] = np.arange(1, count + 1, dtype=np.int32)
    return number[raw]


def lesion_table(
    presence: NDArray[np.bool_],
    draws: NDArray[np.uint8],
    adc: NDArray[np.floating],
    affine: NDArray[np.floating],
) -> Lesions:
    """Describe each 26-connected component of a map.

    - ``probability``: share of the draws in which the lesion is present, that is, which hold at least
      `HIT_SHARE` of its voxels. It is a statement about the whole lesion, which the mean of its voxels'
      probabilities is not: a lesion whose border is uncertain in every draw is nevertheless in every draw.
    - ``volume_ml`` with its 80 % interval: median and order statistics over the draws of the volume within
      `REACH_MM` of the lesion, each voxel counted for its nearest lesion only. Draws may thus extend
      beyond the map's border; what they place elsewhere counts in the total volume alone.
    - ``adc_median``, ``adc_p10``, ``adc_p90``: over the lesion's voxels in the map.
    - ``centroid_*_mm``: mean position of those voxels.

    Args:
        presence: bool (I, J, K), the map; only voxels with a valid ADC.
        draws: uint8 (I, J, K, D), 0 or 1; only voxels with a valid ADC.
        adc: float (I, J, K).
        affine: (4, 4) voxel index → RAS mm; may be oblique.
    """
    labels = connected_components(presence)
    count = int(labels.max(initial=0))
    if count == 0:
        return Lesions(labels, (), np.zeros(0, dtype=np.int64))
    spacing = np.asarray(spacing_mm(affine))
    margin = np.ceil(REACH_MM / spacing).astype(int)
    box = tuple(
        slice(max(0, int(line.min()) - m), int(line.max()) + m + 1)
        for line, m in zip(np.nonzero(labels), margin, strict=True)
    )
    part = labels[box]
    voxels = np.bincount(part.ravel(), minlength=count + 1)[1:].astype(np.int64)
    hits, volumes = _draw_statistics(part, draws[box], voxels, spacing, voxel_volume_ml(np.asarray(affine)))
    # One sort instead of a scan of the volume per lesion.
    inside = np.flatnonzero(labels)
    order = np.argsort(labels.ravel()[inside], kind="stable")
    groups = np.split(inside[order], np.cumsum(voxels)[:-1])
    rows = []
    for index, group in enumerate(groups):
        low, high, _ = order_statistic_interval(volumes[index])
        values = adc.ravel()[group].astype(np.float64)
        p10, median, p90 = np.percentile(values, (10, 50, 90))
        center = np.stack(np.unravel_index(group, labels.shape)).mean(axis=1)
        r, a, s = np.asarray(affine, dtype=np.float64)[:3] @ np.append(center, 1.0)
        values_by_column = (
            hits[index].mean(), np.median(volumes[index]), low, high, median, p10, p90, r, a, s,
        )  # fmt: skip
        numbers = (round(float(value), 6) for value in values_by_column)
        rows.append(dict(zip(LESION_COLUMNS, (index + 1, *numbers, ""), strict=True)))
    return Lesions(labels, tuple(rows), voxels)


def _draw_statistics(
    labels: NDArray[np.int32],
    draws: NDArray[np.uint8],
    voxels: NDArray[np.int64],
    spacing: NDArray[np.float64],
    voxel_ml: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For each lesion and draw: is it hit, bool (N, D); which volume near it, float64 (N, D) in mL."""
    distance, nearest = ndimage.distance_transform_edt(labels == 0, sampling=spacing, return_indices=True)
    zone = np.where(distance <= REACH_MM, labels[tuple(nearest)], 0)
    n, d = voxels.size, draws.shape[-1]
    hits, volumes = np.zeros((n, d), dtype=bool), np.zeros((n, d))
    for k in range(d):
        drawn = draws[..., k] != 0
        held = np.bincount(labels[drawn], minlength=n + 1)[1:]
        hits[:, k] = held >= np.maximum(1.0, HIT_SHARE * voxels)
        volumes[:, k] = np.bincount(zone[drawn], minlength=n + 1)[1:] * voxel_ml
    return hits, volumes
