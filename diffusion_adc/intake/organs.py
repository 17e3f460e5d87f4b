"""Tissues whose ADC is known have it, or the map is doubted: a scale error that no comparison of files can show.

Where neither the files nor the layout say which region the map shows, nothing is judged. Where they do, a tissue is
looked for by what is independent of the map's scale: skeletal muscle is the largest tissue of pelvis and body, brain
of the head, so each is where the histogram of the ADC peaks; urine and cerebrospinal fluid are one large, even region
at a multiple of that peak. What is not found beyond doubt is not judged either; the spleen, which looks like other
organs, is never looked for.

Ranges in 1e-3 mm²/s at body temperature, where free water has 3.0 (Mills 1973, J Phys Chem 77:685): muscle 1.0 to
1.9, urine and cerebrospinal fluid 2.6 to 3.4, white matter 0.6 to 0.85 (Helenius 2002, AJNR 23:194).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import noise_sigma
from diffusion_adc.domain.units import voxel_volume_ml

MUSCLE, URINE, WHITE_MATTER, CSF = "muscle", "urine", "white_matter", "csf"
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    MUSCLE: (1.0, 1.9), URINE: (2.6, 3.4), WHITE_MATTER: (0.6, 0.85), CSF: (2.6, 3.4),
}  # fmt: skip
REGIONS: Final[Mapping[str, tuple[str, str | None]]] = {
    "pelvis": (MUSCLE, URINE), "whole_body": (MUSCLE, None), "head": (WHITE_MATTER, CSF),
}  # fmt: skip
"""Anatomy → its largest tissue and its fluid. A whole body has too many fluids to tell one from another."""
_LEAST_VOXELS: Final = 1000
_LEAST_ML: Final = 50.0
"""Of valid body: less is a phantom or a crop that may hold anything."""
_BIN: Final = 0.05
_LOWEST, _HIGHEST = 0.3, 4.05
"""Fat left unsuppressed lies below, the storage ceiling above."""
_NEAR: Final = 0.15
_LEAST_SHARE: Final = 0.2
"""The largest tissue holds this share of the voxels within `_NEAR` of its peak; else there is no largest one."""
_TIMES: Final[Mapping[str, float]] = {URINE: 1.6, CSF: 2.2}
"""Times the largest tissue's ADC above which only fluid lies."""
_FLUID_ML: Final[Mapping[str, float]] = {URINE: 20.0, CSF: 5.0}
_EVEN: Final = 0.2
"""Largest interquartile range of a fluid, as a share of its median."""
_T2_BRIGHT: Final = 1.5
"""Fluid is this many times as bright in a T2w image as the body's median."""
_LEAST_SNR: Final = 3.0
"""Below this signal-to-noise ratio at the high b the noise floor alone lowers a fluid's ADC by more than 2 %."""


@dataclass(frozen=True)
class Organ:
    """A tissue that was found and its ADC.

    Attributes:
        name: A key of `RANGES`.
        adc: Median, 1e-3 mm²/s.
        voxels: Measured.
        low_counts: Whether too low a value speaks against the map, not merely against the signal.
    """

    name: str
    adc: float
    voxels: int
    low_counts: bool = True

    @property
    def off(self) -> int:
        """1 above its range, -1 below, 0 inside or not to be judged."""
        low, high = RANGES[self.name]
        if self.adc > high:
            return 1
        return -1 if self.adc < low and self.low_counts else 0

    @property
    def text(self) -> str:
        """Its name and value."""
        return f"{self.name.replace('_', ' ')} {self.adc:.2f}"

    @property
    def expected(self) -> str:
        """Its name and range."""
        low, high = RANGES[self.name]
        return f"{self.name.replace('_', ' ')} {low:g} to {high:g}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {
            "adc": round(self.adc, 4),
            "voxels": self.voxels,
            "range": list(RANGES[self.name]),
            "off": self.off,
        }


def find_organs(
    anatomy: str, adc: NDArray[np.floating], volumes: Mapping[str, NDArray[np.generic]], use: NDArray[np.bool_],
    affine: NDArray[np.floating],
) -> tuple[Organ, ...]:  # fmt: skip
    """The tissues of known ADC that can be told in this map.

    Args:
        anatomy: The region shown; one that is no key of `REGIONS` is not judged.
        adc: (I, J, K) in 1e-3 mm²/s.
        volumes: (I, J, K) arrays by sequence on the same grid; ``dwi_high`` and ``t2w`` are looked at if there.
        use: (I, J, K) where the ADC can be trusted, inside the body.
        affine: (4, 4) voxel index → RAS+ mm.

    Returns:
        None to two of them, the largest tissue first.
    """
    if anatomy not in REGIONS:
        return ()
    tissue, fluid = REGIONS[anatomy]
    ml = voxel_volume_ml(affine)
    values = adc[use]
    if values.size < _LEAST_VOXELS or values.size * ml < _LEAST_ML:
        return ()
    peak = _peak(values)
    near = values[np.abs(values - peak) < _NEAR * peak]
    if near.size < _LEAST_SHARE * values.size:
        return ()
    largest = Organ(tissue, float(np.median(near)), int(near.size))
    found = None if fluid is None else _fluid(fluid, largest.adc, adc, volumes, use, ml)
    return (largest,) if found is None else (largest, found)


def doubtful(organs: Sequence[Organ]) -> tuple[Organ, ...]:
    """Those outside their range."""
    return tuple(organ for organ in organs if organ.off)


def refuted(organs: Sequence[Organ]) -> bool:
    """Whether the map's scale is wrong: two tissues off to the same side. One alone may be the person's, or ours."""
    return len(organs) > 1 and abs(sum(organ.off for organ in organs)) == len(organs)


def _peak(values: NDArray[np.floating]) -> float:
    edges = np.arange(_LOWEST, _HIGHEST + _BIN, _BIN)
    counts, _ = np.histogram(values, edges)
    smooth = np.convolve(counts, np.array([1.0, 2.0, 3.0, 2.0, 1.0]), mode="same")
    at = int(np.argmax(smooth))
    return float(0.5 * (edges[at] + edges[at + 1]))


def _fluid(
    name: str, tissue_adc: float, adc: NDArray[np.floating], volumes: Mapping[str, NDArray[np.generic]],
    use: NDArray[np.bool_], ml: float,
) -> Organ | None:  # fmt: skip
    plane = np.ones((3, 3, 1), dtype=bool)
    wet = ndimage.binary_opening(use & (adc > _TIMES[name] * tissue_adc), plane)
    labels, count = ndimage.label(wet)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    largest = labels == 1 + int(np.argmax(sizes))
    inner = ndimage.binary_erosion(largest, plane)  # a rim shares its voxels with the wall
    if sizes.max() * ml < _FLUID_ML[name] or not inner.any():
        return None
    values = adc[inner]
    low, median, high = np.percentile(values, (25, 50, 75))
    if high - low > _EVEN * median:
        return None
    if seq.T2W in volumes:
        t2w = np.asarray(volumes[seq.T2W], dtype=np.float64)
        if np.median(t2w[inner]) < _T2_BRIGHT * np.median(t2w[use]):
            return None
    return Organ(name, float(median), int(values.size), _above_noise(volumes.get(seq.DWI_HIGH), inner))


def _above_noise(high: NDArray[np.generic] | None, inner: NDArray[np.bool_]) -> bool:
    """Whether the fluid's high-b signal is measured at all; it is not known where the image shows no air."""
    if high is None:
        return False
    sigma = noise_sigma(high)
    return sigma > 0 and float(np.median(np.asarray(high, dtype=np.float64)[inner])) >= _LEAST_SNR * sigma
