"""Agreement of a tumor map with a reference: overlap, volumes, ADC values and the fidelity of the values.

Volumes in mL, ADC in 1e-3 mm²/s. ``presence`` and ``reference`` are bool (I, J, K). Voxels where the ADC
is not valid take part in no volume and no ADC statistic.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.inference.threshold import TDV_OFFSET_ML
from diffusion_adc.inference.tumor_map import BANDS, band_name

Empties = Literal["primary", "all_cases"]


def dice(reference: NDArray[np.bool_], presence: NDArray[np.bool_], *, empties: Empties = "primary") -> float:
    """Dice overlap, with one policy for empty maps.

    ========== ========== ========= ===========
    reference  presence   primary   all_cases
    ========== ========== ========= ===========
    tumor      empty      0         0
    empty      empty      NaN       1
    empty      not empty  NaN       0
    ========== ========== ========= ===========

    A missed tumor is never skipped. NaN means "outside the primary mean", which runs over the cases whose
    reference holds tumor; tumor-free cases are judged by their false-positive volume.
    """
    n_reference, n_presence = int(reference.sum()), int(presence.sum())
    if n_reference == 0:
        if empties == "primary":
            return float("nan")
        return 1.0 if n_presence == 0 else 0.0
    return 2.0 * int((reference & presence).sum()) / (n_reference + n_presence)


def total_diffusion_volume(presence: NDArray[np.bool_], valid: NDArray[np.bool_], voxel_ml: float) -> float:
    """Total diffusion volume (TDV) in mL: voxels that are present and have a valid ADC."""
    return int((presence & valid).sum()) * voxel_ml


def global_adc(adc: NDArray[np.floating], presence: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    """Global ADC (gADC): median of all lesion voxels of the case pooled, 1e-3 mm²/s; NaN without any."""
    values = adc[presence & valid]
    return float(np.median(values.astype(np.float64))) if values.size else float("nan")


def band_volumes(
    adc: NDArray[np.floating], presence: NDArray[np.bool_], valid: NDArray[np.bool_], voxel_ml: float
) -> dict[str, float]:
    """Volume in mL of the presence in each band of `BANDS` (lower edge included), keyed ``0.4-0.9`` …"""
    values = adc[presence & valid].astype(np.float64)
    return {
        band_name(low, high): int(((values >= low) & (values < high)).sum()) * voxel_ml for low, high in BANDS
    }


def log_tdv_error(tdv_ml: float, reference_ml: float) -> float:
    """``|ln((TDV + 0.1 mL) / (TDV_ref + 0.1 mL))|``: 0.09 is about 9 %."""
    return abs(float(np.log((tdv_ml + TDV_OFFSET_ML) / (reference_ml + TDV_OFFSET_ML))))


def gadc_error(gadc: float, reference: float) -> float:
    """Absolute error of the global ADC in percent of the reference; NaN where one of them is undefined."""
    if not (np.isfinite(gadc) and np.isfinite(reference)) or reference == 0:
        return float("nan")
    return 100.0 * abs(gadc - reference) / abs(reference)


def covered_volume(
    presence: NDArray[np.bool_], reference: NDArray[np.bool_], voxel_ml: float
) -> tuple[float, float]:
    """Reference volume that the map covers, and the whole reference volume, both in mL.

    Volume sensitivity is the ratio of the two summed over cases; both are kept so that a bootstrap can
    form that ratio anew in every replicate.
    """
    return int((presence & reference).sum()) * voxel_ml, int(reference.sum()) * voxel_ml


def false_positive_volume(
    presence: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None,
    voxel_ml: float,
) -> float:
    """Volume in mL of presence outside every reference lesion and every ignored lesion."""
    wrong = presence & ~reference
    if ignored is not None:
        wrong &= ~ignored
    return int(wrong.sum()) * voxel_ml


def value_violations(tumor_adc: NDArray[np.floating], adc: NDArray[np.floating]) -> int:
    """Voxels of a tumor map that are neither 0 nor bit-equal to the scanner's ADC map.

    The comparison is made in the wider of the two types, where equality of finite numbers other than 0
    is equality of their bits; NaN and infinity in a tumor map always count.
    """
    if tumor_adc.shape != adc.shape:
        raise ValueError(f"tumor map has shape {tumor_adc.shape}, ADC {adc.shape}")
    kept = tumor_adc != 0
    return int((kept & ~((tumor_adc == adc) & np.isfinite(tumor_adc))).sum())
