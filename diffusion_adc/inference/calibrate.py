"""Thresholds and temperature of a run, fitted once on its validation cases and kept in RUN/calibration.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.domain.rule import clinical_rule
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.inference.lesion_threshold import SparseScore, choose_lesion_threshold
from diffusion_adc.inference.native import NativeDraws, draw_native, split_cohort
from diffusion_adc.inference.run import LoadedRun
from diffusion_adc.inference.threshold import (
    BASE_LOGITS,
    TemperatureFit,
    case_curve,
    choose_threshold,
    draw_thresholds,
)
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort

FILE: Final = "calibration.json"
_LOWEST_LOGIT: Final = BASE_LOGITS[0]


@dataclass(frozen=True)
class Calibration:
    """What validation cases fix for a checkpoint.

    Attributes:
        checkpoint_sha256: The checkpoint it belongs to.
        cohort_digest: The cohort whose validation split was used.
        cases: Number of validation cases.
        draws: Draws per case.
        steps: Steps per draw.
        seed: Drawing seed.
        tau: Threshold of the flow's probability.
        criterion: Value of the criterion there, 0 to 1 (`threshold`).
        base_tau: Threshold of the base head's calibrated probability.
        base_criterion: Value of the criterion there.
        temperature: Of the base head's logit.
        lesion_tau: Peak probability from which a region of the flow's map is called a lesion.
        base_lesion_tau: The same for the base head's map.
    """

    checkpoint_sha256: str
    cohort_digest: str
    cases: int
    draws: int
    steps: int
    seed: int
    tau: float
    criterion: float
    base_tau: float
    base_criterion: float
    temperature: float
    lesion_tau: float
    base_lesion_tau: float

    def base_probability(self, logit: NDArray[np.floating]) -> NDArray[np.float32]:
        """Calibrated probability of the base head, float32, from its logit."""
        return expit(np.asarray(logit, dtype=np.float64) / self.temperature).astype(np.float32)

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def read_calibration(run: LoadedRun) -> Calibration | None:
    """The run's stored calibration; None if there is none or it belongs to another checkpoint."""
    try:
        values = json.loads((run.path / FILE).read_text())
        calibration = Calibration(**{f.name: values[f.name] for f in fields(Calibration)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return calibration if calibration.checkpoint_sha256 == run.checkpoint_sha256 else None


def fit_thresholds(
    run: LoadedRun,
    cohort_dir: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Calibration:
    """Draw a cohort's validation cases with the run's own settings and fit τ, base τ and temperature.

    The criterion is that of `inference.threshold`. Written to RUN/calibration.json.

    Args:
        run: The run.
        cohort_dir: The cohort.
        progress: Called with cases done and cases in all.
        workers: Draws made at once.

    Raises:
        CohortError: No validation case has a reader's map, or none has tumor.
    """
    cohort = read_cohort(cohort_dir)
    cases = validation_cases(run, cohort)
    if not cases:
        raise CohortError(
            "no validation case with a reader's map", "at least one", "give the cohort the run was trained on"
        )
    levels = draw_thresholds(run.settings.draws)
    curves, base_curves, temperature = [], [], TemperatureFit()
    sparse, base_sparse = [], []
    for number, case in enumerate(cases, start=1):
        drawn = draw_native(run, cohort_dir, cohort, case, run.settings, workers=workers)
        # A case known to be tumor-free may have no map of its own: its reading is empty.
        readings = presence_readings(cohort_dir, case) or [np.zeros(drawn.adc.shape, dtype=bool)]
        voxel_ml = voxel_volume_ml(drawn.affine)
        rule = _rule(cohort_dir, case, drawn)
        curves.append(case_curve(drawn.probability, readings, drawn.usable, voxel_ml, levels, rule))
        base_curves.append(case_curve(drawn.base_logit, readings, drawn.usable, voxel_ml, BASE_LOGITS, rule))
        sparse.append(SparseScore.of(drawn.probability, readings, drawn.usable, levels[0]))
        base_sparse.append(SparseScore.of(drawn.base_logit, readings, drawn.usable, _LOWEST_LOGIT))
        temperature.add(drawn.base_logit, readings, drawn.usable)
        if progress is not None:
            progress(number, len(cases))
    tau, criterion = choose_threshold(curves, levels)
    base_logit, base_criterion = choose_threshold(base_curves, BASE_LOGITS)
    fitted = temperature.temperature()
    lesion_tau, _ = choose_lesion_threshold(sparse, tau, levels)
    base_lesion, _ = choose_lesion_threshold(base_sparse, base_logit, BASE_LOGITS)
    calibration = Calibration(
        checkpoint_sha256=run.checkpoint_sha256,
        cohort_digest=cohort.digest,
        cases=len(cases),
        draws=run.settings.draws,
        steps=run.settings.steps,
        seed=run.settings.seed,
        tau=tau,
        criterion=criterion,
        base_tau=float(expit(base_logit / fitted)),
        base_criterion=base_criterion,
        temperature=fitted,
        lesion_tau=lesion_tau,
        base_lesion_tau=float(expit(base_lesion / fitted)),
    )
    write_json(run.path / FILE, calibration.record())
    return calibration


def _rule(cohort_dir: Path, case: Case, drawn: NativeDraws) -> NDArray[np.bool_] | None:
    """What the clinical rule keeps, bool (I, J, K); None without a high-b image."""
    if seq.DWI_HIGH not in case.files:
        return None
    dwi_high = load_volume(cohort_dir, case, seq.DWI_HIGH).array
    return clinical_rule(np.asarray(dwi_high, dtype=np.float32), drawn.adc, drawn.usable)


def validation_cases(run: LoadedRun, cohort: Cohort) -> list[Case]:
    """Cases of the run's validation split with a reader's map, or known to be tumor-free; in order."""
    try:
        cases = split_cohort(run, cohort).split(run.val_split)
    except CohortError:  # too few scanners for a scanner split: nothing is held out
        return []
    return sorted(
        (case for case in cases if case.has_target or case.tumor_status == "absent"),
        key=lambda case: case.case_id,
    )


def calibration_for(
    run: LoadedRun,
    cohort_dir: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Calibration:
    """The calibration of a run: the stored one, else fitted on its own cohort, else on the one given.

    Args:
        run: The run.
        cohort_dir: The cohort that is to be drawn.
        progress: Called while validation cases are drawn.
        workers: Draws made at once.

    Raises:
        UsageError: None is stored and no validation case is at hand.
    """
    stored = read_calibration(run)
    if stored is not None:
        return stored
    for folder in (run.cohort, cohort_dir):
        if folder is None or not (folder / "cohort.json").is_file():
            continue
        if validation_cases(run, read_cohort(folder)):
            return fit_thresholds(run, folder, progress, workers)
    raise UsageError(
        f"{run.name} has no {FILE} for this checkpoint and no validation case is at hand",
        "thresholds fixed on validation cases",
        f"run `diffusion-adc draw --run {run.name} --cohort COHORT --split val --out MAPS` once with the "
        "cohort it was trained on",
    )
