"""One method's map of one case against the case's references: everything the scores need from it.

Two references, never mixed. Detection, false positives and volume sensitivity are judged on the *lesions*:
for digital patients the latent truth, whose ambiguous lesions are ignored; otherwise the first reader's map.
Overlap, volumes, ADC and calibration are judged on the *readers'* maps, each a draw of the truth, and
averaged over them. Voxels without a valid ADC take part in neither: no map can hold a value there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import agreement, calibration
from diffusion_adc.evaluation.baselines import Prediction
from diffusion_adc.evaluation.calibration import Reliability
from diffusion_adc.evaluation.lesions import (
    LOWEST_LEVEL,
    Matching,
    bounding_box,
    components,
    lesion_candidates,
    match_lesions,
)
from diffusion_adc.inference.intervals import order_statistic_interval


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
    def tdv_ml(self) -> list[float]:
        """TDV of each reader's map, mL."""
        return [agreement.total_diffusion_volume(r, self.valid, self.voxel_ml) for r in self.readings]

    @cached_property
    def gadc(self) -> list[float]:
        """Global ADC of each reader's map, 1e-3 mm²/s; NaN for an empty one."""
        return [agreement.global_adc(self.adc, r, self.valid) for r in self.readings]

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """Voxels of any reference."""
        union = self.lesion_mask.copy()
        for more in (*self.readings, self.ignored_mask):
            if more is not None:
                union |= more
        return union


@dataclass(frozen=True)
class DrawScores:
    """Scores of the draws' TDV (mL) against every reader.

    Attributes:
        median, low, high: Median and order-statistic interval of the draws, mL.
        crps: Fair CRPS, mean over readers, mL.
        covered: Share of the readers inside the interval.
        informative: Share of the readers for whom interval or reading is not simply zero.
        informative_covered: Share of the readers that are both informative and covered.
        half_variation: Squared coefficient of variation between halves of the draws.
        pit: Randomized PIT of each reader.
    """

    median: float
    low: float
    high: float
    crps: float
    covered: float
    informative: float
    informative_covered: float
    half_variation: float
    pit: tuple[float, ...]


@dataclass(frozen=True)
class Places:
    """Size and position of numbered components; index n - 1 belongs to number n.

    Attributes:
        voxels: int64 (N,).
        center: float64 (N, 3), mean voxel index on the case's grid.
        structure: Name of the normal structure that holds most of its voxels; empty where unknown.
    """

    voxels: NDArray[np.int64]
    center: NDArray[np.float64]
    structure: tuple[str, ...]


@dataclass(frozen=True)
class CaseResult:
    """One row of the results; volumes in mL, ADC in 1e-3 mm²/s, undefined values NaN."""

    case_id: str
    research_id: str
    matching: Matching
    """At the operating point."""
    candidates: Places
    """Of the candidates at the operating point."""
    lesions: Places
    """Of the reference lesions."""
    found_confidence: NDArray[np.float64]
    """Confidence of every lesion found at or below the operating point."""
    false_confidence: NDArray[np.float64]
    """Confidence of every false positive at or below the operating point."""
    dice: float
    dice_all_cases: float
    fp_volume_ml: float
    covered_ml: float
    reference_ml: float
    tdv_ml: float
    tdv_reference_ml: float
    log_tdv_error: float
    gadc: float
    gadc_reference: float
    gadc_error: float
    bands_ml: dict[str, float]
    value_violations: int
    reliability: Reliability
    draws: DrawScores | None

    @property
    def case_score(self) -> float:
        """Highest candidate confidence, 0 without candidates."""
        return float(max(self.found_confidence.max(initial=0.0), self.false_confidence.max(initial=0.0)))


def score_case(prediction: Prediction, reference: Reference, uniforms: Sequence[float]) -> CaseResult:
    """Score one map of one case.

    Args:
        prediction: The map, on the reference's grid.
        reference: What it is scored against.
        uniforms: One uniform random number per reader, for the randomized PIT.

    Raises:
        ValueError: If shapes differ or a probability lies outside [0, 1].
    """
    shape = reference.adc.shape
    if prediction.tumor_adc.shape != shape or prediction.probability.shape != shape:
        raise ValueError(f"map of shape {prediction.tumor_adc.shape} for a case of shape {shape}")
    violations = agreement.value_violations(prediction.tumor_adc, reference.adc)
    presence = prediction.presence & reference.valid
    cut = min(prediction.threshold, LOWEST_LEVEL)
    support = presence | (prediction.probability >= cut) | reference.support
    box = bounding_box(support, margin=1) or (slice(0, 1), slice(0, 1), slice(0, 1))

    inside, valid, adc = presence[box], reference.valid[box], reference.adc[box]
    probability = np.where(valid, prediction.probability[box], np.float32(0.0))
    lesions = reference.lesion_mask[box]
    labels = reference.lesion_labels[box]
    ignored = None if reference.ignored_mask is None else reference.ignored_mask[box]
    readings = [reading[box] for reading in reference.readings]
    ml = reference.voxel_ml

    every = lesion_candidates(inside, probability, threshold=prediction.threshold)
    count = int(every.operating.sum())
    # Only what reaches the lesion threshold is called a lesion; the curve goes on below it.
    called = np.flatnonzero(every.confidence[:count] >= np.float32(prediction.lesion_threshold))
    renumbered = np.zeros(every.operating.size + 1, dtype=np.int32)
    renumbered[called + 1] = np.arange(1, called.size + 1)
    found, count = renumbered[every.labels], int(called.size)
    matching = match_lesions(found, every.confidence[called], labels, ignored)
    curve = matching
    if count < every.operating.size:
        curve = match_lesions(every.labels, every.confidence, labels, ignored)
    tdv = agreement.total_diffusion_volume(inside, valid, ml)
    gadc = agreement.global_adc(adc, inside, valid)
    covered, whole = agreement.covered_volume(inside, lesions, ml)
    sums = [
        calibration.reliability(probability, r, calibration.scored_region(r, inside, valid)) for r in readings
    ]
    return CaseResult(
        case_id=reference.case_id,
        research_id=reference.research_id,
        matching=matching,
        candidates=_places(found, count, box, reference),
        lesions=_places(labels, matching.found.size, box, reference),
        found_confidence=curve.found_confidence[curve.found],
        false_confidence=curve.false_confidence,
        dice=_mean([agreement.dice(r, inside) for r in readings]),
        dice_all_cases=_mean([agreement.dice(r, inside, empties="all_cases") for r in readings]),
        fp_volume_ml=agreement.false_positive_volume(inside, lesions, ignored, ml),
        covered_ml=covered,
        reference_ml=whole,
        tdv_ml=tdv,
        tdv_reference_ml=_mean(reference.tdv_ml),
        log_tdv_error=_mean([agreement.log_tdv_error(tdv, r) for r in reference.tdv_ml]),
        gadc=gadc,
        gadc_reference=_mean(reference.gadc),
        gadc_error=_mean([agreement.gadc_error(gadc, r) for r in reference.gadc]),
        bands_ml=agreement.band_volumes(adc, inside, valid, ml),
        value_violations=violations,
        reliability=_mean_reliability(sums),
        draws=None if prediction.draws is None else _score_draws(prediction.draws, reference, uniforms),
    )


def _places(
    labels: NDArray[np.int32], count: int, box: tuple[slice, slice, slice], reference: Reference
) -> Places:
    index = np.nonzero(labels)
    number = labels[index] - 1
    voxels = np.bincount(number, minlength=count).astype(np.int64)
    sums = [
        np.bincount(number, weights=axis + cut.start, minlength=count)
        for axis, cut in zip(index, box, strict=True)
    ]
    center = np.stack(sums, axis=-1) / np.maximum(voxels, 1)[:, None]
    if reference.structures is None:
        return Places(voxels, center, ("",) * count)
    pairs, shares = np.unique(
        number.astype(np.int64) * 256 + reference.structures[box][index], return_counts=True
    )
    ascending = pairs[np.argsort(shares, kind="stable")]
    largest = dict(zip((ascending // 256).tolist(), (ascending % 256).tolist(), strict=True))
    names = reference.structure_names
    return Places(voxels, center, tuple(names.get(largest.get(n, 0), "") for n in range(count)))


def draw_volumes(
    draws: NDArray[np.generic], valid: NDArray[np.bool_], voxel_ml: float
) -> NDArray[np.float64]:
    """TDV in mL of each draw, (I, J, K, D) → (D,), over the valid voxels."""
    return np.count_nonzero(draws[valid], axis=0) * voxel_ml


def _score_draws(
    draws: NDArray[np.generic], reference: Reference, uniforms: Sequence[float]
) -> DrawScores | None:
    if draws.shape[-1] < 2:
        return None
    tdv = draw_volumes(draws, reference.valid, reference.voxel_ml)
    low, high, _ = order_statistic_interval(tdv)
    readers = reference.tdv_ml
    covered = [low <= r <= high for r in readers]
    informative = [high > 0 or r > 0 for r in readers]
    return DrawScores(
        median=float(np.median(tdv)),
        low=low,
        high=high,
        crps=_mean([calibration.fair_crps(tdv, r) for r in readers]),
        covered=_mean(covered),
        informative=_mean(informative),
        informative_covered=_mean([c and i for c, i in zip(covered, informative, strict=True)]),
        half_variation=calibration.split_half_variation(tdv),
        pit=tuple(calibration.randomized_pit(tdv, r, u) for r, u in zip(readers, uniforms, strict=True)),
    )


def _mean(values: Sequence[float]) -> float:
    """Mean over the readers for whom the value is defined; NaN if there are none."""
    known = [float(v) for v in values if np.isfinite(v)]
    return sum(known) / len(known) if known else float("nan")


def _mean_reliability(sums: Sequence[Reliability]) -> Reliability:
    # Mean over readers, so that a case with more readers weighs no more than others.
    n = len(sums)
    return Reliability(
        voxels=np.sum([s.voxels for s in sums], axis=0) / n,
        probability=np.sum([s.probability for s in sums], axis=0) / n,
        present=np.sum([s.present for s in sums], axis=0) / n,
        squared_error=sum(s.squared_error for s in sums) / n,
    )
