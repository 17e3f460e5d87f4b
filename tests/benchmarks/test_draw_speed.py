"""Cost of drawing a whole case, as a ratio to one sliding-window pass of MONAI's DynUNet in the same run.

Processor time on one thread is compared: on a shared machine the clock on the wall measures the neighbors.

COMMAND: pytest tests/benchmarks/test_draw_speed.py -m benchmark -s
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet

from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.volume import draw_presence
from diffusion_adc.stages import PresenceFlowStage

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

SHAPE = (160, 160, 40)


@dataclass
class _Condition:
    images: np.ndarray
    available: np.ndarray
    covariates: np.ndarray
    known: np.ndarray


def _condition() -> _Condition:
    images = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)
    zeros = np.zeros(0, dtype=np.float32)
    return _Condition(images, np.ones(5, dtype=np.float32), zeros, zeros)


def _unet_pass() -> Callable[[], object]:
    # The reference of the project's cost figures: four levels, 32 to 128 wide, patches of 64 × 64 × 32.
    unet = DynUNet(3, 7, 1, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=(32, 64, 128, 256)).eval()
    images = torch.from_numpy(_condition().images)[None]

    def run() -> object:
        with torch.no_grad():
            return sliding_window_inference(images, (64, 64, 32), 1, unet, overlap=0.5, mode="gaussian")

    return run


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.parametrize("dims", [3, 2])
def test_draws_cost_no_more_than_a_few_unet_passes(dims: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stage = PresenceFlowStage(spatial_dims=dims).eval().requires_grad_(False)
        condition, unet = _condition(), _unet_pass()
        seconds = {}
        # The reference before and after: its faster run counts, which is against us.
        first = _seconds(unet)
        for draws, steps in ((8, 4), (16, 6)):
            settings = DrawSettings(draws=draws, steps=steps)
            seconds[draws, steps] = _seconds(lambda s=settings: draw_presence(stage, condition, "A001_01", s))
        reference = min(first, _seconds(unet))
    finally:
        torch.set_num_threads(before)
    print(f"\n{dims}-D, {'x'.join(map(str, SHAPE))}: one U-Net pass {reference:.1f} s of one core")
    for (draws, steps), limit in (((8, 4), 1.5), ((16, 6), 4.0)):
        ratio = seconds[draws, steps] / reference
        print(
            f"  {draws} draws x {steps} steps: {seconds[draws, steps]:.1f} s = {ratio:.2f} passes, limit {limit}"
        )
        assert ratio <= limit
