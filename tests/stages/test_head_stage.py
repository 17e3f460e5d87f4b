"""The rivals without a flow: trained, drawn in one evaluation, and what each of them can and cannot say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import AVAILABLE, CHANNELS, IMAGES, PRESENCE
from diffusion_adc.stages import EMA, HeadStage

Batch = dict[str, Tensor]
ADC = CHANNELS.index("adc")


def stage_of(head: str, **changes: Any) -> HeadStage:
    torch.manual_seed(0)
    values = {
        "spatial_dims": 2,
        "channels": [8, 8],
        "rank": 3,
        "samples": 4,
        "snapshots": 2,
        "warmup_steps": 2,
    }
    return HeadStage(head, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["low_rank", "snapshots", "regression"])
@pytest.mark.parametrize("three", [False, True])
def test_every_head_trains_and_draws(head: str, three: bool, batch: Callable[..., Batch]) -> None:
    stage = stage_of(head, spatial_dims=3 if three else 2)
    data = batch(shape=(16, 16, 8) if three else (16, 16, 1))
    stage.measure_latents([data], 2)
    features = stage.encode(data[IMAGES], data[AVAILABLE])
    losses = stage.losses(features, data, torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert [n for n, p in stage.named_parameters() if p.grad is None] == []
    shape = tuple(stage._spatial(data[PRESENCE]).shape[2:])
    noise = torch.randn(stage.noise_shape(6, shape))
    with torch.no_grad():
        field = stage.draw(features, noise, steps=7)
    assert field.shape == (6, 1, *shape)
    direct = stage.head.logit(noise, features.repeat(3).maps, features.repeat(3).base_logit)
    torch.testing.assert_close(field, direct.detach(), atol=1e-4, rtol=1e-4)


def test_low_rank_draws_have_the_covariance_of_its_factors(batch: Callable[..., Batch]) -> None:
    stage = stage_of("low_rank").eval()
    maps = torch.randn(1, 5, 2, 2)
    noise = torch.stack([stage.arrange(torch.randn(4, 2, 2, 1), d)[..., 0] for d in range(20_000)])
    base = torch.randn(1, 1, 2, 2)
    drawn = stage.head.logit(noise, maps.expand(20_000, -1, -1, -1), base).flatten(1)
    factors = maps[0, 1:4].flatten(1)
    expected = factors.T @ factors + torch.diag(torch.exp(2 * maps[0, 4].flatten()))
    torch.testing.assert_close(drawn.T.cov(), expected, atol=0.25, rtol=0.1)
    torch.testing.assert_close(drawn.mean(0), (base + maps[:, :1]).flatten(), atol=0.1, rtol=0)


def test_low_rank_loss_is_the_mean_likelihood_for_one_pixel() -> None:
    head = stage_of("low_rank", samples=4000).head
    maps = torch.tensor([0.3, 0.0, 0.0, 0.0, -20.0]).reshape(1, 5, 1, 1)  # no spread but exp(-6)
    loss = head.loss(maps, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.Generator().manual_seed(0))
    assert loss is not None
    assert float(loss) == pytest.approx(-float(torch.log(torch.sigmoid(torch.tensor(0.3)))), abs=0.01)


def test_snapshots_are_kept_at_the_end_of_each_cycle_and_are_the_members(
    batch: Callable[..., Batch], loader: Callable[..., DataLoader[Any]], trainer: Callable[..., Trainer]
) -> None:
    stage = stage_of("snapshots", learning_rate=0.02)
    run = trainer(max_epochs=2, callbacks=[EMA(0.9)])
    run.fit(stage, loader(3), loader(1))
    assert int(stage.head.taken) == 2  # type: ignore[union-attr]
    rates = stage.head.weights  # type: ignore[union-attr]
    assert not torch.equal(rates[0], rates[1])
    data = batch()
    stage.eval()
    with torch.no_grad():
        features = stage.encode(data[IMAGES], data[AVAILABLE])
        assert features.maps.shape[1] == 2
        noise = torch.stack([stage.arrange(torch.randn(1, 16, 16, 1), d)[..., 0] for d in (0, 1, 2, 3)])
        drawn = stage.draw(features, noise)
    for row, (case, member) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(drawn[row, 0], features.maps[case, member], atol=1e-4, rtol=1e-4)


def test_regression_reads_presence_off_the_share_of_the_adc() -> None:
    head = stage_of("regression").head
    images = torch.zeros(1, 7, 1, 4)
    images[0, ADC, 0] = torch.tensor([0.4, 0.4, 0.4, 0.0])
    logit = head.base_logit(torch.tensor([[[[0.1, 0.4, -0.3, 0.3]]]]), images)
    torch.testing.assert_close(
        torch.sigmoid(logit).flatten(), torch.tensor([0.25, 1 - 1e-4, 1e-4, 1e-4]), atol=1e-5, rtol=0
    )


def test_senseless_heads_are_refused() -> None:
    for head, changes, match in (
        ("oracle", {}, "low_rank, snapshots or regression"),
        ("low_rank", {"rank": 0}, "at least 1"),
        ("snapshots", {"snapshots": 1}, "at least 2"),
        ("regression", {"n_covariates": 2}, "image-only"),
    ):
        with pytest.raises(UsageError, match=match):
            stage_of(head, **changes)  # type: ignore[arg-type]
