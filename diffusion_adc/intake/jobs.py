"""Tasks in processes of their own: a file that hangs or kills a reader costs its case and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Done, Task, do

FILE_LIMIT_S: Final = 5.0
"""A single file may take this much processor time to be read, plus `_PER_MB_S` for each megabyte."""
_WALL_TIMES: Final = 20
"""A file may take this many times longer by the clock: the machine or the file server may be busy."""
_PER_MB_S: Final = 0.1
_MEMORY: Final = 8 * 2**30
"""Address space of one process beyond what it starts with, bytes."""
_POLL_S: Final = 0.2
_SLOW: Final = f"a file that takes longer than {FILE_LIMIT_S:g} s to read"
_PRELOADED: Final = ("diffusion_adc.intake.work", "diffusion_adc.intake.dicom.build")


@dataclass
class _Worker:
    process: Any
    connection: Connection
    deadline: Any
    task: int | None = None


def run(
    tasks: Sequence[Task], staged: Path, options: IngestOptions, *, isolated: bool
) -> Iterator[tuple[int, Done]]:
    """Do the tasks; results come in the order of the tasks, whoever finishes first.

    Args:
        tasks: What to do.
        staged: Where the cohort is built.
        options: What the user declares; `jobs` processes at once.
        isolated: Use processes even for a single job, since the files may be hostile.
    """
    if not isolated and options.jobs == 1:
        yield from ((n, do(task, staged, options)) for n, task in enumerate(tasks))
        return
    yield from _Pool(tasks, staged, options).results()


class _Pool:
    """As many processes as jobs, each with one task at a time, watched from here."""

    def __init__(self, tasks: Sequence[Task], staged: Path, options: IngestOptions) -> None:
        self.tasks, self.staged, self.options = tasks, staged, options
        # A server process forks the workers: as clean as a spawned process, without its start-up time.
        self.context = mp.get_context("forkserver")
        self.context.set_forkserver_preload(list(_PRELOADED))
        self.waiting = list(range(len(tasks)))[::-1]
        self.finished: dict[int, Done] = {}
        self.workers: list[_Worker] = []

    def results(self) -> Iterator[tuple[int, Done]]:
        """(task, what became of it), in order."""
        try:
            for number in range(len(self.tasks)):
                while number not in self.finished:
                    self._fill()
                    self._listen()
                yield number, self.finished.pop(number)
        finally:
            for worker in self.workers:
                self._end(worker)

    def _fill(self) -> None:
        idle = [worker for worker in self.workers if worker.task is None]
        while self.waiting and (idle or len(self.workers) < self.options.jobs):
            worker = idle.pop() if idle else self._start()
            worker.task = self.waiting.pop()
            worker.connection.send(self.tasks[worker.task])

    def _start(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        deadline = self.context.RawValue("d", 0.0)
        process = self.context.Process(
            target=_serve, args=(theirs, deadline, self.staged, self.options), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours, deadline)
        self.workers.append(worker)
        return worker

    def _listen(self) -> None:
        busy = [worker for worker in self.workers if worker.task is not None]
        ready = wait([worker.connection for worker in busy], timeout=_POLL_S)
        for worker in busy:
            assert worker.task is not None
            if worker.connection in ready:
                try:
                    self.finished[worker.task] = worker.connection.recv()
                    worker.task = None
                    continue
                except (EOFError, OSError):
                    worker.process.join(timeout=FILE_LIMIT_S)
                    slow = worker.process.exitcode == -signal.SIGPROF
                    self._lost(worker, _SLOW if slow else "a file that ended the process reading it")
            elif 0 < worker.deadline.value < time.monotonic():
                self._lost(worker, _SLOW)

    def _lost(self, worker: _Worker, found: str) -> None:
        """The worker's case is refused, the worker replaced."""
        assert worker.task is not None
        research_id = self.tasks[worker.task].research_id
        message = f"X7 {research_id}: {found}; expected an undamaged file; deliver the case again"
        self.finished[worker.task] = Done(refused=[message])
        self.workers.remove(worker)
        self._end(worker)

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _serve(connection: Connection, deadline: Any, staged: Path, options: IngestOptions) -> None:
    """A worker's life: tasks in, results out, until the other end is gone."""
    _limit_memory()

    def begin(path: Path | None) -> None:
        if path is None:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            deadline.value = 0.0
        else:
            limit = FILE_LIMIT_S + _PER_MB_S * path.stat().st_size / 2**20
            # The signal ends this process, even inside a decoder that never returns.
            signal.setitimer(signal.ITIMER_PROF, limit)
            deadline.value = time.monotonic() + _WALL_TIMES * limit

    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            task = connection.recv()
            connection.send(do(task, staged, options, begin))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limit = pages * resource.getpagesize() + _MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
