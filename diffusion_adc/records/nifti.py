"""NIfTI volumes in and out, byte-reproducible and checked to the last bit.

A gzip stream is read to its checksum before any reader sees it: NIfTI readers return a right-shaped volume
for truncated or flipped streams. The header is read as it stands: readers that repair it on the way turn a
spacing of 0 or -2 mm into one that nobody measured.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from diffusion_adc.domain.errors import CaseError
from diffusion_adc.records.atomic import sha256_bytes, write_bytes

MAX_BYTES: Final = 2**32
"""Largest uncompressed volume accepted, bytes."""
_BOMB_BYTES: Final = 2**28
_BOMB_RATIO: Final = 200
"""Streams that unpack to more than `_BOMB_BYTES` and to this many times their size are not measured images."""
_LEVEL: Final = 4
"""Compression level: half the time of the default for 3 % more bytes on magnitude images."""
_GZIP: Final = b"\x1f\x8b"
_HEADER_BYTES: Final = 540
_MAX_SPACING_MM: Final = 50.0

_Refused = Callable[..., CaseError]


@dataclass(frozen=True)
class Volume:
    """One volume and its grid.

    Attributes:
        array: (I, J, K) or (I, J, K, N).
        affine: (4, 4) voxel index → RAS+ mm.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class StoredVolume:
    """One volume as its file stores it, before scale factors.

    Attributes:
        raw: (I, J, K) or (I, J, K, N), in the file's own type and byte order.
        slope: 1 where the file's is 0 or not finite (NIfTI-1 standard, field ``scl_slope``).
        intercept: Added after the slope.
        affine: (4, 4) voxel index → RAS+ mm: the sform where its code is set, else the qform.
        sform: (4, 4), or None where its code is 0.
        qform: (4, 4), or None where its code is 0.
        unit: Spatial unit the header names: ``mm``, ``unknown``, ``meter``, ``micron``.
        sha256: Of the file.
    """

    raw: NDArray[np.generic]
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    sform: NDArray[np.float64] | None
    qform: NDArray[np.float64] | None
    unit: str
    sha256: str

    def values(self, dtype: DTypeLike | None = None) -> NDArray[np.generic]:
        """The scaled values in C order; as stored where there is nothing to scale and no type is wanted."""
        if self.slope == 1 and self.intercept == 0:
            native = self.raw.dtype.newbyteorder("=") if dtype is None else dtype
            return np.array(self.raw, dtype=native, order="C")  # a copy: the file's bytes are read-only
        scaled = self.raw.astype(np.float64) * self.slope + self.intercept
        return np.asarray(scaled, dtype=dtype, order="C")


def write_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.floating]) -> str:
    """Write ``.nii.gz`` atomically with a header made from scratch. Same array, same bytes.

    Args:
        path: Ends in ``.nii.gz``.
        array: (I, J, K) or (I, J, K, N); boolean is stored as uint8.
        affine: (4, 4) voxel index → RAS+ mm; stored in single precision, as NIfTI-1 does.

    Returns:
        SHA-256 of the file.

    Raises:
        DiffusionAdcError: The disk is full or the folder cannot be written.
    """
    data = np.asarray(array)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    image = nib.Nifti1Image(data, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return write_bytes(path, gzip.compress(image.to_bytes(), _LEVEL, mtime=0))


def read_nifti(
    path: Path,
    dtype: DTypeLike = np.float32,
    *,
    sha256: str | None = None,
    research_id: str | None = None,
    sequence: str | None = None,
) -> Volume:
    """Read ``.nii`` or ``.nii.gz``, scale factors applied once.

    Args:
        path: The file.
        dtype: Of the returned array.
        sha256: Expected hash of the file, if known.
        research_id: For messages.
        sequence: For messages.

    Raises:
        CaseError: S25 the file is missing, cut, damaged or not the one recorded; S29 its header and its size
            disagree; S28 impossible spacing; S26 a colour or complex image; S09 or S10 an impossible grid.
    """
    stored = read_stored(path, sha256=sha256, research_id=research_id, sequence=sequence)
    return Volume(stored.values(dtype), stored.affine)


def read_stored(
    path: Path,
    *,
    sha256: str | None = None,
    research_id: str | None = None,
    sequence: str | None = None,
) -> StoredVolume:
    """Read ``.nii`` or ``.nii.gz`` (NIfTI-1 or -2, any byte order) without changing a value.

    Arguments and errors as for `read_nifti`.
    """

    def refused(code: str, found: str, expected: str, do: str = "deliver the file again") -> CaseError:
        return CaseError(found, expected, do, code=code, research_id=research_id, sequence=sequence)

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise refused("S29", f"a file of {size} bytes", f"at most {MAX_BYTES}", "crop the volume")
        raw = path.read_bytes()
    except OSError:
        raise refused("S25", f"{path.name} cannot be read", "a readable file") from None
    digest = sha256_bytes(raw)
    if sha256 is not None and digest != sha256:
        raise refused("S25", f"{path.name} is not the file recorded", "the SHA-256 of the manifest")
    packed = raw[:2] == _GZIP
    head = _first_bytes(raw, refused, path.name) if packed else raw[:_HEADER_BYTES]
    header, shape, offset = _header(head, refused, path.name)
    dtype = header.get_data_dtype()
    expected = offset + math.prod(shape) * dtype.itemsize
    bomb = expected > max(_BOMB_BYTES, _BOMB_RATIO * len(raw))
    if expected > MAX_BYTES or bomb:
        raise refused(
            "S29", f"header dimensions {shape} for a file of {len(raw)} bytes", "as many bytes as voxels"
        )
    data = _gunzip(raw, expected, refused, path.name) if packed else raw
    if len(data) != expected:
        raise refused(
            "S29", f"header dimensions {shape} for {_bytes(len(data), expected)}", f"{expected} bytes"
        )
    array = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(_three_axes(shape), order="F")
    return _stored(header, array, digest, refused)


def _bytes(found: int, expected: int) -> str:
    return f"{found} bytes" if found < expected else "more bytes than that"


def _three_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same voxels with at least three axes and no empty axis after the third."""
    spatial, rest = (*shape, 1, 1)[:3], [n for n in shape[3:] if n > 1]
    return (*spatial, *rest)


def _first_bytes(raw: bytes, refused: _Refused, name: str) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(raw[: 2**16], _HEADER_BYTES)
    except zlib.error:
        raise _cut(refused, name) from None


def _gunzip(raw: bytes, limit: int, refused: _Refused, name: str) -> bytes:
    """Every member of a gzip stream to its checksum; stops one byte past `limit`."""
    parts: list[bytes] = []
    size, rest = 0, raw
    while rest:
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(rest, limit - size + 1))
        except zlib.error:
            raise _cut(refused, name) from None
        size += len(parts[-1])
        if size > limit:
            break
        if not stream.eof:
            raise _cut(refused, name)
        rest = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _cut(refused: _Refused, name: str) -> CaseError:
    return refused("S25", f"{name} is cut or damaged", "a complete gzip stream with a right checksum")


def _header(head: bytes, refused: _Refused, name: str) -> tuple[nib.Nifti1Header, tuple[int, ...], int]:
    """The header as it stands, the shape and where the voxels begin."""
    bad = partial(
        refused, "S25", f"{name} has no readable NIfTI header", "a single-file NIfTI-1 or NIfTI-2 image"
    )
    kinds = {348: (nib.Nifti1Header, b"n+1"), 540: (nib.Nifti2Header, b"n+2")}
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")} & set(kinds)
    if not sizes:
        raise bad()
    size = sizes.pop()
    kind, magic = kinds[size]
    if len(head) < size:
        raise bad()
    header = kind(head[:size], check=False)
    try:
        offset = int(header["vox_offset"])
        dtype = header.get_data_dtype()
    except (ValueError, OverflowError, KeyError, HeaderDataError):
        raise bad() from None
    if bytes(header["magic"].item())[:3] != magic or offset < size or not 1 <= int(header["dim"][0]) <= 7:
        raise bad()
    shape = tuple(int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])])
    if min(shape) < 1:
        raise refused("S29", f"header dimensions {shape}", "positive dimensions")
    if dtype.kind not in "iuf":
        raise refused("S26", "a colour or complex image", "a real-valued image", "export the measured values")
    spacing = np.asarray(header["pixdim"][1 : 1 + min(3, len(shape))], dtype=float)
    if not _plausible(spacing):
        raise refused("S28", f"spacing {spacing.tolist()} mm", f"above 0 and at most {_MAX_SPACING_MM:g} mm")
    return header, shape, offset


def _plausible(spacing: NDArray[np.floating]) -> bool:
    return bool(np.isfinite(spacing).all() and (spacing > 0).all() and (spacing <= _MAX_SPACING_MM).all())


def _stored(
    header: nib.Nifti1Header, array: NDArray[np.generic], digest: str, refused: _Refused
) -> StoredVolume:
    if float(header["pixdim"][0]) == 0:  # the standard reads an unset handedness as 1
        header["pixdim"][0] = 1
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise refused("S27", "a scale factor with an impossible intercept", "a finite intercept") from None
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError, np.linalg.LinAlgError):
        raise refused("S10", "an orientation that cannot be read", "a valid qform and sform") from None
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not _plausible(columns):
        raise refused(
            "S28", f"a grid with spacing {columns.tolist()} mm", "a finite grid of plausible spacing"
        )
    if abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3:
        raise refused("S09", "a grid whose axes do not span space", "three independent axes")
    return StoredVolume(
        raw=array,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        affine=affine,
        sform=sform,
        qform=qform,
        unit=str(header.get_xyzt_units()[0]),
        sha256=digest,
    )
