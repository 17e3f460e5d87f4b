"""Checkpoints appear whole, carry their hash, and never hold a non-finite weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffusion_adc.callbacks.checkpoints import (
    AtomicCheckpointIO,
    Checkpoints,
    KeptCheckpoint,
    newest_verified,
)
from diffusion_adc.domain.errors import DiffusionAdcError, NonFiniteError
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.sidecars import sidecar


def save(run: Path, name: str, step: int, value: float = 1.0) -> Path:
    path = run / "checkpoints" / name
    AtomicCheckpointIO().save_checkpoint(
        {"state_dict": {"w": torch.full((3,), value)}, "global_step": step, "epoch": 0}, path
    )
    return path


def test_a_checkpoint_and_its_sidecar_agree(tmp_path: Path) -> None:
    path = save(tmp_path, "last.ckpt", 7)
    record = json.loads(sidecar(path).read_text())
    assert record == {"sha256": sha256_file(path), "step": 7, "epoch": 0}
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.json"]
    assert torch.load(path, weights_only=True)["global_step"] == 7


def test_newest_verified_skips_damage_and_strangers(tmp_path: Path) -> None:
    assert newest_verified(tmp_path) is None
    old = save(tmp_path, "best.ckpt", 3)
    new = save(tmp_path, "last.ckpt", 9)
    (tmp_path / "checkpoints" / "stray.ckpt").write_bytes(b"no sidecar")
    assert newest_verified(tmp_path) == new
    data = bytearray(new.read_bytes())
    data[100] ^= 1
    new.write_bytes(bytes(data))
    assert newest_verified(tmp_path) == old


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_weight_is_never_published(tmp_path: Path, value: float) -> None:
    good = save(tmp_path, "last.ckpt", 1)
    digest = sha256_file(good)
    with pytest.raises(NonFiniteError) as caught:
        save(tmp_path, "last.ckpt", 2, value)
    assert caught.value.exit_code == 4
    assert sha256_file(good) == digest


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path, "last.ckpt", 1)
    digest = sha256_file(good)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusion_adc.callbacks.checkpoints.torch.save", full)
    with pytest.raises(DiffusionAdcError, match="No space left"):
        save(tmp_path, "last.ckpt", 2)
    assert sha256_file(good) == digest
    assert newest_verified(tmp_path) == good
    assert sorted(p.name for p in good.parent.iterdir()) == ["last.ckpt", "last.ckpt.json"]


def test_without_a_monitor_only_the_last_is_kept(tmp_path: Path) -> None:
    def names(**options: object) -> list[str]:
        kept = Checkpoints(**options).callbacks(tmp_path)  # type: ignore[arg-type]
        return [str(callback.filename) for callback in kept if isinstance(callback, KeptCheckpoint)]

    assert names(monitor=None) == ["last"]
    assert names(monitor="val/loss") == ["last", "best"]
    assert names(monitor="val/loss", every_n_steps=5) == ["last", "last", "best"]
