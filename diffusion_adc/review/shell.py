"""The shell of every page: banner, content security policy, scripts and styles.

A page asks nobody for anything: the policy forbids connections, frames, forms and every script but the site's
own files (linked pages) or the ones whose SHA-256 it names (standalone pages).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, Final

ASSETS: Final = "assets"
VIEWER: Final = "niivue-0.69.0.umd.js"
VIEWER_SHA256: Final = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of the vendored viewer, unchanged from its npm package."""
VENDORED: Final = (VIEWER, "niivue.LICENSE.txt", "niivue.NOTICE.txt")
STYLE: Final = "review.css"
INDEX_SCRIPTS: Final = ("index.js",)
CASE_SCRIPTS: Final = ("decode.js", "viewer.js", "strips.js", "corrections.js", "main.js")

_REST: Final = "connect-src 'none'; form-action 'none'; base-uri 'none'"


def asset(name: str) -> str:
    """Text of one of the site's own or vendored files."""
    folder = "vendor" if name in VENDORED else "assets"
    return (resources.files("diffusion_adc.review") / folder / name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON that is also safe inside a script element: no tag, comment or line separator can appear."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def interval(summary: Mapping[str, Any]) -> str:
    """``2.00 [1.00, 4.00]``: the map's value and the draws' 80 % interval; – where undefined."""
    if summary.get("map") is None and summary.get("median") is None:
        return "–"
    value = "–" if summary.get("map") is None else f"{summary['map']:.2f}"
    if summary.get("low80") is None:
        return value
    return f"{value} [{summary['low80']:.2f}, {summary['high80']:.2f}]"


def document(
    body: str,
    *,
    title: str,
    language: str,
    provenance: str,
    words: Mapping[str, str],
    scripts: Sequence[str],
    data: str | None = None,
    root: str = "",
    standalone: bool = False,
) -> str:
    """A whole page.

    Args:
        body: HTML of the page, already escaped.
        title: Plain text.
        language: ``en`` or ``ja``.
        provenance: Of the cohort.
        words: Of the language.
        scripts: Names of assets, in order.
        data: Script text that comes before them (standalone), or the address of one (linked).
        root: Way from the page to the site's folder, ``""`` or ``"../"``.
        standalone: Carry scripts and styles inside the page.
    """
    if standalone:
        inline = [text for text in (data, *(asset(name) for name in scripts)) if text is not None]
        sheet = asset(STYLE)
        policy = (
            f"default-src 'none'; script-src {' '.join(map(_hash, inline))}; style-src {_hash(sheet)}; "
            f"img-src data: blob:; {_REST}"
        )
        style = f"<style>{sheet}</style>"
        tail = "".join(f"<script>{text}</script>" for text in inline)
    else:
        policy = (
            "default-src 'none'; script-src 'self' file:; style-src 'self' file:; "
            f"img-src 'self' file: data: blob:; {_REST}"
        )
        style = f'<link rel="stylesheet" href="{root}{ASSETS}/{STYLE}">'
        addresses = [data] if data is not None else []
        addresses += [f"{root}{ASSETS}/{name}" for name in scripts]
        tail = "".join(f'<script src="{escape(address)}"></script>' for address in addresses)
    banner = f"{words[f'provenance_{provenance}']} · {words['research']}"
    return (
        f'<!doctype html>\n<html lang="{escape(language)}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>{style}</head><body>"
        f'<div class="banner {escape(provenance)}" role="note">{escape(banner)}</div>'
        f"{body}{tail}</body></html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
