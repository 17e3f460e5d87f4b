"""The bars a model is held to, printed whichever way they fall, each beside what the complete reader model reaches.

A bar is reached at its absolute figure or within 10 % of the Oracle's, whichever is easier: where readers disagree even
the complete law of the readers misses an absolute figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from diffusion_adc.evaluation.scores import BASE_HEAD, MODEL, ORACLE, RULE, Scores

ORACLE_ROOM: Final = 0.10
"""How far from the Oracle a bar may still be called reached."""

FP_REDUCTION_BAR: Final = 0.90
"""False-positive volume to be cut against the clinical rule."""
SENSITIVITY_BAR: Final = 0.95
"""Share of the clinical rule's volume sensitivity to be kept, and of the lesions ≥ 1 mL to be found."""
LOG_TDV_BAR: Final = 0.05
GADC_BAR: Final = 3.0
"""Percent."""
COVERAGE_BAND: Final = (0.75, 0.85)
COVERAGE_CASES: Final = 200
"""Below this number of cases a coverage says too little to be claimed."""
SEED_COV_RATIO: Final = 1.2


@dataclass(frozen=True)
class Bar:
    """One bar and what was measured.

    Attributes:
        asked: In words.
        value: Measured; None where undefined.
        low95, high95: Its interval.
        oracle: What the complete reader model reaches.
        threshold: The figure in force, the easier of the absolute one and the Oracle's with its 10 % room.
        reached: None where it cannot be judged.
        missed_by: How far off, in the unit of the value; 0 where reached.
        note: What else a reader must know.
        form: How figures are printed.
    """

    asked: str
    value: float | None
    low95: float | None
    high95: float | None
    oracle: float | None
    threshold: float | None
    reached: bool | None
    missed_by: float | None
    note: str = ""
    form: str = "{:.3f}"

    @property
    def measured(self) -> str:
        """Value, interval, Oracle and distance on one line."""

        def shown(value: float | None) -> str:
            return "undefined" if value is None else self.form.format(value)

        text = shown(self.value)
        if self.low95 is not None and self.high95 is not None and not self.low95 == self.high95 == self.value:
            text += f" [{shown(self.low95)}, {shown(self.high95)}]"
        if self.oracle is not None:
            text += f" (Oracle {shown(self.oracle)})"
        if self.reached is False and self.missed_by:
            text += f", missed by {shown(self.missed_by)}"
        return text + (f"; {self.note}" if self.note else "")


def at_least(
    asked: str, bar: float, score: Mapping[str, float | None], oracle: float | None, form: str = "{:.1%}"
) -> Bar:
    """A bar that the value must not stay below."""
    threshold = bar if oracle is None else min(bar, (1.0 - ORACLE_ROOM) * oracle)
    return _bar(asked, bar, threshold, score, oracle, form, sign=1.0)


def at_most(
    asked: str, bar: float, score: Mapping[str, float | None], oracle: float | None, form: str = "{:.3f}"
) -> Bar:
    """A bar that the value must not exceed."""
    threshold = bar if oracle is None else max(bar, (1.0 + ORACLE_ROOM) * oracle)
    return _bar(asked, bar, threshold, score, oracle, form, sign=-1.0)


def _bar(
    asked: str,
    bar: float,
    threshold: float,
    score: Mapping[str, float | None],
    oracle: float | None,
    form: str,
    sign: float,
) -> Bar:
    value = score.get("value")
    short = None if value is None else max(0.0, sign * (threshold - value))
    reached = None if short is None else short <= 1e-12
    eased = f"bar in force {form.format(threshold)}" if abs(threshold - bar) > 1e-12 else ""
    return Bar(
        asked, value, score.get("low95"), score.get("high95"), oracle, threshold, reached, short, eased, form
    )


def bars(scores: Mapping[str, Scores]) -> list[Bar]:
    """The model against every bar that one folder of maps can be held to.

    Against the clinical rule (B2): false-positive volume and volume sensitivity; sensitivity for lesions of at least
    1 mL at 0.5 false positives per case; medians of the log-TDV and global ADC errors against the readers' consensus;
    fidelity; coverage of the recalibrated interval; seed-to-seed variation; lesion F1 beside rule and base head. What
    needs rivals is judged by `comparison`.
    """

    def of(method: str, key: str) -> Mapping[str, float | None]:
        return scores.get(method, {}).get(key, {})

    def oracle(key: str) -> float | None:
        return of(ORACLE, key).get("value")

    log_tdv = at_most(
        f"median |Δ ln TDV| ≤ {LOG_TDV_BAR} against the readers' consensus",
        LOG_TDV_BAR, of(MODEL, "log_tdv_error_consensus_median"), oracle("log_tdv_error_consensus_median"),
    )  # fmt: skip
    drawn = of(MODEL, "log_tdv_error_draws_median").get("value")
    if drawn is not None:
        note = f"{drawn:.3f} for the draws' median TDV"
        log_tdv = replace(log_tdv, note="; ".join(part for part in (log_tdv.note, note) if part))
    found = [
        at_least(
            f"false-positive volume cut ≥ {FP_REDUCTION_BAR:.0%} against the clinical rule",
            FP_REDUCTION_BAR, of(MODEL, "fp_volume_reduction_vs_B2"), oracle("fp_volume_reduction_vs_B2"),
        ),
        at_least(
            f"volume sensitivity ≥ {SENSITIVITY_BAR:.0%} of the clinical rule's",
            SENSITIVITY_BAR, of(MODEL, "volume_sensitivity_vs_B2"), oracle("volume_sensitivity_vs_B2"),
        ),
        at_least(
            f"sensitivity ≥ {SENSITIVITY_BAR:.0%} for lesions ≥ 1 mL at ≤ 0.5 false positives per case",
            SENSITIVITY_BAR, of(MODEL, "froc_0.5_ge1ml"), oracle("froc_0.5_ge1ml"),
        ),
        log_tdv,
        at_most(
            f"median gADC error ≤ {GADC_BAR:g} % against the readers' consensus",
            GADC_BAR, of(MODEL, "gadc_error_consensus_median"), oracle("gadc_error_consensus_median"), "{:.2f} %",
        ),
        at_most("no value violation", 0.0, of(MODEL, "value_violations"), None, "{:.0f} voxels"),
        _coverage(scores),
        _seeds(of(MODEL, "seed_cov_tdv"), oracle("seed_cov_tdv")),
    ]  # fmt: skip
    f1, rule_f1 = of(MODEL, "lesion_f1"), of(RULE, "lesion_f1").get("value")
    head_low = of(BASE_HEAD, "lesion_f1").get("low95")
    for asked, other in (("lesion F1 above the clinical rule's", rule_f1), ("lesion F1 not below the base head's interval", head_low)):  # fmt: skip
        value = f1.get("value")
        short = None if value is None or other is None else max(0.0, other - value)
        reached = None if short is None else short == 0.0
        note = "" if other is None else f"against {other:.3f}"
        found.append(
            Bar(
                asked,
                value,
                f1.get("low95"),
                f1.get("high95"),
                oracle("lesion_f1"),
                other,
                reached,
                short,
                note,
            )
        )
    return found


def _coverage(scores: Mapping[str, Scores]) -> Bar:
    model = scores.get(MODEL, {})
    low, high = COVERAGE_BAND
    score = model.get("tdv_coverage80_calibrated", {})
    value = score.get("value")
    cases = int(model.get("n_cases", {}).get("value") or 0)
    raw = model.get("tdv_coverage80", {}).get("value")
    exact = model.get("tdv_coverage80_calibrated_exact", {})
    notes = [f"{cases} cases" + (f", fewer than {COVERAGE_CASES}" if cases < COVERAGE_CASES else "")]
    if raw is not None:
        notes.append(f"{raw:.1%} as drawn")
    if exact.get("value") is not None:
        notes.append(
            f"first readers {exact['value']:.1%}, exact interval {exact['low95']:.1%} to {exact['high95']:.1%}"
        )
    width, wide = (model.get(key, {}).get("value") for key in ("tdv_width80", "tdv_width80_calibrated"))
    best = scores.get(ORACLE, {}).get("tdv_width80", {}).get("value")
    if wide is not None:
        beside = "" if width is None else f" against {width:.2f} as drawn"
        ratio = "" if not best else f", {wide / best:.2f} of the Oracle's"
        notes.append(f"width {wide:.2f} mL{beside}{ratio}")
    short = None if value is None else max(0.0, low - value, value - high)
    reached: bool | None = None if short is None else short == 0.0
    if reached and cases < COVERAGE_CASES:
        reached = None  # inside the band, but so few cases cannot show it
    oracle = scores.get(ORACLE, {}).get("tdv_coverage80", {}).get("value")
    return Bar(
        f"recalibrated 80 % TDV interval covers {low:.0%} to {high:.0%} on ≥ {COVERAGE_CASES} cases",
        value, score.get("low95"), score.get("high95"), oracle, low, reached, short, "; ".join(notes), "{:.1%}",
    )  # fmt: skip


def _seeds(score: Mapping[str, float | None], oracle: float | None) -> Bar:
    value = score.get("value")
    threshold = None if oracle is None else SEED_COV_RATIO * oracle
    short = None if value is None or threshold is None else max(0.0, value - threshold)
    return Bar(
        f"seed-to-seed TDV CoV ≤ {SEED_COV_RATIO} × the Oracle's", value, score.get("low95"), score.get("high95"), oracle,
        threshold, None if short is None else short == 0.0, short, "between disjoint halves of the draws", "{:.1f} %",
    )  # fmt: skip


def bar_records(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """The bars as plain JSON."""
    return [{k: v for k, v in asdict(bar).items() if k != "form"} for bar in bars(scores)]


def format_bars(found: list[Bar]) -> str:
    """Lines of text: reached, missed, or – where there is no judgment."""
    mark = {True: "reached", False: "missed ", None: "–      "}
    return "\n".join(f"{mark[bar.reached]}  {bar.asked}: {bar.measured}" for bar in found)
