"""One case drawn on the scanner's own grid: working-grid fields come back linearly and only then decide.

Axes ``I J K`` of the ADC map; ADC in 1e-3 mm²/s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_adc.data.prepare import Recipe, load_native, prepare_case
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.inference.run import LoadedRun
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.tumor_map import usable_voxels
from diffusion_adc.inference.volume import VolumeDrawing
from diffusion_adc.records.cohort import load_volume

OUTSIDE_LOGIT: Final = -30.0
"""Presence logit outside the prepared part of a scan, where there is no body."""


@dataclass(frozen=True)
class NativeDraws:
    """Draws of one case on the ADC map's grid.

    Attributes:
        adc: float32 (I, J, K), as stored.
        usable: bool (I, J, K), where the ADC can be trusted.
        affine: (4, 4), as stored.
        draws: uint8 (I, J, K, D), 1 where present.
        base_logit: float32 (I, J, K), presence logit of the base head before its temperature.
    """

    adc: NDArray[np.float32]
    usable: NDArray[np.bool_]
    affine: NDArray[np.float64]
    draws: NDArray[np.uint8]
    base_logit: NDArray[np.float32]

    @property
    def probability(self) -> NDArray[np.float32]:
        """Mean of the draws, float32 (I, J, K)."""
        return self.draws.mean(axis=-1, dtype=np.float32)


class Drawer(Protocol):
    """What a case is drawn with: a loaded run, or a stage in training."""

    @property
    def stage(self) -> Any:
        """The stage, in evaluation mode."""

    @property
    def recipe(self) -> Recipe:
        """How a case is prepared."""

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates in use."""

    @property
    def device(self) -> torch.device:
        """Where the stage is."""


def split_cohort(run: LoadedRun, cohort: Cohort) -> Cohort:
    """The cohort under the run's own kind of split; the stored split is by person."""
    return cohort if run.split == "person" else cohort.resplit(run.split)


def draw_native(
    run: Drawer,
    cohort_dir: Path,
    cohort: Cohort,
    case: Case,
    settings: DrawSettings,
    on_step: Callable[[int], None] | None = None,
    workers: int = 1,
) -> NativeDraws:
    """Draw one case.

    Args:
        run: What to draw with.
        cohort_dir: The cohort's folder.
        cohort: The cohort, for the case's covariates.
        case: The case.
        settings: How to draw.
        on_step: Called with integration steps done.
        workers: Draws made at once (`VolumeDrawing.draws`).

    Raises:
        CaseError: A volume is missing or damaged, or the ADC map has no valid voxel.
    """
    adc = load_volume(cohort_dir, case, seq.ADC)
    values = np.asarray(adc.array, dtype=np.float32)
    if seq.VALID in case.files:
        valid = load_volume(cohort_dir, case, seq.VALID).array
    else:
        valid = load_native(cohort_dir, case)[0][seq.VALID]
    prepared = prepare_case(cohort_dir, case, run.recipe, cohort.covariates(case), run.covariates)
    drawing = VolumeDrawing(run.stage, prepared, case.case_id, settings, run.device)
    draws = np.zeros((*values.shape, settings.draws), dtype=np.uint8)
    for number, field in enumerate(drawing.draws(on_step, workers)):
        draws[..., number] = (prepared.to_native(field, outside=-1.0) > 0).numpy()
    logit = prepared.to_native(drawing.base_logit, outside=OUTSIDE_LOGIT).numpy()
    return NativeDraws(
        values, usable_voxels(values, valid), np.asarray(adc.affine, dtype=np.float64), draws, logit
    )
