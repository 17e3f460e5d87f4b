from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.networks import haar, inverse_haar


@settings(max_examples=25, deadline=None)
@given(
    factors=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=3),
    cells=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    channels=st.integers(1, 3),
)
def test_inverse_is_exact_and_energy_is_kept(factors: list[int], cells: list[int], channels: int) -> None:
    shape = [c * f for c, f in zip(cells, factors, strict=False)]
    x = torch.randn((2, channels, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = haar(x, factors)
    assert y.shape == (2, channels * int(np.prod(factors)), *cells[: len(factors)])
    torch.testing.assert_close(inverse_haar(y, factors), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(y.square().sum(), x.square().sum())


@pytest.mark.parametrize("factors", [(2, 2), (2, 2, 2), (2, 2, 1)])
def test_matrix_is_orthonormal(factors: tuple[int, ...]) -> None:
    number = int(np.prod([2] * len(factors)))
    basis = torch.eye(number, dtype=torch.float64).reshape(number, 1, *[2] * len(factors))
    matrix = haar(basis, factors).reshape(number, number)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(number, dtype=torch.float64))


def test_band_zero_is_the_cell_mean_times_sqrt_of_its_voxels() -> None:
    x = torch.randn(1, 2, 4, 4, 4)
    smooth = haar(x, (2, 2, 2))[:, ::8]
    torch.testing.assert_close(smooth, torch.nn.functional.avg_pool3d(x, 2) * 8**0.5)


def test_odd_axis_and_wrong_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="odd size 5"):
        haar(torch.zeros(1, 1, 4, 5), (2, 2))
    with pytest.raises(ValueError, match="factors"):
        haar(torch.zeros(1, 1, 4, 6), (3, 2))
    with pytest.raises(ValueError, match="bands"):
        inverse_haar(torch.zeros(1, 6, 2, 2), (2, 2))
