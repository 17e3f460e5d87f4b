"""S11: a sequence with left and right exchanged is noticed, one that is as it should be is left alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asymmetric import pair

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.orientation import flip_suspected, left_right_axis
from diffusion_adc.records.cohort import load_volume, read_cohort

FULL = os.environ.get("FULL") == "1"


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
def test_flips_are_found_and_nothing_else(figure: Callable[[str, Any], None]) -> None:
    count = 100 if FULL else 20
    found, false = flips(range(1000, 1000 + count))
    figure("S11 flips found, sequences suspected wrongly", f"{found}/{count}, {false}/{count}")
    assert found >= 0.95 * count
    assert false <= 0.02 * count


@pytest.mark.security
def test_flips_of_digital_patients_are_found(
    phantom_cohort: Path, figure: Callable[[str, Any], None]
) -> None:
    found = false = total = 0
    for case in read_cohort(phantom_cohort).cases:
        adc = load_volume(phantom_cohort, case, seq.ADC)
        for name in {seq.T1W, seq.T2W} & set(case.files):
            other = load_volume(phantom_cohort, case, name).array
            flipped = np.flip(other, left_right_axis(adc.affine))
            total += 1
            found += flip_suspected(adc.array, flipped, case.research_id, name, adc.affine) is not None
            false += flip_suspected(adc.array, other, case.research_id, name, adc.affine) is not None
    figure("S11 of digital patients", f"{found}/{total} flips found, {false}/{total} suspected wrongly")
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
