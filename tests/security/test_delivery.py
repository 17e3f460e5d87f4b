"""The hand-over: what is sealed arrives whole, and nothing else arrives at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pyrage
import pytest

from diffusion_adc.custody import keys
from diffusion_adc.custody.archive import Packer
from diffusion_adc.custody.package import MANIFEST, SIGNATURE, Manifest, PackedFile, sign
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError

pytestmark = pytest.mark.security

Zones = Any


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def _nothing_left(zones: Zones, name: str = "received") -> bool:
    inbox = zones.root / "inbox"
    return not inbox.exists() or not list(inbox.iterdir())


def _package(
    zones: Zones,
    files: dict[str, bytes],
    *,
    listed: dict[str, bytes] | None = None,
    signer: Path | None = None,
    signature: bytes | None = None,
    sequence: int = 1,
    order: list[str] | None = None,
) -> Path:
    """A package made by hand, honest or not."""
    own = keys.signing_key((signer or zones.clinic) / keys.SIGNING)
    contents = files if listed is None else listed
    manifest = Manifest(
        package_id=hashlib.sha256(repr((sorted(files), sequence)).encode()).hexdigest()[:32],
        sequence=sequence, previous="0" * 64 if sequence == 1 else "1" * 64,
        clinic_key=keys.key_id(own.public_key()), created="2026-01-01T00:00:00Z", research_ids=("AB-0001",),
        files=tuple(PackedFile(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items()),
    )  # fmt: skip
    raw = manifest.to_bytes()
    members: list[tuple[str, bytes | Path]] = [
        (MANIFEST, raw),
        (SIGNATURE, sign(raw, own) if signature is None else signature),
    ]
    members += [(name, files[name]) for name in order or list(files)]
    path = zones.root / "handover" / f"hand{random.random()}.sealed"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        pyrage.encrypt_io(Packer(members), stream, keys.recipients([zones.institute / keys.RECIPIENT]))
    return path


def test_what_is_sealed_arrives_whole_and_private(filled: Zones) -> None:
    package, done = filled.seal()
    assert not done.refused
    opened = filled.open(package)
    out = filled.root / "inbox" / "received"
    assert opened.manifest == done.manifest
    assert opened.missing == ()
    files = _files(out)
    assert set(files) == {"delivery.json", *(f.path for f in done.manifest.files)}
    image = pydicom.dcmread(out / "AB-0001" / "s01" / "002" / "0001.dcm")
    assert float(image.DiffusionBValue) == 800
    assert image.PatientID == "AB-0001"
    assert (
        json.loads(files["AB-0001/s01/002/series.json"])["files"]["0001.dcm"]["b_source"] == "private:siemens"
    )
    for path in (out, *out.rglob("*"), package, *(filled.root / "clinic" / "links").iterdir()):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path.name
    blob = package.read_bytes() + b"".join(files.values()) + " ".join(files).encode()
    for word in ("YAMADA", "Yamada", "MACHIDA", "471182", "19521103", "20190412"):
        assert word.encode() not in blob
    assert not list(filled.root.rglob(".in-custody-*"))


def test_twenty_good_packages_open(
    zones: Zones,
    fill_zones: Callable[..., Any],
    scale: Callable[..., int],
    figure: Callable[[str, Any], None],
) -> None:
    fill_zones(zones, 1, 1)
    count, good = scale(20), 0
    for n in range(count):
        package, _ = zones.seal(f"{n}.sealed")
        good += zones.open(package, f"r{n}").manifest.sequence == n + 1
    figure("delivery good packages accepted", f"{good}/{count}")
    assert good == count


def test_flips_and_cuts_release_nothing(
    zones: Zones,
    fill_zones: Callable[..., Any],
    scale: Callable[..., int],
    figure: Callable[[str, Any], None],
) -> None:
    fill_zones(zones, 1, 1)
    package, _ = zones.seal()
    whole = package.read_bytes()
    rng = random.Random(1)
    flips, cuts = scale(1000, 30), scale(200, 10)
    bad = package.with_name("bad.sealed")
    accepted = left = told = 0
    for n in range(flips + cuts):
        data = bytearray(whole)
        if n < flips:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        bad.write_bytes(data)
        try:
            zones.open(bad, f"x{n}")
            accepted += 1
        except DiffusionAdcError as error:
            told += str(zones.root) in str(error)
        left += not _nothing_left(zones)
    figure("delivery flips and cuts accepted", f"{accepted} of {flips}+{cuts}, {left} with leftovers")
    assert (accepted, left, told) == (0, 0, 0)
    assert zones.open(package).manifest.sequence == 1


def test_structural_attacks(zones: Zones, tmp_path: Path, figure: Callable[[str, Any], None]) -> None:
    keys.keygen(tmp_path / "mallory", "clinic")
    keys.keygen(tmp_path / "elsewhere", "institute")
    files = {f"AB-0001/s01/001/000{n}.dcm": bytes([n]) * 900 for n in (1, 2, 3)}
    one, two, three = files
    swapped = {one: files[two], two: files[one], three: files[three]}
    good = _package(zones, files)
    attacks: dict[str, Callable[[], Path]] = {
        "two swapped": lambda: _package(zones, swapped, listed=files),
        "order changed": lambda: _package(zones, files, order=[two, one, three]),
        "one removed": lambda: _package(zones, {one: files[one], two: files[two]}, listed=files),
        "one added": lambda: _package(zones, files | {"AB-0001/s01/001/0009.dcm": b"x"}, listed=files),
        "content changed": lambda: _package(zones, files | {two: b"\7" * 900}, listed=files),
        "size changed": lambda: _package(zones, files | {two: b"\7" * 9}, listed=files),
        "wrong signer": lambda: _package(zones, files, signer=tmp_path / "mallory"),
        "unsigned": lambda: _package(zones, files, signature=b""),
        "signature of another manifest": lambda: _package(zones, files, signature=bytes(64)),
        "foreign person": lambda: _package(zones, {"CD-0002/a.dcm": b"x"}),
        "climbing name": lambda: _package(zones, {"AB-0001/x": b"1"}, listed={"AB-0001/../x": b"1"}),
        "bytes after the end": lambda: _appended(good),
        "link in place of the file": lambda: _linked(good),
    }
    for name, make in attacks.items():
        with pytest.raises(DiffusionAdcError):
            zones.open(make(), name.replace(" ", "_"))
        assert _nothing_left(zones), name
    with pytest.raises(DiffusionAdcError, match="not for this institute"):
        zones.open(good, identities=keys.identities([tmp_path / "elsewhere" / keys.IDENTITY]))
    assert _nothing_left(zones)
    zones.open(good, "good")
    with pytest.raises(DiffusionAdcError, match="second time"):
        zones.open(good, "again")
    assert [p.name for p in (zones.root / "inbox").iterdir()] == ["good"]
    figure("delivery structural attacks accepted", f"0 of {len(attacks) + 2}")


def _appended(package: Path) -> Path:
    path = package.with_name("appended.sealed")
    path.write_bytes(package.read_bytes() + b"more")
    return path


def _linked(package: Path) -> Path:
    path = package.with_name("linked.sealed")
    path.symlink_to(package)
    return path


def test_lost_and_late_deliveries_are_listed(filled: Zones) -> None:
    first, _ = filled.seal("1.sealed")
    second, _ = filled.seal("2.sealed")
    third, _ = filled.seal("3.sealed")
    assert filled.open(third, "c").missing == (1, 2)
    assert filled.open(first, "a").missing == (2,)
    assert filled.open(second, "b").missing == ()
    with pytest.raises(DiffusionAdcError, match="second time"):
        filled.open(second, "b2")


def test_a_withdrawn_person_is_not_delivered_again(filled: Zones) -> None:
    package, _ = filled.seal()
    with pytest.raises(DiffusionAdcError, match="AB-0002") as caught:
        filled.open(package, withdrawn={"AB-0002"})
    assert caught.value.exit_code == 3
    assert _nothing_left(filled)


def test_rotation_with_two_recipients(filled: Zones, tmp_path: Path) -> None:
    keys.keygen(tmp_path / "new", "institute")
    both = keys.recipients([filled.institute / keys.RECIPIENT, tmp_path / "new" / keys.RECIPIENT])
    package, _ = filled.seal(recipients=both)
    opened = filled.open(package, "by_new", identities=keys.identities([tmp_path / "new" / keys.IDENTITY]))
    assert opened.manifest.sequence == 1


def test_link_table_never_where_a_delivery_passes(filled: Zones) -> None:
    handover = filled.root / "handover"
    for place in (filled.source, filled.source / "links", handover, handover / "links", filled.root):
        with pytest.raises(UsageError, match="link table"):
            filled.seal(link_table=place)
    filled.seal()
    links = filled.root / "clinic" / "links" / "link_table.csv"
    assert links.read_text().splitlines()[1].startswith("4711821,AB-0001,1,")
    with pytest.raises(DiffusionAdcError, match="C06"):
        filled.seal("b.sealed", ids=filled.ids | {"4711821": "AB-0009"})


_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
count = [0]
def trace(event, args):
    if event in ("open", "os.rename", "os.mkdir", "os.link", "shutil.rmtree", "os.remove"):
        count[0] += 1
        if count[0] == int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)
from diffusion_adc.custody import keys
from diffusion_adc.custody.open import open_package
root = Path(sys.argv[2])
identities = keys.identities([root / "institute/keys/identity.age"])
public = [keys.public_key(root / "clinic/keys/signing.pub")]
sys.addaudithook(trace)
open_package(Path(sys.argv[3]), root / "inbox" / sys.argv[4], identities=identities, clinic_keys=public,
             ledger=root / "institute/ledger.jsonl")
"""


def test_killed_while_opening(
    zones: Zones,
    fill_zones: Callable[..., Any],
    scale: Callable[..., int],
    figure: Callable[[str, Any], None],
) -> None:
    fill_zones(zones, 1, 1)
    total, sound = scale(30, 4), 0
    points = random.Random(3).sample(range(1, 61), total)
    repository = Path(__file__).parents[2]
    for n, point in enumerate(points):
        package, done = zones.seal(f"k{n}.sealed")
        out = zones.root / "inbox" / f"k{n}"
        arguments = [str(repository), str(zones.root), str(package), out.name, str(point)]
        killed = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, check=False)
        if not out.exists():
            zones.open(package, out.name)
        else:
            assert killed.returncode in (0, -9)
            with pytest.raises(DiffusionAdcError):
                zones.open(package, f"{out.name}b")
        whole = {"delivery.json", *(f.path for f in done.manifest.files)} == set(_files(out))
        sound += whole and not list((zones.root / "inbox").glob(".in-custody-*"))
    figure("delivery killed while opening: whole afterwards, no leftovers", f"{sound}/{total}")
    assert sound == total


def test_no_connection_is_tried(
    filled: Zones, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str, Any], None]
) -> None:
    import socket

    tried: list[object] = []

    def blocked(*args: object, **kwargs: object) -> None:
        tried.append(args)
        raise OSError("blocked")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)
    package, _ = filled.seal()
    filled.open(package)
    figure("X12 connections tried in seal and open", len(tried))
    assert not tried


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("FULL") != "1", reason="writes a package of 2 GB: FULL=1")
def test_two_gigabytes_in_little_memory(
    zones: Zones, make_series: Callable[..., Any], figure: Callable[[str, Any], None]
) -> None:
    code = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import os, pyrage
from diffusion_adc.custody import keys
from diffusion_adc.custody.archive import Packer
from diffusion_adc.custody.open import open_package
from diffusion_adc.custody.package import Manifest, PackedFile, sign
from diffusion_adc.records.atomic import sha256_file
root, package = Path(sys.argv[2]), Path(sys.argv[2]) / "big.sealed"
staged = root / "big"; staged.mkdir()
block = os.urandom(1 << 20)
for n in range(16):
    with (staged / f"{n}.dcm").open("wb") as stream:
        for _ in range(128):
            stream.write(block)
key = keys.signing_key(root / "clinic/keys/signing.key")
paths = sorted(staged.iterdir())
files = tuple(PackedFile(f"AB-0001/{p.name}", p.stat().st_size, sha256_file(p)) for p in paths)
raw = Manifest("0" * 32, 1, "0" * 64, keys.key_id(key.public_key()), "x", ("AB-0001",), files).to_bytes()
members = [("manifest.json", raw), ("manifest.sig", sign(raw, key)), *((f.path, p) for f, p in zip(files, paths))]
with package.open("wb") as stream:
    pyrage.encrypt_io(Packer(members), stream, keys.recipients([root / "institute/keys/recipient.pub"]))
open_package(package, root / "inbox/big", identities=keys.identities([root / "institute/keys/identity.age"]),
             clinic_keys=[keys.public_key(root / "clinic/keys/signing.pub")], ledger=root / "institute/l.jsonl")
print(package.stat().st_size >> 20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""
    arguments = [sys.executable, "-c", code, str(Path(__file__).parents[2]), str(zones.root)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    size, memory = map(int, done.stdout.split())
    figure("delivery peak memory", f"{memory} MB for a package of {size} MB")
    assert size >= 2048
    assert memory < 300
