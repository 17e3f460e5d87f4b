"""Looks through what `wandb sync` would send of a run folder, and names what must not be sent."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import yaml

from diffusion_adc.callbacks import runlog
from diffusion_adc.callbacks.artifacts import MODEL, verified_checkpoints
from diffusion_adc.callbacks.identifiers import MACHINE, Identifiers
from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.callbacks.session import FOLDER, stored_identity
from diffusion_adc.custody.lineage import read_record
from diffusion_adc.domain.errors import CohortError

PICTURE: Final = "picture"
FILE: Final = "kind of file"
HIDDEN: Final = "text hidden in a picture"
DAMAGED: Final = "damaged"
LINK: Final = "link out of the run"

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PLAIN_CHUNKS: Final = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"sBIT", b"bKGD"}
)
_TEXTS: Final = frozenset({".json", ".yaml", ".yml", ".csv", ".html", ".txt"})
_STAGING: Final = "data_dir/artifacts/staging"
_NOT_SENT: Final = frozenset({"logs", "tmp"})


@dataclass(frozen=True, order=True)
class Finding:
    """Something that must not be sent: its kind and where it lies in the run folder, never its text."""

    kind: str
    where: str


@dataclass(frozen=True)
class Scanned:
    """What was looked at.

    Attributes:
        runs: The tracker's folders of the run, oldest first.
        files: Number of files that would be sent.
        findings: Why not.
    """

    runs: tuple[Path, ...]
    files: int
    findings: tuple[Finding, ...]


def scan(run_dir: Path, policy: Policy) -> Scanned:
    """Look through everything of a run that a synchronization sends; nothing is changed.

    Args:
        run_dir: RUN.
        policy: What may be sent where it would go.
    """
    return _Scan(run_dir, policy).all()


def tracker_folders(run_dir: Path) -> tuple[Path, ...]:
    """The tracker's folders of a run, oldest first."""
    home = run_dir / FOLDER
    found = [path for path in (*home.glob("offline-run-*"), *home.glob("run-*")) if path.is_dir()]
    return tuple(sorted(found, key=lambda path: path.name.removeprefix("offline-")))


class _Scan:
    def __init__(self, run_dir: Path, policy: Policy) -> None:
        self.run_dir, self.policy = run_dir, policy
        who = stored_identity(run_dir)
        own = frozenset() if who is None else frozenset(filter(None, (who.id, who.project, who.entity)))
        self.identifiers = Identifiers(read_record(run_dir), policy, own)
        link = "(?!)" if who is None else re.escape(who.link)
        self.staged = re.compile(rf"{link}/{FOLDER}/{_STAGING}/\w+", re.ASCII)
        self.found: set[Finding] = set()
        self.files = 0

    def all(self) -> Scanned:
        runs = tracker_folders(self.run_dir)
        for folder in runs:
            self._folder(folder)
        staging = self.run_dir / FOLDER / _STAGING
        for path in sorted(staging.rglob("*")) if staging.is_dir() else ():
            self._file(path, staged=True)
        if self.policy.may_send_models:
            for path in verified_checkpoints(self.run_dir).values():
                self._weights(path)
            for path in sorted((self.run_dir / MODEL).rglob("*")):
                if path.is_file():
                    self._weights(path)
        return Scanned(runs, self.files, tuple(sorted(self.found)))

    def _note(self, kind: str, path: Path, field: str = "") -> None:
        where = str(path.relative_to(self.run_dir))
        # A file's own name may be the finding; then the tracker's folder says enough.
        if any(self.identifiers.kinds(self._inner(path))):
            where = f"{'/'.join(path.relative_to(self.run_dir).parts[:2])}/…{path.suffix}"
        self.found.add(Finding(kind, f"{where}{':' if field else ''}{field}"))

    def _inner(self, path: Path) -> str:
        """The name under which a file is sent: its place in the tracker's folder."""
        parts = path.relative_to(self.run_dir).parts
        return "/".join(parts[2:] if len(parts) > 2 else parts[-1:])

    def _folder(self, folder: Path) -> None:
        logs = sorted(folder.glob("*.wandb"))
        if not logs:
            self._note(DAMAGED, folder)
        for path in sorted(folder.rglob("*")):
            if path.relative_to(folder).parts[0] in _NOT_SENT or path.suffix in (".synced", ".syncstate"):
                continue
            if path in logs:
                self.files += 1
                self._log(path)
            else:
                self._file(path)

    def _log(self, path: Path) -> None:
        try:
            for where, text in runlog.strings(path):
                # The client sends the place of a staged file; under the run's link it tells nothing.
                if where.endswith("local_path") and self.staged.fullmatch(text):
                    continue
                if where.endswith("run.host") and text != "anon":
                    self._note(MACHINE, path, where)
                self._text(text, path, where)
        except CohortError:
            self._note(DAMAGED, path)

    def _text(self, text: str, path: Path, where: str = "") -> None:
        for kind in self.identifiers.kinds(text):
            self._note(kind, path, where)

    def _file(self, path: Path, *, staged: bool = False) -> None:
        if path.is_symlink():
            if not path.resolve().is_relative_to(self.run_dir.resolve()):
                self._note(LINK, path)
                return
        elif not path.is_file():
            return
        self.files += 1
        if not staged:  # names of staged files are random and are not sent
            self._text(self._inner(path), path)
        data = path.read_bytes()
        if data.startswith(_PNG):
            self._picture(data, path)
        elif path.suffix.lower() in _TEXTS or (staged and not path.suffix):
            self._words(data, path)
        else:
            self._note(FILE, path)

    def _picture(self, data: bytes, path: Path) -> None:
        if not self.policy.may_send_pictures:
            self._note(PICTURE, path)
        at = len(_PNG)
        kind = b""
        while at + 8 <= len(data) and kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", data, at)
            if kind not in _PLAIN_CHUNKS:
                self._note(HIDDEN, path)
                return
            at += 12 + length
        if kind != b"IEND" or at != len(data):
            self._note(HIDDEN, path)

    def _words(self, data: bytes, path: Path) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self._note(FILE, path)
            return
        suffix = path.suffix.lower()
        try:
            for part in _parts(text, suffix):
                self._text(part, path)
        except (ValueError, yaml.YAMLError, csv.Error, RecursionError):
            self._note(FILE, path)
        pictured = suffix == ".html" or '"image-file"' in text
        if pictured and not self.policy.may_send_pictures:
            self._note(PICTURE, path)

    def _weights(self, path: Path) -> None:
        self.files += 1
        for kind in set(self.identifiers.in_bytes(path.read_bytes())):
            self._note(kind, path)


def _parts(text: str, suffix: str) -> Iterator[str]:
    """The texts of a file by its form."""
    if suffix in (".json", ""):
        yield from (part for _, part in runlog.walk(json.loads(text), ""))
    elif suffix in (".yaml", ".yml"):
        yield from (part for _, part in runlog.walk(yaml.safe_load(text), ""))
        yield from (line.split("#", 1)[1] for line in text.splitlines() if "#" in line)
    elif suffix == ".csv":
        yield from (cell for row in csv.reader(io.StringIO(text), strict=True) for cell in row)
    elif suffix == ".html":
        page = _Page()
        page.feed(text)
        page.close()
        yield from page.texts
    else:
        yield from text.splitlines()


class _Page(HTMLParser):
    """Texts, comments and attributes of a page; pictures inside it are pictures, styles are no texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.style = tag == "style"
        if tag == "script":
            raise ValueError("a script")
        self.texts += [
            value for name, value in attrs
            if value and name not in ("style", "class", "id", "d", "points") and not value.startswith("data:image/png;base64,")
        ]  # fmt: skip

    def handle_endtag(self, tag: str) -> None:
        self.style = False

    def handle_data(self, data: str) -> None:
        if not self.style:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.texts.append(data)
