"""DICOM files from disk and back, for data that may be damaged or hostile."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.misc import is_dicom
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from diffusion_adc.domain.errors import CaseError

MAX_FILE_BYTES: Final = 2**31
"""Largest DICOM file accepted, bytes."""
_DEFLATED: Final = str(DeflatedExplicitVRLittleEndian)


def looks_like_dicom(path: Path) -> bool:
    """Whether a regular file, not a link, has the DICOM mark after its preamble."""
    try:
        return not path.is_symlink() and path.is_file() and is_dicom(path)
    except OSError:
        return False


def read_dicom(
    path: Path, research_id: str | None = None, *, tags: Sequence[str] | None = None
) -> FileDataset:
    """Read a file, or only some attributes of it.

    Deflated files are refused before anything is inflated: their size says nothing of what they unpack to.

    Args:
        path: A regular file; links are not followed.
        research_id: For messages.
        tags: Keywords to read; pixels are then left out.

    Raises:
        CaseError: X7 it cannot be parsed; S30 its transfer syntax is deflated; S29 it is larger than the cap.
    """

    def refused(code: str, found: str, expected: str) -> CaseError:
        return CaseError(found, expected, "export the file again", code=code, research_id=research_id)

    try:
        with (
            os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # pydicom's warnings quote the values
            if os.fstat(stream.fileno()).st_size > MAX_FILE_BYTES:
                raise refused("S29", "a file above 2 GiB", "smaller files")
            meta = read_partial(stream, stop_when=_at_dataset).file_meta
            syntax = str(meta.get("TransferSyntaxUID", ""))
            if syntax == _DEFLATED:
                raise refused("S30", f"transfer syntax {syntax}", "one that is not deflated")
            stream.seek(0)
            dataset = pydicom.dcmread(
                stream, stop_before_pixels=tags is not None, specific_tags=list(tags) if tags else None
            )
    except CaseError:
        raise
    except Exception:  # pydicom raises nine kinds of exception on damaged files
        raise refused("X7", "a DICOM file that cannot be read", "a complete file") from None
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write_dicom(path: Path, dataset: FileDataset) -> None:
    """Write a new file: zero preamble, nothing before or after the dataset. Not atomic: for private folders.

    Raises:
        CaseError: T1, an attribute cannot be written in its standard form.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise CaseError(
            "an attribute that has no standard form", "values as the standard has them", code="T1"
        ) from None


def _at_dataset(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group > 2
