"""The whole line once, through the command line: digital patients → run → maps → scores → page."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from diffusion_adc.cli import main
from diffusion_adc.domain import sequences as seq
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.maps import map_case_ids, read_map_volume

ROOT = Path(__file__).parents[1]
BASE = str(ROOT / "experiments" / "base.yaml")


@pytest.fixture(scope="module")
def maps(small_run: Path, phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "test"
    assert main(["draw", "--run", str(small_run), "--cohort", str(phantom_cohort), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def scores(maps: Path, phantom_cohort: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    truth = phantom_cohort.with_name("pelvis.truth")
    assert main(["evaluate", str(maps), "--cohort", str(phantom_cohort), "--truth", str(truth)]) == 0
    return json.loads((maps / "scores.json").read_text())


def test_the_run_holds_what_the_contract_lists(small_run: Path) -> None:
    for name in (
        "experiment.yaml",
        "record.json",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    ):
        assert (small_run / name).is_file(), name
    assert list((small_run / "grids").glob("*.png"))
    assert list((small_run / "wandb").glob("offline-run-*/*.wandb"))
    record = json.loads((small_run / "record.json").read_text())
    assert record["state"] == "finished"
    assert record["steps"] == 8
    rows = list(csv.DictReader((small_run / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [4, 8]
    assert all(float(row["val/loss"]) > 0 for row in rows)


def test_no_research_id_leaves_the_run(small_run: Path, phantom_cohort: Path) -> None:
    ids = {case.research_id.encode() for case in read_cohort(phantom_cohort).cases}
    for path in small_run.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(name in data for name in ids), path.name


def test_the_tracker_records_no_machine(small_run: Path) -> None:
    run_file = next((small_run / "wandb").glob("offline-run-*/*.wandb")).read_bytes()
    for secret in (sys.executable, os.uname().nodename, "/pytest", str(ROOT)):
        assert secret.encode() not in run_file


def test_maps_hold_only_the_scanners_values(maps: Path, phantom_cohort: Path) -> None:
    cohort = read_cohort(phantom_cohort)
    cases = {case.case_id: case for case in cohort.split("test")}
    assert map_case_ids(maps) == sorted(cases)
    for case_id, case in cases.items():
        drawn = read_map_volume(maps, case_id, "tumor_adc")
        adc = load_volume(phantom_cohort, case, seq.ADC)
        assert np.array_equal(drawn.affine, adc.affine)
        assert np.all((drawn.array == 0) | (drawn.array == adc.array))
        draws = read_map_volume(maps, case_id, "draws").array
        assert draws.shape == (*adc.array.shape, 3)
        assert set(np.unique(draws)) <= {0, 1}


def test_a_second_draw_changes_nothing(
    maps: Path, small_run: Path, phantom_cohort: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert main(["draw", "--run", str(small_run), "--cohort", str(phantom_cohort), "--out", str(again)]) == 0
    for path in maps.rglob("*.nii.gz"):
        assert (again / path.relative_to(maps)).read_bytes() == path.read_bytes()


def test_scores_hold_every_method_and_key(scores: dict[str, dict[str, dict[str, float | None]]]) -> None:
    keys = {
        "n_cases", "dice", "lesion_sensitivity", "lesion_precision", "lesion_f1", "lesion_ap", "fp_per_case",
        "fp_volume_ml", "fp_volume_reduction_vs_B2", "volume_sensitivity", "log_tdv_error", "gadc_error",
        "value_violations", "brier", "ece",
    }  # fmt: skip
    assert {"B0", "B1", "B2", "B3", "Oracle"} <= set(scores)
    for method, values in scores.items():
        assert keys <= set(values), method
        for value in values.values():
            assert set(value) == {"value", "low95", "high95"}
        assert values["value_violations"]["value"] == 0, method


def test_the_page_asks_nobody_and_shows_every_case(
    maps: Path, scores: object, phantom_cohort: Path, tmp_path: Path
) -> None:
    for language in ("en", "ja"):
        site = tmp_path / language
        words = ["review", str(maps), "--cohort", str(phantom_cohort), "--out", str(site), "--lang", language]
        assert main(words) == 0
        text = (site / "index.html").read_text(encoding="utf-8")
        assert f'lang="{language}"' in text
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)
        for case_id in map_case_ids(maps):
            assert f'href="cases/{case_id}.html"' in text
            page = (site / "cases" / f"{case_id}.html").read_text(encoding="utf-8")
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
            assert (site / "pictures" / f"{case_id}.png").stat().st_size > 10_000


def test_a_finished_run_is_up_to_date(
    small_run: Path, phantom_cohort: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (small_run / "checkpoints" / "last.ckpt").read_bytes()
    assert main(["fit", "-c", BASE, f"--cohort={phantom_cohort}", "--out", str(small_run), *small]) == 0
    assert "up to date" in capsys.readouterr().out
    assert (small_run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_another_experiment_in_the_same_folder_is_refused(
    small_run: Path, phantom_cohort: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "-c", BASE, f"--cohort={phantom_cohort}", "--out", str(small_run), *small]
    assert main([*words, "--model.init_args.learning_rate=0.5"]) == 2
    shown = capsys.readouterr().err
    assert "learning_rate" in shown
    assert main([*words, "--resume", "never"]) == 2


def test_runs_lists_it(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(small_run.parent), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["run"] == "small"
    assert row["state"] == "finished"
    assert row["best_val_loss"] > 0


def test_validate_scores_the_newest_checkpoint(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--run", str(small_run)]) == 0
    shown = dict(line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line)
    assert float(shown["val/loss"]) > 0


def test_a_checkpoint_of_another_configuration_is_refused(
    small_run: Path, phantom_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    experiment = yaml.safe_load((small_run / "experiment.yaml").read_text())
    experiment["model"]["init_args"]["channels"] = [12, 24]
    (other / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    for name in ("best.ckpt", "best.ckpt.json"):
        (other / "checkpoints" / name).write_bytes((small_run / "checkpoints" / name).read_bytes())
    assert (
        main(["draw", "--run", str(other), "--cohort", str(phantom_cohort), "--out", str(tmp_path / "m")])
        == 2
    )
    shown = capsys.readouterr().err.strip()
    assert "another configuration" in shown
    assert "\n" not in shown
    assert not (tmp_path / "m").exists()


def test_a_damaged_checkpoint_is_refused(small_run: Path, phantom_cohort: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "experiment.yaml").write_bytes((small_run / "experiment.yaml").read_bytes())
    data = bytearray((small_run / "checkpoints" / "best.ckpt").read_bytes())
    data[len(data) // 2] ^= 0x10
    (other / "checkpoints" / "best.ckpt").write_bytes(bytes(data))
    sidecar = "best.ckpt.json"
    (other / "checkpoints" / sidecar).write_bytes((small_run / "checkpoints" / sidecar).read_bytes())
    assert (
        main(["draw", "--run", str(other), "--cohort", str(phantom_cohort), "--out", str(tmp_path / "m")])
        == 1
    )
    assert not (tmp_path / "m").exists()


def test_a_changed_cohort_is_refused(
    phantom_cohort: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(phantom_cohort, copy)
    case = next(case for case in read_cohort(copy).split("train"))
    path = copy / "cases" / case.case_id / "t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["fit", "-c", BASE, f"--cohort={copy}", "--out", str(tmp_path / "run"), *small]) in (1, 3)
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert "S25" in shown
    assert str(tmp_path) not in shown
    table = copy / "cases.csv"
    table.write_text(table.read_text().replace("pelvis", "thorax"))
    assert main(["check", str(copy)]) == 1
    assert "digest" in capsys.readouterr().err


def test_too_small_a_volume_for_the_patch(
    phantom_cohort: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "-c", BASE, f"--cohort={phantom_cohort}", "--out", str(tmp_path / "run"), *small]
    code = main([*words, "--data.init_args.patch_size=[512, 512, 1]"])
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert "patch" in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_resumes(
    phantom_cohort: Path, small: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    long = ["--trainer.max_epochs=400", "--grids.every_n_epochs=0", "--tracking.mode=disabled"]
    words = ["fit", "-c", BASE, f"--cohort={phantom_cohort}", "--out", str(run), *small, *long]
    sidecar = run / "checkpoints" / "last.ckpt.json"

    def saved_step() -> int:
        return json.loads(sidecar.read_text())["step"] if sidecar.exists() else 0

    def until_signalled() -> int:
        """Start the command, let it save a further checkpoint, signal it; the step it saved."""
        before = saved_step()
        process = subprocess.Popen(
            [sys.executable, "-m", "diffusion_adc", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            deadline = time.monotonic() + 120
            while saved_step() <= before:
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                assert time.monotonic() < deadline
                time.sleep(0.2)
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 75, output
        assert json.loads((run / "record.json").read_text())["state"] == "stopped"
        saved = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        assert saved["global_step"] == saved_step()
        return saved_step()

    first = until_signalled()
    assert first >= 4
    assert until_signalled() > first
    steps = [int(row["step"]) for row in csv.DictReader((run / "metrics.csv").open())]
    assert steps == sorted(set(steps)), "the resumed run repeats or loses rows"
