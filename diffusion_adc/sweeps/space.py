"""A sweep YAML in W&B's schema → what to try, how to judge it and which command runs one trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from diffusion_adc.domain.errors import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METHODS: Final = ("bayes", "random", "grid")
DISTRIBUTIONS: Final = (
    "categorical", "uniform", "int_uniform", "q_uniform", "log_uniform", "log_uniform_values",
)  # fmt: skip
ARGS_FILE: Final = "${args_json_file}"
"""Where a command takes the trial's values: a JSON file of dotted keys. Text would turn null into 'None'."""
_KEYS: Final = (
    "name", "description", "project", "entity", "program", "method", "metric", "parameters", "early_terminate",
    "command", "run_cap",
)  # fmt: skip
_IGNORED_MACROS: Final = ("${env}", "${interpreter}", "${program}")
_NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: Of the sweep; its folder's name.
        method: ``bayes`` (tree-structured Parzen estimator), ``random`` or ``grid``.
        metric: Column of metrics.csv that is optimized.
        maximize: Larger is better.
        parameters: Dotted key → W&B's description of its values.
        prune: W&B's ``early_terminate`` (hyperband), None for none.
        command: Words of one trial; `ARGS_FILE` stands for the trial's values.
        run_cap: Trials in all where the command line does not say.
        text: The YAML as it was.
    """

    name: str
    method: str
    metric: str
    maximize: bool
    parameters: Mapping[str, Mapping[str, Any]]
    prune: Mapping[str, Any] | None
    command: tuple[str, ...]
    run_cap: int | None
    text: str

    @property
    def constants(self) -> dict[str, Any]:
        """Keys with one value."""
        return {key: spec["value"] for key, spec in self.parameters.items() if "value" in spec}

    @property
    def experiment_files(self) -> list[Path]:
        """The ``-c`` files of the command, without the trial's own."""
        words = self.command
        return [
            Path(after) for word, after in pairwise(words)
            if word in ("-c", "--config") and after != ARGS_FILE
        ]  # fmt: skip

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every key that varies.

        Raises:
            UsageError: A description that has no distribution here.
        """
        return {key: _distribution(key, spec) for key, spec in self.parameters.items() if "value" not in spec}

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, as Optuna's values.

        Raises:
            UsageError: A key without a finite list of values.
        """
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        choices: dict[str, list[Any]] = {}
        for key, distribution in self.distributions().items():
            if isinstance(distribution, CategoricalDistribution):
                choices[key] = list(distribution.choices)
            elif isinstance(distribution, IntDistribution) and not distribution.log:
                choices[key] = list(range(distribution.low, distribution.high + 1, distribution.step))
            elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
                count = int((distribution.high - distribution.low) / distribution.step + 1.5)
                choices[key] = [distribution.low + n * distribution.step for n in range(count)]
            else:
                raise UsageError(f"grid over {key}", "values: […] or whole numbers", "list its values")
        return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]

    def arguments(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial is given: constants and the chosen values, lists and mappings as they were."""
        values = {}
        for key, value in chosen.items():
            spec = self.parameters[key]
            packed = "values" in spec and any(isinstance(v, list | dict) for v in spec["values"])
            values[key] = json.loads(value) if packed else value
        return self.constants | values


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep YAML.

    Raises:
        UsageError: The file is missing or says something that cannot be run.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except OSError:
        raise UsageError(f"no sweep file {path.name}", "a YAML file", "check the path") from None
    except yaml.YAMLError:
        raise UsageError(f"{path.name} is not YAML", "plain YAML without tags") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path.name} holds no keys", "method, metric, parameters and command")
    for key in values:
        if key not in _KEYS:
            raise UsageError(f"key {key!r} of the sweep", f"one of {', '.join(_KEYS)}", "correct the name")
    method = values.get("method")
    if method not in METHODS:
        raise UsageError(f"method {method!r}", f"one of {', '.join(METHODS)}")
    metric = values.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UsageError("no metric", "metric: {name: val/loss, goal: minimize}")
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise UsageError(f"goal {metric.get('goal')!r}", "minimize or maximize")
    parameters = _flat(values.get("parameters"))
    command = tuple(str(word) for word in values.get("command") or ())
    if ARGS_FILE not in command:
        raise UsageError(
            f"a command without {ARGS_FILE}", f"[diffusion-adc, fit, -c, EXPERIMENT, -c, {ARGS_FILE}]",
            "give each trial its values as a file",
        )  # fmt: skip
    if "--out" in command:
        raise UsageError("--out in the command", "none", "the sweep names the run folders itself")
    prune = values.get("early_terminate")
    if prune is not None and (not isinstance(prune, dict) or prune.get("type") != "hyperband"):
        raise UsageError("early_terminate", "{type: hyperband, min_iter: 3}")
    name = str(values.get("name") or path.stem)
    if not name or not set(name) <= _NAME_LETTERS or name.startswith("."):
        raise UsageError(f"name {name!r}", "letters, digits, . _ and -")
    cap = values.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise UsageError(f"run_cap {cap!r}", "a number of trials")
    sweep = Sweep(
        name=name, method=method, metric=metric["name"], maximize=metric.get("goal") == "maximize",
        parameters=parameters, prune=prune,
        command=tuple(word for word in command if word not in _IGNORED_MACROS), run_cap=cap, text=text,
    )  # fmt: skip
    sweep.distributions()
    if method == "grid":
        sweep.grid()
    return sweep


def _flat(parameters: Any, prefix: str = "") -> dict[str, dict[str, Any]]:
    """W&B's nested ``parameters`` as dotted keys."""
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError("no parameters", "parameters: {model.init_args.learning_rate: {min: …, max: …}}")
    flat: dict[str, dict[str, Any]] = {}
    for key, spec in parameters.items():
        if not isinstance(spec, dict):
            raise UsageError(f"parameter {prefix}{key}", "value, values, or min and max")
        if "parameters" in spec:
            flat |= _flat(spec["parameters"], f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = spec
    return flat


def _distribution(key: str, spec: Mapping[str, Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "values" in spec:
        values = spec["values"]
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise UsageError(f"values of {key}", "a list")
        # Optuna stores scalars only.
        packed = any(isinstance(value, list | dict) for value in values)
        return CategoricalDistribution([json.dumps(value) if packed else value for value in values])
    low, high = spec.get("min"), spec.get("max")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high)):
        raise UsageError(f"parameter {key}", "value, values, or min and max")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    whole = isinstance(low, int) and isinstance(high, int)
    kind = spec.get("distribution") or ("int_uniform" if whole else "uniform")
    step = spec.get("q")
    try:
        if kind == "int_uniform":
            return IntDistribution(int(low), int(high))
        if kind == "uniform":
            return FloatDistribution(float(low), float(high))
        if kind == "q_uniform":
            if whole and float(step or 1).is_integer():
                return IntDistribution(int(low), int(high), step=int(step or 1))
            return FloatDistribution(float(low), float(high), step=float(step or 1))
        if kind == "log_uniform_values":
            return FloatDistribution(float(low), float(high), log=True)
        if kind == "log_uniform":  # W&B gives the exponents
            return FloatDistribution(math.exp(low), math.exp(high), log=True)
    except ValueError as error:
        raise UsageError(f"parameter {key}: {error}", "a range") from None
    raise UsageError(
        f"distribution {kind!r} of {key}",
        f"one of {', '.join(DISTRIBUTIONS)}",
    )
