"""Small cohorts made from arrays: bodies with tumors, readers who disagree, and sequences that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.signal import dwi_signal, two_point_adc
from diffusion_adc.records.cohort import write_case, write_manifest

AFFINE = np.diag([2.5, 2.5, 5.0, 1.0])
AFFINE[:3, 3] = (-50.0, 20.0, 7.0)


def ball(shape: Sequence[int], center: Sequence[float], radius: Sequence[float] | float) -> NDArray[np.bool_]:
    radii = np.broadcast_to(np.asarray(radius, dtype=float), 3)
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True)) <= 1.0


def simulated(
    shape: Sequence[int], lesions: Sequence[tuple[Sequence[float], float]], rng: np.random.Generator
) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.uint16]]:
    """An ellipse of muscle with a bright spleen-like mimic and the lesions asked for."""
    center = [(n - 1) / 2 for n in shape]
    body = ball(shape, center, [0.42 * shape[0], 0.42 * shape[1], 10 * shape[2]])
    mimic = ball(shape, [center[0], center[1] - 0.2 * shape[1], center[2]], max(2.0, 0.06 * shape[0])) & body
    label = np.zeros(shape, np.uint16)
    for number, (where, radius) in enumerate(lesions, start=1):
        label[ball(shape, where, radius) & body] = number
    adc = np.where(body, 1.4, 0.0) + rng.normal(0, 0.03, shape) * body
    adc[mimic], adc[label > 0] = 0.8, 0.9
    low = np.where(body, 300.0, 4.0) * (1 + 0.02 * rng.standard_normal(shape))
    low[mimic | (label > 0)] *= 3
    high = dwi_signal(low, 850, adc)
    volumes: dict[str, NDArray[np.generic]] = {
        seq.T1W: np.where(body, 500.0, 5.0) + rng.normal(0, 5, shape),
        seq.T2W: np.where(body, 200.0, 5.0) + rng.normal(0, 5, shape) + 100 * (label > 0),
        seq.DWI_LOW: low,
        seq.DWI_HIGH: high,
        seq.ADC: np.where(body, two_point_adc(low, high, 50, 900), 0),
        seq.VALID: body.astype(np.uint8),
    }
    return volumes, label


def make_cohort(
    path: Path,
    n_train: int = 4,
    n_val: int = 2,
    n_test: int = 2,
    shape: Sequence[int] = (40, 44, 12),
    readers: int = 2,
    tumor: bool = True,
    affine: NDArray[np.floating] = AFFINE,
    missing: Sequence[Sequence[str]] = (),
) -> Path:
    """A cohort whose case 0 is tumor-free, case 1 has three lesions of very different size, the others one."""
    rng = np.random.default_rng(7)
    cases, clinical = [], {}
    splits = ["train"] * n_train + ["val"] * n_val + ["test"] * n_test
    for number, split in enumerate(splits):
        rid = f"TEST-{number:04d}"
        i, j, k = shape
        one = [((0.35 * i, 0.6 * j, 0.5 * k), 3.0)]
        three = [
            ((0.3 * i, 0.6 * j, 0.5 * k), 4.5),
            ((0.62 * i, 0.4 * j, 0.4 * k), 2.0),
            ((0.5 * i, 0.75 * j, 0.6 * k), 0.5),
        ]
        lesions = [] if number == 0 or not tumor else three if number == 1 else one
        volumes, label = simulated(shape, lesions, rng)
        absent = missing[number] if number < len(missing) else ()
        for name in absent:
            volumes.pop(name)
        second = label.copy()
        if label.max() >= 2:
            second[second == 2] = 0  # the second reader leaves one lesion out
        maps = {
            f"R{r + 1}": {
                seq.TUMOR_LABEL: lab,
                seq.TUMOR_ADC: np.where(lab > 0, volumes[seq.ADC], 0),
            }
            for r, lab in enumerate([label, second, label][:readers])
        }
        volumes |= {seq.TUMOR_LABEL: label, seq.TUMOR_ADC: np.where(label > 0, volumes[seq.ADC], 0)}
        case = Case(
            rid, 1, study_order=number, split=split, provenance="synthetic", b_low=50, b_high=900,
            scanner=f"S{number % 3}", tumor_status="present" if lesions else "absent",
        )  # fmt: skip
        cases.append(write_case(path, case, volumes, affine, maps if readers > 1 else None))
        clinical[rid] = Covariates(age_years=60 + number, sex="male", psa_ng_ml=5.0)
    write_manifest(path, Cohort(tuple(cases), clinical, provenance="synthetic"))
    return path


@pytest.fixture(scope="session")
def cohort_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cases, two readers; shared and never changed."""
    return make_cohort(tmp_path_factory.mktemp("data") / "cohort")
