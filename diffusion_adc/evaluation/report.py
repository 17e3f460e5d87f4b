"""A comparison as text and as plain JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusion_adc.evaluation.bars import bars, format_bars
from diffusion_adc.evaluation.comparison import DIFFERENCES, HIGHER_IS_BETTER, Arena, Comparison, Difference
from diffusion_adc.evaluation.figures import nfe_figure, save_figure
from diffusion_adc.evaluation.reference import ARMS
from diffusion_adc.evaluation.scores import MODEL, Scores
from diffusion_adc.evaluation.strata import SIZES
from diffusion_adc.evaluation.table import INTERVAL_NOTE, Column, aligned, cell
from diffusion_adc.evaluation.verdict import arm_bars, decide, format_decision

NAMES: Final = {
    "B0": "empty map", "B1": "unedited ADC", "B2": "clinical rule", "B3": "base head × ADC",
    "B4a": "checkpoint ensemble", "B4b": "one coin per component of B3", "B4c": "low-rank stochastic head",
    "B5": "one-step regression", "B6": "free latent diffusion of ADC", "B7": "gated flow, KL codec",
    "B8": "gated flow, Haar codec", "nnunet": "nnU-Net × ADC", "Oracle": "complete reader model",
}  # fmt: skip

BLOCKS: Final = (
    ("Detection", (
        Column("lesion_f1", "lesion F1"), Column("lesion_sensitivity", "sensitivity"), Column("lesion_ap", "AP"),
        Column("froc_0.5_ge1ml", "sens. ≥ 1 mL at 0.5 FP"), Column("fp_per_case", "FP per case"),
        Column("fp_volume_ml", "FP volume (mL)", 1), Column("volume_sensitivity", "vol. sens. (%)", 0, 100.0),
    )),
    ("Quantities", (
        Column("dice", "Dice"), Column("nsd_1voxel", "NSD 1 voxel"), Column("log_tdv_error", "|Δ ln TDV|"),
        Column("log_tdv_error_consensus_median", "…median, consensus"), Column("gadc_error", "gADC error (%)", 1),
        Column("value_violations", "violations (voxels)", 0),
    )),
    ("Probabilities and intervals; TDV CRPS without draws is the absolute error", (
        Column("tdv_crps", "TDV CRPS (mL)"), Column("lesion_brier", "lesion Brier", 3),
        Column("tdv_coverage80", "80 % coverage (%)", 0, 100.0), Column("tdv_width80", "width (mL)", 1),
        Column("tdv_coverage80_calibrated", "…recalibrated (%)", 0, 100.0),
        Column("tdv_width80_calibrated", "width (mL)", 1), Column("seed_cov_tdv", "half-to-half CoV (%)", 1),
    )),
)  # fmt: skip
_ARM_BLOCK: Final = tuple(Column(f"crps_{arm}", f"{arm} (mL)") for arm in ARMS) + tuple(
    Column(f"case_crps_{arm}", f"{arm}, whole case (mL)") for arm in ARMS
)
_SIZE_BLOCK: Final = tuple(Column(f"lesion_sensitivity_{size}", size) for size in SIZES)
_NFE_SCORES: Final = {"tdv_crps": "TDV CRPS (mL)", "lesion_f1": "lesion F1", "dice": "Dice"}


def format_comparison(comparison: Comparison) -> str:
    """Tables of every cohort, the flow's paired differences, bars and verdict."""
    parts = []
    for arena in comparison.arenas:
        parts.append(
            f"{arena.name}, {arena.kind}: {arena.cases} cases of {arena.persons} persons; {INTERVAL_NOTE}"
        )
        parts += [_block(arena, title, columns) for title, columns in BLOCKS]
        if any(arena.arm_cases.values()):
            count = ", ".join(f"{arm} in {n} cases" for arm, n in arena.arm_cases.items())
            parts.append(_block(arena, f"TDV CRPS by planted ambiguity ({count})", _ARM_BLOCK))
        parts.append(_block(arena, "Lesion sensitivity by size", _SIZE_BLOCK))
        parts.append(_spread(arena))
        parts.append(_differences(comparison, arena))
        parts.append(f"Bars, {arena.name}\n" + format_bars(bars(_scores_for_bars(comparison, arena))))
        parts.append(_rerun(comparison, arena))
    arms = arm_bars(comparison)
    if arms:
        parts.append("Bars against the best B4\n" + format_bars(arms))
    parts.append(format_decision(decide(comparison), comparison.flow))
    return "\n\n".join(part for part in parts if part)


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """The same as plain JSON."""
    decision = decide(comparison)
    return {
        "flow": comparison.flow,
        "cohorts": [
            {
                "cohort": arena.name,
                "kind": arena.kind,
                "cases": arena.cases,
                "persons": arena.persons,
                "cases_by_ambiguity": dict(arena.arm_cases),
                "methods": {
                    label: {
                        "training_seeds": m.seeds,
                        "steps": m.steps,
                        "network_evaluations": m.evaluations,
                        "draws": m.draws,
                        "scores": {
                            key: e.summary() for key, e in sorted(m.estimates.items()) if np.isfinite(e.value)
                        },
                        "spread_over_training_seeds": dict(sorted(m.spread.items())),
                        "tdv_cov_of_two_sampling_seeds": None if m.rerun_cov is None else m.rerun_cov.summary(),
                    }
                    for label, m in arena.methods.items()
                },
                "differences": [
                    {"rival": d.rival, "score": d.key, **d.estimate.summary(), "p_holm": d.p}
                    for d in comparison.differences(arena)
                ],
                "bars": [_bar(bar) for bar in bars(_scores_for_bars(comparison, arena))],
            }
            for arena in comparison.arenas
        ],
        "bars_against_B4": [_bar(bar) for bar in arm_bars(comparison)],
        "verdict": {
            "stays_default": decision.stays,
            "pooling": decision.pooling,
            "caveat": decision.caveat,
            "criteria": [
                {
                    "score": c.key, "rival": c.rival, "difference": c.difference.summary(), "better": c.better,
                    "lesion_f1_difference": c.f1.summary(), "lesion_f1_kept": c.f1_kept, "met": c.met,
                }
                for c in decision.criteria
            ],
        },
    }  # fmt: skip


def nfe_picture(comparison: Comparison, folder: Path) -> Path | None:
    """Draw score against network evaluations where a method was drawn with several; returns the file."""
    arena = comparison.arenas[0]
    series: dict[str, list[str]] = {}
    for label, method in arena.methods.items():
        if method.evaluations is not None and label.endswith(" steps"):
            series.setdefault(label.rsplit(" ", 2)[0], []).append(label)
    if not series:
        return None
    curves: dict[str, dict[str, list[tuple[int, float, float | None, float | None]]]] = {}
    for key, word in _NFE_SCORES.items():
        for name, labels in series.items():
            points = []
            for label in labels:
                method = arena.methods[label]
                s = method.estimates[key].summary()
                if s["value"] is not None and method.evaluations is not None:
                    points.append((method.evaluations, s["value"], s["low95"], s["high95"]))
            curves.setdefault(word, {})[name] = sorted(points)
    return save_figure(nfe_figure(curves), folder / "nfe.png")


def _bar(bar: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(bar).items() if key != "form"}


def _scores_for_bars(comparison: Comparison, arena: Arena) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for label, method in arena.methods.items():
        name = MODEL if label == comparison.flow else label
        found[name] = {key: e.summary() for key, e in method.estimates.items()}
    found[MODEL]["n_cases"] = {"value": float(arena.cases), "low95": None, "high95": None}
    return found


def _label(label: str) -> str:
    name = NAMES.get(label.split(" ")[0])
    return f"{label} {name}" if name else label


def _block(arena: Arena, title: str, columns: tuple[Column, ...]) -> str:
    rows: list[tuple[str, ...]] = [("method", *(c.heading for c in columns))]
    for label, method in arena.methods.items():
        cells = []
        for column in columns:
            estimate = method.estimates.get(column.key)
            cells.append(cell(None if estimate is None else estimate.summary(), column))
        if any(text != "–" for text in cells):
            rows.append((_label(label), *cells))
    return "\n".join([title, *aligned(rows)]) if len(rows) > 1 else ""


def _spread(arena: Arena) -> str:
    keys = ("lesion_f1", "dice", "log_tdv_error", "tdv_crps", "lesion_brier")
    rows: list[tuple[str, ...]] = [("method", "seeds", *keys)]
    for label, method in arena.methods.items():
        if method.seeds > 1:
            rows.append(
                (label, str(method.seeds), *(f"{method.spread.get(k, float('nan')):.3f}" for k in keys))
            )
    return "\n".join(["Standard deviation over training seeds", *aligned(rows)]) if len(rows) > 1 else ""


def _differences(comparison: Comparison, arena: Arena) -> str:
    found = comparison.differences(arena)
    if not found:
        return ""
    rows: list[tuple[str, ...]] = [("score", "rival", "difference [95 %]", "p (Holm)", "")]
    for key in DIFFERENCES:
        for d in (d for d in found if d.key == key):
            s = d.estimate.summary()
            text = f"{s['value']:+.3f}"
            if s["low95"] is not None:
                text += f" [{s['low95']:+.3f}, {s['high95']:+.3f}]"
            rows.append((key, d.rival, text, "–" if d.p is None else f"{d.p:.4f}", _better(d)))
    return "\n".join([f"{comparison.flow} minus each rival, paired by person", *aligned(rows)])


def _better(d: Difference) -> str:
    s = d.estimate.summary()
    if s["low95"] is None or s["high95"] is None or s["low95"] <= 0.0 <= s["high95"]:
        return ""
    return "better" if (s["low95"] > 0.0) == (d.key in HIGHER_IS_BETTER) else "worse"


def _rerun(comparison: Comparison, arena: Arena) -> str:
    found = [(label, m.rerun_cov) for label, m in arena.methods.items() if m.rerun_cov is not None]
    if not found:
        return ""
    lines = ["TDV coefficient of variation between two sampling seeds"]
    for label, cov in found:
        s = cov.summary()
        interval = "" if s["low95"] is None else f" [{s['low95']:.1f}, {s['high95']:.1f}]"
        lines.append(f"{_label(label)}: {cov.value:.1f} %{interval}")
    own = dict(found).get(comparison.flow)
    best = dict(found).get("Oracle")
    if own is not None and best is not None and best.value > 0:
        ratio = own.value / best.value
        lines.append(
            f"{'reached' if ratio <= 1.2 else 'missed '}  no more than 1.2 × the Oracle's: {ratio:.2f} ×"
        )
    return "\n".join(lines)
