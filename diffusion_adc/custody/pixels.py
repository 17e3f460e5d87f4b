"""Stored pixel values of a DICOM image, before any rescale, with nothing hidden beside them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from diffusion_adc.custody.tags import MR
from diffusion_adc.domain.errors import CaseError

MAX_PIXEL_BYTES: Final = 2**31
"""Largest pixel array accepted, bytes."""
_ALLOCATED: Final = (1, 8, 16, 32)


def stored_pixels(dataset: Dataset, research_id: str | None = None) -> bytes:
    """Native little-endian pixel data of exactly the declared size.

    Compressed images are decoded. Bits above BitsStored are cleared (older overlays hide there, PS3.5 8.1.2) and
    bytes beyond the last pixel are cut.

    Raises:
        CaseError: S29 the header and the data disagree or exceed the cap; S30 the transfer syntax has no decoder;
            S26 colour.
    """
    shape, bits = _shape(dataset, research_id), int(dataset.BitsAllocated)
    count = int(np.prod(shape, dtype=np.int64))
    size = -(-count * bits // 8)
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if syntax.is_compressed and not syntax.is_deflated:
        data = _decoded(dataset, syntax, count, bits, research_id)
    else:
        data = bytes(dataset.PixelData)
        if len(data) < size:
            raise _refused("S29", f"{len(data)} bytes of pixels", f"{size}", research_id)
        data = data[:size]
        if not syntax.is_little_endian and bits > 8:
            data = np.frombuffer(data, f">u{bits // 8}").astype(f"<u{bits // 8}").tobytes()
    return _clear_high_bits(data, dataset, bits)


def values(data: bytes, dataset: Dataset) -> NDArray[np.generic]:
    """`stored_pixels` as (frames, rows, columns) of integers."""
    shape, bits = _shape(dataset, None), int(dataset.BitsAllocated)
    if bits == 1:
        flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: int(np.prod(shape))]
        return flat.reshape(shape)
    kind = "i" if int(dataset.PixelRepresentation) else "u"
    return np.frombuffer(data, f"<{kind}{bits // 8}").reshape(shape)


def _shape(dataset: Dataset, research_id: str | None) -> tuple[int, int, int]:
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames") or 1)
        bits, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
        samples = int(dataset.get("SamplesPerPixel") or 1)
        representation = int(dataset.PixelRepresentation)
    except (AttributeError, TypeError, ValueError):
        raise _refused(
            "S29", "no readable image dimensions", "Rows, Columns and bit depth", research_id
        ) from None
    if samples != 1:
        raise _refused("S26", "a colour image", "one sample per pixel", research_id)
    whole = bits in _ALLOCATED and 1 <= stored <= bits and representation in (0, 1)
    if not whole or min(rows, columns, frames) < 1 or rows * columns * frames * bits // 8 > MAX_PIXEL_BYTES:
        raise _refused(
            "S29", f"{frames} frames of {rows} x {columns}, {stored} of {bits} bits", "a plausible image",
            research_id,
        )  # fmt: skip
    return frames, rows, columns


def _decoded(dataset: Dataset, syntax: UID, count: int, bits: int, research_id: str | None) -> bytes:
    from pydicom.pixels import get_decoder

    refused = _refused("S30", f"transfer syntax {syntax}", "one with a decoder", research_id)
    try:
        decoder = get_decoder(syntax)
        usable = decoder.is_available
    except NotImplementedError:
        usable = False
    try:
        array = decoder.as_array(dataset, raw=True)[0] if usable else _by_simpleitk(dataset)
    except Exception:  # decoders raise what they like on damaged streams
        raise refused from None
    array = np.asarray(array)
    if array.size != count or array.dtype.kind not in "iu":
        raise _refused("S29", f"{array.size} decoded pixels", f"{count}", research_id)
    return array.astype(f"<u{bits // 8}", copy=False).tobytes()


def _by_simpleitk(dataset: Dataset) -> NDArray[np.generic]:
    """JPEG lossless, which archives use and the other decoders here cannot read."""
    import SimpleITK

    bare = Dataset()
    for keyword in (
        "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
        "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    ):  # fmt: skip
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.SOPClassUID, bare.SOPInstanceUID = MR, "2.25.1"  # no rescale: ITK would apply it
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.dcm"
        bare.save_as(path, enforce_file_format=True)
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _clear_high_bits(data: bytes, dataset: Dataset, bits: int) -> bytes:
    stored = int(dataset.BitsStored)
    if bits == 1 or stored == bits:
        return data
    array = np.frombuffer(data, f"<u{bits // 8}") & np.array((1 << stored) - 1, f"<u{bits // 8}")
    if int(dataset.PixelRepresentation):
        sign = 1 << (stored - 1)
        signed = (array.astype(np.int64) ^ sign) - sign
        return signed.astype(f"<i{bits // 8}").tobytes()
    return array.astype(f"<u{bits // 8}").tobytes()


def _refused(code: str, found: str, expected: str, research_id: str | None) -> CaseError:
    return CaseError(
        found, expected, "export the image again, uncompressed", code=code, research_id=research_id
    )
