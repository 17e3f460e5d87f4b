"""Commands that make and judge cohorts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from diffusion_adc.commands.words import DONE, SOME_REFUSED, Progress, Table, names, pairs, print_rows, three

LAYOUTS: Final = ("auto", "dicom", "nifti", "nnunet", "picai", "prostate158", "isles22", "ucsf_pdgm")


def add(command: Table) -> None:
    """Add the commands to the table."""
    sub = command(
        "phantom", _phantom, "simulate a cohort of digital patients and, beside it, its sealed truth"
    )
    sub.add_argument("out", type=Path, metavar="OUT")
    sub.add_argument("--cases", type=int, default=40, help="examinations (default 40)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--anatomy", default="pelvis", help="body region (default pelvis)")
    sub.add_argument("--readers", type=int, default=2, help="simulated readers per case (default 2)")
    sub.add_argument(
        "--ambiguity", choices=("on", "off"), default="on", help="do readers disagree (default on)"
    )
    sub.add_argument("--size", type=three, default=(160, 160, 40), help="voxels, e.g. 160x160x40")
    sub.add_argument("--spacing", type=three, default=(2.5, 2.5, 5.0), help="mm, e.g. 2.5x2.5x5")
    sub.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (default: all cores)"
    )
    sub.add_argument("--reuse", action="store_true", help="keep OUT if it was made with the same options")

    sub = command("ingest", _ingest, "examinations on disk → a cohort")
    sub.add_argument("source", type=Path, metavar="SOURCE", help="a folder with one folder per case")
    sub.add_argument("out", type=Path, metavar="OUT")
    sub.add_argument(
        "--layout", choices=LAYOUTS, default="auto", help="how SOURCE is laid out (default auto)"
    )
    sub.add_argument(
        "--names", type=pairs, default={}, help="file names by volume: dwi_high=hbv,tumor_label=lesion"
    )
    sub.add_argument(
        "--id-prefix", default="", help="joined to bare numbers with a hyphen: PICAI → PICAI-10021"
    )
    sub.add_argument(
        "--allow-missing", type=names, default=(), help="sequences that may be missing: t1w,dwi_low"
    )
    sub.add_argument(
        "--b", type=pairs, default={}, help="b-values in s/mm² or unknown: dwi_low=50,dwi_high=unknown"
    )
    sub.add_argument("--adc-unit", help="size of the stored ADC's unit in mm²/s: 1, 1e-3 or 1e-6")
    sub.add_argument(
        "--b-pair", type=_two, metavar="LOW,HIGH", help="the two b-values wanted of a series, s/mm²"
    )
    sub.add_argument("--label-values", help="labels that mean tumor: 1-5 or 1,3")
    sub.add_argument("--other-labels", help="labels of a target that are not tumor, an organ for instance: 1")
    sub.add_argument("--provenance", choices=("restricted", "public", "synthetic"), default="restricted")
    sub.add_argument("--tumor-free-ok", action="store_true", help="an empty target means a tumor-free case")
    sub.add_argument(
        "--target",
        metavar="PATH_OR_SERIES",
        help="folder with one target per research ID, or a DICOM series: seg or a pattern",
    )
    sub.add_argument(
        "--target-resample", choices=("nearest",), help="bring masks on another grid to the ADC grid"
    )
    sub.add_argument(
        "--register", choices=("none", "rigid", "affine"), default="none", help="T1w and T2w to the ADC map"
    )
    sub.add_argument("--clinical", type=Path, metavar="TABLE", help="clinical table: CSV, TSV or XLSX")
    sub.add_argument("--clinical-mapping", type=Path, metavar="YAML", help="what the table's columns are")
    sub.add_argument(
        "--clinical-encoding", help="of a CSV or TSV table: utf-8, cp932, euc-jp, iso-2022-jp, utf-16"
    )
    sub.add_argument("--rules", type=Path, metavar="YAML", help="which DICOM series is which sequence")
    sub.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (default: all cores)"
    )
    sub.add_argument("--lang", choices=("en", "ja"), default="en", help="of ingest_report.html")
    sub.add_argument("--overwrite", action="store_true", help="replace a cohort at OUT")

    sub = command(
        "ingest-corrections", _corrections, "a reviewer's corrections of maps → a new reader of the cohort"
    )
    sub.add_argument("file", type=Path, metavar="CORRECTIONS", help="the file that a review page saved")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--maps", type=Path, required=True, help="the maps that were reviewed")
    sub.add_argument("--reader", required=True, help="code of the reviewer, letters and digits")

    for name, run, text in (
        ("check", _check, "quality report of a cohort, one row per case"),
        ("audit", _audit, "are the targets exact selections of the ADC map?"),
    ):
        sub = command(name, run, text)
        sub.add_argument("cohort", type=Path, metavar="COHORT")
        sub.add_argument("--json", action="store_true")


def _two(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers such as 50,800") from None
    return low, high


def _phantom(args: argparse.Namespace) -> int:
    from diffusion_adc.phantom.options import PhantomOptions
    from diffusion_adc.phantom.simulate import cohort_up_to_date, simulate_cohort

    options = PhantomOptions(
        cases=args.cases, seed=args.seed, anatomy=args.anatomy, readers=args.readers,
        ambiguity=args.ambiguity == "on", size=args.size, spacing_mm=args.spacing,
    )  # fmt: skip
    if args.reuse and cohort_up_to_date(args.out, options):
        print(f"{args.out.name}: up to date")
        return DONE
    simulate_cohort(args.out, options, jobs=args.jobs, progress=Progress("digital patients"))
    print(f"{options.cases} digital patients in {args.out}, their truth in {args.out.name}.truth")
    return DONE


def _ingest(args: argparse.Namespace) -> int:
    from diffusion_adc.intake.ingest import IngestOptions, ingest

    options = IngestOptions(
        layout=args.layout, names=args.names, id_prefix=args.id_prefix, allow_missing=args.allow_missing,
        b_values=args.b, adc_unit=args.adc_unit, label_values=args.label_values,
        other_labels=args.other_labels, provenance=args.provenance,
        tumor_free_ok=args.tumor_free_ok, overwrite=args.overwrite, b_pair=args.b_pair, target=args.target,
        target_resample=args.target_resample, register=args.register, clinical=args.clinical,
        clinical_mapping=args.clinical_mapping, clinical_encoding=args.clinical_encoding, rules=args.rules,
        jobs=args.jobs, language=args.lang,
    )  # fmt: skip
    report = ingest(args.source, args.out, options, progress=Progress("ingest"))
    print(report.table())
    return SOME_REFUSED if report.refused else DONE


def _check(args: argparse.Namespace) -> int:
    from diffusion_adc.intake.check import check_cohort

    return print_rows(check_cohort(args.cohort), args.json)


def _audit(args: argparse.Namespace) -> int:
    from diffusion_adc.intake.audit import audit_cohort

    return print_rows(audit_cohort(args.cohort), args.json)


def _corrections(args: argparse.Namespace) -> int:
    from diffusion_adc.intake.corrections import ingest_corrections

    report = ingest_corrections(args.cohort, args.maps, args.file, args.reader)
    print(report.table())
    return SOME_REFUSED if report.refused else DONE
