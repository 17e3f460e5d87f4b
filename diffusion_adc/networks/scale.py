"""Standardization of latents with stored statistics, measured once and bound to the codec they belong to.

Presence fills about 0.5 % of the voxels, so a raw latent has a standard deviation of 0.03 to 0.3: a flow that
starts from unit noise would see almost no signal. Each channel is brought to mean 0 and standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .codec import VALUE_CUT, Codec

__all__ = ["LatentScale", "ScaleMismatchError"]

MIN_PATCHES = 256


class ScaleMismatchError(ValueError):
    """Latent statistics that belong to another codec."""


class LatentScale(nn.Module):
    """Per-channel mean and standard deviation of a codec's latent.

    Buffers (all in the state dict): `mean`, `std` (C,), `prevalence` (share of present voxels), `contrast`
    (median norm by which a patch with tumor differs from an empty one, standardized), `count` (patches
    measured; 0 = not measured yet), `fingerprint` (32 bytes, the codec's SHA-256).
    """

    mean: Tensor
    std: Tensor
    prevalence: Tensor
    contrast: Tensor
    count: Tensor
    fingerprint: Tensor

    def __init__(self, codec: Codec) -> None:
        """Args: codec: The codec whose latent is standardized."""
        super().__init__()
        self._codec = (codec,)  # in a tuple: a learned codec's weights are its stage's, not this module's
        self.register_buffer("mean", torch.zeros(codec.channels))
        self.register_buffer("std", torch.ones(codec.channels))
        self.register_buffer("prevalence", torch.tensor(0.5))
        self.register_buffer("contrast", torch.tensor(1.0))
        self.register_buffer("count", torch.tensor(0, dtype=torch.int64))
        digest = bytes.fromhex(codec.fingerprint())
        self.register_buffer("fingerprint", torch.tensor(list(digest), dtype=torch.uint8))

    @property
    def codec(self) -> Codec:
        """Whose latent is standardized."""
        return self._codec[0]

    @property
    def measured(self) -> bool:
        """Whether statistics were measured or loaded."""
        return int(self.count) > 0

    def standardize(self, latent: Tensor) -> Tensor:
        """Latent (B, C, *s) → mean 0 and standard deviation 1 per channel, same shape."""
        return (latent - self._per_channel(self.mean)) / self._per_channel(self.std)

    def unstandardize(self, z: Tensor) -> Tensor:
        """Inverse of `standardize`."""
        return z * self._per_channel(self.std) + self._per_channel(self.mean)

    def encode_field(self, field: Tensor) -> Tensor:
        """Field (B, 1, *S) → standardized latent (B, C, *s)."""
        return self.standardize(self.codec.encode_field(field))

    def ignorance(self) -> Tensor:
        """Cross-entropy (nats per voxel) of a forecast that knows nothing but the prevalence, a scalar."""
        share = self.prevalence.clamp(1e-6, 1 - 1e-6)
        return -(share * share.log() + (1 - share) * (1 - share).log())

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * self.codec.spatial_dims)

    @torch.no_grad()
    def measure(self, patches: Iterable[Tensor], at_least: int = MIN_PATCHES) -> int:
        """Measures mean and standard deviation, streaming, in float64.

        A channel that never varies keeps a floor of 1e-3 of the largest
        standard deviation, so that nothing is divided by zero.

        Args:
            patches: Batches of presence (B, 1, *S) in {0, 1}; for the value target, of tumor ADC maps.
            at_least: Stop once this many patches were seen.

        Returns:
            The number of patches used (fewer than `at_least` where `patches` ended).

        Raises:
            ValueError: No patch at all, or none with presence.
        """
        total, squares = (torch.zeros(self.codec.channels, dtype=torch.float64) for _ in range(2))
        number, present, voxels, seen = 0, 0.0, 0, 0
        energies = []  # per patch with tumor: squared difference from an empty patch, per channel
        for presence in patches:
            if self.codec.learned:
                presence = presence.to(self.codec.device)
            latent = self.codec.encode(presence).double().cpu()
            presence = (presence > VALUE_CUT).float()
            tumor = (presence > 0.5).flatten(1).any(1).cpu()
            if bool(tumor.any()):
                empty = self.codec.encode(torch.zeros_like(presence[:1])).double().cpu()
                energies.append((latent[tumor] - empty).square().flatten(2).sum(2))
            latent = latent.transpose(0, 1).flatten(1)
            total += latent.sum(1)
            squares += latent.square().sum(1)
            number += latent.shape[1]
            present += float((presence > 0.5).sum())
            voxels += presence.numel()
            seen += presence.shape[0]
            if seen >= at_least:
                break
        if seen == 0:
            raise ValueError("latent statistics: no patch to measure")
        if present == 0:
            raise ValueError(f"latent statistics: no tumor voxel in {seen} patches")
        mean = total / number
        std = (squares / number - mean.square()).clamp_min(0).sqrt()
        std = std.clamp_min(1e-3 * float(std.max()))
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.prevalence.fill_(present / voxels)
        self.contrast.fill_(float((torch.cat(energies) / std.square()).sum(1).sqrt().median()))
        self.count.fill_(seen)
        self._set_fingerprint()  # a learned codec has its weights only now
        return seen

    def _set_fingerprint(self) -> None:
        digest = bytes.fromhex(self.codec.fingerprint())
        self.fingerprint.copy_(torch.tensor(list(digest), dtype=torch.uint8))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = state_dict.get(prefix + "fingerprint")
        if self.codec.learned:
            self._set_fingerprint()  # its weights were loaded just before: the stage registers the codec first
        if stored is not None and stored.tolist() != self.fingerprint.tolist():
            raise ScaleMismatchError(
                f"latent statistics of codec {bytes(stored.tolist()).hex()[:12]}; expected those of "
                f"{self.codec.fingerprint()[:12]} ({self.codec.describe()})"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
