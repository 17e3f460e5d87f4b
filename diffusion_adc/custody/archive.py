"""A plain tar stream (POSIX ustar), written and read by strict code of our own.

General extractors follow links, absolute paths and devices (five of six hostile members got through one); here a
member is a regular file with a short name of harmless characters, or the archive is refused. Nothing is compressed,
so nothing can unpack to more than it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import DiffusionAdcError

BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,7}", re.ASCII)
_MAX_NAME: Final = 100
_OCTAL: Final = re.compile(rb"[0-7]{1,11}[\0 ]?", re.ASCII)
_REGULAR: Final = b"0"
_SIZE, _SUM, _TYPE = slice(124, 136), slice(148, 156), slice(156, 157)
_MODE: Final = 0o600


@dataclass(frozen=True)
class Caps:
    """What an archive may hold.

    Args:
        members: Files.
        file_bytes: Bytes of one file.
        total_bytes: Bytes of all.
    """

    members: int = 500_000
    file_bytes: int = 2**32
    total_bytes: int = 2**37


class ArchiveRefused(DiffusionAdcError):
    """The archive is hostile or damaged (exit code 1)."""


def check_name(name: str) -> str:
    """The name if it may stand in an archive.

    Raises:
        ArchiveRefused: X4, it is absolute, climbs, is too long or has other characters.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME or any(p.strip(".") == "" for p in name.split("/")):
        raise _refused("X4", "a member's name of another form", "letters, digits and ._- below one folder")
    return name


def header(name: str, size: int) -> bytes:
    """The ustar header of a regular file: no owner, no time, mode 0600."""
    raw = bytearray(BLOCK)
    encoded = check_name(name).encode("ascii")
    raw[: len(encoded)] = encoded
    for place, text in (
        (100, b"%07o\0" % _MODE), (108, b"%07o\0" % 0), (116, b"%07o\0" % 0), (124, b"%011o\0" % size),
        (136, b"%011o\0" % 0), (148, b" " * 8), (156, _REGULAR), (257, b"ustar\00000"),
    ):  # fmt: skip
        raw[place : place + len(text)] = text
    raw[_SUM] = b"%06o\0 " % sum(raw)
    return bytes(raw)


class Packer:
    """A readable stream of an archive, made while it is read: memory holds one chunk.

    Args:
        members: Name and content, as bytes or as a file's path, of each member in order.
    """

    def __init__(self, members: Sequence[tuple[str, bytes | Path]]) -> None:
        self._chunks = self._stream(members)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; b"" at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        count = len(self._rest) if size < 0 else size
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    @staticmethod
    def _stream(members: Sequence[tuple[str, bytes | Path]]) -> Iterator[bytes]:
        for name, content in members:
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            yield header(name, size)
            if isinstance(content, bytes):
                yield content
            else:
                with content.open("rb") as stream:
                    left = size
                    while left and (chunk := stream.read(min(_CHUNK, left))):
                        left -= len(chunk)
                        yield chunk
                if left:
                    raise ArchiveRefused("a file that shrank while it was packed", "a quiet folder")
            yield b"\0" * (-size % BLOCK)
        yield b"\0" * (2 * BLOCK)


Begin = Callable[[str, int], Path | None]
"""Called with a member's name and size; returns where it goes, or None to have it handed over whole."""
End = Callable[[str, int, str, bytes | None], None]
"""Called with name, size, SHA-256 and, where `Begin` gave no path, the content."""


class Unpacker:
    """A writable stream that takes an archive apart while it arrives.

    Files are created new, private and never through a link. Nothing is judged after it was written outside the
    folder that `begin` names.

    Raises:
        ArchiveRefused: From `write` or `close`: X4 a hostile name, kind or repetition; X5 over a cap; X2 damaged.
    """

    def __init__(self, begin: Begin, end: End, caps: Caps | None = None) -> None:
        self._begin, self._end, self._caps = begin, end, caps or Caps()
        self._buffer = bytearray()
        self._name, self._size, self._left, self._padding = "", 0, 0, 0
        self._out: Any = None
        self._whole: bytearray | None = None
        self._hash = hashlib.sha256()
        self._seen: set[str] = set()
        self._total, self._zeros, self._inside = 0, 0, False

    def write(self, data: bytes) -> int:
        """Take the next bytes of the archive."""
        view = memoryview(data)
        position = 0
        while position < len(view):
            if self._inside and self._left:
                part = bytes(view[position : position + self._left])
                position += len(part)
                self._content(part)
            elif self._padding:
                part = bytes(view[position : position + self._padding])
                position += len(part)
                self._padding -= len(part)
                if part.strip(b"\0"):
                    raise _refused("X2", "bytes between members", "zeros")
            else:
                part = bytes(view[position : position + BLOCK - len(self._buffer)])
                position += len(part)
                self._buffer += part
                if len(self._buffer) == BLOCK:
                    block = bytes(self._buffer)
                    self._buffer.clear()
                    self._header(block)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The stream is over; refuses one that was cut."""
        if self._inside or self._buffer or self._padding or self._zeros != 2:
            raise _refused("X2", "an archive that ends early", "two closing blocks")

    def abandon(self) -> None:
        """Close a file that stays incomplete."""
        if self._out is not None:
            self._out.close()
            self._out = None

    def _header(self, block: bytes) -> None:
        if not block.strip(b"\0"):
            self._zeros += 1
            if self._zeros > 2:
                raise _refused("X2", "bytes after the end", "two closing blocks")
            return
        if self._zeros:
            raise _refused("X2", "a member after the end", "one archive")
        stated = _octal(block[_SUM].rstrip(b" \0"))
        if stated != sum(block) - sum(block[_SUM]) + 8 * 0x20:
            raise _refused("X2", "no tar archive or a damaged one", "a right checksum")
        if block[_TYPE] != _REGULAR:
            raise _refused("X4", "a member that is no regular file", "regular files only")
        if block[345:500].strip(b"\0") or block[157:257].strip(b"\0"):
            raise _refused("X4", "a member with a prefix or a link", "a name alone")
        name = check_name(block[:100].rstrip(b"\0").decode("ascii", "replace"))
        size = _octal(block[_SIZE])
        if name.lower() in self._seen:
            raise _refused("X4", "two members of one name", "one")
        self._seen.add(name.lower())
        self._total += size
        if size > self._caps.file_bytes or self._total > self._caps.total_bytes:
            raise _refused("X5", f"{self._total} bytes", f"at most {self._caps.total_bytes}")
        if len(self._seen) > self._caps.members:
            raise _refused("X5", "too many members", f"at most {self._caps.members}")
        self._open(name, size)

    def _open(self, name: str, size: int) -> None:
        self._name, self._size, self._left, self._padding = name, size, size, -size % BLOCK
        self._hash = hashlib.sha256()
        path = self._begin(name, size)
        self._whole = bytearray() if path is None else None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
            self._out = os.fdopen(handle, "wb")
        self._inside = True
        if not size:
            self._finish()

    def _content(self, part: bytes) -> None:
        self._hash.update(part)
        if self._whole is not None:
            self._whole += part
        else:
            self._out.write(part)
        self._left -= len(part)
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        if self._out is not None:
            self._out.flush()
            os.fsync(self._out.fileno())
        self.abandon()
        self._inside = False
        whole = None if self._whole is None else bytes(self._whole)
        self._end(self._name, self._size, self._hash.hexdigest(), whole)


def _octal(field: bytes) -> int:
    if not _OCTAL.fullmatch(field):  # base-256 sizes and negative numbers end here
        raise _refused("X2", "a damaged header", "octal numbers")
    return int(field.rstrip(b"\0 "), 8)


def _refused(code: str, found: str, expected: str) -> ArchiveRefused:
    return ArchiveRefused(found, expected, "ask the clinic for the package again", code=code)
