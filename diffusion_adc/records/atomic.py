"""Files appear whole or not at all.

Temporary file in the target's own folder, flush to disk, rename, flush the folder: a rename is atomic only
within one file system, and a crash between write and flush would otherwise leave an empty file.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from diffusion_adc.domain.errors import DiffusionAdcError


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block succeeds it is flushed and takes the name `path`.

    Raises:
        DiffusionAdcError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(
            temporary, 0o666 & ~_umask()
        )  # a temporary file is private; its successor is as the user wants
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise _storage_error(error, path.name) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


class _Hashing:
    """A stream that hashes what passes through it and remembers how the disk refused.

    A writer in another language (torch's archive writer) may turn the disk's refusal into an error of its own.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self.stream.write(data)
        except OSError as error:
            self.refusal = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        self.stream.flush()


def publish(
    path: Path, write: Callable[[Any], object], before_replace: Callable[[str], object] | None = None
) -> str:
    """Write a file through a stream and let it take its name once it reads back as it was written.

    Args:
        path: The file.
        write: Given a stream with ``write`` and ``flush``.
        before_replace: Called with the SHA-256 when the new bytes are on disk and `path` is still as it was.

    Returns:
        The SHA-256 of the file.

    Raises:
        DiffusionAdcError: The disk is full, the folder cannot be written, or the file reads back differently;
            `path` is as it was.
    """
    with replacing_file(path) as temporary:
        with temporary.open("wb") as raw:
            stream = _Hashing(raw)
            try:
                write(stream)
                raw.flush()
                os.fsync(raw.fileno())
            except Exception:
                if stream.refusal is not None:
                    raise stream.refusal from None
                raise
        digest = stream.digest.hexdigest()
        if sha256_file(temporary) != digest:
            raise OSError(errno.EIO, "reads back differently")
        if before_replace is not None:
            before_replace(digest)
    return digest


def remove_leftovers(folder: Path, of: str = "*") -> int:
    """Remove what killed writers left in a folder; only where no other process is writing.

    Args:
        folder: Searched without its subfolders.
        of: Name, or pattern of names, of the files or folders that were being written.

    Returns:
        How many were removed.
    """
    found = list(folder.glob(f".{of}.????????.part"))
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes the name `path` when the block succeeds.

    An existing folder `path` is replaced as a whole. Nothing is left behind when the block fails.

    Raises:
        DiffusionAdcError: The disk is full or the folder cannot be written.
    """
    temporary: Path | None = None
    old: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            old = temporary.with_suffix(".old")
            os.replace(path, old)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise _storage_error(error, path.name) from error
    finally:
        if old is not None and old.exists() and not path.exists():
            os.replace(old, path)  # whatever stopped the swap, the folder that was there stays
        for leftover in (temporary, old):
            if leftover is not None and leftover.exists():
                shutil.rmtree(leftover, ignore_errors=True)


_COMMIT = ".commit"


@contextmanager
def replacing_together(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files take their places in `folder` together when the block succeeds.

    The temporary folder takes one name (the commit); then its files are moved. A reader that comes across a
    commit whose mover died calls `settle` first, so that it sees all of the old files or all of the new ones.

    Raises:
        DiffusionAdcError: The disk is full or the folder cannot be written; all files are as they were.
    """
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settle(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".files.", suffix=".part"))
        yield temporary
        _flush(temporary)
        os.replace(temporary, folder / _COMMIT)
        _flush(folder)
        settle(folder)
    except OSError as error:
        raise _storage_error(error, folder.name) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def settle(folder: Path) -> None:
    """Finish moving files that belong together, if whoever began was killed."""
    commit = folder / _COMMIT
    if not commit.is_dir():
        return
    for path in sorted(commit.iterdir()):
        with suppress(FileNotFoundError):  # two may settle at once
            os.replace(path, folder / path.name)
    _flush(folder)
    with suppress(FileNotFoundError):
        commit.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(error: OSError, name: str) -> DiffusionAdcError:
    # The file's own name only: the folders above it may name a person or a site.
    return DiffusionAdcError(
        f"{name} could not be written ({os.strerror(error.errno) if error.errno else type(error).__name__})",
        do="free disk space or check the folder's permissions; nothing was left half-written",
    )


def write_bytes(path: Path, data: bytes) -> str:
    """Write atomically; returns the SHA-256 of what was written."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(data)
    return sha256_bytes(data)


def write_text(path: Path, text: str) -> str:
    """Write UTF-8 atomically; returns its SHA-256."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> str:
    """Write indented JSON atomically; NaN is refused, since JSON has none. Returns its SHA-256."""
    return write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Write a CSV table atomically; returns its SHA-256. Text a spreadsheet would run as a formula is quoted."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: inert(value) for name, value in row.items()} for row in rows)
    return write_text(path, stream.getvalue())


def inert(value: Any) -> Any:
    """The value as no spreadsheet runs it: text that opens like a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    # The writer leaves a carriage return unquoted: what follows would open a row of its own.
    value = value.replace("\r", " ")
    if len(value) < 2 or value.lstrip()[:1] not in tuple("=+-@'"):
        return value
    try:
        float(value)  # a number may open with its sign
    except ValueError:
        return f"'{value}"
    return value


def restored(text: str) -> str:
    """What `inert` was given."""
    return text[1:] if text[:1] == "'" and inert(text[1:]) == text else text
