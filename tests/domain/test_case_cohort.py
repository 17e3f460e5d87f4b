"""Cases validate themselves; splits never mix a person; withdrawn persons are gone."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

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
        ({"exam_order": 100}, None),
        ({"b_high": float("nan")}, "S12"),
        ({"b_low": 800.0, "b_high": 800.0}, "S12"),
        ({"field_t": float("nan")}, None),
        ({"field_t": -1.5}, None),
        ({"scanner": "a;b"}, None),
        ({"scanner": "a\nb"}, None),
        ({"declared": ("",)}, None),
        ({"readers": ("../R1",)}, "X8"),
        ({"files": FILES | {"t1w": "A" * 64}}, "X8"),
        ({"files": FILES | {"../t1w": "a" * 64}}, "X8"),
        ({"files": FILES | {"readers/R9/tumor_adc": "a" * 64}}, "X8"),
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


def test_a_withdrawn_persons_covariates_go_with_the_cases() -> None:
    rows = {"SIM-00001": Covariates(age_years=63), "SIM-00004": Covariates(age_years=70)}
    less = replace(cohort(), clinical=rows, withdrawn=frozenset({"SIM-00004"}))
    assert set(less.clinical) == {"SIM-00001"}


def test_numbers_of_any_library_give_one_digest() -> None:
    """A NumPy integer in a row would change the digest once the table is read back as plain text."""
    plain = Case("SIM-00001", exam_order=1, study_order=7, b_low=50, field_t=1.5, files=FILES)
    odd = Case(
        "SIM-00001", exam_order=np.int64(1), study_order=np.uint8(7), b_low=np.float32(50),
        field_t=np.float64(1.5), files=FILES,
    )  # fmt: skip
    rows = [
        Covariates(recurrence=True, age_years=63),
        Covariates(recurrence=np.bool_(True), age_years=np.int32(63)),
    ]  # type: ignore[arg-type]
    first, second = (Cohort((c,), {"SIM-00001": r}) for c, r in zip((plain, odd), rows, strict=True))
    assert first.digest == second.digest
    with pytest.raises(TypeError):
        Case("SIM-00001", exam_order=1.5, files=FILES)  # type: ignore[arg-type]


CHANGES: dict[str, object] = {
    "exam_order": 2, "study_order": 9, "split": "val", "anatomy": "pelvis", "provenance": "public",
    "readers": ("R1",), "tumor_status": "absent", "b_low": 0, "b_high": 800, "adc_unit_source": "sidecar",
    "scanner": "B", "field_t": 3, "declared": ("missing:t1w",), "files": FILES | {"t1w": "c" * 64},
    "research_id": "SIM-00002",
}  # fmt: skip


def test_digest_sees_every_field_of_a_row() -> None:
    case = Case("SIM-00001", exam_order=1, files=FILES)
    assert set(CHANGES) == {f.name for f in fields(Case)}
    digests = {Cohort((replace(case, **{name: value}),)).digest for name, value in CHANGES.items()}  # type: ignore[arg-type]
    assert len(digests | {Cohort((case,)).digest}) == len(CHANGES) + 1


def test_a_restricted_case_cannot_hide_in_a_public_cohort() -> None:
    case = Case("SIM-00001", exam_order=1, files=FILES)
    with pytest.raises(CohortError, match="restricted"):
        Cohort((case,), provenance="public")
    assert Cohort((replace(case, provenance="public"),), provenance="restricted").cases


def test_a_cohort_may_narrow_its_ids() -> None:
    case = Case("SIM-00001", exam_order=1, files=FILES)
    assert Cohort((case,), id_pattern=r"SIM-[0-9]{5}").cases
    with pytest.raises(CaseError):
        Cohort((case,), id_pattern=r"PICAI-[0-9]{5}")


@given(st.integers(1, 40), st.integers(0, 5), st.sampled_from(["person", "temporal"]))
@settings(max_examples=30, deadline=None)
def test_every_person_has_one_split_in_cohorts_of_any_size(persons: int, seed: int, kind: str) -> None:
    split = cohort(persons).resplit(kind, seed=seed)
    where = {(case.research_id, case.split) for case in split.cases}
    assert len(where) == persons
    assert len(split.cases) == 2 * persons
    shares = [sum(s == name for _, s in where) for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, np.array([0.6, 0.15, 0.25]) * persons, atol=1.01)


def test_scanner_split_moves_a_person_seen_on_a_held_out_scanner() -> None:
    cases = [
        Case(f"SIM-{p:05d}", exam_order=e + 1, files=FILES, scanner="rare" if (p, e) == (3, 1) else "usual")
        for p in range(12)
        for e in range(2)
    ]
    split = Cohort(tuple(cases)).resplit("scanner")
    assert {case.research_id for case in split.split("test")} == {"SIM-00003"}
    assert len(split.split("test")) == 2


def test_a_temporal_split_needs_an_order() -> None:
    cases = tuple(Case(f"SIM-{p:05d}", exam_order=1, files=FILES) for p in range(5))
    with pytest.raises(CohortError, match="order"):
        Cohort(cases).resplit("temporal")


def test_ages_above_89_are_pooled_and_whole() -> None:
    assert Covariates(age_years=97.4).age_years == 90
    assert Covariates(age_years=63.9).age_years == 63


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
        {"age_years": float("nan")},
        {"ldh_u_l": float("inf")},
        {"recurrence": "no"},
        {"comorbidity": 2},
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


@pytest.mark.parametrize("broken", ["a\nb", "a\r\nb", "a\u2028b", "a\x0bb"])
def test_a_line_break_in_what_was_found_stays_on_one_line(broken: str) -> None:
    assert str(UsageError(broken, "one line")) == "a b; expected one line"
