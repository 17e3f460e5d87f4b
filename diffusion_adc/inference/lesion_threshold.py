"""When a connected region of a map is called a lesion: the peak probability it must reach, fixed on validation.

A map cut low enough to lose no tumor is strewn with specks that no draw is sure of. They stay in the map, which is
`ADC × [probability ≥ τ]` and nothing else; but a region is *called* a lesion only if its highest probability reaches
a second threshold. It is the one with the best F1 over the validation lesions, a called region counting as right if
it meets a reader's lesion and a reader's lesion as found if a called region meets it, pooled over cases and readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_adc.inference.lesions import connected_components


@dataclass(frozen=True)
class SparseScore:
    """The voxels of one validation case that some threshold could keep.

    Attributes:
        shape: Of the case's grid.
        index: int64 (V,), flat indices.
        score: float32 (V,), probability or logit there.
        lesions: int (R,), lesions of each reading in all.
        labels: int32 (R, V), number of the reading's lesion there, 0 outside.
    """

    shape: tuple[int, ...]
    index: NDArray[np.int64]
    score: NDArray[np.float32]
    lesions: NDArray[np.int64]
    labels: NDArray[np.int32]

    @classmethod
    def of(
        cls,
        score: NDArray[np.floating],
        readings: Sequence[NDArray[np.bool_]],
        usable: NDArray[np.bool_],
        lowest: float,
    ) -> SparseScore:
        """Keep what lies at or above `lowest` of a (I, J, K) score."""
        index = np.flatnonzero(usable & (score >= lowest))
        numbered = [connected_components(reading & usable) for reading in readings]
        return cls(
            score.shape,
            index,
            score.ravel()[index].astype(np.float32),
            np.asarray([int(labels.max(initial=0)) for labels in numbered]),
            np.stack([labels.ravel()[index] for labels in numbered]).astype(np.int32),
        )

    def regions(self, tau: float) -> tuple[NDArray[np.float64], list[list[NDArray[np.int32]]]]:
        """Peak of every region of the map at τ, and per reading the lesions that each region meets."""
        kept = np.flatnonzero(self.score >= np.float32(tau))
        presence = np.zeros(self.shape, dtype=bool)
        presence.ravel()[self.index[kept]] = True
        labels = connected_components(presence).ravel()[self.index[kept]] - 1
        count = int(labels.max(initial=-1)) + 1
        peaks = np.full(count, -np.inf)
        np.maximum.at(peaks, labels, self.score[kept].astype(np.float64))
        order = np.argsort(labels, kind="stable")
        edges = np.searchsorted(labels[order], np.arange(count + 1))
        met = [
            [
                np.unique(row[kept[order[a:b]]])
                for a, b in itertools.pairwise(edges)
            ]
            for row in self.labels
        ]  # fmt: skip
        return peaks, met


def choose_lesion_threshold(
    cases: Sequence[SparseScore], tau: float, levels: ArrayLike
) -> tuple[float, float]:
    """The peak a region must reach to be called a lesion.

    Args:
        cases: Validation cases.
        tau: Threshold of the map, in the score's own scale.
        levels: (M,) ascending candidates; those below τ change nothing and are left out.

    Returns:
        Threshold (the lowest of equals) and its F1; τ and 0 where no reading holds a lesion.
    """
    peaks_of = [tau, *(level for level in np.asarray(levels, dtype=np.float64) if level > tau)]
    right, wrong, missed = (np.zeros(len(peaks_of)) for _ in range(3))
    for case in cases:
        peaks, met = case.regions(tau)
        for reading, lesions in zip(met, case.lesions, strict=True):
            for m, level in enumerate(peaks_of):
                called = np.flatnonzero(peaks >= np.float32(level))
                hit = [reading[n][reading[n] > 0] for n in called]
                found = len(set(np.concatenate(hit).tolist())) if hit else 0
                right[m] += found
                missed[m] += lesions - found
                wrong[m] += sum(part.size == 0 for part in hit)
    score = 2 * right / np.maximum(2 * right + wrong + missed, 1e-12)
    best = int(np.argmax(score))
    return float(peaks_of[best]), float(score[best])
