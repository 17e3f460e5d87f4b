"""The body's envelope: skin, subcutaneous fat, muscles with fat planes, abdominal wall.

Muscles are seeds (tubes) that share their space: a voxel belongs to the nearest seed's surface, and where two
are equally near runs a fat plane. That packs muscles as tightly as in a body. Evaluated on half the fine
resolution and interpolated, since these borders are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Box, Canvas, Shape, Tube, Union
from diffusion_adc.phantom.fields import Array, upsample
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import Structure

_SKIN_MM = 1.6
_BLEND_MM = np.float32(14.0)
"""Width over which a limb's surface flows into the trunk's."""
_PACKED_MM = 15.0
"""Beyond this distance from every muscle seed lies fat."""
Curves = tuple[tuple[tuple[float, float, float, float], ...], ...]
"""Curves of x, y, z, radius in mm."""
Profile = tuple[tuple[float, ...], tuple[float, ...]]
"""Heights in mm and the value at each; linear between, constant beyond."""

# z, half-width, front, back of the muscular envelope in mm (front and back measured at the midline), and how
# much of the width follows the width of the hips.
ENVELOPE = np.array([
    [-110, 155, 74, -84, 1], [-70, 154, 76, -92, 1], [-35, 152, 78, -101, 1], [0, 149, 78, -106, 1],
    [30, 146, 76, -104, 1], [60, 142, 80, -99, 1], [90, 140, 84, -95, 1], [128, 136, 86, -90, 1],
    [180, 134, 88, -88, 1],
], dtype=np.float64)  # fmt: skip

# Muscle seeds of the right side: curves of x, y, z, radius in mm. Several curves of one muscle share a name.
MUSCLES: dict[str, Curves] = {
    "gluteus_maximus": (
        ((42, -84, 62, 12), (80, -88, 30, 19), (116, -70, -15, 20), (132, -44, -62, 15)),
        ((34, -88, 25, 12), (70, -92, -10, 22), (100, -78, -45, 22), (122, -55, -90, 14)),
        ((62, -76, 85, 9), (98, -66, 55, 14), (126, -48, 15, 15)),
    ),
    "gluteus_medius": (
        ((98, -46, 108, 9), (118, -30, 75, 15), (134, -12, 35, 15), (142, -12, 0, 9)),
        ((126, 16, 100, 8), (134, 20, 65, 13), (140, 6, 25, 12), (142, -4, 0, 8)),
    ),
    "gluteus_minimus": (((112, -8, 80, 6), (116, 4, 48, 10), (122, 6, 18, 9), (134, 2, -8, 5)),),
    "tensor_fasciae_latae": (((130, 44, 60, 7), (136, 40, 15, 10), (141, 28, -35, 9), (144, 20, -90, 6)),),
    "sartorius": (((119, 52, 62, 6), (108, 70, 15, 8), (94, 78, -35, 8), (76, 76, -90, 8)),),
    "rectus_femoris": (((104, 36, 32, 5), (110, 52, -5, 9), (112, 60, -45, 12), (110, 62, -95, 14)),),
    "psoas": (((40, -12, 140, 20), (50, 2, 100, 20), (64, 26, 62, 18), (78, 42, 25, 15)),
              ((78, 42, 25, 15), (90, 36, -12, 14), (104, 8, -45, 9))),
    "iliacus": (((94, -18, 108, 8), (88, -4, 80, 13), (88, 14, 50, 13), (92, 36, 18, 11)),
                ((74, -32, 86, 7), (74, -10, 58, 10), (84, 22, 30, 9))),
    "obturator_internus": (
        ((64, 26, 8, 6), (56, 8, 2, 8), (58, -22, 6, 7), (64, -38, -2, 6)),
        ((52, 28, -18, 6), (47, 4, -22, 8), (52, -26, -20, 8), (64, -42, -8, 5)),
        ((64, -42, -6, 5), (92, -42, -2, 5), (122, -30, 0, 4)),
    ),
    "obturator_externus": (((34, 30, -40, 7), (66, 8, -44, 9), (104, -16, -26, 6)),),
    "pectineus": (((40, 58, -10, 8), (66, 50, -42, 11), (88, 30, -78, 10)),),
    "adductor_longus": (((20, 56, -44, 6), (42, 64, -72, 11), (62, 62, -105, 13)),),
    "adductor_brevis": (((26, 42, -52, 7), (52, 42, -82, 12), (66, 38, -110, 10)),),
    "adductor_magnus": (((44, -8, -62, 10), (60, 2, -88, 20), (72, 0, -115, 22)),),
    "gracilis": (((17, 38, -56, 5), (24, 42, -90, 7), (28, 40, -115, 7)),),
    "quadratus_femoris": (((66, -38, -46, 8), (92, -36, -50, 9), (114, -28, -50, 6)),),
    "piriformis": (((28, -66, 46, 8), (66, -68, 36, 10), (104, -48, 20, 7), (128, -24, 10, 4)),),
    "hamstrings": (((60, -50, -70, 8), (68, -52, -92, 12), (76, -46, -118, 16)),),
    "vastus_lateralis": (((136, 2, -28, 7), (136, 8, -58, 13), (134, 14, -100, 16)),),
    "vastus_intermedius": (((122, 22, -48, 8), (116, 28, -75, 13), (112, 32, -110, 15)),),
    "levator_ani": (((16, 42, -36, 3), (20, 10, -38, 3), (16, -22, -36, 3.5), (0, -40, -36, 3.5)),
                    ((44, 0, -4, 2.5), (28, -8, -24, 3), (16, -16, -44, 3.5))),
    "erector_spinae": (((30, -82, 140, 19), (26, -88, 105, 17), (18, -96, 70, 10)),),
    "quadratus_lumborum": (((64, -48, 145, 14), (72, -48, 118, 9)),),
    "rectus_abdominis": (((34, 76, 150, 9), (32, 72, 90, 9), (26, 68, 40, 8), (14, 66, -8, 6)),
                         ((16, 78, 150, 8), (14, 74, 90, 8), (12, 69, 40, 7))),
}  # fmt: skip


@dataclass(frozen=True)
class Limb:
    """A part of the body beside the trunk: head, neck, shoulder, arm, breast."""

    shape: Shape
    """Its muscular envelope, with a distance that reaches beyond its skin."""
    fat_mm: float
    """Skin and fat around it."""
    solid: bool = True
    """Whether muscle and bone may lie in it; a breast is fat alone."""


@dataclass(frozen=True)
class Frame:
    """What the envelope of a body region is made of. Profiles run along z in mm."""

    envelope: NDArray[np.float64]
    """(L, 5) as `ENVELOPE`."""
    flank_fat: Profile
    """Fat on the sides relative to the build's. The flank carries more than the buttock's underside."""
    belly_fat: Profile
    """Fat in front relative to the build's: more on the belly than in the groin."""
    back_fat: Profile
    muscles: Mapping[str, Curves]
    wall_back: Profile
    """y behind which the trunk's wall has no muscle layer of its own."""
    cavity_side: Profile
    """Half-width of the abdominal cavity, which muscles do not swell into."""
    cavity_top: float = np.inf
    """Height in mm where that cavity ends."""
    gap_depth: float = np.inf
    """Depth in mm below the perineum from which on the thighs part no further."""
    top: float = np.inf
    """Height in mm where the trunk ends."""
    limbs: Callable[[Build], Sequence[Limb]] = lambda build: ()


PELVIS_FRAME = Frame(
    ENVELOPE, ((-60, 0, 70, 128), (0.85, 1.0, 1.15, 1.3)), ((-60, -10, 60, 128), (0.45, 0.75, 1.0, 1.15)),
    ((0,), (1.0,)), MUSCLES, ((0,), (-40.0,)), ((0,), (100.0,)),
)  # fmt: skip


def half_canvas(canvas: Canvas) -> Canvas:
    """Every second fine voxel along each axis."""
    step = (slice(None, None, 2),) * 3
    return Canvas(
        axes=tuple(a[::2] for a in canvas.axes),  # type: ignore[arg-type]
        warp=tuple(np.ascontiguousarray(w[step]) for w in canvas.warp),  # type: ignore[arg-type]
        labels=np.zeros(tuple((n + 1) // 2 for n in canvas.shape), dtype=np.uint8),
        margin_mm=canvas.margin_mm,
    )


def _to_fine(values: Array, canvas: Canvas) -> Array:
    return upsample(values, [np.arange(n) * 0.5 for n in canvas.shape])


def envelope_distance(
    xyz: tuple[Array, Array, Array], build: Build, fat_share: float, undulation: Array, frame: Frame
) -> Array:
    """Signed distance in mm to the muscular envelope widened by a share of the fat thickness.

    Args:
        xyz: Warped coordinates, each (I, J, K).
        build: The person's build.
        fat_share: 0 the muscular envelope, 1 the skin.
        undulation: (I, J, K) relative variation of the fat's thickness.
        frame: The region's measures.
    """
    x, y, z = xyz
    s = build.scale
    table = frame.envelope[:, :4] * s
    table[:, 1] = frame.envelope[:, 1] * (s * build.hip_scale ** frame.envelope[:, 4])
    level = z[0, 0, :].astype(np.float64)
    a = np.interp(level, table[:, 0], table[:, 1])
    front = np.interp(level, table[:, 0], table[:, 2])
    back = np.interp(level, table[:, 0], table[:, 3])
    waist, belly, behind = (np.interp(level, *p) for p in (frame.flank_fat, frame.belly_fat, frame.back_fat))
    a = (a + fat_share * build.fat_side_mm * waist).astype(np.float32)
    front = front + fat_share * build.fat_front_mm * belly
    back = back - fat_share * build.fat_back_mm * behind
    center = (0.5 * (front + back)).astype(np.float32)
    b = (0.5 * (front - back)).astype(np.float32)
    v = y - center
    # Supine: the back is flattened by the table, the belly is rounder.
    q = np.where(v < 0, np.float32(2.7), np.float32(2.25))
    level_set = (np.abs(x / a) ** q + np.abs(v / b) ** q) ** (1 / q)
    rho = np.sqrt(x * x + v * v)
    trunk = rho * (1 - 1 / np.maximum(level_set, np.float32(0.02)))
    thickness = np.float32(fat_share * 0.22 * build.fat_side_mm)
    trunk -= thickness * undulation
    # Below the perineum the two thighs part.
    crotch = np.float32(-52 * s)
    rounded = np.minimum(np.abs(v / b), 1.2) ** 3
    gap = np.minimum(crotch - z, np.float32(frame.gap_depth)) * (
        np.float32(0.35) + np.float32(1.1) * rounded
    ) - np.abs(x)
    gap = np.minimum(gap, 4 + crotch - z)
    cleft = (np.float32(-0.85) * b - v) * np.float32(0.16) * np.float32(fat_share) - np.abs(x)
    cleft = np.where(z < np.float32(25), cleft, np.float32(-50))
    trunk = np.maximum(np.maximum(trunk, gap), cleft)
    return trunk if np.isinf(frame.top) else np.maximum(trunk, z - np.float32(frame.top * s))


def _with_limbs(half: Canvas, limbs: Sequence[Limb], skin: Array, envelope: Array) -> tuple[Array, Array]:
    """Skin and envelope of the trunk joined with the limbs', by a polynomial smooth minimum (Quilez 2013)."""
    for limb in limbs:
        found = limb.shape.distance(half)
        if found is None:
            continue
        box, distance = found
        for whole, own in ((skin, distance - np.float32(limb.fat_mm)), (envelope, distance)):
            if whole is skin or limb.solid:
                part = whole[box]
                overlap = np.maximum(_BLEND_MM - np.abs(part - own), 0)
                part[...] = np.minimum(part, own) - overlap * overlap * (np.float32(0.25) / _BLEND_MM)
    return skin, envelope


def paint_body(canvas: Canvas, build: Build, undulation: Array, frame: Frame = PELVIS_FRAME) -> Array:
    """Skin, subcutaneous fat, muscles and the fat around the organs.

    Args:
        canvas: Drawn on.
        build: The person's build.
        undulation: Random field of standard deviation 1 on the half-resolution canvas.
        frame: The region's measures.

    Returns:
        Signed distance to the skin in mm on the fine grid.
    """
    half = half_canvas(canvas)
    whole: Box = tuple(slice(0, n) for n in half.shape)  # type: ignore[assignment]
    xyz = half.coordinates(whole)
    skin_half = envelope_distance(xyz, build, 1.0, undulation, frame)
    envelope_half = envelope_distance(xyz, build, 0.0, undulation, frame)
    skin_half, envelope_half = _with_limbs(half, frame.limbs(build), skin_half, envelope_half)
    skin = _to_fine(skin_half, canvas)
    inside = _to_fine(envelope_half, canvas) < 0  # fine arrays are large: only what is needed stays
    labels = canvas.labels
    labels[skin < 0] = Structure.SKIN
    labels[skin < -_SKIN_MM] = Structure.SUBCUTANEOUS_FAT
    labels[inside & (skin < -2 * _SKIN_MM)] = Structure.VISCERAL_FAT

    first, second = _packed(half, muscle_shapes(build, frame.muscles))
    _add_abdominal_wall(half, xyz, envelope_half, first, second, build, frame)
    plane = _to_fine(np.minimum(second - first, 30), canvas) < np.float32(build.fat_planes_mm)
    nearest = np.minimum(first, 30) - _filling_mm(xyz, envelope_half, build, frame)
    belongs = (_to_fine(nearest, canvas) < 0) & inside & (labels == Structure.VISCERAL_FAT)
    labels[belongs] = Structure.MUSCLE
    labels[belongs & plane] = Structure.INTERMUSCULAR_FAT
    return skin


def _filling_mm(xyz: tuple[Array, Array, Array], envelope: Array, build: Build, frame: Frame) -> Array:
    """How far muscles swell beyond their seeds: until they touch outside the pelvic and abdominal cavities."""
    x, y, z = (c * np.float32(1 / build.scale) for c in xyz)
    side = np.abs(x)

    def walls(*distances: Array) -> Array:
        out = distances[0]
        for distance in distances[1:]:
            out = np.maximum(out, distance)
        return out

    # Distance to a cavity in mm, negative inside; rounded so that no muscle ends in a straight edge.
    round_mm = np.sqrt((side / 52) ** 4 + ((y + 11) / 72) ** 4 + 1e-6)
    pelvic = walls((np.sqrt(round_mm) - 1) * 55, z - 30, -46 - z)
    fossa = walls(side - 44, -80 - y, y + 8, z + 46)
    reach = np.interp(z[0, 0, :], *frame.cavity_side).astype(np.float32)
    abdomen = walls(25 - z, -42 - y, side - reach, envelope + 15)
    if np.isfinite(frame.cavity_top):
        abdomen = walls(abdomen, z - np.float32(frame.cavity_top))
    cavity = np.minimum(np.minimum(pelvic, fossa), abdomen)
    out = np.float32(1.5) + np.float32(9.5) * np.clip((cavity + 5) / 12, 0, 1)
    groin = walls(62 - y, z - 30, 52 - side)
    out = np.minimum(out, np.float32(3.0) + np.float32(8.0) * np.clip((groin + 4) / 10, 0, 1))
    return np.asarray(out * np.float32(build.muscle), dtype=np.float32)


def muscle_shapes(build: Build, muscles: Mapping[str, Curves] = MUSCLES) -> list[Shape]:
    """The muscle seeds of both sides at this person's size and bulk."""
    shapes: list[Shape] = []
    size = np.array([build.scale * build.hip_scale, build.scale, build.scale, build.scale * build.muscle])
    for curves in muscles.values():
        for side in (1.0, -1.0):
            flip = np.array([side, 1, 1, 1])
            shapes.append(Union(tuple(_muscle(np.array(c) * size * flip) for c in curves)))
    return shapes


def _muscle(points: NDArray[np.float64]) -> Tube:
    return Tube(points, samples=2 * len(points), reach_mm=_PACKED_MM)


def _packed(half: Canvas, shapes: list[Shape]) -> tuple[Array, Array]:
    """Distance to the nearest and to the second-nearest muscle's surface, mm."""
    first = np.full(half.shape, np.float32(60))
    second = np.full(half.shape, np.float32(60))
    for shape in shapes:
        found = shape.distance(half)
        if found is not None:
            _insert(first[found[0]], second[found[0]], found[1])
    return first, second


def _insert(first: Array, second: Array, distance: Array) -> None:
    np.minimum(second, np.maximum(first, distance), out=second)
    np.minimum(first, distance, out=first)


def _add_abdominal_wall(
    half: Canvas,
    xyz: tuple[Array, Array, Array],
    envelope: Array,
    first: Array,
    second: Array,
    build: Build,
    frame: Frame,
) -> None:
    """Oblique and transverse muscles: a layer along the envelope above the iliac crest and the groin."""
    _, y, z = xyz
    thickness = np.float32(13 * build.muscle)
    layer = np.abs(envelope + thickness / 2 + 1) - thickness / 2
    # The wall's lower border runs from the iliac crest (lateral) to the groin (medial, anterior).
    lower = np.where(y > 10, np.float32(45), np.float32(112)) * np.float32(build.scale)
    layer = np.maximum(layer, lower - z)
    layer = np.maximum(layer, np.interp(z[0, 0, :], *frame.wall_back).astype(np.float32) - y)
    _insert(first, second, layer.astype(np.float32))


def body_box_mm(build: Build) -> NDArray[np.float64]:
    """Half-width and half-depth in mm that hold the pelvis."""
    s = build.scale
    width = ENVELOPE[:, 1].max() * s * build.hip_scale + 1.35 * build.fat_side_mm
    depth = 106 * s + 1.2 * max(build.fat_front_mm, build.fat_back_mm)
    return np.array([width, depth]) * 1.06 + 8.0
