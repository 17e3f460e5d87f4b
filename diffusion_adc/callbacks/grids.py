"""Sample grids: what the flow draws for a few fixed validation cases while it trains.

Runs at the end of a validation, before the averaging callback swaps the raw weights back, so the pictures show
the averaged weights that a finished run would draw with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from diffusion_adc.callbacks.panels import Overlay, overlay_image, presence_overlay
from diffusion_adc.callbacks.record import read_record
from diffusion_adc.callbacks.tracker import Tracker
from diffusion_adc.custody.lineage import note_pictures
from diffusion_adc.data.prepare import Recipe
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.evaluation.agreement import log_tdv_error
from diffusion_adc.evaluation.picture import CaseView, save_case_figure
from diffusion_adc.inference.native import draw_native
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.records.cohort import load_volume

FOLDER: Final = "grids"
_TAU: Final = 0.5
"""The threshold of a run is fitted after training; until then the middle stands in."""


@dataclass(frozen=True)
class _Live:
    """A stage in training, seen as something to draw with."""

    stage: Any
    recipe: Recipe
    covariates: tuple[str, ...]
    device: torch.device


@dataclass(frozen=True)
class _Drawn:
    """One case as drawn: the picture's content and how far its volume is off."""

    case: Case
    view: CaseView
    error: float


class SampleGrid(pl.Callback):
    """Draws the largest, the smallest, a tumor-free and the worst validation case so far.

    Args:
        every_n_epochs: Draw after every so many epochs; 0 never draws.
        draws: Draws per case.
        steps: Integration steps per draw.
        seed: Of the noise; the same in every epoch, so that pictures differ by training alone.
    """

    def __init__(self, every_n_epochs: int = 10, draws: int = 3, steps: int = 4, seed: int = 0) -> None:
        self.every_n_epochs = every_n_epochs
        self.settings = DrawSettings(draws=draws, steps=steps, seed=seed)
        self.run_dir: Path | None = None
        self.pictures = True
        self._roles: dict[str, Case] = {}
        self._others: list[Case] = []
        self._worst: tuple[float, Case] | None = None

    def attach(self, run_dir: Path, *, pictures: bool = True) -> None:
        """Where grids go, and whether the tracker is offered them too; its policy has the last word."""
        self.run_dir, self.pictures = run_dir, pictures

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = self.every_n_epochs > 0 and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if self.run_dir is None or trainer.sanity_checking or not due or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not self._roles:
            self._choose(data)
        # Drawing must not move the random numbers that training goes on with.
        with torch.random.fork_rng(devices=[]):
            drawn = {role: self._drawn(data, case, pl_module) for role, case in self._roles.items()}
            drawn |= self._worst_so_far(data, pl_module, trainer.current_epoch)
        self._write(trainer, drawn)

    def _choose(self, data: Any) -> None:
        cases = [case for case in data.cohort.split("val") if case.has_target]
        volumes = {
            case.case_id: int(np.count_nonzero(load_volume(data.cohort_dir, case, seq.TUMOR_LABEL).array))
            for case in cases
        }
        order = sorted(cases, key=lambda case: (volumes[case.case_id], case.case_id))
        tumors = [case for case in order if volumes[case.case_id] > 0]
        free = [case for case in order if volumes[case.case_id] == 0]
        if tumors:
            self._roles = {"largest": tumors[-1], "smallest": tumors[0]}
        if free:
            self._roles["tumor_free"] = free[0]
        fixed = {case.case_id for case in self._roles.values()}
        self._others = [case for case in order if case.case_id not in fixed]

    def _worst_so_far(self, data: Any, module: pl.LightningModule, epoch: int) -> dict[str, _Drawn]:
        """One further case a time, in turn; the one with the largest volume error so far is shown."""
        if not self._others:
            return {}
        turn = self._others[(epoch // max(1, self.every_n_epochs)) % len(self._others)]
        tried = self._drawn(data, turn, module)
        if self._worst is None or tried.error >= self._worst[0]:
            self._worst = (tried.error, turn)
            return {"worst": tried}
        again = self._drawn(data, self._worst[1], module)
        self._worst = (again.error, self._worst[1])
        return {"worst": again if again.error >= tried.error else tried}

    def _drawn(self, data: Any, case: Case, module: Any) -> _Drawn:
        def volume(name: str) -> NDArray[np.float32]:
            return np.asarray(load_volume(data.cohort_dir, case, name).array, dtype=np.float32)

        live = _Live(module, data.store.recipe, data.covariates, module.device)
        native = draw_native(live, data.cohort_dir, data.cohort, case, self.settings)
        tumor_map = build_tumor_map(
            native.adc, native.usable, native.affine, native.draws, expit(native.base_logit), _TAU
        )
        reader = np.asarray(volume(seq.TUMOR_LABEL), dtype=bool)
        tumor = tumor_map.tumor_adc > 0
        ml = voxel_volume_ml(native.affine)
        error = log_tdv_error(tumor_map.tdv_ml.map or 0.0, float((reader & native.usable).sum()) * ml)
        view = CaseView(
            title="",
            affine=native.affine,
            adc=native.adc,
            dwi=volume(seq.DWI_HIGH if seq.DWI_HIGH in case.files else seq.DWI_LOW),
            reader=reader,
            tumor=tumor,
            probability=tumor_map.probability,
            base_probability=tumor_map.base_probability,
            draws=tumor_map.draws,
        )
        return _Drawn(case, view, error)

    def _write(self, trainer: pl.Trainer, drawn: Mapping[str, _Drawn]) -> None:
        assert self.run_dir is not None
        tracker = next((entry for entry in trainer.loggers if isinstance(entry, Tracker)), None)
        pictures: dict[str, Path] = {}
        overlays: dict[str, Overlay] = {}
        key = read_record(self.run_dir).get("case_key")
        for role, case in drawn.items():
            target = self.run_dir / FOLDER / f"step{trainer.global_step:07d}_{role}.png"
            name = role.replace("_", " ")
            # The role, not the research ID: pictures travel further than the data they were made from.
            title = f"{name} validation case, step {trainer.global_step}"
            if key is not None:  # noted before it is there; a picture not noted counts as anybody's
                note_pictures(target.parent, {target.name: case.case.case_id}, key)
            save_case_figure(replace(case.view, title=title), target)
            pictures[role], overlays[role] = target, presence_overlay(case.view)
        if tracker is not None and self.pictures and tracker.policy.may_send_pictures:
            tracker.log_panels(lambda: _panels(pictures, overlays), trainer.global_step)


def _panels(pictures: Mapping[str, Path], overlays: Mapping[str, Overlay]) -> dict[str, Any]:
    """Each role's grid as written, and its slice with the presences as masks."""
    import wandb

    grids = {f"grids/{role}": wandb.Image(str(path)) for role, path in pictures.items()}
    return grids | {
        f"slices/{role}": overlay_image(overlay, role.replace("_", " ")) for role, overlay in overlays.items()
    }
