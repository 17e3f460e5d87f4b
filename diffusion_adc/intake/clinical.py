"""A clinic's or a public set's table → covariates by research ID.

The whole table is refused (`UsageError`, before anything is written) where its form cannot be trusted: encoding, hidden
parts, a column nobody declared, dates, a link to persons. A row is refused alone where one of its cells is wrong.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from diffusion_adc.domain.case import ID_PATTERN
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake.clinical_cells import formula
from diffusion_adc.intake.clinical_columns import Column, TableMapping, load_mapping, resolve
from diffusion_adc.intake.clinical_read import Sheet, read_sheet, refused
from diffusion_adc.intake.clinical_values import BELOW, read_cell
from diffusion_adc.intake.clinical_words import EXAM, EXAM_ID, RESEARCH_ID, USUAL_MEDIAN, plain

LEAST_ALIKE: Final = 5
"""Persons with fewer than four others of the same age, primary and stage are listed as rare."""
_NAMED: Final = 5
_LEAST_FOR_MEDIAN: Final = 10
_ROW: Final[type[BaseModel]] = create_model(
    "Row",
    __config__=ConfigDict(extra="forbid", strict=True),
    **{name: (hint, None) for name, hint in get_type_hints(Covariates).items()},  # type: ignore[call-overload]
)
"""The row's schema: the covariates' own types, nothing converted."""


@dataclass(frozen=True)
class ClinicalOptions:
    """What the user declares about the table.

    Attributes:
        mapping: Name of a shipped mapping (``picai``, ``clinic_ja``) or a YAML file; None reads the headers alone.
        encoding: Of a CSV file, where it is not to be found out.
        id_prefix: Joined to bare numbers with a hyphen; the mapping's where empty.
        id_pattern: Research IDs match it in full.
        provenance: ``public`` and ``synthetic`` tables may carry numbers of their own (`ids`, ``exam_id``).
        ids: The table's own number → research ID, besides those of the mapping; public sets only.
    """

    mapping: str | Path | None = None
    encoding: str | None = None
    id_prefix: str = ""
    id_pattern: str = ID_PATTERN
    provenance: str = "restricted"
    ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RareRow:
    """A person few others resemble in age, primary and stage; `size` counts the person too."""

    research_id: str
    size: int


@dataclass(frozen=True)
class ClinicalTable:
    """What a table gave.

    Attributes:
        covariates: By research ID; of several examinations, the first that has a row.
        exams: By research ID and order of the examination.
        refused: One message per row left out, with its code.
        warnings: Doubts.
        rows: Rows below the header.
        encoding: How the text was read.
        persons_without_case: ``refuse`` or ``ignore``, from the mapping.
    """

    covariates: dict[str, Covariates]
    exams: dict[tuple[str, int], Covariates]
    refused: list[str]
    warnings: list[str]
    rows: int = 0
    encoding: str = ""
    persons_without_case: str = "refuse"

    @property
    def known(self) -> dict[str, int]:
        """Rows in which each covariate is known."""
        counts = Counter(
            name
            for row in self.exams.values()
            for name, value in row.record().items()
            if value not in (None, ())
        )
        return dict(counts)

    @property
    def rare_rows(self) -> list[RareRow]:
        """Persons whose age, primary and stage fewer than `LEAST_ALIKE` share, the rarest first."""
        return rare_rows(self.covariates)

    @property
    def unique_rows(self) -> list[str]:
        """Research IDs of the persons who are alone with their age, primary and stage."""
        return [row.research_id for row in self.rare_rows if row.size == 1]

    def for_persons(self, persons: Collection[str]) -> ClinicalTable:
        """The table cut to the persons of a cohort, with messages for those on one side only (C06)."""
        without = sorted(self.covariates.keys() - set(persons))
        refusals, warnings = list(self.refused), list(self.warnings)
        if without and self.persons_without_case == "ignore":
            warnings.append(
                f"C06: {len(without)} persons of the clinical table have no case; their rows are left out"
            )
        elif without:
            refusals += [
                str(
                    CaseError(
                        "a row of the clinical table without a case", "a case for each row",
                        "correct the research ID, or set `persons_without_case: ignore` in the mapping",
                        code="C06", research_id=person,
                    )
                )
                for person in without
            ]  # fmt: skip
        unlisted = sorted(set(persons) - self.covariates.keys())
        if unlisted:
            warnings.append(f"C06: no clinical row for {_few(unlisted)}; their covariates are unknown")
        kept = {person: row for person, row in self.covariates.items() if person in persons}
        exams = {key: row for key, row in self.exams.items() if key[0] in persons}
        warnings = [text for text in warnings if not text.startswith("T15")] + _rare_warning(rare_rows(kept))
        return replace(self, covariates=kept, exams=exams, refused=refusals, warnings=warnings)


def read_table(path: Path, options: ClinicalOptions | None = None) -> ClinicalTable:
    """Read a CSV, TSV or XLSX table of covariates.

    Args:
        path: The file; UTF-8, or as declared (`clinical_read.ENCODINGS`).
        options: What the user declares.

    Raises:
        UsageError: The table as a whole cannot be used: C01 encoding, C03 a date column, C05 a column without unit, C06
            no or twice the same column, C09 an undeclared column, C11 anything but plain visible values, T16 a link to
            persons, X9 a formula as header.
    """
    options = options or ClinicalOptions()
    mapping = load_mapping(options.mapping)
    public = options.provenance != "restricted"
    ids = {**mapping.ids, **options.ids}
    if ids and not public:
        raise refused(
            "T16", "numbers joined to research IDs", "research IDs in the table", "join them at the clinic"
        )
    vocabulary = frozenset(map(plain, (*mapping.columns, *mapping.ignore)))
    sheet = read_sheet(path, options.encoding or mapping.encoding, mapping.sheet, vocabulary)
    columns = resolve(sheet, mapping, public=public)
    reader = _Reader(sheet, columns, mapping, options.id_prefix or mapping.id_prefix, options.id_pattern, ids)
    return reader.table()


class _Reader:
    def __init__(
        self,
        sheet: Sheet,
        columns: list[Column],
        mapping: TableMapping,
        prefix: str,
        pattern: str,
        ids: Mapping[str, str],
    ) -> None:
        self.sheet, self.columns, self.mapping = sheet, columns, mapping
        self.prefix, self.pattern, self.ids = prefix, pattern, ids
        self.at = {column.covariate: column for column in columns}
        self.refused: list[str] = []
        self.warnings: list[str] = []
        self.shared: dict[str, Any] = {}
        for name, text in mapping.constants.items():
            try:
                self.shared |= read_cell(Column(-1, name), text)
            except CaseError as error:
                raise UsageError(
                    f"a constant of the clinical mapping: {error.found}", error.expected
                ) from None

    def table(self) -> ClinicalTable:
        rows = list(enumerate(self.sheet.rows[1:], start=2))
        persons: dict[int, str] = {}
        for number, row in rows:
            try:
                persons[number] = self._research_id(number, row)
            except CaseError as error:
                self._refuse(error, number)
        self._refuse_padded(persons)
        orders = self._orders(rows, persons)
        found: dict[tuple[str, int], list[Covariates]] = defaultdict(list)
        for number, row in rows:
            if number not in orders:
                continue
            try:
                covariates = self._covariates(row)
            except CaseError as error:
                self._refuse(error, number, persons[number])
                continue
            found[persons[number], orders[number]].append(covariates)
        exams = self._once(found)
        first = self._first(exams)
        self.warnings += self._doubtful_units(exams.values()) + _rare_warning(rare_rows(first))
        return ClinicalTable(
            first, exams, self.refused, self.warnings, len(rows), self.sheet.encoding,
            self.mapping.persons_without_case,
        )  # fmt: skip

    def _refuse(self, error: CaseError, number: int, person: str | None = None) -> None:
        row = CaseError(
            f"row {number}, {error.found}", error.expected, error.do, code=error.code, research_id=person
        )
        self.refused.append(str(row))

    def _research_id(self, number: int, row: list[str]) -> str:
        position = self.at[RESEARCH_ID].position
        cell = row[position]
        if formula(cell):
            raise CaseError("research_id: a formula", "a research ID", "enter the ID itself", code="X9")
        text = self.ids.get(cell.strip(" "), cell.strip(" "))
        if re.fullmatch(r"[0-9]+", text, re.ASCII) and self.prefix:
            if (number - 1, position) in self.sheet.numeric:
                raise CaseError(
                    "research_id: stored as a number, so that leading zeros are gone", "text",
                    "format the column as text", code="C06",
                )  # fmt: skip
            text = f"{self.prefix}-{text}"
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise CaseError(
                "research_id: none, or of another form", f"the pattern {self.pattern}",
                "correct it, or declare --id-prefix for bare numbers", code="C06",
            )  # fmt: skip
        return text

    def _refuse_padded(self, persons: dict[int, str]) -> None:
        """PX-0012 and PX-12 in one table: zeros were lost somewhere, and two persons may have become one."""
        spelled: dict[tuple[str, int], set[str]] = defaultdict(set)
        for person in persons.values():
            spelled[_unpadded(person)].add(person)
        for number, person in list(persons.items()):
            if len(spelled[_unpadded(person)]) > 1:
                error = CaseError(
                    "research_id: the same number with other leading zeros",
                    "one spelling",
                    "correct it",
                    code="C06",
                )
                self._refuse(error, number, person)
                del persons[number]

    def _orders(self, rows: list[tuple[int, list[str]]], persons: dict[int, str]) -> dict[int, int]:
        """Order of the examination by row; rows without a usable one are refused."""
        column = self.at.get(EXAM) or self.at.get(EXAM_ID)
        if column is None:
            return dict.fromkeys(persons, 1)
        stated: dict[int, int] = {}
        for number, row in rows:
            if number not in persons:
                continue
            text = row[column.position].strip()
            limit = 99 if column.covariate == EXAM else 10**12
            if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not 1 <= int(text) <= limit:
                error = CaseError(
                    f"{column.covariate}: no order", "a whole number from 1", "correct it", code="C06"
                )
                self._refuse(error, number, persons[number])
            else:
                stated[number] = int(text)
        if column.covariate == EXAM:
            return stated
        ranks: dict[str, list[int]] = defaultdict(list)
        for person, value in sorted({(persons[number], value) for number, value in stated.items()}):
            ranks[person].append(value)
        return {number: ranks[persons[number]].index(value) + 1 for number, value in stated.items()}

    def _covariates(self, row: list[str]) -> Covariates:
        if len(row) > len(self.sheet.rows[0]):
            raise CaseError(
                "more cells than the header", "a regular row", "quote cells with commas", code="C09"
            )
        values: dict[str, Any] = dict(self.shared)
        below: list[str] = []
        for column in self.columns:
            if column.covariate in (RESEARCH_ID, EXAM, EXAM_ID):
                continue
            unit = None if column.unit_position is None else row[column.unit_position]
            read = read_cell(column, row[column.position], unit)
            if BELOW in read:
                below.append(read.pop(BELOW))
            values |= read
        try:
            _ROW.model_validate({**values, BELOW: tuple(below)})
        except ValidationError:  # a parser gave another type than the covariate's
            raise CaseError("a value of another type", "the covariate's type", code="C09") from None
        return Covariates(**values, below_detection=tuple(below))

    def _once(self, found: Mapping[tuple[str, int], list[Covariates]]) -> dict[tuple[str, int], Covariates]:
        exams = {}
        for (person, order), rows in found.items():
            if any(row != rows[0] for row in rows):
                error = CaseError(
                    f"{len(rows)} rows of examination {order} that disagree", "one row", "correct the table",
                    code="C06", research_id=person,
                )  # fmt: skip
                self.refused.append(str(error))
                continue
            if len(rows) > 1:
                self.warnings.append(f"C06 {person}: the same row {len(rows)} times; kept once")
            exams[person, order] = rows[0]
        return exams

    def _first(self, exams: Mapping[tuple[str, int], Covariates]) -> dict[str, Covariates]:
        first: dict[str, Covariates] = {}
        differing: set[str] = set()
        for (person, _), row in sorted(exams.items(), key=lambda item: item[0]):
            if first.setdefault(person, row) != row:
                differing.add(person)
        if differing:
            self.warnings.append(
                f"C06: examinations of {_few(sorted(differing))} differ; the values of the first are the person's"
            )
        return first

    def _doubtful_units(self, rows: Iterable[Covariates]) -> list[str]:
        out, rows = [], list(rows)
        alp = self.at.get("alp_u_l")
        if alp is not None and alp.factor is not None and not re.search("jscc|ifcc", alp.unit, re.IGNORECASE):
            out.append(
                "C05: alp_u_l without its method; JSCC values are 2.9 times IFCC's: write the unit U/L JSCC or U/L IFCC"
            )
        for name, (low, high) in USUAL_MEDIAN.items():
            values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
            if len(values) >= _LEAST_FOR_MEDIAN and not low <= statistics.median(values) <= high:
                out.append(f"C05: the median of {name} lies outside {low:g} to {high:g}; check its unit")
        return out


def _unpadded(person: str) -> tuple[str, int]:
    letters = person.rstrip("0123456789")
    return letters, int(person[len(letters) :])


def _few(persons: list[str]) -> str:
    shown = ", ".join(persons[:_NAMED])
    return shown if len(persons) <= _NAMED else f"{shown} and {len(persons) - _NAMED} more persons"


def rare_rows(covariates: Mapping[str, Covariates], least: int = LEAST_ALIKE) -> list[RareRow]:
    """Persons whose age, primary and stage together fewer than `least` share (k-anonymity), the rarest first.

    An unknown value counts as a value of its own; a person with all three unknown resembles anybody.
    """
    keys = {person: (row.age_years, row.primary, row.stage) for person, row in covariates.items()}
    sizes = Counter(keys.values())
    found = [
        RareRow(person, sizes[key])
        for person, key in keys.items()
        if sizes[key] < least and any(part is not None for part in key)
    ]
    return sorted(found, key=lambda row: (row.size, row.research_id))


def _rare_warning(rare: list[RareRow]) -> list[str]:
    if not rare:
        return []
    alone = [row.research_id for row in rare if row.size == 1]
    text = f"T15: {len(rare)} persons share age, primary and stage with fewer than {LEAST_ALIKE - 1} others"
    return [f"{text}; alone with them: {_few(alone)}" if alone else text]
