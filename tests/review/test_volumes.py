"""What a page carries is the case: independent readers decode it, closed forms predict it."""

from __future__ import annotations

import base64
import gzip
import io
import re

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_adc.review import projection
from diffusion_adc.review.chart import histogram, volumes_per_bin
from diffusion_adc.review.content import central_voxels, tumor_palette
from diffusion_adc.review.volumes import (
    Grid,
    adc_volume,
    gray_volume,
    nifti,
    packed_draws,
    probability_volume,
    tumor_levels,
)

AFFINES = {
    "RAS": np.diag([2.0, 3.0, 4.0, 1.0]),
    "LPS": np.diag([-2.0, -3.0, 4.0, 1.0]),
    "sagittal": np.array([[0, 0, 4.0, -7], [-2.0, 0, 0, 5], [0, -3.0, 0, 9], [0, 0, 0, 1.0]]),
    "oblique": np.array([[1.9, -0.5, 0.1, 3], [0.6, 2.8, 0.2, 1], [0.0, -0.3, 4.0, 2], [0, 0, 0, 1.0]]),
}


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def read(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(unpacked(text))


@pytest.mark.parametrize("name", AFFINES)
def test_turned_grid_is_the_closest_canonical_one(name: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (5, 6, 7)).astype(np.uint8)
    grid = Grid(AFFINES[name], array.shape)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array, AFFINES[name]))
    found = read(nifti(grid, array))
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    assert np.allclose(found.affine, expected.affine)
    voxels = np.argwhere(array > 200)
    assert np.array_equal(
        grid.turn(array)[tuple(grid.turned_index(voxels).T)], array[tuple(voxels.T)]
    )  # an index and its turned one are the same place
    assert np.allclose(grid.spacing, np.linalg.norm(expected.affine[:3, :3], axis=0))


def test_adc_keeps_its_thousandths_and_probability_its_percent() -> None:
    rng = np.random.default_rng(1)
    grid = Grid(AFFINES["LPS"], (4, 5, 6))
    adc = np.round(rng.uniform(0, 3.5, grid.shape), 3).astype(np.float32)
    assert np.abs(np.asarray(read(adc_volume(grid, adc)).get_fdata()) - grid.turn(adc)).max() < 1e-6
    p = rng.random(grid.shape)
    shown = np.asarray(read(probability_volume(grid, p)).dataobj) / 255
    assert np.abs(shown - grid.turn(p)).max() <= 0.5 / 255 + 1e-9


def test_other_sequences_keep_ten_bits_and_get_a_window_inside_their_range() -> None:
    rng = np.random.default_rng(2)
    grid = Grid(AFFINES["RAS"], (20, 20, 5))
    image = rng.gamma(2.0, 100.0, grid.shape)
    text, (low, high) = gray_volume(grid, image)
    seen = np.asarray(read(text).get_fdata())
    inside = image < np.percentile(image, 99.9)
    assert np.abs(seen - image)[inside].max() <= np.percentile(image, 99.99) / 1023
    assert 0 <= low < high < image.max()
    assert gray_volume(grid, np.zeros(grid.shape))[1] == (0.0, 1.0)


def test_a_low_adc_inside_the_map_stays_visible() -> None:
    levels = tumor_levels(np.array([0.0, 0.001, 0.4, 1.1, 1.8, 2.9], dtype=np.float32), (0.4, 1.8))
    assert levels.tolist() == [0, 1, 1, 128, 255, 255]
    palette = tumor_palette().astype(int)
    assert palette[0].tolist() == [215, 25, 28]
    assert palette[-1].tolist() == [26, 150, 65]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 19), st.floats(0, 0.6), st.integers(0, 10_000))
def test_packed_draws_unpack_to_the_draws(count: int, share: float, seed: int) -> None:
    grid = Grid(AFFINES["sagittal"], (3, 4, 5))
    draws = (np.random.default_rng(seed).random((*grid.shape, count)) < share).astype(np.uint8)
    packed = packed_draws(grid, draws)
    voxels = np.frombuffer(unpacked(packed["voxels"]), "<u4")
    bits = np.frombuffer(unpacked(packed["bits"]), np.uint8).reshape(count, packed["row"])
    assert np.all(np.diff(voxels.astype(np.int64)) > 0)
    for draw in range(count):
        flat = np.zeros(60, dtype=np.uint8)
        flat[voxels] = np.unpackbits(bits[draw], count=voxels.size) if voxels.size else 0
        turned = grid.turn(draws[..., draw])
        assert np.array_equal(flat.reshape(turned.shape, order="F"), turned)


def test_a_point_turns_about_the_head_foot_axis_as_a_sine() -> None:
    """A point at (x, y) from the axis is seen at -(x cos θ + y sin θ): an orthographic rotation."""
    volume = np.zeros((41, 41, 9), dtype=np.uint8)
    volume[32, 20, 6] = 200  # to the patient's right, above the middle
    rotation = projection.rotating_mip(volume, (2.0, 2.0, 4.0))
    assert rotation.frames.shape[0] == 60
    width = rotation.frames.shape[2]
    for frame in range(60):
        rows, columns = np.nonzero(rotation.frames[frame])
        expected = (width - 1) / 2 - 12 * np.cos(np.deg2rad(3 * frame))
        assert abs(columns.mean() - expected) < 1.5, frame
        assert rows.mean() < rotation.frames.shape[1] / 2  # head up
    assert rotation.frames[0].max() == 200


def test_no_frame_turns_by_more_than_three_degrees() -> None:
    assert projection.STEP_DEGREES <= 3
    assert projection.FRAMES * projection.STEP_DEGREES == 180


def test_sheets_hold_every_frame_and_no_text() -> None:
    rng = np.random.default_rng(3)
    body = projection.rotating_mip(rng.integers(0, 255, (12, 10, 4)).astype(np.uint8), (3.0, 3.0, 5.0))
    spots = np.zeros((12, 10, 4), dtype=np.uint8)
    spots[5, 5, 2] = 255
    tumor = projection.rotating_mip(spots, (3.0, 3.0, 5.0))
    gray, colored = projection.gray_sheet(body), projection.tumor_sheet(tumor, body, tumor_palette())
    _, height, width = body.frames.shape
    for frame in (0, 9, 10, 59):
        left, top = frame % 10 * width, frame // 10 * height
        box = (left, top, left + width, top + height)
        assert np.array_equal(255 - np.asarray(gray.crop(box)), body.frames[frame])
        seen = np.asarray(colored.crop(box).convert("RGB")).astype(int)
        color = np.abs(seen[..., 0] - seen[..., 1]) + np.abs(seen[..., 1] - seen[..., 2])
        assert np.array_equal(color > 30, tumor.frames[frame] > 0)
    picture = Image.open(io.BytesIO(projection.png(colored)))
    picture.load()
    assert not picture.info.keys() & {"Software", "Comment", "Author"}


def test_histogram_holds_the_whole_volume_in_its_bands() -> None:
    values = np.array([0.4, 0.4, 0.899, 0.9, 1.4, 1.799, 1.8, 2.95, 7.0])
    per_bin = volumes_per_bin(values, 0.5)
    assert per_bin.sum() == pytest.approx(4.5)
    assert per_bin[8] == 1.0  # 0.40 belongs to the bin it opens
    assert per_bin[8:18].sum() == 1.5  # 0.4–0.9
    assert per_bin[18:28].sum() == 0.5  # 0.9–1.4
    assert per_bin[28:36].sum() == 1.0  # 1.4–1.8
    svg = histogram(values, np.array([0.7]), 0.5, ("map", "<b>", "mL"))
    assert svg.count('class="bar"') == np.count_nonzero(per_bin)
    assert "<b>" not in svg
    assert len(re.findall(r"<rect[^>]*opacity", svg)) == 3
    assert "nan" not in histogram(np.zeros(0), None, 0.5, ("map", "reader", "mL"))


def test_central_voxels_lie_inside_their_lesions() -> None:
    labels = np.zeros((9, 9, 3), dtype=np.int32)
    labels[1:8, 1:8, 1] = 1
    labels[3:6, 3:6, 1] = 0  # a ring: its centroid is outside
    labels[0, 0, 0] = 2
    seeds = central_voxels(labels)
    assert [labels[tuple(seed)] for seed in seeds] == [1, 2]
