"""Bladder, bowel, male and female organs, vessels, nerves and normal lymph nodes of the pelvis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Canvas, Ellipsoid, Tube, rotation
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import FAT, Structure

_ROOM = (Structure.VISCERAL_FAT, Structure.INTERMUSCULAR_FAT)
_SOFT = (*_ROOM, Structure.MUSCLE)


def _scaled(
    points: Sequence[tuple[float, float, float, float]], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.array(points) * [*size, size[1]]


def paint_bowel(canvas: Canvas, build: Build, rng: np.random.Generator) -> NDArray[np.float64]:
    """Small bowel loops, cecum, sigmoid and rectum.

    Returns:
        (N, 4) x, y, z, radius of the gas pockets in the rectum: they disturb the field.
    """
    s = build.scale
    size = np.array([s, s, s])
    floor = 40.0 + 6 * (build.bladder_ml / 130) ** (1 / 3)
    for _ in range(int(rng.integers(15, 22))):
        radius = rng.uniform(8, 13)
        start = np.array([rng.uniform(-66, 66), rng.uniform(0, 54), rng.uniform(floor, 140)])
        stations = [start]
        for _ in range(4):
            step = rng.normal(0, [26, 14, 16])
            stations.append(np.clip(stations[-1] + step, [-70, -6, floor], [70, 60, 142]))
        radii = radius * rng.uniform(0.8, 1.15, len(stations))
        curve = Tube(np.column_stack([np.array(stations) * s, radii]), 12)
        wall = rng.uniform(2.0, 3.2)
        fluid = Structure.BOWEL_FLUID if rng.random() < 0.7 else Structure.FECES
        canvas.paint_shell(curve, Structure.BOWEL_WALL, fluid, wall, (*_ROOM, Structure.BOWEL_WALL))
        if rng.random() < 0.35:
            _gas(canvas, curve.curve(), rng, 2)
    cecum = [(82, 16, 58, 15), (86, 14, 78, 23), (90, 8, 104, 23), (92, 4, 140, 20)]
    jitter = np.append(rng.normal(0, 4, 3), 0)
    colon = Tube(_scaled(cecum, size) + jitter, 10)
    canvas.paint_shell(colon, Structure.BOWEL_WALL, Structure.FECES, 2.6, _bowel_room())
    _gas(canvas, colon.curve(), rng, 3)

    full = rng.uniform(0.8, 1.35)
    rectum = [
        (0, -46, -82, 9), (0, -36, -60, 10), (0, -27, -40, 10.5), (0, -34, -18, 13 * full), (2, -47, 5, 15 * full),
        (-4, -52, 28, 14 * full), (-14, -42, 50, 13), (-34, -18, 62, 12), (-58, -2, 58, 12.5),
        (-80, 12, 78, 13), (-94, 6, 108, 13), (-96, 0, 145, 13),
    ]  # fmt: skip
    points = _scaled(rectum, size)
    wobble = rng.normal(0, 1.0, (len(points), 3)) * np.clip(np.arange(len(points)) - 2, 0, 5)[:, None]
    points[:, :3] += wobble
    tube = Tube(points, 30)
    content = Structure.FECES if rng.random() < 0.7 else Structure.BOWEL_FLUID
    canvas.paint_shell(tube, Structure.BOWEL_WALL, content, 3.2, _bowel_room())
    lower = tube.curve()[7:16]
    canvas.mark("rectum", *(lower[[0, 3, 5], :3]))
    pockets = _gas(canvas, lower, rng, int(rng.integers(0, 4)))
    _gas(canvas, tube.curve()[18:], rng, 2)
    return pockets


def _bowel_room() -> tuple[int, ...]:
    return (*_SOFT, Structure.BOWEL_WALL, Structure.BOWEL_FLUID, Structure.FECES, Structure.BOWEL_GAS)


def _gas(
    canvas: Canvas, curve: NDArray[np.float64], rng: np.random.Generator, count: int
) -> NDArray[np.float64]:
    """Gas pockets on the upper (anterior) side of a lumen of a supine person."""
    pockets = []
    for _ in range(count):
        x, y, z, r = curve[int(rng.integers(0, len(curve)))]
        radius = r * rng.uniform(0.55, 0.8)
        center = np.array([x, y + 0.35 * r, z])
        shape = Ellipsoid(center, [radius, 0.75 * radius, radius * rng.uniform(1.0, 1.6)])
        canvas.paint(shape, Structure.BOWEL_GAS, (Structure.BOWEL_FLUID, Structure.FECES))
        pockets.append([*center, radius])
    return np.array(pockets).reshape(-1, 4)


def paint_bladder(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Bladder with its wall; the ureters' lowest parts."""
    s = build.scale
    r = (build.bladder_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    flat = rng.uniform(0.72, 0.9)
    radii = np.array([r / np.sqrt(flat), r, r * np.sqrt(flat)]) * rng.normal(1, 0.04, 3)
    if build.sex == "female":  # the uterus behind it leaves less depth
        radii *= [1.18, 0.78, 1.08]
    base = 0.0 if build.sex == "male" else -10.0
    center = np.array([rng.normal(0, 3), 64 * s - radii[1] - 6, base * s + radii[2] + 1])
    wall = 2.2 + 1.6 * min(1.0, 80 / build.bladder_ml) + (0.8 if build.sex == "male" else 0.0)
    shape = Ellipsoid(center, radii + wall, rotation(pitch=rng.uniform(-12, 12)), 2.3)
    canvas.paint_shell(shape, Structure.BLADDER_WALL, Structure.URINE, wall, _bowel_room())
    for side in (1, -1):
        canvas.mark("bladder", center + radii * np.array([0.85 * side, -0.3, -0.2]))
        ureter = Tube(
            [[side * 42 * s, -18, 118 * s, 2], [side * 48 * s, -38 * s, 60 * s, 2], [side * 34, -22 * s, 22 * s, 2],
             [side * 12, center[1] - 0.8 * radii[1], center[2] - 0.5 * radii[2], 2]], 12,
        )  # fmt: skip
        canvas.paint(ureter, Structure.URINE, _ROOM)


def paint_male(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Prostate with zones and nodules, seminal vesicles, corpora, testes."""
    s = build.scale
    volume = build.prostate_ml * 1000
    unit = (volume * 3 / (4 * np.pi * 1.25 * 0.9 * 1.0)) ** (1 / 3)
    radii = np.array([1.25, 0.9, 1.0]) * unit
    center = np.array([rng.normal(0, 1.5), 10 * s + 0.1 * (radii[1] - 16), -22 * s + 0.35 * (radii[2] - 18)])
    turn = rotation(pitch=rng.uniform(5, 18))
    canvas.paint(Ellipsoid(center, radii + 1.2, turn), Structure.TENDON, _prostate_room())
    canvas.paint(Ellipsoid(center, radii, turn), Structure.PROSTATE_PZ, (Structure.TENDON, *_prostate_room()))
    # The transition zone takes over the gland as it grows.
    share = float(np.clip(0.42 + 0.0045 * (build.prostate_ml - 30), 0.36, 0.78)) ** (1 / 3)
    inner = radii * share * [0.92, 1.0, 1.0]
    middle = center + turn @ np.array([0, 0.62 * (radii[1] - inner[1]), 0.5 * (radii[2] - inner[2])])
    zone = (Structure.PROSTATE_PZ,)
    canvas.paint(Ellipsoid(middle, inner + 0.8, turn), Structure.TENDON, zone)
    canvas.paint(Ellipsoid(middle, inner, turn), Structure.PROSTATE_TZ, (Structure.TENDON, *zone))
    front = Ellipsoid(center + turn @ np.array([0, 0.88 * radii[1], 0]), radii * [0.45, 0.22, 0.7], turn)
    canvas.paint(front, Structure.MUSCLE, (Structure.PROSTATE_TZ, *zone))
    for _ in range(int(rng.poisson(build.prostate_ml / 12))):
        where = middle + turn @ (inner * rng.uniform(-0.6, 0.6, 3))
        size = rng.uniform(2.5, 0.42 * inner[1], 3)
        stromal = rng.random() < 0.45
        kind = Structure.BPH_STROMAL if stromal else Structure.BPH_GLANDULAR
        capsule = (Structure.PROSTATE_TZ, Structure.BPH_GLANDULAR, Structure.BPH_STROMAL)
        canvas.paint(Ellipsoid(where, size), kind, capsule)
        if stromal:
            canvas.mark("bph_stromal", where)
    for side in (1, -1):
        canvas.mark("prostate_pz", center + turn @ (radii * [0.62 * side, -0.45, rng.uniform(-0.4, 0.4)]))
        vesicle = Tube(
            [[side * 5, center[1] - 10 * s, center[2] + radii[2] + 1, 3.5],
             [side * 16, center[1] - 14 * s, center[2] + radii[2] + 6, 5.5],
             [side * 30, center[1] - 18 * s, center[2] + radii[2] + 12, 5]], 8, (1, 1.2, 1),
        )  # fmt: skip
        canvas.paint(vesicle, Structure.SEMINAL_VESICLE, _SOFT)
        corpus = Tube([[side * 22 * s, 10, -60 * s, 5], [side * 9, 34 * s, -58 * s, 7], [side * 7, 74 * s, -58 * s, 8],
                       [side * 7, 96 * s, -72 * s, 9]], 10)  # fmt: skip
        canvas.paint(corpus, Structure.ERECTILE_TISSUE, (*_SOFT, Structure.SUBCUTANEOUS_FAT, Structure.SKIN))
        where = np.array(
            [side * (16 + rng.normal(0, 1.5)), (84 + rng.normal(0, 3)) * s, -84 * s + rng.normal(0, 3)]
        )
        scrotum = Ellipsoid(where, [20, 24, 26])
        canvas.paint(scrotum, Structure.MUSCLE, (Structure.AIR, Structure.SUBCUTANEOUS_FAT, Structure.SKIN))
        canvas.paint(Ellipsoid(where, [17, 21, 23]), Structure.SUBCUTANEOUS_FAT, (Structure.MUSCLE,))
        testis = np.array([11.5, 14, 20]) * rng.normal(1, 0.06)
        canvas.paint(Ellipsoid(where, testis + 1.2), Structure.TENDON, (Structure.SUBCUTANEOUS_FAT,))
        canvas.paint(Ellipsoid(where, testis), Structure.TESTIS, (Structure.TENDON,))
    bulb = Tube([[0, -8, -58 * s, 6], [0, 10 * s, -62 * s, 8], [0, 34 * s, -64 * s, 6]], 6)
    canvas.paint(bulb, Structure.ERECTILE_TISSUE, _SOFT)


def _prostate_room() -> tuple[int, ...]:
    return (*_SOFT, Structure.BLADDER_WALL, Structure.URINE)


def paint_female(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Uterus with its layers, cervix, vagina, ovaries with follicles."""
    s = build.scale
    bulk = 1.0 if build.premenopausal else 0.72
    vagina = Tube([[0, 14, -62 * s, 7], [0, 4, -38 * s, 8], [0, -4, -14 * s, 8]], 6, (0.7, 1.5, 1.0))
    canvas.paint(vagina, Structure.JUNCTIONAL_ZONE, _SOFT)
    canvas.paint(Tube([[0, 20 * s, -58 * s, 4], [0, 22 * s, -20 * s, 4]]), Structure.JUNCTIONAL_ZONE, _SOFT)
    room = _bowel_room()
    if not build.hysterectomy:
        neck = np.array([rng.normal(0, 3), -18 * s, 0.0])
        cervix = Tube([[*neck, 13 * bulk], [neck[0], neck[1] + 2, 18 * s, 12 * bulk]], 0)
        canvas.paint(cervix, Structure.CERVIX, (*room, Structure.JUNCTIONAL_ZONE))
        canvas.mark("cervix", neck + np.array([0, 2, 4]))
        tilt = rng.uniform(0, 35)
        turn = rotation(yaw=rng.normal(0, 10), pitch=-tilt)
        radii = np.array([25, 19, 32]) * bulk * rng.normal(1, 0.07, 3)
        body = neck + np.array([0, 4, 16]) + turn @ np.array([0, 0, 0.85 * radii[2]])
        canvas.paint(Ellipsoid(body, radii, turn), Structure.MYOMETRIUM, room)
        lining = radii * [0.5, 0.32, 0.68] * (1.0 if build.premenopausal else 0.7)
        canvas.paint(Ellipsoid(body, lining + 3.5, turn), Structure.JUNCTIONAL_ZONE, (Structure.MYOMETRIUM,))
        canvas.paint(
            Ellipsoid(body, lining * [1, rng.uniform(0.6, 1.0), 1], turn), Structure.ENDOMETRIUM,
            (Structure.JUNCTIONAL_ZONE,),
        )  # fmt: skip
        canvas.mark("endometrium", body)
        for _ in range(int(rng.poisson(0.5))):  # fibroids: dark on T2w
            where = body + turn @ (radii * rng.uniform(-0.7, 0.7, 3))
            canvas.paint(
                Ellipsoid(where, rng.uniform(5, 14, 3)), Structure.JUNCTIONAL_ZONE, (Structure.MYOMETRIUM,)
            )
    for side in (1, -1):
        where = np.array([side * rng.uniform(34, 48) * s, rng.uniform(-22, 8), rng.uniform(28, 52) * s])
        radii = np.array([10, 8, 14]) * (1.15 if build.premenopausal else 0.75) * rng.normal(1, 0.08, 3)
        canvas.paint(Ellipsoid(where, radii, rotation(yaw=rng.uniform(-40, 40))), Structure.OVARY, room)
        canvas.mark("ovary", where)
        for _ in range(int(rng.integers(4, 9)) if build.premenopausal else 1):
            center = where + radii * rng.uniform(-0.7, 0.7, 3)
            canvas.paint(
                Ellipsoid(center, np.full(3, rng.uniform(1.6, 5.0))), Structure.FOLLICLE, (Structure.OVARY,)
            )


def paint_vessels_and_nerves(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Iliac arteries and veins, sacral plexus with the sciatic nerve, femoral nerve."""
    s = build.scale
    size = np.array([s * build.hip_scale, s, s])
    wander = rng.normal(0, 2.0, (2, 2, 6, 3))
    for n, side in enumerate((1, -1)):
        flip = np.array([side, 1, 1, 1])
        artery = _scaled([(14, -2, 140, 6), (28, 0, 112, 6), (46, 16, 78, 5), (58, 38, 44, 5), (74, 62, 8, 5),
                          (80, 64, -60, 4.5)], size) * flip  # fmt: skip
        vein = artery + np.array([-9 * side, -6, 0, 1.2])
        for v, vessel in enumerate((artery, vein)):
            vessel[:, :3] += 0.7 * wander[n, v]
            canvas.paint(Tube(vessel, 16), Structure.BLOOD, _SOFT)
        internal = (
            _scaled([(32, -4, 104, 4), (44, -28, 76, 4), (46, -42, 48, 3), (40, -34, 18, 2.5)], size) * flip
        )
        canvas.paint(Tube(internal, 10), Structure.BLOOD, _SOFT)
        canvas.paint(Tube(internal + np.array([-5 * side, -4, 0, 0.8]), 10), Structure.BLOOD, _SOFT)
        for branch in range(4):  # perivesical and gluteal branches
            z = (60 - 22 * branch) * s
            twig = [[side * 44 * size[0], -34, z, 1.8], [side * (26 + 6 * branch) * s, -14, z - 10, 1.4]]
            canvas.paint(Tube(twig), Structure.BLOOD, FAT)
        trunk = _scaled([(34, -30, 124, 2.5), (42, -42, 92, 2.8), (50, -54, 58, 3), (62, -60, 24, 4.5),
                         (74, -60, -10, 5.5), (76, -52, -55, 5), (80, -40, -110, 5)], size) * flip  # fmt: skip
        canvas.paint(Tube(trunk, 20, (0.75, 1.15, 1.0)), Structure.NERVE, (*_SOFT, *FAT))
        roots: tuple[list[tuple[float, float, float, float]], ...] = (
            [(14, -62, 90, 3), (26, -54, 70, 3), (46, -56, 46, 3)],
            [(12, -72, 66, 2.6), (26, -62, 50, 2.6), (48, -59, 38, 2.6)],
            [(11, -78, 46, 2.0), (26, -66, 38, 2.0), (50, -60, 30, 2.2)],
        )
        bone = (Structure.CORTICAL_BONE, Structure.MARROW_FATTY, Structure.MARROW_RED)
        for root in roots:
            points = _scaled(root, size) * flip
            hole = Tube(points[:2] + np.array([0, 0, 0, 2.0]))
            canvas.paint(hole, Structure.INTERMUSCULAR_FAT, bone)
            canvas.paint(Tube(points, 6), Structure.NERVE, (*_SOFT, *FAT))
        femoral = _scaled([(62, 8, 100, 2), (76, 30, 55, 2.2), (90, 58, 8, 2.4)], size) * flip
        canvas.paint(Tube(femoral, 8), Structure.NERVE, (Structure.MUSCLE, *FAT))


# Places of normal nodes on the right side: x, y, z and half of the usual short axis, mm.
NODES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "external_iliac": ((52, 24, 66, 2.6), (60, 44, 40, 2.8), (52, 30, 34, 2.4)),
    "obturator": ((50, 18, 18, 2.8), (46, 2, 26, 2.2)),
    "internal_iliac": ((40, -30, 58, 2.0), (36, -38, 36, 1.9)),
    "common_iliac": ((22, 2, 122, 2.4), (36, 2, 100, 2.4)),
    "inguinal": ((72, 78, -14, 3.6), (88, 74, -20, 3.4), (66, 74, -38, 3.2), (82, 74, -48, 3.4), (96, 68, -4, 2.8)),
    "presacral": ((10, -52, 46, 1.7),),
    "mesorectal": ((14, -56, 20, 1.6),),
}  # fmt: skip


Chains = Mapping[str, tuple[tuple[float, float, float, float], ...]]
"""Places of a chain's nodes on the right side: x, y, z and half of the usual short axis, mm."""


def paint_nodes(canvas: Canvas, build: Build, rng: np.random.Generator, chains: Chains = NODES) -> None:
    """Normal lymph nodes along the chains: small bright beans, the larger ones with a fatty hilum."""
    s = build.scale
    room = (*FAT, Structure.SUBCUTANEOUS_FAT)
    for chain, places in chains.items():
        for side in (1, -1):
            for x, y, z, half_short in places:
                where = np.array([side * x * build.hip_scale, y, z]) * s + rng.normal(0, [3, 3, 5])
                canvas.mark(f"node_{chain}", where)
                if rng.random() < 0.25:
                    continue
                short = half_short * float(np.exp(0.28 * rng.standard_normal()))
                long = short * rng.uniform(1.4, 2.4)
                turn = rotation(*rng.uniform(-35, 35, 3))
                canvas.paint(Ellipsoid(where, [short, short * rng.uniform(1, 1.3), long], turn),
                             Structure.LYMPH_NODE, room)  # fmt: skip
                if short > 3.2:
                    hilum = Ellipsoid(
                        where + np.array([side * 0.4 * short, 0, 0]),
                        [0.5 * short, 0.5 * short, 0.6 * long],
                        turn,
                    )
                    canvas.paint(hilum, Structure.NODE_HILUM, (Structure.LYMPH_NODE,))
