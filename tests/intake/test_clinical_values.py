"""Single cells: what each parser takes, what it refuses, and that nothing else gets through."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_variants import UNKNOWN

from diffusion_adc.domain.clinical import PRIMARIES, SEXES, STAGES, TREATMENTS, Covariates
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.intake.clinical_cells import formula, is_date
from diffusion_adc.intake.clinical_columns import Column
from diffusion_adc.intake.clinical_values import read_cell
from diffusion_adc.intake.clinical_words import UNITS

FULL_WIDTH = str.maketrans({chr(n): chr(n + 0xFEE0) for n in range(0x21, 0x7F)} | {" ": "\u3000"})


def read(name: str, cell: str, **column: Any) -> Any:
    out = read_cell(Column(0, name, **column), cell)
    return out.get(name)


@pytest.mark.parametrize(
    ("name", "cell", "value"),
    [
        ("age_years", "63", 63), ("age_years", "６３歳", 63), ("age_years", "63 years", 63), ("age_years", "90+", 90),
        ("age_years", "90歳以上", 90), ("age_years", ">89", 90),
        ("sex", "男", "male"), ("sex", "女性", "female"), ("sex", "Ｍ", "male"), ("sex", "f", "female"),
        ("stage", "Ⅲ", "III"), ("stage", "3b", "III"), ("stage", "Stage IVA", "IV"), ("stage", "病期II", "II"),
        ("stage", "ステージ１", "I"), ("stage", "Ⅳ期", "IV"), ("stage", "IA2", "I"), ("stage", "二期", "II"),
        ("treatment", "なし", "none"), ("treatment", "ADT", "hormone"), ("treatment", "手術＋放射線", "combined"),
        ("treatment", "手術、手術", "surgery"), ("treatment", "Chemotherapy", "chemotherapy"), ("treatment", "照射", "radiotherapy"),
        ("primary", "前立腺癌", "prostate"), ("primary", "子宮頸がん", "cervix"), ("primary", "Breast cancer", "breast"),
        ("primary", "C61", "prostate"), ("primary", "C53.9", "cervix"), ("primary", "多発性骨髄腫", "myeloma"),
        ("recurrence", "あり", True), ("recurrence", "無", False), ("comorbidity", "0", False), ("comorbidity", "Yes", True),
        ("t_stage", "2a", "T2a"), ("t_stage", "pT3B", "pT3b"), ("n_stage", "Ｎ１", "N1"), ("m_stage", "MX", "MX"),
        ("isup_grade", "3", 3), ("psa_ng_ml", "4.2 ng/mL", 4.2), ("psa_ng_ml", " 4.20 ", 4.2),
    ],
)  # fmt: skip
def test_values(name: str, cell: str, value: object) -> None:
    assert read(name, cell) == value


@pytest.mark.parametrize("cell", ["<0.1", "＜０．１", "< 0.1", "0.1未満", "≦0.1", "0.1以下", "<0.1 ng/mL"])
def test_below_detection_is_a_value_and_a_flag(cell: str) -> None:
    assert read_cell(Column(0, "psa_ng_ml"), cell) == {"psa_ng_ml": 0.1, "below_detection": "psa_ng_ml"}


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("pT2aN0M0", ("pT2a", "N0", "M0")), ("T3b N1 M1b", ("T3b", "N1", "M1b")), ("ｐＴ２ａＮ０Ｍ０", ("pT2a", "N0", "M0")),
        ("cT2cN0M0", ("cT2c", "N0", "M0")), ("cT3cN0cM0", ("cT3", "cN0", "cM0")), ("cT3 cN0 cM0", ("cT3", "cN0", "cM0")),
        ("TisN0", ("Tis", "N0", None)), ("ypT0, ypN0, M0", ("ypT0", "ypN0", "M0")), ("txnxm0", ("TX", "NX", "M0")),
        ("M1c", (None, None, "M1c")), ("T1miN1miM0", ("T1mi", "N1mi", "M0")), ("T2cN1cM0", ("T2c", "N1c", "M0")),
    ],
)  # fmt: skip
def test_tnm_in_one_cell(cell: str, parts: tuple[str | None, ...]) -> None:
    out = read_cell(Column(0, "tnm"), cell)
    assert tuple(out.get(name) for name in ("t_stage", "n_stage", "m_stage")) == parts
    Covariates(**out)
    assert "stage" not in out  # the overall stage is never derived


@pytest.mark.parametrize("cell", ["T5N0M0", "pT3N1cM0", "T2T3", "N4", "M2", "T2 and more", "TN0", "T2(m)N0"])
def test_tnm_of_another_form_is_refused(cell: str) -> None:
    with pytest.raises(CaseError) as caught:
        read_cell(Column(0, "tnm"), cell)
    assert caught.value.code in ("C08", "C09")


@pytest.mark.parametrize(
    ("name", "unit", "number", "value"),
    [
        ("psa_ng_ml", "ug/l", "4.2", 4.2), ("psa_ng_ml", "pg/ml", "4200", 4.2), ("hemoglobin_g_dl", "g/l", "131", 13.1),
        ("hemoglobin_g_dl", "mmol/l", "8.0", 12.8912), ("alp_u_l", "u/ljscc", "300", 105), ("alp_u_l", "ukat/l", "2", 120),
        ("crp_mg_dl", "mg/l", "35", 3.5), ("calcium_mg_dl", "mmol/l", "2.4", 9.61872), ("creatinine_mg_dl", "umol/l", "88.42", 1),
    ],
)  # fmt: skip
def test_units_are_converted(name: str, unit: str, number: str, value: float) -> None:
    assert read(name, number, factor=UNITS[name][unit]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("cell", UNKNOWN)
def test_unknown_is_unknown(cell: str) -> None:
    assert read_cell(Column(0, "psa_ng_ml"), cell) == {}
    assert read_cell(Column(0, "sex"), cell) == {}


def test_declared_signs_and_words() -> None:
    assert read_cell(Column(0, "psa_ng_ml", missing=frozenset(("999",))), "999") == {}
    assert read("psa_ng_ml", "999", missing=frozenset()) == 999
    assert read("sex", "1", values={"1": "male"}) == "male"
    assert read("recurrence", "-", missing=frozenset(("-",))) is None
    assert (
        read_cell(Column(0, "psa_ng_ml", values={"検出限界以下": "<0.01"}), "検出限界以下")["below_detection"]
        == "psa_ng_ml"
    )


@pytest.mark.parametrize(
    "cell",
    ["2019-07-02", "2019/7/2", "2.7.2019", "07/02/2019", "20190702", "2019年7月2日", "令和元年5月1日", "平成31年4月", "S31.4.29",
     "H30/5/1", "R1-5-1", "昭和31", "Jul 5, 2011", "5-Jul-11", "2019-05", "05/2019", "５月３日", "12:30", "M45.1.3"],
)  # fmt: skip
def test_dates_in_many_forms(cell: str) -> None:
    assert is_date(cell)
    for name in ("age_years", "sex", "stage", "psa_ng_ml", "primary", "tnm"):
        with pytest.raises(CaseError) as caught:
            read_cell(Column(0, name), cell)
        assert caught.value.code == "C03"


@pytest.mark.parametrize(
    "cell", ["63", "4.2", "0.09", "1023.5", "2019.5", "T2aN0M0", "IIIb", "M1", "5年前", "<0.1", "手術+放射線"]
)
def test_values_are_no_dates(cell: str) -> None:
    assert not is_date(cell)


@pytest.mark.parametrize("cell", ["-", "--", "-0.5", "+3", "-1e3", "", " ", "<0.1", "a=b"])
def test_numbers_and_dashes_are_no_formulas(cell: str) -> None:
    assert not formula(cell)


@given(st.floats(0, 20_000).map(lambda v: f"{v:.3f}"), st.booleans(), st.sampled_from(["", " ", "\u3000"]))
def test_numbers_survive_full_width_forms(text: str, wide: bool, space: str) -> None:
    cell = space + (text.translate(FULL_WIDTH) if wide else text) + space
    assert read("psa_ng_ml", cell, missing=frozenset()) == float(f"{float(text):.6g}")


ALLOWED: dict[str, Any] = {
    "sex": SEXES, "primary": PRIMARIES, "stage": STAGES, "treatment": TREATMENTS, "recurrence": (True, False),
}  # fmt: skip
NAMES = ("age_years", "sex", "stage", "psa_ng_ml", "primary", "treatment", "recurrence", "tnm", "t_stage")


@settings(max_examples=400)
@given(
    st.sampled_from(NAMES),
    st.text(max_size=12) | st.text("0123456789<≤.-+年月TNMabc男女癌 IVⅢ歳", max_size=8),
)
def test_any_text_is_a_typed_value_unknown_or_refused(name: str, cell: str) -> None:
    refusal: CaseError | None = None
    try:
        out: dict[str, Any] = read_cell(Column(0, name), cell)
        row = Covariates(**out | {k: (v,) for k, v in out.items() if k == "below_detection"})
    except CaseError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code
        word = unicodedata.normalize("NFKC", cell).strip()
        assert len(word) < 6 or word not in str(refusal)
        return
    for key, allowed in ALLOWED.items():
        assert getattr(row, key) is None or getattr(row, key) in allowed
