"""The presence flow: encoder once, base head, and a light flow that draws presence in latent space.

Axes: ``B C I J K`` in batches, ``S`` the network's own spatial shape (``I J`` in 2-D, where K is 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, final

import torch
import torch.nn.functional as functional
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from monai.losses import DiceLoss
from torch import Tensor

from diffusion_adc.diffusion import LatentDenoiser, PresenceDenoiser, RectifiedFlow, make_sampler
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import (
    AVAILABLE,
    CASE_INDEX,
    CHANNELS,
    COVARIATES,
    IMAGES,
    KNOWN,
    PRESENCE,
)
from diffusion_adc.networks import (
    Codec,
    CodecGateError,
    CovariateToken,
    DenoiserNetwork,
    Encoder,
    Features,
    HaarCodec,
    IdentityCodec,
    LatentScale,
    codec_gate,
    set_base_prevalence,
)
from diffusion_adc.networks.blocks import level_strides

from .condition import FLAGS, drop_sequences
from .drawing import DrawingStage
from .guard import NonFiniteGuard
from .schedule import adamw, warmup_cosine

__all__ = ["PresenceFlowStage"]

Batch = Mapping[str, Tensor]
SCALE_PATCHES = 256
SHIFT_PER_CONTRAST = 0.25


@final
class PresenceFlowStage(DrawingStage):
    """Encoder, base head and presence flow, trained together."""

    def __init__(
        self,
        spatial_dims: Literal[2, 3] = 3,
        channels: list[int] | None = None,
        stem: Literal["haar", "full"] = "haar",
        slice_halvings: int | None = None,
        denoiser_width: int = 32,
        denoiser_levels: int = 3,
        codec: Literal["haar", "identity"] = "haar",
        target: Literal["plain", "signed_distance"] = "plain",
        spacing_mm: list[float] | None = None,
        prediction: Literal["presence", "latent"] | None = None,
        n_covariates: int = 0,
        shift: float | None = None,
        sampler: Literal["euler", "heun"] = "euler",
        steps: int = 6,
        draws_per_encoding: int = 4,
        flow_weight: float = 1.0,
        dice_weight: float = 1.0,
        sequence_dropout: float = 0.1,
        covariate_dropout: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        max_skipped: int = 10,
        seed: int = 0,
    ) -> None:
        """Every value is a plain type, so that a YAML and a checkpoint hold the same thing.

        Args:
            spatial_dims: 2 (patches one slice thick) or 3.
            channels: Encoder width per level, finest first; default 32, 64, 96, 128.
            stem: ``haar`` runs the encoder at half resolution on Haar-transformed images (fast), ``full`` at
                every voxel.
            slice_halvings: In 3-D, how often the slice axis is halved in all (stem or first level included);
                default as often as the others. Thick slices want fewer.
            denoiser_width: Channels of the flow's network on the latent's grid.
            denoiser_levels: Resolutions of the flow's network; more let distant lesions be drawn together.
            codec: ``haar`` (lossless, half resolution) or ``identity``.
            target: ``plain`` (±1) or ``signed_distance`` (truncated at ±10 mm).
            spacing_mm: Spacing of the working grid per axis, mm; needed by ``signed_distance``.
            prediction: What the flow's network predicts: ``presence`` (logit, cross-entropy) or ``latent``
                (preconditioned, mean square). Default: presence for the plain target, else latent.
            n_covariates: Covariates per case, 0 for an image-only model.
            shift: Time warp s of the path; larger spends more of training and drawing near pure noise, where
                whole lesions are decided. Default: measured with the latent statistics, a quarter of the
                norm by which a typical patch with tumor differs from an empty one.
            sampler: ``euler`` or ``heun`` (two evaluations per step).
            steps: Steps per draw where a caller does not say.
            draws_per_encoding: (time, noise) pairs per patch and encoder pass in training.
            flow_weight: Weight of the flow's loss beside the base head's.
            dice_weight: Weight of the base head's Dice loss beside its cross-entropy.
            sequence_dropout: Chance per case that an optional sequence is hidden in training.
            covariate_dropout: Chance per case that a covariate, or all of them, are hidden in training.
            learning_rate: Peak learning rate of AdamW.
            weight_decay: Weight decay of matrices and kernels (norms and biases have none).
            warmup_steps: Optimizer steps of linear warm-up; then a cosine down to 1 %.
            max_skipped: Steps with a non-finite gradient that may be skipped before the run stops.
            seed: Seed of times, noise and drop-out; each step derives its own, so that a resumed run continues
                exactly.

        Raises:
            UsageError: Values that do not go together.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        dims = spatial_dims
        self.spatial_dims = dims
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.draws_per_encoding, self.steps, self.sampler_name, self.seed = (
            draws_per_encoding,
            steps,
            sampler,
            seed,
        )
        self.flow_weight, self.dice_weight = flow_weight, dice_weight
        self.sequence_dropout, self.covariate_dropout = sequence_dropout, covariate_dropout
        widths = list(channels) if channels is not None else [32, 64, 96, 128]
        for name, value in (("sequence_dropout", sequence_dropout), ("covariate_dropout", covariate_dropout)):
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value}", "a probability in [0, 1)")
        for name, number in (
            ("draws_per_encoding", draws_per_encoding),
            ("denoiser_levels", denoiser_levels),
        ):
            if number < 1:
                raise UsageError(f"{name} {number}", "at least 1")
        if prediction is None:
            prediction = "presence" if target == "plain" else "latent"
        if prediction not in ("presence", "latent"):
            raise UsageError(f"prediction {prediction}", "presence or latent")
        if prediction == "presence" and target != "plain":
            raise UsageError(
                f"prediction presence with target {target}", "target plain", "set prediction: latent"
            )
        try:
            self.codec = self._make_codec(codec, dims, target, spacing_mm, slice_halvings)
            path = RectifiedFlow(1.0 if shift is None else shift)
            make_sampler(sampler, path, steps)
            self.encoder = Encoder(
                dims, len(CHANNELS), FLAGS, widths, stem, self.codec.factor, slice_halvings
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.scale = LatentScale(self.codec)
        self.token = CovariateToken(n_covariates)
        halved = sum(f == 2 for f in self.codec.factor) > 0
        strides = level_strides(dims, denoiser_levels - 1 + halved, slice_halvings)[int(halved) :]
        network = DenoiserNetwork(
            dims,
            self.codec.channels,
            self.encoder.width + self.codec.channels,
            self.token.width,
            denoiser_width,
            strides,
        )
        if prediction == "presence":
            self.denoiser = PresenceDenoiser(
                network, path, self.scale.encode_field, self.codec.decode, self.scale.ignorance
            )
        else:
            self.denoiser = LatentDenoiser(network, path)
        self.shift = shift
        self.dice = DiceLoss(sigmoid=True, batch=True)
        self.guard = NonFiniteGuard(max_skipped)
        self._cases: list[int] = []

    @staticmethod
    def _make_codec(
        name: str, dims: int, target: Any, spacing_mm: Sequence[float] | None, slice_halvings: int | None
    ) -> Codec:
        spacing = None if spacing_mm is None else list(spacing_mm)[:dims]
        if name == "haar":
            return HaarCodec(dims, target, spacing, level_strides(dims, 1, slice_halvings)[0])
        if name == "identity":
            return IdentityCodec(dims, target, spacing)
        raise ValueError(f"codec {name!r}; expected haar or identity")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = self._generator(batch[IMAGES].device, 0, int(self.global_step), batch_idx)
        self._cases = batch[CASE_INDEX].tolist() if CASE_INDEX in batch else []
        images, available = drop_sequences(
            self._spatial(batch[IMAGES]), batch[AVAILABLE], self.sequence_dropout, generator
        )
        known = batch.get(KNOWN)
        if known is not None:
            known = CovariateToken.drop(known, self.covariate_dropout, generator)
        features = self.encode(images, available, batch.get(COVARIATES), known)
        presence = self._spatial(batch[PRESENCE])
        base = self.base_loss(features.base_logit, presence)
        flow = self.flow_loss(features, presence, generator)
        loss = base + self.flow_weight * flow
        size = images.shape[0]
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log_dict({"train/base": base, "train/flow": flow}, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        generator = self._generator(batch[IMAGES].device, 1, 0, batch_idx)
        features = self.encode(batch[IMAGES], batch[AVAILABLE], batch.get(COVARIATES), batch.get(KNOWN))
        presence = self._spatial(batch[PRESENCE])
        losses = {
            "val/base": self.base_loss(features.base_logit, presence),
            "val/flow": self.flow_loss(features, presence, generator),
        }
        losses["val/loss"] = losses["val/base"] + self.flow_weight * losses["val/flow"]
        self.log_dict(losses, batch_size=presence.shape[0], sync_dist=True)
        found = (features.base_logit > 0).float()
        self._overlap += torch.stack((2 * (found * presence).sum(), found.sum() + presence.sum()))

    def on_validation_epoch_start(self) -> None:
        self._overlap = torch.zeros(2, device=self.device)

    def on_validation_epoch_end(self) -> None:
        both, size = self.trainer.strategy.reduce(self._overlap, reduce_op="sum")
        # Nothing to find and nothing found is a perfect score, not 0 / 0.
        self.log("val/dice_base", both / size if size > 0 else torch.ones(()), prog_bar=True)

    def base_loss(self, logit: Tensor, presence: Tensor) -> Tensor:
        """Cross-entropy in units of knowing only the prevalence, plus Dice; finite without any tumor."""
        entropy = functional.binary_cross_entropy_with_logits(logit, presence) / self.scale.ignorance()
        if self.dice_weight == 0:
            return entropy
        return entropy + self.dice_weight * self.dice(logit, presence)

    def flow_loss(self, features: Features, presence: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the flow over `draws_per_encoding` (time, noise) pairs per patch.

        The base logit is detached: the base head stays the plain baseline it is compared with.
        """
        draws = self.draws_per_encoding
        x0 = self.scale.standardize(self.codec.encode(presence)).repeat_interleave(draws, dim=0)
        t = self.path.draw_times(presence.shape[0], draws, generator, presence.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        condition = replace(features, base_logit=features.base_logit.detach()).repeat(draws)
        return self.denoiser.loss(presence.repeat_interleave(draws, dim=0), x0, noise, t, condition)

    def on_fit_start(self) -> None:
        """Codec gate, then the latent statistics, unless a checkpoint brought them.

        Raises:
            UsageError: The codec loses lesions, or the training patches hold no tumor.
        """
        if self.scale.measured:
            return
        try:
            codec_gate(self.codec)
        except CodecGateError as error:
            raise UsageError(str(error), do="choose another codec") from error
        self.trainer.fit_loop.setup_data()
        loader = self.trainer.train_dataloader
        # Forked, so that looking at the data does not shift the random numbers of the training.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.measure_latents(loader if loader is not None else [])
        for value in (*self.scale.buffers(), self.path.shift):
            value.copy_(self.trainer.strategy.broadcast(value))  # one device's statistics for all
        set_base_prevalence(self.encoder, float(self.scale.prevalence))

    def measure_latents(self, batches: Iterable[Batch], at_least: int = SCALE_PATCHES) -> None:
        """Measures the latent statistics over the presence of `batches`; called once, before training.

        The path's clock follows from them where none is given, and the base head starts at the prevalence.
        A short loader is read again (with its next random patches) until `at_least` patches were seen.

        Raises:
            UsageError: No patch, or no tumor in any.
        """

        def presences() -> Iterable[Tensor]:
            seen = 0
            while True:
                before = seen
                for batch in batches:
                    seen += batch[PRESENCE].shape[0]
                    yield self._spatial(batch[PRESENCE])
                if seen == before:
                    return

        try:
            self.scale.measure(presences(), at_least)
        except ValueError as error:
            raise UsageError(
                str(error),
                "training patches with tumor",
                "check the cohort's train split and the patch sampler",
            ) from error
        if self.shift is None:
            self.path.set_shift(max(1.0, SHIFT_PER_CONTRAST * float(self.scale.contrast)))
        set_base_prevalence(self.encoder, float(self.scale.prevalence))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return  # float16: the loss scaler skips overflowing steps by itself, and must
        norm = self.guard.check(self.parameters(), self._cases, int(self.global_step))
        self.log("train/grad_norm", norm)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = adamw(self, self.learning_rate, self.weight_decay)
        schedule = warmup_cosine(optimizer, self.warmup_steps, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """A learning rate changed in the configuration holds after a resume, too: a restored optimizer would
        silently keep the old one.
        """
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = self.learning_rate
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.base_lrs = [self.learning_rate] * len(config.scheduler.base_lrs)

    def _generator(self, device: torch.device, *key: int) -> torch.Generator:
        """A generator for one step: of the seed, the device's rank and the step alone."""
        value = self.seed
        for part in (self.global_rank, *key):
            value = (value * 1_000_003 + part + 1) % (2**63 - 1)
        return torch.Generator(device).manual_seed(value)
