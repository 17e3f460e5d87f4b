"""Candidates and matching, against picai_eval and at the places where that tool is known to go wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffusion_adc.evaluation.detection import average_precision, case_auroc, curve_counts, froc
from diffusion_adc.evaluation.lesions import (
    Matching,
    bounding_box,
    components,
    lesion_candidates,
    match_lesions,
)


def blobs(rng: np.random.Generator, shape: tuple[int, ...], share: float, smooth: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), smooth)
    return field > np.quantile(field, 1.0 - share)


def detection_map(rng: np.random.Generator, mask: np.ndarray, steps: int) -> np.ndarray:
    labels, count = components(mask)
    confidence = np.concatenate([[0.0], rng.integers(1, steps + 1, count) / steps])
    return confidence[labels].astype(np.float32)


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A detection map and a reference that share, split and merge some of their components."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 20, 3))
    reference = blobs(rng, shape, rng.choice([0.02, 0.1, 0.3]), rng.choice([0.6, 1.0, 1.6]))
    other = blobs(rng, shape, rng.choice([0.02, 0.1, 0.3]), rng.choice([0.6, 1.0, 1.6]))
    kind = rng.integers(4)
    if kind == 0:
        predicted = other
    elif kind == 1:  # pieces of the reference: splits
        predicted = (reference & (rng.random(shape) < 0.6)) | (other & (rng.random(shape) < 0.1))
    elif kind == 2:  # merged lesions
        predicted = ndimage.binary_dilation(reference, iterations=1) | (other & ~reference)
    else:
        predicted = np.roll(reference, 1, axis=0)
    if seed % 11 == 0:
        reference = np.zeros(shape, dtype=bool)
    if seed % 13 == 0:
        predicted = np.zeros(shape, dtype=bool)
    return detection_map(rng, predicted, steps=int(rng.choice([3, 1000]))), reference.astype(np.int32)


def ours(detection: np.ndarray, reference: np.ndarray, **options: object) -> Matching:
    # Numbered in raster order, as picai_eval does: candidates of equal overlap are told apart by it alone.
    labels, count = ndimage.label(detection, np.ones((3, 3, 3)), output=np.int32)
    lesions, _ = ndimage.label(reference, np.ones((3, 3, 3)), output=np.int32)
    peak = ndimage.maximum(detection, labels, np.arange(1, count + 1)) if count else np.zeros(0)
    return match_lesions(labels, np.asarray(peak, dtype=float), lesions, **options)


def picai_rows(matching: Matching) -> list[tuple[int, float, float]]:
    found = [
        (1, float(c), float(i)) for c, i in zip(matching.found_confidence, matching.found_iou, strict=True)
    ]
    return sorted(found + [(0, float(c), 0.0) for c in matching.false_confidence])


def test_matching_equals_picai_eval_on_random_volumes() -> None:
    from picai_eval.eval import evaluate_case

    cases, multiple, split = 0, 0, 0
    for seed in range(150):
        detection, reference = random_pair(seed)
        theirs, _, _, _ = evaluate_case(detection, reference)
        matching = ours(detection, reference, credit="matched")
        got = picai_rows(matching)
        expected = sorted((int(a), float(b), float(c)) for a, b, c in theirs)
        assert len(got) == len(expected), seed
        np.testing.assert_allclose(np.array(got), np.array(expected), atol=1e-6, err_msg=str(seed))
        cases += 1
        multiple += matching.found.size > 1
        split += "split" in matching.outcome
    assert cases == 150
    assert multiple > 40
    assert split > 12


def test_average_precision_and_auroc_equal_picai_eval() -> None:
    from picai_eval.eval import evaluate

    for start in (0, 300, 600):
        pairs = [random_pair(seed) for seed in range(start, start + 40)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = evaluate([p[0] for p in pairs], [p[1] for p in pairs], num_parallel_calls=1)
        matchings = [ours(*pair, credit="matched") for pair in pairs]
        counts = curve_counts(
            [m.found_confidence[m.found] for m in matchings], [m.false_confidence for m in matchings]
        )
        lesions = float(sum(m.found.size for m in matchings))
        ap = average_precision(counts.hits.sum(0), counts.false_positives.sum(0), lesions)
        assert float(ap) == pytest.approx(theirs.AP, abs=1e-9)
        score = np.array([pair[0].max() for pair in pairs])
        diseased = np.array([pair[1].any() for pair in pairs])
        assert float(case_auroc(score, diseased)) == pytest.approx(theirs.auroc, abs=1e-9)
        for rate in (0.5, 1.0, 4.0):
            got = froc(counts.hits.sum(0), counts.false_positives.sum(0), lesions, 40.0, rate)
            # Their curve carries one more point at the lowest threshold; below it the two agree.
            assert float(got) >= theirs.lesion_TPR_at_FPR(rate) - 1e-9


def line(*runs: tuple[int, int, float], length: int = 60) -> np.ndarray:
    volume = np.zeros((length, 1, 1), dtype=np.float32)
    for start, stop, value in runs:
        volume[start:stop] = value
    return volume


def test_iou_exactly_at_the_threshold_is_a_hit_at_any_size() -> None:
    for size in (1, 3, 7, 600):
        reference = line((0, 10 * size, 1), length=10 * size + 5)
        assert ours(line((0, size, 0.7), length=10 * size + 5), reference).hits == 1
    below = line((0, 11, 1))
    assert ours(line((0, 1, 0.7)), below).hits == 0
    assert ours(line((0, 1, 0.7)), below).outcome == ("false_positive",)
    # picai_eval's own check (1 + IoU − 1 ≥ threshold) fails for some thresholds reached exactly.
    assert ours(line((0, 2, 0.7)), line((0, 10, 1)), min_iou=0.2).hits == 1


def test_low_score_with_better_overlap_does_not_hide_a_confident_candidate() -> None:
    reference = line((0, 20, 1))
    detection = line((0, 5, 0.9), (7, 20, 0.2))
    assert ours(detection, reference, credit="matched").found_confidence.tolist() == pytest.approx([0.2])
    best = ours(detection, reference)
    assert best.found_confidence.tolist() == pytest.approx([0.9])
    assert best.hits == 1
    assert best.false_positives == 0
    assert best.outcome == ("split", "hit")


def test_credit_is_not_taken_from_a_candidate_that_is_another_lesions_hit() -> None:
    reference = line((0, 10, 1), (11, 21, 1))
    detection = line((0, 21, 0.9))  # one candidate merges both lesions
    matching = ours(detection, reference)
    assert matching.hits == 1
    assert matching.misses == 1
    assert matching.false_positives == 0


def test_two_matches_go_before_one_with_more_overlap() -> None:
    from picai_eval.eval import evaluate_case

    reference = line((0, 20, 1), (22, 32, 1))
    detection = line((0, 4, 0.4), (5, 26, 0.9))  # the second overlaps both lesions, the first better
    matching = ours(detection, reference, credit="matched")
    assert matching.found_iou.tolist() == pytest.approx([4 / 20, 4 / 27])
    theirs, _, _, _ = evaluate_case(detection, reference.astype(np.int32))
    np.testing.assert_allclose(picai_rows(matching), sorted(theirs), atol=1e-6)


def test_scores_without_denominator_are_nan() -> None:
    assert np.isnan(case_auroc(np.array([0.3, 0.8]), np.array([True, True])))
    assert np.isnan(case_auroc(np.array([0.3, 0.8]), np.array([False, False])))
    counts = curve_counts([np.zeros(0)], [np.array([0.4])])
    assert np.isnan(average_precision(counts.hits.sum(0), counts.false_positives.sum(0), 0.0))
    assert np.isnan(froc(counts.hits.sum(0), counts.false_positives.sum(0), 0.0, 1.0, 1.0))
    nothing = curve_counts([np.zeros(0)], [np.zeros(0)])
    assert float(average_precision(nothing.hits.sum(0), nothing.false_positives.sum(0), 3.0)) == 0.0
    assert float(froc(nothing.hits.sum(0), nothing.false_positives.sum(0), 3.0, 1.0, 1.0)) == 0.0


def test_froc_reads_the_step_below_the_rate() -> None:
    # Two cases; by falling confidence: hit, false positive, hit, two false positives, hit.
    counts = curve_counts([np.array([0.9, 0.7]), np.array([0.5])], [np.array([0.8, 0.6]), np.array([0.6])])
    pooled = counts.hits.sum(0), counts.false_positives.sum(0)
    assert [float(froc(*pooled, 4.0, 2.0, rate)) for rate in (0.0, 0.49, 0.5, 1.49, 1.5)] == [
        0.25, 0.25, 0.5, 0.5, 0.75,
    ]  # fmt: skip


def test_ignored_lesions_count_neither_way() -> None:
    reference = line((0, 10, 1))
    ignored = line((20, 30, 1)) > 0
    on_ignored = ours(line((0, 10, 0.9), (21, 32, 0.8)), reference, ignored=ignored)
    assert on_ignored.outcome == ("hit", "ignored")
    assert (on_ignored.hits, on_ignored.misses, on_ignored.false_positives) == (1, 0, 0)
    not_kept = ours(line((0, 10, 0.9)), reference, ignored=ignored)
    assert (not_kept.hits, not_kept.misses, not_kept.false_positives) == (1, 0, 0)
    # A small part of an ambiguous lesion has a low IoU with it but lies inside it.
    assert ours(line((25, 26, 0.8), length=2000), line((0, 10, 1), length=2000),
                ignored=line((20, 1020, 1), length=2000) > 0).outcome == ("ignored",)  # fmt: skip
    # A candidate that only grazes it is a false positive all the same.
    assert ours(line((29, 60, 0.8)), reference, ignored=ignored).outcome == ("false_positive",)


def test_a_map_of_the_truth_with_any_ambiguous_lesion_is_perfect() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        shape = tuple(rng.integers(8, 20, 3))
        truth = blobs(rng, shape, 0.08, 1.2)
        extra = blobs(rng, shape, 0.08, 1.2) & ~ndimage.binary_dilation(truth, np.ones((3, 3, 3)))
        labels, count = components(extra)
        kept = np.isin(labels, 1 + np.flatnonzero(rng.random(count) < 0.5)) & extra
        matching = ours((truth | kept).astype(np.float32), truth, ignored=extra)
        assert matching.misses == 0
        assert matching.false_positives == 0


def test_voxels_of_a_touching_ambiguous_lesion_do_not_dilute_the_overlap() -> None:
    reference, ignored = line((0, 4, 1)), line((4, 60, 1)) > 0
    matching = ours(line((0, 60, 0.9)), reference, ignored=ignored)
    assert matching.outcome == ("hit",)
    assert matching.found_iou.tolist() == [1.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.2, 0.5]))
def test_every_candidate_has_one_outcome_and_every_hit_one_lesion(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3))
    detection = detection_map(rng, rng.random(shape) < share, 5)
    reference = (rng.random(shape) < share).astype(np.int32)
    ignored = rng.random(shape) < 0.1
    matching = ours(detection, reference, ignored=ignored)
    hits = [n for n, outcome in enumerate(matching.outcome) if outcome == "hit"]
    assert len(hits) == matching.hits
    assert sorted(matching.partner[hits]) == sorted(1 + np.flatnonzero(matching.found))
    assert matching.hits + matching.misses == components(reference)[1]
    assert (matching.found_iou[matching.found] >= 0.1).all()
    assert matching.false_positives + matching.outcome.count("split") + matching.outcome.count(
        "ignored"
    ) + matching.hits == components(detection)[1]  # fmt: skip


def test_components_are_26_connected_and_empty_volumes_have_none() -> None:
    diagonal = np.zeros((3, 3, 3), dtype=bool)
    diagonal[0, 0, 0] = diagonal[1, 1, 1] = True
    assert components(diagonal)[1] == 1
    diagonal[1, 1, 1] = False
    diagonal[2, 2, 2] = True
    assert components(diagonal)[1] == 2
    empty, count = components(np.zeros((4, 1, 7)))
    assert count == 0
    assert not empty.any()
    assert bounding_box(np.zeros((4, 1, 7), dtype=bool)) is None
    assert bounding_box(diagonal, margin=2) == (slice(0, 3), slice(0, 3), slice(0, 3))


def test_candidates_below_the_operating_point_never_repeat_one_above() -> None:
    probability = np.zeros((40, 1, 1))
    probability[2:10, 0, 0] = [0.1, 0.3, 0.6, 0.9, 0.8, 0.4, 0.2, 0.1]
    probability[20:26, 0, 0] = [0.1, 0.3, 0.45, 0.3, 0.1, 0.06]
    probability[30:33, 0, 0] = 0.07
    found = lesion_candidates(probability >= 0.5, probability, threshold=0.5)
    assert found.operating.tolist() == [True, False, False]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.45, 0.07])
    assert np.flatnonzero(found.labels == 1).tolist() == [4, 5, 6]
    assert np.flatnonzero(found.labels == 2).tolist() == [21, 22, 23]
    mean = lesion_candidates(probability >= 0.5, probability, threshold=0.5, confidence="mean", lowest=1.0)
    assert mean.confidence.tolist() == pytest.approx([(0.6 + 0.9 + 0.8) / 3])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.06, 0.9))
def test_candidates_partition_the_map_and_respect_the_threshold(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    probability = ndimage.gaussian_filter(rng.random(tuple(rng.integers(1, 12, 3))), 0.7)
    probability = probability / probability.max()
    found = lesion_candidates(probability >= threshold, probability, threshold=threshold)
    assert set(np.unique(found.labels)) - {0} == set(range(1, found.confidence.size + 1))
    operating = np.concatenate([[False], found.operating])[found.labels]
    np.testing.assert_array_equal(operating, probability >= threshold)
    assert (found.confidence[found.operating] >= threshold).all()
    assert (found.confidence[~found.operating] < threshold).all()


def test_impossible_input_is_refused() -> None:
    volume = np.zeros((3, 3, 3))
    with pytest.raises(ValueError, match="shape"):
        lesion_candidates(volume[:2] > 0, volume)
    for wrong in (np.full((3, 3, 3), np.nan), volume - 0.1, volume + 1.5):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            lesion_candidates(volume > 0, wrong)
    labels = np.ones((3, 3, 3), dtype=np.int32)
    with pytest.raises(ValueError, match="confidences"):
        match_lesions(labels, np.zeros(0), labels)
    with pytest.raises(ValueError, match="shape"):
        match_lesions(labels, np.ones(1), labels[:2])
