"""One map of one case: perfect and empty maps, readers, invalid voxels, cropping, baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from diffusion_adc.domain.rule import clinical_rule
from diffusion_adc.evaluation import baselines
from diffusion_adc.evaluation.baselines import Prediction
from diffusion_adc.evaluation.calibration import brier_score, fair_crps
from diffusion_adc.evaluation.case import CaseResult, score_case
from diffusion_adc.evaluation.drawn import draw_volumes
from diffusion_adc.evaluation.reference import Reference

MakeCase = Callable[..., tuple[Reference, Prediction]]
UNIFORMS = (0.3, 0.7)


def selection(adc: np.ndarray, mask: np.ndarray, draws: np.ndarray | None = None) -> Prediction:
    kept = np.where(mask, adc, np.float32(0))
    return Prediction(kept, mask.astype(np.float32), 0.5, draws)


def single(reference: Reference, reader: int = 0) -> Reference:
    return replace(reference, readers=[reference.readers[reader]])


def numbers(result: CaseResult) -> dict[str, float]:
    return {
        "dice": result.dice,
        "dice_all": result.dice_all_cases,
        "fp": result.fp_volume_ml,
        "covered": result.covered_ml,
        "reference": result.reference_ml,
        "tdv": result.tdv_ml,
        "log": result.log_tdv_error,
        "gadc": result.gadc,
        "gadc_error": result.gadc_error,
        "violations": result.value_violations,
        "brier": brier_score(result.reliability),
        "hits": result.matching.hits,
        "misses": result.matching.misses,
        "false": result.matching.false_positives,
        "score": result.case_score,
        **{f"band {k}": v for k, v in result.bands_ml.items()},
        **({} if result.draws is None else {
            k: getattr(result.draws, k) for k in ("crps", "covered", "low", "high", "median", "informative")
        }),
    }  # fmt: skip


def test_the_readers_own_map_is_perfect(make_case: MakeCase) -> None:
    reference, _ = make_case(1)
    reference = replace(single(reference), lesions=None, ignored=None)
    result = score_case(selection(reference.adc, reference.readings[0]), reference, UNIFORMS)
    assert result.dice == result.dice_all_cases == 1.0
    assert result.log_tdv_error == result.gadc_error == result.fp_volume_ml == 0.0
    assert result.covered_ml == result.reference_ml > 0
    assert result.matching.misses == result.matching.false_positives == result.value_violations == 0
    assert brier_score(result.reliability) == 0.0
    assert result.draws is None


def test_the_empty_map_misses_everything_and_invents_nothing(make_case: MakeCase) -> None:
    reference, _ = make_case(2)
    result = score_case(baselines.empty_map(reference.adc), reference, UNIFORMS)
    assert result.dice == 0.0
    assert result.tdv_ml == result.fp_volume_ml == result.covered_ml == result.case_score == 0.0
    assert result.matching.hits == result.matching.false_positives == 0
    assert result.matching.misses > 0
    assert np.isnan(result.gadc_error)
    assert result.log_tdv_error == pytest.approx(np.mean([np.log(t / 0.1 + 1) for t in reference.tdv_ml]))


def test_a_tumor_free_case_without_a_map_is_a_true_negative(make_case: MakeCase) -> None:
    reference, prediction = make_case(3, tumor=False)
    clean = replace(reference, readers=[np.zeros_like(reference.valid)], ignored=None)
    nothing = np.zeros((*clean.adc.shape, 9), dtype=np.uint8)
    result = score_case(selection(clean.adc, nothing[..., 0] > 0, nothing), clean, UNIFORMS[:1])
    assert np.isnan(result.dice)
    assert result.dice_all_cases == 1.0
    assert np.isnan(brier_score(result.reliability))
    assert result.draws is not None
    assert (result.draws.crps, result.draws.covered, result.draws.informative) == (0.0, 1.0, 0.0)
    assert np.isnan(result.draws.half_variation)
    wrong = score_case(prediction, clean, UNIFORMS[:1])
    assert wrong.dice_all_cases == 0.0 or wrong.tdv_ml == 0.0


def test_scores_against_several_readers_are_the_mean_of_the_scores_against_each(make_case: MakeCase) -> None:
    reference, prediction = make_case(4)
    both = numbers(score_case(prediction, reference, UNIFORMS))
    each = [numbers(score_case(prediction, single(reference, r), UNIFORMS[:1])) for r in (0, 1)]
    for key in ("dice", "dice_all", "log", "gadc_error", "crps", "covered"):
        assert both[key] == pytest.approx(np.mean([one[key] for one in each])), key
    for key in ("fp", "covered", "reference", "hits", "misses", "false", "tdv"):
        if key != "covered":
            assert both[key] == each[0][key] == each[1][key], key


def test_a_volume_padded_with_air_scores_the_same(make_case: MakeCase) -> None:
    for seed in (5, 6):
        reference, prediction = make_case(seed)
        pad = ((3, 5), (2, 0), (4, 1))

        def grown(array: np.ndarray, pad: tuple = pad) -> np.ndarray:
            return np.pad(array, pad + ((0, 0),) * (array.ndim - 3))

        larger = replace(
            reference,
            adc=grown(reference.adc),
            valid=grown(reference.valid),
            readers=[grown(r) for r in reference.readers],
            lesions=grown(reference.lesions),
            ignored=grown(reference.ignored),
        )
        moved = replace(
            prediction,
            tumor_adc=grown(prediction.tumor_adc),
            probability=grown(prediction.probability),
            draws=grown(prediction.draws),
        )
        small, large = score_case(prediction, reference, UNIFORMS), score_case(moved, larger, UNIFORMS)
        assert numbers(small) == pytest.approx(numbers(large), nan_ok=True)
        np.testing.assert_allclose(
            large.candidates.center - small.candidates.center, [[3, 2, 4]] * small.candidates.voxels.size
        )


def test_invalid_voxels_change_nothing_but_violations(make_case: MakeCase) -> None:
    reference, prediction = make_case(7)
    rng = np.random.default_rng(0)
    noise = rng.random(reference.adc.shape) < 0.5
    holes = ~reference.valid
    dirty = replace(
        reference,
        readers=[r ^ (noise & holes) for r in reference.readers],
        lesions=reference.lesions ^ (noise & holes),
        ignored=reference.ignored ^ (noise & holes),
    )
    painted = replace(
        prediction,
        tumor_adc=np.where(holes, np.float32(9.9), prediction.tumor_adc),
        probability=np.where(holes, np.float32(1.0), prediction.probability),
        draws=np.where(holes[..., None], np.uint8(1), prediction.draws),
    )
    clean, scored = (
        numbers(score_case(prediction, reference, UNIFORMS)),
        numbers(score_case(painted, dirty, UNIFORMS)),
    )
    assert clean.pop("violations") == 0
    assert scored.pop("violations") == holes.sum()
    assert scored == pytest.approx(clean, nan_ok=True)


def test_draws_are_measured_over_valid_voxels(make_case: MakeCase) -> None:
    reference, prediction = make_case(8)
    tdv = draw_volumes(prediction.draws, reference.valid, reference.voxel_ml)
    expected = [(prediction.draws[..., d] & reference.valid).sum() * 0.03125 for d in range(9)]
    np.testing.assert_allclose(tdv, expected)
    result = score_case(prediction, reference, UNIFORMS)
    assert result.draws is not None
    assert result.draws.crps == pytest.approx(np.mean([fair_crps(tdv, r) for r in reference.tdv_ml]))
    assert (result.draws.low, result.draws.high) == (tdv.min(), tdv.max())
    one = replace(prediction, draws=prediction.draws[..., :1])
    assert score_case(one, reference, UNIFORMS).draws is None


def test_one_voxel_and_odd_volumes(make_case: MakeCase) -> None:
    for shape in ((1, 1, 1), (1, 7, 3)):
        everywhere = np.ones(shape, dtype=bool)
        adc = np.full(shape, 0.8, dtype=np.float32)
        reference = Reference("SIM-001_01", "SIM-001", adc, everywhere, [everywhere], 0.5)
        result = score_case(baselines.unedited_adc(adc, everywhere), reference, (0.5,))
        assert result.dice == 1.0
        assert result.matching.hits == 1
        assert result.tdv_ml == 0.5 * adc.size


def test_shapes_and_readers_are_checked(make_case: MakeCase) -> None:
    reference, prediction = make_case(9)
    with pytest.raises(ValueError, match="shape"):
        score_case(replace(prediction, probability=prediction.probability[1:]), reference, UNIFORMS)
    with pytest.raises(ValueError, match="no reader"):
        replace(reference, readers=[])


def test_baselines_are_selections_of_the_scanners_map(make_case: MakeCase) -> None:
    reference, prediction = make_case(10)
    adc, valid = reference.adc, reference.valid
    rng = np.random.default_rng(1)
    high = rng.gamma(2.0, 50.0, adc.shape).astype(np.float32)
    made = {
        "B0": baselines.empty_map(adc),
        "B1": baselines.unedited_adc(adc, valid),
        "B2": baselines.rule_map(high, adc, valid),
        "B3": baselines.base_head_map(prediction.probability, 0.4, adc, valid),
        "Oracle": baselines.from_draws(prediction.draws, adc, valid),
    }
    for name, one in made.items():
        assert score_case(one, reference, UNIFORMS).value_violations == 0, name
        assert one.tumor_adc.dtype == one.probability.dtype == np.float32
    assert not made["B0"].presence.any()
    np.testing.assert_array_equal(made["B1"].presence, valid)
    np.testing.assert_array_equal(made["B2"].presence, clinical_rule(high, adc, valid))
    np.testing.assert_array_equal(made["B3"].presence, valid & (prediction.probability >= 0.4))
    np.testing.assert_array_equal(made["Oracle"].tumor_adc, prediction.tumor_adc)
    assert [one.draws is not None for one in made.values()] == [False] * 4 + [True]


def test_a_non_finite_adc_never_enters_a_baseline() -> None:
    adc = np.array([[[0.8, np.nan, np.inf]]], dtype=np.float32)
    everywhere = np.ones(adc.shape, dtype=bool)
    assert baselines.unedited_adc(adc, everywhere).tumor_adc.ravel().tolist() == pytest.approx([0.8, 0, 0])


def test_regions_below_the_lesion_threshold_are_no_lesions_but_stay_in_map_and_curve() -> None:
    shape = (12, 12, 4)
    adc = np.full(shape, 1.0, np.float32)
    probability = np.zeros(shape, np.float32)
    probability[2:5, 2:5, 1] = 0.9
    probability[8, 8, 2] = 0.3
    lesion = probability > 0.5
    kept = probability > 0.1
    reference = Reference("A-001_01", "A-001", adc, np.ones(shape, bool), [lesion], 0.03)
    maps = [
        Prediction(np.where(kept, adc, 0).astype(np.float32), probability, 0.1, None, threshold)
        for threshold in (0.0, 0.5, 0.95)
    ]
    every, called, nothing = (score_case(prediction, reference, [0.5]) for prediction in maps)
    assert [r.matching.outcome.count("false_positive") for r in (every, called, nothing)] == [1, 0, 0]
    assert [r.matching.hits for r in (every, called, nothing)] == [1, 1, 0]
    assert every.fp_volume_ml == called.fp_volume_ml == nothing.fp_volume_ml == pytest.approx(0.03)
    assert (
        every.false_confidence.tolist()
        == called.false_confidence.tolist()
        == nothing.false_confidence.tolist()
    )
    assert nothing.found_confidence.tolist() == pytest.approx([0.9])
