"""What more than one room's tests need: a small cohort of digital patients, and one trained run on it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Two test workers share two cores: one thread each. No test may reach a server or ask for a terminal.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)

ROOT = Path(__file__).parents[1]
SMALL = [
    "--model.init_args.channels=[8, 16]",
    "--model.init_args.denoiser_width=8",
    "--model.init_args.denoiser_levels=2",
    "--model.init_args.spatial_dims=2",
    "--model.init_args.warmup_steps=2",
    "--data.init_args.patch_size=[32, 32, 1]",
    "--data.init_args.spacing_mm=null",
    "--data.init_args.batch_size=8",
    "--data.init_args.patches_per_epoch=32",
    "--data.init_args.val_patches=16",
    "--trainer.max_epochs=2",
    "--grids.every_n_epochs=2",
    "--draws.draws=3",
    "--draws.steps=2",
]


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides that turn experiments/base.yaml into a run of seconds."""
    return SMALL


@pytest.fixture(scope="session")
def phantom_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen coarse digital patients; their truth lies beside the folder."""
    from diffusion_adc.phantom.options import PhantomOptions
    from diffusion_adc.phantom.simulate import simulate_cohort

    out = tmp_path_factory.mktemp("data") / "pelvis"
    options = PhantomOptions(cases=16, seed=11, size=(64, 64, 10), spacing_mm=(6.0, 6.0, 10.0))
    return simulate_cohort(out, options)


@pytest.fixture(scope="session")
def small_run(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps, trained through the command line."""
    from diffusion_adc.cli import main

    out = tmp_path_factory.mktemp("runs") / "small"
    code = main(
        [
            "fit",
            "-c",
            str(ROOT / "experiments" / "base.yaml"),
            f"--cohort={phantom_cohort}",
            "--out",
            str(out),
            *SMALL,
        ]
    )
    assert code == 0
    return out


@pytest.fixture(scope="session")
def keep_figure() -> Callable[..., None]:
    """``keep_figure(file, capsys, name, value)``: print a figure and keep it under its name in a JSON file."""

    def keep(file: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any) -> None:
        with capsys.disabled():
            print(f"\n  figure {name}: {value}", end="")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+", encoding="utf-8") as stream:  # two test workers share the file
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            text = stream.read()
            known = json.loads(text) if text else {}
            known[name] = value
            stream.seek(0)
            stream.truncate()
            json.dump(known, stream, indent=2, sort_keys=True, ensure_ascii=False)

    return keep
