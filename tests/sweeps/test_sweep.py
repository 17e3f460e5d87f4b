"""Trials are real processes here: they fail, hang, are killed and pruned, and none is lost or run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.sweeps.folder import JournalLock, create, load
from diffusion_adc.sweeps.launch import run_here, run_on_cluster
from diffusion_adc.sweeps.report import best, status
from diffusion_adc.sweeps.space import read_sweep
from diffusion_adc.sweeps.worker import work

pytest.importorskip("optuna")

# A trial as the sweep sees one: reads its values, writes metrics, ends one way or another.
TRIAL = """
import csv, json, os, pathlib, signal, sys, time
values = json.loads(pathlib.Path(sys.argv[sys.argv.index("-c") + 1]).read_text())
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]); out.mkdir(parents=True, exist_ok=True)
with open(out.parent / "starts.txt", "a") as starts: starts.write("x")
x, fault = values["x"], values.get("fault", "none")
def say(step, value):
    with open(out / "metrics.csv", "a") as f:
        if not f.tell(): f.write("step,val/loss\\n")
        f.write(f"{step},{value}\\n")
if fault == "crash": sys.exit("diffusion-adc fit: broken")
if fault == "memory": sys.exit("diffusion-adc fit: out of memory")
if fault == "nan": say(1, "nan"); sys.exit(4)
if fault == "kill": os.kill(os.getpid(), signal.SIGKILL)
if fault == "hang": time.sleep(600)
for step in range(1, values.get("steps", 2) + 1):
    say(step, (x - 3) ** 2 + 1 / step)
    time.sleep(values.get("sleep", 0))
"""
FAULTS = ("crash", "memory", "nan", "kill", "hang", "crash")


def sweep_file(folder: Path, **keys: Any) -> Path:
    program = folder / "trial.py"
    program.write_text(TRIAL)
    values = {
        "name": "stub", "method": "random", "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": {"x": {"min": 0.0, "max": 6.0}},
        "command": [sys.executable, str(program), "-c", "${args_json_file}"],
    } | keys  # fmt: skip
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(path: Path, out: Path, trials: int | None = None, stall_s: float = 60.0) -> list[dict[str, Any]]:
    create(out, read_sweep(path), trials, seed=3)
    work(out, stall_s=stall_s, poll_s=0.02, report=lambda line: None)
    return status(out)


def starts(out: Path, number: int) -> int:
    return len((out / "trials" / f"{number:04d}" / "starts.txt").read_text())


def test_every_trial_runs_once_and_the_best_is_found(tmp_path: Path) -> None:
    path, out = sweep_file(tmp_path), tmp_path / "out"
    rows = run(path, out, trials=6)
    assert [row["state"] for row in rows] == ["complete"] * 6
    assert len({row["x"] for row in rows}) == 6
    assert all(starts(out, n) == 1 for n in range(6))
    found = best(out, None)
    assert found["trial"] == min(rows, key=lambda row: abs(row["x"] - 3))["trial"]
    assert found["val/loss"] == pytest.approx((found["x"] - 3) ** 2 + 0.5)
    again = run(path, out, trials=6)  # nothing left: nothing runs
    assert again == rows
    assert [row["x"] for row in run(path, tmp_path / "twin", trials=6)] == [row["x"] for row in rows]
    assert len(run(path, out, trials=8)) == 8  # more trials extend the sweep


def test_a_grid_is_walked_once(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path, method="grid", parameters={"x": {"values": [1.0, 2.0]}, "sleep": {"values": [0, 0.01]}}
    )
    rows = run(path, tmp_path / "out")
    assert Counter((row["x"], row["sleep"]) for row in rows) == Counter(
        [(1.0, 0), (1.0, 0.01), (2.0, 0), (2.0, 0.01)]
    )


def test_a_hopeless_trial_is_pruned(tmp_path: Path) -> None:
    path = sweep_file(
        tmp_path, method="grid", early_terminate={"type": "hyperband", "min_iter": 1, "max_iter": 9, "eta": 3},
        parameters={
            "x": {"values": [3.0, 3.1, 2.9, 3.2, 90.0, 91.0, 92.0, 93.0]}, "steps": {"value": 9}, "sleep": {"value": 0.06},
        },
    )  # fmt: skip
    rows = run(path, tmp_path / "out")
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned
    assert all(row["x"] > 50 for row in pruned)
    assert best(tmp_path / "out", None)["x"] == 3.0


def test_five_failures_of_one_cause_stop_the_sweep(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, parameters={"x": {"min": 0.0, "max": 1.0}, "fault": {"value": "memory"}})
    with pytest.raises(UsageError, match="out of memory"):
        run(path, tmp_path / "out", trials=30)
    assert len(status(tmp_path / "out")) == 5


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(sweep_file(tmp_path), out, trials=1)
    with pytest.raises(UsageError, match="another sweep"):
        create(out, read_sweep(sweep_file(tmp_path, run_cap=9)), 1, seed=3)
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        create(other, read_sweep(sweep_file(tmp_path)), 1, seed=3)


def test_forty_trials_twelve_faults_and_a_killed_driver(tmp_path: Path) -> None:
    """The driver is killed by SIGKILL three times; 28 trials finish, 12 are recorded as failed."""
    total, faulty = (40, 12) if os.environ.get("FULL") else (20, 6)
    kinds = [FAULTS[n % len(FAULTS)] for n in range(faulty)]
    plan = [kinds.pop() if n % 3 == 1 and kinds else "none" for n in range(total)]
    # One combination per trial: the fault is read from a table by the trial's own number.
    program_values = {f"{n}": fault for n, fault in enumerate(plan)}
    path = sweep_file(
        tmp_path, method="grid", parameters={"x": {"values": list(range(total))}, "sleep": {"value": 0.05}}
    )
    program = tmp_path / "trial.py"
    program.write_text(
        TRIAL.replace(
            'fault = values["x"], values.get("fault", "none")',
            f'fault = values["x"], {program_values!r}[str(values["x"])]',
        )
    )
    out = tmp_path / "out"
    create(out, read_sweep(path), None, seed=0)
    driver = [
        sys.executable, "-c",
        "import sys, pathlib; from diffusion_adc.sweeps.worker import work; "
        "work(pathlib.Path(sys.argv[1]), stall_s=5.0, poll_s=0.02)", str(out),
    ]  # fmt: skip
    kills = 0
    while True:
        process = subprocess.Popen(driver, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=3.0 if kills < 3 else 240)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        if process.returncode == 0:
            break
    rows = status(out)
    states = Counter(row["state"] for row in rows)
    assert kills >= 1
    assert states == Counter(complete=total - faulty, failed=faulty)
    assert sorted(row["x"] for row in rows) == list(range(total))
    assert {row["x"] for row in rows if row["state"] == "failed"} == {
        n for n, fault in enumerate(plan) if fault != "none"
    }
    finished = [row["trial"] for row in rows]
    assert sum(starts(out, n) for n in finished) <= total + kills  # only what a kill cut short ran again


def test_waiting_for_the_journal_is_not_taken_for_a_hanging_trial(tmp_path: Path) -> None:
    """Another worker writes the journal for longer than a trial may be silent; the trial still completes."""
    path, out = (
        sweep_file(tmp_path, parameters={"x": {"value": 1.0}, "sleep": {"value": 0.5}}),
        tmp_path / "out",
    )
    sweep = read_sweep(path)
    create(out, sweep, 1, seed=0)
    lock = JournalLock(out / "journal.lock")

    def hold() -> None:
        while not list(out.glob("trials/*/run/metrics.csv")):
            time.sleep(0.01)
        lock.acquire()
        time.sleep(3.0)
        lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    work(out, stall_s=1.5, poll_s=0.3)
    holder.join()
    assert [row["state"] for row in status(out)] == ["complete"]


def test_journal_of_a_killed_worker_is_free_at_once(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from diffusion_adc.sweeps.folder import JournalLock; "
        "lock = JournalLock(pathlib.Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "journal.lock"
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        mine = JournalLock(lock)
        waiting = threading.Thread(target=mine.acquire, daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()  # one at a time
        holder.kill()
        waiting.join(5.0)
        assert not waiting.is_alive()
        mine.release()


def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    path, out = (
        sweep_file(tmp_path, parameters={"x": {"min": 0.0, "max": 6.0}, "sleep": {"value": 0.1}}),
        tmp_path / "out",
    )
    run_here(out, read_sweep(path), 6, seed=1, workers=2, stall_s=60)
    rows = status(out)
    assert [row["state"] for row in rows] == ["complete"] * 6
    assert all(starts(out, n) == 1 for n in range(6))


def test_a_stopped_worker_leaves_its_trial_to_the_next(tmp_path: Path) -> None:
    path, out = (
        sweep_file(tmp_path, parameters={"x": {"min": 0.0, "max": 6.0}, "sleep": {"value": 2}}),
        tmp_path / "out",
    )
    create(out, read_sweep(path), 1, seed=0)
    words = [sys.executable, "-m", "diffusion_adc", "sweep", "work", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "trials/0000/starts.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "again to resume" in said
    assert status(out)[0]["state"] == "interrupted"
    work(out, poll_s=0.05, report=lambda line: None)
    assert status(out)[0]["state"] == "complete"


def test_the_best_trial_becomes_an_experiment(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("seed: 1\nx: 0\nmodel: {init_args: {steps: 4}}\n")
    path = sweep_file(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["command"] = [*values["command"], "-c", str(base)]
    path.write_text(yaml.safe_dump(values))
    run(path, tmp_path / "out", trials=2)
    found = best(tmp_path / "out", tmp_path / "best.yaml")
    text = (tmp_path / "best.yaml").read_text()
    written = yaml.safe_load(text)
    assert written["x"] == found["x"]
    assert written["model"]["init_args"]["steps"] == 4
    assert text.startswith("# COMMAND")
    assert json.dumps(found)


def test_a_job_array_works_through_the_trials(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    path, out = sweep_file(tmp_path), tmp_path / "out"
    jobs = run_on_cluster(out, read_sweep(path), 3, 0, 2, 60.0, {"timeout_min": 5}, cluster="local")
    assert [job.result() for job in jobs] == ["done", "done"]
    assert [row["state"] for row in status(out)] == ["complete"] * 3
    _, study = load(out)
    assert len(study.trials) == 3
