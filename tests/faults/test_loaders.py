"""F4, F5, F6, F11: the store and the loader's processes, when something breaks or two work at once."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from diffusion_adc.data import CohortDataModule
from diffusion_adc.data.prepare import Recipe
from diffusion_adc.data.store import IMAGES_FILE, META_FILE, PRESENCE_FILE, VOXELS_FILE, Store
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.processes import held, is_first, launched_as

Figure = Callable[[str, Any], None]
Count = Callable[..., int]
STORED = (IMAGES_FILE, PRESENCE_FILE, VOXELS_FILE, META_FILE)


@pytest.mark.slow
def test_f4_a_damaged_entry_is_found_and_rebuilt(
    cohort: Path, tmp_path: Path, count: Count, figure: Figure
) -> None:
    case = read_cohort(cohort).cases[0]
    store = Store(cohort, Recipe.for_patch(None, (16, 16, 1)), tmp_path / "store")
    entry = store.entry(case)
    good = {name: (entry.path / name).read_bytes() for name in STORED}
    chance, trials = random.Random(3), count(200, 8)
    for trial in range(trials):
        path = entry.path / STORED[trial % len(STORED)]
        raw = bytearray(path.read_bytes())
        kind = ("flip", "cut", "empty", "key")[trial // len(STORED) % 4]
        if kind == "flip":
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del raw[chance.randrange(len(raw)) :]
        elif kind == "empty":
            raw.clear()
        else:  # an entry of another recipe under this one's name
            raw = bytearray(raw.replace(b"float16", b"float32").replace(b'"key"', b'"kex"') + b" ")
        path.write_bytes(raw)
        again = store.entry(case)
        for name, expected in good.items():
            assert (again.path / name).read_bytes() == expected, (kind, name)
        assert np.isfinite(again.images()).all()
    figure("F4", {"damaged": trials, "found and rebuilt": trials, "wrong tensors": 0})


def built(cohort: Path, store: Path, order: list[tuple[int, int]]) -> list[tuple[str, str]]:
    """Open entries of several recipes; name and hash of the images of each."""
    cases = read_cohort(cohort).cases
    found = []
    for case, size in order:
        entry = Store(cohort, Recipe.for_patch([size / 4, size / 4, 5.0], (8, 8, 1)), store).entry(
            cases[case]
        )
        np.asarray(entry.images()).sum()
        found.append((f"{entry.path.parent.name}/{entry.case_id}", sha256_file(entry.path / IMAGES_FILE)))
    return found


@pytest.mark.slow
def test_f11_four_processes_build_each_key_once(
    rig: ModuleType, cohort: Path, tmp_path: Path, count: Count, figure: Figure
) -> None:
    keys = [(case, 10 + size) for size in range(5) for case in range(10)][: count(50, 8)]
    outs = [tmp_path / f"found{n}" for n in range(4)]

    def work(number: int) -> Callable[[], None]:
        def look() -> None:
            order = list(keys)
            random.Random(number).shuffle(order)
            found = built(cohort, tmp_path / "store", order)
            outs[number].write_text("\n".join(sorted(f"{name} {digest}" for name, digest in found)))

        return look

    children = [rig.start(work(number), tmp_path / f"said{number}") for number in range(4)]
    for child in children:
        assert child.wait(250) == 0, child.text()
    assert len({out.read_text() for out in outs}) == 1
    assert len(outs[0].read_text().splitlines()) == len(keys)
    hidden = [path.name for path in (tmp_path / "store").rglob(".*") if path.name != ".locks"]
    assert hidden == []
    figure("F11", {"processes": 4, "keys": len(keys), "torn reads": 0})


def test_f11_one_trainer_per_folder_and_a_dead_one_frees_it(rig: ModuleType, tmp_path: Path) -> None:
    lock, ready = tmp_path / "run" / ".lock", tmp_path / "ready"

    def work() -> None:
        with held(lock, "run"):
            ready.write_text("")
            os.fork() or time.sleep(5)  # a loader process that outlives its trainer
            time.sleep(60)

    child = rig.start(work, tmp_path / "said")
    rig.until(ready.exists, child=child)
    with pytest.raises(UsageError, match="another process is working in run"), held(lock, "run"):
        pass
    child.kill()
    with held(lock, "run"):
        pass
    with held(tmp_path / "refused" / ".lock", "refused"):
        pass
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("environment", "expected", "first"),
    [
        ({}, (0, 1), True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2), False),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8), False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1), True),  # the batch script itself
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (0, 1), False),  # started by the trainer
        ({"RANK": "x", "WORLD_SIZE": "2"}, (0, 1), True),
        ({"RANK": "2", "WORLD_SIZE": "2"}, (0, 1), True),
    ],
)
def test_which_process_this_is(environment: dict[str, str], expected: tuple[int, int], first: bool) -> None:
    assert launched_as(environment) == expected
    assert is_first(environment) is first


def loader(cohort: Path, workers: int = 1, **options: Any) -> Any:
    data = CohortDataModule(
        str(cohort), patch_size=[16, 16, 1], batch_size=4, patches_per_epoch=4000, val_patches=8, workers=workers,
        progress=False, **options,
    )  # fmt: skip
    data.setup("fit")
    made = data.train_dataloader()
    made.timeout = 60
    return made


def endless(made: Any) -> Iterator[Any]:
    while True:
        yield from made


def children_of(made: Any) -> list[int]:
    return [worker.pid for worker in made._iterator._workers]


def breaking(dataset: Any, how: str, at: int) -> None:
    """Make the dataset fail at a batch, in whichever process it is."""
    plain, made = dataset._batch, {"batches": 0}

    def batch(indices: Any) -> Any:
        made["batches"] += 1
        if made["batches"] == at:
            if how == "hang":
                time.sleep(60)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raise":
                raise ValueError("a text that must not be shown")
            if how == "unpicklable":

                class Odd(Exception):
                    pass

                raise Odd(lambda: None)
            if how == "cohort":
                raise CohortError("a volume is damaged", "its SHA-256", "ingest it again", code="S25")
            if how == "memory":
                used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
                np.ones(2**33)
        return plain(indices)

    dataset._batch = batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", r"loader process 0, case indices \[[0-9, ]+\] failed \(ValueError\)"),
        ("unpicklable", r"loader process 0, case indices \[[0-9, ]+\] failed \(Odd\)"),
        (
            "cohort",
            r"S25: a volume is damaged \(loader process 0, case indices \[[0-9, ]+\]\); expected its SHA",
        ),
        ("memory", r"loader process 0, case indices \[[0-9, ]+\] ran out of memory"),
        ("kill", r"loader process [0-9]+ was killed, .*case indices \[[0-9, ]+\]"),
        ("hang", r"a loader process sent nothing in time \(waiting for case indices \[[0-9, ]+\]\)"),
    ],
)
def test_f5_a_broken_loader_process_is_named_with_its_cases(
    cohort: Path, count: Count, figure: Figure, how: str, said: str
) -> None:
    trials = count(5, 1)
    for trial in range(trials):
        made = loader(cohort)
        if how == "hang":
            made.timeout = 4
        breaking(made.dataset, how, 2 + trial)
        began = time.monotonic()
        with pytest.raises(CohortError, match=said) as caught:
            for _ in zip(range(50), made, strict=False):
                pass
        assert time.monotonic() - began < made.timeout + 60
        assert "must not be shown" not in str(caught.value)
        assert "\n" not in str(caught.value)
        made._iterator = None
    figure(f"F5 {how}", {"broken": trials, "named": trials, "hangs": 0})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f6_memory_of_loader_processes_stays_flat(cohort: Path, count: Count, figure: Figure) -> None:
    def resident(pids: list[int]) -> float:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * resource.getpagesize() / 2**20

    def shared() -> set[str]:
        return {path.name for path in Path("/dev/shm").glob("torch_*")}

    before = shared()
    made = loader(cohort, workers=2, augment="light")
    batches = endless(made)
    iterations, warm = count(300, 100), 40
    for _ in range(warm):
        next(batches)
    pids = [os.getpid(), *children_of(made)]
    start = resident(pids)
    for _ in range(iterations):
        next(batches)
    slope = (resident(pids) - start) / iterations
    batches.close()  # type: ignore[attr-defined]
    made._iterator = None
    del batches, made
    assert slope < 0.1
    assert shared() <= before
    figure("F6", {"iterations": iterations, "MB per iteration": round(slope, 4), "shared memory left": 0})
