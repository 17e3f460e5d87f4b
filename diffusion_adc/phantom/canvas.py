"""The fine grid on which a body is drawn, and the shapes drawn on it.

Body coordinates in mm: x to the right of the person, y anterior, z superior, origin midway between the hip
joints. A shape is an approximate signed distance in mm (negative inside), evaluated only in its bounding
box and in warped coordinates, so that nothing on the image is a perfect ellipse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_adc.phantom.fields import Array, smooth_curve

Box = tuple[slice, slice, slice]

_WARP_SLACK_MM = 1.0
"""What the warp may exceed between the places where its range is looked up."""


@dataclass
class Canvas:
    """Structure numbers on the fine grid.

    Attributes:
        axes: Three (n,) coordinates in mm of the fine grid before warping.
        warp: Three (I, J, K) displacements in mm.
        labels: (I, J, K) uint8 structure numbers.
    """

    axes: tuple[Array, Array, Array]
    warp: tuple[Array, Array, Array]
    labels: NDArray[np.uint8]
    margin_mm: float = 9.0
    """At least the largest displacement."""
    anchors: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    """Named places (mm) that later steps look up: where lesions and mimics may sit."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K) of the fine grid."""
        return self.labels.shape  # type: ignore[return-value]

    @cached_property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Fine spacing in mm."""
        i, j, k = (float(a[-1] - a[0]) / (len(a) - 1) for a in self.axes)
        return i, j, k

    @cached_property
    def _origin(self) -> tuple[float, float, float]:
        i, j, k = (float(a[0]) for a in self.axes)
        return i, j, k

    @property
    def voxel_ml(self) -> float:
        """Volume of a fine voxel in mL."""
        return float(np.prod(self.voxel_mm)) / 1000.0

    def box(self, low: ArrayLike, high: ArrayLike) -> Box | None:
        """Slices that hold every voxel whose warped position may lie within [low, high] mm; None if none.

        The warp's range in the box of the largest displacement tightens the box: most of a displacement is
        shared by neighbors.
        """
        first, last = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        wide = self._slices(first - self.margin_mm, last + self.margin_mm)
        if wide is None:
            return None
        coarse = tuple(slice(s.start, s.stop, 3) for s in wide)
        parts = [w[coarse] for w in self.warp]
        least = np.array([float(p.min()) for p in parts]) - _WARP_SLACK_MM
        most = np.array([float(p.max()) for p in parts]) + _WARP_SLACK_MM
        return self._slices(
            np.maximum(first - most, first - self.margin_mm), np.minimum(last - least, last + self.margin_mm)
        )

    def _slices(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> Box | None:
        slices = []
        for origin, step, n, a, b in zip(self._origin, self.voxel_mm, self.shape, low, high, strict=True):
            start = max(0, ceil((a - origin) / step))
            stop = min(n, floor((b - origin) / step) + 1)
            if start >= stop:
                return None
            slices.append(slice(start, stop))
        return slices[0], slices[1], slices[2]

    def coordinates(self, box: Box) -> tuple[Array, Array, Array]:
        """Warped coordinates in mm of the box's voxels, three contiguous arrays."""
        i, j, k = (axis[s] for axis, s in zip(self.axes, box, strict=True))
        wx, wy, wz = (w[box] for w in self.warp)
        return i[:, None, None] + wx, j[None, :, None] + wy, k[None, None, :] + wz

    def mark(self, name: str, *points: ArrayLike) -> None:
        """Remember places under a name."""
        self.anchors.setdefault(name, []).extend(np.asarray(p, dtype=np.float64) for p in points)

    def finish(self) -> None:
        """Forget the warp, the largest of a body's arrays: nothing is drawn any more."""
        i, j, k = (w[:0] * 1 for w in self.warp)
        self.warp = (i, j, k)

    def paint(self, shape: Shape, structure: int, only: Sequence[int] | None = None) -> None:
        """Give the inside of a shape a structure number, on the given present structures only."""
        found = shape.distance(self)
        if found is not None:
            box, distance = found
            self.fill(box, distance < 0, structure, only)

    def fill(
        self, box: Box, inside: NDArray[np.bool_], structure: int, only: Sequence[int] | None = None
    ) -> None:
        """Give the voxels `inside` a box a structure number, on the given present structures only."""
        region = self.labels[box]
        if only is not None:
            allowed = np.zeros(256, dtype=bool)
            allowed[list(only)] = True
            inside = inside & allowed[region]
        region[inside] = structure

    def paint_shell(
        self,
        shape: Shape,
        wall: int,
        content: int,
        wall_mm: float,
        only: Sequence[int] | None = None,
    ) -> tuple[Box, Array] | None:
        """A hollow organ: a wall of the given thickness around its content. Returns its box and distance."""
        found = shape.distance(self)
        if found is None:
            return None
        box, distance = found
        self.fill(box, distance < 0, wall, only)
        self.fill(box, distance < -wall_mm, content, None if only is None else (wall,))
        return box, distance


class Shape(ABC):
    """Something with an approximate signed distance."""

    @abstractmethod
    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """Bounding box on the canvas and the signed distance in mm there; None if outside the canvas."""


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> NDArray[np.float64]:
    """Rotation in degrees: yaw about z, then pitch about x, then roll about y."""
    a, b, c = np.radians([yaw, pitch, roll])
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    ry = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    return rz @ rx @ ry


@dataclass(frozen=True)
class Ellipsoid(Shape):
    """Superellipsoid ``(|u/a|^p + |v/b|^p + |w/c|^p)^(1/p) = 1`` in its own axes.

    Signed distance along the ray from the center: ``ρ·(1 − 1/level)``, exact for spheres.
    """

    center: ArrayLike
    radii: ArrayLike
    turn: NDArray[np.float64] | None = None
    power: float = 2.0

    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """See `Shape`."""
        c = np.asarray(self.center, dtype=np.float64)
        radii = np.asarray(self.radii, dtype=np.float64)
        if self.turn is None:
            reach = radii
        else:
            reach = np.sqrt((self.turn**2 * radii**2).sum(axis=1)) * (1.0 if self.power <= 2 else 1.25)
        box = canvas.box(c - reach, c + reach)
        if box is None:
            return None
        x, y, z = canvas.coordinates(box)
        x -= np.float32(c[0])
        y -= np.float32(c[1])
        z -= np.float32(c[2])
        rho2 = x * x + y * y + z * z
        if self.turn is not None:
            t = self.turn.astype(np.float32)
            x, y, z = (x * t[0, i] + y * t[1, i] + z * t[2, i] for i in range(3))
        total = np.zeros_like(rho2)
        for axis, radius in ((x, radii[0]), (y, radii[1]), (z, radii[2])):
            scaled = axis * np.float32(1.0 / radius)
            if self.power == 2.0:
                total += scaled * scaled
            else:
                total += np.abs(scaled) ** np.float32(self.power)
        level = total ** np.float32(1.0 / self.power) if self.power != 2.0 else np.sqrt(total)
        np.maximum(level, np.float32(1e-3), out=level)
        return box, np.sqrt(rho2) * (1 - 1 / level)


@dataclass(frozen=True)
class Tube(Shape):
    """Tube of varying radius along a smooth curve.

    Args:
        points: (N, 4) x, y, z, radius in mm.
        samples: Points on the curve; 0 keeps the given ones.
        flatten: Stretch of distances along an axis: a value of 2 halves the tube's width there.
        reach_mm: How far outside its surface the distance is wanted.
    """

    points: ArrayLike
    samples: int = 0
    flatten: tuple[float, float, float] = (1.0, 1.0, 1.0)
    reach_mm: float = 0.0

    def curve(self) -> NDArray[np.float64]:
        """(M, 4) the points used."""
        p = np.asarray(self.points, dtype=np.float64)
        return smooth_curve(p, self.samples) if self.samples else p

    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """See `Shape`."""
        p = self.curve()
        reach = p[:, 3:4] / np.minimum(np.asarray(self.flatten), 1.0) + self.reach_mm
        low, high = p[:, :3] - reach, p[:, :3] + reach
        low, high = np.minimum(low[:-1], low[1:]), np.maximum(high[:-1], high[1:])
        parts = [canvas.box(a, b) for a, b in zip(low, high, strict=True)]
        present = [part for part in parts if part is not None]
        if not present:
            return None
        box = enclosing(present)
        out = np.full(tuple(s.stop - s.start for s in box), np.float32(1e3))
        for part, a, b in zip(parts, p[:-1], p[1:], strict=True):
            if part is not None:
                segment = _segment_distance(canvas.coordinates(part), a, b, self.flatten)
                near = out[within(part, box)]
                np.minimum(near, segment, out=near)
        return box, out


def enclosing(boxes: Sequence[Box]) -> Box:
    """Smallest box around several."""
    i, j, k = (slice(min(b[a].start for b in boxes), max(b[a].stop for b in boxes)) for a in range(3))
    return i, j, k


def within(part: Box, box: Box) -> Box:
    """Slices of a box that lies inside another, relative to that one."""
    i, j, k = (slice(p.start - o.start, p.stop - o.start) for p, o in zip(part, box, strict=True))
    return i, j, k


def _segment_distance(
    xyz: tuple[Array, Array, Array],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    flatten: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Array:
    """Distance to the surface of a cone-like capsule from `a` to `b` (x, y, z, radius)."""
    f = np.asarray(flatten, dtype=np.float64)
    start, along = a[:3] * f, (b[:3] - a[:3]) * f
    length2 = max(float((along**2).sum()), 1e-9)
    x, y, z = (c * np.float32(s) - np.float32(o) for c, s, o in zip(xyz, f, start, strict=True))
    d = along.astype(np.float32)
    t = (x * d[0] + y * d[1] + z * d[2]) * np.float32(1.0 / length2)
    np.clip(t, 0, 1, out=t)
    x -= t * d[0]
    y -= t * d[1]
    z -= t * d[2]
    x *= x
    y *= y
    z *= z
    x += y
    x += z
    np.sqrt(x, out=x)
    t *= np.float32(b[3] - a[3])
    t += np.float32(a[3])
    x -= t
    return x


@dataclass(frozen=True)
class Plate(Shape):
    """Thick plate swept through axial levels: at each level a polyline in the x–y plane.

    Args:
        levels: (L,) z in mm, ascending.
        lines: (L, P, 3) x, y and half-thickness in mm of the polyline's points at each level.
    """

    levels: ArrayLike
    lines: ArrayLike

    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """See `Shape`."""
        z = np.asarray(self.levels, dtype=np.float64)
        lines = np.asarray(self.lines, dtype=np.float64)
        pad = lines[..., 2].max()
        box = canvas.box(
            [lines[..., 0].min() - pad, lines[..., 1].min() - pad, z[0]],
            [lines[..., 0].max() + pad, lines[..., 1].max() + pad, z[-1]],
        )
        if box is None:
            return None
        x, y, zz = canvas.coordinates(box)
        height = canvas.axes[2][box[2]].astype(np.float64)
        at = np.stack(
            [[np.interp(height, z, lines[:, p, c]) for c in range(3)] for p in range(lines.shape[1])]
        ).astype(np.float32)  # (P, 3, K)
        out = np.full(x.shape, np.float32(1e3))
        for p in range(lines.shape[1] - 1):
            (ax, ay, ar), (bx, by, br) = at[p], at[p + 1]
            dx, dy = bx - ax, by - ay
            px, py = x - ax, y - ay
            t = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, 1e-6), 0, 1)
            distance = np.hypot(px - t * dx, py - t * dy) - (ar + t * (br - ar))
            np.minimum(out, distance, out=out)
        end = np.maximum(np.float32(z[0]) - zz, zz - np.float32(z[-1]))
        return box, np.maximum(out, end)


@dataclass(frozen=True)
class Union(Shape):
    """Union of shapes as one surface.

    Attributes:
        parts: The shapes.
        blend_mm: Width over which their surfaces flow into each other; 0 = sharp edges.
    """

    parts: tuple[Shape, ...]
    blend_mm: float = 0.0

    def distance(self, canvas: Canvas) -> tuple[Box, Array] | None:
        """See `Shape`."""
        found = [f for f in (part.distance(canvas) for part in self.parts) if f is not None]
        if not found:
            return None
        box = enclosing([f[0] for f in found])
        out = np.full(tuple(s.stop - s.start for s in box), np.float32(1e3))
        for part, distance in found:
            local = within(part, box)
            near = out[local]
            if self.blend_mm > 0:  # polynomial smooth minimum (Quilez 2013)
                k = np.float32(self.blend_mm)
                overlap = np.maximum(k - np.abs(near - distance), 0)
                distance = np.minimum(near, distance) - overlap * overlap * (np.float32(0.25) / k)
            np.minimum(near, distance, out=near)
        return box, out
