"""Figures of the clinical table: planted identifiers, rare combinations, link tables, formulas, encodings."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.clinical import ClinicalOptions, ClinicalTable, read_table
from diffusion_adc.intake.clinical_words import HEADERS
from diffusion_adc.records.atomic import write_csv
from diffusion_adc.records.cohort import write_manifest

pytestmark = pytest.mark.security
Figure = Callable[[str, object], None]

COLUMNS = (
    "research_id", "年齢", "性別", "併存疾患", "治療歴", "原発巣", "病期", "TNM分類", "再発", "PSA (ng/mL)", "ALP (U/L IFCC)",
    "LDH (U/L)", "Hb (g/dL)", "CRP (mg/dL)",
)  # fmt: skip


def clean_row(rng: random.Random, number: int) -> list[str]:
    """A row as clinics write them, in words chosen by hand."""
    psa = rng.choice(
        [
            f"{rng.lognormvariate(2, 1.5):.2f}",
            f"{rng.randint(1, 900)}.{rng.randint(0, 9)}",
            "<0.1",
            "＜０．０１",
            "0.1未満",
        ]
    )
    rare = ["", "-", "不明", "未検査", "NaN", "N/A", "－"]
    cells = [
        f"PX-{number:05d}",
        rng.choice([f"{rng.randint(20, 104)}", f"{rng.randint(30, 89)}歳", "６７", "90+"]),
        rng.choice(["男", "女", "M", "F", "男性", "女性", "male"]),
        rng.choice(["あり", "なし", "有", "無", "yes", "no", "1", "0"]),
        rng.choice(["なし", "ホルモン療法", "化学療法", "放射線治療", "手術", "手術＋放射線", "ADT", "RT", "surgery, chemotherapy"]),
        rng.choice(["前立腺", "前立腺癌", "子宮頸癌", "子宮体がん", "卵巣癌", "膀胱", "直腸癌", "乳癌", "肺癌", "悪性リンパ腫", "Prostate cancer", "C61"]),
        rng.choice(["I", "Ⅱ", "III", "Ⅳ", "IIIb", "3", "IVA", "Stage II", "ステージⅢ", "1期"]),
        rng.choice(["cT2aN0M0", "pT3b N1 M0", "T1cN0M0", "T4N1M1b", "ＴｘＮｘＭ０", "ypT2N0", "TisN0M0", "T3a, N0, M0"]),
        rng.choice(["あり", "なし", "有り", "無し", "+1"[1:], "0"]),
        psa,
        str(rng.randint(30, 800)), str(rng.randint(100, 900)), f"{rng.uniform(6, 18):.1f}",
        rng.choice([f"{rng.uniform(0, 20):.2f}", "<0.02", "0"]),
    ]  # fmt: skip
    for place in range(1, len(cells)):
        if rng.random() < 0.1 and place not in (3, 8):
            cells[place] = rng.choice(rare)
    return cells


def save(path: Path, rows: list[list[str]], header: tuple[str, ...] | list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([list(header), *rows])
    return path


SURNAMES = ("佐藤", "鈴木", "高橋", "田中", "伊藤", "渡辺", "山本", "中村", "小林", "加藤")
GIVEN = ("太郎", "花子", "健一", "美咲", "一郎", "幸子")


def planted(rng: random.Random) -> str:
    """Something that must not pass: a name, a number, a place, a date, a sentence, or one behind a clean value."""
    name = rng.choice(SURNAMES) + rng.choice(["", " ", "\u3000"]) + rng.choice(GIVEN)
    digits = "".join(rng.choice("0123456789") for _ in range(8))
    date = f"{rng.randint(1930, 2023)}", f"{rng.randint(1, 12)}", f"{rng.randint(1, 28)}"
    era = rng.choice(["昭和", "平成", "令和", "S", "H", "R"])
    one = rng.choice(
        [
            name, f"{name}様", f"{rng.choice(SURNAMES)}さん", "サトウ ハナコ", "さとう はなこ", "SATO HANAKO", "Tanaka, Ichiro",
            f"03-{digits[:4]}-{digits[4:]}", f"090{digits}", f"+81 90 {digits[:4]} {digits[4:]}", f"〒{digits[:3]}-{digits[3:7]}",
            f"1{digits[:6]}", f"1{digits[:7]}", f"No.{digits}", f"ID{digits[:6]}", f"{digits[:4]}@example.jp", "東京都港区1-2-3",
            "-".join(date), "/".join(date), f"{date[0]}年{date[1]}月{date[2]}日", f"{era}{int(date[2])}.{date[1]}.{date[2]}",
            f"{date[0]}{int(date[1]):02d}{int(date[2]):02d}", f"{date[2]}.{date[1]}.{date[0]}", f"May {date[2]}, {date[0]}",
            "骨転移の疑いで当院紹介", "referred by Dr. Mori", "東病院より転院", "妻に説明済み", "see chart", "聖路加病院",
        ]
    )  # fmt: skip
    return rng.choice(["", "", "", "63 ", "III ", "<0.1 ", "前立腺癌 ", "cT2aN0M0 "]) + one


def test_t9_no_planted_cell_passes(tmp_path: Path, figure: Figure) -> None:
    rng = random.Random(9)
    rows, cells = [], []
    for number in range(500):
        row = clean_row(rng, number)
        cells.append(planted(rng))
        row[number % len(COLUMNS)] = cells[-1]
        rows.append(row)
    table = read_table(save(tmp_path / "planted.csv", rows))
    passed = len(table.exams)
    messages = "\n".join(table.refused)
    leaks = sum(cell in messages for cell in cells)
    figure("T9 planted cells", f"{passed} of 500 pass, {leaks} in messages")
    assert passed == 0
    assert len(table.refused) == 500
    assert leaks == 0
    assert all(re.match(r"(C0[2-9]|C10|X9)\b", message) for message in table.refused)


def test_t9_clean_cells_pass(tmp_path: Path, figure: Figure) -> None:
    rng = random.Random(2000)
    table = read_table(save(tmp_path / "clean.csv", [clean_row(rng, number) for number in range(2000)]))
    figure("T9 clean rows refused", f"{len(table.refused)} of 2000 rows ({2000 * (len(COLUMNS) - 1)} cells)")
    assert len(table.refused) == 0, table.refused[:5]
    assert len(table.covariates) == 2000


def test_t15_every_unique_row_is_listed(tmp_path: Path, figure: Figure) -> None:
    groups = [
        (65, "前立腺", "II", 9),
        (70, "前立腺", "IV", 5),
        (58, "乳", "I", 6),
        (71, "肺", "III", 4),
        (66, "直腸", "II", 2),
    ]
    rows = [[str(a), p, s] for a, p, s, size in groups for _ in range(size)]
    alone = [["33", "卵巣", "IV"], ["65", "前立腺", "III"], ["66", "前立腺", "II"], ["91", "前立腺", "II"], ["65", "肺", "II"],
             ["", "骨髄腫", ""], ["65", "前立腺", ""]]  # fmt: skip
    rows = [[f"PX-{n:05d}", *row] for n, row in enumerate(rows + alone)]
    random.Random(15).shuffle(rows)
    table = read_table(save(tmp_path / "t.csv", rows, ["research_id", "age", "primary", "stage"]))
    wanted = sorted(f"PX-{n:05d}" for n in range(26, 33))
    figure("T15 unique rows listed", f"{len(set(wanted) & set(table.unique_rows))} of {len(wanted)}")
    assert table.unique_rows == wanted
    assert [row.size for row in table.rare_rows] == [1] * 7 + [2] * 2 + [4] * 4
    assert any(text.startswith("T15: 13 persons share") for text in table.warnings)


PX = [f"PX-{n:05d}" for n in range(12)]
CHART = [str(20417330 + 977 * n) for n in range(12)]
NAMES = [f"{SURNAMES[n % 10]}{GIVEN[n % 6]}" for n in range(12)]
LINKS: dict[str, list[list[str]]] = {
    **{
        word: [["research_id", word], *([a, b] for a, b in zip(PX, NAMES, strict=True))]
        for word in ("氏名", "患者氏名", "患　者　名", "フリガナ", "ﾌﾘｶﾞﾅ", "Patient Name", "last_name", "イニシャル")
    },
    **{
        word: [["研究ID", word, "年齢"], *([a, b, "63"] for a, b in zip(PX, CHART, strict=True))]
        for word in ("患者ID", "カルテ番号", "カルテNo.", "診察券番号", "MRN", "Chart No", "patient_id", "検査番号", "code")
    },
    "birth date": [["research_id", "生年月日"], *([a, "1955-02-03"] for a in PX)],
    "DOB": [["research_id", "age", "DOB"], *([a, "63", "1955/2/3"] for a in PX)],
    "no header": [[a, b] for a, b in zip(PX, CHART, strict=True)],
    "title above": [["研究対象者 対応表", ""], ["research_id", "no"], *([a, b] for a, b in zip(PX, CHART, strict=True))],
    "two research IDs": [["research_id", "研究ID"], *([a, f"QX-{n:05d}"] for n, a in enumerate(PX))],
}  # fmt: skip


def test_t16_link_tables_are_refused_before_anything_is_written(tmp_path: Path, figure: Figure) -> None:
    refused = 0
    for number, rows in enumerate(LINKS.values()):
        if number % 4 == 3:
            path = tmp_path / f"t{number}.xlsx"
            book = openpyxl.Workbook()
            for row in rows:
                book.active.append(row)
            book.save(path)
        else:
            path = save(tmp_path / f"t{number}.csv", rows[1:], rows[0])
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UsageError) as caught:
            read_table(path)
        refused += caught.value.code == "T16"
        assert sorted(tmp_path.iterdir()) == before
        assert not any(cell in str(caught.value) for cell in (*NAMES, *CHART))
    figure("T16 link tables refused", f"{refused} of {len(LINKS)}")
    assert refused == len(LINKS) >= 20
    with pytest.raises(UsageError, match="T16"):  # nor by its own file name
        read_table(save(tmp_path / "研究_対応表.csv", [["PX-00001", "63"]], ["research_id", "age"]))


FORMULAS = (
    "=1+1", "=HYPERLINK(\"http://x.example\",\"a\")", "+1+2", "-2+3", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1+1", "\r=1+1", " =1+1",
    "＝1+1", "＋1+A1", "－A1", "＠SUM(A1)", "=IMPORTXML(A1)", "-cmd|'/C calc'!A0", "+cmd|'/C calc'!A0", "@A1", "'=1+1", "%0A=1+1",
    "=DDE(\"cmd\";\"x\";\"y\")",
)  # fmt: skip


def live(cell: str) -> bool:
    """A spreadsheet's own rule: it runs a cell that opens like this and is no number."""
    return cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(
        r"[+-]?[0-9.]+(e[+-]?[0-9]+)?|-", cell
    )


def test_x9_no_formula_lives(tmp_path: Path, figure: Figure) -> None:
    rows = []
    rng = random.Random(20)
    for number, cell in enumerate(FORMULAS):
        row = clean_row(rng, number)
        row[1 + number % (len(COLUMNS) - 1)] = cell
        rows.append(row)
    table = read_table(save(tmp_path / "t.csv", rows))
    assert not table.exams
    assert [message[:3] for message in table.refused] == ["X9 "] * len(FORMULAS)
    write_csv(tmp_path / "out.csv", [{"a": cell, "b": -0.5} for cell in FORMULAS], ("a", "b"))
    scanners = (c for c in FORMULAS if c.isprintable() and c == c.strip() and ";" not in c)
    cases = tuple(
        Case(f"PX-{n:05d}", 1, scanner=cell, files={"adc": "a" * 64, "dwi_high": "b" * 64})
        for n, cell in enumerate(scanners)
    )
    write_manifest(tmp_path, Cohort(cases))
    written = []
    for name in ("out.csv", "cases.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as stream:
            written += [cell for row in csv.reader(stream) for cell in row]
    alive = sum(live(cell) for cell in written)
    figure("X9 formulas live", f"{alive} written, {len(table.exams)} of {len(FORMULAS)} read")
    assert alive == 0


def unit(name: str) -> str:
    units = {"psa_density_ng_ml2": "(ng/mL/mL)", "prostate_volume_ml": "(mL)"}
    return units.get(
        name, "(mg/dL)" if name.endswith("mg_dl") else "(g/dL)" if name.endswith("g_dl") else "(U/L)"
    )


def test_c01_no_word_is_read_as_another(tmp_path: Path, figure: Figure) -> None:
    words = {w: n for w, n in HEADERS.items() if not w.isascii() and n not in ("research_id", "exam", "tnm")}
    as_cp932 = 0
    got = {(cut, kind): 0 for cut in (False, True) for kind in ("right", "refused", "mistaken")}
    for encoding in ("utf-8", "utf-8-sig", "cp932", "euc_jp", "iso2022_jp", "utf-16"):
        for word, name in words.items():
            mark = (
                ""
                if not name.endswith(("_ml", "_l", "_dl", "_ml2"))
                else unit(name).replace("U/L", "ng/mL" if "psa" in name else "U/L")
            )
            data = f"research_id,{word}{mark}\nPX-00001,\n".encode(encoding)
            path = tmp_path / "t.csv"
            for cut in (False, True):  # whole, and with one byte of the word lost
                where = data.rindex("\n".encode("ascii"), 0, -2) if not encoding.startswith("utf-16") else 40
                path.write_bytes(
                    data if not cut else data[: where - 1 - len(mark)] + data[where - len(mark) :]
                )
                as_cp932 += encoding == "utf-8" and not cut and _decodes(data, "cp932")
                got[cut, outcome(path, name)] += 1
    total = 6 * len(words)
    for cut, text in ((False, "whole"), (True, "with a lost byte")):
        parts = ", ".join(f"{got[cut, kind]} {kind}" for kind in ("mistaken", "right", "refused"))
        figure(f"C01 header words {text}", f"{parts} of {total}")
    figure("C01 UTF-8 words that CP932 takes", f"{as_cp932} of {len(words)}")
    assert got[False, "mistaken"] == got[True, "mistaken"] == 0
    assert got[False, "right"] == total


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def outcome(path: Path, name: str) -> str:
    """``right`` if the header was taken for its covariate, ``refused``, or ``mistaken``."""
    from diffusion_adc.intake.clinical_columns import TableMapping, resolve
    from diffusion_adc.intake.clinical_read import read_sheet

    try:
        columns = resolve(read_sheet(path), TableMapping(), public=False)
    except UsageError:
        return "refused"
    return "right" if [column.covariate for column in columns] == ["research_id", name] else "mistaken"


def test_numbers_of_a_clinic_do_not_become_research_ids(tmp_path: Path) -> None:
    path = save(tmp_path / "t.csv", [[chart, "63"] for chart in CHART], ["research_id", "age"])
    table: ClinicalTable = read_table(path, ClinicalOptions())
    assert not table.covariates
    assert len(table.refused) == len(CHART)
    assert not any(chart in message for chart in CHART for message in table.refused)
