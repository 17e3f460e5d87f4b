"""Brain, eyes, air spaces, salivary glands and tonsils."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.phantom.canvas import Canvas, Ellipsoid, Tube, rotation
from diffusion_adc.phantom.fields import smooth_field
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import FAT, Structure
from diffusion_adc.phantom.torso import head

_SKULL_MM = 7.4
_SOFT = (*FAT, Structure.MUSCLE)


def paint_head(canvas: Canvas, build: Build, rng: np.random.Generator) -> NDArray[np.float64]:
    """Everything of the head but bone and muscle; the skull must be drawn.

    Returns:
        (N, 4) x, y, z, radius of the air spaces: they disturb the field.
    """
    s = build.scale
    _paint_brain(canvas, build, rng)
    for side in (1.0, -1.0):
        flip = np.array([side, 1, 1]) * s
        canvas.paint(Ellipsoid(np.array([32, 72, 712]) * flip, np.array([17, 22, 16]) * s), Structure.VISCERAL_FAT,
                     (*_SOFT, Structure.CORTICAL_BONE, Structure.MARROW_FATTY, Structure.MARROW_RED,
                      Structure.SUBCUTANEOUS_FAT))  # fmt: skip
        eye = Ellipsoid(np.array([32, 80, 712]) * flip, np.full(3, 12.2) * s)
        canvas.paint_shell(
            eye,
            Structure.TENDON,
            Structure.VITREOUS,
            1.2,
            (Structure.VISCERAL_FAT, Structure.SUBCUTANEOUS_FAT),
        )
        optic = Tube(np.array([(32, 68, 712, 2.2), (16, 40, 712, 2.2)]) * s * [side, 1, 1, 1])
        canvas.paint(optic, Structure.WHITE_MATTER, (Structure.VISCERAL_FAT, Structure.CORTICAL_BONE))
        sinus = Ellipsoid(np.array([28, 60, 688]) * flip, np.array([12, 15, 14]) * s)
        canvas.paint_shell(
            sinus, Structure.CORTICAL_BONE, Structure.AIRWAY, 1.6, (*_SOFT, Structure.SUBCUTANEOUS_FAT)
        )
        size = float(np.exp(0.12 * rng.standard_normal()))
        parotid = Ellipsoid(
            np.array([58, 6, 664]) * flip, np.array([10, 17, 24]) * s * size, rotation(yaw=side * -18)
        )
        canvas.paint(parotid, Structure.SALIVARY_GLAND, (*_SOFT, Structure.SUBCUTANEOUS_FAT))
        below = Ellipsoid(np.array([32, 36, 630]) * flip, np.array([10, 14, 12]) * s * size)
        canvas.paint(below, Structure.SALIVARY_GLAND, (*_SOFT, Structure.SUBCUTANEOUS_FAT))
    nose = Ellipsoid(np.array([0, 66, 694]) * s, np.array([11, 26, 17]) * s)
    canvas.paint_shell(nose, Structure.SKIN, Structure.AIRWAY, 3.0, (*_SOFT, Structure.CORTICAL_BONE,
                                                                   Structure.SUBCUTANEOUS_FAT))  # fmt: skip
    throat = Tube(np.array([(0, 38, 690, 8), (0, 20, 672, 8), (0, 16, 648, 8)]) * s, 6)
    canvas.paint(Tube(throat.curve() + np.array([0, 0, 0, 3.5]), 0), Structure.MUSCLE, FAT)
    canvas.paint(throat, Structure.AIRWAY, (*_SOFT, Structure.CORTICAL_BONE))
    # The ring of Waldeyer shrinks with age.
    youth = float(np.clip(1.15 - 0.008 * build.age_years, 0.5, 1.0)) * float(
        np.exp(0.15 * rng.standard_normal())
    )
    for side in (1.0, -1.0):
        tonsil = Ellipsoid(np.array([side * 15, 22, 656]) * s, np.array([7, 9, 14]) * s * youth)
        canvas.paint(tonsil, Structure.TONSIL, _SOFT)
    canvas.paint(
        Ellipsoid(np.array([0, 8, 680]) * s, np.array([13, 5, 9]) * s * youth), Structure.TONSIL, _SOFT
    )
    canvas.paint(
        Ellipsoid(np.array([0, 32, 632]) * s, np.array([14, 7, 6]) * s * youth), Structure.TONSIL, _SOFT
    )
    return np.array([[0, 66, 694, 13], [28, 60, 688, 12], [-28, 60, 688, 12]], dtype=np.float64) * s


def _paint_brain(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Gray and white matter with sulci, deep nuclei, ventricles, cerebellum and brain stem."""
    s = build.scale
    found = head(s).distance(canvas)
    if found is None:
        return
    box, distance = found
    x, y, z = canvas.coordinates(box)
    base = np.interp(
        y[y.shape[0] // 2, :, 0], np.array([-90, -20, 10, 60]) * s, np.array([676, 684, 700, 712]) * s
    )
    floor = base.astype(np.float32)[None, :, None] - z
    depth = -np.maximum(distance, floor) - np.float32(_SKULL_MM)
    inside = depth > 0
    atrophy = float(np.clip((build.age_years - 45) / 45, 0, 1))
    folds = smooth_field(rng, depth.shape, canvas.voxel_mm, 15.0)
    # Sulci are where a random field crosses zero; they reach two centimeters deep.
    sulcus = (np.abs(folds) < np.float32(0.07 + 0.06 * atrophy)) & (depth < 19)
    ribbon = (depth < 6.2) | ((np.abs(folds) < 0.42) & (depth < 21.5))
    cleft = (np.abs(x) < 1.3) & (z > np.float32(752 * s)) & (depth < 26)
    canvas.fill(box, inside, Structure.WHITE_MATTER)
    canvas.fill(box, inside & ribbon, Structure.CORTICAL_GM)
    canvas.fill(box, inside & (sulcus | cleft | (depth < 1.8 + 1.4 * atrophy)), Structure.CSF)
    brain = (Structure.WHITE_MATTER, Structure.CORTICAL_GM, Structure.CSF)
    tentorium = inside & (z < np.float32(716 * s)) & (y < np.float32(-26 * s))
    folia = np.abs(np.sin((z + np.float32(0.4) * y) * np.float32(np.pi / 5.5))) < 0.55
    canvas.fill(box, tentorium & (depth > 2.0), Structure.CORTICAL_GM)
    canvas.fill(box, tentorium & (depth > 9.0) & folia, Structure.WHITE_MATTER)
    wide = 1.0 + 0.6 * atrophy
    for side in (1.0, -1.0):
        flip = np.array([side, 1, 1]) * s
        for center, radii in (
            ((11, -12, 738), (9, 15, 9)),
            ((25, 10, 738), (7, 18, 11)),
            ((14, 22, 748), (5, 14, 7)),
        ):
            canvas.paint(Ellipsoid(np.array(center) * flip, np.array(radii) * s), Structure.DEEP_GM, brain)
        horn = (
            np.array([(9, 34, 752, 3.6), (10, 8, 760, 3.6), (15, -26, 756, 5.0), (21, -46, 744, 3.2)])
            * s
            * [side, 1, 1, wide]
        )
        canvas.paint(Tube(horn, 10), Structure.CSF, (*brain, Structure.DEEP_GM))
        canvas.mark("brain", *(np.array(p) * flip for p in ((34, 34, 752), (40, -20, 758), (36, -56, 748), (34, 4, 768),
                                                           (26, -52, 700))))  # fmt: skip
    canvas.paint(
        Ellipsoid(np.array([0, -8, 740]) * s, np.array([1.8 * wide, 11, 8]) * s),
        Structure.CSF,
        (*brain, Structure.DEEP_GM),
    )
    stem = Tube(np.array([(0, -14, 722, 13), (0, -16, 706, 12), (0, -26, 690, 7), (0, -33, 680, 5.5)]) * s, 8)
    canvas.paint(Tube(stem.curve() + np.array([0, 0, 0, 3.0]), 0), Structure.CSF,
                 (*brain, Structure.CORTICAL_BONE, Structure.MARROW_FATTY, Structure.MARROW_RED))  # fmt: skip
    canvas.paint(stem, Structure.WHITE_MATTER, brain)
