from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_adc.data import store as store_module
from diffusion_adc.data.prepare import PreparedCase, Recipe, prepare_case
from diffusion_adc.data.store import Store, entry_key, open_entry
from diffusion_adc.data.subjects import open_subject
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError, UsageError
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort

from .conftest import AFFINE, make_cohort

NATIVE = Recipe.for_patch(None, (16, 16, 8))


@pytest.fixture
def store(cohort_dir, tmp_path):
    return Store(cohort_dir, NATIVE, tmp_path / "store")


@pytest.fixture(scope="module")
def cases(cohort_dir):
    return read_cohort(cohort_dir).cases


def content(entry):
    return entry.images().copy(), entry.presence().copy(), entry.voxels().copy()


def test_an_entry_holds_the_prepared_case(store, cohort_dir, cases):
    entry = store.entry(cases[1])
    prepared = prepare_case(cohort_dir, cases[1], NATIVE)
    assert np.array_equal(entry.images().astype(np.float32), prepared.images)
    assert entry.grid.is_native
    for reader, native in enumerate(presence_readings(cohort_dir, cases[1])):
        assert np.array_equal(entry.presence()[reader].astype(bool), entry.grid.cropped(native))
        assert np.array_equal(prepared.to_native(entry.presence()[reader]).numpy() > 0.5, native)
    assert entry.readers == 2
    assert np.array_equal(entry.grid.native_affine, AFFINE)
    assert entry.round_trip_dice is None or entry.round_trip_dice == 1.0


def test_index_names_every_lesion_and_what_looks_like_one(store, cases):
    entry = store.entry(cases[1])
    images, presence, voxels = content(entry)
    counts = [sum(lesion.reader == r for lesion in entry.index.lesions) for r in range(2)]
    assert counts == [3, 2]
    for lesion in entry.index.lesions:
        run = voxels[lesion.voxels.start : lesion.voxels.start + lesion.voxels.count]
        assert presence[lesion.reader].ravel()[run].all()
        assert entry.voxel(lesion.voxels.start) == np.unravel_index(run[0], entry.shape)
    for reader in range(2):
        total = sum(lesion.voxels.count for lesion in entry.index.lesions if lesion.reader == reader)
        assert total == presence[reader].sum()
        segment = entry.index.restricted[reader]
        run = voxels[segment.start : segment.start + segment.count]
        assert run.size > 10
        assert not presence[reader].ravel()[run].any()
        assert np.all(images[seq.CHANNELS.index(seq.ADC)].ravel()[run].astype(float) * 3.5 < 1.41)
    body = voxels[entry.index.body.start : entry.index.body.start + entry.index.body.count]
    assert np.array_equal(np.sort(body), np.flatnonzero(images[-1] > 0))


def test_a_second_opening_builds_nothing(store, cases):
    entry = store.entry(cases[0])
    before = {p.name: p.stat().st_mtime_ns for p in entry.path.iterdir()}
    assert store.entry(cases[0]) == entry
    assert before == {p.name: p.stat().st_mtime_ns for p in entry.path.iterdir()}


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= 0x10
    path.write_bytes(raw)


DAMAGE = {
    "truncated": lambda p, n: os.truncate(p, p.stat().st_size * n // 40),
    "empty": lambda p, n: p.write_bytes(b""),
    "missing": lambda p, n: p.unlink(),
    "header": lambda p, n: flip(p, n % 100),
}


@pytest.mark.parametrize("name", ["images.npy", "presence.npy", "voxels.npy", "meta.json"])
def test_damaged_entries_are_rebuilt(store, cases, name):
    entry = store.entry(cases[1])
    good = content(entry)
    rng = np.random.default_rng(len(name))
    injuries = [("flip", lambda p, n: flip(p, int(rng.integers(1 << 30)))) for _ in range(8)]
    injuries += [(kind, f) for kind, f in DAMAGE.items() for _ in range(2)]
    for turn, (kind, injure) in enumerate(injuries):
        injure(entry.path / name, turn)
        store_module._verified.clear()  # a new process has verified nothing
        assert open_entry(entry.path, entry_key(cases[1], NATIVE)) is None, kind
        entry = store.entry(cases[1])
        assert all(np.array_equal(a, b) for a, b in zip(content(entry), good, strict=True)), kind


def test_another_precision_or_version_is_a_miss(store, cases, monkeypatch):
    entry = store.entry(cases[1])
    good = content(entry)
    np.save(entry.path / "images.npy", good[0].astype(np.float32))
    record = json.loads((entry.path / "meta.json").read_text())
    record["content"]["files"]["images.npy"] = {
        "sha256": store_module.sha256_file(entry.path / "images.npy"),
        "bytes": (entry.path / "images.npy").stat().st_size,
    }
    record["sha256"] = store_module._digest(record["content"])
    (entry.path / "meta.json").write_text(json.dumps(record))
    assert store.entry(cases[1]).images().dtype == np.float16
    monkeypatch.setattr("diffusion_adc.data.prepare.SCALING_VERSION", 99)
    assert open_entry(entry.path, entry_key(cases[1], NATIVE)) is None


def test_the_key_follows_files_b_values_and_recipe(cases):
    keys = {
        entry_key(cases[1], NATIVE),
        entry_key(cases[2], NATIVE),
        entry_key(replace(cases[1], b_high=800), NATIVE),
        entry_key(replace(cases[1], files={**cases[1].files, seq.ADC: "0" * 64}), NATIVE),
        entry_key(cases[1], Recipe.for_patch((2, 2, 4), (16, 16, 8))),
        entry_key(cases[1], Recipe.for_patch(None, (128, 16, 8))),
    }
    assert len(keys) == 6
    assert entry_key(replace(cases[1], split="test"), NATIVE) in keys
    assert Recipe.for_patch(None, (64, 64, 32)) == Recipe.for_patch(None, (96, 96, 16))
    assert Recipe.for_patch(None, (96, 96, 1)).planes


def _build(arguments):
    cohort_dir, store_dir, queue = arguments
    store = Store(cohort_dir, NATIVE, store_dir)
    entries = store.entries(read_cohort(cohort_dir).cases)
    queue.put([content(e)[0].sum(dtype=np.float64) for e in entries])


def test_two_processes_may_build_the_same_keys(cohort_dir, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_build, args=((cohort_dir, tmp_path / "s", queue),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sums[0] == sums[1] == sums[2]
    assert not [p for p in (tmp_path / "s").rglob("*") if p.suffix in (".part", ".old")]


def test_a_dead_holder_frees_the_lock(store, cases):
    pid = os.fork()
    if pid == 0:
        with store._locked(cases[0].case_id):
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert store.entry(cases[0]).case_id == cases[0].case_id


def test_entries_pickle_small_and_subjects_stay_lazy(store, cases):
    entry = store.entry(cases[1])
    assert len(pickle.dumps(entry)) < 3000
    subject = open_subject(pickle.loads(pickle.dumps(entry)))
    assert subject.spatial_shape == entry.shape
    subject.check_consistent_space()
    before = (entry.path / "images.npy").read_bytes()
    subject[seq.IMAGES].data[:] = 7  # a private write never reaches the file
    assert (entry.path / "images.npy").read_bytes() == before


def test_a_changed_case_file_is_refused_not_stored(cohort_dir, tmp_path):
    copy = tmp_path / "cohort"
    shutil.copytree(cohort_dir, copy)
    case = read_cohort(copy).cases[0]
    flip(copy / "cases" / case.case_id / "adc.nii.gz", 500)
    store = Store(copy, NATIVE)
    with pytest.raises(CaseError, match="S25 TEST-0000 adc"):
        store.entry(case)
    assert not list(store.folder.glob("TEST*"))


def test_a_full_disk_leaves_nothing_behind(store, cases, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(DiffusionAdcError, match=r"No space left.*nothing was left half-written"):
        store.entry(cases[0])
    assert [p.name for p in store.folder.iterdir()] == [".locks"]
    monkeypatch.undo()
    assert store.entry(cases[0]).shape


def test_withdrawn_persons_leave_the_store(store, cases):
    store.entries(cases)
    store.forget(["TEST-0001"])
    left = sorted(p.name for p in store.folder.glob("TEST*"))
    assert left == [c.case_id for c in cases if c.research_id != "TEST-0001"]
    assert not (store.folder / ".locks" / "TEST-0001_01").exists()


@pytest.mark.parametrize("shape", [(9, 7, 5), (1, 1, 1), (33, 8, 1)])
def test_odd_and_tiny_volumes(tmp_path, shape):
    path = make_cohort(tmp_path / "c", 2, 0, 0, shape=shape, readers=1)
    for case in read_cohort(path).cases:
        entry = Store(path, NATIVE).entry(case)
        assert entry.images().shape == (7, *entry.shape)


def test_anisotropic_oblique_grid_with_missing_sequences(tmp_path):
    affine = np.array([[1.2, -0.4, 0, 3], [0.5, 1.1, 0.3, 2], [0, -0.2, 4.2, 9], [0, 0, 0, 1.0]])
    missing = [(), (seq.T1W, seq.DWI_LOW), (seq.DWI_HIGH, seq.T2W)]
    path = make_cohort(tmp_path / "c", 3, 0, 0, readers=1, affine=affine, missing=missing)
    recipe = Recipe.for_patch((1.5, 1.5, 4.0), (8, 8, 4))
    for case, absent in zip(read_cohort(path).cases, missing, strict=True):
        prepared = prepare_case(path, case, recipe)
        assert isinstance(prepared, PreparedCase)
        assert prepared.available.tolist() == [float(n not in absent) for n in seq.SEQUENCES]
        for name in absent:
            assert not prepared.images[seq.CHANNELS.index(name)].any()
        native = load_volume(path, case, seq.ADC)
        back = prepared.to_native(prepared.images[seq.CHANNELS.index(seq.ADC)])
        assert back.shape == native.array.shape
        inside = load_volume(path, case, seq.VALID).array.astype(bool)
        assert np.median(np.abs(back.numpy()[inside] * 3.5 - native.array[inside])) < 0.05
        batch = prepared.batch()
        assert batch[seq.IMAGES].shape == (1, 7, *prepared.shape)
        assert batch[seq.IMAGES].dtype == torch.float32


def test_impossible_spacing_is_refused():
    with pytest.raises(UsageError, match="three positive numbers"):
        Recipe.for_patch((2.5, 2.5), (16, 16, 8))
