"""ADC units and plausible ranges.

Canonical unit: 1e-3 mm²/s (= µm²/ms). Other units in circulation: mm²/s, and 1e-6 mm²/s (= µm²/s), the
integer form most scanners store. b is in s/mm², spacing in mm, volume in mL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.errors import CaseError, UsageError

ADC_CEILING: Final = 3.5
"""1e-3 mm²/s; free water at body temperature is 3.0. An ADC channel of a network's input is in units of it."""

ADC_UNITS: Final[Mapping[str, float]] = {"1": 1e3, "1e-3": 1.0, "1e-6": 1e-3}
"""Factor from a stored ADC to 1e-3 mm²/s, by the unit's size in mm²/s."""

_ALIASES: Final[Mapping[str, str]] = {
    "mm2/s": "1",
    "mm^2/s": "1",
    "mm²/s": "1",
    "1e-3 mm2/s": "1e-3",
    "um2/ms": "1e-3",
    "µm²/ms": "1e-3",
    "1e-6 mm2/s": "1e-6",
    "um2/s": "1e-6",
    "µm²/s": "1e-6",
}

_MEDIAN_RANGE: Final = (0.2, 4.0)
"""Median ADC of body tissue lies in this range, 1e-3 mm²/s; the three units' ranges do not overlap."""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def adc_factor(unit: str) -> float:
    """Factor that turns an ADC stored in `unit` into 1e-3 mm²/s.

    Raises:
        UsageError: The unit is not one of those in circulation.
    """
    key = _ALIASES.get(unit.strip(), unit.strip())
    if key not in ADC_UNITS:  # 1e-06 and 0.001 are the same units spelt otherwise
        key = next((known for known in ADC_UNITS if _number(key) == float(known)), key)
    if key not in ADC_UNITS:
        raise UsageError(
            f"ADC unit {unit!r}", f"one of {', '.join(ADC_UNITS)} (in mm²/s)", "state the unit of the ADC map"
        )
    return ADC_UNITS[key]


def physiological_unit(values: NDArray[np.floating]) -> str | None:
    """The only unit in which the median of the positive, finite values is physiological, if there is one.

    Args:
        values: Stored ADC values of a body region, any shape.
    """
    fitted = values[np.isfinite(values) & (values > 0)]
    if fitted.size == 0:
        return None
    median = float(np.median(fitted))
    low, high = _MEDIAN_RANGE
    hits = [unit for unit, factor in ADC_UNITS.items() if low <= median * factor <= high]
    return hits[0] if len(hits) == 1 else None


def resolve_adc_unit(
    values: NDArray[np.floating], stated: str, *, research_id: str | None = None
) -> tuple[str, float]:
    """Unit of an ADC map from what its source states, cross-checked by physiology; never a guess.

    Args:
        values: Stored ADC values, any shape; zeros, negatives and non-finite values are ignored.
        stated: The unit that the file, the vendor's convention or the user states.
        research_id: For the message.

    Returns:
        The unit's key in `ADC_UNITS` and the factor to 1e-3 mm²/s.

    Raises:
        CaseError: S14, the stated unit and the physiological range disagree, or nothing was fitted.
        UsageError: The stated unit is unknown.
    """
    factor = adc_factor(stated)
    unit = next(key for key, value in ADC_UNITS.items() if value == factor)
    seen = physiological_unit(values)
    if seen != unit:
        shown = "no unit in circulation" if seen is None else f"{seen} mm²/s"
        raise CaseError(
            f"the ADC map's median fits {shown}",
            f"{unit} mm²/s as stated",
            "check the unit of the ADC map",
            code="S14",
            research_id=research_id,
            sequence="adc",
        )
    return unit, factor


def voxel_volume_ml(affine: NDArray[np.floating]) -> float:
    """Volume of one voxel in mL from a 4×4 affine in mm."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0


def spacing_mm(affine: NDArray[np.floating]) -> tuple[float, float, float]:
    """Voxel size along I, J, K in mm from a 4×4 affine."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)
