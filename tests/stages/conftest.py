from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from diffusion_adc.domain.sequences import (
    AVAILABLE,
    CASE_INDEX,
    COVARIATES,
    IMAGES,
    KNOWN,
    PRESENCE,
)
from diffusion_adc.stages import PresenceFlowStage

Batch = dict[str, Tensor]


@pytest.fixture
def tiny() -> Callable[..., PresenceFlowStage]:
    def build(**changes: Any) -> PresenceFlowStage:
        torch.manual_seed(0)
        values: dict[str, Any] = {
            "spatial_dims": 2,
            "channels": [8, 8],
            "denoiser_width": 8,
            "denoiser_levels": 2,
            "n_covariates": 3,
            "draws_per_encoding": 2,
            "warmup_steps": 2,
        }
        return PresenceFlowStage(**{**values, **changes})

    return build


@pytest.fixture
def batch() -> Callable[..., Batch]:
    def build(
        size: int = 2, shape: tuple[int, ...] = (16, 16, 1), seed: int = 0, tumor: bool = True
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        presence = torch.zeros(size, 1, *shape)
        if tumor:
            presence[:, :, 4:9, 3:7] = 1
        known = torch.ones(size, 3)
        known[:, 1] = 0
        return {
            IMAGES: torch.randn((size, 7, *shape), generator=generator),
            AVAILABLE: torch.ones(size, 5),
            COVARIATES: torch.randn((size, 3), generator=generator),
            KNOWN: known,
            PRESENCE: presence,
            CASE_INDEX: torch.arange(size) + 10 * seed,
        }

    return build


@pytest.fixture
def loader(batch: Callable[..., Batch]) -> Callable[..., DataLoader[Batch]]:
    def build(number: int = 3, **options: Any) -> DataLoader[Batch]:
        items = [batch(seed=seed, **options) for seed in range(number)]
        return DataLoader(items, batch_size=None, shuffle=False)  # type: ignore[arg-type]

    return build


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def build(**changes: Any) -> Trainer:
        values: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "gradient_clip_val": 1.0,
            "default_root_dir": tmp_path,
        }
        return Trainer(**{**values, **changes})

    return build
