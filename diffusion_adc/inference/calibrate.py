"""Thresholds, temperature and recalibration of a run, fitted once on validation cases, kept in RUN/calibration.json.

Half of the validation persons fix the thresholds and the temperature, the other half the recalibration of intervals and
lesion probabilities (`conformal.halves`); of fewer than a dozen persons all fix the thresholds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
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
from diffusion_adc.inference.conformal import halves
from diffusion_adc.inference.lesion_threshold import SparseScore, choose_lesion_threshold
from diffusion_adc.inference.native import NativeDraws, draw_native, split_cohort
from diffusion_adc.inference.recalibration import (
    Evidence,
    Forecasts,
    Recalibration,
    fit_recalibration,
)
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
        cases: Number of validation cases that fixed the thresholds.
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
        recalibration_cases: Cases behind the recalibration, none of which fixed a threshold.
        recalibration: Of the flow.
        base_recalibration: Of the base head's map, which has no draws.
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
    recalibration_cases: int = 0
    recalibration: Recalibration = field(default_factory=Recalibration)
    base_recalibration: Recalibration = field(default_factory=Recalibration)

    def base_probability(self, logit: NDArray[np.floating]) -> NDArray[np.float32]:
        """Calibrated probability of the base head, float32, from its logit."""
        return expit(np.asarray(logit, dtype=np.float64) / self.temperature).astype(np.float32)

    def of_base(self) -> Calibration:
        """The same for maps that are the base head's own."""
        return replace(
            self, tau=self.base_tau, criterion=self.base_criterion, lesion_tau=self.base_lesion_tau,
            recalibration=self.base_recalibration,
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def read_calibration(run: LoadedRun) -> Calibration | None:
    """The run's stored calibration; None if there is none or it belongs to another checkpoint."""
    try:
        values = json.loads((run.path / run.calibration_file).read_text())
        for name in ("recalibration", "base_recalibration"):
            values[name] = Recalibration.of(values.get(name))
        values.setdefault("recalibration_cases", 0)
        calibration = Calibration(**{f.name: values[f.name] for f in fields(Calibration)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return calibration if calibration.checkpoint_sha256 == run.checkpoint_sha256 else None


def fit_thresholds(
    run: LoadedRun,
    cohort_dir: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Calibration:
    """Draw a cohort's validation cases with the run's own settings; fit thresholds, temperature and recalibration.

    The criterion of the thresholds is that of `inference.threshold`. Written to RUN/calibration.json.

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
    first, second = halves(cases)
    count = 0

    def drawn_cases(part: list[Case]) -> Iterator[_Drawn]:
        nonlocal count
        for case in part:
            native = draw_native(run, cohort_dir, cohort, case, run.settings, workers=workers)
            # A case known to be tumor-free may have no map of its own: its reading is empty.
            readings = presence_readings(cohort_dir, case) or [np.zeros(native.adc.shape, dtype=bool)]
            yield _Drawn(native, [reading & native.usable for reading in readings], case)
            count += 1
            if progress is not None:
                progress(count, len(cases))

    curves, base_curves, temperature = [], [], TemperatureFit()
    sparse, base_sparse, forecasts = [], [], []
    for drawn in drawn_cases(first):
        native, readings = drawn.native, drawn.readings
        voxel_ml = voxel_volume_ml(native.affine)
        rule = _rule(cohort_dir, drawn.case, native)
        curves.append(case_curve(native.probability, readings, native.usable, voxel_ml, levels, rule))
        base_curves.append(
            case_curve(native.base_logit, readings, native.usable, voxel_ml, BASE_LOGITS, rule)
        )
        sparse.append(SparseScore.of(native.probability, readings, native.usable, levels[0]))
        base_sparse.append(SparseScore.of(native.base_logit, readings, native.usable, _LOWEST_LOGIT))
        temperature.add(native.base_logit, readings, native.usable)
        forecasts.append(_Forecasts.of(native, readings, base_sparse[-1], voxel_ml))
    tau, criterion = choose_threshold(curves, levels)
    base_logit, base_criterion = choose_threshold(base_curves, BASE_LOGITS)
    fitted = temperature.temperature()
    lesion_tau, _ = choose_lesion_threshold(sparse, tau, levels)
    base_lesion, _ = choose_lesion_threshold(base_sparse, base_logit, BASE_LOGITS)
    calibration = Calibration(
        checkpoint_sha256=run.checkpoint_sha256,
        cohort_digest=cohort.digest,
        cases=len(first),
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
    evidence, base_evidence = [], []
    for drawn in drawn_cases(second):
        native, voxel_ml = drawn.native, voxel_volume_ml(drawn.native.affine)
        probability = np.where(native.usable, native.probability, np.float32(0))
        base = np.where(native.usable, calibration.base_probability(native.base_logit), np.float32(0))
        draws = native.draws * native.usable[..., None]
        at_tau = probability >= np.float32(tau)
        at_base = native.usable & (native.base_logit >= np.float32(base_logit))
        evidence.append(Evidence.of(probability, at_tau, draws, drawn.readings, native.adc, voxel_ml))
        base_evidence.append(Evidence.of(base, at_base, None, drawn.readings, native.adc, voxel_ml))
    if second:
        base_levels = expit(np.asarray(BASE_LOGITS) / fitted)
        calibration = replace(
            calibration,
            recalibration_cases=len(second),
            recalibration=fit_recalibration([f.flow for f in forecasts], evidence, levels),
            base_recalibration=fit_recalibration(
                [f.base(base_logit) for f in forecasts], base_evidence, base_levels
            ),
        )
    write_json(run.path / run.calibration_file, calibration.record())
    return calibration


@dataclass(frozen=True)
class _Drawn:
    native: NativeDraws
    readings: list[NDArray[np.bool_]]
    case: Case


@dataclass(frozen=True)
class _Forecasts:
    """What a case of the first half says of TDV and global ADC, kept small until the base head has a threshold."""

    flow: Forecasts
    sparse: SparseScore
    adc: NDArray[np.float32]
    voxel_ml: float

    @classmethod
    def of(
        cls, native: NativeDraws, readings: list[NDArray[np.bool_]], sparse: SparseScore, voxel_ml: float
    ) -> _Forecasts:
        draws = native.draws[native.usable] != 0
        flow = Forecasts.of(draws, native.adc[native.usable], readings, native.adc, voxel_ml)
        return cls(flow, sparse, native.adc.ravel()[sparse.index], voxel_ml)

    def base(self, logit: float) -> Forecasts:
        kept = self.sparse.score >= np.float32(logit)
        return self.flow.with_draws(kept[:, None], self.adc, self.voxel_ml)


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
        f"{run.name} has no {run.calibration_file} for this checkpoint and no validation case is at hand",
        "thresholds fixed on validation cases",
        f"run `diffusion-adc draw --run {run.name} --cohort COHORT --split val --out MAPS` once with the "
        "cohort it was trained on",
    )
