"""Batches of a fixed order, dealt to the processes: each once, as many to everyone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_adc.data.loaders import RankBatches, RankSequence


def dealt(length: int, ranks: int, size: int) -> list[list[list[int]]]:
    every = []
    for rank in range(ranks):
        indices = list(RankBatches(length, rank, ranks, size))
        every.append([indices[start : start + size] for start in range(0, len(indices), size)])
    return every


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 9))
def test_every_batch_is_dealt_once_and_what_is_repeated_is_marked(length: int, ranks: int, size: int) -> None:
    alone = [list(range(start, min(length, start + size))) for start in range(0, length, size)]
    every = dealt(length, ranks, size)
    assert len({len(batches) for batches in every}) == 1
    real = [[], *(b for step in zip(*every, strict=True) for b in step if min(b) >= 0)][1:]
    assert real == alone
    for batches in every:
        for batch in batches:
            assert all(index < 0 for index in batch) or all(index >= 0 for index in batch)
            assert all(0 <= max(index, ~index) < length for index in batch)


@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 9), st.integers(0, 3))
def test_a_batch_can_be_named_by_its_number(length: int, ranks: int, size: int, epoch: int) -> None:
    for rank in range(ranks):
        sampler = RankSequence(length, rank, ranks, batch_size=size, epochs=True)
        sampler.set_epoch(epoch)
        indices = list(sampler)
        for number in range(len(indices) // size):
            assert sampler.batch(number, size) == indices[number * size : (number + 1) * size]


def test_no_rank_is_left_out() -> None:
    assert dealt(3, 4, 4) == [[[0, 1, 2]], [[-1, -2, -3]], [[-1, -2, -3]], [[-1, -2, -3]]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_lengths_tell_the_truth(ranks: int) -> None:
    for rank in range(ranks):
        sampler = RankBatches(10, rank, ranks, 4)
        assert len(sampler) == len(list(sampler))
