"""Tables, manifests and run records that somebody edited, cut or filled with nonsense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.case import PROVENANCES, SPLITS, TUMOR_STATUS, Case
from diffusion_adc.domain.clinical import PRIMARIES, SEXES, STAGES, TREATMENTS, Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, CohortError, DiffusionAdcError, UsageError
from diffusion_adc.records import maps
from diffusion_adc.records.cohort import read_cohort, write_manifest
from diffusion_adc.records.runs import list_runs

FILES = {"adc": "a" * 64, "dwi_high": "b" * 64}
words = st.text(
    st.characters(exclude_characters=";", exclude_categories=("C", "Zl", "Zp", "Zs")), min_size=1, max_size=12
)
numbers = st.none() | st.floats(0, 5000, allow_nan=False)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    b_low, b_high = draw(st.none() | st.floats(0, 400)), draw(st.none() | st.floats(401, 10_000))
    return Case(
        f"SIM-{draw(st.integers(0, 99_999)):05d}", exam_order=draw(st.integers(1, 99)),
        study_order=draw(st.integers(0, 10**6)), split="train", anatomy=draw(words),
        provenance=draw(st.sampled_from(PROVENANCES)), readers=draw(st.sampled_from([(), ("R1",), ("R1", "b_2")])),
        tumor_status=draw(st.sampled_from(TUMOR_STATUS)), b_low=b_low, b_high=b_high, scanner=draw(words),
        field_t=draw(st.none() | st.floats(0.01, 14)), declared=tuple(draw(st.lists(words, max_size=3))), files=FILES,
    )  # fmt: skip


persons = st.builds(
    Covariates, age_years=st.none() | st.integers(0, 120), sex=st.none() | st.sampled_from(SEXES),
    comorbidity=st.none() | st.booleans(), treatment=st.none() | st.sampled_from(TREATMENTS),
    primary=st.none() | st.sampled_from(PRIMARIES), stage=st.none() | st.sampled_from(STAGES),
    recurrence=st.none() | st.booleans(), psa_ng_ml=numbers, alp_u_l=numbers, ldh_u_l=numbers,
    hemoglobin_g_dl=st.none() | st.floats(1, 30),
)  # fmt: skip


@given(
    st.lists(cases(), min_size=1, max_size=4, unique_by=lambda c: c.case_id),
    persons,
    words,
    st.sampled_from(SPLITS),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cohort_is_read_as_it_was_written(
    tmp_path: Path, rows: list[Case], person: Covariates, basis: str, split: str
) -> None:
    rows = [replace(row, split=split) for row in rows]
    cohort = Cohort(tuple(rows), {rows[0].research_id: person}, legal_basis=basis)
    write_manifest(tmp_path, cohort)
    back = read_cohort(tmp_path)
    assert back.digest == cohort.digest
    assert back.cases == tuple(sorted(cohort.cases, key=lambda c: c.case_id))
    assert back.covariates(rows[0]) == person
    assert back.legal_basis == basis


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [Case(f"SIM-0000{n}", exam_order=1, study_order=n, files=FILES, b_high=900) for n in (1, 2, 3)]
    write_manifest(tmp_path, Cohort(tuple(rows), {"SIM-00001": Covariates(age_years=63, recurrence=True)}))
    return tmp_path


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


SPOILED: dict[str, Callable[[Path], Any]] = {
    "split changed": edited("cases.csv", "train", "test"),
    "unknown split": edited("cases.csv", "train", "all"),
    "id out of the folder": edited("cases.csv", "SIM-00001,", "../../etc,"),
    "order is no number": edited("cases.csv", ",1,1,", ",one,1,"),
    "hash cut": edited("cases.csv", "a" * 64, "a" * 63),
    "file out of the folder": edited("cases.csv", "adc=", "../adc="),
    "b not a number": edited("cases.csv", "900.0", "nan"),
    "column renamed": edited("cases.csv", "research_id", "patient"),
    "row cut": lambda f: (f / "cases.csv").write_text((f / "cases.csv").read_text()[:-30]),
    "empty table": lambda f: (f / "cases.csv").write_text(""),
    "not UTF-8": lambda f: (f / "cases.csv").write_bytes(b"\xff\xfe\x00"),
    "null bytes": lambda f: (f / "cases.csv").write_bytes((f / "cases.csv").read_bytes() + b"\0\0\0\n"),
    "a folder": lambda f: (f / "cases.csv").unlink() or (f / "cases.csv").mkdir(),  # type: ignore[func-returns-value]
    "age changed": edited("clinical.csv", "63", "64"),
    "age a word": edited("clinical.csv", "63", "old"),
    "recurrence a word": edited("clinical.csv", "True", "yes"),
    "person twice": lambda f: (f / "clinical.csv").write_text(
        (f / "clinical.csv").read_text() + (f / "clinical.csv").read_text().splitlines()[1] + "\n"
    ),
    "digest changed": edited("cohort.json", '"digest": "', '"digest": "0'),
    "digest no text": lambda f: change(f, digest=5),
    "no digest": lambda f: change(f, digest=None),
    "pattern that is no expression": lambda f: change(f, id_pattern="("),
    "narrower pattern": lambda f: change(f, id_pattern="PICAI-[0-9]{5}"),
    "other schema": lambda f: change(f, schema_version=99),
    "stolen": lambda f: change(f, provenance="stolen"),
    "a list": lambda f: (f / "cohort.json").write_text("[1]"),
    "binary": lambda f: (f / "cohort.json").write_bytes(b"\x80\x81"),
}


def change(folder: Path, **values: object) -> None:
    manifest = json.loads((folder / "cohort.json").read_text())
    (folder / "cohort.json").write_text(json.dumps(manifest | values))


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_cohort_is_refused_in_one_line(folder: Path, kind: str) -> None:
    assert len(read_cohort(folder).cases) == 3
    SPOILED[kind](folder)
    with pytest.raises(DiffusionAdcError) as caught:
        read_cohort(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) not in str(caught.value)
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "5", "null", '{"when": "2024"}', '{"research_id": "SIM-00002 "}', '{"research_id": ""}',
     '{"research_id": null}', '{"research_id": "SIM-٠٠٠٠٢"}'],
)  # fmt: skip
def test_a_tombstone_that_names_nobody_stops_everything(folder: Path, line: str) -> None:
    """Skipping it would bring a withdrawn person back without a word."""
    (folder / "withdrawn.jsonl").write_text(json.dumps({"research_id": "SIM-00001"}) + f"\n{line}\n")
    with pytest.raises(CohortError, match="withdrawn"):
        read_cohort(folder)


def test_a_withdrawn_persons_row_is_not_written_back(folder: Path) -> None:
    (folder / "withdrawn.jsonl").write_text('{"research_id": "SIM-00001"}\n\n')
    cohort = read_cohort(folder)
    write_manifest(folder, cohort)
    for name in ("cases.csv", "clinical.csv", "cohort.json"):
        assert "SIM-00001" not in (folder / name).read_text()
    assert read_cohort(folder).digest == cohort.digest


@pytest.mark.parametrize("text", ["[]", "5", '"x"', "{", ""])
def test_damaged_map_records_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    volume = {maps.PROBABILITY: np.ones((2, 2, 2), dtype=np.float32)}
    maps.write_map_case(tmp_path, "SIM-00001_01", volume, np.eye(4), [], {})
    (tmp_path / "SIM-00001_01" / "case.json").write_text(text)
    (tmp_path / "maps.json").write_text(text)
    for read in (
        lambda: maps.read_map_record(tmp_path, "SIM-00001_01"),
        lambda: maps.read_map_volume(tmp_path, "SIM-00001_01", maps.PROBABILITY),
        lambda: maps.read_maps_manifest(tmp_path),
    ):
        with pytest.raises(CohortError) as caught:
            read()
        assert str(tmp_path) not in str(caught.value)


def test_a_map_without_its_hash_is_not_trusted(tmp_path: Path) -> None:
    volume = {maps.PROBABILITY: np.ones((2, 2, 2), dtype=np.float32)}
    maps.write_map_case(tmp_path, "SIM-00001_01", volume, np.eye(4), [], {})
    for stored in ({}, {"sha256": {}}, {"sha256": None}):
        (tmp_path / "SIM-00001_01" / "case.json").write_text(json.dumps(stored))
        with pytest.raises((CaseError, CohortError)):
            maps.read_map_volume(tmp_path, "SIM-00001_01", maps.PROBABILITY)


def test_an_unfinished_map_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".SIM-00001_01.x.part").mkdir()
    (tmp_path / ".SIM-00001_01.x.part" / "case.json").write_text("{}")
    (tmp_path / "SIM-00002_01").mkdir()
    assert maps.map_case_ids(tmp_path) == []


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ("val/loss\nnan\n0.5\n", 0.5), ("val/loss\n0.5\nnan\n", 0.5), ("val/loss\nnan\n", None), ("", None),
        ("step\n3\n", None), ("val/loss\nbad\n", None), ("val/loss\n\n0.25\n", 0.25), ("val/loss\ninf\n2\n", 2.0),
    ],
)  # fmt: skip
def test_the_best_score_of_a_run_is_a_number_or_nothing(
    tmp_path: Path, metrics: str, best: float | None
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{}")
    (tmp_path / "run" / "metrics.csv").write_text(metrics)
    (row,) = list_runs(tmp_path)
    assert row["best_val_loss"] == best
    assert best is None or math.isfinite(row["best_val_loss"])


@pytest.mark.parametrize("record", ["[]", "null", "3", "{"])
def test_a_record_that_is_no_record_is_no_run(tmp_path: Path, record: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text(record)
    assert list_runs(tmp_path) == []
