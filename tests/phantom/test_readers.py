from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.phantom import readers
from diffusion_adc.phantom.readers import (
    JITTER_CORRELATION_MM,
    ReaderModel,
    Region,
    draw_reading,
    keep_probability,
    oracle_draws,
    pair_law,
    whole_probability,
)
from diffusion_adc.phantom.truth import CaseTruth, LesionTruth, MimicTruth

SHAPE, SPACING = (56, 56, 28), (2.5, 2.5, 5.0)
VOXEL_ML = float(np.prod(SPACING)) / 1000


def ball(center, radius_mm) -> np.ndarray:
    grid = np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij"), -1
    )
    return np.linalg.norm(grid - np.array(center, dtype=float), axis=-1) < radius_mm


def lesion(number, keep, **changes) -> LesionTruth:
    row = LesionTruth(
        number=number, site="ilium", group="bone", kind="untreated", grade=3, arm="whole", keep_probability=keep,
        whole_probability=1.0, partner=0, ambiguous=keep < readers.SURE, mappable=True, volume_ml=1.0, core_ml=1.0,
        contrast=5.0, adc_median=0.9, adc_true=0.9, centroid_mm=(0.0, 0.0, 0.0),
    )  # fmt: skip
    return replace(row, **changes)


def toy(
    lesions, masks, *, ambiguity=True, core=None, pairs=(), mimics=(), mimic_mask=None, adc=0.9
) -> CaseTruth:
    label = np.zeros(SHAPE, dtype=np.uint8)
    for row, mask in zip(lesions, masks, strict=True):
        label[mask] = row.number
    mimic = np.zeros(SHAPE, dtype=np.uint8)
    if mimic_mask is not None:
        mimic[mimic_mask] = 1
    return CaseTruth(
        case_id="SIM-00001_01", ambiguity=ambiguity, spacing_mm=SPACING, lesions=tuple(lesions), pairs=tuple(pairs),
        mimics=tuple(mimics), lesion_label=label, core=label > 0 if core is None else core,
        organ_label=np.zeros(SHAPE, dtype=np.uint8), mimic_label=mimic,
        reading_adc=np.full(SHAPE, np.float32(adc)),
    )  # fmt: skip


A, B, C = ball((35, 35, 40), 12), ball((95, 40, 60), 15), ball((70, 100, 90), 10)


def test_every_lesion_is_kept_as_often_as_stated():
    probabilities = (0.95, 0.5, 0.2)
    truth = toy([lesion(n + 1, p) for n, p in enumerate(probabilities)], (A, B, C))
    model = ReaderModel(truth)
    n = 4000
    kept = [model.kept(np.random.default_rng([7, i])) for i in range(n)]
    for number, p in enumerate(probabilities, start=1):
        frequency = np.mean([number in k for k in kept])
        assert abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / n)
    both = np.mean([2 in k and 3 in k for k in kept])
    assert both == pytest.approx(0.5 * 0.2, abs=0.025)  # independent given the probabilities


def test_presence_drawn_from_the_whole_model_keeps_the_frequencies_too():
    truth = toy([lesion(1, 0.9), lesion(2, 0.4)], (A, B))
    draws = oracle_draws(truth, 150, seed=3)
    assert np.mean([d[A].mean() > 0.3 for d in draws]) == pytest.approx(0.9, abs=0.09)
    assert np.mean([d[B].mean() > 0.3 for d in draws]) == pytest.approx(0.4, abs=0.13)


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.7, 0.3), (0.3, 0.8)])
def test_pairs_follow_their_stored_joint_law(p, q):
    first, second = lesion(1, p, arm="pair", partner=2), lesion(2, q, arm="pair", partner=1)
    pair = pair_law(first, second, 45.0, True)
    assert pair.both + pair.only_first + pair.only_second + pair.neither == pytest.approx(1)
    assert pair.both + pair.only_first == pytest.approx(p)
    assert min(pair.both, pair.only_first, pair.only_second, pair.neither) >= -1e-12
    model = ReaderModel(toy([first, second], (A, B), pairs=[pair]))
    n = 4000
    kept = [model.kept(np.random.default_rng([1, i])) for i in range(n)]
    found = {
        "both": np.mean([1 in k and 2 in k for k in kept]), "only_first": np.mean([1 in k and 2 not in k for k in kept]),
        "only_second": np.mean([1 not in k and 2 in k for k in kept]), "neither": np.mean([not k for k in kept]),
    }  # fmt: skip
    for name, value in found.items():
        assert value == pytest.approx(getattr(pair, name), abs=0.032), name


def test_a_part_lesion_is_kept_whole_or_trimmed_to_its_core():
    core = ball((95, 40, 60), 9)
    truth = toy([lesion(1, 0.8, arm="part", whole_probability=0.4)], (B,), core=core)
    model = ReaderModel(truth)
    kept = [model.kept(np.random.default_rng([2, i])).get(1) for i in range(3000)]
    assert np.mean([k == "whole" for k in kept]) == pytest.approx(0.8 * 0.4, abs=0.035)
    assert np.mean([k == "core" for k in kept]) == pytest.approx(0.8 * 0.6, abs=0.035)
    sizes = {int(d.sum()) for d in oracle_draws(truth, 25, seed=1)}
    assert sizes <= {0, int(core.sum()), int(B.sum())}
    assert len(sizes) >= 2


@settings(max_examples=30, deadline=None)
@given(radius=st.floats(2.6, 22), seed=st.integers(0, 10_000))
def test_jitter_never_changes_a_lesions_volume(radius, seed):
    mask = ball((70, 70, 70), radius)
    region = Region.of(mask, SPACING)
    assert region is not None
    redrawn = region.redrawn(SPACING, np.random.default_rng(seed))
    assert redrawn.sum() == mask.sum()


def test_jitter_moves_the_border_by_about_a_voxel_without_moving_the_lesion():
    mask = ball((70, 70, 70), 20)
    region = Region.of(mask, SPACING)
    shares, centers = [], []
    where = np.argwhere(mask[region.box]).mean(axis=0)
    mean = np.zeros(region.distance.shape)
    for seed in range(120):
        redrawn = region.redrawn(SPACING, np.random.default_rng(seed))
        shares.append((redrawn & mask[region.box]).sum() / mask.sum())
        centers.append(np.argwhere(redrawn).mean(axis=0) - where)
        mean += redrawn / 120
    assert 0.8 < np.mean(shares) < 0.97
    assert np.abs(np.mean(centers, axis=0)).max() < 0.15
    # Where the border is half a voxel away, half a standard deviation decides: neither certain nor a coin.
    assert np.all(mean[region.distance < -2.5 * region.sd_mm - 1] > 0.99)
    assert np.all(mean[region.distance > 2.5 * region.sd_mm + 1] < 0.01)


def test_jitter_is_correlated_along_the_border_over_the_stated_length():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :28] = True
    region = Region.of(mask, SPACING)
    assert region.sd_mm == readers.JITTER_SD_MM
    heights = []
    for seed in range(60):
        redrawn = np.zeros(SHAPE, dtype=bool)
        redrawn[region.box] = region.redrawn(SPACING, np.random.default_rng(seed))
        heights.append(redrawn.sum(axis=1) * SPACING[1])
    moved = np.array(heights)[:, 4:-4, 3:-3]
    moved = moved - moved.mean(axis=(1, 2), keepdims=True)
    lag = round(JITTER_CORRELATION_MM / SPACING[0])
    along = np.mean(moved[:, lag:] * moved[:, :-lag]) / np.mean(moved**2)
    far = np.mean(moved[:, 4 * lag :] * moved[:, : -4 * lag]) / np.mean(moved**2)
    assert along == pytest.approx(np.exp(-1), abs=0.17)
    assert abs(far) < 0.1


def test_mean_volume_over_draws_is_the_true_one_for_sure_lesions():
    truth = toy([lesion(1, 1.0), lesion(2, 1.0)], (A, B))
    volumes = [d.sum() for d in oracle_draws(truth, 40, seed=5)]
    assert np.mean(volumes) == pytest.approx((A | B).sum(), rel=0.01)


def test_one_reading_in_twenty_includes_a_mimic():
    mimics = [MimicTruth(number=1, organ="lymph_node", weight=1.0, volume_ml=0.5)]
    truth = toy([], (), mimics=mimics, mimic_mask=C)
    model = ReaderModel(truth)
    valid = np.ones(SHAPE, dtype=bool)
    hits = [model.read(truth.reading_adc, valid, np.random.default_rng([3, i])).any() for i in range(1500)]
    assert np.mean(hits) == pytest.approx(readers.MIMIC_PROBABILITY, abs=0.02)


def test_a_reader_keeps_nothing_above_the_ceiling_nor_without_a_valid_adc():
    truth = toy([lesion(1, 1.0)], (B,))
    adc = truth.reading_adc.copy()
    adc[:39] = 1.81
    valid = np.ones(SHAPE, dtype=bool)
    valid[:, :16] = False
    label = draw_reading(truth, adc, valid, np.random.default_rng(0))
    assert label.any()
    assert not label[:39].any()
    assert not label[:, :16].any()
    low = np.where(B, np.float32(1.39), np.float32(0.9))
    assert draw_reading(truth, low, np.ones(SHAPE, bool), np.random.default_rng(0))[B].mean() > 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_without_ambiguity_the_reading_is_the_truth(seed):
    truth = toy([lesion(1, 1.0), lesion(3, 1.0)], (A, C), ambiguity=False, mimic_mask=B,
                mimics=[MimicTruth(number=1, organ="ovary", weight=1.0, volume_ml=1)], adc=3.0)  # fmt: skip
    label = draw_reading(truth, truth.reading_adc, np.ones(SHAPE, bool), np.random.default_rng(seed))
    assert np.array_equal(label > 0, truth.lesion_label > 0)
    assert set(np.unique(label)) == {0, 1, 2}  # numbered without gaps
    assert all(np.array_equal(d, truth.lesion_label > 0) for d in oracle_draws(truth, 3, seed))


def test_draws_repeat_and_do_not_depend_on_how_many_are_drawn():
    truth = toy([lesion(1, 0.6), lesion(2, 0.6)], (A, B))
    few, many = oracle_draws(truth, 3, seed=9), oracle_draws(truth, 6, seed=9)
    assert all(np.array_equal(a, b) for a, b in zip(few, many[:3], strict=True))
    other = oracle_draws(replace(truth, case_id="SIM-00002_01"), 6, seed=9)
    assert any(not np.array_equal(a, b) for a, b in zip(many, other, strict=True))


def test_an_empty_case_gives_empty_readings():
    truth = toy([], ())
    assert not any(d.any() for d in oracle_draws(truth, 5, seed=0))
    assert not ReaderModel(truth).reach().any()


def test_one_voxel_and_border_lesions_can_be_read():
    one, edge = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    one[30, 30, 14] = True
    edge[:3, :3, :2] = True
    truth = toy([lesion(1, 1.0), lesion(2, 1.0)], (one, edge))
    for draw in oracle_draws(truth, 5, seed=2):
        assert draw.sum() == pytest.approx(one.sum() + edge.sum(), abs=1)


def test_keep_probability_follows_size_contrast_and_adc():
    sure = keep_probability(3.0, 5.6, 0.9, "bone")
    assert sure == pytest.approx(0.95, abs=0.01)
    assert keep_probability(0.2, 5.6, 0.9, "bone") == pytest.approx(0.6, abs=0.01)
    assert keep_probability(0.05, 5.6, 0.9, "bone") == pytest.approx(0.6, abs=0.01)
    assert 0.6 < keep_probability(0.45, 5.6, 0.9, "bone") < 0.95
    assert keep_probability(3.0, 3.05, 0.9, "bone") == pytest.approx(0.475, abs=0.01)
    assert keep_probability(3.0, 4.0, 1.6, "bone") < sure
    assert keep_probability(3.0, 0.4, 0.9, "bone") == 0.03
    assert whole_probability(1.0) == 0.1 < whole_probability(4.0) == 0.5 < whole_probability(9.0) == 0.9
