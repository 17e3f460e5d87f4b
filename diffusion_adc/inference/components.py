"""Component-Bernoulli (baseline B4b): each connected component of the calibrated base head is one coin.

A component of the base head's map is kept whole or dropped whole, with a probability that depends on its highest
logit and its size; the two are fitted on validation components by logistic regression (a reader keeps a component
if at least half of its voxels are in the reader's map). It knows whole-lesion doubt, and by construction no partial
extent and no lesions that depend on each other. Kept in RUN/components.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from diffusion_adc.domain.errors import CohortError
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.inference.calibrate import validation_cases
from diffusion_adc.inference.lesions import connected_components
from diffusion_adc.inference.native import draw_native
from diffusion_adc.inference.noise import noise_key
from diffusion_adc.inference.run import LoadedRun
from diffusion_adc.inference.threshold import BASE_LOGITS, case_curve, choose_threshold
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.cohort import presence_readings, read_cohort

FILE: Final = "components.json"
KEPT_SHARE: Final = 0.5
_RIDGE: Final = 1e-2


@dataclass(frozen=True)
class Coins:
    """How a component's coin is weighted: ``logit p = intercept + peak * (highest logit) + size * ln(voxels)``.

    Attributes:
        checkpoint_sha256: The checkpoint they belong to.
        threshold: Base logit from which a voxel belongs to a component.
        intercept: Of the regression.
        peak: Per unit of the component's highest logit.
        size: Per unit of the logarithm of its number of voxels.
        components: Pairs of component and reader behind the fit.
    """

    checkpoint_sha256: str
    threshold: float
    intercept: float
    peak: float
    size: float
    components: int

    def draws(
        self, logit: NDArray[np.float32], usable: NDArray[np.bool_], case_id: str, seed: int, number: int
    ) -> NDArray[np.uint8]:
        """Independent draws, uint8 (I, J, K, number): draw d of a case depends on (seed, case, d) alone.

        Args:
            logit: float32 (I, J, K) of the base head.
            usable: bool (I, J, K).
            case_id: Chooses the coins.
            seed: Chooses the coins.
            number: Draws.
        """
        labels = connected_components(usable & (logit >= np.float32(self.threshold)))
        peaks, voxels = component_facts(labels, logit)
        kept_with = expit(self.intercept + self.peak * peaks + self.size * np.log(np.maximum(voxels, 1)))
        out = np.zeros((*logit.shape, number), dtype=np.uint8)
        for draw in range(number):
            rng = np.random.Generator(np.random.Philox(key=noise_key(seed, case_id, draw)))
            heads = np.concatenate(([False], rng.random(peaks.size) < kept_with))
            out[..., draw] = heads[labels]
        return out


def component_facts(
    labels: NDArray[np.int32], logit: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Highest logit and number of voxels of components 1, 2, …"""
    count = int(labels.max(initial=0))
    inside = np.flatnonzero(labels)
    numbers = labels.ravel()[inside] - 1
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, numbers, logit.ravel()[inside].astype(np.float64))
    return peaks, np.bincount(numbers, minlength=count).astype(np.int64)


def coins_for(run: LoadedRun, cohort_dir: Path, progress: Callable[[int, int], None] | None = None) -> Coins:
    """The stored coins of a run, else fitted on the validation cases of its own cohort, else of the one given.

    Raises:
        CohortError: No validation case is at hand, or none has a component.
    """
    try:
        values: Any = json.loads((run.path / FILE).read_text())
        stored = Coins(**{f.name: values[f.name] for f in fields(Coins)})
        if stored.checkpoint_sha256 == run.checkpoint_sha256:
            return stored
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for folder in (run.cohort, cohort_dir):
        if folder is None or not (folder / "cohort.json").is_file():
            continue
        if validation_cases(run, read_cohort(folder)):
            return _fit(run, folder, progress)
    raise CohortError("no validation case for the coins of components", "one", "give the run's own cohort")


def _fit(run: LoadedRun, cohort_dir: Path, progress: Callable[[int, int], None] | None) -> Coins:
    cohort = read_cohort(cohort_dir)
    cases, settings = validation_cases(run, cohort), replace(run.settings, method="base")
    curves, kept = [], []
    for number, case in enumerate(cases, start=1):
        native = draw_native(run, cohort_dir, cohort, case, settings)
        readings = presence_readings(cohort_dir, case) or [np.zeros(native.adc.shape, dtype=bool)]
        curves.append(
            case_curve(
                native.base_logit, readings, native.usable, voxel_volume_ml(native.affine), BASE_LOGITS
            )
        )
        near = native.usable & (native.base_logit >= BASE_LOGITS[0])
        kept.append((native.base_logit.astype(np.float16), near, [np.packbits(r) for r in readings]))
        if progress is not None:
            progress(number, len(cases))
    threshold, _ = choose_threshold(curves, BASE_LOGITS)
    rows, outcomes = [], []
    for half, near, packed in kept:
        logit = half.astype(np.float32)
        labels = connected_components(near & (logit >= np.float32(threshold)))
        peaks, voxels = component_facts(labels, logit)
        for bits in packed:
            reading = np.unpackbits(bits, count=labels.size).reshape(labels.shape).astype(bool)
            shared = np.bincount(labels[reading], minlength=peaks.size + 1)[1:]
            outcomes.append(shared >= KEPT_SHARE * voxels)
            rows.append(np.stack((np.ones_like(peaks), peaks, np.log(np.maximum(voxels, 1))), axis=1))
    x, y = np.concatenate(rows), np.concatenate(outcomes).astype(np.float64)
    if not x.size:
        raise CohortError("no component in the validation cases", do="train the run further")
    weights = fit_logistic(x, y)
    intercept, peak, size = (float(w) for w in weights)
    coins = Coins(run.checkpoint_sha256, threshold, intercept, peak, size, int(y.size))
    write_json(run.path / FILE, asdict(coins))
    return coins


def fit_logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic regression with a small ridge, so that separable components keep finite weights.

    Args:
        x: (N, F), the first column ones.
        y: (N,), 0 or 1.

    Returns:
        (F,) weights.
    """

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ w
        value = float(np.sum(np.logaddexp(0, z) - y * z) + _RIDGE * np.sum(w[1:] ** 2))
        slope = x.T @ (expit(z) - y)
        slope[1:] += 2 * _RIDGE * w[1:]
        return value, slope

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)
