"""X1, X3, T12: a checkpoint or a YAML from elsewhere runs nothing, and ours carry no identifiers."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from diffusion_adc.config import compose, parse
from diffusion_adc.data.prepare import Recipe
from diffusion_adc.data.store import IMAGES_FILE, META_FILE, Store, entry_key, open_entry
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError
from diffusion_adc.inference.run import load_run
from diffusion_adc.records.atomic import sha256_file, write_json
from diffusion_adc.records.cohort import read_cohort
from diffusion_adc.records.sidecars import sidecar

Figure = Callable[[str, Any], None]
FAULTS = "1" in (os.environ.get("FAULTS"), os.environ.get("FULL"))
"""All gadgets rather than a few."""


def gadgets(folder: Path) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Calls that leave a file in `folder` when a pickle makes them: module, name, arguments."""
    made, text = iter(range(10_000)), "x"
    (folder / "there").write_text("x")
    (folder / "script.py").write_text(f"open({str(folder / 'script')!r}, 'w')")

    def new() -> str:
        return str(folder / f"ran{next(made)}")

    def code() -> str:
        return f"open({new()!r}, 'w')"

    def shell() -> str:
        return f"touch {new()}"

    there, script = str(folder / "there"), str(folder / "script.py")
    calls: list[tuple[str, str, tuple[Any, ...]]] = [
        ("os", "system", (shell(),)), ("posix", "system", (shell(),)), ("os", "popen", (shell(),)),
        ("subprocess", "run", (["touch", new()],)), ("subprocess", "call", (["touch", new()],)),
        ("subprocess", "check_call", (["touch", new()],)), ("subprocess", "check_output", (["touch", new()],)),
        ("subprocess", "Popen", (["touch", new()],)), ("subprocess", "getoutput", (shell(),)),
        ("subprocess", "getstatusoutput", (shell(),)), ("builtins", "exec", (code(),)),
        ("builtins", "eval", (code(),)), ("builtins", "open", (new(), "w")), ("io", "open", (new(), "w")),
        ("_io", "open", (new(), "w")), ("_io", "FileIO", (new(), "w")), ("codecs", "open", (new(), "w")),
        ("gzip", "open", (new(), "w")), ("bz2", "open", (new(), "w")), ("lzma", "open", (new(), "w")),
        ("zipfile", "ZipFile", (new(), "w")), ("tarfile", "open", (new(), "w")), ("shelve", "open", (new(),)),
        ("sqlite3", "connect", (new(),)), ("os", "mkdir", (new(),)), ("posix", "mkdir", (new(),)),
        ("os", "makedirs", (new(),)), ("os", "open", (new(), os.O_CREAT | os.O_WRONLY)),
        ("os", "symlink", (there, new())), ("os", "link", (there, new())), ("os", "mkfifo", (new(),)),
        ("shutil", "copy", (there, new())), ("shutil", "copyfile", (there, new())),
        ("shutil", "copytree", (str(folder / "tree"), new())), ("runpy", "run_path", (script,)),
        ("timeit", "timeit", (code(), "pass", time.perf_counter, 1)), ("cProfile", "run", (code(),)),
        ("profile", "run", (code(),)), ("trace", "Trace", ()), ("logging", "FileHandler", (new(),)),
        ("numpy", "save", (new() + ".npy", 1)), ("numpy", "savetxt", (new(), [1.0])),
        ("torch", "save", ({}, new())), ("code", "interact", ()), ("pty", "spawn", (["touch", new()],)),
        ("pathlib", "Path.touch", (Path(new()),)), ("pathlib", "Path.mkdir", (Path(new()),)),
        ("pathlib", "Path.write_text", (Path(new()), text)), ("os", "spawnvp", (0, "touch", ["touch", new()])),
        ("posix", "open", (new(), os.O_CREAT)), ("distutils.file_util", "write_file", (new(), [text])),
    ]  # fmt: skip
    (folder / "tree").mkdir(exist_ok=True)
    left_out = {
        ("trace", "Trace"),
        ("code", "interact"),
        ("pty", "spawn"),
        ("distutils.file_util", "write_file"),
    }
    return [call for call in calls if call[:2] not in left_out]


def pickled(module: str, name: str, arguments: tuple[Any, ...]) -> bytes:
    """A pickle that calls module.name(*arguments) when it is loaded, written by hand."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return b"\x8c" + struct.pack("<B", len(raw)) + raw

    body = pickle.dumps(arguments, protocol=4)
    start = body.index(b"\x95") + 9 if b"\x95" in body[:12] else 2
    return b"\x80\x04" + text(module) + text(name) + b"\x93" + body[start:-1] + b"R."


def zipped(payload: bytes) -> bytes:
    """The payload where a torch checkpoint has its own pickle."""
    plain, evil = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {}}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(evil, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, payload if entry.filename.endswith("data.pkl") else old.read(entry))
    return evil.getvalue()


def npy(payload: bytes) -> bytes:
    """An object array whose pickle is the payload."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return stream.getvalue() + payload


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(("ran", "script")))


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    folder = tmp_path / "trap"
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_x1_the_gadgets_do_work(trap: Path, rig: ModuleType) -> None:
    calls = gadgets(trap)
    before = len(ran(trap))

    def work() -> None:
        for call in calls:
            kept = ran(trap)
            loaded = pickle.loads(pickled(*call))
            if hasattr(loaded, "wait"):
                loaded.wait()
            del loaded
            until = time.monotonic() + 5
            while ran(trap) == kept and time.monotonic() < until:
                time.sleep(0.01)
            assert ran(trap) != kept, call[:2]

    child = rig.start(work, trap.parent / "said")
    assert child.wait() == 0, child.text()
    assert len(calls) >= 40
    assert len(ran(trap)) - before >= 40


def test_x1_foreign_pickles_are_refused_and_nothing_runs(
    trap: Path, tmp_path: Path, cohort: Path, figure: Figure
) -> None:
    """Four containers, through the doors by which files come in: a run's checkpoint (as an archive, as a bare
    pickle, as a list of several) and an entry of the store; each with a sidecar that vouches for it.
    """
    every = gadgets(trap)
    calls, accepted, tried = every if FAULTS else every[::24], 0, 0
    before = ran(trap)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "experiment.yaml").write_text(
        "model: {class_path: diffusion_adc.stages.PresenceFlowStage, init_args: {spatial_dims: 2, channels: [8],"
        " denoiser_width: 8, denoiser_levels: 1}}\n"
    )
    path = run / "checkpoints" / "best.ckpt"
    case = read_cohort(cohort).cases[0]
    store = Store(cohort, Recipe.for_patch(None, (16, 16, 1)), tmp_path / "store")
    entry = store.entry(case)
    meta = json.loads((entry.path / META_FILE).read_text())
    for call in calls:
        payload = pickled(*call)
        for made in (zipped(payload), payload, payload[:-1] + payload[2:]):
            path.write_bytes(made)
            write_json(sidecar(path), {"sha256": sha256_file(path), "step": 1})
            tried += 1
            with pytest.raises(DiffusionAdcError, match="damaged"):
                load_run(run)
        (entry.path / IMAGES_FILE).write_bytes(npy(payload))
        content = meta["content"]
        content["files"][IMAGES_FILE] = {
            "sha256": sha256_file(entry.path / IMAGES_FILE), "bytes": (entry.path / IMAGES_FILE).stat().st_size,
        }  # fmt: skip
        from diffusion_adc.data.store import _digest

        (entry.path / META_FILE).write_text(json.dumps({"content": content, "sha256": _digest(content)}))
        tried += 1
        accepted += open_entry(entry.path, entry_key(case, store.recipe)) is not None
    assert ran(trap) == before
    assert accepted == 0
    assert tried == 4 * len(calls)
    figure("X1", {"gadgets": len(calls), "containers": 4, "executed": 0, "accepted": 0})


@pytest.mark.slow
def test_x1_resuming_from_a_foreign_pickle_runs_nothing(
    rig: ModuleType, trap: Path, cohort: Path, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.ckpt"
    path.write_bytes(zipped(pickled(*gadgets(trap)[0])))
    before = ran(trap)
    child = rig.start(lambda: rig.train(cohort, tmp_path / "run", resume=str(path)), tmp_path / "said")
    assert child.wait() == 1
    assert "a checkpoint that holds more than plain values" in child.text()
    assert ran(trap) == before


GOOD = "diffusion_adc.stages.PresenceFlowStage"
PAYLOADS = [
    "a: !!python/object/apply:os.system ['touch {ran}']",
    "a: !!python/object/new:os.system ['touch {ran}']",
    "a: !!python/object/apply:subprocess.Popen [['touch', '{ran}']]",
    'a: !!python/object/apply:builtins.exec [\'open("{ran}", "w")\']',
    "a: !!python/name:os.system",
    "a: !!python/module:planted",
    "a: !!python/object:planted.Evil {{}}",
    'a: !!python/object/apply:builtins.eval [\'open("{ran}", "w")\']',
    "a: !!python/tuple [1, !!python/name:os.system ]",
    "!!python/object/apply:os.system ['touch {ran}']: a",
    "model: {{class_path: os.system, init_args: {{command: 'touch {ran}'}}}}",
    "model: {{class_path: planted.Evil}}",
    "model: {{class_path: subprocess.Popen, init_args: {{args: [touch, '{ran}']}}}}",
    "model: {{class_path: builtins.exec}}",
    "model: {{class_path: diffusion_adc.stages.presence_flow.torch.hub.load}}",
    "model: {{class_path: diffusion_adc.stagesx.Evil}}",
    "model: {{class_path: 'diffusion_adc.stages.'}}",
    "model: {{class_path: diffusion_adc.stages.ema.torch}}",
    "model: {{class_path: [planted.Evil]}}",
    "model: {{class_path: '${{planted}}'}}\nplanted: planted.Evil",
    "data: {{class_path: planted.Evil}}",
    "data: {{class_path: pickle.loads}}",
    "data: {{class_path: numpy.load}}",
    "trainer: {{callbacks: [{{class_path: planted.Evil}}]}}",
    "trainer: {{plugins: [{{class_path: planted.Evil}}]}}",
    "trainer: {{logger: {{class_path: planted.Evil}}}}",
    "trainer: {{strategy: {{class_path: planted.Evil}}}}",
    "trainer: {{profiler: {{class_path: planted.Evil}}}}",
    "ema: {{class_path: planted.Evil}}",
    "grids: {{class_path: planted.Evil}}",
    "name: '${{oc.create:{{_target_: planted.Evil}}}}'",
    "name: '${{python:planted}}'",
]


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=[] if n % 6 == 5 else pytest.mark.slow) for n in range(len(PAYLOADS))],
)
def test_x3_a_yaml_runs_nothing(
    rig: ModuleType, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(f"open({str(trap / 'ran')!r}, 'w')\nclass Evil: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "evil.yaml"
    path.write_text(PAYLOADS[number].format(ran=trap / "ran"))
    with pytest.raises(UsageError) as caught:
        parse(compose([rig.BASE, path]))
    assert ran(trap) == []
    assert "planted" not in sys.modules
    assert "\n" not in str(caught.value)


def test_x3_an_alias_bomb_is_over_in_a_second(tmp_path: Path, rig: ModuleType, figure: Figure) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    began = time.monotonic()

    def work() -> None:
        with pytest.raises(UsageError, match="alias"):
            compose([rig.BASE, path])

    child = rig.start(work, tmp_path / "said")
    assert child.wait(20) == 0, child.text()
    took = time.monotonic() - began
    assert took < 1 or os.getloadavg()[0] > 2
    figure("X3", {"payloads": len(PAYLOADS), "executed": 0, "imported": 0, "alias bomb s": round(took, 2)})


def test_aliases_themselves_are_fine(tmp_path: Path, rig: ModuleType) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("common: &common {x: 1, y: 2}\nfirst: *common\nsecond: {<<: *common, y: 3}\n")
    values = compose([path]).values
    assert values["second"] == {"x": 1, "y": 3}
    assert yaml.safe_load(path.read_text())["first"] == values["first"]


def plain_values(value: Any, where: str = "") -> list[tuple[str, str]]:
    """Every text in a checkpoint; anything that is not a plain value fails."""
    if isinstance(value, dict):
        return [t for k, v in value.items() for t in [(where, str(k)), *plain_values(v, f"{where}.{k}")]]
    if isinstance(value, list | tuple):
        return [t for n, v in enumerate(value) for t in plain_values(v, f"{where}.{n}")]
    if isinstance(value, str):
        return [(where, value)]
    assert value is None or isinstance(value, bool | int | float) or torch.is_tensor(value), (
        where,
        type(value),
    )
    return []


@pytest.mark.slow
def test_t12_checkpoints_carry_no_identifiers(
    rig: ModuleType, cohort: Path, straight: Path, tmp_path: Path, figure: Figure
) -> None:
    names = [*rig.ids(cohort), str(cohort), str(straight), cohort.parent.name, straight.parent.name]
    checked = 0
    for path in (straight / "checkpoints").iterdir():
        data = path.read_bytes()
        for name in names:
            for code in ("utf-8", "utf-16-le", "utf-16-be"):
                assert name.encode(code) not in data, (path.name, name)
        checked += 1
        if path.suffix == ".ckpt":
            for where, text in plain_values(torch.load(path, weights_only=True)):
                assert "/" not in text or "/" not in text.strip("'{}") or text.count("/") == 1, (where, text)
    lineage = json.loads(sidecar(straight / "checkpoints" / "last.ckpt").read_text())
    assert {"experiment_sha256", "cohort_digest", "case_key", "cases", "provenance"} <= set(lineage)
    assert len(lineage["cases"]) == 10
    shutil.copy(straight / "checkpoints" / "last.ckpt", tmp_path)
    figure("T12", {"files": checked, "identifiers": 0})
