"""A reviewer's decisions become a reader's map, exactly; everything else is refused and changes nothing."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake.corrections import SCHEMA, ingest_corrections, read_corrections
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
SHAPE = (20, 18, 6)
BOXES = (np.s_[2:6, 2:6, 1:3], np.s_[10:13, 4:7, 2:4], np.s_[14:16, 12:15, 4])


class Bench:
    """A cohort of one case, its map of three lesions and a corrections file."""

    def __init__(
        self, root: Path, *, readers: tuple[str, ...] = (), target: bool = True, status: str = "present"
    ):
        self.cohort, self.maps, self.file = root / "cohort", root / "maps", root / "corrections.json"
        rng = np.random.default_rng(0)
        self.adc = rng.uniform(0.5, 2.0, SHAPE).astype(np.float32)
        presence = np.zeros(SHAPE, dtype=bool)
        for box in BOXES:
            presence[box] = True
        own = np.zeros(SHAPE, dtype=np.uint16)
        own[BOXES[0]] = 0 if status == "absent" else 1
        own_maps = {seq.TUMOR_ADC: np.where(own > 0, self.adc, 0), seq.TUMOR_LABEL: own}
        volumes = {seq.ADC: self.adc, seq.DWI_HIGH: self.adc * 100, seq.VALID: np.ones(SHAPE)}
        case = Case("CASE-001", 1, tumor_status=status, provenance="synthetic")
        done = cohorts.write_case(
            self.cohort, case, volumes | (own_maps if target else {}), AFFINE, dict.fromkeys(readers, own_maps) or None
        )  # fmt: skip
        cohorts.write_manifest(self.cohort, Cohort((done,), provenance="synthetic"))
        self.tumor = np.where(presence, self.adc, np.float32(0))
        volume = np.zeros((*SHAPE, 1), dtype=np.uint8)
        files.write_map_case(
            self.maps, "CASE-001_01",
            {files.TUMOR_ADC: self.tumor, files.PROBABILITY: self.tumor, files.DRAWS: volume,
             files.BASE_PROBABILITY: self.tumor}, AFFINE, [], {"n_lesions": 3},
        )  # fmt: skip
        files.write_maps_manifest(self.maps, {"run": "r", "cases": ["CASE-001_01"]})
        labels, _ = ndimage.label(presence, np.ones((3, 3, 3)))
        self.record: dict[str, Any] = {
            "schema": SCHEMA, "run": "r",
            "cases": [{
                "case_id": "CASE-001_01",
                "tumor_adc_sha256": files.read_map_record(self.maps, "CASE-001_01")["sha256"]["tumor_adc"],
                "lesions": [
                    {"lesion": n, "seed": [int(v) for v in np.argwhere(labels == n)[0]],
                     "voxels": int((labels == n).sum()), "decision": d, "comment": c}
                    for n, d, c in ((1, "keep", ""), (2, "remove", "bowel of MR. CANARY"), (3, "unsure", ""))
                ],
            }],
        }  # fmt: skip

    def ingest(self, reader: str = "REV1", record: Any = None) -> Any:
        self.file.write_text(json.dumps(self.record if record is None else record))
        return ingest_corrections(self.cohort, self.maps, self.file, reader)

    @property
    def case(self) -> Case:
        return cohorts.read_cohort(self.cohort).cases[0]

    def stored(self, reader: str | None, name: str = seq.TUMOR_ADC) -> Any:
        return cohorts.load_volume(self.cohort, self.case, name, reader).array


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **options: Bench(tmp_path, **options)


def test_kept_and_unsure_lesions_stay_bit_equal_and_removed_ones_go(bench: Callable[..., Bench]) -> None:
    desk = bench(readers=("R1",))
    before = cohorts.read_cohort(desk.cohort).digest
    report = desk.ingest()
    assert report.refused == []
    expected = desk.tumor.copy()
    expected[BOXES[1]] = 0
    assert desk.stored("REV1").tobytes() == expected.tobytes()
    labels = desk.stored("REV1", seq.TUMOR_LABEL)
    assert set(np.unique(labels[BOXES[0]])) == {1}
    assert set(np.unique(labels[BOXES[2]])) == {2}
    assert desk.case.readers == ("R1", "REV1")
    assert np.array_equal(desk.stored("R1"), desk.stored(None))  # the first reader's stays the case's own
    after = cohorts.read_cohort(desk.cohort).digest
    assert after == report.digest != before
    row = report.cases[0]
    assert (row["keep"], row["remove"], row["unsure"]) == (1, 1, 1)
    assert row["volume_ml"] == pytest.approx((32 + 6) * 0.016)
    record = json.loads((desk.cohort / "cases" / "CASE-001_01" / "case.json").read_text())
    noted = record["corrections"]["REV1"]["lesions"]
    assert [(n["decision"], n["label"]) for n in noted] == [("keep", 1), ("remove", 0), ("unsure", 2)]
    assert record["files"] == dict(desk.case.files)
    assert len(cohorts.presence_readings(desk.cohort, desk.case)) == 2


def test_comments_enter_no_cohort(bench: Callable[..., Bench]) -> None:
    desk = bench(readers=("R1",))
    report = desk.ingest()
    assert report.comments == 1
    assert "stay in the corrections files" in report.table()
    for path in desk.cohort.rglob("*"):
        if path.is_file():
            assert b"CANARY" not in path.read_bytes()


def test_two_reviewers_follow_one_another(bench: Callable[..., Bench]) -> None:
    desk = bench(readers=("R1",))
    assert not desk.ingest("REV1").refused
    assert not desk.ingest("REV2").refused
    assert desk.case.readers == ("R1", "REV1", "REV2")
    again = desk.ingest("REV2")
    assert "a second time" in again.refused[0]


def test_an_unnamed_target_becomes_the_first_reader(bench: Callable[..., Bench]) -> None:
    desk = bench()
    assert not desk.ingest().refused
    assert desk.case.readers == ("delivered", "REV1")
    assert np.array_equal(desk.stored("delivered"), desk.stored(None))


def test_a_case_without_target_gets_its_first(bench: Callable[..., Bench]) -> None:
    desk = bench(target=False, status="unknown")
    assert not desk.ingest().refused
    assert desk.case.readers == ("REV1",)
    assert desk.case.tumor_status == "present"
    assert np.array_equal(desk.stored("REV1"), desk.stored(None))
    assert desk.case.has_target


def test_nothing_left_of_an_unread_case_is_no_tumor_free_case(bench: Callable[..., Bench]) -> None:
    desk = bench(target=False, status="unknown")
    for row in desk.record["cases"][0]["lesions"]:
        row["decision"] = "remove"
    assert desk.ingest().refused[0].startswith("S19 CASE-001 tumor_label")


def test_lesions_kept_in_a_tumor_free_case_are_doubted(bench: Callable[..., Bench]) -> None:
    report = bench(readers=("R1",), status="absent").ingest()
    assert report.warnings == ["S19 CASE-001 tumor_label: lesions kept in a case declared tumor-free"]


def lesion(record: dict[str, Any], n: int = 0) -> dict[str, Any]:
    return record["cases"][0]["lesions"][n]  # type: ignore[no-any-return]


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no decision": lambda r: lesion(r).update(decision=None),
    "another word": lambda r: lesion(r).update(decision="maybe"),
    "another size": lambda r: lesion(r).update(voxels=31),
    "a seed outside the lesion": lambda r: lesion(r).update(seed=[0, 0, 0]),
    "a seed outside the grid": lambda r: lesion(r).update(seed=[-18, 2, 1]),
    "a seed of floats": lambda r: lesion(r).update(seed=[2.0, 2, 1]),
    "a seed of two": lambda r: lesion(r).update(seed=[2, 2]),
    "a lesion left out": lambda r: r["cases"][0]["lesions"].pop(),
    "a lesion twice": lambda r: r["cases"][0]["lesions"].append(copy.deepcopy(lesion(r))),
    "a number twice": lambda r: lesion(r).update(lesion=2),
    "another map": lambda r: r["cases"][0].update(tumor_adc_sha256="0" * 64),
    "another case": lambda r: r["cases"][0].update(case_id="CASE-002_01"),
    "a path as case": lambda r: r["cases"][0].update(case_id="../CASE-001_01"),
    "full-width digits": lambda r: r["cases"][0].update(case_id="CASE-００１_01"),
    "a newline": lambda r: r["cases"][0].update(case_id="CASE-001_01\n"),
    "another schema": lambda r: r.update(schema="diffusion-adc/corrections/2"),
    "no cases": lambda r: r.update(cases=[]),
    "a long comment": lambda r: lesion(r).update(comment="x" * 501),
    "a comment of numbers": lambda r: lesion(r).update(comment=7),
    "true as a count": lambda r: lesion(r).update(voxels=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_the_map_is_refused_and_changes_nothing(
    name: str, bench: Callable[..., Bench]
) -> None:
    desk = bench(readers=("R1",))
    before = {p: p.read_bytes() for p in desk.cohort.rglob("*") if p.is_file()}
    WRONG[name](desk.record)
    report = desk.ingest()
    assert not report.cases
    assert len(report.refused) == 1
    assert str(desk.cohort.parent) not in report.refused[0]
    assert {p: p.read_bytes() for p in desk.cohort.rglob("*") if p.is_file()} == before


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["schema", "cases", "case_id", "lesions", "seed", "x"]), inner, max_size=4),
    max_leaves=8,
)))  # fmt: skip
def test_any_other_file_is_refused_in_one_way(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("c") / "file.json"
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(raw)
    with pytest.raises(CaseError, match="holds no corrections"):
        read_corrections(path)


def test_deep_and_large_files_are_refused(tmp_path: Path) -> None:
    for name, raw in (("deep", b"[" * 200_000), ("large", b'"' + b"x" * (9 * 2**20) + b'"')):
        path = tmp_path / name
        path.write_bytes(raw)
        with pytest.raises(CaseError, match="holds no corrections"):
            read_corrections(path)


@pytest.mark.parametrize("reader", ["", "../R", "山田", "a b", "x" * 33])
def test_a_reader_is_a_code(reader: str, bench: Callable[..., Bench]) -> None:
    with pytest.raises(UsageError, match="reader's code"):
        bench(readers=("R1",)).ingest(reader)


def test_a_folder_of_files_and_none_at_all(bench: Callable[..., Bench], tmp_path: Path) -> None:
    desk = bench(readers=("R1",))
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(UsageError, match="no corrections there"):
        ingest_corrections(desk.cohort, desk.maps, folder, "REV1")
    (folder / "a.json").write_text(json.dumps(desk.record))
    (folder / "b.json").write_text("{}")
    report = ingest_corrections(desk.cohort, desk.maps, folder, "REV1")
    assert len(report.cases) == 1
    assert report.refused == [
        "a file that holds no corrections; expected JSON of the schema diffusion-adc/corrections/1; save the "
        "corrections again from the review page of these maps (file 2 of 2)"
    ]


def test_an_interruption_leaves_the_cohort_as_it_was(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = bench(readers=("R1",))
    before = {p: p.read_bytes() for p in desk.cohort.rglob("*") if p.is_file()}
    calls = 0
    real = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for stop in range(1, 9):
        calls = 0
        with pytest.raises(Exception, match="could not be written"):
            desk.ingest()
        assert {p: p.read_bytes() for p in desk.cohort.rglob("*") if p.is_file()} == before, stop
        assert [p.name for p in desk.cohort.parent.iterdir() if p.name.startswith(".")] == []
