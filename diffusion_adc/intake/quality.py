"""Scanner ADC against ADC recomputed from the diffusion-weighted images, and other signs of a wrong map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import noise_sigma

PASS, WARN, REFUSE = "pass", "warn", "refuse"
_LEAST_VOXELS: Final = 100
_MOST_NEGATIVE: Final = 0.005
"""Largest share of negative ADC among the body's fitted voxels."""
_LEAST_CORRELATION: Final = 0.5
"""Two maps of one examination follow each other voxel by voxel; below this they are of two, whatever the median."""
_AIR_SIGMAS: Final = 3.0


@dataclass(frozen=True)
class Agreement:
    """How the scanner's ADC compares with the recomputed one over valid voxels.

    Attributes:
        verdict: ``pass`` (median relative difference below 5 %, correlation above .95, slope .9 to 1.1),
            ``warn`` (median ratio within .9 to 1.1 and correlation at least .5), else ``refuse``.
        voxels: Compared.
        ratio: Median of recomputed over scanner.
        difference: Median of |scanner − recomputed| / scanner.
        correlation: Pearson.
        slope: Of the scanner's values on the recomputed ones, least squares.
    """

    verdict: str
    voxels: int
    ratio: float
    difference: float
    correlation: float
    slope: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


def adc_agreement(
    adc: NDArray[np.floating], recomputed_adc: NDArray[np.floating], use: NDArray[np.bool_]
) -> Agreement | None:
    """Compare the scanner's ADC with the ADC fitted to the diffusion-weighted images.

    Args:
        adc: (I, J, K) in 1e-3 mm²/s.
        recomputed_adc: (I, J, K) in 1e-3 mm²/s, NaN where it cannot be computed. Negative values count: swapped
            images would otherwise leave nothing to compare.
        use: (I, J, K) where the scanner's ADC can be trusted, inside the body.

    Returns:
        None if fewer than 100 voxels can be compared.
    """
    use = use & np.isfinite(recomputed_adc) & (adc > 0)
    if np.count_nonzero(use) < _LEAST_VOXELS:
        return None
    scanner, recomputed = adc[use].astype(np.float64), recomputed_adc[use].astype(np.float64)
    ratio = float(np.median(recomputed / scanner))
    difference = float(np.median(np.abs(scanner - recomputed) / scanner))
    if scanner.std() == 0 or recomputed.std() == 0:
        correlation = slope = 0.0
    else:
        correlation = float(np.corrcoef(scanner, recomputed)[0, 1])
        slope = float(np.polyfit(recomputed, scanner, 1)[0])
    if difference < 0.05 and correlation > 0.95 and 0.9 <= slope <= 1.1:
        verdict = PASS
    elif 0.9 <= ratio <= 1.1 and correlation >= _LEAST_CORRELATION:
        verdict = WARN
    else:
        verdict = REFUSE
    return Agreement(verdict, int(use.sum()), ratio, difference, correlation, slope)


def body_mask(volumes: Mapping[str, NDArray[np.generic]]) -> NDArray[np.bool_]:
    """Where the body is, from the image that shows it best; everywhere if no image shows any air.

    Args:
        volumes: (I, J, K) arrays by sequence, one grid.
    """
    order = (seq.DWI_LOW, seq.T2W, seq.T1W, seq.DWI_HIGH)
    name = next(name for name in (*order, seq.ADC) if name in volumes)
    image = np.asarray(volumes[name], dtype=np.float32)
    sigma = noise_sigma(image) if name in order else 0.0
    smooth = ndimage.uniform_filter(image, (3, 3, 1)) if sigma > 0 else image
    labels, count = ndimage.label(smooth > _AIR_SIGMAS * sigma if sigma > 0 else smooth != 0)
    if count == 0:
        return np.ones(image.shape, dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    # Gas and fluid without signal at this b lie inside the body: filled slice by slice.
    flat = np.zeros((3, 3, 3), dtype=bool)
    flat[:, 1, 1] = flat[1, :, 1] = True
    filled = np.asarray(ndimage.binary_fill_holes(largest, flat), dtype=bool)
    if sigma == 0:
        return filled
    # The smoothing took in one voxel of air all round, where an ADC is noise over noise: half of it negative.
    inner = np.asarray(ndimage.binary_erosion(filled, np.ones((3, 3, 1)), border_value=1), dtype=bool)
    return inner if inner.any() else filled


def negative_share(adc: NDArray[np.floating], body: NDArray[np.bool_]) -> float:
    """Share of negative values among the body's fitted (non-zero) voxels; air is noise of either sign."""
    fitted = int(np.count_nonzero(body & (adc != 0)))
    return float(np.count_nonzero(body & (adc < 0))) / fitted if fitted else 0.0


def too_negative(share: float) -> bool:
    """Whether so many voxels are negative that the map itself is in doubt."""
    return share > _MOST_NEGATIVE
