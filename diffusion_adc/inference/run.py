"""A run folder opened for drawing: its stage with averaged weights, and how its cases are prepared."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from diffusion_adc.custody.lineage import refuse_tainted_checkpoint
from diffusion_adc.data.prepare import Recipe
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.sidecars import sidecar, verified

STAGES: Final = "diffusion_adc.stages"
"""Package below which a stage named in an experiment must be defined; nothing else is imported."""

CHECKPOINTS: Final = ("best", "last")


@dataclass(frozen=True)
class LoadedRun:
    """A trained run.

    Attributes:
        path: Its folder.
        stage: The stage in evaluation mode, with the averaged weights.
        settings: How the experiment draws.
        recipe: How a case is prepared.
        covariates: Names of the covariates in use.
        split: How the experiment splits persons: person, temporal or scanner.
        cohort: The cohort it was trained on, as named in the experiment; None if it names none.
        checkpoint_sha256: Of the checkpoint's file.
        device: Where the stage is.
        val_split: The split whose cases fix the thresholds; `val` but for a plumbing check on one case.
        calibration_file: Name in RUN of the thresholds; another one where another method than the run's own draws.
        coins: `components.Coins` where components are drawn.
    """

    path: Path
    stage: Any
    settings: DrawSettings
    recipe: Recipe
    covariates: tuple[str, ...]
    split: str
    cohort: Path | None
    checkpoint_sha256: str
    device: torch.device
    val_split: str = "val"
    calibration_file: str = "calibration.json"
    coins: Any = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name


def read_experiment(run_dir: Path) -> dict[str, Any]:
    """RUN/experiment.yaml as plain values.

    Raises:
        UsageError: There is none, or it is no experiment.
    """
    try:
        values = yaml.safe_load((run_dir / "experiment.yaml").read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(
            f"no run in {run_dir.name or '.'}", "a folder with experiment.yaml and checkpoints",
            "train one with `diffusion-adc fit`",
        ) from None  # fmt: skip
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise UsageError(
            f"experiment.yaml of {run_dir.name} has no model section", "the file that `fit` writes",
            "restore it or train again",
        )  # fmt: skip
    return values


def run_settings(run_dir: Path) -> DrawSettings:
    """How a run's experiment draws; the defaults where it does not say.

    Raises:
        UsageError: No run, or settings that do not exist.
    """
    return _settings(read_experiment(run_dir))


def _settings(experiment: Mapping[str, Any]) -> DrawSettings:
    try:
        return DrawSettings(**(experiment.get("draws") or {}))
    except TypeError as error:
        raise UsageError(
            f"the draws section of experiment.yaml ({error})", do="correct the section"
        ) from None


def load_run(
    run_dir: Path,
    checkpoint: str = "best",
    device: torch.device | str = "cpu",
    *,
    allow_tainted: str | None = None,
) -> LoadedRun:
    """Open a run.

    The averaged weights are taken: a checkpoint keeps them under ``state_dict``, the raw ones elsewhere.

    Args:
        run_dir: RUN.
        checkpoint: ``best`` (the last one where the run keeps no best) or ``last``.
        device: Where the stage goes; ``auto`` takes a GPU if there is one.
        allow_tainted: Reference of the decision to use a run although a person it learned from has withdrawn.

    Raises:
        UsageError: No run, a tainted one, no such checkpoint, a class outside the package's stages, or a checkpoint of
            another configuration.
        CohortError: The checkpoint is damaged.
    """
    experiment = read_experiment(run_dir)
    data = dict((experiment.get("data") or {}).get("init_args") or {})
    cohort = data.get("cohort") or experiment.get("cohort")
    path = _checkpoint(run_dir, checkpoint)
    refuse_tainted_checkpoint(path, allow_tainted, use="draw", cohort=Path(cohort) if cohort else None)
    digest = _verified(path)
    stage = build_stage(experiment["model"])
    load_weights(stage, _read_checkpoint(path))
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    stage.requires_grad_(False).eval().to(where)
    return LoadedRun(
        path=run_dir,
        stage=stage,
        settings=_settings(experiment),
        recipe=Recipe.for_patch(data.get("spacing_mm"), data.get("patch_size") or (1, 1, 1)),
        covariates=tuple(data.get("covariates") or ()),
        split=str(data.get("split") or "person"),
        cohort=Path(cohort) if cohort else None,
        checkpoint_sha256=digest,
        device=where,
        val_split=str(data.get("val_split") or "val"),
    )


def build_stage(model: Mapping[str, Any]) -> torch.nn.Module:
    """Build the stage of an experiment's ``model`` section.

    Args:
        model: ``class_path`` and ``init_args``.

    Raises:
        UsageError: The class is not one of the package's stages, or refuses its arguments.
    """
    class_path = str(model.get("class_path"))
    module, _, name = class_path.rpartition(".")
    if not module.startswith(STAGES) or module.removeprefix(STAGES)[:1] not in ("", "."):
        # Refused before anything is imported: a class path is text from a file.
        raise _no_stage(class_path)
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise _no_stage(class_path) from None
    home = str(getattr(kind, "__module__", ""))
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module) and home.startswith(STAGES)):
        raise _no_stage(class_path)
    try:
        return kind(**dict(model.get("init_args") or {}))
    except TypeError as error:
        raise UsageError(
            f"arguments of {name} ({error})", "the experiment.yaml that `fit` wrote", "restore it"
        ) from None


def _no_stage(class_path: str) -> UsageError:
    return UsageError(
        f"model class {class_path!r}", f"a stage below {STAGES}", "use the experiment.yaml that `fit` wrote"
    )


def load_weights(stage: torch.nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Load a checkpoint's averaged weights into a stage.

    Raises:
        UsageError: The checkpoint belongs to another configuration, or its latent was never measured.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise _other("no weights in it")
    own = stage.state_dict()
    for name in sorted(set(own) | set(state)):
        if name not in own or name not in state:
            raise _other(f"{name} only in the {'experiment' if name in own else 'checkpoint'}")
        if own[name].shape != state[name].shape:
            raise _other(f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}")
    check = getattr(stage, "on_load_checkpoint", None)
    if check is not None:
        check(dict(checkpoint))
    try:
        stage.load_state_dict(dict(state))
    except (RuntimeError, ValueError) as error:
        raise _other(str(error).splitlines()[0]) from None
    if not getattr(getattr(stage, "scale", None), "measured", True):
        raise UsageError("a checkpoint without latent statistics", "one of a trained run", "train it further")


def _other(what: str) -> UsageError:
    return UsageError(
        f"checkpoint of another configuration: {what}", "the configuration of experiment.yaml",
        "put the experiment.yaml and the checkpoints of one run together, or train again",
    )  # fmt: skip


def _checkpoint(run_dir: Path, checkpoint: str) -> Path:
    if checkpoint not in CHECKPOINTS:
        raise UsageError(f"checkpoint {checkpoint!r}", f"one of {', '.join(CHECKPOINTS)}")
    folder = run_dir / "checkpoints"
    names = ("best", "last") if checkpoint == "best" else ("last",)
    for name in names:
        if (folder / f"{name}.ckpt").is_file():
            return folder / f"{name}.ckpt"
    raise UsageError(
        f"no checkpoint in {run_dir.name or '.'}", f"checkpoints/{checkpoint}.ckpt",
        "train the run with `diffusion-adc fit`",
    )  # fmt: skip


def _verified(path: Path) -> str:
    """SHA-256 of a checkpoint, compared with its sidecar if there is one."""
    if not sidecar(path).exists():
        return sha256_file(path)
    record = verified(path)
    if record is None:
        raise _damaged(path)
    return str(record["sha256"])


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError):
        raise _damaged(path) from None
    if not isinstance(loaded, Mapping):
        raise _damaged(path)
    return loaded


def _damaged(path: Path) -> CohortError:
    return CohortError(
        f"checkpoint {path.name} is damaged", "the file its SHA-256 was taken of",
        "use the run's other checkpoint or train again",
    )  # fmt: skip
