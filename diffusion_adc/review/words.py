"""The pages' words in English and Japanese."""

from __future__ import annotations

from typing import Final

WORDS: Final = {
    "en": {
        "title": "Tumor-specific ADC maps",
        "research": "research use only, not for diagnosis",
        "provenance_synthetic": "Digital patients: simulated, no person's data",
        "provenance_public": "Public data",
        "provenance_restricted": "RESTRICTED: patient data inside, do not pass on",
        "scores": "Scores",
        "not_scored": "Not scored yet: run diffusion-adc evaluate.",
        "bars": "Bars",
        "cases": "Cases",
        "interval": "Value of the map [80 % interval of the draws].",
        "case": "case",
        "status": "tumor",
        "tdv": "Total diffusion volume",
        "gadc": "global ADC",
        "tdv_column": "TDV (mL)",
        "gadc_column": "gADC (10⁻³ mm²/s)",
        "lesions": "lesions",
        "flags": "flags",
        "bands": "by ADC band:",
    },
    "ja": {
        "title": "腫瘍特異的ADCマップ",
        "research": "研究用途のみ、診断には使用できません",
        "provenance_synthetic": "デジタル患者：シミュレーションであり、実在の人のデータではありません",
        "provenance_public": "公開データ",
        "provenance_restricted": "取扱注意：患者データを含みます。第三者に渡さないでください",
        "scores": "評価",
        "not_scored": "未評価です。diffusion-adc evaluate を実行してください。",
        "bars": "目標との比較",
        "cases": "症例",
        "interval": "マップの値［サンプルの80 %区間］。",
        "case": "症例",
        "status": "腫瘍",
        "tdv": "総拡散体積",
        "gadc": "全体ADC",
        "tdv_column": "TDV (mL)",
        "gadc_column": "gADC (10⁻³ mm²/s)",
        "lesions": "病変数",
        "flags": "注意",
        "bands": "ADC帯域別：",
    },
}
