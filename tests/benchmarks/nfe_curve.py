"""Score against network evaluations: draws a run's split at 1, 2, 4, 8, 16 and 32 steps and prints one row each.

    python tests/benchmarks/nfe_curve.py --run RUN --cohort COHORT --out FOLDER [--truth COHORT.truth] [--sampler heun]

The maps stay in FOLDER/steps_NN, one folder each, so that `diffusion-adc compare` can plot them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusion_adc.diffusion import make_sampler
from diffusion_adc.evaluation.evaluate import evaluate
from diffusion_adc.inference.draw import draw_cohort, run_settings
from diffusion_adc.inference.run import load_run

STEPS = (1, 2, 4, 8, 16, 32)
KEYS = ("tdv_crps", "tdv_coverage80", "tdv_width80", "brier", "lesion_f1", "dice", "log_tdv_error")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--run", "--cohort", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--draws", type=int, default=9)
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    args = parser.parse_args()
    stage: Any = load_run(args.run).stage
    base = run_settings(args.run)
    rows = csv.writer(sys.stdout, delimiter="\t")
    rows.writerow(["steps", "evaluations", *KEYS])
    for steps in args.steps:
        settings = replace(
            base, steps=steps, draws=args.draws, sampler=args.sampler or base.sampler, id=f"steps{steps}"
        )
        out = args.out / f"steps_{steps:02d}"
        draw_cohort(args.run, args.cohort, out, args.split, settings)
        scores = evaluate(out, args.cohort, args.truth, bootstrap=200, figures=False)["model"]
        calls = make_sampler(settings.sampler or stage.sampler_name, stage.path, steps).evaluations
        values = [(scores.get(key) or {}).get("value") for key in KEYS]
        rows.writerow([steps, calls, *("" if v is None else f"{v:.4g}" for v in values)])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
