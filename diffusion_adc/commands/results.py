"""Commands that score, show and hand on tumor maps."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusion_adc.commands.words import DONE, SOME_REFUSED, Progress, Table, names


def add(command: Table) -> None:
    """Add the commands to the table."""
    sub = command(
        "evaluate", evaluate_maps, "score tumor maps against the cohort's targets, beside the baselines"
    )
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--truth", type=Path, help="sealed truth of digital patients (COHORT.truth)")

    sub = command("review", _review, "pages a reviewer opens in a browser")
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="SITE")
    sub.add_argument("--lang", choices=("en", "ja"), default="en")

    sub = command(
        "export", _export, "tumor maps → DICOM: derived series, parametric map, segmentations, report"
    )
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--to", choices=("dicom",), required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    sub.add_argument("--reference", type=Path, metavar="DICOM", help="folder with the scanner's ADC series")
    sub.add_argument("--cases", type=names, help="case IDs (default: all of MAPS)")
    sub.add_argument(
        "--allow-tainted", metavar="DECISION", help="reference of the decision to export tainted maps"
    )


def evaluate_maps(args: argparse.Namespace) -> int:
    from diffusion_adc.evaluation.evaluate import evaluate
    from diffusion_adc.evaluation.table import format_table

    scores = evaluate(args.maps, args.cohort, args.truth, progress=Progress("scores"))
    print(format_table(scores))
    print(f"scores in {args.maps}")
    return DONE


def _review(args: argparse.Namespace) -> int:
    from diffusion_adc.review.site import write_site

    index = write_site(args.maps, args.cohort, args.out, language=args.lang, progress=Progress("pages"))
    print(f"open {index}")
    return DONE


def _export(args: argparse.Namespace) -> int:
    from diffusion_adc.custody.lineage import refuse_tainted
    from diffusion_adc.export.dicom import export_dicom

    refuse_tainted(args.maps, args.allow_tainted, use="export", cohort=args.cohort)
    report = export_dicom(
        args.maps,
        args.cohort,
        args.out,
        reference=args.reference,
        cases=args.cases,
        progress=Progress("cases"),
    )
    print(report.table())
    return SOME_REFUSED if report.refused else DONE
