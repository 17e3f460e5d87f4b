"""The encoder: a residual U-Net that runs once per patch, with the base head on top.

Axes: ``B C I J K``. With the Haar stem the images are Haar-transformed first, so that everything runs at half
resolution without losing a voxel, and the base head predicts Haar coefficients of its logit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .blocks import (
    ChannelNorm,
    ResidualBlock,
    Upsample,
    channels_last,
    convolution,
    downsample,
    level_strides,
)
from .haar import haar, haar_channels, inverse_haar

__all__ = ["Encoder", "Features", "Stem", "set_base_prevalence"]

Stem = Literal["haar", "full"]


@dataclass(frozen=True)
class Features:
    """What the denoiser is conditioned on; computed once per patch or volume.

    Attributes:
        maps: (B, F, *S/factor) feature maps on the latent's grid.
        base_logit: float32 (B, 1, *S) presence logit of the base head.
        token: (B, D) covariate token.
        factor: Voxels per latent cell and axis.
    """

    maps: Tensor
    base_logit: Tensor
    token: Tensor
    factor: tuple[int, ...]

    def window(self, start: Sequence[int], size: Sequence[int]) -> Features:
        """The same features on a window of the latent's grid.

        Args:
            start: First latent index per axis.
            size: Latent cells per axis.
        """
        coarse = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        fine = tuple(slice(a * f, (a + n) * f) for a, n, f in zip(start, size, self.factor, strict=True))
        return replace(self, maps=self.maps[:, :, *coarse], base_logit=self.base_logit[:, :, *fine])

    def repeat(self, times: int) -> Features:
        """Each case `times` over, copies of a case next to each other (no memory is copied for one case)."""
        if times == 1:
            return self

        def again(x: Tensor) -> Tensor:
            return x.expand(times, *x.shape[1:]) if x.shape[0] == 1 else x.repeat_interleave(times, dim=0)

        return replace(
            self, maps=again(self.maps), base_logit=again(self.base_logit), token=again(self.token)
        )


class Encoder(nn.Module):
    """Residual U-Net (He et al. 2016; Ronneberger et al. 2015) with per-voxel norms.

    Attributes:
        alignment: Voxels per axis the input must be a multiple of.
        margin: Voxels per axis after which a border no longer matters.
        width: Channels F of the maps.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        flags: int,
        channels: Sequence[int] = (32, 64, 96, 128),
        stem: Stem = "haar",
        factor: Sequence[int] | None = None,
        slice_halvings: int | None = None,
    ) -> None:
        """Args:
            spatial_dims: 2 or 3.
            in_channels: Image channels.
            flags: Availability flags, 1 = available.
            channels: Width per level, finest first.
            stem: ``haar`` (half resolution, the fast default) or ``full`` (every voxel).
            factor: Voxels per latent cell and axis: the grid on which `maps` are returned (1 or 2 each).
            slice_halvings: Halvings of the last axis in 3-D, stem included; default all of them.

        Raises:
            ValueError: No level, or an unknown stem.
        """
        super().__init__()
        if not channels or stem not in ("haar", "full"):
            raise ValueError(
                f"encoder: channels {tuple(channels)}, stem {stem!r}; expected widths and haar or full"
            )
        self.spatial_dims = spatial_dims
        self.factor = tuple(factor) if factor is not None else (2,) * spatial_dims
        strides = level_strides(spatial_dims, len(channels), slice_halvings)
        self.stem_factor = strides[0] if stem == "haar" else (1,) * spatial_dims
        strides = strides[1:] if stem == "haar" else strides[: len(channels) - 1]
        self.width = channels[0]
        bands = haar_channels(self.stem_factor)
        dims = spatial_dims
        self.stem = convolution(dims, in_channels * bands, channels[0])
        # One learned offset per missing sequence: the network can tell "missing" from "zero signal".
        self.missing = nn.Linear(flags, channels[0], bias=False)
        nn.init.zeros_(self.missing.weight)
        pairs = list(itertools.pairwise(channels))
        self.descend = nn.ModuleList(ResidualBlock(dims, c) for c in channels)
        self.down = nn.ModuleList(downsample(dims, a, b, s) for (a, b), s in zip(pairs, strides, strict=True))
        self.up = nn.ModuleList(Upsample(dims, b, a, s) for (a, b), s in zip(pairs, strides, strict=True))
        self.ascend = nn.ModuleList(ResidualBlock(dims, a) for a, _ in pairs)
        self.norm = ChannelNorm(channels[0])
        self.head = convolution(dims, channels[0], bands, kernel=1)
        self.alignment = tuple(
            max(self.factor[axis], self.stem_factor[axis] * math.prod(s[axis] for s in strides))
            for axis in range(dims)
        )
        self.margin = self._margin(strides)

    def _margin(self, strides: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        margins = []
        for axis in range(self.spatial_dims):
            cell = self.stem_factor[axis]
            reach = cell  # the stem's own convolution
            for level in range(len(self.descend)):
                blocks = 1 if level == len(self.descend) - 1 else 2
                reach += 2 * blocks * cell
                if level < len(strides):
                    cell *= strides[level][axis]
                    reach += cell
            margins.append(reach)
        return tuple(margins)

    def forward(self, images: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Args:
            images: (B, C, *S), 0 where missing.
            available: (B, flags), 1 where available.

        Returns:
            Maps (B, F, *S/factor) and float32 base logit (B, 1, *S).

        Raises:
            ValueError: An axis is not a multiple of `alignment`.
        """
        if any(s % a for s, a in zip(images.shape[2:], self.alignment, strict=True)):
            raise ValueError(
                f"encoder: shape {tuple(images.shape[2:])}; expected multiples of {self.alignment}"
            )
        x = channels_last(haar(images, self.stem_factor))
        x = self.stem(x)
        x = x + self.missing(1 - available).reshape(x.shape[0], -1, *(1,) * self.spatial_dims)
        skips = []
        for level, block in enumerate(self.descend):
            x = block(x)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.down))):
            x = self.ascend[level](skips[level] + self.up[level](x))
        maps = functional.leaky_relu(self.norm(x), 0.01)
        logit = inverse_haar(self.head(maps).float(), self.stem_factor)
        return self._on_latent_grid(maps), logit

    def _on_latent_grid(self, maps: Tensor) -> Tensor:
        for axis, (have, want) in enumerate(zip(self.stem_factor, self.factor, strict=True)):
            if (
                have < want
            ):  # every voxel kept, as channels would be: the mean of a cell is enough for a condition
                maps = maps.unflatten(2 + axis, (-1, want // have)).mean(3 + axis)
            elif have > want:
                maps = maps.repeat_interleave(have // want, dim=2 + axis)
        return maps


@torch.no_grad()
def set_base_prevalence(encoder: Encoder, prevalence: float) -> None:
    """Starts the base head at the logit of `prevalence`, so that the first steps are not spent on it.

    The smooth Haar band of a constant c is ``c * 2^(halved axes / 2)``.
    """
    bias = encoder.head.bias
    assert bias is not None
    share = min(max(prevalence, 1e-6), 1 - 1e-6)
    halved = sum(f == 2 for f in encoder.stem_factor)
    bias.zero_()
    bias[0] = float(torch.logit(torch.tensor(share))) * 2.0 ** (0.5 * halved)
