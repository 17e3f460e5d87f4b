"""A static site over a folder of tumor maps: an index with the scores, and a page per case."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.evaluation.picture import save_case_figure
from diffusion_adc.evaluation.table import table_blocks, verdicts
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import restored, sha256_file, write_bytes, write_text
from diffusion_adc.review.content import Rival, case_content
from diffusion_adc.review.page import case_page, case_script
from diffusion_adc.review.shell import (
    ASSETS,
    CASE_SCRIPTS,
    INDEX_SCRIPTS,
    STYLE,
    VENDORED,
    asset,
    document,
    interval,
)
from diffusion_adc.review.words import WORDS

PICTURES: Final = "pictures"
CASES: Final = "cases"
_MODEL: Final = "model"


def write_site(
    maps_dir: Path,
    cohort_dir: Path,
    out: Path,
    *,
    language: str = "en",
    rivals: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write OUT/index.html and a page, its data and two pictures per case.

    Args:
        maps_dir: Tumor maps, evaluated or not.
        cohort_dir: The cohort they were drawn for.
        out: The site's folder; other files in it stay.
        language: ``en`` or ``ja``.
        rivals: Folders of other methods' tumor maps of the same cohort, shown beside each case's own.
        progress: Called with (done, total).

    Returns:
        Path of the index.

    Raises:
        UsageError: No maps, or a language that does not exist.
        CohortError: Maps and cohort do not belong together.
        CaseError: A volume is missing or damaged.
    """
    words, manifest, cohort, cases = _opened(maps_dir, cohort_dir, language)
    named = _rivals(rivals)
    source = _source(maps_dir, manifest)
    for name in (STYLE, *INDEX_SCRIPTS, *CASE_SCRIPTS, *VENDORED):
        write_text(out / ASSETS / name, asset(name))
    wasted = _false_volumes(maps_dir)
    rows = []
    for number, case in enumerate(cases):
        case_id = case.case_id
        record = files.read_map_record(maps_dir, case_id)
        content = case_content(maps_dir, cohort_dir, case, words, named)
        write_text(out / CASES / f"{case_id}.data.js", case_script(content, source, language))
        before = cases[number - 1].case_id if number else None
        after = cases[number + 1].case_id if number + 1 < len(cases) else None
        page = case_page(
            case_id, content, record, language=language, provenance=cohort.provenance,
            data=f"{case_id}.data.js", picture=f"../{PICTURES}/{case_id}.png", neighbors=(before, after),
        )  # fmt: skip
        write_text(out / CASES / f"{case_id}.html", page)
        write_bytes(out / PICTURES / f"{case_id}.front.png", content.thumbnail)
        save_case_figure(content.view, out / PICTURES / f"{case_id}.png")
        rows.append(index_row(case_id, case.tumor_status, record, wasted.get(case_id), words))
        if progress is not None:
            progress(number + 1, len(cases))
    index = out / "index.html"
    write_text(
        index, index_page(words, language, cohort.provenance, manifest, _scores(maps_dir, words), rows)
    )
    return index


def standalone_page(
    maps_dir: Path, cohort_dir: Path, case_id: str, *, language: str = "en", rivals: Sequence[Path] = ()
) -> str:
    """One case as a single file with viewer, volumes and numbers inside.

    Raises:
        UsageError: No maps, a language that does not exist, or a case without a map.
        CohortError: Maps and cohort do not belong together.
        CaseError: A volume is missing or damaged.
    """
    words, manifest, cohort, cases = _opened(maps_dir, cohort_dir, language)
    case = next((c for c in cases if c.case_id == case_id), None)
    if case is None:
        raise UsageError("no map of this case", "a case ID of the maps", "check the name")
    content = case_content(maps_dir, cohort_dir, case, words, _rivals(rivals))
    return case_page(
        case_id, content, files.read_map_record(maps_dir, case_id), language=language,
        provenance=cohort.provenance, data=case_script(content, _source(maps_dir, manifest), language),
        standalone=True,
    )  # fmt: skip


def _opened(
    maps_dir: Path, cohort_dir: Path, language: str
) -> tuple[Mapping[str, str], dict[str, Any], Cohort, list[Case]]:
    if language not in WORDS:
        raise UsageError(f"language {language!r}", f"one of {', '.join(WORDS)}")
    manifest = files.read_maps_manifest(maps_dir)
    cohort = cohorts.read_cohort(cohort_dir)
    cases = {case.case_id: case for case in cohort.cases}
    drawn = [cases[case_id] for case_id in files.map_case_ids(maps_dir) if case_id in cases]
    if not drawn:
        raise UsageError(
            "no map belongs to a case of the cohort", "maps drawn for this cohort", "check --cohort"
        )
    return WORDS[language], manifest, cohort, drawn


def _source(maps_dir: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a corrections file says about where it comes from."""
    return {
        "run": str(manifest.get("run", "")),
        "cohort_digest": str(manifest.get("cohort_digest", "")),
        "maps_sha256": sha256_file(maps_dir / "maps.json"),
    }


def _rivals(folders: Sequence[Path]) -> list[Rival]:
    """Rivals by the name of their run, or by number where it says nothing or says it twice."""
    names = [str(files.read_maps_manifest(folder).get("run") or "") for folder in folders]
    return [
        Rival(name if name and names.count(name) == 1 else f"{name} {number}".strip(), folder)
        for number, (name, folder) in enumerate(zip(names, folders, strict=True), start=1)
    ]


def _false_volumes(maps_dir: Path) -> dict[str, float]:
    """False-positive volume (mL) by case, where the maps were evaluated."""
    try:
        with (maps_dir / "cases.csv").open(newline="", encoding="utf-8") as stream:
            rows = [{k: restored(v) for k, v in row.items()} for row in csv.DictReader(stream, strict=True)]
        return {row["case_id"]: float(row["fp_volume_ml"]) for row in rows if row["method"] == _MODEL}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return {}


def _scores(maps_dir: Path, words: Mapping[str, str]) -> str:
    try:
        scores = json.loads((maps_dir / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"<p>{words['not_scored']}</p>"
    scores = scores.get("methods", scores)
    parts = []
    for block in table_blocks(scores):
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in block.heading)
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


def index_row(
    case_id: str, status: str, record: Mapping[str, Any], wasted: float | None, words: Mapping[str, str]
) -> str:
    """One case's row; every cell carries the value it is sorted by."""
    name = escape(case_id)

    def number(summary: Mapping[str, Any]) -> str:
        return "" if summary.get("map") is None else repr(float(summary["map"]))

    flags = ", ".join(map(str, record["flags"]))
    cells = (
        ("", f'<a href="{CASES}/{name}.html"><img class="front" src="{PICTURES}/{name}.front.png" alt="" loading="lazy"></a>'),
        (name, f'<a href="{CASES}/{name}.html">{name}</a>'),
        (escape(status), escape(words.get(status, status))),
        (number(record["tdv_ml"]), interval(record["tdv_ml"])),
        (number(record["gadc"]), interval(record["gadc"])),
        (str(int(record["n_lesions"])), str(int(record["n_lesions"]))),
        ("" if wasted is None else repr(wasted), "–" if wasted is None else f"{wasted:.2f}"),
        (str(len(record["flags"])), escape(flags) or "–"),
    )  # fmt: skip
    return "<tr>" + "".join(f'<td data-value="{value}">{cell}</td>' for value, cell in cells) + "</tr>"


def index_page(
    words: Mapping[str, str],
    language: str,
    provenance: str,
    manifest: Mapping[str, Any],
    scores: str,
    rows: Sequence[str],
) -> str:
    """HTML of the index; `scores` and `rows` are HTML already."""
    columns = (
        ("case", "text"), ("status", "text"), ("tdv_column", "number"), ("gadc_column", "number"),
        ("lesions", "number"), ("fp_column", "number"), ("flags", "number"),
    )  # fmt: skip
    head = f'<th scope="col">{words["picture_column"]}</th>' + "".join(
        f'<th scope="col" aria-sort="none"><button type="button" data-sort="{kind}">{words[key]}</button></th>'
        for key, kind in columns
    )
    tau = manifest.get("tau")
    run = escape(
        f"{manifest.get('run', '')} · {manifest.get('draws', '')} × {manifest.get('steps', '')} · "
        f"seed {manifest.get('seed', '')} · τ {tau if isinstance(tau, int | float) else 0:.3f}"
    )
    body = (
        f'<header><h1>{words["title"]}</h1><p class="numbers">{run}</p></header>'
        f"<section><h2>{words['cases']}</h2><p>{words['interval']}</p>"
        f'<div class="scroll"><table id="cases"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f"</table></div></section><section><h2>{words['scores']}</h2>{scores}</section>"
    )
    return document(
        body,
        title=words["title"],
        language=language,
        provenance=provenance,
        words=words,
        scripts=INDEX_SCRIPTS,
    )
