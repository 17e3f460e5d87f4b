"""F17, and maps drawn by several processes: the same files as one process draws in one go."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.inference import draw as drawing
from diffusion_adc.inference.draw import draw_cohort
from diffusion_adc.inference.share import Share
from diffusion_adc.records.maps import map_case_ids, read_maps_manifest

Figure = Callable[[str, Any], None]
Count = Callable[..., int]
pytestmark = pytest.mark.timeout(1500)


def files(rig: ModuleType, maps: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(maps)): path.read_bytes()
        for path in sorted(maps.rglob("*"))
        if path.is_file() and path.name != "maps.json"
    }  # fmt: skip


def drawn(cohort: Path, run: Path, out: Path, **options: Any) -> Path:
    return draw_cohort(run, cohort, out, "all", threads=1, **options)


@pytest.fixture(scope="module")
def maps(rig: ModuleType, cohort: Path, straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "straight"
    child = rig.start(lambda: drawn(cohort, straight, out), out.with_suffix(".txt"))
    assert child.wait() == 0, child.text()
    return out


@pytest.mark.slow
def test_f17_killed_after_any_case_the_maps_are_the_same(
    rig: ModuleType, cohort: Path, straight: Path, maps: Path, tmp_path: Path, count: Count, figure: Figure
) -> None:
    wanted, kills = files(rig, maps), 0
    for number in range(1, count(9, 2) + 1):
        out = tmp_path / str(number)

        def work(out: Path = out) -> None:
            plain = drawing._write

            def write(*args: Any) -> None:
                plain(*args)
                (tmp_path / f"{out.name}-{len(map_case_ids(out))}").write_text("")

            drawing._write = write  # type: ignore[assignment]
            drawn(cohort, straight, out)

        child = rig.start(work, tmp_path / "said")
        rig.until((tmp_path / f"{out.name}-{number}").exists, child=child)
        child.signal(signal.SIGKILL)
        child.wait()
        kills += 1
        kept = {name: (out / name).stat().st_mtime_ns for name in map_case_ids(out)}
        assert len(kept) >= number
        assert read_maps_manifest(out)["complete"] is False
        again = rig.start(lambda out=out: drawn(cohort, straight, out), tmp_path / "again")
        assert again.wait() == 0, again.text()
        assert files(rig, out) == wanted
        assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept  # not drawn twice
        assert read_maps_manifest(out)["complete"] is True
    figure("F17", {"killed": kills, "identical": kills, "left behind": 0})


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_a_cohort_are_one_process_s_maps(
    rig: ModuleType, cohort: Path, straight: Path, maps: Path, tmp_path: Path, figure: Figure, ranks: int
) -> None:
    out = tmp_path / "maps"
    (straight / "calibration.json").unlink(missing_ok=True)  # fitted again, by one of them, for all
    children = rig.start_ranks(lambda rank: drawn(cohort, straight, out), tmp_path, ranks)
    for child in children:
        assert child.wait() == 0, child.text()
    assert files(rig, out) == files(rig, maps)
    one, many = read_maps_manifest(maps), read_maps_manifest(out)
    assert one == many
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    figure(f"draw on {ranks} processes", {"files": len(files(rig, out)), "bit-equal": True})


@pytest.mark.slow
def test_a_share_that_never_ends_leaves_the_maps_incomplete(
    rig: ModuleType, cohort: Path, straight: Path, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    child = rig.start(lambda: drawn(cohort, straight, out, ranks=(1, 2)), tmp_path / "said")
    assert child.wait() == 0, child.text()
    assert read_maps_manifest(out)["complete"] is False
    assert len(map_case_ids(out)) == 5
    child = rig.start(lambda: drawn(cohort, straight, out, ranks=(0, 2)), tmp_path / "said")
    assert child.wait() == 0, child.text()
    assert files(rig, out) == files(rig, maps)
    assert read_maps_manifest(out)["complete"] is True


def test_shares_meet_in_the_folder(tmp_path: Path) -> None:
    manifest = {"draws": 2}
    first, second = Share(tmp_path, 0, 2), Share(tmp_path, 1, 2)
    for share in (first, second):
        share.begin(manifest)
    second.end(manifest, {"RIG0001_01": "S25: damaged"})
    assert read_maps_manifest(tmp_path) == {
        "draws": 2, "complete": False, "refused": {"RIG0001_01": "S25: damaged"},
    }  # fmt: skip
    first.begin(manifest)  # a second start does not forget what the other one refused
    first.end(manifest, {"RIG0000_01": "S18: NaN"})
    whole = read_maps_manifest(tmp_path)
    assert whole["complete"] is True
    assert list(whole["refused"]) == ["RIG0000_01", "RIG0001_01"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.json"]
    assert first.of([0, 1, 2, 3, 4]) == [0, 2, 4]  # type: ignore[list-item]
    assert second.of([0]) == []  # type: ignore[list-item]
    Share(tmp_path).end({"draws": 3}, {})
    assert read_maps_manifest(tmp_path)["complete"] is True


@pytest.mark.slow
def test_f9_out_of_memory_while_drawing(
    rig: ModuleType, cohort: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: Path
) -> None:
    plain, done = drawing.draw_case, []

    def draw_case(*args: Any) -> Any:
        if len(done) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(1)
        return plain(*args)

    monkeypatch.setattr(drawing, "draw_case", draw_case)
    with pytest.raises(DiffusionAdcError, match=r"RIG0002: out of memory while drawing; lower draws\.batch"):
        drawn(cohort, straight, tmp_path / "maps")
    assert len(map_case_ids(tmp_path / "maps")) == 2
    assert json.loads((tmp_path / "maps" / "maps.json").read_text())["complete"] is False
