"""A region is called a lesion from a peak on; the best one is found, and specks nobody is sure of are not called."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.inference.lesion_threshold import SparseScore, choose_lesion_threshold

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.5, 0.95)


def _case() -> tuple[np.ndarray, np.ndarray]:
    score = np.zeros((10, 10, 3), np.float32)
    score[1:4, 1:4, 1] = 0.2  # the faint rim of a lesion with a sure core
    score[1:3, 1:3, 1] = 0.9
    score[7, 7, 1] = score[8, 8, 2] = 0.3  # one speck: its voxels touch at a corner
    score[5, 0, 0] = 0.12
    reading = np.zeros(score.shape, bool)
    reading[1:4, 1:4, 1] = True
    return score, reading


def test_specks_below_the_lesion_are_not_called() -> None:
    score, reading = _case()
    case = SparseScore.of(score, [reading], np.ones(score.shape, bool), 0.1)
    peaks, met = case.regions(0.1)
    assert sorted(peaks.tolist()) == pytest.approx([0.12, 0.3, 0.9])
    assert sum(bool((lesions > 0).any()) for lesions in met[0]) == 1
    assert choose_lesion_threshold([case], 0.1, LEVELS) == (0.35, 1.0)


def test_an_empty_reading_counts_every_call_as_wrong() -> None:
    score, reading = _case()
    case = SparseScore.of(score, [reading, np.zeros_like(reading)], np.ones(score.shape, bool), 0.1)
    assert choose_lesion_threshold([case], 0.1, LEVELS) == (0.35, pytest.approx(2 / 3))


def test_a_split_lesion_is_found_once_and_no_part_is_wrong() -> None:
    score, reading = _case()
    score[2, :, :] = 0.0
    score[3, 1:4, 1] = 0.6
    case = SparseScore.of(score, [reading], np.ones(score.shape, bool), 0.5)
    assert choose_lesion_threshold([case], 0.5, LEVELS) == (0.5, 1.0)


def test_nothing_to_find_leaves_the_threshold_where_the_map_is_cut() -> None:
    score = np.zeros((4, 4, 2), np.float32)
    case = SparseScore.of(score, [score > 0], np.ones(score.shape, bool), 0.1)
    assert choose_lesion_threshold([case], 0.3, LEVELS) == (0.3, 0.0)
    assert choose_lesion_threshold([], 0.3, LEVELS) == (0.3, 0.0)
