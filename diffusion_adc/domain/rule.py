"""The clinical rule: bright at high b, restricted in ADC. Baseline B2, and the phantom's acceptance test.

Today's semi-automatic practice keeps voxels whose high-b signal stands out from muscle and whose ADC lies in
a window. It finds untreated tumor and, with it, spleen, nodes, bowel and marrow: the software is judged by
how much of that it leaves out.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

HIGH_B_RATIO: Final = 2.5
"""Times the muscle signal."""
ADC_WINDOW: Final = (0.4, 1.4)
"""1e-3 mm²/s, both ends excluded."""
_MUSCLE_ADC: Final = (1.1, 1.8)
"""Skeletal muscle's ADC, 1e-3 mm²/s."""


def muscle_reference(
    dwi_high: NDArray[np.floating], adc: NDArray[np.floating], valid: NDArray[np.bool_]
) -> float:
    """High-b signal of muscle, estimated from the images alone.

    Muscle is the largest tissue of a body region with an ADC of 1.1 to 1.8, so its signal is where the
    histogram of the log signal of such voxels peaks.

    Args:
        dwi_high: (I, J, K) high-b magnitude.
        adc: (I, J, K) in 1e-3 mm²/s.
        valid: (I, J, K) where the ADC can be trusted.

    Returns:
        Signal in the image's unit; NaN if no voxel qualifies.
    """
    candidates = dwi_high[
        valid & (adc > _MUSCLE_ADC[0]) & (adc < _MUSCLE_ADC[1]) & (dwi_high > 0) & np.isfinite(dwi_high)
    ]
    if candidates.size == 0:
        return float("nan")
    logs = np.log(candidates.astype(np.float64))
    # 0.05 in the log is a 5 % step; a triangle of ±4 bins smooths sparse histograms.
    edges = np.arange(logs.min() - 0.3, logs.max() + 0.35, 0.05)
    counts, _ = np.histogram(logs, edges)
    kernel = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1], dtype=np.float64)
    smooth = np.convolve(counts, kernel, mode="same")
    peak = int(np.argmax(smooth))
    return float(np.exp(0.5 * (edges[peak] + edges[peak + 1])))


def clinical_rule(
    dwi_high: NDArray[np.floating], adc: NDArray[np.floating], valid: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels with high-b signal > 2.5 × muscle and 0.4 < ADC < 1.4 (1e-3 mm²/s) inside the valid body.

    Args:
        dwi_high: (I, J, K) high-b magnitude.
        adc: (I, J, K) in 1e-3 mm²/s.
        valid: (I, J, K) where the ADC can be trusted; air and nulled fat are not.

    Returns:
        (I, J, K) boolean; all False if no muscle could be found.
    """
    reference = muscle_reference(dwi_high, adc, valid)
    if not np.isfinite(reference):
        return np.zeros(adc.shape, dtype=bool)
    return valid & (dwi_high > HIGH_B_RATIO * reference) & (adc > ADC_WINDOW[0]) & (adc < ADC_WINDOW[1])
