"""Stations become one volume in which every voxel of the body is counted once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffusion_adc.domain.errors import CaseError
from diffusion_adc.intake.nifti import Loaded
from diffusion_adc.intake.stations import compose

Array = NDArray[np.float64]
SPACING = (2.0, 2.0, 4.0)
SLICES = 60


def whole(seed: int = 0, shape: tuple[int, int, int] = (48, 40, SLICES)) -> Loaded:
    """A tapering body with texture, oblique by nothing, slices toward the head."""
    rng = np.random.default_rng(seed)
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    r = ((i - 24) / 18) ** 2 + ((j - 20) / (14 + 2 * np.sin(k / 9))) ** 2
    values = np.where(r < 1, 300 + 100 * np.sin(i / 3 + k / 4) + rng.normal(0, 10, shape), 5.0)
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = (48, -40, -120)
    return Loaded(values, affine, "float32", "0" * 64)


def slab(volume: Loaded, first: int, last: int, *, head_first: bool = False) -> Loaded:
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    part = replace(volume, array=volume.array[:, :, first:last].copy(), affine=affine)
    if head_first:
        affine = affine.copy()
        affine[:3, 3] += (last - first - 1) * affine[:3, 2]
        affine[:3, 2] *= -1
        part = replace(part, array=part.array[:, :, ::-1], affine=affine)
    return part


def test_what_was_cut_in_pieces_comes_back() -> None:
    volume = whole()
    pieces = [slab(volume, 36, 60), slab(volume, 0, 22), slab(volume, 18, 40)]
    joined = compose(pieces, "CASE-001", "adc")
    assert np.array_equal(joined.array, volume.array)
    assert np.allclose(joined.affine, volume.affine)
    assert [seam["overlap_slices"] for seam in joined.seams] == [4, 4]
    assert joined.flags == []
    assert joined.station.dtype == np.uint8
    assert list(np.unique(joined.station[0, 0])) == [0, 1, 2]
    assert list(np.flatnonzero(np.diff(joined.station[0, 0]))) == [seam["after"] for seam in joined.seams]
    assert not joined.composed


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(8, 52), min_size=1, max_size=3, unique=True),
    overlap=st.integers(0, 6), turned=st.booleans(), order=st.randoms(),
)  # fmt: skip
def test_any_pieces_in_any_order_come_back(
    cuts: list[int], overlap: int, turned: bool, order: object
) -> None:
    volume = whole()
    edges = [0, *sorted(cuts), SLICES]
    if any(b - a <= overlap for a, b in pairwise(edges)):
        return
    ends = [min(SLICES, edge + overlap) for edge in edges[1:]]
    pieces = [
        slab(volume, a, b, head_first=turned and n > 0)
        for n, (a, b) in enumerate(zip(edges, ends, strict=False))
    ]
    first, *rest = pieces
    order.shuffle(rest)  # type: ignore[attr-defined]
    joined = compose([*rest, first] if not turned else [first, *rest], "CASE-001", "dwi_high")
    assert np.array_equal(joined.array, volume.array)


@pytest.mark.parametrize("overlap", [0, 3, 6])
def test_a_sphere_across_a_seam_has_its_volume(overlap: int) -> None:
    radius, spacing, shape = 40.0, (2.0, 2.0, 4.0), (60, 60, 40)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-59.0, -59.0, -78.3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm(index * spacing + affine[:3, 3], axis=-1) < radius
    sphere = Loaded(
        np.where(inside, 0.8, 1e-3 * np.random.default_rng(1).random(shape)), affine, "float32", "0" * 64
    )
    joined = compose([slab(sphere, 0, 20 + overlap), slab(sphere, 20, 40)], "CASE-001", "adc")
    tdv_ml = np.count_nonzero(joined.array > 0.5) * np.prod(spacing) / 1000
    true_ml = 4 / 3 * np.pi * radius**3 / 1000
    print(f"overlap {overlap}: TDV {tdv_ml:.2f} mL, sphere {true_ml:.2f} mL")
    assert abs(tdv_ml / true_ml - 1) < 0.01


def test_a_table_shift_and_another_gain_are_flagged() -> None:
    volume = whole()
    upper = slab(volume, 26, 60)
    moved = replace(upper, array=np.roll(upper.array, 4, axis=0) * 1.4)
    joined = compose([slab(volume, 0, 30), moved], "CASE-001", "dwi_high")
    (seam,) = joined.seams
    assert seam["shift_mm"] == pytest.approx(8.0, abs=0.6)
    assert seam["log_ratio"] == pytest.approx(np.log(1.4), abs=0.05)
    assert len(seam["flags"]) == 2
    assert joined.flags[0].startswith("seam 1: the body jumps")


def test_one_volume_is_returned_as_it_is() -> None:
    volume = whole()
    joined = compose([volume], "CASE-001", "adc")
    assert joined.array is volume.array
    assert joined.seams == ()
    assert not joined.composed


def test_a_composed_series_is_recognized_and_not_stitched_again() -> None:
    long = whole(shape=(48, 40, 220))
    assert compose([long], "CASE-001", "adc").composed
    beside = [slab(long, 0, 80), long, slab(long, 70, 160), slab(long, 150, 220)]
    joined = compose(beside, "CASE-001", "adc")
    assert joined.composed
    assert joined.array is long.array
    assert not joined.station.any()


def broken(kind: str) -> list[Loaded]:
    volume = whole()
    lower, upper = slab(volume, 0, 30), slab(volume, 26, 60)
    off = upper.affine.copy()
    if kind == "gap":
        return [lower, slab(volume, 33, 60)]
    if kind == "matrix":
        return [lower, replace(upper, array=upper.array[:40])]
    if kind == "spacing":
        off[:3, 0] *= 1.05
    elif kind == "lattice":
        off[:3, 3] += 0.4 * off[:3, 2]
    elif kind == "aside":
        off[0, 3] += 1.0
    elif kind == "inside":
        return [volume, slab(volume, 20, 40)]
    elif kind == "other person":
        noise = np.random.default_rng(5).uniform(0, 400, upper.array.shape)
        return [lower, replace(upper, array=noise)]
    return [lower, replace(upper, affine=off)]


@pytest.mark.parametrize("kind", ["gap", "matrix", "spacing", "lattice", "aside", "inside", "other person"])
def test_stations_that_do_not_belong_together_are_refused(kind: str) -> None:
    with pytest.raises(CaseError) as caught:
        compose(broken(kind), "CASE-001", "adc")
    assert caught.value.code == "S32"
    assert str(caught.value).startswith("S32 CASE-001 adc: ")


def test_no_station_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no station"):
        compose([], "CASE-001", "adc")
