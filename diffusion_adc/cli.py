"""One command table. Heavy imports happen only inside the command that needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diffusion_adc import __version__
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError

DONE: Final = 0
SOME_REFUSED: Final = 3
SIGNALLED: Final = 75


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self.what, self.shown = what, -1
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self.bar is None:
                self.bar = tqdm(total=total, desc=self.what, unit="case", leave=False)
            self.bar.update(done - self.bar.n)
            if done >= total:
                self.bar.close()
        elif total and (10 * done // total > self.shown):
            self.shown = 10 * done // total
            print(f"{self.what}: {done} of {total}", file=sys.stderr, flush=True)


def _three(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 160x160x40")
    return values


def _pairs(text: str) -> dict[str, str]:
    pairs = dict(part.partition("=")[::2] for part in text.split(",") if part)
    if not all(pairs.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,NAME=VALUE")
    return pairs


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


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
        b_values=args.b, adc_unit=args.adc_unit, label_values=args.label_values, provenance=args.provenance,
        tumor_free_ok=args.tumor_free_ok, overwrite=args.overwrite,
    )  # fmt: skip
    report = ingest(args.source, args.out, options, progress=Progress("ingest"))
    print(report.table())
    return SOME_REFUSED if report.refused else DONE


def _check(args: argparse.Namespace) -> int:
    from diffusion_adc.intake.check import check_cohort

    return _print_rows(check_cohort(args.cohort), args.json)


def _audit(args: argparse.Namespace) -> int:
    from diffusion_adc.intake.audit import audit_cohort

    return _print_rows(audit_cohort(args.cohort), args.json)


def _print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(list(rows), indent=2))
    else:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print("\t".join(columns))
        for row in rows:
            print("\t".join(_short(row.get(column)) for column in columns))
    return SOME_REFUSED if any(row.get("code") for row in rows) else DONE


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _experiment(args: argparse.Namespace) -> Any:
    from diffusion_adc.config import compose

    return compose(args.config, args.overrides)


def _fit(args: argparse.Namespace) -> int:
    experiment = _experiment(args)
    if args.print_config:
        from diffusion_adc.config import dump, parse

        print(dump(*parse(experiment)), end="")
        return DONE
    if args.out is None:
        raise UsageError("no run folder", "--out RUN", "name the folder to train into")
    from diffusion_adc.train import fit

    trained = fit(experiment, args.out, args.resume, sys.argv, quiet=not sys.stderr.isatty())
    print(f"run in {args.out}" if trained else f"{args.out.name}: up to date")
    return DONE


def _validate(args: argparse.Namespace) -> int:
    from diffusion_adc.config import compose
    from diffusion_adc.train import validate

    experiment = compose([args.run / "experiment.yaml"], args.overrides)
    for name, value in sorted(
        validate(experiment, args.run, sys.argv, quiet=not sys.stderr.isatty()).items()
    ):
        print(f"{name}\t{value:.6g}")
    return DONE


def _draw(args: argparse.Namespace) -> int:
    from diffusion_adc.inference.draw import DrawSettings, draw_cohort, run_settings
    from diffusion_adc.records.maps import read_maps_manifest

    settings = run_settings(args.run)
    chosen = {
        name: getattr(args, name) for name in ("draws", "steps", "seed") if getattr(args, name) is not None
    }
    draw_cohort(
        args.run, args.cohort, args.out, args.split, DrawSettings(**{**vars(settings), **chosen}),
        progress=Progress("tumor maps"),
    )  # fmt: skip
    refused = read_maps_manifest(args.out).get("refused") or {}
    for reason in refused.values():
        print(f"refused {reason}", file=sys.stderr)
    print(f"tumor maps in {args.out}")
    return SOME_REFUSED if refused else DONE


def _evaluate(args: argparse.Namespace) -> int:
    from diffusion_adc.evaluation.evaluate import evaluate
    from diffusion_adc.evaluation.table import format_table

    scores = evaluate(args.maps, args.cohort, args.truth, progress=Progress("scores"))
    print(format_table(scores))
    print(f"scores in {args.maps}")
    return DONE


def _test(args: argparse.Namespace) -> int:
    from diffusion_adc.config import compose

    cohort = Path(compose([args.run / "experiment.yaml"], args.overrides).values["cohort"])
    truth = cohort.with_name(f"{cohort.name}.truth")
    maps = args.run / "maps" / "test"
    step = argparse.Namespace(
        run=args.run, cohort=cohort, out=maps, split="test", draws=None, steps=None, seed=None
    )
    refused = _draw(step)
    return (
        _evaluate(argparse.Namespace(maps=maps, cohort=cohort, truth=truth if truth.is_dir() else None))
        or refused
    )


def _review(args: argparse.Namespace) -> int:
    from diffusion_adc.review.site import write_site

    index = write_site(args.maps, args.cohort, args.out, language=args.lang, progress=Progress("pages"))
    print(f"open {index}")
    return DONE


def _runs(args: argparse.Namespace) -> int:
    from diffusion_adc.records.runs import list_runs

    rows = list_runs(args.folder)
    if not rows:
        print(f"no runs in {args.folder}")
        return DONE
    return _print_rows(rows, args.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffusion-adc",
        description="Tumor-specific ADC maps from body MRI. Research use only, not for diagnosis.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks and full paths")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run_command=run, overridable=False)
        return sub

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
    sub.add_argument("--size", type=_three, default=(160, 160, 40), help="voxels, e.g. 160x160x40")
    sub.add_argument("--spacing", type=_three, default=(2.5, 2.5, 5.0), help="mm, e.g. 2.5x2.5x5")
    sub.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (default: all cores)"
    )
    sub.add_argument("--reuse", action="store_true", help="keep OUT if it was made with the same options")

    sub = command("ingest", _ingest, "examinations on disk → a cohort")
    sub.add_argument("source", type=Path, metavar="SOURCE", help="a folder with one folder per case")
    sub.add_argument("out", type=Path, metavar="OUT")
    sub.add_argument("--layout", choices=("nifti",), default="nifti")
    sub.add_argument(
        "--names", type=_pairs, default={}, help="file names by volume: dwi_high=hbv,tumor_label=lesion"
    )
    sub.add_argument(
        "--id-prefix", default="", help="joined to bare numbers with a hyphen: PICAI → PICAI-10021"
    )
    sub.add_argument(
        "--allow-missing", type=_names, default=(), help="sequences that may be missing: t1w,dwi_low"
    )
    sub.add_argument(
        "--b", type=_pairs, default={}, help="b-values in s/mm² or unknown: dwi_low=50,dwi_high=unknown"
    )
    sub.add_argument("--adc-unit", help="size of the stored ADC's unit in mm²/s: 1, 1e-3 or 1e-6")
    sub.add_argument("--label-values", help="labels that mean tumor: 1-5 or 1,3")
    sub.add_argument("--provenance", choices=("restricted", "public", "synthetic"), default="restricted")
    sub.add_argument("--tumor-free-ok", action="store_true", help="an empty target means a tumor-free case")
    sub.add_argument("--overwrite", action="store_true", help="replace a cohort at OUT")

    for name, run, text in (
        ("check", _check, "quality report of a cohort, one row per case"),
        ("audit", _audit, "are the targets exact selections of the ADC map?"),
    ):
        sub = command(name, run, text)
        sub.add_argument("cohort", type=Path, metavar="COHORT")
        sub.add_argument("--json", action="store_true")

    sub = command("fit", _fit, "train from experiment YAMLs; any key is overridden by --a.b=value")
    sub.set_defaults(overridable=True)
    sub.add_argument(
        "-c", "--config", type=Path, action="append", default=[], metavar="YAML", help="stacked left to right"
    )
    sub.add_argument("--out", type=Path, metavar="RUN")
    sub.add_argument("--resume", default="auto", help="auto (default), never, or a checkpoint")
    sub.add_argument("--print_config", action="store_true", help="print the complete experiment and stop")

    for name, run, text in (
        ("validate", _validate, "score a run on its validation patches"),
        ("test", _test, "draw a run's test split and score it"),
    ):
        sub = command(name, run, text)
        sub.set_defaults(overridable=True)
        sub.add_argument("--run", type=Path, required=True, metavar="RUN")

    sub = command("draw", _draw, "tumor maps for a cohort from a run")
    sub.add_argument("--run", type=Path, required=True, metavar="RUN")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="MAPS")
    sub.add_argument("--split", choices=("train", "val", "test", "all"), default="test")
    sub.add_argument("--draws", type=int, help="plausible edits per case (default: the experiment's)")
    sub.add_argument("--steps", type=int, help="steps per draw (default: the experiment's)")
    sub.add_argument("--seed", type=int)

    sub = command(
        "evaluate", _evaluate, "score tumor maps against the cohort's targets, beside the baselines"
    )
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--truth", type=Path, help="sealed truth of digital patients (COHORT.truth)")

    sub = command("review", _review, "pages a reviewer opens in a browser")
    sub.add_argument("maps", type=Path, metavar="MAPS")
    sub.add_argument("--cohort", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, metavar="SITE")
    sub.add_argument("--lang", choices=("en", "ja"), default="en")

    sub = command("runs", _runs, "the runs here: state, steps, best score, cohort")
    sub.add_argument("folder", type=Path, nargs="?", default=Path("runs"))
    sub.add_argument("--json", action="store_true")
    return parser


def main(argv: Iterable[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0 done · 1 failed while working · 2 wrong usage or configuration · 3 done but some cases refused ·
    4 stopped on non-finite values · 75 stopped by a signal after saving, resumable.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(list(argv) if argv is not None else None)
    if rest and not args.overridable:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    try:
        return args.run_command(args)
    except DiffusionAdcError as error:
        if args.debug:
            raise
        print(f"diffusion-adc {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"diffusion-adc {args.command}: interrupted", file=sys.stderr)
        return SIGNALLED
    except Exception as error:
        if args.debug:
            raise
        # The text of a foreign error may hold paths or header text; its kind is what can be said safely.
        print(
            f"diffusion-adc {args.command}: failed while working ({type(error).__name__}); "
            "run again with `diffusion-adc --debug …` to see where",
            file=sys.stderr,
        )
        return 1
