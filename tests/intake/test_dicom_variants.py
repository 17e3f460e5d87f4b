"""Whatever a correct exporter may write gets in without a doubt, with the very same voxels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import Series, exam, grid, study, write_classic
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Task, do
from diffusion_adc.records.cohort import load_volume

OPTIONS = IngestOptions(layout="dicom", provenance="public", allow_missing=("tumor_label",))
Change = Callable[[list[Series]], list[Series]]


def each(change: Callable[[Dataset, int], Any]) -> Change:
    return lambda parts: [part.spoiled(change) for part in parts]


def placed(affine: np.ndarray) -> Change:
    return lambda parts: [replace(part, affine=affine) for part in parts]


def big_endian(dataset: Any, k: int) -> None:
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pixels = np.frombuffer(dataset.PixelData, dtype="<u2")
    dataset.PixelData = pixels.astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"


def implicit(dataset: Any, k: int) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def packed(dataset: Any, k: int) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


def coarse(dataset: Dataset, k: int) -> None:
    """Positions as some exporters write them, to a hundredth of a millimeter."""
    dataset.ImagePositionPatient = [f"{float(v):.2f}" for v in dataset.ImagePositionPatient]


def put(**tags: Any) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, k: int) -> None:
        for name, value in tags.items():
            if value is None:
                if name in dataset:
                    delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    return change


def signed(parts: list[Series]) -> list[Series]:
    return [replace(part, array=part.array.astype(np.int16)) for part in parts]


def reversed_slices(parts: list[Series]) -> list[Series]:
    flip = grid()
    flip[:3, 3] += 5 * flip[:3, 2]
    flip[:3, 2] *= -1
    return [replace(part, array=part.array, affine=flip) for part in parts]


VARIANTS: dict[str, Change] = {
    "as it is": lambda parts: parts,
    "oblique": placed(grid(turn=0.4)),
    "steep": placed(grid(turn=-0.7)),
    "anisotropic": placed(grid(spacing=(1.5, 2.5, 5.0))),
    "fine": placed(grid(spacing=(0.7, 0.7, 3.3))),
    "slices from head to feet": reversed_slices,
    "big-endian": each(big_endian),
    "implicit": each(implicit),
    "run-length packed": each(packed),
    "coarse positions": each(coarse),
    "signed": signed,
    "no thickness": each(put(SliceThickness=None)),
    "thickness unlike the distance": each(put(SliceThickness="3.5", SpacingBetweenSlices="9")),
    "rescale of one": each(put(RescaleSlope="1", RescaleIntercept="0", RescaleType="US")),
    "field in gauss": each(put(MagneticFieldStrength="15000")),
    "no date": each(put(StudyDate=None, StudyTime=None)),
    "a private group": each(
        lambda d, k: d.private_block(0x0099, "ANY", create=True).add_new(1, "UN", b"\1\2\3")
    ),
    "instance numbers all one": each(put(InstanceNumber=1)),
    "no series numbers": each(put(SeriesNumber=None)),
    "whole-body words": each(put(BodyPartExamined="WHOLEBODY", PatientPosition="FFS")),
}


@pytest.mark.parametrize("shape", [(20, 16, 6), (17, 23, 6), (24, 12, 6)])
@pytest.mark.parametrize("kind", VARIANTS)
def test_valid_studies_get_in(tmp_path: Path, kind: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    content = exam(seed=len(kind), shape=shape)
    folder = tmp_path / "in" / "CASE-001"
    for tag, part in enumerate(VARIANTS[kind](study(content, b_values=(50, 800)))):
        write_classic(folder, part, "1.2.3.4", "20200101", tag)
    done = do(Task(tmp_path / "in", ((folder, 1),), "CASE-001", dicom=True), tmp_path / "staged", OPTIONS)
    assert not done.refused, done.refused
    assert not done.warnings, done.warnings
    ((case, _, _),) = done.cases
    backwards = slice(None, None, -1) if kind == "slices from head to feet" else slice(None)
    for name, key, factor in ((seq.ADC, "adc", 1e-3), (seq.DWI_HIGH, "b800", 1.0)):
        stored = load_volume(tmp_path / "staged", case, name)
        assert np.array_equal(stored.array, (content[key] * factor).astype(np.float32)[..., backwards])
    if kind in ("oblique", "steep", "anisotropic", "fine"):
        wanted = {
            "oblique": grid(turn=0.4),
            "steep": grid(turn=-0.7),
            "anisotropic": grid(spacing=(1.5, 2.5, 5.0)),
        }
        np.testing.assert_allclose(stored.affine, wanted.get(kind, grid(spacing=(0.7, 0.7, 3.3))), atol=1e-4)
