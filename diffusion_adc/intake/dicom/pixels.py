"""Stored values of slices, decoded once and scaled exactly once: here and nowhere else."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from diffusion_adc.intake.dicom.slices import BadFile, Slice

_MAX_BYTES: Final = 2**32
_NATIVE: Final = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", str(DeflatedExplicitVRLittleEndian),
)  # fmt: skip


@dataclass(frozen=True)
class Pixels:
    """The values of one volume.

    Attributes:
        array: float64 (I, J, K): column, row, slice; scaled.
        stored_as: Numeric type in the file.
        sha256: Over the SHA-256 of each slice's file, in the order of the slices.
        doubts: What was found and can be lived with.
    """

    array: NDArray[np.float64]
    stored_as: str
    sha256: str
    doubts: tuple[str, ...]


class Reader:
    """Reads files once each: an enhanced file serves many volumes.

    Args:
        begin: Called before each file is read, so that a watcher can tell a file that hangs a decoder.
    """

    def __init__(self, begin: Callable[[Path | None], None] | None = None) -> None:
        self._begin = begin or (lambda path: None)
        self._frames = lru_cache(maxsize=4)(self._decode)

    def volume(self, slices: Sequence[Slice]) -> Pixels:
        """The volume of slices that lie on one grid, in their order.

        Raises:
            BadFile: X7 damaged, S26 color or complex, S29 sizes that contradict, S30 an unreadable syntax,
                S18 not finite.
        """
        first = slices[0]
        out = np.empty((first.columns, first.rows, len(slices)), dtype=np.float64)
        digests: list[str] = []
        types: set[str] = set()
        for k, one in enumerate(slices):
            stored, digest, padding = self._one(one)
            types.add(stored.dtype.newbyteorder("=").name)
            digests.append(digest)
            values = stored.astype(np.float64) * one.scale.slope + one.scale.intercept
            if padding is not None:
                values[stored == padding] = 0.0  # padded is outside the fit, as 0 is
            out[..., k] = values.T
        bad = int(out.size - np.count_nonzero(np.isfinite(out)))
        if bad:
            raise BadFile("S18", f"{bad} voxels are NaN or infinite", "finite values")
        doubts = ["S15 the scale differs between slices"] if len({s.scale for s in slices}) > 1 else []
        doubts += ["S30 lossy compression"] if any(s.lossy for s in slices) else []
        whole = hashlib.sha256("".join(digests).encode()).hexdigest()
        return Pixels(out, "/".join(sorted(types)), whole, tuple(doubts))

    def stored(self, one: Slice) -> NDArray[Any]:
        """(row, column) values of one slice before scaling."""
        return self._one(one)[0]

    def _one(self, one: Slice) -> tuple[NDArray[Any], str, float | None]:
        frames, digest, padding = self._frames(one.path)
        if one.layout == "mosaic":
            n = frames.shape[1] // one.rows
            if frames.shape[0] != 1 or n < 1 or one.frame is None or n != frames.shape[2] // one.columns:
                raise _contradiction()
            top, left = (one.frame // n) * one.rows, (one.frame % n) * one.columns
            return frames[0, top : top + one.rows, left : left + one.columns], digest, padding
        index = 0 if one.frame is None else one.frame
        if index >= len(frames) or frames.shape[1:] != (one.rows, one.columns):
            raise _contradiction()
        return frames[index], digest, padding

    def _decode(self, path: Path) -> tuple[NDArray[Any], str, float | None]:
        self._begin(path)
        try:
            raw = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(io.BytesIO(raw), force=True)
                check_pixels(dataset)
                array = dataset.pixel_array
        except BadFile:
            raise
        except Exception:
            # The decoder's own text may hold what the file says.
            raise BadFile("X7", "pixels that cannot be decoded", "a whole, undamaged file") from None
        finally:
            self._begin(None)
        padding = dataset.get("PixelPaddingValue")
        frames = array if array.ndim == 3 else array[None]
        return frames, hashlib.sha256(raw).hexdigest(), None if padding is None else float(padding)


def _contradiction() -> BadFile:
    return BadFile("S29", "pixels unlike the header's dimensions", "as many pixels as the header says")


def check_pixels(dataset: Dataset) -> None:
    """Whether the pixels can be decoded and are as many as the header says, before any is allocated.

    Raises:
        BadFile: S26, S29, S30.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not str(
        dataset.get("PhotometricInterpretation") or "MONOCHROME2"
    ).startswith("MONOCHROME"):
        raise BadFile(
            "S26", "a color image", "measured values of one channel", "export the values themselves"
        )
    name = next((n for n in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if n in dataset), None)
    if name is None:
        raise BadFile("X7", "an image without pixels", "a whole file")
    bits = int(dataset.get("BitsAllocated") or {"PixelData": 16, "FloatPixelData": 32}.get(name, 64))
    expected = rows * columns * frames * bits // 8
    if not 0 < expected <= _MAX_BYTES or rows < 1 or columns < 1 or frames < 1:
        raise BadFile("S29", f"header dimensions {columns} × {rows} × {frames}", "dimensions of an image")
    if syntax in _NATIVE:
        found = len(dataset[name].value)
        if not expected <= found <= expected + 1:
            raise BadFile("S29", f"{found} bytes of pixels", f"{expected} as the header says")
        return
    if not readable(syntax):
        known = UID(syntax)
        shown = known.name if known.is_transfer_syntax else "an unknown one"
        raise BadFile(
            "S30", f"pixels in the transfer syntax {shown}", "one that a decoder here can read",
            "export the series uncompressed",
        )  # fmt: skip


@lru_cache(maxsize=32)
def readable(syntax: str) -> bool:
    """Whether a decoder for the transfer syntax is there."""
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except (NotImplementedError, ValueError, KeyError):
        return False
