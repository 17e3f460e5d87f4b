"""Where b is found, and where it is not. Vendors' fixtures: tests/security/test_deidentify.py."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from diffusion_adc.custody.diffusion_tags import b_value, csa_values, direction, private_scale


def _with(group: int, creator: str, *elements: tuple[int, str, object]) -> Dataset:
    ds = Dataset()
    block = ds.private_block(group, creator, create=True)
    for offset, vr, value in elements:
        block.add_new(offset, vr, value)
    return ds


def test_order_of_the_places() -> None:
    ds = _with(0x0019, "SIEMENS MR HEADER", (0x0C, "IS", "400"))
    ds.SequenceName, ds.SeriesDescription = "*ep_b50t", "dwi b900"
    assert (b_value(ds, 7).b, b_value(ds, 7).source) == (400, "private:siemens")  # type: ignore[union-attr]
    ds.DiffusionBValue = 800.0
    assert b_value(ds, 7).source == "standard"  # type: ignore[union-attr]
    del ds.DiffusionBValue, ds[0x0019100C]
    assert b_value(ds, 7).source == "sequence_name"  # type: ignore[union-attr]
    del ds.SequenceName
    assert b_value(ds, 7).source == "description"  # type: ignore[union-attr]
    del ds.SeriesDescription
    assert b_value(ds, 7).source == "sidecar"  # type: ignore[union-attr]
    assert b_value(ds) is None


def test_a_foreign_creator_says_nothing() -> None:
    assert b_value(_with(0x0019, "SOMEONE ELSE", (0x0C, "IS", "400"))) is None
    assert b_value(_with(0x2001, "Philips MR Imaging DD 001", (0x03, "FL", 400.0))) is None


def test_a_block_other_than_the_first_is_found() -> None:
    ds = _with(0x0019, "SOMEONE ELSE", (0x0C, "IS", "1"))
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "400")
    assert b_value(ds).b == 400  # type: ignore[union-attr]


def test_ge_bias_is_subtracted_not_taken_modulo() -> None:
    biased = _with(0x0043, "GEMS_PARM_01", (0x39, "IS", ["2000001000", "8"]), (0x7F, "DS", "2000000000"))
    assert b_value(biased).b == 1000  # type: ignore[union-attr]
    corrupt = b_value(_with(0x0043, "GEMS_PARM_01", (0x39, "IS", ["1900001000", "8"])))
    assert corrupt is not None
    assert not corrupt.plausible


def test_uih_keeps_what_was_asked_for() -> None:
    found = b_value(_with(0x0065, "Image Private Header", (0x09, "FD", 928.3), (0x0A, "FD", 1000.0)))
    assert found is not None
    assert (found.b, found.nominal) == (928.3, 1000.0)


@pytest.mark.parametrize(
    ("text", "b"),
    [("DWI b=800", 800), ("ep2d b1000 tra", 1000), ("b50_400_800", None), ("b0 b1000", None), ("B 900", 900),
     ("b50/800", None), ("lab12", None), ("DWI b800mm", 800), ("dwi b-1000", 1000), ("T2 tse", None)],
)  # fmt: skip
def test_descriptions(text: str, b: float | None) -> None:
    ds = Dataset()
    ds.SeriesDescription = text
    found = b_value(ds)
    assert (None if found is None else found.b) == b


@pytest.mark.parametrize(
    ("name", "b"), [("*ep_b900t", 900), ("ep_b50#1", 50), ("*ep_b0", 0), ("*tse2d1_15", None)]
)
def test_sequence_names(name: str, b: float | None) -> None:
    ds = Dataset()
    ds.SequenceName = name
    found = b_value(ds)
    assert (None if found is None else found.b) == b


def test_frames_of_an_enhanced_image() -> None:
    frame, whole = Dataset(), Dataset()
    frame.MRDiffusionSequence = [Dataset()]
    frame.MRDiffusionSequence[0].DiffusionDirectionality = "ISOTROPIC"
    whole.SeriesDescription = "ADC b1000"
    assert b_value(frame, parent=whole, named=False) is None
    frame.MRDiffusionSequence[0].DiffusionBValue = 0.0
    assert b_value(frame, parent=whole).b == 0  # type: ignore[union-attr]


def test_scales_and_directions_are_noted() -> None:
    philips = _with(0x2005, "Philips MR Imaging DD 001", (0x0E, "UN", struct.pack("<f", 0.5)), (0xB0, "FL", 0.0),
                    (0xB1, "FL", 1.0), (0xB2, "FL", 0.0))  # fmt: skip
    assert private_scale(philips) == {"philips_slope": 0.5}
    assert direction(philips) == (0, 1, 0)
    siemens = _with(0x0019, "SIEMENS MR HEADER", (0x0E, "UN", struct.pack("<3d", 0.6, 0.8, 0.0)))
    assert direction(siemens) == (0.6, 0.8, 0)
    assert direction(Dataset()) is None


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_damaged_csa_headers_never_raise(data: bytes) -> None:
    assert isinstance(csa_values(b"SV10" + data, "B_value"), list)
    assert csa_values(data, "x") == [] or data[:4] == b"SV10"
