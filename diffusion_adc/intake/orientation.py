"""Is one sequence a mirror image of the other? A flip of left and right that no header admits.

The body is nearly symmetric, and contrast differs between sequences: what tells a mirror image is how well the
one image predicts the other, structure by structure. The measure is normalized mutual information (Studholme
et al. 1999, Pattern Recognition 32:71) inside the body, as delivered and mirrored, each at its best small shift.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BINS: Final = 24
_MOST_VOXELS: Final = 150_000
_LEAST_VOXELS: Final = 500
_LEAST_ACROSS: Final = 16
"""From left to right: a few sagittal slices leave chance to decide which way round they fit."""
_SHIFT: Final = 0.08
"""Shifts tried to either side, as a share of the left–right axis: a mirror's plane need not be the body's."""
_MARGIN: Final = 1.0005
"""A mirror image is suspected if it agrees this much better; equal agreement says nothing."""


def flip_suspected(
    adc: NDArray[np.floating], other: NDArray[np.floating], research_id: str, name: str,
    affine: NDArray[np.floating] | None = None,
) -> str | None:  # fmt: skip
    """A warning if a sequence agrees better with the ADC map once left and right are exchanged.

    Args:
        adc: (I, J, K) in any unit; 0 where nothing was fitted.
        other: (I, J, K) the sequence on the same grid, 0 outside what it covers.
        research_id: For the message.
        name: The sequence.
        affine: (4, 4) voxel index → RAS+ mm, says which axis runs from left to right; the first one without it.

    Returns:
        The message, S11, to be looked at by a person; None where nothing is suspected or nothing can be said.
    """
    as_is, mirrored = agreement(adc, other, left_right_axis(affine))
    if not mirrored > as_is * _MARGIN:
        return None
    return (
        f"S11 {research_id} {name}: fits the ADC map better with left and right exchanged "
        f"(agreement {mirrored:.4f}, as delivered {as_is:.4f}); look at both side by side before use"
    )


def left_right_axis(affine: NDArray[np.floating] | None) -> int:
    """The voxel axis that runs most nearly from left to right."""
    if affine is None:
        return 0
    axes = np.asarray(affine)[:3, :3]
    return int(np.argmax(np.abs(axes[0]) / np.linalg.norm(axes, axis=0)))


def agreement(adc: NDArray[np.floating], other: NDArray[np.floating], axis: int) -> tuple[float, float]:
    """Normalized mutual information of two images, as delivered and with `other` mirrored, at the best shift each.

    Args:
        adc: (I, J, K).
        other: (I, J, K) on the same grid.
        axis: Left–right axis.

    Returns:
        1 (nothing in common) to 2 (each predicts the other); (0, 0) where too little can be compared.
    """
    fixed, moving = (np.moveaxis(np.asarray(image, dtype=np.float32), axis, 0) for image in (adc, other))
    if fixed.shape[0] < _LEAST_ACROSS:
        return 0.0, 0.0
    step = tuple(slice(None, None, n) for n in _steps(fixed.shape))
    fixed, moving = (_smooth(image)[step] for image in (fixed, moving))
    both = (fixed != 0) & (moving != 0)
    if np.count_nonzero(both) < _LEAST_VOXELS:
        return 0.0, 0.0
    reach = max(2, round(_SHIFT * fixed.shape[0]))
    levels = _levels(fixed)
    return (
        _best(levels, _levels(moving), fixed.shape[0], reach),
        _best(levels, _levels(moving[::-1]), fixed.shape[0], reach),
    )


def _smooth(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(image != 0, ndimage.uniform_filter(image, (3, 3, 1)), np.float32(0))


def _steps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Strides that leave few enough voxels: never along the first axis, where a stride would shift the mirror."""
    step = [1, 1, 1]
    while np.prod(shape) / np.prod(step) > _MOST_VOXELS and max(step) < 16:
        step[1 if shape[1] / step[1] >= shape[2] / step[2] else 2] += 1
    return step[0], step[1], step[2]


def _levels(image: NDArray[np.float32]) -> NDArray[np.int64]:
    """Ranks in `_BINS` classes of equal size, 1 up; 0 where there is no value."""
    inside = image[image != 0]
    edges = np.unique(np.quantile(inside, np.linspace(0, 1, _BINS)[1:-1]))
    return np.where(image != 0, 1 + np.searchsorted(edges, image), 0).astype(np.int64)


def _best(fixed: NDArray[np.int64], moving: NDArray[np.int64], size: int, reach: int) -> float:
    return max(
        _information(
            fixed[max(0, shift) : size + min(0, shift)], moving[max(0, -shift) : size - max(0, shift)]
        )
        for shift in range(-reach, reach + 1)
    )


def _information(one: NDArray[np.int64], two: NDArray[np.int64]) -> float:
    """(H(one) + H(two)) / H(one, two); 0 counts as a class, so that outlines count too."""
    joint = np.bincount((one * (_BINS + 1) + two).ravel(), minlength=(_BINS + 1) ** 2).astype(np.float64)
    table = joint.reshape(_BINS + 1, _BINS + 1)
    together = _entropy(table.ravel())
    return (_entropy(table.sum(axis=0)) + _entropy(table.sum(axis=1))) / together if together else 0.0


def _entropy(counts: NDArray[np.float64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
