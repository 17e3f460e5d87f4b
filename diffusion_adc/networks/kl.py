"""The KL autoencoder: a learned codec with a Gaussian latent (Kingma and Welling 2014; Rombach et al. 2022, section 3.1).

Axes: ``B C I J K``. Like the rest of the networks it has no statistics over space (the group norms of the usual
autoencoders average over the patch: a whole volume and its patches would then have different latents), so its
latent of a window is the window of its latent but for a margin. Both ends are Haar transforms, which keep every
voxel: with as many latent channels as bands nothing has to be lost, and the gate asks for just that.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .blocks import ChannelNorm, ResidualBlock, channels_last, convolution, downsample
from .codec import Codec, Target
from .haar import haar, haar_channels, inverse_haar

__all__ = ["KLCodec"]

LOG_VARIANCE = (-12.0, 4.0)


@final
class KLCodec(nn.Module, Codec):
    """Posterior-mean latents of a small convolutional autoencoder.

    Attributes:
        levels: Halvings: 1 (factor 2) or 2 (factor 4).
    """

    learned = True

    def __init__(
        self,
        spatial_dims: int = 3,
        target: Target = "plain",
        spacing_mm: Sequence[float] | None = None,
        channels: int = 4,
        width: int = 32,
        levels: int = 1,
        factor: Sequence[int] | None = None,
    ) -> None:
        """Args:
            spatial_dims: See `Codec`.
            target: See `Codec`.
            spacing_mm: See `Codec`.
            channels: Latent channels.
            width: Channels inside.
            levels: Halvings of every axis that is halved at all.
            factor: Per axis 1 or 2, of one halving (default 2 on every axis).

        Raises:
            ValueError: Values outside their range.
        """
        nn.Module.__init__(self)
        Codec.__init__(self, spatial_dims, target, spacing_mm)
        if channels < 1 or width < 1 or levels not in (1, 2):
            raise ValueError(
                f"KL codec: channels {channels}, width {width}, levels {levels}; expected positive, levels 1 or 2"
            )
        dims = spatial_dims
        self.halving = tuple(factor) if factor is not None else (2,) * dims
        if len(self.halving) != dims:
            raise ValueError(f"KL codec: factor {self.halving}; expected {dims} numbers")
        bands = haar_channels(self.halving)
        self.levels, self.width, self.channels = levels, width, channels
        self.factor = tuple(f**levels for f in self.halving)
        self.stem = convolution(dims, bands, width)
        self.before = ResidualBlock(dims, width)
        self.down = downsample(dims, width, width, self.halving) if levels == 2 else None
        self.inner = ResidualBlock(dims, width)
        self.norm = ChannelNorm(width)
        self.moments_head = convolution(dims, width, 2 * channels, kernel=1)
        self.inlet = convolution(dims, channels, width)
        self.first = ResidualBlock(dims, width)
        self.up = convolution(dims, width, width * bands, kernel=1) if levels == 2 else None
        self.second = ResidualBlock(dims, width)
        self.last_norm = ChannelNorm(width)
        self.outlet = convolution(dims, width, bands)

    @property
    def device(self) -> torch.device:
        return self.stem.weight.device

    def moments(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Field (B, 1, *S) → mean and log-variance of the posterior, each (B, C, *S/factor)."""
        x = self.before(self.stem(channels_last(haar(field, self.halving))))
        if self.down is not None:
            x = self.down(x)
        x = self.moments_head(functional.leaky_relu(self.norm(self.inner(x)), 0.01))
        mean, log_variance = x.chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def raw(self, latent: Tensor) -> Tensor:
        """Latent (B, C, *s) → (B, 1, *S): a presence logit (plain, signed distance) or the field (value)."""
        x = self.first(self.inlet(channels_last(latent)))
        if self.up is not None:
            x = inverse_haar(self.up(x), self.halving)
        x = functional.leaky_relu(self.last_norm(self.second(x)), 0.01)
        return inverse_haar(self.outlet(x).float(), self.halving)

    def encode_field(self, field: Tensor) -> Tensor:
        """The posterior's mean."""
        return self.moments(field)[0]

    def decode(self, latent: Tensor) -> Tensor:
        raw = self.raw(latent)
        return raw if self.target == "value" else self.bound * torch.tanh(0.5 * raw)

    def loss(
        self, field: Tensor, generator: torch.Generator, lesion_weight: float, kl_weight: float
    ) -> dict[str, Tensor]:
        """Weighted reconstruction from one posterior sample, and the divergence from a standard normal.

        Args:
            field: (B, 1, *S).
            generator: Source of the sample.
            lesion_weight: How much more a voxel in or beside a lesion counts.
            kl_weight: Weight of the divergence per latent number.

        Returns:
            Scalars ``loss``, ``reconstruction`` and ``kl``.
        """
        mean, log_variance = self.moments(field)
        sample = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        raw = self.raw(mean + torch.exp(0.5 * log_variance) * sample)
        presence = (field > 0).float()
        pool = functional.max_pool2d if self.spatial_dims == 2 else functional.max_pool3d
        weight = 1 + lesion_weight * pool(presence, 3, stride=1, padding=1)
        if self.target == "value":
            each = functional.smooth_l1_loss(raw, field, reduction="none", beta=0.05)
            # Values alone leave voxels near the cut undecided: what counts as tumor is asked for as well.
            each = each + functional.binary_cross_entropy_with_logits(8.0 * raw, presence, reduction="none")
        elif self.target == "signed_distance":
            each = functional.smooth_l1_loss(
                torch.tanh(0.5 * raw), field / self.bound, reduction="none", beta=0.05
            )
            each = each + functional.binary_cross_entropy_with_logits(raw, presence, reduction="none")
        else:
            each = functional.binary_cross_entropy_with_logits(raw, presence, reduction="none")
        reconstruction = (weight * each).sum() / weight.sum()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return {
            "loss": reconstruction + kl_weight * kl,
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
        }

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "width": self.width, "weights": self.weights_hash(self.state_dict())}

    @staticmethod
    def weights_hash(weights: Mapping[str, Any]) -> str:
        """SHA-256 over names and float32 values of weights, whatever device or file they came from."""
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def fingerprint_with(self, weights: Mapping[str, Any]) -> str:
        """The fingerprint this codec would have with other weights."""
        described = {**self.describe(), "weights": self.weights_hash(weights)}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    @property
    def numbers_per_voxel(self) -> float:
        """Latent numbers per voxel: 1 keeps as many as there were."""
        return self.channels / math.prod(self.factor)
