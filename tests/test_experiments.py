"""Every experiment YAML is checked against the real signatures and says what it measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from diffusion_adc.config import compose, parse

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
YAMLS = sorted(path for path in FOLDER.rglob("*.yaml") if "sweeps" not in path.parts)


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_it_parses_against_the_real_signatures(path: Path) -> None:
    files = [FOLDER / "base.yaml"] + ([path] if path.name != "base.yaml" else [])
    parser, namespace = parse(compose(files))
    assert namespace.model.class_path.startswith("diffusion_adc.stages.")
    assert parser is not None


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_it_opens_with_command_time_and_result(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("COMMAND", "TIME", "RESULT"):
        assert any(re.match(rf"#\s+{word}\s+\S", line) for line in head), (
            f"{path.name} does not state its {word}"
        )


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_it_includes_no_other_file(path: Path) -> None:
    # Composing is stacking -c; a key that includes a file would merge shallowly and drop siblings.
    values = yaml.safe_load(path.read_text())
    assert "config" not in values
    assert "defaults" not in values


@pytest.mark.parametrize("path", sorted((FOLDER / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_a_sweep_asks_for_experiments_that_parse(path: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    from diffusion_adc.sweeps.space import read_sweep

    sweep = read_sweep(path)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(sweep.distributions())
    arguments = tmp_path / "args.json"
    arguments.write_text(json.dumps(sweep.arguments(trial.params)))
    parser, namespace = parse(compose([*(ROOT / file for file in sweep.experiment_files), arguments]))
    assert parser is not None
    assert namespace.model.init_args.learning_rate == trial.params["model.init_args.learning_rate"]
