"""Every rival of the results table, from its YAML through `fit`, `draw` and `evaluate`, on a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.cli import main
from diffusion_adc.records.maps import map_case_ids, read_map_record, read_map_volume, read_maps_manifest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
BASELINES = EXPERIMENTS / "baselines"
SMALL = (
    "--model.init_args.learning_rate=4e-3",
    "--model.init_args.warmup_steps=5",
    "--data.init_args.patch_size=[48,48,1]",
    "--data.init_args.batch_size=8",
    "--data.init_args.patches_per_epoch=800",
    "--data.init_args.val_patches=16",
    "--trainer.max_epochs=2",
    "--ema.decay=0.5",
    "--tracking.mode=disabled",
)
RIVALS = {
    "b3_base_head": "B3",
    "b4a_snapshots": "B4a",
    "b4b_components": "B4b",
    "b4c_low_rank": "B4c",
    "b5_regression": "B5",
    "b6_free_diffusion": "B6",
    "b7_flow_kl": "B7",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rivals") / "cohort"
    assert (
        main(["phantom", str(out), "--cases", "14", "--size", "64x64x8", "--seed", "3", "--jobs", "1"]) == 0
    )
    return out


def fit(cohort: Path, out: Path, *yamls: Path, extra: tuple[str, ...] = ()) -> None:
    words = [word for path in (EXPERIMENTS / "base.yaml", *yamls) for word in ("-c", str(path))]
    assert main(["fit", *words, f"--cohort={cohort}", "--out", str(out), *SMALL, *extra]) == 0


def codec(cohort: Path, target: str) -> Path:
    out = cohort.parent / f"codec_{target}"
    if not out.exists():
        extra = (
            f"--model.init_args.target={target}",
            "--model.init_args.codec_width=32",
            "--data.init_args.patches_per_epoch=4800",
            "--data.init_args.batch_size=16",
            "--checkpoints.monitor=null",
        )
        fit(cohort, out, EXPERIMENTS / "codec_2d.yaml", extra=extra)
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(RIVALS))
def test_a_rival_trains_draws_and_is_scored(name: str, cohort: Path, tmp_path: Path) -> None:
    extra = ["--model.init_args.channels=[12,16]", "--draws.draws=5"]
    if name in ("b6_free_diffusion", "b7_flow_kl"):
        run = codec(cohort, "value" if name == "b6_free_diffusion" else "plain")
        extra += [f"--model.init_args.codec_run={run}", "--model.init_args.codec_width=32"]
    fit(cohort, tmp_path / "run", BASELINES / "b8_flow.yaml", BASELINES / f"{name}.yaml", extra=tuple(extra))
    maps = tmp_path / "maps"
    words = ["--run", str(tmp_path / "run"), "--cohort", str(cohort), "--out", str(maps)]
    assert main(["draw", *words]) == 0
    assert main(["evaluate", str(maps), "--cohort", str(cohort), "--truth", f"{cohort}.truth"]) == 0
    manifest = read_maps_manifest(maps)
    assert manifest["id"] == RIVALS[name]
    scores: dict[str, Any] = json.loads((maps / "scores.json").read_text())["model"]
    synthetic = name in ("b5_regression", "b6_free_diffusion")
    assert (manifest["values"] != "measured") == synthetic
    kept = 0
    for case_id in map_case_ids(maps):
        record = read_map_record(maps, case_id)
        kept += int(np.count_nonzero(read_map_volume(maps, case_id, "tumor_adc").array))
        assert ("draws" in record["sha256"]) == (name not in ("b3_base_head", "b5_regression"))
        assert ("synthetic_values" in record["flags"]) == synthetic
    if name in ("b3_base_head", "b4c_low_rank", "b5_regression"):
        assert kept > 0  # so few steps leave the others unsure of any voxel
    violations = scores["value_violations"]["value"]
    assert violations >= 0.5 * kept if synthetic else violations == 0
    if name == "b4a_snapshots":
        import torch

        state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert int(state["head.taken"]) == 5
        assert len({float(row.sum()) for row in state["head.weights"]}) == 5
    if name == "b7_flow_kl":
        record = json.loads((tmp_path / "run/record.json").read_text())
        assert record["parents"], "the codec's cases are remembered"
