"""Examinations on disk → a cohort. One bad case never stops the others."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake import jobs
from diffusion_adc.intake.clinical import ClinicalOptions, ClinicalTable, read_table
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.plan import check_rules, check_source, plan_tasks, resolve_layout
from diffusion_adc.intake.report import write_report
from diffusion_adc.intake.work import Done
from diffusion_adc.records.atomic import replacing_folder, write_json
from diffusion_adc.records.cohort import carry_custody, withdrawn_ids, write_manifest

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
        codes = Counter(text.split(" ", 1)[0].rstrip(":") for text in self.refused)
        if codes:
            lines.append(
                "  refused by code: " + ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))
            )
        for row in self.cases:
            lines.append("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
        lines += [f"  warning {text}" for text in self.warnings]
        lines += [f"  refused {text}" for text in self.refused]
        return "\n".join([*lines, self.note] if self.note else lines)


class _NothingLeft(Exception):
    """Every case was refused: the folder being built is dropped."""


def ingest(source: Path, out: Path, options: IngestOptions, progress: Progress | None = None) -> IngestReport:
    """Build a cohort from examinations on disk.

    Args:
        source: Folder of case folders, each named by its research ID or, with a prefix, its number; ``_02`` after
            it marks the person's second examination. For DICOM, studies lie anywhere below the person's folder.
            Public layouts as their authors publish them.
        out: The cohort's folder; made as a whole at the end, and not at all if every case is refused.
        options: What the user declares.
        progress: Called with (done, total).

    Returns:
        The report; `refused` names each case that was left out, with its code. ``ingest_report.html`` lies in the
        cohort's folder.

    Raises:
        UsageError: No case folder, something else is at `out`, or a table or rules that cannot be used.
        DiffusionAdcError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    check_source(source)
    layout = resolve_layout(source, options)
    table = _clinical_table(options)
    if layout == "dicom":
        check_rules(options)
    _check_target(source, out, options.overwrite)
    plan = plan_tasks(source, layout, options, withdrawn_ids(out))
    report = IngestReport(refused=list(plan.refused))
    try:
        with replacing_folder(out) as staged:
            batch = _Batch(staged, report)
            for number, done in jobs.run(plan.tasks, staged, options, isolated=layout == "dicom"):
                batch.add(done)
                if progress is not None:
                    progress(number + 1, len(plan.tasks))
            batch.refuse_shared_examinations()
            batch.refuse_shared_studies()
            batch.remove_leftovers()
            if not batch.cases:
                raise _NothingLeft
            cases = batch.ordered_cases()
            clinical = _clinical(table, cases, report)
            cohort, report.note = _split(cases, options, clinical)
            write_manifest(staged, cohort)
            report.cases = [_row(staged, case) for case in cohort.cases]
            write_report(staged, report, options.language)
            carry_custody(out, staged)  # a new delivery does not undo a withdrawal
    except _NothingLeft:
        report.warnings.clear()
        report.cases = []
        report.note = "no case left: no cohort was written"
    return report


def _clinical_table(options: IngestOptions) -> ClinicalTable | None:
    """Read before anything is written: a table that cannot be trusted stops the ingest."""
    if options.clinical is None:
        return None
    declared = ClinicalOptions(
        mapping=options.clinical_mapping,
        id_prefix=options.id_prefix,
        provenance=options.provenance,
        encoding=options.clinical_encoding,
    )
    return read_table(options.clinical, declared)


def _clinical(
    table: ClinicalTable | None, cases: Sequence[Case], report: IngestReport
) -> dict[str, Covariates]:
    """The rows of persons in the cohort; rows of others are not stored."""
    if table is None:
        return {}
    cut = table.for_persons({case.research_id for case in cases})
    report.refused += cut.refused
    report.warnings += cut.warnings
    return dict(cut.covariates)


class _Batch:
    """The cases taken in so far, in the cohort being built."""

    def __init__(self, staged: Path, report: IngestReport) -> None:
        self.staged, self.report = staged, report
        self.cases: list[Case] = []
        self.study: dict[str, str] = {}
        self.when: dict[str, tuple[str, str]] = {}

    def add(self, done: Done) -> None:
        """Take in what became of one task."""
        if done.error is not None:
            raise done.error
        self.report.refused += done.refused
        self.report.warnings += done.warnings
        for case, study, when in done.cases:
            self.cases.append(case)
            self.study[case.case_id], self.when[case.case_id] = study, when

    def refuse_shared_examinations(self) -> None:
        """One ADC map under two research IDs is one person twice, or a mix-up: neither can be trusted."""
        by_map: dict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            by_map[case.files[seq.ADC]].append(case)
        for group in by_map.values():
            if len({case.research_id for case in group}) == 1:
                self.report.warnings += [
                    f"S31 {case.research_id} adc: the same map as examination {group[0].exam_order}"
                    for case in group[1:]
                ]
            else:
                self._refuse(group, "the same ADC map")

    def refuse_shared_studies(self) -> None:
        """One study under two research IDs, likewise."""
        by_study: dict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            by_study[self.study[case.case_id]].append(case)
        for study, group in by_study.items():
            if study and len({case.research_id for case in group}) > 1:
                self._refuse(group, "the same study")

    def _refuse(self, group: Sequence[Case], found: str) -> None:
        persons = sorted({case.research_id for case in group})
        for case in group:
            others = ", ".join(person for person in persons if person != case.research_id)
            error = CaseError(
                f"{found} as {others}", "one research ID per person", "correct the delivery",
                code="S31", research_id=case.research_id, sequence=seq.ADC,
            )  # fmt: skip
            self.report.refused.append(str(error))
            self.cases.remove(case)

    def remove_leftovers(self) -> None:
        """Folders of refused cases, and of those a process was writing when it was ended."""
        kept = {case.case_id for case in self.cases}
        for folder in (self.staged / "cases").glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder)

    def ordered_cases(self) -> list[Case]:
        """The cases with their chronological rank in the cohort, where every study has a date."""
        whens = {self.when[case.case_id] for case in self.cases}
        if not all(when[0] for when in whens):
            return self.cases
        rank = {when: number for number, when in enumerate(sorted(whens), start=1)}
        out = []
        for case in self.cases:
            ranked = replace(case, study_order=rank[self.when[case.case_id]])
            path = self.staged / "cases" / case.case_id / "case.json"
            write_json(path, json.loads(path.read_text()) | {"study_order": ranked.study_order})
            out.append(ranked)
        return out


def _split(
    cases: Sequence[Case], options: IngestOptions, clinical: Mapping[str, Covariates]
) -> tuple[Cohort, str]:
    cohort = Cohort(tuple(cases), clinical, provenance=options.provenance)
    persons = len({case.research_id for case in cases})
    if persons >= LEAST_PERSONS_TO_SPLIT:
        return cohort.resplit("person"), f"{persons} persons split into train, val and test"
    return cohort, f"{persons} person(s), fewer than {LEAST_PERSONS_TO_SPLIT}: all in train"


def _row(cohort_dir: Path, case: Case) -> dict[str, Any]:
    """One line of the table: what is there, b-values, unit, quality figures."""
    record = json.loads((cohort_dir / "cases" / case.case_id / "case.json").read_text())
    sequences = [name for name, there in zip(seq.SEQUENCES, case.available, strict=True) if there]
    shown = {seq.DWI_LOW: case.b_low, seq.DWI_HIGH: case.b_high}
    b_values = "/".join("?" if shown[n] is None else f"{shown[n]:g}" for n in shown if n in sequences)
    agreement = record.get("adc_agreement", {})
    figures = f"ratio {agreement['ratio']:.3f} r {agreement['correlation']:.3f}" if agreement else "-"
    return {
        "case": case.case_id, "sequences": ",".join(sequences), "b": b_values,
        "unit": f"{record['adc_unit']} ({case.adc_unit_source})", "adc": figures, "tumor": case.tumor_status,
        "split": case.split, "declared": ",".join(case.declared) or "-",
    }  # fmt: skip


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
