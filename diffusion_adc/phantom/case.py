"""One simulated case from beginning to end: person → anatomy → tumors → scan → truth → readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.rule import muscle_reference
from diffusion_adc.phantom import lesions as tumors
from diffusion_adc.phantom import readers as reading
from diffusion_adc.phantom.anatomy import FACTOR, draw_body
from diffusion_adc.phantom.artifacts import draw_artifacts, draw_whole_body_artifacts, paint_implant
from diffusion_adc.phantom.canvas import rotation
from diffusion_adc.phantom.covariates import draw_covariates, draw_history
from diffusion_adc.phantom.fields import count_blocks, generator
from diffusion_adc.phantom.mimics import MIMICS, paint_mimics, paint_upper_mimics
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.person import draw_build
from diffusion_adc.phantom.plan import Slot, slot
from diffusion_adc.phantom.scanner import Scan, scan
from diffusion_adc.phantom.sites import SITES
from diffusion_adc.phantom.stations import draw_stations
from diffusion_adc.phantom.structures import ORGAN_NAMES, Structure
from diffusion_adc.phantom.tissues import load_tissues, person_tissues
from diffusion_adc.phantom.truth import CaseTruth, LesionTruth, MimicTruth, PairTruth, StationTruth

_MAX_MIMICS: Final = 40
_OBLIQUE_SHARE: Final = 0.2


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """A digital patient's examination.

    Attributes:
        case: Its row of the cohort, without file hashes.
        volumes: Every volume of `sequences.VOLUMES`, (I, J, K); the tumor map is the first reader's.
        readers: Each reader's ``tumor_adc`` and ``tumor_label``.
        affine: (4, 4) voxel index → RAS+ mm.
        truth: Sealed truth.
        covariates: The person's clinical row.
    """

    case: Case
    volumes: Mapping[str, NDArray[np.generic]]
    readers: Mapping[str, Mapping[str, NDArray[np.generic]]]
    affine: NDArray[np.float64]
    truth: CaseTruth
    covariates: Covariates


def simulate_case(options: PhantomOptions, index: int) -> SimulatedCase:
    """Simulate one examination: a pure function of the options and its index in the cohort.

    Raises:
        IndexError: The index is not within the cohort.
    """
    place = slot(options, index)
    visit = (place.person, place.exam_order)

    def person(purpose: int, *more: int) -> np.random.Generator:
        return generator(options.seed, purpose, place.person, *more)

    def exam(purpose: int, *more: int) -> np.random.Generator:
        return generator(options.seed, purpose, *visit, *more)

    whole = options.anatomy == "whole_body"
    sites = SITES[options.anatomy]
    history = draw_history(person(1), options.anatomy)
    build = draw_build(person(2), history.sex, history.age_years, history.hemoglobin_g_dl)
    mean = load_tissues(options.field_t, options.b_low, options.b_high)
    tissues = person_tissues(mean, person(3), options.b_low, options.b_high)
    first_plans: list[tumors.LesionPlan] = []
    plans = first_plans
    if not place.tumor_free:
        known = (history.primary, history.treatment, history.sex, mean, options.grade_signal, sites)
        first_plans = tumors.plan_lesions(person(4), None, *known)
        later = exam(5) if place.exam_order > 1 else None
        plans = tumors.plan_lesions(person(4), later, *known) if later is not None else first_plans

    anatomy = draw_body(options.anatomy, build, options.size, options.spacing_mm, person(6), exam(7))
    canvas = anatomy.canvas
    artifacts = (draw_whole_body_artifacts if whole else draw_artifacts)(
        exam(10), options.field_t, options.artifacts
    )
    stations: tuple[StationTruth, ...] = ()
    if whole:
        stations = draw_stations(exam(15), options.size[2], options.spacing_mm[2], options.artifacts)
    paint_implant(
        canvas, artifacts.implant_side, np.array([build.scale * build.hip_scale, *[build.scale] * 2])
    )
    findings = person(8)
    paint_mimics(canvas, build, findings)
    if whole:
        paint_upper_mimics(canvas, build, findings)
    organs = canvas.labels.copy()
    grown = tumors.grow_lesions(canvas, plans, [person(9, n) for n in range(len(plans))], sites)
    canvas.finish()
    lesion_tissues = tumors.lesion_rows(grown, tissues)
    scanned = scan(anatomy, organs, tissues, lesion_tissues, artifacts, options, exam(11), stations)

    affine = grid_affine(options, exam(12))
    truth = replace(_truth(place, options, scanned, grown, lesion_tissues, affine), stations=stations)
    adc = np.asarray(scanned.volumes[seq.ADC])
    valid = np.asarray(scanned.volumes[seq.VALID], dtype=bool)
    model = reading.ReaderModel(truth)
    maps: dict[str, Mapping[str, NDArray[np.generic]]] = {}
    for number in range(options.readers):
        label = model.read(adc, valid, exam(13, number))
        maps[f"R{number + 1}"] = {
            seq.TUMOR_ADC: np.where(label > 0, adc, np.float32(0)), seq.TUMOR_LABEL: label.astype(np.uint16),
        }  # fmt: skip
    own = maps["R1"]
    case = Case(
        research_id=place.research_id, exam_order=place.exam_order, study_order=index, split=place.split,
        anatomy=options.anatomy, provenance="synthetic", readers=tuple(maps),
        tumor_status="present" if np.any(own[seq.TUMOR_LABEL]) else "absent", b_low=options.b_low,
        b_high=options.b_high, adc_unit_source="stated", scanner=f"phantom-{options.field_t:g}T",
        field_t=options.field_t,
    )  # fmt: skip
    return SimulatedCase(
        case=case, volumes={**scanned.volumes, **own}, readers=maps, affine=affine, truth=truth,
        covariates=draw_covariates(history, first_plans, person(14), options.leaking_covariate),
    )  # fmt: skip


def grid_affine(options: PhantomOptions, rng: np.random.Generator) -> NDArray[np.float64]:
    """Voxel index → RAS+ mm: the field of view's center at the isocenter; one examination in five is oblique."""
    tilt, level = rng.uniform(-9, 9, 2), rng.uniform(-40, 40)
    oblique = rng.random() < _OBLIQUE_SHARE and options.anatomy == "pelvis"  # stations are axial
    turn = rotation(pitch=tilt[0], roll=0.4 * tilt[1]) if oblique else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(options.spacing_mm)
    affine[:3, 3] = [0, 0, level] - affine[:3, :3] @ ((np.array(options.size) - 1) / 2)
    return np.round(affine, 6)


def _truth(
    place: Slot,
    options: PhantomOptions,
    scanned: Scan,
    grown: list[tumors.GrownLesion],
    lesion_tissues: Mapping[int, NDArray[np.float64]],
    affine: NDArray[np.float64],
) -> CaseTruth:
    """Labels on the ADC grid and the readers' law measured in the images."""
    label, core = _native_lesions(scanned, grown, options.size)
    high = np.asarray(scanned.volumes[seq.DWI_HIGH])
    adc = np.asarray(scanned.volumes[seq.ADC])
    valid = np.asarray(scanned.volumes[seq.VALID], dtype=bool)
    muscle = muscle_reference(high, adc, valid)
    contrast = high / np.float32(
        muscle if np.isfinite(muscle) and muscle > 0 else max(float(high.max()), 1.0)
    )
    voxel_ml = float(np.prod(options.spacing_mm)) / 1000
    lesions = []
    for lesion in grown:
        inside = label == lesion.number
        if inside.any():
            adc_true = float(lesion_tissues[lesion.structure][4])
            lesions.append(
                _measured(lesion, inside, inside & core, contrast, adc, valid, voxel_ml, adc_true, affine)
            )
    pairs: list[PairTruth] = []
    if options.ambiguity:
        lesions, pairs = _paired(lesions)
    else:
        lesions = [
            replace(
                row,
                arm="whole",
                keep_probability=1.0,
                whole_probability=1.0,
                partner=0,
                ambiguous=not row.mappable,
            )
            for row in lesions
        ]
    organs = np.zeros(options.size, dtype=np.uint8)
    i, j = scanned.first[0] // FACTOR[0], scanned.first[1] // FACTOR[1]
    sampled = scanned.organs[:: FACTOR[0], :: FACTOR[1], :: FACTOR[2]]
    organs[i : i + sampled.shape[0], j : j + sampled.shape[1]] = sampled
    mimic_label, mimics = _mimics(np.where(label > 0, 0, organs), contrast, voxel_ml)
    truth = CaseTruth(
        case_id=place.case_id, ambiguity=options.ambiguity, spacing_mm=options.spacing_mm, lesions=tuple(lesions),
        pairs=tuple(pairs), mimics=mimics, lesion_label=label, core=core, organ_label=organs,
        mimic_label=mimic_label, reading_adc=np.zeros(options.size, dtype=np.float32),
    )  # fmt: skip
    reach = reading.ReaderModel(truth).reach()
    return replace(truth, reading_adc=np.where(reach & valid, adc, np.float32(0)))


def _native_lesions(
    scanned: Scan, grown: list[tumors.GrownLesion], size: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Lesion numbers on the ADC grid (at least half of a voxel) and the cores of lesions with a halo."""
    label, core = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=bool)
    table = np.zeros(256, dtype=np.uint8)
    for lesion in grown:
        table[lesion.structure : lesion.structure + tumors.TISSUES_PER_LESION] = lesion.number
    boxes = ndimage.find_objects(table[scanned.labels])
    offset = (scanned.first[0], scanned.first[1], 0)
    half = int(np.prod(FACTOR)) // 2
    for lesion in grown:
        found = boxes[lesion.number - 1] if lesion.number <= len(boxes) else None
        if found is None:
            continue
        fine = tuple(slice(s.start // f * f, -(-s.stop // f) * f) for s, f in zip(found, FACTOR, strict=True))
        native = tuple(
            slice((s.start + o) // f, (s.stop + o) // f) for s, o, f in zip(fine, offset, FACTOR, strict=True)
        )
        part = scanned.labels[fine]
        inside = count_blocks(table[part] == lesion.number, FACTOR) >= half
        label[native][inside] = lesion.number
        halo = count_blocks(part == lesion.structure + 1, FACTOR)
        core[native][inside] = (count_blocks(part == lesion.structure, FACTOR) > halo)[inside] | (
            lesion.plan.halo == 0
        )
    return label, core


def _measured(
    lesion: tumors.GrownLesion,
    inside: NDArray[np.bool_],
    core: NDArray[np.bool_],
    contrast: NDArray[np.floating],
    adc: NDArray[np.floating],
    valid: NDArray[np.bool_],
    voxel_ml: float,
    adc_true: float,
    affine: NDArray[np.float64],
) -> LesionTruth:
    """A lesion's row: what the images show of it, and how readers will treat it for that."""
    count = int(inside.sum())
    shown = inside & valid
    bright, median = float(contrast[inside].mean()), float(np.median(adc[shown])) if shown.any() else 0.0
    mappable = int(shown.sum()) * 2 >= count
    keep = reading.keep_probability(count * voxel_ml, bright, median, lesion.plan.group)
    rim = inside & ~core
    part = lesion.plan.halo > 0 and int(rim.sum()) >= 3 and bool(core.any())
    center = affine @ np.append(np.argwhere(inside).mean(axis=0), 1.0)
    return LesionTruth(
        number=lesion.number, site=lesion.plan.site, group=lesion.plan.group, kind=lesion.plan.kind,
        grade=lesion.plan.grade, arm="part" if part else "whole", keep_probability=keep,
        whole_probability=reading.whole_probability(float(contrast[rim].mean())) if part else 1.0,
        partner=lesion.partner, ambiguous=keep < reading.SURE or not mappable, mappable=mappable,
        volume_ml=count * voxel_ml, core_ml=int(core.sum()) * voxel_ml, contrast=bright, adc_median=median,
        adc_true=adc_true, centroid_mm=(float(center[0]), float(center[1]), float(center[2])),
    )  # fmt: skip


def _paired(lesions: list[LesionTruth]) -> tuple[list[LesionTruth], list[PairTruth]]:
    """Lesions whose partner exists form pairs; the others stand alone."""
    by_number = {row.number: row for row in lesions}
    out, pairs = [], []
    for row in lesions:
        partner = by_number.get(row.partner)
        if partner is None:
            out.append(replace(row, partner=0))
            continue
        out.append(replace(row, arm="pair"))
        if row.number < partner.number:
            distance = float(np.linalg.norm(np.subtract(row.centroid_mm, partner.centroid_mm)))
            pairs.append(reading.pair_law(row, partner, distance, distance < tumors.NEAR_MM))
    return out, pairs


def _mimics(
    organs: NDArray[np.uint8], contrast: NDArray[np.floating], voxel_ml: float
) -> tuple[NDArray[np.uint8], tuple[MimicTruth, ...]]:
    """Connected benign structures a reader may take for tumor, the more likely the brighter they are."""
    parts, count = ndimage.label(np.isin(organs, [int(s) for s in MIMICS]), structure=np.ones((3, 3, 3)))
    if count == 0:
        return np.zeros(organs.shape, dtype=np.uint8), ()
    voxels = np.bincount(parts.ravel(), minlength=count + 1)
    bright = np.bincount(parts.ravel(), contrast.ravel(), minlength=count + 1) / np.maximum(voxels, 1)
    weight = np.where(voxels >= 3, 1 / (1 + np.exp(-(bright - 2.5) / 0.7)), 0.0)
    weight[0] = 0
    chosen = np.argsort(-weight, kind="stable")[:_MAX_MIMICS]
    chosen = chosen[weight[chosen] > 0]
    table = np.zeros(count + 1, dtype=np.uint8)
    table[chosen] = np.arange(1, len(chosen) + 1)
    label = table[parts]
    total = float(weight[chosen].sum())
    rows = []
    for number, part in enumerate(chosen, start=1):
        organ = int(np.bincount(organs[parts == part]).argmax())
        rows.append(MimicTruth(
            number=number, organ=ORGAN_NAMES.get(organ, Structure(0).name.lower()), weight=float(weight[part]) / total,
            volume_ml=int(voxels[part]) * voxel_ml,
        ))  # fmt: skip
    return label, tuple(rows)
