"""Experiment YAMLs: OmegaConf merges and interpolates, jsonargparse types and checks.

``compose`` stacks every ``-c FILE`` and every ``--a.b=value`` from left to right, the later one winning, and
resolves ``${…}`` once at the end, so that an override reaches everything that refers to it. ``parse`` then
checks each key against the real signatures. The saved ``experiment.yaml`` runs again identically.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_adc.domain.errors import UsageError

ALLOWED_IMPORTS: Final = ("diffusion_adc.stages.", "diffusion_adc.data.", "lightning.pytorch.")
"""A class named in a YAML must live below one of these; anything else is refused before it is imported."""

GROUPS: Final[Mapping[str, str]] = {
    "trainer": "lightning.pytorch.Trainer",
    "ema": "diffusion_adc.stages.EMA",
    "grids": "diffusion_adc.callbacks.grids.SampleGrid",
    "checkpoints": "diffusion_adc.callbacks.checkpoints.Checkpoints",
    "tracking": "diffusion_adc.callbacks.tracking.Tracking",
    "draws": "diffusion_adc.inference.settings.DrawSettings",
}
"""Plain groups of an experiment and the class whose arguments they are."""

OWNED: Final[Mapping[str, frozenset[str]]] = {
    "trainer": frozenset({"callbacks", "logger", "default_root_dir", "enable_checkpointing", "plugins"})
}
"""Arguments the command line sets itself; a YAML may not."""

_MOST_VALUES: Final = 20_000

SCALARS: Final = ("seed", "cohort", "name")
"""Top-level values of an experiment."""


@dataclass(frozen=True)
class Experiment:
    """A composed experiment.

    Attributes:
        values: Resolved values, plain Python types.
        origin: Dotted key → the file or command-line word it came from, for messages.
    """

    values: dict[str, Any]
    origin: Mapping[str, str] = field(default_factory=dict)


def compose(files: Sequence[Path], overrides: Sequence[str] = ()) -> Experiment:
    """Merge files and overrides left to right and resolve them.

    Args:
        files: YAML (or JSON) files; dotted keys inside them are expanded.
        overrides: ``--a.b=value`` words; the value is read as YAML (``null``, ``[1, 2]``, ``1e-3``).

    Raises:
        UsageError: A file is missing or not YAML, an override has no value, an interpolation fails.
    """
    merged: Any = OmegaConf.create({})
    origin: dict[str, str] = {}
    for source, values in [*_files(files), *_overrides(overrides)]:
        new = _expanded(values)
        _drop_arguments_of_another_class(merged, new)
        merged = OmegaConf.merge(merged, new)
        origin.update(dict.fromkeys((key for key, _ in _leaves(values)), source))
    try:
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"an interpolation cannot be resolved ({str(error).splitlines()[0]})", do="check the ${…}"
        ) from None
    assert isinstance(plain, dict)
    return Experiment({str(key): value for key, value in plain.items()}, origin)


def _drop_arguments_of_another_class(merged: Any, new: Any) -> None:
    """Where a later file names another class, that class starts with its own arguments."""
    for group in ("model", "data"):
        before, after = (OmegaConf.select(values, f"{group}.class_path") for values in (merged, new))
        if after is not None and before not in (None, after):
            merged[group].init_args = {}


def _files(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files:
        try:
            values = _loaded(path.read_text(encoding="utf-8"), path.name)
        except OSError:
            raise UsageError(
                f"no experiment file {path.name}", "a YAML file", "check the path after -c"
            ) from None
        except yaml.YAMLError as error:
            where = getattr(error, "problem_mark", None)
            line = f" at line {where.line + 1}" if where else ""
            raise UsageError(f"{path.name} is not YAML{line}", "plain YAML without tags") from None
        if not isinstance(values, dict):
            raise UsageError(f"{path.name} holds no keys", "a mapping of keys to values")
        yield path.name, values


def _overrides(overrides: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for word in overrides:
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals or not key:
            raise UsageError(
                f"the word {word!r}", "--key=value", "write an override as one word with an equals sign"
            )
        try:
            value = _loaded(text, f"the value of --{key}")
        except yaml.YAMLError:
            raise UsageError(f"the value of --{key}", "a YAML value") from None
        yield f"--{key}", {key: value}


def _loaded(text: str, source: str) -> Any:
    """Plain YAML.

    Raises:
        UsageError: Its aliases unfold to more values than an experiment can have.
        YAMLError: It is not YAML.
    """
    node = yaml.compose(text, Loader=_Numbers)
    if node is not None and _unfolded(node, {}) > _MOST_VALUES:
        raise UsageError(
            f"{source} has aliases that unfold to more than {_MOST_VALUES} values", "an experiment's values",
            "write the values out",
        )  # fmt: skip
    return yaml.load(text, Loader=_Numbers)


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, a shared one counted wherever it is used; one that holds itself has too many."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1
        parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else ()
        below = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in below)
    return known[id(node)]


class _Numbers(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text; engineers mean a number."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _expanded(values: Mapping[str, Any]) -> Any:
    """Dotted keys opened, so that interpolation sees them."""
    opened: Any = OmegaConf.create({})
    for key, value in values.items():
        nested = _expanded(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            nested = {part: nested}
        opened = OmegaConf.merge(opened, OmegaConf.create(nested))
    return opened


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        yield dotted, value
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{dotted}.")


def _imported(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type):
        raise AttributeError(name)
    return found


def _check_imports(experiment: Experiment) -> None:
    for key, value in _leaves(experiment.values):
        if key.rsplit(".", 1)[-1] != "class_path":
            continue
        if not isinstance(value, str) or not value.startswith(ALLOWED_IMPORTS):
            raise UsageError(
                f"{_from(experiment, key)}: class {value!r}",
                f"a class below {', '.join(ALLOWED_IMPORTS)}",
                "classes outside the allow-list are never imported",
            )


def _from(experiment: Experiment, key: str) -> str:
    source = experiment.origin.get(key)
    return f"key {key!r}" + (f" (from {source})" if source and not source.startswith("--") else "")


def _parameters(kind: type, skip: frozenset[str] = frozenset()) -> list[str]:
    signature = inspect.signature(kind)
    return [name for name in signature.parameters if name != "self" and name not in skip]


def _check_keys(experiment: Experiment) -> None:
    """Every key must exist; the nearest valid one is named otherwise."""
    top = ("model", "data", *GROUPS, *SCALARS)
    _members(experiment, "", experiment.values, top)
    for group in ("model", "data"):
        section = experiment.values.get(group)
        if section is None:
            raise UsageError(
                f"no {group!r} section", "one with class_path", "stack -c experiments/base.yaml first"
            )
        _members(experiment, f"{group}.", section, ("class_path", "init_args"))
        if "class_path" not in section:
            raise UsageError(f"no {group}.class_path", "the class to build")
        try:
            kind = _imported(section["class_path"])
        except (ImportError, AttributeError):
            raise UsageError(
                f"{_from(experiment, f'{group}.class_path')}: no class {section['class_path']!r}",
                "an existing class",
            ) from None
        _members(experiment, f"{group}.init_args.", section.get("init_args") or {}, _parameters(kind))
    for group, class_path in GROUPS.items():
        names = _parameters(_imported(class_path), OWNED.get(group, frozenset()))
        _members(experiment, f"{group}.", experiment.values.get(group) or {}, names)


def _members(experiment: Experiment, prefix: str, section: Any, names: Sequence[str]) -> None:
    if not isinstance(section, Mapping):
        raise UsageError(
            f"{_from(experiment, prefix.rstrip('.'))} is {section!r}", "a mapping of keys to values"
        )
    for key in section:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            raise UsageError(
                f"{_from(experiment, f'{prefix}{key}')} is unknown",
                f"{prefix}{near[0]}" if near else f"one of {', '.join(names)}",
                "correct the name",
            )


def _parser() -> Any:
    import jsonargparse
    import lightning.pytorch as pl

    # Second wall behind _check_imports: jsonargparse itself must not import what a YAML names.
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=[prefix.rstrip(".") for prefix in ALLOWED_IMPORTS]
    )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", type=str, default="run")
    parser.add_argument("--cohort", type=str)
    parser.add_subclass_arguments(pl.LightningModule, "model", required=True)
    parser.add_subclass_arguments(pl.LightningDataModule, "data", required=True)
    for group, class_path in GROUPS.items():
        skip = set(OWNED.get(group, frozenset()))
        # The trainer is built by the command line, which adds callbacks, logger and checkpoint door.
        parser.add_class_arguments(
            _imported(class_path), group, skip=skip or None, instantiate=group != "trainer"
        )
    return parser


def parse(experiment: Experiment) -> tuple[Any, Any]:
    """Check every key and type of an experiment against the real signatures.

    Returns:
        The jsonargparse parser and the parsed namespace; ``dump`` and ``instantiate`` take them.

    Raises:
        UsageError: A key is unknown (the nearest valid one is named), a value has the wrong type, or a class
            lies outside the allow-list.
    """
    _check_imports(experiment)
    _check_keys(experiment)
    parser = _parser()
    try:
        return parser, parser.parse_object(experiment.values)
    except Exception as error:
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
        raise UsageError("; ".join(lines[:3]), do="correct the value") from None


def dump(parser: Any, namespace: Any) -> str:
    """The complete experiment as YAML: every default spelt out, so that it runs again identically."""
    values = json.loads(parser.dump(namespace, format="json", skip_link_targets=False, skip_unset=False))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def instantiate(parser: Any, namespace: Any) -> Any:
    """Build model, data and the groups' objects of a parsed experiment.

    Raises:
        UsageError: A class refuses its arguments.
    """
    try:
        return parser.instantiate_classes(namespace)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error).splitlines()[0], do="correct the experiment") from None
