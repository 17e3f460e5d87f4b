"""The words a clinical table may use, in English and Japanese: headers, categories, units, identifying headers.

Every word stands here in the form `plain` gives: NFKC, lower case, no spaces or punctuation around it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

RESEARCH_ID: Final = "research_id"
EXAM: Final = "exam"
"""Order of the examination, 1 for the person's first."""
EXAM_ID: Final = "exam_id"
"""A number that only rises with time: ranked within a person."""
TNM_ALL: Final = "tnm"
"""T, N and M in one cell."""


def plain(text: str) -> str:
    """Full-width forms folded (NFKC), lower case, spaces, underscores and marks left out."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s_・:;.\-/#\"'*()\[\]]+", "", folded)


def _table(rows: dict[str, str]) -> dict[str, str]:
    return {plain(word): name for name, words in rows.items() for word in words.split("|")}


HEADERS: Final = _table(
    {
        RESEARCH_ID: "research_id|researchid|研究ID|研究用ID|研究番号|匿名化ID|仮名ID",
        EXAM: "exam|exam_order|検査順|検査回",
        "age_years": "age|age_years|年齢|検査時年齢",
        "sex": "sex|gender|性別|性",
        "comorbidity": "comorbidity|comorbidities|併存疾患|併存症|合併症|既往症|併存疾患の有無",
        "treatment": "treatment|treatment_history|prior_treatment|治療|治療歴|前治療|治療内容",
        "primary": "primary|primary_tumor|primary_tumour|primary_site|原発|原発巣|原発部位|原発腫瘍|原発臓器",
        "stage": "stage|overall_stage|clinical_stage|病期|臨床病期|進行期|ステージ|病期分類",
        TNM_ALL: "tnm|ctnm|ptnm|tnm_stage|TNM分類|TNM病期",
        "t_stage": "t|t_stage|ct|pt|T分類|T因子",
        "n_stage": "n|n_stage|cn|pn|N分類|N因子",
        "m_stage": "m|m_stage|cm|pm|M分類|M因子",
        "recurrence": "recurrence|recurrent|再発|再発の有無|再発有無",
        "psa_ng_ml": "psa|血清PSA|PSA値|前立腺特異抗原",
        "alp_u_l": "alp|アルカリフォスファターゼ|アルカリホスファターゼ|血清ALP",
        "ldh_u_l": "ldh|ld|乳酸脱水素酵素|血清LDH",
        "hemoglobin_g_dl": "hb|hgb|hemoglobin|haemoglobin|ヘモグロビン|血色素|血色素量",
        "crp_mg_dl": "crp|c反応性蛋白|C反応性タンパク",
        "calcium_mg_dl": "ca|calcium|カルシウム|血清カルシウム|血清Ca",
        "creatinine_mg_dl": "cre|crea|creatinine|クレアチニン|血清クレアチニン",
        "psa_density_ng_ml2": "psad|psa_density|PSA密度",
        "prostate_volume_ml": "prostate_volume|前立腺体積|前立腺容積",
        "isup_grade": "isup|isup_grade|case_isup|ISUPグレード",
    }
)
"""Header word (in `plain` form, its unit cut off) → covariate."""

_U = {"u/l": 1.0, "iu/l": 1.0, "ukat/l": 60.0, "u/ljscc": 0.35, "u/lifcc": 1.0}
UNITS: Final[dict[str, dict[str, float]]] = {
    "psa_ng_ml": {"ng/ml": 1.0, "ug/l": 1.0, "mcg/l": 1.0, "pg/ml": 1e-3},
    # One JSCC unit of alkaline phosphatase is 0.35 IFCC units (Japan Society of Clinical Chemistry, change of 2020).
    "alp_u_l": dict(_U),
    "ldh_u_l": {**_U, "u/ljscc": 1.0},  # the two methods agree for LDH
    "hemoglobin_g_dl": {"g/dl": 1.0, "g/l": 0.1, "mmol/l": 1.6114},
    "crp_mg_dl": {"mg/dl": 1.0, "mg/l": 0.1},
    "calcium_mg_dl": {"mg/dl": 1.0, "mmol/l": 4.0078},
    "creatinine_mg_dl": {"mg/dl": 1.0, "umol/l": 1 / 88.42},
    "psa_density_ng_ml2": {"ng/ml/ml": 1.0, "ng/ml2": 1.0, "ng/ml/cc": 1.0},
    "prostate_volume_ml": {"ml": 1.0, "cc": 1.0, "cm3": 1.0},
}
"""Factor from each unit (in the form of `plain_unit`) to the covariate's own."""

USUAL_MEDIAN: Final[dict[str, tuple[float, float]]] = {
    "alp_u_l": (30, 1500), "ldh_u_l": (80, 2000), "hemoglobin_g_dl": (7, 18), "crp_mg_dl": (0, 20),
    "calcium_mg_dl": (7, 13), "creatinine_mg_dl": (0.3, 5), "prostate_volume_ml": (8, 200),
}  # fmt: skip
"""A column whose median lies outside was probably written in another unit."""


def plain_unit(text: str) -> str:
    """A unit as the tables above spell it: ``µg／L`` → ``ug/l``."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("μ", "u").replace("per", "/")
    return re.sub(r"[\s^_()]+", "", folded)


SEX: Final = _table({"male": "male|m|man|男|男性|男子", "female": "female|f|woman|女|女性|女子"})
YES_NO: Final = _table(
    {
        "true": "yes|y|true|1|あり|有|有り|有る|ある|陽性|○|〇|positive|present",
        "false": "no|n|false|0|なし|無|無し|無い|ない|陰性|×|negative|absent",
    }
)
TREATMENT: Final = _table(
    {
        "none": "none|no|untreated|naive|なし|無|無し|未治療|無治療|治療歴なし",
        "hormone": "hormone|hormone therapy|hormonal|endocrine therapy|adt|androgen deprivation|ホルモン|ホルモン療法"
        "|内分泌療法|アンドロゲン遮断療法|ホルモン治療",
        "chemotherapy": "chemotherapy|chemo|化学療法|化療|抗がん剤|抗癌剤|抗がん剤治療|ケモ",
        "radiotherapy": "radiotherapy|radiation|radiation therapy|rt|放射線|放射線治療|放射線療法|照射",
        "surgery": "surgery|operation|resection|prostatectomy|手術|外科手術|外科治療|切除|全摘|前立腺全摘|前立腺全摘除術",
        "combined": "combined|multimodal|併用|集学的治療|併用療法",
    }
)
PRIMARY: Final = _table(
    {
        "prostate": "prostate|prostatic|前立腺|c61",
        "cervix": "cervix|cervical|uterine cervix|子宮頸|子宮頚|子宮頸部|子宮頚部|c53",
        "endometrium": "endometrium|endometrial|uterus|uterine body|子宮体|子宮体部|子宮内膜|c54",
        "ovary": "ovary|ovarian|卵巣|c56",
        "bladder": "bladder|urinary bladder|膀胱|c67",
        "rectum": "rectum|rectal|直腸|c20",
        "breast": "breast|mammary|乳|乳房|乳腺|c50",
        "lung": "lung|pulmonary|肺|c34",
        "myeloma": "myeloma|multiple myeloma|骨髄腫|多発性骨髄腫|c90",
        "lymphoma": "lymphoma|malignant lymphoma|リンパ腫|悪性リンパ腫|c81|c82|c83|c84|c85",
        "other": "other|others|その他|他",
    }
)
PRIMARY_ENDINGS: Final = (
    "cancer",
    "carcinoma",
    "adenocarcinoma",
    "tumor",
    "tumour",
    "腺癌",
    "癌",
    "がん",
    "ガン",
    "原発",
)

MISSING: Final = frozenset(
    plain_ for word in (
        "", "-", "--", "---", "―", "—", "–", "ー", "na", "n/a", "n.a.", "nan", "null", "nil", "#n/a", "unknown", "missing",
        "not available", "not tested", "not done", "不明", "未検査", "未測定", "未実施", "未施行", "測定なし", "データなし",
        "該当なし", "未記載", "記載なし", "欠測", "欠損",
    ) for plain_ in (unicodedata.normalize("NFKC", word).casefold(),)
)  # fmt: skip
"""Cells that say "unknown" without being declared."""
DOUBTFUL_MISSING: Final = frozenset(
    (
        "?",
        "??",
        "...",
        "…",
        ".",
        "pending",
        "tbd",
        "測定不能",
        "検体不良",
        "判定不能",
        "結果待ち",
        "未報告",
        "調査中",
    )
)
"""Words that may mean "unknown": used only where declared."""
SUSPECT_NUMBERS: Final = frozenset(("999", "9999", "99999", "-1", "-9", "-99", "-999", "-9999"))
"""Numbers that programs write for "unknown": refused until the column declares what they mean."""
BELOW_WITHOUT_VALUE: Final = frozenset(
    map(plain, ("検出限界以下", "検出限界未満", "感度以下", "測定感度以下", "検出せず", "nd", "undetectable"))
)

_LINK_PARTS: Final = (
    "氏名", "姓名", "名前", "患者名", "フリガナ", "ふりがな", "カナ名", "患者id", "患者番号", "患者no", "患者コード", "カルテ", "診療録番号",
    "診察券", "生年月日", "誕生日", "住所", "電話", "携帯", "保険証", "保険者", "郵便番号", "メールアドレス", "対応表", "連結表", "マイナンバー",
    "個人番号", "来院番号", "病院id", "施設id", "イニシャル", "patientname", "fullname", "firstname", "lastname", "familyname",
    "givenname", "surname", "birthdate", "dateofbirth", "birthday", "chartno", "chartid", "chartnumber", "medicalrecord",
    "hospitalid", "hospitalno", "hospitalnumber", "homeaddress", "telephone", "phonenumber", "mobilephone", "emailaddress",
    "socialsecurity", "insuranceno", "insurancenumber", "postalcode", "zipcode", "linktable", "linkagetable", "initials",
)  # fmt: skip
_LINK_WORDS: Final = frozenset(
    (
        "name",
        "名",
        "姓",
        "カナ",
        "birth",
        "dob",
        "mrn",
        "address",
        "phone",
        "tel",
        "email",
        "mail",
        "ssn",
        "mobile",
        "住居",
        "pid",
    )
)
# Innocent in a public table whose columns are declared, look-alikes in any other.
SOFT_LINK_WORDS: Final = frozenset(
    (
        "patientid",
        "patientno",
        "patientnumber",
        "ptid",
        "subjectid",
        "studyid",
        "caseid",
        "id",
        "accessionnumber",
        "検査番号",
        "受付番号",
    )
)
_DATE_PARTS: Final = (
    "date",
    "年月日",
    "月日",
    "日付",
    "日時",
    "時刻",
    "timestamp",
    "受診日",
    "検査日",
    "診断日",
    "手術日",
    "採血日",
    "死亡日",
)


def links_persons(cell: str) -> bool:
    """Whether a cell is a header of a link table: a name, a chart number, a birth date … (T16)."""
    word = plain(cell)
    return len(word) <= 40 and (word in _LINK_WORDS or any(part in word for part in _LINK_PARTS))


def names_a_date(header: str) -> bool:
    """Whether a header announces dates."""
    word = plain(header)
    return any(part in word for part in _DATE_PARTS) or (len(word) <= 8 and word.endswith("日"))


KNOWN_WORDS: Final = frozenset().union(HEADERS, SEX, YES_NO, TREATMENT, PRIMARY, map(plain, MISSING))
"""Every word a table may hold, to tell a right decoding from a wrong one."""
