"""Torch datasets and loaders over a store: patches by number, cases by row.

An index names an epoch and a patch (``epoch · 2**40 + i``), so a dataset holds no state, persistent workers never
lag an epoch behind, and a restart in mid-epoch continues with the very next patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from diffusion_adc.data.collate import (
    CaseFacts,
    FactsTable,
    OpenEntries,
    PatchBuffers,
    location,
    one_thread,
    patch_subject,
    read_patch,
)
from diffusion_adc.data.patches import PatchChoice, PatchTable, patch_seed, uniforms
from diffusion_adc.data.store import StoreEntry
from diffusion_adc.data.watch import sent, watched
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError

Batch = dict[str, Tensor]
"""Keys and shapes of `diffusion_adc.domain.sequences`."""
_EPOCH_SHIFT: Final = 40
TRAIN_STREAM, VAL_STREAM = 0, 1


class PatchDataset(Dataset[Batch]):
    """Patches of a set of stored cases, each a function of (seed, stream, epoch, i).

    Args:
        table: The patch law over the cases.
        facts: One per entry of the table.
        patches_per_epoch: How many patches an epoch has, over all ranks.
        seed: Of the run.
        stream: `TRAIN_STREAM` or `VAL_STREAM`.
        augment: A TorchIO transform over patch subjects, or None.
    """

    def __init__(
        self,
        table: PatchTable,
        facts: Sequence[CaseFacts],
        patches_per_epoch: int,
        seed: int = 0,
        stream: int = TRAIN_STREAM,
        augment: tio.Transform | None = None,
    ) -> None:
        self.table, self.facts = table, FactsTable(facts)
        self.patches_per_epoch, self.seed, self.stream = patches_per_epoch, seed, stream
        self.augment = augment
        self._buffers, self._open = PatchBuffers.of(table.patch_size), OpenEntries()
        self._epoch = -1
        self._rows: NDArray[np.float64] = np.empty((0, 0))

    def __len__(self) -> int:
        return self.patches_per_epoch

    def __getstate__(self) -> dict[str, Any]:
        # Workers make their own numbers and buffers: the pickle stays small whatever the epoch's length.
        return {**self.__dict__, "_epoch": -1, "_rows": np.empty((0, 0)), "_buffers": None, "_open": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._buffers, self._open = PatchBuffers.of(self.table.patch_size), OpenEntries()

    def _row(self, index: int) -> NDArray[np.float64]:
        index = max(index, ~index)  # a repeated patch
        epoch, number = index >> _EPOCH_SHIFT, index & ((1 << _EPOCH_SHIFT) - 1)
        if epoch != self._epoch:
            self._rows = uniforms(self.seed, self.stream, epoch, self.patches_per_epoch)
            self._epoch = epoch
        return self._rows[number]

    def choice(self, index: int) -> PatchChoice:
        """Where the patch of this index lies."""
        return self.table.choose(self._row(index))

    def subject(self, index: int) -> tio.Subject:
        """The patch as a TorchIO subject, augmented."""
        patch = self.choice(index)
        entry, facts = self.table.entries[patch.entry], self.facts.facts[patch.entry]
        subject = patch_subject(entry, patch.start, self.table.patch_size, patch.reader, facts)
        if self.augment is None:
            return subject
        # TorchIO draws from torch's global generator: seed it per patch, and leave it as it was.
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: without a GPU it queues a call and a traceback for CUDA at every patch.
            torch.default_generator.manual_seed(patch_seed(self._row(index)))
            return self.augment(subject)

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: every patch is copied straight into its place."""
        return sent(lambda: self._batch(indices), lambda: self.case_indices(indices))

    def case_indices(self, indices: Sequence[int]) -> list[int]:
        """The case of each patch, as its row in the cohort."""
        return [self.facts.facts[self.choice(index).entry].case_index for index in indices]

    def _batch(self, indices: Sequence[int]) -> Batch:
        size = self.table.patch_size
        choices = [self.choice(index) for index in indices]
        batch = self.facts.batch([c.entry for c in choices], [location(c.start, size) for c in choices])
        if min(indices) < 0:
            batch[seq.COUNTS] = torch.tensor([float(index >= 0) for index in indices])
        images = torch.empty(len(choices), len(seq.CHANNELS), *size)
        presence = torch.empty(len(choices), 1, *size)
        with one_thread():
            for row, (index, patch) in enumerate(zip(indices, choices, strict=True)):
                if self.augment is not None:
                    subject = self.subject(index)
                    images[row] = subject.get_image(seq.IMAGES).data
                    presence[row] = subject.get_image(seq.PRESENCE).data
                else:
                    volumes = self._open(self.table.entries[patch.entry])
                    read_patch(volumes, patch.start, patch.reader, images[row], presence[row], self._buffers)
        return {seq.IMAGES: images, seq.PRESENCE: presence, **batch}


class CaseDataset(Dataset[Batch]):
    """Whole prepared cases; a batch is one case.

    Args:
        entries: The stored cases.
        facts: One per entry.
        with_presence: Whether to give the first reader's presence.
    """

    def __init__(
        self, entries: Sequence[StoreEntry], facts: Sequence[CaseFacts], *, with_presence: bool
    ) -> None:
        self.entries, self.facts, self.with_presence = tuple(entries), FactsTable(facts), with_presence

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Batch:
        entry = self.entries[index]
        batch = self.facts.batch([index], [location((0, 0, 0), entry.shape)])
        batch[seq.IMAGES] = torch.from_numpy(entry.images()).to(torch.float32).contiguous()[None]
        if self.with_presence:
            batch[seq.PRESENCE] = torch.from_numpy(entry.presence()[:1]).to(torch.float32).contiguous()[None]
        return batch

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The one case of a batch of one."""
        (index,) = indices
        return sent(lambda: self[index], lambda: self.case_indices(indices))

    def case_indices(self, indices: Sequence[int]) -> list[int]:
        """The row of each case in the cohort."""
        return [self.facts.facts[index].case_index for index in indices]


class RankSequence(DistributedSampler[int]):
    """Indices in order, every `ranks`-th one for each rank, none twice.

    A `DistributedSampler`, so that the trainer does not wrap another one around it.

    Args:
        length: Indices over all ranks.
        rank: This process.
        ranks: Processes.
        batch_size: Rounds every rank down to the same number of whole batches; 0 keeps all indices.
        epochs: Whether an index carries its epoch.
    """

    def __init__(
        self, length: int, rank: int, ranks: int, *, batch_size: int = 0, epochs: bool = False
    ) -> None:
        self.length, self.rank, self.num_replicas = length, rank, ranks
        self.epoch, self.epochs, self.shuffle, self.drop_last = 0, epochs, False, bool(batch_size)
        self.first = 0
        """Indices of this rank to leave out at the start of the epoch: a resumed run has seen them."""
        if batch_size:
            per_rank = length // (batch_size * ranks) * batch_size
            self.length = per_rank * ranks
        self.num_samples = len(range(rank, self.length, ranks))
        self.total_size = self.length

    def __iter__(self) -> Iterator[int]:
        base = self.epoch << _EPOCH_SHIFT if self.epochs else 0
        numbers = range(self.rank, self.length, self.num_replicas)[self.first :]
        self.first = 0
        return iter([base + number for number in numbers])

    def __len__(self) -> int:
        return self.num_samples

    def batch(self, number: int, size: int) -> list[int]:
        """The indices of one batch of the epoch."""
        base = self.epoch << _EPOCH_SHIFT if self.epochs else 0
        numbers = range(self.rank, self.length, self.num_replicas)[number * size : (number + 1) * size]
        return [base + index for index in numbers]


class RankBatches(DistributedSampler[int]):
    """Whole batches of a fixed order dealt to the ranks, as many to each, so that a mean over batches is the same
    for any number of ranks.

    Where they do not go round, a rank repeats the first batch with inverted indices (``~i``), which the dataset
    marks as not counting.

    Args:
        length: Indices over all ranks.
        rank: This process.
        ranks: Processes.
        batch_size: Indices per batch; the last one may hold fewer.
    """

    def __init__(self, length: int, rank: int, ranks: int, batch_size: int) -> None:
        self.rank, self.num_replicas, self.epoch = rank, ranks, 0
        self.shuffle, self.drop_last = False, False
        batches = -(-length // batch_size)
        self.indices: list[int] = []
        for number in range(rank, -(-batches // ranks) * ranks, ranks):
            if number < batches:
                self.indices += range(number * batch_size, min(length, (number + 1) * batch_size))
            else:
                self.indices += [~index for index in range(min(length, batch_size))]
        self.num_samples = self.total_size = len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class PatchLoader(DataLoader[Any]):
    """A loader that continues in mid-epoch: its state is the epoch and the batches trained on.

    Args:
        dataset: The patches.
        sampler: This rank's indices.
        batch_size: Patches per batch.
        workers: Processes; 0 feeds from the training process.
        done: Batches of the current epoch the trainer has trained on; None counts the batches given out.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        sampler: RankSequence,
        batch_size: int,
        workers: int = 0,
        done: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(
            dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **loader_options(workers)
        )
        self._done = done
        self._given = 0
        self._resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator on purpose: on resume the trainer makes the iterator before it sets the sampler's epoch,
        # and may even leave the restored epoch behind. Where to begin is settled at the first batch.
        assert isinstance(self.sampler, RankSequence)
        assert self.batch_size is not None
        self._given = 0
        if self._resume is not None and self._resume[0] == self.sampler.epoch:
            self._given = self._resume[1]
            self.sampler.first = self._given * self.batch_size
        self._resume = None
        # Through `map`, which keeps no batch alive while the next one is made.
        yield from map(self._counted, watched(super().__iter__(), self._awaited))

    def _awaited(self) -> list[int]:
        assert isinstance(self.sampler, RankSequence)
        assert self.batch_size is not None
        dataset: Any = self.dataset
        return dataset.case_indices(self.sampler.batch(self._given, self.batch_size))

    def _counted(self, batch: Any) -> Any:
        self._given += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and batches done, for the checkpoint."""
        assert isinstance(self.sampler, RankSequence)
        return {"epoch": self.sampler.epoch, "batches": self._given if self._done is None else self._done()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after `state` when its epoch is iterated next."""
        self._resume = (int(state["epoch"]), int(state["batches"]))


def _as_is(batch: Any) -> Any:
    """The datasets' ``__getitems__`` have already made the batch."""
    return batch


def loader_options(workers: int) -> dict[str, Any]:
    """Options shared by all loaders; a stuck worker becomes an error after five minutes, not a hang.

    Raises:
        UsageError: A negative number of workers.
    """
    if workers < 0:
        raise UsageError(f"workers {workers}", "0 or more")
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "timeout": 300 if workers else 0,
        "collate_fn": _as_is,
    }
