"""A mosaic: one image that tiles the slices of a volume (Siemens, UIH).

The placement in the header is that of the whole tiled image as if it were one slice with the same center
(C. Rorden, dcm2niix notes on Siemens mosaics); each tile's own placement follows from its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from diffusion_adc.custody.diffusion_tags import csa_values
from diffusion_adc.intake.dicom.attributes import first, number, numbers, whole
from diffusion_adc.intake.dicom.slices import BadFile, Slice

_SIEMENS_COUNT: Final = (0x0019, 0x100A)
_SIEMENS_CSA: Final = (0x0029, 0x1010)
_UIH_COUNT: Final = (0x0065, 0x1050)
_UIH_FRAMES: Final = (0x0065, 0x1051)


def side(count: int) -> int:
    """Tiles along each side of a mosaic of `count` slices."""
    return math.ceil(math.sqrt(count))


def tiles(dataset: Dataset, whole_image: Slice) -> Iterator[Slice]:
    """The slices of a mosaic, each with its own placement.

    Raises:
        BadFile: S29 the tiles do not fit the image or nobody says how many there are; S10 no distance.
    """
    csa = _value(dataset, _SIEMENS_CSA)
    header = csa if isinstance(csa, bytes) else b""
    count = whole(_plain(_value(dataset, _SIEMENS_COUNT))) or whole(_plain(_value(dataset, _UIH_COUNT)))
    if not count and (stated := csa_values(header, "NumberOfImagesInMosaic")):
        count = whole(stated[0])
    if not count or not 0 < count <= 1024:
        raise BadFile("S29", "a mosaic that does not say how many slices it holds", "their number")
    n = side(count)
    if whole_image.rows % n or whole_image.columns % n:
        raise BadFile("S29", f"a mosaic whose sides are no multiples of {n}", f"{count} whole tiles")
    rows, columns = whole_image.rows // n, whole_image.columns // n
    row, column = (np.array(whole_image.orientation[at : at + 3]) for at in (0, 3))
    frames = _value(dataset, _UIH_FRAMES)
    if frames:
        for index in range(count):
            position = numbers(frames[index].get("ImagePositionPatient"), 3)
            if position is None:
                raise BadFile("S10", "a mosaic whose tiles have no placement", "a position per tile")
            yield replace(
                whole_image, frame=index, layout="mosaic", rows=rows, columns=columns,
                position=(position[0], position[1], position[2]),
            )  # fmt: skip
        return
    distance = number(dataset.get("SpacingBetweenSlices")) or number(dataset.get("SliceThickness"))
    if not distance or distance <= 0:
        raise BadFile("S10", "a mosaic without a distance between its slices", "the distance in mm")
    stated_normal = [first(word) for word in csa_values(header, "SliceNormalVector")]
    normal = np.cross(row, column)
    if len(stated_normal) == 3 and all(value is not None for value in stated_normal):
        normal = np.array(stated_normal, dtype=float)
    corner = (
        np.array(whole_image.position)
        + row * whole_image.spacing[1] * (whole_image.columns - columns) / 2
        + column * whole_image.spacing[0] * (whole_image.rows - rows) / 2
    )
    for index in range(count):
        x, y, z = (float(v) for v in corner + index * distance * normal)
        yield replace(
            whole_image, frame=index, layout="mosaic", rows=rows, columns=columns, position=(x, y, z)
        )


def _value(dataset: Dataset, tag: tuple[int, int]) -> Any:
    element = dataset.get(tag)
    return None if element is None else element.value


def _plain(value: Any) -> Any:
    """A private number that a reader left as bytes: text, or a little-endian integer."""
    if not isinstance(value, bytes):
        return value
    text = value.strip(b" \0")
    if text.isdigit():
        return text.decode("ascii")
    return int.from_bytes(value, "little") if len(value) in (2, 4) else None
