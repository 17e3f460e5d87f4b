"""Rotating maximum intensity projections about the head–foot axis, one picture with all frames.

Half a turn in steps of 3° (at most 3° per frame is what readers of whole-body diffusion are used to; Cancer
Imaging 2020, s40644-020-00315-0, table 2): a maximum seen from behind is its mirror image, so the page shows
the other half from the same frames. The axis is the grid's own, also where the grid is oblique.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STEP_DEGREES: Final = 3
FRAMES: Final = 180 // STEP_DEGREES
COLUMNS: Final = 10
_WIDEST: Final = 240
"""Pixels of a frame at most."""
_GRAYS: Final = 64
"""Palette entries of the faint body behind the tumor map."""
_FAINT: Final = 0.30


@dataclass(frozen=True)
class Rotation:
    """All frames of one volume.

    Attributes:
        frames: uint8 (`FRAMES`, H, W); frame f is seen from 3·f degrees to the patient's left of the front,
            head up, the patient's right on the left in frame 0.
    """

    frames: NDArray[np.uint8]


def rotating_mip(volume: NDArray[np.uint8], spacing: tuple[float, float, float]) -> Rotation:
    """Maximum along the line of sight.

    Args:
        volume: uint8 (I, J, K), axes to the patient's right, front and head; 0 is air.
        spacing: mm.
    """
    i, j, k = volume.shape
    width_mm = float(np.hypot(i * spacing[0], j * spacing[1]))
    pixel = max(min(spacing[:2]), width_mm / _WIDEST)
    width, height = int(np.ceil(width_mm / pixel)), max(1, round(k * spacing[2] / pixel))
    columns = np.concatenate([volume.reshape(i * j, k), np.zeros((1, k), dtype=np.uint8)])
    # Each row of pixels is the maximum of the slices from its own first one to the next row's.
    first = np.minimum((np.arange(height) * pixel / spacing[2] + 1e-6).astype(np.intp), k - 1)
    frames = np.zeros((FRAMES, height, width), dtype=np.uint8)
    if not volume.any():
        return Rotation(frames)
    for frame, index in enumerate(_lines_of_sight(width, pixel, (i, j), spacing)):
        frames[frame] = np.maximum.reduceat(columns[index].max(axis=1), first, axis=1)[:, ::-1].T
    return Rotation(frames)


def _lines_of_sight(
    width: int, pixel: float, shape: tuple[int, int], spacing: tuple[float, float, float]
) -> Iterator[NDArray[np.intp]]:
    """Per frame, for each pixel column (W,) the in-plane voxels behind it (W, V); the last one is air.

    Samples lie so dense that every voxel holds one at every angle, or a lesion of one voxel would blink: a
    square lattice of step s reaches within s / √2 of any point, so s ≤ voxel / √2.
    """
    dense = int(np.ceil(pixel * np.sqrt(2) / min(spacing[:2])))
    line = (np.arange(width * dense) - (width * dense - 1) / 2) * (pixel / dense)
    u, v = line[:, None], line[None, :]
    for frame in range(FRAMES):
        angle = np.deg2rad(frame * STEP_DEGREES)
        # In frame 0 the screen's right is the patient's left (-x) and the line of sight runs along y.
        x = -u * np.cos(angle) - v * np.sin(angle)
        y = -u * np.sin(angle) + v * np.cos(angle)
        a = np.rint(x / spacing[0] + (shape[0] - 1) / 2).astype(np.intp)
        b = np.rint(y / spacing[1] + (shape[1] - 1) / 2).astype(np.intp)
        inside = (a >= 0) & (a < shape[0]) & (b >= 0) & (b < shape[1])
        yield np.where(inside, a * shape[1] + b, shape[0] * shape[1]).reshape(width, -1)


def gray_sheet(rotation: Rotation) -> Image.Image:
    """Inverted gray, all frames in rows of `COLUMNS`."""
    return Image.fromarray(_sheet(255 - rotation.frames))


def tumor_sheet(tumor: Rotation, body: Rotation, palette: NDArray[np.uint8]) -> Image.Image:
    """The tumor map's frames over a faint body.

    Args:
        tumor: Of 0 outside the map and 1 … 255 inside.
        body: Of the same grid.
        palette: uint8 (255, 3), color of the tumor's levels 1 … 255.
    """
    colors = 256 - _GRAYS
    shade = np.rint(body.frames * ((_GRAYS - 1) / 255)).astype(np.uint8)
    level = _GRAYS + np.minimum(tumor.frames.astype(np.int32) * colors // 256, colors - 1).astype(np.uint8)
    image = Image.fromarray(_sheet(np.where(tumor.frames > 0, level, shade)), mode="P")
    grays = 255 - _FAINT * np.linspace(0, 255, _GRAYS)
    chosen = palette[np.clip((np.arange(colors) * 256 + 128) // colors, 0, 254)]
    image.putpalette(
        np.concatenate([np.repeat(grays[:, None], 3, axis=1), chosen]).astype(np.uint8).tobytes()
    )
    return image


def thumbnail(sheet: Image.Image, rotation: Rotation) -> Image.Image:
    """The first frame of a sheet."""
    _, height, width = rotation.frames.shape
    return sheet.crop((0, 0, width, height))


def _sheet(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    count, height, width = frames.shape
    rows = -(-count // COLUMNS)
    sheet = np.full((rows * COLUMNS, height, width), 255, dtype=np.uint8)
    sheet[:count] = frames
    return sheet.reshape(rows, COLUMNS, height, width).swapaxes(1, 2).reshape(rows * height, COLUMNS * width)


def png(image: Image.Image) -> bytes:
    """PNG without any text field."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def data_uri(image: Image.Image) -> str:
    """The picture as text that a page carries."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")


def record(rotation: Rotation, gray: Image.Image, tumor: Image.Image) -> dict[str, Any]:
    """What the page needs to play both sheets."""
    count, height, width = rotation.frames.shape
    return {
        "frames": count, "columns": COLUMNS, "width": width, "height": height, "step": STEP_DEGREES,
        "dwi": data_uri(gray), "tumor": data_uri(tumor),
    }  # fmt: skip
