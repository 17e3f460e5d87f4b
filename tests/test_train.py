"""What `fit` wires together: only a real training keeps anything, and the tracker has the record."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.cli import main
from diffusion_adc.config import compose, dump, parse
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.cohort import read_cohort, write_case, write_manifest

ROOT = Path(__file__).parents[1]
BASE = ROOT / "experiments" / "base.yaml"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases of noise: enough to build everything, not to train."""
    folder = tmp_path_factory.mktemp("wiring") / "cohort"
    declared = ("missing:t1w", "missing:t2w", "missing:dwi_low", "missing:tumor_label")
    images = {
        name: np.random.default_rng(0).random((4, 4, 3), dtype=np.float32) + 1 for name in ("adc", "dwi_high")
    }
    images["valid"] = np.ones((4, 4, 3), np.uint8)  # type: ignore[assignment]
    cases = [
        write_case(
            folder,
            Case(research_id=f"A-00{n}", exam_order=1, tumor_status="unknown", b_high=900.0, declared=declared),
            images, np.diag([2.0, 2.0, 5.0, 1.0]),
        )
        for n in (1, 2)
    ]  # fmt: skip
    write_manifest(folder, Cohort(tuple(cases), provenance="restricted"))
    return folder


def build(cohort: Path, run: Path, small: list[str], kind: Any, *more: str) -> tuple[Any, Any]:
    from diffusion_adc.train import build

    parser, namespace = parse(compose([BASE], [f"--cohort={cohort}", *small, *more]))
    return build(
        parser, namespace, run, ["diffusion-adc", "fit"], dump(parser, namespace), kind=kind, quiet=True
    )


def test_a_training_is_tracked_with_its_record_and_the_cohorts_policy(
    cohort: Path, small: list[str], tmp_path: Path
) -> None:
    from diffusion_adc.callbacks.record import RunRecord
    from diffusion_adc.callbacks.tracking import MetricsTable, RunWatch, Tracker

    built, trainer = build(cohort, tmp_path / "run", small, "fit", "--trainer.profiler=simple")
    (tracker,) = trainer.loggers
    assert isinstance(tracker, Tracker)
    assert tracker.mode is None, "nothing is started before training"
    assert tracker.config["record"]["cohort_digest"] == read_cohort(cohort).digest
    assert tracker.config["model"]["init_args"]["denoiser_width"] == 8
    assert tracker.policy.provenance == "restricted"
    assert not tracker.policy.may_send_pictures
    assert tracker.label == tracker.who.id, "a name may name a person"
    kinds = [type(callback) for callback in trainer.callbacks]
    assert {MetricsTable, RunRecord, RunWatch} <= set(kinds)
    assert kinds.index(RunWatch) > kinds.index(RunRecord)
    assert built.grids.run_dir == tmp_path / "run"
    assert Path(trainer.profiler.dirpath) == tmp_path / "run" / "profile"
    (again,) = build(cohort, tmp_path / "run", small, "fit")[1].loggers
    assert again.who == tracker.who, "a run that goes on stays the same run"


@pytest.mark.parametrize("kind", ["validate", "rehearsal"])
def test_nothing_else_keeps_anything(kind: str, cohort: Path, small: list[str], tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Checkpoint

    from diffusion_adc.callbacks.record import RunRecord
    from diffusion_adc.callbacks.tracking import MetricsTable

    built, trainer = build(cohort, tmp_path / "run", small, kind)
    assert trainer.loggers == []
    assert not [c for c in trainer.callbacks if isinstance(c, RunRecord | MetricsTable | Checkpoint)]
    assert built.grids.run_dir is None
    assert not (tmp_path / "run").exists()


def test_tracking_can_be_off(cohort: Path, small: list[str], tmp_path: Path) -> None:
    _, trainer = build(cohort, tmp_path / "run", small, "fit", "--tracking.mode=disabled")
    assert trainer.loggers == []
    assert not (tmp_path / "run" / "tracker.json").exists()


def test_an_unknown_profiler_is_refused(cohort: Path, small: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="simple, advanced, pytorch"):
        build(cohort, tmp_path / "run", small, "fit", "--trainer.profiler=quick")


def test_tensorboard_is_an_extra(
    cohort: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "tensorboard" else real(name, package)

    monkeypatch.setattr("importlib.util.find_spec", without)
    with pytest.raises(UsageError, match=r"diffusion-adc\[tensorboard\]"):
        build(cohort, tmp_path / "run", small, "fit", "--tracking.tensorboard=true")


@pytest.mark.slow
def test_tensorboard_writes_beside_the_tracker(
    phantom_cohort: Path, small: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    words = ["fit", "-c", str(BASE), f"--cohort={phantom_cohort}", "--out", str(tmp_path / "run"), *small]
    more = ("--tracking.tensorboard=true", "--trainer.max_epochs=1", "--grids.every_n_epochs=0")
    assert main([*words, *more]) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert "val/loss" in board.Tags()["scalars"]
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_a_dry_run_trains_validates_and_leaves_nothing(
    phantom_cohort: Path, small: list[str], small_run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["fit", "-c", str(BASE), f"--cohort={phantom_cohort}", *small]
    assert main([*words, "--trainer.fast_dev_run=true"]) == 0
    assert "dry run done" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    before = {path: path.stat().st_mtime_ns for path in small_run.rglob("*")}
    assert main([*words, "--out", str(small_run), "--trainer.fast_dev_run=2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in small_run.rglob("*")} == before


@pytest.mark.slow
def test_a_run_is_open_in_three_lines(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_run.parent)
    lines = """
from pathlib import Path
from diffusion_adc.inference.run import load_run
run = load_run(Path("small"))
"""
    found: dict[str, Any] = {}
    exec(lines, found)
    run = found["run"]
    assert run.name == "small"
    assert not run.stage.training
    assert replace(run.settings, draws=1).draws == 1
