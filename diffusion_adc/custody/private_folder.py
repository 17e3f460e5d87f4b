"""Temporary folders for patients' data: private, beside their target, and gone after a kill at the next start."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MARK: Final = ".in-custody-"
_LOCK: Final = ".lock"


@contextmanager
def private_work() -> Iterator[None]:
    """Nothing made within is readable by group or world, and a crash leaves no memory image behind."""
    mask = os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        os.umask(mask)
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """A folder of mode 0700 in `parent`, removed at the end whatever happens.

    Folders that a killed process left in `parent` are removed first; one whose owner lives is locked and stays.
    """
    parent.mkdir(parents=True, exist_ok=True)
    door = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(door, fcntl.LOCK_EX)  # nobody sweeps between a folder's making and its lock
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_MARK))
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(door)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(parent: Path) -> None:
    for leftover in parent.glob(f"{_MARK}*"):
        if leftover.is_symlink() or not leftover.is_dir():
            continue
        lock = None
        try:
            lock = os.open(leftover / _LOCK, os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass  # killed before it had its lock
        except OSError:
            continue  # its owner lives
        finally:
            if lock is not None:
                os.close(lock)
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time for the file `path`; the lock is freed when its owner dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
