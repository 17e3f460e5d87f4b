"""What stands between a training and the machine it runs on: cluster, memory, sharding, installed packages."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain.errors import CohortError, DiffusionAdcError, UsageError

_NO_MEMORY: Final = ("out of memory", "can't allocate memory", "cannot allocate memory")


def cluster() -> list[Any]:
    """Lightning's plugins for the cluster this process was started on.

    Under SLURM the trainer must not requeue: the job script does, by the exit code, and only once.
    """
    from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


@contextmanager
def explained(namespace: Any) -> Iterator[None]:
    """Turn an allocation that failed into one sentence with the size that was asked for and what to lower.

    Args:
        namespace: The parsed experiment.

    Raises:
        CohortError: The checkpoint to resume from is foreign.
        DiffusionAdcError: Out of memory.
    """
    import torch

    try:
        yield
    except pickle.UnpicklingError as error:
        raise CohortError(
            "a checkpoint that holds more than plain values", "one that `fit` wrote",
            "nothing of it was run; check --resume",
        ) from error  # fmt: skip
    except (MemoryError, RuntimeError) as error:  # torch's own error is a RuntimeError
        if str(error).startswith("DataLoader worker"):  # torch raises it wherever the trainer happens to be
            from diffusion_adc.data.watch import loader_died

            raise loader_died(error) from error  # type: ignore[arg-type]
        told = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not told and not any(words in str(error).lower() for words in _NO_MEMORY):
            raise
        data, model = namespace.data.init_args, namespace.model.init_args
        size = "×".join(str(n) for n in getattr(data, "patch_size", ()))
        draws = getattr(model, "draws_per_encoding", None)
        raise DiffusionAdcError(
            f"out of memory with {getattr(data, 'batch_size', '?')} patches of {size} voxels per step and process"
            + ("" if draws is None else f", {draws} draws per patch")
            + f", precision {namespace.trainer.precision}",
            do="lower data.init_args.batch_size (and raise trainer.accumulate_grad_batches by as much), "
            "data.init_args.patch_size or model.init_args.draws_per_encoding; or set "
            "model.init_args.recompute=true or trainer.precision=bf16-mixed",
        ) from error


def refuse_sharded(trainer: Mapping[str, Any], *, averaging: bool) -> None:
    """Stop before a sharded strategy is combined with what cannot be sharded.

    Args:
        trainer: The arguments of the trainer.
        averaging: Whether weights are averaged.

    Raises:
        UsageError: FSDP with averaged weights, with clipping by norm, or without a GPU.
    """
    strategy = trainer.get("strategy")
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if "fsdp" not in str(name).lower():
        return
    if averaging:
        raise UsageError(
            "trainer.strategy fsdp with averaged weights",
            "ema.decay=0 or strategy ddp",
            "the average is a second, whole model on every process, which is what sharding avoids; "
            "switch averaging off with --ema.decay=0 or use --trainer.strategy=ddp",
        )
    if trainer.get("gradient_clip_val") and trainer.get("gradient_clip_algorithm") in (None, "norm"):
        raise UsageError(
            "trainer.strategy fsdp with gradients clipped by their norm",
            "trainer.gradient_clip_val=null",
            "a process sees the norm of its own shards only; set --trainer.gradient_clip_val=null",
        )
    import torch

    if trainer.get("accelerator") == "cpu" or not torch.cuda.is_available():
        raise UsageError(
            "trainer.strategy fsdp without a GPU", "a GPU", "use --trainer.strategy=ddp on processors"
        )


def refuse_other_packages(run_dir: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Stop before a run goes on with other packages than it began with, unless a checkpoint is named.

    Args:
        run_dir: RUN.
        then: Versions by package in its record.
        now: Versions installed.

    Raises:
        UsageError: They differ; each is named.
    """
    changed = [
        f"{name} {then[name]} then, {now.get(name)} now" for name in then if then[name] != now.get(name)
    ]
    if changed:
        raise UsageError(
            f"{run_dir.name} was trained with other packages ({'; '.join(changed)})",
            "the same ones",
            "install them, or name the checkpoint with --resume to go on with these",
        )
