"""What goes wrong in a scanner: field inhomogeneity, gas, metal, failed fat suppression, ghosts, motion.

Echo-planar imaging displaces signal along the phase-encoding direction (J, anterior–posterior) in proportion
to the field error; where the displacement is compressed signal piles up, where it is stretched signal thins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.anatomy import Anatomy
from diffusion_adc.phantom.canvas import Canvas, Ellipsoid, Tube
from diffusion_adc.phantom.fields import Array, smooth_field
from diffusion_adc.phantom.skeleton import HEAD
from diffusion_adc.phantom.structures import Structure


@dataclass(frozen=True)
class Artifacts:
    """Strength of each artifact of one examination."""

    distortion_mm: float = 0.0
    """Standard deviation of the smooth displacement."""
    gas_mm: float = 0.0
    """Displacement beside a gas pocket of 10 mm radius."""
    eddy_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Shift of the high-b image: constant, change from left to right, change from bottom to top."""
    ghost: float = 0.0
    """Amplitude of the N/2 ghost relative to the image."""
    inversion_error: float = 0.0
    """Relative error of the inversion time."""
    fat_failure: float = 0.0
    """Largest share of fat that escapes suppression, in patches near the surface."""
    fat_shift_voxels: int = 0
    """Chemical shift of unsuppressed fat along the phase-encoding direction."""
    implant_side: int = 0
    """Hip prosthesis: +1 right, −1 left, 0 none."""
    motion_void: float = 0.0
    """Share of the high-b signal that the beating heart takes from itself and from the left liver."""
    ringing: float = 0.0
    """Amplitude of truncation (Gibbs) ringing along J relative to an edge."""
    zipper: float = 0.0
    """Amplitude of a line of radio-frequency interference relative to muscle at low b."""


def draw_artifacts(rng: np.random.Generator, field_t: float, wanted: bool) -> Artifacts:
    """Artifacts of one examination; none if not wanted. Consumes the same random numbers either way."""
    u = rng.random(12)
    if not wanted:
        return Artifacts()
    strength = field_t / 1.5
    hertz_per_voxel = 17.0 + 13.0 * u[6]
    failed = u[7] < 0.35
    return Artifacts(
        distortion_mm=float(strength * (0.5 + 1.1 * u[0])),
        gas_mm=float(strength * (2.0 + 5.0 * u[1])),
        eddy_voxels=(float(0.5 * u[2] - 0.25), float(0.5 * u[3] - 0.25), float(0.5 * u[4] - 0.25)),
        ghost=float(0.004 + 0.022 * u[5] ** 2),
        inversion_error=float(0.05 * (u[8] - 0.5)),
        fat_failure=float(0.12 + 0.4 * u[9]) if failed else 0.02,
        # Fat precesses 3.4 ppm slower than water: 220 Hz at 1.5 T.
        fat_shift_voxels=int(round(220.0 * strength / hertz_per_voxel)),
        implant_side=(1 if u[11] < 0.5 else -1) if u[10] < 0.04 else 0,
    )


def draw_whole_body_artifacts(rng: np.random.Generator, field_t: float, wanted: bool) -> Artifacts:
    """Artifacts of a whole-body examination: those of `draw_artifacts` and what only a chest or a long series has.

    Each station is shimmed by itself, so less fat escapes suppression than in one large field of view.
    """
    common = draw_artifacts(rng, field_t, wanted)
    u = rng.random(4)
    if not wanted:
        return common
    return replace(
        common, fat_failure=0.5 * common.fat_failure, motion_void=float(0.15 + 0.45 * u[0]),
        ringing=float(0.02 + 0.04 * u[1]),
        zipper=float(0.3 + 0.7 * u[3]) if u[2] < 0.12 else 0.0,
    )  # fmt: skip


def motion_void(heart_mm: NDArray[np.float64], strength: float, grid: tuple[Array, Array, Array]) -> Array:
    """(I, J, K) share of the high-b signal that motion leaves; the ADC there is falsely high.

    Args:
        heart_mm: Middle of the left ventricle; the left liver lies just below.
        strength: Largest share lost.
        grid: Three coordinate axes in mm.
    """
    x, y, z = (
        axis.reshape([-1 if n == a else 1 for a in range(3)]) - np.float32(c)
        for n, (axis, c) in enumerate(zip(grid, heart_mm - [0, 0, 25], strict=True))
    )
    return 1 - np.float32(strength) * np.exp(-(x * x + y * y + (0.7 * z) ** 2) / np.float32(2 * 38.0**2))


def ringing(image: Array, strength: float) -> Array:
    """The image with alternating side lobes along J beside its edges; flat regions keep their value."""
    out = image * np.float32(1 + 0.5 * strength)
    for step, weight in ((1, -0.5), (2, 0.25)):
        for direction in (step, -step):
            out += np.float32(strength * weight) * np.roll(image, direction, axis=1)
    return np.maximum(out, 0)


def zipper(shape: tuple[int, int, int], amplitude: float, slices: slice, rng: np.random.Generator) -> Array:
    """(I, J, K) interference of one frequency: a noisy line along J in the slices of one station."""
    line = np.zeros(shape, dtype=np.float32)
    column = int(rng.integers(0, shape[0]))
    part = line[column, :, slices]
    part += np.float32(amplitude) * np.abs(rng.standard_normal(part.shape, dtype=np.float32))
    return line


def paint_implant(canvas: Canvas, side: int, scale: NDArray[np.float64]) -> None:
    """Replace a femoral head, neck and canal by metal."""
    if side == 0:
        return
    head = HEAD * scale * [side, 1, 1]
    canvas.paint(Ellipsoid(head, np.full(3, 25.0)), Structure.IMPLANT)
    stem = np.array([[90, 1, -3, 10], [112, -6, -14, 9], [124, -4, -40, 8], [121, 6, -115, 6]])
    canvas.paint(Tube(stem * [side * scale[0], scale[1], scale[2], 1.0], 8), Structure.IMPLANT)


def displacement_mm(
    anatomy: Anatomy, artifacts: Artifacts, grid: tuple[Array, Array, Array], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Displacement along J and the share of signal that survives near metal.

    Args:
        anatomy: The person.
        artifacts: Strengths.
        grid: Three coordinate axes in mm of the ADC grid inside the body's box.
        rng: Generator.

    Returns:
        (I, J, K) displacement in mm, and (I, J, K) factor in 0 … 1.
    """
    shape = tuple(len(a) for a in grid)
    spacing = [float(a[1] - a[0]) if len(a) > 1 else 1.0 for a in grid]
    shift = smooth_field(rng, shape, spacing, 90.0) * np.float32(artifacts.distortion_mm)
    survives = np.ones(shape, dtype=np.float32)
    x, y, z = grid[0][:, None, None], grid[1][None, :, None], grid[2][None, None, :]
    for cx, cy, cz, radius in anatomy.gas:
        rho2 = (x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2 + (z - np.float32(cz)) ** 2
        width = 1.6 * radius + 5.0
        # A dipole along the main field (K): its lobes push signal forward beside and back above the gas.
        angular = 1 - 2 * (z - np.float32(cz)) ** 2 / (rho2 + np.float32(radius**2))
        shift += (
            np.float32(artifacts.gas_mm * radius / 10) * angular * np.exp(-rho2 / np.float32(2 * width**2))
        )
    if artifacts.implant_side:
        c = (HEAD + np.array([12, -3, -12])) * anatomy.build.scale * [artifacts.implant_side, 1, 1]
        rho = np.sqrt(
            (x - np.float32(c[0])) ** 2 + (y - np.float32(c[1])) ** 2 + 0.6 * (z - np.float32(c[2])) ** 2
        )
        survives = 1 / (1 + np.exp((np.float32(36) - rho) / np.float32(3)))
        shift += np.float32(9) * np.exp(-(((rho - np.float32(42)) / np.float32(16)) ** 2))
    return shift.astype(np.float32), survives.astype(np.float32)


def pile_up(shift_mm: Array, spacing_mm: float) -> Array:
    """Signal density after displacement, ``|1 + ∂shift/∂y|`` kept within 0.35 … 2.5."""
    if shift_mm.shape[1] < 2:
        return np.ones_like(shift_mm)
    slope = np.gradient(shift_mm, np.float32(spacing_mm), axis=1)
    return np.clip(np.abs(1 + slope), 0.35, 2.5).astype(np.float32)


def displaced(labels: NDArray[np.uint8], shift_mm: Array, factor: tuple[int, int, int], step_mm: float) -> (
    NDArray[np.uint8]
):  # fmt: skip
    """Fine labels seen at each place after displacement along J: label(y + shift)."""
    shift = np.rint(shift_mm * np.float32(1 / step_mm)).astype(np.int16)
    rows = np.arange(labels.shape[1], dtype=np.int16)[None, :, None]
    seen = np.empty_like(labels)
    for k in range(shift.shape[2]):  # slice by slice: indices of a whole body would fill the memory
        source = shift[..., k : k + 1]
        for axis, n in enumerate(factor):
            source = np.repeat(source, n, axis=axis)
        source = np.clip(rows + source, 0, labels.shape[1] - 1).astype(np.intp)
        part = slice(k * factor[2], (k + 1) * factor[2])
        seen[..., part] = np.take_along_axis(labels[..., part], source, axis=1)
    return seen


def eddy_shifted(image: Array, voxels: tuple[float, float, float]) -> Array:
    """The image shifted along J by less than one voxel: constant plus linear in I and K."""
    i = np.linspace(-1, 1, image.shape[0], dtype=np.float32)[:, None, None]
    k = np.linspace(-1, 1, image.shape[2], dtype=np.float32)[None, None, :]
    shift = np.clip(np.float32(voxels[0]) + np.float32(voxels[1]) * i + np.float32(voxels[2]) * k, -1, 1)
    ahead, behind = np.maximum(shift, 0), np.maximum(-shift, 0)
    before, after = image.copy(), image.copy()
    before[:, 1:] = image[:, :-1]
    after[:, :-1] = image[:, 1:]
    return (1 - ahead - behind) * image + ahead * after + behind * before


def fat_failure(anatomy: Anatomy, artifacts: Artifacts, skin_mm: Array, spacing: list[float], rng: np.random.Generator) -> (
    Array
):  # fmt: skip
    """Share of fat that escapes suppression: patches near the surface where the field is off.

    Args:
        anatomy: The person.
        artifacts: Strengths.
        skin_mm: (I, J, K) signed distance to the skin on the ADC grid.
        spacing: Of the ADC grid, mm.
        rng: Generator.
    """
    patches = smooth_field(rng, skin_mm.shape, spacing, 60.0)
    patches = 1 / (1 + np.exp(-(patches - 1.0) * np.float32(4)))
    near = np.exp(np.minimum(skin_mm, 0) * np.float32(1 / 25.0))
    return (np.float32(artifacts.fat_failure) * patches * near).astype(np.float32)
