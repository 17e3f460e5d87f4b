"""Figure: processor seconds per simulated case of 160 × 160 × 40 voxels on one core (bar: 4 s)."""

from __future__ import annotations

import time

import numpy as np
import pytest

from diffusion_adc.phantom.case import simulate_case
from diffusion_adc.phantom.options import PhantomOptions


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
