"""The clinical table on its way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_adc.custody.clinic_table import outgoing_table
from diffusion_adc.domain.errors import UsageError

IDS = {"4711823": "AB-0001", "0012": "AB-0002"}


def _table(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_ids_change_and_values_stay(tmp_path: Path) -> None:
    text = "患者番号,年齢,性別,PSA (ng/mL),病期,TNM\n4711823,６３,男,<0.1,Ⅲ,pT2aN0M0\n0012,71,女,4.5,IIIB,cT3bN1M1\n9,50,男,1,I,\n"
    for encoding in ("utf-8", "utf-8-sig", "cp932"):
        raw, named, others = outgoing_table(_table(tmp_path, text, encoding), "患者番号", IDS)
        rows = raw.decode().splitlines()
        assert rows[1] == "AB-0001,63,男,<0.1,III,pT2aN0M0"
        assert rows[2].startswith("AB-0002,71,女,4.5,IIIB")
        assert (named, others, len(rows)) == (frozenset(IDS.values()), 1, 3)


@pytest.mark.parametrize(
    "cell",
    ["YAMADA", "山田太郎", "1952-11-03", "昭和27年11月3日", "090-1234-5678", "4711823", "〒194-0001", "taro@example.jp",
     "see letter of Dr Suzuki", "=1+1", "様", "S27.11.3", "20190412"],
)  # fmt: skip
def test_cells_that_are_no_values(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UsageError, match="T9: column 2, row 2") as caught:
        outgoing_table(_table(tmp_path, f"id,age\n4711823,{cell}\n"), "id", IDS)
    assert cell not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["氏名", "患者ID", "生年月日", "name", "comment", "address", "カルテ番号", "date"]
)
def test_columns_that_nobody_declared(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="C09: column 2"):
        outgoing_table(_table(tmp_path, f"id,{name}\n4711823,1\n"), "id", IDS)


def test_unreadable_tables(tmp_path: Path) -> None:
    for text, code in (("id,age\n1\n", "C09"), ("", "C09"), ("x,age\n1,2\n", "C06")):
        with pytest.raises(UsageError, match=code):
            outgoing_table(_table(tmp_path, text), "id", IDS)
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,age\n1,\x81\n")
    with pytest.raises(UsageError, match="C01"):
        outgoing_table(path, "id", IDS)
