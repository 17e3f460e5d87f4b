"""Organs of the upper abdomen: liver, gallbladder, spleen, kidneys, adrenals, pancreas, stomach, bowel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Canvas, Ellipsoid, Tube, Union, rotation
from diffusion_adc.phantom.chest import Cavities
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import FAT, Structure

_SOFT = (*FAT, Structure.MUSCLE)
_GUT = (*FAT, Structure.BOWEL_WALL, Structure.BOWEL_FLUID, Structure.FECES, Structure.BOWEL_GAS)


def paint_solid_organs(canvas: Canvas, build: Build, cavities: Cavities, rng: np.random.Generator) -> None:
    """Liver with its veins, gallbladder, spleen, kidneys, adrenals, pancreas."""
    s = build.scale

    def p(x: float, y: float, z: float) -> NDArray[np.float64]:
        return np.array([x, y, z]) * s

    bulk = rng.normal(1.0, 0.06, 3)
    liver = Union((
        Ellipsoid(p(62, 0, 332), p(88, 84, 74) * bulk, rotation(roll=-10)),
        Ellipsoid(p(-8, 44, 352), p(62, 32, 32) * bulk, rotation(roll=-14)),
    ), 14.0)  # fmt: skip
    cavities.paint(canvas, liver, Structure.LIVER, cavities.belly)
    for tip, r in (
        ((105, 20, 340), 4),
        ((60, 40, 372), 4),
        ((98, -40, 330), 4),
        ((40, -40, 350), 4),
        ((-30, 46, 352), 3),
    ):
        vein = Tube(
            [
                [*p(24, 0, 362), 6],
                [*(0.5 * (p(24, 0, 362) + p(*tip)) + rng.normal(0, 5, 3)), r],
                [*p(*tip), 2],
            ],
            6,
        )
        canvas.paint(vein, Structure.BLOOD, (Structure.LIVER,))
    portal = Tube([[*p(6, 22, 290), 6], [*p(30, 24, 312), 6], [*p(60, 10, 325), 5], [*p(92, 2, 312), 3]], 8)
    canvas.paint(portal, Structure.BLOOD, (Structure.LIVER, *FAT))
    canvas.mark("liver", p(90, 10, 340), p(70, 40, 345), p(60, -44, 345), p(104, -24, 318), p(40, 28, 362), p(-20, 46, 354),
                p(88, 30, 305), p(72, -6, 372))  # fmt: skip
    bile = Ellipsoid(p(48, 54, 284), p(13, 14, 26) * rng.uniform(0.75, 1.2), rotation(pitch=-20))
    canvas.paint_shell(bile, Structure.BLADDER_WALL, Structure.BILE, 1.6, (Structure.LIVER, *_GUT))
    spleen_size = float(np.exp(0.12 * rng.standard_normal()))
    spleen = Ellipsoid(p(-91, -38, 318), p(28, 44, 52) * spleen_size, rotation(yaw=-28, pitch=18), 2.3)
    cavities.paint(canvas, spleen, Structure.SPLEEN, cavities.belly)
    for side in (1.0, -1.0):
        _paint_kidney(canvas, s, side, rng)
        flip = np.array([side, 1, 1, 1])
        limbs = (
            [(42, -32, 306, 3.4), (40, -38, 318, 3.8), (44, -52, 314, 3.0)],
            [(42, -32, 306, 3.2), (52, -44, 310, 3.0)],
        )
        for limb in limbs:
            canvas.paint(Tube(np.array(limb) * s * flip), Structure.ADRENAL, (*_SOFT, Structure.LIVER))
    gland = Tube(np.array([(38, 14, 252, 13), (28, 22, 268, 13), (4, 28, 284, 10), (-30, 18, 294, 10), (-66, -8, 304, 10),
                           (-78, -22, 312, 8)]) * s, 14, (1, 1, 1.15))  # fmt: skip
    canvas.paint(gland, Structure.PANCREAS, FAT)
    canvas.mark("pancreas", p(34, 18, 260), p(-20, 22, 290))


def _paint_kidney(canvas: Canvas, s: float, side: float, rng: np.random.Generator) -> None:
    center = np.array([side * 62, -44, 244 if side > 0 else 256]) * s + rng.normal(0, [2, 2, 6])
    radii = np.array([26, 25, 53]) * s * float(np.exp(0.06 * rng.standard_normal()))
    turn = rotation(roll=side * 14, yaw=side * 24, pitch=8)
    canvas.paint(Ellipsoid(center, radii + 9 * s, turn), Structure.VISCERAL_FAT, (Structure.MUSCLE,))
    canvas.paint(
        Ellipsoid(center, radii, turn), Structure.KIDNEY_CORTEX, (*_SOFT, Structure.LIVER, Structure.SPLEEN)
    )
    only = (Structure.KIDNEY_CORTEX,)
    for height in np.linspace(-0.66, 0.66, 5):
        for angle in (-70, 0, 70):
            a = np.radians(angle)
            where = np.array([side * 0.42 * np.cos(a), 0.42 * np.sin(a), height]) * radii * [1, 1, 0.95]
            canvas.paint(
                Ellipsoid(center + turn @ where, np.array([8.5, 8.5, 9]) * s), Structure.KIDNEY_MEDULLA, only
            )
    inner = (Structure.KIDNEY_CORTEX, Structure.KIDNEY_MEDULLA)
    sinus = center + turn @ (radii * [-side * 0.52, 0, 0])
    canvas.paint(Ellipsoid(sinus, radii * [0.46, 0.36, 0.5], turn), Structure.VISCERAL_FAT, inner)
    canvas.paint(
        Ellipsoid(sinus, radii * [0.22, 0.2, 0.26], turn), Structure.URINE, (Structure.VISCERAL_FAT,)
    )
    ureter = Tube(
        [[*sinus, 2.4], [side * 40 * s, -20 * s, 190 * s, 2.0], [side * 42 * s, -18 * s, 118 * s, 2.0]], 8
    )
    canvas.paint(ureter, Structure.URINE, FAT)
    canvas.mark(
        "kidney",
        center + turn @ (radii * [side * 0.6, 0.2, 0.4]),
        center + turn @ (radii * [side * 0.6, 0, -0.5]),
    )


def paint_upper_bowel(canvas: Canvas, build: Build, rng: np.random.Generator) -> NDArray[np.float64]:
    """Stomach, duodenum, upper loops and the colon's frame.

    Returns:
        (N, 4) x, y, z, radius of the larger gas pockets: they disturb the field.
    """
    s = build.scale
    full = float(rng.uniform(0.75, 1.1))
    stomach = np.array([(-14, 8, 366, 9), (-46, 4, 362, 30 * full), (-66, 14, 335, 31 * full), (-62, 40, 300, 26 * full),
                        (-30, 58, 274, 20 * full), (8, 52, 270, 14), (26, 40, 276, 10)]) * s  # fmt: skip
    content = Structure.BOWEL_FLUID if rng.random() < 0.6 else Structure.FECES
    canvas.paint_shell(Tube(stomach, 18), Structure.BOWEL_WALL, content, 3.6, _GUT)
    bubble = Ellipsoid(np.array([-58, 34, 340]) * s, np.array([20, 12, 24]) * s * full)
    canvas.paint(bubble, Structure.BOWEL_GAS, (content,))
    duodenum = (
        np.array(
            [(30, 38, 276, 11), (50, 18, 262, 11), (50, 4, 225, 11), (14, 8, 212, 10), (-26, 18, 226, 10)]
        )
        * s
    )
    canvas.paint_shell(Tube(duodenum, 12), Structure.BOWEL_WALL, Structure.BOWEL_FLUID, 2.6, _GUT)
    for _ in range(int(rng.integers(22, 30))):
        radius = rng.uniform(8, 13)
        points = [np.array([rng.uniform(-78, 78), rng.uniform(6, 58), rng.uniform(140, 262)])]
        for _ in range(4):
            points.append(np.clip(points[-1] + rng.normal(0, [26, 14, 18]), [-84, 2, 132], [84, 62, 268]))
        curve = Tube(np.column_stack([np.array(points) * s, radius * rng.uniform(0.8, 1.15, 5)]), 12)
        inside = Structure.BOWEL_FLUID if rng.random() < 0.7 else Structure.FECES
        canvas.paint_shell(
            curve, Structure.BOWEL_WALL, inside, rng.uniform(2.0, 3.2), (*FAT, Structure.BOWEL_WALL)
        )
    drop = float(rng.uniform(-30, 10))
    colon = np.array([(92, 4, 136, 20), (98, -6, 180, 20), (98, -4, 228, 20), (88, 30, 256, 18), (52, 62, 240 + drop, 17),
                      (0, 66, 228 + drop, 17), (-52, 60, 246 + drop, 17), (-94, 6, 300, 16), (-102, -18, 268, 14),
                      (-102, -18, 210, 13), (-96, 0, 140, 13)]) * s  # fmt: skip
    colon[1:-1, :3] += rng.normal(0, 3, (len(colon) - 2, 3))
    tube = Tube(colon, 40)
    canvas.paint_shell(tube, Structure.BOWEL_WALL, Structure.FECES, 2.6, (*_GUT, Structure.MUSCLE))
    pockets = [[-58 * s, 34 * s, 340 * s, 18 * s]]
    curve_points = tube.curve()
    for _ in range(int(rng.integers(3, 7))):
        x, y, z, r = curve_points[int(rng.integers(8, 34))]
        radius = r * rng.uniform(0.6, 0.8)
        center = np.array([x, y + 0.35 * r, z])
        pocket = Ellipsoid(center, [radius, 0.75 * radius, radius * rng.uniform(1.0, 1.6)])
        canvas.paint(pocket, Structure.BOWEL_GAS, (Structure.FECES,))
        pockets.append([*center, float(radius)])
    return np.array(pockets)
