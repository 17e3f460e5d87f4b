"""A mosaic: one image that tiles the slices of a volume (Siemens, UIH), and how its tiles lie in space.

The placement in the header is that of the whole tiled image as if it were one slice with the same center (C. Rorden,
dcm2niix notes on Siemens mosaics); each tile's own placement follows from its size. What says so is private, so a
mosaic is taken apart at the clinic; where it is read as it is, the same geometry serves.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian

from diffusion_adc.custody import pixels
from diffusion_adc.custody.diffusion_tags import csa_values
from diffusion_adc.custody.numbers import number, whole
from diffusion_adc.domain.errors import CaseError

_COUNT: Final = ((0x0019, 0x100A), (0x0065, 0x1050))
_CSA: Final = (0x0029, 0x1010)
_FRAMES: Final = (0x0065, 0x1051)
_MOST: Final = 1024


class MosaicError(Exception):
    """A mosaic that cannot be taken apart: the code, what was found and what was expected."""

    def __init__(self, code: str, found: str, expected: str) -> None:
        super().__init__(found)
        self.code, self.found, self.expected = code, found, expected


@dataclass(frozen=True)
class Mosaic:
    """How the tiles of an image lie.

    Attributes:
        rows, columns: Of one tile.
        side: Tiles along each side of the image.
        positions_mm: (0020,0032) of each tile's slice, LPS, first slice first.
    """

    rows: int
    columns: int
    side: int
    positions_mm: tuple[tuple[float, float, float], ...]


def is_mosaic(dataset: Dataset) -> bool:
    """Whether one image tiles the slices of a volume."""
    words = [str(word).strip().upper() for word in dataset.get("ImageType") or ()]
    return "MOSAIC" in words or "VFRAME" in words


def side(count: int) -> int:
    """Tiles along each side of a mosaic of `count` slices."""
    return math.ceil(math.sqrt(count))


def read_mosaic(dataset: Dataset) -> Mosaic:
    """The tiles' size and places.

    Raises:
        MosaicError: S29 the tiles do not fit the image or nobody says how many there are; S10 nobody says how they
            lie.
    """
    header = _value(dataset, _CSA)
    header = header if isinstance(header, bytes) else b""
    count = next((n for tag in _COUNT if (n := _whole(_value(dataset, tag)))), None)
    if count is None and (stated := csa_values(header, "NumberOfImagesInMosaic")):
        count = _whole(stated[0])
    if not count or not 0 < count <= _MOST:
        raise MosaicError("S29", "a mosaic that does not say how many slices it holds", "their number")
    tiles = side(count)
    height, width = int(dataset.Rows), int(dataset.Columns)
    if height % tiles or width % tiles:
        raise MosaicError("S29", f"a mosaic whose sides are no multiples of {tiles}", f"{count} whole tiles")
    rows, columns = height // tiles, width // tiles
    frames = _value(dataset, _FRAMES)
    if isinstance(frames, Sequence) and frames:
        places = [_numbers(item.get("ImagePositionPatient"), 3) for item in frames[:count]]
        if len(places) < count or any(place is None for place in places):
            raise MosaicError("S10", "a mosaic whose tiles have no placement", "a position per tile")
        positions = np.array(places)
    else:
        positions = _along_normal(dataset, header, count, (rows, columns))
    return Mosaic(rows, columns, tiles, tuple((float(x), float(y), float(z)) for x, y, z in positions))


def _along_normal(dataset: Dataset, header: bytes, count: int, tile: tuple[int, int]) -> NDArray[np.float64]:
    """(count, 3): one slice behind the other from the header's corner, moved from the image's to the tile's."""
    axes = _numbers(dataset.get("ImageOrientationPatient"), 6)
    corner = _numbers(dataset.get("ImagePositionPatient"), 3)
    spacing = _numbers(dataset.get("PixelSpacing"), 2)
    if axes is None or corner is None or spacing is None:
        raise MosaicError("S10", "a mosaic without a placement", "position, orientation and spacing")
    distance = number(dataset.get("SpacingBetweenSlices")) or number(dataset.get("SliceThickness"))
    if not distance or distance <= 0:
        raise MosaicError("S10", "a mosaic without a distance between its slices", "the distance in mm")
    row, column = axes[:3], axes[3:]
    normal = _numbers(csa_values(header, "SliceNormalVector"), 3)
    if normal is None:
        normal = np.cross(row, column)
    first = (
        corner
        + row * spacing[1] * (int(dataset.Columns) - tile[1]) / 2
        + column * spacing[0] * (int(dataset.Rows) - tile[0]) / 2
    )
    return np.asarray(first + np.arange(count)[:, None] * distance * normal)


def untiled(dataset: FileDataset, research_id: str) -> Iterator[FileDataset]:
    """The tiles as classic images, from the first slice to the last.

    Raises:
        CaseError: S29 the tiles do not fit the image or nobody says how many there are; S10 nobody says how they
            lie.
    """
    try:
        mosaic = read_mosaic(dataset)
    except MosaicError as error:
        raise CaseError(
            error.found, error.expected, "export the series again", code=error.code, research_id=research_id
        ) from None
    rows, columns = mosaic.rows, mosaic.columns
    image = pixels.values(pixels.stored_pixels(dataset, research_id), dataset)[0]
    template = Dataset()
    for element in dataset:
        if element.keyword != "PixelData":
            template.add(element)
    meta = copy.deepcopy(dataset.file_meta)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for index, place in enumerate(mosaic.positions_mm):
        top, left = index // mosaic.side * rows, index % mosaic.side * columns
        tile = FileDataset("", copy.deepcopy(template), file_meta=meta, preamble=bytes(128))
        tile.Rows, tile.Columns = rows, columns
        tile.ImagePositionPatient = [float(f"{v:.8g}") for v in place]
        tile.ImageType = ["OTHER" if w in ("MOSAIC", "VFRAME") else w for w in dataset.ImageType]
        tile.SOPInstanceUID = _own_uid(str(dataset.SOPInstanceUID), index)
        tile.InstanceNumber = (_whole(dataset.get("InstanceNumber")) or 0) * _MOST + index
        tile.PixelData = np.ascontiguousarray(image[top : top + rows, left : left + columns]).tobytes()
        yield tile


def _own_uid(uid: str, index: int) -> str:
    """A name for a tile, before it is hashed under the clinic's secret like any other."""
    return f"2.25.{int.from_bytes(hashlib.sha256(f'{uid}/{index}'.encode()).digest()[:16], 'big')}"


def _value(dataset: Dataset, tag: tuple[int, int]) -> Any:
    element = dataset.get(tag)
    return None if element is None else element.value


def _numbers(values: Any, count: int) -> NDArray[np.float64] | None:
    """Exactly `count` finite numbers, else None."""
    if values is None or isinstance(values, str | bytes | int | float):
        return None
    found = [number(value) for value in values]
    return None if len(found) != count or None in found else np.array(found, dtype=np.float64)


def _whole(value: Any) -> int | None:
    """A whole number, also one that a reader left as bytes: text, or a little-endian integer."""
    if isinstance(value, bytes):
        text = value.strip(b" \0")
        if not text.isdigit():
            return int.from_bytes(value, "little") if len(value) in (2, 4) else None
        value = text.decode("ascii")
    return whole(value)
