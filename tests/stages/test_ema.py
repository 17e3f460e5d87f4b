from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from diffusion_adc.stages import EMA, PresenceFlowStage
from diffusion_adc.stages.ema import WarmDecay

Weights = dict[str, Tensor]


class Saver(Callback):
    """Saves at every moment at which something may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw: dict[int, Weights] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.raw[trainer.global_step] = {k: v.clone() for k, v in pl_module.state_dict().items()}

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"during-{trainer.current_epoch}.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"after-{trainer.current_epoch}.ckpt")


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_decay_warms_up_to_its_limit() -> None:
    decay = WarmDecay(0.99)
    assert decay.at(0) == pytest.approx(0.1)
    assert decay.at(90) == pytest.approx(0.91)
    assert decay.at(100_000) == 0.99
    averaged, current = [torch.tensor([1.0])], [torch.tensor([3.0])]
    decay(averaged, current, torch.tensor(90))
    torch.testing.assert_close(averaged[0], torch.tensor([0.91 * 1 + 0.09 * 3]))
    assert pickle.loads(pickle.dumps(decay)) == decay


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_senseless_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="EMA: decay"):
        EMA(decay)


def test_average_follows_its_formula_and_survives_saving_at_any_moment(
    tiny: Callable[..., PresenceFlowStage],
    loader: Callable[..., DataLoader[Any]],
    trainer: Callable[..., Trainer],
    tmp_path: Path,
) -> None:
    saver = Saver(tmp_path)
    stage = tiny()
    run = trainer(callbacks=[EMA(0.5), saver], num_sanity_val_steps=1)
    run.fit(stage, loader(3), loader(1))
    after = torch.load(tmp_path / "after-1.ckpt", weights_only=True)
    during = torch.load(tmp_path / "during-1.ckpt", weights_only=True)
    # The formula, from the raw weights of every step; the first update copies.
    name = "denoiser.network.outlet.weight"
    expected = saver.raw[1][name].clone()
    for step in range(2, 7):
        d = WarmDecay(0.5).at(step - 1)
        expected = d * expected + (1 - d) * saver.raw[step][name]
    torch.testing.assert_close(after["state_dict"][name], expected)
    assert same(after["current_model_state"], saver.raw[6])
    # Written while validation had the weights swapped: still the right way round.
    assert same(during["state_dict"], after["state_dict"])
    assert same(during["current_model_state"], after["current_model_state"])
    # The finished model is the average, latent statistics included.
    assert same(stage.state_dict(), after["state_dict"])
    assert stage.scale.measured
