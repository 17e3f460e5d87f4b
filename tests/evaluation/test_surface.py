"""Surface distances against MONAI, closed forms, and every empty map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from diffusion_adc.evaluation.surface import one_voxel_mm, surface_distances, surface_points

SPACING = (2.5, 2.0, 5.0)


def blobs(seed: int, shape: tuple[int, ...] = (17, 15, 9), level: float = 1.0) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.3)
    return field / field.std() > level


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1.0, 2.5, 5.0])
def test_monai_agrees(tolerance: float) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for seed in range(12):
        a, b = blobs(seed), blobs(seed + 100, level=1.3)
        found = surface_distances(a, b, SPACING)
        pair = [torch.from_numpy(m)[None, None] for m in (b, a)]
        hausdorff = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=SPACING)
        dice = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=SPACING)
        mean = compute_average_surface_distance(
            *pair, include_background=True, symmetric=True, spacing=SPACING
        )
        assert found.hausdorff() == pytest.approx(float(hausdorff), rel=1e-5)
        assert found.surface_dice(tolerance) == pytest.approx(float(dice), abs=1e-6)
        assert found.mean_distance() == pytest.approx(float(mean), rel=1e-5)


def test_shifted_boxes_have_known_distances() -> None:
    a, b = np.zeros((2, 20, 20, 12), dtype=bool)
    a[4:10, 4:10, 3:9] = True
    b[6:12, 4:10, 3:9] = True
    found = surface_distances(a, b, SPACING)
    assert found.hausdorff(100.0) == pytest.approx(5.0)  # two voxels of 2.5 mm
    assert found.surface_dice(5.0) == 1.0
    assert found.surface_dice(1.9) < found.surface_dice(2.0) < 1.0
    same = surface_distances(a, a, SPACING)
    assert (same.hausdorff(), same.surface_dice(0.0), same.mean_distance()) == (0.0, 1.0, 0.0)
    voxel = np.zeros_like(a)
    voxel[3, 3, 3] = True
    far = np.zeros_like(a)
    far[3, 3, 5] = True
    assert surface_distances(voxel, far, SPACING).hausdorff() == 10.0
    assert len(surface_points(a, SPACING)) == 6**3 - 4**3


def test_empty_maps_follow_the_policy_of_dice() -> None:
    nothing, blob = np.zeros((9, 8, 7), dtype=bool), blobs(0, (9, 8, 7), 0.5)
    missed = surface_distances(blob, nothing, SPACING)
    assert (missed.surface_dice(2.5), np.isnan(missed.hausdorff()), np.isnan(missed.mean_distance())) == (
        0,
        True,
        True,
    )
    painted = surface_distances(nothing, blob, SPACING)
    assert np.isnan([painted.surface_dice(2.5), painted.hausdorff(), painted.mean_distance()]).all()
    both = surface_distances(nothing, nothing, SPACING)
    assert np.isnan([both.surface_dice(2.5), both.hausdorff()]).all()
    with pytest.raises(ValueError, match="shape"):
        surface_distances(blob, blob[1:], SPACING)
    assert one_voxel_mm(SPACING) == 2.5
