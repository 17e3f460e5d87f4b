"""How fast DICOM studies become a cohort, and what memory that takes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "intake"))
from dicom_builder import DicomDesk, exam, study

STUDIES = int(os.environ.get("INGEST_STUDIES", "100"))
SHAPE = (84, 128, 19)
"""Of a prostate examination at 2 × 2 × 3 mm."""


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_a_hundred_studies(tmp_path: Path) -> None:
    desk = DicomDesk(tmp_path)
    rng = np.random.default_rng(0)
    content = exam(shape=SHAPE)
    for number in range(STUDIES):
        # One noise level apart, so that no two persons share a map.
        noisy = {
            name: array + rng.integers(0, 2, array.shape, dtype=array.dtype) * (array > 0)
            for name, array in content.items()
        }
        desk.add(study(noisy, b_values=(50, 800)), f"CASE-{number:03d}")
    watch = Watch()
    with watch:
        begun = time.monotonic()
        report = desk.ingest(jobs=2)
        seconds = time.monotonic() - begun
    assert watch.samples, "no process of the ingest was seen: memory was not measured"
    early, late = watch.peak_mb(0.0, 0.5), watch.peak_mb(0.5, 1.0)
    print(
        f"{STUDIES} studies of 5 series: {seconds:.1f} s, {STUDIES / seconds:.2f} studies/s, "
        f"{watch.busy_s / STUDIES:.2f} s of processor time each; "
        f"all processes together at most {early:.0f} MB in the first half, {late:.0f} MB in the second"
    )
    assert not report.refused
    assert late < 1.1 * early + 20
    assert STUDIES / seconds >= 1


class Watch:
    """Memory and processor time of this process and all below it, read from /proc while a block runs.

    The workers are children of a fork server: what the operating system counts for finished children misses them.
    """

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._ticks: dict[int, float] = {}
        self._first: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def busy_s(self) -> float:
        """Processor time spent while the block ran."""
        return sum(last - self._first[pid] for pid, last in self._ticks.items())

    def peak_mb(self, begin: float, end: float) -> float:
        """Largest sum of resident memory between two shares of the time, MB."""
        count = len(self.samples)
        return max(self.samples[int(begin * count) : max(1, int(end * count))], default=0.0)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            below = {os.getpid()}
            table: dict[int, tuple[int, float, float]] = {}
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        words = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                        seconds = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
                        memory = int(words[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
                        table[int(entry.name)] = (int(words[1]), seconds, memory)
            size = 0
            while size != len(below):
                size = len(below)
                below |= {pid for pid, (parent, _, _) in table.items() if parent in below}
            for pid in below & set(table):
                self._first.setdefault(pid, table[pid][1] if pid == os.getpid() else 0.0)
                self._ticks[pid] = table[pid][1]
            if len(below) > 1:
                self.samples.append(sum(table[pid][2] for pid in below if pid in table))
