"""The tracker is offline by default and its absence changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_adc.callbacks.tracking import Tracking
from diffusion_adc.domain.errors import UsageError


def test_disabled_makes_no_logger(tmp_path: Path) -> None:
    assert Tracking(mode="disabled").logger(tmp_path, "run", {}) is None
    assert list(tmp_path.iterdir()) == []


def test_online_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UsageError, match="WANDB_API_KEY"):
        Tracking(mode="online").logger(tmp_path, "run", {})


def test_everything_the_tracker_writes_lies_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "elsewhere")
    logger = Tracking().logger(tmp_path, "run", {"seed": 1})
    assert logger is not None
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        assert Path(os.environ[name]).is_relative_to(tmp_path)
