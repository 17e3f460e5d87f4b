"""Whole-body stations → one volume in which each physical voxel is counted once.

Stations are sorted by position along the slice normal, never by number. Where two of them overlap, the cut lies in
the middle of the overlap: a cross-fade would make values that no scanner measured, and the edges of a station,
where gradients are least linear, go first. Voxels are moved as they are, never resampled. A table that came to
rest between two slices, a gap or an overlap whose images disagree is refused (S32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.units import spacing_mm
from diffusion_adc.intake.nifti import Loaded, Refusal

_SAME_DIRECTION: Final = 1e-3
_IN_PLANE_MM: Final = 0.1
_OFF_LATTICE: Final = 0.10
"""Largest distance of a slice from where the next one belongs, as a share of the spacing."""
_LEAST_AGREEMENT: Final = 0.5
"""Least correlation of the slices that two stations share: below it they are of two bodies or in wrong order."""
_MOST_SHIFT_MM: Final = 5.0
_MOST_LOG_RATIO: Final = 0.2
_BODY: Final = 0.1
"""Body: brighter than this share of the brightest percent."""
_COMPOSED_MM: Final = 600.0
"""No scanner images a longer field at one table position: such a series was composed before."""
_MOST_STATIONS: Final = 20


@dataclass(frozen=True, eq=False)
class Stitched:
    """Stations as one volume.

    Attributes:
        array: float64 (I, J, K).
        affine: (4, 4) voxel index → RAS+ mm.
        station: uint8 (I, J, K), which station a voxel comes from, 0 for the first along K.
        seams: One record per seam: ``after`` (K index of the last slice below it), ``stations``,
            ``overlap_slices``, ``agreement`` (correlation of the shared slices), ``shift_mm`` (jump of the body's
            center in plane), ``log_ratio`` (of mean signals in the body, upper over lower), ``flags``.
        composed: The series came as a whole, stitched by the scanner or its console.
    """

    array: NDArray[np.float64]
    affine: NDArray[np.float64]
    station: NDArray[np.uint8]
    seams: tuple[dict[str, Any], ...] = ()
    composed: bool = False

    @property
    def flags(self) -> list[str]:
        """What is wrong at which seam, for the report."""
        return [f"seam {n}: {flag}" for n, seam in enumerate(self.seams, start=1) for flag in seam["flags"]]


def compose(stations: Sequence[Loaded], research_id: str, name: str) -> Stitched:
    """One volume from the stations of one sequence; the same cut for every sequence with the same stations.

    Args:
        stations: (I, J, K) volumes in any order; one of them alone is returned as it is.
        research_id: For messages.
        name: The sequence.

    Raises:
        ValueError: No station.
        CaseError: S32, the stations do not belong together: other voxels, a gap, an overlap that disagrees.
    """
    if not stations:
        raise ValueError("no station")
    refused = Refusal(research_id, name)
    whole = _whole(stations)
    if whole is not None:
        long = whole.array.shape[2] * spacing_mm(whole.affine)[2] > _COMPOSED_MM
        station = np.zeros(whole.array.shape, dtype=np.uint8)
        return Stitched(whole.array, whole.affine, station, composed=long or len(stations) > 1)
    if len(stations) > _MOST_STATIONS:
        raise refused(
            "S32", f"{len(stations)} stations", f"at most {_MOST_STATIONS}", "deliver the composed series"
        )
    first = stations[0]
    turned = [first, *(_alike(station, first, refused) for station in stations[1:])]
    ordered = sorted(turned, key=lambda station: _offset(station, first))
    starts = _starts(ordered, refused)
    cuts, seams = [0], []
    for number, (lower, upper) in enumerate(pairwise(ordered)):
        end, begin = starts[number] + lower.array.shape[2], starts[number + 1]
        shared = end - begin
        _check_overlap(shared, lower, upper, refused)
        cut = begin + shared // 2
        seams.append(_seam(lower, upper, starts[number], begin, cut, number, refused))
        cuts.append(cut)
    cuts.append(starts[-1] + ordered[-1].array.shape[2])
    parts = [
        station.array[:, :, low - start : high - start]
        for station, start, (low, high) in zip(ordered, starts, pairwise(cuts), strict=True)
    ]
    array = np.concatenate(parts, axis=2)
    layer = np.repeat(np.arange(len(parts), dtype=np.uint8), [part.shape[2] for part in parts])
    station_of = np.ascontiguousarray(np.broadcast_to(layer, array.shape))
    return Stitched(array, ordered[0].affine, station_of, tuple(seams))


def _whole(stations: Sequence[Loaded]) -> Loaded | None:
    """The one station, or the one that holds the places of all others: it was composed from them."""
    if len(stations) == 1:
        return stations[0]
    longest = max(stations, key=lambda s: s.array.shape[2] * spacing_mm(s.affine)[2])
    inverse = np.linalg.inv(longest.affine)
    size = longest.array.shape[2]
    for station in stations:
        ends = [
            (inverse @ station.affine @ np.array([0, 0, k, 1.0]))[2] for k in (0, station.array.shape[2] - 1)
        ]
        if station is not longest and not (min(ends) > -1 and max(ends) < size):
            return None
    others = sum(s.array.shape[2] * spacing_mm(s.affine)[2] for s in stations if s is not longest)
    # Several equal series at one place are repetitions, not a composed series and its parts.
    long = size * spacing_mm(longest.affine)[2]
    return longest if long > _COMPOSED_MM or (len(stations) > 2 and others >= long) else None


def _alike(station: Loaded, first: Loaded, refused: Refusal) -> Loaded:
    """The station with its slices in the first one's order; refused unless its voxels fit beside them."""
    if station.array.shape[:2] != first.array.shape[:2]:
        raise refused(
            "S32", f"stations of {station.array.shape[:2]} and {first.array.shape[:2]} voxels", "one matrix",
            "deliver the composed series",
        )  # fmt: skip
    axes = station.affine[:3, :3]
    if float(axes[:, 2] @ first.affine[:3, 2]) < 0:
        flipped = station.affine.copy()
        flipped[:3, 3] += (station.array.shape[2] - 1) * axes[:, 2]
        flipped[:3, 2] *= -1
        station = replace(station, array=station.array[:, :, ::-1], affine=flipped)
    difference = np.abs(station.affine[:3, :3] - first.affine[:3, :3]).max(axis=0)
    if np.any(difference > _SAME_DIRECTION * np.array(spacing_mm(first.affine))):
        raise refused(
            "S32", "stations of other voxel sizes or directions", "one spacing and orientation",
            "deliver the composed series",
        )  # fmt: skip
    apart = np.linalg.inv(first.affine[:3, :3]) @ (station.affine[:3, 3] - first.affine[:3, 3])
    aside = float(np.abs(apart[:2] * np.array(spacing_mm(first.affine)[:2])).max())
    if aside > _IN_PLANE_MM:
        raise refused("S32", f"stations {aside:.1f} mm apart in plane", f"at most {_IN_PLANE_MM} mm",
                      "deliver the composed series")  # fmt: skip
    return station


def _offset(station: Loaded, first: Loaded) -> float:
    """Slices from the first station's first slice, along the slice normal."""
    normal = first.affine[:3, 2]
    return float((station.affine[:3, 3] - first.affine[:3, 3]) @ normal / (normal @ normal))


def _starts(ordered: Sequence[Loaded], refused: Refusal) -> list[int]:
    """Index of each station's first slice in the composed volume."""
    offsets = [_offset(station, ordered[0]) for station in ordered]
    starts = [round(offset) for offset in offsets]
    off = max(abs(offset - start) for offset, start in zip(offsets, starts, strict=True))
    if off > _OFF_LATTICE:
        raise refused(
            "S32", f"a station {off:.0%} of a slice off the others", f"at most {_OFF_LATTICE:.0%}",
            "deliver the composed series; slices are never resampled",
        )  # fmt: skip
    return starts


def _check_overlap(shared: int, lower: Loaded, upper: Loaded, refused: Refusal) -> None:
    if shared < 0:
        raise refused(
            "S32", f"a gap of {-shared} slices between two stations", "stations that touch",
            "deliver the missing station",
        )  # fmt: skip
    if shared >= min(lower.array.shape[2], upper.array.shape[2]):
        raise refused(
            "S32", "a station inside another one", "stations one after the other", "leave one of them out"
        )


def _seam(
    lower: Loaded, upper: Loaded, start: int, begin: int, cut: int, number: int, refused: Refusal
) -> dict[str, Any]:
    """How well two stations fit where they meet."""
    shared = start + lower.array.shape[2] - begin
    if shared:
        below, above = lower.array[:, :, begin - start :], upper.array[:, :, :shared]
    else:
        below, above = lower.array[:, :, -1:], upper.array[:, :, :1]
    agreement = _correlation(below, above)
    if shared and agreement is not None and agreement < _LEAST_AGREEMENT:
        raise refused(
            "S32", f"shared slices of two stations that correlate by {agreement:.2f}",
            f"at least {_LEAST_AGREEMENT}", "check that they are of one person and in order",
        )  # fmt: skip
    bodies = _body(below), _body(above)
    shift = log_ratio = None
    if all(body.any() for body in bodies):
        spacing = np.array(spacing_mm(lower.affine)[:2])
        centers = [np.argwhere(body.any(axis=2)).mean(axis=0) * spacing for body in bodies]
        shift = float(np.linalg.norm(centers[1] - centers[0]))
        means = [float(part[body].mean()) for part, body in zip((below, above), bodies, strict=True)]
        log_ratio = float(np.log(means[1] / means[0])) if min(means) > 0 else None
    flags = []
    if shift is not None and shift > _MOST_SHIFT_MM:
        flags.append(f"the body jumps by {shift:.1f} mm")
    if log_ratio is not None and abs(log_ratio) > _MOST_LOG_RATIO:
        flags.append(f"the signal changes by a factor of {np.exp(log_ratio):.2f}")
    return {
        "after": cut - 1, "stations": [number, number + 1], "overlap_slices": shared,
        "agreement": None if agreement is None else round(agreement, 4),
        "shift_mm": None if shift is None else round(shift, 3),
        "log_ratio": None if log_ratio is None else round(log_ratio, 4), "flags": flags,
    }  # fmt: skip


def _correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float | None:
    if one.std() == 0 or two.std() == 0:
        return None
    return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])


def _body(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    return image > _BODY * max(float(np.quantile(image, 0.99)), np.finfo(float).tiny)
