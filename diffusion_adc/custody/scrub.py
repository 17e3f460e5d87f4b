"""What may appear in a message, a log or a traceback: no path above the data, no header text, nobody's ID.

One place for all handlers and hooks. Messages of the libraries that read files quote what they read (a DICOM value, a
table cell), so their text is withheld and only who spoke is said; our own messages are built without such values.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from diffusion_adc.domain.errors import DiffusionAdcError

READERS: Final = (
    "pydicom", "highdicom", "nibabel", "SimpleITK", "itk", "openpyxl", "pandas", "PIL", "csv", "json", "zipfile",
    "gzip", "codecs", "pyrage", "cryptography", "yaml", "pydantic", "numpy",
)  # fmt: skip
"""Libraries whose messages may quote the content of a file."""
_WITHHELD: Final = "text withheld: it may quote a file"
_PATH: Final = re.compile(
    r"(?<![\w.:/])(?:file://)?(?:~|/[^\s'\"<>|:;,()\[\]{}/]+)(?:/[^'\"<>|:;,()\[\]{}\n]*[^\s'\"<>|:;,()\[\]{}\n])?"
)
_PACKAGE: Final = str(Path(__file__).parents[1])


@dataclass
class _Settings:
    roots: tuple[str, ...] = ()
    hidden: re.Pattern[str] | None = None


_settings = _Settings()


def hide(terms: Iterable[str]) -> None:
    """From now on these words (the clinic's IDs) never appear in scrubbed text."""
    words = sorted({t for t in terms if t.strip()}, key=len, reverse=True)
    _settings.hidden = re.compile("|".join(map(re.escape, words))) if words else None


def scrub(text: str, roots: Sequence[Path | str] | None = None) -> str:
    """Text without absolute paths and hidden words.

    Args:
        text: Anything about to be shown.
        roots: Folders of data: a path below one is shown from there on; those of `install` by default.
    """
    places = _settings.roots if roots is None else tuple(_forms(roots))
    for root in sorted(places, key=len, reverse=True):
        text = re.sub(re.escape(root) + r"(?:/|(?![\w.-]))", "", text)
    text = _PATH.sub("<path>", text)
    return _settings.hidden.sub("<id>", text) if _settings.hidden else text


def install(roots: Sequence[Path | str] = (), *, hidden: Iterable[str] = (), debug: bool = False) -> None:
    """Put the scrubber on every log handler, on warnings and on the exception hooks.

    Args:
        roots: Folders of data of this command.
        hidden: Words that never appear.
        debug: Leave hooks and handlers as they are: full tracebacks, for synthetic data.
    """
    _settings.roots = tuple(_forms(roots))
    hide(hidden)
    if debug:
        return
    logging.setLogRecordFactory(_Record)
    logging.raiseExceptions = False  # its own report of a failing handler prints the arguments
    warnings.showwarning = _warn
    sys.excepthook = _excepthook
    sys.unraisablehook = lambda args: _excepthook(args.exc_type, args.exc_value, args.exc_traceback)
    threading.excepthook = lambda args: _excepthook(args.exc_type, args.exc_value, args.exc_traceback)


def describe(error: BaseException) -> str:
    """One line for an exception: our own sentence scrubbed; of any other only its type and where in our code."""
    if isinstance(error, DiffusionAdcError):
        return scrub(error.sentence())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(_PACKAGE)]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where} ({_WITHHELD}; --debug shows it)"


class _Record(logging.LogRecord):
    """A record that is clean before any handler sees it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.name == "py.warnings" or self.name.split(".")[0] in READERS:
            self.msg, self.args = f"{self.name}: {_WITHHELD}", None
        else:
            try:
                self.msg = scrub(super().getMessage())
            except Exception:  # a message whose arguments do not fit must not print them
                self.msg = f"{self.name}: a message that cannot be shown"
            self.args = None
        if self.exc_info and self.exc_info[1] is not None:
            self.msg = f"{self.msg}: {describe(self.exc_info[1])}"
        self.exc_info, self.exc_text, self.stack_info = None, None, None
        self.pathname = Path(self.pathname).name


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    parts = Path(filename).parts
    if any(reader in parts for reader in READERS) or not filename.startswith(_PACKAGE):
        text = _WITHHELD
    else:
        text = scrub(str(message))
    print(f"{category.__name__} ({Path(filename).name}): {text}", file=file or sys.stderr)


def _excepthook(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt):
        print("interrupted" if error is not None else kind.__name__, file=sys.stderr)
        return
    print(describe(error), file=sys.stderr)


@dataclass
class Captured:
    """What the C++ layer wrote to the error stream.

    Attributes:
        lines: Number of lines.
        text: The lines, scrubbed; never shown as they are.
    """

    lines: int = 0
    text: str = ""


@contextmanager
def captured_stderr() -> Iterator[Captured]:
    """Take what any layer, C++ included, writes to the error stream; it decides nothing and is not shown."""
    sys.stderr.flush()
    saved, result = os.dup(2), Captured()
    try:
        with tempfile.TemporaryFile() as stream:
            os.dup2(stream.fileno(), 2)
            try:
                yield result
            finally:
                sys.stderr.flush()
                os.dup2(saved, 2)
                stream.seek(0)
                written = stream.read(1 << 20).decode("utf-8", "replace")
                result.lines, result.text = written.count("\n"), scrub(written)
    finally:
        os.close(saved)


def _forms(roots: Sequence[Path | str]) -> Iterator[str]:
    for root in roots:
        path = Path(root).expanduser()
        for form in {str(path.absolute()), str(path.resolve())}:
            if form != "/":
                yield form
