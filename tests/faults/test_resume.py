"""F14, F15, F16: what is resumed is the run that was interrupted, bit by bit, or it is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_adc.callbacks import exact_resume
from diffusion_adc.callbacks.checkpoints import KeptCheckpoint
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.sidecars import sidecar

Figure = Callable[[str, Any], None]
Count = Callable[..., int]
OFTEN = "--checkpoints.every_n_steps=1"


def stop_after(step: int, number: int = 9) -> None:
    """In a child: die by SIGKILL's way, without a word, once a step's checkpoint is written."""
    import os

    from diffusion_adc.callbacks import checkpoints

    plain = checkpoints.AtomicCheckpointIO.save_checkpoint

    def save(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        plain(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] >= step:
            os._exit(number)

    checkpoints.AtomicCheckpointIO.save_checkpoint = save  # type: ignore[method-assign]


def noisy() -> None:
    """In a child: training that also uses the global random numbers of three libraries."""
    from diffusion_adc.stages import PresenceFlowStage

    plain = PresenceFlowStage.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        wobble = torch.rand(()) + np.random.rand() + random.random()
        return plain(self, batch, batch_idx) * (1 + 0.01 * wobble)

    PresenceFlowStage.training_step = step  # type: ignore[method-assign]


def trained(rig: ModuleType, cohort: Path, run: Path, *overrides: str, died_at: int | None = None) -> None:
    def work() -> None:
        noisy()
        if died_at is not None:
            stop_after(died_at)
        rig.train(cohort, run, *overrides)

    child = rig.start(work, run.with_suffix(".txt"))
    assert child.wait() == (0 if died_at is None else 9), child.text()


def compared(rig: ModuleType, one: Path, other: Path) -> list[str]:
    """Where the ends of two runs differ: everything in their last checkpoints, and their metrics."""
    a, b = rig.load(one), rig.load(other)
    found = rig.differences(a, b)
    # An epoch whose last step was in the earlier process has no training metrics of its own.
    return found + ([] if rig.losses(one, "val/") == rig.losses(other, "val/") else ["metrics.csv"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", [0, 2])
def test_f14_resumed_at_any_step_is_bit_equal(
    rig: ModuleType, cohort: Path, tmp_path: Path, count: Count, figure: Figure, workers: int
) -> None:
    seeds = count(10, 1) if workers == 0 else 1
    resumed = 0
    for seed in range(seeds):
        options = (OFTEN, f"--seed={seed}", f"--data.init_args.workers={workers}")
        whole = tmp_path / f"whole{seed}"
        trained(rig, cohort, whole, *options)
        # Mid-epoch, last step before a validation, first step of the second epoch; all steps in the full count.
        steps = range(1, 2 * rig.STEPS_PER_EPOCH) if seeds == 10 else (2, 4, 5)
        for died_at in steps if workers == 0 else (2,):
            part = tmp_path / f"part{seed}-{died_at}"
            trained(rig, cohort, part, *options, died_at=died_at)
            assert rig.step_saved(part) == died_at
            trained(rig, cohort, part, *options)
            assert compared(rig, whole, part) == [], f"seed {seed}, resumed at step {died_at}"
            resumed += 1
            shutil.rmtree(part)
    figure(f"F14 one process, {workers} loader workers", {"resumed": resumed, "bit-equal": resumed})


def test_random_states_survive_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "states.pt"
    torch.save(exact_resume.capture(), path)
    first = (torch.rand(3), np.random.rand(3), [random.random(), random.gauss(0, 1)])
    exact_resume.restore(torch.load(path, weights_only=True))
    again = (torch.rand(3), np.random.rand(3), [random.random(), random.gauss(0, 1)])
    assert torch.equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert first[2] == again[2]


@pytest.mark.slow
def test_f15_averages_counter_and_best_score_are_kept_apart(
    rig: ModuleType, cohort: Path, straight: Path, figure: Figure
) -> None:
    last, best = rig.load(straight), rig.load(straight, "best")
    assert int(last["averaging_state"]["n_averaged"]) == 2 * rig.STEPS_PER_EPOCH
    assert rig.differences(last["state_dict"], last["current_model_state"]) != []
    for name, state in last["callbacks"].items():
        if "KeptCheckpoint" in name and "val/loss" in name:
            scores = [float(row["val/loss"]) for row in rig.losses(straight)]
            assert float(state["best_model_score"]) == pytest.approx(min(scores), rel=1e-6)
            assert state["best_model_path"] == "best.ckpt"
    assert best["global_step"] in (rig.STEPS_PER_EPOCH, 2 * rig.STEPS_PER_EPOCH)
    from diffusion_adc.inference.run import load_run

    run = load_run(straight, "last")
    assert rig.differences(dict(run.stage.state_dict()), last["state_dict"]) == []
    figure("F15", {"counter": 8, "drawn with": "averages"})


def test_f15_the_best_score_survives_a_moved_folder(tmp_path: Path) -> None:
    kept = KeptCheckpoint(dirpath=tmp_path / "yamada" / "checkpoints", filename="best", monitor="val/loss")
    kept.best_model_score = torch.tensor(0.25)
    kept.best_model_path = kept.kth_best_model_path = str(tmp_path / "yamada" / "checkpoints" / "best.ckpt")
    kept.best_k_models = {kept.best_model_path: torch.tensor(0.25)}
    state = kept.state_dict()
    assert "yamada" not in json.dumps(state, default=float)
    moved = KeptCheckpoint(dirpath=tmp_path / "elsewhere", filename="best", monitor="val/loss")
    moved.load_state_dict(state)
    assert float(moved.best_model_score or 0) == 0.25
    assert moved.best_model_path == str(tmp_path / "elsewhere" / "best.ckpt")
    assert moved.best_k_models == {moved.best_model_path: torch.tensor(0.25)}
    assert moved.last_model_path == ""


CHANGES = (
    ("--model.init_args.learning_rate=0.5", "learning_rate"),
    ("--model.init_args.denoiser_width=16", "denoiser_width"),
    ("--data.init_args.split=temporal", "split"),
    ("--ema.decay=0.5", "decay"),
    ("--trainer.precision=bf16-mixed", "precision"),
)


@pytest.mark.slow
def test_f16_another_configuration_code_or_cohort_is_refused(
    rig: ModuleType, cohort: Path, straight: Path, tmp_path: Path, figure: Figure
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    for change, word in CHANGES:
        with pytest.raises(UsageError, match=f"another experiment .*{word}"):
            rig.train(cohort, run, change)
    record = json.loads((run / "record.json").read_text())

    def recorded(**changes: Any) -> None:
        (run / "record.json").write_text(json.dumps({**record, **changes}))

    recorded(state="stopped", versions={**record["versions"], "torch": "1.0", "monai": "0.1"})
    with pytest.raises(UsageError, match=r"other packages \(monai 0.1 then, .* now; torch 1.0 then"):
        rig.train(cohort, run)
    recorded(state="stopped", cohort_digest="0" * 64)
    with pytest.raises(UsageError, match="the cohort changed"):
        rig.train(cohort, run)
    recorded(state="stopped")
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.unlink()
    with pytest.raises(CohortError, match="no checkpoint"):
        rig.train(cohort, run)
    with pytest.raises(UsageError, match=r"no checkpoint other\.ckpt"):
        rig.train(cohort, run, resume=str(run / "other.ckpt"))
    figure("F16", {"refused": len(CHANGES) + 4, "of": len(CHANGES) + 4})


@pytest.mark.slow
def test_a_checkpoint_cut_or_flipped_gives_way_to_the_one_before(
    rig: ModuleType, cohort: Path, straight: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "state": "stopped"}))
    child = rig.start(lambda: rig.train(cohort, run), tmp_path / "said")
    assert child.wait() == 0, child.text()
    assert rig.differences(rig.load(run)["state_dict"], rig.load(straight)["state_dict"]) == []
    assert sidecar(last).exists()
