"""A run as a model folder: the same maps without the run, and refused when a byte differs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from diffusion_adc.custody.lineage import taint
from diffusion_adc.domain.errors import CohortError, DiffusionAdcError, UsageError
from diffusion_adc.export import model as export
from diffusion_adc.export.memorization import MemorizationReport
from diffusion_adc.export.model import export_model
from diffusion_adc.inference.calibrate import read_calibration
from diffusion_adc.inference.draw import draw_case
from diffusion_adc.inference.model_folder import draw_map, load_model
from diffusion_adc.inference.run import load_run
from diffusion_adc.records.cohort import read_cohort


@pytest.fixture(scope="module")
def makers() -> ModuleType:
    """The tiny cohort and run of the inference tests."""
    path = Path(__file__).parents[1] / "inference" / "conftest.py"
    spec = importlib.util.spec_from_file_location("inference_makers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference_makers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(makers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Cohort, run and model folder."""
    base = tmp_path_factory.mktemp("model")
    cohort = makers.write_tiny_cohort(base / "cohort")
    run = makers.write_tiny_run(base / "run", cohort)
    done = export_model(run, base / "folder", cases=1)
    assert "memorization:" in done.report.line()
    return cohort, run, base / "folder"


def test_three_lines_give_the_run_s_own_map(exported: tuple[Path, Path, Path]) -> None:
    cohort, run_dir, folder = exported
    model = load_model(folder)
    tumor_map = draw_map(model, cohort, "TINY0004_01")
    run = load_run(run_dir)
    held = read_cohort(cohort)
    case = next(case for case in held.cases if case.case_id == "TINY0004_01")
    calibration = read_calibration(run)
    assert calibration is not None
    again = draw_case(run, cohort, held, case, calibration, run.settings)
    assert np.array_equal(tumor_map.draws, again.draws)
    assert np.array_equal(tumor_map.tumor_adc, again.tumor_adc)
    assert np.array_equal(tumor_map.base_probability, again.base_probability)
    with pytest.raises(UsageError, match="no case"):
        draw_map(model, cohort, "TINY9999_01")


def test_the_folder_names_no_case_and_no_path(exported: tuple[Path, Path, Path]) -> None:
    cohort, _, folder = exported
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "model_index.json",
        "stage.json",
        "encoder/model.safetensors",
        "denoiser/config.json",
        "README.md",
    } <= names
    for name in names:
        raw = (folder / name).read_bytes()
        assert b"TINY" not in raw
        assert str(cohort.parent).encode() not in raw
    assert "Research use only" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "name", ["encoder/model.safetensors", "stage.json", "calibration.json", "scale/model.safetensors"]
)
def test_a_changed_byte_is_refused(exported: tuple[Path, Path, Path], name: str, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(exported[2], folder)
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(CohortError, match=f"{name} of the model folder"):
        load_model(folder)
    (folder / name).unlink()
    with pytest.raises(CohortError, match="missing or differs"):
        load_model(folder)


def test_a_class_outside_the_stages_is_refused_even_with_a_right_hash(
    exported: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    import shutil

    from diffusion_adc.records.atomic import sha256_file

    folder = tmp_path / "copy"
    shutil.copytree(exported[2], folder)
    stage = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps({**stage, "class_path": "os.system"}))
    index = json.loads((folder / "model_index.json").read_text())
    index["sha256"]["stage.json"] = sha256_file(folder / "stage.json")
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="model class"):
        load_model(folder)
    index["sha256"]["../x"] = "0"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CohortError, match="model folder"):
        load_model(folder)


def test_tainted_runs_and_models_are_refused(
    makers: ModuleType, exported: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    cohort = exported[0]
    run = makers.write_tiny_run(tmp_path / "run", cohort)
    taint(run, {"reason": "withdrawal", "when": "2026-01-01T00:00:00Z"})
    with pytest.raises(UsageError, match="withdrawn"):
        export_model(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no model"):
        load_model(tmp_path)


def test_a_model_that_copies_is_not_exported(
    makers: ModuleType, exported: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = makers.write_tiny_run(tmp_path / "run", exported[0])
    copies = MemorizationReport(100, 50, 50, 30, 0.99, 0.7)
    monkeypatch.setattr(export, "check_memorization", lambda *_: copies)
    with pytest.raises(DiffusionAdcError, match=r"30 of 100 drawn lesions \(30.0%\)"):
        export_model(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
