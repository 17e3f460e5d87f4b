from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from diffusion_adc.phantom.fields import (
    count_blocks,
    downsample,
    generator,
    lerp_axis,
    smooth_curve,
    smooth_field,
    upsample,
)


def test_interpolation_agrees_with_scipy():
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((7, 5, 4)).astype(np.float32)
    positions = [np.linspace(0, n - 1, m) for n, m in zip(coarse.shape, (13, 9, 11), strict=True)]
    expected = ndimage.map_coordinates(coarse, np.meshgrid(*positions, indexing="ij"), order=1)
    assert np.allclose(upsample(coarse, positions), expected, atol=1e-5)


def test_interpolation_is_constant_beyond_the_ends_and_works_on_one_sample():
    line = np.array([2.0, 4.0], dtype=np.float32)
    assert lerp_axis(line, 0, np.array([-1.0, 0.5, 9.0])).tolist() == [2, 3, 4]
    assert lerp_axis(np.array([5.0], dtype=np.float32), 0, np.array([0.0, 0.7])).tolist() == [5, 5]


@pytest.mark.parametrize("correlation", [8.0, 20.0])
def test_smooth_field_has_unit_spread_and_the_stated_correlation_length(correlation):
    fields = [smooth_field(generator(n, 1), (60, 60, 30), (2.0, 2.0, 4.0), correlation) for n in range(8)]
    values = np.array(fields)
    assert values.mean() == pytest.approx(0, abs=0.12)
    assert values.std() == pytest.approx(1, abs=0.12)
    lag = int(correlation / 2)
    at_lag = np.mean(values[:, lag:] * values[:, :-lag]) / np.mean(values**2)
    assert at_lag == pytest.approx(np.exp(-1), abs=0.12)


def test_streams_of_different_purposes_differ_and_repeat():
    assert generator(1, 2).random() == generator(1, 2).random()
    assert generator(1, 2).random() != generator(1, 3).random()
    assert generator(1, 2, 0).random() != generator(2, 1, 0).random()


def test_downsampling_is_the_mean_and_counts_are_exact():
    rng = np.random.default_rng(1)
    fine = rng.random((6, 4, 8)).astype(np.float32)
    expected = fine.reshape(3, 2, 2, 2, 4, 2).mean(axis=(1, 3, 5))
    assert np.allclose(downsample(fine, (2, 2, 2)), expected, atol=1e-6)
    assert np.array_equal(downsample(fine, (1, 1, 1)), fine)
    mask = fine > 0.5
    assert np.array_equal(count_blocks(mask, (2, 2, 2)), mask.reshape(3, 2, 2, 2, 4, 2).sum(axis=(1, 3, 5)))


def test_a_smooth_curve_passes_through_its_points():
    points = np.array([[0.0, 0, 0, 1], [10, 5, 0, 2], [20, 0, 5, 3], [30, 0, 0, 1]])
    curve = smooth_curve(points, 31)
    assert np.allclose(curve[[0, 10, 20, 30]], points, atol=1e-9)
    assert np.allclose(smooth_curve(points[:2], 3)[1], points[:2].mean(axis=0))
