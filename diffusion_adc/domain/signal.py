"""Diffusion-weighted signal, its inverse and where it can be trusted.

Mono-exponential model ``S(b) = S0 · exp(-b · ADC)`` with b in s/mm² and ADC in 1e-3 mm²/s, so that the
exponent is ``-b · ADC / 1000``. Arrays of any shape; every result is float32 unless said otherwise.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

STORAGE_CEILING: Final = 4.095
"""ADC in 1e-3 mm²/s at which 12-bit scanner maps saturate (4095 × 1e-6 mm²/s)."""
_HALF_STEP: Final = 0.0005
"""Half a stored step: 4095 × 1e-6 in single precision lies a little below the ceiling or a little above."""

MIN_SNR_LOW: Final = 5.0
MIN_SNR_HIGH: Final = 2.0
"""Below these signal-to-noise ratios magnitude noise biases the ADC (Gudbjartsson & Patz 1995)."""

_RAYLEIGH_MEDIAN: Final = float(np.sqrt(2.0 * np.log(2.0)))
_AIR_VARIATION: Final = (0.15, 0.65)
"""Rayleigh noise varies by sqrt(4/π - 1) = 0.52 of its mean, the average of N magnitudes by 1/sqrt(N) of that
(ten averages: 0.17); a ghost or a coil profile adds to it. Even tissue varies less, its borders more."""
_AIR_CORRELATION: Final = 0.45
"""Neighbors in air are independent; zero-filling an image to twice its matrix correlates its complex noise by
sinc(1/2) = 0.64 and magnitudes by about its square. Anatomy varies from place to place, not voxel to voxel."""
_AIR_AGREEMENT: Final = 1.5
"""Largest ratio of the noise of two corners of one image."""


def dwi_signal(s0: ArrayLike, b: float, adc: ArrayLike) -> NDArray[np.float32]:
    """Signal at b of tissue with signal `s0` at b = 0 and the given ADC."""
    exponent = -b * np.asarray(adc, dtype=np.float64) / 1000.0
    return (np.asarray(s0, dtype=np.float64) * np.exp(exponent)).astype(np.float32)


def two_point_adc(low: ArrayLike, high: ArrayLike, b_low: float, b_high: float) -> NDArray[np.float32]:
    """``ADC = ln(S_low / S_high) / (b_high - b_low)`` in 1e-3 mm²/s.

    NaN where a signal is not positive: such a voxel has no ADC, which is not an ADC of 0.

    Raises:
        ValueError: The two b-values are equal.
    """
    if b_low == b_high:
        raise ValueError("two different b-values are needed for an ADC")
    low64, high64 = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        adc = 1000.0 * np.log(low64 / high64) / (b_high - b_low)
    return np.where((low64 > 0) & (high64 > 0), adc, np.nan).astype(np.float32)


def fit_adc(signals: ArrayLike, b_values: ArrayLike, *, weighted: bool = True) -> NDArray[np.float32]:
    """Log-linear least-squares ADC from two or more b-values, in 1e-3 mm²/s.

    With `weighted`, weights are S² (the variance of ln S is σ²/S² to first order; Salvador et al. 2005).

    Args:
        signals: (N, *S) magnitudes, one volume per b-value.
        b_values: (N,) in s/mm².
        weighted: Weights S² instead of 1.

    Returns:
        (*S) ADC; NaN where a signal is not positive and finite.

    Raises:
        ValueError: Fewer than two different b-values, or as many b-values as volumes are not given.
    """
    s = np.asarray(signals, dtype=np.float64)
    b = np.asarray(b_values, dtype=np.float64)
    if b.shape != s.shape[:1] or np.unique(b).size < 2:
        raise ValueError("one b-value per volume and at least two different b-values are needed")
    b = b.reshape(-1, *([1] * (s.ndim - 1)))
    usable = np.isfinite(s) & (s > 0)
    positive = np.all(usable, axis=0)
    safe = np.where(usable, s, 1.0)
    log_s = np.log(safe)
    w = safe**2 if weighted else np.ones_like(safe)
    total = w.sum(axis=0)
    b_mean = (w * b).sum(axis=0) / total
    y_mean = (w * log_s).sum(axis=0) / total
    slope = (w * (b - b_mean) * (log_s - y_mean)).sum(axis=0) / (w * (b - b_mean) ** 2).sum(axis=0)
    return np.where(positive, -1000.0 * slope, np.nan).astype(np.float32)


def computed_high_b(low: ArrayLike, adc: ArrayLike, b_low: float, b: float) -> NDArray[np.float32]:
    """Signal extrapolated to `b` from the low-b image; negative ADC counts as 0 in this formula only."""
    clean = np.nan_to_num(np.asarray(adc, dtype=np.float64), nan=0.0)
    return dwi_signal(low, b - b_low, np.maximum(clean, 0.0))


def noise_sigma(magnitude: ArrayLike, *, air_share: float = 0.05) -> float:
    """Noise level σ of a magnitude image from its corners, where they are air.

    For Rayleigh-distributed air, σ = median / sqrt(2 ln 2) (Gudbjartsson & Patz 1995, Magn Reson Med 34:910).
    The corner blocks of the first two axes serve as air; each is `air_share` of the axis' length. A cropped
    image has tissue in its corners, which would pass for loud noise and make every voxel invalid: a block
    counts as air only if its values vary as magnitude noise does, by as much and from voxel to voxel, and two
    blocks of one level are needed.

    Args:
        magnitude: (I, J) or (I, J, K).
        air_share: Side of a corner block as a share of the axis.

    Returns:
        σ in the image's unit; 0 if the image shows no air (masked, zero-padded or cropped background).
    """
    image = np.asarray(magnitude)
    i, j = (max(1, round(n * air_share)) for n in image.shape[:2])
    blocks = (image[:i, :j], image[:i, -j:], image[-i:, :j], image[-i:, -j:])
    medians = sorted(median for block in blocks if (median := _air_median(block)) is not None)
    if len(medians) < 2 or medians[1] > _AIR_AGREEMENT * medians[0]:
        return 0.0
    # A limb or a ghost may reach into a corner: the darkest corner is the one that is air.
    return medians[0] / _RAYLEIGH_MEDIAN


def _air_median(block: NDArray[np.generic]) -> float | None:
    """Median of the positive values of a corner block; None if they do not vary as noise does."""
    values = np.asarray(block, dtype=np.float64)
    values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    measured = values[~np.isnan(values)]
    steps = np.concatenate([np.diff(values, axis=axis).ravel() for axis in (0, 1)])
    steps = steps[~np.isnan(steps)]
    if steps.size == 0 or measured.std() == 0:
        return None
    low, high = _AIR_VARIATION
    correlation = 1.0 - float(np.mean(steps**2)) / (2.0 * float(measured.var()))
    if not low <= measured.std() / measured.mean() <= high or correlation > _AIR_CORRELATION:
        return None
    return float(np.median(measured))


def validity_mask(
    adc: ArrayLike, low: ArrayLike | None = None, high: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Where an ADC can be trusted.

    Invalid: ADC not finite, ≤ 0 or at the storage ceiling; low-b signal below 5 σ; high-b signal below
    2 σ of the background, both only where the image shows its background (`noise_sigma`). Invalid is neither
    0 nor "not tumor": such voxels are left out of every statistic.

    Args:
        adc: (*S) in 1e-3 mm²/s.
        low: (*S) low-b magnitude, or None if not acquired.
        high: (*S) high-b magnitude, or None if not acquired.
    """
    values = np.asarray(adc)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(values) & (values > 0) & (values < STORAGE_CEILING - _HALF_STEP)
    for image, snr in ((low, MIN_SNR_LOW), (high, MIN_SNR_HIGH)):
        if image is not None:
            magnitude = np.asarray(image)
            valid &= magnitude >= snr * noise_sigma(magnitude)
    return valid
