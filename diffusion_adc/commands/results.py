"""Commands that score, show and hand on tumor maps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffusion_adc.commands.words import DONE, SOME_REFUSED, Progress, Table, names
from diffusion_adc.domain.errors import UsageError


def add(command: Table) -> None:
    """Add the commands to the table."""
    sub = command(
        "evaluate", evaluate_maps, "score tumor maps against the cohort's targets, beside the baselines"
    )
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--truth", type=Path, help="sealed truth of digital patients (COHORT.truth)")

    sub = command(
        "compare",
        _compare,
        "several methods' maps of the same cases: paired differences, bars and the verdict",
    )
    sub.add_argument(
        "maps", type=Path, nargs="+", metavar="MAPS", help="at least two; one id twice: training seeds"
    )
    sub.add_argument(
        "--cohort", type=Path, nargs="+", required=True,
        help="one, or one with planted ambiguity and one without, pooled half and half in the verdict",
    )  # fmt: skip
    sub.add_argument("--truth", type=Path, nargs="+", default=[], help="sealed truths of digital patients")
    sub.add_argument("--flow", metavar="ID", help="method the verdict is about (default: B8, else the first)")
    sub.add_argument(
        "--out", type=Path, metavar="FOLDER", help="comparison.json and figures (default: first MAPS)"
    )
    sub.add_argument("--json", action="store_true", help="print the comparison as JSON")

    sub = command("review", _review, "pages a reviewer opens in a browser")
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="SITE")
    sub.add_argument("--lang", choices=("en", "ja"), default="en")

    sub = command(
        "export", _export, "tumor maps → DICOM, a run → model folder, a cohort → nnU-Net's raw folders"
    )
    sub.add_argument("source", type=Path, metavar="MAPS|RUN|COHORT", help="what --to takes")
    sub.add_argument("--to", choices=("dicom", "model", "nnunet"), required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    sub.add_argument("--cohort", type=Path, help="of the maps; for a model the one its run names by default")
    sub.add_argument(
        "--reference", type=Path, metavar="DICOM", help="to dicom: folder with the scanner's ADC series"
    )
    sub.add_argument("--cases", type=names, help="to dicom: case IDs (default: all of MAPS)")
    sub.add_argument(
        "--checkpoint", choices=("best", "last"), default="best", help="to model: which one (default best)"
    )
    sub.add_argument(
        "--dataset", type=int, default=501, help="to nnunet: number of the dataset (default 501)"
    )
    sub.add_argument("--allow-tainted", metavar="DECISION", help="reference of the decision to export")

    sub = command("ingest-maps", _ingest_maps, "another method's label maps or probabilities → tumor maps")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="CASE_ID.nii.gz each, on the ADC map's grid")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="MAPS")
    sub.add_argument("--id", required=True, help="the method's name in tables, e.g. nnunet")
    sub.add_argument("--split", choices=("train", "val", "test", "all"), default="test")
    sub.add_argument("--label-values", type=names, help="labels that mean tumor: 1,3 (default: all above 0)")


def evaluate_maps(args: argparse.Namespace) -> int:
    from diffusion_adc.evaluation.evaluate import evaluate
    from diffusion_adc.evaluation.table import format_table, format_verdicts

    scores = evaluate(args.maps, args.cohort, args.truth, progress=Progress("scores"))
    print(format_table(scores))
    print(f"\nBars\n{format_verdicts(scores)}")
    tell_tracker(args.maps)
    print(f"scores in {args.maps}")
    return DONE


def _compare(args: argparse.Namespace) -> int:
    import json

    from diffusion_adc.evaluation.comparison import compare
    from diffusion_adc.evaluation.report import comparison_record, format_comparison, nfe_picture
    from diffusion_adc.records.atomic import write_json

    found = compare(args.maps, args.cohort, args.truth, flow=args.flow, progress=Progress("scores"))
    out = args.out or args.maps[0]
    record = comparison_record(found)
    write_json(out / "comparison.json", record)
    nfe_picture(found, out / "figures")
    print(json.dumps(record, indent=2) if args.json else format_comparison(found))
    if not args.json:
        print(f"\ncomparison in {out}")
    return DONE


def _review(args: argparse.Namespace) -> int:
    from diffusion_adc.review.site import write_site

    index = write_site(args.maps, args.cohort, args.out, language=args.lang, progress=Progress("pages"))
    print(f"open {index}")
    tell_tracker(args.maps, index)
    return DONE


def tell_tracker(maps: Path, page: Path | None = None) -> None:
    """Add scores, or a review page, to the tracker's entry of the run that the maps lie in, if they lie in one."""
    from diffusion_adc.callbacks.evaluated import log_evaluation, log_page, run_of

    run = run_of(maps)
    if run is not None and page is None:
        log_evaluation(run, maps)
    elif run is not None and page is not None:
        log_page(run, page)


def _export(args: argparse.Namespace) -> int:
    return {"dicom": _to_dicom, "model": _to_model, "nnunet": _to_nnunet}[args.to](args)


def _to_dicom(args: argparse.Namespace) -> int:
    from diffusion_adc.custody.lineage import refuse_tainted
    from diffusion_adc.export.dicom import export_dicom

    if args.cohort is None:
        raise UsageError("no cohort", "--cohort COHORT", "give the cohort that the maps were drawn for")
    refuse_tainted(args.source, args.allow_tainted, use="export", cohort=args.cohort)
    report = export_dicom(
        args.source,
        args.cohort,
        args.out,
        reference=args.reference,
        cases=args.cases,
        progress=Progress("cases"),
    )
    print(report.table())
    return SOME_REFUSED if report.refused else DONE


def _to_model(args: argparse.Namespace) -> int:
    from diffusion_adc.export.model import export_model

    done = export_model(
        args.source, args.out, args.cohort, checkpoint=args.checkpoint, allow_tainted=args.allow_tainted,
        progress=Progress("draws to compare"),
    )  # fmt: skip
    print(done.report.line())
    print(f"model in {args.out}")
    return DONE


def _to_nnunet(args: argparse.Namespace) -> int:
    from diffusion_adc.export.nnunet import export_nnunet

    done = export_nnunet(args.source, args.out, number=args.dataset, progress=Progress("cases"))
    print(
        f"{done.training} labeled cases ({done.validation} validate) and {done.test} test cases of "
        f"{', '.join(done.channels)} in {args.out}"
    )
    return DONE


def _ingest_maps(args: argparse.Namespace) -> int:
    from diffusion_adc.inference.foreign import ingest_maps

    try:
        labels = None if args.label_values is None else [int(value) for value in args.label_values]
    except ValueError:
        raise UsageError("label values that are no whole numbers", "--label-values 1,3") from None
    report = ingest_maps(
        args.folder, args.cohort, args.out, method=args.id, split=args.split, label_values=labels,
        progress=Progress("cases"),
    )  # fmt: skip
    for reason in report.refused.values():
        print(f"refused {reason}", file=sys.stderr)
    at = "" if report.tau is None else f", probabilities cut at {report.tau:g}"
    print(f"{len(report.written)} tumor maps of {args.id} in {args.out}{at}")
    return SOME_REFUSED if report.refused else DONE
