"""Neck and chest: airways, lungs, heart, great vessels, esophagus, thyroid, thymus, breast, plexus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.axial import RIB_MM, Cage, spine_y
from diffusion_adc.phantom.canvas import Box, Canvas, Ellipsoid, Shape, Tube, rotation
from diffusion_adc.phantom.fields import Array
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import FAT, Structure
from diffusion_adc.phantom.torso import breast

_SOFT = (*FAT, Structure.MUSCLE)
_INSIDE = (*_SOFT, Structure.LUNG)


@dataclass(frozen=True)
class Cavities:
    """The chest and the abdomen inside the chest wall, each boolean in one box of the fine grid."""

    box: Box
    chest: NDArray[np.bool_]
    belly: NDArray[np.bool_]

    def paint(self, canvas: Canvas, shape: Shape, structure: int, room: NDArray[np.bool_]) -> None:
        """Paint the part of a shape that lies in one of the cavities."""
        found = shape.distance(canvas)
        if found is None:
            return
        box, distance = found
        self.fill(canvas, box, distance < 0, structure, room)

    def fill(
        self, canvas: Canvas, box: Box, inside: NDArray[np.bool_], structure: int, room: NDArray[np.bool_]
    ) -> None:
        """Give the voxels `inside` a box that lie in one of the cavities a structure number."""
        start = [max(b.start, o.start) for b, o in zip(box, self.box, strict=True)]
        stop = [min(b.stop, o.stop) for b, o in zip(box, self.box, strict=True)]
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            return
        shared = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        own = tuple(slice(a - b.start, e - b.start) for a, e, b in zip(start, stop, box, strict=True))
        there = tuple(slice(a - b.start, e - b.start) for a, e, b in zip(start, stop, self.box, strict=True))
        canvas.labels[shared][inside[own] & room[there]] = structure


def _diaphragm(x: Array, y: Array, s: float, breath_mm: float) -> Array:
    """Height of the diaphragm in mm: two domes, the right one higher."""
    domes = []
    for side, top in ((1, 396.0), (-1, 386.0)):
        away = side * x - np.float32(62 * s)
        away = np.where(away < 0, np.float32(0.45) * away, away)
        domes.append(np.float32((top + breath_mm) * s)
                     - np.float32(0.0100 / s) * (away * away + (y - np.float32(8 * s)) ** 2))  # fmt: skip
    return np.maximum(domes[0], domes[1])


def paint_cavities(canvas: Canvas, build: Build, rng: np.random.Generator) -> Cavities | None:
    """Chest wall, lungs with their vessels and the fat of mediastinum and abdomen; None if out of view."""
    s = build.scale
    found = Cage(s).distance(canvas)
    if found is None:
        return None
    box, distance = found
    x, y, z = canvas.coordinates(box)
    inner = distance < -np.float32(RIB_MM * s)
    wall = (distance < 0) & ~inner & (z > np.float32(255 * s))
    canvas.fill(box, wall, Structure.MUSCLE, FAT)
    dome = _diaphragm(x, y, s, float(rng.normal(0, 6)))
    above = inner & (z > dome)
    # Between the lungs: wide at the heart and along the spine, narrow behind the sternum.
    middle = np.interp(
        canvas.axes[1][box[1]] / s, [-110, -85, -55, -20, 15, 55, 85], [34, 24, 19, 27, 31, 16, 7]
    )
    apart = np.abs(x + np.float32(4 * s)) > (middle * s).astype(np.float32)[None, :, None]
    canvas.fill(box, above & ~apart & (y > np.float32(-60 * s)), Structure.VISCERAL_FAT)
    canvas.fill(box, above & apart, Structure.LUNG)
    diaphragm = inner & (z <= dome) & (z > dome - np.float32(4.0))
    canvas.fill(box, diaphragm, Structure.MUSCLE)
    below = inner & (z <= dome - np.float32(4.0)) & (z > np.float32(215 * s))
    front = below & (y > np.float32(-52 * s))
    canvas.fill(box, front & (canvas.labels[box] == Structure.MUSCLE), Structure.VISCERAL_FAT)
    cavities = Cavities(box, above, below)
    for side in (1.0, -1.0):
        for _ in range(7):
            root = np.array([side * 30, -14, 455]) * s
            tip = np.array([side * rng.uniform(70, 112), rng.uniform(-80, 50), rng.uniform(380, 530)]) * s
            knee = 0.5 * (root + tip) + rng.normal(0, 8, 3)
            vessel = Tube([[*root, 4.0], [*knee, 3.0], [*tip, 1.6]], 6)
            canvas.paint(vessel, Structure.BLOOD, (Structure.LUNG,))
        canvas.mark("lung", *(np.array([side * a, b, c]) * s for a, b, c in (
            (72, -40, 470), (64, 30, 470), (84, -52, 420), (92, 10, 430), (52, -50, 520), (66, 44, 440))))  # fmt: skip
        canvas.mark("lung_hilum", np.array([side * 48, -16, 466]) * s)
    return cavities


def paint_chest(canvas: Canvas, build: Build, rng: np.random.Generator) -> NDArray[np.float64]:
    """Organs of neck and chest.

    Returns:
        (N, 4) x, y, z, radius of the air in throat and windpipe: it disturbs the field.
    """
    s = build.scale

    def at(*points: tuple[float, float, float, float], side: float = 1.0) -> NDArray[np.float64]:
        return np.array(points) * s * [side, 1, 1, 1]

    _paint_heart(canvas, s, rng)
    _paint_vessels(canvas, s)
    canvas.paint(Tube(at((0, -8, 600, 6), (0, -12, 540, 6), (-6, -24, 470, 7), (-10, -20, 400, 7), (-16, 0, 365, 7)), 12),
                 Structure.BOWEL_WALL, _INSIDE)  # fmt: skip
    windpipe = at((0, 16, 640, 8), (0, 14, 605, 9), (0, 8, 560, 9), (0, -6, 500, 9))
    tubes = [windpipe, at((0, -6, 500, 8), (22, -14, 474, 7), (44, -18, 458, 5)),
             at((0, -6, 500, 8), (-24, -14, 470, 7), (-46, -20, 455, 5))]  # fmt: skip
    for tube in tubes:
        canvas.paint(Tube(tube + np.array([0, 0, 0, 2.4]), 10), Structure.CARTILAGE, _INSIDE)
        canvas.paint(Tube(tube, 10), Structure.AIRWAY)
    size = float(np.exp(0.2 * rng.standard_normal()))
    for side in (1.0, -1.0):
        lobe = Ellipsoid(np.array([side * 18, 12, 574]) * s, np.array([9, 10, 22]) * s * size ** (1 / 3),
                         rotation(roll=side * 8))  # fmt: skip
        canvas.paint(lobe, Structure.THYROID, (*_SOFT, Structure.CARTILAGE))
    canvas.paint(
        Tube(at((-14, 22, 568, 4), (14, 22, 568, 4))), Structure.THYROID, (*_SOFT, Structure.CARTILAGE)
    )
    # The thymus turns to fat by the fourth decade.
    young = float(np.clip((48 - build.age_years) / 22, 0, 1))
    if young > 0.1:
        for side in (1.0, -1.0):
            gland = Ellipsoid(
                np.array([side * 9, 46, 470]) * s, np.array([13, 7, 30]) * s * (0.5 + 0.5 * young)
            )
            canvas.paint(gland, Structure.THYMUS, FAT)
    _paint_axilla(canvas, build, s)
    if build.sex == "female":
        _paint_breast(canvas, build, rng)
    return np.array([[0, 30 * s, 665 * s, 11 * s], [0, 12 * s, 600 * s, 9 * s], [0, 2 * s, 530 * s, 9 * s]])


def _paint_heart(canvas: Canvas, s: float, rng: np.random.Generator) -> None:
    turn = rotation(yaw=-38 + rng.normal(0, 5), pitch=-18)
    center = np.array([-30, 30, 418]) * s
    canvas.mark("heart", center)
    sac = Ellipsoid(center + np.array([10, 2, 6]) * s, np.array([55, 47, 52]) * s, turn)
    canvas.paint(sac, Structure.VISCERAL_FAT, _INSIDE)
    room = (Structure.VISCERAL_FAT, Structure.LUNG, Structure.MUSCLE)
    right = Ellipsoid(center + np.array([30, 14, 2]) * s, np.array([34, 30, 40]) * s, turn)
    canvas.paint_shell(right, Structure.MYOCARDIUM, Structure.BLOOD, 4.0 * s, room)
    atria = Ellipsoid(center + np.array([30, -24, 28]) * s, np.array([44, 22, 24]) * s, turn)
    canvas.paint_shell(atria, Structure.MYOCARDIUM, Structure.BLOOD, 2.6 * s, (*room, Structure.MYOCARDIUM))
    left = Ellipsoid(center, np.array([36, 46, 36]) * s, turn)
    canvas.paint_shell(left, Structure.MYOCARDIUM, Structure.BLOOD, 10.5 * s, (*room, Structure.MYOCARDIUM))


def _paint_vessels(canvas: Canvas, s: float) -> None:
    """Aorta, caval veins, pulmonary trunk, carotids and jugular veins, subclavian vessels."""

    def front(z: float) -> float:
        return spine_y(z) + (28.0 if z < 290 else 24.0)

    down = [(-18.0, front(z) - 4, z, 11.0) for z in (470.0, 440.0, 400.0, 360.0, 320.0)]
    down += [(-10.0, front(z), z, 9.5) for z in (280.0, 240.0, 200.0)] + [
        (-2.0, 4.0, 158.0, 8.0),
        (0.0, 0.0, 144.0, 7.0),
    ]
    lines: list[list[tuple[float, float, float, float]]] = [
        [(2, 26, 448, 13), (12, 30, 480, 13), (6, 14, 505, 12), (-12, -16, 503, 12), *down],
        [(20.0, front(z) - 2, z, 10.0) for z in (350.0, 300.0, 260.0, 210.0)]
        + [(14, 0, 160, 10), (8, -6, 146, 9)],
        [(26, 12, 440, 10), (26, 20, 490, 9), (22, 26, 530, 8)],
        [(-6, 36, 450, 12), (-14, 14, 478, 11), (-30, -8, 476, 8)],
        [(-6, 20, 476, 9), (34, -8, 472, 8)],
    ]
    for side in (1, -1):
        lines.append(
            [
                (side * 10, 24, 512, 5),
                (side * 20, 8, 570, 4),
                (side * 26, -2, 640, 4),
                (side * 26, -8, 690, 3),
            ]
        )
        lines.append([(side * 24, 28, 530, 7), (side * 30, 10, 580, 6), (side * 34, -4, 640, 5.5)])
        lines.append(
            [
                (side * 14, 20, 515, 5),
                (side * 60, 22, 546, 5),
                (side * 112, -4, 525, 5),
                (side * 165, -22, 470, 4),
            ]
        )
    for line in lines:
        canvas.paint(Tube(np.array(line, dtype=np.float64) * s, 3 * len(line)), Structure.BLOOD,
                     (*_INSIDE, Structure.BOWEL_WALL))  # fmt: skip


def _paint_axilla(canvas: Canvas, build: Build, s: float) -> None:
    """Fat of the armpit and above the collarbone with the brachial plexus in it."""
    for side in (1.0, -1.0):
        for center, radii in (
            ((138, -24, 478), (22, 26, 36)),
            ((48, 8, 556), (22, 16, 16)),
            ((47, 4, 626), (10, 15, 34)),
        ):
            pad = Ellipsoid(np.array(center) * s * [side, 1, 1], np.array(radii) * s)
            canvas.paint(pad, Structure.INTERMUSCULAR_FAT, (Structure.MUSCLE,))
        for start in ((20, -26, 596), (21, -30, 580), (20, -36, 566)):
            points = np.array([(*start, 2.0), (46, -14, 560, 2.2), (96, -10, 540, 2.6), (138, -20, 508, 2.8),
                               (168, -24, 460, 2.4)]) * s * [side, 1, 1, 1]  # fmt: skip
            canvas.paint(Tube(points, 12), Structure.NERVE, _SOFT)


def _paint_breast(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    dense = float(np.clip(0.95 - 0.009 * (build.age_years - 25) + 0.12 * rng.standard_normal(), 0.25, 1.0))
    for side in (1.0, -1.0):
        whole = breast(build, side)
        center, radii = np.asarray(whole.center), np.asarray(whole.radii)
        gland = center + np.array([0, 0.30 * radii[1], 0])
        for _ in range(5):  # lobes of the gland
            where = gland + radii * rng.uniform(-0.28, 0.28, 3) * [1, 0.5, 1]
            lobe = Ellipsoid(where, radii * [0.36, 0.30, 0.36] * dense)
            canvas.paint(lobe, Structure.BREAST, (*FAT, Structure.SUBCUTANEOUS_FAT))
        canvas.mark("breast", gland, gland + radii * [0.2, 0, 0.2], gland - radii * [0.2, 0, 0.1])
