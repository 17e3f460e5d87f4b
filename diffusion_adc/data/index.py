"""Where patches may be centered: found once when a case is stored, never while feeding.

Three kinds of voxels, each as flat C-order indices into (I, J, K):

* the voxels of every lesion of every reader (26-connected parts of the prepared presence),
* restricted diffusion outside a reader's map, the places that look like tumor and are not in it,
* the valid body.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.data.scaling import ADC_CEILING, ADC_INDEX, HIGH_INDEX, LOW_INDEX, NOMINAL_B, VALID_INDEX
from diffusion_adc.domain.rule import muscle_reference
from diffusion_adc.domain.signal import computed_high_b

RESTRICTED_ADC: Final = (0.3, 1.4)
"""1e-3 mm²/s: wider than the clinical rule's window, so that near misses are seen as well."""
RESTRICTED_RATIO: Final = 1.5
"""High-b signal over muscle; the clinical rule asks 2.5."""


@dataclass(frozen=True)
class Segment:
    """A run of an entry's voxel array."""

    start: int
    count: int


@dataclass(frozen=True)
class Lesion:
    """One lesion in one reader's map."""

    reader: int
    voxels: Segment


@dataclass(frozen=True)
class VoxelIndex:
    """What an entry knows of its voxels, without the voxels themselves.

    Attributes:
        lesions: Every lesion of every reader.
        restricted: Restricted diffusion outside the map, one segment per reader (one if there is no reader).
        body: The valid voxels.
    """

    lesions: tuple[Lesion, ...]
    restricted: tuple[Segment, ...]
    body: Segment

    def to_json(self) -> dict[str, Any]:
        """Plain lists for meta.json."""
        return {
            "lesions": [[lesion.reader, lesion.voxels.start, lesion.voxels.count] for lesion in self.lesions],
            "restricted": [[segment.start, segment.count] for segment in self.restricted],
            "body": [self.body.start, self.body.count],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> VoxelIndex:
        """The inverse of `to_json`."""
        return cls(
            tuple(Lesion(reader, Segment(start, count)) for reader, start, count in value["lesions"]),
            tuple(Segment(start, count) for start, count in value["restricted"]),
            Segment(*value["body"]),
        )


def restricted_diffusion(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Bright at high b and low in ADC: what a threshold takes for tumor.

    Without a high-b image its signal is computed from the low b and the ADC map; if no muscle can be found
    the ADC window alone decides.

    Args:
        images: (7, I, J, K) scaled condition.
    """
    adc, valid = images[ADC_INDEX] * ADC_CEILING, images[VALID_INDEX] > 0
    high = images[HIGH_INDEX]
    if not high.any():
        high = computed_high_b(images[LOW_INDEX], adc, *NOMINAL_B)
    restricted = valid & (adc > RESTRICTED_ADC[0]) & (adc < RESTRICTED_ADC[1])
    reference = muscle_reference(high, adc, valid)
    return restricted & (high > RESTRICTED_RATIO * reference) if np.isfinite(reference) else restricted


def index_voxels(
    images: NDArray[np.float32], readings: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], VoxelIndex]:
    """All candidate centers of a prepared case.

    Args:
        images: (7, I, J, K) scaled condition.
        readings: (R, I, J, K) presence by reader.

    Returns:
        int32 flat voxel indices, and the segments that say what they are.
    """
    parts: list[NDArray[np.int32]] = []
    length = 0

    def add(flat: NDArray[np.integer]) -> Segment:
        nonlocal length
        segment = Segment(length, int(flat.size))
        parts.append(flat.astype(np.int32))
        length += segment.count
        return segment

    lesions: list[Lesion] = []
    for reader, presence in enumerate(readings):
        labels, count = ndimage.label(presence, structure=np.ones((3, 3, 3)))
        inside = np.flatnonzero(labels)
        numbers = labels.ravel()[inside]
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(1, count + 2))
        for first, last in pairwise(bounds):
            lesions.append(Lesion(reader, add(inside[order[first:last]])))
    candidates = restricted_diffusion(images)
    outside = [candidates & ~presence for presence in readings] or [candidates]
    restricted = tuple(add(np.flatnonzero(mask)) for mask in outside)
    body = add(np.flatnonzero(images[VALID_INDEX] > 0))
    return np.concatenate(parts), VoxelIndex(tuple(lesions), restricted, body)
