"""What de-identification leaves of a series' name still tells a computed image from a measured one."""

from __future__ import annotations

import pytest

from diffusion_adc.custody.tags import description
from diffusion_adc.intake.dicom.classify import _NAMED_ADC, _NAMED_CALCULATED


@pytest.mark.parametrize(
    "name", ["ep2d_diff_DYNDISTCALC_BVAL", "diff CALC_BVAL", "DWI calculated b1500", "dwi computed"]
)
def test_a_computed_image_stays_one(name: str) -> None:
    assert _NAMED_CALCULATED.search(name.lower())
    assert _NAMED_CALCULATED.search(str(description(name)).lower())


@pytest.mark.parametrize(
    "name", ["ep2d_diff_DYNDISTADC", "ep2d_diff_tra_ADC", "Apparent Diffusion Coefficient"]
)
def test_a_map_stays_one(name: str) -> None:
    assert _NAMED_ADC.search(str(description(name)).lower())


@pytest.mark.parametrize("name", ["ep2d_diff_tra_DYNDIST", "DWI b800", "t2_tse_tra"])
def test_a_measured_image_becomes_no_computed_one(name: str) -> None:
    assert not _NAMED_CALCULATED.search(str(description(name)).lower())
