"""A network of a few hundred weights, trained with or without a tracker, in a process of its own.

Word: a JSON list of cases ``{run, mode, fault, environment}``, where fault is none, stop-server-mid, stop-server-end,
kill-client, disk-full or refuse-key. Each writes one JSON line to RUN.out: hash of the weights, seconds of the fit, mode the tracker took.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.callbacks.reach import server_name
from diffusion_adc.callbacks.session import identity
from diffusion_adc.callbacks.tracker import Tracker
from diffusion_adc.callbacks.tracking import MetricsTable, RunWatch

STEPS = 12


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = self.net(batch[0]).square().mean() + 0.01 * np.random.rand()
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        self.log("val/loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Fault(pl.Callback):
    def __init__(self, kind: str, server: Any) -> None:
        self.kind, self.server = kind, server

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == STEPS // 2:
            if self.kind == "stop-server-mid":
                self.server.stop()
            if self.kind in ("kill-client", "disk-full"):
                from wandb.sdk import wandb_setup

                client = wandb_setup._singleton._connection._proc._process.pid
                if self.kind == "kill-client":
                    os.kill(client, signal.SIGKILL)
                else:  # from here on none of its files may grow
                    resource.prlimit(client, resource.RLIMIT_FSIZE, (1, 1))
        if trainer.global_step == STEPS - 1 and self.kind == "stop-server-end":
            self.server.stop()


def main(run_dir: Path, mode: str, fault: str) -> None:
    server = None
    if os.environ.get("LOOPBACK"):
        import loopback

        server = loopback.Loopback()
        server.refuse = fault == "refuse-key"
        os.environ["WANDB_BASE_URL"], os.environ["WANDB_API_KEY"] = server.url, loopback.KEY
    pl.seed_everything(5, workers=True, verbose=False)
    data = DataLoader(TensorDataset(torch.randn(24, 8)), batch_size=4, shuffle=True)
    policy = Policy("synthetic", server_name())
    loggers: Any = False
    callbacks: list[Any] = [MetricsTable(run_dir), Fault(fault, server)]
    if mode != "none":
        loggers = Tracker(
            run_dir, identity(run_dir, "adc"), wanted=mode, label="tiny", config={"seed": 5}, policy=policy
        )  # type: ignore[arg-type]
        callbacks.append(RunWatch(loggers))
    trainer = pl.Trainer(
        max_epochs=2, logger=loggers, callbacks=callbacks, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1, default_root_dir=run_dir,
    )  # fmt: skip
    net = Net()
    began = time.monotonic()
    trainer.fit(net, data)
    seconds = time.monotonic() - began
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest()
    taken = None if mode == "none" else loggers.mode
    sent = None if server is None else [len(server.history), sorted(server.operations)]
    print(json.dumps({"weights": digest, "seconds": seconds, "mode": taken, "sent": sent}), flush=True)


def run_all(cases: list[dict[str, Any]]) -> None:
    """Each case in a process of its own, forked where everything is imported and nothing has started."""
    import wandb  # noqa: F401

    for case in cases:
        child = os.fork()
        if child == 0:
            out = os.open(f"{case['run']}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            err = os.open(f"{case['run']}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.environ.update(case["environment"])
            main(Path(case["run"]), case["mode"], case["fault"])
            return  # through the interpreter's end, where the client's hooks wait
        began = time.monotonic()
        _, status = os.waitpid(child, 0)
        ended = {"code": os.waitstatus_to_exitcode(status), "whole": time.monotonic() - began}
        Path(f"{case['run']}.end").write_text(json.dumps(ended))


if __name__ == "__main__":
    run_all(json.loads(sys.argv[1]))
