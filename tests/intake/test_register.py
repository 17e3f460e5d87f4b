"""A known motion between an anatomical image and the ADC grid is found again, or its failure is said."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain.errors import CaseError
from diffusion_adc.intake import register
from diffusion_adc.intake.nifti import Loaded

Array = NDArray[np.float64]


def grid(shape: tuple[int, int, int], spacing: float) -> Array:
    """An axial grid about the origin, 3 mm slices, the patient's left first."""
    i, j, k = ((n - 1) / 2 for n in shape)
    return np.array(
        [[-spacing, 0, 0, i * spacing], [0, spacing, 0, -j * spacing], [0, 0, 3, -k * 3], [0, 0, 0, 1]]
    )


ADC_SHAPE, T2W_SHAPE = (56, 84, 19), (192, 192, 19)
ADC_GRID, T2W_GRID = grid(ADC_SHAPE, 3.0), grid(T2W_SHAPE, 1.0)


def points(shape: tuple[int, int, int], affine: Array) -> Array:
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


def tissue(p: Array) -> NDArray[np.int64]:
    """Which structure lies at each point (mm): a body with organs of both sides unlike each other."""
    x, y, z = np.moveaxis(p, -1, 0)
    out = np.zeros(x.shape, dtype=np.int64)
    for number, (center, radii) in enumerate(
        [
            ((0, 0, 0), (62, 48, 200)), ((25, 10, -8), (16, 12, 14)), ((-28, -8, 10), (12, 18, 16)),
            ((4, -22, 2), (9, 9, 30)), ((-6, 24, -4), (20, 8, 9)), ((30, -20, -21), (10, 8, 6)),
            ((-20, 22, 20), (12, 9, 6)), ((12, 2, 21), (8, 14, 5)), ((-14, -14, -20), (9, 9, 6)),
        ],
        start=1,
    ):  # fmt: skip
        r = sum(((c - m) / s) ** 2 for c, m, s in zip((x, y, z), center, radii, strict=True))
        out[r < 1] = number
    return out


DWI_LEVELS = np.array([0, 300.0, 520, 160, 420, 60, 100, 500, 90, 450])
T2W_LEVELS = np.array([0, 200.0, 90, 420, 700, 330, 400, 100, 420, 60])


def image(shape: tuple[int, int, int], affine: Array, levels: Array, seed: int, motion: Array) -> Loaded:
    """The body as seen at `motion` @ point; smooth and noisy."""
    p = points(shape, affine)
    values = levels[tissue(p @ motion[:3, :3].T + motion[:3, 3])]
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return Loaded(np.abs(ndimage.gaussian_filter(values, 0.7) + noise), affine, "float32", "0" * 64)


def motion(shift: tuple[float, float, float], degrees: float = 0.0, scale: float = 1.0) -> Array:
    out = np.eye(4)
    a = np.deg2rad(degrees)
    out[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    out[:3, :3] *= scale
    out[:3, 3] = shift
    return out


@pytest.fixture(scope="module")
def dwi() -> Loaded:
    return image(ADC_SHAPE, ADC_GRID, DWI_LEVELS, 1, np.eye(4))


@pytest.fixture(scope="module")
def adc(dwi: Loaded) -> Loaded:
    return replace(dwi, array=np.where(dwi.array > 80, 1000.0 + dwi.array, 0.0))


def errors_mm(record: dict[str, Any], true: Array) -> Array:
    """Error of the transform at every voxel of the body, mm."""
    p = points(ADC_SHAPE, ADC_GRID)
    p = p[tissue(p) > 0]
    found = np.array(record["transform"])
    error = (p @ found[:3, :3].T + found[:3, 3]) - (p @ true[:3, :3].T + true[:3, 3])
    return np.asarray(np.linalg.norm(error, axis=1))


@pytest.mark.parametrize(
    ("shift", "degrees", "scale", "kind"),
    [((6.0, -5.0, 2.5), 4.0, 1.0, "rigid"), ((-4.0, 3.0, -3.0), -3.0, 1.04, "affine")],
)
def test_known_motion_is_recovered_within_a_voxel(
    dwi: Loaded, adc: Loaded, shift: tuple[float, float, float], degrees: float, scale: float, kind: str
) -> None:
    # The T2w sees the body at inverse(true) @ point: a point of the ADC grid is shown at true @ point.
    true = motion(shift, degrees, scale)
    moving = image(T2W_SHAPE, T2W_GRID, T2W_LEVELS, 2, np.linalg.inv(true))
    placed, record = register.to_adc_grid(moving, adc, kind, "CASE-001", "t2w", dwi)
    errors = errors_mm(record, true)
    print(f"{kind}: error {errors.mean():.2f} mm on average, {errors.max():.2f} mm at most, voxel 3 mm")
    assert record["flags"] == []
    assert errors.max() < 3.0
    assert errors.mean() < 2.0
    assert record["metric_after"] > record["metric_before"]
    organs = tissue(points(ADC_SHAPE, ADC_GRID))
    before, _ = register.to_adc_grid(moving, adc, "none", "CASE-001", "t2w", dwi)
    ideal = T2W_LEVELS[organs]
    inside = before > 0
    assert np.corrcoef(placed[inside], ideal[inside])[0, 1] > np.corrcoef(before[inside], ideal[inside])[0, 1]
    bright = {n: (img > 560) for n, img in (("before", before), ("after", placed))}
    dice = {n: 2 * (m & (organs == 4)).sum() / (m.sum() + (organs == 4).sum()) for n, m in bright.items()}
    assert dice["after"] > max(0.7, dice["before"])


@pytest.mark.benchmark
def test_a_full_size_sequence_takes_less_than_thirty_seconds() -> None:
    adc_shape, t2w_shape = (84, 128, 19), (384, 384, 19)
    low = image(adc_shape, grid(adc_shape, 2.0), DWI_LEVELS, 1, np.eye(4))
    true = motion((6.0, -5.0, 2.5), 4.0)
    moving = image(t2w_shape, grid(t2w_shape, 0.5), T2W_LEVELS, 2, np.linalg.inv(true))
    for kind in ("rigid", "affine"):
        begin = time.process_time()  # one thread: what a quiet machine takes
        _, record = register.to_adc_grid(moving, low, kind, "CASE-001", "t2w", low)
        seconds = time.process_time() - begin
        print(f"{kind}: 384 x 384 x 19 to 84 x 128 x 19 in {seconds:.1f} s")
        assert record["flags"] == []
        assert seconds < 30


def test_same_files_give_the_same_bytes(dwi: Loaded, adc: Loaded) -> None:
    moving = image((64, 64, 19), grid((64, 64, 19), 3.0), T2W_LEVELS, 2, np.eye(4))
    one, first = register.to_adc_grid(moving, adc, "rigid", "CASE-001", "t2w", dwi)
    two, second = register.to_adc_grid(moving, adc, "rigid", "CASE-001", "t2w", dwi)
    assert first == second
    assert one.tobytes() == two.tobytes()


def test_without_registration_the_header_alone_places_it(dwi: Loaded, adc: Loaded) -> None:
    placed, record = register.to_adc_grid(dwi, adc, "none", "CASE-001", "t2w")
    assert np.array_equal(placed, dwi.array.astype(np.float32))
    assert record["transform"] == np.eye(4).tolist()
    assert record["overlap"] == 1.0
    assert record["metric_after"] is None


def test_images_of_nothing_in_common_keep_the_header_and_say_so(dwi: Loaded, adc: Loaded) -> None:
    far = image(ADC_SHAPE, ADC_GRID, T2W_LEVELS, 3, motion((-45.0, 20.0, 0.0)))
    placed, record = register.to_adc_grid(far, adc, "rigid", "CASE-001", "t2w", dwi)
    if record["motion_mm"] > 30 or record["metric_after"] < record["metric_before"]:
        assert "header's placement is kept" in record["flags"][0]
        assert np.array_equal(placed, far.array.astype(np.float32))
        assert record["transform"] == np.eye(4).tolist()
    else:
        pytest.fail(f"a motion of 49 mm was taken for {record}")


def test_less_than_half_covered_is_refused(adc: Loaded) -> None:
    aside = replace(adc, affine=ADC_GRID + np.array([[0, 0, 0, 100.0], [0] * 4, [0] * 4, [0] * 4]))
    with pytest.raises(CaseError, match="S08") as caught:
        register.to_adc_grid(aside, adc, "rigid", "CASE-001", "t2w")
    assert caught.value.code == "S08"
