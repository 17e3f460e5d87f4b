"""Where the slices of one volume lie: sorted along their normal, checked for gaps, doubles and strays.

Spacing is the distance of projected positions (DICOM PS3.3 C.7.6.2.1.1), never (0018,0050) Slice Thickness;
the order is that of the positions, never (0020,0013) Instance Number. Readers of whole series accept a missing
slice, a double, a stray orientation or another frame of reference in silence, so all is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.intake.dicom.slices import Slice
from diffusion_adc.intake.nifti import Refusal

_LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_GAP_REFUSED: Final = 0.10
_GAP_WARNED: Final = 0.01
"""Shares of the spacing by which a distance between neighbors may differ."""
_SAME_PLACE: Final = 0.02
"""Two slices nearer than this share of the spacing (or 0.01 mm) are at one place."""
_ANGLE: Final = 1e-3
_SHEAR: Final = 1e-3
_FEW: Final = 0.1
_MAX_SPACING_MM: Final = 50.0


@dataclass(frozen=True)
class Grid:
    """Slices by place along the normal.

    Attributes:
        places: For each k, the slices there; more than one for directions, repetitions or doubles.
        affine: (4, 4) voxel index (column, row, slice) → RAS+ mm.
        doubts: What was found and can be lived with.
    """

    places: tuple[tuple[Slice, ...], ...]
    affine: NDArray[np.float64]
    doubts: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K)."""
        first = self.places[0][0]
        return first.columns, first.rows, len(self.places)


def normal(one: Slice) -> NDArray[np.float64]:
    """Unit normal of a slice, LPS: row direction × column direction."""
    cross = np.cross(one.orientation[:3], one.orientation[3:])
    length = float(np.linalg.norm(cross))
    return cross / length if length > 0 else cross


def orientations(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The slices by orientation, the most frequent first."""
    groups: list[list[Slice]] = []
    for one in slices:
        for group in groups:
            if np.abs(np.subtract(group[0].orientation, one.orientation)).max() <= _ANGLE:
                group.append(one)
                break
        else:
            groups.append([one])
    return sorted(groups, key=len, reverse=True)


def several_planes(slices: Sequence[Slice]) -> bool:
    """Whether the slices lie in three planes at right angles, as a localizer's do."""
    normals = [normal(group[0]) for group in orientations(slices)]
    if len(normals) < 3:
        return False
    inner = np.abs(np.array(normals) @ np.array(normals).T)
    return bool(np.any((inner < 0.5).sum(axis=1) >= 2))


def arrange(slices: Sequence[Slice], refused: Refusal) -> Grid:
    """Slices of one kind on their grid.

    Raises:
        CaseError: S02 a gap, S05 several sizes, S06 a stray orientation, S07 several frames of reference,
            S09 shear or axes off a right angle, S10 no distance, S28 an impossible distance.
    """
    _check_alike(slices, refused)
    axis = normal(slices[0])
    places, at = _places(slices, axis)
    if len(places) == 1:
        return _single(places, axis, refused)
    steps = np.diff(at)
    spacing = float(np.median(steps))
    if not 0 < spacing <= _MAX_SPACING_MM:
        raise refused("S28", f"slices {spacing:g} mm apart", f"above 0 and at most {_MAX_SPACING_MM:g} mm")
    off = np.abs(steps - spacing) / spacing
    worst = int(np.argmax(off))
    doubts: list[str] = []
    if off[worst] > _GAP_REFUSED:
        raise refused(
            "S02", f"{steps[worst]:.3f} mm between slices {worst} and {worst + 1}",
            f"{spacing:.3f} mm as between the others", "deliver the missing slice, or export the series again",
        )  # fmt: skip
    if off[worst] > _GAP_WARNED:
        doubts.append(
            f"S02 slices {worst} and {worst + 1} are {steps[worst]:.3f} mm apart, not {spacing:.3f}"
        )
    first, last = (np.array(places[k][0].position) for k in (0, -1))
    positions = np.array([one.position for place in places for one in place])
    along = (positions - first) @ axis
    aside = np.linalg.norm(positions - first - along[:, None] * axis, axis=1)
    reach = float(at[-1] - at[0])
    if float(aside.max()) > _SHEAR * reach and float(aside.max()) > 1e-2:
        raise refused(
            "S09", f"slices shifted sideways by {aside.max():.3f} mm", "slices straight above one another",
            "export the series without shear",
        )  # fmt: skip
    return Grid(places, _affine(places[0][0], (last - first) / (len(places) - 1)), tuple(doubts))


def _check_alike(slices: Sequence[Slice], refused: Refusal) -> None:
    first = slices[0]
    sizes = {(one.rows, one.columns) for one in slices}
    spacings = np.array([one.spacing for one in slices])
    if len(sizes) > 1 or float(np.ptp(spacings, axis=0).max()) > 1e-4 * float(spacings.max()):
        raise refused("S05", "images of several sizes in one series", "one size", "split the series")
    row, column = (np.array(first.orientation[n : n + 3]) for n in (0, 3))
    lengths = abs(float(np.linalg.norm(row)) - 1) + abs(float(np.linalg.norm(column)) - 1)
    if abs(float(row @ column)) > _SHEAR or lengths > _SHEAR:
        raise refused(
            "S09", "image axes that are no right angle or no unit vectors", "orthonormal axes",
            "export the series again",
        )  # fmt: skip
    strays = orientations(slices)[1:]
    if strays:
        count = sum(len(group) for group in strays)
        raise refused(
            "S06", f"{count} of {len(slices)} images in another orientation", "one orientation per series",
            "remove the stray images",
        )  # fmt: skip
    if len({one.frame_of_reference for one in slices}) > 1:
        raise refused("S07", "several frames of reference in one series", "one", "export the series again")


def _places(
    slices: Sequence[Slice], axis: NDArray[np.float64]
) -> tuple[tuple[tuple[Slice, ...], ...], NDArray[np.float64]]:
    """Slices grouped by place, rising along the normal, and the places in mm."""
    projected = np.array([float(np.dot(one.position, axis)) for one in slices])
    order = np.argsort(projected, kind="stable")
    sorted_at = projected[order]
    steps = np.diff(sorted_at)
    real = steps[steps > 0.01]
    same = max(0.01, _SAME_PLACE * float(np.median(real)) if real.size else 0.01)
    groups: list[list[int]] = [[int(order[0])]]
    for step, index in zip(steps, order[1:], strict=True):
        if step <= same:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    places = tuple(tuple(sorted((slices[n] for n in group), key=_acquired)) for group in groups)
    return places, np.array([projected[group[0]] for group in groups])


def _acquired(one: Slice) -> tuple[int, int, int, int]:
    """The order in which repetitions at one place were acquired."""
    return (one.temporal or 0, one.acquisition or 0, one.instance_number or 0, one.frame or 0)


def _single(places: tuple[tuple[Slice, ...], ...], axis: NDArray[np.float64], refused: Refusal) -> Grid:
    thickness = places[0][0].thickness
    if thickness is None or not 0 < thickness <= _MAX_SPACING_MM:
        raise refused("S10", "a single slice without a thickness", "its thickness in mm")
    return Grid(places, _affine(places[0][0], axis * thickness), ())


def _affine(first: Slice, step: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return _LPS_TO_RAS @ affine


def volumes(grid: Grid, refused: Refusal) -> tuple[list[list[Slice]], list[tuple[int, tuple[Slice, ...]]]]:
    """One slice per place for each volume, and the places that hold doubles.

    Returns:
        Volumes, each a list of K slices; (k, slices) where a place holds more than the others.

    Raises:
        CaseError: S05, the slices do not divide into whole volumes.
    """
    counts = [len(place) for place in grid.places]
    usual = int(np.bincount(counts).argmax())
    odd = [k for k, count in enumerate(counts) if count != usual]
    if any(counts[k] < usual for k in odd) or len(odd) > max(2, _FEW * len(counts)):
        raise refused(
            "S05", f"{sum(counts)} images for {len(counts)} places", "the same number at every place",
            "deliver whole volumes",
        )  # fmt: skip
    if odd and usual > 1:
        raise refused("S05", f"{max(counts)} images at one place, {usual} at others", "as many at each place")
    return (
        [[place[n] for place in grid.places] for n in range(usual)],
        [(k, grid.places[k]) for k in odd],
    )
