"""Pelvic skeleton: hip bones, femora, sacrum, lowest lumbar vertebra, with cortex, marrow and joints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Box, Canvas, Ellipsoid, Plate, Shape, Tube, Union, rotation
from diffusion_adc.phantom.fields import Array
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import Structure

HEAD = np.array([88.0, 2.0, 0.0])
"""Center of the right femoral head, mm."""
HEAD_RADIUS = 24.0

# Iliac wing: x, y, half-thickness in mm of four points from the sacroiliac joint forward, by level.
_WING_LEVELS = np.array([16, 38, 58, 75, 95, 112, 123], dtype=np.float64)
_WING = np.array([
    [[70, -42, 12], [84, -26, 15], [97, 2, 14], [88, 25, 11]],
    [[58, -56, 11], [82, -32, 8], [99, 0, 7], [98, 28, 8]],
    [[47, -69, 11], [72, -47, 5.5], [103, -4, 4], [114, 37, 6]],
    [[44, -74, 11], [72, -52, 4.5], [109, -6, 3.6], [121, 40, 5.5]],
    [[46, -75, 9], [76, -55, 4.5], [115, -10, 4.5], [126, 24, 5.5]],
    [[54, -70, 7], [86, -50, 5.5], [121, -17, 6.5], [127, 4, 6]],
    [[76, -54, 5], [99, -41, 6.5], [120, -22, 6.5], [125, -10, 4]],
])  # fmt: skip


@dataclass(frozen=True)
class Cup(Shape):
    """Part of a ball on one side of a plane: the acetabulum around the femoral head."""

    center: NDArray[np.float64]
    radius: float
    toward: NDArray[np.float64]
    """Unit vector to the cup's depth."""
    edge_mm: float
    """The cup reaches this far beyond the ball's equator."""

    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """See `Shape`."""
        box = canvas.box(self.center - self.radius, self.center + self.radius)
        if box is None:
            return None
        x, y, z = canvas.coordinates(box)
        c, n = self.center.astype(np.float32), self.toward.astype(np.float32)
        x, y, z = x - c[0], y - c[1], z - c[2]
        ball = np.sqrt(x * x + y * y + z * z) - np.float32(self.radius)
        side = -(x * n[0] + y * n[1] + z * n[2]) - np.float32(self.edge_mm)
        return box, np.maximum(ball, side)


def hip_bone(side: float, size: NDArray[np.float64]) -> Shape:
    """Ilium, acetabulum, ischium and pubis of one side (+1 right, −1 left)."""
    flip = np.array([side, 1.0, 1.0])

    def at(points: list[tuple[float, float, float, float]]) -> NDArray[np.float64]:
        return np.array(points) * [*(size * flip), size[1]]

    wing = _WING.copy()
    wing[..., 0] *= side * size[0]
    wing[..., 1:] *= size[1]
    toward = np.array([-0.80 * side, -0.08, 0.59])
    return Union((
        Plate(_WING_LEVELS * size[2], wing),
        Cup(HEAD * size * flip, 36 * size[1], toward / np.linalg.norm(toward), 3.0),
        Tube(at([(76, -26, 6, 14), (68, -38, -20, 11), (60, -43, -45, 12), (54, -42, -62, 12)]), 8),
        Tube(at([(54, -38, -64, 9), (38, -2, -60, 6), (24, 28, -52, 6), (12, 44, -42, 7)]), 8),
        Tube(at([(76, 20, 6, 12), (60, 38, 2, 9), (38, 51, -8, 7.5), (14, 56, -20, 9)]), 8),
        Ellipsoid(np.array([11.5, 51, -31]) * size * flip, np.array([9.0, 8.0, 17.0]) * size[1]),
    ), 4.0)  # fmt: skip


SHAFT: Final = ((126, -7, -22, 18), (125, -2, -42, 16), (122, 4, -70, 14), (120, 9, -115, 13.5))
"""The right femur's shaft as far as a pelvis shows it: x, y, z, radius in mm."""
LONG_SHAFT: Final = (*SHAFT, (113, 12, -170, 13.0), (104, 12, -235, 13.0))
"""The same to the middle of the thigh."""


def femur(side: float, size: NDArray[np.float64], shaft: Sequence[tuple[float, ...]] = SHAFT) -> Shape:
    """Head, neck, trochanters and shaft of one side."""
    flip = np.array([side, 1.0, 1.0])

    def at(points: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
        return np.array(points) * [*(size * flip), size[1]]

    return Union((
        Ellipsoid(HEAD * size * flip, np.full(3, HEAD_RADIUS * size[1])),
        Tube(at([(92, 1, -3, 16), (106, -4, -10, 15), (122, -8, -18, 17)]), 5, (1.0, 1.15, 1.0)),
        Ellipsoid(np.array([135, -14, -8]) * size * flip, np.array([11.0, 15, 19]) * size[1]),
        Tube(at(shaft), 2 * len(shaft)),
        Ellipsoid(np.array([110, -14, -45]) * size * flip, np.array([9.0, 9, 11]) * size[1]),
    ), 5.0)  # fmt: skip


def sacrum(size: NDArray[np.float64]) -> Shape:
    """Sacral bodies and lateral masses, coccyx and posterior crest."""

    def at(points: list[tuple[float, float, float, float]], side: float = 1.0) -> NDArray[np.float64]:
        return np.array(points) * [side * size[0], size[1], size[2], size[1]]

    parts: list[Shape] = [
        Tube(at([(0, -40, 98, 19), (0, -56, 72, 16), (0, -68, 45, 13), (0, -73, 20, 9), (0, -66, 0, 5.5),
                 (0, -58, -14, 4)]), 12, (0.8, 1.0, 1.0)),
        Tube(at([(0, -82, 104, 5), (0, -92, 72, 5), (0, -92, 42, 4)]), 6),
    ]  # fmt: skip
    for side in (1.0, -1.0):
        parts += [
            Tube(at([(19, -46, 93, 17), (31, -54, 86, 18), (31, -63, 64, 16), (23, -70, 40, 13), (13, -72, 20, 8)],
                    side), 10),
            Tube(at([(14, -70, 104, 6), (22, -80, 92, 6), (16, -88, 70, 5)], side), 6),
        ]  # fmt: skip
    return Union(tuple(parts), 9.0)


def paint_bone(canvas: Canvas, shape: Shape, cortex_mm: float, marrow_field: Array, threshold: Array) -> None:
    """Draw a bone: cortex of the given thickness around fatty marrow, red where the field passes a threshold.

    Args:
        canvas: Drawn on.
        shape: The bone.
        cortex_mm: Thickness of the cortex.
        marrow_field: (I, J, K) random field.
        threshold: Of the field, at the lower and at the upper end of the pelvis.
    """
    found = shape.distance(canvas)
    if found is None:
        return
    box, distance = found
    canvas.fill(box, distance < 0, Structure.CORTICAL_BONE)
    marrow = distance < -np.float32(cortex_mm)
    canvas.fill(box, marrow, Structure.MARROW_FATTY)
    z = canvas.axes[2][box[2]]
    red = marrow_field[box] > np.interp(z, [-110, 130], [threshold[0], threshold[1]]).astype(np.float32)
    canvas.fill(box, marrow & red, Structure.MARROW_RED)


def paint_skeleton(
    canvas: Canvas,
    build: Build,
    rng: np.random.Generator,
    marrow_field: Array,
    shaft: Sequence[tuple[float, ...]] = SHAFT,
) -> None:
    """Bones, joints, discs, sacral canal; anchors for lesions.

    Args:
        canvas: Drawn on.
        build: The person's build.
        rng: The person's generator.
        marrow_field: (I, J, K) random field of standard deviation about 1: red marrow where it is high.
        shaft: The femur's shaft, `SHAFT` or `LONG_SHAFT`.
    """
    s = build.scale
    size = np.array([s * build.hip_scale, s, s])
    cortex = 2.0 + 0.25 * float(np.clip(rng.standard_normal(), -1.5, 1.5)) - 0.006 * (build.age_years - 60)
    # Red marrow stays longest in the axial skeleton, so its threshold falls from the femur to the sacrum.
    base = np.float32(2.3 - 3.2 * build.red_marrow)
    axial = np.array([base + 1.1, base - 0.1], dtype=np.float32)
    femoral = np.array([base + 1.5, base + 0.3], dtype=np.float32)
    for side in (1.0, -1.0):
        flip = np.array([side, 1.0, 1.0])
        paint_bone(canvas, hip_bone(side, size), cortex, marrow_field, axial)
        head = HEAD * size * flip
        canvas.paint(Ellipsoid(head, np.full(3, (HEAD_RADIUS + 3.2) * s)), Structure.CARTILAGE)
        found = femur(side, size, shaft).distance(canvas)
        if found is not None:
            # Shafts have a thick cortex, heads and trochanters a thin one; epiphyses are fatty early in life.
            box, distance = found
            z = canvas.axes[2][box[2]]
            thick = np.interp(z / s, [-60, -30, 0], [5.0, 3.0, 0.9 * cortex]).astype(np.float32)
            canvas.fill(box, distance < 0, Structure.CORTICAL_BONE)
            marrow = distance < -thick
            canvas.fill(box, marrow, Structure.MARROW_FATTY)
            x = np.abs(canvas.axes[0][box[0]])[:, None, None]
            epiphysis = np.where((x < 112 * size[0]) & (z > -16 * s), np.float32(1.2), np.float32(0))
            level = np.interp(z, [-110, 130], femoral).astype(np.float32) + epiphysis
            canvas.fill(box, marrow & (marrow_field[box] > level), Structure.MARROW_RED)
        _mark_side(canvas, side, size)
    symphysis = Ellipsoid(np.array([0, 50, -31]) * size, np.array([3.2, 9, 18]) * s)
    canvas.paint(symphysis, Structure.CARTILAGE)
    paint_bone(canvas, sacrum(size), cortex, marrow_field, axial)
    _paint_lumbar(canvas, size, cortex, marrow_field, axial)
    for side in (1.0, -1.0):  # joint space between sacrum and ilium
        joint = Plate(
            np.array([48, 62, 80, 98]) * s,
            np.array([
                [[46, -64, 1.4], [50, -60, 1.4], [53, -56, 1.4]], [[43, -66, 1.5], [48, -58, 1.5], [53, -48, 1.5]],
                [[41, -66, 1.5], [48, -56, 1.5], [56, -44, 1.5]], [[44, -64, 1.4], [52, -55, 1.4], [60, -44, 1.4]],
            ]) * [side * size[0], s, 1.0],
        )  # fmt: skip
        canvas.paint(joint, Structure.CARTILAGE)
    _paint_canal(canvas, size)


def _paint_lumbar(
    canvas: Canvas, size: NDArray[np.float64], cortex: float, marrow_field: Array, threshold: Array
) -> None:
    turn = rotation(pitch=-24)
    vertebra = Union((
        Ellipsoid(np.array([0, -14, 134]) * size, np.array([26, 18, 14]) * size[1], turn, 4.0),
        Tube(np.array([[20, -34, 132, 5], [24, -56, 126, 7], [20, -72, 118, 6]]) * [*size, size[1]]),
        Tube(np.array([[-20, -34, 132, 5], [-24, -56, 126, 7], [-20, -72, 118, 6]]) * [*size, size[1]]),
        Tube(np.array([[20, -68, 126, 4], [0, -80, 124, 5], [-20, -68, 126, 4]]) * [*size, size[1]]),
    ))  # fmt: skip
    paint_bone(canvas, vertebra, cortex, marrow_field, threshold)
    disc = Ellipsoid(np.array([0, -24, 115]) * size, np.array([25, 18, 5.5]) * size[1], turn, 3.0)
    canvas.paint(disc, Structure.DISC)
    canvas.mark("lumbar", np.array([0, -14, 130]) * size)
    canvas.mark("endplate", np.array([0, -30, 106]) * size, np.array([0, -16, 124]) * size)


def _paint_canal(canvas: Canvas, size: NDArray[np.float64]) -> None:
    full = [*size, size[1]]
    canal = Tube(
        np.array([[0, -44, 140, 9], [0, -56, 112, 8.5], [0, -68, 88, 6.5], [0, -77, 66, 4]]) * full, 10
    )
    canvas.paint(Tube(canal.curve() + np.array([0, 0, 0, 2.2]), 0), Structure.INTERMUSCULAR_FAT)
    canvas.paint(canal, Structure.CSF)
    below = Tube(np.array([[0, -76, 68, 3.5], [0, -82, 45, 2.5], [0, -80, 25, 2]]) * full, 6)
    canvas.paint(below, Structure.INTERMUSCULAR_FAT)
    for x in (-4.5, -1.5, 1.5, 4.5):  # cauda equina, settled to the back of the sac
        root = np.array([[x, -47, 140, 1.1], [x, -60, 112, 1.1], [0.7 * x, -71, 88, 1.0]]) * full
        canvas.paint(Tube(root, 6), Structure.NERVE, (Structure.CSF,))


def _mark_side(canvas: Canvas, side: float, size: NDArray[np.float64]) -> None:
    def at(*points: tuple[float, float, float]) -> list[NDArray[np.float64]]:
        return [np.array(p) * size * [side, 1, 1] for p in points]

    wing = at((80, -42, 80), (110, -4, 75), (118, 20, 84), (120, -16, 108), (58, -64, 82), (76, -42, 50))
    canvas.mark("ilium", *wing, *at((92, 0, 30), (88, -28, 26)))
    canvas.mark("acetabulum", *at((84, -20, 20), (78, 20, 8), (72, -24, 4), (92, 6, 32)))
    canvas.mark("ischium", *at((66, -40, -24), (58, -43, -50), (54, -42, -60)))
    canvas.mark("pubis", *at((50, 44, -4), (12, 52, -28), (20, 34, -50), (30, 54, -14)))
    canvas.mark("femur", *at((90, 2, 4), (108, -5, -12), (134, -14, -6), (126, -4, -36), (122, 4, -64)))
    canvas.mark("sacrum", *at((6, -44, 95), (26, -54, 86), (34, -64, 64), (6, -60, 66), (12, -70, 40)))
