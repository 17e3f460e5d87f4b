"""One cell of a clinical table → a typed value. One strict parser per kind; what it does not know is refused."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

from diffusion_adc.domain.clinical import LABORATORY, TNM
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.intake.clinical_cells import LONGEST, fold, formula, identifies, is_date
from diffusion_adc.intake.clinical_columns import Column
from diffusion_adc.intake.clinical_words import (
    BELOW_WITHOUT_VALUE,
    DOUBTFUL_MISSING,
    MISSING,
    PRIMARY,
    PRIMARY_ENDINGS,
    SEX,
    SUSPECT_NUMBERS,
    TNM_ALL,
    TREATMENT,
    UNITS,
    YES_NO,
    plain,
    plain_unit,
)  # fmt: skip

BELOW: Final = "below_detection"
_LOSSY: Final = ("<super>", "<sub>", "<circle>", "<fraction>")
"""Forms that folding would turn into other numbers: 5² → 52."""
_NUMBER: Final = r"[+-]?(?:[0-9]{1,7}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})"
_BELOW: Final = re.compile(rf"(?:(?:<=|=<|<|≤)\s*({_NUMBER})|({_NUMBER})\s*(?:未満|以下))\s*(.*)", re.ASCII)
_VALUE: Final = re.compile(rf"({_NUMBER})\s*(.*)", re.ASCII)
_AGE: Final = re.compile(rf"({_NUMBER})\s*(?:歳|才|years? old|years?|yrs?|y/?o?)?", re.ASCII | re.IGNORECASE)
_OLDEST: Final = re.compile(r"(?:90\s*\+|90\s*歳?\s*以上|(?:>=|≥)\s*90|>\s*89|89\s*\+)\s*歳?", re.ASCII)
_SHORT_AGE: Final = re.compile(
    r"[0-9].*(?:[ヶか月カヵケ]月|months?|mos?|m|weeks?|w|days?|d|日|週)$", re.IGNORECASE
)
_STAGE: Final = re.compile(r"(IV|III|II|I|[1-4一二三四])(?:[A-E][0-9]?)?", re.IGNORECASE)
_STAGES: Final = {
    **dict(zip("1234一二三四", ("I", "II", "III", "IV") * 2, strict=True)),
    "I": "I", "II": "II", "III": "III", "IV": "IV",
}  # fmt: skip


def _whole(subdivision: str) -> re.Pattern[str]:
    part = r"[cpyra]{0,2}%s(?:x|0|is|a|[0-4])" + subdivision + r"?[1-3]?"
    text = "".join(f"(?P<{name}>{part % letter})?" for name, letter in zip(TNM, "tnm", strict=True))
    return re.compile(text, re.IGNORECASE | re.ASCII)


# "T2cN0": is c the subdivision of T2 or the basis of N0? Both readings are tried.
_TNM_SUBDIVIDED: Final = _whole(r"(?:mi|[a-d])")
_TNM_BASED: Final = _whole(r"(?:mi|[abd]|c(?![nm]))")
_CATEGORIES: Final = {"sex": (SEX, "C07"), "treatment": (TREATMENT, "C09"), "primary": (PRIMARY, "C09")}


def read_cell(column: Column, cell: str, unit: str | None = None) -> dict[str, Any]:
    """The covariates one cell gives; none where it says "unknown".

    Args:
        column: The column's covariate, unit, words and "unknown" cells.
        cell: As it stands in the table.
        unit: The row's own unit, where the column has a unit column.

    Returns:
        Field of `Covariates` → value; ``below_detection`` → the field, for a laboratory value given as a limit.

    Raises:
        CaseError: X9 a formula; C02 a number of another form; C03 a date; C04 an impossible age; C05 units; C07 sex;
            C08 stage or TNM; C09 free text; C10 an undeclared "unknown". Never with the cell's content.
    """
    name = column.covariate
    if formula(cell):
        raise CaseError(f"{name}: a formula", "a value", "enter the value itself", code="X9")
    text = fold(cell)
    if len(text) > LONGEST or any(unicodedata.category(c)[0] == "C" for c in text):
        raise _free_text(name)
    declared = column.values.get(plain(text))
    if declared is None and any(unicodedata.decomposition(c).startswith(_LOSSY) for c in cell):
        raise CaseError(
            f"{name}: a raised, circled or broken figure", "plain digits", "correct it", code="C02"
        )
    text = text if declared is None else fold(declared)
    folded = text.casefold()
    if column.missing is not None and folded in column.missing:
        return {}
    boolean = name in ("comorbidity", "recurrence")
    if boolean and folded in ("-", "+", "±"):
        raise _undeclared(name)
    if folded in MISSING:
        return {}
    if is_date(text):
        raise CaseError(f"{name}: a date", "no dates", "remove it, or give a duration", code="C03")
    if identifies(text):
        raise _free_text(name)
    if folded in DOUBTFUL_MISSING:
        raise _undeclared(name)
    if name in UNITS or name in ("age_years", "isup_grade"):
        if (
            column.missing is None
            and folded in SUSPECT_NUMBERS
            and not (name == "age_years" and folded[0] == "-")
        ):
            raise _undeclared(name)
        return _age(text) if name == "age_years" else _quantity(column, text, unit)
    if boolean:
        return {name: _word(name, text, YES_NO, "C09") == "true"}
    if name in _CATEGORIES:
        words, code = _CATEGORIES[name]
        return {name: _treatment(text) if name == "treatment" else _word(name, text, words, code)}
    if name == "stage":
        return {name: _stage(text)}
    return _tnm(name, text)


def _free_text(name: str) -> CaseError:
    return CaseError(
        f"{name}: free text, or something that identifies", "a value of its vocabulary",
        "correct it at the clinic, or declare its words in `values` of the mapping", code="C09",
    )  # fmt: skip


def _undeclared(name: str) -> CaseError:
    return CaseError(
        f"{name}: a cell that may mean unknown", "a value, or a declared sign for unknown",
        "declare it in `missing` of the mapping", code="C10",
    )  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # more digits than any laboratory gives would only carry something else


def _age(text: str) -> dict[str, Any]:
    if _OLDEST.fullmatch(text):
        return {"age_years": 90.0}
    match = _AGE.fullmatch(text)
    if match is None:
        if _SHORT_AGE.search(text):
            raise CaseError("age_years: months or days", "whole years", "give years", code="C04")
        raise _no_number("age_years", text)
    return {"age_years": _rounded(float(match[1]))}


def _no_number(name: str, text: str) -> CaseError:
    if any(character.isdigit() for character in text) and len(text) <= 24 and not _words(text):
        return CaseError(
            f"{name}: a number of another form", "digits and one point", "correct it", code="C02"
        )
    return _free_text(name)


def _words(text: str) -> bool:
    """Whether the cell holds more letters than a mark beside a number needs."""
    return sum(character.isalpha() for character in text) > 3


def _quantity(column: Column, text: str, unit: str | None) -> dict[str, Any]:
    name = column.covariate
    below = _BELOW.fullmatch(text)
    match = below or _VALUE.fullmatch(text)
    if match is None:
        if plain(text) in BELOW_WITHOUT_VALUE:
            raise CaseError(
                f"{name}: below detection without the limit",
                "<0.1",
                "declare it in `values` of the mapping",
                code="C02",
            )
        raise _no_number(name, text)
    number, rest = (below[1] or below[2], below[3]) if below else (match[1], match[2])
    factor = column.factor
    known = UNITS.get(name, {})
    if factor is None:
        factor = known.get(plain_unit(unit or ""))
        if factor is None:
            raise CaseError(
                f"{name}: no unit, or an unknown one", ", ".join(known), "give the unit", code="C05"
            )
    if rest:
        written = known.get(plain_unit(rest))
        if written is None and not any(plain_unit(rest) in units for units in UNITS.values()):
            raise _no_number(name, text)
        if written != factor:
            raise CaseError(f"{name}: another unit than its column's", "one unit", "convert it", code="C05")
    if below and name not in LABORATORY:
        raise CaseError(f"{name}: a limit", "a value", "give the value", code="C02")
    value = _rounded(float(number) * factor)
    return {name: value, BELOW: name} if below else {name: value}


def _word(name: str, text: str, words: dict[str, str], code: str) -> str:
    word = plain(text)
    if name == "primary":
        # One ending at a time: 前立腺癌 is 前立腺 with 癌, not 前立 with 腺癌.
        word = next((w for end in PRIMARY_ENDINGS if (w := word.removesuffix(plain(end))) in words), word)
        word = re.sub(r"^(c\d\d)\d$", r"\1", word)  # ICD-10 with its fourth character
    if word in words:
        return words[word]
    expected = ", ".join(sorted({*words.values()}))
    if code == "C09":
        raise _free_text(name)
    raise CaseError(f"{name}: an unknown word", expected, "declare it in `values` of the mapping", code=code)


def _treatment(text: str) -> str:
    if plain(text) in TREATMENT:
        return TREATMENT[plain(text)]
    parts = [part for part in re.split(r"[+/,、,・&;]|\band\b", text) if part.strip()]
    found = {_word("treatment", part, TREATMENT, "C09") for part in parts}
    if "none" in found and len(found) > 1:
        raise CaseError("treatment: none and a treatment", "one of the two", "correct it", code="C06")
    return found.pop() if len(found) == 1 else "combined"


def _stage(text: str) -> str:
    word = re.sub(
        r"^(?:clinical |pathological )?(?:stage|ステージ|病期|第)|期$|[\s:.-]", "", text, flags=re.IGNORECASE
    )
    match = _STAGE.fullmatch(word)
    if match is None:
        raise CaseError("stage: an unknown stage", "I, II, III or IV", "declare it in `values`", code="C08")
    return _STAGES[match[1].upper()]


def _tnm(name: str, text: str) -> dict[str, Any]:
    parts: dict[str, str] = {}
    for token in re.split(r"[\s,;/:]+", text):
        found = _categories(token)
        if not found and name in TNM:  # a column of its own may leave the letter out: "2a" under T
            found = {name: _category(f"{name[0]}{token}")}
        if not found or found.keys() & parts.keys():
            raise _no_tnm(name)
        parts |= found
    if (name != TNM_ALL and [*parts] != [name]) or any(not TNM[k].fullmatch(v) for k, v in parts.items()):
        raise _no_tnm(name)
    return dict(parts)


def _no_tnm(name: str) -> CaseError:
    return CaseError(
        f"{name}: an unknown category, or one that can be read in two ways", "TNM such as pT2a N0 M0",
        "separate T, N and M by spaces", code="C08",
    )  # fmt: skip


def _categories(token: str) -> dict[str, str]:
    """T, N and M of one unbroken text; empty where it cannot be read in one way."""
    readings = []
    for pattern in (_TNM_SUBDIVIDED, _TNM_BASED):
        match = pattern.fullmatch(token)
        found = {key: _category(value) for key, value in match.groupdict().items() if value} if match else {}
        if found and found not in readings:
            readings.append(found)
    if len(readings) < 2:
        return readings[0] if readings else {}
    subdivided, based = readings
    if all(value[0] in "cpyra" for value in based.values()):
        return based  # cT3cN0cM0: every part names its basis
    if subdivided.get("n_stage", "")[-1:] == "c" and any(v[0] in "py" for v in subdivided.values()):
        return {}  # pT3N1cM0: N1c, or M0 by clinical means?
    return subdivided


def _category(text: str) -> str:
    """``PT2A`` → ``pT2a``: the basis small, the letter large, the subdivision small but X."""
    match = re.fullmatch(r"([cpyra]{0,2})([tnm])(.*)", text.strip(), re.IGNORECASE)
    if match is None:
        return ""
    rest = match[3].strip().lower()
    return match[1].lower() + match[2].upper() + ("X" if rest == "x" else rest)
