from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.inference.tiles import Blend, fit_window, tile_boxes, window_weight


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], float]:
    dims = draw(st.integers(1, 3))
    align = tuple(draw(st.sampled_from([1, 2, 4])) for _ in range(dims))
    shape = tuple(a * draw(st.integers(1, 12)) for a in align)
    window = tuple(a * draw(st.integers(1, 12)) for a in align)
    return shape, window, align, draw(st.floats(0, 0.9))


@settings(max_examples=200, deadline=None)
@given(tilings())
def test_every_voxel_is_covered_and_every_start_is_aligned(
    tiling: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], float],
) -> None:
    shape, window, align, overlap = tiling
    covered = np.zeros(shape, dtype=int)
    for box in tile_boxes(shape, window, overlap, align):
        covered[box] += 1
        for part, side, wanted, step in zip(box, shape, window, align, strict=True):
            assert part.start % step == 0
            assert 0 <= part.start < part.stop <= side
            assert part.stop - part.start == min(side, wanted)
    assert covered.min() >= 1


@settings(max_examples=100, deadline=None)
@given(tilings(), st.integers(1, 2000))
def test_a_window_fits_the_budget_or_cannot_be_halved(
    tiling: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], float], most: int
) -> None:
    shape, _, align, _ = tiling
    window = fit_window(shape, most, align)
    assert all(w % a == 0 and w <= s for w, a, s in zip(window, align, shape, strict=True))
    assert math.prod(window) <= most or window == align
    if math.prod(shape) <= most:
        assert window == shape


def test_overlap_is_at_least_what_was_asked() -> None:
    boxes = tile_boxes((50,), (16,), 0.5)
    starts = [box[0].start for box in boxes]
    assert max(np.diff(starts)) <= 8
    assert starts[0] == 0
    assert boxes[-1][0].stop == 50


def test_weights_are_positive_and_largest_in_the_middle() -> None:
    weight = window_weight((8, 6, 1))
    assert weight.shape == (8, 6, 1)
    assert float(weight.min()) > 0
    assert weight.argmax() in (torch.tensor(3 * 6 + 2), torch.tensor(3 * 6 + 3))
    assert torch.allclose(weight, weight.flip(0, 1, 2))


def test_blending_consistent_tiles_gives_the_whole_back() -> None:
    whole = torch.randn(2, 3, 20, 14, 9, generator=torch.Generator().manual_seed(0))
    boxes = tile_boxes(whole.shape[2:], (8, 8, 4), 0.5)
    blended = Blend(whole.shape[2:], boxes).mean((box, whole[(..., *box)]) for box in boxes)
    assert torch.allclose(blended, whole, atol=1e-6)


def test_blend_is_torchios_weighted_average() -> None:
    # Independent library: the same Hann weights, accumulated by TorchIO's own aggregator.
    whole = torch.randn(1, 16, 16, 8, generator=torch.Generator().manual_seed(1))
    subject = tio.Subject(x=tio.ScalarImage(tensor=whole))
    sampler = tio.GridSampler(subject, (8, 8, 4), (4, 4, 2))
    aggregator = tio.GridAggregator(sampler, overlap_mode="hann")
    boxes, patches = [], []
    for n, patch in enumerate(sampler):
        location = patch[tio.LOCATION]
        value = patch["x"].data + 0.1 * n  # tiles that disagree
        aggregator.add_batch(value[None], location[None])
        boxes.append(tuple(slice(int(a), int(b)) for a, b in zip(location[:3], location[3:], strict=True)))
        patches.append(value[None])
    ours = Blend((16, 16, 8), boxes).mean(zip(boxes, patches, strict=True))[0]
    theirs = aggregator.get_output_tensor()
    # TorchIO samples the Hann window at other points; both are convex means of the same tiles.
    lowest = torch.full((1, 16, 16, 8), math.inf)
    highest = torch.full((1, 16, 16, 8), -math.inf)
    for box, patch in zip(boxes, patches, strict=True):
        lowest[(..., *box)] = torch.minimum(lowest[(..., *box)], patch[0])
        highest[(..., *box)] = torch.maximum(highest[(..., *box)], patch[0])
    assert bool(((ours >= lowest - 1e-5) & (ours <= highest + 1e-5)).all())
    assert float((ours - theirs).abs().mean()) < 0.1


def test_impossible_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples"):
        tile_boxes((10, 10), (4, 4), 0.5, (4, 4))
    with pytest.raises(ValueError, match="overlap"):
        tile_boxes((10, 10), (4, 4), 1.0)
    with pytest.raises(ValueError, match="no tile"):
        Blend((4,), tile_boxes((4,), (4,))).mean(iter(()))
