"""Files appear whole or not at all; volumes come back bit for bit or not at all."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_adc.domain.errors import CaseError, DiffusionAdcError
from diffusion_adc.records import atomic
from diffusion_adc.records.nifti import read_nifti, write_nifti


def oblique(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = q @ np.diag([0.5, 2.0, 5.0])
    affine[:3, 3] = rng.normal(0, 100, 3)
    return affine


def volume(shape: tuple[int, ...] = (7, 5, 3)) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(0, 1000),
    st.sampled_from(["float32", "uint8", "uint16", "bool"]),
)
@settings(max_examples=40, deadline=None)
def test_round_trip_is_bit_exact(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], seed: int, kind: str
) -> None:
    array = (np.random.default_rng(seed).random(shape) * 200).astype(kind)
    path = tmp_path_factory.mktemp("n") / "x.nii.gz"
    digest = write_nifti(path, array, oblique(seed))
    back = read_nifti(path, array.dtype, sha256=digest)
    assert np.array_equal(back.array, array)
    np.testing.assert_allclose(back.affine, oblique(seed), atol=1e-4)


def test_the_same_volume_gives_the_same_bytes_without_a_name_or_time(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "longer-name.nii.gz"):
        write_nifti(tmp_path / name, volume(), oblique())
    a, b = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert a == b
    assert a[3] & 0x08 == 0, "the gzip header names a file"
    header = nib.load(tmp_path / "a.nii.gz").header
    assert bytes(header["descrip"].item()) == b""
    assert bytes(header["db_name"].item()) == b""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_streams_are_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "adc.nii.gz"
    write_nifti(path, volume((20, 20, 10)), oblique())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CaseError) as caught:
        read_nifti(path, research_id="SIM-00001", sequence="adc")
    assert caught.value.code == "S25"
    assert str(tmp_path) not in str(caught.value)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adc.nii.gz"
    digest = write_nifti(path, volume((12, 12, 6)), oblique())
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 8 * len(data), 60):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(CaseError):
            read_nifti(path, sha256=digest)


def test_without_a_known_hash_the_stream_itself_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "adc.nii.gz"
    write_nifti(path, volume((12, 12, 6)), oblique())
    data = path.read_bytes()
    wrong = 0
    for at in np.random.default_rng(1).integers(8 * 10, 8 * len(data), 60):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bytes(flipped))
        try:
            back = read_nifti(path)
        except CaseError:
            continue
        wrong += not np.array_equal(back.array, volume((12, 12, 6)))
    assert wrong == 0


def damaged(tmp_path: Path, **fields: object) -> Path:
    """A NIfTI whose header says something else than its data."""
    image = nib.Nifti1Image(volume(), oblique())
    raw = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path = tmp_path / "adc.nii.gz"
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "S29"),
        ({"dim": [3, 70, 5, 3, 1, 1, 1, 1]}, "S29"),
        ({"dim": [3, -7, 5, 3, 1, 1, 1, 1]}, "S29"),
        ({"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, "S28"),
        ({"pixdim": [1, 1, 1, 60, 1, 1, 1, 1]}, "S28"),
        ({"pixdim": [1, np.nan, 1, 1, 1, 1, 1, 1]}, "S28"),
    ],
)
def test_impossible_headers_are_refused_before_allocation(
    tmp_path: Path, fields: dict[str, object], code: str
) -> None:
    with pytest.raises(CaseError) as caught:
        read_nifti(damaged(tmp_path, **fields))
    assert caught.value.code == code


@pytest.mark.parametrize("kind", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_colour_and_complex_are_refused(tmp_path: Path, kind: object) -> None:
    array = np.zeros((4, 4, 4), dtype=np.dtype(kind))  # type: ignore[call-overload]
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "adc.nii.gz")
    with pytest.raises(CaseError) as caught:
        read_nifti(tmp_path / "adc.nii.gz")
    assert caught.value.code == "S26"


@pytest.mark.parametrize("slope", [np.nan, 0.0, 1e-6, 2.5])
def test_scale_factors_are_applied_once_and_missing_ones_are_one(tmp_path: Path, slope: float) -> None:
    image = nib.Nifti1Image((volume() * 100).astype(np.int16), np.eye(4))
    stored = np.asarray(image.dataobj)
    raw = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]))
    header["scl_slope"], header["scl_inter"] = slope, 0.0
    raw[:348] = header.binaryblock
    (tmp_path / "adc.nii").write_bytes(bytes(raw))
    factor = slope if np.isfinite(slope) and slope else 1.0
    np.testing.assert_allclose(read_nifti(tmp_path / "adc.nii", np.float64).array, stored * factor)


def test_big_endian_and_a_fourth_axis_of_one_are_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(volume()[..., None], np.eye(4), header), tmp_path / "adc.nii")
    assert np.array_equal(read_nifti(tmp_path / "adc.nii").array, volume())


def test_files_that_are_no_nifti_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello", os.urandom(400), gzip.compress(b"short")):
        (tmp_path / "adc.nii").write_bytes(content)
        with pytest.raises(CaseError):
            read_nifti(tmp_path / "adc.nii")
    with pytest.raises(CaseError, match="S25"):
        read_nifti(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "table.csv"
    atomic.write_text(path, "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DiffusionAdcError, match="No space left") as caught:
            atomic.write_text(path, "new")
    assert str(tmp_path) not in str(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_failing_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "maps"
    with atomic.replacing_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing_folder(target) as folder:  # noqa: PT012
        (folder / "a").write_text("new")
        raise RuntimeError("killed half-way")
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]
    with atomic.replacing_folder(target) as folder:
        (folder / "b").write_text("new")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
