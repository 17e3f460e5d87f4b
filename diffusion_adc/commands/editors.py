"""Commands for whoever types: shell completion, and JSON Schemas that let an editor check the YAMLs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from diffusion_adc.commands.words import DONE, Table


def add(command: Table) -> None:
    """Add the commands to the table."""
    sub = command("completion", _completion, "print the completion script of a shell")
    sub.add_argument("shell", choices=("bash", "zsh"))

    sub = command("schema", _schema, "print the JSON Schema of experiment or sweep YAMLs, for editors")
    sub.add_argument("of", choices=("experiment", "sweep"))


def _completion(args: argparse.Namespace) -> int:
    import shtab

    for action in _actions(args.parser):
        if action.type is Path:  # the file system knows the rest
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(args.parser, shell=args.shell))
    return DONE


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of a parser and of the commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _schema(args: argparse.Namespace) -> int:
    from diffusion_adc.commands.schema import experiment_schema, sweep_schema

    found = experiment_schema()
    print(json.dumps(found if args.of == "experiment" else sweep_schema(found), indent=2))
    return DONE
