"""Augmentation that keeps the physics: ADC is measured, so nothing here changes ADC alone.

* `SmallAffine` moves everything together, presence by nearest voxel, ADC mask-normalized so that rims do not
  mix with the background.
* `DwiPerturbation` changes both b-values by one gain and one smooth field, which leaves the ADC as it is, or
  adds noise to both and moves the ADC by exactly what that noise does to the two-point formula.
* `AnatomyPerturbation` changes T1w and T2w, whose scale is arbitrary.
* `LeftRightFlip` is off by default: liver and spleen have sides. There is no through-plane flip at all.

TorchIO transforms over patch subjects (`collate.patch_subject`); they follow `torch.manual_seed`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.nn import functional
from torchio.transforms.augmentation.random_transform import RandomTransform

from diffusion_adc.data.collate import B_HIGH, B_LOW
from diffusion_adc.data.scaling import (
    ADC_CEILING,
    ADC_INDEX,
    HIGH_INDEX,
    LOW_INDEX,
    RECOMPUTED_INDEX,
    VALID_INDEX,
)
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError

AUGMENTATIONS: Final = ("none", "light")


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _images(subject: tio.Subject) -> Tensor:
    return subject.get_image(seq.IMAGES).data


def _b_value(subject: tio.Subject, name: str) -> float:
    value = subject[name]
    assert isinstance(value, float)
    return value


def smooth_field(shape: tuple[int, int, int], strength: float) -> Tensor:
    """A positive smooth field, exp of a random quadratic over the patch; (I, J, K), about exp(±strength)."""
    i, j, k = (
        torch.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(shape)
    )
    c = strength * (2 * torch.rand(6) - 1) / 2
    in_plane = c[0] * i + c[1] * j + c[2] * i * j + c[3] * i * i + c[4] * j * j
    return torch.exp(in_plane) * torch.exp(c[5] * k)


class SmallAffine(RandomTransform):
    """A small in-plane rotation and scaling of images and presence together.

    Slices stay slices: through-plane voxels are too thick to interpolate between.

    Args:
        degrees: Largest rotation.
        scale: Largest change of size, as a share.
        p: Probability.
    """

    def __init__(self, degrees: float = 8.0, scale: float = 0.08, p: float = 1.0) -> None:
        super().__init__(p=p, copy=False)
        self.degrees, self.scale = degrees, scale

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Rotate and scale about the patch's center."""
        angle = math.radians(_between(-self.degrees, self.degrees))
        size = math.exp(_between(-self.scale, self.scale))
        images, presence = _images(subject), subject.get_image(seq.PRESENCE).data
        spacing = np.linalg.norm(subject.get_image(seq.IMAGES).affine[:3, :2], axis=0)
        grid = _rotation_grid(
            images.shape[1], images.shape[2], angle, 1 / size, float(spacing[0]), float(spacing[1])
        )
        valid = images[VALID_INDEX] > 0
        stack = images.clone()
        stack[ADC_INDEX] *= valid
        stack[RECOMPUTED_INDEX] *= valid
        moved = _sampled(stack, grid, "bilinear")
        share = moved[VALID_INDEX].clone()
        inside = share >= 0.5
        for channel in (ADC_INDEX, RECOMPUTED_INDEX):
            moved[channel] = torch.where(inside, moved[channel] / share.clamp_min(0.5), 0.0)
        moved[VALID_INDEX] = inside.to(moved.dtype)
        subject.get_image(seq.IMAGES).set_data(moved)
        subject.get_image(seq.PRESENCE).set_data(_sampled(presence, grid, "nearest"))
        return subject


def _rotation_grid(n_i: int, n_j: int, angle: float, zoom: float, mm_i: float, mm_j: float) -> Tensor:
    """Sampling positions (1, I, J, 2) in [-1, 1] for a rotation in mm, so that anisotropic pixels stay rigid."""
    y = (torch.arange(n_i) - (n_i - 1) / 2)[:, None] * mm_i
    x = (torch.arange(n_j) - (n_j - 1) / 2)[None, :] * mm_j
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    source_i, source_j = (cos * y - sin * x) / mm_i, (sin * y + cos * x) / mm_j
    scaled = [source_j * 2 / max(n_j - 1, 1), source_i * 2 / max(n_i - 1, 1)]
    return torch.stack(torch.broadcast_tensors(*scaled), dim=-1)[None]


def _sampled(volume: Tensor, grid: Tensor, mode: str) -> Tensor:
    channels, n_i, n_j, n_k = volume.shape
    planes = volume.permute(0, 3, 1, 2).reshape(1, channels * n_k, n_i, n_j)
    moved = functional.grid_sample(planes, grid, mode=mode, padding_mode="zeros", align_corners=True)
    return moved.reshape(channels, n_k, n_i, n_j).permute(0, 2, 3, 1).contiguous()


class DwiPerturbation(RandomTransform):
    """Gain, smooth field and, sometimes, noise on both diffusion-weighted images together.

    Noise is complex Gaussian before the magnitude. It is added only where both images and both b-values are
    known; the ADC and the recomputed ADC then move by ``1000 · Δ ln(S_low / S_high) / (b_high - b_low)``, and a
    voxel whose ADC is no longer positive becomes invalid, as it would on a scanner.

    Args:
        gain: Largest log gain.
        field: Strength of the smooth field.
        noise: Largest σ, in units of the median low-b signal.
        p_noise: Probability of noise.
        p: Probability of the whole.
    """

    def __init__(
        self,
        gain: float = 0.2,
        field: float = 0.3,
        noise: float = 0.03,
        p_noise: float = 0.25,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p, copy=False)
        self.gain, self.field, self.noise, self.p_noise = gain, field, noise, p_noise

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Perturb in place."""
        images = _images(subject)
        i, j, k = images.shape[1:]
        factor = smooth_field((i, j, k), self.field) * math.exp(_between(-self.gain, self.gain))
        if float(torch.rand(())) < self.p_noise:
            self._add_noise(images, _b_value(subject, B_LOW), _b_value(subject, B_HIGH))
        images[LOW_INDEX] *= factor
        images[HIGH_INDEX] *= factor
        return subject

    def _add_noise(self, images: Tensor, b_low: float, b_high: float) -> None:
        low, high = images[LOW_INDEX], images[HIGH_INDEX]
        if b_low < 0 or b_high < 0 or not (bool(low.any()) and bool(high.any())):
            return  # the ADC could not follow
        sigma = _between(0.0, self.noise)
        noisy_low, noisy_high = (_magnitude_noise(signal, sigma) for signal in (low, high))
        positive = (low > 0) & (high > 0) & (images[VALID_INDEX] > 0)
        tiny = torch.finfo(torch.float32).tiny
        ratio = (noisy_low / low.clamp_min(tiny)) * (high / noisy_high.clamp_min(tiny))
        change = 1000 / (b_high - b_low) / ADC_CEILING * torch.log(ratio.clamp_min(tiny))
        images[LOW_INDEX], images[HIGH_INDEX] = noisy_low, noisy_high
        valid = images[VALID_INDEX] > 0
        moved = torch.where(positive, images[ADC_INDEX] + change, images[ADC_INDEX])
        valid &= moved > 0
        images[ADC_INDEX] = torch.where(valid, moved.clamp(0, 1), 0.0)
        again = torch.log(noisy_low.clamp_min(tiny) / noisy_high.clamp_min(tiny)) * 1000 / (b_high - b_low)
        images[RECOMPUTED_INDEX] = torch.where(valid, (again / ADC_CEILING).clamp(0, 1), 0.0)
        images[VALID_INDEX] = valid.to(images.dtype)


def _magnitude_noise(signal: Tensor, sigma: float) -> Tensor:
    real = signal + sigma * torch.randn_like(signal)
    return torch.sqrt(real**2 + (sigma * torch.randn_like(signal)) ** 2)


class AnatomyPerturbation(RandomTransform):
    """Gamma and a smooth field on T1w and T2w, each for itself; a missing one stays 0.

    Args:
        gamma: Largest log exponent.
        field: Strength of the smooth field.
        p: Probability.
    """

    def __init__(self, gamma: float = 0.3, field: float = 0.3, p: float = 1.0) -> None:
        super().__init__(p=p, copy=False)
        self.gamma, self.field = gamma, field

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Perturb in place."""
        images = _images(subject)
        i, j, k = images.shape[1:]
        for name in (seq.T1W, seq.T2W):
            channel = seq.CHANNELS.index(name)
            exponent = math.exp(_between(-self.gamma, self.gamma))
            images[channel] = images[channel] ** exponent * smooth_field((i, j, k), self.field)
        return subject


class LeftRightFlip(RandomTransform):
    """Mirror the axis that runs most from right to left. Only for regions without sides.

    Args:
        p: Probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p, copy=False)

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Flip images and presence."""
        axis = int(np.argmax(np.abs(subject.get_image(seq.IMAGES).affine[0, :3]))) + 1
        for name in (seq.IMAGES, seq.PRESENCE):
            subject.get_image(name).set_data(subject.get_image(name).data.flip(axis).contiguous())
        return subject


def augmentation(name: str, *, flip_left_right: bool = False) -> tio.Transform | None:
    """The named augmentation, or None for ``none`` without a flip.

    Raises:
        UsageError: No such name.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(f"augment {name!r}", f"one of {', '.join(AUGMENTATIONS)}")
    steps: list[tio.Transform] = []
    if name == "light":
        steps += [SmallAffine(p=0.3), DwiPerturbation(p=0.7), AnatomyPerturbation(p=0.5)]
    if flip_left_right:
        steps.append(LeftRightFlip())
    return tio.Compose(steps, copy=False) if steps else None
