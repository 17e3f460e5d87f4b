"""The notebooks call the package and define nothing, carry no output, and run from top to bottom."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ("look_at_a_case", "one_patch_through_the_house", "read_a_run")


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, monkeypatch: pytest.MonkeyPatch, **folders: Path) -> Any:
    """The notebook after every cell ran in its own kernel; a cell that fails raises."""
    for word, folder in folders.items():
        monkeypatch.setenv(f"DIFFUSION_ADC_{word.upper()}", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = read(name)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return notebook


def pictures(notebook: Any) -> int:
    return sum("image/png" in out.get("data", {}) for c in notebook.cells for out in c.get("outputs", []))


def printed(notebook: Any) -> str:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")


def test_there_are_three() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped_and_nothing_is_defined(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    tree = ast.parse("\n".join(cell.source for cell in code))
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    assert not [node for node in ast.walk(tree) if isinstance(node, defined)]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert any(str(module).startswith("diffusion_adc.") for module in imported)


def _plain_run(run: Path) -> Path:
    """A run of three epochs and two scored cases, as files alone: what the notebook reads needs no network."""
    from diffusion_adc.evaluation.picture import CaseView, save_case_figure
    from diffusion_adc.records.atomic import write_csv, write_json
    from diffusion_adc.records.maps import write_map_case

    record = {
        "state": "finished", "steps": 12, "cohort_digest": "ab" * 32, "provenance": "synthetic", "seed": 3,
        "git_commit": "cd" * 20, "versions": {"torch": "2"}, "cases": ["00", "11"], "command": ["diffusion-adc", "fit"],
    }  # fmt: skip
    write_json(run / "record.json", record)
    rows = [{"step": 4 * n, "epoch": n - 1, "train/loss": 3.0 / n, "val/loss": 2.0 / n} for n in (1, 2, 3)]
    write_csv(run / "metrics.csv", rows, list(rows[0]))
    shape, random = (12, 12, 4), np.random.default_rng(0)
    adc, presence = random.random(shape).astype(np.float32), np.zeros(shape, bool)
    presence[4:8, 4:8, 2] = True
    view = CaseView("largest", np.eye(4), adc, adc, presence, presence, adc, adc, presence[..., None])
    save_case_figure(view, run / "grids" / "step0000004_largest.png")
    for number, volume in enumerate((1.0, 7.5), start=1):
        tdv = {"map": volume, "median": volume, "low80": volume / 2, "high80": volume * 2}
        volumes = {"tumor_adc": adc * presence, "probability": adc, "draws": presence[..., None]}
        write_map_case(run / "maps" / "test", f"AB-000{number}_01", volumes, np.eye(4), [], {"tdv_ml": tdv})
    write_json(run / "maps" / "test" / "maps.json", {"run": run.name})
    entry = {"value": 0.5, "low95": 0.4, "high95": 0.6}
    names = ("n_cases", "dice", "lesion_f1", "lesion_sensitivity", "lesion_precision", "log_tdv_error")
    write_json(run / "maps" / "test" / "scores.json", {"model": dict.fromkeys(names, entry)})
    return run


def test_read_a_run_needs_nothing_but_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = execute("read_a_run", monkeypatch, run=_plain_run(tmp_path / "plain"))
    assert pictures(done) == 3
    text = printed(done)
    assert "presence flow" in text
    assert "abababababab" in text
    assert "2 cases used" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_look_at_a_case(phantom_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = execute("look_at_a_case", monkeypatch, cohort=phantom_cohort)
    assert pictures(done) == 4
    assert "target values that differ from the scanner's: 0 of" in printed(done)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_patch_through_the_house(
    phantom_cohort: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = execute("one_patch_through_the_house", monkeypatch, cohort=phantom_cohort, run=small_run)
    assert pictures(done) == 4
    assert "round trip exact: True" in printed(done)
    digest = json.loads((small_run / "checkpoints" / "best.ckpt.json").read_text())["sha256"]
    assert f"checkpoint {digest[:12]}" in printed(done)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_not_yet_scored_is_read_too(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = execute("read_a_run", monkeypatch, run=small_run)
    assert "not scored yet" in printed(done)
    assert pictures(done) >= 2
