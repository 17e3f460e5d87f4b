"""The pictures of an evaluation: FROC, Bland–Altman, reliability, PIT histogram, and score against network evaluations.

Colors are those of Okabe & Ito, told apart without red and green; every method keeps its color in all pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.evaluation import scores as table
from diffusion_adc.evaluation.association import LIMITS, Moments
from diffusion_adc.evaluation.calibration import ECE_BINS
from diffusion_adc.evaluation.case import CaseResult
from diffusion_adc.evaluation.detection import FROC_RATES, curve_counts
from diffusion_adc.inference.recalibration import Recalibration
from diffusion_adc.inference.threshold import TDV_OFFSET_ML
from diffusion_adc.records.atomic import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Sequence[CaseResult | None]

LABELS: Final[dict[str, str]] = {
    table.MODEL: "presence flow", table.RULE: "B2 clinical rule", table.BASE_HEAD: "B3 base head",
    table.ORACLE: "Oracle",
}  # fmt: skip
COLORS: Final[dict[str, str]] = {
    table.MODEL: "#D55E00", table.RULE: "#999999", table.BASE_HEAD: "#0072B2", table.ORACLE: "#009E73",
}  # fmt: skip
_MORE: Final = ("#D55E00", "#0072B2", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
PIT_BINS: Final = 10
_DPI: Final = 150


def write_figures(
    folder: Path, results: Mapping[str, Results], recalibration: Mapping[str, Recalibration]
) -> list[Path]:
    """Draw the pictures of one evaluation; returns the files written."""
    known = {method: [r for r in results[method] if r is not None] for method in LABELS if method in results}
    model = known.get(table.MODEL, [])
    correction = recalibration.get(table.MODEL, Recalibration()).lesion
    pictures = {
        "froc": froc_figure({LABELS[m]: r for m, r in known.items() if m != table.RULE}),
        "bland_altman": bland_altman_figure(model),
        "reliability": reliability_figure(
            {LABELS[m]: r for m, r in known.items() if m != table.RULE}, model, correction
        ),
    }
    drawn = {LABELS[m]: r for m, r in known.items() if any(x.draws is not None for x in r)}
    if drawn:
        pictures["pit"] = pit_figure(drawn)
    return [save_figure(figure, folder / f"{name}.png") for name, figure in pictures.items()]


def color_of(label: str, place: int = 0) -> str:
    """The color of a method's label; of an unknown one by its place in the row."""
    for method, name in LABELS.items():
        if name == label:
            return COLORS[method]
    return _MORE[place % len(_MORE)]


def froc_figure(methods: Mapping[str, Sequence[CaseResult]]) -> Figure:
    """Lesion sensitivity against false positives per case, with each map's operating point."""
    figure, (axis,) = _figure(1, 5.2, 4.2)
    for place, (label, results) in enumerate(methods.items()):
        lesions = sum(r.matching.found.size for r in results)
        if not lesions:
            continue
        counts = curve_counts([r.found_confidence for r in results], [r.false_confidence for r in results])
        sensitivity = np.r_[0.0, counts.hits.sum(axis=0) / lesions]
        rate = np.r_[0.0, counts.false_positives.sum(axis=0) / len(results)]
        color = color_of(label, place)
        axis.plot(
            np.r_[np.maximum(rate, 0.02), 16.0], np.r_[sensitivity, sensitivity[-1]],
            drawstyle="steps-post", color=color, lw=1.8, label=label,
        )  # fmt: skip
        hits = sum(r.matching.hits for r in results) / lesions
        false = sum(r.matching.false_positives for r in results) / len(results)
        axis.plot([max(false, 0.02)], [hits], "o", color=color, ms=6, mec="white", clip_on=False, zorder=5)
    axis.set(
        xscale="log", xlim=(0.02, 16.0), ylim=(0.0, 1.02), xlabel="false positives per case",
        ylabel="lesion sensitivity", title="FROC (points: the maps as they are)",
    )  # fmt: skip
    axis.set_xticks([0.02, *FROC_RATES], ["≤ 0.02", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axis.minorticks_off()
    if axis.lines:
        axis.legend(loc="lower right", frameon=False)
    return figure


def bland_altman_figure(results: Sequence[CaseResult]) -> Figure:
    """Differences of the map from the readers' consensus against the mean of both, with bias and limits."""
    figure, (left, right) = _figure(2, 9.6, 4.2)
    tdv = np.log(np.array([[r.tdv_ml, r.tdv_reference_ml] for r in results]).reshape(-1, 2) + TDV_OFFSET_ML)
    free = np.array([r.tumor_free for r in results], dtype=bool)
    _bland_altman(left, tdv, free)
    left.set(title="TDV", xlabel="mean of map and readers, TDV + 0.1 (mL)", ylabel="ln(map) − ln(readers)")
    ticks = [
        t
        for t in (0.1, 0.3, 1, 3, 10, 30, 100, 300)
        if tdv.size and tdv.min() - 0.5 < np.log(t) < tdv.max() + 0.5
    ]
    left.set_xticks(np.log(ticks), [f"{t:g}" for t in ticks])
    gadc = np.array([[r.gadc, r.gadc_reference] for r in results]).reshape(-1, 2)
    held = np.isfinite(gadc).all(axis=1)
    _bland_altman(right, gadc[held], np.zeros(int(held.sum()), dtype=bool))
    right.set(
        title="global ADC", xlabel="mean of map and readers (10⁻³ mm²/s)", ylabel="map − readers (10⁻³ mm²/s)"
    )
    if free.any():
        left.legend(loc="best", frameon=False, fontsize=8)
    return figure


def _bland_altman(axis: Axes, pairs: NDArray[np.float64], free: NDArray[np.bool_]) -> None:
    if not len(pairs):
        axis.text(0.5, 0.5, "no case", ha="center", transform=axis.transAxes)
        return
    middle, difference = pairs.mean(axis=1), pairs[:, 0] - pairs[:, 1]
    axis.scatter(
        middle[~free], difference[~free], s=16, color=COLORS[table.MODEL], alpha=0.75, lw=0, label="tumor"
    )
    axis.scatter(
        middle[free],
        difference[free],
        s=18,
        facecolors="none",
        edgecolors="#555555",
        lw=0.9,
        label="tumor-free",
    )
    moments = Moments.of(pairs[:, 0], pairs[:, 1], np.ones(len(pairs)))
    low, high = moments.limits_of_agreement()
    for value, style, word in (
        (float(moments.bias), "-", "bias"), (float(low), "--", f"−{LIMITS} SD"), (float(high), "--", f"+{LIMITS} SD"),
    ):  # fmt: skip
        if np.isfinite(value):
            axis.axhline(value, color="black", lw=1.0, ls=style)
            axis.annotate(
                f"{word} {value:+.2f}".replace("-", "−"), (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=8, xytext=(-3, 2), textcoords="offset points",
            )  # fmt: skip
    axis.axhline(0.0, color="#BBBBBB", lw=0.8, zorder=0)
    axis.margins(y=0.15)


def reliability_figure(
    methods: Mapping[str, Sequence[CaseResult]], model: Sequence[CaseResult], correction: Any = None
) -> Figure:
    """Observed frequency against stated probability: of voxels by method, of whole regions before and after."""
    figure, (left, right) = _figure(2, 9.6, 4.4)
    for place, (label, results) in enumerate(methods.items()):
        sums = [
            np.sum([getattr(r.reliability, name) for r in results], axis=0)
            for name in ("voxels", "probability", "present")
        ]
        _curve(left, sums, label, color_of(label, place))
    left.set_title(f"voxels near tumor or map, {ECE_BINS} bins (area: √count)")
    p = np.concatenate([r.regions.probability for r in model] or [np.zeros(0)])
    y = np.concatenate([r.regions.meets for r in model] or [np.zeros(0)])
    shown = [("as drawn", p, COLORS[table.MODEL])]
    if correction is not None and p.size:
        shown.append(("recalibrated", correction(p), "#000000"))
    for label, q, color in shown:
        index = np.minimum((q * 10).astype(np.int64), 9)
        binned = [np.bincount(index, weights=w, minlength=10) for w in (np.ones(q.size), q, y)]
        _curve(right, binned, label, color)
    right.set_title(f"{p.size} regions of the map: is it a reader's lesion?")
    for axis in (left, right):
        axis.plot([0, 1], [0, 1], color="#BBBBBB", lw=0.8, zorder=0)
        axis.set(
            xlim=(0, 1), ylim=(0, 1), xlabel="stated probability", ylabel="observed frequency", aspect="equal"
        )
        if axis.collections:
            axis.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def _curve(axis: Axes, sums: Sequence[NDArray[np.generic]], label: str, color: str) -> None:
    count, stated, seen = (np.asarray(values, dtype=np.float64) for values in sums)
    full = count > 0
    x, y = stated[full] / count[full], seen[full] / count[full]
    size = 12.0 + 90.0 * np.sqrt(count[full] / count[full].max()) if full.any() else np.zeros(0)
    axis.plot(x, y, color=color, lw=1.2)
    axis.scatter(x, y, s=size, color=color, alpha=0.8, lw=0, label=label)


def pit_figure(methods: Mapping[str, Sequence[CaseResult]]) -> Figure:
    """Histograms of the randomized PIT of TDV: flat if the draws are honest, a U if they are too narrow."""
    figure, axes = _figure(len(methods), 4.4 * len(methods), 3.6)
    for place, (axis, (label, results)) in enumerate(zip(axes, methods.items(), strict=True)):
        # One reader per case: two readings of one case are not independent.
        pit = np.array([r.draws.pit[0] for r in results if r.draws is not None])
        axis.hist(pit, bins=PIT_BINS, range=(0, 1), color=color_of(label, place), alpha=0.85, rwidth=0.94)
        expected = pit.size / PIT_BINS
        room = 1.96 * np.sqrt(expected * (1.0 - 1.0 / PIT_BINS))
        axis.axhspan(max(0.0, expected - room), expected + room, color="#BBBBBB", alpha=0.5, zorder=0)
        axis.axhline(expected, color="black", lw=0.8)
        axis.set(
            title=f"{label}, {pit.size} cases", xlabel="randomized PIT of TDV", ylabel="cases", xlim=(0, 1)
        )
    return figure


def nfe_figure(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float, float | None, float | None]]]],
) -> Figure:
    """Scores against network evaluations per draw.

    Args:
        curves: By score, then by method: (evaluations, value, low95, high95) in ascending order.
    """
    figure, axes = _figure(len(curves), 4.6 * len(curves), 3.8)
    for axis, (score, methods) in zip(axes, curves.items(), strict=True):
        for place, (label, points) in enumerate(methods.items()):
            x = [p[0] for p in points]
            y = np.array([p[1] for p in points], dtype=np.float64)
            low = np.array([p[1] if p[2] is None else p[2] for p in points], dtype=np.float64)
            high = np.array([p[1] if p[3] is None else p[3] for p in points], dtype=np.float64)
            axis.errorbar(
                x, y, yerr=np.maximum([y - low, high - y], 0.0), color=_MORE[place % len(_MORE)], marker="o", ms=5,
                lw=1.6, capsize=3, label=label,
            )  # fmt: skip
        seen = sorted({p[0] for points in methods.values() for p in points})
        axis.set(xscale="log", xlabel="network evaluations per draw", ylabel=score)
        axis.set_xticks(seen, [str(n) for n in seen])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    return figure


def save_figure(figure: Figure, target: Path) -> Path:
    """Write a picture as PNG, whole or not at all, without any text field where a name could hide."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return target


def _figure(columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return figure, axes
