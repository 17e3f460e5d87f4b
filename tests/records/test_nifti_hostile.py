"""Headers that lie, streams that swell, and disks that fill up in the middle of a write."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from diffusion_adc.domain.errors import CaseError, DiffusionAdcError
from diffusion_adc.records import atomic
from diffusion_adc.records.nifti import read_nifti, read_stored, write_nifti

ARRAY = np.random.default_rng(3).normal(size=(7, 5, 3)).astype(np.float32)
GRID = np.array([[2.0, 0, 0, -9], [0, 2.5, 0, 4], [0, 0, 5, 1], [0, 0, 0, 1]])


def nifti(
    path: Path, array: np.ndarray = ARRAY, kind: Any = nib.Nifti1Image, tail: bytes = b"", **fields: Any
) -> Path:
    """A file whose header fields are overwritten after the fact."""
    image = kind(array, GRID)
    image.set_qform(GRID, 1)
    raw = image.to_bytes()
    size = image.header.sizeof_hdr
    header = type(image.header)(raw[:size], check=False)
    for name, value in fields.items():
        header[name] = value
    data = header.binaryblock + raw[size:] + tail
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def code(path: Path) -> str | None:
    with pytest.raises(CaseError) as caught:
        read_nifti(path, research_id="SIM-00001", sequence="adc")
    assert str(path.parent) not in str(caught.value)
    assert "SIM-00001 adc: " in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pixdim": [1, 2, 2.5, 0, 1, 1, 1, 1]}, "S28"),
        ({"pixdim": [1, -2, 2.5, 5, 1, 1, 1, 1]}, "S28"),
        ({"pixdim": [1, np.inf, 2.5, 5, 1, 1, 1, 1]}, "S28"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "S28"),
        ({"srow_x": [0, 0, 0, 0]}, "S28"),
        ({"srow_x": [80, 0, 0, 0]}, "S28"),
        ({"srow_x": [2, 2.5, 0, -9], "srow_y": [0, 1e-4, 0, 4]}, "S09"),
        ({"sform_code": 0, "quatern_b": 1.0, "quatern_c": 1.0}, "S10"),
        ({"scl_slope": 2.0, "scl_inter": np.nan}, "S27"),
        ({"dim": [3, 7, 5, 0, 1, 1, 1, 1]}, "S29"),
        ({"dim": [7, *[32767] * 7]}, "S29"),
        ({"dim": [3, 7, 5, 2, 1, 1, 1, 1]}, "S29"),
        ({"dim": [0, 7, 5, 3, 1, 1, 1, 1]}, "S25"),
        ({"dim": [9, 7, 5, 3, 1, 1, 1, 1]}, "S25"),
        ({"magic": b"ni1"}, "S25"),
        ({"datatype": 9999}, "S25"),
        ({"vox_offset": np.nan}, "S25"),
        ({"vox_offset": -5}, "S25"),
        ({"vox_offset": 1e30}, "S29"),
        ({"sizeof_hdr": 7}, "S25"),
    ],
)
def test_a_lying_header_is_refused_with_its_code(
    tmp_path: Path, suffix: str, fields: dict[str, Any], expected: str
) -> None:
    assert code(nifti(tmp_path / f"adc{suffix}", **fields)) == expected


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_longer_than_its_header_says_is_refused(tmp_path: Path, suffix: str) -> None:
    assert code(nifti(tmp_path / f"adc{suffix}", tail=b"x")) == "S29"


def test_bytes_after_the_stream_are_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "adc.nii.gz")
    path.write_bytes(path.read_bytes() + b"appended")
    assert code(path) == "S25"


@pytest.mark.parametrize("dim", [[3, 7, 5, 3, 1, 1, 1, 1], [3, 512, 512, 1000, 1, 1, 1, 1]])
def test_a_stream_that_swells_is_refused_without_unpacking_it(tmp_path: Path, dim: list[int]) -> None:
    """100 MB of zeros from 0.1 MB: either longer than the header says, or more than an image ever shrinks."""
    path = nifti(tmp_path / "adc.nii.gz", tail=bytes(100_000_000), dim=dim)
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    assert code(path) == "S29"
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_stream_in_several_members_is_one_volume(tmp_path: Path) -> None:
    path = nifti(tmp_path / "adc.nii.gz")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(data[at : at + 600]) for at in range(0, len(data), 600)))
    assert np.array_equal(read_nifti(path).array, ARRAY)
    path.write_bytes(path.read_bytes()[:-4])
    assert code(path) == "S25"


def test_second_edition_headers_are_read(tmp_path: Path) -> None:
    path = nifti(tmp_path / "adc.nii", kind=nib.Nifti2Image)
    volume = read_nifti(path)
    assert np.array_equal(volume.array, ARRAY)
    assert np.array_equal(volume.affine, GRID)


def test_what_is_stored_is_told_apart_from_its_scale(tmp_path: Path) -> None:
    raw = (ARRAY * 100).astype(">i2")
    stored = read_stored(nifti(tmp_path / "adc.nii", raw, scl_slope=0.5, scl_inter=3.0, qform_code=0))
    assert (stored.slope, stored.intercept, stored.qform) == (0.5, 3.0, None)
    assert np.array_equal(stored.raw, raw)
    assert np.array_equal(stored.values(), raw * 0.5 + 3.0)
    assert np.array_equal(stored.sform, GRID)
    values = read_stored(nifti(tmp_path / "b.nii", raw)).values()
    assert values.dtype == np.dtype("=i2")
    assert values.flags.writeable


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3), (5,), (2, 3, 4, 1, 1), (2, 3, 4, 2)])
def test_volumes_have_three_axes_or_more(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path / "adc.nii.gz"
    nib.save(nib.Nifti1Image(array, GRID), path)
    back = read_nifti(path).array
    assert back.ndim == (4 if len(shape) == 4 else 3)
    assert np.array_equal(back.ravel(), array.ravel())


def test_a_quota_reached_while_writing_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the operating system instead of a patched call."""
    script = (
        "import resource, signal, sys, pathlib, numpy as np\n"
        "from diffusion_adc.domain.errors import DiffusionAdcError\n"
        "from diffusion_adc.records.nifti import write_nifti\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "rng = np.random.default_rng(0)\n"
        "try:\n"
        "    write_nifti(pathlib.Path(sys.argv[1]), rng.random((40, 40, 20)), np.eye(4))\n"
        "except DiffusionAdcError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "adc.nii.gz"
    write_nifti(path, ARRAY, GRID)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "adc.nii.gz could not be written (File too large)" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["adc.nii.gz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_folder_survives_whatever_stops_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "maps"
    target.mkdir()
    (target / "a").write_text("old")
    real, calls = os.replace, iter(range(9))

    def second_fails(source: Any, to: Any) -> None:
        if next(calls) == 1:
            raise error
        real(source, to)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises((KeyboardInterrupt, DiffusionAdcError)), atomic.replacing_folder(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]
