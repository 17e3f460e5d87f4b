"""The real client against a server on the loopback interface: online, synchronized, swept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_adc.records.atomic import sha256_file

# Seconds each, most of them the client's own start: beyond the everyday suite.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
Script = Callable[..., subprocess.CompletedProcess[str]]

ONLINE = """
import sys, json
from pathlib import Path
import loopback
import os
server = loopback.Loopback()
os.environ["WANDB_BASE_URL"], os.environ["WANDB_API_KEY"] = server.url, loopback.KEY
run, mode = Path(sys.argv[1]), sys.argv[2]
from diffusion_adc.callbacks.artifacts import log_models
from diffusion_adc.callbacks.settings import settings_of
from diffusion_adc.callbacks.panels import Lesion, lesion_table, overlay_image, Overlay
from diffusion_adc.custody.lineage import read_record
import numpy as np
tracking, policy, experiment = settings_of(run)
tracking.mode = mode
tracker = tracking.logger(run, "tiny", experiment, provenance="synthetic", record=read_record(run))
tracker.start()
tracker.log_metrics({"val/loss": 2.5, "optimizer/learning_rate": 1e-3}, 3)
plane = np.zeros((8, 8), np.uint8)
def panels():
    import wandb
    return {"slices/largest": overlay_image(Overlay(plane, {"reader": plane + 1}), "largest"),
            "test/lesions": lesion_table([Lesion("SIM-00001_01", tuple(range(12)), np.zeros((48, 48, 3), np.uint8))]),
            "review": wandb.Html("<p>review</p>", inject=False)}
tracker.log_panels(panels, 4)
if mode == "online":
    tracker.submit(lambda run_: log_models(run_, run, Path(tracker.who.link)))
tracker.finalize("success")
sent = {}
if mode == "offline":
    assert server.received == []
    from diffusion_adc.callbacks.sync import sync
    done = sync(run)
    sent = {"artifacts": done.artifacts, "folders": done.folders}
print(json.dumps({"mode": tracker.mode, "lost": tracker.lost, "history": server.history, "files": sorted(server.files),
    "operations": server.operations, "buckets": server.buckets, "used": server.used, "artifacts": server.artifacts,
    "sent": sent, "leaks": [w for w in (str(run), os.uname().nodename, "yamada") if len(w) > 3 and server.has(w)]}))
"""


def _checkpoint(run: Path) -> None:
    """Bytes with a sidecar, as a checkpoint has."""
    path = run / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights" * 100)
    path.with_name("best.ckpt.json").write_text(json.dumps({"sha256": sha256_file(path), "step": 4}))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_reaches_the_server(
    mode: str, tmp_path: Path, make_run: Callable[..., Path], script: Script
) -> None:
    run = make_run(tmp_path / "run", "synthetic")
    _checkpoint(run)
    done = script(ONLINE, run, mode, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["mode"] == mode
    assert not told["lost"], done.stderr
    rows = told["history"]
    assert [row["val/loss"] for row in rows if "val/loss" in row] == [2.5]
    panel = next(row for row in rows if "slices/largest" in row)
    assert panel["_step"] == 4
    assert panel["slices/largest"]["_type"] == "image-file"
    assert set(panel["slices/largest"]["masks"]) == {"reader"}
    assert panel["test/lesions"]["_type"] == "table-file"
    assert panel["review"]["_type"] == "html-file"
    assert any(name.endswith(".png") for name in told["files"])
    identity = json.loads((run / "tracker.json").read_text())
    bucket = told["buckets"][identity["id"]]
    assert bucket["displayName"] == "tiny"
    config = json.loads(bucket["config"])
    assert config["record"]["value"]["cohort_digest"] == "ab" * 32
    assert config["model"]["value"]["init_args"]["learning_rate"] == 0.001
    assert "cohort" not in config
    assert told["leaks"] == []
    # Checkpoints with what they were made from.
    artifacts = {a["artifactTypeName"]: a for a in told["artifacts"]}
    assert json.loads(artifacts["model"]["metadata"])["cohort_digest"] == "ab" * 32
    assert json.loads(artifacts["cohort"]["metadata"])["digest"] == "ab" * 32
    assert any(name.endswith("best.ckpt") for name in told["files"])
    assert told["operations"]["useArtifact"] == 1
    if mode == "offline":
        assert told["sent"]["artifacts"] == [f"checkpoints-{identity['id']}"]


def test_the_log_reads_back_with_the_clients_own_reader(
    tmp_path: Path, make_run: Callable[..., Path], script: Script
) -> None:
    from diffusion_adc.callbacks import runlog

    run = make_run(tmp_path / "run", "synthetic")
    code = ONLINE.split("if mode == ")[0] + 'tracker.finalize("success")\n'
    done = script(code, run, "offline", timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    log = next((run / "wandb").glob("offline-run-*/*.wandb"))
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)],
        capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    kinds = [record.WhichOneof("record_type") for record in runlog.records(log)]
    assert kinds.count("history") == 2
    assert sum(line.get("type") == "history" for line in lines) == 2
    assert len(lines) == len(kinds)
    assert '"val/loss"' in told.stdout
    assert "slices/largest" in told.stdout


TRIAL = """
import json, os, sys
from pathlib import Path
values = json.loads(Path(sys.argv[sys.argv.index("-c") + 1]).read_text())
run = Path("trials") / os.environ["WANDB_RUN_ID"]
from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.callbacks.session import identity
from diffusion_adc.callbacks.tracker import Tracker
from diffusion_adc.callbacks.reach import server_name
run.mkdir(parents=True)
who = identity(run, "adc")
tracker = Tracker(run, who, wanted="offline", label="trial", config={}, policy=Policy("synthetic", server_name()))
tracker.log_metrics({"val/loss": values["model.init_args.learning_rate"]}, 1)
tracker.finalize("success")
(run / "values.json").write_text(json.dumps([values, tracker.mode, tracker.lost, who.id]))
"""


def test_a_sweep_is_registered_and_its_agent_runs_the_trials(
    tmp_path: Path, loopback_module: Any, script: Script
) -> None:
    (tmp_path / "trial.py").write_text(TRIAL)
    sweep = {
        "name": "tiny", "method": "random", "metric": {"name": "val/loss"},
        "parameters": {"model.init_args.learning_rate": {"min": 0.1, "max": 0.9},
                       "model.init_args.channels": {"values": [[1, 2], [3, 4]]}},
        "command": [sys.executable, str(tmp_path / "trial.py"), "-c", "${args_json_file}"],
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from diffusion_adc.sweeps.launch import run_with_wandb\nfrom diffusion_adc.sweeps.space import read_sweep\n"
        "print(run_with_wandb(read_sweep(Path('sweep.yaml')), 'adc', 'us', 1, 2))"
    )
    trials = [
        {"model.init_args.learning_rate": 0.25, "model.init_args.channels": [1, 2]},
        {"model.init_args.learning_rate": 0.5, "model.init_args.channels": None},
    ]
    with loopback_module.Loopback(trials) as server:
        done = script(code, cwd=tmp_path, timeout=1800, WANDB_BASE_URL=server.url, WANDB_API_KEY=loopback_module.KEY,
                      WANDB_SILENT="true")  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert (tmp_path / "trials").is_dir(), done.stderr[-3000:] + done.stdout[-2000:]
        assert "('us/adc/sw1', 0)" in done.stdout
        got = [json.loads((tmp_path / "trials" / f"trial{n}" / "values.json").read_text()) for n in (1, 2)]
        assert [values for values, *_ in got] == trials, "lists and null arrive as they were"
        assert [rest for _, *rest in got] == [["online", False, "trial1"], ["online", False, "trial2"]]
        assert sorted(row["val/loss"] for row in server.history if "val/loss" in row) == [0.25, 0.5]
        assert yaml.safe_load(server.sweep)["command"][0] == sys.executable
