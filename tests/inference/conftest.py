from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_adc.diffusion.path import RectifiedFlow
from diffusion_adc.networks.encoder import Features


@dataclass
class Condition:
    """A condition volume made up by a test."""

    images: np.ndarray
    available: np.ndarray
    covariates: np.ndarray
    known: np.ndarray


class OracleModel:
    """A stage whose flow is known in closed form.

    The latent is the voxel grid itself, and x_0 ~ N(mu, sd²) in every voxel with mu the first image channel:
    with x_t = (1 − t) x_0 + t eps the posterior mean is
    mu + (1 − t) sd² (x_t − (1 − t) mu) / ((1 − t)² sd² + t²).
    """

    sampler_name = "euler"

    def __init__(self, spatial_dims: int = 3, alignment: int = 4, sd: float = 1.0) -> None:
        self.spatial_dims, self.sd = spatial_dims, sd
        self.alignment = (alignment,) * spatial_dims
        self.receptive_margin = (0,) * spatial_dims
        self.path = RectifiedFlow(1.0)
        self.windows: list[tuple[int, ...]] = []
        self.encoded: list[tuple[int, ...]] = []

    def noise_shape(self, batch: int, shape: Sequence[int]) -> tuple[int, ...]:
        return (batch, 1, *shape)

    def encode(
        self, images: Tensor, available: Tensor, covariates: Tensor | None = None, known: Tensor | None = None
    ) -> Features:
        assert all(s % a == 0 for s, a in zip(images.shape[2:], self.alignment, strict=True))
        self.encoded.append(tuple(images.shape))
        token = torch.zeros(images.shape[0], 2)
        return Features(images[:, :1].clone(), 3 * images[:, :1], token, (1,) * self.spatial_dims)

    def velocity(self, z: Tensor, t: Tensor | float, features: Features) -> Tensor:
        self.windows.append(tuple(z.shape))
        t = float(t)
        mu = features.repeat(z.shape[0] // features.maps.shape[0]).maps
        gain = (1 - t) * self.sd**2 / ((1 - t) ** 2 * self.sd**2 + t**2)
        return (z - (mu + gain * (z - (1 - t) * mu))) / t

    def to_presence(self, z: Tensor) -> Tensor:
        return z


@pytest.fixture
def oracle() -> type[OracleModel]:
    return OracleModel


@pytest.fixture
def condition() -> Callable[..., Condition]:
    def make(shape: Sequence[int], seed: int = 0, mean: float | None = None) -> Condition:
        rng = np.random.default_rng(seed)
        images = rng.normal(size=(7, *shape)).astype(np.float32)
        if mean is not None:
            images[0] = mean
        zeros = np.zeros(3, dtype=np.float32)
        return Condition(images, np.ones(5, dtype=np.float32), zeros, zeros)

    return make
