"""The tracker is offline by default and its absence changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusion_adc.callbacks.tracking import Tracking


def test_disabled_makes_no_logger(tmp_path: Path) -> None:
    assert Tracking(mode="disabled").logger(tmp_path, "run", {}) is None
    assert list(tmp_path.iterdir()) == []


def test_online_without_a_key_is_offline_and_says_so(
    tmp_path: Path, clean_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracking(mode="online").logger(tmp_path, "run", {})
    assert tracker is not None
    tracker.start()
    assert tracker.mode == "offline"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracker:")]
    assert len(lines) == 1
    assert "no WANDB_API_KEY" in lines[0]
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        assert Path(os.environ[name]).resolve().is_relative_to(tmp_path)
        clean_environment.delenv(name)
    tracker.log_metrics({"x": 1.0}, 1)
    tracker.finalize("success")
    assert not tracker.lost
    assert not Path(tracker.who.link).exists()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
