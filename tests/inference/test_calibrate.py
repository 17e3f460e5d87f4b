"""Validation cases are parted: some fix the thresholds, the others recalibrate, and maps carry both intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_adc.inference.calibrate import FILE, fit_thresholds, read_calibration
from diffusion_adc.inference.conformal import halves
from diffusion_adc.inference.draw import draw_cohort
from diffusion_adc.inference.native import draw_native
from diffusion_adc.inference.run import load_run
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.maps import map_case_ids, read_map_record, read_maps_manifest


@pytest.mark.slow
def test_recalibration_comes_from_cases_that_fixed_no_threshold(
    make_run: Callable[..., Path],
    make_cohort: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohort_dir = make_cohort("many", shape=(20, 18, 3), splits="T" + "V" * 14 + "E")
    run = load_run(make_run("run", cohort_dir))
    cohort = read_cohort(cohort_dir)
    first, second = halves(sorted(cohort.split("val"), key=lambda case: case.case_id))
    seen: list[str] = []

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(args[3].case_id)
        return draw_native(*args, **options)

    monkeypatch.setattr("diffusion_adc.inference.calibrate.draw_native", watched)
    steps: list[tuple[int, int]] = []
    calibration = fit_thresholds(run, cohort_dir, lambda *n: steps.append(n))
    assert seen == [case.case_id for case in (*first, *second)]
    assert steps == [(n, 14) for n in range(1, 15)]
    assert (calibration.cases, calibration.recalibration_cases) == (7, 7)
    for fit in (calibration.recalibration, calibration.base_recalibration):
        assert fit.tdv is not None
        assert fit.tdv.cases == 7
    assert read_calibration(run) == calibration
    assert json.loads((run.path / FILE).read_text()) == calibration.record()

    out = draw_cohort(run.path, cohort_dir, tmp_path / "maps")
    assert read_maps_manifest(out)["calibration"] == calibration.record()
    record = read_map_record(out, map_case_ids(out)[0])
    tdv = record["tdv_ml"]
    assert record["recalibrated"]["tdv_ml"] == pytest.approx(
        calibration.recalibration.tdv.around(tdv["low80"], tdv["high80"]), abs=1e-5
    )
    # A run calibrated before there was a recalibration keeps its thresholds.
    old = {k: v for k, v in calibration.record().items() if "recalibration" not in k}
    (run.path / FILE).write_text(json.dumps(old))
    kept = read_calibration(run)
    assert kept is not None
    assert (kept.tau, kept.recalibration.tdv, kept.recalibration_cases) == (calibration.tau, None, 0)
    (run.path / FILE).write_text(json.dumps({**old, "recalibration": {"tdv": {"no": 1}}}))
    assert read_calibration(run) is None
