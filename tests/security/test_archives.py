"""X4, X5: archives that climb, link, repeat or swell."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.custody.archive import ArchiveRefused, Caps, Packer, Unpacker, header
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError
from diffusion_adc.records.nifti import read_stored

pytestmark = pytest.mark.security

Figure = Callable[[str, Any], None]


def _extract(data: bytes, out: Path, caps: Caps | None = None) -> dict[str, str]:
    found: dict[str, str] = {}
    unpacker = Unpacker(
        lambda name, size: out / name, lambda name, size, digest, whole: found.__setitem__(name, digest), caps
    )
    try:
        for at in range(0, len(data), 8192):
            unpacker.write(data[at : at + 8192])
        unpacker.close()
    finally:
        unpacker.abandon()
    return found


def _tar(*members: tuple[str, bytes, bytes, str], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for name, content, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _hostile() -> list[tuple[str, bytes]]:
    plain = tarfile.REGTYPE
    names = (
        "../x", "a/../../x", "/etc/x", "//x", "a//b", "./x", "a/./b", "..", ".", "~/x", "C:/x", "a\\b", "a b", "a\nb", "x\t",
        "é", "ａ", "-/..", "...", "a/..", "a:b", "a;b", "$(x)", "`x`", "a*", "con|", "a\x7f", "日本", "-rf/", "a" * 99 + "/b",
    )  # fmt: skip
    made = [(f"name {name!r}", _tar((name, b"1", plain, ""), fmt=tarfile.GNU_FORMAT)) for name in names]
    for label, kind in (
        ("symlink", tarfile.SYMTYPE), ("hardlink", tarfile.LNKTYPE), ("character device", tarfile.CHRTYPE),
        ("block device", tarfile.BLKTYPE), ("pipe", tarfile.FIFOTYPE), ("folder", tarfile.DIRTYPE),
    ):  # fmt: skip
        made.append((label, _tar(("a", b"", kind, "../../x"))))
    made.append(("link, then through it", _tar(("a", b"", tarfile.SYMTYPE, ".."), ("a/x", b"1", plain, ""))))
    made.append(("twice", _tar(("a", b"1", plain, ""), ("a", b"2", plain, ""))))
    made.append(("twice in other case", _tar(("a", b"1", plain, ""), ("A", b"2", plain, ""))))
    made.append(("pax header", _tar(("a" * 200, b"1", plain, ""), fmt=tarfile.PAX_FORMAT)))
    made.append(("a second archive", _tar(("a", b"1", plain, "")) + _tar(("../x", b"1", plain, ""))))
    made.append(("zip", _zip("../x")))
    made.append(("gzip", gzip.compress(_tar(("a", b"1", plain, "")))))
    return made


def _zip(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x" * 600)
    return out.getvalue()


def test_x4_hostile_archives(tmp_path: Path, figure: Figure) -> None:
    made = _hostile()
    for number, (label, data) in enumerate(made):
        out = tmp_path / "deep" / f"{number}"
        out.mkdir(parents=True)
        with pytest.raises(ArchiveRefused) as caught:
            _extract(data, out)
        assert caught.value.code in ("X2", "X4"), label
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and "deep" not in p.parts]
    links = [p for p in tmp_path.rglob("*") if p.is_symlink()]
    figure("X4 hostile archives accepted", f"0 of {len(made)}; {len(outside)} files outside the root")
    assert len(made) >= 40
    assert not outside
    assert not links


def test_x5_bombs(tmp_path: Path, figure: Figure) -> None:
    small = Caps(members=100, file_bytes=1 << 20, total_bytes=4 << 20)
    base256 = bytearray(header("a", 0))
    base256[124:136] = b"\x80" + bytes(7) + b"\xff" * 4
    base256[148:156] = b" " * 8
    base256[148:156] = b"%06o\0 " % sum(base256)
    archives = {
        "one huge member": (header("a", 8**11 - 1), None),
        "above the cap of a file": (header("a", (1 << 20) + 1), small),
        "above the cap of all": (
            b"".join(header(f"t{n}", 1 << 20) + bytes(1 << 20) for n in range(5)),
            small,
        ),
        "too many members": (b"".join(header(f"m{n}", 0) for n in range(101)) + bytes(1024), small),
        "size in base 256": (bytes(base256), None),
        "gzip": (_swollen(b"", 210), None),
    }
    head = nib.Nifti1Header()
    head.set_data_dtype(np.int16)
    head.set_data_shape((32767, 32767, 2))
    head["magic"], head["vox_offset"], head["pixdim"][1:4] = b"n+1", 352, 2
    volumes = {"voxels of 4 GB": _swollen(head.binaryblock + bytes(4), 0)}
    head.set_data_shape((64, 64, 20))
    volumes["more bytes than voxels"] = _swollen(head.binaryblock + bytes(4), 300)
    slowest, most = 0.0, 0
    for number, (label, content) in enumerate({**archives, **volumes}.items()):
        path = tmp_path / f"{number}.nii.gz"
        if isinstance(content, bytes):
            path.write_bytes(content)
        tracemalloc.start()
        start = time.process_time()
        with pytest.raises((ArchiveRefused, CaseError)) as caught:
            read_stored(path) if isinstance(content, bytes) else _extract(
                content[0], tmp_path / label, content[1]
            )
        slowest = max(slowest, time.process_time() - start)
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert caught.value.code in ("X2", "X5", "S29", "S25"), label
    count = len(archives) + len(volumes)
    figure("X5 bombs refused", f"{count}/{count}; at most {most >> 20} MB and {slowest:.2f} s each")
    assert most < 200 << 20


def _swollen(start: bytes, megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return b"".join([*parts, packer.flush()])


def test_x5_member_of_an_honest_name_above_the_default_cap() -> None:
    with pytest.raises(ArchiveRefused, match="X5"):
        _extract(header("a", 2**33 - 1), Path("nowhere"))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=6), st.integers(1, 4000))
def test_what_is_packed_is_unpacked(contents: list[bytes], chunk: int) -> None:
    stream, found = Packer([(f"d/f{n}", data) for n, data in enumerate(contents)]), {}
    unpacker = Unpacker(
        lambda *_: None, lambda name, size, digest, whole: found.__setitem__(name, (digest, whole))
    )
    parts = []
    while part := stream.read(chunk):
        parts.append(part)
        unpacker.write(part)
    unpacker.close()
    assert [found[f"d/f{n}"][1] for n in range(len(contents))] == contents
    assert all(found[f"d/f{n}"][0] == hashlib.sha256(c).hexdigest() for n, c in enumerate(contents))
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as independent:
        assert [independent.extractfile(m).read() for m in independent] == contents  # type: ignore[union-attr]


def test_damaged_archives_never_crash(tmp_path: Path, scale: Callable[..., int]) -> None:
    whole, rng = _tar(*((f"f{n}", bytes([n]) * 700, tarfile.REGTYPE, "") for n in range(4))), random.Random(4)
    refused, total = 0, scale(1000, 60)
    for n in range(total):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        out = tmp_path / str(n)
        out.mkdir()
        try:
            _extract(bytes(data), out)
        except DiffusionAdcError:
            refused += 1
    assert refused > 0
    assert {path.name for path in tmp_path.iterdir()} == {str(n) for n in range(total)}
