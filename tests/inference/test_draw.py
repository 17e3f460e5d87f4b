from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from scipy.special import expit

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError, UsageError
from diffusion_adc.inference import draw as drawing
from diffusion_adc.inference.calibrate import FILE, fit_thresholds, read_calibration
from diffusion_adc.inference.draw import DrawSettings, draw_cohort
from diffusion_adc.inference.native import draw_native
from diffusion_adc.inference.run import load_run
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.maps import (
    LESION_COLUMNS,
    map_case_ids,
    read_map_record,
    read_map_volume,
    read_maps_manifest,
)

MakeRun = Callable[..., Path]
MakeCohort = Callable[..., Path]


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _edit(run: Path, group: str, **changes: Any) -> None:
    path = run / "experiment.yaml"
    values = yaml.safe_load(path.read_text())
    section = values[group] if group == "draws" else values[group]["init_args"]
    section.update(changes)
    path.write_text(yaml.safe_dump(values))


def test_maps_of_the_test_split_keep_geometry_and_values(
    tiny_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    out = draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps", progress=lambda d, t: seen.append((d, t)))
    assert out == tmp_path / "maps"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two validation cases, two test cases
    cohort = read_cohort(tiny_cohort)
    assert map_case_ids(out) == [case.case_id for case in cohort.split("test")]
    manifest = read_maps_manifest(out)
    assert manifest["cohort_digest"] == cohort.digest
    assert (manifest["draws"], manifest["steps"], manifest["seed"], manifest["split"]) == (3, 2, 0, "test")
    assert (manifest["run"], manifest["complete"], manifest["refused"]) == ("run", True, {})
    assert manifest["settings"]["slice_correlation"] == 0.9
    assert manifest["thresholds_fitted_on_these_cases"] is False
    assert str(tmp_path) not in json.dumps(manifest)
    for case in cohort.split("test"):
        adc = load_volume(tiny_cohort, case, seq.ADC)
        made = {
            name: read_map_volume(out, case.case_id, name) for name in ("tumor_adc", "probability", "draws")
        }
        raw = (tiny_cohort / "cases" / case.case_id / "adc.nii.gz", out / case.case_id / "tumor_adc.nii.gz")
        headers = [nib.load(path).header for path in raw]
        assert np.array_equal(headers[0].get_sform(), headers[1].get_sform())
        assert np.allclose(headers[0].get_qform(), headers[1].get_qform(), atol=1e-6)  # quaternions round
        tumor, measured = made["tumor_adc"].array, np.asarray(adc.array, dtype=np.float32)
        bits = tumor.view(np.uint32)
        assert not ((bits != 0) & (bits != measured.view(np.uint32))).any()
        assert made["draws"].array.shape == (*measured.shape, 3)
        assert np.allclose(made["draws"].array.mean(-1), made["probability"].array)
        usable = np.asarray(load_volume(tiny_cohort, case, seq.VALID).array, dtype=bool)
        kept = usable & (made["probability"].array >= np.float32(manifest["tau"]))
        assert np.array_equal(tumor != 0, kept)
        record = read_map_record(out, case.case_id)
        assert record["tau"] == manifest["tau"]
        assert set(record["tdv_ml"]) == {"map", "median", "low80", "high80", "nominal"}
        assert "missing:t1w" in record["flags"]
        header = (out / case.case_id / "lesions.csv").read_text().splitlines()[0]
        assert tuple(header.split(",")) == LESION_COLUMNS


def test_a_rerun_an_interruption_and_a_fresh_run_give_the_same_files(
    tiny_run: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = _digests(draw_cohort(tiny_run, tiny_cohort, tmp_path / "fresh", "all"))
    out, real, calls = tmp_path / "cut", drawing.draw_case, []

    def stops(*args: Any) -> Any:
        calls.append(args[3].case_id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(drawing, "draw_case", stops)
    with pytest.raises(KeyboardInterrupt):
        draw_cohort(tiny_run, tiny_cohort, out, "all")
    assert len(map_case_ids(out)) == 3
    assert read_maps_manifest(out)["complete"] is False
    draw_cohort(tiny_run, tiny_cohort, out, "all")
    assert len(calls) == 7  # three kept, three drawn
    assert _digests(out) == fresh
    draw_cohort(tiny_run, tiny_cohort, out, "all")
    assert len(calls) == 7
    draw_cohort(tiny_run, tiny_cohort, out, "all", resume=False)
    assert len(calls) == 13
    assert _digests(out) == fresh


def test_other_settings_damage_and_old_scores_are_redrawn(
    tiny_run: Path, tiny_cohort: Path, tmp_path: Path
) -> None:
    out = draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps")
    before, first = _digests(out), map_case_ids(out)[0]
    (out / "scores.json").write_text("{}")
    draw_cohort(tiny_run, tiny_cohort, out)
    assert (out / "scores.json").exists()  # nothing was redrawn, so the scores still hold
    volume = out / first / "draws.nii.gz"
    volume.write_bytes(volume.read_bytes()[:-1])
    draw_cohort(tiny_run, tiny_cohort, out)
    assert not (out / "scores.json").exists()
    assert _digests(out) == before
    (out / first / "lesions.csv").unlink()
    draw_cohort(tiny_run, tiny_cohort, out, settings=DrawSettings(draws=3, steps=2, batch=1))
    assert _digests(out).keys() == before.keys()
    draw_cohort(tiny_run, tiny_cohort, out, settings=DrawSettings(draws=4, steps=2))
    assert read_map_volume(out, first, "draws").array.shape[-1] == 4
    four = read_map_volume(out, first, "draws").array
    draw_cohort(tiny_run, tiny_cohort, out)
    assert np.array_equal(read_map_volume(out, first, "draws").array, four[..., :3])


def test_thresholds_come_from_validation_cases_once(
    tiny_run: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(tiny_run)
    assert read_calibration(run) is None
    drawn: list[str] = []
    real = draw_native

    def watched(*args: Any, **options: Any) -> Any:
        drawn.append(args[3].case_id)
        return real(*args, **options)

    monkeypatch.setattr("diffusion_adc.inference.calibrate.draw_native", watched)
    calibration = fit_thresholds(run, tiny_cohort)
    cohort = read_cohort(tiny_cohort)
    assert drawn == [case.case_id for case in cohort.split("val")]
    assert calibration.cohort_digest == cohort.digest
    assert calibration.tau in (pytest.approx(1 / 6), 0.5, pytest.approx(5 / 6))
    assert 0 < calibration.base_tau < 1
    assert 0.1 <= calibration.temperature <= 10
    assert json.loads((tiny_run / FILE).read_text()) == calibration.record()
    out = draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps")
    assert len(drawn) == 2  # not fitted again
    manifest = read_maps_manifest(out)
    assert (manifest["tau"], manifest["base_tau"]) == (calibration.tau, calibration.base_tau)
    logit = np.array([-40.0, -1.0, 0.0, 3.0])
    assert np.allclose(calibration.base_probability(logit), expit(logit / calibration.temperature))
    # Another checkpoint's thresholds are not this one's.
    assert read_calibration(load_run(tiny_run, "last")) is None
    val = draw_cohort(tiny_run, tiny_cohort, tmp_path / "val", "val")
    assert read_maps_manifest(val)["thresholds_fitted_on_these_cases"] is True


def test_a_cohort_without_validation_uses_the_run_s_thresholds(
    tiny_run: Path, make_cohort: MakeCohort, tmp_path: Path
) -> None:
    single = make_cohort("single", shape=(19, 33, 3), splits="E")
    out = draw_cohort(tiny_run, single, tmp_path / "maps", "all")  # the run's own cohort gives the thresholds
    assert map_case_ids(out) == ["TINY0000_01"]
    assert (tiny_run / FILE).exists()
    assert read_maps_manifest(out)["calibration"]["cases"] == 2


def test_without_any_thresholds_the_command_that_makes_them_is_named(
    make_run: MakeRun, make_cohort: MakeCohort, tmp_path: Path
) -> None:
    run = make_run("lonely", tmp_path / "gone")
    single = make_cohort("single", shape=(19, 33, 3), splits="E")
    with pytest.raises(UsageError, match="--split val") as caught:
        draw_cohort(run, single, tmp_path / "maps", "all")
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "maps").exists()


def test_one_bad_case_does_not_stop_the_others(
    tiny_run: Path, make_cohort: MakeCohort, tmp_path: Path
) -> None:
    cohort = make_cohort("bad")
    bad, good = (case.case_id for case in read_cohort(cohort).split("test"))
    path = cohort / "cases" / bad / "dwi_high.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    out = draw_cohort(tiny_run, cohort, tmp_path / "maps")
    manifest = read_maps_manifest(out)
    assert map_case_ids(out) == [good]
    assert list(manifest["refused"]) == [bad]
    assert manifest["refused"][bad].startswith("S25 TINY0004 dwi_high")
    shutil.rmtree(cohort / "cases" / good)
    with pytest.raises(CaseError, match="S25"):
        draw_cohort(tiny_run, cohort, tmp_path / "none")


def test_a_full_disk_stops_the_work_and_leaves_nothing_half_written(
    tiny_run: Path, tiny_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps", "val")
    monkeypatch.setattr("diffusion_adc.records.maps.write_nifti", full)
    with pytest.raises(DiffusionAdcError, match="No space left"):
        draw_cohort(tiny_run, tiny_cohort, tmp_path / "full", "val")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["maps.json"]


def test_wrong_usage_is_said_in_one_line(tiny_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cohort in gone"):
        draw_cohort(tiny_run, tmp_path / "gone", tmp_path / "maps")
    with pytest.raises(UsageError, match="split 'tset'"):
        draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps", "tset")
    draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps", "val")
    with pytest.raises(UsageError, match="holds maps of 2 cases that are not among the 2 to draw"):
        draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps", "test")


def test_an_empty_split_is_an_error(tiny_run: Path, make_cohort: MakeCohort, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no case in the split test"):
        draw_cohort(tiny_run, make_cohort("few", splits="TV"), tmp_path / "maps")


def test_the_run_s_own_kind_of_split_decides(tiny_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    _edit(tiny_run, "data", split="temporal")
    out = draw_cohort(tiny_run, tiny_cohort, tmp_path / "maps")
    expected = [case.case_id for case in read_cohort(tiny_cohort).resplit("temporal").split("test")]
    assert map_case_ids(out) == sorted(expected)
    manifest = read_maps_manifest(out)
    assert (manifest["split_kind"], manifest["cases"]) == ("temporal", sorted(expected))


@pytest.mark.parametrize("dims", [2, 3])
def test_another_working_grid_comes_back_to_the_native_one(
    make_run: MakeRun, tiny_cohort: Path, tmp_path: Path, dims: int
) -> None:
    run = make_run("coarse", tiny_cohort, spatial_dims=dims)
    _edit(run, "data", spacing_mm=[3.5, 3.0, 4.0])
    out = draw_cohort(run, tiny_cohort, tmp_path / "maps", "val")
    for case in read_cohort(tiny_cohort).split("val"):
        adc = load_volume(tiny_cohort, case, seq.ADC)
        made = read_map_volume(out, case.case_id, "tumor_adc")
        assert made.array.shape == adc.array.shape
        assert np.array_equal(made.affine, adc.affine)
        kept = made.array != 0
        assert np.array_equal(made.array[kept], adc.array[kept])


def test_the_same_draws_in_any_batch(make_run: MakeRun, tiny_cohort: Path) -> None:
    for dims in (2, 3):
        run = load_run(make_run(f"run{dims}", tiny_cohort, spatial_dims=dims))
        cohort = read_cohort(tiny_cohort)
        case = cohort.split("test")[0]
        one, eight = (
            draw_native(run, tiny_cohort, cohort, case, DrawSettings(draws=3, steps=2, batch=batch))
            for batch in (1, 8)
        )
        assert np.allclose(one.base_logit, eight.base_logit, atol=1e-4)
        assert (one.draws != eight.draws).mean() < 1e-3


def test_a_run_with_covariates_reads_them(make_run: MakeRun, tiny_cohort: Path, tmp_path: Path) -> None:
    from diffusion_adc.domain.clinical import FEATURES

    run = make_run("clinical", tiny_cohort, n_covariates=len(FEATURES))
    _edit(run, "data", covariates=["age_years", "sex"])
    loaded = load_run(run)
    assert loaded.covariates == ("age_years", "sex")
    draw_cohort(run, tiny_cohort, tmp_path / "maps", "val")


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_do_not_depend_on_how_many_draws_are_made_at_once(
    make_run: MakeRun, tiny_cohort: Path, tmp_path: Path, dims: int
) -> None:
    run, before = make_run("run", tiny_cohort, spatial_dims=dims), torch.get_num_threads()
    settings = DrawSettings(draws=5, steps=2, batch=2)
    one, three = (
        draw_cohort(run, tiny_cohort, tmp_path / str(threads), "val", settings, threads=threads, device="cpu")
        for threads in (1, 3)
    )
    assert _digests(one) == _digests(three)
    assert torch.get_num_threads() == before


@pytest.mark.gpu
def test_a_gpu_draws_the_same_case(tiny_run: Path, tiny_cohort: Path) -> None:
    cohort = read_cohort(tiny_cohort)
    case = cohort.split("test")[0]
    settings = DrawSettings(draws=2, steps=2)
    cpu, gpu = (
        draw_native(load_run(tiny_run, device=device), tiny_cohort, cohort, case, settings)
        for device in ("cpu", "cuda")
    )
    assert np.allclose(cpu.base_logit, gpu.base_logit, atol=1e-2)
    assert (cpu.draws != gpu.draws).mean() < 1e-2
