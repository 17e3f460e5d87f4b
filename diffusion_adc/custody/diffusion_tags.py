"""Where each vendor keeps the b-value, the gradient direction and a scale of its own.

Needed on both sides of the hand-over: at the clinic these facts are lifted out of private elements before
de-identification drops them, at the institute they are read from whatever a public set kept. An element counts
only where its private creator is the one that defined it: numbers of private groups are reused by others.
Sources: DICOM PS3.3 C.8.13.5.9 (MR Diffusion), PS3.5 7.8 (private elements), the vendors' conformance notes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset

MAX_B: Final = 10_000.0
"""Largest b-value a body scan can have, s/mm²."""
GE_BIAS: Final = 1e9
"""Added by GE where several b-values were acquired; its own element (0043,107F) states it."""

_SIEMENS, _CSA = "SIEMENS MR HEADER", "SIEMENS CSA HEADER"
_GE, _GE_ACQUISITION = "GEMS_PARM_01", "GEMS_ACQU_01"
_PHILIPS, _PHILIPS_MR = "PHILIPS IMAGING DD 001", "PHILIPS MR IMAGING DD 001"
_UIH = "IMAGE PRIVATE HEADER"
_COMMENT_B = re.compile(r"\bb\s*=\s*([0-9]{1,5}(?:\.[0-9]+)?)", re.ASCII | re.IGNORECASE)
_SEQUENCE_B = re.compile(r"(?:^|[_*])b([0-9]{1,5})(?=t?(?:$|[#_\s]))", re.ASCII)
_DESCRIBED_B = re.compile(r"(?<![A-Za-z0-9])b\s?[=_-]?\s?([0-9]{1,5})(?![0-9.])", re.ASCII | re.IGNORECASE)
_LIST_GOES_ON = re.compile(r"\s*[-_,/+ ]\s*[0-9]{1,5}(?![0-9]*\s*(?:mm|dir))", re.ASCII)
_MAX_CSA_TAGS: Final = 1000


@dataclass(frozen=True)
class Resolved:
    """One b-value and where it was found.

    Attributes:
        b: s/mm², as stated: the caller refuses what lies outside 0 to `MAX_B`.
        source: ``standard``, ``private:siemens`` (``ge``, ``philips``, ``canon``, ``uih``, ``hitachi``), ``csa``,
            ``sequence_name``, ``description`` or ``sidecar``.
        nominal: The b that was asked for, where the scanner also states the one it played (UIH); group by it.
    """

    b: float
    source: str
    nominal: float | None = None

    @property
    def plausible(self) -> bool:
        """Whether the value lies in 0 to `MAX_B`."""
        return 0 <= self.b <= MAX_B


def b_value(
    dataset: Dataset, sidecar: float | None = None, *, parent: Dataset | None = None, named: bool = True
) -> Resolved | None:
    """The b-value of a classic image or of one frame, s/mm².

    Order: standard element → private element of a matching creator → CSA header → name of the pulse sequence or
    description → sidecar. Says nothing of the kind of image: ADC maps and calculated images carry b too.

    Args:
        dataset: A classic image, or a frame's item of the (per-frame or shared) functional groups.
        sidecar: What the clinic states beside the files.
        parent: The whole dataset a frame belongs to, where the manufacturer and the names stand.
        named: Whether names count; a series of several b-values in one file has one name for all.

    Returns:
        None where nobody states one. Absent never means 0.
    """
    whole = dataset if parent is None else parent
    for find in (_standard, *_PRIVATE, _csa, *((_named,) if named else ())):
        found = find(dataset, whole)
        if found is not None:
            return found
    return None if sidecar is None else Resolved(float(sidecar), "sidecar")


def direction(dataset: Dataset) -> tuple[float, float, float] | None:
    """The diffusion gradient's direction in the patient's system, None where none is stated."""
    item = _diffusion_item(dataset)
    gradient = item.get("DiffusionGradientDirectionSequence")
    places = [(gradient[0] if gradient else item).get("DiffusionGradientOrientation")]
    places.append(_private(dataset, 0x0019, _SIEMENS, 0x0E))
    places.append([_first(_private(dataset, 0x0019, _GE_ACQUISITION, n)) for n in (0xBB, 0xBC, 0xBD)])
    places.append([_first(_private(dataset, 0x2005, _PHILIPS_MR, n)) for n in (0xB0, 0xB1, 0xB2)])
    places.append(_private(dataset, 0x0065, _UIH, 0x37))
    for place in places:
        values = _floats(place, "d")
        if len(values) == 3 and all(math.isfinite(v) and abs(v) <= 1.001 for v in values):
            return values[0], values[1], values[2]
    return None


def private_scale(dataset: Dataset) -> dict[str, float]:
    """Scale factors that only private elements state: ``philips_slope``, ``philips_intercept``, ``uih_scale``.

    They are noted, never applied: stored × RescaleSlope + RescaleIntercept is the displayed value, and dividing
    by RescaleSlope × the Philips slope gives "precise" values, which are not in units of ADC.
    """
    places = (
        ("philips_slope", 0x2005, _PHILIPS_MR, 0x0E),
        ("philips_intercept", 0x2005, _PHILIPS_MR, 0x0D),
        ("uih_scale", 0x0065, _UIH, 0x2F),
    )
    found = {name: _first(_private(dataset, *place)) for name, *place in places}  # type: ignore[arg-type]
    return {name: value for name, value in found.items() if value is not None}


def _standard(dataset: Dataset, whole: Dataset) -> Resolved | None:
    b = _first(_diffusion_item(dataset).get("DiffusionBValue"))
    return None if b is None else Resolved(b, "standard")


def _diffusion_item(dataset: Dataset) -> Dataset:
    sequence = dataset.get("MRDiffusionSequence")
    return sequence[0] if sequence else dataset


def _siemens(dataset: Dataset, whole: Dataset) -> Resolved | None:
    b = _first(_private(dataset, 0x0019, _SIEMENS, 0x0C))
    return None if b is None else Resolved(b, "private:siemens")


def _ge(dataset: Dataset, whole: Dataset) -> Resolved | None:
    b = _first(_private(dataset, 0x0043, _GE, 0x39))
    if b is None:
        return None
    if b > MAX_B:  # a remainder would turn any corrupt number into a plausible b
        stated = _first(_private(dataset, 0x0043, _GE, 0x7F))
        b -= stated if stated is not None and MAX_B < stated <= b else GE_BIAS
    return Resolved(b, "private:ge")


def _philips(dataset: Dataset, whole: Dataset) -> Resolved | None:
    b = _first(_private(dataset, 0x2001, _PHILIPS, 0x03))
    return None if b is None else Resolved(b, "private:philips")


def _canon(dataset: Dataset, whole: Dataset) -> Resolved | None:
    if not _text(whole, "Manufacturer").upper().startswith(("CANON", "TOSHIBA")):
        return None
    found = _COMMENT_B.search(_text(dataset, "ImageComments"))
    return None if found is None else Resolved(float(found[1]), "private:canon")


def _uih(dataset: Dataset, whole: Dataset) -> Resolved | None:
    actual = _first(_private(dataset, 0x0065, _UIH, 0x09))
    user = _first(_private(dataset, 0x0065, _UIH, 0x0A))
    b = user if actual is None else actual
    return None if b is None else Resolved(b, "private:uih", user)


def _hitachi(dataset: Dataset, whole: Dataset) -> Resolved | None:
    # No published name of the creator: any creator of the block counts, where the manufacturer is the right one.
    if not _text(whole, "Manufacturer").upper().startswith(("HITACHI", "FUJIFILM")):
        return None
    element = dataset.get((0x0029, 0x1030)) if dataset.get((0x0029, 0x0010)) is not None else None
    b = _first(None if element is None else element.value)
    return None if b is None else Resolved(b, "private:hitachi")


_PRIVATE: Final[tuple[Callable[[Dataset, Dataset], Resolved | None], ...]] = (
    _siemens, _ge, _philips, _canon, _uih, _hitachi,
)  # fmt: skip


def _csa(dataset: Dataset, whole: Dataset) -> Resolved | None:
    header = _private(dataset, 0x0029, _CSA, 0x10)
    words = csa_values(header, "B_value") if isinstance(header, bytes) else []
    b = _first(words[0]) if words else None
    return None if b is None else Resolved(b, "csa")


def _named(dataset: Dataset, whole: Dataset) -> Resolved | None:
    places: list[Dataset] = [dataset] if dataset is whole else [dataset, whole]
    for place in places:
        for keyword in ("SequenceName", "PulseSequenceName"):
            found = _SEQUENCE_B.search(_text(place, keyword))
            if found:
                return Resolved(float(found[1]), "sequence_name")
    text = _text(whole, "SeriesDescription")
    matches = list(_DESCRIBED_B.finditer(text))
    listed = any(_LIST_GOES_ON.match(text, match.end()) for match in matches)
    values = {float(match[1]) for match in matches}
    if len(values) != 1 or listed:  # "b50_400_800" names a series, not an image
        return None
    return Resolved(values.pop(), "description")


def csa_values(header: bytes, name: str) -> list[str]:
    """The non-empty items of one entry of a Siemens CSA header (format ``SV10``); [] if there is none.

    Every length is checked against the bytes that are there: headers arrive cut and damaged.
    """
    return next((items for entry, items in _csa_entries(header) if entry == name), [])


def _csa_entries(header: bytes) -> Iterator[tuple[str, list[str]]]:
    if header[:4] != b"SV10" or len(header) < 16:
        return
    (count,) = struct.unpack_from("<I", header, 8)
    position = 16
    for _ in range(min(count, _MAX_CSA_TAGS)):
        if position + 84 > len(header):
            return
        entry = header[position : position + 64].split(b"\0", 1)[0].decode("ascii", "replace")
        (items,) = struct.unpack_from("<i", header, position + 76)
        position += 84
        words: list[str] = []
        for _ in range(max(items, 0)):
            if position + 16 > len(header):
                return
            (length,) = struct.unpack_from("<i", header, position + 4)
            start, position = position + 16, position + 16 + -(-max(length, 0) // 4) * 4
            if length < 0 or position > len(header):
                return
            word = header[start : start + length].split(b"\0", 1)[0].decode("ascii", "replace").strip()
            if word:
                words.append(word)
        yield entry, words


def _private(dataset: Dataset, group: int, creator: str, offset: int) -> Any:
    """Value of a private element, in whichever block its creator reserved; None if there is none."""
    blocks = sorted(tag.elem for tag in dataset.keys() if tag.group == group and 0x10 <= tag.elem <= 0xFF)  # noqa: SIM118
    for block in blocks:
        reserved = dataset[group, block]
        name = reserved.value
        text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
        if text.strip(" \0").upper() == creator:
            element = dataset.get((group, block << 8 | offset))
            return None if element is None else element.value
    return None


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value)


def _first(value: Any) -> float | None:
    values = _floats(value, "f")
    return values[0] if values else None


def _floats(value: Any, single: str) -> list[float]:
    """Numbers of a value: typed, text, or the raw bytes that stay where a reader has no type for the element.

    Args:
        value: The element's value.
        single: ``d`` where the vendor's type is double precision for sure; else four bytes are a float.
    """
    if value is None:
        return []
    if isinstance(value, bytes):
        word = value.rstrip(b" \0")
        if word and all(c in b"0123456789+-.eE\\ " for c in word):
            value = word.decode("ascii").split("\\")
        elif value and len(value) % 8 == 0 and (single == "d" or len(value) == 8):
            value = struct.unpack(f"<{len(value) // 8}d", value)
        elif len(value) == 4:
            value = struct.unpack("<f", value)
        else:
            return []
    items = [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else list(value)
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError):
        return []
    return [n for n in numbers if math.isfinite(n)] if all(map(math.isfinite, numbers)) else []
