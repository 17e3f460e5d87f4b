"""Where the next patch comes from: one law, used by the fast path and by the TorchIO sampler.

Half of the patches are centered on lesions, a quarter on restricted diffusion outside the target (no volume of
a cohort carries organ labels), a quarter anywhere in the valid body. A lesion is chosen first and its case
follows from it, so each lesion of the split is equally likely whatever its size; tumor-free cases come in
through the other two.

With several readers, the map that says *where* to look and the map that is *learned* come from two different
readers. Readers edit independently given the images; if the learned map itself chose the place, a lesion that
half of the readers keep would be seen kept almost every time, and the probability drawn would be too high.

Every choice is a function of nine uniform numbers, and patch ``i`` of epoch ``e`` has its own nine numbers from
``(seed, stream, e)``: neither ranks, workers, batch size nor a restart changes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torchio.data.sampler.sampler import RandomSampler

from diffusion_adc.data.grid import Triple
from diffusion_adc.data.index import Segment
from diffusion_adc.data.store import StoreEntry
from diffusion_adc.data.subjects import ENTRY
from diffusion_adc.domain.errors import CohortError, UsageError

READERS: Final = ("first", "random")
LESION, RESTRICTED, BODY = range(3)

# Columns of a row of uniform numbers.
_KIND, _WHICH, _VOXEL, _PLACE_READER, _READER, _SHIFT, _SEED = 0, 1, 2, 3, 4, 5, 8
COLUMNS: Final = 9
_GOLDEN: Final = (5**0.5 - 1) / 2


def uniforms(seed: int, stream: int, epoch: int, count: int) -> NDArray[np.float64]:
    """Rows of uniform numbers in [0, 1) for the first `count` patches of an epoch, (count, 9).

    Row ``i`` does not depend on `count`. The first column is a golden-ratio sequence from a random start, so
    that the shares of lesions, restricted diffusion and body hold in every short run of patches.

    Args:
        seed: Of the run.
        stream: 0 for training, 1 for validation.
        epoch: Counted from 0.
        count: Rows.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, epoch])))
    start = generator.random()
    rows = generator.random((count, COLUMNS))
    rows[:, _KIND] = (start + _GOLDEN * np.arange(count)) % 1.0
    return rows


def patch_seed(row: NDArray[np.float64]) -> int:
    """Seed of a patch's augmentation."""
    return int(row[_SEED] * 2**53)


@dataclass(frozen=True)
class PatchChoice:
    """One patch.

    Attributes:
        entry: Row of the case among the table's entries.
        start: First voxel.
        reader: Whose presence it carries.
        kind: `LESION`, `RESTRICTED` or `BODY`.
        center: The candidate voxel it was placed by.
    """

    entry: int
    start: Triple
    reader: int
    kind: int
    center: Triple


class PatchTable:
    """All candidate centers of a set of cases, as a few numbers per lesion.

    Args:
        entries: The cases.
        patch_size: (I, J, K) voxels; 1 along K for slices.
        shares: Of lesions, restricted diffusion and body; they add up to 1.
        readers: ``random`` learns a random reader of the case, ``first`` the first one.
        jitter: Largest shift of a lesion or restricted voxel from the patch's center, as a share of the patch.

    Raises:
        UsageError: A volume is smaller than the patch, or an option is out of its range.
        CohortError: There is no case.
    """

    def __init__(
        self,
        entries: Sequence[StoreEntry],
        patch_size: Sequence[int],
        shares: Sequence[float] = (0.5, 0.25, 0.25),
        readers: str = "random",
        jitter: float = 0.25,
    ) -> None:
        if not entries:
            raise CohortError("no case to take patches from", "at least one", "check the split")
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise UsageError(
                f"patch_size {list(patch_size)}", "three positive integers, 1 along K for slices"
            )
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UsageError(f"shares {list(shares)}", "three shares that add up to 1")
        if readers not in READERS:
            raise UsageError(f"readers {readers!r}", f"one of {', '.join(READERS)}")
        if not 0 <= jitter <= 0.45:
            raise UsageError(f"jitter {jitter}", "0 to 0.45 of the patch, so that the center stays inside")
        self.entries = tuple(entries)
        self.patch_size: Triple = (int(patch_size[0]), int(patch_size[1]), int(patch_size[2]))
        self.shares = tuple(shares)
        self._bounds = (shares[0], shares[0] + shares[1])
        self.readers = readers
        self.jitter = jitter
        for entry in self.entries:
            self._check_size(entry)
        rows = [
            (row, lesion.reader, lesion.voxels.start, lesion.voxels.count, 1.0 / self._used(entry))
            for row, entry in enumerate(self.entries)
            for lesion in entry.index.lesions
            if lesion.reader < self._used(entry)
        ]
        self._lesions = np.asarray([row[:4] for row in rows], dtype=np.int64).reshape(-1, 4)
        # A case read by three readers is not three cases.
        self._cumulative = np.cumsum([row[4] for row in rows])

    def _used(self, entry: StoreEntry) -> int:
        return 1 if self.readers == "first" else max(entry.readers, 1)

    def _check_size(self, entry: StoreEntry) -> None:
        if any(n < p for n, p in zip(entry.shape, self.patch_size, strict=True)):
            fits = [min(n, p) for n, p in zip(entry.shape, self.patch_size, strict=True)]
            raise UsageError(
                f"a volume of {'×'.join(map(str, entry.shape))} voxels on the working grid",
                f"at least the patch of {'×'.join(map(str, self.patch_size))}",
                f"set data.patch_size to at most {fits} or choose a finer data.spacing_mm",
                research_id=entry.case_id.rsplit("_", 1)[0],
            )

    @property
    def n_lesions(self) -> int:
        """Lesions over all cases and readers in use."""
        return len(self._lesions)

    def choose(self, row: NDArray[np.float64]) -> PatchChoice:
        """The patch that belongs to a row of `uniforms`."""
        kind = bisect_right(self._bounds, row[_KIND])
        if kind == LESION and not self.n_lesions:
            kind = RESTRICTED
        place: int | None = None
        if kind == LESION:
            which = int(np.searchsorted(self._cumulative, row[_WHICH] * self._cumulative[-1], side="right"))
            number, place, start, count = (int(v) for v in self._lesions[min(which, self.n_lesions - 1)])
            segment = Segment(start, count)
        else:
            number = int(row[_WHICH] * len(self.entries))
            index = self.entries[number].index
            if kind == RESTRICTED:
                place = int(row[_PLACE_READER] * self._used(self.entries[number]))
                segment = index.restricted[place]
            if kind == BODY or segment.count == 0:
                kind, place, segment = BODY, None, index.body
        entry = self.entries[number]
        center = entry.voxel(segment.start + int(row[_VOXEL] * segment.count))
        start_voxel = self._start(entry.shape, center, row, shift=kind != BODY)
        return PatchChoice(number, start_voxel, self._reader(entry, place, row[_READER]), kind, center)

    def _reader(self, entry: StoreEntry, place: int | None, uniform: float) -> int:
        used = self._used(entry)
        if place is None or used == 1:
            return int(uniform * used)
        other = int(uniform * (used - 1))
        return other + (other >= place)

    def _start(self, shape: Triple, center: Triple, row: NDArray[np.float64], *, shift: bool) -> Triple:
        start = []
        for axis, (n, p, c) in enumerate(zip(shape, self.patch_size, center, strict=True)):
            reach = int(p * self.jitter) if shift else 0
            moved = c - p // 2 + int(row[_SHIFT + axis] * (2 * reach + 1)) - reach
            start.append(min(max(moved, 0), n - p))
        return start[0], start[1], start[2]


class LesionBalancedSampler(RandomSampler):
    """The same law as a TorchIO sampler, within one subject from `subjects.open_subject`.

    It follows `torch.manual_seed`, as every TorchIO sampler does.

    Args:
        patch_size: (I, J, K) voxels.
        shares: Of lesions, restricted diffusion and body.
        jitter: See `PatchTable`.
    """

    def __init__(
        self, patch_size: Sequence[int], shares: Sequence[float] = (0.5, 0.25, 0.25), jitter: float = 0.25
    ) -> None:
        super().__init__((int(patch_size[0]), int(patch_size[1]), int(patch_size[2])))
        self.shares = tuple(shares)
        self.jitter = jitter

    def _generate_patches(
        self, subject: tio.Subject, num_patches: int | None = None
    ) -> Generator[tio.Subject, None, None]:
        entry = subject[ENTRY]
        assert isinstance(entry, StoreEntry)
        size = [int(n) for n in self.patch_size]
        table = PatchTable([entry], size, self.shares, jitter=self.jitter)
        made = 0
        while num_patches is None or made < num_patches:
            row = torch.rand(COLUMNS, dtype=torch.float64).numpy()
            yield self.extract_patch(subject, table.choose(row).start)
            made += 1
