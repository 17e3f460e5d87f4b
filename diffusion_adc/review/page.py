"""The page of one case: viewer, draws, projections, lesions to judge, histogram, comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from diffusion_adc.review.content import CaseContent, Compared, spoken_name
from diffusion_adc.review.shell import CASE_SCRIPTS, VIEWER, document, interval, script_json
from diffusion_adc.review.words import SPOKEN, WORDS

DECISIONS: Final = ("keep", "remove", "unsure")
_KEYS: Final = (
    ("1 2 3 4 5", "key_backgrounds"), ("t p b v r d", "key_layers"), ("[ ]", "key_draws"),
    ("↑ ↓", "key_slices"), ("n N", "key_lesions"), ("k x u", "key_decisions"), ("m", "key_view"),
    ("o i", "key_outline"), ("space", "key_space"), ("?", "key_help"),
)  # fmt: skip


def case_script(content: CaseContent, source: Mapping[str, Any], language: str) -> str:
    """The script that hands the page its case."""
    payload = dict(content.payload)
    payload["source"] = {**payload["source"], **source}
    payload["words"] = {key: WORDS[language][key] for key in SPOKEN}
    return f"window.REVIEW = {script_json(payload)};\n"


def case_page(
    case_id: str,
    content: CaseContent,
    record: Mapping[str, Any],
    *,
    language: str,
    provenance: str,
    data: str,
    picture: str | None = None,
    neighbors: tuple[str | None, str | None] = (None, None),
    standalone: bool = False,
) -> str:
    """HTML of a case.

    Args:
        case_id: Of the case.
        content: What it shows.
        record: case.json of its map.
        language: ``en`` or ``ja``.
        provenance: Of the cohort.
        data: Address of the script of `case_script`, or its text in a standalone page.
        picture: Address of the static picture.
        neighbors: Case IDs of the previous and the next page.
        standalone: One file with everything inside; no links to other pages.
    """
    words = WORDS[language]
    bands = " · ".join(f"{escape(name)}: {interval(band)} mL" for name, band in record["bands"].items())
    flags = ", ".join(map(str, record["flags"]))
    parts = [
        "" if standalone else _navigation(neighbors, words),
        f'<header><h1>{escape(case_id)}</h1><p class="numbers">{words["tdv"]} <b>{interval(record["tdv_ml"])}</b>'
        f" mL · {words['gadc']} <b>{interval(record['gadc'])}</b> 10⁻³ mm²/s · {words['bands']} {bands}"
        f"{' · ' + escape(flags) if flags else ''}</p></header>",
        _viewer(content.payload, words),
        _draws(int(content.payload["draws"]["count"]), words),
        _projections(words),
        _lesions(content.lesions, words),
        _missed(content.missed, words),
        f"<section><h2>{words['histogram']}</h2>{content.histogram}</section>",
        _comparison(content.compared, words),
    ]
    if picture is not None:
        parts.append(
            f'<section><h2>{words["picture"]}</h2><img class="picture" src="{escape(picture)}" '
            f'alt="{escape(case_id)}" loading="lazy"></section>'
        )
    parts.append(_help(words))
    return document(
        "".join(parts), title=f"{case_id} · {words['title']}", language=language, provenance=provenance,
        words=words, scripts=(VIEWER, *CASE_SCRIPTS), data=data, root="../", standalone=standalone,
    )  # fmt: skip


def _navigation(neighbors: tuple[str | None, str | None], words: Mapping[str, str]) -> str:
    links = [f'<a href="../index.html">{words["all_cases"]}</a>']
    for case_id, key, sign in zip(neighbors, ("previous", "next"), ("←", "→"), strict=True):
        if case_id is not None:
            links.append(
                f'<a href="{escape(case_id)}.html" title="{words[key]}">{sign} {escape(case_id)}</a>'
            )
    links.append(f'<button type="button" id="help-button">{words["help"]} <kbd>?</kbd></button>')
    return f"<nav>{''.join(links)}</nav>"


def _viewer(payload: Mapping[str, Any], words: Mapping[str, str]) -> str:
    def button(kind: str, row: Mapping[str, Any]) -> str:
        key = f" <kbd>{escape(row['key'])}</kbd>" if row["key"] else ""
        color = escape(row["id"].rstrip("0123456789"))
        swatch = f'<i class="swatch {color}"></i>' if kind == "overlay" else ""
        return (
            f'<button type="button" data-{kind}="{escape(row["id"])}" aria-pressed="false">'
            f"{swatch}{escape(row['name'])}{key}</button>"
        )

    backgrounds = "".join(button("background", row) for row in payload["backgrounds"])
    overlays = "".join(button("overlay", row) for row in payload["overlays"])
    if payload["draws"]["count"]:
        overlays += button("overlay", {"id": "draw", "name": words["draw"], "key": "d"})
    views = "".join(
        f'<button type="button" data-view="{name}" aria-pressed="false">{words[f"view_{name}"]}</button>'
        for name in ("multi", "axial", "coronal", "sagittal")
    )
    return (
        f'<section class="viewer"><h2 class="quiet">{words["viewer"]}</h2>'
        f'<div class="tools"><fieldset><legend>{words["background"]}</legend>{backgrounds}</fieldset>'
        f"<fieldset><legend>{words['layers']}</legend>{overlays}"
        f'<label>{words["opacity"]} <input type="range" id="opacity" min="0" max="1" step="0.05" value="0.8"></label>'
        f'<label><input type="checkbox" id="outline"> {words["outline"]} <kbd>o</kbd></label>'
        f'<label><input type="checkbox" id="smooth"> {words["smooth"]} <kbd>i</kbd></label></fieldset>'
        f"<fieldset><legend>{words['views']}</legend>{views}</fieldset></div>"
        '<div class="stage"><canvas id="viewer" tabindex="0"></canvas></div>'
        f'<p id="readout" role="status">{words["loading"]}</p><noscript><p>{words["no_script"]}</p></noscript>'
        f'<p class="legend"><span class="ramp"></span> 0.4 – 1.1 – 1.8 {words["legend"]}</p></section>'
    )


def _draws(count: int, words: Mapping[str, str]) -> str:
    if count == 0:
        return '<div id="draws"></div>'
    thumbs = "".join(
        f'<button type="button" data-draw="{n}" aria-pressed="false"><canvas></canvas><span>{n + 1}</span></button>'
        for n in range(count)
    )
    return (
        f"<section><h2>{words['draws']} <kbd>[</kbd> <kbd>]</kbd></h2><p>{words['draws_text']}</p>"
        f'<div class="strip" id="draws">{thumbs}</div></section>'
    )


def _projections(words: Mapping[str, str]) -> str:
    return (
        f'<section><h2>{words["mip"]}</h2><div class="pair">'
        f'<figure><canvas id="mip-dwi"></canvas><figcaption>{words["mip_dwi"]}</figcaption></figure>'
        f'<figure><canvas id="mip-tumor"></canvas><figcaption>{words["mip_tumor"]}</figcaption></figure></div>'
        f'<p class="tools"><button type="button" id="mip-play">{words["play"]}</button>'
        f'<label>{words["angle"]} <input type="range" id="mip-angle" min="0" max="357" step="3" value="0"> '
        '<output id="mip-degrees">0°</output></label></p></section>'
    )


def _lesions(rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    if not rows:
        return f"<section><h2>{words['lesion_table']}</h2><p>{words['no_lesions']}</p></section>"
    heads = ("", "#", "decision", "probability", "volume", "adc_range", "position", "region", "comment")
    head = "".join(f'<th scope="col">{words.get(name, name)}</th>' for name in heads)
    body = "".join(_lesion(row, words) for row in rows)
    return (
        f'<section><h2>{words["lesion_table"]}</h2><div class="scroll"><table id="lesions"><thead><tr>{head}</tr>'
        f'</thead><tbody>{body}</tbody></table></div><p class="tools"><span id="decided"></span>'
        f'<button type="button" id="keep-rest">{words["keep_rest"]}</button>'
        f'<button type="button" id="save" class="main">{words["save"]}</button>'
        f'<label class="file">{words["open"]} <input type="file" id="open" accept="application/json,.json"></label>'
        f'</p><p class="soft">{words["corrections_text"]}</p></section>'
    )


def _lesion(row: Mapping[str, Any], words: Mapping[str, str]) -> str:
    number = int(row["lesion"])
    place = ", ".join(f"{float(row[f'centroid_{axis}_mm']):.0f}" for axis in "ras")
    choices = "".join(
        f'<label><input type="radio" name="decision-{number}" value="{name}"> {words[name]}</label>'
        for name in DECISIONS
    )
    cells = (
        f'<button type="button" data-jump="{number}">{words["jump"]}</button>',
        str(number),
        f'<span class="choice" role="radiogroup" aria-label="{words["decision"]} {number}">{choices}</span>',
        f"{float(row['probability']):.2f}",
        f"{float(row['volume_ml']):.2f} [{float(row['volume_ml_low80']):.2f}, {float(row['volume_ml_high80']):.2f}]",
        f"{float(row['adc_median']):.2f} ({float(row['adc_p10']):.2f}–{float(row['adc_p90']):.2f})",
        place,
        escape(str(row["region"])) or "–",
        f'<input type="text" name="comment-{number}" maxlength="500" placeholder="{words["comment_hint"]}" '
        f'aria-label="{words["comment"]} {number}" autocomplete="off">',
    )
    return f'<tr data-lesion="{number}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _missed(rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    items = "".join(
        f'<button type="button" data-voxel="{",".join(str(int(v)) for v in row["voxel"])}">'
        f"{int(row['number'])}: {float(row['volume_ml']):.2f} mL</button>"
        for row in rows
    )
    return f'<section><h2>{words["missed"]}</h2><p class="tools">{items or words["no_missed"]}</p></section>'


def _comparison(rows: Sequence[Compared], words: Mapping[str, str]) -> str:
    head = "".join(
        f'<th scope="col">{words[name]}</th>' for name in ("method", "tdv_column", "gadc_column", "lesions")
    )
    body = "".join(
        f"<tr><td>{escape(spoken_name(row, words))}</td><td>{row.tdv_ml:.2f}</td>"
        f"<td>{'–' if row.gadc is None else f'{row.gadc:.2f}'}</td><td>{row.lesions}</td></tr>"
        for row in rows
    )
    return (
        f'<section><h2>{words["comparison"]}</h2><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></section>"
    )


def _help(words: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{''.join(f'<kbd>{escape(k)}</kbd> ' for k in keys.split(' '))}</td><td>{words[word]}</td></tr>"
        for keys, word in _KEYS
    )
    return (
        f'<dialog id="help"><h2>{words["help"]}</h2><table><tbody>{rows}</tbody></table>'
        f'<button type="button" id="help-close">{words["close"]}</button></dialog>'
    )
