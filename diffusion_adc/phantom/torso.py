"""The whole body's envelope and muscles: thighs, trunk, shoulders, arms, neck and head.

The pelvis is the one of `body`; this module continues it upward and downward. Right side x > 0, mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from diffusion_adc.phantom.body import ENVELOPE, MUSCLES, Curves, Frame, Limb
from diffusion_adc.phantom.canvas import Ellipsoid, Shape, Tube, Union
from diffusion_adc.phantom.person import Build

VERTEX_MM: Final = 813.0
"""Height of the skin at the top of the head above the hip joints at a scale of 1."""
HEAD: Final = ((0.0, -38.0, 738.0, 69.0), (0.0, 26.0, 735.0, 66.0))
"""The head's upper part without skin: two balls and what lies between."""
SCALP_MM: Final = 5.0
_REACH_MM: Final = 30.0

# As `ENVELOPE`; the width follows the hips less and less.
_TRUNK = np.array([
    [-235, 150, 80, -78, 1], *ENVELOPE[:7], [128, 136, 84, -90, 0.9], [180, 134, 80, -90, 0.6],
    [230, 137, 82, -94, 0.3], [280, 143, 88, -102, 0.1], [340, 149, 95, -112, 0], [400, 151, 98, -118, 0],
    [450, 149, 94, -120, 0], [490, 143, 84, -118, 0], [520, 132, 68, -110, 0], [545, 112, 48, -100, 0],
    [565, 84, 32, -90, 0], [585, 60, 24, -78, 0], [600, 50, 22, -70, 0],
], dtype=np.float64)  # fmt: skip

_CONTINUED: Final[dict[str, tuple[int, Curves]]] = {
    # Muscle: which of its curves goes on, and the points before and after it.
    "psoas": (0, (((22, -26, 280, 7), (28, -22, 230, 13), (34, -16, 180, 18)), ())),
    "erector_spinae": (0, (((18, -58, 672, 9), (18, -62, 628, 11), (18, -78, 575, 11), (20, -94, 525, 11),
                            (22, -105, 470, 12), (24, -103, 410, 14), (26, -97, 350, 16), (28, -86, 290, 18),
                            (30, -80, 230, 19), (31, -80, 180, 19)), ())),
    "quadratus_lumborum": (0, (((50, -66, 262, 7), (56, -58, 205, 12)), ())),
    "rectus_abdominis": (0, (((44, 92, 372, 5), (42, 84, 300, 8), (36, 78, 220, 9)), ())),
    "sartorius": (0, ((), ((58, 70, -150, 8), (42, 56, -235, 8)))),
    "rectus_femoris": (0, ((), ((104, 60, -160, 14), (98, 56, -235, 12)))),
    "adductor_magnus": (0, ((), ((73, -2, -170, 20), (74, -6, -235, 14)))),
    "gracilis": (0, ((), ((33, 36, -170, 7), (38, 26, -235, 7)))),
    "hamstrings": (0, ((), ((78, -42, -170, 18), (78, -40, -235, 17)))),
    "vastus_lateralis": (0, ((), ((126, 16, -160, 17), (118, 18, -235, 16)))),
    "vastus_intermedius": (0, ((), ((108, 32, -165, 13), (102, 34, -235, 12)))),
}  # fmt: skip

_UPPER: Final[dict[str, Curves]] = {
    "vastus_medialis": (((90, 28, -130, 7), (78, 38, -190, 13), (74, 38, -235, 14)),),
    "latissimus_dorsi": (((62, -94, 190, 6), (94, -92, 290, 9), (122, -82, 390, 11), (140, -54, 455, 12)),),
    "trapezius": (((14, -112, 350, 5), (34, -118, 430, 6), (66, -112, 500, 8)),
                  ((120, -66, 548, 8), (84, -68, 565, 10), (46, -66, 590, 10), (22, -66, 650, 7))),
    "rhomboid": (((22, -108, 520, 5), (52, -112, 470, 6)),),
    "infraspinatus": (((84, -112, 440, 7), (104, -106, 475, 9), (140, -78, 505, 8)),),
    "subscapularis": (((90, -86, 450, 7), (112, -78, 485, 8), (146, -56, 508, 7)),),
    "supraspinatus": (((74, -88, 532, 8), (114, -74, 540, 8), (154, -52, 536, 6)),),
    "serratus_anterior": (((134, -50, 460, 6), (147, -10, 410, 7), (144, 10, 370, 6)),),
    "pectoralis_major": (((22, 82, 470, 7), (72, 78, 470, 10), (116, 54, 490, 11), (158, 14, 498, 8)),
                         ((24, 92, 430, 6), (80, 88, 430, 8), (122, 58, 465, 10))),
    "pectoralis_minor": (((78, 66, 440, 5), (104, 44, 490, 6), (128, 16, 520, 5)),),
    "deltoid": (((150, 6, 545, 8), (188, -2, 516, 13), (200, -12, 460, 11), (202, -16, 410, 6)),
                ((140, -58, 545, 8), (184, -46, 508, 12), (200, -26, 450, 8))),
    "biceps": (((178, 4, 470, 8), (200, 4, 430, 11), (212, 4, 370, 16), (232, 6, 290, 14)),),
    "triceps": (((176, -44, 480, 9), (200, -44, 430, 13), (208, -44, 370, 17), (230, -40, 290, 14)),),
    "brachialis": (((218, -18, 370, 9), (234, -16, 290, 13)),),
    "sternocleidomastoid": (((14, 22, 562, 6), (34, 2, 615, 8), (56, -26, 684, 7)),),
    "scalenes": (((52, -8, 562, 8), (30, -14, 620, 8), (24, -16, 670, 5)),),
    "semispinalis": (((22, -64, 600, 11), (26, -62, 645, 12), (28, -60, 690, 9)),),
    "longus_colli": (((12, 6, 560, 5), (9, 2, 620, 5), (8, 0, 670, 5)),),
    "masseter": (((56, 30, 650, 7), (60, 36, 690, 7)),),
    "temporalis": (((62, 20, 712, 6), (68, 2, 745, 4)),),
    "pterygoid": (((36, 28, 660, 8), (30, 34, 690, 8)),),
    "tongue": (((8, 30, 646, 12), (8, 62, 652, 13), (8, 66, 664, 8)),),
    "orbit": (((20, 44, 708, 4), (28, 66, 710, 5)),),
}  # fmt: skip


def _muscles() -> Mapping[str, Curves]:
    out: dict[str, Curves] = dict(MUSCLES)
    for name, (index, (before, after)) in _CONTINUED.items():
        curves = list(out[name])
        curves[index] = (*before, *curves[index], *after)
        out[name] = tuple(curves)
    return {**out, **_UPPER}


def head(scale: float, skin_mm: float = 0.0) -> Shape:
    """The skull's outside; grown by `skin_mm`."""
    points = np.array(HEAD) * scale + [0, 0, 0, skin_mm]
    return Tube(points, reach_mm=_REACH_MM)


def _limbs(build: Build) -> list[Limb]:
    s, fat = build.scale, build.fat_side_mm
    face = Union((
        Tube(np.array([(0, 44, 706, 46), (0, 44, 672, 45), (0, 52, 642, 34)]) * s, reach_mm=_REACH_MM),
        Tube(np.array([(-34, 6, 666, 31), (34, 6, 666, 31)]) * s, reach_mm=_REACH_MM),
        Tube(np.array([(0, 86, 690, 10), (0, 96, 684, 9)]) * s, reach_mm=_REACH_MM),
    ), 10.0)  # fmt: skip
    wide = 1.0 + 0.10 * (build.muscle - 1.0)
    limbs = [
        Limb(head(s), SCALP_MM),
        Limb(face, 7.0 + 0.12 * fat),
        Limb(Tube(np.array([(0, -36, 560, 60), (0, -28, 610, 57), (0, -26, 690, 55)]) * s, reach_mm=_REACH_MM),
             4.0 + 0.2 * fat),
    ]  # fmt: skip
    for side in (1.0, -1.0):
        flip = np.array([side * wide, 1, 1, 1]) * s
        shoulder = [(50, -44, 556, 36), (110, -46, 540, 42), (160, -26, 516, 46), (178, -22, 490, 45)]
        out = 0.55 * max(0.0, fat - 14)  # arms rest on the flanks
        arm = np.array([(178, -22, 490, 45), (196 + out, -20, 430, 42), (208 + out, -20, 370, 42),
                        (230 + out, -16, 290, 41), (262 + out, -10, 220, 38)]) * flip  # fmt: skip
        limbs.append(Limb(Tube(np.array(shoulder) * flip, 8, reach_mm=_REACH_MM), 4.0 + 0.25 * fat))
        limbs.append(Limb(Tube(arm, 8, reach_mm=_REACH_MM), 4.0 + 0.3 * fat))
        if build.sex == "female":
            limbs.append(Limb(breast(build, side, _REACH_MM), -_REACH_MM, solid=False))
    return limbs


def breast(build: Build, side: float, reach_mm: float = 0.0) -> Ellipsoid:
    """The breast of a supine person, flattened and fallen to the side."""
    s, full = build.scale, 0.72 + 0.014 * build.fat_front_mm
    center = np.array([side * 80.0, 84.0, 436.0]) * s
    radii = np.array([56.0, 40.0, 58.0]) * s * min(full, 1.25)
    return Ellipsoid(center, radii + reach_mm)


WHOLE_FRAME: Final = Frame(
    envelope=_TRUNK,
    flank_fat=((-235, -60, 0, 70, 128, 200, 290, 400, 500, 560), (0.6, 0.85, 1.0, 1.15, 1.3, 1.2, 0.85, 0.6, 0.5, 0.4)),
    belly_fat=((-60, -10, 60, 128, 200, 290, 380, 500, 560), (0.45, 0.75, 1.0, 1.15, 1.1, 0.75, 0.45, 0.4, 0.3)),
    back_fat=((150, 300, 450, 560), (1.0, 0.7, 0.5, 0.4)),
    muscles=_muscles(),
    wall_back=((240, 300), (-40.0, -250.0)),
    cavity_side=((150, 260), (100.0, 128.0)),
    cavity_top=555.0,
    gap_depth=60.0,
    top=604.0,
    limbs=_limbs,
)  # fmt: skip
