"""Which column of a clinical table is which covariate: by its header, or by a mapping the user declares in YAML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusion_adc.domain.clinical import TNM
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.clinical_cells import formula, is_date
from diffusion_adc.intake.clinical_read import Sheet, refused
from diffusion_adc.intake.clinical_words import (
    EXAM,
    EXAM_ID,
    HEADERS,
    RESEARCH_ID,
    SOFT_LINK_WORDS,
    TNM_ALL,
    UNITS,
    names_a_date,
    plain,
    plain_unit,
)  # fmt: skip

SHIPPED: Final = Path(__file__).parent / "mappings"
KEYS: Final = (RESEARCH_ID, EXAM, EXAM_ID)
_LARGEST_YAML: Final = 256 * 2**10
_ID_LIKE: Final = re.compile(r"[A-Za-z]{0,16}[-_]?\d{4,12}", re.ASCII)
_BRACKET: Final = re.compile(r"(.*?)\s*[(\[]([^()\[\]]*)[)\]]\s*")
_YEARS: Final = frozenset(("", "years", "year", "yr", "yrs", "y", "歳", "才"))


class ColumnRule(BaseModel):
    """One column of a mapping: its covariate, the unit, the words in use, the cells that mean "unknown"."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    covariate: str
    unit: str | None = None
    unit_column: str | None = None
    values: dict[str, str] = Field(default_factory=dict)
    """Cell → word or number of the built-in vocabulary: ``{"1": male, "2": female}``."""
    missing: list[str] | None = None
    """Cells that mean "unknown" besides the usual words; stating it, even empty, lets 999 and the like be values."""


class TableMapping(BaseModel):
    """A mapping file. Headers it does not name are read by the built-in words."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    extends: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    id_prefix: str = ""
    ids: dict[str, str] = Field(default_factory=dict)
    """Public sets only: the table's own number → research ID."""
    persons_without_case: Literal["refuse", "ignore"] = "refuse"
    columns: dict[str, ColumnRule] = Field(default_factory=dict)
    ignore: list[str] = Field(default_factory=list)
    """Columns dropped unread."""
    constants: dict[str, str] = Field(default_factory=dict)
    """Covariates the whole table shares."""


@dataclass(frozen=True)
class Column:
    """A column of the table at hand.

    Attributes:
        position: From 0; -1 for a constant.
        covariate: A field of `Covariates`, or one of `KEYS` or ``tnm``.
        factor: From the column's unit to the covariate's; None where each row names its unit.
        unit_position: Column that names the unit.
        unit: As stated in header and mapping.
        values: Declared words in `plain` form.
        missing: Declared cells that mean "unknown" (folded); None if not declared.
    """

    position: int
    covariate: str
    factor: float | None = 1.0
    unit_position: int | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] | None = None
    unit: str = ""


def load_mapping(name: str | Path | None) -> TableMapping:
    """A mapping shipped with the package (``picai``, ``clinic_ja``), one of the user's files, or the empty one.

    Raises:
        UsageError: No such mapping, or a key it does not know.
    """
    if name is None:
        return TableMapping()
    raw = _yaml(name)
    base = raw.pop("extends", None)
    if base is not None:
        if not isinstance(base, str) or not re.fullmatch(r"[a-z0-9_]{1,40}", base):
            raise UsageError("`extends` in the mapping", f"one of {', '.join(shipped())}")
        parent = _yaml(base)
        for key, value in parent.items():
            if isinstance(value, dict) and isinstance(raw.get(key, {}), dict):
                raw[key] = {**value, **raw.get(key, {})}
            elif isinstance(value, list) and isinstance(raw.get(key, []), list):
                raw[key] = [*value, *raw.get(key, [])]
            else:
                raw.setdefault(key, value)
    try:
        return TableMapping.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise UsageError(
            f"the clinical mapping: {where}: {first['msg']}", f"the keys {', '.join(TableMapping.model_fields)}",
            "quote numbers and yes/no, as in the shipped mappings",
        ) from None  # fmt: skip


def shipped() -> list[str]:
    """Names of the mappings the package brings."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _yaml(name: str | Path) -> dict[str, Any]:
    path = SHIPPED / f"{name}.yaml" if str(name) in shipped() else Path(name)
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise UsageError("a huge clinical mapping", "a short YAML file")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken | yaml.AnchorToken) for token in yaml.scan(text)):
            raise UsageError("anchors in the clinical mapping", "plain YAML")
        raw = yaml.safe_load(text)
    except OSError:
        raise UsageError(
            "no such clinical mapping", f"{', '.join(shipped())} or a YAML file", "check --clinical-mapping"
        ) from None
    except (yaml.YAMLError, UnicodeError, RecursionError):
        raise UsageError("a damaged clinical mapping", "YAML", "correct it") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise UsageError("a clinical mapping without keys", f"some of {', '.join(TableMapping.model_fields)}")
    return raw


def resolve(sheet: Sheet, mapping: TableMapping, *, public: bool) -> list[Column]:
    """The table's columns, each known.

    Args:
        sheet: The cells.
        mapping: What the user declares.
        public: Public sets may carry a study number and numbers of their own; a clinic's table may not.

    Raises:
        UsageError: X9 a header that is a formula; T16 a second ID; C03 dates; C05 no unit, an unknown one, or two;
            C06 no research ID, or one covariate twice; C09 a column nobody declared.
    """
    header = sheet.rows[0]
    rules = {plain(key): rule for key, rule in mapping.columns.items()}
    ignored = {plain(name) for name in mapping.ignore}
    columns: list[Column] = []
    unit_columns: dict[str, int] = {}
    for position, cell in enumerate(header):
        if formula(cell):
            raise refused("X9", f"column {position + 1}: a formula as header", "a plain word")
        unit_of = re.fullmatch(r"(.+?)(?:unit|units|単位|の単位)", plain(cell))
        if unit_of and unit_of[1] in HEADERS and plain(cell) not in rules.keys() | ignored:
            unit_columns[HEADERS[unit_of[1]]] = position
    named = {plain(rule.unit_column) for rule in rules.values() if rule.unit_column}
    for position, cell in enumerate(header):
        word = plain(cell)
        if position in unit_columns.values() or word in named:
            continue
        if word in ignored or (not word and not _cells(sheet, position)):
            if not public and _holds_ids(sheet, position):
                raise _unknown(sheet, position)
            continue
        covariate, stated = _named(cell, rules.get(word))
        if covariate is None or (covariate == RESEARCH_ID and word in SOFT_LINK_WORDS and not public):
            raise _unknown(sheet, position)
        if covariate == EXAM_ID and not public:
            raise refused("T16", f"column {position + 1}: a study number", "the order of the examination")
        rule = rules.get(word) or ColumnRule(covariate=covariate)
        unit_position = unit_columns.get(covariate)
        if rule.unit_column is not None:
            unit_position = next(
                (i for i, c in enumerate(header) if plain(c) == plain(rule.unit_column)), None
            )
        columns.append(
            Column(
                position, covariate, _factor(covariate, stated, unit_position), unit_position,
                {plain(key): value for key, value in rule.values.items()},
                None if rule.missing is None else frozenset(_fold(word) for word in rule.missing),
                " ".join(stated),
            )
        )  # fmt: skip
    _check_once(columns, mapping)
    return columns


def _named(cell: str, rule: ColumnRule | None) -> tuple[str | None, list[str]]:
    """The covariate a header names and every unit stated for it."""
    folded = unicodedata.normalize("NFKC", cell)
    bracket = _BRACKET.fullmatch(folded)
    base, units = (bracket[1], [bracket[2]]) if bracket else (folded, [])
    word = plain(base)
    covariate = HEADERS.get(word)
    if covariate is None:
        for name, known in UNITS.items():
            for unit in sorted(known, key=len, reverse=True):
                ending = plain(unit)
                if word.endswith(ending) and HEADERS.get(word.removesuffix(ending)) == name:
                    covariate, units = name, [unit, *units]
                    break
            if covariate:
                break
    if rule is not None:
        if covariate != rule.covariate:
            units = units if rule.covariate in UNITS else []
        covariate = rule.covariate
        if covariate not in (*HEADERS.values(), EXAM_ID):
            names = sorted({*HEADERS.values(), EXAM_ID})
            raise UsageError("a covariate of the clinical mapping", f"one of {', '.join(names)}")
        if rule.unit is not None:
            units = [*units, rule.unit]
    if covariate == "age_years" and any(plain(unit) not in _YEARS for unit in units):
        raise refused("C05", "age_years in another unit", "years")
    return covariate, units if covariate in UNITS else []


def _factor(covariate: str, stated: list[str], unit_position: int | None) -> float | None:
    if covariate not in UNITS:
        return 1.0
    known = UNITS[covariate]
    factors = [known.get(plain_unit(unit)) for unit in stated]
    if None in factors:
        raise refused("C05", f"{covariate}: a unit not in its table", ", ".join(known), "declare the unit")
    if len({*factors}) > 1:
        raise refused(
            "C05", f"{covariate}: two units for one column", "one unit", "correct the header or mapping"
        )
    if factors:
        return factors[0]
    if unit_position is None:
        raise refused(
            "C05",
            f"{covariate}: no unit",
            f"its unit in the header, a unit column or the mapping ({', '.join(known)})",
        )
    return None


def _check_once(columns: list[Column], mapping: TableMapping) -> None:
    names = [column.covariate for column in columns]
    if names.count(RESEARCH_ID) > 1:
        raise refused("T16", "two columns of IDs", "one research ID", "remove the other column at the clinic")
    if RESEARCH_ID not in names:
        raise refused("C06", "no column of research IDs", "a column research_id", "name it in the mapping")
    taken: list[str] = [*names, *mapping.constants]
    if TNM_ALL in taken:
        taken = [name for name in taken if name != TNM_ALL] + [*TNM] + [TNM_ALL] * (taken.count(TNM_ALL) - 1)
    for name in taken:
        if taken.count(name) > 1:
            raise refused(
                "C06", f"{name} in two columns", "each covariate once", "keep one, or name one in `ignore`"
            )
    for name in mapping.constants:
        if name in KEYS or name not in HEADERS.values():
            raise UsageError("a constant of the clinical mapping", "a covariate")


def _cells(sheet: Sheet, position: int) -> list[str]:
    cells = (row[position] for row in sheet.rows[1:] if position < len(row))
    return [cell.strip() for cell in cells if cell.strip()]


def _holds_ids(sheet: Sheet, position: int) -> bool:
    """Whether a column looks like IDs: letters and digits of one kind, nearly all different."""
    cells = [unicodedata.normalize("NFKC", cell) for cell in _cells(sheet, position)]
    like = {cell for cell in cells if _ID_LIKE.fullmatch(cell)}
    return bool(_ID_LIKE.fullmatch(sheet.rows[0][position].strip())) or len(like) >= max(1, 0.9 * len(cells))


def _unknown(sheet: Sheet, position: int) -> UsageError:
    header, cells = sheet.rows[0][position], _cells(sheet, position)
    where = f"column {position + 1}"
    ids = [
        other
        for other, cell in enumerate(sheet.rows[0])
        if _named(cell, None)[0] == RESEARCH_ID or _holds_ids(sheet, other)
    ]
    if plain(header) in SOFT_LINK_WORDS or (position in ids and len(ids) > 1):
        return refused(
            "T16", f"{where}: a second kind of ID", "research IDs only, never a link to persons",
            "delete the table here: a link table stays at the clinic",
        )  # fmt: skip
    if position in ids:
        return refused(
            "C06", f"{where}: IDs under an unknown header", "research_id", "name it in the mapping"
        )
    dates = sum(is_date(cell) for cell in cells)
    if names_a_date(header) or (cells and 2 * dates >= len(cells)):
        return refused(
            "C03", f"{where}: dates", "no dates", "remove the column, or name it in `ignore` of the mapping"
        )
    return refused(
        "C09", f"{where}: a column nobody declared", "the columns of the vocabulary",
        "map it to a covariate, or name it in `ignore` of the mapping",
    )  # fmt: skip


def _fold(text: str) -> str:
    steps = (lambda t: unicodedata.normalize("NFKC", t), str.strip, str.casefold)
    return reduce(lambda out, step: step(out), steps, text)
