"""The results of a run's maps, told to the tracker after the scores or the review pages are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusion_adc.callbacks import panels
from diffusion_adc.callbacks.policy import tracked_experiment, tracked_record
from diffusion_adc.callbacks.scan import tracker_folders
from diffusion_adc.callbacks.session import stored_identity
from diffusion_adc.callbacks.settings import settings_of
from diffusion_adc.callbacks.tracker import Tracker
from diffusion_adc.custody.lineage import CHECKPOINTS, RECORD, read_record
from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.evaluation.scores import MODEL
from diffusion_adc.records.maps import read_maps_manifest

SCORES: Final = "scores.json"
_ABOVE: Final = 3
"""How far above its maps a run folder is looked for: RUN/maps/test."""


def run_of(maps_dir: Path) -> Path | None:
    """The run that maps lie in and were drawn from; None if they lie elsewhere or the run was trained again."""
    try:
        drawn_with = read_maps_manifest(maps_dir).get("checkpoint_sha256")
    except DiffusionAdcError:
        return None
    for folder in list(maps_dir.resolve().parents)[:_ABOVE]:
        if (folder / RECORD).is_file():
            stated = [_stated(path) for path in (folder / CHECKPOINTS).glob("*.ckpt.json")]
            return folder if drawn_with is not None and drawn_with in stated else None
    return None


def _stated(sidecar: Path) -> Any:
    try:
        return json.loads(sidecar.read_text(encoding="utf-8")).get("sha256")
    except (OSError, ValueError, AttributeError):
        return None


def log_evaluation(run_dir: Path, maps_dir: Path, *, site: Path | None = None) -> bool:
    """Add the scores and the lesions of evaluated maps to the run's entry in the tracker; never fails.

    Those of the test split lie under ``test/``, others under ``maps_SPLIT/`` (``val/`` is training's).

    Args:
        run_dir: RUN; its identity in tracker.json is the one that goes on.
        maps_dir: Evaluated maps of the run.
        site: index.html of review pages, or their folder, to send as well where pictures may be sent.

    Returns:
        Whether the tracker took it. False too where the run was never tracked.
    """
    try:
        scores = json.loads((maps_dir / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    section = _section(maps_dir)
    tracker, step = _reopened(run_dir)
    if tracker is None:
        return False
    tracker.log_metrics(panels.score_values(_rows(scores), MODEL, section), step)
    tracker.log_panels(lambda: panels.score_tables(_rows(scores), section), step)
    # Read in the tracker's thread: a map that cannot be read costs a table, not the command.
    tracker.log_panels(lambda: _lesions(maps_dir, tracker, section), step)
    if site is not None and tracker.policy.may_send_pictures:
        tracker.log_panels(lambda: _page(site), step)
    return _closed(tracker)


def log_page(run_dir: Path, site: Path) -> bool:
    """Add a review page to the run's entry, where pictures may be sent; never fails.

    Args:
        run_dir: RUN.
        site: index.html of the review pages, or their folder.

    Returns:
        Whether the tracker took it.
    """
    tracker, step = _reopened(run_dir, pictures=True)
    if tracker is None:
        return False
    tracker.log_panels(lambda: _page(site), step)
    return _closed(tracker)


def _reopened(run_dir: Path, *, pictures: bool = False) -> tuple[Tracker | None, int]:
    """The run's tracker and the step after the last it knows: a lower one would be dropped."""
    who = stored_identity(run_dir)
    if who is None:
        return None, 0
    try:
        tracking, policy, experiment = settings_of(run_dir)
    except DiffusionAdcError:
        return None, 0
    if tracking.mode == "disabled" or (pictures and not policy.may_send_pictures):
        return None, 0
    name = policy.run_name(str(experiment.get("name", "run")), who.id)
    record = read_record(run_dir)
    # The record once more: when training started it could not say how it ended.
    config = tracked_experiment(experiment) | {"record": tracked_record(record)}
    tracker = Tracker(run_dir, who, wanted=tracking.mode, label=name, config=config, policy=policy)
    # Each part of the run, of which training was at least one, may have taken a step of its own.
    step = int(record.get("steps") or 0) + max(1, len(tracker_folders(run_dir)))
    return tracker, step


def _closed(tracker: Tracker) -> bool:
    took = tracker.alive
    tracker.finalize("success")
    return took and not tracker.lost


def _section(maps_dir: Path) -> str:
    try:
        split = read_maps_manifest(maps_dir).get("split", "test")
    except DiffusionAdcError:
        split = "test"
    return "test" if split == "test" else f"maps_{split}"


def _rows(scores: Any) -> Mapping[str, Any]:
    return scores if isinstance(scores, Mapping) else {}


def _lesions(maps_dir: Path, tracker: Tracker, section: str) -> dict[str, Any]:
    rows = panels.lesions(maps_dir, tracker.policy)
    return {f"{section}/lesions": panels.lesion_table(rows)} if rows else {}


def _page(site: Path) -> dict[str, Any]:
    import wandb

    page = site / "index.html" if site.is_dir() else site
    return {"review": wandb.Html(panels.self_contained(page), inject=False)}
