"""What there is to ingest: the layout of a source and its persons, one task each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake import layouts
from diffusion_adc.intake.case import case_name
from diffusion_adc.intake.options import PUBLIC_LAYOUTS, SUFFIXES, IngestOptions
from diffusion_adc.intake.work import DICOM, Task


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what is refused before any file is read."""

    tasks: tuple[Task, ...]
    refused: tuple[str, ...]


def check_source(source: Path) -> None:
    """Whether the source is a folder.

    Raises:
        UsageError: It is not.
    """
    if not source.is_dir():
        raise UsageError(f"no folder {source.name}", "a folder with one folder per case", "check SOURCE")


def check_rules(options: IngestOptions) -> None:
    """Whether the user's rules can be read, before any file is.

    Raises:
        UsageError: They cannot.
    """
    from diffusion_adc.intake.dicom.rules import read_rules

    read_rules(options.rules)


def resolve_layout(source: Path, options: IngestOptions) -> str:
    """The declared layout; for ``auto`` what the files themselves show.

    Raises:
        UsageError: ``auto`` finds no layout that it can tell; or no ADC unit where the layout needs one.
    """
    if options.layout != "auto":
        return options.layout
    found = _layout_of(source, options)
    if found is None:
        raise UsageError(
            "no layout that can be told from the files", "--layout dicom, nifti, …", "name the layout"
        )
    replace(options, layout=found)  # what that layout needs declared is checked there
    return found


def _layout_of(source: Path, options: IngestOptions) -> str | None:
    from diffusion_adc.intake.dicom.person import holds_dicom

    if (source / "dataset.json").is_file() and (source / "imagesTr").is_dir():
        return "nnunet"
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and path.name[:1] != "."]
    stem = options.stem(seq.ADC)
    if any((folder / f"{stem}{suffix}").is_file() for folder in folders for suffix in SUFFIXES):
        return "nifti"
    return DICOM if any(holds_dicom(folder) for folder in folders) else None


def plan_tasks(source: Path, layout: str, options: IngestOptions, withdrawn: Collection[str]) -> Plan:
    """A task for each person, or each case of a NIfTI layout.

    Raises:
        UsageError: No case is there, or the source holds the files of one case itself.
    """
    if layout in PUBLIC_LAYOUTS:
        return _public(source, layout, options, withdrawn)
    folders = _case_folders(source, options)
    if layout == DICOM and (own := _own_name(source, folders, options)) is not None:
        research_id, exam_order = own
        _check_withdrawn(research_id, withdrawn)
        return Plan((Task(source, ((source, exam_order),), research_id, dicom=True),), ())
    planned: list[tuple[Path, str, int]] = []
    refused: list[str] = []
    seen: set[tuple[str, int]] = set()
    for number, folder in enumerate(folders, start=1):
        research_id = ""
        try:
            research_id, exam_order = case_name(folder.name, options.id_prefix)
            _check_new(source, folder, research_id, exam_order, seen, withdrawn)
            planned.append((folder, research_id, exam_order))
        except CaseError as error:
            # Without a research ID the folder is told by its place: its name may be a person's.
            place = f" (folder {number} of {len(folders)})"
            refused.append(str(error) if research_id else f"{error}{place}")
    if layout == DICOM:
        persons: dict[str, list[tuple[Path, int]]] = defaultdict(list)
        for folder, research_id, exam_order in planned:
            persons[research_id].append((folder, exam_order))
        tasks = [Task(source, tuple(own), rid, dicom=True) for rid, own in persons.items()]
    else:
        tasks = [Task(source, ((folder, order),), rid) for folder, rid, order in planned]
    return Plan(tuple(tasks), tuple(refused))


def _own_name(source: Path, folders: list[Path], options: IngestOptions) -> tuple[str, int] | None:
    """The research ID of a source that is itself one person's folder, with studies below instead of persons."""

    def name(path: Path) -> tuple[str, int] | None:
        try:
            return case_name(path.name, options.id_prefix)
        except CaseError:
            return None

    return None if any(name(folder) for folder in folders) else name(source.resolve())


def _public(source: Path, layout: str, options: IngestOptions, withdrawn: Collection[str]) -> Plan:
    tasks: list[Task] = []
    refused: list[str] = []
    for files in layouts.find(source, layout, options):
        try:
            if files.problem is not None:
                raise files.problem
            _check_withdrawn(files.research_id, withdrawn)
        except CaseError as error:
            refused.append(str(error))
            continue
        tasks.append(Task(source, ((source, files.exam_order),), files.research_id, files=files))
    return Plan(tuple(tasks), tuple(refused))


def _check_withdrawn(research_id: str, withdrawn: Collection[str]) -> None:
    if research_id in withdrawn:
        raise CaseError(
            "a person who withdrew from this cohort", "no new delivery", "remove the folder",
            research_id=research_id,
        )  # fmt: skip


def _check_new(
    source: Path, folder: Path, research_id: str, exam_order: int, seen: set[tuple[str, int]],
    withdrawn: Collection[str],
) -> None:  # fmt: skip
    if not folder.resolve().is_relative_to(source.resolve()):
        raise CaseError(
            "a link to a folder outside the source", "the folder itself", "copy it there",
            code="X8", research_id=research_id,
        )  # fmt: skip
    _check_withdrawn(research_id, withdrawn)
    if (research_id, exam_order) in seen:
        raise CaseError(
            f"examination {exam_order} a second time", "one folder per examination",
            "name the later one …_02", code="S31", research_id=research_id,
        )  # fmt: skip
    seen.add((research_id, exam_order))


def _case_folders(source: Path, options: IngestOptions) -> list[Path]:
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
