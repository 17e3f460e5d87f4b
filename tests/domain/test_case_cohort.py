"""Cases validate themselves; splits never mix a person; withdrawn persons are gone."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain import clinical
from diffusion_adc.domain.case import Case, check_research_id
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CaseError, CohortError, DiffusionAdcError, NonFiniteError, UsageError

FILES = {"adc": "a" * 64, "dwi_high": "b" * 64}


def cohort(persons: int = 30, exams: int = 2, scanners: int = 3) -> Cohort:
    cases = [
        Case(
            f"SIM-{p:05d}", exam_order=e + 1, study_order=p * exams + e, files=FILES, provenance="synthetic",
            scanner=f"scanner-{p % scanners if p >= 3 else 0}",
        )
        for p in range(persons)
        for e in range(exams)
    ]  # fmt: skip
    return Cohort(tuple(cases), provenance="synthetic")


@pytest.mark.parametrize(
    "hostile",
    [
        "P001\n", "P001 ", "../P001", "P001/..", "P٠٠١", "P００１", "P01", "P123456789", "", "001", "P-", "P--001",
        "PÄ001", "P001\x00", "averyveryverylongprefix-001", "P001.nii", "P 001", "-001", "P_001", "𝐏001",
    ],
)  # fmt: skip
def test_hostile_research_ids_are_refused(hostile: str) -> None:
    with pytest.raises(CaseError) as caught:
        check_research_id(hostile)
    # What was found may be a name: it is never repeated.
    assert hostile == "" or hostile.strip() not in str(caught.value).split()


@given(st.from_regex(r"[A-Za-z]{1,16}-?[0-9]{3,8}", fullmatch=True).filter(str.isascii))
@settings(max_examples=100, deadline=None)
def test_good_research_ids_pass(research_id: str) -> None:
    assert check_research_id(research_id) == research_id


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"files": {"t1w": "x"}}, "S01"),
        ({"files": {"adc": "x"}}, "S01"),
        ({"b_low": -1.0}, "S12"),
        ({"b_high": 20_000.0}, "S12"),
        ({"b_low": 900.0, "b_high": 50.0}, "S12"),
        ({"split": "holdout"}, None),
        ({"provenance": "stolen"}, None),
        ({"tumor_status": "maybe"}, None),
        ({"exam_order": 0}, None),
    ],
)
def test_contradictions_are_refused_with_the_research_id(change: dict[str, object], code: str | None) -> None:
    with pytest.raises(CaseError) as caught:
        Case(**({"research_id": "SIM-00001", "exam_order": 1, "files": FILES} | change))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert "SIM-00001" in str(caught.value)


def test_case_id_has_two_digits_of_the_examination() -> None:
    case = Case("PICAI-10021", exam_order=3, files=FILES)
    assert case.case_id == "PICAI-10021_03"
    assert case.available == (False, False, False, True, True)
    assert not case.has_target


@pytest.mark.parametrize("kind", ["person", "temporal", "scanner"])
def test_no_split_mixes_a_person(kind: str) -> None:
    split = cohort().resplit(kind)
    persons = {name: {case.research_id for case in split.split(name)} for name in ("train", "val", "test")}
    assert sum(len(ids) for ids in persons.values()) == 30
    assert len(set.union(*persons.values())) == 30
    assert all(persons.values())
    assert split.resplit(kind).cases == split.cases


def test_person_split_does_not_depend_on_order_but_on_the_seed() -> None:
    one = cohort()
    turned = replace(one, cases=one.cases[::-1])

    def where(c: Cohort) -> dict[str, str]:
        return {case.case_id: case.split for case in c.cases}

    assert where(one.resplit("person")) == where(turned.resplit("person"))
    assert where(one.resplit("person")) != where(one.resplit("person", seed=1))


def test_temporal_split_tests_on_the_latest() -> None:
    split = cohort().resplit("temporal")
    latest_train = max(case.study_order for case in split.split("train"))
    assert latest_train < min(case.study_order for case in split.split("val"))
    assert max(c.study_order for c in split.split("val")) < min(c.study_order for c in split.split("test"))


def test_scanner_split_holds_whole_scanners_out() -> None:
    split = cohort().resplit("scanner")
    test = {case.scanner for case in split.split("test")}
    rest = {case.scanner for case in split.split("train")} | {case.scanner for case in split.split("val")}
    assert test
    assert not test & rest


def test_one_scanner_cannot_be_held_out() -> None:
    with pytest.raises(CohortError, match="scanner"):
        cohort(scanners=1).resplit("scanner")


@pytest.mark.parametrize("arguments", [{"kind": "moon"}, {"kind": "person", "fractions": (0.5, 0.5, 0.5)}])
def test_wrong_splits_are_wrong_usage(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        cohort().resplit(**arguments)  # type: ignore[arg-type]


def test_a_person_in_two_splits_or_twice_the_same_examination_is_refused() -> None:
    a = Case("SIM-00001", exam_order=1, split="train", files=FILES)
    with pytest.raises(CohortError, match="splits train and test"):
        Cohort((a, replace(a, exam_order=2, split="test")))
    with pytest.raises(CohortError, match="twice"):
        Cohort((a, a))


def test_withdrawn_persons_disappear_and_change_the_digest() -> None:
    whole = cohort()
    less = replace(whole, withdrawn=frozenset({"SIM-00004"}))
    assert len(less.cases) == len(whole.cases) - 2
    assert all(case.research_id != "SIM-00004" for case in less.split("all"))
    assert less.digest != whole.digest


def test_digest_sees_every_hash_and_every_covariate() -> None:
    whole = replace(cohort(), clinical={"SIM-00001": Covariates(age_years=63)})
    changed = replace(whole.cases[5], files=FILES | {"adc": "c" * 64})
    assert replace(whole, cases=(*whole.cases[:5], changed, *whole.cases[6:])).digest != whole.digest
    assert replace(whole, clinical={"SIM-00001": Covariates(age_years=64)}).digest != whole.digest
    assert replace(whole, clinical={"SIM-00001": Covariates(age_years=63.0)}).digest == whole.digest
    assert replace(whole, cases=whole.cases[::-1]).digest == whole.digest


def test_unknown_covariates_are_told_from_zero() -> None:
    values, known = clinical.encode(Covariates(age_years=65.0, recurrence=False))
    names = dict(zip(clinical.FEATURES, zip(values, known, strict=True), strict=True))
    assert names["age_years"] == (0.0, 1.0)
    assert names["recurrence"] == (-1.0, 1.0)
    assert names["stage"] == (0.0, 0.0)
    assert values.dtype == known.dtype == np.float32


def test_only_wanted_covariates_are_known() -> None:
    person = Covariates(age_years=70, sex="male", stage="IV", primary="prostate")
    _, known = clinical.encode(person, ["sex"])
    assert [n for n, k in zip(clinical.FEATURES, known, strict=True) if k] == ["sex_male"]
    with pytest.raises(UsageError, match="shoe"):
        clinical.encode(person, ["shoe_size"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"age_years": -1},
        {"age_years": 130},
        {"sex": "x"},
        {"stage": "V"},
        {"primary": "toe"},
        {"psa_ng_ml": -2.0},
    ],
)
def test_impossible_covariates_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CaseError):
        Covariates(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [DiffusionAdcError, UsageError, CaseError, CohortError, NonFiniteError])
def test_errors_survive_a_process_border_and_stay_one_line(kind: type[DiffusionAdcError]) -> None:
    error = kind("found", "expected", "do", code="S02", research_id="SIM-00001", sequence="adc")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "S02 SIM-00001 adc: found; expected expected; do"
    assert again.exit_code == kind.exit_code
