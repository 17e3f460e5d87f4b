"""T1w and T2w onto the ADC map's grid: by their headers alone, or by a transform found between the images.

The ADC map and the diffusion-weighted images never move. The transform is found with Mattes' mutual information
(Mattes et al. 2003, IEEE Trans Med Imaging 22:120), rigid first and affine on top of it where wanted, coarse to
fine, with a fixed seed and one thread: the same files give the same bytes. Where it fails, the header's placement
stays and the failure is said.

What makes it hold on thin slabs received by surface coils: the coils' shading is divided out and the brightest voxels
are clipped first (a bright bladder or fat near a coil would leave a few of the histogram's bins to everything else);
the search starts from the best of a grid of translations; image gradients are central differences, because a smoothed
gradient is wrong at the first and last of some twenty slices, and the search runs out of the slab.

Points are in millimeters, RAS+; ``T`` maps a point of the ADC grid to the point of the sequence shown there.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.intake.nifti import Loaded, on_adc_grid, to_sitk

NONE, RIGID, AFFINE = "none", "rigid", "affine"
KINDS: Final = (NONE, RIGID, AFFINE)
_MOST_MOTION_MM: Final = 30.0
"""A body does not move farther between two sequences of one examination."""
_MOST_SCALE: Final = 0.15
_BINS: Final = 32
_SEED: Final = 20_231
_SAMPLES: Final = 15_000
"""Voxels compared per step: with 40 000 the error on phantoms is the same and the time twice as long."""
_LEAST_VOXELS: Final = 8
"""Smallest axis of a shrunken image: below this a coarse level says nothing."""
_ITERATIONS: Final = 120
_FIRST_STEP: Final = 1.0
_SHADING_MM: Final = 25.0
"""Standard deviation of the smoothing that tells a coil's shading from anatomy."""
_START_MM: Final = ((-8.0, -4.0, 0.0, 4.0, 8.0), (-8.0, -4.0, 0.0, 4.0, 8.0), (-6.0, -3.0, 0.0, 3.0, 6.0))
"""Translations tried before the search, LPS+, on voxels of about `_START_VOXEL_MM`."""
_START_VOXEL_MM: Final = 4.0
_LAST_STEP: Final = 1e-4
_RAS_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_adc_grid(
    moving: Loaded, adc: Loaded, kind: str, research_id: str, name: str, reference: Loaded | None = None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """An anatomical volume on the ADC grid (linear), and how it got there.

    Args:
        moving: T1w or T2w on its own grid.
        adc: The ADC map.
        kind: ``none``: the header's placement; ``rigid``; ``affine``: rigid, then affine.
        research_id: For messages.
        name: The sequence.
        reference: Image on the ADC grid to compare with, the low-b image; the ADC map itself without one.

    Returns:
        float32 (I, J, K), and a record of JSON values: ``kind``; ``transform`` (4 × 4, `T`); ``metric_before``,
        ``metric_after`` (mutual information in nats, None for ``none``); ``motion_mm`` and ``scale`` (largest in
        the middle of the grid); ``overlap`` (share of the ADC grid covered); ``flags`` (empty where all is well).

    Raises:
        ValueError: An unknown kind.
        CaseError: S08, the sequence covers less than half of the ADC grid.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}, expected one of {', '.join(KINDS)}")
    placed, overlap = on_adc_grid(moving, adc, research_id, name)
    record: dict[str, Any] = {
        "kind": kind, "transform": np.eye(4).tolist(), "metric_before": None, "metric_after": None,
        "motion_mm": 0.0, "scale": 0.0, "overlap": overlap, "flags": [],
    }  # fmt: skip
    if kind == NONE:
        return placed, record
    fixed = adc if reference is None else reference
    found = _found(fixed, moving, kind)
    if isinstance(found, str):
        record["flags"] = [f"registration failed ({found}): the header's placement is kept"]
        return placed, record
    transform, before, after = found
    motion, scale = _motion_mm(transform, adc), _scale(transform)
    record |= {
        "metric_before": round(before, 6), "metric_after": round(after, 6), "motion_mm": round(motion, 3),
        "scale": round(scale, 4),
    }  # fmt: skip
    reason = ""
    if after < before:
        reason = "the images agree less than before"
    elif motion > _MOST_MOTION_MM:
        reason = f"a motion of {motion:.0f} mm"
    elif scale > _MOST_SCALE:
        reason = f"a change of size by {scale:.0%}"
    if reason:
        record["flags"] = [f"registration failed ({reason}): the header's placement is kept"]
        return placed, record
    # A linear transform is a change of the header: one way of resampling serves both placements.
    moved = replace(moving, affine=np.linalg.inv(transform) @ moving.affine)
    placed, overlap = on_adc_grid(moved, adc, research_id, name)
    return placed, record | {"transform": transform.tolist(), "overlap": overlap}


def _found(fixed: Loaded, moving: Loaded, kind: str) -> tuple[NDArray[np.float64], float, float] | str:
    """`T`, and the mutual information without and with it; or why there is none."""
    import SimpleITK as sitk  # noqa: N813

    fixed_image = to_sitk(fixed.array, fixed.affine)
    moving_image = _unshaded(_coarsened(to_sitk(moving.array, moving.affine), fixed_image))
    fixed_image = _unshaded(fixed_image)
    middle = fixed_image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed_image.GetSize()])
    here = sitk.Euler3DTransform()
    here.SetCenter(middle)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in another order give other last digits
    try:
        before = _mutual_information(fixed_image, moving_image, here)
        start = _start(fixed_image, moving_image, here)
        rigid = sitk.Euler3DTransform(_optimized(fixed_image, moving_image, start, RIGID))
        transform: Any = rigid
        if kind == AFFINE:
            affine = sitk.AffineTransform(3)
            affine.SetCenter(middle)
            affine.SetMatrix(rigid.GetMatrix())
            affine.SetTranslation(rigid.GetTranslation())
            transform = sitk.AffineTransform(_optimized(fixed_image, moving_image, affine, AFFINE))
        after = _mutual_information(fixed_image, moving_image, transform)
    except RuntimeError:  # the optimizer left the image: its text names files and lines, not a reason
        return "the search left the image"
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    matrix = _matrix(transform)
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-6):
        return "no usable transform"
    return matrix, before, after


def _coarsened(moving: Any, fixed: Any) -> Any:
    """The sequence with voxels at least half as large as the ADC map's: finer ones cost time and decide nothing."""
    import SimpleITK as sitk  # noqa: N813

    coarse = min(fixed.GetSpacing()) / 2
    return sitk.BinShrink(moving, [max(1, int(coarse / spacing + 1e-6)) for spacing in moving.GetSpacing()])


def _unshaded(image: Any) -> Any:
    """The image over its own smoothed body, clipped at the body's 99th percentile: what tissue it is, not how near
    to a coil.
    """
    import SimpleITK as sitk  # noqa: N813

    values = sitk.GetArrayFromImage(image).astype(np.float64)
    sigma = _SHADING_MM / np.array(image.GetSpacing()[::-1])
    body = values > 0.15 * np.percentile(values, 98)
    if not body.any():
        return image
    weight = ndimage.gaussian_filter(body.astype(np.float64), sigma)
    shading = ndimage.gaussian_filter(values * body, sigma) / np.maximum(weight, 1e-3)
    flat = values / np.maximum(shading, 0.1 * np.percentile(shading, 90))
    flat = np.clip(flat, 0.0, np.percentile(flat[body], 99))
    out = sitk.GetImageFromArray(flat.astype(np.float32))
    out.CopyInformation(image)
    return out


def _start(fixed: Any, moving: Any, here: Any) -> Any:
    """The best of the translations `_START_MM`, by mutual information on coarse voxels."""
    import SimpleITK as sitk  # noqa: N813

    coarse_fixed, coarse_moving = (
        sitk.BinShrink(image, [max(1, int(_START_VOXEL_MM / spacing)) for spacing in image.GetSpacing()])
        for image in (fixed, moving)
    )
    best, best_information = here, -np.inf
    for shift in product(*_START_MM):
        tried = sitk.Euler3DTransform(here)
        tried.SetTranslation(shift)
        try:
            information = _mutual_information(coarse_fixed, coarse_moving, tried)
        except RuntimeError:  # so far that the images hardly meet
            continue
        if information > best_information:
            best, best_information = tried, information
    return best


def _levels(fixed: Any) -> list[tuple[int, float]]:
    """Shrink factor and smoothing in mm of each level, coarse to fine."""
    least = min(fixed.GetSize())
    spacing = float(np.mean(fixed.GetSpacing()))
    factors = [factor for factor in (4, 2) if least // factor >= _LEAST_VOXELS] or [1]
    if factors[-1] != 1:
        factors.append(1)
    return [(factor, (factor - 1) * spacing / 2 if factor > 1 else 0.0) for factor in factors]


def _method() -> Any:
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    return method


def _optimized(fixed: Any, moving: Any, start: Any, kind: str) -> Any:
    method = _method()
    levels = _levels(fixed)
    share = min(1.0, _SAMPLES / max(1, int(np.prod(fixed.GetSize()))))
    method.SetMetricSamplingStrategy(method.RANDOM)
    if kind == RIGID:
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=_FIRST_STEP, minStep=_LAST_STEP, numberOfIterations=_ITERATIONS, relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-8,
        )  # fmt: skip
    else:  # twelve parameters of unlike weight: steps of one length would never arrive
        levels = levels[-2:]
        method.SetOptimizerAsConjugateGradientLineSearch(
            learningRate=1.0, numberOfIterations=60, convergenceMinimumValue=1e-6, convergenceWindowSize=10
        )
    method.SetMetricSamplingPercentagePerLevel([min(1.0, share * factor**3) for factor, _ in levels], _SEED)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([factor for factor, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)
    return found.GetNthTransform(0) if found.GetName() == "CompositeTransform" else found


def _mutual_information(fixed: Any, moving: Any, transform: Any) -> float:
    """Over every voxel that both images have, nats."""
    method = _method()
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(fixed, moving))


def _matrix(transform: Any) -> NDArray[np.float64]:
    """(4, 4) `T` in RAS+ from a SimpleITK transform, whose points are LPS+."""
    lps = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps[:3, 3] = origin
    for axis in range(3):
        lps[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
    return _RAS_LPS @ lps @ _RAS_LPS


def _motion_mm(transform: NDArray[np.floating], adc: Loaded) -> float:
    """Largest displacement at the corners of the box that holds the middle half of the grid, where the body is."""
    size = np.array(adc.array.shape[:3], dtype=float)
    corners = np.array([(*(size - 1) * (0.5 + 0.25 * np.array(c)), 1.0) for c in product((-1, 1), repeat=3)])
    points = corners @ adc.affine.T
    return float(np.linalg.norm((points @ transform.T - points)[:, :3], axis=1).max())


def _scale(transform: NDArray[np.floating]) -> float:
    """Largest relative change of length in any direction."""
    return float(np.abs(np.linalg.svd(transform[:3, :3], compute_uv=False) - 1.0).max())
