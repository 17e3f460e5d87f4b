"""Blocks without statistics over space: what a voxel gets does not depend on how large the patch is.

Instance, group and batch norms average over the patch; a whole volume and its tiles would then disagree.
The norm here looks at one voxel's channels only. Tensors travel in channels-last memory, where that norm is
a contiguous reduction (about five times faster on a CPU than over a strided channel axis).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = [
    "ChannelNorm",
    "ResidualBlock",
    "Upsample",
    "channels_last",
    "convolution",
    "downsample",
    "level_strides",
]


def convolution(
    dims: int, c_in: int, c_out: int, kernel: int = 3, stride: Sequence[int] | int = 1, bias: bool = True
) -> nn.Conv2d | nn.Conv3d:
    """A zero-padded convolution in 2-D or 3-D."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    steps = (stride,) * dims if isinstance(stride, int) else tuple(stride)
    return kind(c_in, c_out, kernel, stride=steps, padding=kernel // 2, bias=bias)  # type: ignore[arg-type]


def downsample(dims: int, c_in: int, c_out: int, stride: Sequence[int]) -> nn.Conv2d | nn.Conv3d:
    """Non-overlapping strided convolution: one output voxel sees exactly one cell of `stride` voxels."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(c_in, c_out, tuple(stride), stride=tuple(stride))  # type: ignore[arg-type]


def channels_last(x: Tensor) -> Tensor:
    """The same tensor in channels-last memory."""
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=layout)


def level_strides(dims: int, levels: int, slice_halvings: int | None) -> list[tuple[int, ...]]:
    """Stride of each of `levels` halvings; the last axis stops after `slice_halvings` of them (thick slices)."""
    strides = []
    for level in range(levels):
        last = 1 if dims == 3 and slice_halvings is not None and level >= slice_halvings else 2
        strides.append((*(2,) * (dims - 1), last))
    return strides


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel (Ba et al. 2016, arXiv 1607.06450; as in ConvNeXt)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) → same shape."""
        y = functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-5)
        return y.movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Norm, activation, convolution, optional FiLM, activation, convolution; added to its input.

    FiLM: Perez et al. 2018, arXiv 1709.07871. The last convolution starts at zero, so a block starts as
    the identity.
    """

    def __init__(self, dims: int, channels: int, embedding: int = 0) -> None:
        """Args: dims: 2 or 3. channels: Width. embedding: Length of the FiLM vector, 0 for none."""
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = convolution(dims, channels, channels)
        self.second = convolution(dims, channels, channels)
        nn.init.zeros_(self.second.weight)
        self.recompute = False
        """Keep no activation of this block in training; they are computed again for the gradient."""
        self.film = nn.Linear(embedding, 2 * channels) if embedding else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, C, *S) and, with FiLM, (B, E) → (B, C, *S)."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, embedding, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x, embedding)

    def _forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        h = self.first(functional.leaky_relu(self.norm(x), 0.01, inplace=True))
        if self.film is not None and embedding is not None:
            scale, shift = self.film(embedding).reshape(x.shape[0], -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        return x + self.second(functional.leaky_relu(h, 0.01, inplace=True))


class Upsample(nn.Module):
    """Pointwise convolution, then every voxel repeated: one coarse voxel fills exactly its own cell."""

    def __init__(self, dims: int, c_in: int, c_out: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.project = convolution(dims, c_in, c_out, kernel=1)
        self.stride = tuple(float(s) for s in stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) → (B, C_out, *S * stride)."""
        return functional.interpolate(self.project(x), scale_factor=list(self.stride), mode="nearest")
