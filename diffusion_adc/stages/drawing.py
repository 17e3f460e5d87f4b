"""What inference needs of a stage that draws presence, whatever it was trained with.

Axes: ``B C I J K`` in batches, ``S`` the network's own spatial shape (``I J`` in 2-D, where K is 1).
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffusion_adc.diffusion import Denoiser, NoisePath, Sampler, SamplerName, make_sampler
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.sequences import CHANNELS
from diffusion_adc.networks import (
    CandidateShift,
    Codec,
    CovariateToken,
    DenoiserNetwork,
    Encoder,
    Features,
    KLCodec,
    LatentScale,
)

from .codec_file import PREFIX
from .condition import availability_flags

__all__ = ["DrawingStage"]


class DrawingStage(LightningModule, ABC):
    """Images in, velocity and presence out. A member builds the parts below and trains them.

    Attributes:
        spatial_dims: 2 or 3.
        encoder: Runs once per patch.
        codec: Presence ⇄ latent.
        scale: Standardization of the latent.
        token: Covariates → token.
        denoiser: Latent, time and features → velocity.
        shift: The clock asked for, None where it was measured.
        sampler_name: Member of the sampler family.
        steps: Steps per draw where a caller does not say.
        candidates: Covariates once more at case and lesion level; None for an image-only model.
        values: Where the map's values come from: ``measured`` (the product: the scanner's own), ``regressed`` or
            ``drawn`` (baselines whose values are synthetic).
        draw_method: What a run of this stage draws by default: ``draws``, or ``base`` for a deterministic one.
    """

    spatial_dims: int
    encoder: Encoder
    codec: Codec
    scale: LatentScale
    token: CovariateToken
    denoiser: Denoiser
    shift: float | None
    sampler_name: SamplerName
    steps: int
    candidates: CandidateShift | None
    values: Literal["measured", "regressed", "drawn"] = "measured"
    draw_method: Literal["draws", "base"] = "draws"

    @property
    def network(self) -> DenoiserNetwork:
        """The denoiser's network."""
        return cast(DenoiserNetwork, self.denoiser.network)

    @property
    def path(self) -> NoisePath:
        """Noise path and clock."""
        return self.denoiser.path

    @property
    def alignment(self) -> tuple[int, ...]:
        """Voxels per axis (length `spatial_dims`) that a volume must be padded to a multiple of, and that a
        tile must start at a multiple of.
        """
        fine = (a * f for a, f in zip(self.network.alignment, self.codec.factor, strict=True))
        return tuple(math.lcm(a, b) for a, b in zip(self.encoder.alignment, fine, strict=True))

    @property
    def receptive_margin(self) -> tuple[int, ...]:
        """Voxels per axis within which a border can change encoder and one velocity (the sum of both)."""
        return tuple(
            e + f * d
            for e, f, d in zip(self.encoder.margin, self.codec.factor, self.network.margin, strict=True)
        )

    def noise_shape(self, batch: int, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape (B, C, *S/factor) of the noise of a draw for a padded volume or patch of `shape` S."""
        return (batch, *self.codec.latent_shape(shape))

    def make_sampler(self, steps: int | None = None) -> Sampler:
        """The configured sampler with `steps` steps (default: the configured number)."""
        return make_sampler(self.sampler_name, self.path, self.steps if steps is None else steps)

    def encode(
        self, images: Tensor, available: Tensor, covariates: Tensor | None = None, known: Tensor | None = None
    ) -> Features:
        """Runs the encoder once.

        Args:
            images: (B, 7, *S); in 2-D also (B, 7, I, J, 1). S a multiple of `alignment`.
            available: (B, 5).
            covariates: (B, F), with `known` (B, F); left out, nothing is known.
            known: See `covariates`.

        Returns:
            Features of the images, the base logit (B, 1, *S) among them.

        Raises:
            UsageError: Shape or number of covariates do not fit the model.
        """
        images = self._checked(images)
        token = self._token(images, covariates, known)
        maps, logit = self.encoder(images, availability_flags(available))
        if self.candidates is not None:
            logit = self.candidates(logit, token)
        base = self.scale.encode_field(self.codec.expected_field(logit.detach()))
        contrast = base - self.scale.encode_field(
            base.new_full((1, 1, *self.codec.factor), self.codec.empty_value)
        )
        prepared = self.network.prepare(torch.cat((maps, base.to(maps.dtype)), dim=1), contrast)
        return Features(prepared, logit, token, self.codec.factor)

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        """The noise of draw number `draw` as the model wants it: (C, I, J, K) → same shape; a flow takes it as is."""
        return noise

    def velocity(self, z: Tensor, t: Tensor | float, features: Features) -> Tensor:
        """Velocity of the flow.

        Args:
            z: (B * n, C, *s) noisy latents, the n draws of a case next to each other.
            t: Time in (0, 1], one number or (B * n,).
            features: Of B cases, on the same window.

        Returns:
            float32 (B * n, C, *s).
        """
        rows, cases = z.shape[0], features.token.shape[0]
        if rows % cases:
            raise UsageError(f"{rows} latents for {cases} cases", "a multiple of the number of cases")
        times = torch.as_tensor(t, dtype=torch.float32, device=z.device).expand(rows)
        return self.denoiser.velocity(z, times, features.repeat(rows // cases))

    def to_presence(self, z: Tensor) -> Tensor:
        """Latents at t = 0 (B, C, *s) → signed field (B, 1, *S), > 0 where present."""
        return self.codec.decode(self.scale.unstandardize(z))

    def draw(self, features: Features, noise: Tensor, steps: int | None = None) -> Tensor:
        """Draws presence on a patch: noise (B * n, C, *s) → signed field (B * n, 1, *S)."""
        return self.to_presence(
            self.make_sampler(steps).draw(lambda z, t: self.velocity(z, t, features), noise)
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another configuration in one sentence.

        Raises:
            UsageError: Weights or latent statistics of another model.
        """
        theirs, ours = checkpoint["state_dict"], self.state_dict()
        different = sorted(set(theirs) ^ set(ours)) or sorted(
            name for name in ours if theirs[name].shape != ours[name].shape
        )
        name = "scale.fingerprint"
        if not different and theirs[name].tolist() != self._fingerprint(theirs):
            different = [name]
        name = "denoiser.path.shift"
        if (
            not different
            and name in ours
            and self.shift is not None
            and float(theirs[name]) != float(ours[name])
        ):
            different = [name]
        if different:
            raise UsageError(
                f"checkpoint of another configuration ({different[0]} differs)",
                "one written by this model's configuration",
                "use the experiment.yaml beside the checkpoint, or start without it",
            )

    def _fingerprint(self, state: Mapping[str, Any]) -> list[int]:
        """The codec's fingerprint, a learned one's with the weights of a state dict."""
        if not isinstance(self.codec, KLCodec):
            return self.scale.fingerprint.tolist()
        weights = {
            name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)
        }
        return list(bytes.fromhex(self.codec.fingerprint_with(weights)))

    def _checked(self, images: Tensor) -> Tensor:
        """Images as the encoder takes them, or a refusal in one sentence."""
        images = self._spatial(images)
        if images.shape[1] != len(CHANNELS) or any(
            s % a for s, a in zip(images.shape[2:], self.alignment, strict=True)
        ):
            raise UsageError(
                f"patch of {images.shape[1]} channels, shape {tuple(images.shape[2:])}",
                f"{len(CHANNELS)} channels and multiples of {self.alignment}",
                "choose another patch size or pad the volume",
            )
        return images

    def _spatial(self, x: Tensor) -> Tensor:
        """(B, C, I, J, 1) → (B, C, I, J) for a 2-D model; otherwise unchanged."""
        if x.ndim == 5 and self.spatial_dims == 2:
            if x.shape[-1] != 1:
                raise UsageError(f"patch {x.shape[-1]} slices thick", "one slice for a 2-D model")
            return x.squeeze(-1)
        if x.ndim != 2 + self.spatial_dims:
            raise UsageError(f"patch of shape {tuple(x.shape[2:])}", f"{self.spatial_dims} spatial axes")
        return x

    def _token(self, images: Tensor, covariates: Tensor | None, known: Tensor | None) -> Tensor:
        rows, number = images.shape[0], self.token.n_covariates
        if number == 0 or covariates is None or known is None:
            zeros = images.new_zeros((rows, number))
            return self.token(zeros, zeros)
        if covariates.shape[1] != number:
            raise UsageError(f"{covariates.shape[1]} covariates", f"{number}, the model's n_covariates")
        return self.token(covariates, known)
