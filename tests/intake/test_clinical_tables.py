"""Whole tables: encodings, mappings, several examinations, rare combinations, and the real public ones."""

from __future__ import annotations

import csv
import json
import os
import random
import statistics
from collections import Counter
from pathlib import Path

import openpyxl
import pytest

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import FEATURES, NAMES, Covariates, encode
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake.clinical import ClinicalOptions, ClinicalTable, rare_rows, read_table
from diffusion_adc.intake.clinical_columns import load_mapping, shipped
from diffusion_adc.records.cohort import read_cohort, write_manifest

REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
real = pytest.mark.skipif(
    not (REAL / "picai_labels").is_dir(), reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder"
)
PUBLIC = ClinicalOptions(mapping="picai", provenance="public")
CLINIC = [
    "研究用ID,検査順,年齢,性別,併存疾患,治療歴,原発巣,病期,TNM分類,再発,PSA,ALP,LDH,Hb,CRP,Ca,Cre",
    "PX-00001,1,６３,1,あり,ホルモン療法,前立腺,Ⅳ,cT3bN1M1b,なし,＜0.1,120,180,13.1,0.05,9.2,0.81",
    "PX-00002,1,71歳,2,なし,手術＋化学療法,子宮頸癌,2B,pT2b N0 M0,あり,不明,95,未検査,11.8,-,9.0,0.62",
]


def save(folder: Path, lines: list[str], name: str = "table.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def accepted(path: Path, options: ClinicalOptions | None = None) -> ClinicalTable:
    table = read_table(path, options)
    assert table.refused == []
    return table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932", "euc_jp", "iso2022_jp", "utf-16"])
def test_one_table_in_six_encodings(tmp_path: Path, encoding: str) -> None:
    # EUC-JP and ISO-2022-JP proper have no Roman numerals.
    lines = [line.replace("Ⅳ", "ＩＶ") if encoding in ("euc_jp", "iso2022_jp") else line for line in CLINIC]
    path = save(tmp_path, lines, encoding=encoding)
    table = accepted(path, ClinicalOptions(mapping="clinic_ja"))
    assert table.covariates["PX-00001"] == Covariates(
        age_years=63, sex="male", comorbidity=True, treatment="hormone", primary="prostate", stage="IV",
        recurrence=False, psa_ng_ml=0.1, alp_u_l=120, ldh_u_l=180, hemoglobin_g_dl=13.1, t_stage="cT3b", n_stage="N1",
        m_stage="M1b", crp_mg_dl=0.05, calcium_mg_dl=9.2, creatinine_mg_dl=0.81, below_detection=("psa_ng_ml",),
    )  # fmt: skip
    second = table.covariates["PX-00002"]
    assert (second.treatment, second.primary, second.stage, second.t_stage) == (
        "combined",
        "cervix",
        "II",
        "pT2b",
    )
    assert second.psa_ng_ml is second.ldh_u_l is second.crp_mg_dl is None
    declared = encoding if encoding != "utf-8-sig" else "utf-8"
    assert (
        accepted(path, ClinicalOptions(mapping="clinic_ja", encoding=declared)).covariates == table.covariates
    )


def test_tsv_and_xlsx_give_the_same(tmp_path: Path) -> None:
    first = accepted(save(tmp_path, CLINIC), ClinicalOptions(mapping="clinic_ja"))
    tabs = save(tmp_path, [line.replace(",", "\t") for line in CLINIC], "table.tsv")
    book = openpyxl.Workbook()
    for line in CLINIC:
        book.active.append(
            [float(cell) if cell in ("13.1", "0.05", "120") else cell for cell in line.split(",")]
        )
    book.create_sheet("empty")
    book.save(tmp_path / "table.xlsx")
    for path in (tabs, tmp_path / "table.xlsx"):
        assert accepted(path, ClinicalOptions(mapping="clinic_ja")).covariates == first.covariates


@pytest.mark.parametrize(
    ("header", "cell", "name", "value"),
    [
        ("psa_ng_ml", "4.2", "psa_ng_ml", 4.2), ("PSA（ng/mL）", "4.2", "psa_ng_ml", 4.2), ("PSA [μg/L]", "4.2", "psa_ng_ml", 4.2),
        ("hb_g_l", "131", "hemoglobin_g_dl", 13.1), ("ヘモグロビン(g/dL)", "13.1", "hemoglobin_g_dl", 13.1),
        ("ALP (U/L JSCC)", "300", "alp_u_l", 105), ("crp_mg_l", "5", "crp_mg_dl", 0.5), ("ca_mmol_l", "2.4", "calcium_mg_dl", 9.61872),
        ("クレアチニン（µmol/L）", "88.42", "creatinine_mg_dl", 1.0), ("LDH (IU/L)", "200", "ldh_u_l", 200),
        ("年齢（歳）", "63", "age_years", 63), ("Stage (UICC)", "II", "stage", "II"), ("prostate_volume_ml", "40", "prostate_volume_ml", 40),
    ],
)  # fmt: skip
def test_headers_with_units(tmp_path: Path, header: str, cell: str, name: str, value: object) -> None:
    table = accepted(save(tmp_path, [f"research_id,{header}", f"PX-00001,{cell}"]))
    assert getattr(table.covariates["PX-00001"], name) == value


def test_a_unit_column_may_differ_by_row(tmp_path: Path) -> None:
    path = save(
        tmp_path, ["research_id,Hb,Hb単位", "PX-00001,131,g/L", "PX-00002,12.9,g/dL", "PX-00003,8,mmol"]
    )
    table = read_table(path)
    assert {p: row.hemoglobin_g_dl for p, row in table.covariates.items()} == {
        "PX-00001": 13.1,
        "PX-00002": 12.9,
    }
    (message,) = table.refused
    assert message.startswith("C05 PX-00003")


def test_a_users_mapping_extends_a_shipped_one(tmp_path: Path) -> None:
    mapping = save(
        tmp_path, ["extends: picai", 'ids: {"11373": ProstateX-0000}', "ignore: [remark]"], "mine.yaml"
    )
    header = "patient_id,study_id,patient_age,psa,remark"
    path = save(tmp_path, [header, "11373,1001396,63,13,x", "10021,1000021,61,23,"])
    table = accepted(path, ClinicalOptions(mapping=mapping, provenance="public"))
    assert set(table.covariates) == {"ProstateX-0000", "PICAI-10021"}
    with pytest.raises(UsageError, match="T16"):  # a clinic's table may not bring its own numbers
        read_table(path, ClinicalOptions(mapping=mapping))


@pytest.mark.parametrize(
    "text",
    ["columns: [a]", "colums: {}", "a: &x [1]\nb: *x", "!!python/object/apply:os.system ['true']", "- a", ":", "extends: ../x",
     "columns: {age: {covariate: shoe_size}}", "columns: {age: {covariate: sex, unit: 3}}", "constants: {age: x}"],
)  # fmt: skip
def test_a_wrong_mapping_is_a_usage_error(tmp_path: Path, text: str) -> None:
    mapping = save(tmp_path, [text], "mine.yaml")
    with pytest.raises(UsageError) as caught:
        read_table(save(tmp_path, ["research_id,age", "PX-00001,63"]), ClinicalOptions(mapping=mapping))
    assert caught.value.code is None
    assert str(tmp_path) not in str(caught.value)


def test_shipped_mappings_parse() -> None:
    assert shipped() == ["clinic_ja", "picai"]
    for name in shipped():
        assert load_mapping(name).columns


def test_several_examinations(tmp_path: Path) -> None:
    lines = [
        "research_id,exam,age",
        "PX-00001,2,66",
        "PX-00001,1,63",
        "PX-00002,1,70",
        "PX-00002,1,70",
        "PX-00003,1,5x",
    ]
    table = read_table(save(tmp_path, lines))
    assert table.covariates["PX-00001"].age_years == 63
    assert table.exams["PX-00001", 2].age_years == 66
    assert any(text.startswith("C06: examinations of PX-00001 differ") for text in table.warnings)
    assert any(text.startswith("C06 PX-00002: the same row 2 times") for text in table.warnings)
    assert len(table.refused) == 1


def test_a_refused_first_examination_does_not_shift_the_order(tmp_path: Path) -> None:
    lines = ["patient_id,study_id,patient_age", "10001,900,999", "10001,1000,66"]
    table = read_table(save(tmp_path, lines), PUBLIC)
    assert list(table.exams) == [("PICAI-10001", 2)]


def test_lost_zeros_are_seen(tmp_path: Path) -> None:
    table = read_table(save(tmp_path, ["research_id,age", "PX-00012,63", "PX-012,64", "PX-00013,65"]))
    assert list(table.covariates) == ["PX-00013"]
    assert [text[:12] for text in table.refused] == ["C06 PX-00012", "C06 PX-012: "]


def test_persons_on_one_side_only(tmp_path: Path) -> None:
    path = save(tmp_path, ["research_id,age", "PX-00001,63", "PX-00002,64"])
    cut = accepted(path).for_persons({"PX-00001", "PX-00003"})
    assert list(cut.covariates) == ["PX-00001"]
    (message,) = cut.refused
    assert message.startswith("C06 PX-00002: a row of the clinical table without a case; expected")
    assert any("PX-00003" in text for text in cut.warnings)
    mapping = save(tmp_path, ["persons_without_case: ignore"], "mine.yaml")
    assert accepted(path, ClinicalOptions(mapping=mapping)).for_persons({"PX-00001"}).refused == []


def test_doubtful_units_are_warned_of(tmp_path: Path) -> None:
    lines = ["research_id,ALP (U/L),Cre (mg/dL)", *(f"PX-{n:05d},200,{12 + n / 10}" for n in range(12))]
    warnings = accepted(save(tmp_path, lines)).warnings
    assert any("alp_u_l without its method" in text for text in warnings)
    assert any("median of creatinine_mg_dl" in text for text in warnings)


def test_rare_combinations_are_listed() -> None:
    common = {f"PX-1{n:04d}": Covariates(age_years=65, primary="prostate", stage="II") for n in range(5)}
    pair = {f"PX-2{n:04d}": Covariates(age_years=40, primary="lung", stage="IV") for n in range(2)}
    nothing = {f"PX-3{n:04d}": Covariates(sex="male") for n in range(2)}
    rare = rare_rows({**common, **pair, **nothing, "PX-40000": Covariates(age_years=33)})
    assert [(row.research_id, row.size) for row in rare] == [
        ("PX-40000", 1),
        ("PX-20000", 2),
        ("PX-20001", 2),
    ]


def test_later_covariates_are_kept_in_a_cohort_and_given_to_no_network(tmp_path: Path) -> None:
    person = Covariates(
        age_years=63,
        psa_ng_ml=0.1,
        t_stage="pT2a",
        isup_grade=3,
        crp_mg_dl=0.4,
        below_detection=("psa_ng_ml",),
    )
    cohort = Cohort(
        (Case("PX-00001", 1, files={"adc": "a" * 64, "dwi_high": "b" * 64}),), {"PX-00001": person}
    )
    write_manifest(tmp_path, cohort)
    assert read_cohort(tmp_path).clinical == {"PX-00001": person}
    header = (tmp_path / "clinical.csv").read_text().splitlines()[0]
    assert header.endswith("hemoglobin_g_dl,t_stage,crp_mg_dl,isup_grade,below_detection")
    assert len(encode(person)[0]) == len(FEATURES)
    assert "isup_grade" not in NAMES
    with pytest.raises(UsageError):
        encode(person, ("isup_grade",))


@pytest.mark.parametrize(
    "wrong",
    [{"t_stage": "T5"}, {"n_stage": "T2"}, {"m_stage": "x"}, {"isup_grade": 2.5}, {"isup_grade": 6},
     {"below_detection": ("psa_ng_ml",)}, {"below_detection": ("age_years",), "age_years": 3}, {"crp_mg_dl": -1}],
)  # fmt: skip
def test_impossible_later_covariates(wrong: dict[str, object]) -> None:
    with pytest.raises(CaseError):
        Covariates(**wrong)  # type: ignore[arg-type]


@real
def test_the_picai_marksheet_is_imported_as_it_is() -> None:
    table = accepted(REAL / "picai_labels" / "marksheet.csv", PUBLIC)
    assert (table.rows, len(table.exams), len(table.covariates)) == (1500, 1500, 1476)
    known = table.known
    assert known["psa_ng_ml"] == 1460
    assert known["psa_density_ng_ml2"] == 1049
    assert known["prostate_volume_ml"] == 1473
    ages = [row.age_years for row in table.exams.values()]
    assert min(a for a in ages if a is not None) == 35
    assert max(a for a in ages if a is not None) == 90  # 92 in the table: pooled
    assert statistics.median(a for a in ages if a is not None) == 66
    grades = Counter(row.isup_grade for row in table.exams.values())
    assert [grades[n] for n in range(6)] == [847, 228, 234, 99, 40, 52]
    assert sum(grades[n] for n in range(2, 6)) == 425  # clinically significant cancer
    assert table.covariates["PICAI-10021"].psa_ng_ml == 23
    assert sum("and 18 more persons differ" in text for text in table.warnings) == 1
    with (REAL / "picai_labels" / "marksheet.csv").open(encoding="utf-8") as stream:  # an independent reader
        for line in csv.DictReader(stream):
            order = sorted(e for p, e in table.exams if p == f"PICAI-{line['patient_id']}")
            rows = [table.exams[f"PICAI-{line['patient_id']}", e] for e in order]
            assert (float(line["psa"]) if line["psa"] else None) in [row.psa_ng_ml for row in rows]
            assert min(float(line["patient_age"]), 90) in [row.age_years for row in rows]


@real
def test_the_prostatex_rows_are_joined_by_their_links() -> None:
    links = json.loads((REAL / "prostatex" / "case_link.json").read_text())
    ids = {number.split("_")[0]: case.split("_")[0] for case, number in links.items()}
    options = ClinicalOptions(mapping="picai", provenance="public", ids=ids)
    table = accepted(REAL / "prostatex" / "clinical.csv", options)
    first, second = table.covariates["ProstateX-0000"], table.covariates["ProstateX-0001"]
    assert (first.age_years, first.psa_ng_ml, first.psa_density_ng_ml2, first.isup_grade) == (63, 13, 0.25, 3)
    assert (second.age_years, second.psa_ng_ml, second.psa_density_ng_ml2, second.isup_grade) == (
        67,
        5.1,
        0.18,
        1,
    )


@real
def test_a_public_marksheet_without_its_mapping_is_refused() -> None:
    with pytest.raises(UsageError, match="T16"):
        read_table(REAL / "picai_labels" / "marksheet.csv")


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    """Cut, flipped and foreign bytes: a table, or one refusal; never another exception."""
    book = openpyxl.Workbook()
    for line in CLINIC:
        book.active.append(line.split(","))
    book.save(tmp_path / "whole.xlsx")
    whole = {
        ".xlsx": (tmp_path / "whole.xlsx").read_bytes(), ".csv": "\n".join(CLINIC).encode("cp932"),
        ".tsv": "\n".join(CLINIC).encode().replace(b",", b"\t"),
    }  # fmt: skip
    rng = random.Random(7)
    refused = 0
    for number in range(120):
        suffix = rng.choice(list(whole))
        data = bytearray(whole[suffix])
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 4 == 0:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / f"t{suffix}"
        path.write_bytes(bytes(data))
        try:
            read_table(path, ClinicalOptions(mapping="clinic_ja"))
        except UsageError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert refused > 25
