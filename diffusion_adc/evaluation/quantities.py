"""Surfaces, volumes and ADC of a method over all cases: errors, biases with limits of agreement, correlations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import agreement
from diffusion_adc.evaluation.association import Moments
from diffusion_adc.evaluation.bootstrap import Bootstrap, Estimate
from diffusion_adc.evaluation.case import CaseResult
from diffusion_adc.inference.threshold import TDV_OFFSET_ML
from diffusion_adc.inference.tumor_map import BANDS, band_name

HISTOGRAM: Final = ("mean", "sd", "p10", "p25", "p75", "p90", "entropy")
"""Histogram statistics whose errors are scored; skewness and kurtosis repeat badly and are only tabulated."""

_AGREEMENT: Final = ("bias", "loa_low", "loa_high", "icc", "ccc", "deming_slope")

KEYS: Final[dict[str, str]] = {
    "nsd_1voxel": "",
    "hd95": "mm",
    "hd95_worst": "mm",
    "hd95_missing": "cases",
    "assd": "mm",
    "tdv_error_ml": "mL",
    "log_tdv_error_median": "",
    "log_tdv_error_consensus_median": "",
    "log_tdv_error_draws_median": "",
    "gadc_error_median": "%",
    "gadc_error_consensus_median": "%",
    "gadc_selection_error": "%",
    "gadc_value_error": "%",
    "value_error": "1e-3 mm²/s",
    **{f"tdv_log_{name}": "" for name in _AGREEMENT},
    **{f"gadc_{name}": "" for name in _AGREEMENT},
    **{f"band_{band_name(*band)}_error_ml": "mL" for band in BANDS},
    **{f"adc_{name}_error": "bits" if name == "entropy" else "1e-3 mm²/s" for name in HISTOGRAM},
    "repeat_cov_tdv": "%",
    "repeat_cov_tdv_reference": "%",
}
"""Unit by key.

- ``nsd_1voxel``, ``hd95``, ``assd``: mean over cases; HD95 and ASSD where map and reading both hold tumor, the others are
  counted by ``hd95_missing`` and enter ``hd95_worst`` with the volume's diagonal.
- ``…_median``: median over cases of the error against each reader; ``…_consensus_median``: against the readers' mean TDV
  or mean global ADC, their consensus; ``log_tdv_error_draws_median``: of the draws' median TDV against the consensus.
- ``gadc_selection_error``, ``gadc_value_error``: the two parts of a global ADC error (`values.gadc_error_parts`).
- ``tdv_log_…``: Bland–Altman bias and limits of agreement of ln(TDV + 0.1 mL), ICC(2,1), Lin's CCC and Deming slope
  against the consensus; ``gadc_…`` alike, in 1e-3 mm²/s.
- ``band_…_error_ml``, ``adc_…_error``: mean absolute error of band volumes and histogram statistics.
- ``repeat_cov_tdv``: within-person coefficient of variation of TDV between two examinations of one person, true change
  included; the readers' own stands beside it.
"""


def quantity_scores(results: Sequence[CaseResult | None], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Every score of `KEYS` with its replicates."""

    def column(value: Callable[[CaseResult], float]) -> NDArray[np.float64]:
        return np.array([np.nan if r is None else float(value(r)) for r in results], dtype=np.float64)

    tdv, tdv_reference = column(lambda r: r.tdv_ml), column(lambda r: r.tdv_reference_ml)
    gadc, gadc_reference = column(lambda r: r.gadc), column(lambda r: r.gadc_reference)
    hd95, worst = column(lambda r: r.surface.hd95), column(lambda r: r.surface.hd95_worst)
    consensus_log = np.abs(_log(tdv) - _log(tdv_reference))
    scores = {
        "nsd_1voxel": bootstrap.mean(column(lambda r: r.surface.nsd)),
        "hd95": bootstrap.mean(hd95),
        "hd95_worst": bootstrap.mean(worst),
        "hd95_missing": bootstrap.total((np.isnan(hd95) & np.isfinite(worst)).astype(np.float64)),
        "assd": bootstrap.mean(column(lambda r: r.surface.assd)),
        "tdv_error_ml": bootstrap.mean(column(lambda r: r.tdv_error_ml)),
        "log_tdv_error_median": bootstrap.median(column(lambda r: r.log_tdv_error)),
        "log_tdv_error_consensus_median": bootstrap.median(consensus_log),
        "log_tdv_error_draws_median": bootstrap.median(
            np.abs(
                _log(column(lambda r: np.nan if r.draws is None else r.draws.median)) - _log(tdv_reference)
            )
        ),
        "gadc_error_median": bootstrap.median(column(lambda r: r.gadc_error)),
        "gadc_error_consensus_median": bootstrap.median(
            column(lambda r: agreement.gadc_error(r.gadc, r.gadc_reference))
        ),
        "gadc_selection_error": bootstrap.mean(column(lambda r: r.gadc_selection_error)),
        "gadc_value_error": bootstrap.mean(column(lambda r: r.gadc_value_error)),
        "value_error": bootstrap.mean(column(lambda r: r.value_error)),
    }
    scores |= _agreement("tdv_log_", _log(tdv), _log(tdv_reference), bootstrap)
    scores |= _agreement("gadc_", gadc, gadc_reference, bootstrap)
    for band in (band_name(*band) for band in BANDS):
        scores[f"band_{band}_error_ml"] = bootstrap.mean(column(_band_error(band)))
    for name in HISTOGRAM:
        own = column(_statistic(name))
        readers = column(_reader_statistic(name))
        scores[f"adc_{name}_error"] = bootstrap.mean(np.abs(own - readers))
    repeat = _repeat_variation(results, tdv)
    if np.isfinite(repeat).any():
        for key, squared in (
            ("repeat_cov_tdv", bootstrap.mean(repeat)),
            ("repeat_cov_tdv_reference", bootstrap.mean(_repeat_variation(results, tdv_reference))),
        ):
            scores[key] = Estimate(100.0 * np.sqrt(squared.value), 100.0 * np.sqrt(squared.replicates))
    return scores


def _band_error(band: str) -> Callable[[CaseResult], float]:
    return lambda result: result.bands_error_ml[band]


def _statistic(name: str) -> Callable[[CaseResult], float]:
    return lambda result: result.histogram[name]


def _reader_statistic(name: str) -> Callable[[CaseResult], float]:
    return lambda result: result.histogram_reference[name]


def _log(tdv: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(tdv + TDV_OFFSET_ML)


def _agreement(
    prefix: str, own: NDArray[np.float64], readers: NDArray[np.float64], bootstrap: Bootstrap
) -> dict[str, Estimate]:
    moments = Moments.of(own, readers, bootstrap.weights)
    low, high = moments.limits_of_agreement()
    found = (moments.bias, low, high, moments.icc21(), moments.ccc(), moments.deming_slope())
    return {prefix + name: bootstrap.estimate(value) for name, value in zip(_AGREEMENT, found, strict=True)}


def _repeat_variation(
    results: Sequence[CaseResult | None], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared coefficient of variation between a person's first two cases, at the first one's place; else NaN."""
    out = np.full(len(results), np.nan)
    places: dict[str, list[int]] = {}
    for n, result in enumerate(results):
        if result is not None and np.isfinite(values[n]):
            places.setdefault(result.research_id, []).append(n)
    for first, *others in places.values():
        if others:
            a, b = values[first], values[others[0]]
            out[first] = 2.0 * (a - b) ** 2 / (a + b) ** 2 if a + b > 0 else np.nan
    return out
