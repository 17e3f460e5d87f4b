"""The tracker's own log of a run (``run-ID.wandb``) read record by record, to see what would be sent.

Format: seven bytes ``:W&B``, magic, version; then LevelDB's log in blocks of 32 KiB, each record a checksum, a
length, a type (1 whole, 2 first, 3 middle, 4 last) and its part of a serialized ``Record`` message.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import CohortError

_BLOCK: Final = 32768
_HEAD: Final = 7
_IDENT: Final = b":W&B"


def payloads(path: Path) -> Iterator[bytes]:
    """The serialized messages of a log; one that was cut off at the end by a crash is left out.

    Raises:
        CohortError: The file is no log, or is damaged in the middle: what is in it cannot be known.
    """
    data = path.read_bytes()
    if data[:4] != _IDENT or len(data) < _HEAD:
        raise _damaged(path)
    at, parts = _HEAD, b""
    while at + _HEAD <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _HEAD:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        end = at + _HEAD + length
        if kind not in (1, 2, 3, 4) or length > room - _HEAD:
            raise _damaged(path)
        if end > len(data):
            return
        parts = data[at + _HEAD : end] if kind in (1, 2) else parts + data[at + _HEAD : end]
        if kind in (1, 4):
            yield parts
        at = end


def records(path: Path) -> Iterator[Any]:
    """The messages of a log, parsed.

    Raises:
        CohortError: The file is damaged.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    kind: Any = wandb_internal_pb2

    for payload in payloads(path):
        record = kind.Record()
        try:
            record.ParseFromString(payload)
        except DecodeError:
            raise _damaged(path) from None
        yield record


def strings(path: Path) -> Iterator[tuple[str, str]]:
    """Every text in a log with the name of its field; JSON inside texts is opened, its keys included.

    Raises:
        CohortError: The file is damaged.
    """
    for record in records(path):
        yield from _message(record, record.WhichOneof("record_type") or "record")


def _message(message: Any, where: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        name = f"{where}.{field.name}" if not where.endswith(field.name) else where
        # A map and a repeated field are both iterated; a map's keys are texts too.
        if hasattr(value, "items"):
            items = [part for pair in value.items() for part in pair]
        else:
            repeated = (
                not isinstance(value, str | bytes) and hasattr(value, "__len__") and hasattr(value, "append")
            )
            items = list(value) if repeated or hasattr(value, "add") else [value]
        for item in items:
            if hasattr(item, "ListFields"):
                yield from _message(item, name)
            elif isinstance(item, bytes):
                yield from opened(item.decode("utf-8", "replace"), name)
            elif isinstance(item, str):
                yield from opened(item, name)


def opened(text: str, where: str) -> Iterator[tuple[str, str]]:
    """A text, or the texts within it where it is JSON."""
    if text[:1] in '{["' and text.strip():
        try:
            value = json.loads(text)
        except ValueError:
            pass
        else:
            yield from walk(value, where)
            return
    if not _is_number(text):
        yield where, text


def walk(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """The texts of a JSON or YAML value, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from opened(str(key), where)
            yield from walk(item, where)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from walk(item, where)
    elif isinstance(value, str):
        yield from opened(value, where)
    elif value is not None and not isinstance(value, bool | int | float):
        yield where, str(value)  # a YAML date


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return (
        not text.strip().isdigit() or len(text.strip()) < 8
    )  # 20190412 may be a date, 4711823001 a chart number


def _damaged(path: Path) -> CohortError:
    return CohortError(f"{path.name} is damaged", "a readable log of the tracker", "do not upload this run")
