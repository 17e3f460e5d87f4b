"""Bad clinical tables by their code."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable
from typing import Any

import openpyxl

HEADER = "research_id,age,sex,stage,PSA (ng/mL),primary"
GOOD = "PX-00001,63,M,III,4.2,prostate"


def row(**changed: str) -> str:
    cells = dict(zip(("id", "age", "sex", "stage", "psa", "primary"), GOOD.split(","), strict=True)) | changed
    return ",".join(cells.values())


def table(*rows: str, header: str = HEADER) -> bytes:
    return "\n".join((header, *rows, "")).encode()


def column(header: str, *cells: str) -> bytes:
    return table(
        *(f"{row(id=f'PX-0000{n}')},{cell}" for n, cell in enumerate(cells, 1)), header=f"{HEADER},{header}"
    )


def book(change: Callable[[Any], None], rows: tuple[str, ...] = (GOOD,)) -> bytes:
    work = openpyxl.Workbook()
    sheet = work.active
    for line in (HEADER, *rows):
        sheet.append(line.split(","))
    change(work)
    stream = io.BytesIO()
    work.save(stream)
    return stream.getvalue()


def cell(place: str, value: Any) -> Callable[[Any], None]:
    def change(work: Any) -> None:
        work.active[place] = value

    return change


def hidden_sheet(state: str) -> Callable[[Any], None]:
    def change(work: Any) -> None:
        sheet = work.create_sheet("more")
        sheet["A1"] = "x"
        sheet.sheet_state = state

    return change


def hide(kind: str, key: Any) -> Callable[[Any], None]:
    def change(work: Any) -> None:
        getattr(work.active, f"{kind}_dimensions")[key].hidden = True

    return change


JA = "研究用ID,年齢,性別,原発巣\nPX-00001,63,男,前立腺\n"
TABLES: dict[str, tuple[str, bytes]] = {
    "C01 two encodings": ("C01", JA.encode() + "PX-00002,64,女,肺\n".encode("cp932")),
    "C01 cut UTF-8": ("C01", "研究用ID,年齢,病".encode()[:-1] + b"\nPX-00001,63,III\n"),
    "C01 zero bytes": ("C01", JA.encode("utf-16-le")),
    "C01 words of no table": ("C01", "たまご,ごはん\nPX-00001,63\n".encode("cp932")),
    "C01 Latin-1": ("C01", "research_id,âge,séxe\nPX-00001,63,M\n".encode("latin-1")),
    "C02 comma in a number": ("C02", table(row(psa='"1,234"'))),
    "C02 exponent": ("C02", table(row(psa="1E5"))),
    "C02 above the range": ("C02", table(row(psa=">1000"))),
    "C02 below without limit": ("C02", table(row(psa="検出限界以下"))),
    "C02 flag beside it": ("C02", table(row(psa="12.3H"))),
    "C02 raised digit": ("C02", table(row(psa="5²"))),
    "C02 Arabic digits": ("C02", table(row(psa="٦٣"))),
    "C03 birth-free date column": ("C03", column("mri_date", "2019-07-02")),
    "C03 Japanese date column": ("C03", column("検査日", "令和元年5月1日")),
    "C03 unnamed date column": ("C03", column("when", "2019/07/02", "2020/01/31")),
    "C03 date in a cell": ("C03", table(row(stage="2019-07-02"))),
    "C03 era in a cell": ("C03", table(row(age="昭和31年"))),
    "C03 short era": ("C03", table(row(age="S31.4.29"))),
    "C04 negative age": ("C04", table(row(age="-5"))),
    "C04 age over 120": ("C04", table(row(age="163"))),
    "C04 months": ("C04", table(row(age="18ヶ月"))),
    "C04 years and months": ("C04", table(row(age="63歳6ヶ月"))),
    "C05 no unit": ("C05", table(GOOD, header=HEADER.replace(" (ng/mL)", ""))),
    "C05 unknown unit": ("C05", table(GOOD, header=HEADER.replace("ng/mL", "mol/L"))),
    "C05 two units": ("C05", column("hb_g_l (g/dL)", "130")),
    "C05 another unit in the cell": ("C05", column("Hb (g/dL)", "130 g/L")),
    "C05 a unit of another covariate": ("C05", table(row(psa="4.2 mg/dL"))),
    "C05 unit column empty": ("C05", column("Hb,Hb単位", "13,")),
    "C05 out of range": ("C05", column("Hb (g/dL)", "130")),
    "C06 NA": ("C06", table(row(id="NA"))),
    "C06 exponent": ("C06", table(row(id="1E5"))),
    "C06 bare number": ("C06", table(row(id="00123"))),
    "C06 conflicting": ("C06", table(GOOD, row(age="64"))),
    "C06 no ID": ("C06", table("63,M", header="age,sex")),
    "C06 covariate twice": ("C06", column("年齢", "63")),
    "C06 IDs under another header": ("C06", table("PX-00001,63", "PX-00002,64", header="症例番号,age")),
    "C06 full-width ID": ("C06", table(row(id="ＰＸ-00001"))),
    "C07 undeclared code": ("C07", table(row(sex="1"))),
    "C07 other code": ("C07", table(row(sex="3"))),
    "C07 unknown word": ("C07", table(row(sex="U"))),
    "C08 stage V": ("C08", table(row(stage="V"))),
    "C08 stage D2": ("C08", table(row(stage="D2"))),
    "C08 TNM T5": ("C08", column("TNM", "T5N0M0")),
    "C08 TNM in two readings": ("C08", column("TNM", "pT3N1cM0")),
    "C09 free text": ("C09", table(row(primary="前立腺癌の疑いで紹介"))),
    "C09 unknown column": ("C09", column("remarks", "none")),
    "C09 a name": ("C09", table(row(sex="山田様"))),
    "C09 a chart number": ("C09", table(row(psa="1234567"))),
    "C09 words for a number": ("C09", table(row(age="about sixty"))),
    "C09 a comma too many": ("C09", table(f"{GOOD},and more")),
    "C10 999": ("C10", table(row(age="999"))),
    "C10 -9": ("C10", table(row(psa="-9"))),
    "C10 undeclared word": ("C10", table(row(psa="測定不能"))),
    "C10 a dash that may be a no": ("C10", column("再発", "-")),
    "X9 formula": ("X9", table(row(psa="=1+1"))),
    "X9 full-width": ("X9", table(row(sex="＝HYPERLINK(1)"))),
    "X9 header": ("X9", column("@SUM(A1)", "1")),
    "T16 name": ("T16", column("氏名", "山田太郎")),
    "T16 chart": ("T16", column("カルテ番号", "12345678")),
    "T16 two IDs": ("T16", column("code", "A1234567")),
}  # fmt: skip
BOOKS: dict[str, tuple[str, bytes]] = {
    "C03 date cell": ("C03", book(cell("D2", dt.datetime(2019, 7, 2)))),
    "C06 number as ID": ("C06", book(cell("A2", 123))),
    "C11 merged": ("C11", book(lambda work: work.active.merge_cells("B2:C2"))),
    "C11 formula": ("C11", book(cell("B2", "=60+3"))),
    "C11 error value": ("C11", book(cell("B2", "#N/A"))),
    "C11 hidden sheet": ("C11", book(hidden_sheet("hidden"))),
    "C11 very hidden sheet": ("C11", book(hidden_sheet("veryHidden"))),
    "C11 hidden column": ("C11", book(hide("column", "C"))),
    "C11 hidden row": ("C11", book(hide("row", 2))),
    "T16 second sheet": ("T16", book(lambda work: work.create_sheet("対応").append(["研究ID", "患者ID"]))),
    "X9 text": ("X9", book(lambda work: None, (row(sex="@SUM(A1)"),))),
}
ALL = [(name, ".csv", *what) for name, what in TABLES.items()] + [
    (name, ".xlsx", *what) for name, what in BOOKS.items()
]
