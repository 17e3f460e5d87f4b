"""Every bad DICOM study gets exactly its code, and nothing of it gets in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_dicom import ALLOWED, BAD, CONTENT, Spoil, cut, every, move, named, only, put, swap
from dicom_builder import adc, dwi, edit, study, write_classic

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Task, do


@pytest.mark.parametrize(("code", "where", "what", "spoil"), BAD, ids=[f"{b[0]} {b[1]} {b[2]}" for b in BAD])
def test_each_fault_gets_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, where: str, what: str, spoil: Spoil
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folder = tmp_path / "in" / "CASE-001"
    for tag, part in enumerate(spoil(named())):
        write_classic(folder, part, "1.2.3.4", "20200101", tag)
    options = IngestOptions(layout="dicom", provenance="public", allow_missing=ALLOWED)
    done = do(Task(tmp_path / "in", ((folder, 1),), "CASE-001", dicom=True), tmp_path / "staged", options)
    assert not done.cases
    (message,) = done.refused
    assert message.split(":")[0].split(" ") == [part for part in (code, "CASE-001", where) if part], message
    assert "; expected" in message
    assert "\n" not in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize("name", ["adc", "t2w", "high"])
def test_a_missing_middle_slice_is_found(dicom: Any, name: str) -> None:
    parts = named()
    folder = dicom.add(list(parts.values()))
    tag = list(parts).index(name)
    (folder / f"series {parts[name].number}" / f"IM{tag:02d}0002").unlink()
    message = dicom.refusal()
    assert message.startswith(
        f"S02 CASE-001 {'dwi' if name == 'high' else name}: 8.000 mm between slices 1 and 2"
    )


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (lambda p: swap(p, t2w=p["t2w"].spoiled(only(2, move(0.2)))), "S02 CASE-001 t2w"),
        (lambda p: swap(p, t2w=cut(p["t2w"], slice(0, 4))), "S03 CASE-001 t2w"),
        (lambda p: [*swap(p), cut(p["adc"], slice(2, 3))], "S04 CASE-001 adc"),
        (lambda p: swap(p, t2w=p["t2w"].spoiled(every(put(FrameOfReferenceUID="1.2.3")))), "S07 CASE-001 t2w"),
        (lambda p: swap(p, adc=p["adc"].spoiled(only(2, put(RescaleSlope="1.01", RescaleIntercept="0")))), "S15 CASE-001 adc"),
        (lambda p: swap(p, adc=p["adc"].spoiled(every(put(LossyImageCompression="01")))), "S30 CASE-001 adc"),
    ],
)  # fmt: skip
def test_doubts_are_warned_of(dicom: Any, spoil: Spoil, warning: str) -> None:
    dicom.add(spoil(named()))
    report = dicom.ingest()
    assert not report.refused
    assert any(text.startswith(warning) for text in report.warnings), report.warnings


def test_a_copy_of_a_file_is_taken_once_and_another_image_of_its_uid_refused(dicom: Any) -> None:
    folder = dicom.add(list(named().values()))
    path = next((folder / "series 7").iterdir())
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    report = dicom.ingest()
    assert any(text.startswith("S04 CASE-001: ") for text in report.warnings)
    edit(copy, put(PixelData=bytes(2 * 20 * 16)))
    assert dicom.refusal(overwrite=True).startswith(
        "S04 CASE-001: two different images under one instance UID"
    )


def test_unknown_b_is_taken_where_it_is_declared(dicom: Any) -> None:
    parts = named()
    dicom.add([parts["adc"], replace(parts["high"], private=())])
    allowed = ("t1w", "t2w", "dwi_low", "tumor_label")
    assert dicom.refusal(allow_missing=allowed).startswith("S12 CASE-001 dwi")
    case = dicom.only_case(allow_missing=allowed, b_values={"dwi_high": "unknown"})
    assert case.b_high is None
    assert "unknown:b_high" in case.declared


def test_the_wanted_pair_is_taken(dicom: Any) -> None:
    parts = study(CONTENT, b_values=(0, 50, 400, 800, 1000))
    dicom.add(parts)
    case = dicom.only_case()
    assert (case.b_low, case.b_high) == (0, 800)
    case = dicom.only_case(b_pair=(50, 1000), overwrite=True)
    assert (case.b_low, case.b_high) == (50, 1000)
    assert np.array_equal(dicom.stored(case, seq.DWI_HIGH), CONTENT["b1000"].astype(np.float32))
    assert dicom.refusal(b_pair=(50, 2000), overwrite=True).startswith("S12 CASE-001 dwi: no b near 2000")


def test_a_file_that_is_no_dicom_by_a_dicom_name_is_refused(dicom: Any) -> None:
    for number, name in enumerate(("x.dcm", "noextension", "x.MRDC.7")):
        person = f"CASE-{number:03d}"
        (dicom.add(list(named().values()), person) / name).write_bytes(b"nothing of the kind" * 20)
    report = dicom.ingest()
    assert [text.split(":")[0] for text in report.refused] == [f"X7 CASE-{n:03d}" for n in range(3)]


def test_a_low_b_alone_is_not_enough(dicom: Any) -> None:
    dicom.add([adc(CONTENT), dwi(CONTENT, 50)])
    assert dicom.refusal(allow_missing=("t1w", "t2w", "tumor_label")).startswith("S12 CASE-001 dwi")
