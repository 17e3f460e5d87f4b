"""A trained run → a model folder that can be handed on: weights, configurations, model card, memorization check."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_adc.custody.lineage import RECORD, read_record, refuse_tainted
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError
from diffusion_adc.export.memorization import (
    MemorizationReport,
    Windows,
    find_copies,
    lesion_windows,
)
from diffusion_adc.inference.calibrate import calibration_for
from diffusion_adc.inference.draw import with_method
from diffusion_adc.inference.model_folder import load_model, write_folder
from diffusion_adc.inference.native import draw_native, split_cohort
from diffusion_adc.inference.run import LoadedRun, load_run, read_experiment
from diffusion_adc.records.atomic import replacing_folder, write_json, write_text
from diffusion_adc.records.cohort import presence_readings, read_cohort

CASES: Final = 12
"""Held-out cases that are drawn for the memorization check."""
DRAWS: Final = 2
"""Draws of each."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelExport:
    """What was written.

    Attributes:
        folder: OUT.
        report: Of the memorization check.
    """

    folder: Path
    report: MemorizationReport


def export_model(
    run_dir: Path,
    out: Path,
    cohort_dir: Path | None = None,
    *,
    checkpoint: str = "best",
    cases: int = CASES,
    allow_tainted: str | None = None,
    progress: Progress | None = None,
) -> ModelExport:
    """Check a run for memorized training targets and write it as a model folder.

    Args:
        run_dir: RUN.
        out: A new folder, or an earlier export.
        cohort_dir: The cohort it was trained on; the one its experiment names by default.
        checkpoint: ``best`` or ``last``.
        cases: Held-out cases drawn for the check.
        allow_tainted: Reference of the decision to export although a person it learned from has withdrawn.
        progress: Called with (done, total) while cases are drawn.

    Raises:
        UsageError: No run, a tainted one, no cohort to check against, or OUT holds something else.
        DiffusionAdcError: More of its draws are copies of training lesions than chance explains.
    """
    run = load_run(run_dir, checkpoint, allow_tainted=allow_tainted)
    folder = cohort_dir or run.cohort
    if folder is None or not (folder / "cohort.json").is_file():
        raise UsageError(
            "no cohort to compare the draws with",
            "the cohort the run was trained on",
            "give it with --cohort",
        )
    refuse_tainted(run_dir, allow_tainted, use="export", cohort=folder)
    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").is_file():
        raise UsageError(f"{out.name} already holds something else", "an empty place", "choose another OUT")
    run = with_method(run, run.settings, folder)
    calibration = calibration_for(run, folder)
    report = check_memorization(run, folder, cases, progress)
    if report.memorizes:
        raise DiffusionAdcError(
            report.line(), "no more copies than chance explains",
            "do not hand this model on; train it on more cases or for fewer steps",
        )  # fmt: skip
    experiment = read_experiment(run_dir)
    data = dict((experiment.get("data") or {}).get("init_args") or {})
    record = read_record(run_dir)
    about = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "safetensors")},
        "cohort_digest": record.get("cohort_digest"),
        "provenance": record.get("provenance"),
        "memorization": report.record(),
    }
    # Keyed hashes only: a later withdrawal finds the model by them, and they name nobody.
    lineage = {
        name: record.get(name) for name in ("case_key", "cases", "parents", "cohort_digest", "provenance")
    }
    with replacing_folder(out) as place:
        write_json(place / "calibration.json", calibration.record())
        write_json(place / RECORD, {"state": "exported", **lineage})
        if run.coins is not None:
            write_json(place / "components.json", vars(run.coins))
        write_text(place / "README.md", _card(run, experiment, record, calibration.record(), report))
        write_folder(place, run, experiment["model"], data, about)
    load_model(out, allow_tainted=allow_tainted)  # what was written is what can be read
    return ModelExport(out, report)


def check_memorization(
    run: LoadedRun, cohort_dir: Path, cases: int = CASES, progress: Progress | None = None
) -> MemorizationReport:
    """Compare draws of held-out cases with the readers' lesions that the run learned from.

    Args:
        run: The run.
        cohort_dir: The cohort it was trained on.
        cases: Held-out cases that are drawn.
        progress: Called with (done, total).
    """
    cohort = read_cohort(cohort_dir)
    split = split_cohort(run, cohort)
    training = _readers(cohort_dir, [case for case in split.split("train") if case.has_target])
    others = [case for case in (*split.split("val"), *split.split("test")) if case.has_target]
    held_out = _readers(cohort_dir, others)
    settings = replace(run.settings, draws=min(DRAWS, run.settings.draws))
    chosen: Sequence[Case] = sorted(others, key=lambda case: case.case_id)[:cases]
    drawn = []
    for number, case in enumerate(chosen, start=1):
        native = draw_native(run, cohort_dir, cohort, case, settings)
        drawn += [lesion_windows(native.draws[..., k] != 0) for k in range(native.draws.shape[-1])]
        if progress is not None:
            progress(number, len(chosen))
    windows = np.concatenate(drawn) if drawn else held_out[:0]

    def latents(w: Windows) -> NDArray[np.floating]:
        return _latents(run, w)

    return find_copies(windows, training, held_out, latents)[1]


def _readers(cohort_dir: Path, cases: Sequence[Case]) -> Windows:
    found = [lesion_windows(reading) for case in cases for reading in presence_readings(cohort_dir, case)]
    return np.concatenate(found) if found else lesion_windows(np.zeros((1, 1, 1)))


def _latents(run: LoadedRun, windows: Windows) -> NDArray[np.floating]:
    """Standardized latents of windows less that of an empty one, (N, ...); a 2-D codec takes slices."""
    stage = run.stage
    presence = torch.from_numpy(np.ascontiguousarray(windows[:, None])).float().to(stage.device)
    if stage.spatial_dims == 2:
        presence = presence.permute(0, 4, 1, 2, 3).flatten(0, 1)
    with torch.no_grad():
        z = [stage.scale.standardize(stage.codec.encode(part)) for part in presence.split(256)]
        empty = stage.scale.standardize(stage.codec.encode(torch.zeros_like(presence[:1])))
    latent = (torch.cat(z) - empty).cpu().numpy() if z else np.zeros((0, 1))
    return np.asarray(latent.reshape(len(windows), -1)) if len(windows) else np.zeros((0, 1))


def _card(
    run: LoadedRun,
    experiment: dict[str, Any],
    record: dict[str, Any],
    calibration: dict[str, Any],
    report: MemorizationReport,
) -> str:
    """The model card: facts of the run, in the order of Mitchell et al. 2019."""
    parameters = sum(p.numel() for p in run.stage.parameters())
    data = dict((experiment.get("data") or {}).get("init_args") or {})
    lines = [
        f"# {experiment.get('name', 'run')}",
        "",
        "Tumor-specific ADC from body MRI: draws which voxels of a measured ADC map are tumor. **Research use only; not a",
        "medical device, not for diagnosis.**",
        "",
        "| | |",
        "|---|---|",
        f"| model | `{type(run.stage).__name__}`, {parameters:,} parameters, {run.stage.spatial_dims}-D |",
        f"| values of its maps | {run.stage.values} |",
        f"| working grid | {data.get('spacing_mm')} mm, patches of {data.get('patch_size')} voxels |",
        f"| covariates | {', '.join(run.covariates) or 'none (image-only)'} |",
        f"| trained on | {record.get('provenance')} cases, cohort {str(record.get('cohort_digest'))[:12]}, "
        f"{len(record.get('cases') or ())} cases in all splits |",
        f"| steps | {record.get('steps')} |",
        f"| checkpoint | {run.checkpoint_sha256[:12]} |",
        f"| threshold | {calibration['tau']:.3g}, fixed on {calibration['cases']} validation cases |",
        f"| draws | {run.settings.draws} of {run.settings.steps} steps |",
        "",
        "## Memorization",
        report.line() + ".",
        "",
        "## Use",
        "```python",
        "from diffusion_adc.inference.model_folder import draw_map, load_model",
        'model = load_model("THIS_FOLDER")',
        'tumor_map = draw_map(model, "COHORT", "CASE_ID")',
        "```",
        "",
        "## Limits",
        "Scores are those of the evaluation that goes with the run; none is part of this folder. Behavior outside the body",
        "regions, scanners and b-values of the training cohort is unknown. A file that differs from its SHA-256 in",
        "`model_index.json` is refused.",
        "",
    ]
    return "\n".join(lines)
