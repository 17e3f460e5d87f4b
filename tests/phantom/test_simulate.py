from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import DiffusionAdcError, StoppedBySignal, UsageError
from diffusion_adc.phantom import simulate
from diffusion_adc.phantom.case import simulate_case
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.plan import plan
from diffusion_adc.phantom.readers import ReaderModel, oracle_draws
from diffusion_adc.phantom.simulate import cohort_up_to_date, simulate_cohort
from diffusion_adc.phantom.truth import read_case_truth, read_truth_manifest, truth_dir_of
from diffusion_adc.records.cohort import load_volume, read_cohort

SMALL = {"size": (56, 56, 16), "spacing_mm": (7.0, 7.0, 12.0)}


def files_of(folder) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "cohort.json"
    }


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohorts")
    options = PhantomOptions(cases=4, seed=11, **SMALL)
    calls = []
    simulate_cohort(folder / "one", options, jobs=1, progress=lambda *done: calls.append(done))
    simulate_cohort(folder / "two", options, jobs=2)
    return folder, options, calls


def test_the_same_bytes_for_any_number_of_workers(cohorts):
    folder, _, calls = cohorts
    assert files_of(folder / "one") == files_of(folder / "two")
    assert files_of(folder / "one.truth") == files_of(folder / "two.truth")
    assert read_cohort(folder / "one").digest == read_cohort(folder / "two").digest
    assert calls == [(n, 4) for n in range(1, 5)]


def test_it_is_an_exact_cohort_with_its_truth_beside_it(cohorts):
    folder, options, _ = cohorts
    cohort = read_cohort(folder / "one")
    assert cohort.provenance == "synthetic"
    assert [case.case_id for case in cohort.cases] == [place.case_id for place in plan(options)]
    assert {case.split for case in cohort.cases} == {"train", "val", "test"}
    for case in cohort.cases:
        assert case.provenance == "synthetic"
        assert case.readers == ("R1", "R2")
        assert cohort.covariates(case).sex in ("male", "female")
        truth = read_case_truth(folder / "one.truth", case.case_id)
        adc = load_volume(folder / "one", case, seq.ADC).array
        valid = load_volume(folder / "one", case, seq.VALID).array > 0
        label = load_volume(folder / "one", case, seq.TUMOR_LABEL).array
        target = load_volume(folder / "one", case, seq.TUMOR_ADC).array
        assert adc.shape == options.size == truth.lesion_label.shape
        assert np.array_equal(target, np.where(label > 0, adc, 0))  # an exact selection of the ADC map
        assert not np.any((label > 0) & ~valid)
        assert case.tumor_status == ("present" if np.any(label) else "absent")
        first = load_volume(folder / "one", case, seq.TUMOR_LABEL, reader="R1").array
        assert np.array_equal(first, label)
    manifest = read_truth_manifest(folder / "one.truth")
    assert manifest["cohort_digest"] == cohort.digest
    assert cohort_up_to_date(folder / "one", options)
    assert not cohort_up_to_date(folder / "one", PhantomOptions(cases=4, seed=12, **SMALL))
    assert not cohort_up_to_date(folder / "nothing", options)
    assert not list(folder.glob(".*"))


def test_oracle_draws_from_the_seal_equal_readings_of_the_full_map(cohorts):
    folder, options, _ = cohorts
    case = simulate_case(options, 0)
    truth = read_case_truth(folder / "one.truth", case.case.case_id)
    adc, valid = case.volumes[seq.ADC], case.volumes[seq.VALID].astype(bool)
    model = ReaderModel(truth)
    for seed in range(4):
        full = model.read(adc, valid, np.random.default_rng(seed))
        sealed = model.read(truth.reading_adc, truth.reading_adc > 0, np.random.default_rng(seed))
        assert np.array_equal(full, sealed)
    assert len(oracle_draws(truth, 2, 0)) == 2


def test_ambiguity_changes_the_readers_and_nothing_else():
    on = simulate_case(PhantomOptions(cases=2, seed=21, **SMALL), 1)
    off = simulate_case(PhantomOptions(cases=2, seed=21, ambiguity=False, **SMALL), 1)
    for name in (*seq.SEQUENCES, seq.VALID):
        assert np.array_equal(on.volumes[name], off.volumes[name])
    assert np.array_equal(on.truth.lesion_label, off.truth.lesion_label)
    valid = off.volumes[seq.VALID].astype(bool)
    for maps in off.readers.values():
        assert np.array_equal(maps[seq.TUMOR_LABEL] > 0, (off.truth.lesion_label > 0) & valid)
    assert not off.truth.pairs
    assert all(lesion.keep_probability == 1 for lesion in off.truth.lesions)


def test_a_person_keeps_anatomy_and_covariates_between_examinations():
    options = PhantomOptions(cases=30, seed=3, **SMALL)
    second = next(place for place in plan(options) if place.exam_order == 2)
    first = simulate_case(options, second.index - 1)
    again = simulate_case(options, second.index)
    assert first.case.research_id == again.case.research_id
    assert first.case.case_id != again.case.case_id
    assert first.covariates == again.covariates
    assert not np.array_equal(first.volumes[seq.ADC], again.volumes[seq.ADC])


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (33, 47, 9), "spacing_mm": (12.0, 8.6, 11.0)}, {"field_t": 3.0, "b_low": 0.0, "b_high": 800.0},
        {"readers": 1, "artifacts": False}, {"tumor_free_share": 1.0}, {"size": (16, 16, 4), "spacing_mm": (2.5, 2.5, 5.0)},
    ],
)  # fmt: skip
def test_odd_sizes_fields_and_options(changes):
    options = PhantomOptions(**{"cases": 1, "seed": 6, **SMALL, **changes})
    case = simulate_case(options, 0)
    for name in seq.VOLUMES:
        assert case.volumes[name].shape == options.size
        assert np.isfinite(np.asarray(case.volumes[name], dtype=float)).all()
    assert case.affine.shape == (4, 4)
    assert np.allclose(np.linalg.norm(case.affine[:3, :3], axis=0), options.spacing_mm, atol=1e-4)
    assert len(case.readers) == options.readers
    if options.tumor_free_share == 1:
        assert not case.truth.lesions


def test_a_stopped_run_goes_on_and_a_failed_one_leaves_nothing(tmp_path, monkeypatch):
    options = PhantomOptions(cases=2, seed=2, **SMALL)
    made = []
    real = simulate.simulate_case

    def once(options, index):
        made.append(index)
        if index == 1 and len(made) == 2:
            raise stop
        return real(options, index)

    stop: BaseException = StoppedBySignal("SIGTERM")
    monkeypatch.setattr(simulate, "simulate_case", once)
    with pytest.raises(StoppedBySignal):
        simulate_cohort(tmp_path / "c", options)
    assert not (tmp_path / "c").exists()
    simulate_cohort(tmp_path / "c", options)
    assert made == [0, 1, 1]  # the first case was not made again
    assert cohort_up_to_date(tmp_path / "c", options)

    made.clear()
    stop = OSError(28, "No space left on device")
    with pytest.raises(DiffusionAdcError, match="No space left") as error:
        simulate_cohort(tmp_path / "full", options)
    assert str(tmp_path) not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.truth"]


def test_nothing_but_a_simulated_cohort_is_ever_replaced(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("years of work")
    options = PhantomOptions(cases=1, **SMALL)
    with pytest.raises(UsageError, match="own"):
        simulate_cohort(tmp_path / "own", options)
    (tmp_path / "c.truth").mkdir()
    (tmp_path / "c.truth" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError):
        simulate_cohort(tmp_path / "c", options)
    with pytest.raises(UsageError):
        simulate_cohort(tmp_path / "d", options, jobs=0)
    assert (tmp_path / "own" / "thesis.txt").exists()
    assert truth_dir_of(tmp_path / "c").joinpath("notes.txt").exists()
