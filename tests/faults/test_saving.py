"""F1, F3, F21, F10, F20: whatever stops a writer, what was there before can be read, or what was to come."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diffusion_adc.callbacks.checkpoints import AtomicCheckpointIO, newest_verified, to_resume
from diffusion_adc.domain.errors import CohortError, DiffusionAdcError
from diffusion_adc.records.atomic import publish, remove_leftovers, sha256_file, write_json
from diffusion_adc.records.cohort import read_cohort, write_manifest
from diffusion_adc.records.sidecars import sidecar, verified

Figure = Callable[[str, Any], None]
Count = Callable[..., int]
NUMBERS = 60_000


def save(run: Path, step: int, numbers: int = NUMBERS) -> Path:
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = {"state_dict": {"w": torch.full((numbers,), float(step))}, "global_step": step, "epoch": 0}
    AtomicCheckpointIO(run).save_checkpoint(checkpoint, path)
    return path


def step_of(path: Path) -> int:
    """The step of a checkpoint, every number of it looked at."""
    loaded = torch.load(path, weights_only=True)
    assert bool((loaded["state_dict"]["w"] == float(loaded["global_step"])).all())
    return int(loaded["global_step"])


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """A temporary folder on another file system, where there is one."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        yield str(tmp_path)
        return
    folder = tempfile.mkdtemp(dir=shared)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_f1_a_killed_writer_leaves_the_last_checkpoint_or_the_next(
    tmp_path: Path, rig: ModuleType, count: Count, figure: Figure, elsewhere: str
) -> None:
    run, log = tmp_path / "run", tmp_path / "saved"
    kills, lost, chance = count(100, 4), 0, random.Random(1)
    for number in range(kills):
        before = to_resume(run)
        first = 0 if before is None else step_of(before)

        def work(first: int = first) -> None:
            remove_leftovers(run / "checkpoints")
            with log.open("ab", buffering=0) as stream:
                for step in range(first + 1, first + 10_000):
                    save(run, step)
                    stream.write(b"%d\n" % step)

        log.write_bytes(b"")
        child = rig.start(work, tmp_path / "said", **({"TMPDIR": elsewhere} if number % 2 else {}))
        rig.until(lambda: log.stat().st_size, child=child)
        time.sleep(chance.uniform(0, 0.03))
        assert child.kill() == rig.KILLED, child.text()
        told = max(int(line) for line in log.read_text().split())
        after = newest_verified(run)
        assert after is not None
        assert step_of(after) in (told, told + 1), "more than one interval was lost"
        assert step_of(after) == (verified(after) or {})["step"]
        lost += len(leftovers(run / "checkpoints"))
    removed = remove_leftovers(run / "checkpoints")
    assert leftovers(run / "checkpoints") == []
    assert removed <= lost
    figure("F1", {"kills": kills, "without a loadable checkpoint": 0, "leftovers of killed writers": lost})


class _Cut(BaseException):
    """Power gone."""


def _cut_at(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> list[str]:
    """Before the `number`-th call that changes the disk, `act`; the calls made are returned."""
    calls: list[str] = []
    for module, name in (
        (os, "replace"),
        (os, "rename"),
        (os, "fsync"),
        (os, "chmod"),
        (tempfile, "mkstemp"),
    ):
        plain = getattr(module, name)

        def watched(*args: Any, _plain: Any = plain, _name: str = name, **kwargs: Any) -> Any:
            calls.append(_name)
            if len(calls) == number:
                act()
            return _plain(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    return calls


def _points(work: Callable[[], object]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        calls = _cut_at(patch, -1, lambda: None)
        work()
    return len(calls)


def test_f21_at_every_point_one_checkpoint_can_be_verified(
    tmp_path: Path, rig: ModuleType, figure: Figure
) -> None:
    run = tmp_path / "run"
    save(run, 1, 500)
    points = _points(lambda: save(run, 2, 500))
    outcomes = []
    for number in range(1, points + 1):
        before = step_of(newest_verified(run) or Path())

        def work(number: int = number, step: int = before + 1) -> None:
            with pytest.MonkeyPatch.context() as patch:
                _cut_at(patch, number, lambda: os._exit(9))
                save(run, step, 500)

        assert rig.start(work, tmp_path / "said").wait() == 9
        found = newest_verified(run)
        assert found is not None, f"nothing to resume from after point {number}"
        assert step_of(found) in (before, before + 1)
        assert (verified(found) or {})["step"] == step_of(found)
        outcomes.append(step_of(found) - before)
    assert 0 < sum(outcomes) < points  # some points come before the checkpoint takes its name, some after
    figure("F21", {"points": points, "verified at each": points})


def test_f3_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, rig: ModuleType, count: Count, figure: Figure
) -> None:
    run = tmp_path / "run"
    good = save(run, 1)
    digest, size, trials = sha256_file(good), good.stat().st_size, count(20, 4)
    for number in range(trials):
        limit = int(size * (number + 0.5) / trials)

        def work(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save(run, 2)

        child = rig.start(work, tmp_path / "said")
        assert child.wait() == 1
        assert "last.ckpt could not be written (File too large)" in child.text()
        assert "Traceback" not in child.text()
        assert sha256_file(good) == digest
        assert newest_verified(run) == good
        assert leftovers(good.parent) == []
    figure("F3", {"full disks": trials, "old checkpoint loadable": trials})


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_f3_a_disk_that_fails_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    good = save(tmp_path, 1, 100)
    digest = sha256_file(good)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DiffusionAdcError, match="No space left on device"):
            save(tmp_path, 2, 100)
    assert sha256_file(good) == digest
    assert newest_verified(tmp_path) == good


def test_f3_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = save(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    monkeypatch.setattr(tempfile, "mkstemp", lambda *_, **__: pytest.fail("it wrote"))
    with pytest.raises(DiffusionAdcError, match="0 MiB free"):
        save(tmp_path, 2)
    assert newest_verified(tmp_path) == good


def test_what_reads_back_differently_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    publish(path, lambda stream: stream.write(b"first"))
    monkeypatch.setattr("diffusion_adc.records.atomic.sha256_file", lambda _: "0" * 64)
    with pytest.raises(DiffusionAdcError, match="could not be written"):
        publish(path, lambda stream: stream.write(b"second"))
    assert path.read_bytes() == b"first"


@pytest.mark.slow
def test_f10_a_manifest_is_the_old_one_or_the_new_one(
    tmp_path: Path, rig: ModuleType, cohort: Path, count: Count, figure: Figure
) -> None:
    folder = tmp_path / "cohort"
    stored = read_cohort(cohort)
    other = replace(stored, cases=stored.cases[:-1])
    write_manifest(folder, stored)
    points = _points(lambda: write_manifest(folder, other))
    cuts = count(60, 5)
    seen = []
    for number in range(cuts):
        current = read_cohort(folder)
        new = other if len(current.cases) == len(stored.cases) else stored

        def work(number: int = number, new: Any = new) -> None:
            with pytest.MonkeyPatch.context() as patch:
                _cut_at(patch, 1 + (number * 5 + 4) % points, lambda: os._exit(9))
                write_manifest(folder, new)

        assert rig.start(work, tmp_path / "said").wait() == 9
        found = read_cohort(folder)
        assert found.digest in (current.digest, new.digest)
        seen.append(found.digest == new.digest)
    assert any(seen)
    assert not all(seen)
    figure("F10", {"cut points": cuts, "neither old nor new": 0})


def test_f10_a_record_cut_short_is_not_taken_for_whole(tmp_path: Path) -> None:
    good = save(tmp_path, 1, 10)
    text = sidecar(good).read_bytes()
    for length in range(len(text) - 1):  # the last byte is a line break
        sidecar(good).write_bytes(text[:length])
        assert newest_verified(tmp_path) is None
    with pytest.raises(CohortError, match=r"no checkpoint of .* is the file its sidecar tells of"):
        to_resume(tmp_path)


def test_f20_a_clock_that_jumped_changes_nothing(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1, 10), tmp_path / "checkpoints" / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 5, "epoch": 1}, new)
    os.utime(new, (0, 0))
    os.utime(old, (4e9, 4e9))
    assert newest_verified(tmp_path) == new


def test_f20_a_folder_that_may_not_be_written_is_an_error(rig: ModuleType) -> None:
    base = Path(tempfile.mkdtemp())
    run = base / "run"
    try:
        good = save(run, 1, 10)
        for path in (base, run):
            path.chmod(0o755)
        good.parent.chmod(0o555)
        for path in (good, sidecar(good)):
            path.chmod(0o444)

        def work() -> None:
            if os.geteuid() == 0:
                os.seteuid(65534)  # nothing is forbidden to root
            save(run, 2, 10)

        child = rig.start(work, base / "said")
        assert child.wait() == 1
        assert "last.ckpt could not be written (Permission denied)" in child.text()
        assert step_of(good) == 1
    finally:
        good.parent.chmod(0o755)
        shutil.rmtree(base)


def test_a_run_that_saved_never_starts_anew_silently(tmp_path: Path) -> None:
    assert to_resume(tmp_path) is None
    write_json(tmp_path / "record.json", {"state": "running"})
    assert to_resume(tmp_path) is None  # killed before it first saved
    write_json(tmp_path / "record.json", {"state": "stopped", "steps": 4})
    with pytest.raises(CohortError, match="no checkpoint"):
        to_resume(tmp_path)
    save(tmp_path, 9, 10)
    assert to_resume(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"


def test_of_two_at_one_step_the_last_is_taken(tmp_path: Path) -> None:
    last = save(tmp_path, 3, 10)
    AtomicCheckpointIO().save_checkpoint(
        {"state_dict": {}, "global_step": 3, "epoch": 0}, last.with_name("best.ckpt")
    )
    assert newest_verified(tmp_path) == last
    assert json.loads(sidecar(last).read_text())["sha256"] == sha256_file(last)
