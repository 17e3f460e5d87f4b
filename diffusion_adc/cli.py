"""One command table. Heavy imports happen only inside the command that needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from diffusion_adc import __version__
from diffusion_adc.commands import cohorts, custody, editors, results, runs
from diffusion_adc.commands.words import SIGNALLED, Run
from diffusion_adc.custody import scrub
from diffusion_adc.domain.errors import DiffusionAdcError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffusion-adc",
        description="Tumor-specific ADC maps from body MRI. Research use only, not for diagnosis.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks and full paths")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run_command=run, overridable=False)
        return sub

    for module in (cohorts, custody, runs, results, editors):
        module.add(command)
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
    args.overrides, args.parser = rest, parser
    # What a library logs or warns may hold paths and header text; folders named here are shown from there on.
    scrub.install([value for value in vars(args).values() if isinstance(value, Path)], debug=args.debug)
    try:
        try:
            return args.run_command(args)
        except DiffusionAdcError as error:
            interrupted = getattr(error, "cohort_dir", None)
            if interrupted is None:
                raise
            # A withdrawal that was cut short is finished first, whoever comes along.
            from diffusion_adc.custody.withdraw import finish_interrupted

            finish_interrupted(interrupted)
            return args.run_command(args)
    except DiffusionAdcError as error:
        if args.debug:
            raise
        print(f"diffusion-adc {args.command}: {scrub.scrub(str(error))}", file=sys.stderr)
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
