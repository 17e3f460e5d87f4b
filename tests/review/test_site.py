"""The page: hostile text is inert, damage and strangers are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_adc.domain.errors import UsageError
from diffusion_adc.review.site import _article, _interval, _page, _row, write_site
from diffusion_adc.review.words import WORDS


def test_both_languages_have_the_same_words() -> None:
    assert set(WORDS["en"]) == set(WORDS["ja"])
    assert all(WORDS["ja"].values())


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="en, ja"):
        write_site(tmp_path, tmp_path, tmp_path, language="xx")


@pytest.mark.parametrize("text", ["<script>x</script>", '"><img src=x onerror=y>', "</td><b>"])
def test_hostile_text_is_inert(text: str) -> None:
    from types import SimpleNamespace

    empty = {"map": None, "median": None, "low80": None, "high80": None}
    record = {"tdv_ml": empty, "gadc": empty, "bands": {text: empty}, "n_lesions": 0, "flags": [text]}
    row = _row(text, SimpleNamespace(tumor_status=text), record)  # type: ignore[arg-type]
    page = _page(WORDS["en"], "en", "public", {"run": text}, "", [row], [_article(text, record, WORDS["en"])])
    assert text not in page


@pytest.mark.parametrize(
    ("summary", "shown"),
    [
        ({"map": None, "median": None}, "–"),
        ({"map": 2.0, "median": 2.5, "low80": 1.0, "high80": 4.0}, "2.00 [1.00, 4.00]"),
        ({"map": None, "median": 1.0, "low80": 0.5, "high80": 1.5}, "– [0.50, 1.50]"),
        ({"map": 2.0, "median": None, "low80": None, "high80": None}, "2.00"),
    ],
)
def test_intervals_are_shown_as_they_are(summary: dict[str, float | None], shown: str) -> None:
    assert _interval(summary) == shown
