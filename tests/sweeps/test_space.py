"""A sweep YAML in W&B's schema means the same here as there, and a wrong one is refused in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.sweeps.space import Sweep, read_sweep

pytest.importorskip("optuna")

GOOD = """
name: widths
method: random
metric: {name: val/loss, goal: minimize}
parameters:
  model.init_args.learning_rate: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}
  model.init_args.channels: {values: [[16, 32], [24, 48, 96]]}
  model.init_args.codec: {values: [haar, identity]}
  model:
    parameters:
      init_args:
        parameters:
          steps: {min: 2, max: 8}
  data.init_args.batch_size: {value: 4}
  model.init_args.shift: {value: null}
command: ["${env}", "${interpreter}", diffusion-adc, fit, -c, base.yaml, -c, demo.yaml, -c, "${args_json_file}"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def changed(tmp_path: Path, old: str, new: str) -> Sweep:
    assert old in GOOD
    return read_sweep(write(tmp_path, GOOD.replace(old, new)))


def test_every_kind_of_parameter_keeps_its_type(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, GOOD))
    kinds = sweep.distributions()
    assert set(kinds) == {
        "model.init_args.learning_rate", "model.init_args.channels", "model.init_args.codec", "model.init_args.steps",
    }  # fmt: skip
    assert kinds["model.init_args.learning_rate"].log
    assert (kinds["model.init_args.steps"].low, kinds["model.init_args.steps"].high) == (2, 8)
    chosen = {"model.init_args.channels": json.dumps([24, 48, 96]), "model.init_args.codec": "haar"}
    assert sweep.arguments(chosen) == {
        "data.init_args.batch_size": 4, "model.init_args.shift": None,
        "model.init_args.channels": [24, 48, 96], "model.init_args.codec": "haar",
    }  # fmt: skip
    assert [path.name for path in sweep.experiment_files] == ["base.yaml", "demo.yaml"]
    assert sweep.command[0] == "diffusion-adc"


def test_log_uniform_takes_exponents_as_the_schema_says(tmp_path: Path) -> None:
    sweep = changed(tmp_path, "log_uniform_values, min: 1.0e-4, max: 1.0e-2", "log_uniform, min: -9, max: -4")
    kind = sweep.distributions()["model.init_args.learning_rate"]
    assert math.isclose(kind.low, math.exp(-9))
    assert math.isclose(kind.high, math.exp(-4))


def test_a_grid_holds_every_combination_once(tmp_path: Path) -> None:
    text = GOOD.replace("method: random", "method: grid").replace(
        "{distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}",
        "{distribution: q_uniform, min: 0.1, max: 0.3, q: 0.1}",
    )
    grid = read_sweep(write(tmp_path, text)).grid()
    assert len(grid) == len({json.dumps(values, sort_keys=True) for values in grid}) == 3 * 2 * 2 * 7


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("method: random", "method: luck", "bayes, random, grid"),
        ("metric: {name: val/loss, goal: minimize}", "metric: loss", "metric"),
        ("goal: minimize", "goal: best", "minimize or maximize"),
        ("name: widths", "nam: widths", "nam"),
        ("name: widths", "name: ../up", "letters"),
        (', "${args_json_file}"', ", x.yaml", "args_json_file"),
        ("demo.yaml", "demo.yaml, --out, x", "--out"),
        ("{values: [haar, identity]}", "haar", "min and max"),
        ("{values: [haar, identity]}", "{values: haar}", "a list"),
        ("{min: 2, max: 8}", "{min: 8, max: 2}", "range"),
        ("log_uniform_values", "beta", "beta"),
        ("method: random", "method: grid", "values: […]"),
        ("method: random", "method: !!python/object/apply:os.system ['true']", "plain YAML"),
        ("name: widths", "name: widths\nrun_cap: many", "number of trials"),
        ("name: widths", "name: widths\nearly_terminate: {type: luck}", "hyperband"),
    ],
)
def test_a_wrong_sweep_is_refused_in_words(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match=None) as caught:
        changed(tmp_path, old, new)
    assert said in str(caught.value)
