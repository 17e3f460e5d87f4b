"""Tissues of known ADC in digital patients: found where they are, with the ADC that they have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake import organs
from diffusion_adc.intake.quality import body_mask
from diffusion_adc.records.cohort import load_volume, read_cohort

pytestmark = pytest.mark.security


def test_organs_of_digital_patients(phantom_cohort: Path, figure: Callable[[str, Any], None]) -> None:
    truth = phantom_cohort.with_name(f"{phantom_cohort.name}.truth")
    names = json.loads((truth / "truth.json").read_text())["organ_names"]
    errors: dict[str, list[float]] = {organs.MUSCLE: [], organs.URINE: []}
    doubts = 0
    cases = read_cohort(phantom_cohort).cases
    for case in cases:
        volumes = {
            name: load_volume(phantom_cohort, case, name)
            for name in (*seq.SEQUENCES, seq.VALID)
            if name in case.files
        }
        arrays = {name: volume.array for name, volume in volumes.items()}
        adc, affine = arrays[seq.ADC].astype(np.float32), volumes[seq.ADC].affine
        use = (arrays[seq.VALID] > 0) & body_mask(
            {name: arrays[name] for name in arrays if name != seq.VALID}
        )
        label = np.load(truth / case.case_id / "truth.npz")["organ_label"]
        found = organs.find_organs(case.anatomy, adc, arrays, use, affine)
        for organ in found:
            number = next(int(key) for key, name in names.items() if name == organ.name)
            errors[organ.name].append(abs(organ.adc - float(np.median(adc[use & (label == number)]))))
        doubts += bool(organs.doubtful(found))
        assert organs.find_organs("unknown", adc, arrays, use, affine) == ()
    muscle, urine = errors[organs.MUSCLE], errors[organs.URINE]
    text = f"muscle in {len(muscle)}, urine in {len(urine)} of {len(cases)}"
    worst = max([*muscle, *urine])
    figure("organs of digital patients", f"{text}; worst error {worst:.3f}e-3 mm²/s; {doubts} doubted")
    assert len(muscle) == len(cases)
    assert max(muscle) < 0.1
    # Where an artifact crosses the bladder, the even region that is found lies beside it: the truth's median does not.
    assert len(urine) >= 0.5 * len(cases)
    assert sum(error < 0.1 for error in urine) >= 0.9 * len(urine)
    assert doubts <= 0.1 * len(cases)
