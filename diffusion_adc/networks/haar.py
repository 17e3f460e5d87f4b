"""Orthonormal Haar transform of 1 to 3 spatial axes by strided addition: lossless and parameter-free.

Axes: ``B C I J K`` (or ``B C I J``). Reference: Mallat, *A Wavelet Tour of Signal Processing*, section 7.2.
Per axis of factor 2, neighbors ``a, b`` become ``(a + b) / sqrt 2`` and ``(a - b) / sqrt 2``; a factor of 1
leaves the axis alone (thick slices). The transform keeps sums of squares, so white noise stays white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["haar", "haar_channels", "inverse_haar"]


def haar_channels(factors: Sequence[int]) -> int:
    """Number of bands per input channel: the product of the factors."""
    return math.prod(_checked(factors))


def haar(x: Tensor, factors: Sequence[int]) -> Tensor:
    """One Haar level.

    Args:
        x: (B, C, *S) with every transformed axis even.
        factors: One factor per spatial axis, 1 (left alone) or 2.

    Returns:
        (B, C * prod(factors), *S/factors). Channel ``c * bands + b``; band 0 is the smooth one.

    Raises:
        ValueError: An axis to be halved is odd, or the number of factors does not fit ``x``.
    """
    factors = _checked(factors)
    if x.ndim != 2 + len(factors):
        raise ValueError(f"haar: {len(factors)} factors for a tensor of shape {tuple(x.shape)}")
    batch, channels = x.shape[:2]
    y = x.unsqueeze(2)  # (B, C, band, *S): each axis doubles the bands
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        size = y.shape[3 + axis]
        if size % 2:
            raise ValueError(f"haar: axis {axis} has odd size {size}; pad to a multiple of {factor}")
        pairs = y.unflatten(3 + axis, (size // 2, 2))
        a, b = pairs.unbind(4 + axis)
        y = torch.cat((a + b, a - b), dim=2)
    scale = 2.0 ** (-0.5 * sum(f == 2 for f in factors))
    return y.reshape(batch, channels * y.shape[2], *y.shape[3:]) * scale


def inverse_haar(y: Tensor, factors: Sequence[int]) -> Tensor:
    """Exact inverse of `haar`.

    Args:
        y: (B, C * prod(factors), *S).
        factors: The factors given to `haar`.

    Returns:
        (B, C, *S * factors).

    Raises:
        ValueError: The channels are not a multiple of the bands.
    """
    factors = _checked(factors)
    bands = math.prod(factors)
    if y.ndim != 2 + len(factors) or y.shape[1] % bands:
        raise ValueError(f"inverse haar: shape {tuple(y.shape)} does not hold {bands} bands per channel")
    x = y.reshape(y.shape[0], y.shape[1] // bands, bands, *y.shape[2:])
    for axis in reversed(range(len(factors))):
        if factors[axis] == 1:
            continue
        smooth, detail = x.chunk(2, dim=2)
        x = torch.stack((smooth + detail, smooth - detail), dim=4 + axis).flatten(3 + axis, 4 + axis)
    return x.squeeze(2) * 2.0 ** (-0.5 * sum(f == 2 for f in factors))


def _checked(factors: Sequence[int]) -> tuple[int, ...]:
    if not 1 <= len(factors) <= 3 or any(f not in (1, 2) for f in factors):
        raise ValueError(f"haar: factors {tuple(factors)}; expected 1 to 3 factors, each 1 or 2")
    return tuple(int(f) for f in factors)
