"""What the tracker shows is where it belongs, and a page in it can do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.callbacks.panels import (
    canonical_index,
    inverted_gray,
    presence_overlay,
    score_values,
    self_contained,
    thumbnail,
)
from diffusion_adc.evaluation.picture import CaseView


def _affine(*signs: int, order: tuple[int, int, int] = (0, 1, 2)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0 * s for s in signs])[:, list(order)]
    affine[:3, 3] = (10.0, -20.0, 5.0)
    return affine


@pytest.mark.parametrize(
    "affine", [_affine(1, 1, 1), _affine(-1, -1, 1), _affine(-1, 1, -1), _affine(1, -1, 1, order=(1, 2, 0))]
)
def test_a_point_is_found_whatever_the_axes(affine: np.ndarray) -> None:
    shape, voxel = (7, 9, 11), np.array([2, 5, 8])
    volume = np.zeros(shape)
    volume[tuple(voxel)] = 1.0
    center = (affine @ [*voxel, 1.0])[:3]
    from diffusion_adc.evaluation.picture import canonical

    index = canonical_index(shape, affine, list(center))
    assert canonical(volume, affine)[tuple(index)] == 1.0
    picture = thumbnail(volume, affine, list(center))
    assert picture.shape == (48, 48, 3)
    bright = np.argwhere(picture[..., 0] > 0)
    assert bright.tolist() == [[23, 23]], "the lesion is in the middle"


def test_right_is_left_and_front_is_up() -> None:
    shape = (6, 8, 3)
    dwi, tumor = np.zeros(shape, np.float32), np.zeros(shape, dtype=bool)
    tumor[5, 7, 1] = True  # right, front
    dwi[5, 7, 1] = 3.0
    view = CaseView("", np.eye(4), dwi, dwi, None, tumor, dwi, dwi, np.zeros((*shape, 2), np.uint8))
    overlay = presence_overlay(view)
    assert set(overlay.masks) == {"tumor_map", "draw_1", "draw_2"}
    assert np.argwhere(overlay.masks["tumor_map"]).tolist() == [[0, 0]]
    assert np.argwhere(overlay.pixels < 255).tolist() == [[0, 0]]
    assert inverted_gray(np.full((2, 2), np.nan)).tolist() == [[255, 255], [255, 255]]


def test_a_page_is_inert(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("p{color:red}")
    (tmp_path / "p.png").write_bytes(b"png")
    (tmp_path.parent / "secret.css").write_text("SECRET")
    (tmp_path / "index.html").write_text(
        '<html><head><link rel=stylesheet href="a.css"><link rel="stylesheet" href="../secret.css">'
        "<script>alert(1)</script><meta http-equiv=refresh content=0></head><body onload='x()'>"
        '<img src="p.png" onerror="x()"><img src="https://example.org/x.png"><a href="javascript:x()">a &lt;b</a>'
        "<iframe src='x'>in</iframe><p>ok</p></body></html>"
    )
    text = self_contained(tmp_path / "index.html")
    assert "p{color:red}" in text
    assert "data:image/png;base64,cG5n" in text
    assert "a &lt;b" in text
    assert "<p>ok</p>" in text
    for word in (
        "alert",
        "SECRET",
        "onload",
        "onerror",
        "javascript",
        "example.org",
        "iframe",
        "refresh",
        "href",
    ):
        assert word not in text


def test_scores_become_scalars() -> None:
    scores = {"model": {"dice": {"value": 0.5, "low95": 0.4, "high95": None}, "ece": {"value": None}}}
    assert score_values(scores, "model") == {"test/dice": 0.5}  # type: ignore[arg-type]
    assert score_values(scores, "B2") == {}  # type: ignore[arg-type]
