"""The denoiser's network: light, conditional, run once per draw and step.

Axes: ``B C I J K`` on the latent's grid. Near pure noise, where whole lesions are decided, the evidence for a
lesion with latent contrast ``m`` is its matched filter, ``sum(m z)`` over its cells (Neyman and Pearson 1933 for
Gaussian noise). The product ``m z`` with the expected contrast m of the base head is therefore an input: a
network of sums and kinks learns to average, but is slow to learn to multiply.

A small U-Net rather than a stack of dilated convolutions: the coarse
levels cost an eighth per halving in 3-D and let distant lesions of a patch be drawn together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .blocks import ChannelNorm, ResidualBlock, Upsample, channels_last, convolution, downsample

__all__ = ["DenoiserNetwork", "time_embedding"]

MATCHED_GAIN = 0.25
"""Brings a voxel's contrast (about 1 to 20 standard deviations where a tumor is likely) near the scale of z."""


def time_embedding(level: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017, section 3.5) of a noise level (B,) → (B, width)."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(8.0), width // 2, device=level.device))
    angles = level.float()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class DenoiserNetwork(nn.Module):
    """Latent, condition and noise level → one tensor of the latent's shape.

    Attributes:
        margin: Latent cells per axis after which a border no longer matters.
        alignment: Latent cells per axis the input must be a multiple of.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        condition: int,
        token: int,
        width: int = 32,
        strides: Sequence[Sequence[int]] = (),
        embedding: int = 128,
    ) -> None:
        """Args:
        spatial_dims: 2 or 3.
        channels: Latent channels C.
        condition: Channels of the condition maps.
        token: Length of the covariate token.
        width: Channels at the latent's grid; coarser levels have twice as many.
        strides: Strides of the coarser levels.
        embedding: Length of the FiLM vector.
        """
        super().__init__()
        dims = spatial_dims
        widths = [width] + [2 * width] * len(strides)
        self.spatial_dims = dims
        self.condition = convolution(dims, condition, width)
        self.width = width
        self.inlet = convolution(dims, 2 * channels, width, bias=False)
        self.time = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.token = nn.Linear(token, embedding)
        self.embedding = embedding
        pairs = list(itertools.pairwise(widths))
        self.descend = nn.ModuleList(ResidualBlock(dims, w, embedding) for w in widths)
        self.down = nn.ModuleList(downsample(dims, a, b, s) for (a, b), s in zip(pairs, strides, strict=True))
        self.up = nn.ModuleList(Upsample(dims, b, a, s) for (a, b), s in zip(pairs, strides, strict=True))
        self.ascend = nn.ModuleList(ResidualBlock(dims, a, embedding) for a, _ in pairs)
        self.norm = ChannelNorm(width)
        self.outlet = convolution(dims, width, channels)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]
        self.alignment = tuple(math.prod(s[axis] for s in strides) for axis in range(dims))
        self.margin = tuple(self._margin(strides, axis) for axis in range(dims))

    def _margin(self, strides: Sequence[Sequence[int]], axis: int) -> int:
        cell, reach = 1, 3  # condition, inlet and outlet convolutions
        for level in range(len(self.descend)):
            reach += 2 * cell * (1 if level == len(strides) else 2)
            if level < len(strides):
                cell *= strides[level][axis]
                reach += cell
        return reach

    def prepare(self, maps: Tensor, contrast: Tensor) -> Tensor:
        """The part that depends on the condition alone; once per patch.

        Args:
            maps: (B, condition, *s).
            contrast: (B, C, *s) expected standardized latent, less that of an empty patch.

        Returns:
            (B, width + C, *s).
        """
        return torch.cat((self.condition(channels_last(maps)), MATCHED_GAIN * contrast.to(maps.dtype)), dim=1)

    def forward(self, z: Tensor, level: Tensor, prepared: Tensor, token: Tensor) -> Tensor:
        """Args:
            z: (B, C, *s) noisy latent, about unit variance.
            level: (B,) noise level, about -10 to 10.
            prepared: (B, width + C, *s) from `prepare`.
            token: (B, token).

        Returns:
            (B, C, *s).
        """
        vector = self.time(time_embedding(level, self.embedding).to(z.dtype)) + self.token(token)
        vector = functional.silu(vector)
        maps, contrast = prepared.split((self.width, z.shape[1]), dim=1)
        x = self.inlet(channels_last(torch.cat((z, z * contrast), dim=1))) + maps
        skips = []
        for index, block in enumerate(self.descend):
            x = block(x, vector)
            if index < len(self.down):
                skips.append(x)
                x = self.down[index](x)
        for index in reversed(range(len(self.down))):
            x = self.ascend[index](skips[index] + self.up[index](x), vector)
        return self.outlet(functional.leaky_relu(self.norm(x), 0.01))
