"""The carrying out of a withdrawal from its journal; every step may be repeated after an interruption."""

from __future__ import annotations

import datetime as dt
import glob
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_adc.custody import auditlog, lineage
from diffusion_adc.custody.certificate import read_certificate, sign_certificate, write_certificate
from diffusion_adc.custody.redact import Names, redact
from diffusion_adc.custody.traces import TRUTH, Scope, find_traces
from diffusion_adc.domain.errors import CohortError
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.atomic import write_bytes, write_json
from diffusion_adc.records.runs import TAINT

_PASSES: Final = 4
"""Looks for what a process that was still running wrote meanwhile."""
STATEMENT: Final = (
    "The files counted here were deleted from the file system. Copies in backups, in delivered packages and at "
    "a tracker's server are outside this command's reach and listed for people. Trained weights do not forget: "
    "the runs named here are blocked, and whether they are kept is the committee's decision. Aggregates "
    "published before the effective time stay."
)


def carry_out(cohort: Path, journal: dict[str, Any], key: Ed25519PrivateKey | None) -> None:
    """Do what the journal says, then remove it.

    Args:
        cohort: The cohort's folder, locked by the caller.
        journal: As `withdraw` wrote it.
        key: Signs the certificate.

    Raises:
        CohortError: A file cannot be deleted or rewritten, or the log or a table is damaged; the journal stays.
    """
    number, log = journal["number"], cohort / cohorts.AUDIT
    persons = sorted(lineage.keyed_hash(rid, journal["salt"]) for rid in journal["ids"])
    common = {"withdrawal": number}

    def note(event: str, **facts: Any) -> str:
        return auditlog.append(log, {**common, "event": event, "when": now(), **facts})

    note(
        "begun", effective=journal["when"], decision=journal["decision"], persons=persons,
        salt=journal["salt"], cases=journal["cases"], digest_before=journal["digest_before"],
    )  # fmt: skip
    _clear_leftovers(cohort, journal)
    _tombstones(cohort, journal)
    note("tombstoned", persons=len(persons))
    _mark(journal)
    checkpoints = sorted({d for run in journal["tainted"] for d in run["checkpoints"].values()})
    note("tainted", runs=[run["name"] for run in journal["tainted"]], checkpoints=checkpoints)
    for _, path in journal["delete"]:
        _remove(Path(path))
    deleted = counts(journal)
    note("deleted", **deleted)
    names = Names(journal["ids"])
    for path in journal["redact"]:
        redact(Path(path), names)
    for path in journal["sidecars"]:
        _shorten(Path(path))
    cohorts.drop_withdrawn(cohort, journal["digest_after"])
    _truth_digest(cohort, journal)
    note("rewritten", files=len(journal["redact"]), digest_after=journal["digest_after"])
    listed = _verify(cohort, journal, names)
    note("verified", files_listed=listed, traces_left=0)
    certificate = certificate_path(cohort, journal)
    if not certificate.is_file():
        digest = write_certificate(certificate, _certificate(journal, persons, deleted, listed), key)
    else:  # written before an interruption
        digest = read_certificate(certificate)["sha256"]
    sign_last(cohort, key)
    note("finished", certificate_sha256=digest)
    (cohort / cohorts.JOURNAL).unlink()


def _clear_leftovers(cohort: Path, journal: dict[str, Any]) -> None:
    """Temporaries that an interruption left beside the files this withdrawal writes."""
    written = [Path(path) for path in (*journal["redact"], *journal["sidecars"])]
    marked = (*journal["maps"], *(run["path"] for run in journal["tainted"]))
    written += [Path(folder) / TAINT for folder in marked]
    written += [cohort / name for name in (cohorts.AUDIT, cohorts.WITHDRAWN, cohorts.JOURNAL)]
    written += [certificate_path(cohort, journal), _truth_manifest(cohort)]
    for path in written:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            _remove(leftover)


def _tombstones(cohort: Path, journal: dict[str, Any]) -> None:
    new = sorted(set(journal["ids"]) - cohorts.tombstoned(cohort))
    if not new:
        return
    path = cohort / cohorts.WITHDRAWN
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    rows = [{"research_id": r, "when": journal["when"], "decision": journal["decision"]} for r in new]
    write_bytes(path, before + "".join(json.dumps(row) + "\n" for row in rows).encode())


def _mark(journal: dict[str, Any]) -> None:
    entry = {"reason": "withdrawal", "when": journal["when"], "decision": journal["decision"]}
    for run in journal["tainted"]:
        folder = Path(run["path"])
        key = lineage.read_record(folder).get("case_key")
        mark = {**entry, "withdrawal": journal["number"], "checkpoints": run["checkpoints"]}
        if isinstance(key, str):
            used = lineage.persons_used(lineage.read_record(folder), journal["ids"])
            mark["persons"] = sorted(lineage.keyed_hash(rid, key) for rid in used)
        if folder.is_dir():
            lineage.taint(folder, mark)
    for path in journal["maps"]:
        if Path(path).is_dir():
            lineage.taint(Path(path), {**entry, "withdrawal": journal["number"]})


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CohortError(
            f"a file to be deleted stays ({os.strerror(error.errno or 0)})", "permission to delete it",
            "correct the permissions; the next command on the cohort goes on with the withdrawal",
        ) from None  # fmt: skip


def _shorten(sidecar: Path) -> None:
    """Drop the pictures that are gone from a list of pictures."""
    noted = lineage.noted_pictures(sidecar.parent)
    kept = {name: value for name, value in noted.items() if (sidecar.parent / name).exists()}
    if sidecar.exists() and kept != noted:
        write_json(sidecar, kept)


def _truth_manifest(cohort: Path) -> Path:
    return cohort.with_name(f"{cohort.name}{TRUTH}") / "truth.json"


def _truth_digest(cohort: Path, journal: dict[str, Any]) -> None:
    """The sealed truth of digital patients names the cohort it belongs to."""
    path = _truth_manifest(cohort)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(manifest, dict) and manifest.get("cohort_digest") == journal["digest_before"]:
        write_json(path, {**manifest, "cohort_digest": journal["digest_after"]})


def _verify(cohort: Path, journal: dict[str, Any], names: Names) -> int:
    """Look through everything again until nothing is found; returns how many files were looked at."""
    scope = Scope(
        cohort, tuple(journal["ids"]), None if journal["runs"] is None else Path(journal["runs"]),
        tuple(folder for folder in map(Path, journal["also"]) if folder.is_dir()), frozenset(journal["digests"]),
        {int(size): frozenset(found) for size, found in journal["images"].items()},
    )  # fmt: skip
    if scope.runs is not None and not scope.runs.is_dir():
        scope = replace(scope, runs=None)
    for _ in range(_PASSES):
        traces = find_traces(scope)
        if not traces.any_left:
            return traces.listed
        for _, path in traces.delete:
            _remove(path)
        for path in traces.redact:
            redact(path, names)
        for path in traces.sidecars:
            _shorten(path)
    raise CohortError(
        "traces of a withdrawn person keep appearing", "no process that writes them",
        "stop running trainings and drawings on this cohort; the next command goes on with the withdrawal",
    )  # fmt: skip


def _certificate(
    journal: dict[str, Any], persons: list[str], deleted: dict[str, int], listed: int
) -> dict[str, Any]:
    return {
        "kind": "withdrawal certificate",
        "number": journal["number"],
        "effective": journal["when"],
        "completed": now(),
        "decision": journal["decision"],
        "persons_hmac_sha256": persons,
        "salt": journal["salt"],
        "cases": journal["cases"],
        "deleted": deleted,
        "rewritten": len(journal["redact"]),
        "verified": {"files_listed": listed, "traces_left": 0},
        "tainted_runs": [run["name"] for run in journal["tainted"]],
        "tainted_checkpoints_sha256": sorted(
            d for run in journal["tainted"] for d in run["checkpoints"].values()
        ),
        "tracker_runs_to_delete_by_hand": journal["tracker"],
        "left_to_people": journal["by_hand"],
        "cohort_digest_before": journal["digest_before"],
        "cohort_digest_after": journal["digest_after"],
        "statement": STATEMENT,
    }


def counts(journal: dict[str, Any]) -> dict[str, int]:
    """Files and folders to delete, by kind."""
    return dict(sorted(Counter(kind for kind, _ in journal["delete"]).items()))


def certificate_path(cohort: Path, journal: dict[str, Any]) -> Path:
    """Where the withdrawal's certificate lies."""
    return cohort / cohorts.CERTIFICATES / f"{journal['number']:04d}.json"


def sign_last(cohort: Path, key: Ed25519PrivateKey | None) -> None:
    """Sign the newest certificate if it is not signed yet: an interrupted withdrawal may be finished without a key."""
    found = sorted((cohort / cohorts.CERTIFICATES).glob("[0-9]*.json"))
    if key is not None and found:
        sign_certificate(found[-1], key)


def now() -> str:
    """The time, UTC, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
