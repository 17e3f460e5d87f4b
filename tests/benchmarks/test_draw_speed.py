"""Cost of drawing a whole case, as a ratio to one sliding-window pass of MONAI's DynUNet in the same run.

python -m pytest tests/benchmarks/test_draw_speed.py -m benchmark -s
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
THREADS = 2


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
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@pytest.mark.parametrize("dims", [3, 2])
def test_draws_cost_no_more_than_a_few_unet_passes(dims: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        stage = PresenceFlowStage(spatial_dims=dims).eval().requires_grad_(False)
        condition, unet = _condition(), _unet_pass()
        runs: dict[str, Callable[[], object]] = {"unet": unet}
        for draws, steps in ((8, 4), (16, 6)):
            settings = DrawSettings(draws=draws, steps=steps)
            runs[f"{draws} x {steps}"] = lambda s=settings: draw_presence(stage, condition, "A001_01", s)
        # Interleaved, and the fastest of each: what other programs take from the machine only ever adds.
        best = {name: min(_seconds(run) for _ in range(2)) for name, run in runs.items()}
        best["unet"] = min(best["unet"], _seconds(unet))
    finally:
        torch.set_num_threads(before)
    print(f"\n{dims}-D, {'x'.join(map(str, SHAPE))}, {THREADS} threads: unet pass {best['unet']:.1f} s")
    for name, limit in (("8 x 4", 1.5), ("16 x 6", 4.0)):
        ratio = best[name] / best["unet"]
        print(f"  {name}: {best[name]:.1f} s = {ratio:.2f} passes (limit {limit})")
        assert ratio <= limit
