"""Tumors: how many, where, how large, of which tissue; grown into the body.

Arms of ambiguity are visible in the images, so that a reader's doubt can be recovered from them: a faint
lesion is doubted as a whole, a lesion with a halo in part, and two faint lesions in one body together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Canvas
from diffusion_adc.phantom.growth import Growth, find_seed, grow, seed_position
from diffusion_adc.phantom.sites import SITES, Sites, growth_costs, hosts
from diffusion_adc.phantom.structures import Structure
from diffusion_adc.phantom.tissues import TissueTable

NEAR_MM: Final = 60.0
"""Two lesions nearer than this fit into one training patch."""
TISSUES_PER_LESION: Final = 3
"""Main part, halo, necrosis: three consecutive structure numbers."""

_HALO_SHARE: Final = 0.85
"""Share of tumor in a halo's voxels."""
_GRADE_ADC: Final = -0.045
"""ADC shift per grade step away from 3, 1e-3 mm²/s."""


@dataclass(frozen=True)
class LesionPlan:
    """A lesion before it has grown."""

    group: str
    """One of `sites.GROUPS`."""
    site: str
    kind: str
    """``untreated``, ``treated``, ``sclerotic`` or ``mucinous``."""
    tissue: str
    volume_ml: float
    adc: float
    grade: int
    faint: float
    """Share of tumor in the lesion's voxels: 1 conspicuous, 0.3 barely visible."""
    halo: float
    """Share of the volume that is a faint halo around the core; 0 = none."""
    lobes: int
    invasive: bool
    partner: int
    """Index of the lesion it is doubted together with; −1 = none."""
    near: bool
    """Whether the partner shall lie near."""


def plan_lesions(
    rng: np.random.Generator,
    follow_up: np.random.Generator | None,
    primary: str,
    treatment: str,
    sex: str,
    table: TissueTable,
    grade_signal: bool,
    sites: Sites = SITES["pelvis"],
) -> list[LesionPlan]:
    """Draw a tumor-bearing person's lesions.

    Args:
        rng: The person's generator: the same lesions at every examination.
        follow_up: Generator of the changes since the first examination; None at the first.
        primary: Primary tumor.
        treatment: Treatment given.
        sex: ``male`` or ``female``.
        table: Tissue table with population means.
        grade_signal: Whether a lesion's grade shifts its ADC.
        sites: The body region's sites.
    """
    spread = sites.log_count_sd * rng.standard_normal()
    count = int(np.clip(round(np.exp(np.log(sites.median_count) + spread)), 1, sites.max_lesions))
    diffuse = sites.diffuse > 0 and rng.random() < sites.diffuse and primary == "myeloma"
    systemic = treatment in ("hormone", "chemotherapy", "radiotherapy", "combined")
    lesions: list[LesionPlan] = []
    for n in range(count):
        u, site_u, kind_u = rng.random(3)
        group = _group(u, n, primary, treatment, sites)
        if group == "primary" and sex == "male" and primary in ("cervix", "endometrium", "ovary"):
            group = "node"
        site, tissue = _site_and_tissue(group, primary, site_u, sites)
        kind = "untreated"
        if systemic and kind_u < 0.34:
            kind = "treated"
        elif group == "bone" and kind_u > 0.95:
            kind = "sclerotic"
        elif primary == "rectum" and group == "primary" and kind_u > 0.88:
            kind = "mucinous"
        tissue = {"treated": "bone_met_treated", "sclerotic": "bone_met_sclerotic",
                  "mucinous": "mucinous_cancer"}.get(kind, tissue)  # fmt: skip
        volume = float(np.clip(np.exp(np.log(2.0) + 2.05 * rng.standard_normal()), 0.12, 60.0))
        if group == "node":
            volume = float(np.clip(volume, 0.2, 14.0))
        elif group == "primary":
            volume = float(np.clip(volume * 2.5, 0.5, 45.0))
        elif group in ("liver", "lung"):
            volume = float(np.clip(volume, 0.25, 40.0))
        if diffuse and n == 0 and kind == "untreated":
            tissue, volume = "myeloma_diffuse", float(np.clip(volume * 6, 25.0, 60.0))
        grade = int(rng.integers(1, 6))
        row = table.row(tissue)
        adc = table.adc[row] + table.adc_sd[row] * float(np.clip(rng.standard_normal(), -1.6, 1.0))
        if grade_signal:
            adc += _GRADE_ADC * (grade - 3)
        lesions.append(LesionPlan(
            group=group, site=site, kind=kind, tissue=tissue, volume_ml=volume, adc=float(max(adc, 0.4)), grade=grade,
            faint=1.0, halo=0.0, lobes=int(rng.integers(1, 5)), invasive=bool(rng.random() < 0.2), partner=-1, near=False,
        ))  # fmt: skip
    lesions = _with_doubt(lesions, rng, sites.max_lesions)
    return (
        lesions if follow_up is None else [_changed(lesion, follow_up, systemic, table) for lesion in lesions]
    )


def _group(u: float, n: int, primary: str, treatment: str, sites: Sites) -> str:
    """Which of `sites.GROUPS` the n-th lesion is in."""
    spread = dict(sites.spread[primary])
    local = spread.pop("primary")
    if n == 0 and treatment == "none":  # not yet operated or irradiated
        local *= 2.5
        elsewhere = sum(spread.values())
        spread = {group: share * (1 - local) / elsewhere for group, share in spread.items()}
    edge = 0.0
    for group, share in spread.items():
        edge += share
        if u < edge:
            return group
    return "node" if n > 0 or local == 0 else "primary"


def _site_and_tissue(group: str, primary: str, u: float, sites: Sites) -> tuple[str, str]:
    if group == "primary":
        options = sites.organ[primary]
        return options[min(int(u * len(options)), len(options) - 1)]
    if group in ("liver", "lung"):
        return group, "lymphoma" if primary == "lymphoma" else f"{group}_metastasis"
    shares = sites.bone if group == "bone" else sites.node
    edges = np.cumsum(list(shares.values()))
    site = list(shares)[min(int(np.searchsorted(edges / edges[-1], u)), len(shares) - 1)]
    if primary == "lymphoma":
        tissue = "lymphoma"
    elif group == "node":
        tissue = "node_metastasis"
    else:
        tissue = "myeloma_focal" if primary == "myeloma" else "bone_met_untreated"
    return site, tissue


def _with_doubt(lesions: list[LesionPlan], rng: np.random.Generator, most: int) -> list[LesionPlan]:
    """Make some lesions faint, some haloed, and some pairs alike; the draws do not depend on the lesions."""
    pair_u, near_u, faint_u, order = rng.random(), rng.random(), rng.random(), rng.permutation(most)
    halo_u, faint_share, faint_adc = rng.random(most), rng.uniform(0.58, 0.84), rng.uniform(0.92, 1.08)
    volume_u = np.exp(rng.normal(np.log(2.2), 0.45, 2))
    out = list(lesions)
    open_ones = [
        int(n) for n in order if n < len(out) and out[n].kind == "untreated" and out[n].group != "primary"
    ]
    if len(open_ones) >= 2 and pair_u < 0.4:
        first, second = open_ones[:2]
        for n, partner, volume in ((first, second, volume_u[0]), (second, first, volume_u[1])):
            out[n] = replace(out[n], faint=faint_share, adc=faint_adc, halo=0.0, partner=partner, near=near_u < 0.5,
                             volume_ml=float(np.clip(volume, 0.8, 6.0)))  # fmt: skip
    elif open_ones and faint_u < 0.45:
        n = open_ones[0]
        out[n] = replace(out[n], faint=faint_share, adc=faint_adc,
                         volume_ml=float(np.clip(out[n].volume_ml, 0.8, 8.0)))  # fmt: skip
    for n, lesion in enumerate(out):
        if lesion.faint == 1.0 and lesion.kind == "untreated" and halo_u[n] < 0.3 and lesion.volume_ml > 1.5:
            share = 0.35 + 0.25 * float(halo_u[n]) / 0.3
            out[n] = replace(lesion, halo=share, volume_ml=min(lesion.volume_ml, 15.0))
    return out


def _changed(lesion: LesionPlan, rng: np.random.Generator, systemic: bool, table: TissueTable) -> LesionPlan:
    """The same lesion at a later examination."""
    growth, response_u, z = (
        float(np.exp(0.35 * rng.standard_normal() + 0.15)),
        rng.random(),
        rng.standard_normal(),
    )
    if lesion.kind == "untreated" and lesion.partner < 0 and systemic and response_u < 0.6:
        row = table.row("bone_met_treated")
        adc = float(table.adc[row] + 0.6 * table.adc_sd[row] * np.clip(z, -1.5, 1.5))
        return replace(lesion, kind="treated", tissue="bone_met_treated", adc=adc, faint=1.0, halo=0.0,
                       volume_ml=lesion.volume_ml * 0.7)  # fmt: skip
    return replace(lesion, volume_ml=float(np.clip(lesion.volume_ml * growth, 0.12, 60.0)))


@dataclass(frozen=True)
class GrownLesion:
    """A lesion in the body."""

    plan: LesionPlan
    number: int
    """1, 2, … in the truth's label map."""
    structure: int
    """First of its three structure numbers on the canvas."""
    growth: Growth
    partner: int
    """Number of the lesion doubted together with it; 0 = none."""


def grow_lesions(
    canvas: Canvas,
    plans: list[LesionPlan],
    rngs: Sequence[np.random.Generator],
    sites: Sites = SITES["pelvis"],
) -> list[GrownLesion]:
    """Grow the planned lesions and draw them on the canvas; those that find no place are left out.

    Args:
        canvas: Drawn on.
        plans: The lesions.
        rngs: One generator per lesion, so that a lesion grows alike at every examination.
        sites: The body region's sites.
    """
    grown: dict[int, GrownLesion] = {}
    number = 0
    for n, (plan, rng) in enumerate(zip(plans, rngs, strict=True)):
        partner = grown.get(plan.partner)
        growth = _placed(canvas, plan, list(grown.values()), partner, rng, sites)
        if growth is None or growth.inside.sum() * canvas.voxel_ml < 0.08:
            continue
        number += 1
        structure = int(Structure.LESION) + TISSUES_PER_LESION * (number - 1)
        canvas.fill(growth.box, growth.inside, structure)
        if plan.halo > 0:
            canvas.fill(growth.box, growth.inside & ~growth.innermost(1 - plan.halo), structure + 1)
        elif plan.volume_ml > 4.2 and plan.kind == "untreated" and rng.random() < 0.3:  # longer than 2 cm
            canvas.fill(growth.box, growth.innermost(rng.uniform(0.08, 0.28)), structure + 2)
        grown[n] = GrownLesion(plan, number, structure, growth, 0)
    numbers = {n: lesion.number for n, lesion in grown.items()}
    return [replace(lesion, partner=numbers.get(lesion.plan.partner, 0)) for lesion in grown.values()]


def _placed(
    canvas: Canvas,
    plan: LesionPlan,
    others: list[GrownLesion],
    partner: GrownLesion | None,
    rng: np.random.Generator,
    region: Sites,
) -> Growth | None:
    prefix = "node_" if plan.group == "node" else ""
    allowed = list(hosts(plan.group, plan.site))
    sites = [plan.site]
    if partner is not None:  # a pair's distance matters more than the second lesion's site
        shares = {"bone": region.bone, "node": region.node}.get(plan.group, {})
        sites += [site for site in shares if site != plan.site]
    radius = (3000 * plan.volume_ml / (4 * np.pi)) ** (1 / 3)
    anchors = [a for site in sites for a in canvas.anchors.get(prefix + site, [])]
    head = len(canvas.anchors.get(prefix + plan.site, []))
    order = [*rng.permutation(head), *(head + rng.permutation(len(anchors) - head))]
    for index in order:
        seed = find_seed(canvas, anchors[int(index)], allowed, rng)
        if seed is None:
            continue
        where = seed_position(canvas, seed)
        if partner is not None:
            near = float(np.linalg.norm(where - partner.growth.seed_mm)) < NEAR_MM - 8
            far = float(np.linalg.norm(where - partner.growth.seed_mm)) > NEAR_MM + 12
            if (plan.near and not near) or (not plan.near and not far):
                continue
        clear = all(
            np.linalg.norm(where - o.growth.seed_mm)
            > radius + 6 + (3000 * o.plan.volume_ml / (4 * np.pi)) ** (1 / 3)
            for o in others
        )
        if clear and _inside_view(canvas, seed):
            cost = growth_costs(plan.group, plan.site, plan.invasive)
            return grow(canvas, seed, plan.volume_ml, cost, rng, lobes=plan.lobes)
    return None


def _inside_view(canvas: Canvas, seed: tuple[int, int, int]) -> bool:
    return all(3 <= i < n - 3 for i, n in zip(seed, canvas.shape, strict=True))


def lesion_rows(lesions: list[GrownLesion], table: TissueTable) -> dict[int, NDArray[np.float64]]:
    """Water, fat, T1, T2, ADC, f, D*, texture of every lesion structure number, mixed with its host: each (8,)."""
    host_of = {
        "bone": "marrow_fatty",
        "node": "lymph_node",
        "primary": "muscle",
        "liver": "liver",
        "lung": "muscle",
    }
    rows: dict[int, NDArray[np.float64]] = {}
    for lesion in lesions:
        plan = lesion.plan
        host = _parameters(table, host_of[plan.group])
        own = _parameters(table, plan.tissue)
        own[4] = plan.adc
        rows[lesion.structure] = _faint(own, host, plan.faint)
        rows[lesion.structure + 1] = _faint(own, host, _HALO_SHARE)
        rows[lesion.structure + 2] = _parameters(table, "necrosis")
    return rows


def _parameters(table: TissueTable, name: str) -> NDArray[np.float64]:
    r = table.row(name)
    columns = (table.water, table.fat, table.t1, table.t2, table.adc, table.f, table.d_star, table.texture)
    return np.array([float(c[r]) for c in columns])


def _faint(own: NDArray[np.float64], host: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Tumor cells among host tissue: less water, shorter T2, an ADC between tumor and edema."""
    mixed = own.copy()
    mixed[1] = share * own[1] + (1 - share) * host[1]
    # Edema around the cells keeps relaxation times near the tumor's.
    mixed[2:4] = own[2:4] - 0.5 * (1 - share) * (own[2:4] - host[2:4])
    if share < 1:
        mixed[0] = share * own[0] + (1 - share) * 0.45
        mixed[4] = own[4] + 0.2 * (1 - share)
    return mixed
