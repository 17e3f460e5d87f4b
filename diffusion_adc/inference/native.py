"""One case drawn on the scanner's own grid: working-grid fields come back linearly and only then decide.

Axes ``I J K`` of the ADC map; ADC in 1e-3 mm²/s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from diffusion_adc.data.prepare import Recipe, load_native, prepare_case
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.inference.interventions import intervened
from diffusion_adc.inference.run import LoadedRun
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.tumor_map import usable_voxels
from diffusion_adc.inference.volume import VolumeDrawing
from diffusion_adc.networks import VALUE_CUT
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
        deterministic: There are no draws: the one that is given is the base head's map at even odds.
        values: float32 (I, J, K), mean of the ADC values that were drawn where present; None where values are
            measured.
    """

    adc: NDArray[np.float32]
    usable: NDArray[np.bool_]
    affine: NDArray[np.float64]
    draws: NDArray[np.uint8]
    base_logit: NDArray[np.float32]
    deterministic: bool = False
    values: NDArray[np.float32] | None = None

    @property
    def probability(self) -> NDArray[np.float32]:
        """Mean of the draws, or the base head's probability where there are none; float32 (I, J, K)."""
        if self.deterministic:
            return expit(self.base_logit)
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
        UsageError: The settings do not go with the stage.
    """
    adc = load_volume(cohort_dir, case, seq.ADC)
    values = np.asarray(adc.array, dtype=np.float32)
    if seq.VALID in case.files:
        valid = load_volume(cohort_dir, case, seq.VALID).array
    else:
        valid = load_native(cohort_dir, case)[0][seq.VALID]
    prepared = prepare_case(cohort_dir, case, run.recipe, cohort.covariates(case), run.covariates)
    prepared = intervened(prepared, cohort, case, settings, run.covariates)
    drawing = VolumeDrawing(run.stage, prepared, case.case_id, settings, run.device)
    logit = prepared.to_native(drawing.base_logit, outside=OUTSIDE_LOGIT).numpy()
    native = NativeDraws(
        values, usable_voxels(values, valid), np.asarray(adc.affine, dtype=np.float64),
        (logit > 0).astype(np.uint8)[..., None], logit, deterministic=True,
    )  # fmt: skip
    method = settings.method or run.stage.draw_method
    if method == "base":
        return replace(native, values=_regressed(run.stage, native))
    if method == "components":
        return replace(native, draws=_coins(run, case, native, settings), deterministic=False)
    draws = np.zeros((*values.shape, settings.draws), dtype=np.uint8)
    synthetic = run.stage.values == "drawn"
    total = np.zeros(values.shape, dtype=np.float32)
    for number, field in enumerate(drawing.draws(on_step, workers)):
        signed = prepared.to_native(field, outside=-VALUE_CUT if synthetic else -1.0).numpy()
        draws[..., number] = signed > 0
        if synthetic:
            total += np.where(signed > 0, signed + VALUE_CUT, 0)
    mean = total / np.maximum(draws.sum(axis=-1), 1) if synthetic else None
    return replace(native, draws=draws, deterministic=False, values=mean)


def _regressed(stage: Any, native: NativeDraws) -> NDArray[np.float32] | None:
    """The regressed map: the share of the ADC that is left, times the ADC."""
    if stage.values != "regressed":
        return None
    return np.where(native.usable, native.probability * native.adc, 0).astype(np.float32)


def _coins(run: Drawer, case: Case, native: NativeDraws, settings: DrawSettings) -> NDArray[np.uint8]:
    coins = getattr(run, "coins", None)
    if coins is None:
        raise UsageError(
            "components without their coins", "coins fitted on validation cases", "draw through `draw`"
        )
    return coins.draws(native.base_logit, native.usable, case.case_id, settings.seed, settings.draws)
