"""A trained model as a folder of its own: safetensors weights, JSON configurations, no pickle, no path, no case.

``FOLDER/model_index.json`` names the components and the SHA-256 of every other file; each component (encoder, codec,
denoiser …) has its ``config.json`` and ``model.safetensors``, as in a diffusers folder. In three lines::

    from diffusion_adc.inference.model_folder import draw_map, load_model
    model = load_model("models/pelvis")
    tumor_map = draw_map(model, "cohorts/pelvis", "SIM-00002_01")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from diffusion_adc.custody.lineage import refuse_tainted
from diffusion_adc.data.prepare import Recipe
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.inference.calibrate import read_calibration
from diffusion_adc.inference.draw import draw_case
from diffusion_adc.inference.run import LoadedRun, build_stage, load_weights
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.tumor_map import TumorMap
from diffusion_adc.records.atomic import sha256_file, write_json
from diffusion_adc.records.cohort import read_cohort

INDEX: Final = "model_index.json"
STAGE: Final = "stage.json"
WEIGHTS: Final = "model.safetensors"
ROOT: Final = "root"
"""Component of tensors that belong to no part of the stage."""
FORMAT: Final = 1


def components(stage: torch.nn.Module) -> dict[str, dict[str, Tensor]]:
    """A stage's tensors by component and name, contiguous on the CPU."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stage.state_dict().items():
        part, _, rest = name.partition(".")
        part, rest = (part, rest) if rest else (ROOT, part)
        parts.setdefault(part, {})[rest] = tensor.detach().cpu().contiguous().clone()
    return parts


def write_folder(
    folder: Path, run: LoadedRun, model: Mapping[str, Any], data: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write a run's stage and everything needed to draw with it; the index comes last.

    Args:
        folder: Exists; the card and other files already there are indexed too.
        run: The run.
        model: Its experiment's ``model`` section.
        data: Its experiment's ``data.init_args``.
        about: Plain JSON that goes into the index.
    """
    from safetensors.torch import save_file

    arguments = {**dict(model.get("init_args") or {}), "codec_run": None, "compile": None}
    arguments = {name: value for name, value in arguments.items() if name in (model.get("init_args") or {})}
    stage = {
        "class_path": model["class_path"],
        "init_args": arguments,
        "data": {name: data.get(name) for name in ("spacing_mm", "patch_size", "covariates", "split")},
        "draws": asdict(run.settings),
    }
    write_json(folder / STAGE, stage)
    parts = components(run.stage)
    for part, tensors in parts.items():
        (folder / part).mkdir()
        save_file(tensors, folder / part / WEIGHTS)
        module = getattr(run.stage, part, None)
        kind = type(run.stage if part == ROOT else module).__name__
        numbers = sum(t.numel() for t in tensors.values())
        write_json(folder / part / "config.json", {"_class_name": kind, "parameters": numbers})
    hashes = {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX
    }
    index = {
        "_class_name": type(run.stage).__name__,
        "format": FORMAT,
        "components": sorted(parts),
        "checkpoint_sha256": run.checkpoint_sha256,
        "research_use_only": True,
        **about,
        "sha256": hashes,
    }
    write_json(folder / INDEX, index)


def load_model(
    folder: str | Path, device: torch.device | str = "cpu", *, allow_tainted: str | None = None
) -> LoadedRun:
    """Open an exported model; every file is compared with its hash before anything of it is used.

    Args:
        folder: What ``export --to model`` wrote.
        device: Where the stage goes; ``auto`` takes a GPU if there is one.
        allow_tainted: Reference of the decision to use a model although a person it learned from has withdrawn.

    Raises:
        UsageError: No exported model, one of another version, or a tainted one.
        CohortError: A file is missing, differs from its hash, or is not listed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        index: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        hashes, parts = dict(index["sha256"]), list(index["components"])
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"no model in {folder.name or '.'}", f"a folder with {INDEX}", "make one with `export --to model`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(INDEX) from None
    if index.get("format") != FORMAT:
        raise UsageError(
            f"a model folder of format {index.get('format')!r}", f"format {FORMAT}", "export it again"
        )
    refuse_tainted(folder, allow_tainted, use="load")
    wanted = {STAGE, *(f"{part}/{WEIGHTS}" for part in parts)}
    for name in sorted(wanted | set(hashes)):
        path = folder / name
        if name not in hashes or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise _damaged(name)
        if sha256_file(path) != hashes[name]:
            raise _damaged(name)
    try:
        stage_record: Any = json.loads((folder / STAGE).read_text(encoding="utf-8"))
        state: dict[str, Tensor] = {}
        for part in parts:
            for name, tensor in load_file(folder / part / WEIGHTS).items():
                state[name if part == ROOT else f"{part}.{name}"] = tensor
        data, settings = stage_record["data"], DrawSettings(**stage_record["draws"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        raise _damaged(STAGE) from None
    stage: Any = build_stage(stage_record)
    load_weights(stage, {"state_dict": state})
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    stage.requires_grad_(False).eval().to(where)
    return LoadedRun(
        path=folder,
        stage=stage,
        settings=settings,
        recipe=Recipe.for_patch(data.get("spacing_mm"), data.get("patch_size") or (1, 1, 1)),
        covariates=tuple(data.get("covariates") or ()),
        split=str(data.get("split") or "person"),
        cohort=None,
        checkpoint_sha256=str(index["checkpoint_sha256"]),
        device=where,
    )


def draw_map(model: LoadedRun, cohort: str | Path, case_id: str) -> TumorMap:
    """The tumor map of one case, with the model's own settings and thresholds.

    Raises:
        UsageError: The cohort has no such case.
        CohortError: The model folder has no thresholds, or the cohort is damaged.
        CaseError: A volume is missing or damaged.
    """
    held = read_cohort(Path(cohort))
    case = next((case for case in held.cases if case.case_id == case_id), None)
    if case is None:
        raise UsageError(f"no case {case_id}", "a case of the cohort", "look into its cases.csv")
    calibration = read_calibration(model)
    if calibration is None:
        raise CohortError("a model folder without its thresholds", "calibration.json", "export it again")
    if (model.settings.method or model.stage.draw_method) == "base":
        calibration = calibration.of_base()
    return draw_case(model, Path(cohort), held, case, calibration, model.settings)


def _damaged(name: str) -> CohortError:
    return CohortError(
        f"{name} of the model folder is missing or differs from its SHA-256",
        "the file that was exported", "export the model again",
    )  # fmt: skip
