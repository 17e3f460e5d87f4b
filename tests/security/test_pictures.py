"""T5, T6: what the pixels themselves give away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset

from diffusion_adc.custody.burned_in import has_text
from diffusion_adc.custody.deidentify import clean
from diffusion_adc.custody.faces import FacePolicy, SeriesHead
from diffusion_adc.custody.seal_dicom import ClinicRules
from diffusion_adc.domain.errors import UsageError

pytestmark = pytest.mark.security

Figure = Callable[[str, Any], None]
SECRET = b"s" * 32


def test_t5_overlay_in_unused_bits_is_cleared(make_mr: Callable[..., FileDataset]) -> None:
    image = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
    ds = make_mr(image=image | np.uint16(0xF000))
    new = clean(ds, secret=SECRET, research_id="AB-0001").dataset
    assert np.array_equal(np.frombuffer(new.PixelData, "<u2").reshape(32, 32), image)


def _slice(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Soft ellipses of organs in noise, at random sizes up to the border."""
    y, x = np.indices(shape)
    image = 60 * rng.random() + np.zeros(shape)
    body = ((y - shape[0] / 2) / (shape[0] * rng.uniform(0.35, 0.6))) ** 2 + (
        (x - shape[1] / 2) / (shape[1] * 0.48)
    ) ** 2
    image += 300 * (body < 1)
    for _ in range(25):
        cy, cx, ry, rx = rng.random(4) * [shape[0], shape[1], 12, 12] + [0, 0, 2, 2]
        image += rng.uniform(0, 900) * np.exp(-(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2)) * (body < 1.1)
    return np.clip(image + rng.normal(0, 25, shape), 0, 4095).astype(np.uint16)


def test_t5_text_in_pixels(scale: Callable[..., int], figure: Figure) -> None:
    rng = np.random.default_rng(8)
    words = (
        "YAMADA TARO",
        "TANAKA HANAKO 52Y",
        "ID 4711823",
        "MACHIDA HP MRI",
        "1961-03-02 10:15",
        "Suzuki K. 1944",
    )
    count, found, false = scale(60, 12), 0, 0
    for n in range(count):
        shape = ((128, 128), (256, 256), (192, 160), (320, 320))[n % 4]
        image = _slice(rng, shape)
        false += has_text(image)
        size = (9, 11, 14, 18)[n // 4 % 4]
        layer = Image.new("L", (shape[1], shape[0]))
        font, text = ImageFont.load_default(size), words[n % 6]
        y = 3 if n % 2 else shape[0] - size - 8
        ImageDraw.Draw(layer).text((int(rng.integers(3, 12)), y), text, fill=255, font=font)
        share = np.asarray(layer) / 255.0
        found += has_text((image * (1 - share) + share * image.max()).astype(np.uint16))
    figure("T5 text detector", f"{found}/{count} found, {false}/{count} false")
    assert found >= 0.95 * count
    assert false <= 0.05 * count


def _axial(width_mm: float, height_mm: float) -> np.ndarray:
    y, x = np.indices((160, 160)) * 2.5 - 200
    return np.where((x / (width_mm / 2)) ** 2 + (y / (height_mm / 2)) ** 2 < 1, 500, 10).astype(np.uint16)


def test_t6_faces_are_flagged(make_mr: Callable[..., FileDataset], figure: Figure) -> None:
    head, trunk = _axial(150, 190), _axial(350, 230)
    cases = {
        "head by its shape": ([head] * 10, {}, True),
        "head and neck above a trunk": ([trunk] * 12 + [head] * 8, {}, True),
        "stated head": ([trunk] * 6, {"BodyPartExamined": "BRAIN"}, True),
        "whole body": ([trunk] * 160, {"BodyPartExamined": "WHOLEBODY"}, True),
        "long coverage": ([trunk] * 160, {}, True),
        "pelvis": ([trunk] * 20, {"BodyPartExamined": "PELVIS"}, False),
    }
    right = 0
    for name, (slices, attributes, expected) in cases.items():
        series = SeriesHead()
        for n, image in enumerate(slices):
            series.add(f"{n}", make_mr(image=image, instance=n, **attributes), image[None])
        assert series.shows_head is expected, name
        right += 1
        state = series.decide(FacePolicy())[0]
        assert state == ("undecided" if expected else "none")
        if expected:
            assert series.decide(FacePolicy("accept", "defaced before"))[0] == "accepted"
            assert series.decide(FacePolicy("drop"))[1]
    series = SeriesHead()
    for n, image in enumerate([trunk] * 12 + [head] * 8):
        series.add(f"{n}", make_mr(image=image, instance=n), image[None])
    assert sorted(map(int, series.decide(FacePolicy("drop"))[1])) == list(range(12, 20))
    figure("T6 face fixtures right", f"{right}/{len(cases)}")


def test_t6_state_stands_in_the_manifest(zones: Any, make_series: Callable[..., Any]) -> None:
    head = _axial(150, 190)
    folder = zones.source / "4711899"
    make_series(
        folder, 5, image=head, b=None, kind=("ORIGINAL", "PRIMARY", "M", "ND"), SeriesDescription="t1_tse_tra"
    )
    with pytest.raises(UsageError, match="T6"):
        zones.seal(ids={"4711899": "AB-0001"})
    rules = ClinicRules(zones.rules.secret, faces=FacePolicy("accept", "defaced with a reviewed tool"))
    package, done = zones.seal(ids={"4711899": "AB-0001"}, rules=rules)
    assert done.manifest.states[0] == {
        "series": "AB-0001/s01/001", "faces": "accepted", "reason": "defaced with a reviewed tool",
    }  # fmt: skip
    assert zones.open(package).manifest.states == done.manifest.states
