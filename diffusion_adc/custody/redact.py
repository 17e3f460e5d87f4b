"""Tables, logs and JSON without certain persons: their rows, lines and entries go, all others keep their bytes.

A person is found by the research ID as a whole word, alone or as part of a case ID or file name
(``SIM-00012`` is not in ``SIM-000123`` nor in ``XSIM-00012``).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import CohortError
from diffusion_adc.records.atomic import write_json, write_text

TABLES: Final = {".csv": ",", ".tsv": "\t"}
LINES: Final = (".jsonl", ".log", ".txt")
PAGES: Final = (".html", ".htm", ".svg")
"""Pages are not cut but deleted: the command that wrote them writes them again."""
BY_HAND: Final = (".md", ".yaml", ".yml", ".ipynb", ".py", ".sh")
"""Files people write: named in the report, never changed."""
TEXTS: Final = (*TABLES, *LINES, *PAGES, *BY_HAND, ".json")
LARGEST: Final = 64 << 20
"""Bytes; no text file of the project comes near it."""


class Names:
    """The names under which persons appear.

    Args:
        research_ids: At least one, each of the form that cohorts allow.
    """

    def __init__(self, research_ids: Iterable[str]) -> None:
        # Longest first, so that of SIM-001 and SIM-0012 the right one is tried first.
        parts = "|".join(re.escape(rid) for rid in sorted(set(research_ids), key=lambda r: (-len(r), r)))
        self.pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{parts})(?![0-9A-Za-z])", re.ASCII)
        self._bytes = re.compile(self.pattern.pattern.encode(), re.ASCII)

    def within(self, text: str) -> bool:
        """Whether one of the persons is named in a text or a file's name."""
        return self.pattern.search(text) is not None

    def in_file(self, path: Path) -> bool:
        """Whether a text file names one of the persons; False if it is larger than any text of the project."""
        try:
            return path.stat().st_size <= LARGEST and self._bytes.search(path.read_bytes()) is not None
        except OSError:
            return False


def redact(path: Path, names: Names) -> None:
    """Rewrite a table, a log or a JSON file without the persons; absent or already clean files stay as they are.

    Raises:
        CohortError: The file is no table, log or JSON, or still names a person afterwards.
    """
    if not names.in_file(path):
        return
    suffix = path.suffix.lower()
    try:
        text = path.read_bytes().decode("utf-8")  # line ends as they are
        if suffix in TABLES:
            write_text(path, _table(text, TABLES[suffix], names))
        elif suffix in LINES:
            kept = [line for line in io.StringIO(text, newline="") if not names.within(line)]
            write_text(path, "".join(kept))
        elif suffix == ".json":
            write_json(path, without(json.loads(text), names))
    except (ValueError, csv.Error, RecursionError, OSError):
        raise _stays(path) from None
    if names.in_file(path):
        raise _stays(path)


def _stays(path: Path) -> CohortError:
    return CohortError(
        f"a {path.suffix} file still names a person who withdrew", "a readable table, log or JSON file",
        "remove the file, then repeat the command",
    )  # fmt: skip


def _table(text: str, delimiter: str, names: Names) -> str:
    """The rows that name none of the persons, spelt as they were.

    A row may span lines within quotes, so rows are counted by the reader and copied as text.
    """
    source = list(io.StringIO(text, newline=""))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    kept: list[str] = []
    first = 0
    for row in reader:
        if not any(names.within(cell) for cell in row):
            kept += source[first : reader.line_num]
        first = reader.line_num
    return "".join(kept)


def without(value: Any, names: Names) -> Any:
    """JSON without the persons: list items, keys and values that name one are left out; an item of which a
    value names one (a row of a table) goes as a whole.
    """
    if isinstance(value, dict):
        return {
            key: without(item, names)
            for key, item in value.items()
            if not names.within(key) and not (isinstance(item, str) and names.within(item))
        }
    if isinstance(value, list):
        return [without(item, names) for item in value if not _names_directly(item, names)]
    return value


def _names_directly(item: Any, names: Names) -> bool:
    if isinstance(item, str):
        return names.within(item)
    if isinstance(item, dict):
        return any(isinstance(value, str) and names.within(value) for value in item.values())
    return False
