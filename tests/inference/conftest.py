from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from diffusion_adc.diffusion.path import RectifiedFlow
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.networks.encoder import Features
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.cohort import write_case, write_manifest
from diffusion_adc.stages import PresenceFlowStage


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

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        return noise

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


SHAPE = (28, 26, 8)
AFFINE = np.array([[-2.5, 0.1, 0, 30.0], [0.1, 2.5, 0, -32.5], [0, 0, 5.0, 11.0], [0, 0, 0, 1.0]])


def write_tiny_cohort(folder: Path, shape: tuple[int, int, int] = SHAPE, splits: str = "TTVVEE") -> Path:
    """A cohort of small examinations: an elliptic body, and in most of them one bright, restricted block."""
    names = {"T": "train", "V": "val", "E": "test"}
    cases = []
    for n, split in enumerate(splits):
        rng = np.random.default_rng(n)
        i, j, _ = np.meshgrid(*(np.linspace(-1, 1, s) for s in shape), indexing="ij")
        body = i**2 + j**2 < 0.9
        tumor = np.zeros(shape, dtype=bool)
        if n % 3 != 2:
            corner = [int(rng.integers(s // 4, s // 2)) for s in shape]
            tumor[tuple(slice(c, c + max(1, s // 6)) for c, s in zip(corner, shape, strict=True))] = True
        adc = np.where(tumor, 0.8, 1.6) + rng.normal(0, 0.05, shape)
        adc = np.where(body, adc, 0).astype(np.float32)
        low = np.where(body, 400.0, 3.0) + rng.normal(0, 2, shape)
        volumes = {
            seq.ADC: adc,
            seq.DWI_LOW: low,
            seq.DWI_HIGH: low * np.exp(-0.85 * adc),
            seq.T2W: low + 50,
            seq.VALID: adc > 0,
            seq.TUMOR_ADC: np.where(tumor, adc, 0),
            seq.TUMOR_LABEL: tumor,
        }
        case = Case(
            f"TINY{n:04d}", 1, n, split=names[split], provenance="synthetic", b_low=50, b_high=900,
            tumor_status="present" if tumor.any() else "absent", declared=("missing:t1w",),
        )  # fmt: skip
        cases.append(write_case(folder, case, volumes, AFFINE))
    write_manifest(folder, Cohort(tuple(cases), provenance="synthetic", legal_basis="none"))
    return folder


STAGE_ARGUMENTS = {"spatial_dims": 2, "channels": [8, 8], "denoiser_width": 8, "denoiser_levels": 1}


def write_tiny_run(folder: Path, cohort: Path | None, seed: int = 0, **arguments: Any) -> Path:
    """A run folder with the files that `fit` leaves, its stage untrained but answering to images and noise."""
    init = {**STAGE_ARGUMENTS, **arguments}
    torch.manual_seed(seed)
    stage = PresenceFlowStage(**init)
    with torch.no_grad():
        for parameter in stage.parameters():
            if parameter.abs().sum() == 0:
                parameter.normal_(0, 0.2)
    presence = (torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    stage.scale.measure(
        [presence if stage.spatial_dims == 2 else presence[..., None].expand(-1, -1, -1, -1, 8)], 1
    )
    experiment = {
        "name": "tiny",
        "cohort": None if cohort is None else str(cohort),
        "model": {"class_path": "diffusion_adc.stages.PresenceFlowStage", "init_args": init},
        "data": {
            "class_path": "diffusion_adc.data.CohortDataModule",
            "init_args": {"cohort": None if cohort is None else str(cohort), "patch_size": [16, 16, 1]},
        },
        "draws": {"draws": 3, "steps": 2, "seed": 0},
    }
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    raw = {name: torch.zeros_like(value) for name, value in stage.state_dict().items()}
    for name in ("best", "last"):
        path = folder / "checkpoints" / f"{name}.ckpt"
        torch.save({"state_dict": stage.state_dict(), "current_model_state": raw, "note": name}, path)
        path.with_name(f"{name}.ckpt.json").write_text(json.dumps({"sha256": sha256_file(path)}))
    return folder


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cohort(tmp_path_factory.mktemp("tiny") / "cohort")


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_cohort: Path) -> Path:
    return write_tiny_run(tmp_path / "run", tiny_cohort)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, cohort: Path | None, **arguments: Any) -> Path:
        return write_tiny_run(tmp_path / name, cohort, **arguments)

    return make


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, **options: Any) -> Path:
        return write_tiny_cohort(tmp_path / name, **options)

    return make
