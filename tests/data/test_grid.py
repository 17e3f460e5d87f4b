from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffusion_adc.data.grid import (
    WorkingGrid,
    axis_weights,
    foreground_box,
    resample,
    resample_mask,
    resample_masked,
    to_working_grid,
)
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.units import spacing_mm

OBLIQUE = np.array([[1.8, -0.5, 0.3, 12.0], [0.6, 1.9, -0.4, -3.0], [-0.2, 0.5, 3.9, 40.0], [0, 0, 0, 1.0]])


def grid(shape, affine, spacing, offset=(0, 0, 0), crop=None):
    return WorkingGrid(tuple(shape), np.asarray(affine, float), offset, tuple(crop or shape), spacing)


@pytest.mark.parametrize("spacing", [None, (2.0, 3.0, 5.0), (2.0004, 2.9999, 5.0)])
def test_equal_spacing_is_the_identity_bit_for_bit(spacing):
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    volume = np.random.default_rng(0).standard_normal((5, 6, 7)).astype(np.float32)
    moved, new_affine = to_working_grid(volume, affine, spacing)
    assert np.array_equal(moved.numpy(), volume)
    assert np.array_equal(new_affine, affine)
    same = grid(volume.shape, affine, spacing)
    assert same.is_native
    assert np.array_equal(same.to_native(moved).numpy(), volume)
    mask = torch.from_numpy(volume > 0)
    values, inside = resample_masked(torch.from_numpy(volume), mask, same.forward)
    assert torch.equal(values[inside], torch.from_numpy(volume)[mask])


@pytest.mark.parametrize("affine", [np.diag([2.0, 2.0, 4.0, 1.0]), OBLIQUE])
@pytest.mark.parametrize("spacing", [(2.5, 2.5, 5.0), (1.0, 1.5, 2.0), (4.0, 1.0, 3.9)])
def test_voxel_centers_map_to_the_same_place_in_mm(affine, spacing):
    """A linear function of position in mm is reproduced exactly away from the borders."""
    shape = (24, 21, 15)
    working = grid(shape, affine, spacing)
    assert spacing_mm(working.affine) == pytest.approx(
        tuple(s if r != 1 else n for s, r, n in zip(spacing, working.ratio, spacing_mm(affine), strict=True))
    )
    direction = np.array([0.3, -0.2, 0.5])

    def ramp(a, n):
        index = np.stack(np.meshgrid(*(np.arange(m) for m in n), indexing="ij"), -1)
        return (index @ a[:3, :3].T + a[:3, 3]) @ direction

    moved = resample(torch.from_numpy(ramp(affine, shape)).float(), working.forward).numpy()
    inner = (slice(2, -2),) * 3
    assert np.allclose(moved[inner], ramp(working.affine, working.shape)[inner], atol=1e-3)
    back = working.to_native(torch.from_numpy(ramp(working.affine, working.shape))).numpy()
    deep = (slice(5, -5), slice(5, -5), slice(4, -4))
    assert np.allclose(back[deep], ramp(affine, shape)[deep], atol=1e-3)


def test_refining_agrees_with_scipy():
    volume = np.random.default_rng(1).random((9, 8, 7)).astype(np.float32)
    working = grid(volume.shape, np.eye(4), (0.7, 0.5, 0.9))
    moved = resample(torch.from_numpy(volume), working.forward).numpy()
    index = np.linalg.inv(np.eye(4)) @ working.affine
    points = np.stack(np.meshgrid(*(np.arange(n) for n in working.shape), indexing="ij"), 0).reshape(3, -1)
    where = index[:3, :3] @ points + index[:3, 3:]
    expected = ndimage.map_coordinates(volume, where, order=1, mode="nearest").reshape(working.shape)
    assert np.allclose(moved, expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0.2, 5.0))
def test_weights_are_averages(n, ratio):
    target = max(1, int(np.ceil(n / ratio - 1e-3)))
    weights = axis_weights(n, target, ratio)
    if weights is not None:
        assert weights.shape == (target, n)
        assert float(weights.min()) >= 0
        assert torch.allclose(weights.sum(1), torch.ones(target), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.floats(0.4, 6.0)] * 3),
    st.tuples(*[st.floats(0.5, 6)] * 3),
)
def test_any_shape_comes_back_to_its_own(shape, native, spacing):
    affine = np.diag([*native, 1.0])
    working = grid(shape, affine, spacing)
    field = torch.ones(2, *working.shape)
    back = working.to_native(field)
    assert back.shape == (2, *shape)
    assert torch.allclose(back, torch.ones_like(back), atol=1e-5)


def test_outside_the_crop_the_fill_value_holds():
    working = grid((10, 10, 6), np.diag([2, 2, 5, 1.0]), (1.0, 2.0, 5.0), (2, 3, 1), (5, 4, 3))
    back = working.to_native(torch.ones(working.shape), outside=-30.0).numpy()
    inside = np.zeros((10, 10, 6), bool)
    inside[2:7, 3:7, 1:4] = True
    assert np.allclose(back[inside], 1)
    assert np.all(back[~inside] == -30)
    corner = working.affine @ [-0.5, -0.5, -0.5, 1]
    assert np.allclose(corner[:3], np.diag([2, 2, 5]) @ [1.5, 2.5, 0.5])


def test_masked_interpolation_keeps_rims_clean():
    """ADC is 1 everywhere it is valid; a plain interpolation would pull the rim towards 0."""
    valid = np.zeros((20, 20, 10), bool)
    valid[4:15, 5:15, 2:7] = True
    working = grid(valid.shape, np.diag([2, 2, 4, 1.0]), (2.7, 2.7, 5.0))
    noise = np.where(valid, 1.0, np.nan).astype(np.float32)
    values, inside = resample_masked(torch.from_numpy(noise), torch.from_numpy(valid), working.forward)
    assert inside.any()
    assert torch.allclose(values[inside], torch.tensor(1.0), atol=1e-5)
    assert torch.all(values[~inside] == 0)
    plain = resample(torch.nan_to_num(torch.from_numpy(noise)), working.forward)
    assert float(plain[inside].min()) < 0.8


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def blob(rng, shape, native, volume_ml):
    radius = (volume_ml * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    stretch = np.exp(rng.normal(0, 0.2, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    center = (np.array(shape) - 1) / 2 + rng.uniform(-1, 1, 3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.sum(((index - center) * native / (radius * stretch)) ** 2, -1) <= 1


BINARY = [  # native spacing, working spacing: equal or finer
    ((2.5, 2.5, 5.0), (2.5, 2.5, 5.0)),
    ((2.5, 2.5, 5.0), (2.5, 2.5, 4.0)),
    ((2.0, 2.0, 3.0), (1.5, 1.5, 3.0)),
    ((2.0, 2.0, 3.0), (1.0, 1.0, 1.5)),
]
SOFT = [  # coarser grids: a binary mask is rounded there, a logit that crosses 0 at the boundary is not
    ((2.5, 2.5, 5.0), (2.0, 2.0, 4.0)),
    ((0.5, 0.5, 3.0), (1.0, 1.0, 3.0)),
    ((1.5, 1.5, 5.0), (2.5, 2.5, 5.0)),
]


@pytest.mark.parametrize(
    ("native", "working", "soft"), [(*p, False) for p in BINARY] + [(*p, True) for p in SOFT]
)
def test_lesions_of_one_ml_survive_the_round_trip(native, working, soft):
    rng = np.random.default_rng(3)
    scores = []
    for volume in (1.0, 1.5, 3.0, 10.0) * 3:
        i, j, k = (int(40 / s) + 6 for s in native)
        shape = (i, j, k)
        presence = blob(rng, shape, np.array(native), volume)
        place = grid(shape, np.diag([*native, 1.0]), working)
        on_grid = resample_mask(torch.from_numpy(presence), place.forward)
        share = resample(torch.from_numpy(presence).float(), place.forward)
        back = place.to_native(share - 0.5 if soft else torch.where(on_grid, 1.0, -1.0)).numpy() > 0
        scores.append(dice(back, presence))
    assert min(scores) >= 0.95, scores


def test_box_ignores_specks_and_grows_to_the_least_size():
    mask = np.zeros((40, 40, 12), bool)
    mask[10:20, 12:22, 4:8] = True
    mask[38, 38, 11] = True
    assert foreground_box(mask, (2, 2, 1), (1, 1, 1)) == ((8, 10, 3), (14, 14, 6))
    start, size = foreground_box(mask, (0, 0, 0), (32, 64, 6))
    assert size == (32, 40, 6)
    assert all(s >= 0 and s + n <= m for s, n, m in zip(start, size, mask.shape, strict=True))
    assert foreground_box(np.zeros((4, 5, 6), bool), (1, 1, 1), (2, 2, 2)) == ((0, 0, 0), (4, 5, 6))
    one = np.zeros((5, 5, 5), bool)
    one[2, 2, 2] = True
    assert foreground_box(one, (0, 0, 0), (1, 1, 1)) == ((2, 2, 2), (1, 1, 1))


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match="spacing_mm"):
        grid((2, 2, 2), np.eye(4), (0.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="linear or mask"):
        to_working_grid(np.zeros((2, 2, 2)), np.eye(4), None, "cubic")
