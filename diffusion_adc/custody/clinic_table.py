"""The clinical table on its way out: clinic IDs become research IDs, and no cell is anything but a value.

A coarse door with a narrow gap: numbers, detection limits, stages and words of a list. What the values mean, their
units and ranges, is the institute's reader's business, which checks everything again.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from diffusion_adc.domain.clinical import NAMES, PRIMARIES, SEXES, STAGES, TREATMENTS
from diffusion_adc.domain.errors import UsageError


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


ENCODINGS: Final = ("utf-8-sig", "cp932")
_HEAD_WORDS: Final = _split(
    """
    age years year y sex gender comorbidity comorbidities treatment therapy history primary tumor tumour site stage
    tnm t n m ct cn cm pt pn pm recurrence metastasis exam order blood psa alp ldh hb hemoglobin haemoglobin crp ca
    creatinine cre albumin alb wbc rbc plt platelets cea ca125 ca199 afp neutrophils lymphocytes
    ng ml g dl l u iu mg ug ul mm3 mmol umol pct limit below detected flag unit units isup gleason
    年齢 歳 性別 既往 既往症 併存症 治療 治療歴 原発 原発巣 病期 ステージ 再発 転移 血液 単位 検査順
    """
)
_CELL_WORDS: Final = frozenset((*SEXES, *PRIMARIES, *TREATMENTS, *(s.lower() for s in STAGES))) | _split(
    """
        m f male female yes no true false none unknown na nan missing positive negative present absent
        diabetes hypertension heart liver kidney renal lung autoimmune disease other
        hormone hormonal chemo chemotherapy radiation radiotherapy rt surgery operation immunotherapy targeted combined
        prostate prostatic uterus uterine cervix cervical endometrium ovary ovarian bladder rectum rectal colon
        breast lung stomach gastric pancreas liver kidney myeloma lymphoma cancer carcinoma
        男 女 男性 女性 有 無 あり なし 不明 未検査 陽性 陰性 糖尿病 高血圧 手術 放射線 化学療法 ホルモン 免疫療法
        前立腺 子宮頸 子宮体 卵巣 膀胱 直腸 結腸 乳 肺 胃 膵 肝 腎 骨髄腫 リンパ腫 癌 がん 高血圧症 心疾患
    """
)
_NUMBER: Final = re.compile(r"[<>≤≥]?\s?[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?", re.ASCII)
_STAGE: Final = re.compile(
    r"(?:stage )?(?:i{1,3}|iv|[0-4])[abc]?[1-3]?|[cpy]{0,2}t(?:[0-4]|is|x)[abcd]?(?:n[0-3x][abc]?)?(?:m[01x][abc]?)?"
    r"|[cp]?n[0-3x][abc]?|[cp]?m[01x][abc]?", re.ASCII,
)  # fmt: skip
_SEPARATORS: Final = re.compile(r"[\s_/(),;・+.%\^*\-\[\]]+")
_DASHES: Final = frozenset({"", "-", "--", "?", "n/a", "#n/a"})


def outgoing_table(path: Path, id_column: str, ids: Mapping[str, str]) -> tuple[bytes, frozenset[str], int]:
    """The table with research IDs, as UTF-8 CSV.

    Args:
        path: CSV or TSV, UTF-8 or CP932.
        id_column: Name of the column with the clinic's IDs.
        ids: Clinic ID → research ID of the persons in the delivery; rows of others are left out.

    Returns:
        The file's bytes, the research IDs with a row, the number of rows left out.

    Raises:
        UsageError: T9 or C09: a column nobody declared harmless, or a cell that is no value; told by column and row.
    """
    head, rows = _read(path)
    if id_column not in head:
        raise UsageError("no column of that name for the clinic's IDs", "the table's own column", code="C06")
    key = head.index(id_column)
    for number, name in enumerate(head, 1):
        words = [w for w in _SEPARATORS.split(_plain(name)) if w]
        known = _plain(name) in NAMES or (words and all(w in _HEAD_WORDS or w.isdigit() for w in words))
        if number - 1 != key and not known:
            raise UsageError(
                f"column {number} has a name that is not on the list", "covariates with their units",
                "leave the column out of the table", code="C09",
            )  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["research_id", *(name for n, name in enumerate(head) if n != key)])
    named: list[str] = []
    for row_number, row in enumerate(rows, 2):
        research_id = ids.get(row[key].strip())
        if research_id is None:
            continue
        for number, cell in enumerate(row, 1):
            if number - 1 != key and not _harmless(cell):
                raise UsageError(
                    f"column {number}, row {row_number}: a cell that is no value", "numbers and listed words",
                    "leave free text and dates out of the table", code="T9",
                )  # fmt: skip
        named.append(research_id)
        writer.writerow([research_id, *(_nfkc(cell) for n, cell in enumerate(row) if n != key)])
    return out.getvalue().encode(), frozenset(named), len(rows) - len(named)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    raw = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    for encoding in ENCODINGS:
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise UsageError("a table in another encoding", "UTF-8 or CP932", "save it as UTF-8 CSV", code="C01")
    try:
        table = list(
            csv.reader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        )
    except csv.Error:
        table = []
    head, *rows = [row for row in table if any(cell.strip() for cell in row)] or [[]]
    if not head or any(len(row) != len(head) for row in rows):
        raise UsageError("a table that cannot be read", "a CSV with one header row", code="C09")
    return [_nfkc(name) for name in head], rows


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def _plain(text: str) -> str:
    return _nfkc(text).lower()


def _harmless(cell: str) -> bool:
    text = _plain(cell)
    if text[:1] in ("=", "@"):  # a spreadsheet would run it
        return False
    if text in _DASHES or _NUMBER.fullmatch(text) or _STAGE.fullmatch(text):
        return True
    words = [w for w in _SEPARATORS.split(text) if w]
    return bool(words) and len(words) <= 8 and all(w in _CELL_WORDS or _STAGE.fullmatch(w) for w in words)
