"""Runs on disk: what `fit` left in a folder, listed without opening a checkpoint."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """One row per run below `folder`: state, steps, best score, cohort digest, when it was last written.

    A run is a folder with record.json. The best score is the lowest ``val/loss`` of metrics.csv.
    """
    rows = []
    for path in sorted(folder.glob("**/record.json")):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
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
        with metrics.open(newline="") as stream:
            values = [float(row["val/loss"]) for row in csv.DictReader(stream) if row.get("val/loss")]
    except (OSError, ValueError):
        return None
    return min(values, default=None)
