"""Runs on disk: what `fit` left in a folder, listed without opening a checkpoint."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """One row per run below `folder`: state, steps, best score, cohort digest and provenance.

    A run is a folder with record.json. The best score is the lowest ``val/loss`` of metrics.csv.
    """
    rows = []
    for path in sorted(folder.glob("**/record.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(record, dict):
            continue
        rows.append(
            {
                "run": str(path.parent.relative_to(folder)),
                "state": record.get("state"),
                "steps": record.get("steps"),
                "best_val_loss": _best(path.with_name("metrics.csv")),
                "cohort": str(record.get("cohort_digest", ""))[:12],
                "provenance": record.get("provenance"),
            }
        )
    return rows


def _best(metrics: Path) -> float | None:
    try:
        with metrics.open(newline="", encoding="utf-8") as stream:
            values = [float(row["val/loss"]) for row in csv.DictReader(stream) if row.get("val/loss")]
    except (OSError, ValueError, csv.Error):
        return None
    return min((value for value in values if math.isfinite(value)), default=None)
