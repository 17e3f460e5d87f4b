"""Which labels of a target are tumor, and which are declared to be something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.target import label_presence

LABEL = np.array([[[0, 1, 2, 2, 3]]], dtype=float)


def presence(**declared: Any) -> list[bool]:
    options = IngestOptions(adc_unit="1e-6", **declared)
    return label_presence(LABEL, options.tumor_labels, "CASE-001", options.organ_labels)[0, 0].tolist()


def test_an_organ_label_is_left_out() -> None:
    assert presence(label_values="2", other_labels="1,3") == [False, False, True, True, False]
    assert presence(label_values="1-3") == [False, True, True, True, True]


@pytest.mark.parametrize("declared", [{}, {"label_values": "2"}, {"label_values": "2", "other_labels": "1"}])
def test_a_label_nobody_declared_is_refused(declared: dict[str, str]) -> None:
    with pytest.raises(CaseError) as caught:
        presence(**declared)
    assert caught.value.code == "S22"


@pytest.mark.parametrize(
    "declared",
    [
        {"label_values": "1-3", "other_labels": "2"},
        {"other_labels": "1"},
        {"other_labels": "0"},
        {"other_labels": "x"},
    ],
)
def test_contradictions_are_refused(declared: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        IngestOptions(adc_unit="1e-6", **declared)
