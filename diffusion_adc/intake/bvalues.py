"""Which b-value each diffusion-weighted image has, and which two of a series are kept.

A b-value comes from a ``.bval`` list beside the file (the FSL convention: numbers separated by white space) or
from the user. The true value is stored with the case; none is ever assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.nifti import Refusal
from diffusion_adc.intake.options import DWI, SUFFIXES, IngestOptions
from diffusion_adc.records.atomic import sha256_bytes

GE_BIAS: Final = 1e9
"""Some scanners store b + 10⁹ where several b-values were acquired."""
_MAX_B: Final = 10_000.0
_LOW_B: Final = 100.0
"""Largest b of a low-b image where the user names no pair, s/mm²."""
_USUAL_HIGH_B: Final = 900.0
_SPREAD: Final = (20.0, 0.05)
"""b-values this close (s/mm², or as a share) were meant to be one: scanners report what they really played."""


def sidecar(path: Path, research_id: str, name: str) -> list[float] | None:
    """The ``.bval`` list beside a file in s/mm², None if there is none.

    Raises:
        CaseError: S12, it holds anything but plausible b-values.
    """
    suffix = next(s for s in SUFFIXES if path.name.endswith(s))
    beside = path.with_name(path.name.removesuffix(suffix) + ".bval")
    if not beside.is_file():
        return None
    refused = Refusal(research_id, name)
    try:
        values = [float(word) for word in beside.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        raise refused("S12", "an unreadable .bval list", "numbers in s/mm²", "correct the list") from None
    values = [value - GE_BIAS if value >= GE_BIAS else value for value in values]
    if not values or not all(0 <= value <= _MAX_B for value in values):
        raise refused("S12", "a .bval list with impossible values", "0 to 10 000 s/mm²", "correct the list")
    return values


def single(path: Path, options: IngestOptions, research_id: str, name: str) -> float | None:
    """The b-value of a 3-D image in s/mm²; None where it was declared unknown.

    Raises:
        CaseError: S12, nobody states it, or the list beside the file and the user disagree.
    """
    refused, listed = Refusal(research_id, name), sidecar(path, research_id, name)
    declared = options.b_value(name)
    if listed is None:
        if name not in options.b_values:
            raise refused("S12", "no b-value", f"--b {name}=NUMBER or {name}=unknown", "declare the b-value")
        return declared
    if len(listed) != 1 or (declared is not None and not close(listed[0], declared)):
        stated = f"{len(listed)} values" if len(listed) != 1 else f"b = {listed[0]:g} s/mm²"
        raise refused(
            "S12", f"{stated} in the .bval list", "one value, the declared one" if declared else "one value",
            "correct the list or the declaration",
        )  # fmt: skip
    return listed[0]


def close(one: float, other: float) -> bool:
    """Whether two b-values in s/mm² were meant to be one."""
    return abs(one - other) <= max(_SPREAD[0], _SPREAD[1] * max(one, other))


def clusters(b_values: list[float]) -> list[tuple[float, list[int]]]:
    """b-values meant to be one, in rising order: their mean and their positions in the list."""
    groups: list[list[int]] = []
    for index in sorted(range(len(b_values)), key=lambda n: (b_values[n], n)):
        if groups and close(b_values[groups[-1][0]], b_values[index]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return [(float(np.mean([b_values[n] for n in group])), group) for group in groups]


def split_series(
    array: NDArray[np.floating], b_values: list[float] | None, options: IngestOptions, research_id: str
) -> tuple[dict[str, tuple[NDArray[np.float32], float]], NDArray[np.float32], list[float]]:
    """The low-b and high-b image of a 4-D series, and all of its b-values with their images.

    Volumes of one b-value are directions or repetitions: the trace-weighted image is their geometric mean, below
    b = 100 s/mm² their mean. Without a declared pair the lowest b ≤ 100 and the measured b nearest 900 are kept.

    Args:
        array: (I, J, K, N).
        b_values: N values in s/mm², or None if there is no list.
        options: May name the pair under `b_values`.
        research_id: For messages.

    Returns:
        Images and b by sequence; the images of every b (B, I, J, K); the b-values (B,).

    Raises:
        CaseError: S24 there is no list; S12 it does not fit the volumes or holds no usable pair; S13 no low b.
    """
    refused = Refusal(research_id, DWI)
    if b_values is None:
        raise refused("S24", "a 4-D series without b-values", "a .bval list", "deliver the list beside it")
    if len(b_values) != array.shape[3]:
        raise refused("S12", f"{len(b_values)} b-values", f"{array.shape[3]}, one per volume")
    groups = clusters(b_values)
    images = np.stack([trace(array[..., members], b) for b, members in groups])
    kept: dict[str, tuple[NDArray[np.float32], float]] = {}
    for name in (seq.DWI_LOW, seq.DWI_HIGH):
        wanted = options.wanted_b(name)
        default = groups[0][0] if name == seq.DWI_LOW else _USUAL_HIGH_B
        index = min(
            range(len(groups)), key=lambda n: abs(groups[n][0] - (default if wanted is None else wanted))
        )
        b = groups[index][0]
        usable = close(b, wanted) if wanted is not None else (b <= _LOW_B) == (name == seq.DWI_LOW)
        if usable:
            kept[name] = (images[index], b)
        elif wanted is not None:
            raise refused("S12", f"no b near {wanted:g} s/mm²", "the declared pair", "declare one it has")
    if seq.DWI_HIGH not in kept and seq.DWI_HIGH not in options.allow_missing:
        raise refused("S12", f"b-values up to {groups[-1][0]:g} s/mm²", "a high b", "deliver the high b")
    if seq.DWI_LOW not in kept and seq.DWI_LOW not in options.allow_missing:
        raise Refusal(research_id, seq.DWI_LOW)(
            "S13", f"b-values from {groups[0][0]:g} s/mm²", "a low b", "deliver it or declare it missing"
        )
    return kept, images, [b for b, _ in groups]


def joined_sha256(digests: Sequence[str]) -> str:
    """One SHA-256 for several files, in their order; the file's own for a single one."""
    return digests[0] if len(digests) == 1 else sha256_bytes("".join(digests).encode())


def trace(volumes: NDArray[np.floating], b: float) -> NDArray[np.float32]:
    """The trace-weighted image (I, J, K) of directions or repetitions (I, J, K, N): geometric mean above b = 100."""
    if volumes.shape[3] == 1 or b <= _LOW_B:
        return np.asarray(volumes.mean(axis=3), dtype=np.float32)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(volumes, 0.0))
    return np.exp(logs.mean(axis=3)).astype(np.float32)
