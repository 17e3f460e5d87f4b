"""A person's pelvis on the fine grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.body import body_box_mm, half_canvas, paint_body
from diffusion_adc.phantom.canvas import Canvas, rotation
from diffusion_adc.phantom.fields import Array, smooth_field
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.skeleton import paint_skeleton
from diffusion_adc.phantom.viscera import (
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
"""Height of the middle of the field of view above the hip joints."""


@dataclass
class Anatomy:
    """A drawn pelvis.

    Attributes:
        canvas: Fine labels in a box around the body.
        first: (I, J) index of the box's first voxel in the fine grid of the whole field of view.
        skin: Signed distance to the skin on the box, mm.
        rectal_gas: (N, 4) x, y, z, radius of the rectum's gas pockets, mm.
        build: The person's build.
        pose_mm: Where the person lies relative to the field of view's center (x, y, z).
    """

    canvas: Canvas
    first: tuple[int, int]
    skin: Array
    rectal_gas: NDArray[np.float64]
    build: Build
    pose_mm: NDArray[np.float64]


def draw_pelvis(
    build: Build,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    person: np.random.Generator,
    pose: np.random.Generator,
) -> Anatomy:
    """Draw a person.

    Args:
        build: The person's build.
        size: Voxels of the ADC grid.
        spacing_mm: Of the ADC grid.
        person: Generator of what stays the same between a person's examinations.
        pose: Generator of what changes: position, bowel.
    """
    offset = np.append(pose.normal(0, 4, 2), _LEVEL_MM + pose.normal(0, 5))
    axes, first = _fine_axes(build, size, spacing_mm, offset)
    shape = tuple(len(a) for a in axes)
    fine = [s / f for s, f in zip(spacing_mm, FACTOR, strict=True)]
    turn = rotation(*np.clip(pose.normal(0, 1.2, 3), -2.4, 2.4)) - np.eye(3)
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
    margin = float(max(np.abs(w).max() for w in warp)) + 0.5
    canvas = Canvas(axes, tuple(warp), np.zeros(shape, dtype=np.uint8), margin)  # type: ignore[arg-type]
    half = half_canvas(canvas)
    undulation = smooth_field(person, half.shape, [2 * s for s in fine], 45.0)
    skin = paint_body(canvas, build, undulation)
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
    paint_skeleton(canvas, build, person, marrow)
    paint_nodes(canvas, build, person)
    return Anatomy(canvas, first, skin, gas, build, offset)


def _fine_axes(
    build: Build,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    offset: NDArray[np.float64],
) -> tuple[tuple[Array, Array, Array], tuple[int, int]]:
    """Fine coordinates in a box of whole ADC voxels around the body."""
    axes, first = [], []
    reach = [*body_box_mm(build), np.inf]
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
