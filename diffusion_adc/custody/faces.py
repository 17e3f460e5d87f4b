"""Does a series show a face? A T1w or T2w volume of the head rebuilds one that software recognizes.

Decided from the stated body part, from the coverage (a scan of more than 70 cm reaches the head) and from the
cross-section: a head is a single small shape with air all around. Diffusion-weighted images and ADC maps were
matched in 0-2 % of persons (thick axial T1w/T2w 32-45 %, 3-D 96-98 %): they are recorded, not stopped.
(Schwarz et al. 2021 and its follow-up by sequence.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

HEAD_PARTS: Final = frozenset({"HEAD", "BRAIN", "SKULL", "FACE", "JAW", "HEADNECK", "WHOLEBODY"})
WHOLE_BODY_MM: Final = 700.0
_HEAD_CM2: Final = (80.0, 420.0)
_HEAD_WIDTH_MM: Final = (110.0, 260.0)
_BORDER: Final = 0.05
"""Largest share of the image border that a head touches."""
_AIR: Final = (0.06, 0.12)
"""Largest median and 90th percentile of the signal around a head, as shares of the brightest tissue."""
_MIN_SLICES: Final = 3


@dataclass(frozen=True)
class FacePolicy:
    """What the clinic decided for series that show a face.

    Args:
        action: ``refuse`` (the person is left out until it decides), ``drop`` (the slices, or the whole series where
            they are not axial, stay behind) or ``accept``.
        reason: Why they are accepted; goes into the manifest.
    """

    action: str = "refuse"
    reason: str = ""


@dataclass
class SeriesHead:
    """Collects, slice by slice, whether one series shows a head.

    Attributes:
        kind: ``anatomy``, ``diffusion`` or ``adc``.
        parts: Body parts stated.
        positions: Position of each slice along the body axis, mm (DICOM +z is toward the head), by name.
        heads: Names of the slices whose cross-section looks like a head's.
        axial: Whether all slices are within 45 degrees of axial.
    """

    kind: str = "anatomy"
    parts: set[str] = field(default_factory=set)
    positions: dict[str, float] = field(default_factory=dict)
    heads: set[str] = field(default_factory=set)
    axial: bool = True
    low: float = np.inf
    high: float = -np.inf

    def add(self, name: str, dataset: Dataset, slices: NDArray[np.generic]) -> None:
        """Add a file: `slices` is (frames, rows, columns)."""
        self.parts.add(str(dataset.get("BodyPartExamined", "")).upper())
        for n, frame in enumerate(slices):
            placed = _plane(dataset, n)
            if placed is None:
                continue
            origin, row, column, spacing = placed
            rows, columns = frame.shape
            corners = [
                origin[2] + a * row[2] * spacing[1] * (columns - 1) + b * column[2] * spacing[0] * (rows - 1)
                for a in (0, 1)
                for b in (0, 1)
            ]
            self.low, self.high = min(self.low, *corners), max(self.high, *corners)
            axial = abs(np.cross(row, column)[2]) > 0.7
            self.axial &= bool(axial)
            self.positions[name] = max(self.positions.get(name, -np.inf), float(origin[2]))
            if axial and looks_like_head(frame, spacing):
                self.heads.add(name)

    @property
    def shows_head(self) -> bool:
        """Whether the series reaches above the mandible."""
        stated = bool(self.parts & HEAD_PARTS) or bool(self.high - self.low > WHOLE_BODY_MM)
        return stated or (
            self.axial and len(self.top()) >= min(_MIN_SLICES, max(len(self.positions) // 3, 1))
        )

    def top(self) -> list[str]:
        """Files of the unbroken run of head-like slices at the upper end; one other slice may lie between."""
        found: list[str] = []
        missed = 0
        for name in sorted(self.positions, key=lambda n: -self.positions[n]):
            if name in self.heads:
                found.append(name)
                missed = 0
            elif found or missed > 1:
                missed += 1
                if missed > 1:
                    break
            else:
                missed += 1
        return found

    def decide(self, policy: FacePolicy) -> tuple[str, list[str]]:
        """State for the manifest and the files to leave behind.

        Returns:
            ``none`` (no head), ``diffusion``, ``undecided``, ``dropped`` or ``accepted``; and file names.
        """
        if not self.shows_head:
            return "none", []
        if self.kind != "anatomy":
            return "diffusion", []
        if policy.action == "accept":
            return "accepted", []
        if policy.action != "drop":
            return "undecided", []
        slices = self.top() if self.axial else []
        # Where the body part says head but no slice can be told from another, the series goes as a whole.
        return "dropped", slices or list(self.positions)


def looks_like_head(image: NDArray[np.generic], spacing: tuple[float, float]) -> bool:
    """Whether an axial slice is one closed shape of a head's size with air around it.

    Args:
        image: (rows, columns).
        spacing: Row and column spacing in mm.
    """
    data = np.asarray(image, dtype=np.float32)
    top = float(np.percentile(data, 99))
    if not top > float(data.min()):
        return False
    body = ndimage.binary_opening(data > 0.15 * top, iterations=1)
    labels, count = ndimage.label(body)
    if not count:
        return False
    sizes = np.bincount(labels.ravel())[1:]
    shape = ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax()))
    area = float(shape.sum()) * spacing[0] * spacing[1] / 100.0
    if not _HEAD_CM2[0] <= area <= _HEAD_CM2[1] or sizes.max() < 0.6 * sizes.sum():
        return False
    outside = data[~ndimage.binary_dilation(shape, iterations=3)]
    if outside.size < 50 or np.median(outside) > _AIR[0] * top or np.percentile(outside, 90) > _AIR[1] * top:
        return False  # a small field of view within a trunk: dim tissue all around, not air
    box = ndimage.find_objects(shape.astype(np.uint8))[0]
    sides = [(s.stop - s.start) * mm for s, mm in zip(box, spacing, strict=True)]
    border = np.concatenate([shape[0], shape[-1], shape[:, 0], shape[:, -1]])
    round_enough = area * 100.0 > 0.6 * sides[0] * sides[1]
    sized = all(_HEAD_WIDTH_MM[0] <= side <= _HEAD_WIDTH_MM[1] for side in sides)
    return bool(sized and round_enough and border.mean() <= _BORDER)


_Plane = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], tuple[float, float]]


def _plane(dataset: Dataset, frame: int) -> _Plane | None:
    """Origin, row and column direction and (row, column) spacing of one slice; None where they are not stated."""
    places: list[Dataset] = [dataset]
    for keyword, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = dataset.get(keyword) or []
        if index < len(items):
            places.append(items[index])

    def find(keyword: str, group: str) -> Any:
        for place in places:
            inner = place.get(group)
            value = (inner[0] if inner else place).get(keyword)
            if value is not None:
                return [float(v) for v in value]
        return None

    origin = find("ImagePositionPatient", "PlanePositionSequence")
    axes = find("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = find("PixelSpacing", "PixelMeasuresSequence")
    if not origin or not axes or not spacing or len(origin) != 3 or len(axes) != 6 or len(spacing) != 2:
        return None
    return np.asarray(origin), np.asarray(axes[:3]), np.asarray(axes[3:]), (spacing[0], spacing[1])
