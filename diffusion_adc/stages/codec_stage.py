"""The KL autoencoder as a stage of its own: trained on lesions, refused by the gate where it loses any.

Axes: ``B C I J K`` in batches, ``S`` the codec's own spatial shape (``I J`` in 2-D).
"""

from __future__ import annotations

from typing import Any, Literal, final

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import ADC, CHANNELS, IMAGES, PRESENCE
from diffusion_adc.domain.units import ADC_CEILING
from diffusion_adc.networks import CodecGateError, GateReport, KLCodec, codec_gate
from diffusion_adc.networks.blocks import level_strides
from diffusion_adc.networks.gate import compact_lesion

from .learning import Batch
from .schedule import adamw, warmup_cosine

__all__ = ["CodecStage"]

_ADC = CHANNELS.index(ADC)
SIZES = (1, 300)
"""Voxels of the smallest and largest made-up lesion."""


@final
class CodecStage(LightningModule):
    """Trains a `KLCodec` on the readers' maps, with made-up lesions of 1 to 300 voxels added to them.

    Readers' maps hold few lesions of a handful of voxels; the gate, and a patient, hold some at every phase of the
    codec's cells. ``val/missed`` counts what the gate finds: 1 minus the worst recall plus the worst volume error.
    """

    def __init__(
        self,
        spatial_dims: Literal[2, 3] = 3,
        slice_halvings: int | None = None,
        codec_channels: int = 4,
        codec_width: int = 32,
        codec_levels: Literal[1, 2] = 1,
        target: Literal["plain", "signed_distance", "value"] = "plain",
        spacing_mm: list[float] | None = None,
        lesion_weight: float = 20.0,
        kl_weight: float = 1e-6,
        made_up: float = 0.5,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 50,
        seed: int = 0,
    ) -> None:
        """Args:
            spatial_dims: 2 (patches one slice thick) or 3.
            slice_halvings: In 3-D, 0 leaves the slice axis whole; else it is halved as the others.
            codec_channels: Latent channels.
            codec_width: Inner channels.
            codec_levels: Halvings: factor 2 or 4.
            target: ``plain``, ``signed_distance`` or ``value`` (the tumor's ADC map).
            spacing_mm: Spacing of the working grid; needed by ``signed_distance``.
            lesion_weight: How much more a voxel in or beside a lesion counts.
            kl_weight: Weight of the divergence per latent number (1e-6 in Rombach et al. 2022).
            made_up: Share of the patches that get made-up lesions, in [0, 1].
            learning_rate: Peak learning rate of AdamW.
            weight_decay: Weight decay of matrices and kernels.
            warmup_steps: Optimizer steps of linear warm-up.
            seed: Seed of posterior samples and made-up lesions.

        Raises:
            UsageError: Values outside their range.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        if not 0 <= made_up <= 1:
            raise UsageError(f"made_up {made_up}", "a share in [0, 1]")
        spacing = None if spacing_mm is None else list(spacing_mm)[:spatial_dims]
        factor = level_strides(spatial_dims, 1, slice_halvings)[0]
        try:
            self.codec = KLCodec(
                spatial_dims, target, spacing, codec_channels, codec_width, codec_levels, factor
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.spatial_dims = spatial_dims
        self.lesion_weight, self.kl_weight, self.made_up = lesion_weight, kl_weight, made_up
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.seed = seed

    def field(self, batch: Batch, rng: np.random.Generator | None = None) -> Tensor:
        """The field that is learned, (B, 1, *S); with `rng`, made-up lesions in some patches."""
        presence, adc = batch[PRESENCE], batch[IMAGES][:, [_ADC]] * ADC_CEILING
        if self.spatial_dims == 2 and presence.ndim == 5:
            presence, adc = presence.squeeze(-1), adc.squeeze(-1)
        if rng is not None:
            presence, adc = self._with_made_up(presence, adc, rng)
        return self.codec.field(presence * adc if self.codec.target == "value" else presence)

    def _with_made_up(self, presence: Tensor, adc: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        presence, adc = presence.clone(), adc.clone()
        shape = tuple(presence.shape[2:])
        for row in range(presence.shape[0]):
            if rng.random() >= self.made_up:
                continue
            for _ in range(int(rng.integers(1, 5))):
                voxels = int(np.exp(rng.uniform(*np.log(SIZES))))
                center = rng.uniform(0, [s - 1 for s in shape])
                lesion = compact_lesion(shape, center, min(voxels, int(np.prod(shape)) // 4)).to(
                    presence.device
                )
                presence[row, 0][lesion] = 1
                adc[row, 0][lesion] = float(rng.uniform(0.5, 1.6))
        return presence, adc

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        key = (self.seed, self.global_rank, int(self.global_step), batch_idx)
        field = self.field(batch, np.random.default_rng(key))
        generator = torch.Generator(field.device).manual_seed(int(np.random.default_rng(key).integers(2**62)))
        losses = self.codec.loss(field, generator, self.lesion_weight, self.kl_weight)
        loss = losses.pop("loss")
        self.log("train/loss", loss, prog_bar=True, batch_size=field.shape[0])
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=field.shape[0])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        field = self.field(batch)
        generator = torch.Generator(field.device).manual_seed(batch_idx)
        losses = self.codec.loss(field, generator, self.lesion_weight, self.kl_weight)
        found = self.codec.decode(self.codec.encode_field(field)) > 0
        wrong = (found != (field > 0)).float().sum() / (field > 0).float().sum().clamp_min(1)
        self.log_dict(
            {"val/loss": losses["loss"], "val/wrong_share": wrong}, batch_size=field.shape[0], sync_dist=True
        )

    def on_validation_epoch_end(self) -> None:
        report = self.gate()
        missed = 1 - min(report.recall.values()) + max(report.volume_error.values())
        self.log("val/missed", missed, prog_bar=True, sync_dist=True)

    def gate(self, latent_std: float = 0.0) -> GateReport:
        """What the gate measures; nothing is refused."""
        return codec_gate(self.codec, latent_std=latent_std, min_recall=0.0, max_volume_error=float("inf"))

    def on_fit_end(self) -> None:
        """Says whether the codec as trained passes; a flow is refused on one that does not."""
        if self.global_rank != 0:
            return
        try:
            print(f"codec gate passed: {codec_gate(self.codec, lesions=64).lines()}")
        except CodecGateError as error:
            print(f"codec gate refused: {error}")
        noisy = self.gate(latent_std=0.1)
        print(f"noise floor at a latent noise of 0.1: {noisy.lines()}")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = adamw(self, self.learning_rate, self.weight_decay)
        schedule = warmup_cosine(optimizer, self.warmup_steps, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another configuration in one sentence.

        Raises:
            UsageError: Other weights.
        """
        theirs, ours = checkpoint["state_dict"], self.state_dict()
        if set(theirs) != set(ours) or any(theirs[n].shape != ours[n].shape for n in ours):
            raise UsageError(
                "checkpoint of another codec", "one written by this configuration", "start without it"
            )
