"""ADC inside a map: histogram statistics, and the error of the values apart from the error of the selection.

ADC in 1e-3 mm²/s. Voxels of one case have one volume, so that statistics over voxels are weighted by volume.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import agreement

ENTROPY_BIN: Final = 0.05
ENTROPY_RANGE: Final = (0.0, 3.5)
PERCENTILES: Final = (2, 5, 10, 25, 75, 90, 95, 98)
STATISTICS: Final = (
    "median", "mean", "sd", *(f"p{p}" for p in PERCENTILES), "skewness", "excess_kurtosis", "entropy",
)  # fmt: skip
"""Names of the histogram statistics; 2nd and 98th percentile are the robust extremes."""


def histogram_statistics(values: NDArray[np.floating]) -> dict[str, float]:
    """Statistics of the ADC values of a region, (V,), named as in `STATISTICS`; all NaN without a value.

    Population moments (divided by V). Skewness and *excess* kurtosis as in the Image Biomarker Standardisation
    Initiative (Zwanenburg et al., Radiology 2020;295:328), NaN where all values are equal; entropy in bits of
    the histogram with bins of 0.05 over 0 to 3.5, values outside counted in the outermost bins.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return dict.fromkeys(STATISTICS, float("nan"))
    center = x - x.mean()
    variance = float((center**2).mean())
    defined = variance > 1e-18
    bins = round((ENTROPY_RANGE[1] - ENTROPY_RANGE[0]) / ENTROPY_BIN)
    # Half a rounding step up, so that a value on an edge falls into the bin that starts there.
    index = np.clip(np.floor((x - ENTROPY_RANGE[0]) / ENTROPY_BIN + 1e-9), 0, bins - 1).astype(np.int64)
    share = np.bincount(index, minlength=bins) / x.size
    share = share[share > 0]
    return {
        "median": float(np.median(x)),
        "mean": float(x.mean()),
        "sd": float(np.sqrt(variance)),
        **{f"p{p}": float(q) for p, q in zip(PERCENTILES, np.percentile(x, PERCENTILES), strict=True)},
        "skewness": float((center**3).mean() / variance**1.5) if defined else float("nan"),
        "excess_kurtosis": float((center**4).mean() / variance**2 - 3.0) if defined else float("nan"),
        "entropy": float(-(share * np.log2(share)).sum()) + 0.0,
    }


def gadc_error_parts(
    tumor_adc: NDArray[np.floating],
    adc: NDArray[np.floating],
    presence: NDArray[np.bool_],
    reference: float,
) -> tuple[float, float]:
    """Error of a map's global ADC in percent of the reference, in two parts.

    - *selection*: |median of the scanner's ADC where the map keeps − reference|: which voxels are kept;
    - *value*: |median of the map's own values − median of the scanner's ADC in the same voxels|: what they say.

    A map that multiplies the scanner's ADC with presence has a value error of exactly 0.

    Args:
        tumor_adc: (I, J, K), the map.
        adc: (I, J, K), the scanner's ADC.
        presence: bool (I, J, K), where the map keeps a valid voxel.
        reference: The reader's global ADC.

    Returns:
        Selection and value error in percent; NaN where map or reference holds no tumor.
    """
    if not presence.any() or not np.isfinite(reference) or reference == 0:
        return float("nan"), float("nan")
    selected = float(np.median(adc[presence].astype(np.float64)))
    own = float(np.median(tumor_adc[presence].astype(np.float64)))
    return agreement.gadc_error(selected, reference), 100.0 * abs(own - selected) / abs(reference)


def value_error(
    tumor_adc: NDArray[np.floating], adc: NDArray[np.floating], common: NDArray[np.bool_]
) -> float:
    """Mean |map − scanner's ADC| over the voxels that map and reference share; NaN without any, 0 when gated."""
    if not common.any():
        return float("nan")
    return float(np.abs(tumor_adc[common].astype(np.float64) - adc[common].astype(np.float64)).mean())
