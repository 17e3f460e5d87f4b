"""One case made ready for a network, whether or not it will ever stand in a store.

native volumes → crop to the body → working grid → scaled channels, and the way back for what is drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from diffusion_adc.data.grid import (
    Triple,
    WorkingGrid,
    foreground_box,
    resample,
    resample_mask,
    resample_masked,
)
from diffusion_adc.data.scaling import SCALING_VERSION, condition_images
from diffusion_adc.domain import clinical
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.signal import validity_mask
from diffusion_adc.domain.units import spacing_mm, voxel_volume_ml
from diffusion_adc.records.cohort import load_volume

FORMAT_VERSION: Final = 1
"""Part of every store key: raise it whenever the files of an entry change."""
IMAGE_DTYPE: Final = "float16"
"""Half the disk and half the bytes per patch; 11 bits are finer than any of these images' noise."""
_LEAST: Final = (96, 96, 32)
"""Smallest prepared volume where the scan allows it, so that the usual patch sizes share one store."""


@dataclass(frozen=True)
class Recipe:
    """How a case is prepared; its fingerprint is part of a store's key.

    Attributes:
        spacing_mm: The network's spacing along I, J, K; None keeps the native one.
        margin_mm: Kept around the valid body.
        least: Smallest working size per axis, as far as the scan allows.
        planes: Store slices contiguously instead of volumes: a slice then is one run of memory per row, not one
            cache line per voxel.
    """

    spacing_mm: tuple[float, float, float] | None = None
    margin_mm: float = 10.0
    least: Triple = _LEAST
    planes: bool = False

    @classmethod
    def for_patch(cls, spacing: Sequence[float] | None, patch_size: Sequence[int]) -> Recipe:
        """The recipe for a patch size: the usual sizes share one recipe, larger ones widen the crop.

        Raises:
            UsageError: `spacing` is not three positive numbers.
        """
        if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
            raise UsageError(
                f"spacing_mm {list(spacing)}", "three positive numbers in mm, or null for the native spacing"
            )
        wanted = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        i, j, k = (max(low, math.ceil(n / 32) * 32) for n, low in zip(patch_size, _LEAST, strict=True))
        return cls(wanted, least=(i, j, k), planes=patch_size[2] == 1)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that changes a prepared case's bytes."""
        parts = {**asdict(self), "format": FORMAT_VERSION, "scaling": SCALING_VERSION, "dtype": IMAGE_DTYPE}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        case_id: Of the case; stays inside the data root.
        images: float32 (7, I, J, K) on the working grid, `sequences.CHANNELS`.
        available: float32 (5,), 1 where the sequence was acquired.
        covariates: float32 (F,), scaled, 0 where unknown.
        known: float32 (F,), 1 where known and wanted.
        grid: The working grid and the way back from it.
    """

    case_id: str
    images: NDArray[np.float32]
    available: NDArray[np.float32]
    covariates: NDArray[np.float32]
    known: NDArray[np.float32]
    grid: WorkingGrid

    @property
    def shape(self) -> Triple:
        """(I, J, K) on the working grid."""
        return self.grid.shape

    def to_native(self, field: Tensor | NDArray[np.generic], outside: float = 0.0) -> Tensor:
        """See `WorkingGrid.to_native`: (..., I, J, K) fields back on the ADC map's own grid."""
        return self.grid.to_native(field, outside)

    def batch(self) -> dict[str, Tensor]:
        """The condition as a batch of one: images (1, 7, I, J, K), availability, covariates, known."""
        arrays = {
            seq.IMAGES: self.images, seq.AVAILABLE: self.available, seq.COVARIATES: self.covariates,
            seq.KNOWN: self.known,
        }  # fmt: skip
        return {name: torch.from_numpy(array)[None] for name, array in arrays.items()}


def working_grid(valid: NDArray[np.bool_], affine: NDArray[np.floating], recipe: Recipe) -> WorkingGrid:
    """The working grid of a case, from where its ADC is valid; readers' maps play no part in it.

    Args:
        valid: (I, J, K).
        affine: (4, 4) of the ADC map.
        recipe: Spacing, margin and smallest size.
    """
    native = spacing_mm(np.asarray(affine))
    margin = [math.ceil(recipe.margin_mm / s) for s in native]
    wanted = recipe.spacing_mm or native
    least = [math.ceil(n * w / s - 1e-3) for n, w, s in zip(recipe.least, wanted, native, strict=True)]
    offset, crop = foreground_box(valid, margin, least)
    i, j, k = valid.shape
    return WorkingGrid((i, j, k), np.asarray(affine, dtype=np.float64), offset, crop, recipe.spacing_mm)


def load_native(cohort_dir: Path, case: Case) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.float64]]:
    """The acquired sequences and ``valid`` of a case on its native grid, hashes checked, and the affine.

    Raises:
        CaseError: A file is missing, damaged or not the one recorded.
    """
    names = [name for name in seq.SEQUENCES if name in case.files]
    read = {name: load_volume(cohort_dir, case, name) for name in names}
    volumes: dict[str, NDArray[np.generic]] = {name: volume.array for name, volume in read.items()}
    if seq.VALID in case.files:
        volumes[seq.VALID] = load_volume(cohort_dir, case, seq.VALID).array.astype(bool)
    else:
        volumes[seq.VALID] = validity_mask(
            volumes[seq.ADC], volumes.get(seq.DWI_LOW), volumes.get(seq.DWI_HIGH)
        )
    # An invalid mark that slipped through with NaN would spread through every interpolation.
    volumes[seq.VALID] = volumes[seq.VALID] & np.isfinite(volumes[seq.ADC])
    return volumes, read[seq.ADC].affine


def to_working(volumes: dict[str, NDArray[np.generic]], grid: WorkingGrid) -> dict[str, NDArray[np.generic]]:
    """Native volumes on the working grid: ADC mask-normalized, other sequences linear, ``valid`` by majority."""
    cropped = {name: torch.from_numpy(np.ascontiguousarray(grid.cropped(v))) for name, v in volumes.items()}
    adc, valid = resample_masked(cropped[seq.ADC], cropped[seq.VALID].bool(), grid.forward)
    out: dict[str, NDArray[np.generic]] = {seq.ADC: adc.numpy(), seq.VALID: valid.numpy()}
    for name, tensor in cropped.items():
        if name not in out:
            out[name] = resample(
                torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0), grid.forward
            ).numpy()
    return out


def working_readings(readings: Sequence[NDArray[np.bool_]], grid: WorkingGrid) -> NDArray[np.bool_]:
    """Each reader's native presence on the working grid, (R, I, J, K)."""
    out = np.zeros((len(readings), *grid.shape), dtype=bool)
    for row, presence in enumerate(readings):
        out[row] = resample_mask(
            torch.from_numpy(np.ascontiguousarray(grid.cropped(presence))), grid.forward
        ).numpy()
    return out


def round_trip_dice(
    readings: Sequence[NDArray[np.bool_]],
    on_grid: NDArray[np.bool_],
    grid: WorkingGrid,
    least_ml: float = 1.0,
) -> float | None:
    """How much of the readers' lesions a working grid can hold: Dice after coming back as logits.

    Args:
        readings: Each reader's native presence, (I, J, K).
        on_grid: (R, I, J, K) the same on the working grid.
        grid: The working grid.
        least_ml: Lesions below this volume (26-connected) are left out.

    Returns:
        Dice over all readers' lesions in the crop; None without such a lesion; 1 on the native grid.
    """
    shared, total = 0, 0
    least = least_ml / voxel_volume_ml(grid.native_affine)
    for presence, working in zip(readings, on_grid, strict=True):
        before = np.asarray(grid.cropped(presence), dtype=bool)
        labels, count = ndimage.label(before, structure=np.ones((3, 3, 3)))
        large = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1)[1:] >= least) + 1
        before = np.isin(labels, large)
        if not before.any():
            continue
        signed = torch.where(torch.from_numpy(working), 1.0, -1.0)
        back = resample(signed, grid.backward).numpy() > 0
        # What comes back near a small lesion is not the large ones' error.
        back &= ndimage.binary_dilation(before, iterations=2)
        shared += int(np.sum(before & back))
        total += int(before.sum() + back.sum())
    return 2 * shared / total if total else None


def prepare_case(
    cohort_dir: Path,
    case: Case,
    recipe: Recipe,
    covariates: Covariates | None = None,
    wanted: Sequence[str] = (),
) -> PreparedCase:
    """The condition of a case straight from its cohort, equal to what a store would give.

    Args:
        cohort_dir: The cohort's folder.
        case: The case.
        recipe: How to prepare it: the run's own.
        covariates: The person's; None = all unknown.
        wanted: Names of the covariates in use; none by default (image-only).

    Raises:
        CaseError: A file is damaged (S25), or the ADC map has no valid voxel (S19).
        UsageError: A wanted name is not a covariate.
    """
    volumes, affine = load_native(cohort_dir, case)
    grid = working_grid(np.asarray(volumes[seq.VALID], dtype=bool), affine, recipe)
    images = condition_images(to_working(volumes, grid), case)
    values, known = clinical.encode(covariates or Covariates(), wanted)
    return PreparedCase(
        case_id=case.case_id,
        # Through the stored precision, so that drawing sees the very values training saw.
        images=images.astype(IMAGE_DTYPE).astype(np.float32),
        available=np.asarray(case.available, dtype=np.float32),
        covariates=values,
        known=known,
        grid=grid,
    )
