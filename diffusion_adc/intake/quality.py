"""Scanner ADC against ADC recomputed from the diffusion-weighted images, and other signs of a wrong map."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.signal import two_point_adc

PASS, WARN, REFUSE = "pass", "warn", "refuse"
_LEAST_VOXELS: Final = 100
_MOST_NEGATIVE: Final = 0.005
"""Largest share of negative ADC among fitted voxels."""


@dataclass(frozen=True)
class Agreement:
    """How the scanner's ADC compares with the recomputed one over valid voxels.

    Attributes:
        verdict: ``pass`` (median relative difference below 5 %, correlation above .95, slope .9 to 1.1),
            ``warn`` (median ratio within .9 to 1.1), else ``refuse``.
        voxels: Compared.
        ratio: Median of recomputed over scanner.
        difference: Median of |scanner − recomputed| / scanner.
        correlation: Pearson.
        slope: Of the scanner's values on the recomputed ones, least squares.
    """

    verdict: str
    voxels: int
    ratio: float
    difference: float
    correlation: float
    slope: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


def adc_agreement(
    adc: NDArray[np.floating],
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    b_low: float,
    b_high: float,
    valid: NDArray[np.bool_],
) -> Agreement | None:
    """Compare the scanner's ADC with the two-point ADC.

    Args:
        adc: (I, J, K) in 1e-3 mm²/s.
        low: (I, J, K) low-b image.
        high: (I, J, K) high-b image.
        b_low: s/mm².
        b_high: s/mm².
        valid: (I, J, K) where the scanner's ADC can be trusted.

    Returns:
        None if fewer than 100 voxels can be compared.
    """
    own = two_point_adc(low, high, b_low, b_high)
    # Negative recomputed values stay in: swapped images would otherwise leave nothing to compare.
    use = valid & np.isfinite(own)
    if np.count_nonzero(use) < _LEAST_VOXELS:
        return None
    scanner, recomputed = adc[use].astype(np.float64), own[use].astype(np.float64)
    ratio = float(np.median(recomputed / scanner))
    difference = float(np.median(np.abs(scanner - recomputed) / scanner))
    if scanner.std() == 0 or recomputed.std() == 0:
        correlation = slope = 0.0
    else:
        correlation = float(np.corrcoef(scanner, recomputed)[0, 1])
        slope = float(np.polyfit(recomputed, scanner, 1)[0])
    if difference < 0.05 and correlation > 0.95 and 0.9 <= slope <= 1.1:
        verdict = PASS
    elif 0.9 <= ratio <= 1.1:
        verdict = WARN
    else:
        verdict = REFUSE
    return Agreement(verdict, int(use.sum()), ratio, difference, correlation, slope)


def negative_share(adc: NDArray[np.floating]) -> float:
    """Share of negative values among the fitted (non-zero) voxels."""
    fitted = int(np.count_nonzero(adc))
    return float(np.count_nonzero(adc < 0)) / fitted if fitted else 0.0


def too_negative(share: float) -> bool:
    """Whether so many voxels are negative that the map itself is in doubt."""
    return share > _MOST_NEGATIVE
