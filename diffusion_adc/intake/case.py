"""One folder of files → one case of the cohort, or a refusal with its code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import ID_PATTERN, Case, check_research_id
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.domain.signal import fit_adc, validity_mask
from diffusion_adc.domain.units import resolve_adc_unit
from diffusion_adc.intake import bvalues, quality
from diffusion_adc.intake.nifti import Loaded, Refusal, aligned, find_file, on_adc_grid, read_volume
from diffusion_adc.intake.options import DWI, DWIS, IngestOptions
from diffusion_adc.intake.target import read_target
from diffusion_adc.records.cohort import write_case

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


def ingest_case(
    root: Path, folder: Path, staged: Path, options: IngestOptions, research_id: str, exam_order: int
) -> tuple[Case, list[str]]:
    """Check one case folder and write it into the cohort being built.

    Args:
        root: The source folder.
        folder: The case's folder.
        staged: Where the cohort is built.
        options: What the user declares.
        research_id: Of the person.
        exam_order: 1 for the person's first examination.

    Returns:
        The case and what was taken in with a doubt.

    Raises:
        CaseError: The case is refused; nothing of it was written.
        DiffusionAdcError: The disk is full or the folder cannot be written.
    """
    stems = {name: options.stem(name) for name in seq.SEQUENCES}
    if options.stem(DWI) not in stems.values():  # a file the user calls dwi_high is no series of its own
        stems[DWI] = options.stem(DWI)
    files = {
        name: path
        for name, stem in stems.items()
        if (path := find_file(root, folder, stem, research_id, name)) is not None
    }
    _check_present(files, options, research_id)
    adc = read_volume(files[seq.ADC], research_id, seq.ADC)
    assert options.adc_unit is not None
    unit, factor = resolve_adc_unit(adc.array, options.adc_unit, research_id=research_id)
    values = (adc.array * factor).astype(np.float32)
    volumes: Volumes = {seq.ADC: values}
    extra: dict[str, Any] = {
        "adc_unit": unit, "overlap": {}, "source_sha256": {seq.ADC: adc.sha256},
        "source_type": {seq.ADC: adc.stored_as},
    }  # fmt: skip
    b_values, recomputed = _add_diffusion(volumes, files, adc, options, research_id, extra)
    for name in (seq.T1W, seq.T2W):
        if name in files:
            anatomy = _noted(read_volume(files[name], research_id, name), name, extra)
            volumes[name], extra["overlap"][name] = on_adc_grid(anatomy, adc, research_id, name)
    valid = validity_mask(values, volumes.get(seq.DWI_LOW), volumes.get(seq.DWI_HIGH))
    volumes[seq.VALID] = valid
    body = quality.body_mask(volumes)
    warnings = _check_negative(values, body, research_id, extra)
    warnings += _check_agreement(values, recomputed, valid & body, research_id, extra)
    target = read_target(root, folder, adc, values, factor, options, research_id)
    extra["source_sha256"] |= target.sha256
    warnings += target.warnings
    extra["warnings"] = warnings
    case = Case(
        research_id=research_id, exam_order=exam_order, provenance=options.provenance,
        tumor_status=target.status, adc_unit_source="declared",
        declared=_declared(volumes, b_values, target.status), b_low=b_values.get(seq.DWI_LOW),
        b_high=b_values.get(seq.DWI_HIGH),
    )  # fmt: skip
    volumes.update(target.own)
    return write_case(staged, case, volumes, adc.affine, target.readers, extra), warnings


def _noted(volume: Loaded, name: str, extra: dict[str, Any]) -> Loaded:
    extra["source_sha256"][name], extra["source_type"][name] = volume.sha256, volume.stored_as
    return volume


def _check_present(files: Mapping[str, Path], options: IngestOptions, research_id: str) -> None:
    """Every sequence is there or was declared missing; a 4-D series stands for both diffusion images."""
    if DWI in files and set(DWIS) & set(files):
        raise Refusal(research_id, DWI)("S01", "a 4-D series and single images", "one of the two")
    for name in seq.SEQUENCES:
        if name in files or (name in DWIS and DWI in files) or name in options.allow_missing:
            continue
        raise Refusal(research_id, name)(
            "S13" if name == seq.DWI_LOW else "S01", f"no file {options.stem(name)}",
            "the ADC map" if name == seq.ADC else "every sequence, or --allow-missing",
            "deliver it" if name == seq.ADC else f"deliver it or declare --allow-missing {name}",
        )  # fmt: skip
    if not {*DWIS, DWI} & set(files):
        raise Refusal(research_id, seq.DWI_HIGH)(
            "S01", "no diffusion-weighted image", "at least one", "deliver one"
        )


def _add_diffusion(
    volumes: Volumes, files: Mapping[str, Path], adc: Loaded, options: IngestOptions, research_id: str,
    extra: dict[str, Any],
) -> tuple[dict[str, float | None], NDArray[np.float32] | None]:  # fmt: skip
    """Adds the diffusion-weighted images; returns their b-values and the ADC fitted to all measured b."""
    if DWI in files:
        loaded = _noted(read_volume(files[DWI], research_id, DWI), DWI, extra)
        loaded = aligned(loaded, adc, research_id, DWI)
        listed = bvalues.sidecar(files[DWI], research_id, DWI)
        kept, images, all_b = bvalues.split_series(loaded.array, listed, options, research_id)
        if not kept:
            raise Refusal(research_id, DWI)("S01", "no usable diffusion image", "at least one")
        volumes.update({name: image for name, (image, _) in kept.items()})
        extra["b_measured"] = all_b
        recomputed = fit_adc(images, all_b) if len(all_b) > 1 else None
        return {name: b for name, (_, b) in kept.items()}, recomputed
    b_values: dict[str, float | None] = {}
    for name in DWIS:
        if name in files:
            b_values[name] = bvalues.single(files[name], options, research_id, name)
            loaded = _noted(read_volume(files[name], research_id, name), name, extra)
            volumes[name] = aligned(loaded, adc, research_id, name).array.astype(np.float32)
    low, high = (b_values.get(name) for name in DWIS)
    if low is None or high is None:
        return b_values, None
    if not low < high:
        raise Refusal(research_id, seq.DWI_HIGH)("S12", f"b {low:g} and {high:g} s/mm²", "low below high")
    return b_values, fit_adc(np.stack([volumes[name] for name in DWIS]), [low, high])


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


def _declared(volumes: Volumes, b_values: Mapping[str, float | None], status: str) -> tuple[str, ...]:
    """What the case lacks, by the user's own declaration."""
    missing = [f"missing:{name}" for name in seq.SEQUENCES if name not in volumes]
    missing += [f"missing:{seq.TUMOR_LABEL}"] if status == "unknown" else []
    return (
        *missing,
        *(f"unknown:b_{name.removeprefix('dwi_')}" for name, b in b_values.items() if b is None),
    )
