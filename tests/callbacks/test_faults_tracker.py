"""F7: whatever happens to the tracker, training ends as without it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FULL = os.environ.get("FULL") == "1"
PATIENCE_S = "2" if os.environ.get("QUIET_MACHINE") == "1" else "60"
ADDED_S = 5.0
"""Seconds that a tracker in trouble may add to a run, its start included."""

CASES = {
    "unreachable at start": ("none", {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}),
    "no key": ("none", {"WANDB_BASE_URL": "http://127.0.0.1:9"}),
    "server dies mid-run": ("stop-server-mid", {"LOOPBACK": "1"}),
    "server dies at the end": ("stop-server-end", {"LOOPBACK": "1"}),
    "client process killed": ("kill-client", {"LOOPBACK": "1"}),
}


def train(run: Path, mode: str, fault: str, environment: dict[str, str]) -> tuple[dict[str, Any], float, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    places = os.pathsep.join((str(HERE.parents[1]), str(HERE)))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(HERE / "tiny.py"), str(run), mode, fault],
        env=inherited | {"PYTHONPATH": places, "WANDB_HTTP_TIMEOUT": PATIENCE_S} | environment,
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1]), seconds, done.stderr


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


@pytest.mark.timeout(1800)
def test_f7_training_is_the_same_without_the_tracker(tmp_path: Path) -> None:
    alone, _, _ = train(tmp_path / "alone", "none", "none", {})
    usual, _, _ = train(tmp_path / "usual", "offline", "none", {})
    assert usual["weights"] == alone["weights"]
    rounds = 2 if FULL else 1
    added: list[float] = []
    kinds = list(CASES.items())
    if not FULL:  # the others differ in where the server stops answering
        kinds = [
            item
            for item in kinds
            if item[0] in ("unreachable at start", "server dies mid-run", "client process killed")
        ]
    for number in range(rounds):
        for name, (fault, environment) in kinds:
            run = tmp_path / f"{name} {number}"
            told, _, errors = train(run, "online", fault, environment)
            assert told["weights"] == alone["weights"], name
            assert metrics(run) == metrics(tmp_path / "alone"), name
            assert told["mode"] == ("offline" if fault == "none" else "online"), name
            lines = [line for line in errors.splitlines() if line.startswith("tracker:")]
            assert len(lines) == 1, (name, errors[-1500:])
            added.append(told["seconds"] - usual["seconds"])
    print(f"\n  figure F7: {len(added)}/{len(added)} bit-equal with exit 0, at most {max(added):.1f} s added")
    if os.environ.get("QUIET_MACHINE") == "1":  # seconds mean nothing beside other work
        assert max(added) <= ADDED_S
