"""How fast DICOM studies become a cohort, and what memory that takes."""

from __future__ import annotations

import os
import resource
import sys
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
    begun, cpu = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    report = desk.ingest(jobs=2)
    seconds = time.monotonic() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = max(used.ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    busy = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    print(
        f"{STUDIES} studies of 5 series: {seconds:.1f} s, {STUDIES / seconds:.2f} studies/s, peak {peak:.0f} MB, "
        f"processor time of the processes {busy:.1f} s"
    )
    assert not report.refused
    assert STUDIES / seconds >= 1
    assert peak < 1500
