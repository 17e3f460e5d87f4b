"""Every code of the clinical table: at least three fixtures each, each giving exactly its code and message form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bad_tables import ALL, book, row, table

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.clinical import ClinicalOptions, read_table


@pytest.mark.parametrize(("name", "suffix", "code", "data"), ALL, ids=[case[0] for case in ALL])
def test_each_fixture_gives_exactly_its_code(
    tmp_path: Path, name: str, suffix: str, code: str, data: bytes
) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(data)
    options = ClinicalOptions(id_prefix="PX") if name == "C06 number as ID" else ClinicalOptions()
    error: UsageError | None = None
    messages: list[str] = []
    try:
        got = read_table(path, options)
        messages = got.refused
    except UsageError as caught:
        error, messages = caught, [str(caught)]
    if error is not None:
        assert error.code == code
    else:
        assert not got.covariates
    assert messages
    for message in messages:
        assert re.match(rf"{code}( PX-\d{{5}})?: .+; expected .+", message), message
        assert "\n" not in message
        assert str(tmp_path) not in message
        assert not re.search(r"山田|紹介|1234567|2019|sixty|令和|昭和", message)


def test_one_bad_row_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(table(*(row(id=f"PX-{n:05d}", age="999" if n == 7 else "63") for n in range(50))))
    got = read_table(path)
    assert len(got.covariates) == 49
    (message,) = got.refused
    assert message.startswith("C10 PX-00007: row 9, age_years:")


@pytest.mark.parametrize(
    ("name", "data"),
    [("none.csv", None), ("old.xls", b"x"), ("empty.csv", b""), ("quote.csv", b'research_id,"age\nPX-001,6'),
     ("cut.xlsx", book(lambda work: None)[:900]), ("text.xlsx", b"research_id"), ("wide.csv", b"a," * 300)],
)  # fmt: skip
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_table(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_a_workbook_that_unpacks_to_a_huge_size_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"xl/worksheets/sheet{number}.xml", bytes(100 * 2**20))
    with pytest.raises(UsageError, match="huge"):
        read_table(path)


def test_a_workbook_with_entities_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "laughs.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    with pytest.raises(UsageError, match="entities"):
        read_table(path)
