"""The weights of a trained codec: from the run of a `CodecStage` into another stage, frozen."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.networks import Codec
from diffusion_adc.records.sidecars import sidecar, verified

__all__ = ["PREFIX", "codec_checkpoint", "load_codec"]

PREFIX = "codec."
"""Of the codec's weights in a stage's state dict."""


def codec_checkpoint(codec_run: str) -> Path | None:
    """The checkpoint of a codec run whose weights are used: the best one, else the last; None if it has none."""
    for name in ("best", "last"):
        path = Path(codec_run) / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            return path
    return None


def load_codec(codec: Codec, codec_run: str | None) -> None:
    """Freezes a learned codec and, where its run is at hand, gives it the run's averaged weights.

    Without the run it keeps its untrained weights: a checkpoint of the stage brings the trained ones.

    Raises:
        UsageError: The run's checkpoint is damaged or holds another codec.
    """
    assert isinstance(codec, nn.Module)
    codec.requires_grad_(False)
    path = None if codec_run is None else codec_checkpoint(codec_run)
    if path is None:
        return
    if sidecar(path).exists() and verified(path) is None:
        raise _unusable(codec_run, "is damaged")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        codec.load_state_dict(
            {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        )
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
        raise _unusable(codec_run, "holds another codec") from None


def _unusable(codec_run: str | None, what: str) -> UsageError:
    return UsageError(
        f"the checkpoint of codec run {Path(codec_run or '').name} {what}",
        "a codec with the same codec_channels, codec_width, codec_levels and target",
        "use the arguments it was trained with, or train it again",
    )
