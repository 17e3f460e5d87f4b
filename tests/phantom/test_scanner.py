from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.phantom import scanner
from diffusion_adc.phantom.anatomy import Anatomy
from diffusion_adc.phantom.artifacts import (
    Artifacts,
    displaced,
    displacement_mm,
    draw_artifacts,
    draw_whole_body_artifacts,
    eddy_shifted,
    fat_failure,
    motion_void,
    pile_up,
    ringing,
    zipper,
)
from diffusion_adc.phantom.canvas import Canvas
from diffusion_adc.phantom.fields import generator
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.person import draw_build
from diffusion_adc.phantom.scanner import scan, structure_table, vendor_adc
from diffusion_adc.phantom.stations import draw_stations, edge_loss, slice_profile
from diffusion_adc.phantom.structures import Structure
from diffusion_adc.phantom.tissues import load_tissues
from diffusion_adc.phantom.truth import StationTruth

OPTIONS = PhantomOptions(cases=1, size=(40, 48, 6), spacing_mm=(2.5, 2.5, 5.0), artifacts=False)
SLABS = (Structure.MUSCLE, Structure.PROSTATE_PZ, Structure.URINE, Structure.LYMPH_NODE)


def slabs() -> Anatomy:
    """Four slabs along I in the middle of the field of view, air around."""
    shape = (64, 48, 12)
    axes = tuple(
        ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32)
        for n, s in zip(shape, (1.25, 1.25, 2.5), strict=True)
    )
    labels = np.zeros(shape, dtype=np.uint8)
    for n, structure in enumerate(SLABS):
        labels[16 * n : 16 * (n + 1)] = structure
    warp = tuple(np.zeros(shape, dtype=np.float32) for _ in range(3))
    build = draw_build(np.random.default_rng(0), "male", 60, 14)
    skin = np.full(shape, np.float32(-40))
    return Anatomy(Canvas(axes, warp, labels), (8, 24), skin, np.zeros((0, 4)), build, np.zeros(3))


def scanned(artifacts: Artifacts = Artifacts(), seed: int = 0, stations=()) -> scanner.Scan:  # noqa: B008
    anatomy = slabs()
    organs = anatomy.canvas.labels.copy()
    return scan(anatomy, organs, load_tissues(), {}, artifacts, OPTIONS, generator(seed), stations)


def middle(volume: np.ndarray, n: int) -> np.ndarray:
    return volume[4 + 8 * n + 2 : 4 + 8 * n + 6, 14:34]


def test_the_adc_map_comes_from_the_images_and_shows_the_tables_values():
    result = scanned()
    table = load_tissues()
    for n, tissue in enumerate(("muscle", "prostate_pz", "urine", "lymph_node")):
        adc = middle(result.volumes[seq.ADC], n)
        assert np.median(adc) == pytest.approx(table.adc[table.row(tissue)], rel=0.12), tissue
        assert adc.std() > 0.01
    low, high = result.volumes[seq.DWI_LOW], result.volumes[seq.DWI_HIGH]
    shown = result.volumes[seq.ADC] > 0
    exact = np.clip(np.rint(1000 * np.log(low[shown] / high[shown]) / 0.85), 0, 4095) / 1000
    assert np.allclose(result.volumes[seq.ADC][shown], exact, atol=1.1e-3)


def test_images_are_stored_as_whole_numbers_and_air_has_the_rayleigh_floor():
    volumes = scanned().volumes
    for name in seq.SEQUENCES:
        assert volumes[name].dtype == np.float32
        assert volumes[name].shape == OPTIONS.size
    air = volumes[seq.DWI_HIGH][:3]
    assert np.array_equal(air, np.rint(air))
    # Mean of six Rayleigh magnitudes: 1.253 sigma with a spread of 0.655 sigma / sqrt(6).
    assert air.std() / air.mean() == pytest.approx(0.655 / np.sqrt(6) / 1.253, rel=0.15)
    assert volumes[seq.VALID][:3].mean() < 0.02
    assert middle(volumes[seq.VALID], 1).mean() > 0.99


def test_vendor_map_is_integer_clipped_and_zero_where_not_fitted():
    low = np.array([100, 100, 100, 1, 100, 0], dtype=np.float32)[:, None, None]
    high = np.array([50, 150, 0.001, 0.5, 0, 10], dtype=np.float32)[:, None, None]
    adc = vendor_adc(low, high, 50, 900, sigma=2.0)
    assert adc.dtype == np.float32
    assert adc.ravel().tolist() == pytest.approx([0.815, 0.0, 4.095, 0.0, 0.0, 0.0], abs=1e-6)
    assert np.array_equal(np.rint(adc * 1000) / np.float32(1000), adc)


def test_partial_volume_lies_between_its_tissues():
    volumes = scanned().volumes
    border = volumes[seq.T2W][4 + 16 : 4 + 17, 14:34].mean(), volumes[seq.T2W][4 + 15 : 4 + 16, 14:34].mean()
    assert all(value > 100 for value in border)


def test_distortion_moves_labels_and_piles_signal_up():
    labels = np.zeros((4, 40, 4), dtype=np.uint8)
    labels[:, 20:24] = 7
    shift = np.full((2, 20, 2), np.float32(2.5))
    assert np.array_equal(displaced(labels, shift, (2, 2, 2), 1.25)[:, 18:22], labels[:, 20:24])
    ramp = np.broadcast_to(np.linspace(0, 10, 21, dtype=np.float32)[None, :, None], (3, 21, 2))
    assert pile_up(np.ascontiguousarray(ramp), 2.0) == pytest.approx(1.25, abs=1e-5)
    assert np.array_equal(pile_up(np.zeros((3, 1, 2), dtype=np.float32), 2.0), np.ones((3, 1, 2)))


def test_a_shift_keeps_the_signal_and_moves_its_center():
    image = np.zeros((3, 30, 3), dtype=np.float32)
    image[:, 12:18] = 5
    moved = eddy_shifted(image, (0.4, 0.0, 0.0))
    center = (moved.sum(axis=(0, 2)) * np.arange(30)).sum() / moved.sum()
    assert moved.sum() == pytest.approx(image.sum(), rel=1e-5)
    assert center == pytest.approx(14.5 - 0.4, abs=1e-4)
    assert np.array_equal(eddy_shifted(image, (0.0, 0.0, 0.0)), image)


def test_the_ghost_lies_half_a_field_of_view_away():
    clean, ghosted = scanned(), scanned(Artifacts(ghost=0.1))
    difference = ghosted.volumes[seq.DWI_LOW] - clean.volumes[seq.DWI_LOW]
    # The object fills the middle half of J, so its ghost fills the rest.
    outside = difference[20:28, :8].mean() + difference[20:28, -8:].mean()
    assert outside > 5 * abs(difference[20:28, 20:28].mean()) / 10
    assert difference[20:28, :8].mean() > 5


def test_metal_swallows_signal_and_gas_moves_it():
    anatomy = slabs()
    axes = tuple(a.reshape(-1, 2).mean(axis=1) for a in anatomy.canvas.axes)
    quiet, survives = displacement_mm(anatomy, Artifacts(), axes, generator(1))
    assert not quiet.any()
    assert np.all(survives == 1)
    _, survives = displacement_mm(anatomy, Artifacts(implant_side=1), axes, generator(1))
    assert survives.min() >= 0
    assert survives[-1].mean() < survives[0].mean()
    anatomy.gas = np.array([[0.0, 0, 0, 10]])
    gas, _ = displacement_mm(anatomy, Artifacts(gas_mm=6), axes, generator(1))
    assert 3 < np.abs(gas).max() < 12
    assert np.abs(gas[0]).max() < 0.3 * np.abs(gas).max()


def test_fat_escapes_suppression_near_the_surface_only():
    anatomy = slabs()
    skin = np.full((30, 30, 6), np.float32(-60))
    skin[:5] = -3
    escaped = fat_failure(anatomy, Artifacts(fat_failure=0.5), skin, [2.5, 2.5, 5.0], generator(3))
    assert escaped.max() <= 0.5
    assert escaped[:5].mean() > 5 * escaped[5:].mean()


def test_artifacts_can_be_turned_off_without_changing_the_random_stream():
    on, off = generator(5), generator(5)
    assert draw_artifacts(on, 1.5, True) != Artifacts()
    assert draw_artifacts(off, 1.5, False) == Artifacts()
    assert on.random() == off.random()


def test_a_station_changes_the_images_and_not_the_adc():
    rows = [StationTruth(0, 0, 2, 0, 4, 1.0, 1.0, 1.0, 0.0), StationTruth(1, 3, 5, 1, 5, 0.6, 1.5, 1.0, 0.0)]
    plain, stepped = scanned().volumes, scanned(stations=rows).volumes
    ratio = {name: middle(stepped[name], 1)[..., 4].mean() / middle(plain[name], 1)[..., 4].mean()
             for name in (seq.DWI_LOW, seq.DWI_HIGH, seq.T1W, seq.T2W)}  # fmt: skip
    loss = edge_loss(rows, 6, 5.0)[4]
    assert ratio[seq.DWI_LOW] == pytest.approx(0.6 * loss, rel=0.05)
    assert ratio[seq.DWI_HIGH] == pytest.approx(0.6 * loss, rel=0.05)  # one factor for both
    assert ratio[seq.T1W] == pytest.approx(1.5, rel=0.05)
    assert ratio[seq.T2W] == pytest.approx(1.0, rel=0.05)
    adc = [np.median(middle(v[seq.ADC], 1)[..., 3:]) for v in (plain, stepped)]
    assert adc[1] == pytest.approx(adc[0], rel=0.06)


@pytest.mark.parametrize(("slices", "slice_mm"), [(200, 5.0), (100, 10.0), (84, 12.0), (40, 5.0), (4, 5.0)])
def test_stations_cover_every_slice_once(slices, slice_mm):
    for seed in range(20):
        stations = draw_stations(generator(seed), slices, slice_mm, True)
        assert len(stations) in ((4, 5) if slices * slice_mm > 900 else (1,))
        taken = np.concatenate([np.arange(s.first, s.last + 1) for s in stations])
        assert np.array_equal(taken, np.arange(slices))
        assert all(0.65 < s.gain < 1.45 and abs(s.shift_mm) <= 3.6 for s in stations)
        assert np.all(slice_profile(stations, slices, "gain") > 0)
        assert 0.65 < edge_loss(stations, slices, slice_mm).min() <= 1
    quiet = draw_stations(generator(0), slices, slice_mm, False)
    assert all((s.gain, s.gain_t1w, s.gain_t2w, s.shift_mm) == (1, 1, 1, 0) for s in quiet)


def test_motion_takes_high_b_signal_near_the_heart_only():
    axes = tuple(np.arange(-100, 101, 10, dtype=np.float32) for _ in range(3))
    left = motion_void(np.array([0.0, 0.0, 25.0]), 0.5, axes)
    assert left[10, 10, 10] == pytest.approx(0.5)
    assert left[0, 0, 10] > 0.99
    assert left.max() <= 1


def test_ringing_leaves_flat_regions_and_rings_at_edges():
    image = np.zeros((2, 40, 2), dtype=np.float32)
    image[:, 10:30] = 100
    rung = ringing(image, 0.1)
    assert np.allclose(rung[:, 15:25], 100, atol=1e-3)
    assert rung[0, 10, 0] > 101
    assert rung.sum() == pytest.approx(image.sum(), rel=0.05)
    assert rung.min() >= 0


def test_a_zipper_is_one_line_in_one_station():
    line = zipper((10, 12, 8), 2.0, slice(2, 5), generator(4))
    column, _, slices = np.nonzero(line)
    assert set(slices.tolist()) == {2, 3, 4}
    assert len(set(column.tolist())) == 1


def test_whole_body_artifacts_extend_the_common_ones():
    some = [draw_whole_body_artifacts(generator(n), 1.5, True) for n in range(60)]
    assert all(a.motion_void > 0 and a.ringing > 0 for a in some)
    assert 1 <= sum(a.zipper > 0 for a in some) <= 20
    assert draw_whole_body_artifacts(generator(1), 1.5, False) == Artifacts()


def test_lesion_tissues_take_their_own_rows():
    extra = {int(Structure.LESION): np.array([0.8, 0.0, 1000, 90, 0.7, 0.05, 15, 0.1])}
    table = structure_table(load_tissues(), extra, 50, 900)
    assert table.adc[Structure.LESION] == 0.7
    assert table.adc[Structure.MUSCLE] == pytest.approx(1.4)
    assert table.diffusion[Structure.LESION] < 0.7
