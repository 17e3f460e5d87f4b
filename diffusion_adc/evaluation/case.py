"""One method's map of one case against the case's references: everything the scores need from it.

Two references, never mixed. Detection, false positives and volume sensitivity are judged on the *lesions*:
for digital patients the latent truth, whose ambiguous lesions are ignored; otherwise the first reader's map.
Overlap, volumes, ADC and calibration are judged on the *readers'* maps, each a draw of the truth, and
averaged over them. Voxels without a valid ADC take part in neither: no map can hold a value there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import agreement, calibration, values
from diffusion_adc.evaluation.baselines import Prediction
from diffusion_adc.evaluation.calibration import Reliability
from diffusion_adc.evaluation.drawn import (
    DrawScores,
    Recalibrated,
    arm_crps,
    draw_gadc,
    draw_volumes,
    mean_known,
    recalibrated,
    score_draws,
)
from diffusion_adc.evaluation.lesions import (
    LOWEST_LEVEL,
    Matching,
    bounding_box,
    components,
    lesion_candidates,
    match_lesions,
)
from diffusion_adc.evaluation.presence import LesionPresence, lesion_presence
from diffusion_adc.evaluation.reference import Reference
from diffusion_adc.evaluation.surface import one_voxel_mm, surface_distances
from diffusion_adc.inference.lesion_probability import RegionOutcomes, region_outcomes
from diffusion_adc.inference.recalibration import Recalibration

Box = tuple[slice, slice, slice]


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
class SurfaceScores:
    """Surfaces against the readers', mean over them: NSD at one voxel, HD95 and ASSD in mm.

    ``hd95_worst`` counts a missed tumor, or tumor where there is none, as the volume's diagonal, mm.
    """

    nsd: float
    hd95: float
    hd95_worst: float
    assd: float


@dataclass(frozen=True)
class CaseResult:
    """One row of the results; volumes in mL, ADC in 1e-3 mm²/s, undefined values NaN."""

    case_id: str
    research_id: str
    tumor_free: bool
    """Neither truth nor any reader holds tumor."""
    matching: Matching
    """At the operating point."""
    candidates: Places
    """Of the candidates at the operating point."""
    lesions: Places
    """Of the reference lesions."""
    lesion_ml: NDArray[np.float64]
    """Volume of each reference lesion."""
    curve_found: NDArray[np.float64]
    """Confidence credited to each reference lesion at or below the operating point, NaN where it is not found."""
    false_confidence: NDArray[np.float64]
    """Confidence of every false positive at or below the operating point."""
    dice: float
    dice_all_cases: float
    surface: SurfaceScores
    fp_volume_ml: float
    fp_by_structure_ml: Mapping[str, float]
    """False-positive volume by normal structure, where the truth is known."""
    covered_ml: float
    reference_ml: float
    tdv_ml: float
    tdv_readers_ml: tuple[float, ...]
    log_tdv_error: float
    tdv_error_ml: float
    """Mean absolute error over the readers: the CRPS of the map taken as a point forecast."""
    gadc: float
    gadc_readers: tuple[float, ...]
    gadc_error: float
    gadc_selection_error: float
    gadc_value_error: float
    value_error: float
    bands_ml: dict[str, float]
    bands_error_ml: dict[str, float]
    histogram: dict[str, float]
    histogram_reference: dict[str, float]
    """Mean over the readers whose map holds tumor."""
    value_violations: int
    reliability: Reliability
    presence: LesionPresence
    regions: RegionOutcomes
    """The map's regions at its threshold."""
    draws: DrawScores | None
    recalibrated: Recalibrated
    arm_crps: NDArray[np.float64]
    """Near the lesions of each kind of planted ambiguity, mL."""
    recall_missed: float
    """Share of the readers' lesions missed at the threshold with a controlled miss rate."""
    recall_false: float
    """Regions at that threshold that meet no reader's lesion."""

    @property
    def found_confidence(self) -> NDArray[np.float64]:
        """Confidence of every lesion found at or below the operating point."""
        return self.curve_found[np.isfinite(self.curve_found)]

    @property
    def case_score(self) -> float:
        """Highest candidate confidence, 0 without candidates."""
        return float(max(self.found_confidence.max(initial=0.0), self.false_confidence.max(initial=0.0)))

    @property
    def tdv_reference_ml(self) -> float:
        """Mean TDV of the readers: their consensus."""
        return mean_known(self.tdv_readers_ml)

    @property
    def gadc_reference(self) -> float:
        """Mean global ADC of the readers whose map holds tumor."""
        return mean_known(self.gadc_readers)

    @property
    def point_crps(self) -> float:
        """CRPS of TDV: of the draws, or of the map as a point forecast where there are none, mL."""
        return self.tdv_error_ml if self.draws is None else self.draws.crps


def score_case(
    prediction: Prediction,
    reference: Reference,
    uniforms: Sequence[float],
    corrections: Recalibration | None = None,
) -> CaseResult:
    """Score one map of one case.

    Args:
        prediction: The map, on the reference's grid.
        reference: What it is scored against.
        uniforms: One uniform random number per reader, for the randomized PIT.
        corrections: What validation cases recalibrate for this method.

    Raises:
        ValueError: If shapes differ or a probability lies outside [0, 1].
    """
    corrections = corrections or Recalibration()
    shape = reference.adc.shape
    if prediction.tumor_adc.shape != shape or prediction.probability.shape != shape:
        raise ValueError(f"map of shape {prediction.tumor_adc.shape} for a case of shape {shape}")
    violations = agreement.value_violations(prediction.tumor_adc, reference.adc)
    presence = prediction.presence & reference.valid
    recall = corrections.recall_threshold
    cut = min(prediction.threshold, LOWEST_LEVEL, 1.0 if recall is None else recall)
    draws = prediction.draws
    support = presence | (prediction.probability >= cut) | reference.support | (reference.objects[0] > 0)
    box = bounding_box(support, margin=1) or (slice(0, 1), slice(0, 1), slice(0, 1))

    inside, valid, adc = presence[box], reference.valid[box], reference.adc[box]
    own_adc = np.where(inside, prediction.tumor_adc[box], np.float32(0.0))
    probability = np.where(valid, prediction.probability[box], np.float32(0.0))
    lesions = reference.lesion_mask[box]
    labels = reference.lesion_labels[box]
    ignored = None if reference.ignored_mask is None else reference.ignored_mask[box]
    readings = [reading[box] for reading in reference.readings]
    drawn = None if draws is None else (draws[box] != 0) & valid[..., None]
    ml = reference.voxel_ml

    every = lesion_candidates(inside, probability, threshold=prediction.threshold)
    count = int(every.operating.sum())
    # Only what reaches the lesion threshold is called a lesion; the curve goes on below it.
    called = np.flatnonzero(every.confidence[:count] >= np.float32(prediction.lesion_threshold))
    renumbered = np.zeros(every.operating.size + 1, dtype=np.int32)
    renumbered[called + 1] = np.arange(1, called.size + 1)
    found = renumbered[every.labels]
    matching = match_lesions(found, every.confidence[called], labels, ignored)
    curve = matching
    if called.size < every.operating.size:
        curve = match_lesions(every.labels, every.confidence, labels, ignored)
    regions = np.where(every.labels <= count, every.labels, 0)
    tdv = agreement.total_diffusion_volume(inside, valid, ml)
    gadc = agreement.global_adc(own_adc, inside, valid)
    covered, whole = agreement.covered_volume(inside, lesions, ml)
    sums = [
        calibration.reliability(probability, r, calibration.scored_region(r, inside, valid)) for r in readings
    ]
    parts = [values.gadc_error_parts(own_adc, adc, inside, r) for r in reference.gadc]
    bands = agreement.band_volumes(own_adc, inside, valid, ml)
    reader_bands = [agreement.band_volumes(adc, r, valid, ml) for r in readings]
    reader_histograms = [values.histogram_statistics(adc[r]) for r in readings]
    tdv_draws, gadc_draws = np.array([tdv]), np.array([gadc])
    if draws is not None:
        tdv_draws = draw_volumes(draws, reference.valid, ml)
        near = reference.valid & (draws != 0).any(axis=-1)
        gadc_draws = draw_gadc(draws[near], reference.adc[near])
    missed, false = _at_recall(probability, readings, recall)
    return CaseResult(
        case_id=reference.case_id,
        research_id=reference.research_id,
        tumor_free=reference.tumor_free,
        matching=matching,
        candidates=_places(found, int(called.size), box, reference),
        lesions=(where := _places(labels, matching.found.size, box, reference)),
        lesion_ml=where.voxels.astype(np.float64) * ml,
        curve_found=np.where(curve.found, curve.found_confidence, np.nan),
        false_confidence=curve.false_confidence,
        dice=mean_known([agreement.dice(r, inside) for r in readings]),
        dice_all_cases=mean_known([agreement.dice(r, inside, empties="all_cases") for r in readings]),
        surface=_surfaces(readings, inside, reference),
        fp_volume_ml=agreement.false_positive_volume(inside, lesions, ignored, ml),
        fp_by_structure_ml=_by_structure(inside, lesions, ignored, box, reference),
        covered_ml=covered,
        reference_ml=whole,
        tdv_ml=tdv,
        tdv_readers_ml=tuple(reference.tdv_ml),
        log_tdv_error=mean_known([agreement.log_tdv_error(tdv, r) for r in reference.tdv_ml]),
        tdv_error_ml=mean_known([abs(tdv - r) for r in reference.tdv_ml]),
        gadc=gadc,
        gadc_readers=tuple(reference.gadc),
        gadc_error=mean_known([agreement.gadc_error(gadc, r) for r in reference.gadc]),
        gadc_selection_error=mean_known([part[0] for part in parts]),
        gadc_value_error=mean_known([part[1] for part in parts]),
        value_error=mean_known([values.value_error(own_adc, adc, inside & r) for r in readings]),
        bands_ml=bands,
        bands_error_ml={
            band: mean_known([abs(volume - r[band]) for r in reader_bands]) for band, volume in bands.items()
        },
        histogram=values.histogram_statistics(own_adc[inside]),
        histogram_reference={
            name: mean_known([r[name] for r in reader_histograms]) for name in values.STATISTICS
        },
        value_violations=violations,
        reliability=_mean_reliability(sums),
        presence=lesion_presence(reference, box, own_adc, probability, drawn),
        regions=region_outcomes(regions, count, readings, drawn, probability),
        draws=None if draws is None else score_draws(draws, reference, uniforms),
        recalibrated=recalibrated(tdv_draws, gadc_draws, reference, corrections.tdv, corrections.gadc),
        arm_crps=arm_crps(reference, presence, draws if draws is None or draws.shape[-1] > 1 else None),
        recall_missed=missed,
        recall_false=false,
    )


def _surfaces(
    readings: Sequence[NDArray[np.bool_]], presence: NDArray[np.bool_], reference: Reference
) -> SurfaceScores:
    spacing = reference.spacing_mm
    found = [surface_distances(reading, presence, spacing) for reading in readings]
    tolerance = one_voxel_mm(spacing)
    diagonal = float(np.linalg.norm(np.multiply(reference.adc.shape, spacing)))
    hd95 = [f.hausdorff() for f in found]
    one_empty = [(f.n_presence == 0) != (f.n_reference == 0) for f in found]
    return SurfaceScores(
        nsd=mean_known([f.surface_dice(tolerance) for f in found]),
        hd95=mean_known(hd95),
        hd95_worst=mean_known([diagonal if e else h for e, h in zip(one_empty, hd95, strict=True)]),
        assd=mean_known([f.mean_distance() for f in found]),
    )


def _by_structure(
    presence: NDArray[np.bool_],
    lesions: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None,
    box: Box,
    reference: Reference,
) -> dict[str, float]:
    if reference.structures is None:
        return {}
    wrong = presence & ~lesions if ignored is None else presence & ~lesions & ~ignored
    counts = np.bincount(reference.structures[box][wrong].ravel(), minlength=256)
    return {
        reference.structure_names.get(int(number), str(number)): float(counts[number]) * reference.voxel_ml
        for number in np.flatnonzero(counts)
    }


def _at_recall(
    probability: NDArray[np.floating], readings: Sequence[NDArray[np.bool_]], threshold: float | None
) -> tuple[float, float]:
    """Share of the readers' lesions whose peak lies below a threshold, and regions there that meet none."""
    if threshold is None:
        return float("nan"), float("nan")
    kept, count = components(probability >= np.float32(threshold))
    shares, false = [], []
    for reading in readings:
        labels, number = components(reading)
        met = np.unique(labels[(kept > 0) & (labels > 0)])
        shares.append((number - met.size) / number if number else float("nan"))
        false.append(float(count - np.unique(kept[(kept > 0) & reading]).size))
    return mean_known(shares), mean_known(false)


def _places(labels: NDArray[np.int32], count: int, box: Box, reference: Reference) -> Places:
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


def _mean_reliability(sums: Sequence[Reliability]) -> Reliability:
    # Mean over readers, so that a case with more readers weighs no more than others.
    n = len(sums)
    return Reliability(
        voxels=np.sum([s.voxels for s in sums], axis=0) / n,
        probability=np.sum([s.probability for s in sums], axis=0) / n,
        present=np.sum([s.present for s in sums], axis=0) / n,
        squared_error=sum(s.squared_error for s in sums) / n,
    )
