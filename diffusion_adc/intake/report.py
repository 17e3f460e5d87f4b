"""What an ingest made of the files, as one page: a row of thumbnails per case shows a wrong label at a glance.

The page stands alone: pictures are inside it, nothing is asked of any server, every text is escaped. It holds
pictures of persons' scans and belongs beside the cohort, under the same care.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError
from diffusion_adc.intake.report_words import WORDS
from diffusion_adc.records.atomic import write_text
from diffusion_adc.records.cohort import load_volume, read_cohort

if TYPE_CHECKING:
    from diffusion_adc.intake.ingest import IngestReport

REPORT: Final = "ingest_report.html"
_SHOWN: Final = (seq.T1W, seq.T2W, seq.DWI_LOW, seq.DWI_HIGH, seq.ADC)
_ADC_WINDOW: Final = (0.0, 3.0)
_MOST_PIXELS: Final = 160
_WIDTH: Final = 130
_OUTLINE: Final = (255, 60, 40)

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c4442d }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 90rem; padding: 0 1rem 4rem }
.banner { background: #2b5f8a; color: #fff; padding: .4rem 1rem; margin: 0 -1rem }
.banner.restricted { background: var(--bad) }
.case { border-top: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; padding: .8rem 0 }
.case h3 { flex-basis: 100%; margin: 0; font-size: 1rem }
.pictures { display: flex; gap: .4rem; flex-wrap: wrap }
figure { margin: 0; text-align: center; font-size: .75rem; width: 130px }
figure img { background: #000; display: block; image-rendering: pixelated; width: 130px }
figure .none { align-items: center; background: var(--soft); display: flex; height: 90px; justify-content: center }
dl { display: grid; font-size: .82rem; font-variant-numeric: tabular-nums; gap: 0 .8rem; grid-template-columns: auto 1fr;
     margin: 0; max-width: 40rem }
dt { opacity: .7 } dd { margin: 0 } .warning, .refused { color: var(--bad) }
"""


def write_report(cohort_dir: Path, report: IngestReport, language: str = "en") -> Path | None:
    """Write COHORT/ingest_report.html.

    Args:
        cohort_dir: The cohort, written.
        report: What became of each case.
        language: ``en`` or ``ja``.

    Returns:
        The page; None where every case was refused, since there is no cohort to lie beside.

    Raises:
        UsageError: A language that does not exist.
        CohortError: The cohort cannot be read.
    """
    if language not in WORDS:
        raise UsageError(f"language {language!r}", f"one of {', '.join(WORDS)}")
    if not (cohort_dir / "cohort.json").is_file():
        return None
    words = WORDS[language]
    cohort = read_cohort(cohort_dir)
    cases = "".join(_case(cohort_dir, case, report.warnings, words) for case in cohort.cases)
    refused = "".join(f'<li class="refused">{escape(text)}</li>' for text in report.refused)
    known = {case.research_id for case in cohort.cases}
    rest = [text for text in report.warnings if not known & set(text.split())]
    others = "".join(f'<li class="warning">{escape(text)}</li>' for text in rest)
    title = words["title"]
    page = f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{_STYLE}</style></head><body>
<div class="banner {cohort.provenance}">{words["provenance_" + cohort.provenance]}</div>
<h1>{title}</h1>
<p>{words["counts"].format(taken=len(cohort.cases), refused=len(report.refused))} {escape(report.note)}</p>
{f"<h2>{words['refused']}</h2><ul>{refused}</ul>" if refused else ""}
{f"<h2>{words['warnings']}</h2><ul>{others}</ul>" if others else ""}
<h2>{words["cases"]}</h2><p>{words["legend"]}</p>
{cases}
</body></html>
"""
    path = cohort_dir / REPORT
    write_text(path, page)
    return path


def _case(cohort_dir: Path, case: Case, warnings: Sequence[str], words: Mapping[str, str]) -> str:
    record = json.loads((cohort_dir / "cases" / case.case_id / "case.json").read_text(encoding="utf-8"))
    name = escape(case.case_id)
    rows = "".join(
        f"<dt>{words[key]}</dt><dd>{escape(str(value))}</dd>"
        for key, value in _facts(case, record, words)
        if value
    )
    own = [text for text in warnings if case.research_id in text.split()]
    doubts = "".join(f'<dt>{words["warning"]}</dt><dd class="warning">{escape(text)}</dd>' for text in own)
    return (
        f'<section class="case" id="{name}"><h3>{name}</h3><div class="pictures">'
        f"{_pictures(cohort_dir, case, words)}</div><dl>{rows}{doubts}</dl></section>\n"
    )


def _facts(case: Case, record: Mapping[str, Any], words: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the row says in words, in order."""
    b_values = [
        f"{name} {'?' if b is None else f'{b:g}'}"
        for name, b in ((seq.DWI_LOW, case.b_low), (seq.DWI_HIGH, case.b_high))
        if name in case.files
    ]
    measured = record.get("b_measured")
    if measured:
        b_values.append(f"{words['measured']} {', '.join(f'{b:g}' for b in measured)}")
    agreement = record.get("adc_agreement")
    figures = ""
    if agreement:
        figures = (
            f"{agreement['verdict']}: r {agreement['correlation']:.4f}, {words['ratio']} {agreement['ratio']:.3f}, "
            f"{words['slope']} {agreement['slope']:.3f}"
        )
    overlap = [f"{name} {share:.0%}" for name, share in (record.get("overlap") or {}).items()]
    for name, moved in (record.get("registration") or {}).items():
        overlap.append(f"{name} {moved.get('kind', '')} {moved.get('motion_mm', 0) or 0:.1f} mm")
    ignored = [f"{kind} ({reason})" for kind, reason in record.get("ignored") or []]
    return [
        ("tumor", words.get(f"tumor_{case.tumor_status}", case.tumor_status)),
        ("b", f"{', '.join(b_values)} s/mm² ({record.get('b_source', '')})"),
        ("unit", f"{record.get('adc_unit', '')} mm²/s ({case.adc_unit_source})"),
        ("agreement", figures),
        ("scanner", " ".join(filter(None, (case.scanner, f"{case.field_t:g} T" if case.field_t else "")))),
        ("overlap", ", ".join(overlap)),
        ("declared", ", ".join(case.declared)),
        ("ignored", "; ".join(ignored)),
        ("split", case.split),
    ]


def _pictures(cohort_dir: Path, case: Case, words: Mapping[str, str]) -> str:
    try:
        adc = load_volume(cohort_dir, case, seq.ADC, verify=False)
        orientation = nib.orientations.io_orientation(adc.affine)

        def canonical(name: str) -> NDArray[Any]:
            array = load_volume(cohort_dir, case, name, verify=False).array if name != seq.ADC else adc.array
            return np.asarray(nib.orientations.apply_orientation(array, orientation))

        label = canonical(seq.TUMOR_LABEL) > 0 if case.has_target else None
        k = canonical(seq.ADC).shape[2] // 2
        if label is not None and label.any():
            k = int(np.argmax(label.sum(axis=(0, 1))))
        spacing = np.linalg.norm(adc.affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
        wide, high = np.array(canonical(seq.ADC).shape[:2]) * spacing[:2]
        style = f"height:{round(_WIDTH * high / wide)}px"
        figures = []
        for name in _SHOWN:
            if name not in case.files:
                figures.append(f'<figure><span class="none">–</span>{name}</figure>')
                continue
            data = thumbnail(
                canonical(name)[:, :, k], None if label is None else label[:, :, k], name == seq.ADC
            )
            source = base64.b64encode(data).decode("ascii")
            figures.append(
                f'<figure><img src="data:image/png;base64,{source}" alt="{name}" style="{style}">{name}</figure>'
            )
        return "".join(figures)
    except DiffusionAdcError:
        return f"<p>{words['no_picture']}</p>"


def thumbnail(plane: NDArray[Any], outline: NDArray[np.bool_] | None = None, adc: bool = False) -> bytes:
    """A slice as PNG in radiological view, the patient's right on the left, without any text chunk.

    Args:
        plane: (I, J), I running to the patient's right and J to the front.
        outline: (I, J) whose edge is drawn in red.
        adc: In 1e-3 mm²/s: the window is fixed, so that a wrong unit is seen.
    """
    values = np.nan_to_num(np.asarray(plane, dtype=np.float32))
    low, high = _ADC_WINDOW
    if not adc:
        positive = values[values > 0]
        low, high = 0.0, float(np.percentile(positive, 99)) if positive.size else 1.0
    gray = (np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    step = max(1, -(-max(gray.shape) // _MOST_PIXELS))
    rgb = np.repeat(gray[::step, ::step, None], 3, axis=2)
    if outline is not None and outline.any():
        mask = ndimage.maximum_filter(outline, step)[::step, ::step] if step > 1 else outline
        edge = ndimage.binary_dilation(mask) & ~mask
        rgb[edge] = _OUTLINE
    return _png(np.ascontiguousarray(rgb[::-1, ::-1].transpose(1, 0, 2)))


def _png(rgb: NDArray[np.uint8]) -> bytes:
    """(row, column, 3) as PNG (ISO/IEC 15948): header, pixels, end, and no chunk for words."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows, columns = rgb.shape[:2]
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    lines = b"".join(b"\x00" + row.tobytes() for row in rgb)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
