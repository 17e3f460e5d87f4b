"""F12, F13, and F2, F8, F14 with two processes (gloo, on processors): together, or not at all."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diffusion_adc.domain.errors import NonFiniteError, StoppedBySignal, UsageError
from diffusion_adc.launching import refuse_sharded

Figure = Callable[[str, Any], None]
Count = Callable[..., int]
pytestmark = pytest.mark.timeout(3000)
TIMEOUT_S = 15


def run_ranks(rig: ModuleType, work: Callable[[int], object], folder: Path, expect: int = 0) -> list[str]:
    children = rig.start_ranks(work, folder)
    codes = [child.wait(900) for child in children]
    texts = [child.text() for child in children]
    assert codes == [expect, expect], "\n".join(texts)
    return texts


def noted(folder: Path, rank: int) -> None:
    """In a child: write down the cases of every step, and the weights and averages at the end."""
    from diffusion_adc.stages import EMA, PresenceFlowStage

    plain_step, plain_end = PresenceFlowStage.training_step, EMA.on_train_end
    seen: list[list[list[int]]] = []

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.append([[case, *where] for case, where in zip(
            batch["case_index"].tolist(), batch["location"].tolist(), strict=True)])  # fmt: skip
        return plain_step(self, batch, batch_idx)

    def end(self: Any, trainer: Any, pl_module: Any) -> None:
        average = self._average_model.module.state_dict()
        torch.save({"raw": pl_module.state_dict(), "average": average}, folder / f"weights{rank}.pt")
        plain_end(self, trainer, pl_module)
        (folder / f"seen{rank}.json").write_text(json.dumps(seen))

    PresenceFlowStage.training_step = step  # type: ignore[method-assign]
    EMA.on_train_end = end  # type: ignore[method-assign]


@pytest.mark.slow
def test_f13_seven_persons_on_two_processes(
    rig: ModuleType, tmp_path: Path, count: Count, figure: Figure
) -> None:
    cohort = rig.write_cohort(tmp_path / "seven", "TTTTTTTVVVEE")
    for seed in range(count(10, 2)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run = folder / "run"
        options = (
            *rig.DDP, f"--seed={seed}", "--data.init_args.patches_per_epoch=129", "--trainer.max_epochs=1",
        )  # fmt: skip

        def work(
            rank: int, folder: Path = folder, run: Path = run, options: tuple[str, ...] = options
        ) -> None:
            noted(folder, rank)
            rig.train(cohort, run, *options)

        run_ranks(rig, work, folder)
        seen = [json.loads((folder / f"seen{rank}.json").read_text()) for rank in (0, 1)]
        assert [len(part) for part in seen] == [32, 32]
        patches = [tuple(patch) for part in seen for step in part for patch in step]
        assert {patch[0] for patch in patches} == set(range(7)), "a person was never seen"
        ends = [torch.load(folder / f"weights{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert rig.differences(ends[0], ends[1]) == []

        # The same weights validated by one process and by two: 10 patches in batches of 4, which do not go round.
        from diffusion_adc.config import compose
        from diffusion_adc.train import validate

        def score(name: str, *words: str, run: Path = run, folder: Path = folder) -> Callable[[int], None]:
            def work(number: int) -> None:
                experiment = compose(
                    [run / "experiment.yaml"], ["--data.init_args.batch_size=4", "--ema.decay=0", *words]
                )
                values = validate(experiment, run, ["validate"], quiet=True)
                (folder / f"{name}{number}.json").write_text(json.dumps(values))

            return work

        alone = rig.start(
            lambda folder=folder, score=score: score("one", "--trainer.devices=1", "--trainer.strategy=auto")(0),
            folder / "one.txt",
        )  # fmt: skip
        assert alone.wait() == 0, alone.text()
        run_ranks(rig, score("two"), folder)
        one, two, other = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("one0", "two0", "two1")
        )
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == pytest.approx(value, abs=1e-6), name
            assert other[name] == two[name]
    figure("F13", {"seeds": seed + 1, "steps per process": [32, 32], "validation within": 1e-6})


@pytest.mark.slow
def test_patches_of_two_processes_are_those_of_one(rig: ModuleType, cohort: Path, tmp_path: Path) -> None:
    def two(rank: int) -> None:
        noted(tmp_path, rank)
        rig.train(cohort, tmp_path / "two", *rig.DDP)

    run_ranks(rig, two, tmp_path)
    folder = tmp_path / "alone"
    folder.mkdir()

    def one() -> None:
        noted(folder, 0)
        rig.train(cohort, folder / "one")

    child = rig.start(one, folder / "said")
    assert child.wait() == 0, child.text()
    alone = json.loads((folder / "seen0.json").read_text())
    parts = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    flat = [[patch for step in part for patch in step] for part in parts]
    assert [patch for pair in zip(*flat, strict=True) for patch in pair] == [
        p for step in alone for p in step
    ]


@pytest.mark.slow
def test_f14_two_processes_resume_bit_equal(
    rig: ModuleType, cohort: Path, tmp_path: Path, figure: Figure
) -> None:
    options = (*rig.DDP, "--checkpoints.every_n_steps=1")
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_ranks(rig, lambda rank: rig.train(cohort, whole, *options), tmp_path)
    children = rig.start_ranks(lambda rank: rig.train(cohort, part, *options), tmp_path)
    rig.until(lambda: rig.step_saved(part) >= 2, child=children[0])
    for child in children:
        child.kill()
    saved = rig.step_saved(part)
    assert saved >= 2
    run_ranks(rig, lambda rank: rig.train(cohort, part, *options), tmp_path)
    assert rig.differences(rig.load(whole), rig.load(part)) == [], f"resumed at step {saved}"
    assert len(rig.load(part)["random_states"]) == 2
    figure("F14 two processes", {"resumed at step": saved, "bit-equal": True})


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training_step", "validation_step"])
def test_f2_a_signal_to_one_process_stops_both(
    rig: ModuleType, cohort: Path, tmp_path: Path, figure: Figure, moment: str
) -> None:
    run, note = tmp_path / "run", tmp_path / "note"

    def work(rank: int) -> None:
        from diffusion_adc.stages import PresenceFlowStage

        rig.slowed(PresenceFlowStage, moment, 0.5, note if rank == 1 else None)
        rig.train(cohort, run, *rig.DDP)

    children = rig.start_ranks(work, tmp_path)
    rig.until(note.exists, child=children[1])
    sent = time.monotonic()
    children[1].signal(signal.SIGTERM)
    codes = [child.wait(60) for child in children]
    took = time.monotonic() - sent
    assert codes == [StoppedBySignal.exit_code] * 2, children[0].text() + children[1].text()
    assert took < 30
    assert json.loads((run / "record.json").read_text())["state"] == "stopped"
    run_ranks(rig, lambda rank: rig.train(cohort, run, *rig.DDP), tmp_path)
    straight = tmp_path / "straight"
    run_ranks(rig, lambda rank: rig.train(cohort, straight, *rig.DDP), tmp_path)
    assert rig.differences(rig.load(straight), rig.load(run)) == []
    assert rig.losses(straight, "val/") == rig.losses(run, "val/")
    figure(f"F2 one of two processes, {moment}", {"both ended after s": round(took, 1), "bit-equal": True})


@pytest.mark.slow
def test_f8_one_process_without_a_number_stops_both_and_names_its_cases(
    rig: ModuleType, cohort: Path, tmp_path: Path, figure: Figure
) -> None:
    def work(rank: int) -> None:
        from diffusion_adc.stages import PresenceFlowStage

        plain = PresenceFlowStage.training_step

        def step(self: Any, batch: Any, batch_idx: int) -> Any:
            if rank == 1 and self.global_step >= 1:
                print("poisoned", batch["case_index"].tolist())
                batch = {**batch, "images": batch["images"] * float("nan")}
            return plain(self, batch, batch_idx)

        PresenceFlowStage.training_step = step  # type: ignore[method-assign]
        options = ("--model.init_args.max_skipped=1", "--model.init_args.sequence_dropout=0")
        rig.train(cohort, tmp_path / "run", *rig.DDP, *options)

    texts = run_ranks(rig, work, tmp_path, expect=NonFiniteError.exit_code)
    poisoned = [line for line in texts[1].splitlines() if line.startswith("poisoned")][-1]
    cases = poisoned.removeprefix("poisoned ")
    for text in texts:
        assert f"case indices {cases}" in text
    figure("F8 one of two processes", {"exit codes": [4, 4], "cases named": "the failing process's"})


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise", "kill", "early exit", "hang"])
def test_f12_when_one_process_fails_all_end(
    rig: ModuleType, cohort: Path, tmp_path: Path, figure: Figure, fault: str
) -> None:
    def work(rank: int) -> None:
        from datetime import timedelta

        from lightning.pytorch.strategies import DDPStrategy

        from diffusion_adc.stages import PresenceFlowStage

        built = DDPStrategy.__init__
        DDPStrategy.__init__ = (  # type: ignore[method-assign]
            lambda self, *args, **kwargs: built(self, *args, timeout=timedelta(seconds=TIMEOUT_S), **kwargs)
        )
        plain = PresenceFlowStage.training_step

        def step(self: Any, batch: Any, batch_idx: int) -> Any:
            if rank == 1 and self.global_step == 2:
                (tmp_path / "now").write_text("failed")
                if fault == "raise":
                    raise RuntimeError("the first cause")
                if fault == "hang":
                    time.sleep(600)
                os._exit(0) if fault == "early exit" else os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, batch, batch_idx)

        PresenceFlowStage.training_step = step  # type: ignore[method-assign]
        rig.train(cohort, tmp_path / "run", *rig.DDP)

    children = rig.start_ranks(work, tmp_path)
    try:
        rig.until((tmp_path / "now").exists, child=children[0])
        began = time.monotonic()
        assert children[0].wait(TIMEOUT_S + 30) not in (0, None)
        took = time.monotonic() - began
        if fault == "raise":
            assert children[1].wait(20) == 1
            assert "the first cause" in children[1].text()
    finally:
        for child in children:
            child.kill()
    assert took < TIMEOUT_S + 10
    assert json.loads((tmp_path / "run" / "record.json").read_text())["state"] == "failed"
    figure(f"F12 {fault}", {"the other process ended after s": round(took, 1)})


def test_fsdp_is_refused_with_the_reason() -> None:
    plain = {"strategy": "fsdp", "accelerator": "cpu", "gradient_clip_val": None}
    with pytest.raises(UsageError, match=r"averaged weights.*second, whole model"):
        refuse_sharded(plain, averaging=True)
    with pytest.raises(UsageError, match="clipped by their norm"):
        refuse_sharded({**plain, "gradient_clip_val": 1.0}, averaging=False)
    with pytest.raises(UsageError, match="without a GPU"):
        refuse_sharded(plain, averaging=False)
    refuse_sharded({"strategy": "ddp"}, averaging=True)
    refuse_sharded({"strategy": "auto"}, averaging=True)


def test_sharded_processes_decide_together(rig: ModuleType, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        from torch import distributed, nn

        from diffusion_adc.stages.guard import NonFiniteGuard

        distributed.init_process_group("gloo", rank=rank, world_size=2)
        guard, layer = NonFiniteGuard(0), nn.Linear(1, 1)
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if rank == 1 else 1.0)
        guard.check(layer.parameters(), [rank], 3, sharded=True)

    texts = run_ranks(rig, work, tmp_path, expect=NonFiniteError.exit_code)
    assert all("step 3 (case indices [0, 1])" in text for text in texts)
