"""What a cell looks like before it is read: a date, something that identifies, a formula. Content never leaves here."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LONGEST: Final = 60
"""Characters; longer cells are free text."""
_MONTH: Final = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_ERA: Final = r"(?:明治|大正|昭和|平成|令和|明|大|昭|平|令|[mtshr])"
_DATES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!\d)\d{4}\s*[-/.]\s*\d{1,2}\s*[-/.]\s*\d{1,2}(?!\d)",
        r"(?<!\d)\d{1,2}\s*[-/.]\s*\d{1,2}\s*[-/.]\s*(?:\d{4}|\d{2})(?!\d)",
        r"(?<!\d)(?:19|20)\d{2}\s*[-/]\s*\d{1,2}(?!\d)",
        r"(?<!\d)\d{1,2}\s*[-/]\s*(?:19|20)\d{2}(?!\d)",
        r"(?<!\d)(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)",
        r"\d{1,4}\s*年(?!齢|前|間)|元年|\d{1,2}\s*月\s*\d{1,2}\s*日|\d{1,2}\s*月(?!\S)",
        rf"{_ERA}\s*(?:元|\d{{1,2}})\s*[-/.年]\s*\d{{1,2}}\s*[-/.月]\s*\d{{1,2}}",
        r"(?:明治|大正|昭和|平成|令和)\s*(?:元|\d{1,2})",
        rf"(?<![a-z]){_MONTH}[\s.,/-]+\d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)?[\s.,/-]+{_MONTH}(?![a-z])",
        r"(?<!\d)[0-2]?\d:[0-5]\d(?!\d)|\d{1,2}時\d{0,2}",
    )
)
_IDENTIFYING: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\S@\S",
        r"https?:|www\.",
        r"(?<!\d)\+?\d{0,3}[\s(-]*0?\d{1,4}[\s()-]+\d{1,4}[\s()-]+\d{3,4}(?!\d)|(?<!\d)0\d{9,10}(?!\d)|\+\d{10,}",
        r"〒|(?<!\d)\d{3}-\d{4}(?!\d)",
        r"(?:様|さん|さま|殿|氏|先生|ちゃん|くん)$|(?<![a-z])(?:mr|mrs|ms|dr|prof)[.\s]",
        r"(?<![\d.])\d{7,12}(?![\d.])",
        r"[都道府県市区郡町村]\S*\d|丁目|番地|号室",
        r"(?:病院|医院|クリニック|診療所|大学)",
    )
)


def fold(cell: str) -> str:
    """NFKC, signs made ASCII, outer spaces gone: the form in which cells are judged."""
    return unicodedata.normalize("NFKC", cell).replace("−", "-").replace("≦", "≤").strip()


def is_date(cell: str) -> bool:
    """Whether the cell holds a date or a time, Western or Japanese."""
    text = fold(cell)
    return len(text) <= LONGEST and any(pattern.search(text) for pattern in _DATES)


def identifies(cell: str) -> bool:
    """Whether the cell looks like a phone or chart number, a mail or postal address, a person or a hospital."""
    text = fold(cell)
    return any(pattern.search(text) for pattern in _IDENTIFYING)


def formula(cell: str) -> bool:
    """Whether a spreadsheet would run the cell: it opens like a formula and is no number (CSV injection)."""
    text = unicodedata.normalize("NFKC", cell)
    if cell[:1] in "\t\r\n" and cell.strip():
        return True
    bare = text.strip().lstrip("'\"").strip()
    if bare[:1] not in ("=", "+", "-", "@", "|", "%") or not bare.strip("-+=%|@"):
        return False
    return re.fullmatch(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", bare, re.IGNORECASE | re.ASCII) is None
