"""The denoiser's network: light, conditional, run once per draw and step.

Axes: ``B C I J K`` on the latent's grid. A small U-Net rather than a stack of dilated convolutions: the coarse
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
        self.inlet = convolution(dims, channels, width, bias=False)
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

    def prepare(self, maps: Tensor) -> Tensor:
        """The part that depends on the condition alone: (B, condition, *s) → (B, width, *s). Once per patch."""
        return self.condition(channels_last(maps))

    def forward(self, z: Tensor, level: Tensor, prepared: Tensor, token: Tensor) -> Tensor:
        """Args:
            z: (B, C, *s) noisy latent, about unit variance.
            level: (B,) noise level, about -10 to 10.
            prepared: (B, width, *s) from `prepare`.
            token: (B, token).

        Returns:
            (B, C, *s).
        """
        vector = self.time(time_embedding(level, self.embedding).to(z.dtype)) + self.token(token)
        vector = functional.silu(vector)
        x = self.inlet(channels_last(z)) + prepared
        skips = []
        for index, block in enumerate(self.descend):
            x = block(x, vector)
            if index < len(self.down):
                skips.append(x)
                x = self.down[index](x)
        for index in reversed(range(len(self.down))):
            x = self.ascend[index](skips[index] + self.up[index](x), vector)
        return self.outlet(functional.leaky_relu(self.norm(x), 0.01))
