"""What a checkpoint's sidecar (``NAME.ckpt.json``) says of it, and which of its bytes that proves.

A sidecar is written just before its checkpoint takes its name, and still tells of the file that is about to be
replaced: at whatever moment the process dies, the file in place is one of the two and can be verified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusion_adc.records.atomic import sha256_file, write_json

PREVIOUS: Final = "previous"
_PROOF: Final = ("sha256", "step", "epoch")


def sidecar(checkpoint: Path) -> Path:
    """Path of a checkpoint's sidecar."""
    return checkpoint.with_name(f"{checkpoint.name}.json")


def write_sidecar(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """Announce the checkpoint that is about to take the place of `checkpoint`.

    Args:
        checkpoint: The file as it is now, or absent.
        record: ``sha256``, ``step``, ``epoch`` and lineage of the new one.
    """
    earlier = verified(checkpoint)
    known = {} if earlier is None else {PREVIOUS: {name: earlier.get(name) for name in _PROOF}}
    write_json(sidecar(checkpoint), {**record, **known})


def verified(checkpoint: Path) -> dict[str, Any] | None:
    """What is recorded of a checkpoint's bytes; None if nothing is, or they are damaged or missing."""
    try:
        stated = json.loads(sidecar(checkpoint).read_text(encoding="utf-8"))
        digest = sha256_file(checkpoint)
    except (OSError, ValueError):
        return None
    if not isinstance(stated, dict):
        return None
    for record in (stated, stated.get(PREVIOUS)):
        if isinstance(record, dict) and record.get("sha256") == digest:
            return {name: value for name, value in record.items() if name != PREVIOUS}
    return None
