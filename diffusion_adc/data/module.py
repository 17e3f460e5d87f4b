"""`CohortDataModule`: from a cohort on disk to batches, for training, validation, test and prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from tqdm import tqdm

from diffusion_adc.data.collate import CaseFacts, case_facts
from diffusion_adc.data.loaders import (
    TRAIN_STREAM,
    VAL_STREAM,
    CaseDataset,
    PatchDataset,
    PatchLoader,
    RankBatches,
    RankSequence,
    loader_options,
)
from diffusion_adc.data.patches import PatchTable
from diffusion_adc.data.prepare import PreparedCase, Recipe, prepare_case
from diffusion_adc.data.store import Store, StoreEntry
from diffusion_adc.data.transforms import augmentation
from diffusion_adc.data.watch import WatchedLoader
from diffusion_adc.domain import clinical
from diffusion_adc.domain.case import SPLITS, Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.cohort import read_cohort

_LEAST_ROUND_TRIP: Final = 0.95
"""Below this Dice the grid, not the network, would limit every score."""


class CohortDataModule(pl.LightningDataModule):
    """Patches and cases of one cohort.

    Args:
        cohort: The cohort's folder.
        store: Folder of the prepared cases; null puts it beside the cohort, as ``<cohort>.store``.
        patch_size: Voxels along I, J, K on the working grid; 1 along K gives slices for a 2-D network.
        spacing_mm: The network's spacing along I, J, K in mm; null keeps each case's own.
        batch_size: Patches per step and process.
        patches_per_epoch: Patches per epoch, over all processes.
        val_patches: Fixed patches of the validation split, over all processes.
        val_split: Whose cases validate: ``val``, or ``train`` for a plumbing check on a cohort too small to split.
        split: ``person`` (the cohort's own split), ``temporal`` or ``scanner``.
        covariates: Names of the clinical covariates given to the network; none by default (image-only).
        readers: ``random`` learns a random reader of each case, ``first`` the first one.
        augment: ``none`` or ``light``.
        flip_left_right: Also mirror left and right; only for regions without sides.
        shares: Shares of patches on lesions, on restricted diffusion outside the target, and anywhere.
        jitter: Largest shift of a lesion from the patch's center, as a share of the patch.
        workers: Loader processes; 0 feeds from the training process, which is fastest without augmentation.
        seed: Of the patches and their augmentation.
        predict_split: Which cases ``predict`` goes over: ``train``, ``val``, ``test`` or ``all``.
        progress: Show a progress bar while cases are prepared.
    """

    def __init__(
        self,
        cohort: str,
        store: str | None = None,
        patch_size: list[int] = [96, 96, 1],  # noqa: B006  (never changed; a list types best from YAML)
        spacing_mm: list[float] | None = None,
        batch_size: int = 8,
        patches_per_epoch: int = 2000,
        val_patches: int = 64,
        val_split: str = "val",
        split: str = "person",
        covariates: list[str] = [],  # noqa: B006
        readers: str = "random",
        augment: str = "none",
        flip_left_right: bool = False,
        shares: list[float] = [0.5, 0.25, 0.25],  # noqa: B006
        jitter: float = 0.25,
        workers: int = 0,
        seed: int = 0,
        predict_split: str = "test",
        progress: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1 or val_patches < 1:
            raise UsageError(f"batch_size {batch_size}, val_patches {val_patches}", "at least 1 each")
        if val_split not in ("val", "train"):
            raise UsageError(f"val_split {val_split!r}", "val or train")
        if predict_split not in (*SPLITS, "all"):
            raise UsageError(f"predict_split {predict_split!r}", f"one of {', '.join(SPLITS)}, all")
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise UsageError(
                f"patch_size {list(patch_size)}", "three positive integers, 1 along K for slices"
            )
        self.cohort_dir = Path(cohort)
        self.patch_size, self.batch_size = tuple(patch_size), batch_size
        self.patches_per_epoch, self.val_patches = patches_per_epoch, val_patches
        self.split, self.covariates, self.readers = split, tuple(covariates), readers
        self.shares, self.jitter, self.workers, self.seed = tuple(shares), jitter, workers, seed
        self.val_split, self.predict_split, self.progress = val_split, predict_split, progress
        self.augment = augmentation(augment, flip_left_right=flip_left_right)
        self.store = Store(
            self.cohort_dir, Recipe.for_patch(spacing_mm, patch_size), None if store is None else Path(store)
        )
        loader_options(workers)
        clinical.encode(clinical.Covariates(), self.covariates)
        self._cohort: Cohort | None = None
        self._entries: dict[str, tuple[list[StoreEntry], list[CaseFacts]]] = {}

    @property
    def cohort(self) -> Cohort:
        """The cohort under the wanted split, read once.

        Raises:
            UsageError: No cohort there, or an unknown split.
            CohortError: The cohort was changed after it was written.
        """
        if self._cohort is None:
            cohort = read_cohort(self.cohort_dir)
            # The stored split is the person split.
            self._cohort = cohort if self.split == "person" else cohort.resplit(self.split)
        return self._cohort

    @property
    def n_covariates(self) -> int:
        """Length F of the covariate vectors, the same whatever is in use."""
        return len(clinical.FEATURES)

    def cases(self, split: str) -> list[Case]:
        """The cases of a split that can be learned from or scored: with a map, or known to be tumor-free."""
        return [c for c in self.cohort.split(split) if c.has_target or c.tumor_status == "absent"]

    def prepare_data(self) -> None:
        """Prepare the cases that are needed (one process per machine); damaged and outdated entries are rebuilt."""
        self.store.forget(sorted(self.cohort.withdrawn))
        function = None if self.trainer is None else self.trainer.state.fn
        for name, cases in self._wanted(None if function is None else function.value).items():
            self.store.entries(cases, progress=self._bar(f"preparing {name} cases"))

    def _wanted(self, stage: str | None) -> dict[str, list[Case]]:
        """The cases a stage needs, by the name they are opened under; those of all stages for None."""
        wanted: dict[str, list[Case]] = {}
        if stage in ("fit", None):
            wanted["train"] = self.cases("train")
        if stage in ("fit", "validate", None):
            wanted["val"] = self.cases(self.val_split)
        if stage in ("test", None):
            wanted["test"] = self.cases("test")
        if stage in ("predict", None):
            wanted["predict"] = list(self.cohort.split(self.predict_split))
        return wanted

    def setup(self, stage: str | None = None) -> None:
        """Open the cases that `stage` needs.

        Raises:
            CohortError: The train split has no case or no tumor.
            UsageError: A volume is smaller than the patch.
        """
        stage = getattr(stage, "value", stage)  # the trainer passes an enumeration
        for name, cases in self._wanted(stage).items():
            if cases or stage is not None:
                self._open(name, cases)
        if stage == "fit" and not any(entry.index.lesions for entry in self._entries["train"][0]):
            raise CohortError(
                f"no tumor in the whole train split ({len(self._entries['train'][0])} cases)",
                "at least one case with a lesion",
                "add cases with tumor or choose another data.split",
            )
        if stage == "fit":
            self._warn_of_coarse_grid()

    def _open(self, name: str, cases: Sequence[Case]) -> None:
        if not cases:
            raise CohortError(
                f"no usable case in the {name} split", "cases with a reader's map, or known to be tumor-free",
                "add cases or choose another data.split (data.val_split=train for a plumbing check on few cases)"
                if name == "val" else "add cases or choose another data.split",
            )  # fmt: skip
        rows = {case.case_id: row for row, case in enumerate(self.cohort.cases)}
        facts = [
            case_facts(case, rows[case.case_id], self.cohort.covariates(case), self.covariates)
            for case in cases
        ]
        self._entries[name] = (self.store.entries(cases), facts)

    def _warn_of_coarse_grid(self) -> None:
        scores = [e.round_trip_dice for e in self._entries["train"][0] if e.round_trip_dice is not None]
        if scores and median(scores) < _LEAST_ROUND_TRIP:
            rank_zero_warn(
                f"the working grid keeps lesions from 1 mL on with a Dice of {median(scores):.2f}; "
                f"expected at least {_LEAST_ROUND_TRIP}; choose a finer data.spacing_mm"
            )

    def _bar(self, text: str) -> Any:
        def bar(cases: Iterable[Case]) -> Iterable[Case]:
            # None: only on a terminal.
            return tqdm(cases, desc=text, unit="case", disable=None if self.progress else True, leave=False)

        return bar

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _table(self, split: str) -> PatchTable:
        return PatchTable(self._entries[split][0], self.patch_size, self.shares, self.readers, self.jitter)

    def train_dataloader(self) -> PatchLoader:
        """Random patches; patch i of an epoch is the same for any number of ranks and workers.

        Raises:
            UsageError: An epoch is smaller than one step of all processes.
        """
        rank, ranks = self._ranks()
        if self.patches_per_epoch < self.batch_size * ranks:
            raise UsageError(
                f"patches_per_epoch {self.patches_per_epoch}",
                f"at least {self.batch_size * ranks} (batch_size × processes)",
            )
        dataset = PatchDataset(
            self._table("train"),
            self._entries["train"][1],
            self.patches_per_epoch,
            self.seed,
            TRAIN_STREAM,
            self.augment,
        )
        sampler = RankSequence(self.patches_per_epoch, rank, ranks, batch_size=self.batch_size, epochs=True)
        return PatchLoader(dataset, sampler, self.batch_size, self.workers, self._trained_batches)

    def _trained_batches(self) -> int:
        trainer = self.trainer
        if trainer is None:
            return 0
        # `processed`: the optimizer has stepped, so the weights being saved have seen the batch.
        return int(trainer.fit_loop.epoch_loop.batch_progress.state_dict()["current"]["processed"])

    def val_dataloader(self) -> DataLoader[Any]:
        """The same patches of the validation split every time, without augmentation."""
        rank, ranks = self._ranks()
        dataset = PatchDataset(
            self._table("val"), self._entries["val"][1], self.val_patches, self.seed, VAL_STREAM
        )
        sampler = RankBatches(self.val_patches, rank, ranks, self.batch_size)
        return WatchedLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, **loader_options(self.workers)
        )

    def test_dataloader(self) -> DataLoader[Any]:
        """Whole cases of the test split with the first reader's presence, one at a time."""
        return self._whole("test", with_presence=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Whole cases of `predict_split`, with or without a map, one at a time."""
        return self._whole("predict", with_presence=False)

    def _whole(self, name: str, *, with_presence: bool) -> DataLoader[Any]:
        rank, ranks = self._ranks()
        entries, facts = self._entries[name]
        dataset = CaseDataset(entries, facts, with_presence=with_presence)
        return WatchedLoader(
            dataset,
            batch_size=1,
            sampler=RankSequence(len(dataset), rank, ranks),
            **loader_options(self.workers),
        )

    def prepared(self, case: Case) -> PreparedCase:
        """One case's condition straight from the cohort, for drawing; no store needed."""
        return prepare_case(
            self.cohort_dir, case, self.store.recipe, self.cohort.covariates(case), self.covariates
        )
