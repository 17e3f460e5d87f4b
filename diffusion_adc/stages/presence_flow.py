"""The presence flow: encoder once, base head, and a light flow that draws presence in latent space.

Axes: ``B C I J K`` in batches, ``S`` the network's own spatial shape (``I J`` in 2-D, where K is 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from diffusion_adc.diffusion import LatentDenoiser, PresenceDenoiser, make_path, make_sampler
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import AVAILABLE, CHANNELS, COUNTS, COVARIATES, IMAGES, KNOWN, PRESENCE
from diffusion_adc.networks import (
    CandidateShift,
    Codec,
    CovariateToken,
    DenoiserNetwork,
    Encoder,
    Features,
    HaarCodec,
    IdentityCodec,
    KLCodec,
    LatentScale,
    codec_gate,
)
from diffusion_adc.networks.blocks import level_strides

from .codec_file import codec_checkpoint, load_codec
from .condition import FLAGS
from .learning import Batch, LearningStage

__all__ = ["PresenceFlowStage"]

RESIDUAL_BATCHES = 4
"""Validation batches from which the denoiser's residual error is measured."""


@final
class PresenceFlowStage(LearningStage):
    """Encoder, base head and presence flow, trained together."""

    def __init__(
        self,
        spatial_dims: Literal[2, 3] = 3,
        channels: list[int] | None = None,
        stem: Literal["haar", "full"] = "haar",
        slice_halvings: int | None = None,
        denoiser_width: int = 32,
        denoiser_levels: int = 3,
        codec: Literal["haar", "identity", "kl"] = "haar",
        codec_run: str | None = None,
        codec_channels: int = 4,
        codec_width: int = 32,
        codec_levels: Literal[1, 2] = 1,
        target: Literal["plain", "signed_distance", "value"] = "plain",
        spacing_mm: list[float] | None = None,
        prediction: Literal["presence", "latent"] | None = None,
        n_covariates: int = 0,
        shift: float | None = None,
        path: Literal["rectified", "ddpm"] = "rectified",
        sampler: Literal["euler", "heun", "ddim", "dpmsolver++", "unipc"] | None = None,
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
        recompute: bool = False,
        compile: str | None = None,  # noqa: A002  (torch's own word for it)
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
            codec: ``haar`` (lossless, half resolution), ``identity`` or ``kl`` (a trained autoencoder).
            codec_run: With ``kl``, the run of a `CodecStage` with the same codec arguments; its weights are frozen
                and become part of this run's checkpoints.
            codec_channels: Latent channels of ``kl``.
            codec_width: Inner channels of ``kl``.
            codec_levels: Halvings of ``kl``: factor 2 or 4.
            target: ``plain`` (±1), ``signed_distance`` (truncated at ±10 mm), or ``value``: ADC values themselves are
                drawn, and what comes out is synthetic; a baseline, never the product.
            spacing_mm: Spacing of the working grid per axis, mm; needed by ``signed_distance``.
            prediction: What the flow's network predicts: ``presence`` (logit, cross-entropy) or ``latent``
                (preconditioned, mean square). Default: presence for the plain target, else latent.
            n_covariates: Covariates per case, 0 for an image-only model.
            shift: Time warp s of the path; larger spends more of training and drawing near pure noise, where
                whole lesions are decided. Default: measured with the latent statistics, a quarter of the
                norm by which a typical patch with tumor differs from an empty one.
            path: ``rectified`` (flow) or ``ddpm`` (variance-preserving, v-prediction).
            sampler: ``euler`` or ``heun`` (two evaluations per step) on the rectified path; ``ddim``,
                ``dpmsolver++`` or ``unipc`` on DDPM's. Default: euler, or ddim.
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
            recompute: Keep no activations inside residual blocks in training but compute them again for the
                gradient (Chen et al. 2016, arXiv 1604.06174): less memory, about a third more time.
            compile: torch.compile backend of encoder and denoiser in training (``inductor``); null runs them as
                they are. Drawing never compiles.
            seed: Seed of times, noise and drop-out; each step derives its own, so that a resumed run continues
                exactly.

        Raises:
            UsageError: Values that do not go together.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        dims = spatial_dims
        self.spatial_dims = dims
        self.draws_per_encoding, self.steps, self.flow_weight = draws_per_encoding, steps, flow_weight
        self.sampler_name = sampler or ("euler" if path == "rectified" else "ddim")
        self.values = "drawn" if target == "value" else "measured"
        self.codec_run = codec_run
        self._noise_floor: Tensor | None = None
        widths = list(channels) if channels is not None else [32, 64, 96, 128]
        for name, number in (
            ("draws_per_encoding", draws_per_encoding),
            ("denoiser_levels", denoiser_levels),
        ):
            if number < 1:
                raise UsageError(f"{name} {number}", "at least 1")
        if prediction is None:
            prediction = "presence" if target == "plain" and codec != "kl" else "latent"
        if prediction not in ("presence", "latent"):
            raise UsageError(f"prediction {prediction}", "presence or latent")
        if prediction == "presence" and (target != "plain" or codec == "kl"):
            raise UsageError(
                f"prediction presence with codec {codec} and target {target}", "a linear codec and target plain",
                "set prediction: latent",
            )  # fmt: skip
        try:
            self.codec = self._make_codec(
                codec, dims, target, spacing_mm, slice_halvings, codec_channels, codec_width, codec_levels
            )
            noise_path = make_path(path, 1.0 if shift is None else shift)
            make_sampler(self.sampler_name, noise_path, steps)
            self.encoder = Encoder(
                dims, len(CHANNELS), FLAGS, widths, stem, self.codec.factor, slice_halvings
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        if codec == "kl":
            load_codec(self.codec, codec_run)
        self.scale = LatentScale(self.codec)
        self.token = CovariateToken(n_covariates)
        self.candidates = CandidateShift(self.token.width) if n_covariates else None
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
                network, noise_path, self.scale.encode_field, self.codec.decode, self.scale.ignorance
            )
        else:
            self.denoiser = LatentDenoiser(network, noise_path)
        self.shift = shift
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

    @staticmethod
    def _make_codec(
        name: str,
        dims: int,
        target: Any,
        spacing_mm: Sequence[float] | None,
        slice_halvings: int | None,
        channels: int,
        width: int,
        levels: int,
    ) -> Codec:
        spacing = None if spacing_mm is None else list(spacing_mm)[:dims]
        factor = level_strides(dims, 1, slice_halvings)[0]
        if name == "haar":
            return HaarCodec(dims, target, spacing, factor)
        if name == "identity":
            return IdentityCodec(dims, target, spacing)
        if name == "kl":
            return KLCodec(dims, target, spacing, channels, width, levels, factor)
        raise ValueError(f"codec {name!r}; expected haar, identity or kl")

    @property
    def codec_checkpoint(self) -> Path | None:
        """The checkpoint the codec's weights were taken from; None for a codec without weights."""
        return None if self.codec_run is None else codec_checkpoint(self.codec_run)

    def compiled_parts(self) -> list[nn.Module]:
        return [self.encoder, self.network]

    def check_codec(self) -> None:
        if self.codec.learned and self.codec_checkpoint is None:
            raise UsageError(
                "codec kl without a trained codec", "codec_run: the run of one",
                "train one with `diffusion-adc fit` and experiments/codec_2d.yaml",
            )  # fmt: skip

    def losses(self, features: Features, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        base = self.base_loss(features.base_logit, self._spatial(batch[PRESENCE]))
        flow = self.flow_loss(features, self.target_of(batch), generator)
        return {"base": base, "flow": flow, "loss": base + self.flow_weight * flow}

    def flow_loss(self, features: Features, target: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of the flow over `draws_per_encoding` (time, noise) pairs per patch.

        The base logit is detached: the base head stays the plain baseline it is compared with.
        """
        draws = self.draws_per_encoding
        x0 = self.scale.standardize(self.codec.encode(target)).repeat_interleave(draws, dim=0)
        t = self.path.draw_times(target.shape[0], draws, generator, target.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        condition = replace(features, base_logit=features.base_logit.detach()).repeat(draws)
        return self.denoiser.loss(target.repeat_interleave(draws, dim=0), x0, noise, t, condition)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._residual: list[Tensor] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        # Counted over all processes, and without a batch that only repeats another one.
        number = batch_idx * self.trainer.world_size + self.global_rank
        if number < RESIDUAL_BATCHES and (COUNTS not in batch or bool(batch[COUNTS].all())):
            self._residual.append(self._residual_of(batch))

    def _residual_of(self, batch: Batch) -> Tensor:
        """Mean square error (C,) of the standardized latent at the last step of a draw."""
        features = self.encode(batch[IMAGES], batch[AVAILABLE], batch.get(COVARIATES), batch.get(KNOWN))
        x0 = self.scale.standardize(self.codec.encode(self.target_of(batch)))
        t = torch.full((x0.shape[0],), self.make_sampler().times[-2], device=x0.device)
        noise = torch.randn(x0.shape, generator=self._generator(x0.device, 2, rank=0), device=x0.device)
        clean = self.denoiser.clean(self.path.mix(x0, noise, t), t, features)
        return (clean - x0).square().transpose(0, 1).flatten(1).mean(1)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        mine = torch.zeros(self.codec.channels + 1, device=self.device)
        for residual in self._residual:
            mine += torch.cat((residual, residual.new_ones(1)))
        total: Any = self.trainer.strategy.reduce(mine, reduce_op="sum")
        if total[-1] > 0:
            self._noise_floor = (total[:-1] / total[-1]).sqrt()
            self.log("val/residual", self._noise_floor.square().mean().sqrt())

    def on_fit_end(self) -> None:
        """Says what latent noise as large as the denoiser's own error does to the smallest lesions."""
        if self._noise_floor is not None and self.flow_weight > 0 and self.global_rank == 0:
            std = (self._noise_floor * self.scale.std).cpu()
            print(f"noise floor of codec and denoiser: {codec_gate(self.codec, latent_std=std).lines()}")
