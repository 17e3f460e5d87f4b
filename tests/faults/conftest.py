"""Counts and figures of the fault tests: every count is printed and kept in one JSON, from which documents quote.

``FULL=1`` runs all counts, ``make faults`` a fifth of them, the everyday suite a handful.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FULL = os.environ.get("FULL") == "1"
FAULTS = os.environ.get("FAULTS") == "1"


@pytest.fixture(scope="session")
def count() -> Callable[..., int]:
    """``count(full, least)``: how many of the full count this run does."""

    def scaled(full: int, least: int = 3) -> int:
        share = 1.0 if FULL else 0.2 if FAULTS else 0.0
        return min(full, max(least, math.ceil(full * share)))

    return scaled


@pytest.fixture
def figure(
    pytestconfig: pytest.Config, keep_figure: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> Callable[[str, Any], None]:
    """``figure(name, value)``: print a figure and keep it in faults.json (``DIFFUSION_ADC_FIGURES`` or the cache)."""
    cache = getattr(pytestconfig, "cache", None)
    folder = Path(tempfile.gettempdir()) if cache is None else cache.mkdir("figures")
    target = Path(os.environ.get("DIFFUSION_ADC_FIGURES") or folder / "faults.json")

    return partial(keep_figure, target, capsys)


@pytest.fixture(scope="session")
def rig() -> ModuleType:
    spec = importlib.util.spec_from_file_location("faults_rig", Path(__file__).with_name("rig.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults_rig"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cohort(rig: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small examinations, prepared once by whoever trains first."""
    return rig.write_cohort(tmp_path_factory.mktemp("rig") / "cohort")


@pytest.fixture(scope="session")
def straight(rig: ModuleType, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two epochs."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    child = rig.start(lambda: rig.train(cohort, run), run.with_suffix(".txt"))
    assert child.wait() == 0, child.text()
    return run
