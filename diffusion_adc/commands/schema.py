"""JSON Schemas of the YAMLs, so that an editor completes keys and shows a typo while it is typed."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from abc import ABC
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from diffusion_adc.config import GROUPS, OWNED, SCALARS

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_WRITABLE: Final = (str, int, float, bool, list, tuple, dict)
_INTERPOLATION: Final = {"type": "string", "pattern": r"\$\{.+\}"}


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an experiment YAML, from the signatures that `config.parse` checks against.

    Nothing is required, since files stack, and any value may be an interpolation ``${…}``; a wrong key or type is
    an error. A section that names no class may hold the arguments of any of them.
    """
    import lightning.pytorch as pl

    properties: dict[str, Any] = {
        name: _or_interpolation({"type": kind})
        for name, kind in zip(SCALARS, ("integer", "string", "string"), strict=True)
    }
    for group, package, kind in (
        ("model", "diffusion_adc.stages", pl.LightningModule),
        ("data", "diffusion_adc.data", pl.LightningDataModule),
    ):
        members = vars(importlib.import_module(package)).items()
        properties[group] = _subclass_schema(
            {
                f"{package}.{name}": _arguments(member)
                for name, member in sorted(members)
                if inspect.isclass(member) and issubclass(member, kind) and ABC not in member.__bases__
            }
        )
    for group, class_path in GROUPS.items():
        module, _, name = class_path.rpartition(".")
        properties[group] = _arguments(
            getattr(importlib.import_module(module), name), OWNED.get(group, frozenset())
        )
    return {
        "$schema": DRAFT,
        "title": "diffusion-adc experiment",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": {"interpolation": _INTERPOLATION},
    }


def _arguments(kind: type, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Schema of a class's arguments as jsonargparse understands their types."""
    import jsonargparse

    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    parameters = [
        parameter.replace(
            annotation=_plain(hints.get(parameter.name, Any)),
            # A dataclass's factory stands in its signature as an object that says nothing.
            default=parameter.default if isinstance(parameter.default, _WRITABLE) else None,
        )
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.name not in skip and parameter.kind not in _VARIADIC
    ]

    def stand_in(**_: Any) -> None: ...

    stand_in.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    stand_in.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(stand_in, "arguments")
    bare = {"type": "object", "additionalProperties": False, "properties": {}}
    shown = json.loads(parser.get_completion_script("jsonschema"))
    found = _loose(shown)["properties"].get("arguments", bare)
    told = _told(kind)
    found["description"] = told.get("", kind.__name__)
    for name, member in found["properties"].items():
        if name in told:
            member["description"] = told[name]
    return found


def _told(kind: type) -> dict[str, str]:
    """What a class's docstring says of each argument, and under the empty name of itself."""
    text = "\n".join(inspect.getdoc(part) or "" for part in (kind, kind.__init__))  # type: ignore[misc]
    told = {"": text.lstrip().split("\n\n")[0].replace("\n", " ")}
    for block in re.findall(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE):
        for name, words in re.findall(r"^ {4}(\w+):\s*((?:.+(?:\n {5,}.*)*))", block, re.MULTILINE):
            told.setdefault(name, " ".join(words.split()))
    return told


def _plain(hint: Any) -> Any:
    """A type without classes of other packages: objects cannot be written down, and naming one imports it."""
    if get_origin(hint) in (Union, UnionType):
        kept = [_plain(item) for item in get_args(hint) if _is_plain(item)]
        return Union[tuple(kept)] if kept else Any  # noqa: UP007  a union of types known only here
    return hint if _is_plain(hint) else Any


def _is_plain(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal or hint is Any:
        return True
    if origin is None:
        return hint in (str, int, float, bool, type(None), dict, list, tuple) or hint is Ellipsis
    return all(_is_plain(item) for item in get_args(hint))


def _loose(node: Any) -> Any:
    """A schema of one file of a stack: nothing required, interpolations everywhere, foreign classes not spelt out."""
    if isinstance(node, list):
        return [_loose(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"type": "object"}
    kept = {
        key: value for key, value in node.items() if key not in ("required", "$defs", "$schema", "properties")
    }
    kept = {
        key: value if key in ("default", "enum", "const") else _loose(value) for key, value in kept.items()
    }
    if "items" in kept and isinstance(kept["items"], dict):
        kept["items"] = _or_interpolation(kept["items"])
    if "properties" in node:
        kept["properties"] = {
            name: value if value.get("type") == "object" else _or_interpolation(value)
            for name, value in _loose_members(node["properties"])
        }
    return kept


def _loose_members(members: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, member in members.items():
        if not name.startswith("$"):
            yield name, _loose(member)


def _or_interpolation(value: dict[str, Any]) -> dict[str, Any]:
    # What is shown to the reader stays on the outside, where editors look for it.
    outside: dict[str, Any] = {key: value.pop(key) for key in ("description", "default") if key in value}
    return {**outside, "anyOf": [value, {"$ref": "#/$defs/interpolation"}]} if value else outside


def _subclass_schema(classes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """``class_path`` and ``init_args`` of any of the classes; those of the one named, where it is named."""
    every: dict[str, list[Any]] = {}
    for described in classes.values():
        for name, value in described["properties"].items():
            known = every.setdefault(name, [])
            known += [] if value in known else [value]
    merged = {name: known[0] if len(known) == 1 else {"anyOf": known} for name, known in every.items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "class_path": {"enum": list(classes)},
            "init_args": {"type": "object", "additionalProperties": False, "properties": merged},
        },
        "allOf": [
            {
                "if": {"properties": {"class_path": {"const": path}}, "required": ["class_path"]},
                "then": {"properties": {"init_args": described}},
            }
            for path, described in classes.items()
        ],
    }


def sweep_schema(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of a sweep YAML: what `read_sweep` takes, its parameters being keys of an experiment.

    Args:
        experiment: `experiment_schema`.
    """
    from diffusion_adc.sweeps.space import DISTRIBUTIONS, METHODS

    described = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "value": {},
            "values": {"type": "array", "minItems": 1},
            "min": {"type": "number"},
            "max": {"type": "number"},
            "q": {"type": "number"},
            "distribution": {"enum": list(DISTRIBUTIONS)},
        },
        "anyOf": [{"required": [*words]} for words in (("value",), ("values",), ("min", "max"))],
    }
    text = {"type": "string"}
    return {
        "$schema": DRAFT,
        "title": "diffusion-adc sweep",
        "type": "object",
        "additionalProperties": False,
        "required": ["method", "metric", "parameters", "command"],
        "properties": {
            **dict.fromkeys(("name", "description", "project", "entity", "program"), text),
            "method": {"enum": list(METHODS)},
            "metric": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name"],
                "properties": {"name": text, "goal": {"enum": ["minimize", "maximize"]}},
            },
            "parameters": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": False,
                "properties": dict.fromkeys(sorted(set(_leaves(experiment))), described),
            },
            "early_terminate": {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"const": "hyperband"}},
            },
            "command": {"type": "array", "items": text, "contains": {"const": "${args_json_file}"}},
            "run_cap": {"type": "integer", "minimum": 1},
        },
    }


def _leaves(described: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a schema's values."""
    for name, value in described.get("properties", {}).items():
        if "properties" in value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
