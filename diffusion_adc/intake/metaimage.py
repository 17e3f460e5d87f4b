"""MetaImage files (``.mha``, the form in which some public sets come) read as NIfTI files are: checked to the last bit.

The header is text, ``Key = Value`` to a line, and ends with ``ElementDataFile = LOCAL``; the voxels follow, plain or
as one zlib stream, whose own checksum is read to its end before anybody uses a value.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from diffusion_adc.domain.errors import CaseError
from diffusion_adc.records.atomic import sha256_bytes
from diffusion_adc.records.nifti import MAX_BYTES, StoredVolume

SUFFIX: Final = ".mha"
_MAX_HEADER: Final = 2**16
_MAX_SPACING_MM: Final = 50.0
_TYPES: Final[Mapping[str, str]] = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_RAS_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_Refused = Callable[..., CaseError]


def read_metaimage(
    path: Path, *, research_id: str | None = None, sequence: str | None = None
) -> StoredVolume:
    """Read one volume as stored.

    Raises:
        CaseError: S25 damaged or cut, S26 a pixel type that is no plain number, S28 impossible spacing, S29
            dimensions that no image has or that the data do not fill.
    """

    def refused(code: str, found: str, expected: str, do: str = "deliver the file again") -> CaseError:
        return CaseError(found, expected, do, code=code, research_id=research_id, sequence=sequence)

    try:
        raw = path.read_bytes()
    except OSError:
        raise refused("S25", "an unreadable file", "a file that can be read") from None
    header, start = _header(raw, refused)
    try:
        shape = tuple(int(n) for n in header["DimSize"].split())
        spacing = np.array(
            [float(x) for x in (header.get("ElementSpacing") or header["ElementSize"]).split()]
        )
        axes = header.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()
        matrix = np.array([float(x) for x in axes]).reshape(3, 3)
        offset = np.array([float(x) for x in header.get("Offset", header.get("Position", "0 0 0")).split()])
    except (KeyError, ValueError):
        raise refused(
            "S25", "a MetaImage header that cannot be read", "three dimensions and their spacing"
        ) from None
    if len(shape) != 3 or spacing.shape != (3,) or offset.shape != (3,):
        raise refused("S24", f"{len(shape)} dimensions", "3", "deliver one volume per sequence")
    if not (np.isfinite(spacing).all() and (spacing > 0).all() and (spacing <= _MAX_SPACING_MM).all()):
        raise refused("S28", "an impossible spacing", f"above 0 and at most {_MAX_SPACING_MM:g} mm")
    if not (np.isfinite(matrix).all() and np.isfinite(offset).all() and abs(np.linalg.det(matrix)) > 1e-6):
        raise refused("S09", "axes that span no space", "three directions")
    dtype = _dtype(header, refused)
    expected = dtype.itemsize
    for n in shape:
        expected *= n
    if min(shape) < 1 or not 0 < expected <= MAX_BYTES:
        raise refused("S29", f"dimensions {shape}", f"an image of at most {MAX_BYTES} bytes")
    data = _voxels(raw[start:], header, expected, refused)
    affine = np.eye(4)
    affine[:3, :3] = matrix.T * spacing  # one row of the file's matrix is the direction of one axis
    affine[:3, 3] = offset
    affine = _RAS_LPS @ affine
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F")
    return StoredVolume(array, 1.0, 0.0, affine, affine, None, "mm", sha256_bytes(raw))


def _header(raw: bytes, refused: _Refused) -> tuple[dict[str, str], int]:
    """The fields, and where the voxels begin."""
    fields: dict[str, str] = {}
    at = 0
    while at < min(len(raw), _MAX_HEADER):
        end = raw.find(b"\n", at, at + _MAX_HEADER)
        if end < 0:
            break
        key, equals, value = raw[at:end].partition(b"=")
        at = end + 1
        if not equals:
            break
        try:
            fields[key.decode("ascii").strip()] = value.decode("ascii").strip()
        except UnicodeDecodeError:
            break
        if key.strip() == b"ElementDataFile":
            if fields["ElementDataFile"] != "LOCAL":
                raise refused(
                    "S25", "voxels in another file", "one file with header and voxels", "convert it"
                )
            return fields, at
    raise refused("S25", "no MetaImage header", "a .mha file")


def _dtype(header: Mapping[str, str], refused: _Refused) -> np.dtype[np.generic]:
    kind = _TYPES.get(header.get("ElementType", ""))
    if kind is None or header.get("ElementNumberOfChannels", "1") != "1":
        raise refused("S26", "a pixel type that is no plain number", "one number per voxel", "export values")
    big = header.get("BinaryDataByteOrderMSB", header.get("ElementByteOrderMSB", "False")).lower() == "true"
    return np.dtype((">" if big else "<") + kind)


def _voxels(data: bytes, header: Mapping[str, str], expected: int, refused: _Refused) -> bytes | bytearray:
    cut = partial(refused, "S25", expected=f"{expected} bytes of voxels")
    if header.get("CompressedData", "False").lower() != "true":
        if len(data) != expected:
            raise cut(f"{len(data)} bytes of voxels")
        return data
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, expected + 1)
        if len(unpacked) == expected and not stream.eof:  # the checksum is behind the last voxel
            unpacked += stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error:
        raise cut("a damaged stream of voxels") from None
    if len(unpacked) != expected or not stream.eof or stream.unused_data.strip(b"\0\r\n"):
        raise cut("voxels that were cut or go on")
    return unpacked
