from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.inference.tumor_map import TumorMap, build_tumor_map, check_selection, usable_voxels
from diffusion_adc.records.maps import LESION_COLUMNS, MAP_VOLUMES, read_map_volume, write_map_case

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])  # 0.02 mL per voxel
ML = 0.02


def _map(draws: np.ndarray, adc: np.ndarray | None = None, tau: float = 0.5, **more: object) -> TumorMap:
    shape = draws.shape[:3]
    adc = np.full(shape, 1.0, dtype=np.float32) if adc is None else adc
    valid = more.pop("valid", np.ones(shape, dtype=np.uint8))
    return build_tumor_map(adc, valid, more.pop("affine", AFFINE), draws, np.zeros(shape), tau)  # type: ignore[arg-type]


def _violations(made: TumorMap, adc: np.ndarray) -> int:
    bits, measured = made.tumor_adc.view(np.uint32), adc.view(np.uint32)
    return int(((bits != 0) & (bits != measured)).sum())


ADVERSARIAL = np.array(
    [np.nan, np.inf, -np.inf, -1.0, -0.0, 0.0, 4.095, 4.2, 1e-40, 0.7, 1.0000001, 3.4e38], dtype=np.float32
)


@settings(max_examples=60, deadline=None)
@given(
    adc=hnp.arrays(np.float32, (4, 3, 5), elements=st.sampled_from(ADVERSARIAL.tolist())),
    draws=hnp.arrays(np.uint8, (4, 3, 5, 3), elements=st.integers(0, 1)),
    valid=hnp.arrays(np.uint8, (4, 3, 5), elements=st.integers(0, 1)),
    tau=st.floats(0.05, 1.0),
)
def test_no_value_is_ever_invented(adc: np.ndarray, draws: np.ndarray, valid: np.ndarray, tau: float) -> None:
    before = adc.copy()
    made = build_tumor_map(adc, valid, AFFINE, draws, np.ones(adc.shape), tau)
    assert np.array_equal(adc.view(np.uint32), before.view(np.uint32))
    assert _violations(made, adc) == 0
    assert np.isfinite(made.tumor_adc).all()
    kept = made.tumor_adc != 0
    assert not kept[(valid == 0) | ~np.isfinite(adc) | (np.nan_to_num(adc) <= 0)].any()
    assert np.array_equal(kept, usable_voxels(adc, valid) & (made.probability >= np.float32(tau)))
    json.dumps(made.record(), allow_nan=False)


def test_a_changed_value_is_caught() -> None:
    adc = np.linspace(0.5, 2.0, 24, dtype=np.float32).reshape(2, 3, 4)
    check_selection(adc, adc)
    check_selection(np.zeros_like(adc), adc)
    for wrong in (np.nextafter(adc[0, 0, 0], np.float32(9)), np.float32(np.nan), np.float32(-0.0)):
        changed = adc.copy()
        changed[0, 0, 0] = wrong
        with pytest.raises(DiffusionAdcError, match="1 voxels of a tumor map are not the scanner"):
            check_selection(changed, adc)


def test_nan_in_the_scanner_s_map_is_no_excuse() -> None:
    adc = np.full((1, 1, 2), np.nan, dtype=np.float32)
    with pytest.raises(DiffusionAdcError):
        check_selection(adc, adc)


def test_numbers_of_a_map_by_hand() -> None:
    shape = (12, 10, 4)
    rng = np.random.default_rng(0)
    adc = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    draws = np.zeros((*shape, 9), dtype=np.uint8)
    for k in range(9):  # draw k holds a block of k + 1 slabs of 6 voxels
        draws[1 : 2 + k, 2:5, 1:3, k] = 1
    made = _map(draws, adc)
    core = draws.mean(-1) >= 0.5
    assert made.tdv_ml.map == pytest.approx(core.sum() * ML)
    assert (made.tdv_ml.median, made.tdv_ml.low80, made.tdv_ml.high80) == pytest.approx((0.6, 0.12, 1.08))
    assert made.tdv_ml.nominal == pytest.approx(0.8)
    assert made.gadc.map == pytest.approx(np.median(adc[core].astype(float)))
    medians = [np.median(adc[draws[..., k] > 0].astype(float)) for k in range(9)]
    assert made.gadc.median == pytest.approx(np.median(medians))
    assert made.gadc.low80 == pytest.approx(min(medians))
    assert made.gadc.high80 == pytest.approx(max(medians))
    bands = {name: summary.map for name, summary in made.bands_ml.items()}
    assert set(bands) == {"0.4-0.9", "0.9-1.4", "1.4-1.8"}
    assert bands["0.9-1.4"] == pytest.approx(((adc[core] >= 0.9) & (adc[core] < 1.4)).sum() * ML)
    assert made.viable_ml.map + made.treated_ml.map == pytest.approx(made.tdv_ml.map)
    assert np.allclose(made.probability, draws.mean(-1))
    assert made.flags == ()


def test_the_lesion_table_by_hand() -> None:
    shape = (40, 12, 6)
    draws = np.zeros((*shape, 10), dtype=np.uint8)
    draws[2:6, 2:6, 1:3, :] = 1  # 32 voxels in every draw
    draws[6:8, 2:6, 1:3, :3] = 1  # three draws reach 16 voxels farther: outside the map, inside the zone
    draws[30:33, 5:8, 2:4, 2:] = 1  # 18 voxels in 8 of 10 draws
    draws[20, 0, 0, 0] = 1  # a speck far from both, in one draw
    adc = np.full(shape, 1.0, dtype=np.float32)
    adc[2, 2:6, 1:3] = 0.5
    made = _map(draws, adc)
    assert [tuple(row) for row in made.lesions.rows] == [LESION_COLUMNS] * 2
    first, second = made.lesions.rows
    assert (first["lesion"], second["lesion"]) == (1, 2)
    assert made.lesions.voxels.tolist() == [32, 18]
    assert (first["probability"], second["probability"]) == (1.0, 0.8)
    assert first["volume_ml"] == pytest.approx(32 * ML)
    assert first["volume_ml_high80"] == pytest.approx(48 * ML)
    assert second["volume_ml_low80"] == 0.0
    assert (first["adc_median"], first["adc_p10"], first["adc_p90"]) == pytest.approx((1.0, 0.5, 1.0))
    center = (first["centroid_r_mm"], first["centroid_a_mm"], first["centroid_s_mm"])
    assert center == pytest.approx((2 * 3.5, 2 * 3.5, 5 * 1.5))
    assert first["region"] == ""
    # The speck is in no lesion's row; it is in the total.
    assert made.tdv_ml.high80 == pytest.approx((32 + 16 + 18) * ML)


def test_a_grazed_lesion_is_not_a_present_one() -> None:
    draws = np.zeros((20, 20, 4, 10), dtype=np.uint8)
    draws[2:7, 2:12, 0:2, :5] = 1  # 100 voxels in five draws
    draws[2, 2, 0, 5:] = 1  # one voxel of it in the other five
    made = _map(draws)
    assert made.lesions.rows[0]["probability"] == 0.5


def test_touching_at_a_corner_is_one_lesion() -> None:
    draws = np.zeros((6, 6, 6, 1), dtype=np.uint8)
    draws[1, 1, 1] = draws[2, 2, 2] = draws[4, 4, 4] = 1
    made = _map(draws)
    assert made.lesions.voxels.tolist() == [2, 1]


def test_each_voxel_counts_for_its_nearest_lesion_only() -> None:
    draws = np.zeros((30, 5, 3, 2), dtype=np.uint8)
    draws[2:5, 1:4, 1, :] = draws[8:11, 1:4, 1, :] = 1
    draws[5:8, 1:4, 1, 0] = 1  # in one draw a bridge joins them
    made = _map(draws, tau=0.75)
    assert len(made.lesions.rows) == 2
    high = sum(row["volume_ml_high80"] for row in made.lesions.rows)
    assert high == pytest.approx(27 * ML)


def test_an_empty_map() -> None:
    made = _map(np.zeros((5, 4, 3, 9), dtype=np.uint8))
    assert not made.tumor_adc.any()
    assert made.lesions.rows == ()
    assert (made.tdv_ml.map, made.tdv_ml.high80) == (0.0, 0.0)
    assert (made.gadc.map, made.gadc.median, made.gadc.low80) == (None, None, None)
    assert made.flags == ("empty_map", "empty_draws:1.00")
    json.dumps(made.record(), allow_nan=False)


def test_draws_without_tumor_leave_the_gadc_interval_to_the_others() -> None:
    draws = np.zeros((5, 4, 3, 9), dtype=np.uint8)
    draws[1, 1, 1, :3] = 1
    made = _map(draws, np.full((5, 4, 3), 0.8, dtype=np.float32))
    assert made.empty_draws == pytest.approx(2 / 3)
    assert made.gadc.map is None
    assert made.gadc.median == pytest.approx(0.8)
    assert made.gadc.nominal == 0.5  # three draws
    assert made.tdv_ml.median == 0.0


def test_one_voxel_and_one_draw() -> None:
    made = _map(np.ones((1, 1, 1, 1), dtype=np.uint8))
    assert made.tdv_ml.map == pytest.approx(ML)
    assert (made.tdv_ml.low80, made.tdv_ml.high80, made.tdv_ml.nominal) == pytest.approx((ML, ML, 0.0))
    assert made.flags == ("few_draws:1", "partial_volume:1")
    assert made.lesions.rows[0]["probability"] == 1.0


def test_many_lesions_are_called_confluent() -> None:
    draws = np.zeros((50, 4, 3, 9), dtype=np.uint8)
    draws[::2, 1, 1] = 1
    assert "confluent:25" in _map(draws).flags


def test_an_invalid_voxel_is_in_no_volume_and_no_statistic() -> None:
    draws = np.ones((4, 4, 2, 9), dtype=np.uint8)
    valid = np.ones((4, 4, 2), dtype=np.uint8)
    valid[:2] = 0
    adc = np.full((4, 4, 2), 1.0, dtype=np.float32)
    adc[:2] = 9.0
    made = _map(draws, adc, valid=valid)
    assert made.tdv_ml.map == pytest.approx(16 * ML)
    assert made.gadc.map == 1.0
    assert not made.draws[:2].any()
    assert made.lesions.rows[0]["adc_p90"] == 1.0


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_an_oblique_anisotropic_grid(angle: float) -> None:
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.5, 2.5, 6.0])
    affine[:3, 3] = (12.5, -40.0, 7.0)
    draws = np.zeros((9, 8, 5, 3), dtype=np.uint8)
    draws[2:5, 3:5, 1:3] = 1
    made = _map(draws, affine=affine)
    assert np.array_equal(made.affine, affine)
    assert made.tdv_ml.map == pytest.approx(12 * 1.5 * 2.5 * 6.0 / 1000)
    row = made.lesions.rows[0]
    expected = affine @ np.array([3.0, 3.5, 1.5, 1.0])
    found = [row["centroid_r_mm"], row["centroid_a_mm"], row["centroid_s_mm"]]
    assert found == pytest.approx(expected[:3].tolist(), abs=1e-5)


def test_what_is_stored_comes_back(tmp_path: object) -> None:
    rng = np.random.default_rng(2)
    draws = (rng.random((7, 6, 5, 4)) < 0.2).astype(np.uint8)
    affine = np.array([[-2.1, 0.3, 0, 5], [0.3, 2.2, 0, -7.25], [0, 0, 4.4, 1], [0, 0, 0, 1.0]])
    adc = rng.uniform(0.3, 2, (7, 6, 5)).astype(np.float32)
    made = _map(draws, adc, affine=affine)
    write_map_case(tmp_path, "A001_01", made.volumes(), made.affine, made.lesions.rows, made.record())  # type: ignore[arg-type]
    for name, array in made.volumes().items():
        volume = read_map_volume(tmp_path, "A001_01", name)  # type: ignore[arg-type]
        assert volume.array.dtype == MAP_VOLUMES[name]
        assert np.array_equal(volume.array, array)
        assert np.allclose(volume.affine, affine, atol=1e-6)


def test_impossible_arguments_are_refused() -> None:
    draws = np.zeros((2, 2, 2, 1), dtype=np.uint8)
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="threshold"):
            _map(draws, tau=wrong)
    with pytest.raises(ValueError, match="draws of shape"):
        _map(draws[..., 0])
    with pytest.raises(ValueError, match="draws of shape"):
        _map(draws[..., :0])
    with pytest.raises(ValueError, match="one shape"):
        _map(draws, valid=np.ones((2, 2, 3)))
