"""Registration on real pelvic examinations: it improves what the header says, and finds a shift that was added."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake import plan, register, work
from diffusion_adc.intake.nifti import Loaded
from diffusion_adc.intake.options import IngestOptions

REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (REAL / "prostatex").is_dir(),
        reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder",
    ),
]
SHIFT_MM = (3.0, 3.0, 6.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Loaded, Loaded, Loaded]]:
    """T2w as acquired, the ADC map and the low-b image of each examination."""
    options = IngestOptions(
        layout="dicom", allow_missing=("t1w", "tumor_label"), provenance="public", register="rigid"
    )
    taken: list[tuple[str, Loaded, Loaded, Loaded]] = []
    kept = register.to_adc_grid

    def seen(
        moving: Loaded, adc: Loaded, kind: str, research_id: str, name: str, reference: Any = None
    ) -> Any:
        taken.append((research_id, moving, adc, reference))
        return kept(moving, adc, register.NONE, research_id, name, reference)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "to_adc_grid", seen)
        for task in plan.plan_tasks(REAL / "prostatex", "dicom", options, set()).tasks:
            work.do(task, tmp_path_factory.mktemp("staged"), options)
    return {name: (moving, adc, low) for name, moving, adc, low in taken}


@pytest.mark.parametrize("name", ["ProstateX-0000", "ProstateX-0001"])
def test_a_real_examination_is_registered(name: str, pairs: dict[str, tuple[Loaded, Loaded, Loaded]]) -> None:
    moving, adc, low = pairs[name]
    begin = time.process_time()
    _, record = register.to_adc_grid(moving, adc, "rigid", name, seq.T2W, low)
    seconds = time.process_time() - begin
    print(
        f"{name}: {record['metric_before']:.3f} to {record['metric_after']:.3f} nats, {record['motion_mm']} mm, {seconds:.1f} s"
    )
    assert record["flags"] == []
    assert record["metric_after"] > record["metric_before"]
    assert record["motion_mm"] < 10
    assert seconds < 30
    shift = np.eye(4)
    shift[:3, 3] = SHIFT_MM
    _, moved = register.to_adc_grid(
        replace(moving, affine=shift @ moving.affine), adc, "rigid", name, seq.T2W, low
    )
    # The same anatomy must be found at the same place, wherever the header puts it.
    there = np.linalg.inv(shift) @ np.array(moved["transform"])
    difference = np.linalg.inv(np.array(record["transform"])) @ there
    error = register._motion_mm(difference, adc)
    print(f"{name}: a shift of {np.linalg.norm(SHIFT_MM):.1f} mm found to {error:.1f} mm")
    assert moved["flags"] == []
    assert error < 4.5
