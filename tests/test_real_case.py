"""The same line on one real prostate case: a plumbing check on a crop, a few steps, nothing about quality."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffusion_adc.cli import main
from diffusion_adc.domain import sequences as seq
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.maps import map_case_ids, read_map_volume

ROOT = Path(__file__).parents[1]
REAL = (
    Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", ROOT.parent / "shared" / "data")) / "picai_pair" / "10021"
)


@pytest.mark.skipif(not REAL.is_dir(), reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder")
def test_a_real_case_goes_through_the_whole_line(tmp_path: Path) -> None:
    source = tmp_path / "in" / "10021"
    source.mkdir(parents=True)
    for name in ("adc", "hbv", "t2w", "lesion_human"):
        image = nib.load(REAL / f"{name}.nii.gz")
        nib.save(image.slicer[40:216, 40:216, 3:12], source / f"{name}.nii.gz")
    cohort, run, maps = tmp_path / "cohort", tmp_path / "run", tmp_path / "maps"
    declared = ["--names", "dwi_high=hbv,tumor_label=lesion_human", "--id-prefix", "PICAI"]
    declared += ["--allow-missing", "t1w,dwi_low", "--b", "dwi_high=unknown", "--adc-unit", "1e-6"]
    assert main(["ingest", str(tmp_path / "in"), str(cohort), *declared, "--label-values", "1-5"]) == 0
    files = [
        word
        for name in ("base", "real_overfit")
        for word in ("-c", str(ROOT / "experiments" / f"{name}.yaml"))
    ]
    small = [
        "--model.init_args.channels=[8,16]", "--model.init_args.denoiser_width=8", "--data.init_args.patch_size=[32,32,1]",
        "--data.init_args.patches_per_epoch=32", "--trainer.max_epochs=2", "--draws.draws=3", "--draws.steps=2",
        "--tracking.mode=disabled",
    ]  # fmt: skip
    assert main(["fit", *files, f"--cohort={cohort}", "--out", str(run), *small]) == 0
    assert (
        main(["draw", "--run", str(run), "--cohort", str(cohort), "--out", str(maps), "--split", "all"]) == 0
    )
    (case,) = read_cohort(cohort).cases
    assert map_case_ids(maps) == [case.case_id]
    drawn, adc = read_map_volume(maps, case.case_id, "tumor_adc"), load_volume(cohort, case, seq.ADC)
    assert np.array_equal(drawn.affine, adc.affine)
    assert np.array_equal(adc.affine, nib.load(source / "adc.nii.gz").affine)
    assert np.all((drawn.array == 0) | (drawn.array == adc.array))
    assert main(["evaluate", str(maps), "--cohort", str(cohort)]) == 0
