"""The parts of a withdrawal: lists of IDs, words in files, the chained log, the certificate, the lineage."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.custody import auditlog, lineage
from diffusion_adc.custody.certificate import read_certificate
from diffusion_adc.custody.redact import Names, redact, without
from diffusion_adc.custody.withdraw import finish_interrupted, read_ids, withdraw
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.runs import read_taint

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
KEY = "ab" * 16


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three persons of a synthetic cohort; the first was examined twice."""
    out, cases = tmp_path / "pelvis", []
    for person, exam in ((1, 1), (1, 2), (2, 1), (3, 1)):
        adc = np.random.default_rng([person, exam]).uniform(0.5, 2.0, (4, 4, 2)).astype(np.float32)
        case = Case(f"SIM-{person:05d}", exam, provenance="synthetic", b_low=50, b_high=800)
        volumes = {seq.ADC: adc, seq.DWI_HIGH: adc * 100, seq.VALID: adc > 0}
        cases.append(cohorts.write_case(out, case, volumes, AFFINE))
    cohorts.write_manifest(out, Cohort(tuple(cases), provenance="synthetic"))
    return out


def make_run(folder: Path, names: list[str], **more: Any) -> Path:
    hashes = [lineage.keyed_hash(name, KEY) for name in names]
    write_json(folder / "record.json", {"case_key": KEY, "cases": hashes, "provenance": "synthetic", **more})
    (folder / "experiment.yaml").write_text("cohort: elsewhere\nmodel: {}\n")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(folder.name.encode())
    return folder


def digest(cohort: Path) -> str:
    return str(json.loads((cohort / "cohort.json").read_text())["digest"])


# -- IDs -----------------------------------------------------------------------------------------------------


def test_ids_come_from_a_file_a_line_or_a_list(tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_bytes(b"\xef\xbb\xbfSIM-00002\r\n\r\nSIM-00001\r\nSIM-00002\r\n")
    wanted = ["SIM-00001", "SIM-00002"]
    assert (
        read_ids(listed)
        == read_ids(str(listed))
        == read_ids("SIM-00002, SIM-00001")
        == read_ids(wanted)
        == wanted
    )


@pytest.mark.parametrize("text", ["Yamada Taro", "SIM-0001\u0661", "../x", "SIM-00001;SIM-00002"])
def test_a_line_that_is_no_id_is_told_by_its_place(text: str) -> None:
    with pytest.raises(UsageError, match="entry 2 of the list") as caught:
        read_ids(["SIM-00001", text])
    assert text not in str(caught.value)


def test_no_id_is_an_error() -> None:
    with pytest.raises(UsageError, match="no research ID"):
        read_ids([" ", ""])


# -- words in files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("SIM-00012", True), ("SIM-00012_01.png", True), (".SIM-00012_02.x1.part", True), ("a_SIM-00012_01", True),
        ("SIM-000123", False), ("XSIM-00012", False), ("SIM-00012A", False), ("SIM-0001", False), ("00012", False),
    ],
)  # fmt: skip
def test_a_person_is_found_as_a_whole_word(text: str, named: bool) -> None:
    assert Names(["SIM-00012"]).within(text) is named


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=6)


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, at=st.lists(st.integers(0, 6), max_size=3), ends=st.sampled_from(["\n", "\r\n"]))
def test_of_any_table_only_the_persons_rows_go(
    rows: list[list[str]], at: list[int], ends: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    theirs = ["SIM-00001_01", "1"]
    mixed = [row for row in rows if not Names(["SIM-00001"]).within(" ".join(row))]
    kept = list(mixed)
    for place in at:
        mixed.insert(min(place, len(mixed)), theirs)
    path = tmp_path_factory.mktemp("t") / "table.csv"
    path.write_bytes(spelt(mixed, ends).encode())
    redact(path, Names(["SIM-00001"]))
    assert path.read_bytes() == spelt(kept, ends).encode()


def spelt(rows: list[list[str]], ends: str) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator=ends, quoting=csv.QUOTE_ALL).writerows(rows)
    return stream.getvalue()


def test_json_keeps_everything_else() -> None:
    value = {
        "cases": ["SIM-00001_01", "SIM-00002_01"], "refused": {"SIM-00001_01": "x", "SIM-00002_01": "y"},
        "rows": [{"case": "SIM-00001_01", "n": 1}, {"case": "SIM-00002_01", "n": 2}], "note": "of SIM-00001", "n": 2,
    }  # fmt: skip
    assert without(value, Names(["SIM-00001"])) == {
        "cases": ["SIM-00002_01"], "refused": {"SIM-00002_01": "y"}, "rows": [{"case": "SIM-00002_01", "n": 2}], "n": 2,
    }  # fmt: skip


def test_a_file_that_cannot_be_cut_is_named_by_kind_only(tmp_path: Path) -> None:
    for name, text in (("a.json", "{SIM-00001"), ("b.csv", 'SIM-00001,"open')):
        (tmp_path / name).write_text(text)
        with pytest.raises(CohortError, match="still names a person") as caught:
            redact(tmp_path / name, Names(["SIM-00001"]))
        assert "SIM-00001" not in str(caught.value)


# -- log and certificate -------------------------------------------------------------------------------------


def test_a_changed_log_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    heads = [auditlog.append(log, {"event": "step", "number": n, "when": "t"}) for n in range(4)]
    assert auditlog.append(log, {"event": "step", "number": 1, "when": "later"}) == heads[1]
    assert [entry["n"] for entry in auditlog.read_log(log)] == [1, 2, 3, 4]
    lines = log.read_bytes().splitlines(keepends=True)
    broken = [
        lines[1:], lines[:1] + lines[2:], [lines[1], lines[0], *lines[2:]], [*lines[:2], b"{}\n", *lines[2:]],
        [lines[0].replace(b"step", b"stop"), *lines[1:]], [*lines[:3], lines[3][:-9]],
    ]  # fmt: skip
    for wrong in broken:
        log.write_bytes(b"".join(wrong))
        with pytest.raises(CohortError, match=r"audit\.jsonl is broken at line"):
            auditlog.append(log, {"event": "more"})


def test_the_certificate_is_signed_and_holds_no_id(cohort: Path) -> None:
    key = Ed25519PrivateKey.generate()
    report = withdraw(cohort, ["SIM-00001"], decision="IRB-1", when="2026-04-01T18:00:00+09:00", key=key)
    path = report.certificate
    assert path is not None
    content = read_certificate(path, key.public_key())["content"]
    assert content["cases"] == 2
    assert content["effective"] == "2026-04-01T09:00:00Z"
    assert content["persons_hmac_sha256"] == [lineage.keyed_hash("SIM-00001", content["salt"])]
    assert auditlog.read_log(cohort / "audit.jsonl")[-1]["certificate_sha256"] == auditlog.sha256_bytes(
        auditlog.canonical(content)
    )
    for name in ("audit.jsonl", str(path.relative_to(cohort))):
        assert "SIM" not in (cohort / name).read_text()
    with pytest.raises(CohortError, match="not signed with this key"):
        read_certificate(path, Ed25519PrivateKey.generate().public_key())
    path.write_text(path.read_text().replace('"cases": 2', '"cases": 1'))
    with pytest.raises(CohortError, match="changed"):
        read_certificate(path)


# -- what is found and what is not ----------------------------------------------------------------------------


def test_another_synthetic_cohort_with_the_same_ids_is_left_alone(cohort: Path, tmp_path: Path) -> None:
    names = ["SIM-00001_01", "SIM-00003_01"]
    mine = make_run(tmp_path / "runs" / "mine", names, cohort_digest=digest(cohort))
    others = make_run(tmp_path / "runs" / "others", names, cohort_digest="0" * 64)
    for run in (mine, others):
        (run / "latents").mkdir()
        (run / "latents" / "SIM-00001_01.npy").write_bytes(b"1")
    assert withdraw(cohort, ["SIM-00001"], runs=tmp_path / "runs").tainted == ("mine",)
    assert not (mine / "latents" / "SIM-00001_01.npy").exists()
    assert (others / "latents" / "SIM-00001_01.npy").exists()
    # Withdrawn later, the digest before the first withdrawal still tells whose run it was.
    assert withdraw(cohort, ["SIM-00003"], runs=tmp_path / "runs").tainted == ("mine",)
    taint = read_taint(mine)
    assert taint is not None
    assert [entry["withdrawal"] for entry in taint["taints"]] == [1, 2]


def test_a_person_not_delivered_yet_is_refused_from_now_on(cohort: Path) -> None:
    report = withdraw(cohort, ["SIM-00009"])
    assert (report.persons, report.cases, report.unknown) == (1, 0, 1)
    assert "check the list of IDs" in report.text()
    assert cohorts.withdrawn_ids(cohort) == {"SIM-00009"}
    assert len(cohorts.read_cohort(cohort).cases) == 4


def test_all_may_withdraw(cohort: Path) -> None:
    assert withdraw(cohort, [f"SIM-{n:05d}" for n in (1, 2, 3)]).cases == 4
    assert list((cohort / "cases").iterdir()) == []
    with pytest.raises(CohortError, match="no case in the cohort"):
        cohorts.read_cohort(cohort)
    assert not withdraw(cohort, ["SIM-00002"]).changed


def test_what_lies_elsewhere_is_found_where_it_is_said(cohort: Path, tmp_path: Path) -> None:
    opened = tmp_path / "opened" / "SIM-00002"
    opened.mkdir(parents=True)
    (opened / "adc.nii.gz").write_bytes(b"x")
    (tmp_path / "opened" / "notes.md").write_text("SIM-00002 was late")
    report = withdraw(cohort, ["SIM-00002"], also=[tmp_path / "opened"])
    assert not opened.exists()
    assert any(".md file in opened" in text for text in report.by_hand)
    with pytest.raises(UsageError, match="no folder nowhere"):
        withdraw(cohort, ["SIM-00003"], runs=tmp_path / "nowhere")


def test_tables_that_were_tampered_with_are_not_laundered(cohort: Path) -> None:
    table = cohort / "cases.csv"
    table.write_text(table.read_text().replace("800", "900"))
    before = table.read_bytes()
    with pytest.raises(CohortError, match="manifest's digest"):
        withdraw(cohort, ["SIM-00001"])
    assert table.read_bytes() == before
    assert not (cohort / cohorts.JOURNAL).exists()


def test_a_file_that_stays_keeps_the_cohort_closed(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", refuse)
        with pytest.raises(CohortError, match="a file to be deleted stays") as caught:
            withdraw(cohort, ["SIM-00001"])
    assert "SIM" not in str(caught.value)
    with pytest.raises(cohorts.InterruptedWithdrawal):
        cohorts.withdrawn_ids(cohort)
    report = finish_interrupted(cohort)
    assert report is not None
    assert report.cases == 2
    assert finish_interrupted(cohort) is None
    assert len(cohorts.read_cohort(cohort).cases) == 2


def test_a_run_outside_the_runs_is_caught_by_the_tombstones(cohort: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere", ["SIM-00002_01"])
    withdraw(cohort, ["SIM-00001"])
    lineage.refuse_tainted(run, use="draw", cohort=cohort)
    withdraw(cohort, ["SIM-00002"])
    with pytest.raises(UsageError, match="withdrawn"):
        lineage.refuse_tainted(run, use="draw", cohort=cohort)
    assert read_taint(run) is not None
