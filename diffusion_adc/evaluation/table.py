"""The printed results table and the verdict on the bars, from scores.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

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

FP_REDUCTION_BAR: Final = 0.80
"""False-positive volume to be cut against the clinical rule."""
SENSITIVITY_BAR: Final = 0.90
"""Share of the clinical rule's volume sensitivity to be kept."""


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
BLOCKS: Final = (
    ("Detection", DETECTION_COLUMNS),
    ("Quantities", QUANTITY_COLUMNS),
    ("Intervals of the draws", DRAW_COLUMNS),
)


def table_blocks(scores: Mapping[str, Scores]) -> list[Block]:
    """The results as text cells ``value [low, high]``, one row per method.

    A method without any defined score in a block has no row there; a block without rows is left out.
    """
    blocks: list[Block] = []
    for title, columns in BLOCKS:
        rows = []
        for method in _ordered(scores):
            cells = [_cell(scores[method].get(column.key), column) for column in columns]
            if any(cell != "–" for cell in cells):
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
        table = [block.heading, *block.rows]
        width = [max(len(row[c]) for row in table) for c in range(len(block.heading))]
        lines += ["", block.title]
        for number, row in enumerate(table):
            cells = [
                row[0].ljust(width[0]),
                *(cell.rjust(w) for cell, w in zip(row[1:], width[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
            if number == 0:
                lines.append("  ".join("-" * w for w in width))
    return "\n".join(lines)


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


@dataclass(frozen=True)
class Verdict:
    """One bar: what was asked, what was measured, whether it was reached (None: could not be judged)."""

    asked: str
    measured: str
    reached: bool | None


def verdicts(scores: Mapping[str, Scores]) -> list[Verdict]:
    """The model against its bars, whichever way they fall.

    False-positive volume cut by at least 80 % against the clinical rule (B2) while at least 90 % of its
    volume sensitivity is kept; lesion F1 above the rule's and not below the interval of the base head (B3);
    no value violation. Coverage is reported without a bar. Where the oracle was scored, what it reaches
    stands beside each figure: no model can do better than the complete law of the readers.
    """

    def of(method: str, key: str, part: str = "value") -> float | None:
        return scores.get(method, {}).get(key, {}).get(part)

    cut = of(MODEL, "fp_volume_reduction_vs_B2")
    kept, rule_kept = of(MODEL, "volume_sensitivity"), of(RULE, "volume_sensitivity")
    share = _quotient(kept, rule_kept)

    def beside(value: float | None, form: str) -> str:
        return "" if value is None else f" (Oracle {form.format(value)})"

    best_share = _quotient(of(ORACLE, "volume_sensitivity"), rule_kept)
    f1, rule_f1, head_low = of(MODEL, "lesion_f1"), of(RULE, "lesion_f1"), of(BASE_HEAD, "lesion_f1", "low95")
    wrong = of(MODEL, "value_violations")
    coverage = of(MODEL, "tdv_coverage80")
    return [
        Verdict(
            f"false-positive volume cut ≥ {FP_REDUCTION_BAR:.0%} against the clinical rule",
            _shown(cut, "{:.1%}") + beside(of(ORACLE, "fp_volume_reduction_vs_B2"), "{:.1%}"),
            None if cut is None else cut >= FP_REDUCTION_BAR,
        ),
        Verdict(
            f"volume sensitivity ≥ {SENSITIVITY_BAR:.0%} of the clinical rule's",
            _shown(share, "{:.1%}") + beside(best_share, "{:.1%}"),
            None if share is None else share >= SENSITIVITY_BAR,
        ),
        Verdict(
            "lesion F1 above the clinical rule's",
            f"{_shown(f1, '{:.3f}')} against {_shown(rule_f1, '{:.3f}')}"
            + beside(of(ORACLE, "lesion_f1"), "{:.3f}"),
            None if f1 is None or rule_f1 is None else f1 > rule_f1,
        ),
        Verdict(
            "lesion F1 not below the base head's interval",
            f"{_shown(f1, '{:.3f}')} against a lower end of {_shown(head_low, '{:.3f}')}",
            None if f1 is None or head_low is None else f1 >= head_low,
        ),
        Verdict("no value violation", _shown(wrong, "{:.0f} voxels"), None if wrong is None else wrong == 0),
        Verdict(
            "80 % TDV interval coverage, as it is",
            _shown(coverage, "{:.1%}") + beside(of(ORACLE, "tdv_coverage80"), "{:.1%}"),
            None,
        ),
    ]


def format_verdicts(scores: Mapping[str, Scores]) -> str:
    """The verdicts as lines of text: reached, missed, or – where there is no judgment."""
    mark = {True: "reached", False: "missed ", None: "–      "}
    return "\n".join(f"{mark[v.reached]}  {v.asked}: {v.measured}" for v in verdicts(scores))


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _ordered(scores: Mapping[str, Scores]) -> list[str]:
    known = [method for method in METHOD_NAMES if method in scores]
    return known + sorted(set(scores) - set(known))


def _label(method: str) -> str:
    name = METHOD_NAMES.get(method)
    return name if method == MODEL and name else f"{method} {name}" if name else method


def _cases(scores: Mapping[str, Scores]) -> str:
    count = max((int(s["n_cases"]["value"] or 0) for s in scores.values()), default=0)
    return f"{count} case" if count == 1 else f"{count} cases"


def _cell(score: Mapping[str, float | None] | None, column: Column) -> str:
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
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: float | None, form: str) -> str:
    return "undefined" if value is None else form.format(value)
