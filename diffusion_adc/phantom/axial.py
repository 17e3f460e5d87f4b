"""The skeleton above the pelvis: spine with discs and canal, ribs, sternum, shoulder girdle, arms, skull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Box, Canvas, Ellipsoid, Shape, Tube, Union, rotation
from diffusion_adc.phantom.fields import Array
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.skeleton import paint_bone
from diffusion_adc.phantom.structures import MARROW, Structure
from diffusion_adc.phantom.torso import head

# Vertebra, y and z of the body's middle, half-width, half-depth, half-height in mm. L5 is the pelvis'.
SPINE: Final[tuple[tuple[str, float, float, float, float, float], ...]] = (
    ("L4", -10, 170, 25, 17, 13), ("L3", -9, 205, 24.5, 17, 13), ("L2", -12, 239, 24, 16.5, 12.5),
    ("L1", -19, 272, 23, 16.5, 12.5), ("T12", -28, 303, 22, 16, 11.5), ("T11", -38, 332, 20, 16, 11),
    ("T10", -47, 360, 18.5, 15.5, 10.5), ("T9", -54, 386, 17.5, 15.5, 10), ("T8", -59, 411, 17, 15, 9.8),
    ("T7", -62, 435, 16.5, 15, 9.5), ("T6", -63, 458, 16, 14.5, 9), ("T5", -61, 480, 15.5, 14, 8.8),
    ("T4", -56, 501, 15.5, 13, 8.5), ("T3", -49, 521, 15.5, 12, 8.2), ("T2", -41, 540, 16, 11, 8),
    ("T1", -33, 558, 16, 10, 7.6), ("C7", -26, 575, 15, 9, 6.8), ("C6", -21, 591, 14, 8.5, 6.4),
    ("C5", -18, 607, 13, 8, 6.4), ("C4", -17, 623, 13, 8, 6.4), ("C3", -18, 639, 12.5, 8, 6.4),
    ("C2", -20, 657, 12.5, 8, 8), ("C1", -22, 674, 14, 6, 5),
)  # fmt: skip
# z, half-width, front and back of the rib cage in mm.
_CAGE = np.array([
    [130, 112, 64, -76], [230, 122, 72, -88], [290, 129, 80, -96], [340, 134, 88, -104], [400, 133, 86, -108],
    [450, 124, 78, -108], [490, 110, 66, -102], [520, 92, 48, -90], [545, 68, 30, -74], [566, 44, 14, -60],
    [580, 24, 4, -46],
], dtype=np.float64)  # fmt: skip
RIB_MM: Final = 7.0
"""Thickness of the chest wall inside the cage's outer surface."""


@dataclass(frozen=True)
class Cage(Shape):
    """The rib cage's outer surface and its continuation along the abdomen's wall, a swept superellipse."""

    scale: float

    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """See `Shape`."""
        t = _CAGE * self.scale
        width = float(t[:, 1].max())
        box = canvas.box([-width, t[:, 3].min(), t[0, 0]], [width, t[:, 2].max(), t[-1, 0]])
        if box is None:
            return None
        x, y, z = canvas.coordinates(box)
        level = z[z.shape[0] // 2, z.shape[1] // 2, :].astype(np.float64)
        a, front, back = (np.interp(level, t[:, 0], t[:, c]).astype(np.float32) for c in (1, 2, 3))
        v, b = y - 0.5 * (front + back), 0.5 * (front - back)
        level_set = ((np.abs(x / a)) ** 2.4 + (np.abs(v / b)) ** 2.4) ** np.float32(1 / 2.4)
        return box, np.sqrt(x * x + v * v) * (1 - 1 / np.maximum(level_set, np.float32(0.02)))


def cage_at(z: float) -> tuple[float, float, float]:
    """Half-width, front and back of the cage at a height, mm at a scale of 1."""
    a, front, back = (float(np.interp(z, _CAGE[:, 0], _CAGE[:, c])) for c in (1, 2, 3))
    return a, front, back


def spine_y(z: float) -> float:
    """Depth (y) of the vertebral bodies' middle at a height, mm at a scale of 1."""
    heights = [150.0, *(row[2] for row in SPINE)]
    return float(np.interp(z, heights, [-12.0, *(row[1] for row in SPINE)]))


def paint_axial(canvas: Canvas, build: Build, rng: np.random.Generator, marrow_field: Array) -> None:
    """Bones above the pelvis; anchors for lesions and mimics.

    Args:
        canvas: Drawn on.
        build: The person's build.
        rng: The person's generator.
        marrow_field: (I, J, K) random field of standard deviation about 1: red marrow where it is high.
    """
    s = build.scale
    cortex = 1.8 + 0.2 * float(np.clip(rng.standard_normal(), -1.5, 1.5)) - 0.006 * (build.age_years - 60)
    base = np.float32(2.3 - 3.2 * build.red_marrow)
    axial = np.array([base - 0.1, base - 0.1], dtype=np.float32)
    limb = np.array([base + 0.5, base + 0.5], dtype=np.float32)
    _paint_ribs(canvas, s, marrow_field, axial)
    _paint_sternum(canvas, s, cortex, marrow_field, axial)
    for side in (1.0, -1.0):
        _paint_shoulder(canvas, s, side, cortex, marrow_field, axial, limb)
    for name, y, z, width, depth, height in SPINE:
        _paint_vertebra(canvas, s, (name, y, z, width, depth, height), cortex, marrow_field, axial)
    _paint_canal(canvas, build)
    _paint_skull(canvas, s, marrow_field, axial + np.float32(0.3))


def _at(
    points: Sequence[tuple[float, float, float, float]], s: float, side: float = 1.0
) -> NDArray[np.float64]:
    return np.array(points) * s * [side, 1, 1, 1]


def _tilt(z: float) -> float:
    """Pitch in degrees of a vertebra: its end plates stand across the curve of the spine."""
    return float(np.degrees(np.arctan2(spine_y(z + 12) - spine_y(z - 12), 24.0)))


def _paint_vertebra(
    canvas: Canvas,
    s: float,
    row: tuple[str, float, float, float, float, float],
    cortex: float,
    field: Array,
    red: Array,
) -> None:
    name, y, z, width, depth, height = row
    turn = rotation(pitch=-_tilt(z))
    back = y - depth  # the canal lies behind the body
    reach = 1.0 if name[0] == "L" else 0.8 if name[0] == "T" else 0.55
    parts: list[Shape] = [
        Ellipsoid(np.array([0, y, z]) * s, np.array([width, depth, height]) * s, turn, 4.0),
        Tube(_at([(0, back - 20, z - 6, 4.5), (0, back - 20 - 24 * reach, z - 6 - 8 * reach, 3.5)], s)),
    ]
    for side in (1.0, -1.0):
        parts.append(Tube(_at([(0.75 * width, back + 4, z + 3, 4.0), (0.75 * width + 2, back - 12, z, 5.0),
                               (2, back - 21, z - 5, 4.0)], s, side)))  # fmt: skip
        tip = (width + 24 * reach - 6, back - 14, z, 3.5)
        parts.append(Tube(_at([(0.75 * width + 2, back - 10, z + 1, 4.5), tip], s, side)))
    paint_bone(canvas, Union(tuple(parts)), max(cortex - 0.3, 1.2), field, red)
    region = {"L": "lumbar", "T": "thoracic", "C": "cervical_spine"}[name[0]]
    canvas.mark(region, np.array([0.4 * width, y, z]) * s, np.array([-0.3 * width, y + 2, z + 2]) * s)
    below = z - height - (5.0 if name[0] == "L" else 2.6)
    thick = 4.6 if name[0] == "L" else 2.4 if name[0] == "T" else 2.6
    disc = Ellipsoid(
        np.array([0, spine_y(below), below]) * s, np.array([0.96 * width, 0.96 * depth, thick]) * s, turn, 3.0
    )
    canvas.paint(disc, Structure.DISC)
    if name[0] != "C":
        canvas.mark("endplate", np.array([3, y + 3, z - height + 3]) * s)


def _canal(s: float) -> NDArray[np.float64]:
    """(N, 4) middle and radius of the dural sac from the pelvis to the skull."""
    rows = [(0.0, -44.0, 140.0, 9.0)]
    for name, y, z, _, depth, _ in SPINE[:-1]:
        rows.append((0.0, y - depth - 10.0, z, 8.6 if name[0] == "L" else 7.6 if name[0] == "T" else 8.2))
    rows += [(0.0, -38.0, 674.0, 9.0), (0.0, -32.0, 694.0, 10.0)]
    return np.array(rows) * s


def _paint_canal(canvas: Canvas, build: Build) -> None:
    s = build.scale
    path = _canal(s)
    canvas.paint(Tube(path + np.array([0, 0, 0, 2.4 * s])), Structure.INTERMUSCULAR_FAT)
    canvas.paint(Tube(path), Structure.CSF)
    above = path[path[:, 2] > 262 * s].copy()
    thickness = np.interp(above[:, 2] / s, [262, 285, 310, 520, 590, 640], [2.0, 5.0, 4.4, 4.2, 5.6, 5.2]) * s
    above[:, 3] = thickness
    canvas.paint(Tube(above, 0, (0.85, 1.1, 1.0)), Structure.SPINAL_CORD, (Structure.CSF,))
    below = path[path[:, 2] < 300 * s]
    for x in (-4.5, -1.5, 1.5, 4.5):  # cauda equina, settled to the back of the sac
        root = below + np.array([x, -3.0, 0, 0])
        root[:, 3] = 1.2
        canvas.paint(Tube(root), Structure.NERVE, (Structure.CSF,))
    bone = (
        Structure.CORTICAL_BONE,
        *MARROW,
        Structure.MUSCLE,
        Structure.INTERMUSCULAR_FAT,
        Structure.VISCERAL_FAT,
    )
    for name, y, z, width, depth, height in SPINE:  # roots with their ganglia in the foramina
        if name == "C1":
            continue
        big = 3.6 if name in ("C5", "C6", "C7", "T1", "L4", "L3") else 2.6
        for side in (1.0, -1.0):
            ganglion = np.array([side * (0.75 * width + 5), y - depth - 6, z - height + 1]) * s
            canvas.paint(
                Ellipsoid(ganglion, np.array([5.0, 4.4, 5.0]) * s), Structure.INTERMUSCULAR_FAT, bone
            )
            canvas.paint(Ellipsoid(ganglion, np.array([big + 1.4, big, big]) * s), Structure.NERVE,
                         (Structure.INTERMUSCULAR_FAT,))  # fmt: skip


def _paint_ribs(canvas: Canvas, s: float, field: Array, red: Array) -> None:
    thoracic = [row for row in SPINE if row[0][0] == "T"]
    for name, y, z, width, depth, _ in thoracic:
        number = int(name[1:])
        last = {1: 62.0, 2: 66.0, 11: 20.0, 12: -5.0}.get(number, 62.0)
        drop = {1: 22.0, 2: 36.0, 11: 40.0, 12: 30.0}.get(number, 58.0)
        angles = np.radians(np.linspace(-66.0, last, 9))
        for side in (1.0, -1.0):
            points: list[tuple[float, float, float, float]] = [
                (width + 1, y - depth + 2, z + 2, 3.6),
                (width + 16, y - depth - 10, z, 3.8),
            ]
            for step, angle in enumerate(angles):
                height = z - 2 - drop * (step / 8) ** 1.3
                a, front, back = cage_at(height)
                inset = 4.2
                x = (a - inset) * np.cos(angle) ** 0.84
                v = (0.5 * (front - back) - inset) * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.84
                points.append((float(x), float(0.5 * (front + back) + v), float(height), 3.9))
            rib = Tube(_at(points, s, side), 0, (1.0, 1.0, 0.72))
            paint_bone(canvas, rib, 1.0, field, red)
            canvas.mark("rib", *(np.array(p[:3]) * s * [side, 1, 1] for p in points[4:9:2]))
            if number <= 10:  # cartilage to the sternum or the costal margin
                x, front_y, height, _ = points[-1]
                to = (12.0, cage_at(max(height + 8, 372))[1] - 3, max(height + 14, 372.0), 4.0)
                cartilage = Tube(_at([(x, front_y, height, 4.0), to], s, side))
                canvas.paint(cartilage, Structure.CARTILAGE, (Structure.MUSCLE, Structure.VISCERAL_FAT,
                                                              Structure.INTERMUSCULAR_FAT, Structure.LUNG))  # fmt: skip


def _paint_sternum(canvas: Canvas, s: float, cortex: float, field: Array, red: Array) -> None:
    body = Tube(
        _at([(0, 84, 372, 7), (0, 84, 400, 8), (0, 79, 450, 8), (0, 69, 488, 8.5)], s), 6, (0.5, 1, 1)
    )
    manubrium = Ellipsoid(np.array([0, 54, 513]) * s, np.array([27, 7.5, 24]) * s, rotation(pitch=24), 2.6)
    paint_bone(canvas, Union((body, manubrium)), max(cortex - 0.4, 1.2), field, red)
    canvas.mark(
        "sternum", *(np.array(p) * s for p in ((3, 84, 400), (-3, 79, 450), (10, 55, 513), (-9, 52, 517)))
    )


def _paint_shoulder(
    canvas: Canvas, s: float, side: float, cortex: float, field: Array, red: Array, limb: Array
) -> None:
    flip = np.array([side, 1, 1]) * s
    clavicle = Tube(
        _at([(22, 46, 532, 7), (60, 40, 545, 5.5), (105, 2, 552, 5.5), (148, -26, 552, 6)], s, side), 8
    )
    paint_bone(canvas, clavicle, 1.6, field, red)
    canvas.mark("clavicle", np.array([26, 45, 533]) * flip, np.array([110, 0, 552]) * flip)
    blade = Union((
        Tube(_at([(74, -98, 436, 3.4), (92, -96, 470, 3.6), (112, -84, 500, 4.2), (146, -48, 514, 9)], s, side), 6,
             (1.0, 1.0, 0.45)),
        Tube(_at([(84, -102, 440, 4.2), (122, -74, 478, 5.0), (148, -46, 505, 8)], s, side), 6),
        Tube(_at([(76, -102, 520, 4), (118, -90, 536, 5), (154, -54, 548, 6), (160, -30, 548, 6)], s, side), 6),
        Tube(_at([(78, -98, 440, 3.6), (74, -100, 525, 3.6)], s, side)),
        Tube(_at([(146, -36, 516, 6), (140, -12, 528, 5)], s, side)),
    ), 4.0)  # fmt: skip
    paint_bone(canvas, blade, 1.5, field, red)
    canvas.mark("scapula", np.array([146, -48, 513]) * flip, np.array([122, -75, 478]) * flip,
                np.array([140, -66, 545]) * flip)  # fmt: skip
    canvas.paint(Ellipsoid(np.array([168, -34, 515]) * flip, np.full(3, 26.0) * s), Structure.CARTILAGE,
                 (Structure.MUSCLE, Structure.INTERMUSCULAR_FAT, Structure.VISCERAL_FAT))  # fmt: skip
    humerus = Union((
        Ellipsoid(np.array([170, -33, 514]) * flip, np.full(3, 23.0) * s),
        Tube(_at([(176, -28, 504, 20), (184, -24, 478, 13), (196, -20, 430, 11.5), (210, -20, 370, 11),
                  (232, -18, 290, 11.5), (262, -12, 225, 14)], s, side), 12),
    ), 6.0)  # fmt: skip
    found = humerus.distance(canvas)
    if found is not None:  # the shaft's cortex is thick, the head's thin
        box, distance = found
        z = canvas.axes[2][box[2]]
        thick = np.interp(z / s, [440, 480, 500], [4.2, 3.0, cortex]).astype(np.float32)
        canvas.fill(box, distance < 0, Structure.CORTICAL_BONE)
        marrow = distance < -thick
        canvas.fill(box, marrow, Structure.MARROW_FATTY)
        canvas.fill(box, marrow & (field[box] > limb[0]), Structure.MARROW_RED)
    canvas.mark("humerus", np.array([170, -33, 514]) * flip, np.array([184, -24, 478]) * flip,
                np.array([196, -20, 430]) * flip)  # fmt: skip


def _paint_skull(canvas: Canvas, s: float, field: Array, red: Array) -> None:
    """Vault and base as a shell around the brain, jaws; drawn before the brain."""
    found = head(s).distance(canvas)
    if found is not None:
        box, distance = found
        _, y, z = canvas.coordinates(box)
        # The base falls from the orbits to the foramen magnum.
        base = (np.interp(y[y.shape[0] // 2, :, 0], np.array([-90, -20, 10, 60]) * s, np.array([676, 684, 700, 712]) * s)
                .astype(np.float32)[None, :, None])  # fmt: skip
        shell = np.maximum(distance, base - z)
        canvas.fill(box, shell < 0, Structure.CORTICAL_BONE)
        diploe = (shell < -2.2) & (shell > -5.2)
        canvas.fill(box, diploe, Structure.MARROW_FATTY)
        canvas.fill(box, diploe & (field[box] > red[0]), Structure.MARROW_RED)
    for place in ((38, -70, 778), (-44, -60, 776), (58, 0, 752), (-58, -20, 754), (30, 62, 768)):
        canvas.mark("skull", np.array(place) * s)
    jaw = Union((
        Tube(_at([(46, 14, 684, 5), (45, 18, 652, 6), (34, 50, 634, 6.5), (13, 74, 626, 7), (0, 78, 625, 7)], s), 8),
        Tube(_at([(-46, 14, 684, 5), (-45, 18, 652, 6), (-34, 50, 634, 6.5), (-13, 74, 626, 7), (0, 78, 625, 7)], s), 8),
    ))  # fmt: skip
    paint_bone(canvas, jaw, 2.2, field, red)
    upper = Tube(
        _at([(30, 54, 668, 6), (20, 72, 668, 7), (0, 80, 668, 7), (-20, 72, 668, 7), (-30, 54, 668, 6)], s), 8
    )
    paint_bone(canvas, upper, 2.0, field, red)
    canvas.mark("mandible", np.array([34, 50, 634]) * s, np.array([-34, 50, 634]) * s)
