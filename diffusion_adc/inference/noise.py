"""One noise field per case and draw, indexed by voxel.

Draw number d of a case starts from the same field whatever the tiling, the batch size, the device or the
number of draws: the field is made whole, on the CPU, from a counter-based generator (Philox; Salmon et al.,
SC 2011) keyed by a hash of (seed, case, draw). Tiles read their part of it, so that overlapping tiles see
the same noise; independent noise per tile would shrink the spread to 0.7 of what it should be where two
tiles are averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor


def noise_key(seed: int, case_id: str, draw: int) -> NDArray[np.uint64]:
    """128-bit key of the generator, uint64 (2,); distinct for any two (seed, case, draw)."""
    digest = hashlib.sha256(f"{seed}\0{case_id}\0{draw}".encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8")


def noise_field(
    shape: Sequence[int], *, seed: int, case_id: str, draw: int, slice_correlation: float = 0.0
) -> Tensor:
    """Standard normal field of one draw.

    With `slice_correlation` ρ, slices form a first-order autoregression along the last axis,
    ``ε_k = ρ ε_(k−1) + √(1 − ρ²) η_k`` with ``ε_0 = η_0``: every slice alone is exactly N(0, 1), and
    neighbors have correlation ρ. A network that sees one slice at a time draws each slice's presence from
    that slice's noise, so this is what lets the slices of one lesion be kept or dropped together.

    Args:
        shape: (C, I, J, K) of the latent.
        seed: The run's drawing seed.
        case_id: Whose field it is.
        draw: Number of the draw, from 0.
        slice_correlation: ρ in [0, 1]; 0 for networks that see all three axes, 1 for one field shared by
            all slices.

    Returns:
        float32 (C, I, J, K) on the CPU.

    Raises:
        ValueError: ρ outside [0, 1].
    """
    if not 0.0 <= slice_correlation <= 1.0:
        raise ValueError(f"slice correlation {slice_correlation}; expected 0 to 1")
    generator = np.random.Generator(np.random.Philox(key=noise_key(seed, case_id, draw)))
    field = generator.standard_normal(tuple(shape), dtype=np.float32)
    if slice_correlation > 0.0 and shape[-1] > 1:
        innovation = np.sqrt(1.0 - slice_correlation**2)
        field[..., 1:] *= np.float32(innovation)
        field = lfilter([1.0], [1.0, -slice_correlation], field, axis=-1).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(field))
