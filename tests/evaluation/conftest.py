"""Small cases with every kind of reading, and a cohort with maps on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.evaluation.baselines import Prediction
from diffusion_adc.evaluation.reference import Reference
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.phantom.readers import draw_reading, oracle_draws
from diffusion_adc.phantom.truth import CaseTruth, LesionTruth, write_case_truth, write_truth_manifest
from diffusion_adc.records.cohort import read_cohort, write_case, write_manifest
from diffusion_adc.records.maps import write_map_case, write_maps_manifest

MakeCase = Callable[..., tuple[Reference, Prediction]]


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    return field / field.std()


@pytest.fixture(scope="session")
def make_case() -> MakeCase:
    """A case of smooth random blobs: latent lesions, ambiguous ones, two readers, a map with draws."""

    def make(
        seed: int, shape: tuple[int, int, int] = (18, 16, 10), *, tumor: bool = True, n_draws: int = 9
    ) -> tuple[Reference, Prediction]:
        rng = np.random.default_rng(seed)
        field = smooth_field(rng, shape)
        other = smooth_field(rng, shape)
        lesions = (field > 1.6) if tumor else np.zeros(shape, dtype=bool)
        ignored = (other > 2.0) & ~lesions
        valid = rng.random(shape) < 0.97
        adc = np.where(valid, rng.uniform(0.4, 2.6, shape), 0.0).astype(np.float32)

        def reading() -> np.ndarray:
            kept = lesions & (field + 0.3 * smooth_field(rng, shape) > 1.6)
            return kept | (ignored & (rng.random() < 0.5))

        draws = np.stack([(reading() | (smooth_field(rng, shape) > 2.8)) & valid for _ in range(n_draws)], -1)
        probability = draws.mean(axis=-1, dtype=np.float32)
        prediction = Prediction(
            tumor_adc=np.where(probability >= 0.5, adc, np.float32(0.0)),
            probability=probability,
            threshold=0.5,
            draws=draws.astype(np.uint8),
        )
        reference = Reference(
            case_id=f"SIM-{seed:03d}_01",
            research_id=f"SIM-{seed:03d}",
            adc=adc,
            valid=valid,
            readers=[reading(), reading()],
            voxel_ml=0.03125,
            lesions=lesions,
            ignored=ignored,
        )
        return reference, prediction

    return make


class Study(NamedTuple):
    """A cohort of digital patients with its sealed truth and a folder of maps."""

    cohort: Path
    truth: Path
    maps: Path


AFFINE = np.diag([2.5, -2.5, 5.0, 1.0])
SHAPE = (26, 22, 12)


def lesion_truth(number: int, keep: float, ambiguous: bool) -> LesionTruth:
    return LesionTruth(
        number=number, site="sacrum", group="bone", kind="untreated", grade=3, arm="whole", keep_probability=keep,
        whole_probability=1.0, partner=0, ambiguous=ambiguous, mappable=True, volume_ml=1.0, core_ml=1.0,
        contrast=4.0, adc_median=0.9, adc_true=0.9, centroid_mm=(0.0, 0.0, 0.0),
    )  # fmt: skip


def simulated(case_id: str, seed: int, tumor: bool) -> tuple[CaseTruth, dict[str, np.ndarray]]:
    """Two sure lesions and one that half of the readers keep, in a body of bright and dark tissue."""
    rng = np.random.default_rng(seed)
    adc = rng.uniform(1.15, 1.75, SHAPE).astype(np.float32)
    high = rng.normal(100, 5, SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, dtype=np.uint8)
    boxes = ((slice(3, 9), slice(3, 9), slice(2, 6)), (slice(14, 20), slice(12, 17), slice(6, 10)),
             (slice(3, 8), slice(13, 18), slice(6, 9)))  # fmt: skip
    for number, box in enumerate(boxes if tumor else (), start=1):
        label[box] = number
    mimic = (slice(18, 25), slice(2, 8), slice(1, 5))
    for bright in (label > 0, mimic):
        adc[bright] = rng.uniform(0.6, 1.1, adc[bright].shape)
        high[bright] = rng.normal(500, 20, high[bright].shape)
    organ = np.ones(SHAPE, dtype=np.uint8)
    organ[mimic] = 2
    adc[0] = 0.0
    valid = adc > 0
    truth = CaseTruth(
        case_id=case_id, ambiguity=True, spacing_mm=(2.5, 2.5, 5.0),
        lesions=tuple(lesion_truth(n, (0.95, 0.95, 0.5)[n - 1], n == 3) for n in (1, 2, 3) if tumor), pairs=(),
        mimics=(), lesion_label=label, core=label > 0, organ_label=organ,
        mimic_label=np.zeros(SHAPE, dtype=np.uint8), reading_adc=adc,
    )  # fmt: skip
    low = (high * np.exp(0.85 * adc)).astype(np.float32)
    return truth, {"adc": adc, "dwi_low": low, "dwi_high": high, "valid": valid.astype(np.uint8)}


def write_study(folder: Path) -> Study:
    """Six examinations of five persons, one person free of tumor; the maps are readings of the same law."""
    study = Study(folder / "cohort", folder / "cohort.truth", folder / "maps")
    cases = []
    for number, (person, exam) in enumerate([(1, 1), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1)]):
        case = Case(
            f"SIM-{person:05d}", exam, split="test", provenance="synthetic", b_low=50, b_high=900, anatomy="pelvis",
            tumor_status="absent" if person == 5 else "present",
        )  # fmt: skip
        truth, volumes = simulated(case.case_id, number, tumor=person != 5)
        adc, valid = volumes["adc"], volumes["valid"] > 0
        rng = np.random.default_rng(100 + number)
        labels = {name: draw_reading(truth, adc, valid, rng) for name in ("R1", "R2")}
        readers = {
            name: {"tumor_adc": np.where(label > 0, adc, 0), "tumor_label": label}
            for name, label in labels.items()
        }
        cases.append(write_case(study.cohort, case, {**volumes, **readers["R1"]}, AFFINE, readers))
        write_case_truth(study.truth, truth)
        draws = np.stack(oracle_draws(truth, 9, seed=999), axis=-1)
        base = 0.8 * draws.mean(axis=-1) + 0.1 * valid
        tumor = build_tumor_map(adc, valid, AFFINE, draws, base, tau=0.5)
        write_map_case(study.maps, case.case_id, tumor.volumes(), AFFINE, tumor.lesions.rows, tumor.record())
    cohort = Cohort(tuple(cases), provenance="synthetic", legal_basis="none needed")
    write_manifest(study.cohort, cohort)
    write_truth_manifest(study.truth, {}, {}, read_cohort(study.cohort).digest)
    ids = [case.case_id for case in cases]
    write_maps_manifest(study.maps, {
        "run": "toy", "cohort_digest": read_cohort(study.cohort).digest, "split": "test", "tau": 0.5,
        "base_tau": 0.5, "draws": 9, "cases": ids, "refused": {},
    })  # fmt: skip
    return study


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that tests must not change."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(finished_study: Study, tmp_path: Path) -> Study:
    """A study of the test's own."""
    parts = [shutil.copytree(part, tmp_path / part.name) for part in finished_study]
    return Study(*parts)
