"""Examinations on disk → a cohort. One bad case never stops the others."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError, UsageError
from diffusion_adc.intake.case import case_name, ingest_case
from diffusion_adc.intake.options import SUFFIXES, IngestOptions
from diffusion_adc.records.atomic import replacing_folder, write_bytes
from diffusion_adc.records.cohort import WITHDRAWN, withdrawn_ids, write_manifest

LEAST_PERSONS_TO_SPLIT: Final = 8
"""Fewer persons all go to train: a split of them would mean nothing."""

Progress = Callable[[int, int], None]


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


class _NothingLeft(Exception):
    """Every case was refused: the folder being built is dropped."""


def ingest(source: Path, out: Path, options: IngestOptions, progress: Progress | None = None) -> IngestReport:
    """Build a cohort from a folder with one folder per case.

    Args:
        source: Folder of case folders, each named by its research ID or, with a prefix, its number; ``_02`` after
            it marks the person's second examination.
        out: The cohort's folder; made as a whole at the end, and not at all if every case is refused.
        options: What the user declares.
        progress: Called with (done, total).

    Returns:
        The report; `refused` names each case that was left out, with its code.

    Raises:
        UsageError: No case folder, or something else is at `out`.
        DiffusionAdcError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    folders = _case_folders(source, options)
    _check_target(source, out, options.overwrite)
    batch = _Batch(source, options, withdrawn_ids(out))
    report = batch.report
    try:
        with replacing_folder(out) as staged:
            for number, folder in enumerate(folders, start=1):
                batch.take(folder, f"folder {number} of {len(folders)}", staged)
                if progress is not None:
                    progress(number, len(folders))
            batch.refuse_shared_examinations(staged)
            if not batch.cases:
                raise _NothingLeft
            cohort, report.note = _split(batch.cases, options)
            write_manifest(staged, cohort)
            if (out / WITHDRAWN).exists():  # a new delivery does not undo a withdrawal
                write_bytes(staged / WITHDRAWN, (out / WITHDRAWN).read_bytes())
    except _NothingLeft:
        report.warnings.clear()
        report.note = "no case left: no cohort was written"
        return report
    report.cases = [_row(case) for case in cohort.cases]
    return report


class _Batch:
    """The cases taken in so far."""

    def __init__(self, source: Path, options: IngestOptions, withdrawn: frozenset[str]) -> None:
        self.source, self.options, self.withdrawn = source, options, withdrawn
        self.cases: list[Case] = []
        self.seen: set[tuple[str, int]] = set()
        self.report = IngestReport()

    def take(self, folder: Path, place: str, staged: Path) -> None:
        """Take one folder in, or note why not."""
        research_id = ""
        try:
            research_id, exam_order = case_name(folder.name, self.options.id_prefix)
            self._check_new(folder, research_id, exam_order)
            case, warnings = ingest_case(self.source, folder, staged, self.options, research_id, exam_order)
            self.cases.append(case)
            self.report.warnings += warnings
        except CaseError as error:
            # Without a research ID the folder is told by its place: its name may be a person's.
            self.report.refused.append(str(error) if research_id else f"{error} ({place})")
        except DiffusionAdcError:
            raise
        except Exception as error:
            # A file hostile enough to break a reader must not stop the other cases, nor speak through its text.
            self.report.refused.append(
                f"S25 {research_id or place}: the files cannot be read ({type(error).__name__}); "
                "expected readable NIfTI files; deliver the case again"
            )

    def _check_new(self, folder: Path, research_id: str, exam_order: int) -> None:
        if not folder.resolve().is_relative_to(self.source.resolve()):
            raise CaseError(
                "a link to a folder outside the source", "the folder itself", "copy it there",
                code="X8", research_id=research_id,
            )  # fmt: skip
        if research_id in self.withdrawn:
            raise CaseError(
                "a person who withdrew from this cohort", "no new delivery", "remove the folder",
                research_id=research_id,
            )  # fmt: skip
        if (research_id, exam_order) in self.seen:
            raise CaseError(
                f"examination {exam_order} a second time", "one folder per examination",
                "name the later one …_02", code="S31", research_id=research_id,
            )  # fmt: skip
        self.seen.add((research_id, exam_order))

    def refuse_shared_examinations(self, staged: Path) -> None:
        """One ADC map under two research IDs is one person twice, or a mix-up: neither can be trusted."""
        by_map: dict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            by_map[case.files[seq.ADC]].append(case)
        for group in by_map.values():
            persons = sorted({case.research_id for case in group})
            if len(persons) == 1:
                self.report.warnings += [
                    f"S31 {case.research_id} adc: the same map as examination {group[0].exam_order}"
                    for case in group[1:]
                ]
                continue
            for case in group:
                others = ", ".join(person for person in persons if person != case.research_id)
                error = CaseError(
                    f"the same ADC map as {others}", "one research ID per person", "correct the delivery",
                    code="S31", research_id=case.research_id, sequence=seq.ADC,
                )  # fmt: skip
                self.report.refused.append(str(error))
                self.cases.remove(case)
                shutil.rmtree(staged / "cases" / case.case_id)


def _split(cases: Sequence[Case], options: IngestOptions) -> tuple[Cohort, str]:
    cohort = Cohort(tuple(cases), provenance=options.provenance)
    persons = len({case.research_id for case in cases})
    if persons >= LEAST_PERSONS_TO_SPLIT:
        return cohort.resplit("person"), f"{persons} persons split into train, val and test"
    return cohort, f"{persons} person(s), fewer than {LEAST_PERSONS_TO_SPLIT}: all in train"


def _row(case: Case) -> dict[str, Any]:
    sequences = [name for name, there in zip(seq.SEQUENCES, case.available, strict=True) if there]
    shown = {seq.DWI_LOW: case.b_low, seq.DWI_HIGH: case.b_high}
    b_values = "/".join("?" if shown[n] is None else f"{shown[n]:g}" for n in shown if n in sequences)
    return {
        "case": case.case_id, "sequences": ",".join(sequences), "b": b_values, "tumor": case.tumor_status,
        "split": case.split, "declared": ",".join(case.declared) or "-",
    }  # fmt: skip


def _case_folders(source: Path, options: IngestOptions) -> list[Path]:
    if not source.is_dir():
        raise UsageError(f"no folder {source.name}", "a folder with one folder per case", "check SOURCE")
    stem = options.stem(seq.ADC)
    if any((source / f"{stem}{suffix}").is_file() for suffix in SUFFIXES):
        raise UsageError(
            f"{source.name or 'SOURCE'} itself holds the files of a case", "a folder with one folder per case",
            "give the folder above it",
        )  # fmt: skip
    try:
        folders = sorted(path for path in source.iterdir() if path.is_dir() and path.name[:1] != ".")
    except OSError:
        raise UsageError(f"{source.name} cannot be read", "a readable folder", "check SOURCE") from None
    if not folders:
        raise UsageError(f"no case folder in {source.name}", "one folder per case", "check SOURCE")
    return folders


def _check_target(source: Path, out: Path, overwrite: bool) -> None:
    inside, around = out.resolve(), source.resolve()
    if inside.is_relative_to(around) or around.is_relative_to(inside):
        raise UsageError(f"{out.name} and SOURCE lie in one another", "two places", "choose another OUT")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "cohort.json").is_file():
        raise UsageError(f"{out.name} already holds something else", "an empty place", "choose another OUT")
    if not overwrite:
        raise UsageError(
            f"{out.name} is a cohort already", "an empty place", "choose another OUT or --overwrite"
        )
