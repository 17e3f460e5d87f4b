from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion_adc.inference.noise import noise_field, noise_key

SHAPE = (8, 24, 20, 12)


def test_the_same_draw_is_the_same_noise_and_no_other_is() -> None:
    field = noise_field(SHAPE, seed=3, case_id="PH0001_01", draw=2)
    assert torch.equal(field, noise_field(SHAPE, seed=3, case_id="PH0001_01", draw=2))
    others = [(3, "PH0001_01", 1), (4, "PH0001_01", 2), (3, "PH0001_02", 2), (32, "PH0001_01", 2)]
    for seed, case_id, draw in others:
        other = noise_field(SHAPE, seed=seed, case_id=case_id, draw=draw)
        assert abs(float(torch.corrcoef(torch.stack((field.flatten(), other.flatten())))[0, 1])) < 0.02


def test_keys_do_not_collide_where_numbers_run_together() -> None:
    keys = {
        tuple(noise_key(s, c, d)) for s, c, d in ((1, "A001_01", 11), (11, "A001_01", 1), (1, "1A001_01", 1))
    }
    assert len(keys) == 3


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    expected = noise_field(SHAPE, seed=0, case_id="A001_01", draw=0)
    before = torch.random.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(expected, noise_field(SHAPE, seed=0, case_id="A001_01", draw=0))
    torch.manual_seed(0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 1.0])
def test_every_slice_is_standard_normal_and_neighbors_correlate(rho: float) -> None:
    field = noise_field((4, 64, 64, 30), seed=1, case_id="A001_01", draw=0, slice_correlation=rho).numpy()
    assert field.dtype == np.float32
    slices = field.reshape(-1, 30)
    for k in (0, 1, 15, 29):
        assert stats.kstest(slices[:, k], "norm").statistic < 0.015
    for lag in (1, 3):
        seen = np.corrcoef(slices[:, 10], slices[:, 10 + lag])[0, 1]
        assert seen == pytest.approx(rho**lag, abs=0.03)


def test_voxels_and_channels_are_independent() -> None:
    field = noise_field((4, 64, 64, 16), seed=5, case_id="A001_01", draw=0).numpy()
    for axis in range(4):
        a, b = np.take(field, range(3), axis), np.take(field, range(1, 4), axis)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_one_slice_and_a_wrong_correlation() -> None:
    assert noise_field((4, 5, 7, 1), seed=0, case_id="A001_01", draw=0, slice_correlation=0.9).shape == (
        4,
        5,
        7,
        1,
    )
    with pytest.raises(ValueError, match="slice correlation"):
        noise_field(SHAPE, seed=0, case_id="A001_01", draw=0, slice_correlation=1.5)
