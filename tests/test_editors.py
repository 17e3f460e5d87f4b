"""Shell completion from the real command table, and schemas that accept what runs and refuse what does not."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from diffusion_adc.cli import _parser, main
from diffusion_adc.config import _Numbers

ROOT = Path(__file__).parents[1]
YAMLS = sorted((ROOT / "experiments").rglob("*.yaml"))
EXPERIMENTS = [path for path in YAMLS if "sweeps" not in path.parts]
SWEEPS = [path for path in YAMLS if "sweeps" in path.parts]


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    from diffusion_adc.commands.schema import experiment_schema, sweep_schema

    experiment = experiment_schema()
    return {"experiment": experiment, "sweep": sweep_schema(experiment)}


def errors(schema: dict[str, Any], values: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(values)]


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Numbers)


def test_every_yaml_is_accepted(schemas: dict[str, Any]) -> None:
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert EXPERIMENTS
    assert SWEEPS
    for path in EXPERIMENTS:
        assert errors(schemas["experiment"], load(path)) == [], path.name
    for path in SWEEPS:
        assert errors(schemas["sweep"], load(path)) == [], path.name


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"init_args": {"chanels": [8]}}},
        {"model": {"class_path": "diffusion_adc.stages.PresenceFlowStage", "init_args": {"chanels": [8]}}},
        {"model": {"class_path": "os.system"}},
        {"data": {"init_args": {"batchsize": 2}}},
        {"data": {"init_args": {"batch_size": "many"}}},
        {"trainer": {"max_step": 3}},
        {"trainer": {"callbacks": []}},
        {"tracking": {"mode": "onlin"}},
        {"trackin": {}},
        {"seed": 1.5},
    ],
)
def test_a_typo_is_refused(schemas: dict[str, Any], values: Any) -> None:
    assert errors(schemas["experiment"], values)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": "${other.seed}", "model": {"init_args": {"channels": [8, "${width}"]}}},
        {"trainer": {"precision": "bf16-mixed", "devices": 2, "profiler": "simple", "max_epochs": None}},
        {"trainer": {"fast_dev_run": True}, "tracking": {"tensorboard": True, "servers": ["example.org"]}},
        {},
    ],
)
def test_what_runs_is_accepted(schemas: dict[str, Any], values: Any) -> None:
    assert errors(schemas["experiment"], values) == []


def test_a_sweep_varies_only_keys_that_exist(schemas: dict[str, Any]) -> None:
    sweep = load(SWEEPS[0])
    for key, spec, accepted in (
        ("trainer.max_epochs", {"values": [1, 2]}, True),
        ("trainer.max_epoch", {"values": [1, 2]}, False),
        ("trainer.max_epochs", {"min": 1}, False),
        ("trainer.max_epochs", {"min": 1, "max": 2, "distribution": "gauss"}, False),
    ):
        assert (errors(schemas["sweep"], {**sweep, "parameters": {key: spec}}) == []) is accepted, (key, spec)
    assert errors(schemas["sweep"], {**sweep, "command": ["diffusion-adc", "fit"]})


def test_the_command_prints_the_schema(schemas: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "sweep"]) == 0
    assert json.loads(capsys.readouterr().out) == schemas["sweep"]
    described = schemas["experiment"]["properties"]["tracking"]["properties"]["servers"]["description"]
    assert "decision" in described, "editors show what the docstring says"


def _commands() -> list[str]:
    table = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return sorted(table.choices)


def test_bash_completes_every_command_and_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        typed = " ".join(f"'{word}'" for word in words)
        code = (
            f"source '{script}'; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
            "name=$(complete -p diffusion-adc | sed -E 's/.*-F ([^ ]+).*/\\1/'); "
            f"$name diffusion-adc '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert sorted(set(completed("diffusion-adc", "")) & set(_commands())) == _commands()
    assert completed("diffusion-adc", "eva") == ["evaluate"]
    assert "--dry-run" in completed("diffusion-adc", "sync", "--")
    assert completed("diffusion-adc", "export", "--to", "dic") == ["dicom"]


def test_zsh_script_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef diffusion-adc")
    listed = re.search(r"local _commands=\((.*?)\n  \)", script, re.DOTALL)
    assert listed is not None
    assert sorted(re.findall(r"^ *([a-z-]+):'", listed[1], re.MULTILINE)) == _commands()
