"""Recalibrated intervals and the controlled miss rate keep their promise on simulated cases; halves are disjoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.case import Case
from diffusion_adc.inference.conformal import (
    MIN_PERSONS,
    Forecast,
    IntervalFit,
    controlled_threshold,
    fit_interval,
    halves,
)
from diffusion_adc.inference.intervals import order_statistic_interval


def forecasts(rng: np.random.Generator, n: int, k: int = 9, tumor: float = 0.6) -> list[Forecast]:
    """Cases whose draws are too large by 1 mL and far too narrow; a share of them free of tumor; two readers."""
    made = []
    for _ in range(n):
        size = rng.lognormal(1.5, 0.8) if rng.random() < tumor else 0.0
        readings = np.maximum(0.0, size * rng.lognormal(0.0, 0.3, 2)) if size else np.zeros(2)
        draws = np.maximum(0.0, size * rng.lognormal(0.0, 0.3) + 1.0 + rng.normal(0, 0.1 + 0.05 * size, k))
        made.append(Forecast(draws, readings))
    return made


def covered(fit: IntervalFit, cases: list[Forecast]) -> tuple[float, float]:
    hits, widths = [], []
    for case in cases:
        low, high = fit.interval(case.draws)
        hits.append(np.mean((case.readings >= low - 1e-9) & (case.readings <= high + 1e-9)))
        widths.append(high - low)
    return float(np.mean(hits)), float(np.mean(widths))


def raw(case: Forecast) -> float:
    low, high, _ = order_statistic_interval(case.draws)
    return float(np.mean((case.readings >= low) & (case.readings <= high)))


@pytest.mark.parametrize("k", [9, 1])
def test_recalibrated_intervals_cover_80_percent(k: int) -> None:
    rng = np.random.default_rng(0)
    found, widths = [], []
    for _ in range(25):
        fit = fit_interval(forecasts(rng, 25, k), forecasts(rng, 25, k))
        assert fit is not None
        assert fit.cases == 25
        coverage, width = covered(fit, forecasts(rng, 60, k))
        found.append(coverage)
        widths.append(width)
    # Exchangeable cases: at least 80 % on average, at most one case in 26 more; 25 repetitions of 60 cases.
    assert 0.78 < np.mean(found) < 0.80 + 1 / 26 + 0.02
    if k > 1:
        assert np.mean([raw(case) for case in forecasts(rng, 400)]) < 0.45


@pytest.mark.slow
def test_a_hopeless_model_is_covered_too_only_wider() -> None:
    rng = np.random.default_rng(1)

    def noise(n: int) -> list[Forecast]:
        return [Forecast(rng.uniform(0, 1, 9), rng.lognormal(1.5, 0.8, 1)) for _ in range(n)]

    fit = fit_interval(noise(200), noise(200))
    good = fit_interval(forecasts(rng, 200, tumor=1.0), forecasts(rng, 200, tumor=1.0))
    assert fit is not None
    assert good is not None
    coverage, width = covered(fit, noise(2000))
    assert coverage == pytest.approx(0.8, abs=0.07)
    assert width > 1.3 * covered(good, forecasts(rng, 500, tumor=1.0))[1]


def test_margin_is_the_conformal_quantile() -> None:
    # Nine cases with one reader: the ceil(0.8 · 10) = 8th smallest score.
    scores = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0, 7.0]
    second = [Forecast(np.array([10.0]), np.array([10.0 + s])) for s in scores]
    fit = fit_interval([], second)
    assert fit == IntervalFit("linear", 0.0, 7.0, 9)
    assert fit.interval([10.0]) == (3.0, 17.0)
    assert fit.interval([2.0]) == (0.0, 9.0)  # a volume ends at 0
    assert fit_interval([], second[:3]) is None  # four cases are needed for 80 %
    assert fit_interval([], []) is None
    undefined = [Forecast(np.array([np.nan]), np.array([1.0])), Forecast(np.array([1.0]), np.array([np.nan]))]
    assert fit_interval(undefined * 8, second + undefined) == fit
    assert np.isnan(fit.interval([np.nan])).all()


def test_the_first_half_gives_shift_and_scale() -> None:
    rng = np.random.default_rng(2)
    biased = [
        Forecast(np.array([v + 2.0]), np.array([v + rng.normal(0, 0.1)])) for v in rng.uniform(5, 50, 40)
    ]
    fit = fit_interval(biased[:20], biased[20:])
    assert fit is not None
    assert fit.scale == "linear"
    assert fit.shift == pytest.approx(-2.0, abs=0.1)
    ratio = [
        Forecast(np.array([v * 1.5]), np.array([v * rng.lognormal(0, 0.1)]))
        for v in rng.lognormal(2, 1.2, 80)
    ]
    fit = fit_interval(ratio[:40], ratio[40:])
    assert fit is not None
    assert fit.scale == "log"


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["linear", "sqrt", "log"]), st.floats(-5, 5), st.floats(-2, 5), st.lists(st.floats(0, 1e3), min_size=1, max_size=19),
)  # fmt: skip
def test_an_interval_is_one(scale: str, shift: float, margin: float, draws: list[float]) -> None:
    low, high = IntervalFit(scale, shift, margin, 5).interval(draws)
    assert 0.0 <= low <= high < np.inf


def cases(n: int, tumor_free: int = 3) -> list[Case]:
    return [
        Case(
            f"SIM-{person:05d}", exam, split="val", provenance="synthetic", b_low=50, b_high=900, anatomy="pelvis",
            tumor_status="absent" if person < tumor_free else "present",
        )
        for person in range(n)
        for exam in (1, 2)
    ]  # fmt: skip


def test_halves_share_no_person_and_do_not_depend_on_order() -> None:
    all_cases = cases(31, tumor_free=9)
    first, second = halves(all_cases)
    people = [{case.research_id for case in part} for part in (first, second)]
    assert not people[0] & people[1]
    assert len(first) + len(second) == 62
    assert abs(len(people[0]) - len(people[1])) <= 1
    free = [sum(case.tumor_status == "absent" for case in part) for part in (first, second)]
    assert abs(free[0] - free[1]) <= 2
    again = halves(all_cases[::-1])
    assert [{c.case_id for c in part} for part in again] == [
        {c.case_id for c in part} for part in (first, second)
    ]
    few = cases(MIN_PERSONS - 1)
    assert halves(few) == (few, [])


def test_the_miss_rate_is_controlled() -> None:
    rng = np.random.default_rng(3)
    levels = (np.arange(1, 20) - 0.5) / 19

    def peaks(n: int) -> list[list[np.ndarray]]:
        return [[rng.beta(4, 1, rng.integers(0, 6)) for _ in range(2)] for _ in range(n)]

    risks = []
    for _ in range(30):
        found = controlled_threshold(peaks(60), levels)
        assert found is not None
        missed = [
            np.mean([np.mean(r < found[0]) for r in case if r.size])
            for case in peaks(80)
            if any(r.size for r in case)
        ]
        risks.append(np.mean(missed))
    assert np.mean(risks) <= 0.10
    assert np.mean(risks) > 0.03  # and not by calling everything a lesion


def test_the_miss_rate_by_hand() -> None:
    levels = [0.1, 0.3, 0.5, 0.7]
    one = [[np.array([0.2, 0.6])], [np.array([0.6])], [np.zeros(0)]]
    # n = 2 cases with lesions: (2R + 1)/3 ≤ α; R = 0, 1/4, 1/4, 1 at the four levels.
    assert controlled_threshold(one, levels, 0.34) == (0.1, 0.0)
    assert controlled_threshold(one, levels, 0.5) == (0.5, 0.25)
    assert controlled_threshold(one, levels, 1.0) == (0.7, 1.0)
    assert controlled_threshold(one, levels, 0.3) is None  # two cases can promise no better than a third
    assert controlled_threshold([[np.zeros(0)]], levels) is None
