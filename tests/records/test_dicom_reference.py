"""The DICOM side of a case survives its file, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.domain.errors import CaseError, CohortError
from diffusion_adc.records.dicom_reference import (
    DICOM_RECORD,
    DicomReference,
    read_dicom_reference,
    reference_from_record,
    write_dicom_reference,
)

REFERENCE = DicomReference(
    study_uid="1.2.840.1", frame_of_reference_uid="1.2.840.2", adc_series_uid="1.2.840.3",
    adc_sop_class="1.2.840.10008.5.1.4.1.1.4", adc_sop_uids=("2.25.1", "2.25.2"),
    positions_mm=((-10.1, -20.2, 30.3), (-10.1, -20.2, 33.6)), orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    pixel_spacing_mm=(2.0, 1.5), rows=4, columns=6, b_values=(50.0, 800.0), field_t=3.0,
)  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "cases" / "CASE-001_01").mkdir(parents=True)
    digest = write_dicom_reference(tmp_path, "CASE-001_01", REFERENCE)
    assert len(digest) == 64
    assert read_dicom_reference(tmp_path, "CASE-001_01") == REFERENCE
    assert read_dicom_reference(tmp_path, "CASE-002_01") is None


def test_affine_is_the_one_of_the_standard() -> None:
    """PS3.3 C.7.6.2.1.1: columns step along the row direction by the column spacing; RAS negates x and y."""
    assert np.allclose(REFERENCE.affine @ (0, 0, 0, 1), (10.1, 20.2, 30.3, 1))
    assert np.allclose(REFERENCE.affine @ (1, 0, 0, 1), (8.6, 20.2, 30.3, 1))
    assert np.allclose(REFERENCE.affine @ (0, 1, 0, 1), (10.1, 18.2, 30.3, 1))
    assert np.allclose(REFERENCE.affine @ (0, 0, 1, 1), (10.1, 20.2, 33.6, 1))
    assert REFERENCE.shape == (6, 4, 2)


def test_a_single_slice_has_a_step_only_with_a_thickness() -> None:
    single = replace(REFERENCE, adc_sop_uids=("2.25.1",), positions_mm=REFERENCE.positions_mm[:1])
    assert np.isnan(single.affine[:3, 2]).all()
    assert np.allclose(replace(single, slice_thickness_mm=4.0).affine[:3, 2], (0, 0, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"study_uid": "1.2.x"}, {"study_uid": "1" * 65}, {"study_uid": "1.2\n"}, {"adc_sop_uids": ("2.25.1",)},
        {"positions_mm": ()}, {"positions_mm": ((0.0, 0.0),) * 2}, {"orientation": (1.0, 0.0, 0.0)},
        {"pixel_spacing_mm": (0.0, 1.0)}, {"rows": 0}, {"layout": "other"}, {"layout": "enhanced"},
        {"adc_frames": (1, 2)}, {"b_values": (float("nan"),)}, {"field_t": float("inf")},
    ],
)  # fmt: skip
def test_half_a_reference_is_none(change: dict[str, object]) -> None:
    with pytest.raises(CohortError):
        replace(REFERENCE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"study_uid": "1.2"}', '{"patient_name": "x"}'])
def test_a_damaged_file_is_refused_with_its_code(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cases" / "CASE-001_01" / DICOM_RECORD
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(CaseError, match="S25 CASE-001 adc"):
        read_dicom_reference(tmp_path, "CASE-001_01")


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(TypeError):
        reference_from_record({**asdict(REFERENCE), "patient_id": "7"})
