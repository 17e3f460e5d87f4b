"""A mosaic taken apart at the clinic: what says how its tiles lie in space is private and stays behind.

The placement in the header is that of the tiled image as if it were one slice with the same center (C. Rorden,
dcm2niix notes on Siemens mosaics); each tile becomes a classic image of its own.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian

from diffusion_adc.custody import pixels
from diffusion_adc.custody.diffusion_tags import csa_values
from diffusion_adc.domain.errors import CaseError

_COUNT: Final = ((0x0019, 0x100A), (0x0065, 0x1050))
_CSA: Final = (0x0029, 0x1010)
_FRAMES: Final = (0x0065, 0x1051)
_MOST: Final = 1024


def is_mosaic(dataset: FileDataset) -> bool:
    """Whether one image tiles the slices of a volume."""
    words = [str(word).strip().upper() for word in dataset.get("ImageType") or ()]
    return "MOSAIC" in words or "VFRAME" in words


def untiled(dataset: FileDataset, research_id: str) -> Iterator[FileDataset]:
    """The tiles as classic images, from the first slice to the last.

    Raises:
        CaseError: S29 the tiles do not fit the image or nobody says how many there are; S10 nobody says how they
            lie.
    """

    def refused(code: str, found: str, expected: str) -> CaseError:
        return CaseError(found, expected, "export the series again", code=code, research_id=research_id)

    element = dataset.get(_CSA)
    header = element.value if element is not None and isinstance(element.value, bytes) else b""
    count = next((n for tag in _COUNT if (n := _whole(dataset.get(tag)))), None)
    if count is None and (stated := csa_values(header, "NumberOfImagesInMosaic")):
        count = int(stated[0]) if stated[0].isdigit() else None
    if not count or count > _MOST:
        raise refused("S29", "a mosaic that does not say how many slices it holds", "their number")
    side = math.ceil(math.sqrt(count))
    image = pixels.values(pixels.stored_pixels(dataset, research_id), dataset)[0]
    if any(n % side for n in image.shape):
        raise refused("S29", f"a mosaic whose sides are no multiples of {side}", f"{count} whole tiles")
    rows, columns = image.shape[0] // side, image.shape[1] // side
    template = Dataset()
    for element in dataset:
        if element.keyword != "PixelData":
            template.add(element)
    meta = copy.deepcopy(dataset.file_meta)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for index, place in enumerate(_places(dataset, header, count, (rows, columns), refused)):
        top, left = index // side * rows, index % side * columns
        tile = FileDataset("", copy.deepcopy(template), file_meta=meta, preamble=bytes(128))
        tile.Rows, tile.Columns = rows, columns
        tile.ImagePositionPatient = [float(f"{v:.8g}") for v in place]
        tile.ImageType = ["OTHER" if w in ("MOSAIC", "VFRAME") else w for w in dataset.ImageType]
        tile.SOPInstanceUID = _own_uid(str(dataset.SOPInstanceUID), index)
        tile.InstanceNumber = _whole_number(dataset.get("InstanceNumber")) * _MOST + index
        tile.PixelData = np.ascontiguousarray(image[top : top + rows, left : left + columns]).tobytes()
        yield tile


def _places(
    dataset: FileDataset, header: bytes, count: int, tile: tuple[int, int], refused: Any
) -> list[Any]:
    frames = dataset.get(_FRAMES)
    if frames is not None and frames.VR == "SQ" and len(frames.value) >= count:
        places = [item.get("ImagePositionPatient") for item in frames.value[:count]]
        if all(place is not None and len(place) == 3 for place in places):
            return places
    try:
        axes = np.array([float(v) for v in dataset.ImageOrientationPatient])
        corner = np.array([float(v) for v in dataset.ImagePositionPatient])
        spacing = [float(v) for v in dataset.PixelSpacing]
        distance = float(dataset.get("SpacingBetweenSlices") or dataset.SliceThickness)
    except (AttributeError, TypeError, ValueError):
        raise refused("S10", "a mosaic without a placement", "position, orientation and distance") from None
    row, column = axes[:3], axes[3:]
    stated = csa_values(header, "SliceNormalVector")
    normal = np.array([float(word) for word in stated]) if len(stated) == 3 else np.cross(row, column)
    corner = (
        corner
        + row * spacing[1] * (int(dataset.Columns) - tile[1]) / 2
        + column * spacing[0] * (int(dataset.Rows) - tile[0]) / 2
    )
    return [corner + n * distance * normal for n in range(count)]


def _own_uid(uid: str, index: int) -> str:
    """A name for a tile, before it is hashed under the clinic's secret like any other."""
    return f"2.25.{int.from_bytes(hashlib.sha256(f'{uid}/{index}'.encode()).digest()[:16], 'big')}"


def _whole(element: Any) -> int | None:
    value = None if element is None else element.value
    if isinstance(value, bytes):
        text = value.strip(b" \0")
        if text.isdigit():
            return int(text)
        return int.from_bytes(value, "little") if len(value) in (2, 4) else None
    return _whole_number(value) or None


def _whole_number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
