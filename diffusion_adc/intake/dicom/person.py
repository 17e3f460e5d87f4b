"""A person's folder → studies: every file looked at, MR slices read, everything else ignored and listed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from diffusion_adc.custody.deidentify import identifying
from diffusion_adc.intake.dicom.headers import looks_like_dicom, read_header, slices_of
from diffusion_adc.intake.dicom.slices import BadFile, Other, Slice
from diffusion_adc.intake.nifti import Refusal
from diffusion_adc.records.atomic import sha256_file

_MAX_FILES: Final = 100_000
Begin = Callable[[Path | None], None]


@dataclass
class Study:
    """One study of one person.

    Attributes:
        uid: StudyInstanceUID.
        slices: Every MR slice.
        others: Objects that are no MR image.
        order: Date and time: orders a person's studies, kept nowhere.
        doubts: What was found and can be lived with.
    """

    uid: str
    slices: list[Slice] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    order: tuple[str, str] = ("", "")
    doubts: list[str] = field(default_factory=list)


def holds_dicom(folder: Path) -> bool:
    """Whether any file below a folder is DICOM by its magic word."""
    for path in _files(folder):
        with path.open("rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                return True
    return False


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where) / name
            if path.is_file():
                yield path


def read_person(
    root: Path, folder: Path, research_id: str, *, check_identity: bool, begin: Begin | None = None
) -> tuple[list[Study], list[tuple[str, str]]]:
    """The studies below a folder, in the order in which they were done.

    Args:
        root: The source folder; nothing outside is read.
        folder: The person's.
        research_id: For messages.
        check_identity: Refuse files that still identify the person.
        begin: Called with each file before it is read, and with None after.

    Returns:
        Studies with at least one MR slice; files that are no DICOM as (kind, reason).

    Raises:
        CaseError: S01 no study; S31 files of several persons; S04, S10, S15, S28, S29, X7 from a file; T1 a file that still identifies; X8 a link
            out of the source.
    """
    refused, begin = Refusal(research_id), begin or (lambda path: None)
    studies: dict[str, Study] = {}
    seen: dict[str, Path] = {}
    subjects: set[str] = set()
    ignored: Counter[str] = Counter()
    inside = root.resolve()
    for number, path in enumerate(_files(folder)):
        if number >= _MAX_FILES:
            raise refused("S29", f"more than {_MAX_FILES} files", "one person's studies", "split the folder")
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise refused(
                "X8", "a link to a file outside the source folder", "the file itself", "copy it there"
            )
        if not looks_like_dicom(path):
            ignored["no DICOM"] += 1
            continue
        begin(path)
        try:
            dataset = read_header(path)
            if "SOPClassUID" not in dataset and "DirectoryRecordSequence" in dataset:
                ignored["directory"] += 1
                continue
            _check_identity(dataset, refused, check_identity)
            found = slices_of(path, dataset)
            subjects.add(str(dataset.get("PatientID") or "").strip())
            del dataset
        except BadFile as bad:
            raise bad.refusal(research_id) from None
        finally:
            begin(None)
        _add(path, found, studies, seen, research_id)
    if len(subjects) > 1 or (check_identity and subjects and subjects != {research_id}):
        raise refused(
            "S31", "files of another person, or of several", "one person's files, under the person's research ID",
            "correct the delivery",
        )  # fmt: skip
    held = [study for study in studies.values() if study.slices]
    if not held:
        raise refused("S01", "no MR image", "a study with an ADC map and DWI", "deliver the study")
    for study in studies.values():
        if not study.slices:  # reports and captures may stand in a study of their own
            ignored.update(other.kind for other in study.others)
    notes = [(f"{count} file(s)", kind) for kind, count in sorted(ignored.items())]
    return sorted(held, key=lambda study: (study.order, study.uid)), notes


def _check_identity(dataset: Dataset, refused: Refusal, check: bool) -> None:
    if not check:
        return
    reasons = identifying(dataset)
    if reasons:
        raise refused(
            "T1", f"a file that still identifies ({', '.join(reasons[:5])})", "a de-identified file",
            "de-identify at the clinic with `deliver seal`, or declare --provenance public",
        )  # fmt: skip


def _add(
    path: Path, found: list[Slice] | Other, studies: dict[str, Study], seen: dict[str, Path], research_id: str
) -> None:
    if isinstance(found, Other):
        study = studies.setdefault(found.study_uid, Study(found.study_uid))
        study.others.append(found)
        return
    first = found[0]
    study = studies.setdefault(first.study_uid, Study(first.study_uid))
    study.order = max(study.order, first.order)
    if first.sop_uid in seen:
        if sha256_file(seen[first.sop_uid]) != sha256_file(path):
            raise Refusal(research_id)(
                "S04", "two different images under one instance UID", "one image per UID", "export them again"
            )
        study.doubts.append("S04 an image that was there twice, taken once")
        return
    seen[first.sop_uid] = path
    study.slices += found
