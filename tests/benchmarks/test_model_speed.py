"""What the model costs, side by side with MONAI's DynUNet on the same batch, on two threads.

Run: ``pytest -m benchmark -s tests/benchmarks/test_model_speed.py``. Runs alternate within one process, so that a busy
machine slows both; the fastest round of either side is compared, the one least disturbed by other work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from monai.networks.nets import DynUNet

from diffusion_adc.domain.sequences import AVAILABLE, CHANNELS, IMAGES, PRESENCE
from diffusion_adc.stages import PresenceFlowStage

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]

PATCH = (64, 64, 32)
CASE = (160, 160, 40)
WINDOW_OVERLAP = 0.5
ROUNDS = 5


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def rival() -> DynUNet:
    """5.6 M parameters."""
    return DynUNet(
        spatial_dims=3,
        in_channels=len(CHANNELS),
        out_channels=1,
        kernel_size=[3] * 4,
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3,
        filters=[32, 64, 128, 256],
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    presence = torch.zeros(2, 1, *PATCH)
    presence[:, :, 20:29, 30:38, 10:16] = 1
    return {
        IMAGES: torch.randn((2, len(CHANNELS), *PATCH), generator=generator),
        AVAILABLE: torch.ones(2, 5),
        PRESENCE: presence,
    }


def windows(shape: tuple[int, ...]) -> int:
    """Patches of one sliding-window pass over a volume."""
    number = 1
    for size, patch in zip(shape, PATCH, strict=True):
        stride = int(patch * (1 - WINDOW_OVERLAP))
        number *= 1 + max(0, -(-(size - patch) // stride))
    return number


def test_training_step(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    data = batch()
    stage, other = PresenceFlowStage(3), rival()
    stage.measure_latents([data], 2)
    ours, theirs = (torch.optim.AdamW(m.parameters()) for m in (stage, other))
    generator = torch.Generator().manual_seed(0)

    def our_step() -> None:
        features = stage.encode(data[IMAGES], data[AVAILABLE])
        loss = stage.base_loss(features.base_logit, data[PRESENCE])
        loss = loss + stage.flow_loss(features, data[PRESENCE], generator)
        ours.zero_grad()
        loss.backward()
        ours.step()

    def their_step() -> None:
        loss = stage.base_loss(other(data[IMAGES]), data[PRESENCE])
        theirs.zero_grad()
        loss.backward()
        theirs.step()

    our_step(), their_step()
    rounds = [(seconds(our_step), seconds(their_step)) for _ in range(ROUNDS)]
    our, their = (min(column) for column in zip(*rounds, strict=True))
    ratio = our / their
    with capsys.disabled():
        print(
            f"\ntraining step, batch 2 of 64x64x32, 4 draws per encoding: "
            f"{our:.2f} s, DynUNet {their:.2f} s, ratio {ratio:.2f} (bar 0.7)"
        )
    assert ratio <= 0.7


@torch.no_grad()
def test_network_cost_of_drawing_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    """The networks' share of a drawn case: the encoder once, then one velocity of one draw, times both counts."""
    torch.manual_seed(0)
    stage, other = PresenceFlowStage(3).eval(), rival().eval()
    shape = tuple(-(-s // a) * a for s, a in zip(CASE, stage.alignment, strict=True))
    images, available = torch.randn(1, len(CHANNELS), *shape), torch.ones(1, 5)
    z = torch.randn(stage.noise_shape(1, shape))
    patch = torch.randn(1, len(CHANNELS), *PATCH)
    features = stage.encode(images, available)
    rounds = [
        (
            seconds(lambda: stage.encode(images, available)),
            seconds(lambda: stage.velocity(z, 0.5, features)),
            seconds(lambda: other(patch)),
        )
        for _ in range(ROUNDS)
    ]
    encoder, velocity, window = (min(column) for column in zip(*rounds, strict=True))
    with capsys.disabled():
        print(f"\ncase of {CASE} padded to {shape}, {windows(CASE)} windows of {PATCH} for DynUNet")
        for draws, steps, bar in ((8, 4, 1.5), (16, 6, 4.0)):
            ratio = (encoder + draws * steps * velocity) / (windows(CASE) * window)
            print(f"{draws} draws x {steps} steps: {ratio:.2f} x one sliding-window pass (bar {bar})")
            assert ratio <= bar
