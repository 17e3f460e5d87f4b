"""The ingest report's words in English and Japanese."""

from __future__ import annotations

from typing import Final

WORDS: Final = {
    "en": {
        "title": "What was taken in",
        "provenance_synthetic": "Digital patients: simulated, no person's data",
        "provenance_public": "Public data",
        "provenance_restricted": "RESTRICTED: patient data inside, do not pass on",
        "counts": "{taken} cases in, {refused} refused.",
        "refused": "Refused",
        "warnings": "Warnings",
        "cases": "Cases",
        "legend": "One axial slice of every sequence, the patient's right on the left; the ADC map has the fixed "
        "window 0 to 3 × 10⁻³ mm²/s; red: the reader's tumor. A sequence in the wrong place is seen here.",
        "tumor": "tumor", "tumor_present": "present", "tumor_absent": "absent", "tumor_unknown": "unknown",
        "b": "b-values", "measured": "measured:", "unit": "ADC unit", "agreement": "recomputed ADC",
        "ratio": "median ratio", "slope": "slope", "scanner": "scanner", "overlap": "placement",
        "declared": "declared", "ignored": "left out", "split": "split", "warning": "warning",
        "no_picture": "The volumes cannot be read.",
    },
    "ja": {
        "title": "取り込みの結果",
        "provenance_synthetic": "デジタル患者：シミュレーションであり、実在の人のデータではありません",
        "provenance_public": "公開データ",
        "provenance_restricted": "取扱注意：患者データを含みます。第三者に渡さないでください",
        "counts": "取り込み {taken} 症例、拒否 {refused} 件。",
        "refused": "拒否された症例",
        "warnings": "警告",
        "cases": "症例",
        "legend": "各シーケンスの軸位断1枚（左側が患者の右）。ADCマップの表示範囲は 0–3 × 10⁻³ mm²/s に固定。"
        "赤線は読影者の腫瘍。シーケンスの取り違えはここで分かります。",
        "tumor": "腫瘍", "tumor_present": "あり", "tumor_absent": "なし", "tumor_unknown": "不明",
        "b": "b値", "measured": "実測：", "unit": "ADCの単位", "agreement": "再計算ADCとの一致",
        "ratio": "比の中央値", "slope": "傾き", "scanner": "装置", "overlap": "位置合わせ",
        "declared": "申告", "ignored": "使用しなかった系列", "split": "分割", "warning": "警告",
        "no_picture": "ボリュームを読み込めません。",
    },
}  # fmt: skip
