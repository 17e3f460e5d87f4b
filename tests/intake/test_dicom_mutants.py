"""Damaged DICOM files: refused, or taken in with the very same voxels, or with a warning; never silently wrong."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_builder import adc, dwi, exam, study, write_classic

from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Done, Task, do
from diffusion_adc.records.cohort import load_volume

COUNT = 3000 if os.environ.get("FULL") == "1" else 300
OPTIONS = IngestOptions(layout="dicom", provenance="public", allow_missing=("t1w", "t2w", "tumor_label"))
ELEMENTS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated", "ImageType",
    "SeriesInstanceUID", "StudyInstanceUID", "RescaleSlope", "RescaleIntercept", "EchoTime", "BitsStored", "HighBit",
    "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "FrameOfReferenceUID", "Manufacturer",
    "SOPClassUID", "SOPInstanceUID", "NumberOfFrames",
)  # fmt: skip


def mutate(raw: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """A damaged copy of a file; the pixels' own bits, which no header guards, are left alone."""
    header = raw.index(b"\xe0\x7f\x10\x00")
    kind = str(
        rng.choice(["flip", "flip", "flip", "cut", "drop", "zero", "insert", "repeat", "element", "element"])
    )
    at = int(rng.integers(132, header))
    data = bytearray(raw)
    if kind == "flip":
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(128, header + 8))] ^= 1 << int(rng.integers(0, 8))
    elif kind == "cut":
        data = data[: int(rng.integers(0, len(raw)))]
    elif kind == "drop":
        del data[at : at + int(rng.integers(1, 60))]
    elif kind == "zero":
        end = min(header, at + int(rng.integers(1, 60)))
        data[at:end] = bytes(end - at)
    elif kind == "insert":
        data[at:at] = rng.bytes(int(rng.integers(1, 60)))
    elif kind == "repeat":
        data[at:at] = data[at : at + int(rng.integers(1, 60))]
    else:
        return "element", element(raw, rng)
    return kind, bytes(data)


def element(raw: bytes, rng: np.random.Generator) -> bytes:
    """One element made empty, another text of its length, or gone; its bytes are changed, not its meaning asked."""
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(raw), defer_size=None)
    there = [name for name in ELEMENTS if name in dataset]
    name = there[int(rng.integers(0, len(there)))]
    raw_element = dataset.get_item(name)
    value = raw_element.value if isinstance(raw_element.value, bytes) else b""
    if not value or rng.random() < 0.3:
        del dataset[name]
        out = pydicom.filebase.DicomBytesIO()
        dataset.save_as(out)
        return out.getvalue()
    place = raw.index(value, 132)
    noise = bytes(rng.choice(list(b"0123456789.-\\ eE+xX\0\xff"), len(value)).tolist())
    return raw[:place] + noise + raw[place + len(value) :]


def arrays(staged: Path, done: Done) -> dict[str, np.ndarray]:
    ((case, _, _),) = done.cases
    out = {name: load_volume(staged, case, name).array for name in ("adc", "dwi_low", "dwi_high")}
    return out | {
        "affine": load_volume(staged, case, "adc").affine, "b": np.array([case.b_low, case.b_high]),
    }  # fmt: skip


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    voxels = all(np.array_equal(one[name], other[name]) for name in ("adc", "dwi_low", "dwi_high"))
    # 1 % of the spacing and 5 % of b are what the catalogue tolerates.
    return (
        voxels
        and np.allclose(one["affine"], other["affine"], atol=0.04)
        and np.allclose(one["b"], other["b"], rtol=0.05, atol=20)
    )


def test_mutants_are_refused_or_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    content = exam(shape=(12, 10, 3))
    folder = tmp_path / "in" / "CASE-001"
    scale = {"RescaleSlope": "1", "RescaleIntercept": "0"}
    files = [
        path
        for tag, part in enumerate((adc(content), dwi(content, 50), dwi(content, 800)))
        for path in write_classic(folder, part.but(**scale), "1.2.3.4", "20200101", tag)
    ]
    task = Task(tmp_path / "in", ((folder, 1),), "CASE-001", dicom=True)
    whole = do(task, tmp_path / "right", OPTIONS)
    assert not whole.refused
    right = arrays(tmp_path / "right", whole)
    outcomes: Counter[str] = Counter()
    rng = np.random.default_rng(7)
    slowest = 0.0
    for number in range(COUNT):
        path = files[int(rng.integers(0, len(files)))]
        raw = path.read_bytes()
        kind, damaged = mutate(raw, rng)
        path.write_bytes(damaged)
        begun = time.process_time()
        done = do(task, tmp_path / "staged", OPTIONS)
        slowest = max(slowest, time.process_time() - begun)
        path.write_bytes(raw)
        assert done.error is None
        assert all(
            text.split(":")[0].endswith(("CASE-001", "adc", "dwi", "dwi_high", "dwi_low"))
            for text in done.refused
        )
        if not done.cases:
            assert done.refused, (number, kind)
            outcomes["refused"] += 1
        elif same(arrays(tmp_path / "staged", done), right):
            outcomes["same"] += 1
        else:
            assert done.warnings or done.refused, f"mutant {number} ({kind}) silently wrong"
            outcomes["warned"] += 1
    print(f"{COUNT} mutants: {dict(outcomes)}, slowest {slowest:.2f} s, 0 uncaught, 0 silently wrong")
    assert slowest < 5
    assert outcomes["refused"] > COUNT / 10


def test_study_helper_is_whole(dicom: Any) -> None:
    """The undamaged study of the other tests gets in without a warning."""
    dicom.add(study(exam()))
    report = dicom.ingest()
    assert not report.refused
    assert not report.warnings
