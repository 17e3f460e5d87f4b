"""What every trained stage shares: losses of the base head, latent statistics, guard, optimizer, random numbers.

Axes: ``B C I J K`` in batches, ``S`` the network's own spatial shape (``I J`` in 2-D, where K is 1).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import (
    ADC,
    AVAILABLE,
    CASE_INDEX,
    CHANNELS,
    COUNTS,
    COVARIATES,
    IMAGES,
    KNOWN,
    PRESENCE,
)
from diffusion_adc.domain.units import ADC_CEILING
from diffusion_adc.networks import CodecGateError, CovariateToken, Features, codec_gate, set_base_prevalence
from diffusion_adc.networks.blocks import ResidualBlock

from .condition import drop_sequences
from .drawing import DrawingStage
from .guard import NonFiniteGuard
from .schedule import adamw, warmup_cosine

__all__ = ["Batch", "LearningStage"]

Batch = Mapping[str, Tensor]
SCALE_PATCHES = 256
SHIFT_PER_CONTRAST = 0.25
SKIPPED = "skipped_steps"
_ADC = CHANNELS.index(ADC)


class LearningStage(DrawingStage):
    """A stage that is trained on patches: encoder and base head, and what a member adds.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of matrices and kernels.
        warmup_steps: Optimizer steps of linear warm-up.
        dice_weight: Weight of the base head's Dice loss beside its cross-entropy.
        sequence_dropout: Chance per case that an optional sequence is hidden in training.
        covariate_dropout: Chance per case that a covariate, or all of them, are hidden in training.
        seed: Seed of times, noise and drop-out.
    """

    learning_rate: float
    weight_decay: float
    warmup_steps: int
    dice_weight: float
    sequence_dropout: float
    covariate_dropout: float
    seed: int

    def _set_up_learning(
        self,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        dice_weight: float,
        sequence_dropout: float,
        covariate_dropout: float,
        max_skipped: int,
        recompute: bool,
        compile_backend: str | None,
        seed: int,
    ) -> None:
        """The last act of a member's construction.

        Raises:
            UsageError: A drop-out that is no probability.
        """
        from monai.losses import DiceLoss

        for name, value in (("sequence_dropout", sequence_dropout), ("covariate_dropout", covariate_dropout)):
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value}", "a probability in [0, 1)")
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.dice_weight, self.seed = dice_weight, seed
        self.sequence_dropout, self.covariate_dropout = sequence_dropout, covariate_dropout
        self.dice = DiceLoss(sigmoid=True, batch=True)
        self.guard = NonFiniteGuard(max_skipped)
        self._since_step: list[tuple[list[int], Tensor]] = []
        self.compile_backend = compile_backend
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                block.recompute = recompute

    @abstractmethod
    def losses(self, features: Features, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalar losses of a batch by name; ``loss`` is the one that is minimized.

        Args:
            features: Of the batch's images, with what training forgets on purpose forgotten.
            batch: The batch as it came.
            generator: Source of times and noise.
        """

    def compiled_parts(self) -> list[nn.Module]:
        """Parts that `compile_backend` compiles."""
        return [self.encoder]

    def target_of(self, batch: Batch) -> Tensor:
        """What the codec encodes: presence (B, 1, *S), or the tumor's ADC map in 1e-3 mm²/s for the value target."""
        presence = self._spatial(batch[PRESENCE])
        if self.codec.target != "value":
            return presence
        return presence * self._spatial(batch[IMAGES])[:, [_ADC]] * ADC_CEILING

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = self._generator(batch[IMAGES].device, 0, int(self.global_step), batch_idx)
        images, available = drop_sequences(
            self._spatial(batch[IMAGES]), batch[AVAILABLE], self.sequence_dropout, generator
        )
        known = batch.get(KNOWN)
        if known is not None:
            known = CovariateToken.drop(known, self.covariate_dropout, generator)
        features = self.encode(images, available, batch.get(COVARIATES), known)
        losses = self.losses(features, batch, generator)
        loss = losses.pop("loss")
        cases = batch[CASE_INDEX].tolist() if CASE_INDEX in batch else []
        self._since_step.append((cases, loss.detach()))
        size = images.shape[0]
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # Counted over all processes, so that a batch has the same noise whoever takes it.
        number = batch_idx * self.trainer.world_size + self.global_rank
        generator = self._generator(batch[IMAGES].device, 1, 0, number, rank=0)
        features = self.encode(batch[IMAGES], batch[AVAILABLE], batch.get(COVARIATES), batch.get(KNOWN))
        presence = self._spatial(batch[PRESENCE])
        losses = {f"val/{name}": value for name, value in self.losses(features, batch, generator).items()}
        counts = batch.get(COUNTS)
        size = presence.shape[0] if counts is None else int(counts.sum())
        self.log_dict(losses, batch_size=size, sync_dist=True)
        if size:
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

    def on_fit_start(self) -> None:
        """Codec gate, then the latent statistics, unless a checkpoint brought them.

        Raises:
            UsageError: The codec loses lesions, or the training patches hold no tumor.
        """
        if self.compile_backend is not None:
            for part in self.compiled_parts():
                part.compile(backend=self.compile_backend)
        if self.scale.measured:
            return
        self.check_codec()
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
        self.prepare_base()

    def prepare_base(self) -> None:
        """Starts the base head at the measured prevalence."""
        set_base_prevalence(self.encoder, float(self.scale.prevalence))

    def check_codec(self) -> None:
        """Before the gate: a learned codec must have been trained."""

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
                    yield self.target_of(batch)
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
        self.prepare_base()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return  # float16: the loss scaler skips overflowing steps by itself, and must
        seen, self._since_step = self._since_step, []
        norm = self.guard.check(
            self.parameters(),
            [case for cases, _ in seen for case in cases],
            int(self.global_step),
            lambda: [case for cases, loss in seen if not bool(torch.isfinite(loss)) for case in cases],
            sharded=type(self.trainer.strategy).__name__ == "FSDPStrategy",
        )
        self.log("train/grad_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resumed run has as many skipped steps left as it had."""
        checkpoint[SKIPPED] = self.guard.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.guard.skipped = int(checkpoint.get(SKIPPED, 0))

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

    def _generator(self, device: torch.device, *key: int, rank: int | None = None) -> torch.Generator:
        """A generator for one step: of the seed, the device's rank and the step alone."""
        value = self.seed
        for part in (self.global_rank if rank is None else rank, *key):
            value = (value * 1_000_003 + part + 1) % (2**63 - 1)
        return torch.Generator(device).manual_seed(value)
