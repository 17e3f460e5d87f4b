"""From measured volumes to the channels a network sees: constant, common or robust scales, in that order.

* ADC: the constant ``clip(ADC, 0, 3.5) / 3.5``. It is a physical quantity; a scale per image would erase it.
* Both diffusion-weighted images: one common factor per case, so that their log-ratio, the ADC, survives. The
  factor brings the median low-b signal of the valid body to 1. Where the low b is missing, that median is
  computed from the high b and the ADC map (``S_high · exp((b_high - b_low) · ADC)``), so a missing image
  does not change the other one's scale.
* T1w and T2w: 95th percentile of the valid body to 1, clipped at 4 (arbitrary units, coils and fat vary).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.domain.signal import two_point_adc
from diffusion_adc.domain.units import ADC_CEILING

SCALING_VERSION: Final = 1
"""Part of every store key: raise it whenever a figure or formula of this module changes."""
NOMINAL_B: Final = (50.0, 900.0)
"""s/mm², used for the common factor alone when the low b is missing and a b-value is unknown."""
_ANATOMY_PERCENTILE: Final = 95.0
_ANATOMY_CEILING: Final = 4.0
_DWI_CEILING: Final = 1000.0
"""Far above any signal; keeps a broken voxel inside the range of float16."""

ADC_INDEX: Final = seq.CHANNELS.index(seq.ADC)
LOW_INDEX: Final = seq.CHANNELS.index(seq.DWI_LOW)
HIGH_INDEX: Final = seq.CHANNELS.index(seq.DWI_HIGH)
RECOMPUTED_INDEX: Final = seq.CHANNELS.index(seq.ADC_RECOMPUTED)
VALID_INDEX: Final = seq.CHANNELS.index(seq.VALID)

Volumes = Mapping[str, NDArray[np.generic]]


def scaled_adc(adc: NDArray[np.floating]) -> NDArray[np.float32]:
    """ADC in 1e-3 mm²/s to [0, 1]; 0 where it is not finite."""
    return (
        np.clip(np.nan_to_num(adc, nan=0.0, posinf=0.0, neginf=0.0), 0, ADC_CEILING) / ADC_CEILING
    ).astype(np.float32)


def dwi_factor(volumes: Volumes, valid: NDArray[np.bool_], case: Case) -> float:
    """The one factor for both diffusion-weighted images: median (computed) low-b signal of the body → 1.

    Args:
        volumes: Measured volumes, (I, J, K) each.
        valid: (I, J, K) where the ADC can be trusted.
        case: Tells the b-values, s/mm².
    """
    if seq.DWI_LOW in volumes:
        signal = np.asarray(volumes[seq.DWI_LOW], dtype=np.float64)[valid]
    elif seq.DWI_HIGH in volumes:
        low = NOMINAL_B[0] if case.b_low is None else case.b_low
        high = NOMINAL_B[1] if case.b_high is None else case.b_high
        adc = np.clip(np.asarray(volumes[seq.ADC], dtype=np.float64)[valid], 0, ADC_CEILING)
        signal = np.asarray(volumes[seq.DWI_HIGH], dtype=np.float64)[valid] * np.exp(
            (high - low) * adc / 1000
        )
    else:
        return 1.0
    signal = signal[np.isfinite(signal) & (signal > 0)]
    return 1.0 / float(np.median(signal)) if signal.size else 1.0


def recomputed_adc(
    low: NDArray[np.floating], high: NDArray[np.floating], valid: NDArray[np.bool_], case: Case
) -> NDArray[np.float32]:
    """Scaled two-point ADC of the images themselves, 0 where invalid or a b-value is unknown.

    Args:
        low: (I, J, K) low-b signal, any unit.
        high: (I, J, K) high-b signal, the same unit.
        valid: (I, J, K).
        case: Tells the b-values.
    """
    if case.b_low is None or case.b_high is None:
        return np.zeros(low.shape, np.float32)
    return np.where(valid, scaled_adc(two_point_adc(low, high, case.b_low, case.b_high)), 0).astype(
        np.float32
    )


def condition_images(volumes: Volumes, case: Case) -> NDArray[np.float32]:
    """The image condition of a case, on whatever grid its volumes are.

    The one function for training, for drawing and for a case that never was in a store.

    Args:
        volumes: (I, J, K) by name: ADC in 1e-3 mm²/s, ``valid``, and the sequences acquired.
        case: Tells the b-values.

    Returns:
        float32 (7, I, J, K) in the order of `sequences.CHANNELS`; 0 where missing, ADC 0 where invalid.

    Raises:
        CaseError: S19, the ADC map has no valid voxel.
    """
    adc = np.asarray(volumes[seq.ADC], dtype=np.float32)
    valid = np.asarray(volumes[seq.VALID], dtype=bool) & np.isfinite(adc)
    if not valid.any():
        raise CaseError(
            "an ADC map without a valid voxel", "ADC above 0 in the body", "check the series and its unit",
            code="S19", research_id=case.research_id, sequence=seq.ADC,
        )  # fmt: skip
    images = np.zeros((len(seq.CHANNELS), *adc.shape), np.float32)
    images[ADC_INDEX] = np.where(valid, scaled_adc(adc), 0)
    images[VALID_INDEX] = valid
    factor = dwi_factor(volumes, valid, case)
    for name in (seq.DWI_LOW, seq.DWI_HIGH):
        if name in volumes:
            signal = np.nan_to_num(
                np.asarray(volumes[name], dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0
            )
            images[seq.CHANNELS.index(name)] = np.clip(signal * np.float32(factor), 0, _DWI_CEILING)
    if seq.DWI_LOW in volumes and seq.DWI_HIGH in volumes:
        images[RECOMPUTED_INDEX] = recomputed_adc(images[LOW_INDEX], images[HIGH_INDEX], valid, case)
    for name in (seq.T1W, seq.T2W):
        if name in volumes:
            signal = np.nan_to_num(
                np.asarray(volumes[name], dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0
            )
            bright = float(np.percentile(signal[valid], _ANATOMY_PERCENTILE))
            if bright > 0:
                images[seq.CHANNELS.index(name)] = np.clip(signal / np.float32(bright), 0, _ANATOMY_CEILING)
    return images
