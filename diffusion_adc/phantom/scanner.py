"""The simulated scanner: from structures to T1w, T2w, two diffusion-weighted images and the vendor's ADC map.

Signals are computed on the fine grid and averaged to the ADC grid (partial volume); noise is complex
Gaussian per average, before the magnitude, so that images have the true noise floor. The ADC map is
computed from the noisy images as a vendor does it: integers of 1e-6 mm²/s, clipped, 0 where not fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import two_point_adc, validity_mask
from diffusion_adc.phantom.anatomy import FACTOR, Anatomy
from diffusion_adc.phantom.artifacts import (
    Artifacts,
    displaced,
    displacement_mm,
    eddy_shifted,
    fat_failure,
    motion_void,
    pile_up,
    ringing,
    zipper,
)  # fmt: skip
from diffusion_adc.phantom.fields import Array, downsample, smooth_field
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.stations import edge_loss, slice_profile
from diffusion_adc.phantom.structures import Structure, tissue_rows
from diffusion_adc.phantom.tissues import (
    FAT,
    Protocol,
    SignalTable,
    TissueTable,
    calibrated_diffusion,
    nulling_inversion_ms,
    signals,
)  # fmt: skip
from diffusion_adc.phantom.truth import StationTruth

AVERAGES_LOW, AVERAGES_HIGH, AVERAGES_ANATOMY = 2, 6, 2
_MUSCLE_COUNTS = 150.0
"""Low-b signal of muscle in stored units before the case's own gain."""
_FAT_ROW = 255
"""Row of the fat compartment in a table by structure number."""
_SLAB = 40 * FACTOR[2]
"""Fine slices computed at a time."""
_NOT_FITTED_SIGMA = 3.0
"""Vendors leave voxels unfitted whose low-b signal is near the noise."""


@dataclass(frozen=True)
class Scan:
    """Images on the ADC grid and the labels as the diffusion images see them.

    Attributes:
        volumes: T1w, T2w, DWI low b, DWI high b, ADC (float32) and validity (bool), each (I, J, K).
        labels: Fine structure numbers in the body's box after distortion, tumors included.
        organs: The same without tumors.
        first: (I, J) index of the box's first voxel in the fine grid.
    """

    volumes: dict[str, NDArray[np.generic]]
    labels: NDArray[np.uint8]
    organs: NDArray[np.uint8]
    first: tuple[int, int]


def structure_table(
    tissues: TissueTable, extra: Mapping[int, NDArray[np.float64]], b_low: float, b_high: float
) -> TissueTable:
    """Tissue parameters by structure number (256 rows), tumors included.

    Args:
        tissues: One person's tissues.
        extra: Water, fat, T1, T2, ADC, f, D*, texture by structure number (see `lesions.lesion_rows`).
        b_low: s/mm².
        b_high: s/mm².
    """
    rows = np.zeros(256, dtype=int)
    rows[: int(Structure.LESION)] = tissue_rows()
    rows[_FAT_ROW] = tissues.row(FAT)
    columns = [tissues.water, tissues.fat, tissues.t1, tissues.t2, tissues.adc, tissues.f, tissues.d_star,
               tissues.texture]  # fmt: skip
    values = np.stack([c[rows] for c in columns])
    for number, parameters in extra.items():
        values[:, number] = parameters
    water, fat, t1, t2, adc, f, d_star, texture = values
    names = [f"structure {n}" for n in range(256)]
    names[_FAT_ROW] = FAT
    return TissueTable(
        names=tuple(names), t1=t1, t2=t2, water=water, fat=fat, adc=adc, adc_sd=np.zeros(256), f=f, d_star=d_star,
        texture=texture, diffusion=calibrated_diffusion(adc, f, d_star, b_low, b_high),
    )  # fmt: skip


def protocol_for(options: PhantomOptions, tissues: TissueTable) -> Protocol:
    """Timing at the options' field, the inversion set to null the population's fat."""
    te = 70.0 if options.field_t < 2 else 62.0
    return Protocol(options.b_low, options.b_high, dwi_te=te, inversion=nulling_inversion_ms(tissues))


def scan(
    anatomy: Anatomy,
    organs: NDArray[np.uint8],
    tissues: TissueTable,
    lesion_tissues: Mapping[int, NDArray[np.float64]],
    artifacts: Artifacts,
    options: PhantomOptions,
    rng: np.random.Generator,
    stations: Sequence[StationTruth] = (),
) -> Scan:
    """Scan a person.

    Args:
        anatomy: The person with tumors drawn on the canvas.
        organs: The canvas' labels before the tumors were drawn.
        tissues: The person's tissues.
        lesion_tissues: Parameters of the tumors' structure numbers.
        artifacts: What goes wrong.
        options: Grid, field, b-values.
        rng: Generator of this examination.
        stations: Of a composed series; none for a single station.
    """
    spacing = list(options.spacing_mm)
    table = structure_table(tissues, lesion_tissues, options.b_low, options.b_high)
    protocol = protocol_for(options, tissues)
    true = signals(table, protocol)
    canvas = anatomy.canvas
    grid = tuple(a.reshape(-1, f).mean(axis=1) for a, f in zip(canvas.axes, FACTOR, strict=True))
    shift, survives = displacement_mm(anatomy, artifacts, grid, rng)  # type: ignore[arg-type]
    if stations:
        shift += slice_profile(stations, options.size[2], "shift_mm")
    step = spacing[1] / FACTOR[1]
    seen = displaced(canvas.labels, shift, FACTOR, step)
    texture = [smooth_field(rng, canvas.shape, canvas.voxel_mm, c) for c in (7.0, 7.0)]
    low, high, fat = _diffusion_images(seen, table, true, protocol, texture)
    texture.pop()
    density = pile_up(shift, spacing[1]) * survives
    if artifacts.motion_void and "heart" in canvas.anchors:
        high *= motion_void(canvas.anchors["heart"][0], artifacts.motion_void, grid)  # type: ignore[arg-type]
    skin = downsample(anatomy.skin, FACTOR)
    escaped = fat_failure(anatomy, artifacts, skin, spacing, rng)
    inversion = 1 - 2 * np.exp(-np.log(2.0) * (1 + artifacts.inversion_error))
    fat *= density * (np.float32(abs(inversion)) + escaped)

    box = _native_box(anatomy, options.size)
    gain = _coil(rng, options.size, spacing, 0.16)
    if stations:
        gain *= slice_profile(stations, options.size[2], "gain")
        gain *= edge_loss(stations, options.size[2], spacing[2])
    low_all, high_all = (
        _embedded(low * density, box, options.size),
        _embedded(high * density, box, options.size),
    )
    fat_all = _shifted(_embedded(fat, box, options.size), artifacts.fat_shift_voxels)
    fat_d = float(table.diffusion[_FAT_ROW])
    low_all += fat_all * np.float32(np.exp(-options.b_low * fat_d / 1000))
    high_all += fat_all * np.float32(np.exp(-options.b_high * fat_d / 1000))
    high_all = eddy_shifted(high_all, artifacts.eddy_voxels)
    muscle = float(
        true.slow[Structure.MUSCLE] * np.exp(-options.b_low * table.diffusion[Structure.MUSCLE] / 1000)
    )
    counts = _MUSCLE_COUNTS * float(np.exp(0.35 * rng.standard_normal())) / muscle
    snr = float(rng.uniform(11.0, 17.0)) * (1.0 if options.field_t < 2 else 1.5)
    sigma = muscle * counts / snr
    half = options.size[1] // 2
    diffusion = []
    for image, averages in ((low_all, AVERAGES_LOW), (high_all, AVERAGES_HIGH)):
        image *= gain * np.float32(counts)
        if artifacts.ringing:
            image = ringing(image, artifacts.ringing)
        image += np.float32(artifacts.ghost) * np.roll(image, half, axis=1)
        if artifacts.zipper:
            image += _zipper(options, stations, artifacts.zipper * counts * muscle, rng)
        diffusion.append(np.rint(_magnitude(image, sigma, averages, rng)))
    t1w, t2w = _anatomical_images(canvas.labels, table, true, texture[0])
    volumes: dict[str, NDArray[np.generic]] = {}
    for name, image in ((seq.T1W, t1w), (seq.T2W, t2w)):
        bright = _coil(rng, options.size, spacing, 0.18) * np.float32(
            900 * np.exp(0.3 * rng.standard_normal())
        )
        if stations:
            bright *= slice_profile(stations, options.size[2], f"gain_{name}")
        full = _embedded(image, box, options.size) * bright
        noise = 0.012 * 900 * float(rng.uniform(0.7, 1.4)) * float(np.median(bright)) / 900
        volumes[name] = np.rint(_magnitude(full, noise, AVERAGES_ANATOMY, rng))
    volumes[seq.DWI_LOW], volumes[seq.DWI_HIGH] = diffusion
    volumes[seq.ADC] = vendor_adc(diffusion[0], diffusion[1], options.b_low, options.b_high, sigma)
    volumes[seq.VALID] = validity_mask(volumes[seq.ADC], diffusion[0], diffusion[1])
    return Scan(volumes, seen, displaced(organs, shift, FACTOR, step), anatomy.first)


def _zipper(
    options: PhantomOptions, stations: Sequence[StationTruth], amplitude: float, rng: np.random.Generator
) -> Array:
    slices = slice(0, options.size[2])
    if stations:
        one = stations[int(rng.integers(0, len(stations)))]
        slices = slice(one.first, one.last + 1)
    return zipper(options.size, amplitude, slices, rng)


def vendor_adc(low: Array, high: Array, b_low: float, b_high: float, sigma: float) -> Array:
    """The ADC map as a vendor stores it: integers of 1e-6 mm²/s within 0 … 4095, 0 where not fitted.

    Args:
        low: (I, J, K) low-b magnitude.
        high: (I, J, K) high-b magnitude.
        b_low: s/mm².
        b_high: s/mm².
        sigma: Noise level of one average.

    Returns:
        (I, J, K) float32 in 1e-3 mm²/s.
    """
    adc = two_point_adc(low, high, b_low, b_high)
    fitted = np.isfinite(adc) & (low >= np.float32(_NOT_FITTED_SIGMA * sigma))
    stored = np.clip(np.rint(np.where(fitted, adc, 0) * np.float32(1000)), 0, 4095)
    return (stored / np.float32(1000)).astype(np.float32)


def _diffusion_images(
    labels: NDArray[np.uint8],
    table: TissueTable,
    true: SignalTable,
    protocol: Protocol,
    texture: list[Array],
) -> tuple[Array, Array, Array]:
    """Noise-free low-b and high-b water images and the fat image at b = 0, on the ADC grid."""
    parts = [
        _diffusion_slab(labels[..., k], table, true, protocol, [field[..., k] for field in texture])
        for k in _slabs(labels.shape[2])
    ]
    low, high, fat = (np.concatenate([part[n] for part in parts], axis=2) for n in range(3))
    return low, high, fat


def _slabs(slices: int) -> list[slice]:
    """Blocks of fine slices: a whole body's intermediate images would fill the memory."""
    return [slice(k, min(k + _SLAB, slices)) for k in range(0, slices, _SLAB)]


def _diffusion_slab(
    labels: NDArray[np.uint8],
    table: TissueTable,
    true: SignalTable,
    protocol: Protocol,
    texture: list[Array],
) -> tuple[Array, Array, Array]:
    strength = table.texture.astype(np.float32)[labels]
    amplitude = np.maximum(1 + strength * texture[0], np.float32(0.3))
    strength *= texture[1]
    strength += 1
    np.maximum(strength, np.float32(0.3), out=strength)
    strength *= table.diffusion.astype(np.float32)[labels]
    slow = true.slow.astype(np.float32)[labels]
    images = []
    for b, fast in ((protocol.b_low, true.fast_low), (protocol.b_high, true.fast_high)):
        image = np.exp(strength * np.float32(-b / 1000))
        image *= slow
        image += fast.astype(np.float32)[labels]
        image *= amplitude
        images.append(downsample(image, FACTOR))
    return images[0], images[1], downsample(true.fat_dwi.astype(np.float32)[labels], FACTOR)


def _anatomical_images(
    labels: NDArray[np.uint8], table: TissueTable, true: SignalTable, texture: Array
) -> tuple[Array, Array]:
    slabs = _slabs(labels.shape[2])
    parts = [_anatomical_slab(labels[..., k], table, true, texture[..., k]) for k in slabs]
    t1w, t2w = (np.concatenate([part[n] for part in parts], axis=2) for n in range(2))
    return t1w, t2w


def _anatomical_slab(
    labels: NDArray[np.uint8], table: TissueTable, true: SignalTable, texture: Array
) -> tuple[Array, Array]:
    amplitude = (0.5 * table.texture).astype(np.float32)[labels]
    amplitude *= texture
    amplitude += 1
    images = [downsample(s.astype(np.float32)[labels] * amplitude, FACTOR) for s in (true.t1w, true.t2w)]
    return images[0], images[1]


def _native_box(anatomy: Anatomy, size: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    shape = anatomy.canvas.shape
    i, j = anatomy.first[0] // FACTOR[0], anatomy.first[1] // FACTOR[1]
    return slice(i, i + shape[0] // FACTOR[0]), slice(j, j + shape[1] // FACTOR[1]), slice(0, size[2])


def _embedded(part: Array, box: tuple[slice, slice, slice], size: tuple[int, int, int]) -> Array:
    whole = np.zeros(size, dtype=np.float32)
    whole[box] = part
    return whole


def _shifted(image: Array, voxels: int) -> Array:
    if voxels == 0:
        return image
    return np.roll(image, -voxels, axis=1)


def _coil(rng: np.random.Generator, size: tuple[int, int, int], spacing: list[float], spread: float) -> Array:
    """Receive sensitivity: smooth, a little stronger near the front and back elements."""
    field = smooth_field(rng, size, spacing, 240.0) * np.float32(spread)
    y = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :, None]
    return np.exp(np.clip(field, -0.4, 0.4) + np.float32(0.18) * (y * y - np.float32(0.2)))


def _magnitude(image: Array, sigma: float, averages: int, rng: np.random.Generator) -> Array:
    """Mean over averages of the magnitude of signal plus complex Gaussian noise."""
    total = np.zeros_like(image)
    for _ in range(averages):
        real = rng.standard_normal(image.shape, dtype=np.float32)
        real *= np.float32(sigma)
        real += image
        imaginary = rng.standard_normal(image.shape, dtype=np.float32)
        imaginary *= np.float32(sigma)
        real *= real
        imaginary *= imaginary
        real += imaginary
        total += np.sqrt(real)
    total *= np.float32(1 / averages)
    return total
