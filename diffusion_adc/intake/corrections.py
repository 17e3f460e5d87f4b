"""A reviewer's corrections of tumor maps → a new reader's map in the cohort.

A corrections file names, for every lesion of a map, one voxel inside it, its size and a decision. The map it
was made on is recognized by its SHA-256, each lesion by voxel and size, so that corrections of another map
cannot slip in. Lesions marked ``remove`` leave the map; ``keep`` and ``unsure`` stay, and case.json records which
they were. Comments are free text that may name a person: they stay in the file and enter no cohort.

The cohort changes as a whole or not at all: it is built anew beside itself, unchanged files linked, and takes
its own place at the end. Its digest changes, as it does with every new reading.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import ID_PATTERN, Case
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import replacing_folder, sha256_bytes, write_json
from diffusion_adc.records.nifti import write_nifti

SCHEMA: Final = "diffusion-adc/corrections/1"
DECISIONS: Final = ("keep", "remove", "unsure")
DELIVERED: Final = "delivered"
"""Name given to a case's own map, so far of no named reader, when a second reading joins it."""
MAX_BYTES: Final = 8 * 2**20
MAX_LESIONS: Final = 10_000
MAX_COMMENT: Final = 500
_CASE_ID: Final = re.compile(f"{ID_PATTERN}_[0-9]{{2}}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_REDO: Final = "save the corrections again from the review page of these maps"


@dataclass(frozen=True)
class Judged:
    """One lesion's decision.

    Attributes:
        lesion: Its number in the map, from 1.
        seed: Voxel index (i, j, k) of the stored grid, inside the lesion.
        voxels: Its size.
        decision: One of `DECISIONS`.
    """

    lesion: int
    seed: tuple[int, int, int]
    voxels: int
    decision: str


@dataclass(frozen=True)
class CaseCorrections:
    """One case of a corrections file.

    Attributes:
        case_id: Checked for its form.
        tumor_adc_sha256: Of the map that was judged.
        lesions: All its lesions.
        file_sha256: Of the corrections file.
    """

    case_id: str
    tumor_adc_sha256: str
    lesions: tuple[Judged, ...]
    file_sha256: str


@dataclass
class CorrectionReport:
    """What became of each case.

    Attributes:
        reader: Whose map it is.
        cases: Per case taken in: ``case``, ``keep``, ``remove``, ``unsure``, ``volume_ml``.
        refused: Messages of what was left out.
        warnings: Messages of cases taken in with a doubt.
        comments: Number of comments, which stay in the files.
        digest: The cohort's, afterwards.
    """

    reader: str
    cases: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    comments: int = 0
    digest: str = ""

    def table(self) -> str:
        """The report as text."""
        lines = [f"reader {self.reader}: {len(self.cases)} cases in, {len(self.refused)} refused"]
        lines += ["  " + "  ".join(f"{key} {value}" for key, value in row.items()) for row in self.cases]
        lines += [f"  warning {text}" for text in self.warnings]
        lines += [f"  refused {text}" for text in self.refused]
        if self.comments:
            lines.append(
                f"{self.comments} comments stay in the corrections files: free text enters no cohort"
            )
        if self.cases:
            lines.append("the cohort's digest has changed: run `diffusion-adc draw` again before `evaluate`")
        return "\n".join(lines)


def ingest_corrections(cohort_dir: Path, maps_dir: Path, source: Path, reader: str) -> CorrectionReport:
    """Make a reader's map of every case in a corrections file.

    Args:
        cohort_dir: The cohort, which gains a reader.
        maps_dir: The maps that were reviewed.
        source: A corrections file, or a folder of them.
        reader: Code of the reader, never a name.

    Returns:
        The report; `refused` names each case that was left out. With no case left the cohort is untouched.

    Raises:
        UsageError: No cohort, no maps or no corrections there, or a reader's code of another form.
        CohortError: The cohort is damaged.
        DiffusionAdcError: The disk is full or the folder cannot be written; the cohort is unchanged.
    """
    cohort = cohorts.read_cohort(cohort_dir)
    files.read_maps_manifest(maps_dir)
    _check_reader(reader, cohort.cases)
    report = CorrectionReport(reader)
    known = {case.case_id: case for case in cohort.cases}
    made: dict[str, _Reading] = {}
    for corrections in _read_all(source, report):
        try:
            if corrections.case_id in made:
                raise _refusal(corrections, "corrections of one case twice", "one file per case and reader")
            case = known.get(corrections.case_id)
            if case is None:
                raise _refusal(corrections, "a case that the cohort does not have", "a case of the cohort")
            made[case.case_id] = _reading(cohort_dir, maps_dir, case, corrections, reader)
        except CaseError as error:
            report.refused.append(str(error))
    if not made:
        return report
    with replacing_folder(cohort_dir) as staged:
        _link(cohort_dir, staged)
        done = {case_id: _write(staged, reading, reader) for case_id, reading in made.items()}
        cases = tuple(done.get(case.case_id, case) for case in cohort.cases)
        changed = replace(cohort, cases=cases)
        cohorts.write_manifest(staged, changed)
    report.digest = changed.digest
    for case_id, reading in sorted(made.items()):
        report.cases.append({"case": case_id, **reading.row()})
        report.warnings += reading.warnings
    return report


@dataclass(frozen=True)
class _Reading:
    """A reader's map ready to be written."""

    case: Case
    corrections: CaseCorrections
    labels: NDArray[np.uint16]
    adc: NDArray[np.float32]
    affine: NDArray[np.float64]
    kept: Mapping[int, int]
    """Lesion number in the map → in the reader's map."""
    warnings: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        counts = {name: sum(j.decision == name for j in self.corrections.lesions) for name in DECISIONS}
        volume = float(np.count_nonzero(self.labels)) * voxel_volume_ml(self.affine)
        return {**counts, "volume_ml": round(volume, 4)}

    def record(self) -> dict[str, Any]:
        return {
            "file_sha256": self.corrections.file_sha256,
            "tumor_adc_sha256": self.corrections.tumor_adc_sha256,
            "lesions": [
                {"lesion": j.lesion, "decision": j.decision, "label": self.kept.get(j.lesion, 0)}
                for j in self.corrections.lesions
            ],
        }


def _check_reader(reader: str, cases: Sequence[Case]) -> None:
    try:
        replace(cases[0], readers=(reader,), files={})
    except CaseError:
        raise UsageError(
            "a reader's code of another form", "letters, digits, - and _, at most 32", "give --reader a code"
        ) from None


def _refusal(
    corrections: CaseCorrections, found: str, expected: str, do: str = _REDO, code: str | None = None
) -> CaseError:
    research_id = corrections.case_id.rsplit("_", 1)[0]
    return CaseError(found, expected, do, code=code, research_id=research_id, sequence=seq.TUMOR_LABEL)


def _read_all(source: Path, report: CorrectionReport) -> list[CaseCorrections]:
    if source.is_dir():
        paths = sorted(path for path in source.glob("*.json") if path.is_file())
    else:
        paths = [source] if source.is_file() else []
    if not paths:
        raise UsageError("no corrections there", "a corrections file or a folder of them", "check the path")
    found: list[CaseCorrections] = []
    for number, path in enumerate(paths, start=1):
        try:
            cases, comments = read_corrections(path)
        except CaseError as error:
            # Told by its place: a file's name may say more than a research ID.
            report.refused.append(f"{error} (file {number} of {len(paths)})")
            continue
        found += cases
        report.comments += comments
    return found


def read_corrections(path: Path) -> tuple[list[CaseCorrections], int]:
    """The cases of one corrections file and the number of its comments.

    Raises:
        CaseError: It is none, is damaged, or a lesion has no decision.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise _Malformed
        record = json.loads(raw.decode("utf-8"))
        if record["schema"] != SCHEMA or not record["cases"]:
            raise _Malformed
        digest = sha256_bytes(raw)
        cases = [_case(_typed(entry, dict), digest) for entry in _typed(record["cases"], list)]
        comments = sum(bool(_comment(row)) for entry in record["cases"] for row in entry["lesions"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, _Malformed):
        raise CaseError("a file that holds no corrections", f"JSON of the schema {SCHEMA}", _REDO) from None
    return cases, comments


class _Malformed(Exception):
    """Something in the file is not what its schema says."""


def _typed(value: Any, kind: type) -> Any:
    # bool is an int to Python and to nobody else.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Malformed
    return value


def _comment(row: Mapping[str, Any]) -> str:
    text = _typed(row.get("comment", ""), str)
    if len(text) > MAX_COMMENT:
        raise _Malformed
    return str(text).strip()


def _case(entry: Mapping[str, Any], digest: str) -> CaseCorrections:
    case_id, sha256 = _typed(entry["case_id"], str), _typed(entry["tumor_adc_sha256"], str)
    if not _CASE_ID.fullmatch(case_id) or not _SHA256.fullmatch(sha256):
        raise _Malformed
    rows = _typed(entry["lesions"], list)
    if len(rows) > MAX_LESIONS:
        raise _Malformed
    lesions = []
    for row in rows:
        i, j, k = (_typed(value, int) for value in _typed(_typed(row, dict)["seed"], list))
        number, voxels, decision = _typed(row["lesion"], int), _typed(row["voxels"], int), row["decision"]
        if decision is None:
            raise CaseError(
                f"lesion {number} without a decision", ", ".join(DECISIONS), "decide on every lesion",
                research_id=case_id.rsplit("_", 1)[0], sequence=seq.TUMOR_LABEL,
            )  # fmt: skip
        if decision not in DECISIONS:
            raise _Malformed
        lesions.append(Judged(number, (i, j, k), voxels, decision))
    return CaseCorrections(case_id, sha256, tuple(lesions), digest)


def _reading(
    cohort_dir: Path, maps_dir: Path, case: Case, corrections: CaseCorrections, reader: str
) -> _Reading:
    if reader in case.readers or (not case.readers and case.has_target and reader == DELIVERED):
        raise _refusal(corrections, f"reader {reader} a second time", "a new reader", "choose another code")
    record = files.read_map_record(maps_dir, case.case_id) if _drawn(maps_dir, case) else {}
    if record.get("sha256", {}).get(files.TUMOR_ADC) != corrections.tumor_adc_sha256:
        raise _refusal(corrections, "corrections of another map", "the map's SHA-256", code="S25")
    tumor = files.read_map_volume(maps_dir, case.case_id, files.TUMOR_ADC)
    adc = cohorts.load_volume(cohort_dir, case, seq.ADC)
    presence = tumor.array != 0
    if tumor.array.shape != adc.array.shape or np.any(tumor.array[presence] != adc.array[presence]):
        raise _refusal(
            corrections, "a map that is no selection of the cohort's ADC", "maps drawn for this cohort",
            "check the cohort", "S23",
        )  # fmt: skip
    lesions = _lesions(presence, corrections)
    labels = np.zeros(presence.shape, dtype=np.uint16)
    kept: dict[int, int] = {}
    for judged, place in lesions:
        if judged.decision != "remove":
            kept[judged.lesion] = len(kept) + 1
            labels[place] = kept[judged.lesion]
    empty, target = not kept, case.has_target or bool(case.readers)
    if empty and not target and case.tumor_status != "absent":
        raise _refusal(
            corrections, "no lesion left in a case whose tumor status is not absent", "a lesion, or a tumor-free case",
            "declare the case tumor-free where it is ingested", "S19",
        )  # fmt: skip
    doubt = (
        "lesions kept in a case declared tumor-free" if not empty and case.tumor_status == "absent" else ""
    )
    warnings = (f"S19 {case.research_id} {seq.TUMOR_LABEL}: {doubt}",) if doubt else ()
    return _Reading(case, corrections, labels, np.where(labels > 0, adc.array, np.float32(0)), adc.affine, kept, warnings)  # fmt: skip


def _drawn(maps_dir: Path, case: Case) -> bool:
    return (maps_dir / case.case_id / "case.json").is_file()


def _lesions(presence: NDArray[np.bool_], corrections: CaseCorrections) -> list[tuple[Judged, Any]]:
    """Each judged lesion with its voxels; every component of the map exactly once."""
    components, count = ndimage.label(presence, structure=np.ones((3, 3, 3), dtype=bool))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    found: dict[int, Judged] = {}
    for judged in corrections.lesions:
        inside = all(0 <= at < length for at, length in zip(judged.seed, presence.shape, strict=True))
        component = int(components[judged.seed]) if inside else 0
        if component == 0 or component in found or sizes[component] != judged.voxels:
            raise _refusal(
                corrections, f"lesion {judged.lesion} where the map has none like it", "the map's lesions"
            )
        found[component] = judged
    if len(found) != count or len({j.lesion for j in found.values()}) != count:
        raise _refusal(corrections, f"decisions on {len(found)} of {count} lesions", "one for each lesion")
    ordered = sorted(found.items(), key=lambda item: item[1].lesion)
    return [(judged, components == component) for component, judged in ordered]


def _link(cohort_dir: Path, staged: Path) -> None:
    """The cohort's files under a second name each: nothing is copied, nothing can be lost."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copy2(source, target)

    shutil.copytree(cohort_dir, staged, copy_function=link, dirs_exist_ok=True)


def _write(staged: Path, reading: _Reading, reader: str) -> Case:
    """Write the reader's map and say so in case.json; returns the case's new row."""
    case, folder = reading.case, staged / "cases" / reading.case.case_id
    stored = dict(case.files)
    readers = case.readers
    if not readers and case.has_target:  # the first reader's map is the case's own, so it needs a reader now
        readers = (DELIVERED,)
        for name in (seq.TUMOR_ADC, seq.TUMOR_LABEL):
            if name in stored:
                key = cohorts.reader_file(DELIVERED, name)
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / f"{name}.nii.gz", folder / f"{key}.nii.gz")
                stored[key] = stored[name]
    maps: dict[str, NDArray[np.generic]] = {seq.TUMOR_ADC: reading.adc, seq.TUMOR_LABEL: reading.labels}
    for name, array in maps.items():
        keys = [cohorts.reader_file(reader, name)] + ([] if readers else [name])
        for key in keys:
            array = np.asarray(array, dtype=cohorts.DTYPES.get(name, np.float32))
            stored[key] = write_nifti(folder / f"{key}.nii.gz", array, reading.affine)
    status = "present" if not readers and case.tumor_status == "unknown" else case.tumor_status
    done = replace(case, files=dict(sorted(stored.items())), readers=(*readers, reader), tumor_status=status)
    record = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    record |= {"files": dict(done.files), "readers": list(done.readers), "tumor_status": status}
    record["corrections"] = {**record.get("corrections", {}), reader: reading.record()}
    write_json(folder / "case.json", record)
    return done
