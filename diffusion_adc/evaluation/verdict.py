"""The verdict fixed beforehand: does drawing presence beat the best rival that also states its uncertainty?

The flow stays the default only where it beats the best B4 on TDV CRPS or on the Brier score of lesion presence (paired
bootstrap over persons, the 95 % interval of the difference excludes 0) with a lesion F1 no more than one point worse.
Cohorts with planted ambiguity and without weigh one half each, because planted ambiguity favors a joint model. The best
B4 is the one with the best pooled score on the criterion, so that the choice, made on the same cases, favors the rival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusion_adc.evaluation.bars import Bar
from diffusion_adc.evaluation.bootstrap import Estimate
from diffusion_adc.evaluation.comparison import (
    WITH_AMBIGUITY,
    WITHOUT_AMBIGUITY,
    Arena,
    Comparison,
)
from diffusion_adc.evaluation.reference import FAR_PAIR, NEAR_PAIR, PART

CRITERIA: Final = {"tdv_crps": "TDV CRPS (mL)", "lesion_brier": "lesion-presence Brier"}
"""Both fall as they get better."""

F1_ROOM: Final = 0.01
RIVALS: Final = "B4"
"""Ids of the rivals for uncertainty begin with this."""


@dataclass(frozen=True)
class Criterion:
    """The flow against the best B4 on one criterion, pooled over cohorts.

    Attributes:
        key: `CRITERIA`.
        rival: The best B4 by that criterion.
        difference: Flow minus rival, pooled; negative is better.
        f1: Lesion F1 of the flow minus the rival's, pooled.
    """

    key: str
    rival: str
    difference: Estimate
    f1: Estimate

    @property
    def better(self) -> bool:
        """The interval of the difference lies below 0."""
        high = self.difference.summary()["high95"]
        return high is not None and high < 0.0

    @property
    def f1_kept(self) -> bool:
        """Lesion F1 no more than one point worse."""
        return bool(np.isfinite(self.f1.value)) and self.f1.value >= -F1_ROOM - 1e-12

    @property
    def met(self) -> bool:
        """Better, with lesion F1 kept."""
        return self.better and self.f1_kept


@dataclass(frozen=True)
class Decision:
    """The verdict.

    Attributes:
        stays: Whether the flow stays the default; None where it cannot be said.
        criteria: What was weighed.
        pooling: How cohorts were pooled, in words.
        caveat: What keeps the verdict from being the one fixed beforehand; empty if nothing.
    """

    stays: bool | None
    criteria: tuple[Criterion, ...]
    pooling: str
    caveat: str


def pooling_weights(arenas: Sequence[Arena]) -> list[float]:
    """Half for the cohorts with planted ambiguity, half for those without; alike within a half."""
    kinds = [arena.kind for arena in arenas]
    halves = {kind for kind in kinds if kind in (WITH_AMBIGUITY, WITHOUT_AMBIGUITY)}
    if len(halves) == 2:
        return [0.5 / kinds.count(kind) if kind in halves else 0.0 for kind in kinds]
    return [1.0 / len(kinds)] * len(kinds)


def decide(comparison: Comparison) -> Decision:
    """Weigh the flow against the B4 rivals that every cohort has."""
    arenas = comparison.arenas
    weights = pooling_weights(arenas)
    kinds = {arena.kind for arena in arenas}
    pooled = kinds >= {WITH_AMBIGUITY, WITHOUT_AMBIGUITY}
    pooling = "half with planted ambiguity, half without" if pooled else f"{', '.join(sorted(kinds))} only"
    caveat = (
        ""
        if pooled
        else "the verdict fixed beforehand weighs a cohort with and one without planted ambiguity"
    )
    rivals = [
        label
        for label in arenas[0].methods
        if label.startswith(RIVALS) and all(label in arena.methods for arena in arenas)
    ]
    if not rivals:
        return Decision(None, (), pooling, f"no maps of a {RIVALS} rival for every cohort")

    def together(label: str, key: str) -> Estimate | None:
        found = [arena.methods[label].estimates.get(key) for arena in arenas]
        if any(one is None or not np.isfinite(one.value) for one in found):
            return None
        return Estimate.mean_of([one for one in found if one is not None], weights)

    criteria = []
    for key in CRITERIA:
        own = together(comparison.flow, key)
        scored = [(label, e) for label in rivals if (e := together(label, key)) is not None]
        if own is None or not scored:
            continue
        rival, best = min(scored, key=lambda pair: pair[1].value)
        undefined = Estimate(float("nan"), np.zeros(0))
        f1, its = together(comparison.flow, "lesion_f1"), together(rival, "lesion_f1")
        criteria.append(
            Criterion(key, rival, own - best, undefined if f1 is None or its is None else f1 - its)
        )
    stays = any(c.met for c in criteria) if criteria else None
    return Decision(stays, tuple(criteria), pooling, caveat)


def arm_bars(comparison: Comparison) -> list[Bar]:
    """TDV CRPS near the lesions kept in part or in pairs, against the best B4 on each arm and cohort."""
    found = []
    words = {
        PART: "lesions kept in part",
        NEAR_PAIR: "pairs within a patch",
        FAR_PAIR: "pairs beyond a patch",
    }
    for arena in comparison.arenas:
        own = arena.methods[comparison.flow].estimates
        for arm, word in words.items():
            key = f"crps_{arm}"
            rivals = [
                (label, m.estimates[key])
                for label, m in arena.methods.items()
                if label.startswith(RIVALS) and key in m.estimates
            ]
            if key not in own or not rivals:
                continue
            rival, best = min(rivals, key=lambda pair: pair[1].value)
            difference = (own[key] - best).summary()
            oracle = arena.methods.get("Oracle")
            limit = (
                None
                if oracle is None or key not in oracle.estimates
                else (oracle.estimates[key] - best).value
            )
            value, high = difference["value"], difference["high95"]
            reached = None if value is None or high is None else high < 0.0
            found.append(
                Bar(
                    f"TDV CRPS of {word} below the best B4's ({rival})", value, difference["low95"], high, limit,
                    0.0, reached, None if high is None else max(0.0, high),
                    f"{arena.arm_cases.get(arm, 0)} cases of {arena.name}", "{:+.3f} mL",
                )
            )  # fmt: skip
    return found


def format_decision(decision: Decision, flow: str) -> str:
    """The verdict in words, whichever way it falls."""
    word = {
        True: f"{flow} stays the default", False: f"{flow} does not stay the default: segmentation × ADC is enough",
        None: "no verdict",
    }[decision.stays]  # fmt: skip
    lines = [f"Verdict ({decision.pooling}): {word}."]
    for c in decision.criteria:
        lines.append(
            f"  {CRITERIA[c.key]} against {c.rival}: {_signed(c.difference)}, {'better' if c.better else 'not better'}; "
            f"lesion F1 {_signed(c.f1)}, {'kept' if c.f1_kept else 'more than one point worse'}"
        )
    if decision.caveat:
        lines.append(f"  {decision.caveat[:1].upper()}{decision.caveat[1:]}.")
    return "\n".join(lines)


def _signed(estimate: Estimate) -> str:
    s = estimate.summary()
    if s["value"] is None:
        return "undefined"
    if s["low95"] is None:
        return f"{s['value']:+.3f}"
    return f"{s['value']:+.3f} [{s['low95']:+.3f}, {s['high95']:+.3f}]"
