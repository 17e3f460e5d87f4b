"""Runs on disk: what `fit` left in a folder, listed without opening a checkpoint."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, Final

from diffusion_adc.records.atomic import write_json

TAINT: Final = "taint.json"
"""In a run or a folder of maps that must not be used further: why, since when, and what was decided about it."""


def read_taint(folder: Path) -> dict[str, Any] | None:
    """The taint of a run or of maps: ``taints`` and ``decisions``, each a list; None if there is none.

    A mark that cannot be read is a mark: nothing may be used because its reason was damaged.
    """
    try:
        taint = json.loads((folder / TAINT).read_text(encoding="utf-8"))
        if taint["taints"] and isinstance(taint["taints"], list) and isinstance(taint["decisions"], list):
            return dict(taint)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"taints": [{"reason": "unreadable"}], "decisions": []}


def write_taint(folder: Path, taint: dict[str, Any]) -> None:
    """Write the taint of a run or of maps."""
    write_json(folder / TAINT, taint)


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """One row per run below `folder`: state, steps, best score, cohort digest, provenance and taint.

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
        taint = read_taint(path.parent)
        rows.append(
            {
                "run": str(path.parent.relative_to(folder)),
                "state": record.get("state"),
                "steps": record.get("steps"),
                "best_val_loss": _best(path.with_name("metrics.csv")),
                "cohort": str(record.get("cohort_digest", ""))[:12],
                "provenance": record.get("provenance"),
                "taint": None if taint is None else taint["taints"][0].get("reason", "unreadable"),
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
