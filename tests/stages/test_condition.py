from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.sequences import ADC, ADC_RECOMPUTED, CHANNELS, DWI_HIGH, DWI_LOW, SEQUENCES, VALID
from diffusion_adc.stages.condition import availability_flags, drop_sequences

LOW, HIGH, ADC_MAP = (SEQUENCES.index(s) for s in (DWI_LOW, DWI_HIGH, ADC))
RECOMPUTED = CHANNELS.index(ADC_RECOMPUTED)


def cases(available: torch.Tensor) -> torch.Tensor:
    images = torch.ones(len(available), len(CHANNELS), 2, 2)
    images[:, : len(SEQUENCES)] *= available[:, :, None, None]
    images[:, RECOMPUTED] *= (available[:, LOW] * available[:, HIGH])[:, None, None]
    return images


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), probability=st.floats(0.01, 0.99), dims=st.sampled_from([2, 3]))
def test_never_adc_never_both_dwis(seed: int, probability: float, dims: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    available = (torch.rand((64, 5), generator=generator) < 0.7).float()
    available[:, ADC_MAP] = 1
    available[:, HIGH] = torch.maximum(available[:, HIGH], 1 - available[:, LOW])  # at least one DWI
    images = cases(available)
    if dims == 3:
        images = images.unsqueeze(-1)
    before = images.clone()
    kept_images, kept = drop_sequences(images, available, probability, generator)
    assert torch.equal(images, before)  # the batch itself is left alone
    assert bool((kept <= available).all())
    assert bool((kept[:, ADC_MAP] == 1).all())
    assert bool((kept[:, LOW] + kept[:, HIGH] >= 1).all())
    seen = kept_images.flatten(2).amax(2)
    assert torch.equal(seen[:, :5], kept)
    assert torch.equal(seen[:, RECOMPUTED], kept[:, LOW] * kept[:, HIGH])
    assert bool((seen[:, CHANNELS.index(VALID)] == 1).all())


def test_dropped_per_case_with_the_asked_probability() -> None:
    available = torch.ones(20_000, 5)
    _, kept = drop_sequences(cases(available), available, 0.3, torch.Generator().manual_seed(0))
    share = kept.mean(0)
    assert float(share[0]) == pytest.approx(0.7, abs=0.02)
    # One of two dropped DWIs comes back, either as often: 0.7 + 0.3 * 0.3 / 2.
    assert float(share[LOW]) == pytest.approx(0.745, abs=0.02)
    assert float(share[HIGH]) == pytest.approx(0.745, abs=0.02)
    assert float(torch.corrcoef(kept[:, :2].T)[0, 1]) == pytest.approx(0, abs=0.03)


def test_probability_zero_changes_nothing_and_nan_does_not_survive() -> None:
    available = torch.ones(4, 5)
    images = cases(available)
    assert drop_sequences(images, available, 0.0, torch.Generator())[0] is images
    images[:, 0] = float("nan")
    kept_images, kept = drop_sequences(images, available, 0.999, torch.Generator().manual_seed(0))
    assert float(kept[:, 0].sum()) == 0
    assert bool(torch.isfinite(kept_images).all())


def test_flag_of_the_recomputed_adc() -> None:
    available = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 0, 1, 1, 1]])
    assert availability_flags(available)[:, 5].tolist() == [1, 0, 1]
