"""Which of several processes this is, and which one may write."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from diffusion_adc.domain.errors import CohortError, UsageError


def launched_as(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Rank and number of the processes that torchrun or srun started together; (0, 1) for one alone.

    A batch script itself, which SLURM tells of tasks it has not started yet, is one alone.

    Args:
        environment: Variables; those of this process by default.
    """
    known = os.environ if environment is None else environment
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        try:
            first, second = int(known[rank]), int(known[ranks])
        except (KeyError, ValueError):
            continue
        if 0 <= first < second:
            return first, second
    return 0, 1


def is_first(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process writes for all: the first one, also among those that the trainer itself starts."""
    known = os.environ if environment is None else environment
    started = [known.get(name, "0") for name in ("LOCAL_RANK", "NODE_RANK")]
    return launched_as(known)[0] == 0 and all(value in ("0", "") for value in started)


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; freed by the operating system when the process dies.

    A folder made for the lock goes again if nothing else came into it: work that was refused leaves no trace.

    A record lock rather than ``flock``: it is not inherited, so that a loader worker that outlives its
    trainer holds nothing.

    Args:
        path: The lock file.
        what: What is being locked, for the message.

    Raises:
        UsageError: Another process holds it.
        CohortError: It cannot be written.
    """
    made = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CohortError(
            f"{what} cannot be written ({os.strerror(error.errno or 0)})", do="check the folder's permissions"
        ) from None
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another process is working in {what}", "one at a time", "wait for it or end it first"
            ) from None
        yield
    finally:
        if made and [entry.name for entry in path.parent.iterdir()] == [path.name]:
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()
        os.close(descriptor)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait for a lock file and hold it for as long as the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
