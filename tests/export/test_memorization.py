"""T14: exact and changed copies of training lesions among genuine ones."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter, shift

from diffusion_adc.export.memorization import (
    WINDOW,
    MemorizationReport,
    find_copies,
    lesion_windows,
    nearest,
)
from diffusion_adc.networks import HaarCodec

SHAPE = (40, 40, 12)


def lesion(rng: np.random.Generator) -> np.ndarray:
    """An irregular blob of 15 to 600 voxels: a ball whose radius varies with smooth noise."""
    radius = rng.uniform(1.8, 5.5)
    grid = np.stack(np.meshgrid(*(np.arange(s) - s / 2 for s in SHAPE), indexing="ij"))
    grid *= np.array([1, rng.uniform(0.7, 1.4), 2.0])[:, None, None, None]
    noise = gaussian_filter(rng.normal(size=SHAPE), 2.0)
    bumpy = radius * (1 + 1.2 * noise / noise.std() * 0.25)
    return np.sqrt((grid**2).sum(0)) < bumpy


def changed(presence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved by a few voxels, and a few per cent of its border eaten or added."""
    moved = shift(presence.astype(float), rng.integers(-3, 4, 3) * [1, 1, 0], order=0) > 0.5
    rim = binary_dilation(moved) & ~moved
    return moved | (rim & (rng.random(SHAPE) < 0.04))


def windows(volumes: list[np.ndarray]) -> np.ndarray:
    # The largest component only, so that every volume is one candidate.
    largest = [max(lesion_windows(v), key=lambda w: int(w.sum())) for v in volumes if len(lesion_windows(v))]
    return np.stack(largest)


def haar_latents(w: np.ndarray) -> np.ndarray:
    codec = HaarCodec(3)
    latent = codec.encode(torch.from_numpy(w[:, None]).float())
    return (latent - codec.encode(torch.zeros(1, 1, *WINDOW))).numpy()


def test_ten_exact_and_ten_changed_copies_among_two_hundred() -> None:
    rng = np.random.default_rng(14)
    training = [lesion(rng) for _ in range(150)]
    held_out = [lesion(rng) for _ in range(120)]
    large = [v for v in training if v.sum() > 30]
    exact = large[:10]
    altered = [changed(v, rng) for v in large[10:20]]
    genuine = [v for v in (lesion(rng) for _ in range(200)) if len(lesion_windows(v))][:180]
    drawn = windows([*exact, *altered, *genuine])
    copies, report = find_copies(drawn, windows(training), windows(held_out), haar_latents)
    found, false = int(copies[:20].sum()), int(copies[20:].sum())
    print(f"T14: {found} of 20 copies found, {false} of {len(drawn) - 20} genuine lesions called copies")
    assert len(drawn) == 200
    assert found >= 19
    assert false <= 0.05 * 180
    assert report.copies == found + false
    assert report.memorizes  # 10 % of copies are more than chance


def test_genuine_lesions_alone_are_no_memorization() -> None:
    rng = np.random.default_rng(1)
    parts = [windows([lesion(rng) for _ in range(n)]) for n in (80, 100, 80)]
    _, report = find_copies(*parts)
    assert not report.memorizes
    assert report.share <= 0.08
    assert "up to 5%" in report.line()


def test_edges() -> None:
    empty = np.zeros((0, *WINDOW), dtype=bool)
    assert lesion_windows(np.zeros((5, 5, 5))).shape == empty.shape
    small = np.zeros((9, 9, 3))
    small[:2, :2, :2] = 1
    assert len(lesion_windows(small)) == 0  # eight voxels
    small[:4, :4, :2] = 1
    (window,) = lesion_windows(small)  # at the border of a volume smaller than the window
    assert window.sum() == 32
    copies, report = find_copies(empty, window[None], empty)
    assert len(copies) == 0
    assert "no drawn lesion" in report.line()
    assert find_copies(window[None], window[None], empty)[1].copies == 1
    assert nearest(window[None], window[None])[0][0] == 1
    assert MemorizationReport(100, 5, 5, 5, 0.5, 0.5).memorizes is False
