"""Figures: processor seconds and memory per simulated case on one core.

Bars: 4 s for a pelvis of 160 × 160 × 40 voxels; 60 s and 3 GB for a whole body of 192 × 192 × 200.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from diffusion_adc.phantom.case import simulate_case
from diffusion_adc.phantom.options import PhantomOptions

WHOLE_BODY = """
import resource, time
from diffusion_adc.phantom.case import simulate_case
from diffusion_adc.phantom.options import PhantomOptions

options = PhantomOptions(cases=4, seed=3, anatomy="whole_body")
assert options.size == (192, 192, 200)
for index in (1, 2):
    start = time.process_time()
    simulate_case(options, index)
    print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.benchmark
def test_a_full_size_case_takes_at_most_four_seconds() -> None:
    options = PhantomOptions(cases=7, seed=3)
    simulate_case(options, 0)
    seconds = []
    for index in range(1, 7):
        start = time.process_time()
        simulate_case(options, index)
        seconds.append(time.process_time() - start)
    print(f"\n{np.median(seconds):.2f} s per case (median of 6, slowest {max(seconds):.2f} s)")
    assert np.median(seconds) <= 4.0


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_a_whole_body_takes_at_most_a_minute_and_three_gigabytes() -> None:
    """In a process of its own, whose peak memory is its own."""
    done = subprocess.run([sys.executable, "-c", WHOLE_BODY], capture_output=True, text=True, check=True)
    rows = [tuple(map(float, line.split())) for line in done.stdout.split("\n") if line]
    seconds, gigabytes = max(row[0] for row in rows), max(row[1] for row in rows)
    print(f"\n{seconds:.1f} s and {gigabytes:.2f} GB per case (slowest and largest of {len(rows)})")
    assert seconds <= 60.0
    assert gigabytes < 3.0
