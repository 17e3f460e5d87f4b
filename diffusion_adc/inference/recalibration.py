"""What the second half of the validation cases mends: intervals, lesion probabilities, a threshold that keeps a promise.

Every method gets the same: the flow from its draws, the base head and any rival without draws from its point forecast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_adc.inference.conformal import Forecast, IntervalFit, controlled_threshold, fit_interval
from diffusion_adc.inference.lesion_probability import PlattFit, RegionOutcomes, fit_platt, region_outcomes
from diffusion_adc.inference.lesions import connected_components
from diffusion_adc.inference.tumor_map import Summary, TumorMap


@dataclass(frozen=True)
class Recalibration:
    """Fitted corrections of one method; each None where the validation cases were too few.

    Attributes:
        tdv: 80 % interval of the total diffusion volume.
        gadc: 80 % interval of the global ADC.
        lesion: Probability that a region of the map meets a reader's lesion.
        recall_threshold: Probability that a lesion's peak must reach, so that no more than `MISS_RATE` are missed.
        recall_missed: Share missed there on the validation cases that fixed it.
    """

    tdv: IntervalFit | None = None
    gadc: IntervalFit | None = None
    lesion: PlattFit | None = None
    recall_threshold: float | None = None
    recall_missed: float | None = None

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def of_map(self, tumor_map: TumorMap) -> dict[str, Any]:
        """What a map's case.json says beside its raw intervals; None where nothing was fitted.

        ``tdv_ml`` and ``gadc``: ends of the recalibrated 80 % interval; ``lesions``: probability of each row of lesions.csv
        that it meets a reader's lesion.
        """

        def interval(fit: IntervalFit | None, s: Summary) -> list[float] | None:
            if fit is None or s.low80 is None or s.high80 is None:
                return None
            return [round(end, 6) for end in fit.around(s.low80, s.high80)]

        stated = np.array([float(row["probability"]) for row in tumor_map.lesions.rows])
        return {
            "tdv_ml": interval(self.tdv, tumor_map.tdv_ml),
            "gadc": interval(self.gadc, tumor_map.gadc),
            "lesions": None if self.lesion is None else [round(float(p), 6) for p in self.lesion(stated)],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Recalibration:
        """From `record`; empty where there is none.

        Raises:
            KeyError, TypeError, ValueError: It is no such record.
        """
        if not record:
            return cls()
        tdv, gadc, lesion = (record.get(name) for name in ("tdv", "gadc", "lesion"))
        threshold, missed = record.get("recall_threshold"), record.get("recall_missed")
        return cls(
            tdv=None if tdv is None else IntervalFit(**tdv),
            gadc=None if gadc is None else IntervalFit(**gadc),
            lesion=None if lesion is None else PlattFit(**lesion),
            recall_threshold=None if threshold is None else float(threshold),
            recall_missed=None if missed is None else float(missed),
        )


@dataclass(frozen=True)
class Forecasts:
    """What one case says of its scalars, and what readers found: TDV in mL, global ADC in 1e-3 mm²/s."""

    tdv: Forecast
    gadc: Forecast

    @classmethod
    def of(
        cls,
        draws: NDArray[np.bool_],
        values: NDArray[np.floating],
        readings: Sequence[NDArray[np.bool_]],
        adc: NDArray[np.floating],
        voxel_ml: float,
    ) -> Forecasts:
        """From the draws of some voxels (V, D), or the map alone (V, 1), and their ADC (V,).

        Args:
            draws: True where present.
            values: ADC of those voxels.
            readings: Presence (I, J, K) of each reader in usable voxels.
            adc: (I, J, K).
            voxel_ml: Volume of a voxel.
        """
        medians = [np.median(adc[r].astype(np.float64)) if r.any() else np.nan for r in readings]
        volumes = [float(np.count_nonzero(r)) * voxel_ml for r in readings]
        empty = np.zeros(0)
        return cls(Forecast(empty, np.array(volumes)), Forecast(empty, np.array(medians))).with_draws(
            draws, values, voxel_ml
        )

    def with_draws(
        self, draws: NDArray[np.bool_], values: NDArray[np.floating], voxel_ml: float
    ) -> Forecasts:
        """The same readings against other draws (V, D) of voxels with an ADC of (V,)."""
        near = draws.any(axis=1)
        said, inside = draws[near], values[near].astype(np.float64)
        medians = np.array([np.median(inside[d]) if d.any() else np.nan for d in said.T])
        volumes = said.sum(axis=0).astype(np.float64) * voxel_ml
        return Forecasts(Forecast(volumes, self.tdv.readings), Forecast(medians, self.gadc.readings))


@dataclass(frozen=True)
class Evidence:
    """What one validation case of the second half says about a method.

    Attributes:
        forecasts: Of its scalars.
        regions: The map's regions.
        peaks: Per reader, the highest probability inside each lesion.
    """

    forecasts: Forecasts
    regions: RegionOutcomes
    peaks: list[NDArray[np.float64]]

    @classmethod
    def of(
        cls,
        probability: NDArray[np.floating],
        presence: NDArray[np.bool_],
        draws: NDArray[np.generic] | None,
        readings: Sequence[NDArray[np.bool_]],
        adc: NDArray[np.floating],
        voxel_ml: float,
    ) -> Evidence:
        """Measure a case; arrays (I, J, K) without unusable voxels, draws (I, J, K, D) or None.

        Args:
            probability: In [0, 1], 0 in unusable voxels.
            presence: The map at its threshold.
            draws: Non-zero where present; None: the map is a point forecast.
            readings: Presence of each reader.
            adc: 1e-3 mm²/s.
            voxel_ml: Volume of a voxel.
        """
        drawn = presence[..., None] if draws is None else draws != 0
        near = drawn.any(axis=-1)
        labels = connected_components(presence)
        return cls(
            forecasts=Forecasts.of(drawn[near], adc[near], readings, adc, voxel_ml),
            regions=region_outcomes(
                labels, int(labels.max(initial=0)), readings, None if draws is None else drawn, probability
            ),
            peaks=[_peaks(probability, reading) for reading in readings],
        )


def _peaks(probability: NDArray[np.floating], reading: NDArray[np.bool_]) -> NDArray[np.float64]:
    labels = connected_components(reading)
    peaks = np.zeros(int(labels.max(initial=0)))
    inside = labels > 0
    np.maximum.at(peaks, labels[inside] - 1, probability[inside].astype(np.float64))
    return peaks


def fit_recalibration(
    first: Sequence[Forecasts], second: Sequence[Evidence], levels: ArrayLike
) -> Recalibration:
    """Fit everything for one method.

    Args:
        first: Cases that fixed the thresholds; they place the line of the intervals.
        second: Cases that did not.
        levels: (M,) ascending candidates of the recall threshold, probabilities.
    """
    controlled = controlled_threshold([case.peaks for case in second], levels)
    return Recalibration(
        tdv=fit_interval([case.tdv for case in first], [case.forecasts.tdv for case in second]),
        gadc=fit_interval(
            [case.gadc for case in first], [case.forecasts.gadc for case in second], ("linear",)
        ),
        lesion=fit_platt([case.regions for case in second]),
        recall_threshold=None if controlled is None else controlled[0],
        recall_missed=None if controlled is None else controlled[1],
    )
