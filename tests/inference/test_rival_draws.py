"""Base head alone, component coins, interventions: what a run draws besides its own draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.inference.components import Coins, fit_logistic
from diffusion_adc.inference.draw import draw_cohort, run_settings
from diffusion_adc.inference.interventions import donor, intervened
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.maps import map_case_ids, read_map_record, read_map_volume, read_maps_manifest

SHAPE = (12, 12, 4)


def coins(**changes: float) -> Coins:
    values = {"threshold": 0.0, "intercept": 0.0, "peak": 0.0, "size": 0.0}
    return Coins("0" * 64, components=1, **{**values, **changes})  # type: ignore[arg-type]


def two_components() -> np.ndarray:
    logit = np.full(SHAPE, -5.0, dtype=np.float32)
    logit[1:4, 1:4, 1:3] = 2.0
    logit[8:10, 8:10, 2] = 1.0
    return logit


def test_a_component_is_kept_whole_or_dropped_whole_and_independently() -> None:
    logit, usable = two_components(), np.ones(SHAPE, dtype=bool)
    usable[1, 1, 1] = False
    draws = coins(peak=1.0, intercept=-1.0).draws(logit, usable, "A", 3, 4000)
    first, second = draws[2, 2, 1], draws[8, 8, 2]
    assert (draws[1:4, 1:4, 1:3][usable[1:4, 1:4, 1:3]] == first).all()
    assert draws[1, 1, 1].max() == 0
    assert (draws[8:10, 8:10, 2] == second).all()
    assert draws.sum() == first.sum() * 17 + second.sum() * 4
    assert first.mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)  # sigmoid(2 - 1)
    assert second.mean() == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0, abs=0.06)
    assert np.array_equal(draws[..., :5], coins(peak=1.0, intercept=-1.0).draws(logit, usable, "A", 3, 5))
    assert coins().draws(np.full(SHAPE, -9, np.float32), usable, "A", 0, 2).sum() == 0


def test_logistic_fit_finds_the_weights_and_stays_finite_when_separable() -> None:
    rng = np.random.default_rng(0)
    x = np.stack((np.ones(20_000), rng.normal(size=20_000), rng.normal(size=20_000)), axis=1)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-(x @ [0.5, 1.5, -1.0])))).astype(float)
    np.testing.assert_allclose(fit_logistic(x, y), [0.5, 1.5, -1.0], atol=0.1)
    assert np.isfinite(fit_logistic(x, (x[:, 1] > 0).astype(float))).all()


def test_base_and_component_maps_of_a_flow_run(tiny_run: Path, tiny_cohort: Path, tmp_path: Path) -> None:
    own = run_settings(tiny_run)
    for method, name in (("base", "B3"), ("components", "B4b")):
        out = tmp_path / method
        draw_cohort(tiny_run, tiny_cohort, out, settings=replace(own, method=method, id=name, draws=4))
        manifest = read_maps_manifest(out)
        assert manifest["id"] == name
        assert manifest["values"] == "measured"
        for case_id in map_case_ids(out):
            stored = read_map_record(out, case_id)["sha256"]
            probability = read_map_volume(out, case_id, "probability").array
            if method == "base":
                assert "draws" not in stored
                assert np.array_equal(probability, read_map_volume(out, case_id, "base_probability").array)
                kept = read_map_volume(out, case_id, "tumor_adc").array != 0
                assert np.array_equal(
                    kept, (probability >= np.float32(manifest["base_tau"])) & (probability > 0)
                )
            else:
                draws = read_map_volume(out, case_id, "draws").array
                assert draws.shape[-1] == 4
                np.testing.assert_allclose(probability, draws.mean(-1), atol=1e-6)
    assert (tiny_run / "calibration.base.json").is_file()
    assert (tiny_run / "components.json").is_file()
    assert not (tiny_run / "calibration.json").exists()  # the run's own thresholds are another matter


def test_interventions_change_what_they_say_and_nothing_else(tiny_cohort: Path) -> None:
    from diffusion_adc.data.prepare import Recipe, prepare_case

    cohort = read_cohort(tiny_cohort)
    case = cohort.cases[0]
    prepared = prepare_case(tiny_cohort, case, Recipe.for_patch(None, (16, 16, 1)))
    assert intervened(prepared, cohort, case, DrawSettings(), ()) is prepared
    without = intervened(prepared, cohort, case, DrawSettings(drop_sequences=["t2w", "dwi_low"]), ())
    gone = [seq.CHANNELS.index(name) for name in ("t2w", "dwi_low", "adc_recomputed")]
    for channel in range(7):
        same = np.array_equal(without.images[channel], prepared.images[channel])
        assert same == (channel not in gone or not prepared.images[channel].any())
    assert without.available.tolist() == [0, 0, 0, 1, 1]
    assert prepared.available.tolist() == [0, 1, 1, 1, 1]  # the case itself is untouched
    alone = intervened(prepared, cohort, case, DrawSettings(covariates="alone"), ("age_years",))
    assert alone.available.sum() == 0
    assert alone.images[: seq.CHANNELS.index("valid")].any() == np.False_
    with pytest.raises(UsageError, match="without covariates"):
        intervened(prepared, cohort, case, DrawSettings(covariates="permuted"), ())
    persons = {c.research_id for c in cohort.cases}
    given = {c.research_id: donor(cohort, c, 1) for c in cohort.cases}
    assert set(given.values()) == persons
    assert all(giver != person for person, giver in given.items())


@pytest.mark.parametrize(
    "values",
    [
        {"drop_sequences": ["adc"]},
        {"drop_sequences": ["dwi_low", "dwi_high"]},
        {"method": "oracle"},
        {"covariates": "swapped"},
        {"sampler": "ancestral"},
        {"id": "../x"},
    ],
)
def test_senseless_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        DrawSettings(**values)  # type: ignore[arg-type]


def test_synthetic_values_are_flagged_and_only_they_may_differ_from_the_scanner() -> None:
    adc = np.full(SHAPE, 0.9, dtype=np.float32)
    draws = np.zeros((*SHAPE, 3), dtype=np.uint8)
    draws[3:6, 3:6, 1] = 1
    values = np.where(draws[..., 0] > 0, np.float32(0.7), np.float32(0))
    made = build_tumor_map(adc, adc > 0, np.eye(4), draws, draws[..., 0], 0.5, values=values)
    assert "synthetic_values" in made.flags
    assert set(np.unique(made.tumor_adc)) == {np.float32(0), np.float32(0.7)}
    assert made.gadc.map == pytest.approx(0.7)
    measured = build_tumor_map(adc, adc > 0, np.eye(4), draws, draws[..., 0], 0.5)
    assert "synthetic_values" not in measured.flags


def test_a_sampler_of_the_other_path_is_refused_in_one_sentence(
    make_run: Callable[..., Path], tiny_cohort: Path, tmp_path: Path
) -> None:
    run = make_run("flow", tiny_cohort)
    settings = replace(run_settings(run), sampler="unipc")
    with pytest.raises(UsageError, match="expected euler or heun"):
        draw_cohort(run, tiny_cohort, tmp_path / "out", settings=settings)
    ddpm = make_run("ddpm", tiny_cohort, path="ddpm", prediction="latent")
    for sampler in ("ddim", "dpmsolver++", "unipc"):
        out = tmp_path / sampler
        draw_cohort(ddpm, tiny_cohort, out, settings=replace(run_settings(ddpm), sampler=sampler))
        assert len(map_case_ids(out)) == 2
