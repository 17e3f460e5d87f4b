"""One examination → one case of the cohort, or a refusal with its code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import ID_PATTERN, Case, check_research_id
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.domain.signal import validity_mask
from diffusion_adc.domain.units import resolve_adc_unit
from diffusion_adc.intake import organs, orientation, quality, register
from diffusion_adc.intake.examination import Examination
from diffusion_adc.intake.nifti import Loaded, Refusal
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.records.cohort import write_case
from diffusion_adc.records.dicom_reference import write_dicom_reference

_FOLDER: Final = re.compile(r"([A-Za-z]{1,16}-?[0-9]{3,8}|[0-9]{3,8})(?:_([0-9]{2}))?", re.ASCII)
Volumes = dict[str, NDArray[np.generic]]


def case_name(name: str, prefix: str) -> tuple[str, int]:
    """Research ID and order of the examination from a folder's name: ``PICAI-10021``, ``10021``, ``…_02``.

    Raises:
        CaseError: X8, another form. The name may be a person's: it is not repeated.
    """
    match = _FOLDER.fullmatch(name)
    bare, exam = (match[1], int(match[2] or 1)) if match else ("", 0)
    research_id = f"{prefix}-{bare}" if prefix and bare.isdigit() else bare
    try:
        if exam < 1:
            raise CaseError("no examination of that order")
        return check_research_id(research_id), exam
    except CaseError:
        raise CaseError(
            "a case folder whose name is no research ID", f"{ID_PATTERN}, or digits with --id-prefix",
            "rename the folder", code="X8",
        ) from None  # fmt: skip


def ingest_examination(exam: Examination, staged: Path, options: IngestOptions) -> tuple[Case, list[str]]:
    """Check one examination and write it into the cohort being built.

    Args:
        exam: Every volume checked alone, the diffusion images on the ADC grid.
        staged: Where the cohort is built.
        options: What the user declares.

    Returns:
        The case and what was taken in with a doubt.

    Raises:
        CaseError: The case is refused; nothing of it was written.
        DiffusionAdcError: The disk is full or the folder cannot be written.
    """
    research_id = exam.research_id
    unit, factor = resolve_adc_unit(exam.adc.array, exam.adc_unit, research_id=research_id)
    values = (exam.adc.array * factor).astype(np.float32)
    volumes: Volumes = {seq.ADC: values, **exam.diffusion.images}
    extra = _record(exam, unit)
    warnings = list(exam.warnings)
    warnings += _add_anatomy(volumes, exam, values, options, extra)
    valid = validity_mask(values, volumes.get(seq.DWI_LOW), volumes.get(seq.DWI_HIGH))
    volumes[seq.VALID] = valid
    body = quality.body_mask(volumes)
    warnings += _check_negative(values, body, research_id, extra)
    warnings += _check_agreement(values, exam.diffusion.recomputed, valid & body, research_id, extra)
    seen = organs.find_organs(exam.facts.anatomy, values, volumes, valid & body, exam.adc.affine)
    warnings += _check_organs(seen, research_id, extra)
    target = exam.read_target(values, factor)
    extra["source_sha256"] |= target.sha256
    warnings += target.warnings
    extra["warnings"] = warnings
    b_values = exam.diffusion.b_values
    case = Case(
        research_id=research_id, exam_order=exam.exam_order, provenance=options.provenance,
        tumor_status=target.status, adc_unit_source=exam.adc_unit_source, scanner=exam.facts.scanner,
        field_t=exam.facts.field_t, anatomy=exam.facts.anatomy,
        declared=_declared(volumes, b_values, target.status), b_low=b_values.get(seq.DWI_LOW),
        b_high=b_values.get(seq.DWI_HIGH),
    )  # fmt: skip
    volumes.update(target.own)
    written = write_case(staged, case, volumes, exam.adc.affine, target.readers, extra)
    if exam.reference is not None:
        write_dicom_reference(staged, case.case_id, exam.reference)
    return written, warnings


def _record(exam: Examination, unit: str) -> dict[str, Any]:
    """What case.json keeps of where the volumes came from."""
    extra: dict[str, Any] = {
        "adc_unit": unit, "overlap": {}, "b_source": exam.diffusion.source,
        "source_sha256": {seq.ADC: exam.adc.sha256, **exam.diffusion.sha256},
        "source_type": {seq.ADC: exam.adc.stored_as, **exam.diffusion.stored_as}, **exam.record,
    }  # fmt: skip
    if exam.diffusion.measured:
        extra["b_measured"] = list(exam.diffusion.measured)
    if exam.ignored:
        extra["ignored"] = [list(entry) for entry in exam.ignored]
    if exam.station is not None:
        extra["stations"] = int(exam.station.max()) + 1
    return extra


def _add_anatomy(
    volumes: Volumes,
    exam: Examination,
    values: NDArray[np.float32],
    options: IngestOptions,
    extra: dict[str, Any],
) -> list[str]:
    """T1w and T2w on the ADC grid; how they got there is recorded."""
    warnings: list[str] = []
    low = exam.diffusion.images.get(seq.DWI_LOW)
    fixed = replace(exam.adc, array=low.astype(np.float64)) if low is not None else None
    for name, loaded in exam.anatomy.items():
        extra["source_sha256"][name], extra["source_type"][name] = loaded.sha256, loaded.stored_as
        moved, record = _placed(loaded, exam, options.register, name, fixed)
        volumes[name] = moved
        extra["overlap"][name] = record["overlap"]
        if options.register != "none":
            extra.setdefault("registration", {})[name] = record
        warnings += [f"S08 {exam.research_id} {name}: {flag}" for flag in record["flags"]]
        doubt = orientation.flip_suspected(values, moved, exam.research_id, name, exam.adc.affine)
        warnings += [doubt] if doubt else []
    return warnings


def _placed(
    loaded: Loaded, exam: Examination, kind: str, name: str, fixed: Loaded | None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """A sequence on the ADC grid; where the map has stations, each is registered alone, since tables move."""
    station, adc = exam.station, exam.adc
    if kind == "none" or station is None:
        return register.to_adc_grid(loaded, adc, kind, exam.research_id, name, fixed)
    out = np.zeros(adc.array.shape, dtype=np.float32)
    parts: list[dict[str, Any]] = []
    layer = station[0, 0]
    for number in range(int(layer.max()) + 1):
        k = np.flatnonzero(layer == number)
        first, last = int(k[0]), int(k[-1]) + 1
        moved, record = register.to_adc_grid(
            loaded, _slab(adc, first, last), kind, exam.research_id, name,
            None if fixed is None else _slab(fixed, first, last),
        )  # fmt: skip
        out[..., first:last] = moved
        parts.append(record)
    flags = [f"station {n + 1}: {flag}" for n, record in enumerate(parts) for flag in record["flags"]]
    overlap = float(np.mean([record["overlap"] for record in parts]))
    return out, {"kind": kind, "overlap": overlap, "flags": flags, "stations": parts}


def _slab(volume: Loaded, first: int, last: int) -> Loaded:
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return replace(volume, array=volume.array[..., first:last], affine=affine)


def _check_negative(
    values: NDArray[np.float32], body: NDArray[np.bool_], research_id: str, extra: dict[str, Any]
) -> list[str]:
    negative = quality.negative_share(values, body)
    extra["negative_share"] = round(negative, 6)
    if quality.too_negative(negative):
        raise Refusal(research_id, seq.ADC)(
            "S17", f"{negative:.1%} negative voxels in the body", "at most 0.5 %", "export the ADC map again"
        )
    return [f"S17 {research_id} adc: {negative:.2%} negative voxels, marked invalid"] if negative else []


def _check_agreement(
    values: NDArray[np.float32], recomputed: NDArray[np.float32] | None, use: NDArray[np.bool_],
    research_id: str, extra: dict[str, Any],
) -> list[str]:  # fmt: skip
    if recomputed is None:
        return []
    agreement = quality.adc_agreement(values, recomputed, use)
    if agreement is None:
        return [f"S16 {research_id} adc: too few voxels to compare with the recomputed ADC"]
    extra["adc_agreement"] = agreement.as_json()
    found = f"recomputed / scanner ADC {agreement.ratio:.3f}, r {agreement.correlation:.3f}"
    if agreement.verdict == quality.REFUSE:
        raise Refusal(research_id, seq.ADC)(
            "S16", found, "a median ratio of 0.9 to 1.1 and maps that follow each other",
            "check unit, b-values and that both are of one person",
        )  # fmt: skip
    return [] if agreement.verdict == quality.PASS else [f"S16 {research_id} adc: {found}"]


def _check_organs(seen: Sequence[organs.Organ], research_id: str, extra: dict[str, Any]) -> list[str]:
    if seen:
        extra["organ_adc"] = {organ.name: organ.as_json() for organ in seen}
    off = organs.doubtful(seen)
    if not off:
        return []
    found = f"{' and '.join(organ.text for organ in off)} in 1e-3 mm²/s"
    expected = ", ".join(organ.expected for organ in off)
    if organs.refuted(seen):
        raise Refusal(research_id, seq.ADC)(
            "S16", found, expected, "check the unit and the b-values of the map"
        )
    return [f"S16 {research_id} adc: {found}; expected {expected}; look at the map's unit and b-values"]


def _declared(volumes: Volumes, b_values: Mapping[str, float | None], status: str) -> tuple[str, ...]:
    """What the case lacks, by the user's own declaration."""
    missing = [f"missing:{name}" for name in seq.SEQUENCES if name not in volumes]
    missing += [f"missing:{seq.TUMOR_LABEL}"] if status == "unknown" else []
    return (
        *missing,
        *(f"unknown:b_{name.removeprefix('dwi_')}" for name, b in b_values.items() if b is None),
    )
