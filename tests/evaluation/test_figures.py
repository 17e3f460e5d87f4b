"""Pictures hold what they should, also of cases without draws, without tumor and without anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.evaluation.case import CaseResult, score_case
from diffusion_adc.evaluation.figures import (
    bland_altman_figure,
    froc_figure,
    nfe_figure,
    pit_figure,
    reliability_figure,
    save_figure,
)


@pytest.fixture(scope="module")
def results(make_case: Any) -> list[CaseResult]:
    made = []
    for seed in range(8):
        reference, prediction = make_case(seed, tumor=seed % 4 != 3)
        made.append(score_case(prediction, reference, (0.3, 0.7)))
    return made


def test_froc_ends_at_the_sensitivity_of_all_candidates(results: list[CaseResult]) -> None:
    (axis,) = froc_figure({"presence flow": results}).axes
    lesions = sum(r.matching.found.size for r in results)
    curve, point = axis.lines
    assert curve.get_ydata()[-1] == pytest.approx(sum(r.found_confidence.size for r in results) / lesions)
    assert np.all(np.diff(curve.get_ydata()) >= 0)
    assert point.get_ydata()[0] == pytest.approx(sum(r.matching.hits for r in results) / lesions)


def test_bland_altman_shows_every_case_and_its_limits(results: list[CaseResult]) -> None:
    left, right = bland_altman_figure(results).axes
    assert sum(len(c.get_offsets()) for c in left.collections) == len(results)
    d = np.array([np.log((r.tdv_ml + 0.1) / (r.tdv_reference_ml + 0.1)) for r in results])
    heights = sorted(float(line.get_ydata()[0]) for line in left.lines)
    expected = sorted([0.0, d.mean(), d.mean() - 1.96 * d.std(ddof=1), d.mean() + 1.96 * d.std(ddof=1)])
    assert heights == pytest.approx(expected)
    assert sum(len(c.get_offsets()) for c in right.collections) == sum(
        np.isfinite([r.gadc, r.gadc_reference]).all() for r in results
    )


def test_pit_counts_one_reader_per_case(results: list[CaseResult]) -> None:
    (axis,) = pit_figure({"presence flow": results}).axes
    assert sum(patch.get_height() for patch in axis.patches[:10]) == len(results)


@pytest.mark.slow
def test_pictures_of_nothing_are_still_pictures(results: list[CaseResult], tmp_path: Path) -> None:
    (axis,) = froc_figure({"presence flow": []}).axes
    assert not axis.lines
    assert bland_altman_figure([]).axes
    assert reliability_figure({}, [], None).axes
    before, after = reliability_figure({"B3 base head": results}, results, lambda p: p / 2).axes
    assert before.collections
    assert len(after.collections) == 2
    points = [(1, 2.0, 1.8, 2.3), (4, 1.5, None, None)]
    figure = nfe_figure({"TDV CRPS (mL)": {"B8": points, "B7": points[:1]}})
    path = save_figure(figure, tmp_path / "deep" / "nfe.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
