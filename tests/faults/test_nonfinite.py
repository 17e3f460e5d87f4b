"""F8, F9: numbers that are none, and memory that is not there: said with what to do, and nothing good is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from diffusion_adc.callbacks.checkpoints import newest_verified, refuse_non_finite
from diffusion_adc.domain.errors import DiffusionAdcError, NonFiniteError
from diffusion_adc.launching import explained

Figure = Callable[[str, Any], None]
SKIPS = "--model.init_args.max_skipped=2"


def poisoned(first: int, last: int, value: float, where: str) -> None:
    """In a child: loss or gradient is not finite from one training step to another."""
    from diffusion_adc.stages import PresenceFlowStage

    plain = PresenceFlowStage.training_step
    seen = {"steps": 0}

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = plain(self, batch, batch_idx)
        bad = first <= seen["steps"] <= last
        seen["steps"] += 1
        if not bad:
            return loss
        if where == "loss":
            print("poisoned", sorted(batch["case_index"].tolist()))
            return loss * value
        loss.register_hook(lambda gradient: gradient * value)
        return loss

    PresenceFlowStage.training_step = step  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("value", "where"), [(float("nan"), "loss"), (float("inf"), "gradient")])
def test_f8_a_few_are_skipped_and_for_ever_stops_with_the_last_good_weights(
    rig: ModuleType, cohort: Path, tmp_path: Path, figure: Figure, value: float, where: str
) -> None:
    few, ever = tmp_path / "few", tmp_path / "ever"

    def work(run: Path, first: int, last: int) -> Callable[[], None]:
        def run_it() -> None:
            poisoned(first, last, value, where)
            rig.train(cohort, run, SKIPS)

        return run_it

    child = rig.start(work(few, 2, 3), tmp_path / "few.txt")
    assert child.wait() == 0, child.text()
    assert rig.load(few)["skipped_steps"] == 2  # a resumed run has as many left as it had
    child = rig.start(work(ever, 4, 100), tmp_path / "ever.txt")
    assert child.wait() == NonFiniteError.exit_code, child.text()
    said = child.text()
    assert "3 steps skipped so far" in said
    assert "case indices [" in said
    good = newest_verified(ever)
    assert good is not None
    assert rig.step_saved(ever) == rig.STEPS_PER_EPOCH  # saved before the first poisoned step
    record = json.loads((ever / "record.json").read_text())
    assert record["state"] == "failed"
    assert record["error"] == "NonFiniteError"
    paths = [path for run in (few, ever) for path in (run / "checkpoints").glob("*.ckpt")]
    for path in paths:
        refuse_non_finite(torch.load(path, weights_only=True))
    figure(f"F8 {where}", {"checkpoints": len(paths), "with a non-finite tensor": 0, "exit": 4})


@pytest.mark.parametrize("part", ["state_dict", "current_model_state", "optimizer_states"])
def test_no_part_of_a_checkpoint_may_be_non_finite(part: str) -> None:
    good: dict[str, Any] = {
        "callbacks": {"best": torch.tensor(float("inf"))},
        "state_dict": {"n": torch.tensor(3)},
    }
    refuse_non_finite(good)
    bad = {"w": torch.tensor([1.0, float("nan")])}
    value = [{"state": {0: bad}}] if part == "optimizer_states" else bad
    with pytest.raises(NonFiniteError, match=rf"{part}\..*w is not finite"):
        refuse_non_finite({**good, part: value})


NAMESPACE = SimpleNamespace(
    data=SimpleNamespace(init_args=SimpleNamespace(batch_size=16, patch_size=[96, 96, 32])),
    model=SimpleNamespace(init_args=SimpleNamespace(draws_per_encoding=4)),
    trainer=SimpleNamespace(precision="32-true"),
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)  # fmt: skip
def test_f9_out_of_memory_names_the_size_and_what_to_lower(error: Exception) -> None:
    with (
        pytest.raises(DiffusionAdcError, match="16 patches of 96×96×32 voxels") as caught,
        explained(NAMESPACE),
    ):
        raise error
    for word in ("batch_size", "accumulate_grad_batches", "patch_size", "recompute", "bf16-mixed"):
        assert word in str(caught.value)
    assert caught.value.exit_code == 1


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explained(NAMESPACE):
        raise RuntimeError("shapes do not fit")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f9_a_training_without_memory_leaves_a_resumable_run(
    rig: ModuleType, cohort: Path, straight: Path, tmp_path: Path, figure: Figure
) -> None:
    run = tmp_path / "run"

    def work() -> None:
        from diffusion_adc.stages import PresenceFlowStage

        plain = PresenceFlowStage.training_step

        def step(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(self, batch, batch_idx)

        PresenceFlowStage.training_step = step  # type: ignore[method-assign]
        rig.train(cohort, run)

    child = rig.start(work, tmp_path / "said")
    assert child.wait() == 1
    assert "out of memory with 4 patches of 16×16×1 voxels" in child.text()
    assert "Traceback" not in child.text()
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]
    child = rig.start(lambda: rig.train(cohort, run), tmp_path / "again")
    assert child.wait() == 0, child.text()
    assert rig.differences(rig.load(straight), rig.load(run)) == []
    figure("F9", {"exit": 1, "resumed bit-equal": True})
