"""The codec gate: lesions must survive encode and decode before any flow is trained on the latent.

Latent codecs at a reduction of 4 to 8 lose lesions below 16 voxels without any sign of it in the training
loss. The gate puts lesions of 3, 10 and 100 voxels at every phase of the codec's cells and looks for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .codec import Codec

__all__ = ["CodecGateError", "GateReport", "codec_gate", "compact_lesion"]


class CodecGateError(ValueError):
    """A codec that loses lesions."""


@dataclass(frozen=True)
class GateReport:
    """What the gate measured.

    Attributes:
        recall: Lesion size in voxels → share of lesions of which at least half of the voxels came back.
        volume_error: Lesion size → |decoded / true volume - 1|, over all lesions of that size.
        noisy_recall: The same as `recall` with latent noise added, for 1, 2, 3, 10 and 100 voxels; empty
            without noise. Reported, never a reason to refuse.
        noisy_false: Share of the voxels outside lesions that noise turned into presence.
    """

    recall: dict[int, float]
    volume_error: dict[int, float]
    noisy_recall: dict[int, float]
    noisy_false: float

    def lines(self) -> str:
        """The figures in words."""
        kept = ", ".join(
            f"{size} voxels: recall {self.recall[size]:.0%}, volume error {self.volume_error[size]:.1%}"
            for size in self.recall
        )
        if not self.noisy_recall:
            return kept
        noisy = ", ".join(f"{size} voxels {share:.0%}" for size, share in self.noisy_recall.items())
        return f"{kept}; with latent noise recall {noisy}, false presence {self.noisy_false:.2g} of voxels"


def compact_lesion(shape: tuple[int, ...], center: np.ndarray, voxels: int) -> Tensor:
    """The `voxels` voxels nearest to `center` (voxel coordinates): bool of `shape`."""
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in shape), indexing="ij"), axis=-1)
    distance = np.square(grid - center).sum(-1).ravel()
    lesion = np.zeros(distance.size, dtype=bool)
    lesion[np.argsort(distance, kind="stable")[:voxels]] = True
    return torch.from_numpy(lesion.reshape(shape))


@torch.no_grad()
def codec_gate(
    codec: Codec,
    sizes: tuple[int, ...] = (3, 10, 100),
    latent_std: float | Tensor = 0.0,
    lesions: int = 16,
    seed: int = 0,
    min_recall: float = 1.0,
    max_volume_error: float = 0.02,
) -> GateReport:
    """Refuses a codec that loses lesions; reports what latent noise does to the smallest.

    Args:
        codec: The codec under test.
        sizes: Lesion sizes in voxels that must survive.
        latent_std: Standard deviation of noise on the raw latent, a number or (C,): the trained denoiser's
            residual error. 0 leaves the noisy part out.
        lesions: Lesions per size, at random phases of the codec's cells.
        seed: Seed of positions and noise.
        min_recall: Smallest share of lesions that must come back.
        max_volume_error: Largest relative volume error.

    Returns:
        The figures.

    Raises:
        CodecGateError: A size falls below `min_recall` or exceeds `max_volume_error`.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    unit = [f * 8 for f in codec.factor]
    device = codec.device
    shape = tuple(u * -(-24 // u) for u in unit)  # at least 24 voxels and a multiple of 8 cells per axis
    recall, error = {}, {}
    for size in sizes:
        truth = _lesions(rng, shape, size, lesions)
        decoded = codec.decode(codec.encode(truth.to(device))).cpu() > 0
        recall[size] = _recall(truth, decoded)
        error[size] = abs(float(decoded.sum()) / float(truth.sum()) - 1)
    noisy: dict[int, float] = {}
    false = 0.0
    std = torch.as_tensor(latent_std, dtype=torch.float32)
    if bool((std > 0).any()):
        std = std.view(1, -1, *(1,) * codec.spatial_dims)
        outside = 0
        for size in (1, 2, *sizes):
            truth = _lesions(rng, shape, size, lesions)
            latent = codec.encode(truth.to(device)).cpu()
            noisy_latent = latent + std * torch.randn(latent.shape, generator=generator)
            decoded = codec.decode(noisy_latent.to(device)).cpu() > 0
            noisy[size] = _recall(truth, decoded)
            false += float((decoded & (truth < 0.5)).sum())
            outside += int((truth < 0.5).sum())
        false /= outside
    for size in sizes:
        if recall[size] < min_recall or error[size] > max_volume_error:
            raise CodecGateError(
                f"codec {type(codec).__name__} keeps {recall[size]:.0%} of the lesions of {size} voxels with a "
                f"volume error of {error[size]:.1%}; expected {min_recall:.0%} and at most {max_volume_error:.0%}"
            )
    return GateReport(recall, error, noisy, false)


def _lesions(rng: np.random.Generator, shape: tuple[int, ...], voxels: int, number: int) -> Tensor:
    centers = [rng.uniform([s * 0.25 for s in shape], [s * 0.75 for s in shape]) for _ in range(number)]
    return torch.stack([compact_lesion(shape, c, voxels) for c in centers])[:, None].float()


def _recall(truth: Tensor, decoded: Tensor) -> float:
    found = (decoded & (truth > 0.5)).flatten(1).sum(1) >= 0.5 * truth.flatten(1).sum(1)
    return float(found.float().mean())
