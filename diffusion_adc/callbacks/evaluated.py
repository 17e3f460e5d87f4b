"""The results of a run's test split, told to the tracker after the scores are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusion_adc.callbacks import panels
from diffusion_adc.callbacks.policy import tracked_experiment
from diffusion_adc.callbacks.session import stored_identity
from diffusion_adc.callbacks.settings import settings_of
from diffusion_adc.callbacks.tracker import Tracker
from diffusion_adc.custody.lineage import read_record
from diffusion_adc.evaluation.scores import MODEL

SCORES = "scores.json"


def log_evaluation(run_dir: Path, maps_dir: Path, *, site: Path | None = None) -> bool:
    """Add scores, lesions and the review page to the run's entry in the tracker; never fails, whatever happens.

    Args:
        run_dir: RUN; its identity in tracker.json is the one that goes on.
        maps_dir: Evaluated maps of the run.
        site: index.html of the review pages, or their folder; sent where pictures may be sent.

    Returns:
        Whether the tracker took it. False too where the run was never tracked.
    """
    who = stored_identity(run_dir)
    if who is None:
        return False
    tracking, policy, experiment = settings_of(run_dir)
    if tracking.mode == "disabled":
        return False
    record = read_record(run_dir)
    try:
        scores = json.loads((maps_dir / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    name = policy.run_name(str(experiment.get("name", "run")), who.id)
    tracker = Tracker(
        run_dir, who, wanted=tracking.mode, label=name, config=tracked_experiment(experiment), policy=policy
    )
    step = int(record.get("steps") or 0) + 1  # after the last of training: a lower one would be dropped
    tracker.log_metrics(panels.score_values(scores, MODEL), step)
    tracker.log_panels(lambda: panels.score_tables(scores), step)
    rows = panels.lesions(maps_dir, policy)
    if rows:
        tracker.log_panels(lambda: {"test/lesions": panels.lesion_table(rows)}, step)
    if site is not None and policy.may_send_pictures:
        page = site / "index.html" if site.is_dir() else site
        tracker.log_panels(lambda: {"review": _html(page)}, step)
    took = tracker.alive
    tracker.finalize("success")
    return took and not tracker.lost


def _html(page: Path) -> Any:
    import wandb

    return wandb.Html(panels.self_contained(page), inject=False)
