from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import stats

from diffusion_adc.data.collate import case_facts, patch_subject
from diffusion_adc.data.grid import WorkingGrid
from diffusion_adc.data.index import Lesion, Segment, VoxelIndex
from diffusion_adc.data.loaders import PatchDataset, RankSequence
from diffusion_adc.data.patches import BODY, LESION, RESTRICTED, LesionBalancedSampler, PatchTable, uniforms
from diffusion_adc.data.prepare import Recipe
from diffusion_adc.data.store import Store, StoreEntry
from diffusion_adc.data.subjects import open_subject
from diffusion_adc.data.transforms import augmentation
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.cohort import read_cohort

SIZE = (16, 16, 8)


@pytest.fixture(scope="module")
def cases(cohort_dir):
    return read_cohort(cohort_dir).split("train")


@pytest.fixture(scope="module")
def entries(cohort_dir, cases, tmp_path_factory):
    return Store(cohort_dir, Recipe.for_patch(None, SIZE), tmp_path_factory.mktemp("store")).entries(cases)


@pytest.fixture(scope="module")
def facts(cases):
    return [case_facts(case, row, Covariates(age_years=65), ("age_years",)) for row, case in enumerate(cases)]


def choices(table, n, seed=0, epoch=0):
    return [table.choose(row) for row in uniforms(seed, 0, epoch, n)]


def test_shares_hold_even_over_few_patches(entries):
    table = PatchTable(entries, SIZE)
    for n in (20, 400):
        kinds = np.bincount([c.kind for c in choices(table, n)], minlength=3) / n
        assert np.allclose(kinds, [0.5, 0.25, 0.25], atol=2.5 / n + 0.001)
    assert {c.kind for c in choices(PatchTable(entries, SIZE, (1, 0, 0)), 50)} == {LESION}


def test_each_lesion_is_equally_likely_whatever_its_size(entries):
    """Two readers: 3 + 2 lesions in one case and 1 + 1 in two cases, volumes from 1 to some 200 voxels."""
    table = PatchTable(entries, SIZE, (1, 0, 0))
    assert table.n_lesions == 9
    labels = {}
    for row, entry in enumerate(entries):
        voxels = entry.voxels()
        for number, lesion in enumerate(entry.index.lesions):
            run = voxels[lesion.voxels.start : lesion.voxels.start + lesion.voxels.count]
            for flat in run:
                labels.setdefault((row, int(flat)), []).append((row, number))
    sizes = [lesion.voxels.count for entry in entries for lesion in entry.index.lesions]
    assert max(sizes) > 30 * min(sizes)
    expected, seen = {}, {}
    for group in labels.values():
        expected[tuple(group)] = len(group) / 9
    for c in choices(table, 3600):
        key = tuple(labels[(c.entry, int(np.ravel_multi_index(c.center, entries[c.entry].shape)))])
        seen[key] = seen.get(key, 0) + 1
    counts = np.array([seen.get(key, 0) for key in expected])
    assert counts.sum() == 3600
    assert stats.chisquare(counts, 3600 * np.array(list(expected.values()))).pvalue > 1e-3


def test_lesion_voxels_are_equally_likely_within_a_lesion(entries):
    table = PatchTable([entries[2]], SIZE, (1, 0, 0), readers="first")
    lesion = entries[2].index.lesions[0].voxels
    run = entries[2].voxels()[lesion.start : lesion.start + lesion.count]
    hits = [np.ravel_multi_index(c.center, entries[2].shape) for c in choices(table, 30 * lesion.count)]
    counts = np.array([np.sum(np.array(hits) == flat) for flat in run])
    assert stats.chisquare(counts).pvalue > 1e-3


def test_restricted_patches_lie_outside_the_placing_readers_map(entries):
    table = PatchTable(entries, SIZE, (0, 1, 0))
    found = choices(table, 300)
    assert {c.kind for c in found} == {RESTRICTED}
    assert {c.entry for c in found} == {0, 1, 2, 3}  # the tumor-free case as well
    for c in found:
        placing = 1 - c.reader
        assert entries[c.entry].presence()[placing][c.center] == 0


def test_the_learned_reader_never_chose_the_place(entries):
    """Lesion 2 of case 1 is kept by reader 1 alone: learned from there, it must appear as kept and as not kept."""
    table = PatchTable([entries[1]], SIZE, (1, 0, 0))
    kept, total = 0, 0
    for c in choices(table, 2000):
        own = [lesion for lesion in entries[1].index.lesions if lesion.reader == 1 - c.reader]
        flat = np.ravel_multi_index(c.center, entries[1].shape)
        voxels = entries[1].voxels()
        assert any(flat in voxels[x.voxels.start : x.voxels.start + x.voxels.count] for x in own)
        if not entries[1].presence()[1][c.center] and entries[1].presence()[0][c.center]:
            kept, total = kept + (c.reader == 0), total + 1
    assert total > 100
    assert kept == 0  # placed by reader 1's lesion, so always learned from reader 2, who left it out


class _LineOfVoxels(StoreEntry):
    """An entry without files: candidate n lies at voxel n of a line."""

    def voxel(self, position):
        return position, 0, 0


@pytest.mark.parametrize("readers", [2, 3])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_a_lesion_kept_with_probability_p_is_learned_with_probability_p(readers, keep):
    """Were the place chosen by the learned map itself, every one of these patches would show a kept lesion."""
    rng = np.random.default_rng(1)
    table_entries, kept = [], []
    for _ in range(1500):
        grid = WorkingGrid((4, 1, 1), np.eye(4), (0, 0, 0), (4, 1, 1))
        keeps = rng.random(readers) < keep
        lesions = tuple(Lesion(r, Segment(0, 1)) for r in np.flatnonzero(keeps).tolist())
        index = VoxelIndex(lesions, (Segment(1, 1),) * readers, Segment(0, 4))
        table_entries.append(_LineOfVoxels(Path(), "TEST-0001_01", grid, readers, index, (0, 0, 0)))
        kept.append(keeps)
    found = choices(PatchTable(table_entries, (1, 1, 1), (1, 0, 0)), 6000)
    share = np.mean([kept[c.entry][c.reader] for c in found])
    assert abs(share - keep) < 0.04


def test_readers_first_takes_the_first(entries):
    assert {c.reader for c in choices(PatchTable(entries, SIZE, readers="first"), 100)} == {0}
    readers = [c.reader for c in choices(PatchTable(entries, SIZE, (0, 0, 1)), 600)]
    assert 0.4 < np.mean(readers) < 0.6


def test_patches_stay_inside_and_lesions_are_not_always_central(entries):
    for size in (SIZE, (40, 30, 12), (24, 24, 1), (1, 1, 1)):
        table = PatchTable(entries, size)
        offsets = []
        for c in choices(table, 200):
            for first, n, whole, center in zip(c.start, size, entries[c.entry].shape, c.center, strict=True):
                assert 0 <= first <= whole - n
                assert first <= center < first + n
            offsets.append(np.array(c.center) - c.start)
        if size == SIZE:
            assert np.std([o[0] for o in offsets]) > 2


def test_a_split_without_tumor_falls_back(entries):
    kinds = {c.kind for c in choices(PatchTable(entries[:1], SIZE), 100)}
    assert kinds == {RESTRICTED, BODY}


@pytest.mark.parametrize("size", [SIZE, (24, 20, 1)])
@pytest.mark.parametrize("reader", [0, 1])
def test_crops_equal_torchio_bit_for_bit(cohort_dir, cases, facts, tmp_path, size, reader):
    entry = Store(cohort_dir, Recipe.for_patch(None, size), tmp_path).entry(cases[1])
    for start in ((0, 0, 0), (3, 5, 2), (16, 24, 4)):
        expected = LesionBalancedSampler(size).extract_patch(open_subject(entry, reader), start)
        patch = patch_subject(entry, start, size, reader, facts[1])
        for name in (seq.IMAGES, seq.PRESENCE):
            assert torch.equal(patch[name].data, expected[name].data.float())
            assert np.allclose(patch[name].affine, expected[name].affine, atol=1e-12)
        assert patch[seq.LOCATION].tolist() == expected[tio.LOCATION].tolist()


def test_slices_and_volumes_hold_the_same_voxels(cohort_dir, cases, tmp_path):
    volume, planes = (
        Store(cohort_dir, Recipe.for_patch(None, (16, 16, k)), tmp_path).entry(cases[1]) for k in (8, 1)
    )
    assert planes.planes
    assert np.array_equal(volume.images(), planes.images())
    assert np.array_equal(volume.presence(), planes.presence())
    assert np.array_equal(volume.voxels(), planes.voxels())


def test_the_fast_path_equals_the_subject_path(entries, facts):
    dataset = PatchDataset(PatchTable(entries, SIZE), facts, 12, seed=3)
    batch = dataset.__getitems__(list(range(12)))
    for i in range(12):
        subject = dataset.subject(i)
        assert torch.equal(batch[seq.IMAGES][i], subject[seq.IMAGES].data)
        assert torch.equal(batch[seq.PRESENCE][i], subject[seq.PRESENCE].data)
        assert torch.equal(batch[seq.LOCATION][i], subject[seq.LOCATION])
        assert all(torch.equal(batch[k][i], v) for k, v in dataset[i].items())


def test_torchio_sampler_follows_the_same_law(entries):
    subject = open_subject(entries[1])
    torch.manual_seed(0)
    patches = list(LesionBalancedSampler(SIZE, (1, 0, 0))(subject, num_patches=60))
    assert all(p[seq.PRESENCE].data.any() or p.spatial_shape == SIZE for p in patches)
    torch.manual_seed(0)
    again = list(LesionBalancedSampler(SIZE, (1, 0, 0))(subject, num_patches=60))
    assert all(torch.equal(a[tio.LOCATION], b[tio.LOCATION]) for a, b in zip(patches, again, strict=True))
    torch.manual_seed(0)
    table = PatchTable([entries[1]], SIZE, (1, 0, 0))
    for patch in patches:
        start = table.choose(torch.rand(9, dtype=torch.float64).numpy()).start
        assert tuple(patch[tio.LOCATION][:3].tolist()) == start
        torch.rand(1)  # TorchIO's Crop asks whether to be applied


def test_a_patch_depends_on_seed_epoch_and_number_alone(entries, facts):
    def locations(seed, epoch, numbers, n):
        dataset = PatchDataset(PatchTable(entries, SIZE), facts, n, seed=seed)
        return [dataset.choice((epoch << 40) + i) for i in numbers]

    whole = locations(5, 2, range(40), 40)
    assert locations(5, 2, range(40), 4000) == whole
    assert [locations(5, 2, [i], 40)[0] for i in reversed(range(40))] == whole[::-1]
    assert locations(6, 2, range(40), 40) != whole
    assert locations(5, 3, range(40), 40) != whole


def test_ranks_are_disjoint_and_together_complete():
    for ranks in (1, 2, 3, 7):
        parts = [list(RankSequence(64, r, ranks, batch_size=2, epochs=True)) for r in range(ranks)]
        assert len({len(p) for p in parts}) == 1
        together = sorted(i for p in parts for i in p)
        assert together == list(range(64 // (2 * ranks) * 2 * ranks))
        fixed = [list(RankSequence(13, r, ranks)) for r in range(ranks)]
        assert sorted(i for p in fixed for i in p) == list(range(13))


def test_dataset_pickles_small_and_identical(entries, facts):
    dataset = PatchDataset(PatchTable(entries, SIZE), facts, 100_000, augment=augmentation("light"))
    first = dataset[7]
    raw = pickle.dumps(dataset)
    assert len(raw) < 20_000
    again = pickle.loads(raw)[7]
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_augmenting_leaves_the_global_generator_alone(entries, facts):
    dataset = PatchDataset(PatchTable(entries, SIZE), facts, 10, augment=augmentation("light"))
    state, queued = torch.get_rng_state(), len(torch.cuda._queued_calls)
    for index in range(5):
        dataset[index]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(torch.cuda._queued_calls) == queued  # one more per patch would be a leak


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": (64, 16, 8)}, r"TEST-0000: a volume of 40×44×12 voxels.*set data.patch_size to at most \[40, 16, 8\]"),
        ({"patch_size": (16, 16)}, "three positive integers"),
        ({"shares": (0.5, 0.2, 0.2)}, "add up to 1"),
        ({"readers": "all"}, "first, random"),
        ({"jitter": 0.6}, "jitter 0.6"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(entries, arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        PatchTable(entries, **{"patch_size": SIZE, **arguments})
    assert "\n" not in str(error.value)
