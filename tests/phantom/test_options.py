from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.plan import plan, slot


@pytest.mark.parametrize(
    "wrong",
    [
        {"cases": 0}, {"anatomy": "head"}, {"readers": 0}, {"size": (160, 160)}, {"size": (2, 160, 40)},
        {"spacing_mm": (0.1, 2.5, 5.0)}, {"field_t": 7.0}, {"b_low": 900.0, "b_high": 50.0},
        {"tumor_free_share": 1.5}, {"train_share": 0.8, "val_share": 0.4}, {"seed": -1},
    ],
)  # fmt: skip
def test_an_impossible_option_is_refused_in_one_line(wrong):
    with pytest.raises(UsageError) as error:
        PhantomOptions(**wrong)
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)


def test_options_from_lists_equal_options_from_tuples_and_are_json():
    options = PhantomOptions(size=[32, 32, 8], spacing_mm=[5, 5, 10])  # type: ignore[arg-type]
    assert options == PhantomOptions(size=(32, 32, 8), spacing_mm=(5.0, 5.0, 10.0))
    assert json.loads(json.dumps(options.as_json()))["size"] == [32, 32, 8]


def test_each_anatomy_has_its_own_grid_and_a_whole_body_reaches_the_thighs():
    pelvis, body = PhantomOptions(), PhantomOptions(anatomy="whole_body")
    assert (pelvis.size, pelvis.spacing_mm) == ((160, 160, 40), (2.5, 2.5, 5.0))
    assert (body.size, body.spacing_mm) == ((192, 192, 200), (2.3, 2.3, 5.0))
    assert body.size[2] * body.spacing_mm[2] == 1000
    assert PhantomOptions(anatomy="whole_body", size=(64, 64, 90)).size == (64, 64, 90)


def test_a_later_option_is_recorded_only_where_it_is_used():
    assert "leaking_covariate" not in PhantomOptions().as_json()
    assert PhantomOptions(leaking_covariate=True).as_json()["leaking_covariate"] is True
    assert PhantomOptions(ambiguity=False).as_json()["ambiguity"] is False


@pytest.mark.parametrize("cases", [60, 80, 200])
def test_every_split_has_25_to_35_percent_tumor_free_cases(cases):
    slots = plan(PhantomOptions(cases=cases))
    total = Counter(s.split for s in slots)
    free = Counter(s.split for s in slots if s.tumor_free)
    assert set(total) == {"train", "val", "test"}
    for split, n in total.items():
        assert abs(free[split] - 0.3 * n) <= 1.0, split
    assert 0.25 <= sum(free.values()) / cases <= 0.35
    assert total["train"] / cases == pytest.approx(0.6, abs=0.06)
    assert total["test"] / cases == pytest.approx(0.25, abs=0.06)


@settings(max_examples=30, deadline=None)
@given(cases=st.integers(1, 60), more=st.integers(1, 40), share=st.floats(0, 1))
def test_a_slot_never_depends_on_how_many_follow(cases, more, share):
    few = PhantomOptions(cases=cases, tumor_free_share=share)
    many = PhantomOptions(cases=cases + more, tumor_free_share=share)
    assert plan(few) == plan(many)[:cases]
    assert slot(many, cases - 1) == plan(few)[-1]


def test_a_person_stands_in_one_split_and_some_are_examined_twice():
    slots = plan(PhantomOptions(cases=100))
    split_of: dict[str, str] = {}
    for place in slots:
        assert split_of.setdefault(place.research_id, place.split) == place.split
    assert 5 <= sum(place.exam_order == 2 for place in slots) <= 15
    assert len({place.case_id for place in slots}) == 100
    with pytest.raises(IndexError):
        slot(PhantomOptions(cases=3), 3)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 24)])
def test_extreme_shares(share, expected):
    assert sum(s.tumor_free for s in plan(PhantomOptions(cases=24, tumor_free_share=share))) == expected
