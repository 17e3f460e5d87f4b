"""Commands for the hand-over from a clinic and for opt-out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffusion_adc.commands.words import DONE, SOME_REFUSED, Progress, Table, names, pairs
from diffusion_adc.domain.errors import UsageError


def add(command: Table) -> None:
    """Add the commands to the table."""
    sub = command(
        "deliver", _deliver, "encrypted, signed hand-over: keygen, seal at the clinic, open at the institute"
    )
    steps = sub.add_subparsers(dest="step", required=True, metavar="keygen|seal|open")

    step = steps.add_parser("keygen", help="make one side's keys", allow_abbrev=False)
    step.add_argument("folder", type=Path, metavar="KEYS", help="a new folder apart from all data")
    step.add_argument("--role", choices=("clinic", "institute"), required=True)

    step = steps.add_parser(
        "seal", help="at the clinic: de-identify, list, sign and encrypt", allow_abbrev=False
    )
    step.add_argument(
        "source", type=Path, metavar="SOURCE", help="one folder per person, named by the clinic's ID"
    )
    step.add_argument("package", type=Path, metavar="PACKAGE", help="the file to make")
    step.add_argument("--keys", type=Path, required=True, help="the clinic's keys")
    step.add_argument(
        "--to", type=Path, action="append", required=True, metavar="RECIPIENT",
        help="the institute's recipient.pub; twice while it rotates keys",
    )  # fmt: skip
    step.add_argument(
        "--link-table", type=Path, required=True, metavar="FOLDER",
        help="who is who and what was sent; stays at the clinic",
    )  # fmt: skip
    step.add_argument("--ids", type=Path, metavar="CSV", help="clinic_id,research_id; else by keyed hash")
    step.add_argument("--id-prefix", default="P", help="of research IDs made by keyed hash (default P)")
    step.add_argument("--names", type=pairs, default={}, help="NIfTI file name → sequence: hbv=dwi_high")
    step.add_argument("--table", type=Path, metavar="CSV", help="clinical table to send along")
    step.add_argument("--id-column", default="clinic_id", help="the table's column of clinic IDs")
    step.add_argument(
        "--faces", choices=("refuse", "drop", "accept"), default="refuse", help="series that show a face"
    )
    step.add_argument("--faces-reason", default="", help="why they are accepted; goes into the manifest")
    step.add_argument("--drop-age", action="store_true", help="do not send ages")
    step.add_argument("--drop-sex", action="store_true", help="do not send the sex")
    step.add_argument(
        "--reviewed",
        type=names,
        default=(),
        metavar="IDS",
        help="research IDs whose pictures were looked at for text",
    )

    step = steps.add_parser(
        "open", help="at the institute: decrypt, verify and unpack, all or nothing", allow_abbrev=False
    )
    step.add_argument("package", type=Path, metavar="PACKAGE")
    step.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    step.add_argument(
        "--keys", type=Path, action="append", required=True, help="the institute's keys; twice while rotating"
    )
    step.add_argument(
        "--clinic",
        type=Path,
        action="append",
        required=True,
        metavar="SIGNING_PUB",
        help="a trusted clinic's signing.pub",
    )
    step.add_argument(
        "--ledger", type=Path, required=True, metavar="JSONL", help="log of the deliveries received"
    )
    step.add_argument("--cohort", type=Path, help="its withdrawn persons are refused")

    sub = command("withdraw", _withdraw, "opt-out: stop all use of these persons' data")
    sub.add_argument("cohort", type=Path, metavar="COHORT")
    sub.add_argument("ids", metavar="IDS", help="a file with one research ID per line, or IDs with commas")
    sub.add_argument(
        "--runs", type=Path, help="folder of runs, maps and pages (default: runs, where there is one)"
    )
    sub.add_argument("--also", type=Path, action="append", default=[], help="further folders to look through")
    sub.add_argument("--decision", help="reference of the request, for the log; no free text")
    sub.add_argument("--when", help="effective time, ISO 8601 in UTC (default: now)")
    sub.add_argument("--keys", type=Path, help="keys of this side: its signing.key signs the certificate")


def _deliver(args: argparse.Namespace) -> int:
    return {"keygen": _keygen, "seal": _seal, "open": _open}[args.step](args)


def _keygen(args: argparse.Namespace) -> int:
    from diffusion_adc.custody.keys import keygen

    public = keygen(args.folder, args.role)
    print("send to the other side, and let them confirm it by telephone:")
    for name, line in public.items():
        print(f"  {name}  {line}")
    return DONE


def _seal(args: argparse.Namespace) -> int:
    from diffusion_adc.custody import keys, link_table, scrub
    from diffusion_adc.custody.faces import FacePolicy
    from diffusion_adc.custody.seal import Table as ClinicTable
    from diffusion_adc.custody.seal import seal
    from diffusion_adc.custody.seal_dicom import ClinicRules

    if args.faces == "accept" and not args.faces_reason:
        raise UsageError(
            "faces accepted without a reason", "--faces-reason TEXT", "say why; it goes into the manifest"
        )
    if not args.source.is_dir():
        raise UsageError("no source folder", "one folder per person", "check SOURCE")
    persons = sorted(path.name for path in args.source.iterdir() if path.is_dir() and path.name[:1] != ".")
    scrub.hide(persons)
    secret = keys.clinic_secret(args.keys / keys.SECRET)
    keys.apart_from([args.keys], args.source, args.package.parent / args.package.name)
    ids = (
        link_table.read_ids(args.ids) if args.ids else link_table.assign_ids(persons, secret, args.id_prefix)
    )
    sealed = seal(
        args.source, args.package, ids=ids, recipients=keys.recipients(args.to),
        signing_key=keys.signing_key(args.keys / keys.SIGNING),
        rules=ClinicRules(
            secret, keep_age=not args.drop_age, keep_sex=not args.drop_sex,
            faces=FacePolicy(args.faces, args.faces_reason), reviewed=frozenset(args.reviewed),
        ),
        link_table=args.link_table, names=args.names,
        table=ClinicTable(args.table, args.id_column) if args.table else None, progress=Progress("persons"),
    )  # fmt: skip
    for line in sealed.warnings:
        print(f"warning {line}")
    for line in sealed.refused:
        print(f"refused {line}", file=sys.stderr)
    manifest = sealed.manifest
    print(
        f"delivery {manifest.sequence}: {len(manifest.research_ids)} persons, {len(manifest.files)} files in "
        f"{args.package.name}"
    )
    for reason, files in sorted(manifest.left_out.items()):
        print(f"left at the clinic: {files} {reason}")
    return SOME_REFUSED if sealed.refused else DONE


def _open(args: argparse.Namespace) -> int:
    from diffusion_adc.custody import keys
    from diffusion_adc.custody.open import open_package
    from diffusion_adc.records.cohort import withdrawn_ids

    keys.apart_from(args.keys, args.out)
    opened = open_package(
        args.package, args.out, identities=keys.identities(folder / keys.IDENTITY for folder in args.keys),
        clinic_keys=[keys.public_key(path) for path in args.clinic], ledger=args.ledger,
        withdrawn=withdrawn_ids(args.cohort) if args.cohort else (),
    )  # fmt: skip
    manifest = opened.manifest
    print(
        f"delivery {manifest.sequence}: {len(manifest.research_ids)} persons, {len(manifest.files)} files in {args.out}"
    )
    if opened.missing:
        print(f"never arrived: deliveries {', '.join(map(str, opened.missing))}", file=sys.stderr)
    return DONE


def _withdraw(args: argparse.Namespace) -> int:
    from diffusion_adc.custody.keys import SIGNING, signing_key
    from diffusion_adc.custody.withdraw import withdraw

    report = withdraw(
        args.cohort, args.ids, runs=args.runs or (Path("runs") if Path("runs").is_dir() else None), decision=args.decision,
        when=args.when, also=args.also, key=signing_key(args.keys / SIGNING) if args.keys else None,
    )  # fmt: skip
    print(report.text())
    return DONE
