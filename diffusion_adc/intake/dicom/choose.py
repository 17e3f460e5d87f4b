"""Which candidates are the case's: the ADC map, the diffusion images on its grid, the T1w and T2w of its plane.

More than one candidate that could serve is an error that names them all; none is picked by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.bvalues import close
from diffusion_adc.intake.dicom.classify import DWI
from diffusion_adc.intake.dicom.geometry import Grid, arrange, normal
from diffusion_adc.intake.dicom.series import Candidate, parallel, repeats
from diffusion_adc.intake.nifti import Refusal

_TE_MS: Final = 2.0
"""Echo times farther apart than this are two acquisitions, whose signals have no common scale."""
_SAME_MM: Final = 0.05
_MOST_OVERLAP: Final = 0.5
"""Stations share less than this part of the shorter one; two series that share more are one place twice."""
_FAT_SHIFT_KHZ: Final = 3.4e-6 * 42.577e3
"""Chemical shift of fat, 3.4 ppm, per tesla in kHz."""


@dataclass(frozen=True)
class Chosen:
    """The case's images.

    Attributes:
        adc: The ADC map's stations from low to high along the normal; one where it is in one piece.
        dwi: The diffusion images on the grid of each station: ``dwi[station]``.
        anatomy: ``t1w`` and ``t2w``, their stations.
        ignored: (series, reason).
        doubts: What was found and can be lived with.
    """

    adc: tuple[tuple[Candidate, Grid], ...]
    dwi: tuple[tuple[tuple[Candidate, Grid], ...], ...]
    anatomy: dict[str, tuple[tuple[Candidate, Grid], ...]]
    ignored: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]


def choose(found: Sequence[Candidate], research_id: str) -> Chosen:
    """Pick the case's images among a study's candidates.

    Raises:
        CaseError: S01 none or several that could serve; S03 the ADC map or a diffusion image lacks end slices;
            S08 no diffusion image on the ADC map's grid; and the codes of `geometry.arrange`.
    """
    return _Choice(research_id).of(found)


class _Choice:
    def __init__(self, research_id: str) -> None:
        self.research_id = research_id
        self.ignored: list[tuple[str, str]] = []
        self.doubts: list[str] = []

    def of(self, found: Sequence[Candidate]) -> Chosen:
        adc = self._adc([c for c in found if c.kind == seq.ADC])
        dwi = tuple(
            self._dwi([c for c in found if c.kind == DWI], candidate, grid, first=number == 0)
            for number, (candidate, grid) in enumerate(adc)
        )
        used = {id(c) for station in dwi for c, _ in station}
        for candidate in (c for c in found if c.kind == DWI and id(c) not in used):
            if candidate.label not in {label for label, _ in self.ignored}:
                self.ignored.append((candidate.label, "on another grid than the ADC map"))
        anatomy: dict[str, tuple[tuple[Candidate, Grid], ...]] = {}
        for name in (seq.T1W, seq.T2W):
            picked = self._anatomy([c for c in found if c.kind == name], adc[0][0], name)
            if picked:
                anatomy[name] = picked
        self._frames_of_reference(adc, anatomy)
        return Chosen(adc, dwi, anatomy, tuple(self.ignored), tuple(self.doubts))

    def _arranged(self, candidate: Candidate, name: str) -> Grid:
        grid = arrange(candidate.slices, Refusal(self.research_id, name))
        self.doubts += [f"{doubt[:3]} {self.research_id} {name}: {doubt[4:]}" for doubt in grid.doubts]
        return grid

    def _adc(self, found: list[Candidate]) -> tuple[tuple[Candidate, Grid], ...]:
        if not found:
            raise Refusal(self.research_id, seq.ADC)(
                "S01", "no series that is an ADC map", "the scanner's ADC map",
                "deliver it, or name it by --rules",
            )  # fmt: skip
        placed = [(c, self._arranged(c, seq.ADC)) for c in found]
        return self._one_or_stations(placed, seq.ADC)

    def _one_or_stations(
        self, placed: list[tuple[Candidate, Grid]], name: str
    ) -> tuple[tuple[Candidate, Grid], ...]:
        placed = self._without_stations(placed)
        if len(placed) == 1:
            return (placed[0],)
        ordered = sorted(placed, key=lambda entry: reach(entry[1])[0])
        if all(_next_station(a[1], b[1]) for a, b in pairwise(ordered)):
            return tuple(ordered)
        listed = ", ".join(candidate.label for candidate, _ in placed[:8])
        raise Refusal(self.research_id, name)(
            "S01", f"{len(placed)} series that could serve: {listed}", "one", "name the right one by --rules"
        )

    def _without_stations(self, placed: list[tuple[Candidate, Grid]]) -> list[tuple[Candidate, Grid]]:
        """A series that the scanner composed from the others stands for them all."""
        for whole in placed:
            others = [entry for entry in placed if entry is not whole]
            if len(others) > 1 and all(_is_part(grid, whole[1]) for _, grid in others):
                self.ignored += [(c.label, "station of a composed series") for c, _ in others]
                return [whole]
        return placed

    def _dwi(
        self, found: list[Candidate], adc: Candidate, grid: Grid, *, first: bool
    ) -> tuple[tuple[Candidate, Grid], ...]:
        refused = Refusal(self.research_id, DWI)
        if not found:
            return ()
        near = [c for c in found if parallel(c.slices[0], adc.slices[0]) and _in_plane(c, adc)]
        same_te = [c for c in near if c.te is None or adc.te is None or abs(c.te - adc.te) <= _TE_MS]
        for candidate in near if same_te and first else []:
            if candidate not in same_te:
                self.ignored.append((candidate.label, "another echo time than the ADC map"))
        placed = [(c, self._arranged(c, DWI)) for c in self._combined(same_te or near)]
        here = [(c, g) for c, g in placed if _overlap(g, grid) > _MOST_OVERLAP]
        if not here:
            raise refused(
                "S08", "no diffusion-weighted image on the ADC map's grid", "the images the map was fitted to",
                "deliver the series the map belongs to",
            )  # fmt: skip
        whole = [(c, g) for c, g in here if not _is_part(g, grid)]
        if whole and all(any(_same_b(c, w) for w, _ in whole) for c, _ in here):
            self.ignored += [(c.label, "station of a composed series") for c, g in here if _is_part(g, grid)]
            here = whole
        for candidate, own in here:
            self._check_ends(candidate, own, grid)
        return tuple(here)

    def _combined(self, found: list[Candidate]) -> list[Candidate]:
        """Without single directions where the scanner's own combination of the same b is there."""
        traces = [c for c in found if c.trace and c.b is not None]
        out = []
        for candidate in found:
            better = any(_same_b(candidate, t) for t in traces)
            if not candidate.trace and better:
                self.ignored.append((candidate.label, "single directions of a combined image"))
            else:
                out.append(candidate)
        return out

    def _check_ends(self, candidate: Candidate, own: Grid, grid: Grid) -> None:
        low, high = reach(own)
        adc_low, adc_high = reach(grid)
        spacing = spacing_along(grid)
        slack = 0.5 * spacing
        missing = max(adc_low - low, high - adc_high)
        name = f"b {candidate.b:g} s/mm²" if candidate.b is not None else "the diffusion image"
        if missing > slack:
            raise Refusal(self.research_id, seq.ADC)(
                "S03", f"{round(missing / spacing)} end slice(s) of {name} without an ADC",
                "an ADC map as long as its images", "deliver the whole map: a tumor there would be cut",
            )  # fmt: skip
        missing = max(low - adc_low, adc_high - high)
        if missing > slack:
            raise Refusal(self.research_id, DWI)(
                "S03", f"{name} lacks {round(missing / spacing)} end slice(s) of the ADC map",
                "images as long as the map", "deliver the whole series",
            )  # fmt: skip

    def _anatomy(
        self, found: list[Candidate], adc: Candidate, name: str
    ) -> tuple[tuple[Candidate, Grid], ...]:
        kept = self._drop(found, lambda c: repeats(c.slices) < 2, "several images at each place (dynamic)", 1)
        kept = self._drop(
            kept, lambda c: parallel(c.slices[0], adc.slices[0]), "another plane than the ADC map"
        )
        for variety in ("in_phase", ""):
            kept = self._drop(kept, partial(_of_variety, variety), "another part of a Dixon series")
        kept = self._drop(kept, lambda c: c in _in_phase(kept), "echo out of phase")
        if not kept:
            return ()
        return self._one_or_stations([(c, self._arranged(c, name)) for c in kept], name)

    def _drop(
        self, found: list[Candidate], keep: Callable[[Candidate], bool], reason: str, least: int = 0
    ) -> list[Candidate]:
        """Those to keep where there are any, or, with `least`, none at all; the rest are listed."""
        kept = [c for c in found if keep(c)]
        if not kept and not least:
            return found
        self.ignored += [(c.label, reason) for c in found if c not in kept]
        return kept

    def _frames_of_reference(
        self, adc: Sequence[tuple[Candidate, Grid]], anatomy: dict[str, tuple[tuple[Candidate, Grid], ...]]
    ) -> None:
        own = {c.slices[0].frame_of_reference for c, _ in adc}
        for name, parts in anatomy.items():
            if not {c.slices[0].frame_of_reference for c, _ in parts} <= own:
                self.doubts.append(
                    f"S07 {self.research_id} {name}: another frame of reference than the ADC map's, placed by position"
                )


def reach(grid: Grid) -> tuple[float, float]:
    """Where the first and the last slice lie along the normal, mm."""
    axis = normal(grid.places[0][0])
    first, last = (float(np.dot(grid.places[k][0].position, axis)) for k in (0, -1))
    return first, last


def spacing_along(grid: Grid) -> float:
    """Distance of two slices in mm."""
    return float(np.linalg.norm(grid.affine[:3, 2]))


def _overlap(one: Grid, other: Grid) -> float:
    """Share of the shorter one's length that both cover."""
    (a, b), (c, d) = reach(one), reach(other)
    half = 0.5 * min(spacing_along(one), spacing_along(other))
    shared = min(b, d) - max(a, c) + 2 * half
    return shared / (min(b - a, d - c) + 2 * half)


def _is_part(part: Grid, whole: Grid) -> bool:
    """Whether a volume is a much shorter piece of another one."""
    (low, high), (first, last) = reach(part), reach(whole)
    slack = spacing_along(whole)
    inside = low >= first - slack and high <= last + slack
    return inside and high - low + slack < 0.7 * (last - first + slack)


def _of_variety(variety: str, one: Candidate) -> bool:
    return one.variety == variety


def _same_b(one: Candidate, other: Candidate) -> bool:
    return one.b is not None and other.b is not None and close(one.b, other.b)


def _corner(one: Candidate) -> NDArray[np.float64]:
    """The corner of the first slice, in its own plane, mm."""
    first = one.slices[0]
    position = np.array(first.position)
    axis = normal(first)
    return position - float(position @ axis) * axis


def _in_plane(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates share columns and rows, wherever their slices lie."""
    a, b = one.slices[0], other.slices[0]
    same = (a.rows, a.columns) == (b.rows, b.columns)
    near = max(_SAME_MM, 1e-3 * min(b.spacing))
    return (
        same
        and bool(np.allclose(a.spacing, b.spacing, rtol=1e-3))
        and bool(np.allclose(a.orientation, b.orientation, atol=1e-3))
        and float(np.linalg.norm(_corner(one) - _corner(other))) <= near
    )


def _next_station(lower: Grid, upper: Grid) -> bool:
    """Whether two volumes lie one above the other, as stations do."""
    a, b = lower.places[0][0], upper.places[0][0]
    alike = (a.rows, a.columns) == (b.rows, b.columns) and bool(np.allclose(a.spacing, b.spacing, rtol=1e-3))
    turned = not np.allclose(a.orientation, b.orientation, atol=1e-3)
    return alike and not turned and _overlap(lower, upper) < _MOST_OVERLAP


def _in_phase(found: Sequence[Candidate]) -> list[Candidate]:
    """Of several echoes of one gradient-echo series, the one at which fat and water are in phase."""
    if len(found) < 2 or len({c.series for c in found}) != 1 or any(c.te is None for c in found):
        return list(found)
    field = found[0].slices[0].field_t
    if field is None or "GR" not in found[0].slices[0].scanning:
        return list(found)
    period_ms = 1.0 / (_FAT_SHIFT_KHZ * field)

    def off(candidate: Candidate) -> float:
        assert candidate.te is not None
        cycles = candidate.te / period_ms
        return abs(cycles - max(1, round(cycles)))

    return [min(found, key=off)]
