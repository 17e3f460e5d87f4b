"""What the fault tests train: a real experiment of seconds, in child processes that may be killed or told to fail."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_adc.config import compose
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.records.cohort import write_case, write_manifest
from diffusion_adc.train import fit

# Children are forked where everything is imported already.
for _module in (
    "lightning.pytorch",
    "diffusion_adc.callbacks.checkpoints",
    "diffusion_adc.callbacks.exact_resume",
    "diffusion_adc.callbacks.grids",
    "diffusion_adc.callbacks.record",
    "diffusion_adc.callbacks.stopping",
    "diffusion_adc.callbacks.tracking",
    "diffusion_adc.data",
    "diffusion_adc.inference.draw",
    "diffusion_adc.stages",
):
    importlib.import_module(_module)

ROOT = Path(__file__).parents[2]
BASE = ROOT / "experiments" / "base.yaml"
SHAPE = (28, 26, 8)
AFFINE = np.diag([2.5, 2.5, 5.0, 1.0])
STEPS_PER_EPOCH = 4
SMALL = [
    "--model.init_args.spatial_dims=2",
    "--model.init_args.channels=[8, 8]",
    "--model.init_args.denoiser_width=8",
    "--model.init_args.denoiser_levels=1",
    "--model.init_args.draws_per_encoding=1",
    "--model.init_args.warmup_steps=2",
    "--data.init_args.patch_size=[16, 16, 1]",
    "--data.init_args.spacing_mm=null",
    "--data.init_args.batch_size=4",
    "--data.init_args.patches_per_epoch=16",
    "--data.init_args.val_patches=10",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=2",
    "--grids.every_n_epochs=0",
    "--tracking.mode=disabled",
    "--ema.decay=0.9",
    "--draws.draws=2",
    "--draws.steps=1",
]
KILLED = -signal.SIGKILL


def write_cohort(folder: Path, splits: str = "TTTTVVEEEE") -> Path:
    """Small examinations, one per letter: an elliptic body and in most of them one restricted block."""
    names = {"T": "train", "V": "val", "E": "test"}
    cases = []
    for n, split in enumerate(splits):
        rng = np.random.default_rng(n)
        i, j, _ = np.meshgrid(*(np.linspace(-1, 1, s) for s in SHAPE), indexing="ij")
        body = i**2 + j**2 < 0.9
        tumor = np.zeros(SHAPE, dtype=bool)
        if n % 3 != 2:
            corner = [int(rng.integers(s // 4, s // 2)) for s in SHAPE]
            tumor[tuple(slice(c, c + max(2, s // 5)) for c, s in zip(corner, SHAPE, strict=True))] = True
        adc = np.where(body, np.where(tumor, 0.8, 1.6) + rng.normal(0, 0.05, SHAPE), 0).astype(np.float32)
        low = np.where(body, 400.0, 3.0) + rng.normal(0, 2, SHAPE)
        volumes = {
            seq.ADC: adc, seq.DWI_LOW: low, seq.DWI_HIGH: low * np.exp(-0.85 * adc), seq.T2W: low + 50,
            seq.VALID: adc > 0, seq.TUMOR_ADC: np.where(tumor, adc, 0), seq.TUMOR_LABEL: tumor,
        }  # fmt: skip
        case = Case(
            f"RIG{n:04d}", 1, n, split=names[split], provenance="synthetic", b_low=50, b_high=900,
            tumor_status="present" if tumor.any() else "absent", declared=("missing:t1w",),
        )  # fmt: skip
        cases.append(write_case(folder, case, volumes, AFFINE))
    write_manifest(folder, Cohort(tuple(cases), provenance="synthetic", legal_basis="none"))
    return folder


def train(cohort: Path, run: Path, *overrides: str, resume: str = "auto") -> bool:
    """`fit` as the command line calls it, on the small experiment."""
    words = [f"--cohort={cohort}", *SMALL, *overrides]
    return fit(compose([BASE], words), run, resume, ["fit"], quiet=True)


@dataclass
class Child:
    """A forked process and what it says."""

    pid: int
    said: Path
    code: int | None = None
    began: float = 0.0
    seconds: float = 0.0

    def done(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.began
        return self.code is not None

    def wait(self, timeout_s: float = 600.0) -> int:
        end = time.monotonic() + timeout_s
        while not self.done():
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"the process hangs:\n{self.text()[-3000:]}")
            time.sleep(0.01)
        assert self.code is not None
        return self.code

    def signal(self, number: int) -> None:
        if not self.done():
            os.kill(self.pid, number)

    def kill(self) -> int:
        if not self.done():
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.code = os.waitstatus_to_exitcode(status)
        assert self.code is not None
        return self.code

    def text(self) -> str:
        return self.said.read_text(errors="replace")


def start(work: Callable[[], object], said: Path, **environment: str) -> Child:
    """Run `work` in a forked process with the command line's exit codes."""
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid:
        return Child(pid, said, began=began)
    code = 1
    try:
        said.parent.mkdir(parents=True, exist_ok=True)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(environment)
        torch.set_num_threads(1)
        work()
        code = 0
    except DiffusionAdcError as error:
        print(error.sentence())
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
    raise AssertionError("unreachable")


def start_ranks(
    work: Callable[[int], object], folder: Path, ranks: int = 2, **environment: str
) -> list[Child]:
    """Processes as torchrun starts them, on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "rig", "NODE_RANK": "0", **environment,
    }  # fmt: skip
    return [
        start(
            lambda rank=rank: work(rank), folder / f"rank{rank}.txt", RANK=str(rank), LOCAL_RANK=str(rank), **shared
        )
        for rank in range(ranks)
    ]  # fmt: skip


DDP = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.batch_size=2")
"""Two processes with the batches of one of four."""


def until(what: Callable[[], Any], timeout_s: float = 300.0, child: Child | None = None) -> Any:
    """Wait until `what` gives something true."""
    end = time.monotonic() + timeout_s
    while not (value := what()):
        if child is not None and child.done():
            raise AssertionError(f"the process ended with {child.code}:\n{child.text()[-3000:]}")
        assert time.monotonic() < end, "waited too long" + ("" if child is None else child.text()[-3000:])
        time.sleep(0.005)
    return value


def step_saved(run: Path, name: str = "last") -> int:
    try:
        return int(json.loads((run / "checkpoints" / f"{name}.ckpt.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


def load(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ, bit by bit; seconds and the like are in neither."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) ^ set(b), key=str)
        found = [f"{where}.{key} only once" for key in keys]
        for key in a.keys() & b.keys():
            found += differences(a[key], b[key], f"{where}.{key}")
        return found
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [
            d for n, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}.{n}")
        ]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a!r} and {b!r}"]


def losses(run: Path, part: str = "") -> list[dict[str, str]]:
    """RUN/metrics.csv without the seconds; one part (``val/``) of it where that is asked for."""
    import csv

    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = ("step", "epoch")
    return [
        {k: v for k, v in row.items() if k in kept or (k != "seconds" and k.startswith(part))} for row in rows
    ]


def digests(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def slowed(kind: type, name: str, seconds: float, note: Path | None = None) -> None:
    """In a child: a method takes longer, and says in a file that it began."""
    plain = getattr(kind, name)

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        if note is not None:
            note.write_text("began")
        time.sleep(seconds)
        return plain(self, *args, **kwargs)

    setattr(kind, name, slow)


def ids(cohort: Path) -> Sequence[str]:
    from diffusion_adc.records.cohort import read_cohort

    return [case.research_id for case in read_cohort(cohort).cases]
