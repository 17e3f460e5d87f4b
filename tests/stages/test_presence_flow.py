from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from diffusion_adc.domain.errors import NonFiniteError, UsageError
from diffusion_adc.domain.sequences import AVAILABLE, COVARIATES, IMAGES, KNOWN, PRESENCE
from diffusion_adc.networks import CovariateToken
from diffusion_adc.stages import EMA, PresenceFlowStage

Batch = dict[str, Tensor]
Tiny = Callable[..., PresenceFlowStage]
Batches = Callable[..., Batch]
Loader = Callable[..., DataLoader[Any]]
Trainers = Callable[..., Trainer]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"codec": "identity"},
        {"stem": "full"},
        {"stem": "full", "codec": "identity", "prediction": "latent"},
        {"target": "signed_distance", "spacing_mm": [2.5, 2.5, 5.0]},
        {"spatial_dims": 3},
        {"spatial_dims": 3, "slice_halvings": 1, "n_covariates": 0},
        {"spatial_dims": 3, "slice_halvings": 0, "codec": "identity"},
    ],
)
def test_every_variant_trains_and_draws(tiny: Tiny, batch: Batches, changes: dict[str, Any]) -> None:
    stage = tiny(**changes)
    three = stage.spatial_dims == 3
    data = batch(shape=(16, 16, 8) if three else (16, 16, 1))
    stage.measure_latents([data], 2)
    features = stage.encode(data[IMAGES], data[AVAILABLE], data[COVARIATES], data[KNOWN])
    presence = stage._spatial(data[PRESENCE])
    generator = torch.Generator().manual_seed(0)
    loss = stage.base_loss(features.base_logit, presence) + stage.flow_loss(features, presence, generator)
    loss.backward()
    silent = [n for n, p in stage.named_parameters() if p.grad is None]
    assert silent == []  # a parameter without gradient would stall distributed training
    shape = tuple(presence.shape[2:])
    with torch.no_grad():
        noise = torch.randn(stage.noise_shape(6, shape))
        field = stage.draw(features, noise, steps=2)
    assert field.shape == (6, 1, *shape)
    assert bool(torch.isfinite(field).all())
    assert all(s % a == 0 for s, a in zip(shape, stage.alignment, strict=True))


def test_missing_sequences_and_unknown_covariates(tiny: Tiny, batch: Batches) -> None:
    stage = tiny().eval()
    data = batch()
    data[AVAILABLE][:, :3] = 0
    data[IMAGES][:, :3] = 0
    data[KNOWN][:] = 0
    data[COVARIATES][:] = float("nan")
    known = stage.encode(data[IMAGES], data[AVAILABLE], data[COVARIATES], data[KNOWN])
    without = stage.encode(data[IMAGES], data[AVAILABLE])
    assert bool(torch.isfinite(known.base_logit).all())
    assert torch.equal(known.token, without.token)


@pytest.mark.parametrize("prediction", ["presence", "latent"])
def test_a_batch_without_tumor_has_a_finite_loss_and_gradient(
    tiny: Tiny, batch: Batches, prediction: str
) -> None:
    stage = tiny(prediction=prediction)
    stage.measure_latents([batch()], 2)
    data = batch(tumor=False)
    features = stage.encode(data[IMAGES], data[AVAILABLE])
    presence = stage._spatial(data[PRESENCE])
    loss = stage.base_loss(features.base_logit, presence)
    loss = loss + stage.flow_loss(features, presence, torch.Generator().manual_seed(0))
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(p.grad).all()) for p in stage.parameters() if p.grad is not None)


def test_the_flow_does_not_reach_the_base_head(tiny: Tiny, batch: Batches) -> None:
    stage = tiny()
    data = batch()
    stage.measure_latents([data], 2)
    features = stage.encode(data[IMAGES], data[AVAILABLE])
    stage.flow_loss(features, stage._spatial(data[PRESENCE]), torch.Generator().manual_seed(0)).backward()
    assert stage.encoder.head.weight.grad is None
    assert stage.encoder.stem.weight.grad is not None


def test_draws_do_not_depend_on_the_batch(tiny: Tiny, batch: Batches) -> None:
    stage = tiny().eval()
    data = batch(size=2)
    stage.measure_latents([data], 2)
    noise = torch.randn(stage.noise_shape(6, (16, 16)))
    with torch.no_grad():
        features = stage.encode(data[IMAGES], data[AVAILABLE])
        together = stage.draw(features, noise, 3)
        for row in range(6):
            case = slice(row // 3, row // 3 + 1)
            alone = stage.draw(
                stage.encode(data[IMAGES][case], data[AVAILABLE][case]), noise[row : row + 1], 3
            )
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)


def test_window_of_features_gives_the_window_of_the_velocity(tiny: Tiny) -> None:
    stage = tiny(channels=[8], denoiser_levels=1).eval()
    images, available = torch.randn(1, 7, 64, 16), torch.ones(1, 5)
    z = torch.randn(stage.noise_shape(1, (64, 16)))
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        features = stage.encode(images, available)
        whole = stage.velocity(z, 0.9, features)
        tile = stage.velocity(z[:, :, 8:24], 0.9, features.window((8, 0), (16, 8)))
    margin = stage.network.margin[0]
    torch.testing.assert_close(tile[:, :, margin:-margin], whole[:, :, 8 + margin : 24 - margin])
    assert stage.receptive_margin[0] == stage.encoder.margin[0] + 2 * margin


class Keeper(Callback):
    def __init__(self, path: Path, epoch: int) -> None:
        self.path, self.epoch = path, epoch
        self.logged: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged |= {k: float(v) for k, v in trainer.callback_metrics.items()}
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def test_trains_and_resumes_bit_equal(tiny: Tiny, loader: Loader, trainer: Trainers, tmp_path: Path) -> None:
    middle = tmp_path / "middle.ckpt"
    straight = tiny()
    keeper = Keeper(middle, 1)
    run = trainer(max_epochs=4, callbacks=[EMA(0.9), keeper])
    run.fit(straight, loader(3), loader(1))
    for name in (
        "train/loss",
        "train/base",
        "train/flow",
        "val/base",
        "val/flow",
        "val/loss",
        "val/dice_base",
    ):
        assert math.isfinite(keeper.logged[name])
    assert 0 <= keeper.logged["val/dice_base"] <= 1

    torch.manual_seed(99)  # a resumed process starts elsewhere in torch's random numbers
    resumed = PresenceFlowStage(**torch.load(middle, weights_only=True)["hyper_parameters"])
    again = trainer(max_epochs=4, callbacks=[EMA(0.9)])
    again.fit(resumed, loader(3), loader(1), ckpt_path=middle, weights_only=True)
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    first, second = run.optimizers[0].state_dict(), again.optimizers[0].state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert all(torch.equal(a["exp_avg"], second["state"][k]["exp_avg"]) for k, a in first["state"].items())

    loaded = PresenceFlowStage.load_from_checkpoint(middle, weights_only=True)
    assert loaded.scale.measured
    assert loaded.hparams == resumed.hparams
    assert float(loaded.path.shift) == pytest.approx(float(loaded.scale.contrast) / 4)
    assert not any(name.startswith("network.") for name in loaded.state_dict())  # nothing is stored twice


def test_changed_learning_rate_holds_after_a_resume(
    tiny: Tiny, loader: Loader, trainer: Trainers, tmp_path: Path
) -> None:
    middle = tmp_path / "middle.ckpt"
    trainer(max_epochs=2, callbacks=[Keeper(middle, 0)]).fit(tiny(learning_rate=1e-3), loader(3))
    run = trainer(max_epochs=2, limit_train_batches=3)
    rates: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    run = trainer(max_epochs=2, callbacks=[Watch()])
    run.fit(tiny(learning_rate=4e-3), loader(3), ckpt_path=middle)
    assert 1e-3 < rates[0] < 4e-3


def test_checkpoint_of_another_configuration_is_refused(
    tiny: Tiny, loader: Loader, trainer: Trainers, tmp_path: Path
) -> None:
    path = tmp_path / "one.ckpt"
    run = trainer(max_steps=1, max_epochs=-1)
    run.fit(tiny(), loader(2))
    run.save_checkpoint(path)
    others = ({"channels": [16, 8]}, {"shift": 33.0}, {"denoiser_levels": 3}, {"codec": "identity"})
    distance = {"target": "signed_distance", "spacing_mm": [1.0, 1.0], "prediction": "latent"}
    for changes in (*others, distance):
        with pytest.raises(UsageError, match="checkpoint of another configuration"):
            trainer().fit(tiny(**changes), loader(2), ckpt_path=path)


def test_no_tumor_in_the_training_patches_is_refused(tiny: Tiny, loader: Loader, trainer: Trainers) -> None:
    with pytest.raises(UsageError, match="no tumor voxel in 256 patches"):
        trainer().fit(tiny(), loader(2, tumor=False))


def test_latent_statistics_are_deterministic_and_leave_the_random_numbers_alone(
    tiny: Tiny, loader: Loader, trainer: Trainers
) -> None:
    stages = [tiny(), tiny()]
    for seed, stage in enumerate(stages):
        torch.manual_seed(seed)
        trainer(max_steps=1, max_epochs=-1).fit(stage, loader(3))
    assert torch.equal(stages[0].scale.std, stages[1].scale.std)
    assert int(stages[0].scale.count) >= 256


def test_non_finite_batches_are_skipped_then_stop_the_run(
    tiny: Tiny, batch: Batches, trainer: Trainers
) -> None:
    good, bad = batch(seed=0), batch(seed=7)
    bad[IMAGES][1, 4] = float("nan")
    stage = tiny(max_skipped=2, sequence_dropout=0.0)
    data: Any = DataLoader([good, bad], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match=r"case indices \[70, 71\]"):
        trainer(max_epochs=5).fit(stage, data)
    assert stage.guard.skipped == 3
    assert all(bool(torch.isfinite(p).all()) for p in stage.parameters())


def test_bf16_mixed_trains(tiny: Tiny, loader: Loader, trainer: Trainers) -> None:
    stage = tiny()
    run = trainer(precision="bf16-mixed", callbacks=[EMA(0.9)])
    run.fit(stage, loader(2), loader(1))
    assert math.isfinite(float(run.callback_metrics["val/loss"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_dropout": 1.0}, "sequence_dropout"),
        ({"draws_per_encoding": 0}, "draws_per_encoding"),
        ({"codec": "vae"}, "haar, identity or kl"),
        ({"target": "signed_distance"}, "spacing_mm"),
        ({"target": "signed_distance", "spacing_mm": [1, 1], "prediction": "presence"}, "prediction"),
        ({"prediction": "score"}, "prediction score"),
        ({"shift": 0}, "shift"),
        ({"sampler": "ddim"}, "ddim"),
        ({"steps": 0}, "0 steps"),
        ({"spatial_dims": 4}, "2 or 3"),
        ({"channels": []}, "channels"),
    ],
)
def test_senseless_configurations_are_refused(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**changes)


def test_patches_that_do_not_fit_are_refused(tiny: Tiny, batch: Batches) -> None:
    stage = tiny()
    with pytest.raises(UsageError, match="multiples of"):
        stage.encode(torch.zeros(1, 7, 15, 16), torch.ones(1, 5))
    with pytest.raises(UsageError, match="3 slices thick"):
        stage.encode(torch.zeros(1, 7, 16, 16, 3), torch.ones(1, 5))
    with pytest.raises(UsageError, match="2 covariates"):
        stage.encode(torch.zeros(1, 7, 16, 16), torch.ones(1, 5), torch.ones(1, 2), torch.ones(1, 2))
    features = stage.encode(torch.zeros(2, 7, 16, 16), torch.ones(2, 5))
    with pytest.raises(UsageError, match="3 latents for 2 cases"):
        stage.velocity(torch.zeros(3, 4, 8, 8), 0.5, features)


def test_stage_can_be_pickled(tiny: Tiny) -> None:
    again = pickle.loads(pickle.dumps(tiny()))
    assert again.denoiser._encode.__self__ is again.scale  # the copy uses its own statistics


def test_covariates_change_the_flow_once_trained(tiny: Tiny, batch: Batches) -> None:
    stage = tiny()
    for parameter in stage.parameters():  # many layers start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    data = batch()
    stage.measure_latents([data], 2)
    z = torch.randn(stage.noise_shape(2, (16, 16)))
    with torch.no_grad():
        one = stage.velocity(
            z, 0.5, stage.encode(data[IMAGES], data[AVAILABLE], data[COVARIATES], data[KNOWN])
        )
        none = stage.velocity(z, 0.5, stage.encode(data[IMAGES], data[AVAILABLE]))
    assert not torch.allclose(one, none)
    assert isinstance(stage.token, CovariateToken)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_trains_on_the_gpu(tiny: Tiny, loader: Loader, trainer: Trainers, precision: Any) -> None:
    stage = tiny(spatial_dims=3)
    run = trainer(accelerator="gpu", precision=precision, callbacks=[EMA(0.9)])
    run.fit(stage, loader(3, shape=(16, 16, 8)), loader(1, shape=(16, 16, 8)))
    assert math.isfinite(float(run.callback_metrics["val/loss"]))
