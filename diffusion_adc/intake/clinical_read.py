"""A clinical table's bytes → text cells. Nothing is converted: a research ID ``00123`` stays what it is."""

from __future__ import annotations

import csv
import io
import unicodedata
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.clinical_words import HEADERS, KNOWN_WORDS, links_persons, names_a_date, plain

ENCODINGS: Final = {
    "utf-8": "utf-8-sig", "utf-8-sig": "utf-8-sig", "cp932": "cp932", "shift_jis": "cp932", "sjis": "cp932",
    "euc_jp": "euc_jp", "euc-jp": "euc_jp", "iso2022_jp": "iso2022_jp", "iso-2022-jp": "iso2022_jp", "utf-16": "utf-16",
    "utf-16-le": "utf-16-le", "utf-16-be": "utf-16-be",
}  # fmt: skip
"""What may be declared. Shift_JIS is read as CP932, which holds the circled digits and name variants clinics type;
Latin-1 is not offered, for it decodes anything."""
SUFFIXES: Final = (".csv", ".tsv", ".txt", ".xlsx")
LARGEST_FILE: Final = 32 * 2**20
LARGEST_UNPACKED: Final = 256 * 2**20
MOST_ROWS, MOST_COLUMNS, MOST_CELLS = 200_000, 256, 5_000_000
_TITLE_ROWS: Final = 20
_TABLE: Final = "the clinical table"


@dataclass(frozen=True)
class Sheet:
    """Cells as text.

    Attributes:
        rows: One list of cells per row, the header first; all of one length.
        numeric: (row, column) of the cells a workbook stores as numbers: leading zeros are gone there.
        encoding: How the text was read; ``xlsx`` for a workbook.
    """

    rows: list[list[str]]
    numeric: frozenset[tuple[int, int]]
    encoding: str


def refused(code: str | None, found: str, expected: str, do: str = "correct the table") -> UsageError:
    """A refusal of the whole table: nothing of it is used."""
    return UsageError(f"{_TABLE}: {found}", expected, do, code=code)


def read_sheet(
    path: Path,
    encoding: str | None = None,
    sheet: str | None = None,
    vocabulary: frozenset[str] = frozenset(),
) -> Sheet:
    """Read a CSV, TSV or XLSX file whole.

    Args:
        path: The file.
        encoding: One of `ENCODINGS`; None finds it out: byte order mark, ISO-2022-JP escapes, strict UTF-8, then CP932
            or EUC-JP if exactly one of them gives header words that are known.
        sheet: Name of a workbook's sheet; None takes the only one.
        vocabulary: Further header words that are known, in the form `plain` gives.

    Raises:
        UsageError: No such file or kind of file; C01 the encoding is not certain; C11 merged cells, formulas, anything
            hidden; T16 the table links research IDs with persons.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise refused(None, "another kind of file", ", ".join(SUFFIXES), "save it as CSV or XLSX")
    if any(word in unicodedata.normalize("NFKC", path.stem) for word in ("対応表", "連結表")):
        raise _link_table("a file name of a link table")
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST_FILE else None
    except OSError:
        raise refused(None, "not found or not readable", "a readable file", "check --clinical") from None
    if data is None:
        raise refused(None, "a huge file", f"at most {LARGEST_FILE // 2**20} MB")
    if suffix == ".xlsx":
        return _workbook(data, sheet)
    text, used = decode(data, encoding, vocabulary)
    found = _pad(_lines(text, "," if suffix == ".csv" else "\t"))
    _refuse_link_words(found)
    return Sheet(found, frozenset(), used)


def decode(data: bytes, declared: str | None, vocabulary: frozenset[str] = frozenset()) -> tuple[str, str]:
    """Text and the encoding used.

    Raises:
        UsageError: C01 not the declared encoding, or none that is certain.
    """
    if declared is not None:
        name = ENCODINGS.get(declared.lower())
        if name is None:
            raise refused("C01", "an encoding not offered", ", ".join(ENCODINGS), "declare one of these")
        return _strict(data, name, "the declared encoding"), name
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _strict(data, "utf-16", "UTF-16, as its first bytes say"), "utf-16"
    if data.startswith(b"\xef\xbb\xbf"):
        return _strict(data, "utf-8-sig", "UTF-8, as its first bytes say"), "utf-8-sig"
    if b"\x1b$" in data:  # escapes of ISO-2022-JP; its bytes are all ASCII, so it would pass as UTF-8
        return _strict(data, "iso2022_jp", "ISO-2022-JP, as its escapes say"), "iso2022_jp"
    if b"\x00" in data:
        raise refused("C01", "zero bytes", "text", "declare the encoding")
    try:
        return _strict(data, "utf-8-sig", ""), "utf-8-sig"
    except UsageError:
        pass
    fitting = []
    for name in ("cp932", "euc_jp"):
        try:
            text = _strict(data, name, "")
        except UsageError:
            continue
        if _recognized(text, vocabulary):
            fitting.append((text, name))
    if len(fitting) != 1:
        raise refused(
            "C01", "an encoding that cannot be told for certain", "UTF-8, or CP932 with known header words",
            "declare the encoding",
        )  # fmt: skip
    return fitting[0]


def _strict(data: bytes, name: str, said: str) -> str:
    try:
        text = data.decode(name, errors="strict")
    except (UnicodeDecodeError, UnicodeError):
        raise refused(
            "C01", f"bytes that are not {said}", "one encoding throughout", "save it again"
        ) from None
    if "\x00" in text or "\ufffd" in text:
        raise refused("C01", "bytes that are not text", "one encoding throughout", "declare the encoding")
    return text


def _recognized(text: str, vocabulary: frozenset[str]) -> bool:
    """Whether the words beyond ASCII are words a table may hold: at least half in the header, else in the cells."""
    lines = text.splitlines()
    separator = "\t" if lines and "\t" in lines[0] else ","
    for part in (lines[:1], lines[1:200]):
        cells = {cell.strip().strip('"') for line in part for cell in line.split(separator)}
        foreign = [cell for cell in cells if not cell.isascii()]
        known = sum(_known(cell, vocabulary) for cell in foreign)
        if foreign:
            return 2 * known >= len(foreign) > 0
    return False


def _known(cell: str, vocabulary: frozenset[str]) -> bool:
    word = plain(cell)
    bare = plain(unicodedata.normalize("NFKC", cell).split("(")[0].split("[")[0])
    return (
        bool({word, bare} & (HEADERS.keys() | KNOWN_WORDS | vocabulary))
        or links_persons(cell)
        or names_a_date(cell)
    )


def _lines(text: str, delimiter: str) -> list[list[str]]:
    try:
        rows: list[list[str]] = []
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if len(row) > MOST_COLUMNS or len(rows) > MOST_ROWS:
                raise refused(None, "a huge table", f"at most {MOST_ROWS} rows of {MOST_COLUMNS} columns")
            if any(cell.strip() for cell in row):
                rows.append(row)
    except csv.Error:
        raise refused(None, "quotes that do not close", "a regular table", "save it again") from None
    return rows


def _pad(rows: list[list[str]]) -> list[list[str]]:
    if not rows:
        raise refused(None, "empty", "a header and rows")
    width = len(rows[0])
    while width > 1 and not any(row[width - 1].strip() for row in rows if len(row) >= width):
        width -= 1
    # A longer row keeps its surplus cells: the reader of rows refuses it.
    return [
        row[:width] + ["" for _ in range(width - len(row))] + [cell for cell in row[width:] if cell.strip()]
        for row in rows
    ]


def _link_table(found: str) -> UsageError:
    return refused(
        "T16", found, "research IDs only, never a link to persons",
        "delete it here: a link table stays at the clinic",
    )  # fmt: skip


def _refuse_link_words(rows: list[list[str]]) -> None:
    for number, row in enumerate(rows[:_TITLE_ROWS], start=1):
        for column, cell in enumerate(row, start=1):
            if links_persons(cell):
                raise _link_table(f"row {number}, column {column} heads identifying data")


def _workbook(data: bytes, wanted: str | None) -> Sheet:
    import openpyxl

    _check_archive(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(data), data_only=False, keep_links=False)
    except Exception:  # a hostile archive raises anything; none of it may reach the user
        raise refused(None, "a damaged workbook", "an XLSX file", "save it again") from None
    if any(sheet.sheet_state != "visible" for sheet in book._sheets):
        raise refused("C11", "a hidden sheet", "visible sheets only", "delete it: it may be a link table")
    grids = {}
    for number, sheet in enumerate(book.worksheets, start=1):
        grid = _grid(sheet, number)
        if grid[0]:
            _refuse_link_words(grid[0])
            grids[sheet.title] = grid
    if wanted is not None and wanted not in grids:
        raise refused(
            None, "no such sheet", "the name of a sheet with cells", "correct `sheet` in the mapping"
        )
    if wanted is None and len(grids) != 1:
        raise refused(None, f"{len(grids)} sheets with cells", "one", "name it as `sheet` in the mapping")
    rows, numeric = grids[wanted or next(iter(grids))]
    return Sheet(_pad(rows), frozenset(numeric), "xlsx")


def _check_archive(data: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > 500 or sum(m.file_size for m in members) > LARGEST_UNPACKED:
                raise refused(None, "a workbook that unpacks to a huge size", "a small table")
            total = 0
            for member in members:
                with archive.open(member) as stream:  # the sizes in the directory may lie
                    head = stream.read(4096)
                    total += len(head)
                    while block := stream.read(2**20):
                        total += len(block)
                        if total > LARGEST_UNPACKED:
                            raise refused(None, "a workbook that unpacks to a huge size", "a small table")
                if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
                    raise refused(None, "a workbook with its own XML entities", "a plain workbook")
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ):
        raise refused(None, "a damaged workbook", "an XLSX file", "save it again") from None


def _grid(sheet: Any, number: int) -> tuple[list[list[str]], set[tuple[int, int]]]:
    where = f"sheet {number}"
    if sheet.merged_cells.ranges:
        raise refused("C11", f"{where}: merged cells", "one value per cell", "unmerge them")
    hidden = [d for d in (*sheet.row_dimensions.values(), *sheet.column_dimensions.values()) if d.hidden]
    if hidden:
        raise refused("C11", f"{where}: hidden rows or columns", "nothing hidden", "delete or show them")
    rows_there, columns_there = sheet.max_row, sheet.max_column
    if rows_there > MOST_ROWS or columns_there > MOST_COLUMNS or rows_there * columns_there > MOST_CELLS:
        raise refused(None, f"{where}: huge", f"at most {MOST_ROWS} rows of {MOST_COLUMNS} columns")
    rows: list[list[str]] = []
    numeric: set[tuple[int, int]] = set()
    for row in sheet.iter_rows():
        texts = []
        for column, cell in enumerate(row):
            if cell.data_type in ("f", "e"):
                kind = "a formula" if cell.data_type == "f" else "an error value"
                raise refused("C11", f"{where}, {cell.coordinate}: {kind}", "values only", "paste as values")
            if isinstance(cell.value, int | float) and not isinstance(cell.value, bool):
                numeric.add((len(rows), column))
            texts.append(_text(cell.value))
        if any(text.strip() for text in texts):
            rows.append(texts)
        else:
            numeric = {place for place in numeric if place[0] != len(rows)}
    return rows, numeric


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime | date | time | timedelta):
        return (
            "1900-01-01"  # any date: the reader of cells refuses it by its form, its content goes no further
        )
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return str(value)
