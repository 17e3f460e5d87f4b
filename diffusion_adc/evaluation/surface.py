"""Distances between surfaces: normalized surface Dice and Hausdorff distance, in mm on any voxel spacing.

The surface of a mask are its voxels with a face neighbor outside it (outside the volume counts as outside).
Distances run between voxel centers. Nearest neighbors come from a k-d tree of surface voxels, so that the cost
follows the size of the lesions and not that of the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from diffusion_adc.evaluation.lesions import bounding_box

HAUSDORFF_PERCENTILE = 95.0


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm from every surface voxel of one mask to the nearest of the other, both ways.

    Attributes:
        forward: float64 (P,), from the map to the reference; empty where one of them is empty.
        backward: float64 (Q,), from the reference to the map.
        n_presence: Surface voxels of the map.
        n_reference: Surface voxels of the reference.
    """

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    n_presence: int
    n_reference: int

    def surface_dice(self, tolerance_mm: float) -> float:
        """Normalized surface Dice (NSD): share of both surfaces within a tolerance of the other.

        Nikolov et al., J Med Internet Res 2021;23:e26151, counted by voxels. Empty maps as for `agreement.dice`:
        NaN where the reference is empty, 0 where only the map is.
        """
        if self.n_reference == 0:
            return float("nan")
        if self.n_presence == 0:
            return 0.0
        near = (self.forward <= tolerance_mm).sum() + (self.backward <= tolerance_mm).sum()
        return float(near) / (self.n_presence + self.n_reference)

    def hausdorff(self, percentile: float = HAUSDORFF_PERCENTILE) -> float:
        """The larger of both directed percentile distances, mm; NaN where one of the masks is empty."""
        if self.n_presence == 0 or self.n_reference == 0:
            return float("nan")
        return float(max(np.percentile(self.forward, percentile), np.percentile(self.backward, percentile)))

    def mean_distance(self) -> float:
        """Average symmetric surface distance (ASSD), mm; NaN where one of the masks is empty."""
        if self.n_presence == 0 or self.n_reference == 0:
            return float("nan")
        return float((self.forward.sum() + self.backward.sum()) / (self.n_presence + self.n_reference))


def surface_points(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Positions in mm of a mask's surface voxels, (P, 3); bool (I, J, K)."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3))
    inside = mask[box]
    surface = inside & ~ndimage.binary_erosion(inside)
    start = np.array([cut.start for cut in box])
    return (np.argwhere(surface) + start) * np.asarray(spacing_mm, dtype=np.float64)


def surface_distances(
    reference: NDArray[np.bool_], presence: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, bool (I, J, K).

    Raises:
        ValueError: Shapes differ.
    """
    if reference.shape != presence.shape:
        raise ValueError(f"map of shape {presence.shape}, reference of shape {reference.shape}")
    ours, theirs = surface_points(presence, spacing_mm), surface_points(reference, spacing_mm)
    if not len(ours) or not len(theirs):
        nothing = np.zeros(0)
        return SurfaceDistances(nothing, nothing, len(ours), len(theirs))
    forward, _ = cKDTree(theirs).query(ours)
    backward, _ = cKDTree(ours).query(theirs)
    return SurfaceDistances(np.asarray(forward), np.asarray(backward), len(ours), len(theirs))


def one_voxel_mm(spacing_mm: Sequence[float]) -> float:
    """Tolerance of one voxel: the larger in-plane spacing, which is the step of a reader's pencil."""
    return float(max(spacing_mm[:2]))
