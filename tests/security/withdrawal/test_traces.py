"""Nothing of the persons who withdrew is left, and nothing of the others changes."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from diffusion_adc.custody import auditlog
from diffusion_adc.custody import withdraw as withdrawal
from diffusion_adc.custody.withdraw import withdraw
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.runs import list_runs

pytestmark = pytest.mark.security


def needles(template: Any) -> dict[bytes, str]:
    """What must not be found: IDs in three encodings, every file's own bytes, every file's hash."""
    found = {
        p.encode(code): f"ID in {code}" for p in template.gone for code in ("utf-8", "utf-16-le", "utf-16-be")
    }
    for name, data in template.files():
        if name in template.theirs and len(data) >= 64:
            found[hashlib.sha256(data).hexdigest().encode()] = "hash"
            if not name.endswith((".json", ".html", ".part")):
                plain = gzip.decompress(data)[352:] if data[:2] == b"\x1f\x8b" else data
                if len(set(plain)) > 32:  # not the constant planes of masks, which every case shares
                    found[plain[-64:]] = "bytes"
    return found


def test_nothing_of_theirs_is_left(world: Any, template: Any, figure: Callable[[str, Any], None]) -> None:
    searched = needles(template)
    before = dict(world.files())
    report = withdraw(world.cohort, world.gone, runs=world.runs, decision="IRB-2026/14")
    hits = []
    for name, data in world.files():
        plain = data + (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else b"")
        hits += [
            (name, kind) for needle, kind in searched.items()
            # The tombstones hold the IDs: without them a new delivery could not be refused.
            if needle in plain and not (name == "cohort/withdrawn.jsonl" and kind == "ID in utf-8")
        ]  # fmt: skip
        hits += [(name, "name") for person in world.gone if person in name]
    hits += [(name, "left") for name in world.theirs if (world.root / name).exists()]
    assert sum(needle in data for data in before.values() for needle in searched) > 150  # the search can find
    figure("withdrawal: bytes, IDs and hashes searched / hits", f"{len(searched)} / {len(hits)}")
    assert hits == []
    assert report.cases == 4  # one of the three was examined twice
    assert sorted(report.tainted) == sorted(world.used) == ["all", "child", "unlisted"]
    assert "KLN" not in report.text()
    assert {case.research_id for case in cohorts.read_cohort(world.cohort).cases} == set(world.persons) - set(
        world.gone
    )
    assert (
        json.loads((world.root / "cohort.truth" / "truth.json").read_text())["cohort_digest"] == world.digest
    )
    taints = {row["run"]: row["taint"] for row in list_runs(world.runs)}
    assert taints == {"all": "withdrawal", "child": "withdrawal", "unlisted": "withdrawal", "free": None}


def test_lineage_finds_every_file_on_a_list_kept_apart(
    world: Any, figure: Callable[[str, Any], None]
) -> None:
    scope = withdrawal.Scope(
        world.cohort, tuple(world.gone), world.runs, (), frozenset({world.digest}), images(world)
    )
    traces = withdrawal.find_traces(scope)
    gone = [path for _, path in traces.delete]
    covered = {
        name for name in world.theirs if any((world.root / name).is_relative_to(path) for path in gone)
    }
    named = {str(path.relative_to(world.root)) for path in traces.redact} | {
        "cohort/cases.csv",
        "cohort/clinical.csv",
    }
    figure("withdrawal: lineage finds, of a list kept apart", f"{len(covered)}/{len(world.theirs)} files")
    assert covered == world.theirs
    assert named == world.named
    assert {run.name for run in traces.runs} == world.used


def images(world: Any) -> dict[int, frozenset[str]]:
    path = world.cohort / "cases" / f"{world.gone[2]}_01" / "adc.nii.gz"
    return {path.stat().st_size: frozenset({hashlib.sha256(path.read_bytes()).hexdigest()})}


def test_the_others_keep_every_byte(world: Any, template: Any, figure: Callable[[str, Any], None]) -> None:
    withdraw(world.cohort, world.gone, runs=world.runs)
    shared = world.theirs | world.named | {"cohort/cohort.json", "cohort.truth/truth.json"}
    shared |= {f"runs/{run}/grids/cases.json" for run in ("all", "unlisted")}
    after = dict(world.files())
    kept = {name: data for name, data in template.files() if name not in shared}
    changed = [name for name, data in kept.items() if after.get(name) != data]
    figure("withdrawal: files of the other 17 kept to the byte", f"{len(kept) - len(changed)}/{len(kept)}")
    assert changed == []
    for name in sorted(world.named):  # their rows and lines, too
        if name.endswith((".csv", ".log")):
            lines = [
                line
                for line in (template.root / name).read_text().splitlines()
                if not any(g in line for g in world.gone)
            ]
            assert (world.root / name).read_text().splitlines() == lines, name
    assert json.loads((world.runs / "maps_of_free" / "maps.json").read_text())["refused"]


def test_a_second_withdrawal_changes_nothing(world: Any, figure: Callable[[str, Any], None]) -> None:
    withdraw(world.cohort, world.gone, runs=world.runs)
    before = world.state()
    again = [
        withdraw(world.cohort, ids, runs=world.runs)
        for ids in (world.gone, world.gone[:1], ",".join(reversed(world.gone)))
    ]
    after = world.state()
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    figure("withdrawal: changes by a second one", str(len(changed)))
    assert changed == set()
    assert not any(report.changed for report in again)


def test_a_returning_copy_is_taken_out_again(world: Any, template: Any) -> None:
    withdraw(world.cohort, world.gone, runs=world.runs)
    back = world.runs / "all" / "maps" / "test" / f"{world.gone[0]}_01"
    shutil.copytree(template.root / back.relative_to(world.root), back)
    assert withdraw(world.cohort, world.gone, runs=world.runs).deleted == {"map": 1}
    assert not back.exists()
    assert len(auditlog.read_log(world.cohort / cohorts.AUDIT)) == 14
