"""NIfTI files of one case → an examination: the layout with a folder per case, and public sets' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import fit_adc
from diffusion_adc.intake import bvalues
from diffusion_adc.intake.examination import Diffusion, Examination
from diffusion_adc.intake.nifti import Loaded, Refusal, aligned, find_file, read_volume
from diffusion_adc.intake.options import DWI, DWIS, IngestOptions
from diffusion_adc.intake.target import Target, TargetFiles, read_target, target_files

DECLARED: Final = "declared"


def folder_examination(
    root: Path, folder: Path, options: IngestOptions, research_id: str, exam_order: int
) -> Examination:
    """The examination in a case folder, its files named by sequence.

    Raises:
        CaseError: S01, S12, S13, S24 and every code of a file that cannot be used; X8 a link out of `root`.
    """
    stems = {name: options.stem(name) for name in seq.SEQUENCES}
    if options.stem(DWI) not in stems.values():  # a file the user calls dwi_high is no series of its own
        stems[DWI] = options.stem(DWI)
    files = {
        name: path
        for name, stem in stems.items()
        if (path := find_file(root, folder, stem, research_id, name)) is not None
    }
    return files_examination(
        files, lambda: target_files(root, folder, options, research_id), options, research_id, exam_order
    )


def files_examination(
    files: Mapping[str, Path], targets: Callable[[], TargetFiles], options: IngestOptions, research_id: str,
    exam_order: int, *, unit_source: str = DECLARED,
) -> Examination:  # fmt: skip
    """The examination in files by sequence.

    Args:
        files: ``t1w`` … ``adc``, and ``dwi`` for a 4-D series → file.
        targets: Finds the readers' files, called once the ADC map is known good.
        options: What the user, or the layout for the user, declares.
        research_id: Of the person.
        exam_order: 1 for the person's first examination.
        unit_source: Who states the ADC unit.

    Raises:
        CaseError: S01, S12, S13, S24 and every code of a file that cannot be used.
    """
    _check_present(files, options, research_id)
    adc = read_volume(files[seq.ADC], research_id, seq.ADC)
    diffusion = _diffusion(files, adc, options, research_id)
    anatomy = {
        name: read_volume(files[name], research_id, name) for name in (seq.T1W, seq.T2W) if name in files
    }
    assert options.adc_unit is not None

    def target(values: NDArray[np.float32], factor: float) -> Target:
        return read_target(targets(), adc, values, factor, options, research_id)

    return Examination(
        research_id, exam_order, adc, anatomy, diffusion, options.adc_unit, unit_source, target
    )


def _check_present(files: Mapping[str, Path], options: IngestOptions, research_id: str) -> None:
    """Every sequence is there or was declared missing; a 4-D series stands for both diffusion images."""
    if DWI in files and set(DWIS) & set(files):
        raise Refusal(research_id, DWI)("S01", "a 4-D series and single images", "one of the two")
    there = {*files, *(DWIS if DWI in files else ())}
    check_present(there, options, research_id)


def check_present(there: set[str], options: IngestOptions, research_id: str) -> None:
    """Every sequence is there or was declared missing.

    Raises:
        CaseError: S01; S13 for the low b.
    """
    for name in seq.SEQUENCES:
        if name in there or name in options.allow_missing:
            continue
        raise Refusal(research_id, name)(
            "S13" if name == seq.DWI_LOW else "S01", f"no file {options.stem(name)}",
            "the ADC map" if name == seq.ADC else "every sequence, or --allow-missing",
            "deliver it" if name == seq.ADC else f"deliver it or declare --allow-missing {name}",
        )  # fmt: skip
    if not set(DWIS) & there:
        raise Refusal(research_id, seq.DWI_HIGH)(
            "S01", "no diffusion-weighted image", "at least one", "deliver one"
        )


def _diffusion(files: Mapping[str, Path], adc: Loaded, options: IngestOptions, research_id: str) -> Diffusion:
    """The diffusion-weighted images on the ADC grid and the ADC fitted to all measured b."""
    sha256: dict[str, str] = {}
    stored_as: dict[str, str] = {}

    def load(name: str) -> Loaded:
        loaded = read_volume(files[name], research_id, name)
        sha256[name], stored_as[name] = loaded.sha256, loaded.stored_as
        return aligned(loaded, adc, research_id, name)

    if DWI in files:
        loaded = load(DWI)
        listed = bvalues.sidecar(files[DWI], research_id, DWI)
        return series_diffusion(loaded.array, listed, options, research_id, "sidecar", sha256, stored_as)
    images: dict[str, NDArray[np.float32]] = {}
    b_values: dict[str, float | None] = {}
    for name in DWIS:
        if name in files:
            b_values[name] = bvalues.single(files[name], options, research_id, name)
            images[name] = load(name).array.astype(np.float32)
    low, high = (b_values.get(name) for name in DWIS)
    recomputed = None
    if low is not None and high is not None:
        if not low < high:
            raise Refusal(research_id, seq.DWI_HIGH)("S12", f"b {low:g} and {high:g} s/mm²", "low below high")
        recomputed = fit_adc(np.stack([images[name] for name in DWIS]), [low, high])
    return Diffusion(images, b_values, (), recomputed, DECLARED, sha256, stored_as)


def series_diffusion(
    array: NDArray[np.floating], b_values: list[float] | None, options: IngestOptions, research_id: str,
    source: str, sha256: Mapping[str, str], stored_as: Mapping[str, str],
) -> Diffusion:  # fmt: skip
    """The wanted pair of a series with several b-values, and the ADC fitted to all of them.

    Args:
        array: (I, J, K, N) on the ADC grid.
        b_values: N values in s/mm², or None if nobody states them.
        options: What the user declares.
        research_id: For messages.
        source: Where the b-values come from.
        sha256: By series name, of the source files.
        stored_as: By series name, the numeric type in the file.

    Raises:
        CaseError: See `bvalues.split_series`; S01 no image is usable.
    """
    kept, images, all_b = bvalues.split_series(array, b_values, options, research_id)
    if not kept:
        raise Refusal(research_id, DWI)("S01", "no usable diffusion image", "at least one")
    # Unweighted, as scanners fit: where perfusion bends the curve, weights would compare two different fits.
    recomputed = fit_adc(images, all_b, weighted=False) if len(all_b) > 1 else None
    return Diffusion(
        {name: image for name, (image, _) in kept.items()}, {name: b for name, (_, b) in kept.items()},
        tuple(all_b), recomputed, source, sha256, stored_as,
    )  # fmt: skip
