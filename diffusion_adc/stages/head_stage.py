"""A stage without a flow, drawn in one evaluation: encoder, base head and one more head.

Axes: ``B C I J K`` in batches, ``S`` the network's own spatial shape (``I J`` in 2-D, where K is 1).

To whoever draws whole volumes it looks like a flow of one step: its velocity at t = 1 is ``z - G`` with the drawn
logit G, so that the sampler ``direct`` lands on G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from diffusion_adc.diffusion import NoisePath, RectifiedFlow, Sampler, make_sampler
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import ADC, CHANNELS, IMAGES, PRESENCE
from diffusion_adc.networks import (
    CandidateShift,
    CovariateToken,
    Encoder,
    Features,
    IdentityCodec,
    LatentScale,
)
from diffusion_adc.networks.blocks import level_strides

from .condition import FLAGS, availability_flags
from .heads import Head, LowRankHead, RegressionHead, SnapshotHead
from .learning import Batch, LearningStage
from .schedule import adamw, warmup_cosine

__all__ = ["HeadStage"]

_ADC = CHANNELS.index(ADC)
TYPICAL_SQUARE = 0.08
"""Mean square of tumor in units of the ADC channel (1e-3 mm²/s over the ceiling of 3.5)."""


@final
class HeadStage(LearningStage):
    """The rivals that draw without a flow, on the same encoder and budget."""

    def __init__(
        self,
        head: Literal["low_rank", "snapshots", "regression"],
        spatial_dims: Literal[2, 3] = 3,
        channels: list[int] | None = None,
        stem: Literal["haar", "full"] = "haar",
        slice_halvings: int | None = None,
        rank: int = 10,
        samples: int = 8,
        snapshots: int = 5,
        n_covariates: int = 0,
        head_weight: float = 1.0,
        dice_weight: float = 1.0,
        sequence_dropout: float = 0.1,
        covariate_dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        max_skipped: int = 10,
        recompute: bool = False,
        compile: str | None = None,  # noqa: A002  (torch's own word for it)
        seed: int = 0,
    ) -> None:
        """Arguments that are not listed mean what they mean in `PresenceFlowStage`.

        Args:
            head: ``low_rank`` (stochastic segmentation), ``snapshots`` (an ensemble of checkpoints of this training)
                or ``regression`` (the map in one step; its values are synthetic).
            spatial_dims: 2 or 3.
            channels: Encoder width per level.
            stem: ``haar`` or ``full``.
            slice_halvings: In 3-D, how often the slice axis is halved in all.
            rank: Of ``low_rank``.
            samples: Samples per patch in the likelihood of ``low_rank``.
            snapshots: Members of ``snapshots``; the training has as many learning-rate cycles.
            n_covariates: Covariates per case; not with ``regression``.
            head_weight: Weight of the head's loss beside the base head's.
            dice_weight: Weight of the base head's Dice loss.
            sequence_dropout: Chance per case that an optional sequence is hidden.
            covariate_dropout: Chance per case that a covariate, or all of them, are hidden.
            learning_rate: Peak learning rate of AdamW.
            weight_decay: Weight decay of matrices and kernels.
            warmup_steps: Optimizer steps of linear warm-up.
            max_skipped: Steps with a non-finite gradient before the run stops.
            recompute: Keep no activations inside residual blocks.
            compile: torch.compile backend of the encoder in training.
            seed: Seed of noise and drop-out.

        Raises:
            UsageError: Values that do not go together.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        dims = spatial_dims
        self.spatial_dims, self.sampler_name, self.steps, self.shift = dims, "direct", 1, 1.0
        self.head_weight = head_weight
        widths = list(channels) if channels is not None else [32, 64, 96, 128]
        factor = level_strides(dims, 1, slice_halvings)[0] if stem == "haar" else (1,) * dims
        self.codec = IdentityCodec(dims)
        try:
            self.encoder = Encoder(dims, len(CHANNELS), FLAGS, widths, stem, factor, slice_halvings)
            self.head = self._make_head(head, rank, samples, snapshots)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if head == "regression" and n_covariates:
            raise UsageError("covariates with the head regression", "an image-only model", "n_covariates: 0")
        self.scale = LatentScale(self.codec)
        self.token = CovariateToken(n_covariates)
        self.candidates = CandidateShift(self.token.width) if n_covariates else None
        self.clock = RectifiedFlow()
        if head == "regression":
            self.values, self.draw_method = "regressed", "base"
        self._set_up_learning(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            dice_weight=dice_weight,
            sequence_dropout=sequence_dropout,
            covariate_dropout=covariate_dropout,
            max_skipped=max_skipped,
            recompute=recompute,
            compile_backend=compile,
            seed=seed,
        )

    def _make_head(self, name: str, rank: int, samples: int, snapshots: int) -> Head:
        if name == "low_rank":
            encoder = self.encoder
            return LowRankHead(self.spatial_dims, encoder.width, encoder.stem_factor, rank, samples)
        if name == "snapshots":
            return SnapshotHead(self.encoder, snapshots)
        if name == "regression":
            return RegressionHead()
        raise ValueError(f"head {name!r}; expected low_rank, snapshots or regression")

    @property
    def path(self) -> NoisePath:
        """An even clock; a head has one step only."""
        return self.clock

    @property
    def alignment(self) -> tuple[int, ...]:
        return self.encoder.alignment

    @property
    def receptive_margin(self) -> tuple[int, ...]:
        return self.encoder.margin

    def noise_shape(self, batch: int, shape: Sequence[int]) -> tuple[int, ...]:
        return (batch, self.head.noise_channels, *shape)

    def make_sampler(self, steps: int | None = None) -> Sampler:
        return make_sampler("direct", self.clock, 1)

    def encode(
        self, images: Tensor, available: Tensor, covariates: Tensor | None = None, known: Tensor | None = None
    ) -> Features:
        images = self._checked(images)
        token, flags = self._token(images, covariates, known), availability_flags(available)
        maps, raw = self.encoder(images, flags)
        logit = self.head.base_logit(raw, images)
        if self.candidates is not None:
            logit = self.candidates(logit, token)
        prepared = self.head.maps(self.encoder, images, flags, maps, raw)
        return Features(prepared, logit, token, (1,) * self.spatial_dims)

    def velocity(self, z: Tensor, t: Tensor | float, features: Features) -> Tensor:
        again = features.repeat(z.shape[0] // features.token.shape[0])
        drawn = self.head.logit(z, again.maps, again.base_logit)
        return torch.cat((z[:, :1] - drawn, torch.zeros_like(z[:, 1:])), dim=1)

    def to_presence(self, z: Tensor) -> Tensor:
        return z[:, :1]

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        return self.head.arrange(noise, draw)

    def losses(self, features: Features, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        presence = self._spatial(batch[PRESENCE])
        base = self.base_loss(features.base_logit, presence)
        if not self.head.trains_base:
            target = presence * self._spatial(batch[IMAGES])[:, [_ADC]]
            loss = self.head.loss(features.maps, features.base_logit, target, generator)
            assert loss is not None
            return {"base": base.detach(), "loss": loss / (self.scale.prevalence * TYPICAL_SQUARE)}
        extra = self.head.loss(features.maps, features.base_logit, presence, generator)
        if extra is None:
            return {"base": base, "loss": base}
        extra = extra / self.scale.ignorance()
        return {"base": base, "head": extra, "loss": base + self.head_weight * extra}

    def prepare_base(self) -> None:
        if self.head.trains_base:
            super().prepare_base()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        if not isinstance(self.head, SnapshotHead):
            return super().configure_optimizers()
        optimizer = adamw(self, self.learning_rate, self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, self.warmup_steps, total, self.head.snapshots)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Keeps the weights at the end of every cycle: within the step, before averages copy the buffers."""
        super().optimizer_step(*args, **kwargs)
        if isinstance(self.head, SnapshotHead):
            cycle = max(1, int(self.trainer.estimated_stepping_batches) // self.head.snapshots)
            if (int(self.global_step) + 1) % cycle == 0:
                self.head.take(self.encoder)
