"""The command line: start-up, help, exit codes, messages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_adc.cli import main

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "phantom", "ingest", "check", "audit", "fit", "validate", "test", "draw", "evaluate", "review", "runs",
    "deliver", "withdraw", "sweep", "export", "ingest-corrections", "sync", "completion", "schema",
)  # fmt: skip


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diffusion_adc", *words],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; import diffusion_adc.cli as c; c._parser(); print(sorted(m for m in sys.modules if m in "
    )
    code += "('torch', 'lightning', 'monai', 'torchio', 'wandb', 'scipy', 'nibabel', 'matplotlib')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        start = time.process_time_ns(), os.times().children_user + os.times().children_system
        done = run("--help")
        times.append(os.times().children_user + os.times().children_system - start[1])
        assert done.returncode == 0
    assert min(times) < 0.5, "processor seconds of `diffusion-adc --help`"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: diffusion-adc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["check", "no/such/cohort"], "no cohort in cohort"),
        (["evaluate", "no/such/maps", "--cohort", "no/such/cohort"], "maps"),
        (["draw", "--run", "no/run", "--cohort", "no/cohort", "--out", "out"], "no run in run"),
        (["fit", "-c", "nowhere.yaml", "--out", "out"], "nowhere.yaml"),
        (["fit"], "--out"),
        (["fit", "-c", "experiments/base.yaml"], "--out"),
        (["validate", "--run", "no/run"], "experiment.yaml"),
        (["sync", "no/run"], "no run of the tracker"),
        (["phantom", "out", "--cases", "0"], "cases"),
        (["phantom", "out", "--anatomy", "moon"], "anatomy"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(words) == 2
    shown = capsys.readouterr().err.strip()
    assert part in shown
    assert "\n" not in shown
    assert "Traceback" not in shown


def test_unknown_option_is_exit_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["runs", "--nonsense"])
    assert stopped.value.code == 2


def test_foreign_errors_show_no_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"secret {tmp_path}")

    monkeypatch.setattr("diffusion_adc.records.runs.list_runs", broken)
    assert main(["runs", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert str(tmp_path) not in shown
    assert "RuntimeError" in shown


def test_runs_of_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert "no runs" in capsys.readouterr().out


def test_module_runs_like_the_script() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.strip()


def test_any_command_finishes_an_interrupted_withdrawal_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from diffusion_adc.custody import erase
    from diffusion_adc.domain.case import Case
    from diffusion_adc.domain.cohort import Cohort
    from diffusion_adc.records.cohort import JOURNAL, read_cohort, write_case, write_manifest

    cohort = tmp_path / "cohort"
    images = {
        name: np.random.default_rng(0).random((4, 4, 3), dtype=np.float32) + 1 for name in ("adc", "dwi_high")
    } | {"valid": np.ones((4, 4, 3), np.uint8)}
    cases = [
        write_case(
            cohort,
            Case(
                research_id=f"A-00{n}", exam_order=1, provenance="synthetic", tumor_status="unknown",
                adc_unit_source="stated", b_high=900.0,
                declared=("missing:t1w", "missing:t2w", "missing:dwi_low", "missing:tumor_label"),
            ),
            {name: image * n if name != "valid" else image for name, image in images.items()},
            np.diag([2.0, 2.0, 5.0, 1.0]),
        )
        for n in (1, 2)
    ]  # fmt: skip
    write_manifest(cohort, Cohort(tuple(cases), provenance="synthetic"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(erase, "_mark", killed)
        assert main(["withdraw", str(cohort), "A-002", "--runs", str(tmp_path)]) == 75
    assert (cohort / JOURNAL).is_file()
    assert main(["check", str(cohort)]) == 0
    assert "A-002" not in capsys.readouterr().out
    assert not (cohort / JOURNAL).exists()
    assert [case.research_id for case in read_cohort(cohort).cases] == ["A-001"]
