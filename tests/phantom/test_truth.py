from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.phantom.case import simulate_case
from diffusion_adc.phantom.options import PhantomOptions
from diffusion_adc.phantom.truth import (
    OPENED_BY,
    CaseTruth,
    read_case_truth,
    read_truth_manifest,
    truth_dir_of,
    write_case_truth,
    write_truth_manifest,
)


@pytest.fixture(scope="module")
def truth() -> CaseTruth:
    options = PhantomOptions(
        cases=1, seed=4, size=(64, 64, 16), spacing_mm=(6.2, 6.2, 12.0), tumor_free_share=0
    )
    return simulate_case(options, 0).truth


def test_what_is_written_is_read_back(truth, tmp_path):
    digest = write_case_truth(tmp_path, truth)
    again = read_case_truth(tmp_path, truth.case_id)
    for field in fields(CaseTruth):
        a, b = getattr(truth, field.name), getattr(again, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
        else:
            assert a == b, field.name
    assert again.lesions
    assert write_case_truth(tmp_path / "again", again) == digest  # same content, same bytes


def test_a_missing_or_damaged_truth_is_one_line(truth, tmp_path):
    with pytest.raises(CohortError, match="SIM-00009_01"):
        read_case_truth(tmp_path, "SIM-00009_01")
    write_case_truth(tmp_path, truth)
    path = tmp_path / truth.case_id / "truth.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CohortError) as error:
        read_case_truth(tmp_path, truth.case_id)
    assert str(tmp_path) not in str(error.value)
    (tmp_path / truth.case_id / "truth.json").write_text("{}")
    with pytest.raises(CohortError):
        read_case_truth(tmp_path, truth.case_id)


def test_the_seal_says_who_opens_it(tmp_path):
    write_truth_manifest(tmp_path, {"seed": 1}, {"jitter_sd_mm": 2.5}, "abc")
    manifest = read_truth_manifest(tmp_path)
    assert manifest["opened_by"] == OPENED_BY == "evaluate --truth"
    assert manifest["cohort_digest"] == "abc"
    assert manifest["organ_names"]["15"] == "urine"
    with pytest.raises(UsageError):
        read_truth_manifest(tmp_path / "nothing")
    assert truth_dir_of(Path("a/cohort")) == Path("a/cohort.truth")
