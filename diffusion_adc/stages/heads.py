"""What a stage without a flow puts on top of the encoder: the rivals B4a, B4c and B5.

Axes: ``B C I J K``, ``S`` the network's own spatial shape (``I J`` in 2-D). A head turns noise z (B, C, *S) into a
drawn presence logit (B, 1, *S) in one evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.func import functional_call

from diffusion_adc.domain.sequences import ADC, CHANNELS
from diffusion_adc.networks import Encoder
from diffusion_adc.networks.blocks import convolution
from diffusion_adc.networks.haar import haar_channels, inverse_haar

__all__ = ["Head", "LowRankHead", "RegressionHead", "SnapshotHead"]

_ADC = CHANNELS.index(ADC)
_SMALL = 1e-4


class Head(nn.Module, ABC):
    """One head.

    Attributes:
        noise_channels: Channels of noise per voxel.
        trains_base: Whether the base head is trained by its own loss.
    """

    noise_channels: int = 1
    trains_base: bool = True

    def base_logit(self, raw: Tensor, images: Tensor) -> Tensor:
        """The encoder's output (B, 1, *S) as a presence logit."""
        return raw

    @abstractmethod
    def maps(self, encoder: Encoder, images: Tensor, flags: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        """What `logit` and `loss` need, once per patch: (B, F, *S).

        Args:
            encoder: The stage's.
            images: (B, 7, *S).
            flags: Availability.
            features: The encoder's maps, on its stem's grid.
            raw: The encoder's output (B, 1, *S).
        """

    @abstractmethod
    def logit(self, z: Tensor, maps: Tensor, base_logit: Tensor) -> Tensor:
        """Noise (B, C, *S) → drawn presence logit (B, 1, *S)."""

    @abstractmethod
    def loss(
        self, maps: Tensor, base_logit: Tensor, target: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """Sum over a patch's voxels, mean over patches, per voxel; None for a head without a loss of its own.

        Args:
            maps: From `maps`.
            base_logit: (B, 1, *S).
            target: Presence, or the tumor's ADC in units of the ADC channel for the regression.
            generator: Source of randomness.
        """

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        """The noise (C, I, J, K) of a whole case as this head wants it."""
        return noise


@final
class LowRankHead(Head):
    """B4c: a low-rank Gaussian over the logits (Monteiro et al. 2020, arXiv 2006.06015).

    ``logit = mu + P w + d e``: w are `rank` numbers for the whole image (a slice in 2-D), e is per voxel. mu is the
    (detached) base logit plus a correction, so that the base head stays the plain baseline it is compared with.
    The loss is eq. 8 of the paper: minus the log of the mean likelihood over a few samples.
    """

    def __init__(self, dims: int, width: int, stem: tuple[int, ...], rank: int, samples: int) -> None:
        """Args:
            dims: 2 or 3.
            width: Channels of the encoder's maps.
            stem: The encoder's stem factor.
            rank: Columns of P.
            samples: Samples per patch in the likelihood.

        Raises:
            ValueError: Fewer than one of either.
        """
        super().__init__()
        if rank < 1 or samples < 1:
            raise ValueError(f"low-rank head: rank {rank}, samples {samples}; expected at least 1 each")
        self.rank, self.samples, self.stem = rank, samples, stem
        self.noise_channels = 1 + rank
        self.outlet = convolution(dims, width, (rank + 2) * haar_channels(stem), kernel=1)

    def maps(self, encoder: Encoder, images: Tensor, flags: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        return inverse_haar(self.outlet(features).float(), self.stem)

    def _sample(self, maps: Tensor, base_logit: Tensor, e: Tensor, w: Tensor) -> Tensor:
        change, factors, scale = maps.split((1, self.rank, 1), dim=1)
        spread = (factors * w).sum(1, keepdim=True)
        return base_logit.detach() + change + spread + torch.exp(scale.clamp(-6.0, 3.0)) * e

    def logit(self, z: Tensor, maps: Tensor, base_logit: Tensor) -> Tensor:
        return self._sample(maps, base_logit, z[:, :1], z[:, 1:])

    def loss(self, maps: Tensor, base_logit: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        rows, options = target.shape[0], {"generator": generator, "device": target.device}
        likelihoods = []
        for _ in range(self.samples):
            e = torch.randn(target.shape, **options)  # type: ignore[call-overload]
            w = torch.randn((rows, self.rank, *(1,) * (target.ndim - 2)), **options)  # type: ignore[call-overload]
            drawn = self._sample(maps, base_logit, e, w)
            each = functional.binary_cross_entropy_with_logits(drawn, target, reduction="none")
            likelihoods.append(-each.flatten(1).sum(1))
        mean = torch.logsumexp(torch.stack(likelihoods), dim=0) - torch.log(torch.tensor(float(self.samples)))
        return -mean.mean() / target[0].numel()

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        # One w per image: a slice's own in 2-D (its correlation over slices is in the noise), the volume's in 3-D.
        whole = noise[1:, :1, :1] if self.outlet.weight.ndim == 4 else noise[1:, :1, :1, :1]
        return torch.cat((noise[:1], whole.expand_as(noise[1:])))


@final
class SnapshotHead(Head):
    """B4a: an ensemble of checkpoints of one training (Huang et al. 2017, arXiv 1704.00109).

    The learning rate falls and restarts; at the end of every cycle the encoder's weights are kept. Draw number d is
    the map of member d modulo their number, cut at even odds. The copies are buffers: they travel with the
    checkpoint and are never averaged.
    """

    weights: Tensor
    taken: Tensor

    def __init__(self, encoder: Encoder, snapshots: int) -> None:
        """Args: encoder: Whose weights are kept. snapshots: Members.

        Raises:
            ValueError: Fewer than two members.
        """
        super().__init__()
        if snapshots < 2:
            raise ValueError(f"snapshots {snapshots}; expected at least 2")
        self.snapshots = snapshots
        size = sum(p.numel() for p in encoder.parameters())
        self.register_buffer("weights", torch.zeros(snapshots, size))
        self.register_buffer("taken", torch.tensor(0, dtype=torch.int64))

    @torch.no_grad()
    def take(self, encoder: Encoder) -> None:
        """Keeps the encoder's weights as they are now; more than `snapshots` are not kept."""
        if int(self.taken) < self.snapshots:
            flat = torch.cat([p.detach().float().flatten() for p in encoder.parameters()])
            self.weights[int(self.taken)] = flat
            self.taken += 1

    def maps(self, encoder: Encoder, images: Tensor, flags: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        if self.training or int(self.taken) == 0:
            return raw.detach()
        members = []
        for row in self.weights[: int(self.taken)]:
            named, first = {}, 0
            for name, parameter in encoder.named_parameters():
                named[name] = row[first : first + parameter.numel()].view_as(parameter).to(parameter.dtype)
                first += parameter.numel()
            members.append(functional_call(encoder, named, (images, flags))[1])
        return torch.cat(members, dim=1)

    def logit(self, z: Tensor, maps: Tensor, base_logit: Tensor) -> Tensor:
        member = z[:, 0].flatten(1)[:, 0].round().long() % maps.shape[1]
        return maps[torch.arange(z.shape[0], device=z.device), member].unsqueeze(1)

    def loss(self, maps: Tensor, base_logit: Tensor, target: Tensor, generator: torch.Generator) -> None:
        return None

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        return torch.full_like(noise, float(draw))


@final
class RegressionHead(Head):
    """B5: the map itself is regressed in one step, by its mean square error.

    The minimum is the mean map, ``ADC × probability`` under the readers; presence is read off as the share of the
    ADC that is left. The values are the network's, not the scanner's.
    """

    trains_base = False

    def base_logit(self, raw: Tensor, images: Tensor) -> Tensor:
        adc = images[:, [_ADC]].float()
        share = (raw / adc.clamp_min(0.02)).clamp(_SMALL, 1 - _SMALL)
        return torch.logit(torch.where(adc > 0.02, share, torch.full_like(share, _SMALL)))

    def maps(self, encoder: Encoder, images: Tensor, flags: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        return raw

    def logit(self, z: Tensor, maps: Tensor, base_logit: Tensor) -> Tensor:
        return base_logit + 0.0 * z[:, :1]

    def loss(self, maps: Tensor, base_logit: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        return functional.mse_loss(maps, target)
