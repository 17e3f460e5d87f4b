"""Does a model copy its training targets? Nearest neighbors of drawn lesions among the lesions it learned from.

A generative model can store its training set (Carlini et al. 2023, arXiv 2301.13188; Dar et al. 2024, arXiv
2402.01054, for medical latent diffusion). Each lesion of a draw is compared, in a window around it and after its
centroid is laid on the centroid of the other, with every training lesion: by the Dice of the presence, and by the
cosine of the codec's latents. Lesions look alike without being copies, the small ones most of all; what is usual is
therefore measured on held-out readers' lesions as a function of size, and a drawn lesion is called a copy where it is
`DEVIATIONS` standard deviations nearer to a training lesion than those are.

Arrays ``I J K``; a window is (N, *WINDOW) bool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest

from diffusion_adc.inference.lesions import connected_components

WINDOW: Final = (32, 32, 8)
LEAST_VOXELS: Final = 12
"""Smaller lesions are not compared: there are few shapes of so few voxels, and all of them are somebody's."""
DEVIATIONS: Final = 2.2
"""Standard deviations above what is usual for the size: 1.4 % of a normal law."""
LEAST_HELD_OUT: Final = 20
"""With fewer held-out lesions only nearly identical ones are called copies."""
CAP: Final = 0.97
"""A similarity above this is a copy, whatever is usual."""
FLOOR: Final = 0.85
"""No similarity below this is a copy, however rare it is among the held-out lesions."""
EXPECTED: Final = 0.05
"""Share that may look like copies by chance."""

Windows = NDArray[np.bool_]
Encode = Callable[[Windows], NDArray[np.floating]]
"""Windows (N, *WINDOW) → latents, less that of an empty window, (N, ...)."""


@dataclass(frozen=True)
class MemorizationReport:
    """What the check found.

    Attributes:
        candidates: Drawn lesions compared.
        training: Training lesions they were compared with.
        held_out: Held-out lesions that say what is usual.
        copies: Candidates called a copy.
        median_dice: Median Dice of a candidate with its nearest training lesion.
        median_held_out: The same of the held-out lesions.
    """

    candidates: int
    training: int
    held_out: int
    copies: int
    median_dice: float | None
    median_held_out: float | None

    @property
    def share(self) -> float:
        """Copies over candidates; 0 without any candidate."""
        return self.copies / self.candidates if self.candidates else 0.0

    @property
    def memorizes(self) -> bool:
        """More copies than chance explains: an exact binomial test against `EXPECTED` at the 1 % level."""
        if self.candidates == 0:
            return False
        return bool(binomtest(self.copies, self.candidates, EXPECTED, alternative="greater").pvalue < 0.01)

    def line(self) -> str:
        """The figure in words."""
        if self.candidates == 0:
            return f"memorization: no drawn lesion of {LEAST_VOXELS} voxels or more to compare"
        near = "" if self.median_dice is None else f", median Dice of the nearest {self.median_dice:.2f}"
        usual = (
            "" if self.median_held_out is None else f" (held-out readers' lesions {self.median_held_out:.2f})"
        )
        return (
            f"memorization: {self.copies} of {self.candidates} drawn lesions ({self.share:.1%}) look like copies of one "
            f"of {self.training} training lesions, up to {EXPECTED:.0%} do by chance{near}{usual}"
        )

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "share": round(self.share, 6), "memorizes": self.memorizes}


def lesion_windows(presence: NDArray[np.generic]) -> Windows:
    """One window per lesion of at least `LEAST_VOXELS` voxels, centered on it, with all presence in it.

    Args:
        presence: (I, J, K).
    """
    kept = np.asarray(presence, dtype=bool)
    labels = connected_components(kept)
    count = int(labels.max(initial=0))
    half = [size // 2 for size in WINDOW]
    padded = np.pad(kept, [(h, h) for h in half])
    inside = np.argwhere(labels)
    numbers = labels[tuple(inside.T)] - 1
    out = []
    for number in range(count):
        voxels = inside[numbers == number]
        if len(voxels) >= LEAST_VOXELS:
            start = np.floor(voxels.mean(axis=0) + 0.5).astype(int)
            out.append(padded[tuple(slice(s, s + size) for s, size in zip(start, WINDOW, strict=True))])
    return np.stack(out) if out else np.zeros((0, *WINDOW), dtype=bool)


def nearest(windows: Windows, training: Windows) -> tuple[NDArray[np.float64], Windows]:
    """Dice of each window with its nearest training window, (N,), and the windows moved to where it was reached.

    Every shift by up to one voxel per axis is tried: the centroid of a slightly changed lesion may round otherwise.
    """
    flat = training.reshape(len(training), -1).astype(np.float32)
    sizes = windows.sum(axis=(1, 2, 3))[:, None] + flat.sum(1)[None]
    best, aligned = np.full(len(windows), -1.0), windows.copy()
    for step in product((0, -1, 1), repeat=3):
        moved = np.roll(windows, step, axis=(1, 2, 3))
        shared = moved.reshape(len(moved), flat.shape[1]).astype(np.float32) @ flat.T
        dice = (2 * shared / np.maximum(sizes, 1)).max(axis=1)
        better = dice > best
        best[better], aligned[better] = dice[better], moved[better]
    return best, aligned


def nearest_cosine(latents: NDArray[np.floating], training: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of each latent with its nearest training latent, (N,)."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (latents, training))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return (a @ b.T).max(axis=1)


def find_copies(
    drawn: Windows, training: Windows, held_out: Windows, encode: Encode | None = None
) -> tuple[NDArray[np.bool_], MemorizationReport]:
    """Which drawn lesions are copies of training lesions.

    Args:
        drawn: Windows of drawn lesions, of cases the model did not learn from.
        training: Windows of the readers' lesions it learned from.
        held_out: Windows of the readers' lesions of other cases.
        encode: To latents; without it presence alone is compared.

    Returns:
        bool (N,), and the report.
    """
    if not len(drawn) or not len(training):
        return np.zeros(len(drawn), bool), MemorizationReport(
            len(drawn), len(training), len(held_out), 0, None, None
        )
    found, drawn = nearest(drawn, training)
    usual, held_out = nearest(held_out, training)
    sizes = [np.log(w.sum(axis=(1, 2, 3))) for w in (drawn, held_out)]
    copies = found > _limits(sizes[0], sizes[1], usual)
    if encode is not None:
        learned = encode(training)
        latent = nearest_cosine(encode(drawn), learned)
        expected = nearest_cosine(encode(held_out), learned) if len(held_out) else np.zeros(0)
        copies |= latent > _limits(sizes[0], sizes[1], expected)
    return copies, MemorizationReport(
        len(drawn),
        len(training),
        len(held_out),
        int(copies.sum()),
        float(np.median(found)),
        float(np.median(usual)) if len(usual) else None,
    )


def _limits(
    size: NDArray[np.floating], held_out_size: NDArray[np.floating], similarity: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Above which similarity a lesion of each size is unusual, (N,): a line through the logits over the log sizes."""
    if len(similarity) < LEAST_HELD_OUT:
        return np.full(len(size), CAP)
    logits = logit(np.clip(similarity, 0.01, 0.99))
    line = np.polyfit(held_out_size, logits, 1) if np.ptp(held_out_size) > 0 else np.array([0, logits.mean()])
    spread = float(np.std(logits - np.polyval(line, held_out_size)))
    return np.clip(expit(np.polyval(line, size) + DEVIATIONS * spread), FLOOR, CAP)
