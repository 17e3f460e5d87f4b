"""Cohorts on disk: cohort.json, cases.csv, clinical.csv, withdrawn.jsonl and a folder of volumes per case."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case, check_research_id
from diffusion_adc.domain.clinical import CORE, LATER, TNM, Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, CohortError, UsageError
from diffusion_adc.domain.units import spacing_mm
from diffusion_adc.records.atomic import (
    replacing_together,
    restored,
    settle,
    write_bytes,
    write_csv,
    write_json,
)
from diffusion_adc.records.nifti import Volume, read_nifti, write_nifti

SCHEMA_VERSION: Final = 1
DTYPES: Final[Mapping[str, type[np.generic]]] = {seq.VALID: np.uint8, seq.TUMOR_LABEL: np.uint16}
"""Stored type by volume; every other volume is float32."""

_CASE_FIELDS: Final = tuple(f.name for f in fields(Case))
CASE_COLUMNS: Final = ("case_id", *_CASE_FIELDS)
_CLINICAL_COLUMNS: Final = ("research_id", *CORE)
_TEXT_COVARIATES: Final = ("sex", "treatment", "primary", "stage", *TNM)
WITHDRAWN: Final = "withdrawn.jsonl"
"""Tombstones, one JSON object per line."""
AUDIT: Final = "audit.jsonl"
"""Hash-chained log of withdrawals."""
CERTIFICATES: Final = "withdrawals"
"""Folder of withdrawal certificates."""
CUSTODY_FILES: Final = (WITHDRAWN, AUDIT, CERTIFICATES)
"""What a new delivery into the same folder must carry over: it does not undo a withdrawal."""
JOURNAL: Final = "withdrawal.pending.json"
"""There while a withdrawal is under way, or was interrupted."""
_MANIFEST: Final = ("provenance", "legal_basis", "id_pattern", "digest")


class InterruptedWithdrawal(CohortError):
    """A withdrawal from the cohort was interrupted and must be finished before anything is read.

    The cohort's folder is kept in `cohort_dir`, never in the message.
    """

    cohort_dir: Path | None = None


def reader_file(reader: str, name: str) -> str:
    """Key of a reader's volume in `Case.files`."""
    return f"readers/{reader}/{name}"


def write_case(
    cohort_dir: Path,
    case: Case,
    volumes: Mapping[str, NDArray[np.generic]],
    affine: NDArray[np.floating],
    readers: Mapping[str, Mapping[str, NDArray[np.generic]]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Case:
    """Write one case's volumes and its case.json.

    Args:
        cohort_dir: The cohort's folder.
        case: Its row; `files` and `readers` are filled in here.
        volumes: (I, J, K) arrays by name of `sequences.VOLUMES`; ADC in 1e-3 mm²/s.
        affine: (4, 4), one grid for all.
        readers: Per reader, ``tumor_adc`` and ``tumor_label``; the first reader's must equal the case's own.
        extra: JSON values kept in case.json (how b-values and units were found, …).

    Returns:
        The case with the SHA-256 of every file.

    Raises:
        CohortError: A volume has an unknown name or another shape.
    """
    shape = np.shape(volumes[seq.ADC])
    stored = dict(volumes)
    for reader, maps in (readers or {}).items():
        stored.update({reader_file(reader, name): array for name, array in maps.items()})
    files: dict[str, str] = {}
    for key, array in stored.items():
        name = key.rsplit("/", 1)[-1]
        if name not in seq.VOLUMES or np.shape(array) != shape:
            raise CohortError(
                f"volume {name} of shape {np.shape(array)}", f"a known name and shape {shape}",
                research_id=case.research_id,
            )  # fmt: skip
        path = cohort_dir / "cases" / case.case_id / f"{key}.nii.gz"
        if key.startswith("readers/") and next(iter(readers or {})) == key.split("/")[1]:
            own = stored.get(name)
            if own is not None and not np.array_equal(own, array):
                raise CohortError(
                    f"the first reader's {name} differs from the case's own", "the same map",
                    research_id=case.research_id,
                )  # fmt: skip
        files[key] = write_nifti(path, np.asarray(array, dtype=DTYPES.get(name, np.float32)), affine)
    done = replace(case, files=dict(sorted(files.items())), readers=tuple(readers or ()))
    record = {
        **_row(done), "shape": [int(n) for n in shape], "spacing_mm": list(spacing_mm(np.asarray(affine))),
        "affine": np.asarray(affine, dtype=float).tolist(), **(extra or {}),
    }  # fmt: skip
    write_json(cohort_dir / "cases" / case.case_id / "case.json", record)
    return done


def _row(case: Case) -> dict[str, Any]:
    row = asdict(case)
    row["files"], row["readers"], row["declared"] = dict(case.files), list(case.readers), list(case.declared)
    return {"case_id": case.case_id, **row}


def write_manifest(cohort_dir: Path, cohort: Cohort) -> None:
    """Write cohort.json, cases.csv and clinical.csv, all of them or none."""
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "provenance": cohort.provenance,
        "legal_basis": cohort.legal_basis,
        "id_pattern": cohort.id_pattern,
        "created": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "digest": cohort.digest,
    }
    with replacing_together(cohort_dir) as folder:
        _write_tables(folder, cohort)
        write_json(folder / "cohort.json", manifest)


def _write_tables(cohort_dir: Path, cohort: Cohort) -> None:
    rows = []
    for case in sorted(cohort.cases, key=lambda c: c.case_id):
        row = {key: "" if value is None else value for key, value in _row(case).items()}
        row["readers"], row["declared"] = ";".join(case.readers), ";".join(case.declared)
        row["files"] = ";".join(f"{name}={digest}" for name, digest in case.files.items())
        rows.append(row)
    write_csv(cohort_dir / "cases.csv", rows, CASE_COLUMNS)
    known = [(rid, row.record()) for rid, row in sorted(cohort.clinical.items())]
    columns = (*_CLINICAL_COLUMNS, *(name for name in LATER if any(name in row for _, row in known)))
    clinical = [
        {"research_id": rid} | {name: _cell(row.get(name)) for name in columns[1:]} for rid, row in known
    ]
    write_csv(cohort_dir / "clinical.csv", clinical, columns)


def _cell(value: Any) -> Any:
    return "" if value is None else ";".join(value) if isinstance(value, tuple) else value


def read_cohort(cohort_dir: Path) -> Cohort:
    """Read and validate a cohort; withdrawn persons disappear here.

    Raises:
        UsageError: The folder holds no cohort.
        InterruptedWithdrawal: A withdrawal was interrupted and is not finished yet.
        CohortError: A table was changed after the manifest was written, or holds no case.
    """
    _refuse_interrupted(cohort_dir)  # before the digests, which half rewritten tables do not match
    stored, manifest = read_stored(cohort_dir)
    if stored.digest != manifest["digest"]:
        raise CohortError(
            "cases.csv or clinical.csv differ from the manifest's digest",
            do="restore them or make the cohort again",
        )
    effective = replace(stored, withdrawn=withdrawn_ids(cohort_dir))
    if not effective.cases:
        raise CohortError("no case in the cohort", "at least one", "add cases")
    return effective


def read_stored(cohort_dir: Path) -> tuple[Cohort, dict[str, Any]]:
    """The tables as they stand, withdrawn persons and all, and cohort.json; digests are not compared.

    Only what deletes persons may ask for this; everything else reads with `read_cohort`.

    Raises:
        UsageError: The folder holds no cohort.
        CohortError: A table or the manifest is missing or damaged.
    """
    settle(cohort_dir)
    try:
        manifest = json.loads((cohort_dir / "cohort.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"no cohort in {cohort_dir.name or '.'}", "a folder with cohort.json",
            "make one with `diffusion-adc phantom` or `diffusion-adc ingest`",
        ) from None  # fmt: skip
    except (OSError, ValueError):
        raise CohortError("cohort.json is damaged", "JSON", "make the cohort again") from None
    if not isinstance(manifest, dict) or not set(_MANIFEST) <= {
        key for key, value in manifest.items() if isinstance(value, str)
    }:
        raise CohortError("cohort.json is damaged", f"text under {', '.join(_MANIFEST)}", "make it again")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise CohortError(
            f"cohort schema {manifest.get('schema_version')}", f"{SCHEMA_VERSION}", "make the cohort again"
        )
    try:
        cohort = Cohort(
            cases=tuple(_case(row) for row in _table(cohort_dir / "cases.csv", CASE_COLUMNS)),
            clinical=_clinical(_table(cohort_dir / "clinical.csv", _CLINICAL_COLUMNS, LATER)),
            **{key: manifest[key] for key in ("provenance", "legal_basis", "id_pattern")},
        )
    except (re.error, RecursionError):
        raise CohortError("cohort.json has an unreadable id_pattern", "a regular expression") from None
    return cohort, manifest


def drop_withdrawn(cohort_dir: Path, digest: str) -> None:
    """Rewrite the tables without the persons who withdrew; every other row keeps its bytes.

    Tables that an interruption left half rewritten are completed.

    Args:
        cohort_dir: The cohort's folder.
        digest: Of the cohort without these persons, taken while the tables still had their own digest.

    Raises:
        CohortError: The remaining rows are not those the digest was taken of.
    """
    stored, manifest = read_stored(cohort_dir)
    kept = replace(stored, withdrawn=tombstoned(cohort_dir))
    if kept.digest != digest:
        raise CohortError(
            "the rows of the persons who remain were changed", "the tables as they were",
            "restore cases.csv and clinical.csv",
        )  # fmt: skip
    if (len(kept.cases), len(kept.clinical)) != (len(stored.cases), len(stored.clinical)):
        _write_tables(cohort_dir, kept)
    if manifest["digest"] != digest:
        write_json(cohort_dir / "cohort.json", {**manifest, "digest": digest})


def _table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    do = "restore it or make the cohort again"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream, strict=True)) or [[]]
    except FileNotFoundError:
        raise CohortError(f"{path.name} is missing", do=do) from None
    except (OSError, ValueError, csv.Error):
        raise CohortError(f"{path.name} cannot be read", "a UTF-8 table", do) from None
    wanted = [*columns, *(name for name in optional if name in header)]
    if header != wanted or any(len(row) != len(wanted) for row in rows):
        raise CohortError(f"{path.name} has other columns", ", ".join(columns), do)
    return [dict(zip(header, map(restored, row), strict=True)) for row in rows]


def _case(row: Mapping[str, str]) -> Case:
    try:
        known: dict[str, Any] = {name: row[name] for name in _CASE_FIELDS}
        for name in ("exam_order", "study_order"):
            known[name] = int(known[name])
        for name in ("b_low", "b_high", "field_t"):
            known[name] = float(known[name]) if known[name] else None
        for name in ("readers", "declared"):
            known[name] = tuple(part for part in known[name].split(";") if part)
        known["files"] = dict(part.split("=", 1) for part in known["files"].split(";") if part)
    except ValueError:
        raise _unreadable("cases.csv") from None
    return Case(**known)


def _unreadable(name: str) -> CohortError:
    return CohortError(f"{name} has an unreadable row", do="restore it or make the cohort again")


def _clinical(rows: Sequence[dict[str, str]]) -> dict[str, Covariates]:
    table = {row.pop("research_id"): _covariates(row) for row in rows}
    if len(table) != len(rows):
        raise CohortError("clinical.csv has two rows for one person", "one row per person")
    return table


def _covariates(row: Mapping[str, str]) -> Covariates:
    known = {name: text for name, text in row.items() if text != ""}
    values: dict[str, Any] = dict(known)
    try:
        for name, text in known.items():
            if name in ("comorbidity", "recurrence"):
                values[name] = {"True": True, "False": False}[text]
            elif name == "below_detection":
                values[name] = tuple(text.split(";"))
            elif name not in _TEXT_COVARIATES:
                values[name] = float(text)
    except (KeyError, ValueError):
        raise _unreadable("clinical.csv") from None
    return Covariates(**values)


def withdrawn_ids(cohort_dir: Path) -> frozenset[str]:
    """Research IDs of the persons who withdrew from the cohort.

    Raises:
        InterruptedWithdrawal: A withdrawal is not finished yet.
        CohortError: The tombstones cannot be read.
    """
    _refuse_interrupted(cohort_dir)
    return tombstoned(cohort_dir)


def _refuse_interrupted(cohort_dir: Path) -> None:
    if (cohort_dir / JOURNAL).exists():
        error = InterruptedWithdrawal(
            "a withdrawal from this cohort was interrupted", "a finished one",
            "any `diffusion-adc` command on the cohort finishes it first",
        )  # fmt: skip
        error.cohort_dir = cohort_dir
        raise error


def tombstoned(cohort_dir: Path) -> frozenset[str]:
    """Research IDs in withdrawn.jsonl, whether or not their withdrawal is finished.

    Raises:
        CohortError: The tombstones cannot be read; nothing may go on then, or a withdrawal would be forgotten.
    """
    path = cohort_dir / WITHDRAWN
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        # An ID with a slip of the pen would match nobody, and the withdrawal would be forgotten in silence.
        return frozenset(
            check_research_id(str(json.loads(line)["research_id"])) for line in lines if line.strip()
        )
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, CaseError):
        raise CohortError(
            "withdrawn.jsonl has an unreadable line", "one tombstone per line",
            "restore it before anything is read",
        ) from None  # fmt: skip


def carry_custody(old: Path, new: Path) -> None:
    """Take the tombstones, the log and the certificates of a cohort into its successor's folder."""
    for name in CUSTODY_FILES:
        for path in [old / name, *sorted((old / name).glob("*.json"))]:
            if path.is_file():
                write_bytes(new / path.relative_to(old), path.read_bytes())


def load_volume(
    cohort_dir: Path, case: Case, name: str, reader: str | None = None, *, verify: bool = True
) -> Volume:
    """One of a case's volumes, its hash checked.

    Args:
        cohort_dir: The cohort's folder.
        case: The case.
        name: One of `sequences.VOLUMES`.
        reader: A reader's own map instead of the first reader's.
        verify: Compare the file's SHA-256 with the manifest's.

    Returns:
        float32 (I, J, K), uint8 for ``valid``, uint16 for ``tumor_label``.

    Raises:
        CohortError: S01 the case has no such volume.
        CaseError: S25 the file is damaged or not the one recorded.
    """
    key = reader_file(reader, name) if reader else name
    if key not in case.files:
        raise CohortError(
            f"no {key}", "a volume the case has", code="S01", research_id=case.research_id, sequence=name
        )
    return read_nifti(
        cohort_dir / "cases" / case.case_id / f"{key}.nii.gz",
        DTYPES.get(name, np.float32),
        sha256=case.files[key] if verify else None,
        research_id=case.research_id,
        sequence=name,
    )


def presence_readings(cohort_dir: Path, case: Case) -> list[NDArray[np.bool_]]:
    """Each reader's presence (I, J, K), the first reader's first; the case's own map if no reader is named."""
    readers: Sequence[str | None] = case.readers or ((None,) if case.has_target else ())
    labels = (load_volume(cohort_dir, case, seq.TUMOR_LABEL, reader).array for reader in readers)
    return [np.asarray(array, dtype=bool) for array in labels]
