"""The printed results table and the verdict on the bars, from scores.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_adc.evaluation.bars import Bar, bars, format_bars
from diffusion_adc.evaluation.scores import (
    BASE_HEAD,
    EMPTY,
    MODEL,
    ORACLE,
    RULE,
    UNEDITED,
    Scores,
)

METHOD_NAMES: Final[Mapping[str, str]] = {
    EMPTY: "empty map",
    UNEDITED: "unedited ADC",
    RULE: "clinical rule",
    BASE_HEAD: "base head × ADC",
    MODEL: "presence flow",
    ORACLE: "complete reader model",
}

INTERVAL_NOTE: Final = "[95 % interval over persons, none where all replicates agree]"


@dataclass(frozen=True)
class Column:
    """A score's column: its key, heading with unit, decimals and the factor to the printed unit."""

    key: str
    heading: str
    decimals: int = 2
    factor: float = 1.0


@dataclass(frozen=True)
class Block:
    """A titled table of text cells; the first column names the method."""

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


DETECTION_COLUMNS: Final = (
    Column("lesion_f1", "lesion F1"),
    Column("lesion_sensitivity", "sensitivity"),
    Column("lesion_precision", "precision"),
    Column("lesion_ap", "AP"),
    Column("fp_per_case", "FP per case", 1),
    Column("fp_volume_ml", "FP volume (mL)", 1),
    Column("fp_volume_reduction_vs_B2", "FP cut vs B2 (%)", 0, 100.0),
    Column("volume_sensitivity", "vol. sens. (%)", 0, 100.0),
)
QUANTITY_COLUMNS: Final = (
    Column("dice", "Dice"),
    Column("nsd_1voxel", "NSD 1 voxel"),
    Column("hd95", "HD95 (mm)", 1),
    Column("log_tdv_error", "|Δ ln TDV|"),
    Column("gadc_error", "gADC error (%)", 1),
    Column("brier", "Brier", 3),
    Column("ece", "ECE", 3),
    Column("value_violations", "violations (voxels)", 0),
)
DRAW_COLUMNS: Final = (
    Column("tdv_crps", "TDV CRPS (mL)", 2),
    Column("tdv_coverage80", "80 % coverage (%)", 0, 100.0),
    Column("tdv_coverage80_informative", "…of non-zero (%)", 0, 100.0),
    Column("tdv_width80", "80 % width (mL)", 1),
    Column("seed_cov_tdv", "half-to-half CoV (%)", 1),
)
CALIBRATED_COLUMNS: Final = (
    Column("tdv_coverage80_calibrated", "TDV coverage (%)", 0, 100.0),
    Column("tdv_width80_calibrated", "TDV width (mL)", 1),
    Column("gadc_coverage80_calibrated", "gADC coverage (%)", 0, 100.0),
    Column("gadc_width80_calibrated", "gADC width", 2),
    Column("region_ece", "region ECE as drawn", 3),
    Column("region_ece_calibrated", "region ECE", 3),
    Column("miss_rate_controlled", "missed at ≤ 10 % (%)", 0, 100.0),
    Column("fp_at_controlled_miss_rate", "FP there", 1),
)
AGREEMENT_COLUMNS: Final = (
    Column("tdv_log_bias", "ln TDV bias"),
    Column("tdv_log_icc", "ln TDV ICC(2,1)"),
    Column("tdv_log_ccc", "ln TDV CCC"),
    Column("gadc_bias", "gADC bias", 3),
    Column("gadc_icc", "gADC ICC(2,1)"),
    Column("gadc_ccc", "gADC CCC"),
    Column("lesion_brier", "lesion Brier", 3),
    Column("energy_distance", "energy distance", 3),
)
STRATA_COLUMNS: Final = (
    Column("lesion_sensitivity_lt0.2ml", "< 0.2 mL"),
    Column("lesion_sensitivity_0.2-1ml", "0.2–1 mL"),
    Column("lesion_sensitivity_1-5ml", "1–5 mL"),
    Column("lesion_sensitivity_ge5ml", "≥ 5 mL"),
    Column("froc_0.5_ge1ml", "≥ 1 mL at 0.5 FP"),
    Column("patient_sensitivity", "per patient"),
    Column("specificity_0ml", "free at 0 mL (%)", 0, 100.0),
    Column("specificity_1ml", "free at 1 mL (%)", 0, 100.0),
)
GRADE_COLUMNS: Final = (
    Column("grade_lesions", "lesions", 0),
    Column("grade_auroc_median", "AUROC median"),
    Column("grade_auroc_p10", "AUROC p10"),
    Column("grade_auroc_share_0.4-0.9", "AUROC share 0.4–0.9"),
    Column("grade_spearman_median", "Spearman median"),
    Column("grade_spearman_p10", "Spearman p10"),
)
BLOCKS: Final = (
    ("Detection", DETECTION_COLUMNS),
    ("Quantities", QUANTITY_COLUMNS),
    ("Intervals of the draws", DRAW_COLUMNS),
    ("Recalibrated on validation cases", CALIBRATED_COLUMNS),
    ("Agreement with the readers' consensus", AGREEMENT_COLUMNS),
    ("Lesion sensitivity by volume, and cases without tumor", STRATA_COLUMNS),
    ("Grade of untreated lesions", GRADE_COLUMNS),
)


def table_blocks(scores: Mapping[str, Scores]) -> list[Block]:
    """The results as text cells ``value [low, high]``, one row per method.

    A method without any defined score in a block has no row there; a block without rows is left out.
    """
    blocks: list[Block] = []
    for title, columns in BLOCKS:
        rows = []
        for method in _ordered(scores):
            cells = [cell(scores[method].get(column.key), column) for column in columns]
            if any(text != "–" for text in cells):
                rows.append((_label(method), *cells))
        if rows:
            blocks.append(Block(title, ("method", *(c.heading for c in columns)), tuple(rows)))
    return blocks


def format_table(scores: Mapping[str, Scores]) -> str:
    """The results as plain text: blocks of aligned columns under the number of cases.

    Every interval is the 95 % bootstrap interval over persons.
    """
    lines = [f"{_cases(scores)}; {INTERVAL_NOTE}"]
    for block in table_blocks(scores):
        lines += ["", block.title, *aligned([block.heading, *block.rows])]
    return "\n".join(lines)


def aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table with a ruled heading, the first column to the left and the others to the right."""
    width = [max(len(row[c]) for row in table) for c in range(len(table[0]))]
    lines = []
    for number, row in enumerate(table):
        cells = [row[0].ljust(width[0]), *(c.rjust(w) for c, w in zip(row[1:], width[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * w for w in width))
    return lines


def format_markdown(scores: Mapping[str, Scores]) -> str:
    """The same blocks as Markdown tables."""
    parts = [f"{_cases(scores)}; {INTERVAL_NOTE}"]
    for block in table_blocks(scores):
        lines = [
            f"**{block.title}**",
            "",
            _bar(block.heading),
            _bar(["---"] + ["---:"] * (len(block.heading) - 1)),
        ]
        parts.append("\n".join(lines + [_bar(row) for row in block.rows]))
    return "\n\n".join(parts) + "\n"


def verdicts(scores: Mapping[str, Scores]) -> list[Bar]:
    """The model against its bars (`bars.bars`), whichever way they fall."""
    return bars(scores)


def format_verdicts(scores: Mapping[str, Scores]) -> str:
    """The verdicts as lines of text: reached, missed, or – where there is no judgment."""
    return format_bars(bars(scores))


def _ordered(scores: Mapping[str, Scores]) -> list[str]:
    known = [method for method in METHOD_NAMES if method in scores]
    return known + sorted(set(scores) - set(known))


def _label(method: str) -> str:
    name = METHOD_NAMES.get(method)
    return name if method == MODEL and name else f"{method} {name}" if name else method


def _cases(scores: Mapping[str, Scores]) -> str:
    count = max((int(s["n_cases"]["value"] or 0) for s in scores.values()), default=0)
    return f"{count} case" if count == 1 else f"{count} cases"


def cell(score: Mapping[str, float | None] | None, column: Column) -> str:
    """``value [low, high]`` in the column's unit; a dash where it is undefined."""
    if score is None or score["value"] is None:
        return "–"

    def number(value: float) -> str:
        text = f"{value * column.factor:.{column.decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text

    low, high = score["low95"], score["high95"]
    if low is None or high is None or low == high == score["value"]:
        return number(score["value"])
    return f"{number(score['value'])} [{number(low)}, {number(high)}]"


def _bar(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
