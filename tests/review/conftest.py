"""A small cohort with maps made by hand, and a real browser to open pages in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files

CHROMIUM = (
    os.environ.get("DIFFUSION_ADC_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
)


def make_maps(cohort_dir: Path, out: Path, *, run: str = "by hand", draws: int = 5, seed: int = 0) -> Path:
    """Maps as a model might draw them: the readers' lesions, a wobbling rim, one false blob, one lesion missed."""
    cohort = cohorts.read_cohort(cohort_dir)
    for case in cohort.cases:
        rng = np.random.default_rng([seed, len(case.case_id), case.exam_order, case.study_order])
        volume = cohorts.load_volume(cohort_dir, case, seq.ADC)
        valid = cohorts.load_volume(cohort_dir, case, seq.VALID).array
        labels, count = ndimage.label(cohorts.presence_readings(cohort_dir, case)[0], np.ones((3, 3, 3)))
        truth = (labels > 0) & ((labels < count) if count > 1 else True)
        spot = np.zeros_like(truth)
        inside = np.argwhere((valid != 0) & (volume.array > 0.5) & ~truth)
        i, j, k = inside[int(rng.integers(len(inside)))]
        spot[max(0, i - 2) : i + 3, max(0, j - 2) : j + 3, max(0, k - 1) : k + 2] = True
        drawn = []
        for _ in range(draws):
            rim = ndimage.binary_dilation(truth) & ~truth
            shape = truth | (rim & (rng.random(truth.shape) < 0.35))
            drawn.append(shape | spot if rng.random() < 0.8 else shape)
        made = build_tumor_map(
            volume.array, valid, volume.affine, np.stack(drawn, axis=-1).astype(np.uint8),
            np.clip(ndimage.gaussian_filter(truth.astype(np.float32), 1.0) * 1.2, 0, 1), 0.5,
        )  # fmt: skip
        record = {**made.record(), "run": run, "checkpoint_sha256": "0" * 64}
        files.write_map_case(out, case.case_id, made.volumes(), made.affine, made.lesions.rows, record)
    manifest = {
        "run": run, "checkpoint_sha256": "0" * 64, "cohort_digest": cohort.digest, "tau": 0.5, "base_tau": 0.5,
        "draws": draws, "steps": 4, "seed": seed, "cases": files.map_case_ids(out), "refused": {},
    }  # fmt: skip
    files.write_maps_manifest(out, manifest)
    return out


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three coarse digital patients, one of them without tumor."""
    from diffusion_adc.phantom.options import PhantomOptions
    from diffusion_adc.phantom.simulate import simulate_cohort

    out = tmp_path_factory.mktemp("review") / "cohort"
    return simulate_cohort(
        out, PhantomOptions(cases=3, seed=3, size=(64, 64, 12), spacing_mm=(6.0, 6.0, 9.0))
    )


@pytest.fixture(scope="session")
def maps(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_maps(patients, tmp_path_factory.mktemp("review_maps") / "maps")


@pytest.fixture(scope="session")
def site(patients: Path, maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the three patients, with a rival's maps."""
    from diffusion_adc.review.site import write_site

    folder = tmp_path_factory.mktemp("review_site")
    rival = make_maps(patients, folder / "rival", run="rival <run>", seed=9)
    write_site(maps, patients, folder / "site", rivals=[rival])
    return folder / "site"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium with software WebGL 2."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium: install one or set DIFFUSION_ADC_CHROMIUM to its path")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        opened = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def mapmaker() -> Callable[..., Path]:
    return make_maps
