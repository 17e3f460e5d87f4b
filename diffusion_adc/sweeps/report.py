"""What a sweep found: its trials as a table, and the best as an experiment of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diffusion_adc.config import compose
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.atomic import write_text
from diffusion_adc.sweeps.folder import load, trial_folder
from diffusion_adc.sweeps.worker import trial_record


def status(folder: Path) -> list[dict[str, Any]]:
    """One row per trial: number, state, value, seconds, its values, and the cause where it failed.

    Raises:
        UsageError: The folder holds no sweep.
    """
    sweep, study = load(folder)
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "WAITING":
            continue
        record = trial_record(trial_folder(folder, trial.number))
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}[
            trial.state.name
        ]
        if state == "running" and record.get("state") == "interrupted":
            state = "interrupted"
        rows.append(
            {
                "trial": trial.number, "state": state, sweep.metric: trial.value, "seconds": record.get("seconds"),
                **sweep.arguments(trial.params), "cause": trial.user_attrs.get("cause"),
            }
        )  # fmt: skip
    return rows


def best(folder: Path, to: Path | None) -> dict[str, Any]:
    """The best complete trial; written as an experiment YAML of its own if `to` is given.

    Raises:
        UsageError: No trial is complete.
    """
    sweep, study = load(folder)
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not complete:
        raise UsageError(
            f"no complete trial in {folder.name}", "at least one", "see `diffusion-adc sweep status`"
        )
    chosen = (max if sweep.maximize else min)(complete, key=lambda trial: float(trial.value or 0.0))
    arguments = sweep.arguments(chosen.params)
    found = {"trial": chosen.number, sweep.metric: chosen.value, **arguments}
    if to is not None:
        files = [*sweep.experiment_files, trial_folder(folder, chosen.number) / "args.json"]
        text = yaml.safe_dump(compose(files).values, sort_keys=False, allow_unicode=True)
        seconds = trial_record(trial_folder(folder, chosen.number)).get("seconds")
        write_text(
            to,
            f"# COMMAND  diffusion-adc fit -c {to.name} --out RUN\n"
            f"# TIME     {seconds} s as trial {chosen.number} of the sweep {sweep.name}\n"
            f"# RESULT   {sweep.metric} {chosen.value:.6g}, best of {len(complete)} complete trials\n{text}",
        )
    return found
