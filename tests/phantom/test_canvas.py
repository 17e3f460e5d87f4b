from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.phantom.canvas import Canvas, Ellipsoid, Plate, Tube, Union, rotation
from diffusion_adc.phantom.fields import generator, smooth_field
from diffusion_adc.phantom.growth import costs, find_seed, grow
from diffusion_adc.phantom.structures import Structure


def canvas(n=(40, 36, 20), step=(1.5, 1.5, 3.0), warp_mm=0.0, seed=0) -> Canvas:
    axes = tuple(((np.arange(m) - (m - 1) / 2) * s).astype(np.float32) for m, s in zip(n, step, strict=True))
    warp = tuple(
        np.float32(warp_mm) * np.clip(smooth_field(generator(seed, a), n, step, 25.0), -2.5, 2.5)
        for a in range(3)
    )
    labels = np.full(n, int(Structure.VISCERAL_FAT), dtype=np.uint8)
    return Canvas(axes, warp, labels, 2.5 * warp_mm + 0.5)


def everywhere(c: Canvas) -> np.ndarray:
    return np.stack(c.coordinates(tuple(slice(0, n) for n in c.shape)), axis=-1).astype(float)


@pytest.mark.parametrize("turn", [None, rotation(30, 20, 10)])
def test_a_sphere_has_its_exact_distance_however_it_is_turned(turn):
    c = canvas()
    box, distance = Ellipsoid([3, -2, 4], [12, 12, 12], turn).distance(c)
    exact = np.linalg.norm(everywhere(c) - [3, -2, 4], axis=-1)[box] - 12
    assert np.allclose(distance, exact, atol=0.02)


def test_a_tube_has_its_exact_distance():
    c = canvas()
    a, b = np.array([-12.0, 3, -9, 6]), np.array([15.0, -4, 6, 6])
    box, distance = Tube([a, b], reach_mm=5).distance(c)
    p = everywhere(c)[box]
    along = b[:3] - a[:3]
    t = np.clip((p - a[:3]) @ along / (along @ along), 0, 1)
    exact = np.linalg.norm(p - a[:3] - t[..., None] * along, axis=-1) - 6
    near = exact < 4
    assert near.any()
    assert np.allclose(distance[near], exact[near], atol=0.02)


@settings(max_examples=25, deadline=None)
@given(
    center=st.tuples(*[st.floats(-25, 25)] * 3), radii=st.tuples(*[st.floats(3, 14)] * 3), yaw=st.floats(-90, 90),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_no_voxel_of_a_shape_is_lost_to_its_bounding_box(center, radii, yaw, seed):
    c = canvas(warp_mm=3.0, seed=seed)
    turn = rotation(yaw)
    p = (everywhere(c) - center) @ turn
    inside = ((p / radii) ** 2).sum(axis=-1) < 1
    c.paint(Ellipsoid(center, radii, turn), Structure.URINE)
    assert (
        np.array_equal(c.labels == Structure.URINE, inside)
        or np.mean((c.labels == Structure.URINE) != inside) < 1e-4
    )


def test_shapes_outside_the_field_of_view_paint_nothing():
    c = canvas()
    before = c.labels.copy()
    for shape in (Ellipsoid([500, 0, 0], [5, 5, 5]), Tube([[500, 0, 0, 3], [510, 0, 0, 3]]),
                  Plate([300, 310], [[[0, 0, 2], [5, 0, 2]]] * 2), Union((Ellipsoid([0, 900, 0], [3, 3, 3]),))):  # fmt: skip
        assert shape.distance(c) is None
        c.paint(shape, Structure.URINE)
        assert c.paint_shell(shape, Structure.BLADDER_WALL, Structure.URINE, 2) is None
    assert np.array_equal(c.labels, before)


def test_a_shell_has_a_wall_around_its_content_and_respects_what_is_there():
    c = canvas()
    c.paint(Ellipsoid([0, 0, 0], [6, 6, 6]), Structure.MUSCLE)
    c.paint_shell(
        Ellipsoid([0, 0, 0], [15, 15, 15]),
        Structure.BLADDER_WALL,
        Structure.URINE,
        3.5,
        (Structure.VISCERAL_FAT,),
    )
    r = np.linalg.norm(everywhere(c), axis=-1)
    assert np.all(c.labels[r < 5.9] == Structure.MUSCLE)
    assert np.all(c.labels[(r > 6.1) & (r < 11.4)] == Structure.URINE)
    assert np.all(c.labels[(r > 11.6) & (r < 14.9)] == Structure.BLADDER_WALL)


def test_a_blended_union_is_never_thinner_than_its_parts():
    c = canvas()
    parts = (Ellipsoid([-6, 0, 0], [10, 10, 10]), Ellipsoid([8, 0, 0], [9, 9, 9]))
    _, sharp = Union(parts).distance(c)
    _, blended = Union(parts, 6.0).distance(c)
    assert np.all(blended <= sharp + 1e-5)
    assert np.count_nonzero(blended < 0) > np.count_nonzero(sharp < 0)


@pytest.mark.parametrize("volume_ml", [0.2, 2.0, 8.0])
def test_growth_has_the_wanted_volume_inside_its_host(volume_ml):
    c = canvas((50, 50, 26))
    c.labels[:25] = Structure.MUSCLE
    seed = find_seed(c, np.array([10.0, 0, 0]), [Structure.VISCERAL_FAT], np.random.default_rng(0))
    assert seed is not None
    grown = grow(c, seed, volume_ml, costs([Structure.VISCERAL_FAT]), np.random.default_rng(1), lobes=3)
    assert grown is not None
    assert grown.inside.sum() * c.voxel_ml == pytest.approx(volume_ml, rel=0.15)
    assert np.all(c.labels[grown.box][grown.inside] == Structure.VISCERAL_FAT)
    half = grown.innermost(0.5)
    assert half.sum() == pytest.approx(0.5 * grown.inside.sum(), abs=2)
    assert grown.innermost(0.0).sum() == 0


def test_growth_is_capped_by_a_small_host_and_absent_without_one():
    c = canvas()
    c.paint(Ellipsoid([0, 0, 0], [6, 6, 6]), Structure.LYMPH_NODE)
    host = np.count_nonzero(c.labels == Structure.LYMPH_NODE) * c.voxel_ml
    seed = find_seed(c, np.zeros(3), [Structure.LYMPH_NODE], np.random.default_rng(0))
    grown = grow(c, seed, 20.0, costs([Structure.LYMPH_NODE]), np.random.default_rng(1))
    assert grown.inside.sum() * c.voxel_ml <= host
    assert find_seed(c, np.zeros(3), [Structure.TESTIS], np.random.default_rng(0)) is None
    assert find_seed(c, np.array([400.0, 0, 0]), [Structure.VISCERAL_FAT], np.random.default_rng(0)) is None
