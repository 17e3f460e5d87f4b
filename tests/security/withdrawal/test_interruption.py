"""Killed anywhere, a withdrawal ends the same; and nothing goes on from what it tainted."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_adc.custody import lineage
from diffusion_adc.custody.withdraw import finish_interrupted, withdraw
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.runs import TAINT, read_taint

pytestmark = pytest.mark.security
ROOT = Path(__file__).parents[3]


def in_child(action: Callable[[], Any], kill_at: int | None, root: Path) -> int:
    """Run in a forked process; SIGKILL at the n-th change on disk. Returns how many changes there were."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir"):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            action()
            os.write(into, str(seen).encode())
        finally:
            os._exit(0)
    os.close(into)
    _, status = os.waitpid(child, 0)
    told = os.read(out, 64)
    os.close(out)
    assert os.WIFSIGNALED(status) == (kill_at is not None)
    return int(told or b"0")


@pytest.mark.usefixtures("still")
def test_killed_anywhere_it_ends_the_same(
    template: Any, tmp_path: Path, figure: Callable[[str, Any], None], scale: Callable[..., int]
) -> None:
    kills = scale(25, least=5)
    whole = template.copy(tmp_path / "whole")
    changes = in_child(lambda: withdraw(whole.cohort, template.gone, runs=whole.runs), None, whole.root)
    assert changes > 100
    expected, same = whole.state(), 0
    points = [1 + round(index * (changes - 1) / (kills - 1)) for index in range(kills)]
    for number, point in enumerate(points):
        cut = template.copy(tmp_path / f"cut{number}")
        in_child(lambda cut=cut: withdraw(cut.cohort, template.gone, runs=cut.runs), point, cut.root)
        if (cut.cohort / cohorts.JOURNAL).exists():
            with pytest.raises(cohorts.InterruptedWithdrawal) as caught:
                cohorts.read_cohort(cut.cohort)
            assert caught.value.cohort_dir == cut.cohort
            assert finish_interrupted(cut.cohort) is not None
        else:  # killed before the plan was written (nothing has happened) or after all was done
            withdraw(cut.cohort, template.gone, runs=cut.runs)
        ended = cut.state()
        assert {n for n in ended | expected if ended.get(n) != expected.get(n)} == set(), f"killed at {point}"
        same += 1
        shutil.rmtree(cut.root)
    figure(f"withdrawal: same end after SIGKILL at one of {changes} changes", f"{same}/{kills}")


def attempts(world: Any, tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Ten ways to go on from a tainted checkpoint: the run folder and what --resume says."""
    runs = world.runs

    def copied(run: str, name: str, target: str) -> Path:
        path = tmp_path / target
        path.parent.mkdir(parents=True)
        shutil.copyfile(runs / run / "checkpoints" / name, path)
        return path

    (runs / "unmarked" / "checkpoints").mkdir(parents=True)
    for part in ("record.json", "experiment.yaml", "checkpoints/last.ckpt"):  # a run whose mark was taken off
        shutil.copyfile(runs / "all" / part, runs / "unmarked" / part)
    shutil.copytree(runs / "unlisted", runs / "scratched")
    (runs / "scratched" / TAINT).write_text("{")
    link = tmp_path / "link.ckpt"
    link.symlink_to(runs / "all" / "checkpoints" / "best.ckpt")
    new = runs / "new"
    return {
        "its own folder": (runs / "all", "auto"),
        "a run that kept no list of pictures": (runs / "unlisted", "auto"),
        "a run begun from a tainted one": (runs / "child", "auto"),
        "the last checkpoint, into a new run": (new, str(runs / "all" / "checkpoints" / "last.ckpt")),
        "the best checkpoint, into a new run": (new, str(runs / "all" / "checkpoints" / "best.ckpt")),
        "a copy under another name": (new, str(copied("all", "best.ckpt", "mine/pretrained.ckpt"))),
        "a copy in another run": (new, str(copied("unlisted", "last.ckpt", "other/checkpoints/last.ckpt"))),
        "a link": (new, str(link)),
        "a run whose mark is gone": (runs / "unmarked", "auto"),
        "a run whose mark is damaged": (runs / "scratched", "auto"),
    }


def test_nothing_resumes_from_a_tainted_checkpoint(
    world: Any, tmp_path: Path, figure: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_adc import train
    from diffusion_adc.config import compose

    withdraw(world.cohort, world.gone, runs=world.runs)
    experiment = compose([ROOT / "experiments" / "base.yaml"], [f"--cohort={world.cohort}"])
    parsed = train.parse(experiment)  # once for all ten: parsing takes longer than refusing
    monkeypatch.setattr(train, "parse", lambda same: parsed)
    refused = 0
    tried = attempts(world, tmp_path)
    for way, (run, resume) in tried.items():
        with pytest.raises(UsageError, match="withdrawn") as caught:
            train.fit(experiment, run, resume, [], quiet=True)
        assert not any(person in str(caught.value) for person in world.persons), way
        refused += 1
    figure("withdrawal: resumes from a tainted checkpoint refused", f"{refused}/{len(tried)}")
    assert refused == 10
    assert not (world.runs / "new").exists()


def test_nothing_is_drawn_or_exported_without_a_recorded_decision(world: Any) -> None:
    from diffusion_adc.inference.run import load_run

    withdraw(world.cohort, world.gone, runs=world.runs)
    text = (
        (world.runs / "all" / "experiment.yaml")
        .read_text()
        .replace("cohort: cohort", f"cohort: {world.cohort}")
    )
    for run in ("all", "unlisted", "child"):
        (world.runs / run / "experiment.yaml").write_text(text)
        with pytest.raises(UsageError, match="nothing tainted to draw"):
            load_run(world.runs / run)
    maps = world.runs / "all" / "maps" / "test"
    with pytest.raises(UsageError, match="nothing tainted to export"):
        lineage.refuse_tainted(maps, use="export")
    (maps / TAINT).unlink()  # its run's mark is enough
    with pytest.raises(UsageError, match="nothing tainted to export"):
        lineage.refuse_tainted(maps, use="export")
    for reference in ("because we need it", "", "x" * 65, "a\n"):
        with pytest.raises(UsageError, match="reference"):
            lineage.refuse_tainted(maps, reference, use="export")
    for _ in range(2):
        lineage.refuse_tainted(maps, "IRB-2026/15", use="export")
    taint = read_taint(world.runs / "all")
    assert taint is not None
    assert [(d["decision"], d["use"]) for d in taint["decisions"]] == [("IRB-2026/15", "export")]
    lineage.refuse_tainted(world.runs / "free", use="draw", cohort=world.cohort)
    lineage.refuse_tainted(world.runs / "maps_of_free", use="export")


def test_a_delivery_of_a_person_who_withdrew_is_refused(
    world: Any, tmp_path: Path, figure: Callable[[str, Any], None]
) -> None:
    from diffusion_adc.intake.ingest import ingest
    from diffusion_adc.intake.options import IngestOptions

    withdraw(world.cohort, world.gone, runs=world.runs)
    before = world.state()
    for person in world.gone:
        source = tmp_path / "again" / person
        source.mkdir(parents=True)
        (source / "adc.nii.gz").write_bytes(b"anything")
    report = ingest(
        source.parent, world.cohort, IngestOptions(layout="nifti", adc_unit="1e-3", overwrite=True)
    )
    refused = [line for line in report.refused if "withdrew" in line]
    figure("withdrawal: re-deliveries refused", f"{len(refused)}/{len(world.gone)}")
    assert len(refused) == len(world.gone)
    assert world.state() == before
