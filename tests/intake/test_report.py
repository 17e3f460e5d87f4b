"""The ingest report stands alone, hides nothing and runs nothing."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.ingest import IngestReport
from diffusion_adc.intake.report import thumbnail, write_report
from diffusion_adc.records.cohort import write_case, write_manifest

SHAPE = (20, 16, 5)
AGREEMENT = {
    "verdict": "pass",
    "voxels": 900,
    "ratio": 1.048,
    "difference": 0.03,
    "correlation": 0.9984,
    "slope": 0.98,
}
NASTY = '<script>alert(1)</script> & "x"'


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    affine = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -16], [0, 0, 4, 0], [0, 0, 0, 1]])
    cases = []
    for number, provenance in ((1, "restricted"), (2, "restricted")):
        label = np.zeros(SHAPE, dtype=np.uint16)
        label[4:9, 6:10, 3] = 1
        adc = rng.uniform(0.5, 2.5, SHAPE).astype(np.float32)
        volumes = {
            seq.T2W: rng.uniform(0, 900, SHAPE), seq.DWI_HIGH: rng.uniform(0, 90, SHAPE), seq.ADC: adc,
            seq.VALID: np.ones(SHAPE), seq.TUMOR_LABEL: label, seq.TUMOR_ADC: np.where(label > 0, adc, 0),
        }  # fmt: skip
        case = Case(
            research_id=f"CASE-00{number}", exam_order=1, provenance=provenance, tumor_status="present", b_high=800.0,
            adc_unit_source="vendor:siemens", declared=("missing:t1w", "missing:dwi_low"), scanner="siemens Skyra",
            field_t=3.0,
        )  # fmt: skip
        extra = {
            "adc_unit": "1e-6", "overlap": {"t2w": 0.97}, "b_source": "private", "b_measured": [50.0, 400.0, 800.0],
            "adc_agreement": AGREEMENT, "ignored": [["pd", NASTY]],
            "registration": {"t2w": {"kind": "rigid", "motion_mm": 2.5}},
        }  # fmt: skip
        cases.append(write_case(tmp_path, case, volumes, affine, None, extra))
    write_manifest(tmp_path, Cohort(tuple(cases), provenance="restricted"))
    return tmp_path


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def report() -> IngestReport:
    return IngestReport(
        [], refused=[f"S16 CASE-009 adc: {NASTY}"],
        warnings=["S11 CASE-001 t2w: fits better", "C06 clinical table: one row"], note="2 person(s)",
    )  # fmt: skip


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_stands_alone(cohort: Path, language: str) -> None:
    path = write_report(cohort, report(), language)
    assert path == cohort / "ingest_report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert str(value).startswith("data:image/png;base64,")
    assert "://" not in text
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert f'<html lang="{language}">' in text
    assert str(cohort) not in text


def test_every_case_and_figure_is_there(cohort: Path) -> None:
    path = write_report(cohort, report())
    assert path is not None
    text = path.read_text(encoding="utf-8")
    for word in (
        'id="CASE-001_01"', 'id="CASE-002_01"', "dwi_high 800", "50, 400, 800", "(private)", "1e-6 mm²/s",
        "vendor:siemens", "r 0.9984", "1.048", "0.980", "siemens Skyra 3 T", "missing:t1w", "t2w 97%", "rigid 2.5 mm",
        "S16 CASE-009", "C06 clinical table", "RESTRICTED", "2 cases in, 1 refused",
    ):  # fmt: skip
        assert word in text, word
    first = text[text.index('id="CASE-001_01"') : text.index('id="CASE-002_01"')]
    assert "S11 CASE-001" in first
    assert text.count("S11 CASE-001") == 1
    assert text.count("<img") == 2 * 3  # T2w, high b and ADC; the two that are missing show a dash


def test_pictures_hold_no_text_and_show_the_tumor_in_its_place(cohort: Path) -> None:
    path = write_report(cohort, report())
    assert path is not None
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", path.read_text())]
    for data in pictures:
        assert re.findall(rb"tEXt|iTXt|zTXt|eXIf|tIME", data) == []
        image = imread(io.BytesIO(data))
        red = (image[..., 0] > 0.9) & (image[..., 1] < 0.3)
        # LAS voxels 4..8 lie on the patient's left: on the picture's right. Back to front is bottom to top.
        rows, columns = np.nonzero(red)
        assert (columns.min(), columns.max()) == (3, 9)
        assert (rows.min(), rows.max()) == (16 - 1 - 10, 16 - 1 - 5)


def test_the_patients_right_is_on_the_left() -> None:
    plane = np.zeros((30, 20))
    plane[28, 3] = 3.0  # the far right, near the back
    image = imread(io.BytesIO(thumbnail(plane, adc=True)))
    assert image.shape[:2] == (20, 30)
    assert np.argwhere(image[..., 0] > 0.9).tolist() == [[16, 1]]


def test_large_slices_become_small_pictures() -> None:
    data = thumbnail(np.random.default_rng(0).random((512, 384)), np.ones((512, 384), bool))
    assert max(imread(io.BytesIO(data)).shape) <= 160


def test_no_cohort_no_page_and_no_unknown_language(cohort: Path, tmp_path: Path) -> None:
    assert write_report(tmp_path / "nothing", report()) is None
    with pytest.raises(UsageError):
        write_report(cohort, report(), "xx")
