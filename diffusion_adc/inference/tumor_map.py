"""The product: measured ADC × presence, with the numbers and intervals its draws support.

Presence is averaged, never ADC: a mean of drawn ADC maps would have soft rims and values no scanner
measured. Every voxel of the map is 0 or bit-equal to the scanner's ADC, which is checked here for every map
that is made.

Axes ``I J K`` of the scanner's ADC map; volumes in mL, ADC in 1e-3 mm²/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.domain.signal import validity_mask
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.inference.intervals import order_statistic_interval
from diffusion_adc.inference.lesions import PARTIAL_VOLUME_VOXELS, Lesions, lesion_table
from diffusion_adc.records import maps as files

BANDS: Final = ((0.4, 0.9), (0.9, 1.4), (1.4, 1.8))
"""ADC bands of metastatic diffusion volume (PMID 33694240), 1e-3 mm²/s, lower edge included."""

VIABLE_BELOW: Final = 1.4
"""ADC in 1e-3 mm²/s below which tumor counts as viable, above as treated (MET-RADS-P; PMC5176005)."""

CONFLUENT_LESIONS: Final = 20
"""Above this number of lesions, counts say less than volumes and regions."""

MIN_INTERVAL_DRAWS: Final = 9
"""Fewer draws cannot reach an 80 % interval."""


@dataclass(frozen=True)
class Summary:
    """A scalar of the map and what the draws say of it; None where it is undefined.

    Attributes:
        map: Value in the tumor map.
        median: Median over the draws.
        low80: Lower end of the 80 % interval over the draws.
        high80: Upper end.
        nominal: Coverage that the interval has by construction, below 0.8 for fewer than nine draws.
    """

    map: float | None
    median: float | None
    low80: float | None
    high80: float | None
    nominal: float

    def record(self) -> dict[str, float | None]:
        """Plain JSON values, rounded to 1e-6."""
        return {
            name: None if value is None else round(value, 6)
            for name, value in (
                ("map", self.map), ("median", self.median), ("low80", self.low80),
                ("high80", self.high80), ("nominal", self.nominal),
            )
        }  # fmt: skip


def summarize(map_value: float, draws: NDArray[np.float64]) -> Summary:
    """Summary of a scalar; draws (D,) in which it is NaN (no tumor, no ADC) are left out."""
    value = float(map_value) if np.isfinite(map_value) else None
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[np.isfinite(defined)]
    if defined.size == 0:
        return Summary(value, None, None, None, 0.0)
    low, high, nominal = order_statistic_interval(defined)
    return Summary(value, float(np.median(defined)), low, high, nominal)


@dataclass(frozen=True)
class TumorMap:
    """Tumor-specific ADC of one case on the scanner's grid.

    Attributes:
        tumor_adc: float32 (I, J, K), the scanner's ADC where the probability reaches τ, else 0.
        probability: float32 (I, J, K), mean of the draws.
        draws: uint8 (I, J, K, D), presence of each draw.
        base_probability: float32 (I, J, K) of the deterministic base head.
        affine: (4, 4), bit-equal to the ADC map's.
        tau: Probability from which a voxel is kept.
        lesions: Connected components with their rows.
        tdv_ml: Total diffusion volume.
        gadc: Median ADC of all lesion voxels pooled, 1e-3 mm²/s. The draws' values are those of the draws
            that hold tumor; `empty_draws` says how many do not.
        bands_ml: Volume per ADC band.
        viable_ml: Volume below an ADC of `VIABLE_BELOW`.
        treated_ml: Volume at or above it.
        empty_draws: Share of draws without tumor.
        flags: What a reader of the numbers should know, ``name`` or ``name:value``.
        deterministic: The one draw is the map itself and is not stored.
    """

    tumor_adc: NDArray[np.float32]
    probability: NDArray[np.float32]
    draws: NDArray[np.uint8]
    base_probability: NDArray[np.float32]
    affine: NDArray[np.float64]
    tau: float
    lesions: Lesions
    tdv_ml: Summary
    gadc: Summary
    bands_ml: Mapping[str, Summary]
    viable_ml: Summary
    treated_ml: Summary
    empty_draws: float
    flags: tuple[str, ...]
    deterministic: bool = False

    def volumes(self) -> dict[str, NDArray[np.generic]]:
        """What is stored, by file name."""
        stored: dict[str, NDArray[np.generic]] = {
            files.TUMOR_ADC: self.tumor_adc,
            files.PROBABILITY: self.probability,
            files.DRAWS: self.draws,
            files.BASE_PROBABILITY: self.base_probability,
        }
        if self.deterministic:
            del stored[files.DRAWS]
        return stored

    def record(self) -> dict[str, Any]:
        """The numbers of case.json."""
        return {
            "tdv_ml": self.tdv_ml.record(),
            "gadc": self.gadc.record(),
            "bands": {name: summary.record() for name, summary in self.bands_ml.items()},
            "viable_ml": self.viable_ml.record(),
            "treated_ml": self.treated_ml.record(),
            "empty_draws": round(self.empty_draws, 6),
            "n_lesions": len(self.lesions.rows),
            "tau": self.tau,
            "draws": 0 if self.deterministic else int(self.draws.shape[-1]),
            "flags": list(self.flags),
        }


def usable_voxels(adc: NDArray[np.floating], valid: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Voxels that may be part of a map: valid, and with an ADC that can be trusted; bool (I, J, K).

    `valid` alone is not believed: an ADC that is not finite, not positive or at the storage ceiling is no
    measurement, whatever the mask says.
    """
    return np.asarray(valid, dtype=bool) & validity_mask(adc)


def build_tumor_map(
    adc: NDArray[np.float32],
    valid: NDArray[np.generic],
    affine: NDArray[np.floating],
    draws: NDArray[np.generic],
    base_probability: NDArray[np.floating],
    tau: float,
    flags: tuple[str, ...] = (),
    *,
    values: NDArray[np.floating] | None = None,
    deterministic: bool = False,
) -> TumorMap:
    """Gate the measured ADC with the drawn presence and measure the result.

    A voxel without a valid ADC is part of no map and of no statistic, so draws and probabilities are 0
    there.

    Args:
        adc: float32 (I, J, K), the scanner's map as stored, 1e-3 mm²/s.
        valid: (I, J, K), non-zero where the ADC is valid.
        affine: (4, 4) of the ADC map.
        draws: (I, J, K, D), non-zero where present; at least one draw.
        base_probability: (I, J, K) in [0, 1].
        tau: Probability from which a voxel is kept, in (0, 1].
        flags: Flags known before (missing sequences and the like).
        values: (I, J, K), what stands in the map instead of the measured ADC; such a map is a baseline's, is
            flagged ``synthetic_values``, and is never exported.
        deterministic: The probability is the base head's, and the one draw is its map: no draws are stored.

    Raises:
        ValueError: Shapes differ, there is no draw, or τ is outside (0, 1].
        DiffusionAdcError: A value of the map is not the scanner's.
    """
    adc = np.asarray(adc, dtype=np.float32)
    if draws.ndim != 4 or draws.shape[-1] < 1 or draws.shape[:3] != adc.shape:
        raise ValueError(f"draws of shape {draws.shape} for an ADC map of shape {adc.shape}")
    if np.shape(valid) != adc.shape or np.shape(base_probability) != adc.shape:
        raise ValueError("valid, base probability and ADC map must have one shape")
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"a threshold of {tau}; expected one in (0, 1]")
    usable = usable_voxels(adc, valid)
    presence_draws = ((np.asarray(draws) != 0) & usable[..., None]).astype(np.uint8)
    count = presence_draws.shape[-1]
    if deterministic:
        probability = np.where(usable, base_probability, 0).astype(np.float32)
        presence_draws = (usable & (probability >= np.float32(tau)))[..., None].astype(np.uint8)
    else:
        probability = presence_draws.sum(axis=-1, dtype=np.float32) / np.float32(count)
    presence = usable & (probability >= np.float32(tau))
    if values is None:
        tumor_adc = np.where(presence, adc, np.float32(0))
        check_selection(tumor_adc, adc)
    else:
        adc = np.asarray(values, dtype=np.float32)
        tumor_adc = np.where(presence, adc, np.float32(0))
        flags = (*flags, "synthetic_values")
    lesions = lesion_table(presence, presence_draws, adc, affine)
    numbers = _numbers(adc, presence, presence_draws, voxel_volume_ml(np.asarray(affine, dtype=np.float64)))
    empty = float(np.mean(np.isnan(numbers["gadc"][1])))
    return TumorMap(
        tumor_adc=tumor_adc,
        probability=probability,
        draws=presence_draws,
        base_probability=np.where(usable, base_probability, 0).astype(np.float32),
        affine=np.asarray(affine, dtype=np.float64),
        tau=float(tau),
        lesions=lesions,
        tdv_ml=summarize(*numbers["tdv"]),
        gadc=summarize(*numbers["gadc"]),
        bands_ml={band_name(*band): summarize(*numbers[band_name(*band)]) for band in BANDS},
        viable_ml=summarize(*numbers["viable"]),
        treated_ml=summarize(*numbers["treated"]),
        empty_draws=empty,
        flags=flags
        + (_flags(lesions, 0.0, MIN_INTERVAL_DRAWS) if deterministic else _flags(lesions, empty, count)),
        deterministic=deterministic,
    )


def check_selection(tumor_adc: NDArray[np.float32], adc: NDArray[np.float32]) -> None:
    """Every voxel of a map is 0 or the scanner's ADC, bit for bit; NaN and -0 are neither.

    Raises:
        DiffusionAdcError: Otherwise.
    """
    bits, measured = (np.ascontiguousarray(a, dtype=np.float32).view(np.uint32) for a in (tumor_adc, adc))
    wrong = int(np.count_nonzero((bits != 0) & ((bits != measured) | ~np.isfinite(tumor_adc))))
    if wrong:
        raise DiffusionAdcError(
            f"{wrong} voxels of a tumor map are not the scanner's ADC", "0", "do not use this map; report it"
        )


def band_name(low: float, high: float) -> str:
    """Name of an ADC band in files and tables: ``0.4-0.9``."""
    return f"{low:g}-{high:g}"


def _numbers(
    adc: NDArray[np.float32], presence: NDArray[np.bool_], draws: NDArray[np.uint8], voxel_ml: float
) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """Each scalar of the map and of the draws (D,), by name."""
    # Few voxels are ever present: everything below runs on those alone.
    near = draws.any(axis=-1) | presence
    values, drawn, kept = adc[near].astype(np.float64), draws[near] != 0, presence[near]
    ranges: dict[str, tuple[float, float]] = {band_name(*band): band for band in BANDS}
    ranges |= {"tdv": (-np.inf, np.inf), "viable": (-np.inf, VIABLE_BELOW), "treated": (VIABLE_BELOW, np.inf)}
    numbers: dict[str, tuple[float, NDArray[np.float64]]] = {}
    for name, (low, high) in ranges.items():
        inside = (values >= low) & (values < high)
        numbers[name] = (
            float(np.count_nonzero(kept & inside)) * voxel_ml,
            (drawn & inside[:, None]).sum(axis=0).astype(np.float64) * voxel_ml,
        )
    medians = [_median(values[drawn[:, k]]) for k in range(draws.shape[-1])]
    numbers["gadc"] = (_median(values[kept]), np.asarray(medians, dtype=np.float64))
    return numbers


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if values.size else float("nan")


def _flags(lesions: Lesions, empty_draws: float, count: int) -> tuple[str, ...]:
    small = int(np.count_nonzero(lesions.voxels < PARTIAL_VOLUME_VOXELS))
    number = len(lesions.rows)
    found = (
        (count < MIN_INTERVAL_DRAWS, f"few_draws:{count}"),
        (number == 0, "empty_map"),
        (empty_draws > 0, f"empty_draws:{empty_draws:.2f}"),
        (small > 0, f"partial_volume:{small}"),
        (number > CONFLUENT_LESIONS, f"confluent:{number}"),
    )
    return tuple(flag for condition, flag in found if condition)
