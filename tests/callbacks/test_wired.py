"""The tracker as a user meets it: through `fit`, `validate`, `test`, `review` and `sync`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_adc.callbacks import runlog
from diffusion_adc.cli import main
from diffusion_adc.records.cohort import read_cohort

# Each training is seconds of a small network and seconds of the client's own start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
ROOT = Path(__file__).parents[2]
STOPPED = 75


def fit(cohort: Path, run: Path, small: list[str], *more: str) -> int:
    words = ["fit", "-c", str(ROOT / "experiments" / "base.yaml"), f"--cohort={cohort}", "--out", str(run)]
    return main([*words, *small, *more])


def stop_when_saved(run: Path) -> None:
    """SIGTERM to this process once the run's first checkpoint is there; `fit` finishes the step, saves and stops."""
    for _ in range(6000):
        if (run / "checkpoints" / "last.ckpt.json").is_file():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.05)


def logs(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("*run-*/*.wandb"), key=lambda path: path.parent.name)


def rows(log: Path) -> list[dict[str, Any]]:
    """What a part of the run logged, as the client's own reader prints it."""
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=280, check=True).stdout
    parsed = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return [record["history"]["item"] for record in parsed if record.get("type") == "history"]


@pytest.fixture(autouse=True)
def quiet_tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the client puts into the environment is gone afterwards, but for the address of its process."""
    before = {k: v for k, v in os.environ.items() if k.startswith("WANDB_") and k != "WANDB_SERVICE"}
    yield
    known = (*before, "WANDB_SERVICE")
    for name in [name for name in os.environ if name.startswith("WANDB_") and name not in known]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def run(phantom_cohort: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped by a signal and went on, with Lightning's profiler."""
    out = tmp_path_factory.mktemp("wired") / "first"
    more = ("--trainer.max_epochs=12", "--trainer.profiler=simple", "--grids.every_n_epochs=6")
    threading.Thread(target=stop_when_saved, args=(out,), daemon=True).start()
    assert fit(phantom_cohort, out, small, *more) == STOPPED
    identity = json.loads((out / "tracker.json").read_text())
    assert fit(phantom_cohort, out, small, *more) == 0
    assert json.loads((out / "tracker.json").read_text()) == identity
    return out


def test_a_resumed_run_stays_one_run(run: Path) -> None:
    known = json.loads((run / "tracker.json").read_text())["id"]
    assert [path.stem for path in logs(run)[:2]] == [f"run-{known}"] * 2
    first, second = (rows(log) for log in logs(run)[:2])
    assert max(row["_step"] for row in first) < max(row["_step"] for row in second)
    with (run / "metrics.csv").open(newline="") as stream:
        steps = [int(row["step"]) for row in csv.DictReader(stream)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 48
    assert any("fit" in path.name and path.stat().st_size > 0 for path in (run / "profile").glob("*.txt"))


def test_everything_asked_for_is_logged(run: Path) -> None:
    logged: dict[str, Any] = {}
    for log in logs(run)[:2]:
        for row in rows(log):
            logged |= row
    for name in ("train/loss", "val/loss", "optimizer/learning_rate"):
        assert logged[name] > 0, name
    assert logged["speed/patches_per_s"] > 1
    assert logged["memory/host_peak_mib"] > 50
    grids = {path.stem.split("_", 1)[1] for path in (run / "grids").glob("*.png")}
    assert grids
    for role in grids:
        assert logged[f"grids/{role}._type"] == "image-file"
        assert any(name.startswith(f"slices/{role}.masks.") for name in logged), role
    record = json.loads((run / "record.json").read_text())
    texts = list(runlog.strings(logs(run)[0]))
    assert record["cohort_digest"] in {text for _, text in texts}
    assert record["experiment_sha256"] in {text for _, text in texts}
    assert "learning_rate" in {text for _, text in texts}


def test_validation_opens_no_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(logs(run))
    assert main(["validate", "--run", str(run)]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert len(logs(run)) == before


def test_scores_and_pages_join_the_run_and_all_of_it_is_sent(
    run: Path, phantom_cohort: Path, loopback_module: Any, script: Callable[..., subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    before = len(logs(run))
    assert main(["test", "--run", str(run)]) == 0
    maps = str(run / "maps" / "test")
    assert main(["review", maps, "--cohort", str(phantom_cohort), "--out", str(tmp_path / "site")]) == 0
    assert len(logs(run)) == before + 2
    scored, paged = ({k: v for row in rows(log) for k, v in row.items()} for log in logs(run)[before:])
    scores = json.loads((run / "maps" / "test" / "scores.json").read_text())["model"]
    assert scored["test/n_cases"] == scores["n_cases"]["value"]
    assert scored["test/detection._type"] == "table-file"
    assert paged["review._type"] == "html-file"
    lesions = sum(
        len((case / "lesions.csv").read_text().splitlines()) - 1 for case in Path(maps).glob("*_??")
    )
    assert ("test/lesions._type" in scored) is (lesions > 0)

    capsys.readouterr()
    assert main(["sync", str(run), "--dry-run"]) == 0
    assert "nothing that must stay here" in capsys.readouterr().out
    with loopback_module.Loopback() as server:
        code = "import sys; from diffusion_adc.cli import main; sys.exit(main(sys.argv[1:]))"
        done = script(
            code, "sync", run, timeout=1800, WANDB_BASE_URL=server.url, WANDB_API_KEY=loopback_module.KEY
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 artifacts sent" in done.stdout
    known = json.loads((run / "tracker.json").read_text())["id"]
    arrived = server.lines[known]
    assert len(arrived) == sum(len(rows(log)) for log in logs(run)), "no part wrote over another"
    sent = {name for row in arrived.values() for name in row}
    assert {"val/loss", "test/n_cases", "review"} <= sent
    assert any(name.startswith("grids/") for name in sent)
    made = {artifact["artifactTypeName"]: artifact for artifact in server.artifacts}
    digest = read_cohort(phantom_cohort).digest
    assert json.loads(made["model"]["metadata"])["cohort_digest"] == digest
    assert json.loads(made["cohort"]["metadata"])["digest"] == digest
    assert any(name.endswith("best.ckpt") for name in server.files)
    # A host called by two letters is found in any picture.
    secrets = [w for w in (str(run), str(phantom_cohort), os.uname().nodename) if len(w) > 3]
    assert [word for word in secrets if server.has(word)] == []


def test_a_planted_name_stops_the_upload(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    (logs(copy)[0].parent / "files" / "notes.txt").write_text("patient YAMADA^TARO")
    assert main(["sync", str(copy), "--dry-run"]) == 1
    shown = capsys.readouterr().err
    assert "T11" in shown
    assert "YAMADA" not in shown
    assert main(["sync", str(tmp_path)]) == 2


def test_a_restricted_cohort_sends_no_picture_and_no_name(
    phantom_cohort: Path, small: list[str], tmp_path: Path
) -> None:
    from dataclasses import replace

    from diffusion_adc.records.cohort import write_manifest

    cohort = shutil.copytree(phantom_cohort, tmp_path / "clinic")
    stored = read_cohort(cohort)
    cases = tuple(replace(case, provenance="restricted") for case in stored.cases)
    write_manifest(cohort, replace(stored, cases=cases, provenance="restricted"))
    out = tmp_path / "restricted"
    assert fit(cohort, out, small, "--name=yamada", "--trainer.max_epochs=1", "--grids.every_n_epochs=1") == 0
    assert logs(out), "tracked"
    assert list((out / "grids").glob("*.png")), "drawn here"
    assert not list((out / "wandb").rglob("*.png")), "never given to the tracker"
    held = b"".join(path.read_bytes() for path in (out / "wandb").rglob("*") if path.is_file())
    assert b"yamada" not in held
    assert not any(case.research_id.encode() in held for case in stored.cases)
    assert (out / "metrics.csv").is_file()


def test_without_a_server_training_is_the_same(
    phantom_cohort: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    more = ("--trainer.max_epochs=2", "--grids.every_n_epochs=0")
    assert fit(phantom_cohort, tmp_path / "off", small, *more, "--tracking.mode=disabled") == 0
    assert not (tmp_path / "off" / "wandb").exists()
    capsys.readouterr()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert fit(phantom_cohort, tmp_path / "gone", small, *more, "--tracking.mode=online") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracker:")]
    assert said == [
        "tracker: offline, the server does not answer; `diffusion-adc sync RUN` uploads the run later"
    ]
    off, gone = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("off", "gone")
    )
    assert off.keys() == gone.keys()
    assert all(torch.equal(off[name], gone[name]) for name in off)
