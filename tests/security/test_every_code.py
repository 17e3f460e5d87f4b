"""The message rule: each code of images and tables has three fixtures or more, and each gives exactly its code.

The everyday suite runs every fixture beside the code it is about; here they are counted, and their figures made.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_dicom
import bad_nifti
import bad_tables
import numpy as np
import pytest
from asymmetric import pair
from nifti_builder import Desk

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.signal import dwi_signal
from diffusion_adc.intake.clinical import ClinicalOptions, read_table
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Done, Task, do

pytestmark = [pytest.mark.security, pytest.mark.timeout(1500)]

ELSEWHERE = {
    "S21": "an empty target is an all-zero volume: it is refused as S19, or taken in where that was declared"
}
"""Codes of the catalogue that no message can have, and why."""
WANTED = [f"S{n:02d}" for n in range(1, 33)] + [f"C{n:02d}" for n in range(1, 12)]
LEAST = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a fixture: cases (or persons of a table) taken in, messages of refusal, warnings."""

    taken: int
    refused: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Fixture:
    """One bad input.

    Attributes:
        code: That it must get.
        where: Sequence that the message must name; None where any or none will do.
        name: What is wrong.
        run: Writes it into a folder and takes it in.
        warned: It is taken in with a warning.
    """

    code: str
    where: str | None
    name: str
    run: Callable[[Path], Outcome]
    warned: bool = False

    @property
    def form(self) -> str:
        """The message's form: code, research ID, sequence, what was found, what was expected."""
        who = "( CASE-[0-9]{3}| PX-[0-9]{5})?" if self.code[0] == "C" else " CASE-[0-9]{3}"
        where = "( [a-z0-9_]+)?" if self.where is None else f" {self.where}" if self.where else ""
        return rf"{self.code}{who}{where}: .+" + ("" if self.warned else "; expected .+")


def _outcome(done: Done) -> Outcome:
    assert done.error is None
    return Outcome(len(done.cases), done.refused, done.warnings)


OPTIONS = IngestOptions(adc_unit="1e-6", b_values={"dwi_low": "50", "dwi_high": "800"})
DICOM = IngestOptions(layout="dicom", provenance="public", allow_missing=bad_dicom.ALLOWED)


def _nifti(spoil: Callable[[Path, bad_nifti.Volumes], Any]) -> Callable[[Path], Outcome]:
    def run(root: Path) -> Outcome:
        content = bad_nifti.volumes()
        folder = bad_nifti.save(root / "in" / "CASE-001", content)
        spoil(folder, content)
        return _outcome(do(Task(root / "in", ((folder, 1),), "CASE-001"), root / "staged", OPTIONS))

    return run


def _dicom(spoil: bad_dicom.Spoil) -> Callable[[Path], Outcome]:
    def run(root: Path) -> Outcome:
        from dicom_builder import write_classic

        folder = root / "in" / "CASE-001"
        for tag, part in enumerate(spoil(bad_dicom.named())):
            write_classic(folder, part, "1.2.3.4", "20200101", tag)
        task = Task(root / "in", ((folder, 1),), "CASE-001", dicom=True)
        return _outcome(do(task, root / "staged", DICOM))

    return run


def _table(name: str, suffix: str, data: bytes) -> Callable[[Path], Outcome]:
    def run(root: Path) -> Outcome:
        root.mkdir(parents=True)
        (root / f"table{suffix}").write_bytes(data)
        options = ClinicalOptions(id_prefix="PX") if name == "C06 number as ID" else ClinicalOptions()
        try:
            table = read_table(root / f"table{suffix}", options)
        except UsageError as error:
            return Outcome(0, [str(error)], [])
        return Outcome(len(table.covariates), table.refused, [])

    return run


def _flipped(seed: int) -> Callable[[Path], Outcome]:
    def run(root: Path) -> Outcome:
        adc, image = pair(seed)
        s0 = np.where(adc > 0, 500.0, 0.0)
        content = {"adc": np.round(adc * 1000), "t1w": image, "t2w": image[::-1], "dwi_low": dwi_signal(s0, 50, adc),
                   "dwi_high": dwi_signal(s0, 800, adc), "tumor_label": (adc > 2) * 1.0}  # fmt: skip
        content["adc"] = np.maximum(content["adc"], 0)
        desk = Desk(root)
        folder = desk.add("CASE-001", content)
        return _outcome(do(Task(desk.source, ((folder, 1),), "CASE-001"), root / "staged", OPTIONS))

    return run


def _shared(*folders: str, prefix: str = "") -> Callable[[Path], Outcome]:
    """The same examination in several folders."""

    def run(root: Path) -> Outcome:
        desk = Desk(root)
        for folder in folders:
            desk.add(folder)
        report = desk.ingest(id_prefix=prefix)
        return Outcome(len(report.cases), report.refused, report.warnings)

    return run


def fixtures() -> list[Fixture]:
    """Every one of them, at every door."""
    found = [
        Fixture(code, where, f"nifti {n}", _nifti(spoil))
        for n, (code, where, spoil) in enumerate(bad_nifti.BAD)
    ]
    found += [
        Fixture(code, where, f"dicom {what}", _dicom(spoil)) for code, where, what, spoil in bad_dicom.BAD
    ]
    found += [
        Fixture(code, None, name, _table(name, suffix, data))
        for name, suffix, code, data in bad_tables.ALL
        if code[0] == "C"
    ]
    found += [Fixture("S11", "t2w", f"flipped {seed}", _flipped(seed), warned=True) for seed in (1, 2, 3)]
    found += [
        Fixture("S31", "adc", "one map under two IDs", _shared("CASE-001", "CASE-002")),
        Fixture("S31", "adc", "one map under three IDs", _shared("CASE-001", "CASE-002", "CASE-003")),
    ]  # fmt: skip
    return found


def test_every_code_has_three_fixtures() -> None:
    counts = Counter(fixture.code for fixture in fixtures())
    few = {code: counts[code] for code in WANTED if counts[code] < LEAST and code not in ELSEWHERE}
    assert not few, "codes with fewer than three fixtures"
    assert not [code for code in ELSEWHERE if counts[code]], (
        "a code that was said to be impossible has a fixture"
    )
    assert set(counts) <= set(WANTED), "a fixture of a code that the catalogue does not have"


def test_message_rule(
    tmp_path: Path, scale: Callable[..., int], figure: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    everything = fixtures()
    count = scale(len(everything), 12)
    chosen = [everything[n * len(everything) // count] for n in range(count)]
    wrong: dict[str, Outcome] = {}
    tracebacks = accepted = 0
    for number, fixture in enumerate(chosen):
        root = tmp_path / f"{number}"
        try:
            outcome = fixture.run(root)
        except Exception:
            tracebacks += 1
            continue
        texts = outcome.warnings if fixture.warned else outcome.refused
        mine = [text for text in texts if re.fullmatch(fixture.form, text)]
        clean = not any(
            "\n" in text or str(tmp_path) in text for text in (*outcome.refused, *outcome.warnings)
        )
        exact = bool(mine) and (fixture.warned or len(mine) == len(texts))
        if outcome.taken and not fixture.warned:
            accepted += 1
        if not (exact and clean):
            wrong[f"{fixture.code} {fixture.name}"] = outcome
    text = f"{len(chosen) - len(wrong) - tracebacks}/{len(chosen)} exactly their code and form, {tracebacks} tracebacks, {accepted} accepted"
    figure("message rule: fixtures of S01-S32 and C01-C11", f"{text}, of {len(everything)}")
    assert (tracebacks, accepted) == (0, 0)
    assert not wrong
