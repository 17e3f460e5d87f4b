"""Is the probability that a whole lesion is tumor an honest one? And what does a map say of a lesion's grade?

Lesions here are things that exist apart from any map: the true lesions of a simulated case, ambiguous ones included,
or what the readers of a real one marked. So every method is asked about the same lesions, and the Brier score is
proper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation.reference import Reference
from diffusion_adc.evaluation.values import histogram_statistics
from diffusion_adc.inference.lesion_probability import held_shares, said_of
from diffusion_adc.inference.lesions import HIT_SHARE
from diffusion_adc.inference.tumor_map import BANDS, band_name

MARKERS: Final = (
    "median", "mean", "p10", "p25", "p75", "p90", "entropy", *(f"share_{band_name(*band)}" for band in BANDS),
)  # fmt: skip
"""ADC statistics of a lesion that may tell its grade."""

LESION_BINS: Final = 10
"""Equal-width bins of the lesion-level calibration error."""


@dataclass(frozen=True)
class LesionPresence:
    """One method's word on every lesion of a case; index n - 1 belongs to lesion n.

    Attributes:
        probability: float64 (M,), that a reader keeps the lesion: share of the draws that hold at least 10 % of its
            voxels; for a map without draws the highest probability inside it.
        kept: float64 (M,), share of the readers who did.
        volume_ml: float64 (M,).
        arm: Kind of ambiguity, empty where none is planted.
        grade: int64 (M,), 1 to 5 of untreated lesions, 0 for all others and where it is unknown: treatment, sclerosis
            and mucin move the ADC for reasons of their own.
        markers: float64 (M, F), `MARKERS` of the map's own values inside the lesion, NaN where it holds none.
    """

    probability: NDArray[np.float64]
    kept: NDArray[np.float64]
    volume_ml: NDArray[np.float64]
    arm: tuple[str, ...]
    grade: NDArray[np.int64]
    markers: NDArray[np.float64]

    @property
    def squared_error(self) -> NDArray[np.float64]:
        """(M,) (probability − kept)², mean over the readers, each of whom kept the lesion or not."""
        return self.probability**2 - 2.0 * self.probability * self.kept + self.kept


def lesion_presence(
    reference: Reference,
    box: tuple[slice, slice, slice],
    tumor_adc: NDArray[np.floating],
    probability: NDArray[np.floating],
    draws: NDArray[np.generic] | None,
) -> LesionPresence:
    """Ask a map about every lesion of a case.

    Args:
        reference: The case.
        box: Where the arrays lie; holds every lesion.
        tumor_adc: (box), the map, 0 outside it and in voxels without a valid ADC.
        probability: (box) in [0, 1].
        draws: (box, D), non-zero where present; None without any.
    """
    labels, count = reference.objects
    labels = labels[box]
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    readings = np.stack([reading[box] for reading in reference.readings], axis=-1)
    kept = (held_shares(labels, count, readings) >= HIT_SHARE).mean(axis=1)
    said = said_of(labels, count, draws, probability)
    known = reference.known
    grades = (
        []
        if known is None
        else [lesion.grade if lesion.kind == "untreated" else 0 for lesion in known.lesions]
    )
    markers = np.full((count, len(MARKERS)), np.nan)
    if known is not None:
        for n in range(count):
            values = tumor_adc[(labels == n + 1) & (tumor_adc != 0)].astype(np.float64)
            if values.size:
                found = histogram_statistics(values)
                shares = [float(((values >= low) & (values < high)).mean()) for low, high in BANDS]
                markers[n] = [*(found[name] for name in MARKERS[: -len(BANDS)]), *shares]
    return LesionPresence(
        probability=said.astype(np.float64),
        kept=kept.astype(np.float64),
        volume_ml=voxels.astype(np.float64) * reference.voxel_ml,
        arm=("",) * count if known is None else known.arm,
        grade=np.asarray(grades or [0] * count, dtype=np.int64),
        markers=markers,
    )
