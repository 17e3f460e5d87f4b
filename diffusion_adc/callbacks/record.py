"""What a run was: RUN/experiment.yaml and RUN/record.json."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl

from diffusion_adc.custody.lineage import keyed_hash, parents_of
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.records.atomic import write_json, write_text

EXPERIMENT: Final = "experiment.yaml"
RECORD: Final = "record.json"
_PACKAGES: Final = ("diffusion-adc", "torch", "lightning", "torchio", "monai", "numpy", "wandb")


def git_commit() -> str | None:
    """Commit of the code that runs, marked when the tree differs from it; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-modified" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hashed_cases(cohort: Cohort, key: str) -> list[str]:
    """The cohort's cases as keyed hashes: they prove use without naming anyone."""
    return sorted(keyed_hash(case.case_id, key) for case in cohort.cases)


class RunRecord(pl.Callback):
    """Writes the run's experiment and record when training starts and its state when it ends.

    Args:
        run_dir: The run's folder.
        experiment: The complete experiment as YAML.
        cohort: The cohort that is trained on.
        seed: The experiment's seed.
        command: Words of the command, paths reduced to their names.
    """

    def __init__(
        self, run_dir: Path, experiment: str, cohort: Cohort, seed: int, command: Sequence[str]
    ) -> None:
        self.path = run_dir / RECORD
        self.experiment = experiment
        earlier = read_record(run_dir)
        key = earlier.get("case_key") or secrets.token_hex(16)
        self.record: dict[str, Any] = {
            "state": "running",
            "experiment_sha256": hashlib.sha256(experiment.encode()).hexdigest(),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
            "git_commit": git_commit(),
            "cohort_digest": cohort.digest,
            "provenance": cohort.provenance,
            "case_key": key,
            # A case once used stays used, also when its person has left the cohort since.
            "cases": sorted({*hashed_cases(cohort, key), *earlier.get("cases", ())}),
            "parents": earlier.get("parents", []),
            "seed": seed,
            "command": [Path(word).name if word.startswith("/") else word for word in command],
        }

    def started_from(self, checkpoint: Path) -> None:
        """Remember the cases behind a checkpoint that another run made."""
        if checkpoint.resolve().parent.parent == self.path.resolve().parent:
            return
        known = self.record["parents"]
        self.record["parents"] = known + [parent for parent in parents_of(checkpoint) if parent not in known]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            write_text(self.path.with_name(EXPERIMENT), self.experiment)
            write_json(self.path, self.record)

    def finish(self, trainer: pl.Trainer, state: str) -> None:
        """Record how the run ended: ``finished`` or ``stopped``."""
        if trainer.is_global_zero:
            parameters = sum(p.numel() for p in trainer.lightning_module.parameters())
            self.record |= {"state": state, "steps": trainer.global_step, "parameters": parameters}
            write_json(self.path, self.record)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero and self.path.exists():
            self.record |= {
                "state": "failed",
                "error": type(exception).__name__,
                "steps": trainer.global_step,
            }
            write_json(self.path, self.record)


def read_record(run_dir: Path) -> dict[str, Any]:
    """RUN/record.json, or an empty dict if there is none."""
    try:
        return json.loads((run_dir / RECORD).read_text())
    except (OSError, ValueError):
        return {}
