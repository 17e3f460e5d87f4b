"""An append-only log whose every line carries the hash of the line before: COHORT/audit.jsonl.

A line taken out, put in or changed breaks the chain from there on. The file is written anew as a whole, so
that a power cut leaves the old log or the new one and never half a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import CohortError
from diffusion_adc.records.atomic import sha256_bytes, write_bytes

START: Final = "0" * 64
"""What the first line names as the hash before it."""
_OWN: Final = frozenset({"n", "previous", "hash"})


def canonical(value: Any) -> bytes:
    """The one way a value is spelt before it is hashed or signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's entries, the chain checked; empty if there is no log.

    Raises:
        CohortError: A line is unreadable or the chain is broken.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError:
        raise _broken(path, 1) from None
    entries: list[dict[str, Any]] = []
    before = START
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            content = {name: value for name, value in entry.items() if name != "hash"}
            if (entry["n"], entry["previous"], entry["hash"]) != (
                number,
                before,
                sha256_bytes(canonical(content)),
            ):
                raise ValueError("broken chain")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _broken(path, number) from None
        entries.append(entry)
        before = entry["hash"]
    return entries


def append(path: Path, entry: Mapping[str, Any]) -> str:
    """Add an entry at the end; one that is there already, but for its time, is not added again.

    Args:
        path: The log.
        entry: JSON values; ``n``, ``previous`` and ``hash`` are set here. Never a research ID.

    Returns:
        The hash of the entry, which is the head of the chain.

    Raises:
        CohortError: The log's chain is broken: nothing is added to a log that cannot be trusted.
    """
    entries = read_log(path)
    for earlier in entries:
        if {k: v for k, v in earlier.items() if k not in _OWN | {"when"}} == {
            k: v for k, v in entry.items() if k != "when"
        }:
            return str(earlier["hash"])
    content = {**entry, "n": len(entries) + 1, "previous": entries[-1]["hash"] if entries else START}
    digest = sha256_bytes(canonical(content))
    lines = [canonical(known) for known in [*entries, {**content, "hash": digest}]]
    write_bytes(path, b"\n".join(lines) + b"\n")
    return digest


def _broken(path: Path, line: int) -> CohortError:
    return CohortError(
        f"{path.name} is broken at line {line}", "an unchanged chain of hashes",
        "restore the file from a copy; do not edit it",
    )  # fmt: skip
