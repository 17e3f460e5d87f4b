"""What a case is scored against: readers' maps, the lesions that count for detection, and the truth where known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.evaluation import agreement
from diffusion_adc.evaluation.lesions import bounding_box, components
from diffusion_adc.inference.lesions import REACH_MM
from diffusion_adc.phantom.truth import CaseTruth, LesionTruth

WHOLE: Final = "whole"
PART: Final = "part"
NEAR_PAIR: Final = "pair_near"
FAR_PAIR: Final = "pair_far"
ARMS: Final = (WHOLE, PART, NEAR_PAIR, FAR_PAIR)
"""Kinds of planted ambiguity; pairs apart by whether both lesions fit in one training patch."""


@dataclass(frozen=True)
class KnownLesions:
    """Every true lesion of a simulated case, those that readers disagree about included.

    Attributes:
        labels: uint8 (I, J, K), lesion numbers.
        lesions: The lesions with a valid ADC, each with its law.
        arm: Kind of ambiguity of each of them, one of `ARMS`; empty where readers agree.
    """

    labels: NDArray[np.uint8]
    lesions: tuple[LesionTruth, ...]
    arm: tuple[str, ...]

    @classmethod
    def of(cls, truth: CaseTruth) -> KnownLesions:
        """Of a case's sealed truth. Where readers were told to agree, no lesion has an arm."""
        lesions = tuple(lesion for lesion in truth.lesions if lesion.mappable)
        near = {number: pair.near for pair in truth.pairs for number in (pair.first, pair.second)}

        def arm(lesion: LesionTruth) -> str:
            if not truth.ambiguity:
                return ""
            if lesion.number in near:
                return NEAR_PAIR if near[lesion.number] else FAR_PAIR
            # A lesion that every reader keeps may still be kept in part.
            if lesion.arm == PART and 0.0 < lesion.whole_probability < 1.0:
                return PART
            return WHOLE if lesion.ambiguous else ""

        return cls(truth.lesion_label, lesions, tuple(arm(lesion) for lesion in lesions))


@dataclass(frozen=True)
class Reference:
    """What a case is scored against; arrays (I, J, K) on the case's grid.

    Attributes:
        case_id: The case.
        research_id: The person, the unit of the bootstrap.
        adc: float32, the scanner's ADC map, 1e-3 mm²/s.
        valid: bool, where that map can be trusted.
        readers: bool, presence in each reader's map, at least one.
        lesions: bool, lesions for detection; the first reader's map if left out.
        ignored: bool, ambiguous lesions that count neither way; None if there are none.
        voxel_ml: Volume of a voxel, mL.
        structures: uint8, number of the normal structure of each voxel, where it is known.
        structure_names: Name by number.
        spacing_mm: Of the voxels.
        known: The true lesions of a simulated case; None for a real one.
    """

    case_id: str
    research_id: str
    adc: NDArray[np.float32]
    valid: NDArray[np.bool_]
    readers: Sequence[NDArray[np.bool_]]
    voxel_ml: float
    lesions: NDArray[np.bool_] | None = None
    ignored: NDArray[np.bool_] | None = None
    structures: NDArray[np.uint8] | None = None
    structure_names: Mapping[int, str] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    known: KnownLesions | None = None

    def __post_init__(self) -> None:
        if not self.readers:
            raise ValueError(f"{self.case_id} has no reader's map to be scored against")

    @cached_property
    def readings(self) -> list[NDArray[np.bool_]]:
        """Each reader's presence within the valid voxels."""
        return [reading & self.valid for reading in self.readers]

    @cached_property
    def lesion_mask(self) -> NDArray[np.bool_]:
        """Lesions for detection within the valid voxels."""
        return self.readings[0] if self.lesions is None else self.lesions & self.valid

    @cached_property
    def ignored_mask(self) -> NDArray[np.bool_] | None:
        """Ignored lesions within the valid voxels, without any voxel of a counted lesion."""
        return None if self.ignored is None else self.ignored & self.valid & ~self.lesion_mask

    @cached_property
    def lesion_labels(self) -> NDArray[np.int32]:
        """Lesions numbered as 26-connected components: lesions that touch are one, as in a map."""
        return components(self.lesion_mask)[0]

    @cached_property
    def objects(self) -> tuple[NDArray[np.int32], int]:
        """What readers decide about, numbered from 1, within the valid voxels, and how many there are.

        The true lesions in the order of `known`; for a real case the components of the readers' maps together.
        """
        if self.known is None:
            union = np.logical_or.reduce(self.readings)
            return components(union)
        table = np.zeros(256, dtype=np.int32)
        for place, lesion in enumerate(self.known.lesions, start=1):
            table[lesion.number] = place
        return np.where(self.valid, table[self.known.labels], 0).astype(np.int32), len(self.known.lesions)

    @cached_property
    def arm_zones(self) -> NDArray[np.int8]:
        """Number of the arm (`ARMS`, from 1) of the nearest lesion within 10 mm, 0 elsewhere; valid voxels only."""
        zones = np.zeros(self.adc.shape, dtype=np.int8)
        if self.known is None or not any(self.known.arm):
            return zones
        labels, _ = self.objects
        reach = [int(np.ceil(REACH_MM / s)) for s in self.spacing_mm]
        found = bounding_box(labels > 0)
        if found is None:
            return zones
        box = tuple(slice(max(0, cut.start - r), cut.stop + r) for cut, r in zip(found, reach, strict=True))
        distance, nearest = ndimage.distance_transform_edt(
            labels[box] == 0, sampling=self.spacing_mm, return_indices=True
        )
        arm = np.array([0, *(ARMS.index(a) + 1 if a else 0 for a in self.known.arm)], dtype=np.int8)
        near = (distance <= REACH_MM) & self.valid[box]
        zones[box] = np.where(near, arm[labels[box][tuple(nearest)]], 0)
        return zones

    @cached_property
    def tdv_ml(self) -> list[float]:
        """TDV of each reader's map, mL."""
        return [agreement.total_diffusion_volume(r, self.valid, self.voxel_ml) for r in self.readings]

    @cached_property
    def gadc(self) -> list[float]:
        """Global ADC of each reader's map, 1e-3 mm²/s; NaN for an empty one."""
        return [agreement.global_adc(self.adc, r, self.valid) for r in self.readings]

    @cached_property
    def tumor_free(self) -> bool:
        """Neither a lesion nor an ignored one nor any reader's tumor."""
        ignored = self.ignored_mask is not None and bool(self.ignored_mask.any())
        return not (ignored or self.lesion_mask.any() or any(r.any() for r in self.readings))

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """Voxels of any reference."""
        union = self.lesion_mask.copy()
        for more in (*self.readings, self.ignored_mask):
            if more is not None:
                union |= more
        return union
