"""A real run: trained, drawn, withdrawn from, refused, and trained again by the printed command."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.cli import main
from diffusion_adc.custody import lineage
from diffusion_adc.custody.withdraw import withdraw
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.cohort import presence_readings, read_cohort
from diffusion_adc.records.maps import map_case_ids
from diffusion_adc.records.runs import list_runs


def tumor_voxels(cohort: Path, case: Case) -> int:
    return int(np.count_nonzero(presence_readings(cohort, case)))


@pytest.mark.slow
def test_a_real_run_is_blocked_and_trained_again(
    phantom_cohort: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusion_adc.inference.draw import draw_cohort

    cohort, runs = tmp_path / phantom_cohort.name, tmp_path / "runs"
    for ending in ("", ".store", ".truth"):
        folder = phantom_cohort.with_name(f"{phantom_cohort.name}{ending}")
        shutil.copytree(folder, tmp_path / folder.name)
    run = shutil.copytree(small_run, runs / "small")
    text = (run / "experiment.yaml").read_text()
    (run / "experiment.yaml").write_text(text.replace(str(phantom_cohort), str(cohort)))
    maps = draw_cohort(run, cohort, run / "maps" / "test", "test", command="draw")
    drawn = map_case_ids(maps)[0].rsplit("_", 1)[0]
    noted = lineage.noted_pictures(run / "grids")
    key = json.loads((run / "record.json").read_text())["case_key"]
    pictured = [c for c in read_cohort(cohort).cases if lineage.keyed_hash(c.case_id, key) in noted.values()]
    # The one with least tumor: the retrained run needs a validation case with tumor for its thresholds.
    person = min(pictured, key=lambda case: tumor_voxels(cohort, case)).research_id
    assert set(noted) == {path.name for path in (run / "grids").glob("*.png")} != set()
    assert any((run / "wandb").glob("offline-run-*/*.wandb"))

    report = withdraw(cohort, [person, drawn], runs=runs)
    assert report.tainted == ("small",)
    (tracked,) = report.tracker
    assert tracked.startswith("diffusion-adc/")
    assert "kept offline" in tracked
    assert not (run / "wandb").exists()
    theirs = {lineage.keyed_hash(name, key) for p in (person, drawn) for name in lineage.case_names(p)}
    left = {path.name for path in (run / "grids").glob("*.png")}
    assert left == {name for name, value in noted.items() if value not in theirs}
    assert drawn not in {name.rsplit("_", 1)[0] for name in map_case_ids(maps)}
    assert [row["taint"] for row in list_runs(runs)] == ["withdrawal"]
    with pytest.raises(UsageError, match="withdrawn"):
        draw_cohort(run, cohort, tmp_path / "new", "test")
    draw_cohort(run, cohort, tmp_path / "allowed", "test", allow_tainted="IRB-7")
    with pytest.raises(UsageError, match="withdrawn"):
        lineage.refuse_tainted(tmp_path / "allowed", use="export")

    for command in report.retrain:
        words = shlex.split(command)
        assert words[0] == "diffusion-adc"
        assert main(words[1:]) == 0, capsys.readouterr().err
    again = json.loads((runs / "small-w1" / "record.json").read_text())
    assert again["cohort_digest"] == read_cohort(cohort).digest
    assert len(again["cases"]) == len(read_cohort(cohort).cases)
    assert again["seed"] == json.loads((run / "record.json").read_text())["seed"]
    assert {row["run"]: row["taint"] for row in list_runs(runs)} == {"small": "withdrawal", "small-w1": None}
