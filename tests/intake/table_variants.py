"""Valid clinical tables in the spellings, encodings and formats of clinics: none may be refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import openpyxl

FULL_WIDTH = str.maketrans(
    {chr(n): chr(n + 0xFEE0) for n in range(0x21, 0x7F) if chr(n) not in ',"'} | {" ": "\u3000"}
)


@dataclass(frozen=True)
class Variant:
    """One valid table of two persons.

    Attributes:
        name: What is special about it.
        suffix: Of the file.
        data: The file.
        expected: Covariates of the first person.
        options: How it is read.
    """

    name: str
    suffix: str
    data: bytes
    expected: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


CELLS: dict[str, list[tuple[str, Any]]] = {
    "age": [("63", 63), ("63歳", 63), ("63 years", 63), ("90+", 90), ("90歳以上", 90), ("104", 90), (">89", 90), ("0", 0), ("", None)],
    "sex": [("男", "male"), ("女性", "female"), ("M", "male"), ("f", "female"), ("Male", "male"), ("不明", None)],
    "stage": [("Ⅲ", "III"), ("3b", "III"), ("Stage IVA", "IV"), ("病期II", "II"), ("ステージ1", "I"), ("Ⅳ期", "IV"), ("IA2", "I"), ("二期", "II")],
    "treatment": [("なし", "none"), ("ADT", "hormone"), ("手術＋放射線", "combined"), ("Chemotherapy", "chemotherapy"), ("照射", "radiotherapy")],
    "primary": [("前立腺癌", "prostate"), ("子宮頸がん", "cervix"), ("Breast cancer", "breast"), ("C61", "prostate"), ("多発性骨髄腫", "myeloma")],
    "recurrence": [("あり", True), ("無", False), ("0", False), ("Yes", True), ("+", True)][:4],
    "comorbidity": [("有", True), ("なし", False), ("1", True), ("no", False)],
    "PSA (ng/mL)": [("4.2", 4.2), ("4.20", 4.2), (" 4.2 ", 4.2), ("1023.5", 1023.5), ("0.09", 0.09), ("4.2 ng/mL", 4.2), ("未検査", None), ("-", None), ("N/A", None)],
    "TNM": [("pT2aN0M0", "pT2a"), ("T3b N1 M1b", "T3b"), ("cT3cN0cM0", "cT3"), ("TisN0", "Tis"), ("ypT0, ypN0, M0", "ypT0"), ("T2cN0M0", "T2c")],
}  # fmt: skip
"""Column → cells and what they mean."""
NAME = {
    "age": "age_years", "PSA (ng/mL)": "psa_ng_ml", "TNM": "t_stage",
}  # fmt: skip
BELOW = ("<0.1", "＜０．１", "< 0.1", "0.1未満", "≦0.1", "0.1以下", "<0.1 ng/mL")
UNKNOWN = (
    "",
    " ",
    "-",
    "－",
    "ー",
    "―",
    "不明",
    "未検査",
    "NaN",
    "NA",
    "N/A",
    "n/a",
    "未測定",
    "unknown",
    "#N/A",
)
HEADERS: list[tuple[str, str, str, Any]] = [
    ("psa_ng_ml", "4.2", "psa_ng_ml", 4.2), ("PSA（ng/mL）", "4.2", "psa_ng_ml", 4.2), ("PSA [μg/L]", "4.2", "psa_ng_ml", 4.2),
    ("hb_g_l", "131", "hemoglobin_g_dl", 13.1), ("ヘモグロビン(g/dL)", "13.1", "hemoglobin_g_dl", 13.1),
    ("ALP (U/L JSCC)", "300", "alp_u_l", 105), ("crp_mg_l", "5", "crp_mg_dl", 0.5), ("ca_mmol_l", "2.4", "calcium_mg_dl", 9.61872),
    ("クレアチニン（µmol/L）", "88.42", "creatinine_mg_dl", 1.0), ("LDH (IU/L)", "200", "ldh_u_l", 200), ("年齢（歳）", "63", "age_years", 63),
    ("Stage (UICC)", "II", "stage", "II"), ("prostate_volume_ml", "40", "prostate_volume_ml", 40), ("性別", "男", "sex", "male"),
    ("原発巣", "前立腺", "primary", "prostate"), ("病期", "Ⅳ", "stage", "IV"), ("再発", "なし", "recurrence", False), ("治療歴", "手術", "treatment", "surgery"),
]  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "cp932", "euc_jp", "iso2022_jp", "utf-16")
FORMATS = ((".csv", ",", "\n"), (".csv", ",", "\r\n"), (".tsv", "\t", "\n"), (".tsv", "\t", "\r\n"))


def encoded(rows: list[list[str]], encoding: str, separator: str, end: str) -> bytes | None:
    """The table; None where the encoding lacks one of its signs."""
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in rows]
    text = end.join(separator.join(row) for row in quoted) + end
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:
        return None
    return data if data.decode(encoding) == text else None


def book(rows: list[list[str]]) -> bytes:
    work = openpyxl.Workbook()
    for row in rows:
        work.active.append(row)
    work.create_sheet("empty")
    stream = io.BytesIO()
    work.save(stream)
    return stream.getvalue()


def _rows(header: str, cell: str) -> list[list[str]]:
    """Japanese words beside the cell, so that an encoding can be told."""
    return [["研究用ID", "検査順", header], ["PX-00001", "1", cell], ["PX-00002", "1", ""]]


def _spelled() -> Iterator[Variant]:
    turn = cycle((encoding, *how) for encoding in ENCODINGS for how in FORMATS)
    entries = [
        (column, cell, NAME.get(column, column), value)
        for column, cells in CELLS.items()
        for cell, value in cells
    ]
    entries += [(*entry[:2], entry[2], entry[3]) for entry in HEADERS]
    entries += [("PSA (ng/mL)", cell, "psa_ng_ml", 0.1) for cell in BELOW]
    entries += [("PSA (ng/mL)", cell, "psa_ng_ml", None) for cell in UNKNOWN]
    wide = [
        (c, cell.translate(FULL_WIDTH), n, v)
        for c, cell, n, v in entries
        if cell.isascii() and cell.strip() and "#" not in cell and c != "TNM"
    ]
    for number, (column, cell, name, value) in enumerate([*entries, *wide]):
        for _ in range(24):  # the next encoding that has all its signs
            encoding, suffix, separator, end = next(turn)
            data = encoded(_rows(column, cell), encoding, separator, end)
            if data is not None:
                break
        assert data is not None
        ending = "CR LF" if end == "\r\n" else "LF"
        yield Variant(
            f"{number}: {cell!r} under {column!r}, {encoding}{suffix}, {ending}", suffix, data, {name: value}
        )


CLINIC = [
    ["研究用ID", "検査順", "年齢", "性別", "併存疾患", "治療歴", "原発巣", "病期", "TNM分類", "再発", "PSA", "ALP", "LDH", "Hb", "CRP", "Ca", "Cre"],
    ["PX-00001", "1", "６３", "1", "あり", "ホルモン療法", "前立腺", "IV", "cT3bN1M1b", "なし", "＜0.1", "120", "180", "13.1", "0.05", "9.2", "0.81"],
    ["PX-00002", "1", "71歳", "2", "なし", "手術＋化学療法", "子宮頸癌", "2B", "pT2b N0 M0", "あり", "不明", "95", "未検査", "11.8", "-", "9.0", "0.62"],
]  # fmt: skip
CLINIC_ROW = {
    "age_years": 63, "sex": "male", "comorbidity": True, "treatment": "hormone", "primary": "prostate", "stage": "IV", "recurrence": False,
    "psa_ng_ml": 0.1, "alp_u_l": 120, "ldh_u_l": 180, "hemoglobin_g_dl": 13.1, "t_stage": "cT3b", "n_stage": "N1", "m_stage": "M1b",
}  # fmt: skip


def _whole() -> Iterator[Variant]:
    options = {"mapping": "clinic_ja"}
    for encoding in ENCODINGS:
        for suffix, separator, end in FORMATS:
            data = encoded(CLINIC, encoding, separator, end)
            assert data is not None
            yield Variant(f"a whole table, {encoding}{suffix}, {end!r}", suffix, data, CLINIC_ROW, options)
    yield Variant("a whole workbook", ".xlsx", book(CLINIC), CLINIC_ROW, options)
    for order in ([0, 1, 4, 3, 2, *range(5, 17)], [*range(16, -1, -1)]):
        rows = [[row[n] for n in order] for row in CLINIC]
        yield Variant(f"columns in another order, {order[0]} first", ".xlsx", book(rows), CLINIC_ROW, options)
    blank = [CLINIC[0], ["" for _ in CLINIC[0]], *CLINIC[1:], ["" for _ in CLINIC[0]]]
    yield Variant("blank lines", ".xlsx", book(blank), CLINIC_ROW, options)
    yield Variant("the same row twice", ".xlsx", book([*CLINIC, CLINIC[1]]), CLINIC_ROW, options)
    shuffled = [CLINIC[0], CLINIC[2], CLINIC[1]]
    yield Variant("rows in another order", ".xlsx", book(shuffled), CLINIC_ROW, options)


def variants() -> list[Variant]:
    """Every one of them."""
    return [*_spelled(), *_whole()]
