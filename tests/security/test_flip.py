"""S11: a sequence with left and right exchanged is noticed, one that is as it should be is left alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.orientation import flip_suspected, left_right_axis
from diffusion_adc.records.cohort import load_volume, read_cohort

Array = NDArray[np.float64]
SHAPE = (96, 80, 14)
FULL = os.environ.get("FULL") == "1"


def pair(seed: int) -> tuple[Array, Array]:
    """ADC map and anatomical image of one body: paired organs alike on both sides, single ones on one side.

    Contrasts are unrelated, the coil shades the image, and the body lies off the middle, moved by a voxel at most
    between the two.
    """
    rng = np.random.default_rng(seed)
    center = np.array(SHAPE) / 2 + (rng.uniform(-3, 3), rng.uniform(-3, 3), 0)
    grids = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    moved = rng.uniform(-1, 1, 3) * (1, 1, 0.3)

    def labels(offset: Array) -> NDArray[np.int64]:
        x, y, z = (g - c - o for g, c, o in zip(grids, center, offset, strict=True))
        out = np.zeros(SHAPE, dtype=np.int64)
        for number, middle, radii in organs:
            r = sum(((a - m) / s) ** 2 for a, m, s in zip((x, y, z), middle, radii, strict=True))
            out[r < 1] = number
        return out

    organs = [(1, (0, 0, 0), (38, 26, 30))]
    for number in range(2, 6):  # paired: a mirror image has them too
        at = np.array([rng.uniform(10, 26), rng.uniform(-14, 14), rng.uniform(-5, 5)])
        radii = rng.uniform(3, 8, 3) * (1, 1, 0.6)
        organs += [(number, tuple(at * (side, 1, 1)), tuple(radii)) for side in (1, -1)]
    for number in range(6, 6 + int(rng.integers(4, 8))):
        at = (rng.choice([-1, 1]) * rng.uniform(6, 22), rng.uniform(-12, 12), rng.uniform(-4, 4))
        organs.append((number, at, tuple(rng.uniform(4, 8, 3) * (1, 1, 0.7))))
    count = 1 + organs[-1][0]
    adc = np.array([0, *rng.permutation(np.linspace(0.6, 2.4, count))])[labels(np.zeros(3))]
    image = np.array([0, *rng.permutation(np.linspace(80, 700, count))])[labels(moved)]
    shading = 1 + 0.3 * np.sin(grids[0] / rng.uniform(25, 60) + rng.uniform(0, 6))
    image = ndimage.gaussian_filter(image * shading, (0.7, 0.7, 0.3)) + rng.normal(0, 15, SHAPE)
    adc = np.where(adc > 0, adc + rng.normal(0, 0.15, SHAPE), 0)
    return adc, np.abs(image)


def flips(seeds: range) -> tuple[int, int]:
    """Flipped sequences found and unflipped ones suspected."""
    found = false = 0
    for seed in seeds:
        adc, other = pair(seed)
        found += flip_suspected(adc, other[::-1], "PHANTOM-001", seq.T2W) is not None
        false += flip_suspected(adc, other, "PHANTOM-001", seq.T2W) is not None
    return found, false


def test_a_few_flips() -> None:
    assert flips(range(1000, 1008)) == (8, 0)


@pytest.mark.security
def test_flips_are_found_and_nothing_else() -> None:
    count = 100 if FULL else 20
    found, false = flips(range(1000, 1000 + count))
    print(f"S11: {found}/{count} flips found, {false}/{count} suspected wrongly")
    assert found >= 0.95 * count
    assert false <= 0.02 * count


@pytest.mark.security
def test_flips_of_digital_patients_are_found(phantom_cohort: Path) -> None:
    found = false = total = 0
    for case in read_cohort(phantom_cohort).cases:
        adc = load_volume(phantom_cohort, case, seq.ADC)
        for name in {seq.T1W, seq.T2W} & set(case.files):
            other = load_volume(phantom_cohort, case, name).array
            flipped = np.flip(other, left_right_axis(adc.affine))
            total += 1
            found += flip_suspected(adc.array, flipped, case.research_id, name, adc.affine) is not None
            false += flip_suspected(adc.array, other, case.research_id, name, adc.affine) is not None
    print(f"S11: digital patients: {found}/{total} flips found, {false}/{total} suspected wrongly")
    assert found >= 0.95 * total
    assert false <= 0.02 * total


def test_the_message_names_code_person_and_sequence_only() -> None:
    adc, other = pair(1)
    text = flip_suspected(adc, other[::-1], "PHANTOM-001", seq.T2W)
    assert text is not None
    assert text.startswith("S11 PHANTOM-001 t2w: ")
    assert "\n" not in text


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_nothing_to_compare_says_nothing(value: float) -> None:
    flat = np.full((20, 20, 4), value)
    noise = np.random.default_rng(0).random((20, 20, 4))
    assert flip_suspected(flat, flat, "CASE-001", seq.T2W) is None
    assert flip_suspected(np.zeros((20, 20, 4)), noise, "CASE-001", seq.T1W) is None


def test_the_left_right_axis_follows_the_affine() -> None:
    sagittal = np.array([[0, 0, 4.0, 0], [-2, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1]])
    assert left_right_axis(sagittal) == 2
    assert left_right_axis(np.diag([-2.0, 2, 3, 1])) == 0
    assert left_right_axis(None) == 0
