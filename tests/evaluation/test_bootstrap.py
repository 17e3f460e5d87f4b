"""Cluster bootstrap: persons stay together, ratios are formed anew, intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate


def test_examinations_of_a_person_enter_together() -> None:
    ids = ["A-001", "B-002", "A-001", "C-003", "B-002"]
    weights = Bootstrap(ids, 500, seed=1).weights
    assert weights.shape == (501, 5)
    assert (weights[0] == 1).all()
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    # Three persons are drawn in every replicate.
    np.testing.assert_array_equal(weights[1:, [0, 1, 3]].sum(axis=1), 3)


def test_same_seed_same_weights_and_order_of_cases_does_not_matter() -> None:
    ids = [f"P-{n:03d}" for n in (5, 2, 9, 2, 7)]
    one, again = Bootstrap(ids, 50, seed=3), Bootstrap(ids, 50, seed=3)
    np.testing.assert_array_equal(one.weights, again.weights)
    turned = Bootstrap(ids[::-1], 50, seed=3)
    np.testing.assert_array_equal(one.weights, turned.weights[:, ::-1])
    assert not np.array_equal(one.weights, Bootstrap(ids, 50, seed=4).weights)


def test_vectorized_scores_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    ids = [f"P-{n:03d}" for n in rng.integers(0, 12, 20)]
    boot = Bootstrap(ids, 40, seed=0)
    hits, lesions = rng.integers(0, 4, 20).astype(float), rng.integers(0, 6, 20).astype(float)
    dice = np.where(lesions > 0, rng.random(20), np.nan)
    ratio, mean, total = boot.ratio(hits, lesions), boot.mean(dice), boot.total(hits)
    for r in range(40):
        sample = np.repeat(np.arange(20), boot.weights[r + 1].astype(int))
        assert ratio.replicates[r] == pytest.approx(hits[sample].sum() / lesions[sample].sum())
        assert mean.replicates[r] == pytest.approx(np.nanmean(dice[sample]))
        assert total.replicates[r] == hits[sample].sum()
    assert ratio.value == pytest.approx(hits.sum() / lesions.sum())
    assert mean.value == pytest.approx(np.nanmean(dice))


def test_interval_of_a_mean_agrees_with_theory() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(150):
        values = rng.normal(1.0, 2.0, 40)
        score = Bootstrap([f"P-{n:03d}" for n in range(40)], 400, seed=trial).mean(values).summary()
        covered += score["low95"] <= 1.0 <= score["high95"]
    assert 0.88 <= covered / 150 <= 0.99


def test_clusters_widen_the_interval_that_independent_cases_would_have() -> None:
    rng = np.random.default_rng(4)
    person = np.repeat(rng.normal(size=15), 4)  # four identical examinations each
    together = Bootstrap([f"P-{n // 4:03d}" for n in range(60)], 1000).mean(person)
    apart = Bootstrap([f"P-{n:03d}" for n in range(60)], 1000).mean(person)
    assert together.replicates.std() == pytest.approx(2 * apart.replicates.std(), rel=0.15)


def test_paired_difference_of_equal_methods_is_zero_and_of_a_shift_exact() -> None:
    rng = np.random.default_rng(6)
    boot = Bootstrap([f"P-{n:03d}" for n in range(25)], 300)
    values = rng.random(25)
    same = (boot.mean(values) - boot.mean(values)).summary()
    assert same == {"value": 0.0, "low95": 0.0, "high95": 0.0}
    shift = (boot.mean(values + 0.25) - boot.mean(values)).summary()
    assert shift["low95"] == pytest.approx(0.25)
    assert shift["high95"] == pytest.approx(0.25)


def test_undefined_scores_are_none_and_few_defined_replicates_give_no_interval() -> None:
    boot = Bootstrap(["A-001", "B-002", "C-003"], 400)
    nothing = np.full(3, np.nan)
    assert boot.mean(nothing).summary() == {"value": None, "low95": None, "high95": None}
    assert boot.ratio(np.ones(3), np.zeros(3)).summary()["value"] is None
    rare = Estimate(0.5, np.array([0.5, np.nan, np.nan, np.nan])).summary()
    assert rare == {"value": 0.5, "low95": None, "high95": None}
    single = Bootstrap(["A-001"], 10).mean(np.array([2.0])).summary()
    assert single == {"value": 2.0, "low95": 2.0, "high95": 2.0}
    with pytest.raises(ValueError, match="nothing to resample"):
        Bootstrap([], 10)
