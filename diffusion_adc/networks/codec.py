"""Codecs: presence to latent and back. A codec is a family member, final, and named by its fingerprint.

Axes: ``B C I J K``. A codec turns presence in {0, 1} into a signed *field* (> 0 where present), and the field
into a *latent* on a grid coarser by `factor`. Linear codecs also carry any field, such as the mean ``2 p - 1``
of the ±1 field under a probability ``p``: the denoiser uses that.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from .distance import signed_distance
from .haar import haar, haar_channels, inverse_haar

__all__ = ["VALUE_CUT", "Codec", "HaarCodec", "IdentityCodec", "Target"]

Target = Literal["plain", "signed_distance", "value"]
BOUND_MM = 10.0
VALUE_CUT = 0.25
"""1e-3 mm²/s: a drawn ADC value above it counts as tumor; tumor lies above 0.4, the empty map at 0."""


class Codec(ABC):
    """Presence ⇄ latent.

    Attributes:
        spatial_dims: 2 or 3.
        factor: Per spatial axis, how many voxels one latent cell spans.
        channels: Latent channels.
        linear: Whether `encode_field` and `decode` are linear maps and inverse to each other.
        bound: Largest absolute value of the field: 1 (plain) or 10 (signed distance, mm).
        learned: Whether the codec has weights that must have been trained.
    """

    factor: tuple[int, ...]
    channels: int
    linear: bool = False
    learned: bool = False

    def __init__(
        self, spatial_dims: int = 3, target: Target = "plain", spacing_mm: Sequence[float] | None = None
    ) -> None:
        """Args:
            spatial_dims: 2 or 3.
            target: ``plain`` (±1), ``signed_distance`` (truncated at ±10 mm) or ``value``: the tumor's ADC map
                itself (1e-3 mm²/s, 0 outside tumor) less `VALUE_CUT`.
            spacing_mm: Spacing of the working grid per axis; needed by the signed distance.

        Raises:
            ValueError: Unknown dimension or target, or a signed distance without its spacing.
        """
        if spatial_dims not in (2, 3):
            raise ValueError(f"codec: {spatial_dims} spatial dimensions; expected 2 or 3")
        if target not in ("plain", "signed_distance", "value"):
            raise ValueError(f"codec: target {target!r}; expected plain, signed_distance or value")
        if target == "signed_distance" and (
            spacing_mm is None or len(spacing_mm) != spatial_dims or min(spacing_mm) <= 0
        ):
            raise ValueError(
                f"codec: signed distance with spacing_mm {spacing_mm}; "
                f"expected {spatial_dims} positive spacings of the working grid"
            )
        self.spatial_dims = spatial_dims
        self.target: Target = target
        self.spacing_mm = tuple(float(s) for s in spacing_mm or ()) if target == "signed_distance" else None
        self.bound = BOUND_MM if target == "signed_distance" else 1.0

    def field(self, presence: Tensor) -> Tensor:
        """The signed field of presence (B, 1, *S) in {0, 1}, or of a map of ADC values: > 0 exactly where present."""
        if self.target == "signed_distance":
            assert self.spacing_mm is not None
            return signed_distance(presence, self.spacing_mm, BOUND_MM)
        if self.target == "value":
            return presence.float() - VALUE_CUT
        return presence.float() * 2.0 - 1.0

    def expected_field(self, logit: Tensor) -> Tensor:
        """About the mean field where presence has this logit (B, 1, *S); exact for the plain target."""
        if self.target == "value":
            return torch.sigmoid(logit) - VALUE_CUT
        # 2 sigmoid(l) - 1 = tanh(l / 2)
        return self.bound * torch.tanh(0.5 * logit)

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a codec without any."""
        return torch.device("cpu")

    @property
    def empty_value(self) -> float:
        """The field where nothing is present."""
        return -VALUE_CUT if self.target == "value" else -self.bound

    def encode(self, presence: Tensor) -> Tensor:
        """Presence (B, 1, *S) in {0, 1} → latent (B, C, *S/factor), not yet standardized."""
        return self.encode_field(self.field(presence))

    @abstractmethod
    def encode_field(self, field: Tensor) -> Tensor:
        """Field (B, 1, *S) → latent (B, C, *S/factor)."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Latent (B, C, *S/factor) → signed field (B, 1, *S); > 0 means present."""

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Latent (C, *S/factor) of a volume of `shape` S.

        Raises:
            ValueError: An axis is not a multiple of `factor`.
        """
        if len(shape) != self.spatial_dims or any(s % f for s, f in zip(shape, self.factor, strict=True)):
            raise ValueError(f"codec: shape {tuple(shape)}; expected multiples of {self.factor}")
        return (self.channels, *(s // f for s, f in zip(shape, self.factor, strict=True)))

    def describe(self) -> dict[str, object]:
        """What decides the latent's meaning; plain JSON types. A learned codec adds a hash of its weights."""
        return {
            "codec": type(self).__name__,
            "spatial_dims": self.spatial_dims,
            "factor": list(self.factor),
            "channels": self.channels,
            "target": self.target,
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
        }

    def fingerprint(self) -> str:
        """SHA-256 (hex) of `describe`: two codecs with the same fingerprint give the same latent."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()


@final
class HaarCodec(Codec):
    """One level of the orthonormal Haar transform: lossless, no parameters; the default."""

    linear = True

    def __init__(
        self,
        spatial_dims: int = 3,
        target: Target = "plain",
        spacing_mm: Sequence[float] | None = None,
        factor: Sequence[int] | None = None,
    ) -> None:
        """Args: see `Codec`; `factor` per axis is 1 or 2 (default 2 on every axis)."""
        super().__init__(spatial_dims, target, spacing_mm)
        self.factor = tuple(factor) if factor is not None else (2,) * spatial_dims
        if len(self.factor) != spatial_dims:
            raise ValueError(f"Haar codec: factor {self.factor}; expected {spatial_dims} numbers")
        self.channels = haar_channels(self.factor)

    def encode_field(self, field: Tensor) -> Tensor:
        return haar(field, self.factor)

    def decode(self, latent: Tensor) -> Tensor:
        return inverse_haar(latent, self.factor)


@final
class IdentityCodec(Codec):
    """The field itself as latent: the reference for ablations, eight times the voxels of Haar in 3-D."""

    linear = True

    def __init__(
        self, spatial_dims: int = 3, target: Target = "plain", spacing_mm: Sequence[float] | None = None
    ) -> None:
        super().__init__(spatial_dims, target, spacing_mm)
        self.factor = (1,) * spatial_dims
        self.channels = 1

    def encode_field(self, field: Tensor) -> Tensor:
        return torch.clone(field)

    def decode(self, latent: Tensor) -> Tensor:
        return torch.clone(latent)
