"""Which persons a run, a checkpoint, a picture or a map came from, and whether it may still be used.

A run names its cases as keyed hashes (HMAC-SHA256 of the case ID under the run's own key), its pictures the
same way in ``grids/cases.json``; a run that began from another run's checkpoint carries that run's hashes too.
Maps, stores and pages name their cases openly, since they lie beside them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from diffusion_adc.custody.auditlog import read_log
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.atomic import sha256_file, write_json
from diffusion_adc.records.cohort import AUDIT, tombstoned
from diffusion_adc.records.runs import read_taint, write_taint

RECORD: Final = "record.json"
PICTURES: Final = "cases.json"
"""Beside pictures: keyed hash of the case by file name."""
CHECKPOINTS: Final = "checkpoints"
EXAMS: Final = 99
"""Largest order of an examination that a case ID can hold."""
_DECISION: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}"


def keyed_hash(case_id: str, key: str) -> str:
    """HMAC-SHA256 of a case ID (or of a research ID), hexadecimal.

    Args:
        case_id: What is hidden.
        key: Hexadecimal.
    """
    return hmac.new(bytes.fromhex(key), case_id.encode(), hashlib.sha256).hexdigest()


def case_names(research_id: str) -> list[str]:
    """Every case ID the person can have."""
    return [f"{research_id}_{order:02d}" for order in range(1, EXAMS + 1)]


def check_decision(decision: str) -> str:
    """Return a decision's reference if it is one: a number in the files of the committee, not a sentence.

    Raises:
        UsageError: It is not.
    """
    if not re.fullmatch(_DECISION, decision, re.ASCII):
        raise UsageError(
            "a decision that is no reference", "up to 64 of A-Z a-z 0-9 . _ / -, e.g. IRB-2026/014",
            "give the reference under which the decision is filed, no free text",
        )  # fmt: skip
    return decision


def read_record(run_dir: Path) -> dict[str, Any]:
    """RUN/record.json; empty if it is missing or damaged."""
    try:
        record = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def persons_used(record: Mapping[str, Any], research_ids: Iterable[str]) -> list[str]:
    """Those of the persons whose cases a run's record holds, its parents' included; sorted.

    A record without readable hashes proves nothing either way and gives an empty list (`has_lineage`).
    """
    sources = [record, *_dicts(record.get("parents"))]
    hashes = [(str(s["case_key"]), frozenset(map(str, s["cases"]))) for s in sources if has_lineage(s)]
    return sorted(
        person
        for person in set(research_ids)
        if any(keyed_hash(name, key) in known for key, known in hashes for name in case_names(person))
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def has_lineage(record: Mapping[str, Any]) -> bool:
    """Whether a run's record says which cases were used."""
    key = record.get("case_key")
    return isinstance(record.get("cases"), list) and isinstance(key, str) and _is_hex(key)


def _is_hex(text: str) -> bool:
    return len(text) % 2 == 0 and re.fullmatch(r"[0-9a-f]+", text) is not None


def parents_of(checkpoint: Path) -> list[dict[str, Any]]:
    """What a run that starts from another run's checkpoint must remember: that run's cases and its parents'."""
    record = read_record(_run_of(checkpoint))
    parent: dict[str, Any] = {"checkpoint_sha256": sha256_file(checkpoint)}
    if has_lineage(record):
        parent |= {"case_key": record["case_key"], "cases": record["cases"]}
    return [parent, *_dicts(record.get("parents"))]


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.resolve().parent.parent


def note_pictures(folder: Path, case_ids: Mapping[str, str], key: str) -> None:
    """Remember in FOLDER/cases.json, as keyed hashes, which case each picture shows.

    Args:
        folder: The pictures' folder; what is noted there already stays.
        case_ids: By file name.
        key: The run's own, hexadecimal.
    """
    noted = noted_pictures(folder) | {name: keyed_hash(case, key) for name, case in case_ids.items()}
    write_json(folder / PICTURES, noted)


def noted_pictures(folder: Path) -> dict[str, str]:
    """Keyed hash by file name; empty if nothing (readable) is noted."""
    try:
        noted = json.loads((folder / PICTURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in noted.items()} if isinstance(noted, dict) else {}


def taint(folder: Path, entry: Mapping[str, Any]) -> None:
    """Mark a run or a folder of maps; the same mark is set once.

    Args:
        folder: RUN or MAPS.
        entry: ``reason``, ``when`` and whatever explains it; never a research ID.
    """
    known = read_taint(folder) or {"taints": [], "decisions": []}
    if dict(entry) not in known["taints"]:
        write_taint(folder, {**known, "taints": [*known["taints"], dict(entry)]})


def pass_on(run_dir: Path, derived: Path) -> None:
    """What is made from a tainted run under a recorded decision is tainted as well."""
    for entry in (read_taint(run_dir) or {"taints": []})["taints"]:
        taint(derived, entry)


def refuse_tainted(
    folder: Path, decision: str | None = None, *, use: str = "use", cohort: Path | None = None
) -> None:
    """Stop unless a run or folder of maps is free of withdrawn persons, or a decision to go on is recorded.

    The mark of `withdraw` counts, and so do the cohort's tombstones: a run that lay elsewhere during the
    withdrawal is caught by the hashes in its own record.

    Args:
        folder: RUN, MAPS, or a folder inside a run.
        decision: Reference of the decision that allows it; it is written into taint.json.
        use: What for: resume, draw, export …
        cohort: The cohort the run was trained on, if it is at hand.

    Raises:
        UsageError: It is tainted and no decision was given, or the decision is no reference.
        CohortError: The cohort's tombstones cannot be read.
    """
    home = folder.resolve()
    # Maps usually lie inside their run: its mark is theirs.
    inside = [home] + [above for above in list(home.parents)[:3] if (above / RECORD).is_file()]
    marked = [place for place in inside if read_taint(place) is not None]
    if not marked and cohort is not None and persons_used(read_record(home), tombstoned(cohort)):
        taint(home, {"reason": "withdrawal", "when": _now(), "found_by": "tombstones"})
        marked = [home]
    if not marked:
        return
    if decision is None:
        raise _tainted(folder.name, use)
    _record_decision(marked[0], check_decision(decision), use)


def refuse_tainted_checkpoint(
    checkpoint: Path, decision: str | None = None, *, use: str = "resume", cohort: Path | None = None
) -> None:
    """Stop if a checkpoint belongs to a tainted run, under whatever name and wherever it was copied to.

    Args:
        checkpoint: The file.
        decision: As in `refuse_tainted`.
        use: As in `refuse_tainted`.
        cohort: The cohort whose log holds the hashes of the checkpoints that withdrawals tainted.

    Raises:
        UsageError: It is tainted and no decision was given.
        CohortError: The cohort's audit log is broken.
    """
    run = _run_of(checkpoint)
    refuse_tainted(run, decision, use=use, cohort=cohort)
    known = frozenset() if cohort is None else tainted_checkpoints(cohort)
    if not known or sha256_file(checkpoint) not in known:
        return
    if decision is None:
        raise _tainted(checkpoint.name, use)
    check_decision(decision)


def tainted_checkpoints(cohort: Path) -> frozenset[str]:
    """SHA-256 of every checkpoint that a withdrawal from the cohort tainted."""
    found: set[str] = set()
    for entry in read_log(cohort / AUDIT):
        found.update(map(str, entry.get("checkpoints", ())))
    return frozenset(found)


def _tainted(name: str, use: str) -> UsageError:
    return UsageError(
        f"{name} came from data of a person who has withdrawn", f"nothing tainted to {use}",
        "train again with the command that `withdraw` printed, or record a decision with "
        "--allow-tainted DECISION",
    )  # fmt: skip


def _record_decision(folder: Path, decision: str, use: str) -> None:
    known = read_taint(folder)
    assert known is not None
    if not any((d.get("decision"), d.get("use")) == (decision, use) for d in known["decisions"]):
        entry = {"decision": decision, "use": use, "when": _now()}
        write_taint(folder, {**known, "decisions": [*known["decisions"], entry]})


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def checkpoint_hashes(run_dir: Path) -> dict[str, str]:
    """SHA-256 of a run's checkpoints by file name.

    Raises:
        CohortError: One cannot be read: it could not be told from an untainted one later.
    """
    try:
        return {path.name: sha256_file(path) for path in sorted((run_dir / CHECKPOINTS).glob("*.ckpt"))}
    except OSError:
        raise CohortError(f"a checkpoint of {run_dir.name} cannot be read", "readable checkpoints") from None
