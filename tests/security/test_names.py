"""T7, T10, T13: names of files and folders, messages, what is left lying about."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_adc.domain.errors import DiffusionAdcError

pytestmark = pytest.mark.security

Figure = Callable[[str, Any], None]


def test_t7_names_of_files_and_folders(
    zones: Any, make_series: Callable[..., list[Path]], figure: Figure
) -> None:
    places = (
        "YAMADA_TARO", "山田太郎", "19521103", "ID4711823", "Dr_Suzuki", "MACHIDA_HP", "090-1234-5678", "taro@example.jp",
        "YAMADA TARO 52M", "4711823_MRI", "昭和27年", "Study of Mr Yamada",
    )  # fmt: skip
    person = zones.source / "4711823"
    for n, place in enumerate(places):
        paths = make_series(person / place, 1, series=f"1.2.3.{n}", study="1.2.3")
        paths[0].rename(paths[0].with_name(f"{place}.dcm"))
        (person / place / f"{place}.txt").write_text(place)
    package, done = zones.seal(ids={"4711823": "AB-0001"})
    zones.open(package)
    out = zones.root / "inbox" / "received"
    text = "\n".join(str(p.relative_to(out)) for p in out.rglob("*"))
    blob = text.encode() + b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    left = sum(place.encode() in blob for place in places)
    figure("T7 names of files and folders left", f"{left}/{len(places)}")
    assert left == 0
    assert done.manifest.left_out["other files"] == len(places)
    assert len([f for f in done.manifest.files if f.path.endswith(".dcm")]) == len(places)


def test_t13_nothing_is_left_lying_about(
    filled: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, figure: Figure
) -> None:
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    package, _ = filled.seal()
    damaged = package.with_name("damaged.sealed")
    damaged.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(DiffusionAdcError):
        filled.open(damaged, "bad")
    filled.open(package)
    left = [*elsewhere.rglob("*"), *filled.root.rglob(".in-custody-*"), *filled.root.rglob("*.part")]
    figure("T13 leftovers of seal and open", len(left))
    assert not left
    assert not (filled.root / "inbox" / "bad").exists()


_CHILD = """
import logging, os, sys, threading, warnings
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
root, name = Path(sys.argv[2]), "CNRY-YAMADA"
place = root / "clinic" / "CNRY_HOSPITAL" / name / "IM0001"
from diffusion_adc.custody.scrub import describe, hide, install, scrub, captured_stderr
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError, UsageError
install([root / "clinic" / "CNRY_HOSPITAL" / name], hidden=["CNRY-4711823", "CNRY漢字"])
logging.basicConfig(level=0)
log, other = logging.getLogger("diffusion_adc.x"), logging.getLogger("pydicom")
def raised(error):
    try:
        raise error
    except BaseException as caught:
        print(describe(caught), file=sys.stderr)
        log.exception("failed")
for kind in (ValueError, KeyError, OSError, TypeError, RuntimeError, MemoryError, AttributeError, IndexError):
    raised(kind(f"value {name} at {place}"))
raised(FileNotFoundError(2, "No such file", str(place)))
raised(PermissionError(13, "denied", str(place)))
raised(UnicodeDecodeError("ascii", b"CNRY", 0, 1, name))
raised(DiffusionAdcError(f"{place} could not be read"))
raised(CaseError("bad", do=f"look at {place.parent}", code="S01", research_id="AB-0001"))
raised(UsageError(f"CNRY-4711823 in {place}"))
for word in (f"reading {place}", f"'{place}'", f"file://{place}", f"path={place};", f"({place})", f"CNRY-4711823", f"x CNRY漢字 y", f"{place}:12: bad", f"[{place}]"):
    log.warning(word)
log.info("at %s", place)
log.info("bad %d arguments", place)
for message in (f"Invalid value for VR UI: '{name}'", f"value {name} too long"):
    other.warning(message)
    logging.getLogger("nibabel.global").error(message)
    logging.getLogger("SimpleITK").error(message)
    warnings.warn(message)
    exec(compile(f"import warnings; warnings.warn({message!r})", "site-packages/pydicom/valuerep.py", "exec"))
with captured_stderr() as captured:
    os.write(2, f"WARNING: In gdcmImageIO.cxx, {place}: {name} CNRY\\n".encode())
assert captured.lines == 1
def fail():
    raise ValueError(f"{name} {place}")
thread = threading.Thread(target=fail); thread.start(); thread.join()
class Odd:
    def __del__(self):
        raise ValueError(name)
Odd()
import pydicom
from pydicom.dataset import Dataset
ds = Dataset()
try:
    ds.StudyInstanceUID = name * 9
    ds.AcquisitionDate = name
    ds.PatientAge = name
except Exception as caught:
    print(describe(caught), file=sys.stderr)
print(scrub(f"seen {place}"), file=sys.stderr)
raise OSError(5, "input/output", str(place))
"""


def test_t10_messages(tmp_path: Path, figure: Figure) -> None:
    arguments = [sys.executable, "-c", _CHILD, str(Path(__file__).parents[2]), str(tmp_path)]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONUTF8": "1"}
    )
    shown = done.stdout + done.stderr
    lines = [line for line in shown.splitlines() if line.strip()]
    left = [line for line in lines if "CNRY" in line or str(tmp_path) in line]
    figure("T10 forced messages with a planted word", f"{len(left)} of {len(lines)} lines")
    assert done.returncode == 1
    assert len(lines) >= 40
    assert not left, left
    assert "Traceback" not in shown
    assert "IM0001" in shown  # below the data root a path stays readable
