"""Examinations on disk → a cohort. One bad case never stops the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import PROVENANCES, Case, check_research_id
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.domain.signal import validity_mask
from diffusion_adc.domain.units import resolve_adc_unit
from diffusion_adc.intake import quality
from diffusion_adc.intake.nifti import (
    Refusal,
    check_same_grid,
    find_file,
    label_presence,
    on_adc_grid,
    parse_labels,
    read_volume,
)
from diffusion_adc.records.atomic import replacing_folder
from diffusion_adc.records.cohort import write_case, write_manifest
from diffusion_adc.records.nifti import Volume

UNKNOWN: Final = "unknown"
LEAST_PERSONS_TO_SPLIT: Final = 8
"""Fewer persons all go to train: a split of them would mean nothing."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class IngestOptions:
    """What the user declares about the files.

    Attributes:
        layout: ``nifti``: a folder per case, files named by sequence.
        names: File names by volume where they differ from the volume's own name.
        id_prefix: Joined to bare numbers with a hyphen.
        allow_missing: Optional sequences that may be missing.
        b_values: ``dwi_low`` and ``dwi_high`` → s/mm² or ``unknown``.
        adc_unit: Size of the stored ADC's unit in mm²/s.
        label_values: Labels that mean tumor, ``1-5`` or ``1,3``; None accepts 0 and 1 only.
        provenance: restricted, public or synthetic.
        tumor_free_ok: An empty target means a tumor-free case; otherwise it is refused.
        overwrite: Replace a cohort that is already there.

    Raises:
        UsageError: Something is declared that does not exist.
    """

    layout: str = "nifti"
    names: Mapping[str, str] = field(default_factory=dict)
    id_prefix: str = ""
    allow_missing: tuple[str, ...] = ()
    b_values: Mapping[str, str] = field(default_factory=dict)
    adc_unit: str | None = None
    label_values: str | None = None
    provenance: str = "restricted"
    tumor_free_ok: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.layout != "nifti":
            raise UsageError(f"layout {self.layout!r}", "nifti")
        if self.provenance not in PROVENANCES:
            raise UsageError(f"provenance {self.provenance!r}", f"one of {', '.join(PROVENANCES)}")
        for name in self.names:
            if name not in seq.VOLUMES:
                raise UsageError(f"--names {name}", f"one of {', '.join(seq.VOLUMES)}")
        for name in self.allow_missing:
            if name not in seq.OPTIONAL_SEQUENCES:
                raise UsageError(f"--allow-missing {name}", f"some of {', '.join(seq.OPTIONAL_SEQUENCES)}")
        for name in self.b_values:
            if name not in (seq.DWI_LOW, seq.DWI_HIGH):
                raise UsageError(f"--b {name}", f"{seq.DWI_LOW} or {seq.DWI_HIGH}")
            self.b_value(name)
        if self.adc_unit is None:
            raise UsageError(
                "no ADC unit", "--adc-unit 1, 1e-3 or 1e-6 (mm²/s)", "state the unit of the ADC maps"
            )
        try:
            parse_labels(self.label_values)
        except ValueError:
            raise UsageError(f"--label-values {self.label_values}", "1-5 or 1,3") from None

    def b_value(self, name: str) -> float | None:
        """The declared b-value in s/mm², None if unknown or not declared."""
        text = self.b_values.get(name, UNKNOWN)
        if text == UNKNOWN:
            return None
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"--b {name}={text}", "a number in s/mm² or unknown") from None


@dataclass
class IngestReport:
    """What became of each case folder.

    Attributes:
        cases: Rows of the cases taken in.
        refused: Messages of the cases refused.
        warnings: Messages of cases taken in with a doubt.
        note: One line about the split.
    """

    cases: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    note: str = ""

    def table(self) -> str:
        """The report as text."""
        lines = [f"{len(self.cases)} cases in, {len(self.refused)} refused"]
        for row in self.cases:
            lines.append("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
        lines += [f"  warning {text}" for text in self.warnings]
        lines += [f"  refused {text}" for text in self.refused]
        return "\n".join([*lines, self.note] if self.note else lines)


def ingest(source: Path, out: Path, options: IngestOptions, progress: Progress | None = None) -> IngestReport:
    """Build a cohort from a folder with one folder per case.

    Args:
        source: Folder of case folders, each named by its research ID or, with a prefix, its number.
        out: The cohort's folder; made as a whole at the end.
        options: What the user declares.
        progress: Called with (done, total).

    Returns:
        The report; `refused` names each case that was left out, with its code.

    Raises:
        UsageError: No case folder, or something else is at `out`.
        CaseError: Every case was refused (the first one's reason).
        DiffusionAdcError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    if not source.is_dir():
        raise UsageError(f"no folder {source.name}", "a folder with one folder per case", "check SOURCE")
    _check_target(out, options.overwrite)
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UsageError(f"no case folder in {source.name}", "one folder per case", "check SOURCE")
    report, cases, first = IngestReport(), [], None
    with replacing_folder(out) as staged:
        for number, folder in enumerate(folders, start=1):
            try:
                case, warnings = _ingest_case(folder, staged, options, number)
            except CaseError as error:
                first = first or error
                report.refused.append(str(error))
            else:
                cases.append(case)
                report.warnings += warnings
            if progress is not None:
                progress(number, len(folders))
        if first is not None and not cases:
            raise first
        cohort = Cohort(tuple(cases), provenance=options.provenance)
        persons = {case.research_id for case in cases}
        if len(persons) >= LEAST_PERSONS_TO_SPLIT:
            cohort = cohort.resplit("person")
            report.note = f"{len(persons)} persons split into train, val and test"
        else:
            report.note = f"{len(persons)} person(s), fewer than {LEAST_PERSONS_TO_SPLIT}: all in train"
        write_manifest(staged, cohort)
    report.cases = [_row(case) for case in cohort.cases]
    return report


def _row(case: Case) -> dict[str, Any]:
    sequences = [name for name, there in zip(seq.SEQUENCES, case.available, strict=True) if there]
    shown = {seq.DWI_LOW: case.b_low, seq.DWI_HIGH: case.b_high}
    b_values = "/".join("?" if shown[n] is None else f"{shown[n]:g}" for n in shown if n in sequences)
    return {
        "case": case.case_id, "sequences": ",".join(sequences), "b": b_values, "tumor": case.tumor_status,
        "split": case.split, "declared": ",".join(case.declared) or "-",
    }  # fmt: skip


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "cohort.json").is_file():
        raise UsageError(f"{out.name} already holds something else", "an empty place", "choose another OUT")
    if not overwrite:
        raise UsageError(
            f"{out.name} is a cohort already", "an empty place", "choose another OUT or --overwrite"
        )


def _research_id(name: str, prefix: str) -> str:
    research_id = f"{prefix}-{name}" if prefix and name.isascii() and name.isdigit() else name
    try:
        return check_research_id(research_id)
    except CaseError as error:
        # The folder's name itself may be a person's: it is not repeated.
        raise CaseError(
            "a case folder whose name is no research ID", error.expected, "rename it", code="C06"
        ) from None


def _ingest_case(folder: Path, staged: Path, options: IngestOptions, number: int) -> tuple[Case, list[str]]:
    research_id = _research_id(folder.name, options.id_prefix)
    files = {name: find_file(folder, options.names.get(name, name)) for name in seq.VOLUMES}
    declared = _declared(files, options, research_id)
    refused = Refusal(research_id, seq.ADC)
    adc = read_volume(_path(files, seq.ADC), research_id, seq.ADC)
    assert options.adc_unit is not None
    unit, factor = resolve_adc_unit(adc.array, options.adc_unit, research_id=research_id)
    adc_values = (adc.array * factor).astype(np.float32)
    negative = quality.negative_share(adc_values)
    if quality.too_negative(negative):
        raise refused("S17", f"{negative:.1%} negative voxels", "at most 0.5 %", "export the ADC map again")
    volumes: dict[str, NDArray[np.generic]] = {seq.ADC: adc_values}
    extra: dict[str, Any] = {"adc_unit": unit, "negative_share": round(negative, 6), "overlap": {}}
    for name in seq.OPTIONAL_SEQUENCES:
        if files[name] is None:
            continue
        volume = read_volume(_path(files, name), research_id, name)
        if name in (seq.DWI_LOW, seq.DWI_HIGH):
            check_same_grid(volume, adc, research_id, name)
            volumes[name] = volume.array.astype(np.float32)
        else:
            volumes[name], extra["overlap"][name] = on_adc_grid(volume, adc, research_id, name)
    valid = validity_mask(adc_values, volumes.get(seq.DWI_LOW), volumes.get(seq.DWI_HIGH))
    volumes[seq.VALID] = valid
    warnings = _check_quality(volumes, valid, options, research_id, extra)
    if negative > 0:
        warnings.append(f"S17 {research_id} adc: {negative:.2%} negative voxels, marked invalid")
    status = _add_target(volumes, files, adc, factor, options, research_id)
    case = Case(
        research_id=research_id, exam_order=1, study_order=number, provenance=options.provenance,
        tumor_status=status, adc_unit_source="declared", declared=declared,
        b_low=options.b_value(seq.DWI_LOW) if seq.DWI_LOW in volumes else None,
        b_high=options.b_value(seq.DWI_HIGH) if seq.DWI_HIGH in volumes else None,
    )  # fmt: skip
    return write_case(staged, case, volumes, adc.affine, extra=json.loads(json.dumps(extra))), warnings


def _path(files: Mapping[str, Path | None], name: str) -> Path:
    path = files[name]
    assert path is not None
    return path


def _declared(files: Mapping[str, Path | None], options: IngestOptions, research_id: str) -> tuple[str, ...]:
    """What is missing or unknown, after checking that all of it was declared."""
    declared = []
    for name in seq.SEQUENCES:
        if files[name] is not None:
            continue
        code = "S13" if name == seq.DWI_LOW else "S01"
        if name not in options.allow_missing:
            raise Refusal(research_id, name)(
                code, f"no file {options.names.get(name, name)}", "every sequence, or --allow-missing",
                f"deliver it or declare --allow-missing {name}" if name != seq.ADC else "deliver the ADC map",
            )  # fmt: skip
        declared.append(f"missing:{name}")
    if files[seq.DWI_LOW] is None and files[seq.DWI_HIGH] is None:
        raise Refusal(research_id, seq.DWI_HIGH)(
            "S01", "no diffusion-weighted image", "at least one", "deliver one"
        )
    for name in (seq.DWI_LOW, seq.DWI_HIGH):
        if files[name] is None:
            continue
        if name not in options.b_values:
            raise Refusal(research_id, name)(
                "S12", "no b-value", f"--b {name}=NUMBER or {name}=unknown", "declare the b-value"
            )
        if options.b_value(name) is None:
            declared.append(f"unknown:b_{name.removeprefix('dwi_')}")
    return tuple(declared)


def _check_quality(
    volumes: Mapping[str, NDArray[np.generic]], valid: NDArray[np.bool_], options: IngestOptions,
    research_id: str, extra: dict[str, Any],
) -> list[str]:  # fmt: skip
    b_low, b_high = options.b_value(seq.DWI_LOW), options.b_value(seq.DWI_HIGH)
    if b_low is None or b_high is None or not {seq.DWI_LOW, seq.DWI_HIGH} <= set(volumes):
        return []
    if b_low >= b_high:
        raise Refusal(research_id, seq.DWI_HIGH)("S12", f"b {b_low:g} and {b_high:g} s/mm²", "low below high")
    agreement = quality.adc_agreement(
        np.asarray(volumes[seq.ADC], np.float32), np.asarray(volumes[seq.DWI_LOW], np.float32),
        np.asarray(volumes[seq.DWI_HIGH], np.float32), b_low, b_high, valid,
    )  # fmt: skip
    if agreement is None:
        return [f"S16 {research_id} adc: too few voxels to compare with the recomputed ADC"]
    extra["adc_agreement"] = agreement.as_json()
    found = f"recomputed / scanner ADC {agreement.ratio:.3f}, r {agreement.correlation:.3f}"
    if agreement.verdict == quality.REFUSE:
        raise Refusal(research_id, seq.ADC)(
            "S16",
            found,
            "a median ratio of 0.9 to 1.1",
            "check unit, b-values and that both are of one person",
        )
    return [] if agreement.verdict == quality.PASS else [f"S16 {research_id} adc: {found}"]


def _add_target(
    volumes: dict[str, NDArray[np.generic]], files: Mapping[str, Path | None], adc: Volume, factor: float,
    options: IngestOptions, research_id: str,
) -> str:  # fmt: skip
    """Adds tumor_label and tumor_adc; returns the tumor status."""
    name = next((n for n in (seq.TUMOR_LABEL, seq.TUMOR_ADC) if files[n] is not None), None)
    if name is None:
        return "unknown"
    target = read_volume(_path(files, name), research_id, name)
    check_same_grid(target, adc, research_id, name)
    refused = Refusal(research_id, name)
    if name == seq.TUMOR_LABEL:
        presence = label_presence(target.array, parse_labels(options.label_values), research_id)
    else:
        presence = target.array > 0
        differs = (
            np.abs(target.array * factor - np.asarray(volumes[seq.ADC], dtype=np.float64))[presence] > 1e-3
        )
        if differs.mean() > 0.05 if presence.any() else False:
            raise refused(
                "S23", f"{differs.mean():.0%} of kept voxels are not the ADC map's", "an exact selection",
                "deliver the label, or the map before smoothing",
            )  # fmt: skip
    if not presence.any() and not options.tumor_free_ok:
        raise refused(
            "S19",
            "an empty target",
            "tumor, or a declared tumor-free case",
            "declare --tumor-free-ok if it is true",
        )
    labels, _ = ndimage.label(presence, structure=np.ones((3, 3, 3)))
    volumes[seq.TUMOR_LABEL] = labels.astype(np.uint16)
    # A kept voxel without a fitted ADC has no value to keep: the label says it was kept, the map is 0.
    measured = np.asarray(volumes[seq.ADC], dtype=np.float32)
    volumes[seq.TUMOR_ADC] = np.where(presence & (measured > 0), measured, np.float32(0))
    return "present" if presence.any() else "absent"
