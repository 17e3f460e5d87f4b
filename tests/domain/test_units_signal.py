"""Units never err by a power of ten; the signal model is inverted exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from diffusion_adc.domain import signal, units
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.domain.rule import clinical_rule, muscle_reference

FACTORS = {"1": 1e3, "1e-3": 1.0, "1e-6": 1e-3}


@given(
    st.sampled_from(sorted(FACTORS)),
    st.sampled_from(sorted(FACTORS)),
    st.integers(0, 10_000),
    st.floats(0.25, 3.5),
)
@settings(max_examples=200, deadline=None)
def test_unit_is_right_or_refused_never_off_by_a_power_of_ten(
    true: str, stated: str, seed: int, median: float
) -> None:
    rng = np.random.default_rng(seed)
    adc = np.concatenate(
        [rng.lognormal(np.log(median), 0.3, 400), np.zeros(400)]
    )  # 1e-3 mm²/s, half not fitted
    stored = adc / FACTORS[true]
    physiological = 0.2 <= np.median(adc[adc > 0]) <= 4
    if stated == true and physiological:
        unit, factor = units.resolve_adc_unit(stored, stated)
        assert unit == true
        np.testing.assert_allclose(stored * factor, adc)
    else:
        with pytest.raises(CaseError, match="S14"):
            units.resolve_adc_unit(stored, stated)


@pytest.mark.parametrize("alias", ["mm2/s", "um2/ms", "1e-6 mm2/s", "µm²/s"])
def test_aliases_are_known(alias: str) -> None:
    assert units.adc_factor(alias) in FACTORS.values()


@pytest.mark.parametrize(
    ("unit", "factor"), [("1.0", 1e3), ("0.001", 1), ("1e-06", 1e-3), (" 1e-3 ", 1), ("0.000001", 1e-3)]
)
def test_a_unit_may_be_spelt_as_any_number(unit: str, factor: float) -> None:
    assert units.adc_factor(unit) == factor


@pytest.mark.parametrize("unit", ["nan", "inf", "-1", "0", "1e-2", "", "s/mm2", "1e-9", "furlong"])
def test_unknown_unit_is_wrong_usage(unit: str) -> None:
    with pytest.raises(UsageError):
        units.adc_factor(unit)


def test_a_map_without_a_fitted_voxel_has_no_unit() -> None:
    with pytest.raises(CaseError, match="S14"):
        units.resolve_adc_unit(np.zeros((3, 3, 3)), "1e-3")


@given(st.floats(0.05, 4.0), st.floats(1.0, 1e4), st.floats(0, 100), st.floats(400, 2000))
@settings(max_examples=100, deadline=None)
def test_two_point_adc_inverts_the_model(adc: float, s0: float, b_low: float, b_high: float) -> None:
    low, high = (s0 * np.exp(-b * adc / 1000) for b in (b_low, b_high))
    assert signal.two_point_adc(low, high, b_low, b_high) == pytest.approx(adc, rel=1e-5)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_log_linear_fit_is_exact_without_noise_and_equals_polyfit(seed: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    b = np.array([0.0, 50.0, 400.0, 800.0, 1500.0])
    adc, s0 = rng.uniform(0.1, 3.5, (4, 3)), rng.uniform(10, 1000, (4, 3))
    clean = s0 * np.exp(-b[:, None, None] * adc / 1000)
    np.testing.assert_allclose(signal.fit_adc(clean, b, weighted=weighted), adc, rtol=1e-5)
    noisy = clean * rng.uniform(0.9, 1.1, clean.shape)
    own = signal.fit_adc(noisy, b, weighted=weighted)
    for index in np.ndindex(4, 3):
        s = noisy[(slice(None), *index)]
        # polyfit weights multiply residuals, so S here is S² on the squares.
        slope = np.polyfit(b, np.log(s), 1, w=s if weighted else None)[0]
        assert own[index] == pytest.approx(-1000 * slope, rel=1e-4)


def test_weighted_fit_is_the_maximum_likelihood_one_for_little_noise() -> None:
    """Against scipy's nonlinear fit of the model itself: weights S² make the two agree to first order."""
    rng = np.random.default_rng(5)
    b = np.array([50.0, 400.0, 800.0, 1200.0])
    for adc in (0.3, 0.9, 2.2):
        noisy = 500 * np.exp(-b * adc / 1000) + rng.normal(0, 0.2, b.size)
        (_, slope), _ = curve_fit(lambda x, s0, d: s0 * np.exp(-x * d / 1000), b, noisy, p0=(400, 1))
        assert signal.fit_adc(noisy, b) == pytest.approx(slope, rel=2e-4)


def test_the_fit_takes_any_shape_and_refuses_a_wrong_count_of_b_values() -> None:
    for shape in ((), (1,), (2, 3, 1)):
        assert signal.fit_adc(np.ones((3, *shape)), [0, 500, 1000]).shape == shape
    for b in ([0.0], [0.0, 500.0, 1000.0]):
        with pytest.raises(ValueError, match="one b-value per volume"):
            signal.fit_adc(np.ones((2, 4)), b)


def test_signals_that_are_not_positive_have_no_adc() -> None:
    adc = signal.two_point_adc([10.0, 0.0, -1.0, 10.0], [5.0, 5.0, 5.0, 0.0], 0, 1000)
    assert np.isfinite(adc).tolist() == [True, False, False, False]
    assert np.isnan(signal.fit_adc([[10.0, 0.0], [5.0, 5.0]], [0, 1000])).tolist() == [False, True]


def test_equal_b_values_are_refused() -> None:
    with pytest.raises(ValueError, match="different"):
        signal.two_point_adc(1.0, 1.0, 800, 800)
    with pytest.raises(ValueError, match="different"):
        signal.fit_adc(np.ones((2, 3)), [800, 800])


def test_computed_high_b_extrapolates_and_treats_negative_adc_as_zero() -> None:
    low = np.array([100.0, 100.0, 100.0])
    out = signal.computed_high_b(low, np.array([1.0, -0.5, np.nan]), 50, 1450)
    np.testing.assert_allclose(out, [100 * np.exp(-1.4), 100, 100], rtol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 7.5])
def test_noise_level_of_rayleigh_air(sigma: float) -> None:
    rng = np.random.default_rng(0)
    image = np.abs(rng.normal(0, sigma, (80, 80, 12)) + 1j * rng.normal(0, sigma, (80, 80, 12)))
    image[20:60, 20:60] += 500
    assert signal.noise_sigma(image) == pytest.approx(sigma, rel=0.12)


@given(st.integers(0, 1000), st.sampled_from([1, 4, 10]), st.sampled_from([0.0, 0.35]))
@settings(max_examples=30, deadline=None)
def test_averaged_or_ghosted_air_is_still_air(seed: int, averages: int, ghost: float) -> None:
    rng = np.random.default_rng(seed)
    air = rng.rayleigh(3.0, (averages, 96, 96, 8)).mean(axis=0)
    air[:8, :8] += ghost * 40 * rng.random((8, 8, 8))  # one corner alone is brighter
    air[30:66, 30:66] += 200
    # The darkest of four corners of 200 voxels each lies up to a fifth below the truth.
    assert signal.noise_sigma(air) == pytest.approx(3.0, rel=0.25)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1), (7, 5, 1), (40, 40, 4), (96, 80, 8)])
def test_a_crop_without_air_loses_no_voxel(shape: tuple[int, int, int]) -> None:
    """Tissue in the corners taken for noise would mark everything but the brightest organ as invalid."""
    rng = np.random.default_rng(2)
    i, j, _ = np.indices(shape)
    smooth = 150 + 100 * np.sin(i / 9) * np.cos(j / 11)
    adc = np.full(shape, 1.2, dtype=np.float32)
    for image in (rng.normal(100, 12, shape), smooth + rng.normal(0, 5, shape), np.full(shape, 80.0)):
        assert signal.noise_sigma(image) == 0
        assert signal.validity_mask(adc, image, image * 0.4).all()


def test_zero_filled_air_is_air() -> None:
    """Scanners reconstruct to up to twice the acquired matrix: neighbors in air are then correlated."""
    rng = np.random.default_rng(4)
    fourier = np.zeros((128, 128, 6), dtype=complex)
    fourier[32:96, 32:96] = np.fft.fftshift(
        np.fft.fft2(rng.normal(size=(64, 64, 6)) + 1j * rng.normal(size=(64, 64, 6)), axes=(0, 1)), (0, 1)
    )
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(fourier, (0, 1)), axes=(0, 1))) * 4
    assert signal.noise_sigma(image) == pytest.approx(1.0, rel=0.15)


def test_masked_background_has_no_noise_level() -> None:
    image = np.zeros((20, 20, 4))
    image[5:15, 5:15] = 100
    assert signal.noise_sigma(image) == 0


@pytest.mark.parametrize("levels", [(2.0,), (2.0, 6.0), (2.0, 6.0, 9.0)])
def test_corners_of_one_level_are_needed_for_a_noise_level(levels: tuple[float, ...]) -> None:
    """Grainy tissue in a corner varies as noise does; air has one level in every corner it fills."""
    rng = np.random.default_rng(4)
    image = np.full((80, 80, 12), 500.0)
    corners = [
        (slice(None, 8), slice(None, 8)),
        (slice(-8, None), slice(None, 8)),
        (slice(-8, None), slice(-8, None)),
    ]
    for corner, sigma in zip(corners, levels, strict=False):
        image[corner] = rng.rayleigh(sigma, image[corner].shape)
    assert signal.noise_sigma(image) == 0
    image[:8, -8:] = rng.rayleigh(levels[0], (8, 8, 12))
    assert signal.noise_sigma(image) == pytest.approx(levels[0], rel=0.15)


def test_validity_leaves_out_every_reason() -> None:
    adc = np.full((40, 40, 4), 1.0, dtype=np.float32)
    adc[20, 20, :4] = [np.nan, -0.1, 0.0, 4.095]
    low = np.full(adc.shape, 1000.0)
    air = np.random.default_rng(0).rayleigh(1.0, (80, 80, 4))
    low[:5], low[-5:], low[:, :5], low[:, -5:] = air[:5, :40], air[5:10, :40], air[:40, :5], air[:40, 5:10]
    low[21, 21, :2] = [4.0, 6.0]  # σ is 1: below 5 σ of the low b, above 2 σ of the high b
    high = low.copy()
    high[22, 22, :2] = [1.5, 3.0]
    valid = signal.validity_mask(adc, low, high)
    assert not valid[20, 20].any()
    assert valid[21, 21].tolist() == [False, True, True, True]
    assert valid[22, 22].tolist() == [False, True, True, True]
    assert not valid[:4, :4].any()
    assert valid[10:19, 10:19].all()
    assert signal.validity_mask(adc)[0, 0, 0]


def test_clinical_rule_finds_bright_restricted_voxels_against_muscle() -> None:
    rng = np.random.default_rng(1)
    dwi = np.exp(rng.normal(np.log(100), 0.05, (40, 40, 6)))
    adc = rng.normal(1.4, 0.1, dwi.shape)
    dwi[10:14, 10:14, 2], adc[10:14, 10:14, 2] = 600, 0.9  # tumor-like
    dwi[20:24, 20:24, 2], adc[20:24, 20:24, 2] = 600, 2.8  # bright fluid
    dwi[30:34, 30:34, 2], adc[30:34, 30:34, 2] = 150, 0.9  # dark
    valid = np.ones(dwi.shape, dtype=bool)
    valid[10, 10, 2] = False
    assert muscle_reference(dwi, adc, valid) == pytest.approx(100, rel=0.1)
    found = clinical_rule(dwi, adc, valid)
    assert found.sum() == 15
    assert found[10:14, 10:14, 2].sum() == 15


def test_clinical_rule_without_muscle_finds_nothing() -> None:
    shape = (5, 5, 5)
    assert not clinical_rule(np.ones(shape), np.full(shape, 0.2), np.ones(shape, dtype=bool)).any()


def test_voxel_geometry_of_an_oblique_affine() -> None:
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.5, 2.0, -5.0])
    assert units.spacing_mm(affine) == pytest.approx((2.5, 2.0, 5.0))
    assert units.voxel_volume_ml(affine) == pytest.approx(0.025)
