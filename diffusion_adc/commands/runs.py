"""Commands that train, draw and look after runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from diffusion_adc.commands.results import evaluate_maps
from diffusion_adc.commands.words import DONE, SOME_REFUSED, Progress, Table, names, pairs, print_rows
from diffusion_adc.domain.errors import UsageError


def add(command: Table) -> None:
    """Add the commands to the table."""
    sub = command("fit", _fit, "train from experiment YAMLs; any key is overridden by --a.b=value")
    sub.set_defaults(overridable=True)
    sub.add_argument(
        "-c", "--config", type=Path, action="append", default=[], metavar="YAML", help="stacked left to right"
    )
    sub.add_argument("--out", type=Path, metavar="RUN")
    sub.add_argument("--resume", default="auto", help="auto (default), never, or a checkpoint")
    sub.add_argument(
        "--allow-tainted", metavar="DECISION", help="reference of the decision to resume a tainted run"
    )
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
    sub.add_argument(
        "--sampler", help="euler, heun; ddim, dpmsolver++, unipc for a DDPM (default: the run's)"
    )
    sub.add_argument(
        "--method", choices=("draws", "base", "components"),
        help="what draws: the stage, its base head alone (B3), or a coin per component of it (B4b)",
    )  # fmt: skip
    sub.add_argument(
        "--covariates", choices=("given", "dropped", "permuted", "alone"),
        help="report on covariates: none known, another person's, or without images",
    )  # fmt: skip
    sub.add_argument(
        "--drop-sequences", type=names, metavar="NAMES", help="hidden from the model, e.g. t1w,t2w or dwi_low"
    )
    sub.add_argument("--id", help="name of the method in tables, e.g. B4b (default: the experiment's)")
    sub.add_argument(
        "--allow-tainted", metavar="DECISION", help="reference of the decision to draw from a tainted run"
    )

    sub = command("sweep", _sweep, "many runs of one experiment, here, on a cluster or by W&B's agents")
    sub.add_argument(
        "what", metavar="SWEEP.yaml|status|best", help="a sweep to run or resume, or what to show of one"
    )
    sub.add_argument("folder", type=Path, nargs="?", help="of the sweep, for status and best")
    sub.add_argument("--engine", choices=("optuna", "wandb"), default="optuna")
    sub.add_argument("--launcher", choices=("local", "slurm"), default="local")
    sub.add_argument(
        "--trials", type=int, help="trials in all (default: the sweep's run_cap, or the whole grid)"
    )
    sub.add_argument("--workers", type=int, default=1, help="worker processes, jobs or agents (default 1)")
    sub.add_argument("--seed", type=int, default=0, help="of the search")
    sub.add_argument("--out", type=Path, metavar="SWEEP", help="default: runs/sweeps/NAME")
    sub.add_argument(
        "--stall", type=float, default=3600.0, help="seconds without a new metric until a trial is hung"
    )
    sub.add_argument(
        "--slurm", type=pairs, default={}, help="of the jobs: timeout_min=600,slurm_partition=gpu"
    )
    sub.add_argument("--project", default="diffusion-adc", help="W&B project")
    sub.add_argument("--entity", help="W&B entity")
    sub.add_argument("--to", type=Path, metavar="YAML", help="with best: write it as an experiment")
    sub.add_argument("--json", action="store_true")

    sub = command("runs", _runs, "the runs here: state, steps, best score, cohort")
    sub.add_argument("folder", type=Path, nargs="?", default=Path("runs"))
    sub.add_argument("--json", action="store_true")

    sub = command(
        "sync", _sync, "send a run that was tracked offline, after looking for what must not be sent"
    )
    sub.add_argument("run", type=Path, metavar="RUN")
    sub.add_argument("--dry-run", action="store_true", help="look only; no connection is made")
    sub.add_argument(
        "--allow-tainted", metavar="DECISION", help="reference of the decision to send a tainted run"
    )


def _experiment(args: argparse.Namespace) -> Any:
    from diffusion_adc.config import compose

    return compose(args.config, args.overrides)


def _fit(args: argparse.Namespace) -> int:
    experiment = _experiment(args)
    if args.print_config:
        from diffusion_adc.config import dump, parse

        print(dump(*parse(experiment)), end="")
        return DONE
    if args.out is None and "WANDB_SWEEP_ID" in os.environ:  # started by a W&B agent, which names the run
        args.out = Path("runs") / "sweeps" / os.environ["WANDB_SWEEP_ID"] / os.environ["WANDB_RUN_ID"]
    rehearsal = bool((experiment.values.get("trainer") or {}).get("fast_dev_run"))
    if args.out is None and rehearsal:
        args.out = Path("rehearsal")  # named in messages, never made
    if args.out is None:
        raise UsageError("no run folder", "--out RUN", "name the folder to train into")
    from diffusion_adc.train import fit

    trained = fit(
        experiment,
        args.out,
        args.resume,
        sys.argv,
        quiet=not sys.stderr.isatty(),
        allow_tainted=args.allow_tainted,
    )
    if rehearsal:
        print("dry run done: trained and validated a few patches, kept nothing")
    else:
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
    given = {
        name: getattr(args, name, None)
        for name in ("draws", "steps", "seed", "sampler", "method", "covariates", "drop_sequences", "id")
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if "drop_sequences" in chosen:
        chosen["drop_sequences"] = list(chosen["drop_sequences"])
    draw_cohort(
        args.run, args.cohort, args.out, args.split, DrawSettings(**{**vars(settings), **chosen}),
        progress=Progress("tumor maps"), allow_tainted=args.allow_tainted,
    )  # fmt: skip
    refused = read_maps_manifest(args.out).get("refused") or {}
    for reason in refused.values():
        print(f"refused {reason}", file=sys.stderr)
    print(f"tumor maps in {args.out}")
    return SOME_REFUSED if refused else DONE


def _test(args: argparse.Namespace) -> int:
    from diffusion_adc.config import compose

    cohort = Path(compose([args.run / "experiment.yaml"], args.overrides).values["cohort"])
    truth = cohort.with_name(f"{cohort.name}.truth")
    maps = args.run / "maps" / "test"
    step = argparse.Namespace(
        run=args.run,
        cohort=cohort,
        out=maps,
        split="test",
        draws=None,
        steps=None,
        seed=None,
        allow_tainted=None,
    )
    refused = _draw(step)
    return (
        evaluate_maps(argparse.Namespace(maps=maps, cohort=cohort, truth=truth if truth.is_dir() else None))
        or refused
    )


def _runs(args: argparse.Namespace) -> int:
    from diffusion_adc.records.runs import list_runs

    rows = list_runs(args.folder)
    if not rows:
        print(f"no runs in {args.folder}")
        return DONE
    return print_rows(rows, args.json)


def _sync(args: argparse.Namespace) -> int:
    from diffusion_adc.callbacks.sync import sync

    print(sync(args.run, dry_run=args.dry_run, allow_tainted=args.allow_tainted).line())
    return DONE


def _sweep(args: argparse.Namespace) -> int:
    if args.what in ("status", "best", "work"):
        if args.folder is None:
            raise UsageError(
                "no sweep folder", f"diffusion-adc sweep {args.what} SWEEP", "name the sweep's folder"
            )
        return {"status": _sweep_status, "best": _sweep_best, "work": _sweep_work}[args.what](args)
    from diffusion_adc.sweeps import launch
    from diffusion_adc.sweeps.folder import default_folder
    from diffusion_adc.sweeps.space import read_sweep

    sweep = read_sweep(Path(args.what))
    if args.engine == "wandb":
        where, code = launch.run_with_wandb(sweep, args.project, args.entity, args.workers, args.trials)
        print(f"W&B sweep {where}; more agents: wandb agent {where}")
        return code
    args.folder = args.out or default_folder(sweep)
    if args.launcher == "slurm":
        options = {key: int(value) if value.isdigit() else value for key, value in args.slurm.items()}
        jobs = launch.run_on_cluster(
            args.folder, sweep, args.trials, args.seed, args.workers, args.stall, options, cluster="slurm"
        )
        print(f"jobs {', '.join(job.job_id for job in jobs)}; diffusion-adc sweep status {args.folder}")
        return DONE
    launch.run_here(args.folder, sweep, args.trials, args.seed, args.workers, args.stall)
    return _sweep_status(args)


def _sweep_work(args: argparse.Namespace) -> int:
    from diffusion_adc.sweeps.worker import work

    work(args.folder, stall_s=args.stall, report=lambda line: print(line, flush=True))
    return DONE


def _sweep_status(args: argparse.Namespace) -> int:
    from diffusion_adc.sweeps.report import status

    rows = status(args.folder)
    print_rows(rows, args.json)
    return SOME_REFUSED if any(row["state"] == "failed" for row in rows) else DONE


def _sweep_best(args: argparse.Namespace) -> int:
    from diffusion_adc.sweeps.report import best

    print_rows([best(args.folder, args.to)], args.json)
    return DONE
