"""What is done with the voxels of valid examinations; that they get in at all is `test_valid_variants`'s to show."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.nifti import Loaded, aligned, on_adc_grid, same_grid
from diffusion_adc.records.cohort import read_cohort


def test_a_slope_is_applied_once(desk: Any) -> None:
    """Stored integers times 1e-6 are an ADC in mm²/s."""
    content = desk.exam()
    folder = desk.add(content=content)
    path = desk.put(folder, "adc", content["adc"], dtype=np.int16, suffix=".nii")
    (folder / "adc.nii.gz").unlink()
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]))
    header["scl_slope"], header["scl_inter"] = 1e-6, 0
    path.write_bytes(header.binaryblock + bytes(raw[348:]))
    case = desk.only_case(adc_unit="1")
    np.testing.assert_allclose(desk.stored(case, seq.ADC), content["adc"] / 1000, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_noise_fitted_in_air_is_not_held_against_the_map(desk: Any, seed: int) -> None:
    content = desk.exam(seed, (96, 80, 6), air=3.0)
    assert np.count_nonzero(content["adc"] < 0) > 0.1 * content["adc"].size
    desk.add(content=content)
    case = desk.only_case()
    assert (desk.stored(case, seq.VALID) > 0)[:20, :20].mean() < 0.01
    record = json.loads((desk.out / "cases" / case.case_id / "case.json").read_text())
    assert record["adc_agreement"]["verdict"] == "pass"
    assert record["negative_share"] == 0


def test_saturated_voxels_are_not_compared(desk: Any) -> None:
    content = desk.exam()
    body = np.flatnonzero(content["adc"])
    content["adc"].ravel()[body[:: len(body) // 60]] = 4095
    desk.add(content=content)
    case = desk.only_case()
    record = json.loads((desk.out / "cases" / case.case_id / "case.json").read_text())
    assert record["adc_agreement"]["verdict"] == "pass"
    assert not (desk.stored(case, seq.VALID) > 0)[content["adc"] == 4095].any()


def test_header_text_does_not_reach_the_cohort(desk: Any) -> None:
    content = desk.exam()
    folder = desk.add(content=content)
    for name in content:
        desk.put(folder, name, content[name], descrip=b"CANARY", aux_file=b"CANARY", db_name=b"CANARY")
    desk.only_case()
    for path in desk.out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"CANARY" not in (gzip.decompress(data) if path.suffix == ".gz" else data)


def test_what_was_found_is_recorded(desk: Any) -> None:
    content = desk.exam()
    folder = desk.add(content=content, without=("t1w",))
    desk.put(folder, "t2w", content["t2w"], desk.grid(moved=6.0), dtype=np.float64)
    case = desk.only_case(allow_missing=("t1w",))
    record = json.loads((desk.out / "cases" / case.case_id / "case.json").read_text())
    assert record["declared"] == ["missing:t1w"]
    assert record["adc_unit"] == "1e-6"
    assert record["source_type"]["t2w"] == "float64"
    assert record["overlap"]["t2w"] == pytest.approx(21 / 24)
    assert set(record["source_sha256"]) == {"adc", "dwi_low", "dwi_high", "t2w", "tumor_label"}
    assert record["spacing_mm"] == [2.0, 2.0, 4.0]


def test_the_same_source_gives_the_same_cohort(desk: Any, tmp_path: Path) -> None:
    desk.add()
    desk.add("CASE-002", desk.exam(seed=4))
    desk.ingest()
    first = read_cohort(desk.out)
    files = {
        p.relative_to(desk.out): p.read_bytes() for p in desk.out.rglob("*.*") if p.name != "cohort.json"
    }
    desk.ingest(overwrite=True)
    assert read_cohort(desk.out).digest == first.digest
    for name, data in files.items():
        assert (desk.out / name).read_bytes() == data


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_resampling_agrees_with_an_independent_one(seed: int) -> None:
    """SimpleITK against scipy's spline of order 1 on random oblique grids."""
    rng = np.random.default_rng(seed)

    def placed(shape: tuple[int, ...], spacing: float) -> Loaded:
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        grid = np.eye(4)
        grid[:3, :3] = q @ np.diag(spacing * rng.uniform(0.8, 1.3, 3))
        grid[:3, 3] = -grid[:3, :3] @ ((np.array(shape) - 1) / 2) + rng.normal(0, 1, 3)
        return Loaded(rng.normal(100, 10, shape), grid, "float64", "")

    adc, anatomy = placed((7, 6, 5), 2.0), placed((61, 60, 62), 1.0)
    values, overlap = on_adc_grid(anatomy, adc, "CASE-001", "t2w")
    assert overlap == 1
    index = np.indices(adc.array.shape).reshape(3, -1)
    to_moving = np.linalg.inv(anatomy.affine) @ adc.affine
    where = to_moving[:3, :3] @ index + to_moving[:3, 3:]
    expected = ndimage.map_coordinates(anatomy.array, where, order=1).reshape(adc.array.shape)
    np.testing.assert_allclose(values, expected, atol=2e-3)


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_any_axis_order_is_brought_back_exactly(order: list[int], flips: tuple[bool, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    grid = np.eye(4)
    grid[:3, :3] = q @ np.diag([1.0, 2.0, 5.0])
    grid[:3, 3] = rng.normal(0, 50, 3)
    adc = Loaded(rng.normal(size=(4, 3, 5)), grid, "float64", "")
    change = np.array(
        [[axis, -1 if flip else 1] for axis, flip in zip(order, flips, strict=True)], dtype=float
    )
    other = nib.Nifti1Image(adc.array, grid).as_reoriented(change)
    stored = Loaded(np.asarray(other.dataobj), other.affine, "float64", "")
    back = aligned(stored, adc, "CASE-001", "tumor_label")
    assert np.array_equal(back.array, adc.array)
    assert same_grid(back, adc)
