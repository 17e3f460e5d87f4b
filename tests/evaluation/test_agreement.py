"""Overlap, volumes and ADC values: closed forms on boxes, empties, odd grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.evaluation import agreement


def box(shape: tuple[int, int, int], *spans: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


EMPTY = np.zeros((6, 5, 4), dtype=bool)
TUMOR = box((6, 5, 4), (0, 2), (0, 2), (0, 2))


@pytest.mark.parametrize(
    ("reference", "presence", "primary", "all_cases"),
    [
        (TUMOR, EMPTY, 0.0, 0.0),
        (EMPTY, EMPTY, np.nan, 1.0),
        (EMPTY, TUMOR, np.nan, 0.0),
        (TUMOR, TUMOR, 1.0, 1.0),
        (TUMOR, box((6, 5, 4), (1, 3), (0, 2), (0, 2)), 0.5, 0.5),
    ],
)
def test_dice_has_one_policy_for_empty_maps(
    reference: np.ndarray, presence: np.ndarray, primary: float, all_cases: float
) -> None:
    assert agreement.dice(reference, presence) == pytest.approx(primary, nan_ok=True)
    assert agreement.dice(reference, presence, empties="all_cases") == pytest.approx(all_cases)


def test_missed_tumor_enters_the_mean_as_zero() -> None:
    scores = [agreement.dice(TUMOR, TUMOR), agreement.dice(TUMOR, EMPTY), agreement.dice(EMPTY, TUMOR)]
    assert np.nanmean(scores) == 0.5


def test_volumes_on_an_oblique_anisotropic_grid() -> None:
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.5, -2.5, 5.0])
    ml = voxel_volume_ml(affine)
    assert ml == pytest.approx(0.03125)
    valid = np.ones_like(TUMOR)
    assert agreement.total_diffusion_volume(TUMOR, valid, ml) == pytest.approx(8 * 0.03125)
    valid[0] = False
    assert agreement.total_diffusion_volume(TUMOR, valid, ml) == pytest.approx(4 * 0.03125)
    assert agreement.total_diffusion_volume(EMPTY, valid, ml) == 0.0


def test_global_adc_pools_valid_voxels_and_is_undefined_without_any() -> None:
    adc = np.zeros(TUMOR.shape, dtype=np.float32)
    adc[TUMOR] = [0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 9.0]
    valid = adc != 9.0
    assert agreement.global_adc(adc, TUMOR, valid) == pytest.approx(1.1)
    assert np.isnan(agreement.global_adc(adc, EMPTY, valid))
    assert np.isnan(agreement.global_adc(adc, TUMOR, np.zeros_like(valid)))
    one = box(TUMOR.shape, (0, 1), (0, 1), (0, 1))
    assert agreement.global_adc(adc, one, valid) == pytest.approx(0.5)


def test_bands_are_half_open_and_never_count_a_voxel_twice() -> None:
    adc = np.array([0.39, 0.4, 0.89, 0.9, 1.39, 1.4, 1.79, 1.8], dtype=np.float64).reshape(2, 2, 2)
    everywhere = np.ones((2, 2, 2), dtype=bool)
    bands = agreement.band_volumes(adc, everywhere, everywhere, 2.0)
    assert bands == {"0.4-0.9": 4.0, "0.9-1.4": 4.0, "1.4-1.8": 4.0}


def test_volume_and_adc_errors_in_closed_form() -> None:
    assert agreement.log_tdv_error(0.0, 0.0) == 0.0
    assert agreement.log_tdv_error(9.9, 0.9) == pytest.approx(np.log(10))
    assert agreement.log_tdv_error(0.9, 9.9) == pytest.approx(np.log(10))
    assert agreement.log_tdv_error(0.0, 9.9) == pytest.approx(np.log(100))
    assert agreement.gadc_error(0.9, 1.0) == pytest.approx(10.0)
    assert np.isnan(agreement.gadc_error(float("nan"), 1.0))
    assert np.isnan(agreement.gadc_error(1.0, float("nan")))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_covered_and_false_positive_volume_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3))
    presence, reference, ignored = (rng.random(shape) < 0.4 for _ in range(3))
    ignored &= ~reference
    covered, whole = agreement.covered_volume(presence, reference, 0.5)
    wrong = agreement.false_positive_volume(presence, reference, ignored, 0.5)
    on_ignored = 0.5 * int((presence & ignored).sum())
    assert covered + wrong + on_ignored == pytest.approx(0.5 * presence.sum())
    assert whole == 0.5 * reference.sum()
    assert agreement.false_positive_volume(presence, reference, None, 0.5) == pytest.approx(
        wrong + on_ignored
    )


def test_value_violations_count_every_voxel_that_is_not_the_scanners() -> None:
    rng = np.random.default_rng(0)
    adc = rng.uniform(0.3, 3.0, (5, 6, 7)).astype(np.float32)
    gated = np.where(rng.random(adc.shape) < 0.5, adc, np.float32(0))
    assert agreement.value_violations(gated, adc) == 0
    assert agreement.value_violations(-0.0 * gated, adc) == 0
    wrong = gated.copy()
    wrong[gated > 0] = np.nextafter(wrong[gated > 0], np.float32(9))  # one unit in the last place
    assert agreement.value_violations(wrong, adc) == int((gated > 0).sum())
    wrong = gated.copy()
    wrong[0, 0, :3] = [np.nan, np.inf, -1.0]
    assert agreement.value_violations(wrong, adc) == 3
    # NaN copied from the scanner's map is no measured value either; float64 is not rounded away.
    hole = adc.copy()
    hole[1, 1, 1] = np.nan
    assert agreement.value_violations(hole, hole) == 1
    assert agreement.value_violations(adc.astype(np.float64) * (1 + 1e-12), adc) == adc.size
    with pytest.raises(ValueError, match="shape"):
        agreement.value_violations(adc[:2], adc)
