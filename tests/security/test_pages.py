"""X10: whatever a case, a run or a comment is called, a page's structure stays the same and nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffusion_adc.review.chart import histogram
from diffusion_adc.review.content import CaseContent, Compared
from diffusion_adc.review.page import case_page, case_script
from diffusion_adc.review.site import index_page, index_row
from diffusion_adc.review.words import WORDS

HOSTILE = (
    "<script>window.hurt=1</script>", "</script><script>window.hurt=1</script>", "<img src=x onerror=window.hurt=1>",
    '"><img src=x onerror=window.hurt=1>', "'><svg onload=window.hurt=1>", "</td><b onmouseover=window.hurt=1>",
    "<iframe srcdoc='<script>parent.hurt=1</script>'>", "javascript:window.hurt=1", "<!--", "-->", "]]>",
    "<a href=javascript:window.hurt=1>x</a>", "<style>*{background:url(https://example.org)}</style>",
    "<link rel=stylesheet href=https://example.org/x.css>", "<meta http-equiv=refresh content=0;url=https://example.org>",
    "<base href=https://example.org/>", "\u2028window.hurt=1//", "&lt;script&gt;", "${window.hurt=1}",
    "\\u003cscript\\u003ewindow.hurt=1", "<math><mtext></form><form><mglyph><style></math><img src onerror=hurt=1>",
    "<object data=https://example.org>", "\x00<script>", "<SCRIPT SRC=//example.org/x.js>", "';window.hurt=1;'",
)  # fmt: skip


class Outline(HTMLParser):
    """Tags with the names of their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("!--", ()))


def content(text: str) -> CaseContent:
    lesion = dict.fromkeys(
        ("probability", "volume_ml", "volume_ml_low80", "volume_ml_high80", "adc_median", "adc_p10", "adc_p90",
         "centroid_r_mm", "centroid_a_mm", "centroid_s_mm"), 1.0,
    ) | {"lesion": 1, "region": text}  # fmt: skip
    layer = {"id": "reader0", "name": text, "key": "r"}
    draws = {"count": 1, "voxels": "", "bits": "", "row": 0}
    payload = {
        "case": text,
        "backgrounds": [layer],
        "overlays": [layer],
        "draws": draws,
        "source": {"case_id": text},
    }
    compared = [
        Compared(text, kind, np.zeros(1, dtype=bool), 1.0, None, 0) for kind in ("reader", "rival", "map")
    ]
    svg = histogram(np.array([1.0]), np.array([1.0]), 0.1, (text, text, text))
    view: Any = SimpleNamespace()
    return CaseContent(
        payload, [lesion], [{"number": 1, "volume_ml": 1.0, "voxel": [0, 0, 0]}], compared, svg, b"", view
    )


def pages(text: str) -> list[str]:
    empty = {"map": None, "median": None, "low80": None, "high80": None}
    record = {"tdv_ml": empty, "gadc": empty, "bands": {text: empty}, "n_lesions": 1, "flags": [text]}
    made = content(text)
    script = case_script(made, {"run": text}, "en")
    shared: dict[str, Any] = {"language": "en", "provenance": "restricted"}
    linked = case_page(
        text, made, record, data=f"{text}.data.js", picture=text, neighbors=(text, text), **shared
    )
    alone = case_page(text, made, record, data=script, standalone=True, **shared)
    row = index_row(text, text, record, 1.0, WORDS["en"])
    index = index_page(WORDS["en"], "en", "public", {"run": text, "tau": 0.5, "seed": text}, "", [row])
    return [linked, alone, index]


@pytest.mark.security
def test_hostile_text_changes_no_page(figure: Callable[[str, Any], None]) -> None:
    calm = [Outline(page).tags for page in pages("SIM-00001")]
    live = sum(
        Outline(page).tags != expected
        for text in HOSTILE
        for page, expected in zip(pages(text), calm, strict=True)
    )
    figure("X10_texts", len(HOSTILE))
    figure("X10_live", live)
    assert len(HOSTILE) >= 20
    assert live == 0


def test_the_outline_would_notice() -> None:
    calm = Outline("<td>SIM-00001</td>").tags
    noticed = [Outline(f"<td>{text}</td>").tags != calm for text in HOSTILE]
    assert sum(noticed) >= 14  # the others are aimed at attributes, scripts or addresses
