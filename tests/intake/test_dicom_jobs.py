"""Processes of their own: hostile files cost their case, order and memory stay, stations become one map."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import adc, dwi, exam, grid, study, t1, t2
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.intake import jobs
from diffusion_adc.intake.jobs import run
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Done, Task
from diffusion_adc.records.cohort import read_cohort


def spin(task: Task, staged: Path, options: IngestOptions, begin: Any = None) -> Done:
    """Stands for a reader that a file makes run for ever, ends, or fills the disk of."""
    begin(task.root / "file")
    kind = task.research_id.split("-")[0]
    while kind == "SPIN":
        pass
    if kind == "END":
        os.kill(os.getpid(), 9)
    if kind == "FULL":
        return Done(error=DiffusionAdcError("the disk is full"))
    if kind == "SLOW":
        time.sleep(0.5)
    begin(None)
    return Done(refused=[task.research_id])


@pytest.fixture
def staged_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Workers are forked, so that they see the stand-in; nothing else of the pool changes.
    import multiprocessing

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(jobs, "do", spin)
    monkeypatch.setattr(jobs, "FILE_LIMIT_S", 0.3)
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(fork, "set_forkserver_preload", lambda names: None, raising=False)
    monkeypatch.setattr(jobs.mp, "get_context", lambda kind: fork)
    return tmp_path


def tasks(root: Path, *names: str) -> list[Task]:
    return [Task(root, ((root, 1),), name, dicom=True) for name in names]


def test_a_file_that_hangs_or_ends_its_process_costs_its_case_alone(staged_spin: Path) -> None:
    names = ("GOOD-001", "SPIN-002", "SLOW-003", "END-004", "GOOD-005", "GOOD-006")
    begun = time.monotonic()
    done = list(
        run(tasks(staged_spin, *names), staged_spin, IngestOptions(layout="dicom", jobs=2), isolated=True)
    )
    assert [number for number, _ in done] == list(range(6))
    messages = [entry.refused[0] for _, entry in done]
    assert messages[0] == "GOOD-001"
    assert messages[1].startswith("X7 SPIN-002: a file that takes longer than")
    assert messages[3].startswith("X7 END-004: a file that ended the process reading it")
    assert [messages[n] for n in (2, 4, 5)] == ["SLOW-003", "GOOD-005", "GOOD-006"]
    assert time.monotonic() - begun < 60


def test_what_must_stop_the_ingest_reaches_it(staged_spin: Path) -> None:
    options = IngestOptions(layout="dicom", jobs=2)
    (_, done), _ = run(tasks(staged_spin, "FULL-001", "GOOD-002"), staged_spin, options, isolated=True)
    assert isinstance(done.error, DiffusionAdcError)


def test_results_do_not_depend_on_jobs(dicom: Any) -> None:
    for number in range(3):
        dicom.add(study(exam(number)), f"CASE-{number:03d}")
    digests = []
    for count in (1, 2):
        assert not dicom.ingest(jobs=count, overwrite=True).refused
        digests.append(read_cohort(dicom.out).digest)
    assert digests[0] == digests[1]


def test_a_bomb_is_refused(dicom: Any) -> None:
    """A deflated file of a few kilobytes that would fill the memory."""
    folder = dicom.add(study(exam()))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    bomb.SOPClassUID, bomb.SOPInstanceUID, bomb.Modality = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.9", "MR"
    item = Dataset()
    item.TextValue = "0" * 30_000_000
    bomb.ContentSequence = [item]
    bomb.save_as(folder / "IMbomb", enforce_file_format=True)
    assert (folder / "IMbomb").stat().st_size < 100_000
    message = dicom.refusal()
    assert message.startswith(("X5 CASE-001", "X7 CASE-001", "S10 CASE-001"))


def stations(content: dict[str, np.ndarray], overlap: int = 2) -> list[Any]:
    """An examination of two stations that share some slices, each a series of its own."""
    parts = []
    for number, (first, last) in enumerate(((0, 7), (7 - overlap, 12))):
        affine = grid()
        affine[:3, 3] += first * affine[:3, 2]
        piece = {name: array[:, :, first:last] for name, array in content.items()}
        whole = [t1(piece, 3), t2(piece, 4), dwi(piece, 50, 6), dwi(piece, 800, 6), adc(piece, 7)]
        parts += [replace(part, affine=affine, number=part.number + 20 * number) for part in whole]
    return parts


def test_stations_become_one_map_in_which_each_voxel_counts_once(dicom: Any) -> None:
    content = exam(shape=(20, 16, 12))
    dicom.add(stations(content))
    case = dicom.only_case()
    assert np.array_equal(dicom.stored(case, seq.ADC), (content["adc"] * 1e-3).astype(np.float32))
    assert np.array_equal(dicom.stored(case, seq.DWI_HIGH), content["b800"].astype(np.float32))
    assert np.array_equal(dicom.stored(case, seq.T2W), content["t2w"].astype(np.float32))
    assert dicom.record(case)["stations"] == 2


@pytest.mark.parametrize("gap_mm", [2.0, 9.0, 30.0])
def test_stations_that_do_not_meet_are_refused(dicom: Any, gap_mm: float) -> None:
    parts = stations(exam(shape=(20, 16, 12)), overlap=0)
    moved = []
    for part in parts:
        affine = part.affine.copy()
        affine[2, 3] += gap_mm if part.number >= 20 else 0
        moved.append(replace(part, affine=affine))
    dicom.add(moved)
    assert dicom.refusal().startswith("S32 CASE-001 adc: ")


def test_a_composed_series_stands_for_its_stations(dicom: Any) -> None:
    content = exam(shape=(20, 16, 12))
    whole = [replace(part, number=part.number + 50) for part in study(content, b_values=(50, 800))]
    dicom.add([*stations(content), *whole])
    case = dicom.only_case()
    assert np.array_equal(dicom.stored(case, seq.ADC), (content["adc"] * 1e-3).astype(np.float32))
    reasons = [reason for _, reason in dicom.record(case)["ignored"]]
    assert reasons.count("station of a composed series") == 10
