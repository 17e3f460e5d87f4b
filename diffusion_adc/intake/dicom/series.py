"""A study's slices → candidates: what may serve as one sequence, split so that each is one kind of image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.bvalues import clusters
from diffusion_adc.intake.dicom.classify import DWI, IN_PHASE, WATER, Kind, kind_of
from diffusion_adc.intake.dicom.geometry import normal, several_planes
from diffusion_adc.intake.dicom.rules import TARGET, Rule
from diffusion_adc.intake.dicom.slices import Slice

_TRACE: Final = {"TRACEW", "TRACE", "ISOTROPIC"}
_NO_B0: Final = ("Canon",)
"""Vendors that leave the b-value out of b = 0 images of a series whose other images have one."""


@dataclass(frozen=True)
class Candidate:
    """Slices of one kind.

    Attributes:
        kind: ``t1w``, ``t2w``, ``dwi``, ``adc`` or ``target``.
        reason: Why.
        slices: In no order.
        b: Mean b-value of a diffusion-weighted image in s/mm², None where nobody states one.
        b_source: Who states it.
        trace: Whether the scanner has already combined the directions.
        variety: ``in_phase`` or ``water`` of a Dixon series, else empty.
        echo: Which echo of several, from 1; 0 where there is one.
    """

    kind: str
    reason: str
    slices: tuple[Slice, ...]
    b: float | None = None
    b_source: str = ""
    trace: bool = False
    variety: str = ""
    echo: int = 0

    @property
    def label(self) -> str:
        """How messages call it: by number, never by its description."""
        number = self.slices[0].series_number
        parts = [f"series {'without number' if number is None else number}"]
        parts += [f"b {self.b:g}"] if self.b is not None else []
        parts += [f"echo {self.echo}"] if self.echo else []
        return " ".join([*parts, f"({len(self.slices)} images)"])

    @property
    def series(self) -> frozenset[str]:
        """Series UIDs."""
        return frozenset(one.series_uid for one in self.slices)

    @property
    def te(self) -> float | None:
        """Echo time in ms."""
        return self.slices[0].echo_time


def candidates(
    slices: Sequence[Slice], rules: Sequence[Rule]
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """A study's slices by series and kind.

    Returns:
        The candidates; what is ignored as (series and number of images, reason).
    """
    by_series: dict[str, list[Slice]] = defaultdict(list)
    for one in slices:
        by_series[one.series_uid].append(one)
    found: list[Candidate] = []
    ignored: list[tuple[str, str]] = []
    for group in sorted(by_series.values(), key=lambda g: (g[0].series_number or 0, g[0].series_uid)):
        kinds: dict[tuple[str, str], list[Slice]] = defaultdict(list)
        for one in group:
            kind = kind_of(one, rules)
            kinds[kind.sequence, kind.reason if not kind.sequence else ""].append(one)
        for (sequence, reason), members in kinds.items():
            if not sequence:
                ignored.append((Candidate("", "", tuple(members)).label, reason))
                continue
            told = kind_of(members[0], rules)
            if sequence in (seq.T1W, seq.T2W) and several_planes(members):
                ignored.append((Candidate("", "", tuple(members)).label, "three planes, as a localizer's"))
                continue
            found += _split(told, members)
    return found, ignored


def _split(kind: Kind, members: list[Slice]) -> list[Candidate]:
    """One kind of one series by what makes its images different: echo, b-value, combination, Dixon part."""
    if kind.sequence in (seq.ADC, TARGET):
        return [Candidate(kind.sequence, kind.reason, tuple(members))]
    if kind.sequence == DWI:
        return _by_b(kind, members)
    parts: dict[tuple[float, str], list[Slice]] = defaultdict(list)
    for one in members:
        words = set(one.image_type)
        variety = "in_phase" if words & IN_PHASE else "water" if words & WATER else ""
        parts[round(one.echo_time or 0.0, 1), variety].append(one)
    echoes = sorted({te for te, _ in parts})
    return [
        Candidate(
            kind.sequence, kind.reason, tuple(part), variety=variety,
            echo=1 + echoes.index(te) if len(echoes) > 1 else 0,
        )
        for (te, variety), part in sorted(parts.items())
    ]  # fmt: skip


def _by_b(kind: Kind, members: list[Slice]) -> list[Candidate]:
    out: list[Candidate] = []
    parts: dict[tuple[float, bool], list[Slice]] = defaultdict(list)
    for one in members:
        combined = bool(set(one.image_type) & _TRACE) or one.directionality == "ISOTROPIC"
        parts[round(one.echo_time or 0.0, 1), combined].append(one)
    echoes = sorted({te for te, _ in parts})
    for (te, trace), part in sorted(parts.items()):
        echo = 1 + echoes.index(te) if len(echoes) > 1 else 0
        known = [one for one in part if one.b is not None]
        unknown = [one for one in part if one.b is None]
        silent = bool(known) and all(one.vendor in _NO_B0 for one in unknown)
        none = [one for one in unknown if silent or one.directionality == "NONE"]
        rest = [one for one in unknown if not silent and one.directionality != "NONE"]
        wanted = [_nominal(one) for one in known] + [0.0] * len(none)
        both = [*known, *none]
        for _, places in clusters(wanted):
            group = [both[n] for n in places]
            played = [one.b.b if one.b is not None else 0.0 for one in group]
            sources = sorted({one.b.source if one.b is not None else "no encoding stated" for one in group})
            out.append(
                Candidate(
                    DWI, kind.reason, tuple(group), b=float(np.mean(played)), b_source="+".join(sources),
                    trace=trace, echo=echo,
                )
            )  # fmt: skip
        if rest:
            out.append(Candidate(DWI, kind.reason, tuple(rest), trace=trace, echo=echo))
    return out


def _nominal(one: Slice) -> float:
    """What images are grouped by: the b that was asked for where the scanner also states the one it played."""
    assert one.b is not None
    return one.b.b if one.b.nominal is None else one.b.nominal


def parallel(one: Slice, other: Slice) -> bool:
    """Whether two slices lie in about the same plane."""
    return abs(float(normal(one) @ normal(other))) > 0.9


def repeats(slices: Sequence[Slice]) -> int:
    """How many images lie at every place, at least."""
    axis = normal(slices[0])
    return min(Counter(round(float(np.dot(one.position, axis)), 1) for one in slices).values())
