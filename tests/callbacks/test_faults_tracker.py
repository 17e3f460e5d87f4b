"""F7: whatever happens to the tracker, training ends as without it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion_adc.callbacks import runlog

HERE = Path(__file__).parent
STEPS = 12
FULL = os.environ.get("FULL") == "1"
QUIET = os.environ.get("QUIET_MACHINE") == "1"
"""Nothing else runs: only then do seconds mean anything."""
PATIENCE_S = "2" if QUIET else "60"
ADDED_S = 5.0
"""Seconds that a tracker in trouble may add to a run, its start included."""

CASES = {
    "unreachable at start": ("none", {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}),
    "no key": ("none", {"WANDB_BASE_URL": "http://127.0.0.1:9"}),
    "server dies mid-run": ("stop-server-mid", {"LOOPBACK": "1"}),
    "server dies at the end": ("stop-server-end", {"LOOPBACK": "1"}),
    "401": ("refuse-key", {"LOOPBACK": "1"}),
    "disk full for the client": ("disk-full", {"LOOPBACK": "1"}),
    "client process killed": ("kill-client", {"LOOPBACK": "1"}),
}


def train(cases: list[dict[str, Any]]) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    places = os.pathsep.join((str(HERE.parents[1]), str(HERE)))
    done = subprocess.run(
        [sys.executable, str(HERE / "tiny.py"), json.dumps(cases)],
        env=inherited | {"PYTHONPATH": places, "WANDB_HTTP_TIMEOUT": PATIENCE_S},
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def told(run: Path) -> tuple[dict[str, Any], float, str]:
    """What the process of a case said, how long it lived, and its error stream."""
    ended = json.loads(Path(f"{run}.end").read_text())
    errors = Path(f"{run}.err").read_text()
    assert ended["code"] == 0, errors[-2000:]
    assert "Traceback" not in errors, errors[-2000:]
    return json.loads(Path(f"{run}.out").read_text().strip().splitlines()[-1]), ended["whole"], errors


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def steps(log: Path) -> set[int]:
    """The steps of which a tracker's log holds the loss."""
    found = set()
    for record in runlog.records(log):
        row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if "train/loss" in row:
            found.add(int(row["_step"]))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_f7_training_is_the_same_without_the_tracker(tmp_path: Path) -> None:
    kinds = dict(CASES)
    if not FULL:  # the others differ in when the server stops answering
        kinds = {
            name: CASES[name]
            for name in ("unreachable at start", "server dies mid-run", "client process killed")
        }
    cases = [
        {"run": str(tmp_path / "alone"), "mode": "none", "fault": "none", "environment": {}},
        {"run": str(tmp_path / "usual"), "mode": "offline", "fault": "none", "environment": {}},
    ]
    for number in range(2 if FULL else 1):
        for name, (fault, environment) in kinds.items():
            run = str(tmp_path / f"{name} {number}")
            cases.append({"run": run, "mode": "online", "fault": fault, "environment": environment})
    train(cases)
    alone, lived_alone, _ = told(tmp_path / "alone")
    usual, _, _ = told(tmp_path / "usual")
    assert usual["weights"] == alone["weights"]
    added: list[float] = []
    for case in cases[2:]:
        run, name = Path(case["run"]), case["run"].rsplit("/", 1)[-1]
        said, lived, errors = told(run)
        assert said["weights"] == alone["weights"], name
        assert metrics(run) == metrics(tmp_path / "alone"), name
        assert said["mode"] == ("offline" if case["fault"] in ("none", "refuse-key") else "online"), name
        lines = [line for line in errors.splitlines() if line.startswith("tracker:")]
        # A client that cannot write may not notice; every other trouble is said once.
        assert len(lines) <= 1 if case["fault"] == "disk-full" else len(lines) == 1, (name, errors[-1500:])
        assert list((run / "wandb").glob("*run-*/*.wandb")), name
        if case["fault"] in (
            "stop-server-mid",
            "stop-server-end",
        ):  # what the server did not get is kept for `sync`
            assert steps(next((run / "wandb").glob("run-*/*.wandb"))) >= set(range(STEPS)), name
        added.append(lived - lived_alone)
    print(f"\n  figure F7: {len(added)}/{len(added)} bit-equal with exit 0, at most {max(added):.1f} s added")
    if QUIET:
        assert max(added) <= ADDED_S
