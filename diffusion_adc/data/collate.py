"""From patches to the batch dict: the door where subjects become tensors.

Keys and shapes are those of `diffusion_adc.domain.sequences`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch import Tensor

from diffusion_adc.data.grid import Triple
from diffusion_adc.data.store import StoreEntry
from diffusion_adc.domain import clinical
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates

B_LOW, B_HIGH = "b_low", "b_high"


@dataclass(frozen=True)
class CaseFacts:
    """What a patch carries besides its voxels.

    Attributes:
        available: float32 (5,).
        covariates: float32 (F,).
        known: float32 (F,).
        case_index: Row of the case in the cohort.
        b_low: s/mm², None if unknown.
        b_high: s/mm², None if unknown.
    """

    available: NDArray[np.float32]
    covariates: NDArray[np.float32]
    known: NDArray[np.float32]
    case_index: int
    b_low: float | None
    b_high: float | None


def case_facts(case: Case, case_index: int, covariates: Covariates, wanted: Sequence[str]) -> CaseFacts:
    """The facts of one case.

    Raises:
        UsageError: A wanted name is not a covariate.
    """
    values, known = clinical.encode(covariates, wanted)
    return CaseFacts(
        np.asarray(case.available, dtype=np.float32), values, known, case_index, case.b_low, case.b_high
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: waking a second one for a small copy costs more than the copy."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class PatchBuffers:
    """Scratch for `read_patch`: a strided copy and a contiguous conversion are faster than both at once.

    Attributes:
        images: float16 (7, *size).
        presence: uint8 (1, *size).
    """

    images: Tensor
    presence: Tensor

    @classmethod
    def of(cls, size: Triple) -> PatchBuffers:
        """Buffers for one patch size."""
        return cls(
            torch.empty(len(seq.CHANNELS), *size, dtype=torch.float16),
            torch.empty(1, *size, dtype=torch.uint8),
        )


class OpenEntries:
    """The last few entries used, kept mapped; older ones are unmapped.

    The pages of a mapping count as resident memory, so their number must not grow with the cohort.

    Args:
        most: Entries kept.
    """

    def __init__(self, most: int = 8) -> None:
        self.most = most
        self._open: OrderedDict[Path, tuple[Tensor, Tensor]] = OrderedDict()

    def __call__(self, entry: StoreEntry) -> tuple[Tensor, Tensor]:
        """float16 (7, I, J, K) images and uint8 (R, I, J, K) presence of an entry, not yet read."""
        found = self._open.pop(entry.path, None)
        if found is None:
            found = torch.from_numpy(entry.images()), torch.from_numpy(entry.presence())
        self._open[entry.path] = found
        if len(self._open) > self.most:
            self._open.popitem(last=False)
        return found


def read_patch(
    volumes: tuple[Tensor, Tensor],
    start: Triple,
    reader: int,
    images: Tensor,
    presence: Tensor,
    buffers: PatchBuffers,
) -> None:
    """Copy one patch from a store entry; the same voxels that `tio.Crop` would give.

    Args:
        volumes: From `OpenEntries`.
        start: First voxel.
        reader: Whose presence.
        images: float32 (7, *size), written.
        presence: float32 (1, *size), written.
        buffers: Scratch of the same size.
    """
    i, j, k = (slice(first, first + n) for first, n in zip(start, images.shape[1:], strict=True))
    buffers.images.copy_(volumes[0][:, i, j, k])
    images.copy_(buffers.images)
    buffers.presence.copy_(volumes[1][reader : reader + 1, i, j, k])
    presence.copy_(buffers.presence)


class FactsTable:
    """The facts of many cases as stacked tensors, so that a batch is one indexing per key.

    Args:
        facts: One per case.
    """

    def __init__(self, facts: Sequence[CaseFacts]) -> None:
        self.facts = tuple(facts)
        self._stacked = {
            seq.AVAILABLE: torch.from_numpy(np.stack([f.available for f in facts])),
            seq.COVARIATES: torch.from_numpy(np.stack([f.covariates for f in facts])),
            seq.KNOWN: torch.from_numpy(np.stack([f.known for f in facts])),
            seq.CASE_INDEX: torch.tensor([f.case_index for f in facts]),
        }

    def batch(self, rows: Sequence[int], locations: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Everything of a batch but its voxels.

        Args:
            rows: (B,) cases.
            locations: (B, 6) first and last voxel indices, as TorchIO gives them.
        """
        index = torch.tensor(rows)
        batch = {name: tensor[index] for name, tensor in self._stacked.items()}
        return {**batch, seq.LOCATION: torch.tensor(locations)}


def location(start: Triple, size: Triple) -> tuple[int, ...]:
    """First and last voxel indices of a patch, in TorchIO's order."""
    return (*start, *(first + n for first, n in zip(start, size, strict=True)))


def patch_subject(
    entry: StoreEntry, start: Triple, size: Triple, reader: int, facts: CaseFacts
) -> tio.Subject:
    """One patch as a `torchio.Subject`, as `open_subject` and `tio.Crop` would give it, for transforms.

    Returns:
        ``images`` float32 (7, *size), ``presence`` float32 (1, *size), ``location``, b-values (-1 if unknown).
    """
    images, presence = torch.empty(len(seq.CHANNELS), *size), torch.empty(1, *size)
    read_patch(OpenEntries()(entry), start, reader, images, presence, PatchBuffers.of(size))
    affine = entry.grid.affine.copy()
    affine[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    return tio.Subject(
        {
            seq.IMAGES: tio.ScalarImage(tensor=images, affine=affine),
            seq.PRESENCE: tio.LabelMap(tensor=presence, affine=affine),
            seq.LOCATION: torch.tensor(location(start, size)),
            B_LOW: -1.0 if facts.b_low is None else facts.b_low,
            B_HIGH: -1.0 if facts.b_high is None else facts.b_high,
        }
    )
