"""Flags that trade time for memory or the other way round: the numbers stay the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from diffusion_adc.domain.sequences import AVAILABLE, CASE_INDEX, COUNTS, IMAGES, PRESENCE
from diffusion_adc.stages import EMA, PresenceFlowStage

Tiny = Callable[..., PresenceFlowStage]
Batches = Callable[..., dict[str, Any]]


def gradients(stage: PresenceFlowStage, data: dict[str, Any]) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients, and the numbers kept for the backward pass."""
    stage.train()
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = stage.encode(data[IMAGES], data[AVAILABLE])
        presence = stage._spatial(data[PRESENCE])
        loss = stage.base_loss(features.base_logit, presence)
        loss = loss + stage.flow_loss(features, presence, torch.Generator().manual_seed(0))
    numbers = sum(kept.values())
    loss.backward()
    return float(loss), [p.grad for p in stage.parameters() if p.grad is not None], numbers


def test_recomputed_activations_give_the_same_gradient_from_less_memory(tiny: Tiny, batch: Batches) -> None:
    data = batch(shape=(16, 16, 1))
    stages = [tiny(channels=[16, 16, 16]), tiny(channels=[16, 16, 16], recompute=True)]
    for stage in stages:
        stage.measure_latents([data], 2)
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter.add_(0.01)  # many layers start at zero
    stages[1].load_state_dict(stages[0].state_dict())
    (loss, plain, kept), (again, recomputed, fewer) = (gradients(stage, data) for stage in stages)
    assert loss == again
    assert len(plain) == len(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert fewer < 0.75 * kept


@pytest.mark.slow
def test_compiled_training_leaves_names_and_copies_alone(
    tiny: Tiny, batch: Batches, trainer: Callable[..., Trainer]
) -> None:
    data: Any = DataLoader([batch(seed=seed) for seed in range(2)], batch_size=None)  # type: ignore[arg-type]
    plain, compiled = tiny(), tiny(compile="eager")
    for stage in (plain, compiled):
        trainer(max_epochs=1, callbacks=[EMA(0.9)]).fit(stage, data)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, msg=name)
    for again in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert again.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
def test_the_default_backend_compiles(tiny: Tiny, batch: Batches, trainer: Callable[..., Trainer]) -> None:
    data: Any = DataLoader([batch(seed=seed) for seed in range(2)], batch_size=None)  # type: ignore[arg-type]
    plain, compiled = tiny(), tiny(compile="inductor")
    for stage in (plain, compiled):
        trainer(max_epochs=1).fit(stage, data)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)


def test_accumulated_gradients_name_the_cases_of_all_their_batches(
    tiny: Tiny, batch: Batches, trainer: Callable[..., Trainer]
) -> None:
    from diffusion_adc.domain.errors import NonFiniteError

    good, bad = batch(seed=1), batch(seed=2)
    bad[IMAGES][:] = float("nan")
    bad[CASE_INDEX] = torch.tensor([77, 78])
    stage = tiny(max_skipped=0, sequence_dropout=0.0)
    data: Any = DataLoader([good, bad], batch_size=None)  # type: ignore[arg-type]
    run = trainer(max_epochs=1, accumulate_grad_batches=2)
    with pytest.raises(NonFiniteError, match=r"case indices \[77, 78\]"):
        run.fit(stage, data)


def test_a_repeated_patch_does_not_count_in_a_validation(
    tiny: Tiny, batch: Batches, trainer: Callable[..., Trainer]
) -> None:
    one, other = batch(seed=1), batch(seed=2)
    stage = tiny()
    stage.measure_latents([one], 2)
    repeated = {**other, COUNTS: torch.zeros(2)}

    def score(batches: list[dict[str, Any]]) -> dict[str, float]:
        data: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        return dict(trainer().validate(stage, data, verbose=False)[0])

    assert score([one, repeated]) == score([one])
    assert score([one, other]) != score([one])
