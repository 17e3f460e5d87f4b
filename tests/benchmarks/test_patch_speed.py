"""Patches per second beside torchio.Queue and MONAI's CacheDataset, interleaved in one run.

Run: ``OMP_NUM_THREADS=1 pytest tests/benchmarks/test_patch_speed.py -m benchmark -s``
Seven volumes per case, patches of 64×64×32, batches of four, lesion-biased, no augmentation, one torch thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from monai.data import CacheDataset
from monai.data import DataLoader as MonaiLoader
from monai.transforms import RandCropByPosNegLabeld

from diffusion_adc.data import CohortDataModule
from diffusion_adc.data.collate import case_facts
from diffusion_adc.data.loaders import PatchDataset
from diffusion_adc.data.patches import PatchTable
from diffusion_adc.data.transforms import augmentation
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.records.cohort import load_volume, read_cohort, write_case, write_manifest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]
SHAPE, SIZE, BATCH, CASES = (160, 160, 40), (64, 64, 32), 4, 12
SEVEN = (*seq.SEQUENCES, seq.VALID, seq.TUMOR_ADC)
"""Seven files of a case; tumor_adc stands in for the recomputed ADC, which is not stored as a file."""


def write_cohort(path: Path) -> Path:
    rng = np.random.default_rng(0)
    affine = np.diag([2.5, 2.5, 5.0, 1.0])
    grid = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    body = ((grid[0] - 80) / 68) ** 2 + ((grid[1] - 80) / 55) ** 2 <= 1
    cases = []
    for number in range(CASES + 1):
        label = np.zeros(SHAPE, np.uint16)
        for lesion in range(1, 4):
            center = (rng.uniform(40, 120), rng.uniform(50, 110), rng.uniform(8, 32))
            label[sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) < rng.uniform(4, 60)] = lesion
        adc = np.where(body, rng.normal(1.4, 0.2, SHAPE), 0).clip(0, 4)
        low = rng.normal(300, 40, SHAPE).clip(1) * np.where(body, 1, 0.02) * (1 + 2 * (label > 0))
        volumes: dict[str, Any] = {
            seq.T1W: rng.normal(500, 50, SHAPE), seq.T2W: rng.normal(300, 50, SHAPE), seq.DWI_LOW: low,
            seq.DWI_HIGH: low * np.exp(-0.85 * adc), seq.ADC: adc, seq.VALID: body.astype(np.uint8),
            seq.TUMOR_LABEL: label * body, seq.TUMOR_ADC: np.where(label * body > 0, adc, 0),
        }  # fmt: skip
        case = Case(f"BENCH-{number:04d}", 1, split="train" if number < CASES else "val", provenance="synthetic",
                    b_low=50, b_high=900, tumor_status="present")  # fmt: skip
        cases.append(write_case(path, case, volumes, affine))
    write_manifest(path, Cohort(tuple(cases), provenance="synthetic"))
    return path


@pytest.fixture(scope="module")
def cohort_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("bench") / "cohort")


@pytest.fixture(scope="module")
def data(cohort_dir: Path) -> CohortDataModule:
    module = CohortDataModule(
        str(cohort_dir), patch_size=list(SIZE), batch_size=BATCH, patches_per_epoch=100_000, progress=False
    )
    start = time.perf_counter()
    module.prepare_data()
    built = time.perf_counter() - start
    size = sum(p.stat().st_size for p in module.store.folder.rglob("*") if p.is_file())
    from diffusion_adc.data import store

    store._verified.clear()
    start = time.perf_counter()
    module.setup("fit")
    checked = time.perf_counter() - start
    start = time.perf_counter()
    next(iter(module.train_dataloader()))
    first = time.perf_counter() - start
    print(
        f"\nprepared in {built / (CASES + 1):.2f} s/case, {size / (CASES + 1) / 2**20:.0f} MiB/case; SHA-256 of"
        f" all entries at setup {checked:.2f} s ({size / checked / 1e9:.1f} GB/s); first batch {first * 1e3:.0f} ms"
    )
    assert first <= 0.2
    return module


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def queue_loader(cohort_dir: Path) -> Iterator[Any]:
    def subject(case: Case) -> tio.Subject:
        folder = cohort_dir / "cases" / case.case_id
        images: dict[str, Any] = {name: tio.ScalarImage(folder / f"{name}.nii.gz") for name in SEVEN}
        return tio.Subject(**images, label=tio.LabelMap(folder / "tumor_label.nii.gz"))

    subjects = tio.SubjectsDataset([subject(case) for case in read_cohort(cohort_dir).split("train")])
    queue = tio.Queue(subjects, 48, 8, tio.LabelSampler(SIZE, "label"), num_workers=0)
    return forever(tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0))


def cache_loader(cohort_dir: Path) -> Iterator[Any]:
    items = []
    for case in read_cohort(cohort_dir).split("train"):
        images = np.stack([load_volume(cohort_dir, case, name).array.astype(np.float32) for name in SEVEN])
        label = load_volume(cohort_dir, case, seq.TUMOR_LABEL).array[None] > 0
        items.append({"image": torch.from_numpy(images), "label": torch.from_numpy(label.astype(np.uint8))})
    crop = RandCropByPosNegLabeld(["image", "label"], "label", SIZE, pos=1, neg=1, num_samples=1)
    dataset = CacheDataset(items, crop, progress=False)
    return forever(MonaiLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=0))


def strided_limit(data: CohortDataModule, *, to_float: bool) -> Iterator[Any]:
    """What the bare copies of random patches from memory cost: float16 to float16, or on to float32."""
    volumes = [torch.from_numpy(entry.images().copy()) for entry in data._entries["train"][0]]
    rng = np.random.default_rng(0)
    half = torch.empty(len(seq.CHANNELS), *SIZE, dtype=torch.float16)
    full = torch.empty(BATCH, len(seq.CHANNELS), *SIZE)
    while True:
        for row in range(BATCH):
            volume = volumes[rng.integers(len(volumes))]
            i, j, k = (int(rng.integers(0, n - p + 1)) for n, p in zip(volume.shape[1:], SIZE, strict=True))
            half.copy_(volume[:, i : i + SIZE[0], j : j + SIZE[1], k : k + SIZE[2]])
            if to_float:
                full[row].copy_(half)
        yield None


def rate(batches: Iterator[Any], seconds: float) -> tuple[float, float]:
    """Patches per second of the clock and of this process' processor time.

    All sources run in this process, on one thread, from the page cache: processor time is what they cost, whatever
    else the machine is doing.
    """
    count, start, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def test_patches_per_second(cohort_dir: Path, data: CohortDataModule) -> None:
    torch.set_num_threads(1)
    sources: dict[str, tuple[Iterator[Any], float]] = {
        "store": (forever(data.train_dataloader()), 2.0),
        "torchio.Queue": (queue_loader(cohort_dir), 6.0),
        "MONAI CacheDataset": (cache_loader(cohort_dir), 2.0),
        "strided copy, float16": (strided_limit(data, to_float=False), 1.0),
        "strided copy + float32": (strided_limit(data, to_float=True), 1.0),
    }
    for batches, _ in sources.values():
        next(batches)
    rounds = [{name: rate(*source) for name, source in sources.items()} for _ in range(7)]
    print(f"{'':24s}{'clock':>8s}{'CPU':>8s}  patches/s, store over it (clock, CPU)")
    ratios = {}
    for name in sources:
        clock, cpu = (median(r[name][which] for r in rounds) for which in (0, 1))
        over_clock, ratios[name] = (median(r["store"][w] / r[name][w] for r in rounds) for w in (0, 1))
        print(f"{name:24s}{clock:8.0f}{cpu:8.0f}{over_clock:10.2f} ×{ratios[name]:8.2f} ×")
    assert ratios["torchio.Queue"] >= 25
    assert ratios["MONAI CacheDataset"] >= 4


def test_slices_and_augmentation(cohort_dir: Path, data: CohortDataModule) -> None:
    torch.set_num_threads(1)
    for size in ((96, 96, 1), SIZE):
        module = CohortDataModule(str(cohort_dir), patch_size=list(size), progress=False)
        module.setup("fit")
        entries, facts = module._entries["train"]
        rates = {}
        for name in ("none", "light"):
            dataset = PatchDataset(PatchTable(entries, size), facts, 10_000, augment=augmentation(name))

            def batches(dataset: PatchDataset = dataset) -> Iterator[Any]:
                # Over and over: a quiet machine takes more than 10,000 slices in the time that is measured.
                for first in cycle(range(0, 10_000, BATCH)):
                    yield dataset.__getitems__(list(range(first, first + BATCH)))

            stream = batches()
            next(stream)
            clock, cpu = rate(stream, 2.0)
            rates[name] = cpu
            print(
                f"{'×'.join(map(str, size)):10s} augment {name:6s}{clock:8.0f} clock{cpu:8.0f} CPU patches/s"
            )
        assert rates["none"] > rates["light"], "augmentation was not applied, or the plain path does its work"


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def feed(cohort: str, cases: int, copies: str) -> None:
    """Subprocess: resident memory after 600 patches from `cases` distinct files."""
    torch.set_num_threads(1)
    data = CohortDataModule(cohort, patch_size=list(SIZE), batch_size=BATCH, progress=False)
    data.setup("fit")
    entries, _ = data._entries["train"]
    many = []
    for number in range(cases):
        entry = entries[number % len(entries)]
        path = Path(copies) / str(number)
        path.mkdir(parents=True, exist_ok=True)
        for name in ("images.npy", "presence.npy", "voxels.npy"):
            if not (path / name).exists():
                os.link(entry.path / name, path / name)
        many.append(replace(entry, path=path))
    facts = [case_facts(data.cohort.cases[0], 0, Covariates(), ()) for _ in many]
    dataset = PatchDataset(PatchTable(many, SIZE), facts, 600)
    for first in range(0, 600, BATCH):
        dataset.__getitems__(list(range(first, first + BATCH)))
    print(json.dumps(resident_mib()))


def test_resident_memory_is_flat(cohort_dir: Path, data: CohortDataModule, tmp_path: Path) -> None:
    seen: dict[int, float] = {}
    for cases in (10, 200):
        copies = data.store.store_dir / f"copies{cases}"
        call: list[str] = [sys.executable, __file__, str(cohort_dir), str(cases), str(copies)]
        output = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        seen[cases] = json.loads(output.splitlines()[-1])
    print(f"resident memory {seen[10]:.0f} MiB with 10 cases, {seen[200]:.0f} MiB with 200")
    assert abs(seen[200] / seen[10] - 1) <= 0.10


if __name__ == "__main__":
    main: Callable[[str, int, str], None] = feed
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
