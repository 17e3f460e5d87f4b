"""Who starts the workers: this machine, a SLURM cluster, or W&B's agents."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from diffusion_adc.domain.errors import DiffusionAdcError, StoppedBySignal, UsageError
from diffusion_adc.sweeps.folder import Plan, create
from diffusion_adc.sweeps.space import Sweep
from diffusion_adc.sweeps.worker import SIGNALLED, work

LAUNCHERS: Final = ("local", "slurm")


def run_here(folder: Path, sweep: Sweep, trials: int | None, seed: int, workers: int, stall_s: float) -> Plan:
    """Run a sweep with worker processes on this machine; joins a sweep that is there.

    Raises:
        StoppedBySignal: A worker was stopped by a signal; the sweep is resumable.
        UsageError: Wrong sweep, or the trials all fail of one cause.
        DiffusionAdcError: A worker died.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers", "at least 1")
    plan = create(folder, sweep, trials, seed)
    if workers == 1:
        work(folder, stall_s=stall_s, report=lambda line: print(line, flush=True))
        return plan
    command = [sys.executable, "-m", "diffusion_adc", "sweep", "work", str(folder), "--stall", str(stall_s)]
    started = [subprocess.Popen(command, start_new_session=False) for _ in range(workers)]
    try:
        codes = [process.wait() for process in started]
    except BaseException:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
        raise
    if SIGNALLED in codes:
        raise StoppedBySignal("a worker was stopped by a signal", do="run the same command again to resume")
    if 2 in codes:
        raise UsageError("the sweep stopped early", do="see the lines above and `diffusion-adc sweep status`")
    if any(codes):
        raise DiffusionAdcError(
            f"a worker ended with exit code {max(codes, key=abs)}", do="run the command again"
        )
    return plan


def run_on_cluster(
    folder: Path, sweep: Sweep, trials: int | None, seed: int, workers: int, stall_s: float,
    options: dict[str, Any], cluster: str | None = None,
) -> list[Any]:  # fmt: skip
    """Submit the workers as one job array; each takes trials until none is left.

    A job that reaches its time limit is requeued by submitit alone: the trial inside is told to save and exits,
    the trainer never sees SLURM's variables, so that nothing is requeued twice.

    Args:
        folder: Of the sweep, on a file system all nodes share.
        sweep: The sweep.
        trials: Trials in all.
        seed: Of the search.
        workers: Jobs of the array.
        stall_s: As in `work`.
        options: submitit's parameters: ``timeout_min``, ``slurm_partition``, ``gpus_per_node`` …
        cluster: ``slurm``, ``local`` or None for what is found.

    Returns:
        submitit's jobs.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "submitit is not installed", "the extra `sweep`", "install diffusion-adc[sweep]"
        ) from None
    create(folder, sweep, trials, seed)
    executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster)
    parameters = {"timeout_min": 720, "name": sweep.name} | options
    if executor.cluster == "slurm":
        parameters.setdefault("slurm_array_parallelism", workers)
    executor.update_parameters(**parameters)
    with executor.batch():
        jobs = [executor.submit(ClusterWorker(str(folder.resolve()), stall_s)) for _ in range(workers)]
    return jobs


class ClusterWorker:
    """A worker as submitit pickles it.

    Args:
        folder: The sweep's folder.
        stall_s: As in `work`.
    """

    def __init__(self, folder: str, stall_s: float) -> None:
        self.folder, self.stall_s = folder, stall_s

    def __call__(self) -> str:
        """Work until nothing is left."""
        work(Path(self.folder), stall_s=self.stall_s)
        return "done"

    def checkpoint(self) -> Any:
        """Called by submitit shortly before the time limit: the same worker once more."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def run_with_wandb(
    sweep: Sweep, project: str, entity: str | None, workers: int, trials: int | None
) -> tuple[str, int]:
    """Register the sweep with W&B and run its agents here.

    Args:
        sweep: The sweep.
        project: W&B project.
        entity: W&B entity; None for the account's own.
        workers: Agents started here; 0 only registers.
        trials: Trials per agent, None until the sweep is done.

    Returns:
        ``entity/project/id`` of the sweep and the agents' worst exit code.

    Raises:
        UsageError: No key, or a server that cannot be reached.
    """
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise UsageError(
            "no W&B key", "WANDB_API_KEY", "set it, or use --engine optuna, which needs no account"
        )
    spec = yaml.safe_load(sweep.text)
    # The agent runs what PATH finds; the sweep must run this environment.
    spec["command"] = [
        *(
            [sys.executable, "-m", "diffusion_adc"]
            if sweep.command[0] == "diffusion-adc"
            else sweep.command[:1]
        ),
        *sweep.command[1:],
    ]
    spec.setdefault("program", "diffusion-adc")
    try:
        sweep_id = wandb.sweep(spec, project=project, entity=entity)
    except Exception as error:
        raise UsageError(
            f"W&B refused the sweep ({type(error).__name__})", "a reachable server and a valid key"
        ) from None
    where = "/".join(part for part in (entity, project, sweep_id) if part)
    words = [sys.executable, "-m", "wandb", "agent", *(["--count", str(trials)] if trials else []), where]
    agents = [subprocess.Popen(words) for _ in range(workers)]
    return where, max((agent.wait() for agent in agents), default=0)
