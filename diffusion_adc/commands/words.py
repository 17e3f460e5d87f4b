"""What the commands share: exit codes, progress, words on the command line, tables on the terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

DONE: Final = 0
SOME_REFUSED: Final = 3
SIGNALLED: Final = 75

Run = Callable[[argparse.Namespace], int]


class Table(Protocol):
    """The command table a module adds its commands to."""

    def __call__(self, name: str, run: Run, text: str) -> argparse.ArgumentParser:
        """Add a command; returns its parser."""


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self.what, self.shown = what, -1
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self.bar is None:
                self.bar = tqdm(total=total, desc=self.what, unit="case", leave=False)
            self.bar.update(done - self.bar.n)
            if done >= total:
                self.bar.close()
        elif total and (10 * done // total > self.shown):
            self.shown = 10 * done // total
            print(f"{self.what}: {done} of {total}", file=sys.stderr, flush=True)


def three(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 160x160x40")
    return values


def pairs(text: str) -> dict[str, str]:
    found = dict(part.partition("=")[::2] for part in text.split(",") if part)
    if not all(found.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,NAME=VALUE")
    return found


def names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(list(rows), indent=2))
    else:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print("\t".join(columns))
        for row in rows:
            print("\t".join(_short(row.get(column)) for column in columns))
    return SOME_REFUSED if any(row.get("code") for row in rows) else DONE


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
