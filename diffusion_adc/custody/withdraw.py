"""Opt-out: everything derived from a person out, everything that learned from the person blocked.

The order makes every interruption harmless: a journal with the whole plan is written first; then tombstones
(no reader sees the persons any more), the marks on runs and maps (nothing goes on from them), deletion, tables,
a second look through everything, certificate, log; the journal goes last. While it lies there no command reads
the cohort, and `finish_interrupted` takes the plan up again; every step may be repeated.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_adc.custody import auditlog, lineage
from diffusion_adc.custody.erase import carry_out, certificate_path, counts, now, sign_last
from diffusion_adc.custody.redact import Names
from diffusion_adc.custody.traces import Scope, Traces, find_traces
from diffusion_adc.domain.case import check_research_id
from diffusion_adc.domain.errors import CaseError, CohortError, UsageError
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.atomic import write_json

_SCHEMA: Final = 1


@dataclass(frozen=True)
class WithdrawalReport:
    """What a withdrawal did.

    Attributes:
        persons: How many withdrew with this call.
        cases: How many of their examinations the cohort held.
        deleted: Files and folders by kind.
        rewritten: Tables and lists that were shortened.
        tainted: Names of the runs that used them.
        retrain: Commands that train those runs again without them, into new folders.
        tracker: Runs of the tracker to delete by hand.
        by_hand: What else is left to people.
        unknown: Persons of whom the cohort held nothing; they are refused from now on.
        certificate: The certificate's path; None if nothing was to do.
        changed: False if all had withdrawn before and no trace was left.
    """

    persons: int = 0
    cases: int = 0
    deleted: dict[str, int] = field(default_factory=dict)
    rewritten: int = 0
    tainted: tuple[str, ...] = ()
    retrain: tuple[str, ...] = ()
    tracker: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    unknown: int = 0
    certificate: Path | None = None
    changed: bool = True

    def text(self) -> str:
        """The report for a terminal; it names no person."""
        if not self.changed:
            return "nothing to do: withdrawn before, and no trace is left"
        lines = [f"{self.persons} persons withdrawn, {self.cases} examinations out of the cohort"]
        lines += [f"  deleted {count} × {kind}" for kind, count in sorted(self.deleted.items())]
        lines += [f"  {self.rewritten} tables and lists shortened"] if self.rewritten else []
        if self.unknown:
            lines.append(
                f"  warning: the cohort held nothing of {self.unknown} of them; check the list of IDs"
            )
        lines += [f"  tainted run {name}: not resumed, drawn from or exported" for name in self.tainted]
        lines += [f"  delete by hand at the tracker: {name}" for name in self.tracker]
        lines += [f"  left to you: {text}" for text in self.by_hand]
        lines += ["train again without them:"] * bool(self.retrain) + [f"  {line}" for line in self.retrain]
        return "\n".join(lines)


def read_ids(source: Path | str | Sequence[str]) -> list[str]:
    """Research IDs from a file (one per line), from text with commas, or from a list; sorted, each once.

    Raises:
        UsageError: There are none, or one has another form; it is told by its place, not by its text.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8-sig") if path.is_file() else str(source)
        except (OSError, ValueError):
            raise UsageError("the list of IDs cannot be read", "a UTF-8 file, one ID per line") from None
        source = text.replace(",", "\n").splitlines()
    words = [word.strip() for word in source]
    for number, word in enumerate(words, start=1):
        try:
            if word:
                check_research_id(word)
        except CaseError as error:
            raise UsageError(
                f"entry {number} of the list of IDs is no research ID", error.expected or "",
                "correct the list; nothing was changed",
            ) from None  # fmt: skip
    found = sorted({word for word in words if word})
    if not found:
        raise UsageError("no research ID", "at least one", "give IDs or a file with one per line")
    return found


def withdraw(
    cohort: Path,
    ids: Path | str | Sequence[str],
    *,
    runs: Path | None = None,
    decision: str | None = None,
    when: str | None = None,
    also: Sequence[Path] = (),
    key: Ed25519PrivateKey | None = None,
) -> WithdrawalReport:
    """Stop all use of these persons' data.

    Args:
        cohort: The cohort's folder.
        ids: Research IDs: a file with one per line, text with commas, or a list.
        runs: The folder of runs, maps and pages; None if there is none.
        decision: Reference of the request or decision, for the log; no free text.
        when: Effective time, ISO 8601 in UTC; now by default.
        also: Further folders to look through: opened deliveries, maps or pages kept elsewhere.
        key: Signs the certificate.

    Returns:
        The report; a second call with the same IDs changes nothing.

    Raises:
        UsageError: A list, folder, time or decision of another form.
        CohortError: The cohort or its log is damaged, or a file could not be deleted; called again, the
            withdrawal goes on where it stopped.
    """
    wanted = read_ids(ids)
    if decision is not None:
        lineage.check_decision(decision)
    effective = now() if when is None else _time(when)
    with _locked(cohort):
        finished = _finish(cohort, key)
        stored, manifest = cohorts.read_stored(cohort)
        if stored.digest != manifest["digest"]:
            raise CohortError(
                "cases.csv or clinical.csv differ from the manifest's digest", do="restore them first"
            )
        known = cohorts.tombstoned(cohort)
        kept = replace(stored, withdrawn=known | set(wanted))
        images: dict[int, set[str]] = {}
        theirs = [case for case in stored.cases if case.research_id in wanted]
        shared = {digest for case in kept.cases for digest in case.files.values()}
        for case in theirs:
            for name, digest in case.files.items():
                path = cohort / "cases" / case.case_id / f"{name}.nii.gz"
                if digest not in shared and path.is_file():
                    images.setdefault(path.stat().st_size, set()).add(digest)
        log = auditlog.read_log(cohort / cohorts.AUDIT)
        digests = {
            manifest["digest"],
            kept.digest,
            *(str(e["digest_before"]) for e in log if "digest_before" in e),
        }
        scope = Scope(
            cohort, tuple(wanted), runs, tuple(also), frozenset(digests),
            {size: frozenset(found) for size, found in images.items()},
        )  # fmt: skip
        traces = find_traces(scope)
        rows = len(theirs) + len(set(stored.clinical) & set(wanted))
        if not rows and set(wanted) <= known and not traces.any_left and not _unmarked(traces):
            sign_last(cohort, key)
            return finished or WithdrawalReport(changed=False)
        number = 1 + len([entry for entry in log if entry.get("event") == "begun"])
        in_clinical = set(stored.clinical) & set(wanted)
        held = {case.research_id for case in theirs} | in_clinical | (known & set(wanted))
        journal = _journal(scope, traces, number, effective, decision) | {
            "cases": len(theirs),
            "unknown": len(set(wanted) - held),
            "digest_before": manifest["digest"],
            "digest_after": kept.digest,
        }
        write_json(cohort / cohorts.JOURNAL, journal)
        carry_out(cohort, journal, key)
        return _report(cohort, journal)


def finish_interrupted(cohort: Path, key: Ed25519PrivateKey | None = None) -> WithdrawalReport | None:
    """Finish a withdrawal that was interrupted; None if there is none.

    Raises:
        CohortError: The journal is damaged, or a file cannot be deleted.
    """
    with _locked(cohort):
        return _finish(cohort, key)


def _finish(cohort: Path, key: Ed25519PrivateKey | None) -> WithdrawalReport | None:
    try:
        journal = json.loads((cohort / cohorts.JOURNAL).read_text(encoding="utf-8"))
        if journal["schema"] != _SCHEMA:
            raise ValueError("another schema")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise CohortError(
            "the journal of an interrupted withdrawal is damaged", "the file as it was written",
            "restore it from a copy; nothing may read the cohort before",
        ) from None  # fmt: skip
    carry_out(cohort, journal, key)
    return _report(cohort, journal)


def _journal(scope: Scope, traces: Traces, number: int, when: str, decision: str | None) -> dict[str, Any]:
    """The whole plan: what an interrupted withdrawal is finished from."""
    runs = scope.runs
    names = Names(scope.research_ids)
    tainted = [
        {
            "path": str(run),
            "name": _inside(run, runs),
            "checkpoints": lineage.checkpoint_hashes(run),
        }
        for run in traces.runs
    ]
    return {
        "schema": _SCHEMA,
        "number": number,
        "when": when,
        "decision": decision,
        "salt": secrets.token_hex(16),
        "ids": list(scope.research_ids),
        "runs": None if runs is None else str(runs.resolve()),
        "runs_as_given": None if runs is None else str(runs),
        "also": [str(folder.resolve()) for folder in scope.also],
        "digests": sorted(scope.digests),
        "images": {str(size): sorted(found) for size, found in scope.images.items()},
        "delete": [[kind, str(path)] for kind, path in traces.delete],
        "redact": [str(path) for path in traces.redact],
        "sidecars": [str(path) for path in traces.sidecars],
        "tainted": tainted,
        "maps": [str(path) for path in traces.maps],
        "tracker": traces.tracker,
        "by_hand": [names.pattern.sub("…", text) for text in [*traces.by_hand, *_again(traces, runs)]]
        + ["delivered packages, the folders they were opened into, and backups"],
        "retrain": [line for run in traces.runs for line in _retrain(run, runs, number)],
    }


def _again(traces: Traces, runs: Path | None) -> list[str]:
    """What can be made again without the persons."""
    commands = {"scores": "evaluate", "page": "review"}
    places = dict.fromkeys((kind, path.parent) for kind, path in traces.delete if kind in commands)
    return [
        f"the {kind} in {_shown(folder, runs)} had to go: run `diffusion-adc {commands[kind]}` again"
        for kind, folder in places
    ]


def _shown(folder: Path, runs: Path | None) -> str:
    """A folder as the report may show it: below RUNS, or by its own name."""
    inside = runs is not None and folder.is_relative_to(runs.resolve())
    return _inside(folder, runs) if inside else folder.name


def _inside(run: Path, runs: Path | None) -> str:
    return run.name if runs is None else str(run.relative_to(runs.resolve()))


def _retrain(run: Path, runs: Path | None, number: int) -> list[str]:
    """Commands for the same seeds and configuration in a new folder."""
    if not (run / "experiment.yaml").is_file():
        return []
    shown = run if runs is None else runs / run.relative_to(runs.resolve())
    new = f"{shown}-w{number}"
    lines = [f"diffusion-adc fit -c {shlex.quote(f'{shown}/experiment.yaml')} --out {shlex.quote(new)}"]
    if any(run.rglob("maps.json")):
        lines.append(f"diffusion-adc test --run {shlex.quote(new)}")
    return lines


def _unmarked(traces: Traces) -> bool:
    return any(lineage.read_taint(folder) is None for folder in [*traces.runs, *traces.maps])


def _report(cohort: Path, journal: dict[str, Any]) -> WithdrawalReport:
    return WithdrawalReport(
        persons=len(journal["ids"]),
        cases=journal["cases"],
        deleted=counts(journal),
        rewritten=len(journal["redact"]),
        tainted=tuple(run["name"] for run in journal["tainted"]),
        retrain=tuple(journal["retrain"]),
        tracker=tuple(journal["tracker"]),
        by_hand=tuple(journal["by_hand"]),
        unknown=journal["unknown"],
        certificate=certificate_path(cohort, journal),
    )


@contextmanager
def _locked(cohort: Path) -> Iterator[None]:
    """One withdrawal at a time; the lock is on the folder itself and leaves no file."""
    try:
        descriptor = os.open(cohort, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise UsageError(
            f"no cohort in {cohort.name or '.'}", "a folder with cohort.json", "check COHORT"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _time(text: str) -> str:
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError("an effective time of another form", "ISO 8601, e.g. 2026-04-01T09:00:00Z") from None
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
