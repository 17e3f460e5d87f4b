"""The phantom is hard in the right way: a threshold rule finds the tumors and drowns them in false positives."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.rule import clinical_rule
from diffusion_adc.phantom.case import simulate_case
from diffusion_adc.phantom.options import PhantomOptions

UNSEEN_SEED = 90_001
"""No experiment uses it."""


def rule_on(options: PhantomOptions) -> dict[str, float]:
    """Pooled volumes in mL over a cohort, and the share of tumor-free cases."""
    total = {"untreated": 0.0, "hit": 0.0, "tumor": 0.0, "false": 0.0, "free": 0.0}
    for index in range(options.cases):
        case = simulate_case(options, index)
        volumes, truth = case.volumes, case.truth
        found = clinical_rule(
            np.asarray(volumes[seq.DWI_HIGH]),
            np.asarray(volumes[seq.ADC]),
            np.asarray(volumes[seq.VALID], dtype=bool),
        )
        numbers = [lesion.number for lesion in truth.lesions if lesion.kind == "untreated"]
        untreated, tumor = np.isin(truth.lesion_label, numbers), truth.lesion_label > 0
        total["untreated"] += untreated.sum() * truth.voxel_ml
        total["hit"] += (found & untreated).sum() * truth.voxel_ml
        total["tumor"] += tumor.sum() * truth.voxel_ml
        total["false"] += (found & ~tumor).sum() * truth.voxel_ml
        total["free"] += float(not tumor.any()) / options.cases
    return total


@pytest.mark.parametrize(
    "options",
    [
        PhantomOptions(cases=40, seed=UNSEEN_SEED, size=(160, 160, 20)),
        pytest.param(PhantomOptions(cases=40, seed=UNSEEN_SEED), marks=pytest.mark.slow),
        pytest.param(
            PhantomOptions(cases=10, seed=UNSEEN_SEED, anatomy="whole_body"), marks=pytest.mark.slow
        ),
    ],
    ids=["100 mm", "200 mm", "whole body"],
)
def test_the_clinical_rule_is_sensitive_and_not_specific(options: PhantomOptions) -> None:
    total = rule_on(options)
    sensitivity = total["hit"] / total["untreated"]
    print(f"sensitivity {sensitivity:.3f}, tumor {total['tumor']:.0f} mL, false {total['false']:.0f} mL")
    assert sensitivity > 0.80
    assert total["false"] > total["tumor"]
    assert 0.25 <= total["free"] <= 0.35
