"""One walk through a dataset, element by element, with the rules of `custody.tags`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from diffusion_adc.custody import tags

_MAX_DEPTH: Final = 8
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[Ee][+-]?[0-9]{1,3})?", re.ASCII)
_NUMERIC_VRS: Final = frozenset({"DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "AT"})
_PIXELS: Final = frozenset({"PixelData"})


@dataclass
class Walk:
    """Rules of one pass. `uid` maps a UID; `problems` collects keywords of what was dropped or changed."""

    uid: Callable[[str], str | None]
    problems: list[str] = field(default_factory=list)

    def filter(self, dataset: Dataset, depth: int = 0) -> Dataset:
        """A new dataset with the allowed elements in their allowed form."""
        kept = Dataset()
        for tag in list(dataset.keys()):
            keyword = keyword_for_tag(tag)
            if not keyword and BaseTag(tag).is_private:
                self.problems.append("PrivateGroup")
                continue
            if keyword in _PIXELS and depth == 0:
                continue
            if keyword in tags.SUBJECT and depth == 0:
                continue
            if keyword not in _KINDS:
                if _can_identify(dataset, tag):
                    self.problems.append(keyword or "UnknownElement")
                continue
            try:
                element = dataset[tag]
                empty = element.is_empty
                new = None if empty else self._element(keyword, element, dataset, depth)
            except Exception:  # a damaged value raises whatever its type's parser raises
                new, empty = None, False
            if new is not None:
                kept[tag] = new
            elif not empty:
                self.problems.append(keyword)
        return kept

    def _element(
        self, keyword: str, element: DataElement, dataset: Dataset, depth: int
    ) -> DataElement | None:
        if keyword in tags.SEQUENCES:
            if depth >= _MAX_DEPTH or element.VR != "SQ":
                return None
            return DataElement(element.tag, "SQ", [self.filter(item, depth + 1) for item in element.value])
        if keyword in tags.CODE_SEQUENCES:
            items = [code for item in element.value if (code := self._code(item, keyword)) is not None]
            return DataElement(element.tag, "SQ", items) if items else None
        value = _VALUES[_KINDS[keyword]](keyword, element, self)
        if value is None:
            return None
        vr = dictionary_VR(element.tag)
        if " or " in vr:
            vr = "SS" if int(dataset.get("PixelRepresentation") or 0) else "US"
        return DataElement(element.tag, vr, value)

    def _code(self, item: Dataset, keyword: str) -> Dataset | None:
        scheme, value = str(item.get("CodingSchemeDesignator", "")), str(item.get("CodeValue", ""))
        meaning = tags.code_meaning(scheme, value)
        new = None if meaning is None else code(value, scheme, meaning)
        if new is None or {e.keyword: e.value for e in item} != {e.keyword: e.value for e in new}:
            self.problems.append(keyword)
        return new


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _can_identify(dataset: Dataset, tag: BaseTag) -> bool:
    """Whether an element outside the list could hold more than a measurement."""
    raw = dataset.get_item(tag)
    if raw is None or not raw.value:
        return False
    vr, stated = _dictionary_vr(tag), raw.VR
    if vr == "UN" or " or " in vr:
        vr = stated or "UN"
    if vr not in _NUMERIC_VRS or stated not in (*_NUMERIC_VRS, None, "UN"):
        return True  # a type that the file alone claims counts for nothing
    if vr not in ("DS", "IS"):
        return False
    try:  # a long whole number may be a chart number
        return any(
            not _DECIMAL.fullmatch(w) or len(re.sub(r"\D", "", w.split(".")[0])) >= 7
            for w in _strings(dataset[tag].value)
        )
    except Exception:
        return True


def _dictionary_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) or hasattr(value, "append") else [value]


def _strings(value: Any) -> list[str]:
    return [str(getattr(item, "original_string", item)).strip() for item in _items(value)]


def _number(keyword: str, element: DataElement, walk: Walk) -> Any:
    vr = dictionary_VR(element.tag)
    if vr in ("DS", "IS"):
        words = _strings(element.value)
        if not all(_DECIMAL.fullmatch(word) and math.isfinite(float(word)) for word in words):
            return None
        if vr == "IS" and not all(abs(float(word)) < 2**31 for word in words):
            return None
        return [word if len(word) <= 16 else f"{float(word):.10g}" for word in words]
    items = _items(element.value)
    if not all(isinstance(item, int | float) and math.isfinite(item) for item in items):
        return None
    return items if len(items) > 1 else items[0]


def _uid(keyword: str, element: DataElement, walk: Walk) -> str | None:
    return walk.uid(str(element.value)) if isinstance(element.value, str) else None


def _class_uid(keyword: str, element: DataElement, walk: Walk) -> str | None:
    return str(element.value) if str(element.value) in tags.STORAGE else None


def _word(keyword: str, element: DataElement, walk: Walk) -> list[str] | None:
    words, allowed = [str(item).strip().upper() for item in _items(element.value)], tags.VOCABULARY[keyword]
    if keyword in ("ImageType", "FrameType"):
        if not set(words) <= allowed:
            walk.problems.append(keyword)
        return [word if word in allowed else "OTHER" for word in words]
    return words if set(words) <= allowed else None


def _pointer(keyword: str, element: DataElement, walk: Walk) -> Any:
    tag = BaseTag(int(element.value))
    return None if tag.is_private or not keyword_for_tag(tag) else tag


def _fixed(keyword: str, element: DataElement, walk: Walk) -> str | None:
    text = str(element.value)
    return text if tags.FIXED[keyword].fullmatch(text) else None


def _described(keyword: str, element: DataElement, walk: Walk) -> str | None:
    find = {"Manufacturer": tags.vendor, "ManufacturerModelName": tags.model}.get(keyword, tags.description)
    text = str(element.value)
    found = find(text)
    if found != text:
        walk.problems.append(keyword)
    return found


def _nothing(keyword: str, element: DataElement, walk: Walk) -> None:
    return None


_VALUES: Final[dict[str, Callable[[str, DataElement, Walk], Any]]] = {
    "number": _number, "uid": _uid, "class_uid": _class_uid, "word": _word, "pointer": _pointer,
    "fixed": _fixed, "described": _described, "nested": _nothing, "empty": _nothing,
}  # fmt: skip
_KINDS: Final[dict[str, str]] = {
    **dict.fromkeys(tags.NUMBERS, "number"), **dict.fromkeys(tags.UIDS, "uid"),
    **dict.fromkeys(tags.CLASS_UIDS, "class_uid"), **dict.fromkeys(tags.VOCABULARY, "word"),
    **dict.fromkeys(tags.POINTERS, "pointer"), **dict.fromkeys(tags.FIXED, "fixed"),
    **dict.fromkeys(("Manufacturer", "ManufacturerModelName", "SeriesDescription"), "described"),
    **dict.fromkeys((*tags.SEQUENCES, *tags.CODE_SEQUENCES), "nested"), **dict.fromkeys(tags.EMPTY, "empty"),
}  # fmt: skip
