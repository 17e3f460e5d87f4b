"""The reader model: how a physician's edit comes about from the true lesions and the images.

Keep-probabilities are a fixed function of what the images show, so they can be learned. Readings of one case
are independent given them; only the lesions of a pair depend on each other, by a stored joint law. Every
reading has its own ADC ceiling: readers are drawn anew from a large pool for each case, so any two readings
of a case are exchangeable. The same functions make the stored readings and the oracle's draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.phantom.canvas import Box
from diffusion_adc.phantom.fields import Array, generator, smooth_field
from diffusion_adc.phantom.truth import CaseTruth, LesionTruth, PairTruth

JITTER_SD_MM: Final = 2.5
JITTER_CORRELATION_MM: Final = 10.0
CEILING: Final = (1.4, 1.8)
"""Range of a reader's ADC ceiling, 1e-3 mm²/s."""
MIMIC_PROBABILITY: Final = 0.05
PAIR_CORRELATION: Final = 0.9
SURE: Final = 0.85
"""A lesion kept with at least this probability is not ambiguous."""

_SITE: Final = {"bone": 0.0, "node": -0.35, "primary": 0.5, "liver": -0.2, "lung": -0.25}


def keep_probability(volume_ml: float, contrast: float, adc: float, group: str) -> float:
    """Probability that a reader keeps a lesion.

    Readers miss 40 % of lesions below 0.2 mL and 5 % above 1 mL, linear in the log of the volume between;
    fewer stand out the less bright a lesion is at high b and the freer its water.

    Args:
        volume_ml: Volume.
        contrast: High-b signal relative to the muscle reference.
        adc: Median ADC, 1e-3 mm²/s.
        group: ``bone``, ``node``, ``liver``, ``lung`` or ``primary``.
    """
    size = 0.95 - 0.35 * float(np.clip(np.log(1.0 / max(volume_ml, 1e-3)) / np.log(5.0), 0.0, 1.0))
    logit = np.log(max(contrast, 1e-3) / 3.05) / 0.11 - max(0.0, adc - 1.3) / 0.18 + _SITE[group]
    return float(np.clip(size / (1.0 + np.exp(-logit)), 0.03, 0.97))


def whole_probability(halo_contrast: float) -> float:
    """Probability that a reader who keeps a lesion with a halo keeps the halo too.

    Args:
        halo_contrast: High-b signal of the halo relative to the muscle reference.
    """
    return float(np.clip(1.0 / (1.0 + np.exp(-(halo_contrast - 4.0) / 0.6)), 0.1, 0.9))


def pair_law(first: LesionTruth, second: LesionTruth, distance_mm: float, near: bool) -> PairTruth:
    """Joint law of two lesions: one coin for both with `PAIR_CORRELATION`, else two independent coins."""
    p, q = first.keep_probability, second.keep_probability
    both = PAIR_CORRELATION * min(p, q) + (1 - PAIR_CORRELATION) * p * q
    return PairTruth(
        first=first.number, second=second.number, correlation=PAIR_CORRELATION, both=both, only_first=p - both,
        only_second=q - both, neither=1 - p - q + both, distance_mm=distance_mm, near=near,
    )  # fmt: skip


def law() -> dict[str, Any]:
    """The constants of the reader model, for the record."""
    return {
        "jitter_sd_mm": JITTER_SD_MM, "jitter_correlation_mm": JITTER_CORRELATION_MM,
        "adc_ceiling": list(CEILING), "mimic_probability": MIMIC_PROBABILITY,
        "pair_correlation": PAIR_CORRELATION, "sure": SURE,
    }  # fmt: skip


@dataclass(frozen=True)
class Region:
    """A region whose border a reader redraws.

    Attributes:
        box: Where it may reach.
        distance: Signed distance to its border in the box, mm, negative inside.
        count: Its number of voxels.
        sd_mm: Standard deviation of the border's displacement.
    """

    box: Box
    distance: Array
    count: int
    sd_mm: float

    @classmethod
    def of(
        cls, mask: NDArray[np.bool_], spacing_mm: Sequence[float], where: Box | None = None
    ) -> Region | None:
        """Region of a mask; None if it is empty.

        Args:
            mask: (I, J, K).
            spacing_mm: Voxel spacing.
            where: A box known to hold the whole mask.
        """
        if where is None:
            found = ndimage.find_objects(mask.astype(np.uint8))
            where = found[0] if found else None
        count = 0 if where is None else int(mask[where].sum())
        if where is None or count == 0:
            return None
        radius = (3 * count * float(np.prod(spacing_mm)) / (4 * np.pi)) ** (1 / 3)
        sd = min(JITTER_SD_MM, 0.35 * radius)
        pad = [int(np.ceil(3 * sd / s)) + 1 for s in spacing_mm]
        box = tuple(
            slice(max(0, s.start - p), min(n, s.stop + p))
            for s, p, n in zip(where, pad, mask.shape, strict=True)
        )
        inside = mask[box]
        if inside.all():
            distance = np.full(inside.shape, np.float32(-1))
        else:
            outer = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
            inner = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
            # The border runs half a voxel from the first voxel on either side.
            half = 0.5 * float(min(spacing_mm))
            distance = np.where(inside, half - inner, outer - half).astype(np.float32)
        return cls(box, distance, count, sd)  # type: ignore[arg-type]

    def redrawn(self, spacing_mm: Sequence[float], rng: np.random.Generator) -> NDArray[np.bool_]:
        """The region with a jittered border, boolean in its box, of exactly its own volume.

        The border moves by a random field; the field's mean along the border is taken out by keeping the
        number of voxels, since a coherent shift of the radius by one voxel would double small lesions.
        """
        field = smooth_field(rng, self.distance.shape, spacing_mm, JITTER_CORRELATION_MM)
        score = self.distance + np.float32(self.sd_mm) * np.clip(field, -2.5, 2.5)
        order = np.argsort(score, axis=None, kind="stable")
        redrawn = np.zeros(self.distance.size, dtype=bool)
        redrawn[order[: self.count]] = True
        return redrawn.reshape(self.distance.shape)


class ReaderModel:
    """The complete law of readings of one case."""

    def __init__(self, truth: CaseTruth) -> None:
        self.truth = truth
        self._whole: dict[int, Region] = {}
        self._core: dict[int, Region] = {}
        self._mimic: dict[int, Region] = {}
        if not truth.ambiguity:
            return
        boxes = ndimage.find_objects(truth.lesion_label)
        for lesion in truth.lesions:
            where = boxes[lesion.number - 1] if lesion.number <= len(boxes) else None
            if where is None:
                continue
            mask = truth.lesion_label == lesion.number
            for regions, part in ((self._whole, mask), (self._core, mask & truth.core)):
                region = Region.of(part, truth.spacing_mm, where)
                if region is not None:
                    regions[lesion.number] = region
        boxes = ndimage.find_objects(truth.mimic_label)
        for mimic in truth.mimics:
            where = boxes[mimic.number - 1] if mimic.number <= len(boxes) else None
            region = Region.of(truth.mimic_label == mimic.number, truth.spacing_mm, where) if where else None
            if region is not None:
                self._mimic[mimic.number] = region

    def reach(self) -> NDArray[np.bool_]:
        """(I, J, K) voxels that some reading may hold."""
        if not self.truth.ambiguity:
            return self.truth.lesion_label > 0
        reach = np.zeros(self.truth.lesion_label.shape, dtype=bool)
        for regions in (self._whole, self._mimic):
            for region in regions.values():
                reach[region.box] = True
        return reach

    def kept(self, rng: np.random.Generator) -> dict[int, str]:
        """Which lesions a reader keeps: ``whole`` or ``core`` by number."""
        coins = {lesion.number: (float(rng.random()), float(rng.random())) for lesion in self.truth.lesions}
        keep = {
            lesion.number: coins[lesion.number][0] < lesion.keep_probability for lesion in self.truth.lesions
        }
        for pair in self.truth.pairs:
            if rng.random() < pair.correlation:  # one coin for both
                coin = coins[pair.first][0]
                keep[pair.second] = coin < next(
                    lesion.keep_probability for lesion in self.truth.lesions if lesion.number == pair.second
                )
        return {
            lesion.number: "whole" if coins[lesion.number][1] < lesion.whole_probability else "core"
            for lesion in self.truth.lesions
            if keep[lesion.number]
        }

    def read(
        self, adc: NDArray[np.floating], valid: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """One reading: lesion numbers 1, 2, … on the grid, 0 elsewhere.

        Args:
            adc: (I, J, K), 1e-3 mm²/s.
            valid: (I, J, K) where a tumor map may have a value.
            rng: Generator of this reading.
        """
        truth = self.truth
        if not truth.ambiguity:
            return _renumbered(np.where(valid, truth.lesion_label, 0))
        labels = np.zeros(truth.lesion_label.shape, dtype=np.uint8)
        ceiling = rng.uniform(*CEILING)
        for number, extent in self.kept(rng).items():
            regions = self._whole if extent == "whole" else self._core
            self._draw(labels, regions.get(number), number, rng)
        if rng.random() < MIMIC_PROBABILITY and truth.mimics:
            u = float(rng.random())
            edges = np.cumsum([mimic.weight for mimic in truth.mimics])
            chosen = truth.mimics[min(int(np.searchsorted(edges, u * edges[-1])), len(truth.mimics) - 1)]
            number = 1 + max((lesion.number for lesion in truth.lesions), default=0)
            self._draw(labels, self._mimic.get(chosen.number), number, rng)
        labels[~valid | (adc > ceiling)] = 0
        return _renumbered(labels)

    def _draw(
        self, labels: NDArray[np.uint8], region: Region | None, number: int, rng: np.random.Generator
    ) -> None:
        if region is None:
            return
        redrawn = region.redrawn(self.truth.spacing_mm, rng)
        part = labels[region.box]
        part[redrawn & (part == 0)] = number


def _renumbered(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Numbers 1, 2, … without gaps, in the same order."""
    present = np.unique(labels)
    table = np.zeros(256, dtype=np.uint8)
    table[present[present > 0]] = np.arange(1, np.count_nonzero(present) + 1)
    return table[labels]


def draw_reading(
    truth: CaseTruth, adc: NDArray[np.floating], valid: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One reader's lesion labels of a case (see `ReaderModel.read`)."""
    return ReaderModel(truth).read(adc, valid, rng)


def oracle_draws(truth: CaseTruth, n: int, seed: int) -> list[NDArray[np.bool_]]:
    """Presence drawn from the complete reader model: the best that anyone can do.

    Draw i depends on (seed, case, i) only.

    Args:
        truth: A case's truth.
        n: Number of draws.
        seed: Of the draws; independent of the stored readings.

    Returns:
        `n` boolean (I, J, K) volumes.
    """
    model = ReaderModel(truth)
    case = zlib.crc32(truth.case_id.encode())
    valid = truth.reading_adc > 0
    return [model.read(truth.reading_adc, valid, generator(seed, 71, case, i)) > 0 for i in range(n)]
