"""Signed distance of a presence volume, truncated, in mm: the alternative target of the codecs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

__all__ = ["signed_distance"]


def signed_distance(presence: Tensor, spacing_mm: Sequence[float], bound_mm: float = 10.0) -> Tensor:
    """Distance to the boundary of presence: positive inside, negative outside, truncated at ±`bound_mm`.

    The Euclidean transform measures from voxel center to voxel center; half of the finest spacing is taken
    off on either side, so that the boundary runs between the voxels and the sign equals presence exactly.
    A patch without presence is the constant ``-bound_mm``, one filled with it ``+bound_mm``. What lies
    outside the patch is unknown to it: near a patch border the distance is an upper bound.

    Args:
        presence: (B, 1, *S), present where > 0.5.
        spacing_mm: Voxel spacing per spatial axis, mm.
        bound_mm: Truncation, mm.

    Returns:
        float32 (B, 1, *S), mm, on the device of `presence`. Computed on the CPU.
    """
    present = presence.detach().cpu().numpy() > 0.5
    field = np.empty(present.shape, dtype=np.float32)
    half = 0.5 * min(spacing_mm)
    for index in range(present.shape[0]):
        inside = present[index, 0]
        if not inside.any():
            field[index, 0] = -bound_mm
        elif inside.all():
            field[index, 0] = bound_mm
        else:
            out = distance_transform_edt(~inside, sampling=spacing_mm) - half
            into = distance_transform_edt(inside, sampling=spacing_mm) - half
            field[index, 0] = np.clip(np.where(inside, into, -out), -bound_mm, bound_mm)
    return torch.from_numpy(field).to(presence.device)
