"""Message rule: whatever a correct exporter may write gets in, at all three doors, with the very same values."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from dicom_quirks import quirks
from dicom_variants import variants as dicom_variants
from nifti_builder import Desk
from nifti_variants import variants as nifti_variants
from table_variants import variants as table_variants

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.clinical import ClinicalOptions, read_table
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Task, do
from diffusion_adc.records.cohort import load_volume

pytestmark = [pytest.mark.security, pytest.mark.timeout(1500)]

Figure = Callable[[str, Any], None]
Scale = Callable[..., int]
One = TypeVar("One")


def spread(everything: Sequence[One], count: int) -> list[One]:
    """`count` of them, evenly over the list."""
    return [everything[n * len(everything) // count] for n in range(count)]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_nifti_variants_get_in(tmp_path: Path, scale: Scale, figure: Figure) -> None:
    everything = nifti_variants()
    chosen = spread(everything, scale(len(everything), 24))
    refused: dict[str, list[str]] = {}
    for number, variant in enumerate(chosen):
        desk = Desk(tmp_path / f"{number}")
        folder = desk.source / "CASE-001"
        wanted = variant.lay(desk, folder)
        done = do(Task(desk.source, ((folder, 1),), "CASE-001"), desk.out, IngestOptions(**variant.options))
        if done.refused:
            refused[variant.name] = done.refused
            continue
        ((case, _, _),) = done.cases
        assert case.tumor_status == variant.status, variant.name
        for name, array in wanted.items():
            if variant.status == "unknown" and name == seq.TUMOR_LABEL:
                continue
            stored = load_volume(desk.out, case, name).array
            if name == seq.ADC:
                np.testing.assert_allclose(stored, array, rtol=1e-6, err_msg=variant.name)
            else:
                assert np.array_equal(stored > 0 if name == seq.TUMOR_LABEL else stored, array), variant.name
    figure(
        "valid NIfTI examinations refused", f"{len(refused)} of {len(chosen)} (of {len(everything)} kinds)"
    )
    assert not refused


def test_dicom_variants_get_in(tmp_path: Path, scale: Scale, figure: Figure) -> None:
    everything = [*dicom_variants(), *quirks()]
    chosen = spread(everything, scale(len(everything), 16))
    wrong: dict[str, list[str]] = {}
    for number, variant in enumerate(chosen):
        root = tmp_path / f"{number}"
        folder = root / "in" / "CASE-001"
        wanted = variant.lay(folder)
        options = IngestOptions(
            layout="dicom", provenance="public", allow_missing=variant.allow_missing, **variant.options
        )
        done = do(Task(root / "in", ((folder, 1),), "CASE-001", dicom=True), root / "staged", options)
        if done.refused or done.warnings:
            wrong[variant.name] = [*done.refused, *done.warnings]
            continue
        ((case, _, _),) = done.cases
        for name, array in wanted.items():
            stored = load_volume(root / "staged", case, name)
            factor = 1e-3 if name == seq.ADC else 1.0
            np.testing.assert_allclose(stored.array, array * factor, rtol=2e-6, err_msg=variant.name)
        if variant.affine is not None and "head" not in variant.name:
            np.testing.assert_allclose(stored.affine, variant.affine, atol=1e-4, err_msg=variant.name)
    figure(
        "valid DICOM studies refused or doubted",
        f"{len(wrong)} of {len(chosen)} (of {len(everything)} kinds)",
    )
    assert not wrong


def test_table_variants_get_in(tmp_path: Path, scale: Scale, figure: Figure) -> None:
    everything = table_variants()
    chosen = spread(everything, scale(len(everything), 24))
    refused: dict[str, list[str]] = {}
    for number, variant in enumerate(chosen):
        path = tmp_path / f"table{number}{variant.suffix}"
        path.write_bytes(variant.data)
        try:
            table = read_table(path, ClinicalOptions(**variant.options))
        except UsageError as error:
            refused[variant.name] = [str(error)]
            continue
        if table.refused:
            refused[variant.name] = table.refused
            continue
        row = table.covariates["PX-00001"]
        found = {name: getattr(row, name) for name in variant.expected}
        assert found == pytest.approx(variant.expected), variant.name
        assert len(table.covariates) == 2, variant.name
    figure("valid clinical tables refused", f"{len(refused)} of {len(chosen)} (of {len(everything)} kinds)")
    assert not refused
