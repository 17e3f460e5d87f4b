"""Processor time to score 25 cases of 160 × 160 × 40 voxels with B0–B3, Oracle, 9 draws and 2000 replicates, one core.

COMMAND: pytest tests/benchmarks/test_evaluation_speed.py -m benchmark -s
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.evaluation import evaluate as module
from diffusion_adc.evaluation.bootstrap import Bootstrap
from diffusion_adc.evaluation.scores import method_scores
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.phantom.readers import draw_reading, oracle_draws
from diffusion_adc.phantom.truth import CaseTruth, LesionTruth, write_case_truth, write_truth_manifest
from diffusion_adc.records.cohort import read_cohort, write_case, write_manifest
from diffusion_adc.records.maps import write_map_case, write_maps_manifest

SHAPE, AFFINE = (160, 160, 40), np.diag([2.5, 2.5, 5.0, 1.0])
CASES, TARGET_CASES, TARGET_S = 5, 25, 60.0


def body(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Noise in air, textured tissue in an ellipse: the unedited map has thousands of components."""
    i, j = (np.linspace(-1, 1, n) for n in SHAPE[:2])
    inside = (i[:, None, None] / 0.85) ** 2 + (j[None, :, None] / 0.6) ** 2 < np.ones(SHAPE)
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.0)
    adc = (1.3 + 4.0 * texture + 0.1 * rng.standard_normal(SHAPE)).astype(np.float32)
    high = np.abs(100 + 600 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5)) * inside
    adc = np.round(np.clip(adc, 0, 4.095), 3).astype(np.float32)
    valid = (adc > 0) & (inside | (rng.random(SHAPE) < 0.1))
    high = (high + np.abs(rng.normal(0, 5, SHAPE))).astype(np.float32)
    return {"adc": adc, "valid": valid.astype(np.uint8), "dwi_high": high}


def lesion(number: int) -> LesionTruth:
    return LesionTruth(
        number=number, site="sacrum", group="bone", kind="untreated", grade=3, arm="whole", keep_probability=0.8,
        whole_probability=1.0, partner=0, ambiguous=number == 3, mappable=True, volume_ml=2.0, core_ml=2.0,
        contrast=4.0, adc_median=0.9, adc_true=0.9, centroid_mm=(0.0, 0.0, 0.0),
    )  # fmt: skip


@pytest.mark.benchmark
def test_scoring_a_test_split_takes_well_under_a_minute(tmp_path: Path) -> None:
    cohort_dir, truth_dir, maps_dir = (tmp_path / name for name in ("c", "c.truth", "maps"))
    cases = []
    for number in range(CASES):
        rng = np.random.default_rng(number)
        case = Case(f"SIM-{number:05d}", 1, split="test", provenance="synthetic", b_low=50, b_high=900)
        volumes = body(rng)
        label = np.zeros(SHAPE, dtype=np.uint8)
        for n in range(1, 5):
            at = rng.integers((50, 60, 8), (110, 100, 30))
            r = int(rng.integers(2, 6))
            label[at[0] - r : at[0] + r, at[1] - r : at[1] + r, at[2] - r // 2 : at[2] + 1 + r // 2] = n
        numbers = [int(n) for n in np.unique(label) if n]
        adc, valid = volumes["adc"], volumes["valid"] > 0
        truth = CaseTruth(
            case.case_id, True, (2.5, 2.5, 5.0), tuple(lesion(n) for n in numbers), (), (), label, label > 0,
            np.zeros_like(label), np.zeros_like(label), np.where(valid, adc, 0).astype(np.float32),
        )  # fmt: skip
        readings = {r: draw_reading(truth, adc, valid, rng) for r in ("R1", "R2")}
        readers = {r: {"tumor_adc": np.where(x > 0, adc, 0), "tumor_label": x} for r, x in readings.items()}
        cases.append(write_case(cohort_dir, case, {**volumes, **readers["R1"]}, AFFINE, readers))
        write_case_truth(truth_dir, truth)
        draws = np.stack(oracle_draws(truth, 9, 5), axis=-1)
        draws |= (ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.0) > 0.2)[..., None] & valid[
            ..., None
        ]
        base = np.clip(8.0 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.0) - 0.4, 0.0, 1.0)
        made = build_tumor_map(adc, valid, AFFINE, draws, base, 0.5)
        write_map_case(maps_dir, case.case_id, made.volumes(), AFFINE, made.lesions.rows, made.record())
    write_manifest(cohort_dir, Cohort(tuple(cases), provenance="synthetic"))
    digest = read_cohort(cohort_dir).digest
    write_truth_manifest(truth_dir, {}, {}, digest)
    manifest = {"cohort_digest": digest, "split": "test", "tau": 0.5, "base_tau": 0.5}
    write_maps_manifest(maps_dir, manifest)

    results: list[list] = []
    recorded = module.method_scores

    def spy(*args):  # type: ignore[no-untyped-def]
        results.append(args[0])
        return recorded(*args)

    module.method_scores = spy  # type: ignore[assignment]
    try:
        start = time.process_time()
        module.evaluate(maps_dir, cohort_dir, truth_dir, bootstrap=2000)
        whole = time.process_time() - start
    finally:
        module.method_scores = recorded
    several = [row for rows in results for row in rows][:1] and [rows * 5 for rows in results]
    start = time.process_time()
    weights = Bootstrap([f"P-{n:03d}" for n in range(CASES * 5)], 2000)
    for rows in several:
        method_scores(rows, weights, several[0])
    boot = time.process_time() - start
    expected = whole / CASES * TARGET_CASES + boot
    print(
        f"\n{whole / CASES:.2f} s per case (reading included), {boot:.2f} s for the bootstrap of 25 cases; "
        f"25 cases: {expected:.0f} s"
    )
    assert expected < TARGET_S
