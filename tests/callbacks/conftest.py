"""A server on the loopback interface, and small runs of the tracker without any model behind them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASE_KEY = "5a" * 16
PERSON = "AB-0001"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def loopback_module() -> ModuleType:
    return _load("loopback")


@pytest.fixture
def loopback(loopback_module: ModuleType) -> Iterator[Any]:
    with loopback_module.Loopback() as server:
        yield server


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of the tracker; whatever a test sets is gone afterwards."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def experiment(**tracking: Any) -> dict[str, Any]:
    """The part of an experiment that the tracker reads."""
    return {
        "name": "tiny", "seed": 3, "cohort": "/data/yamada/cohort",
        "model": {"class_path": "diffusion_adc.stages.PresenceFlowStage", "init_args": {"learning_rate": 0.001}},
        "tracking": {"mode": "offline", "project": "adc"} | tracking,
    }  # fmt: skip


def write_run(run: Path, provenance: str = "restricted", **tracking: Any) -> Path:
    """RUN with a record and an experiment, as `fit` leaves them."""
    import yaml

    from diffusion_adc.custody.lineage import keyed_hash

    run.mkdir(parents=True, exist_ok=True)
    record = {
        "state": "finished", "steps": 4, "cohort_digest": "ab" * 32, "provenance": provenance, "seed": 3,
        "case_key": CASE_KEY, "cases": [keyed_hash(f"{PERSON}_01", CASE_KEY)], "parents": [],
        "experiment_sha256": "cd" * 32, "git_commit": "ef" * 20, "command": ["diffusion-adc", "fit"],
    }  # fmt: skip
    (run / "record.json").write_text(json.dumps(record))
    (run / "experiment.yaml").write_text(yaml.safe_dump(experiment(**tracking)))
    return run


@pytest.fixture
def make_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def script(loopback_module: ModuleType) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code in a process of its own: the client's state and hooks at exit are part of what is tested."""

    def run(
        code: str, *words: object, cwd: Path = ROOT, timeout: float = 280, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        places = os.pathsep.join((str(ROOT), str(HERE)))
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            env=inherited | {"PYTHONPATH": places, "WANDB_HTTP_TIMEOUT": "60"} | environment,
            cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run
