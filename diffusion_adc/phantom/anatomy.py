"""A person on the fine grid: the table of body regions and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.abdomen import paint_solid_organs, paint_upper_bowel
from diffusion_adc.phantom.axial import paint_axial
from diffusion_adc.phantom.body import PELVIS_FRAME, Frame, body_box_mm, half_canvas, paint_body
from diffusion_adc.phantom.canvas import Canvas, rotation
from diffusion_adc.phantom.chest import paint_cavities, paint_chest
from diffusion_adc.phantom.fields import Array, smooth_field
from diffusion_adc.phantom.head import paint_head
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.skeleton import LONG_SHAFT, SHAFT, paint_skeleton
from diffusion_adc.phantom.torso import VERTEX_MM, WHOLE_FRAME
from diffusion_adc.phantom.viscera import (
    NODES,
    Chains,
    paint_bladder,
    paint_bowel,
    paint_female,
    paint_male,
    paint_nodes,
    paint_vessels_and_nerves,
)  # fmt: skip

FACTOR = (2, 2, 2)
"""Fine voxels per voxel of the ADC grid along I, J, K."""
_LEVEL_MM = 28.0
"""Height of the middle of a pelvis' field of view above the hip joints."""
_ABOVE_VERTEX_MM = 12.0


@dataclass
class Anatomy:
    """A drawn person.

    Attributes:
        canvas: Fine labels in a box around the body.
        first: (I, J) index of the box's first voxel in the fine grid of the whole field of view.
        skin: Signed distance to the skin on the box, mm.
        gas: (N, 4) x, y, z, radius of the gas and air that disturb the field, mm.
        build: The person's build.
        pose_mm: Where the person lies relative to the field of view's center (x, y, z).
    """

    canvas: Canvas
    first: tuple[int, int]
    skin: Array
    gas: NDArray[np.float64]
    build: Build
    pose_mm: NDArray[np.float64]


Painter = Callable[[Canvas, Build, np.random.Generator, np.random.Generator], NDArray[np.float64]]
"""Draws on the canvas from the person's and the examination's generator; returns its gas."""


@dataclass(frozen=True)
class Region:
    """A body region: what is drawn beside the pelvis, which every region contains."""

    frame: Frame
    level_mm: Callable[[Build, float], float]
    """Height of the field of view's middle above the hip joints, for its extent in mm."""
    box_mm: Callable[[Build], NDArray[np.float64]]
    """Half-width and half-depth in mm that hold the body."""
    turn: float
    """How far a person may lie askew, relative to the pelvis."""
    chains: Chains
    shaft: tuple[tuple[float, float, float, float], ...]
    before: Painter | None = None
    """Organs drawn before the pelvis' own."""
    bones: Callable[[Canvas, Build, np.random.Generator, Array], None] | None = None
    after: Painter | None = None
    """Organs that lie in the bones."""


# Places of normal nodes above the pelvis, right side: x, y, z and half of the usual short axis, mm.
_UPPER_NODES: Final[Chains] = {
    "cervical": ((44, 10, 640, 3.2), (50, -6, 622, 2.8), (42, 14, 610, 2.6), (54, -20, 650, 2.6), (36, 22, 596, 2.2),
                 (26, 46, 626, 2.4)),
    "supraclavicular": ((44, 8, 560, 2.4), (60, 4, 552, 2.2)),
    "axillary": ((140, -24, 486, 3.4), (134, -30, 468, 3.2), (148, -14, 474, 2.8), (130, -10, 496, 2.6),
                 (142, -38, 452, 2.8)),
    "mediastinal": ((16, 6, 494, 2.6), (14, -16, 468, 2.6), (18, 30, 486, 2.0)),
    "hilar": ((30, -18, 462, 2.4),),
    "retroperitoneal": ((22, 22, 270, 2.2), (28, 16, 236, 2.4), (26, 14, 204, 2.4), (20, 12, 172, 2.4)),
    "mesenteric": ((24, 34, 210, 2.0), (14, 38, 190, 1.9)),
}  # fmt: skip


def _whole_level(build: Build, extent_mm: float) -> float:
    return (VERTEX_MM * build.scale + _ABOVE_VERTEX_MM) - extent_mm / 2


def _whole_box(build: Build) -> NDArray[np.float64]:
    depth = 122 * build.scale + 1.1 * max(build.fat_front_mm, build.fat_back_mm)
    return np.array([np.inf, depth + 14.0])


def _upper_organs(
    canvas: Canvas, build: Build, person: np.random.Generator, pose: np.random.Generator
) -> NDArray[np.float64]:
    cavities = paint_cavities(canvas, build, pose)
    gas = [paint_chest(canvas, build, person)]
    if cavities is not None:
        paint_solid_organs(canvas, build, cavities, person)
        gas.append(paint_upper_bowel(canvas, build, pose))
    return np.vstack(gas)


def _head_organs(
    canvas: Canvas, build: Build, person: np.random.Generator, pose: np.random.Generator
) -> NDArray[np.float64]:
    del pose
    return paint_head(canvas, build, person)


REGIONS: Final = {
    "pelvis": Region(PELVIS_FRAME, lambda build, extent: _LEVEL_MM, body_box_mm, 1.0, NODES, SHAFT),
    "whole_body": Region(
        WHOLE_FRAME, _whole_level, _whole_box, 0.4, {**NODES, **_UPPER_NODES}, LONG_SHAFT, _upper_organs,
        paint_axial, _head_organs,
    ),
}  # fmt: skip
"""By the name of `options.ANATOMIES`."""


def draw_body(
    anatomy: str,
    build: Build,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    person: np.random.Generator,
    pose: np.random.Generator,
) -> Anatomy:
    """Draw a person.

    Args:
        anatomy: Key of `REGIONS`.
        build: The person's build.
        size: Voxels of the ADC grid.
        spacing_mm: Of the ADC grid.
        person: Generator of what stays the same between a person's examinations.
        pose: Generator of what changes: position, bowel.
    """
    region = REGIONS[anatomy]
    level = region.level_mm(build, size[2] * spacing_mm[2])
    offset = np.append(pose.normal(0, 4, 2), level + pose.normal(0, 5))
    axes, first = _fine_axes(region.box_mm(build), size, spacing_mm, offset)
    shape = tuple(len(a) for a in axes)
    fine = [s / f for s, f in zip(spacing_mm, FACTOR, strict=True)]
    turn = rotation(*(region.turn * np.clip(pose.normal(0, 1.2, 3), -2.4, 2.4))) - np.eye(3)
    warp = []
    broad = [smooth_field(person, shape, fine, 70.0) for _ in range(3)]
    narrow = [smooth_field(person, shape, fine, 22.0) for _ in range(3)]
    for n in range(3):
        field = broad[n] * np.float32(2.6)
        narrow[n] *= np.float32(0.75)
        field += narrow[n]
        np.clip(field, -7, 7, out=field)
        for axis, coordinate in enumerate(axes):
            along = [1, 1, 1]
            along[axis] = -1
            field += (np.float32(turn[n, axis]) * coordinate).reshape(along)
        warp.append(field)
    del broad, narrow  # a whole body fills the memory fast
    margin = float(max(np.abs(w).max() for w in warp)) + 0.5
    canvas = Canvas(axes, tuple(warp), np.zeros(shape, dtype=np.uint8), margin)  # type: ignore[arg-type]
    half = half_canvas(canvas)
    undulation = smooth_field(person, half.shape, [2 * s for s in fine], 45.0)
    skin = paint_body(canvas, build, undulation, region.frame)
    above = None if region.before is None else region.before(canvas, build, person, pose)
    gas = paint_bowel(canvas, build, pose)
    if build.sex == "male":
        paint_bladder(canvas, build, pose)
        paint_male(canvas, build, person)
    else:
        paint_bladder(canvas, build, pose)
        paint_female(canvas, build, person)
    paint_vessels_and_nerves(canvas, build, person)
    marrow = smooth_field(person, shape, fine, 16.0) * np.float32(0.85)
    marrow += person.standard_normal(shape, dtype=np.float32) * np.float32(0.6)
    paint_skeleton(canvas, build, person, marrow, region.shaft)
    if region.bones is not None:
        region.bones(canvas, build, person, marrow)
    if region.after is not None and above is not None:
        gas = np.vstack([gas, above, region.after(canvas, build, person, pose)])
    paint_nodes(canvas, build, person, region.chains)
    return Anatomy(canvas, first, skin, gas, build, offset)


def _fine_axes(
    half_mm: NDArray[np.float64],
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    offset: NDArray[np.float64],
) -> tuple[tuple[Array, Array, Array], tuple[int, int]]:
    """Fine coordinates in a box of whole ADC voxels around the body."""
    axes, first = [], []
    reach = [*half_mm, np.inf]
    for axis in range(3):
        n, f, step = size[axis], FACTOR[axis], spacing_mm[axis] / FACTOR[axis]
        center = offset[axis] if axis == 2 else -offset[axis]
        coordinates = (np.arange(n * f) - (n * f - 1) / 2) * step + center
        inside = np.flatnonzero(np.abs(coordinates) <= reach[axis])
        start = (inside[0] // f) * f if inside.size else 0
        stop = min(n * f, -(-(inside[-1] + 1) // f) * f) if inside.size else n * f
        axes.append(coordinates[start:stop].astype(np.float32))
        first.append(int(start))
    return (axes[0], axes[1], axes[2]), (first[0], first[1])
