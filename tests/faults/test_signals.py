"""F2: SIGTERM and SIGUSR1 at any moment save, end with the code for requeueing, and lose nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffusion_adc.domain.errors import StoppedBySignal

Figure = Callable[[str, Any], None]
Count = Callable[..., int]
REQUEUE = StoppedBySignal.exit_code
MOMENTS = ("step", "validation", "save", "twice", "before")


def slow_at(rig: ModuleType, moment: str, note: Path) -> None:
    """In a child: take a second at a moment, and say that it has come."""
    from diffusion_adc.callbacks.checkpoints import AtomicCheckpointIO
    from diffusion_adc.stages import PresenceFlowStage

    kind: type
    kind, name = {
        "validation": (PresenceFlowStage, "validation_step"),
        "save": (AtomicCheckpointIO, "save_checkpoint"),
        "before": (PresenceFlowStage, "on_fit_start"),
    }.get(moment, (PresenceFlowStage, "training_step"))
    rig.slowed(kind, name, 1.0, note)


def stopped(
    rig: ModuleType, cohort: Path, run: Path, moment: str, number: int, *overrides: str
) -> tuple[float, str]:
    """Train, send a signal at a moment; how long it took to end, and what it said."""
    note = run.with_suffix(".note")

    def work() -> None:
        slow_at(rig, moment, note)
        rig.train(cohort, run, *overrides)

    child = rig.start(work, run.with_suffix(".txt"))
    rig.until(note.exists, child=child)
    sent = time.monotonic()
    child.signal(number)
    if moment == "twice":
        time.sleep(0.2)
        child.signal(number)
    assert child.wait(60) == REQUEUE, child.text()
    return time.monotonic() - sent, child.text()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_f2_stopped_at_any_moment_and_resumed_is_the_uninterrupted_run(
    rig: ModuleType, cohort: Path, straight: Path, tmp_path: Path, count: Count, figure: Figure
) -> None:
    whole, seconds = rig.load(straight), []
    trials = count(30, len(MOMENTS))
    numbers = itertools.cycle((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1))
    for trial, (moment, number) in enumerate(zip(itertools.cycle(MOMENTS), numbers, strict=False)):
        if trial == trials:
            break
        run = tmp_path / f"{trial}-{moment}"
        took, said = stopped(rig, cohort, run, moment, number)
        seconds.append(took)
        assert f"stopped by {number.name}" in said
        record = json.loads((run / "record.json").read_text())
        assert record["state"] == "stopped"
        assert rig.step_saved(run) == {"validation": 4, "save": 5, "before": 0}.get(moment, 1)
        child = rig.start(lambda run=run: rig.train(cohort, run), tmp_path / "said")
        assert child.wait() == 0, child.text()
        assert rig.differences(whole, rig.load(run)) == [], moment
        assert rig.losses(run, "val/") == rig.losses(straight, "val/"), moment
    assert max(seconds) < 10
    figure("F2", {"stopped": trials, "resumed bit-equal": trials, "longest s": round(max(seconds), 1)})


FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "{log}"
{then}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_f2_the_job_script_requeues_once_and_the_trainer_never(
    rig: ModuleType, cohort: Path, tmp_path: Path, figure: Figure
) -> None:
    log, tools = tmp_path / "calls", tmp_path / "bin"
    tools.mkdir()
    step = 'while [[ "$1" == --* ]]; do shift; done; SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 exec "$@"'
    for name, then in (("srun", step), ("scontrol", "exit 0")):
        tool = tools / name
        tool.write_text(FAKE.format(log=log, then=then))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    run = tmp_path / "run"
    job = {
        "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "adc", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    words = ["bash", str(rig.ROOT / "experiments" / "slurm" / "fit.sbatch"), str(run), "-c", str(rig.BASE)]
    words += [f"--cohort={cohort}", *rig.SMALL, "--trainer.max_epochs=500"]
    script = subprocess.Popen(
        words, env={**os.environ, **job}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        rig.until(lambda: rig.step_saved(run) or script.poll() is not None, 200)
        # As the scheduler does for the steps of a job: the tasks, not the script.
        os.killpg(script.pid, signal.SIGUSR1)
        said, _ = script.communicate(timeout=100)
    finally:
        script.kill()
    assert script.returncode == REQUEUE, said
    calls = [line.split()[0] for line in log.read_text().splitlines()]
    assert calls == ["srun", "scontrol"], calls
    assert "requeue 77" in log.read_text()
    assert rig.step_saved(run) > 0
    figure("F2 requeues per stop", 1)
