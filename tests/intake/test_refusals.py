"""Refusals beyond one spoiled file: series, targets, readers, deliveries; and nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError
from diffusion_adc.domain.signal import dwi_signal
from diffusion_adc.intake import nifti_examination
from diffusion_adc.intake.audit import audit_cohort
from diffusion_adc.intake.check import check_cohort
from diffusion_adc.intake.ingest import IngestOptions
from diffusion_adc.records.cohort import read_cohort, write_case, write_manifest


def series(desk: Any, b_values: list[float], bval: str | None = None, seed: int = 0, **how: Any) -> Path:
    """A case whose diffusion images are one 4-D file named dwi."""
    content = desk.exam(seed)
    folder = desk.add(content=content, without=("dwi_low", "dwi_high"))
    s0 = content["t2w"] / 1.3
    images = [np.where(s0 > 0, dwi_signal(s0, b % 1e9, content["adc"] / 1000), 0) for b in b_values]
    desk.put(folder, "dwi", np.stack(images, -1), **how)
    text = " ".join(f"{b:g}" for b in b_values) if bval is None else bval
    if text:
        (folder / "dwi.bval").write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("b_values", "declared", "kept"),
    [
        ([0, 1000], {}, (0, 1000)),
        ([1000, 0], {}, (0, 1000)),
        ([50, 400, 800], {}, (50, 800)),
        ([800, 800, 50, 800], {}, (50, 800)),
        ([0, 50, 400, 800, 1500], {}, (0, 800)),
        ([0, 50, 400, 800, 1500], {"dwi_low": "50", "dwi_high": "1500"}, (50, 1500)),
        ([0.004, 995, 1005], {}, (0.004, 1000)),
        ([1_000_000_050, 1_000_000_900], {}, (50, 900)),
    ],
)
def test_a_series_gives_its_low_and_high_b(
    desk: Any, b_values: list[float], declared: dict[str, str], kept: tuple[float, float]
) -> None:
    series(desk, b_values, dtype=np.float64, bval=" ".join(map(repr, b_values)))
    case = desk.only_case(b_values=declared)
    assert (case.b_low, case.b_high) == pytest.approx(kept)
    content = desk.exam()
    for name, b in zip((seq.DWI_LOW, seq.DWI_HIGH), kept, strict=True):
        expected = dwi_signal(content["t2w"] / 1.3, b, content["adc"] / 1000)
        np.testing.assert_allclose(desk.stored(case, name), expected, rtol=6e-3)
    record = json.loads((desk.out / "cases" / case.case_id / "case.json").read_text())
    assert record["adc_agreement"]["verdict"] == "pass"
    assert sorted(record["b_measured"]) == record["b_measured"]


def test_directions_of_one_b_become_their_geometric_mean(desk: Any) -> None:
    folder = series(desk, [0, 900, 900, 900])
    content = desk.exam()
    body = content["t2w"] > 0
    s0, adc = content["t2w"] / 1.3, content["adc"] / 1000
    directions = [np.where(body, dwi_signal(s0, 900, adc * share), 0) for share in (0.8, 1.0, 1.2)]
    desk.put(folder, "dwi", np.stack([s0, *directions], -1))
    case = desk.only_case(b_values={})
    expected = np.where(body, dwi_signal(s0, 900, adc), 0)
    np.testing.assert_allclose(desk.stored(case, seq.DWI_HIGH), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("b_values", "bval", "options", "code"),
    [
        ([0, 800], "-", {}, "S12"),
        ([0, 800], "", {}, "S24"),
        ([0, 800], "0 800 800", {}, "S12"),
        ([0, 800], "0", {}, "S12"),
        ([0, 800], "0 -800", {}, "S12"),
        ([0, 800], "0 nan", {}, "S12"),
        ([0, 800], "0 20000", {}, "S12"),
        ([800, 800], None, {}, "S13"),
        ([0, 50], None, {}, "S12"),
        ([400, 800], None, {}, "S13"),
        ([0, 800], None, {"dwi_high": "1500"}, "S12"),
        ([0, 800], None, {"dwi_low": "400"}, "S12"),
        ([0, 800], "1000 0", {}, "S16"),
    ],
)
def test_series_that_cannot_be_split_are_refused(
    desk: Any, b_values: list[float], bval: str | None, options: dict[str, str], code: str
) -> None:
    series(desk, b_values, bval)
    assert desk.refusal(b_values=options).startswith(f"{code} CASE-001 ")


def test_a_series_and_single_images_contradict_each_other(desk: Any) -> None:
    folder = series(desk, [0, 800])
    desk.put(folder, "dwi_high", desk.exam()["dwi_high"])
    assert desk.refusal().startswith("S01 CASE-001 dwi: ")


def test_a_single_image_may_be_called_dwi(desk: Any) -> None:
    folder = desk.add(without=("dwi_low",))
    (folder / "dwi_high.nii.gz").rename(folder / "dwi.nii.gz")
    case = desk.only_case(names={"dwi_high": "dwi"}, allow_missing=("dwi_low",))
    assert (case.b_low, case.b_high) == (None, 800)


def test_a_list_beside_a_single_image_states_its_b(desk: Any) -> None:
    for name, b in (("dwi_low", 50), ("dwi_high", 800)):
        (desk.add() / f"{name}.bval").write_text(f"{b}\n")
    case = desk.only_case(b_values={})
    assert (case.b_low, case.b_high) == (50, 800)


@pytest.mark.parametrize("text", ["1000", "0 800", "b800", "-1", ""])
def test_a_list_that_contradicts_the_declaration_is_refused(desk: Any, text: str) -> None:
    (desk.add() / "dwi_high.bval").write_text(text)
    assert desk.refusal().startswith("S12 CASE-001 dwi_high: ")


def test_maps_of_another_person_are_refused_though_their_median_fits(desk: Any) -> None:
    for number in range(3):
        content = desk.exam(seed=number) | {"adc": desk.exam(seed=number + 50)["adc"]}
        desk.add(f"CASE-{number:03d}", content)
    report = desk.ingest()
    assert [message[:3] for message in report.refused] == ["S16"] * 3


def test_an_edited_map_is_a_target(desk: Any) -> None:
    content = desk.exam()
    edited = content["adc"] * content.pop("tumor_label")
    desk.add(content=content | {"tumor_adc": edited})
    case = desk.only_case()
    assert np.array_equal(desk.stored(case, seq.TUMOR_ADC), (edited * 1e-3).astype(np.float32))
    assert case.tumor_status == "present"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda t, a: t * 1.1, "S23"),
        (lambda t, a: t * 1e-3, "S23"),
        (lambda t, a: a * 0.5, "S23"),
        (lambda t, a: np.where(t > 0, t, np.nan), "S18"),
        (lambda t, a: t[:-1], "S20"),
        (lambda t, a: t * 0, "S19"),
    ],
)
def test_an_edited_map_that_is_no_selection_is_refused(
    desk: Any, spoil: Callable[[np.ndarray, np.ndarray], np.ndarray], code: str
) -> None:
    content = desk.exam()
    edited = spoil(content["adc"] * content.pop("tumor_label"), content["adc"])
    desk.add(content=content | {"tumor_adc": edited})
    assert desk.refusal().startswith(f"{code} CASE-001 tumor_adc: ")


def test_a_picture_of_an_edited_map_is_refused(desk: Any) -> None:
    content = desk.exam()
    folder = desk.add(content=content, without=("tumor_label",))
    for dtype in (np.uint8, np.int8):
        desk.put(folder, "tumor_adc", content["adc"] * content["tumor_label"] / 20, dtype=dtype)
        assert desk.refusal().startswith("S26 CASE-001 tumor_adc: ")


def test_label_and_edited_map_must_keep_the_same(desk: Any) -> None:
    content = desk.exam()
    desk.add(content=content | {"tumor_adc": content["adc"] * np.roll(content["tumor_label"], 2, 0)})
    assert desk.refusal().startswith("S23 CASE-001 tumor_adc: ")


def test_a_target_that_was_not_declared_missing_is_missed(desk: Any) -> None:
    desk.add()
    assert desk.refusal(names={"tumor_label": "lesionn"}).startswith("S01 CASE-001 tumor_label: ")
    case = desk.only_case(names={"tumor_label": "lesionn"}, allow_missing=("tumor_label",))
    assert case.tumor_status == "unknown"
    assert "missing:tumor_label" in case.declared


def readers(desk: Any, own: str | None, **moved: int) -> Path:
    content = desk.exam()
    folder = desk.add(content=content, without=("tumor_label",))
    for name, shift in moved.items():
        desk.put(folder / "readers" / name, "tumor_label", np.roll(content["tumor_label"], shift, 0))
    if own is not None:
        desk.put(folder, "tumor_label", np.roll(content["tumor_label"], moved.get(own, 9), 0))
    return folder


@pytest.mark.parametrize(("own", "order"), [(None, ("R1", "R2")), ("R1", ("R1", "R2")), ("R2", ("R2", "R1"))])
def test_readers_keep_their_own_maps(desk: Any, own: str | None, order: tuple[str, ...]) -> None:
    readers(desk, own, R1=0, R2=1)
    case = desk.only_case()
    assert case.readers == order
    assert np.array_equal(desk.stored(case, seq.TUMOR_LABEL), desk.stored(case, seq.TUMOR_LABEL, order[0]))
    (row,) = audit_cohort(desk.out)
    assert row["readers"] == 2
    assert row["readers_dice"] == pytest.approx(2 / 3)
    assert (row["residual"], row["code"]) == (0.0, "")


def test_a_map_of_no_reader_or_a_reader_by_name_is_refused(desk: Any) -> None:
    readers(desk, "nobody", R1=0, R2=1)
    assert desk.refusal().startswith("S23 CASE-001 tumor_label: ")
    desk.put(desk.source / "CASE-001" / "readers" / "Dr. Mueller", "tumor_label", desk.exam()["tumor_label"])
    message = desk.refusal()
    assert message.startswith("X8 CASE-001 tumor_label: ")
    assert "Mueller" not in message


def test_one_map_under_two_ids_is_refused_twice(desk: Any) -> None:
    desk.add("CASE-001")
    desk.add("CASE-002", desk.exam(seed=2))
    desk.add("CASE-003")
    report = desk.ingest()
    assert sorted(message[:13] for message in report.refused) == ["S31 CASE-001 ", "S31 CASE-003 "]
    assert [row["case"] for row in report.cases] == ["CASE-002_01"]
    assert [path.name for path in (desk.out / "cases").iterdir()] == ["CASE-002_01"]


def test_examinations_of_one_person_stay_together(desk: Any) -> None:
    for person in range(10):
        desk.add(f"{person:05d}", desk.exam(seed=2 * person))
        desk.add(f"{person:05d}_02", desk.exam(seed=2 * person + 1))
    desk.add("P-00003_02", desk.exam(seed=99))
    report = desk.ingest(id_prefix="P")
    assert len(report.cases) == 20
    assert [message.split(":")[0] for message in report.refused] == ["S31 P-00003"]
    cohort = read_cohort(desk.out)
    assert {case.exam_order for case in cohort.cases} == {1, 2}
    for person in {case.research_id for case in cohort.cases}:
        assert len({case.split for case in cohort.cases if case.research_id == person}) == 1


def test_every_refusal_is_named_though_no_case_is_left(desk: Any) -> None:
    for number in range(3):
        (desk.add(f"CASE-{number:03d}") / "adc.nii.gz").write_bytes(b"\x1f\x8bno")
    report = desk.ingest()
    assert len(report.refused) == 3
    assert not desk.out.exists()
    assert "no case left" in report.table()
    assert [path.name for path in desk.root.iterdir()] == ["in"]


def test_a_withdrawn_person_is_not_taken_in_again(desk: Any) -> None:
    desk.add("CASE-001")
    desk.add("CASE-002", desk.exam(seed=2))
    desk.ingest()
    (desk.out / "withdrawn.jsonl").write_text(json.dumps({"research_id": "CASE-001"}) + "\n")
    report = desk.ingest(overwrite=True)
    assert report.refused[0].startswith("CASE-001: a person who withdrew")
    assert [case.research_id for case in read_cohort(desk.out).cases] == ["CASE-002"]
    assert "CASE-001" in (desk.out / "withdrawn.jsonl").read_text()
    assert not (desk.out / "cases" / "CASE-001_01").exists()


def test_a_file_that_breaks_a_reader_does_not_stop_the_batch(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.add("CASE-001")
    desk.add("CASE-002", desk.exam(seed=2))
    real = nifti_examination.read_volume

    def broken(path: Path, research_id: str, name: str) -> Any:
        if research_id == "CASE-001":
            raise MemoryError("a secret from the file")
        return real(path, research_id, name)

    monkeypatch.setattr(nifti_examination, "read_volume", broken)
    report = desk.ingest()
    assert [row["case"] for row in report.cases] == ["CASE-002_01"]
    assert report.refused[0].startswith("S25 CASE-001: ")
    assert "secret" not in report.refused[0]


def test_a_full_disk_stops_the_batch_and_leaves_nothing(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.add("CASE-001")
    calls = iter(range(100))
    real = os.fsync

    def full(descriptor: int) -> None:
        if next(calls) >= 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffusionAdcError, match="No space left") as caught:
        desk.ingest()
    assert caught.value.exit_code == 1
    assert [path.name for path in desk.root.iterdir()] == ["in"]


def test_links_out_of_the_source_are_refused(desk: Any) -> None:
    folder = desk.add("CASE-001")
    outside = desk.root / "elsewhere.nii.gz"
    (folder / "t1w.nii.gz").rename(outside)
    (folder / "t1w.nii.gz").symlink_to(outside)
    assert desk.refusal().startswith("X8 CASE-001 t1w: ")
    (folder / "t1w.nii.gz").unlink()
    folder.rename(desk.root / "CASE-001")
    folder.symlink_to(desk.root / "CASE-001", target_is_directory=True)
    assert desk.refusal().startswith("X8 CASE-001: ")


def test_two_files_for_one_sequence_are_refused(desk: Any) -> None:
    folder = desk.add("CASE-001")
    (folder / "adc.nii").write_bytes(gzip.decompress((folder / "adc.nii.gz").read_bytes()))
    assert desk.refusal().startswith("S01 CASE-001 adc: ")


def test_a_grid_in_meters_is_refused(desk: Any) -> None:
    desk.put(desk.add(), "adc", desk.exam()["adc"], xyzt_units=1)
    assert desk.refusal().startswith("S28 CASE-001 adc: ")


def test_source_and_out_must_be_two_places(desk: Any) -> None:
    folder = desk.add()
    for source, out in ((desk.source, desk.source / "cohort"), (desk.source, desk.root)):
        with pytest.raises(UsageError, match="in one another"):
            intake(source, out)
    with pytest.raises(UsageError, match="itself holds the files"):
        intake(folder, desk.out)


def intake(source: Path, out: Path) -> None:
    from diffusion_adc.intake.ingest import ingest

    ingest(source, out, IngestOptions(adc_unit="1e-6"))


@pytest.mark.parametrize(
    "options",
    [
        {"names": {"adc": "../adc"}}, {"names": {"adc": ""}}, {"names": {"valid": "mask"}}, {"id_prefix": "PI-CAI"},
        {"id_prefix": "９"}, {"label_values": "5-1"}, {"label_values": ""}, {"allow_missing": ("tumor_adc",)},
    ],
)  # fmt: skip
def test_declarations_that_cannot_hold_are_wrong_usage(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        IngestOptions(**{"adc_unit": "1e-6", **options})


def rewrite(desk: Any, changed: dict[str, np.ndarray]) -> None:
    """Put a cohort on disk whose volumes were changed by whoever wrote it, hashes and all."""
    cohort = read_cohort(desk.out)
    (case,) = cohort.cases
    volumes = {name: desk.stored(case, name) for name in case.files} | changed
    written = write_case(desk.out, replace(case, readers=()), volumes, desk.grid())
    write_manifest(desk.out, Cohort((written,)))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda v: {"adc": v["adc"] * 1000, "tumor_adc": v["tumor_adc"] * 1000}, "S14"),
        (lambda v: {"adc": np.where(np.indices(v["adc"].shape).sum(0) % 9 == 0, -v["adc"], v["adc"])}, "S17"),
        (lambda v: {"valid": np.ones_like(v["valid"])}, "S17"),
        (lambda v: {"dwi_low": v["dwi_high"], "dwi_high": v["dwi_low"]}, "S16"),
        (lambda v: {"adc": v["adc"] * np.float32(1.3)}, "S16"),
        (lambda v: {}, ""),
    ],
)
def test_check_finds_what_is_wrong_in_a_cohort(
    desk: Any, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], code: str
) -> None:
    desk.add()
    case = desk.only_case()
    rewrite(desk, change({name: desk.stored(case, name) for name in case.files}))
    (row,) = check_cohort(desk.out)
    assert row["code"] == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda v: {"tumor_adc": v["tumor_adc"] * np.float32(1.0001)}, "S23"),
        (lambda v: {"tumor_adc": v["adc"]}, "S23"),
        (lambda v: {"tumor_label": np.roll(v["tumor_label"], 1, 0)}, "S23"),
        (lambda v: {"tumor_adc": v["tumor_adc"] * 0, "tumor_label": v["tumor_label"] * 0}, ""),
    ],
)
def test_audit_finds_targets_that_are_no_selection(
    desk: Any, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], code: str
) -> None:
    desk.add()
    case = desk.only_case()
    rewrite(desk, change({name: desk.stored(case, name) for name in case.files}))
    (row,) = audit_cohort(desk.out)
    assert row["code"] == code
