"""One person's DICOM files → cleaned series under new names, with what was lifted beside them."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from diffusion_adc.custody import pixels, tags
from diffusion_adc.custody.burned_in import has_text
from diffusion_adc.custody.deidentify import clean, identifying
from diffusion_adc.custody.dicom_file import read_dicom, write_dicom
from diffusion_adc.custody.faces import FacePolicy, SeriesHead
from diffusion_adc.custody.mosaic import is_mosaic, untiled
from diffusion_adc.custody.uids import keyed_uid
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.records.atomic import write_json

SIDECAR: Final = "series.json"
"""What was lifted out of private elements, per file, and what was decided about faces."""
STUDY: Final = "study.json"
B_SIDECAR: Final = "b_value.json"
"""Written by the clinic beside DICOM files that do not state their b: ``{"*": 800}`` or by file name."""
_TEXT_SHARE: Final = 0.02
"""The detector errs on about one slice in a hundred; text stands on most slices of a series."""
_INDEX: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime",
    "SeriesNumber", "InstanceNumber", "PatientID", "BurnedInAnnotation",
)  # fmt: skip


@dataclass(frozen=True)
class ClinicRules:
    """What the clinic decided.

    Attributes:
        secret: Key of the hashed identifiers.
        keep_age: Age in whole years, 90 and above as 90.
        keep_sex: Sex as stated.
        faces: For series that show a face.
        reviewed: Research IDs whose pictures a person looked at and found free of text.
    """

    secret: bytes = field(repr=False)
    keep_age: bool = True
    keep_sex: bool = True
    faces: FacePolicy = field(default_factory=FacePolicy)
    reviewed: frozenset[str] = frozenset()


@dataclass
class Notes:
    """What the manifest says beside the list of files.

    Attributes:
        states: Per series: its folder, the state of faces, the clinic's reason.
        left_out: Number of files that stay at the clinic, by reason.
        slices: Number of slices that leave, by the series' folder.
    """

    states: list[dict[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    slices: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    path: Path
    study: str
    series: str
    when: tuple[str, str]
    order: tuple[int, int, str]


def stage_dicom(paths: Sequence[Path], out: Path, research_id: str, rules: ClinicRules, notes: Notes) -> int:
    """Clean one person's files into ``out/s01/001/0001.dcm`` …; returns how many were written.

    Raises:
        CaseError: S31 files of two persons; T5 text in the pictures; T6 a face without a decision; T1 the result
            still identifies; S12, S26, S29, S30, X7 as in `deidentify.clean` and `dicom_file.read_dicom`.
    """
    files = list(_index(paths, research_id, rules, notes))
    studies = sorted({(file.when, file.study) for file in files})
    first: dict[str, tuple[str, str]] = {}
    for when, study in studies:
        first.setdefault(study, when)
    written = 0
    days = [_day(when) for when in first.values()]
    for order, study in enumerate(first, 1):
        folder = out / f"s{order:02d}"
        series: dict[str, list[_File]] = defaultdict(list)
        for file in files:
            if file.study == study:
                series[file.series].append(file)
        ranked = sorted(
            series.values(),
            key=lambda group: min((f.order[0], keyed_uid(rules.secret, f.series)) for f in group),
        )
        for number, group in enumerate(ranked, 1):
            where = folder / f"{number:03d}"
            written += _stage_series(
                sorted(group, key=lambda f: f.order), where, research_id, order, rules, notes
            )
        day, start = days[order - 1], days[0]
        if folder.is_dir():
            passed = None if day is None or start is None else (day - start).days
            write_json(folder / STUDY, {"exam_order": order, "days_since_first": passed})
    return written


def _index(paths: Sequence[Path], research_id: str, rules: ClinicRules, notes: Notes) -> Iterator[_File]:
    subjects: set[str] = set()
    burned: set[str] = set()
    found: list[_File] = []
    for path in paths:
        head = read_dicom(path, research_id, tags=_INDEX)
        if str(head.get("SOPClassUID", "")) not in tags.STORAGE:
            notes.left_out["objects that are no MR image"] += 1
            continue
        subjects.add(str(head.get("PatientID", "")).strip())
        file = _File(
            path,
            str(head.get("StudyInstanceUID", "")),
            str(head.get("SeriesInstanceUID", "")),
            (str(head.get("StudyDate") or ""), str(head.get("StudyTime") or "")),
            (
                _whole(head.get("SeriesNumber")),
                _whole(head.get("InstanceNumber")),
                keyed_uid(rules.secret, str(head.get("SOPInstanceUID", ""))),
            ),
        )
        if str(head.get("BurnedInAnnotation", "")).strip().upper() not in ("", "NO"):
            burned.add(file.series)
        found.append(file)
    if len(subjects) > 1:
        raise CaseError(
            f"files of {len(subjects)} persons in one folder", "one person per folder", "sort the files",
            code="S31", research_id=research_id,
        )  # fmt: skip
    for file in found:
        if file.series in burned:
            notes.left_out["series with text burned in"] += 1
        else:
            yield file


def _stage_series(
    files: Sequence[_File], out: Path, research_id: str, study_order: int, rules: ClinicRules, notes: Notes
) -> int:
    head, texts, slices = SeriesHead(), 0, 0
    facts: dict[str, dict[str, Any]] = {}
    kinds: Counter[str] = Counter()
    leaving: dict[str, int] = {}
    out.mkdir(parents=True, mode=0o700)
    for number, file in enumerate(_datasets(files, research_id), 1):
        dataset, path = file
        cleaned = clean(
            dataset, secret=rules.secret, research_id=research_id, study_order=study_order,
            keep_age=rules.keep_age, keep_sex=rules.keep_sex, b_sidecar=_stated_b(path, research_id),
        )  # fmt: skip
        left = identifying(cleaned.dataset)
        if left:
            raise CaseError(
                f"a cleaned image that still holds {', '.join(left)}", "nothing outside the allow-list",
                "report this as a fault of the software", code="T1", research_id=research_id,
            )  # fmt: skip
        name = f"{number:04d}.dcm"
        write_dicom(out / name, cleaned.dataset)
        image = pixels.values(cleaned.dataset.PixelData, cleaned.dataset)
        if int(cleaned.dataset.BitsAllocated) > 1:
            head.add(name, cleaned.dataset, image)
            texts, slices = texts + sum(has_text(frame) for frame in image), slices + len(image)
        kinds[cleaned.kind] += 1
        leaving[name] = len(image)
        if cleaned.facts:
            facts[name] = cleaned.facts
    head.kind = max(kinds, key=lambda kind: kinds[kind]) if len(kinds) == 1 else "anatomy"
    if texts > _TEXT_SHARE * slices and research_id not in rules.reviewed:
        raise CaseError(
            f"what looks like text in {texts} of {slices} pictures of series {out.parent.name}/{out.name}",
            "pictures without text", "look at them; seal with --reviewed if it is none", code="T5",
            research_id=research_id,
        )  # fmt: skip
    state, dropped = head.decide(rules.faces)
    if state == "undecided":
        raise CaseError(
            f"series {out.parent.name}/{out.name} shows a head above the jaw", "the clinic's decision",
            "seal with --faces drop, or --faces accept with a reason", code="T6", research_id=research_id,
        )  # fmt: skip
    for name in dropped:
        (out / name).unlink()
        facts.pop(name, None)
        leaving.pop(name, None)
    notes.left_out["slices that show a face"] += len(dropped)
    series = f"{research_id}/{out.parent.name}/{out.name}"
    if state != "none":
        reason = rules.faces.reason if state == "accepted" else ""
        notes.states.append({"series": series, "faces": state, "reason": reason})
    kept = len(leaving)
    if not kept:
        out.rmdir()
        return 0
    notes.slices[series] = sum(leaving.values())
    if facts or state != "none":
        write_json(out / SIDECAR, {"faces": state, "files": facts})
    return kept


def _datasets(files: Sequence[_File], research_id: str) -> Iterator[tuple[Any, Path]]:
    for file in files:
        dataset = read_dicom(file.path, research_id)
        for image in untiled(dataset, research_id) if is_mosaic(dataset) else (dataset,):
            yield image, file.path


def _stated_b(path: Path, research_id: str) -> float | None:
    beside = path.with_name(B_SIDECAR)
    if not beside.is_file():
        return None
    try:
        stated = json.loads(beside.read_text(encoding="utf-8"))
        b = stated.get(path.name, stated.get("*"))
        number = None if b is None else float(b)
    except (OSError, ValueError, TypeError, AttributeError):
        number = math.nan
    if number is not None and not 0 <= number <= 10_000:
        raise CaseError(
            f"{B_SIDECAR} cannot be read", "b in s/mm² by file name", code="S12", research_id=research_id
        )
    return number


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _day(when: tuple[str, str]) -> dt.date | None:
    try:
        return dt.datetime.strptime(when[0].replace(".", "")[:8], "%Y%m%d").date()
    except ValueError:
        return None
