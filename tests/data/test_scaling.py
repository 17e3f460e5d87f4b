from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.data.scaling import (
    ADC_CEILING,
    ADC_INDEX,
    HIGH_INDEX,
    LOW_INDEX,
    RECOMPUTED_INDEX,
    VALID_INDEX,
    condition_images,
)
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.domain.signal import dwi_signal

from .conftest import simulated

CASE = Case("TEST-0001", 1, b_low=50, b_high=900)


@pytest.fixture
def volumes():
    return simulated((20, 22, 8), [((8, 12, 4), 2.5)], np.random.default_rng(0))[0]


def test_adc_scale_is_constant(volumes):
    images = condition_images(volumes, CASE)
    valid = volumes[seq.VALID].astype(bool)
    assert np.allclose(images[ADC_INDEX][valid] * ADC_CEILING, volumes[seq.ADC][valid], atol=1e-5)
    assert np.all(images[ADC_INDEX][~valid] == 0)
    brighter = volumes | {seq.ADC: volumes[seq.ADC] * 1.5}
    ratio = condition_images(brighter, CASE)[ADC_INDEX][valid] / images[ADC_INDEX][valid]
    assert np.allclose(ratio, 1.5, atol=1e-4)


def test_common_factor_keeps_the_log_ratio(volumes):
    images = condition_images(volumes, CASE)
    valid = volumes[seq.VALID].astype(bool)
    measured = np.log(volumes[seq.DWI_LOW][valid] / volumes[seq.DWI_HIGH][valid])
    assert np.allclose(np.log(images[LOW_INDEX][valid] / images[HIGH_INDEX][valid]), measured, atol=1e-4)
    assert np.median(images[LOW_INDEX][valid]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("gain", [1e-3, 7.0, 3000.0])
def test_arbitrary_units_do_not_matter(volumes, gain):
    scaled = volumes | {name: volumes[name] * gain for name in (seq.DWI_LOW, seq.DWI_HIGH, seq.T1W, seq.T2W)}
    assert np.allclose(condition_images(volumes, CASE), condition_images(scaled, CASE), atol=1e-4)


def test_missing_low_b_leaves_the_high_b_scale(volumes):
    whole = condition_images(volumes, CASE)
    part = condition_images({k: v for k, v in volumes.items() if k != seq.DWI_LOW}, CASE)
    assert np.allclose(part[HIGH_INDEX], whole[HIGH_INDEX], rtol=0.03)
    assert not part[LOW_INDEX].any()
    assert not part[RECOMPUTED_INDEX].any()


def test_recomputed_adc_is_the_two_point_formula(volumes):
    images = condition_images(volumes, CASE)
    valid = volumes[seq.VALID].astype(bool)
    expected = np.log(volumes[seq.DWI_LOW][valid] / volumes[seq.DWI_HIGH][valid]) / 0.85
    assert np.allclose(images[RECOMPUTED_INDEX][valid] * ADC_CEILING, expected, atol=1e-3)
    unknown = Case("TEST-0001", 1)
    assert not condition_images(volumes, unknown)[RECOMPUTED_INDEX].any()


@pytest.mark.parametrize("missing", [(seq.T1W,), (seq.T2W, seq.T1W), (seq.DWI_HIGH,), (seq.DWI_LOW, seq.T1W)])
def test_missing_sequences_are_zero(volumes, missing):
    images = condition_images({k: v for k, v in volumes.items() if k not in missing}, CASE)
    for name in missing:
        assert not images[seq.CHANNELS.index(name)].any()
    assert np.isfinite(images).all()


def test_broken_voxels_do_no_harm(volumes):
    broken = {k: v.astype(np.float32) for k, v in volumes.items()}
    for name, value in ((seq.ADC, np.nan), (seq.DWI_LOW, np.inf), (seq.DWI_HIGH, -5.0), (seq.T1W, np.nan)):
        broken[name][10, 11, 4] = value
    images = condition_images(broken, CASE)
    assert np.isfinite(images).all()
    assert images[VALID_INDEX, 10, 11, 4] == 0
    assert np.isfinite(images.astype(np.float16)).all()
    assert images.min() >= 0


def test_one_valid_voxel_is_enough_and_none_is_refused():
    low = np.zeros((3, 1, 2), np.float32)
    low[1, 0, 1] = 200
    volumes = {
        seq.ADC: (low > 0) * 1.2,
        seq.VALID: low > 0,
        seq.DWI_LOW: low,
        seq.DWI_HIGH: dwi_signal(low, 850, 1.2),
    }
    images = condition_images(volumes, CASE)
    assert images[LOW_INDEX, 1, 0, 1] == pytest.approx(1)
    assert images[RECOMPUTED_INDEX, 1, 0, 1] * ADC_CEILING == pytest.approx(1.2, abs=1e-4)
    with pytest.raises(CaseError, match="S19 TEST-0001 adc"):
        condition_images(volumes | {seq.VALID: np.zeros_like(low)}, CASE)
