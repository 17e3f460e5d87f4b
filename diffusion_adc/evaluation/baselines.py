"""The baselines that stand beside the model in every table, as predictions of the same form.

B0 the empty map · B1 the unedited ADC map · B2 the clinical rule · B3 the base head × ADC. Each is a
selection of the scanner's ADC map; arrays are (I, J, K) on the case's grid, ADC in 1e-3 mm²/s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.rule import clinical_rule


@dataclass(frozen=True)
class Prediction:
    """One method's map of one case.

    Attributes:
        tumor_adc: float32 (I, J, K), measured ADC where present, else 0.
        probability: float32 (I, J, K) in [0, 1].
        threshold: Probability from which the map keeps a voxel.
        draws: bool or uint8 (I, J, K, D), joint draws of presence; None for a method without any.
        lesion_threshold: Peak probability from which a region of the map is called a lesion.
    """

    tumor_adc: NDArray[np.float32]
    probability: NDArray[np.float32]
    threshold: float
    draws: NDArray[np.generic] | None = None
    lesion_threshold: float = 0.0

    @property
    def presence(self) -> NDArray[np.bool_]:
        """Where the map keeps the measured value, bool (I, J, K)."""
        return np.asarray(self.tumor_adc != 0)


def _selection(
    adc: NDArray[np.float32],
    presence: NDArray[np.bool_],
    probability: NDArray[np.generic],
    threshold: float,
    draws: NDArray[np.generic] | None = None,
) -> Prediction:
    gated = np.where(presence & np.isfinite(adc), adc, np.float32(0.0))
    return Prediction(gated, np.asarray(probability, dtype=np.float32), threshold, draws)


def empty_map(adc: NDArray[np.float32]) -> Prediction:
    """B0: nothing is tumor. Exposes every score that an empty map can win."""
    nothing = np.zeros(adc.shape, dtype=bool)
    return _selection(adc, nothing, nothing, 0.5)


def unedited_adc(adc: NDArray[np.float32], valid: NDArray[np.bool_]) -> Prediction:
    """B1: the scanner's ADC map as it is, every valid voxel kept."""
    return _selection(adc, valid, valid, 0.5)


def rule_map(dwi_high: NDArray[np.float32], adc: NDArray[np.float32], valid: NDArray[np.bool_]) -> Prediction:
    """B2: `domain.rule.clinical_rule`, high-b signal above a muscle reference and ADC in a window."""
    kept = clinical_rule(dwi_high, adc, valid)
    return _selection(adc, kept, kept, 0.5)


def base_head_map(
    base_probability: NDArray[np.float32],
    threshold: float,
    adc: NDArray[np.float32],
    valid: NDArray[np.bool_],
    lesion_threshold: float = 0.0,
) -> Prediction:
    """B3: the deterministic base head × ADC, cut at its own thresholds (fixed on validation cases)."""
    kept = _selection(adc, valid & (base_probability >= threshold), base_probability, threshold)
    return replace(kept, lesion_threshold=lesion_threshold)


def from_draws(
    draws: NDArray[np.generic],
    adc: NDArray[np.float32],
    valid: NDArray[np.bool_],
    threshold: float = 0.5,
) -> Prediction:
    """A prediction from joint draws alone, (I, J, K, D): their mean is the probability.

    This is how the oracle's draws from the complete reader model enter the table.
    """
    probability = np.asarray(draws, dtype=bool).mean(axis=-1, dtype=np.float32)
    return _selection(adc, valid & (probability >= threshold), probability, threshold, draws)
