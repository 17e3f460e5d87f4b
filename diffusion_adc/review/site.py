"""A static site over a folder of tumor maps: the scores, then one picture and the numbers per case."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.evaluation.picture import CaseView, save_case_figure
from diffusion_adc.evaluation.table import table_blocks, verdicts
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import write_text
from diffusion_adc.review.words import WORDS

PICTURES: Final = "pictures"

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ok: #2a8f57; --no: #c4442d }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 78rem; padding: 0 1rem 4rem }
.banner { background: #c4442d; color: #fff; padding: .4rem 1rem; margin: 0 -1rem }
.banner.synthetic { background: #2b5f8a }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .5rem 0 1.5rem }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tr.model td { font-weight: 600; background: var(--soft) }
article { border-top: 1px solid var(--line); padding: 1rem 0 }
img { max-width: 100%; background: #fff }
.yes { color: var(--ok) } .no { color: var(--no) }
ul.bars { list-style: none; padding: 0 }
"""


def write_site(
    maps_dir: Path,
    cohort_dir: Path,
    out: Path,
    *,
    language: str = "en",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write OUT/index.html and one picture per case.

    Args:
        maps_dir: Tumor maps, evaluated or not.
        cohort_dir: The cohort they were drawn for.
        out: The site's folder; other files in it stay.
        language: ``en`` or ``ja``.
        progress: Called with (done, total).

    Returns:
        Path of the index.

    Raises:
        UsageError: No maps, or a language that does not exist.
        CohortError: A map's case is not in the cohort.
    """
    if language not in WORDS:
        raise UsageError(f"language {language!r}", f"one of {', '.join(WORDS)}")
    words = WORDS[language]
    manifest = files.read_maps_manifest(maps_dir)
    cohort = cohorts.read_cohort(cohort_dir)
    cases = {case.case_id: case for case in cohort.cases}
    drawn = [case_id for case_id in files.map_case_ids(maps_dir) if case_id in cases]
    if not drawn:
        raise UsageError(
            "no map belongs to a case of the cohort", "maps drawn for this cohort", "check --cohort"
        )
    articles, rows = [], []
    for number, case_id in enumerate(drawn):
        record = files.read_map_record(maps_dir, case_id)
        _picture(maps_dir, cohort_dir, cases[case_id], out / PICTURES / f"{case_id}.png")
        rows.append(_row(case_id, cases[case_id], record))
        articles.append(_article(case_id, record, words))
        if progress is not None:
            progress(number + 1, len(drawn))
    index = out / "index.html"
    write_text(
        index, _page(words, language, cohort.provenance, manifest, _scores(maps_dir, words), rows, articles)
    )
    return index


def _picture(maps_dir: Path, cohort_dir: Path, case: Case, target: Path) -> None:
    def volume(name: str) -> Any:
        return cohorts.load_volume(cohort_dir, case, name).array

    tumor = files.read_map_volume(maps_dir, case.case_id, files.TUMOR_ADC)
    view = CaseView(
        title=case.case_id,
        affine=tumor.affine,
        adc=volume(seq.ADC),
        dwi=volume(seq.DWI_HIGH if seq.DWI_HIGH in case.files else seq.DWI_LOW),
        reader=np.asarray(volume(seq.TUMOR_LABEL), dtype=bool) if case.has_target else None,
        tumor=np.asarray(tumor.array, dtype=bool),
        probability=_float(maps_dir, case, files.PROBABILITY),
        base_probability=_float(maps_dir, case, files.BASE_PROBABILITY),
        draws=np.asarray(files.read_map_volume(maps_dir, case.case_id, files.DRAWS).array, dtype=bool),
    )
    save_case_figure(view, target)


def _float(maps_dir: Path, case: Case, name: str) -> Any:
    return np.asarray(files.read_map_volume(maps_dir, case.case_id, name).array, dtype=np.float32)


def _scores(maps_dir: Path, words: Mapping[str, str]) -> str:
    try:
        scores = json.loads((maps_dir / "scores.json").read_text())
    except (OSError, ValueError):
        return f"<p>{words['not_scored']}</p>"
    scores = scores.get("methods", scores)
    parts = []
    for block in table_blocks(scores):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in block.heading)
        body = "".join(
            f'<tr class="{"model" if row[0].startswith("presence flow") else ""}">'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row)
            + "</tr>"
            for row in block.rows
        )
        parts.append(
            f'<h3>{escape(block.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    marks = {True: ("yes", "✓"), False: ("no", "✗"), None: ("", "·")}
    bars = "".join(
        f'<li class="{marks[v.reached][0]}">{marks[v.reached][1]} {escape(v.asked)}: {escape(v.measured)}</li>'
        for v in verdicts(scores)
    )
    return "".join(parts) + f'<h3>{words["bars"]}</h3><ul class="bars">{bars}</ul>'


def _row(case_id: str, case: Case, record: Mapping[str, Any]) -> str:
    cells = [
        f'<a href="#{escape(case_id)}">{escape(case_id)}</a>',
        escape(case.tumor_status),
        _interval(record["tdv_ml"]),
        _interval(record["gadc"]),
        str(record["n_lesions"]),
        escape(", ".join(record["flags"])) or "–",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _interval(summary: Mapping[str, Any]) -> str:
    if summary.get("map") is None and summary.get("median") is None:
        return "–"
    value = "–" if summary.get("map") is None else f"{summary['map']:.2f}"
    if summary.get("low80") is None:
        return value
    return f"{value} [{summary['low80']:.2f}, {summary['high80']:.2f}]"


def _article(case_id: str, record: Mapping[str, Any], words: Mapping[str, str]) -> str:
    bands = " · ".join(f"{escape(name)}: {_interval(band)} mL" for name, band in record["bands"].items())
    name = escape(case_id)
    return (
        f'<article id="{name}"><h3>{name}</h3>'
        f'<img src="{PICTURES}/{name}.png" alt="{name}" loading="lazy">'
        f"<p>{words['tdv']} {_interval(record['tdv_ml'])} mL · {words['gadc']} {_interval(record['gadc'])} "
        f"10⁻³ mm²/s · {words['bands']} {bands}</p></article>"
    )


def _page(
    words: Mapping[str, str],
    language: str,
    provenance: str,
    manifest: Mapping[str, Any],
    scores: str,
    rows: list[str],
    articles: list[str],
) -> str:
    head = "".join(
        f"<th>{words[key]}</th>"
        for key in ("case", "status", "tdv_column", "gadc_column", "lesions", "flags")
    )
    run = escape(
        f"{manifest.get('run', '')} · {manifest.get('draws', '')} × {manifest.get('steps', '')} · "
        f"seed {manifest.get('seed', '')} · τ {manifest.get('tau') or 0:.3f}"
    )
    return f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<title>{words["title"]}</title><style>{_STYLE}</style></head><body>
<div class="banner {provenance}">{words["provenance_" + provenance]} · {words["research"]}</div>
<h1>{words["title"]}</h1><p>{run}</p>
<h2>{words["scores"]}</h2>{scores}
<h2>{words["cases"]}</h2><p>{words["interval"]}</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>
{"".join(articles)}
</body></html>
"""
