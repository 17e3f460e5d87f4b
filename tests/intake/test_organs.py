"""Tissues of known ADC are found in known regions by what their scale cannot change; nothing is judged elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import adc, dwi, grid, write_classic
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.signal import dwi_signal, two_point_adc, validity_mask
from diffusion_adc.intake import organs
from diffusion_adc.intake.check import check_cohort
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.quality import body_mask
from diffusion_adc.intake.work import Task, do
from diffusion_adc.records.cohort import write_manifest

Array = NDArray[Any]
SHAPE = (64, 56, 10)
GRID = np.diag([4.0, 4.0, 6.0, 1.0])
B = (50.0, 800.0)


def body(
    tissue: float = 1.4, fluid: float | None = 3.0, *, radius: float = 0.3, noise: float = 3.0, seed: int = 0,
    even: bool = True,
) -> dict[str, Array]:  # fmt: skip
    """A body of one tissue with organs of other ADCs, perhaps a bladder, in air; ADC fitted to noisy magnitudes.

    Args:
        tissue: ADC of the largest tissue, 1e-3 mm²/s.
        fluid: Of the bladder; None for an empty one.
        radius: Of the bladder, as a share of the body's.
        noise: σ of the magnitudes; muscle has a signal of 400 at b = 0.
        seed: Of the noise and the organs.
        even: The bladder holds one fluid; else it is a mix.
    """
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in SHAPE), indexing="ij")
    inside = i**2 + j**2 < 1
    true = np.where(inside, tissue * rng.normal(1, 0.08, SHAPE), 0.0)
    s0 = np.where(inside, 400 * rng.normal(1, 0.1, SHAPE), 0.0)
    t2w = np.where(inside, 100.0, 0.0)
    for _ in range(6):  # bowel, marrow, prostate …: any ADC, less volume
        at = rng.uniform(-0.6, 0.6, 2)
        organ = inside & (((i - at[0]) ** 2 + (j - at[1]) ** 2) < 0.12**2)
        true[organ] = tissue * rng.uniform(0.5, 1.3)
    if fluid is not None:
        full = inside & (i**2 + (j + 0.3) ** 2 + (k / 1.3) ** 2 < radius**2)
        true[full] = fluid if even else rng.choice([fluid * 0.75, fluid, fluid * 1.2], int(full.sum()))
        s0[full], t2w[full] = 2000.0, 500.0
    images = {}
    for name, b in zip((seq.DWI_LOW, seq.DWI_HIGH), B, strict=True):
        complex_noise = rng.normal(0, noise, SHAPE) + 1j * rng.normal(0, noise, SHAPE)
        images[name] = np.abs(np.where(inside, dwi_signal(s0, b, true), 0) + complex_noise)
    measured = two_point_adc(images[seq.DWI_LOW], images[seq.DWI_HIGH], *B)
    return {**images, seq.T2W: t2w, seq.ADC: np.where(inside, measured, 0).astype(np.float32)}


def find(content: dict[str, Array], anatomy: str = "pelvis", scale: float = 1.0) -> dict[str, organs.Organ]:
    values = content[seq.ADC] * np.float32(scale)
    use = validity_mask(values, content[seq.DWI_LOW], content[seq.DWI_HIGH]) & body_mask(content)
    return {organ.name: organ for organ in organs.find_organs(anatomy, values, content, use, GRID)}


@given(st.floats(1.05, 1.85), st.floats(2.65, 3.3), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_muscle_and_urine_have_their_true_adc(tissue: float, fluid: float, seed: int) -> None:
    found = find(body(tissue, fluid, seed=seed))
    assert found[organs.MUSCLE].adc == pytest.approx(tissue, abs=0.06)
    assert not organs.doubtful(list(found.values()))
    if fluid > 1.75 * tissue:  # nearer than that to muscle it cannot be told from it
        assert found[organs.URINE].adc == pytest.approx(fluid, abs=0.1)


@pytest.mark.parametrize("anatomy", ["unknown", "abdomen", "breast", "", "PELVIS"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.3])
def test_an_unknown_region_is_not_judged(anatomy: str, scale: float) -> None:
    assert find(body(), anatomy, scale) == {}


@pytest.mark.parametrize(
    ("scale", "off", "refuted"),
    [(1.0, [], False), (0.65, ["muscle", "urine"], True), (1.2, ["urine"], False), (0.9, [], False)],
)
def test_a_wrong_scale_shows_in_two_tissues(scale: float, off: list[str], refuted: bool) -> None:
    found = list(find(body(1.4, 3.0), scale=scale).values())
    assert [organ.name for organ in organs.doubtful(found)] == off
    assert organs.refuted(found) is refuted


def test_a_person_with_one_unusual_tissue_is_no_wrong_scale() -> None:
    found = list(find(body(2.0, 3.0)).values())
    assert [organ.name for organ in organs.doubtful(found)] == ["muscle"]
    assert not organs.refuted(found)


@pytest.mark.parametrize(
    "how", [{"fluid": None}, {"radius": 0.06}, {"even": False}, {"fluid": 2.0}],
    ids=["empty", "small", "uneven", "not fluid"],
)  # fmt: skip
def test_a_bladder_that_cannot_be_told_is_not_judged(how: dict[str, Any]) -> None:
    assert set(find(body(**how))) == {organs.MUSCLE}


def test_a_region_that_is_dark_on_t2w_is_no_fluid() -> None:
    content = body()
    content[seq.T2W] = np.where(content[seq.T2W] > 0, 100.0, 0.0)
    assert set(find(content)) == {organs.MUSCLE}


def test_fluid_in_the_noise_is_not_called_too_low() -> None:
    content = body(1.4, 3.0)
    content[seq.ADC] = np.where(content[seq.ADC] > 2.4, content[seq.ADC] * 0.8, content[seq.ADC])
    assert find(content)[organs.URINE].off == -1
    for name in (seq.DWI_LOW, seq.DWI_HIGH):  # a masked background: nobody knows the noise
        content[name] = np.where(content[seq.ADC] != 0, content[name], 0)
    assert find(content)[organs.URINE].off == 0


@pytest.mark.parametrize("shape", [(4, 4, 1), (20, 16, 6), (1, 1, 1)])
def test_small_and_empty_maps_are_not_judged(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).uniform(0.8, 2, shape).astype(np.float32)
    assert organs.find_organs("pelvis", values, {}, np.ones(shape, dtype=bool), np.eye(4)) == ()
    assert organs.find_organs("head", values, {}, np.zeros(shape, dtype=bool), GRID) == ()


def test_a_map_of_nothing_in_particular_has_no_largest_tissue() -> None:
    values = np.random.default_rng(0).uniform(0.3, 4.0, SHAPE).astype(np.float32)
    assert organs.find_organs("pelvis", values, {}, np.ones(SHAPE, dtype=bool), GRID) == ()


def test_brain_and_its_fluid() -> None:
    found = find(body(0.75, 3.0), "head")
    assert {name: round(organ.adc, 1) for name, organ in found.items()} == {"white_matter": 0.8, "csf": 3.0}
    assert not organs.doubtful(list(found.values()))
    other = find(body(1.4, 3.1), "head")
    assert [organ.name for organ in organs.doubtful(list(other.values()))] == ["white_matter"]


@pytest.mark.parametrize(
    ("tissue", "fluid", "outcome"), [(1.4, 3.0, "in"), (2.05, 3.2, "warned"), (0.7, 2.1, "refused")]
)
def test_intake_records_warns_and_refuses(tmp_path: Path, tissue: float, fluid: float, outcome: str) -> None:
    """Through the front door: the images agree with the map, so that only the tissues can tell."""
    content = body(tissue, fluid)
    stored = {"adc": content[seq.ADC] * 1000, "b50": content[seq.DWI_LOW], "b800": content[seq.DWI_HIGH]}
    whole = {name: np.round(np.clip(array, 0, 4000)).astype(np.uint16) for name, array in stored.items()}
    folder = tmp_path / "in" / "CASE-001"
    for tag, part in enumerate((adc(whole), dwi(whole, 50), dwi(whole, 800))):
        write_classic(folder, replace(part, affine=grid(spacing=(4, 4, 6))), "1.2.3.4", "20200101", tag)
    options = IngestOptions(layout="dicom", provenance="public", allow_missing=("t1w", "t2w", "tumor_label"))
    staged = tmp_path / "staged"
    done = do(Task(tmp_path / "in", ((folder, 1),), "CASE-001", dicom=True), staged, options)
    if outcome == "refused":
        (message,) = done.refused
        assert message.startswith("S16 CASE-001 adc: muscle 0.7")
        assert "expected muscle 1 to 1.9, urine 2.6 to 3.4" in message
        return
    assert not done.refused
    ((case, _, _),) = done.cases
    record = json.loads((staged / "cases" / case.case_id / "case.json").read_text())
    assert record["organ_adc"]["muscle"]["adc"] == pytest.approx(tissue, abs=0.06)
    doubts = [text for text in done.warnings if text.startswith("S16 CASE-001 adc: muscle")]
    assert bool(doubts) == (outcome == "warned")
    write_manifest(staged, Cohort((case,), provenance="public"))
    (row,) = check_cohort(staged)
    assert row["organs"].startswith(f"muscle {record['organ_adc']['muscle']['adc']:.2f}")
    assert ("!" in row["organs"]) == (outcome == "warned")
