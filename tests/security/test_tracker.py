"""T11: what a tracked run of a restricted cohort says to a server, and what `sync` refuses to say."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from diffusion_adc.callbacks import runlog
from diffusion_adc.callbacks.identifiers import Identifiers
from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.callbacks.reach import server_name
from diffusion_adc.callbacks.scan import scan
from diffusion_adc.callbacks.settings import settings_of
from diffusion_adc.callbacks.sync import SyncRefused, sync
from diffusion_adc.custody.lineage import keyed_hash

pytestmark = [pytest.mark.security, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
KEY = "5a" * 16
PERSON = "AB-0001"
Figure = Callable[[str, Any], None]


def canary(name: str) -> str:
    return f"KNR{name.replace(' ', '')}YAMADA"


ENVIRONMENT = ("NOTES", "TAGS", "NAME", "RUN_GROUP", "JOB_TYPE", "HOST", "USERNAME", "PROGRAM", "ENTITY", "PROJECT",
               "NOTEBOOK_NAME", "DOCKER", "USER_EMAIL", "RUN_ID")  # fmt: skip
PLANTED = (
    *(f"env {name}" for name in ENVIRONMENT), "name", "cohort", "store", "note", "argv", "folder", "code", "remote",
    "branch", "stdout", "stderr", "logging", "warning", "hyperparameter", "command", "caption", "lesion", "page",
    "grid", "weights", "tombstone",
)  # fmt: skip

SCRIPT = """
import logging, sys, warnings
from pathlib import Path
import numpy as np, yaml
run, maps, site = map(Path, sys.argv[1:4])
SECRET = "KNRcodeYAMADA"
from diffusion_adc.callbacks.evaluated import log_evaluation
from diffusion_adc.callbacks.session import stored_identity
from diffusion_adc.callbacks.settings import settings_of
from diffusion_adc.custody.lineage import read_record
tracking, policy, experiment = settings_of(run)
tracker = tracking.logger(run, experiment["name"], experiment, provenance="restricted", record=read_record(run))
tracker.start()
print("KNRstdoutYAMADA"); print("KNRstderrYAMADA", file=sys.stderr)
logging.getLogger("x").error("KNRloggingYAMADA"); warnings.warn("KNRwarningYAMADA")
tracker.log_hyperparams({"KNRhyperparameterYAMADA": "KNRhyperparameterYAMADA"})
tracker.log_metrics({"train/loss": 1.0}, 1)
from diffusion_adc.callbacks.grids import SampleGrid
from types import SimpleNamespace
grid = SampleGrid(); grid.attach(run)
view_case = SimpleNamespace(case_id="AB-0001_01")
from diffusion_adc.callbacks.grids import _Drawn
from diffusion_adc.evaluation.picture import CaseView
v = np.zeros((8, 8, 3), np.float32); m = v > 1
view = CaseView("KNRcaptionYAMADA", np.eye(4), v, v, m, m, v, v, np.zeros((8, 8, 3, 2), np.uint8))
trainer = SimpleNamespace(loggers=[tracker], global_step=2)
grid._write(trainer, {"KNRgridYAMADA": _Drawn(view_case, view, 0.0)})
tracker.finalize("success")
assert log_evaluation(run, maps, site=site), "evaluation"
print("DONE", tracker.mode)
"""


def _maps(folder: Path) -> Path:
    from diffusion_adc.records.maps import LESION_COLUMNS, write_map_case

    volume = np.zeros((8, 8, 3), np.float32)
    row = dict.fromkeys(LESION_COLUMNS, 1.0) | {"lesion": 1, "region": "pelvis"}
    volumes = {
        "tumor_adc": volume,
        "probability": volume,
        "draws": volume[..., None],
        "base_probability": volume,
    }
    write_map_case(folder, f"{PERSON}_01", volumes, np.eye(4), [row], {"note": canary("lesion")})
    scores = {"model": {"n_cases": {"value": 1, "low95": None, "high95": None},
                        "dice": {"value": 0.5, "low95": 0.4, "high95": 0.6}}}  # fmt: skip
    (folder / "scores.json").write_text(json.dumps(scores))
    return folder


def _run_folder(run: Path, provenance: str, **tracking: Any) -> Path:
    run.mkdir(parents=True)
    record = {
        "state": "finished", "steps": 4, "cohort_digest": "ab" * 32, "provenance": provenance, "seed": 3,
        "case_key": KEY, "cases": [keyed_hash(f"{PERSON}_01", KEY)], "parents": [],
        "command": ["fit", canary("command")],
    }  # fmt: skip
    (run / "record.json").write_text(json.dumps(record))
    values = {
        "name": canary("name"), "seed": 3, "cohort": f"/data/{canary('cohort')}",
        "model": {"init_args": {"learning_rate": 0.1, "note": canary("note")}},
        "data": {"init_args": {"store": f"/data/{canary('store')}"}},
        "tracking": {"mode": "offline", "project": "adc"} | tracking,
    }  # fmt: skip
    (run / "experiment.yaml").write_text(yaml.safe_dump(values))
    return run


@pytest.fixture(scope="module")
def loopback_class() -> Any:
    spec = importlib.util.spec_from_file_location(
        "loopback_t11", ROOT / "tests" / "callbacks" / "loopback.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["loopback_t11"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, loopback_class: Any) -> tuple[Path, int]:
    """A restricted run with everything planted around it, tracked offline; and the connections it made."""
    home = tmp_path_factory.mktemp("t11") / canary("folder")
    run = _run_folder(home / "run", "restricted")
    maps = _maps(home / "maps")
    site = home / "site"
    site.mkdir()
    (site / "index.html").write_text(f"<p>{canary('page')} {PERSON}</p>")
    for words in (
        ["init", "-q", "-b", canary("branch")],
        ["remote", "add", "origin", f"https://example.org/{canary('remote')}.git"],
    ):
        subprocess.run(["git", *words], cwd=home, check=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    planted = {f"WANDB_{name}": canary(f"env {name}") for name in ENVIRONMENT}
    with loopback_class.Loopback() as server:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(run), str(maps), str(site), canary("argv")],
            cwd=home, capture_output=True, text=True, timeout=1800, check=False,
            env=inherited | planted | {"PYTHONPATH": str(ROOT), "WANDB_API_KEY": loopback_class.KEY,
                                       "WANDB_BASE_URL": server.url},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "DONE offline" in done.stdout
        assert "tracker:" not in done.stderr, done.stderr[-2000:]
        return run, len(server.received)


def _machine() -> list[str]:
    """The host's name where it is long enough to be told from chance."""
    return [socket.gethostname()] if len(socket.gethostname()) > 3 else []


def _sent_files(run: Path) -> list[Path]:
    folders = [*(run / "wandb").glob("offline-run-*"), run / "wandb" / "data_dir"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if "logs" not in path.parts]


def test_t11_nothing_planted_is_recorded(tracked: tuple[Path, int], figure: Figure) -> None:
    run, connections = tracked
    assert connections == 0
    assert len(PLANTED) >= 25
    words = [canary(name) for name in PLANTED]
    texts: list[str] = []
    for path in _sent_files(run):
        data = path.read_bytes()
        if path.suffix == ".wandb":
            texts += [text for _, text in runlog.strings(path)]
        else:
            texts += [data.decode("latin-1"), data.decode("utf-16", "ignore"), path.name]
    assert any("train/loss" in text for text in texts)
    assert any("case 1" in text for text in texts), "the lesion table is there, under a run-local number"
    found = [w for w in (*words, PERSON, KEY, *_machine(), str(ROOT)) if any(w in text for text in texts)]
    assert found == []
    assert not [path for path in _sent_files(run) if path.suffix in (".png", ".html")]
    figure("T11 planted channels", f"0/{len(PLANTED)} recorded, {connections} connections offline")


def test_t11_nothing_planted_is_sent(
    tracked: tuple[Path, int],
    loopback_class: Any,
    tmp_path: Path,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = tracked
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "60")
    with loopback_class.Loopback() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", loopback_class.KEY)
        assert sync(run, dry_run=True).sent is False
        assert server.received == []
        done = sync(run)
        assert done.sent
        assert done.artifacts == ()
        assert any("train/loss" in row for row in server.history), server.operations
        words = [*(canary(name) for name in PLANTED), PERSON, KEY, *_machine(), str(ROOT)]
        assert [word for word in words if server.has(word)] == []
    figure("T11 planted channels sent", f"0/{len(PLANTED)}")


# -- poisoned run folders ------------------------------------------------------------------------------------


def _append(log: Path, build: Callable[[Any], None]) -> None:
    """One more record in a tracker's log."""
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
    build(record)
    data, message, first = log.read_bytes(), record.SerializeToString(), True
    while first or message:
        room = 32768 - len(data) % 32768
        if room < 7:
            data += b"\0" * room
            continue
        part, message = message[: room - 7], message[room - 7 :]
        kind = (1 if first else 4) if not message else (2 if first else 3)
        data += struct.pack("<IHB", zlib.crc32(part), len(part), kind) + part
        first = False
    log.write_bytes(data)


def _history(record: Any, value: Any, key: str = "x") -> None:
    item = record.history.item.add()
    item.key, item.value_json = key, json.dumps(value)


def _config(record: Any, value: Any) -> None:
    item = record.config.update.add()
    item.key, item.value_json = "note", json.dumps(value)


def _png(*chunks: tuple[bytes, bytes], tail: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunk(*c) for c in chunks)
        + pixels
        + chunk(b"IEND", b"")
        + tail
    )


IN_LOG: dict[str, Callable[[Any], None]] = {
    "research ID in a table": lambda r: _history(r, {"data": [["AB-0001", 1]]}),
    "case ID as a metric": lambda r: _history(r, 1.0, "loss/AB-0001_01"),
    "another person's ID": lambda r: _config(r, "ZZ-7345"),
    "a case's keyed hash": lambda r: _config(r, keyed_hash(f"{PERSON}_01", KEY)),
    "path": lambda r: _config(r, {"deep": ["/mnt/clinic/yamada/adc.nii.gz"]}),
    "path of another system": lambda r: _config(r, "C:\\Users\\yamada\\x"),
    "host": lambda r: setattr(r.run, "host", socket.gethostname()),
    "program": lambda r: setattr(r.output_raw, "line", "started /srv/yamada/train.py"),
    "mail": lambda r: setattr(r.run, "notes", "ask taro.yamada@example.org"),
    "name of a header": lambda r: _config(r, "YAMADA^TARO"),
    "name": lambda r: r.run.tags.append("山田太郎"),
    "birth date": lambda r: _config(r, "born 1952-11-03"),
    "examination date": lambda r: _config(r, "20190412"),
    "era": lambda r: _config(r, "昭和27年11月3日"),
    "chart number": lambda r: _config(r, "chart 4711823"),
    "phone": lambda r: _config(r, "03-1234-5678"),
    "git": lambda r: setattr(r.run.git, "remote_url", "git@example.org:yamada/x.git"),
    "birth date in a long word": lambda r: _config(r, "exported-patient-born-1952-11-03"),
    "address": lambda r: _config(r, "10.20.30.40"),
}
IN_FILES: dict[str, tuple[str, bytes]] = {
    "picture": ("media/images/x_1_ab.png", _png()),
    "text in a picture": ("media/images/x_1_ab.png", _png((b"tEXt", b"Patient\0YAMADA"))),
    "bytes after a picture": ("media/images/x_1_ab.png", _png(tail=b"YAMADA")),
    "case ID as a file name": ("media/table/AB-0001_01.table.json", b"{}"),
    "research ID as a folder": ("media/images/AB-0001/x_1_ab.png", _png()),
    "research ID in a table file": ("media/table/t_1.table.json", b'{"data": [["AB-0001_01"]]}'),
    "date as a file name": ("media/images/seen_2019-04-12.png", _png()),
    "DICOM": ("media/x.dcm", b"\0" * 128 + b"DICM"),
    "NIfTI": ("media/x.nii.gz", b"\x1f\x8b\x08\0"),
    "code": ("code/train.py", b"x = 1"),
    "pickle": ("x.pkl", b"\x80\x04."),
    "page": ("media/html/x.html", b"<p>a</p>"),
    "configuration": ("config.yaml", b"cohort: {value: /data/yamada/cohort}\n"),
    "comment": ("config.yaml", b"a: 1  # Mr. Yamada, yamada@example.org\n"),
    "text in Shift JIS": ("notes.txt", "山田".encode("cp932")),
}


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("sender")
def test_t11_poisoned_run_folders_are_refused(
    tracked: tuple[Path, int], tmp_path: Path, figure: Figure
) -> None:
    clean, _ = tracked
    refused, missed = 0, []
    names = [*IN_LOG, *IN_FILES, "link", "damaged log"]
    for number, name in enumerate(names):
        run = shutil.copytree(clean, tmp_path / f"run{number}", symlinks=True)
        folder = sorted((run / "wandb").glob("offline-run-*"))[0]
        log = next(folder.glob("*.wandb"))
        if name in IN_LOG:
            _append(log, IN_LOG[name])
        elif name in IN_FILES:
            path, data = IN_FILES[name]
            (folder / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "files" / path).write_bytes(data)
        elif name == "link":
            (folder / "files").mkdir(exist_ok=True)
            (folder / "files" / "x.json").symlink_to(tmp_path / "elsewhere.json")
        else:
            log.write_bytes(log.read_bytes()[:500] + b"\xff" * 40 + log.read_bytes()[540:])
        try:
            sync(run, dry_run=True)
            missed.append(name)
        except SyncRefused as error:
            refused += 1
            text = str(error)
            assert "T11" in text
            assert not any(
                word in text for word in ("AB-0001", "yamada", "YAMADA", "/mnt", "4711823", str(tmp_path))
            )
    figure("T11 poisoned run folders", f"{refused}/{len(names)} refused")
    assert missed == []


@pytest.mark.usefixtures("sender")
def test_t11_clean_runs_pass(tracked: tuple[Path, int], figure: Figure) -> None:
    run, _ = tracked
    _, policy, _ = settings_of(run)
    seen = scan(run, policy)
    assert seen.findings == ()
    assert len(seen.runs) == 2
    assert policy.server == server_name()
    figure("T11 clean runs refused", f"0/{len(seen.runs)} parts of a run")


def test_t11_the_clients_own_words_are_no_identifiers(scale: Callable[..., int], figure: Figure) -> None:
    """Hashes, media names and versions as the client makes them; digits among them look like many things."""
    rng = np.random.default_rng(3)
    judge = Identifiers({}, Policy("restricted", "s"))
    count, refused = scale(10_000, 500), []
    for _ in range(count):
        long = "".join(rng.choice(list("0123456789abcdef"), 64))
        some = "".join(rng.choice(list("0123456789"), 19)) + "a"  # a hash that is nearly a number
        step = int(rng.integers(0, 100_000))
        for text in (
            long, f"media/images/{long[:20]}.png", f"media/images/{some}.png", f"media/table/t_{step}_{some}.table.json",
            f"media/images/mask/slices/largest_{step}_{long[:20]}.mask.png", f"2.{step % 99}.{step % 7}+cu132",
        ):  # fmt: skip
            refused += [text for _ in judge.kinds(text)]
    figure("T11 client's own words taken for identifiers", f"{len(refused)}/{6 * count}")
    assert refused == []
    for text in (
        "media/images/4711823.png",
        "media/images/born_1952-11-03.png",
        f"media/AB-0001_1_{'0a' * 10}.png",
    ):
        assert list(judge.kinds(text)), text
