"""Prepared cases in memory-mapped files: written once, atomically, and rebuilt when anything is off.

``STORE/<recipe>/<case_id>/`` holds

* ``images.npy``    float16 (7, I, J, K), the scaled condition; (7, K, I, J) for slices,
* ``presence.npy``  uint8 (R, I, J, K), each reader's presence (all 0 if no map is stored); (R, K, I, J) for slices,
* ``voxels.npy``    int32, candidate patch centers (`index.VoxelIndex`),
* ``meta.json``     key, grid, index, SHA-256 of every file, and the SHA-256 of all that.

The key joins the hashes of the case's files, its b-values and the recipe; an entry with another key is a miss
and is replaced. A file lock per entry keeps two processes from building one entry at once; it is freed by the
operating system when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.data.grid import Triple, WorkingGrid
from diffusion_adc.data.index import VoxelIndex, index_voxels
from diffusion_adc.data.prepare import (
    IMAGE_DTYPE,
    Recipe,
    load_native,
    round_trip_dice,
    to_working,
    working_grid,
    working_readings,
)
from diffusion_adc.data.scaling import condition_images
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CohortError
from diffusion_adc.records.atomic import replacing_folder, sha256_bytes, sha256_file
from diffusion_adc.records.cohort import presence_readings

IMAGES_FILE: Final = "images.npy"
PRESENCE_FILE: Final = "presence.npy"
VOXELS_FILE: Final = "voxels.npy"
META_FILE: Final = "meta.json"
_FILES: Final = (IMAGES_FILE, PRESENCE_FILE, VOXELS_FILE)

_verified: set[tuple[str, int, int, int]] = set()
"""Files whose SHA-256 this process has checked: path, inode, size, modification time in ns."""


def entry_key(case: Case, recipe: Recipe) -> str:
    """SHA-256 over the recipe and everything of the case that enters its prepared volumes."""
    used = {
        name: digest
        for name, digest in case.files.items()
        if name in (*seq.SEQUENCES, seq.VALID) or name.rsplit("/", 1)[-1] == seq.TUMOR_LABEL
    }
    parts = [recipe.fingerprint, case.case_id, sorted(used.items()), case.readers, case.b_low, case.b_high]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class StoreEntry:
    """One prepared case on disk: paths and small facts only, so that it pickles in a few hundred bytes.

    Attributes:
        path: The entry's folder.
        case_id: Of the case.
        grid: The working grid.
        readers: Stored readings; 0 if no reader's map is stored.
        index: Segments of ``voxels.npy``.
        offsets: First data byte of images, presence and voxels.
        planes: Whether slices are contiguous on disk.
        round_trip_dice: Of lesions from 1 mL on; see `prepare.round_trip_dice`.
    """

    path: Path
    case_id: str
    grid: WorkingGrid
    readers: int
    index: VoxelIndex
    offsets: Triple
    planes: bool = False
    round_trip_dice: float | None = None

    @property
    def shape(self) -> Triple:
        """(I, J, K)."""
        return self.grid.shape

    def images(self) -> NDArray[np.float16]:
        """(7, I, J, K), memory-mapped copy-on-write: nothing is read until it is touched, no write reaches disk."""
        shape = _stored_shape(len(seq.CHANNELS), self.shape, self.planes)
        return self._as_volume(_mapped(f"{self.path}/{IMAGES_FILE}", shape, np.float16, self.offsets[0]))

    def presence(self) -> NDArray[np.uint8]:
        """(R, I, J, K), memory-mapped copy-on-write; one empty reading if no map is stored."""
        shape = _stored_shape(max(self.readers, 1), self.shape, self.planes)
        return self._as_volume(_mapped(f"{self.path}/{PRESENCE_FILE}", shape, np.uint8, self.offsets[1]))

    def _as_volume(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored.transpose(0, 2, 3, 1) if self.planes else stored

    def voxel(self, position: int) -> Triple:
        """(i, j, k) of one candidate of the voxel array, read without mapping the array."""
        descriptor = os.open(f"{self.path}/{VOXELS_FILE}", os.O_RDONLY)
        try:
            flat = int.from_bytes(os.pread(descriptor, 4, self.offsets[2] + 4 * position), "little")
        finally:
            os.close(descriptor)
        _, rows, columns = self.shape
        return flat // (rows * columns), flat // columns % rows, flat % columns

    def voxels(self) -> NDArray[np.int32]:
        """All flat candidate indices, memory-mapped."""
        return np.load(self.path / VOXELS_FILE, mmap_mode="c", allow_pickle=False)


def _stored_shape(rows: int, shape: Triple, planes: bool) -> tuple[int, ...]:
    i, j, k = shape
    return (rows, k, i, j) if planes else (rows, i, j, k)


def _mapped(path: str, shape: tuple[int, ...], dtype: type[np.generic], offset: int) -> NDArray[Any]:
    # A third of the time of np.load(mmap_mode="c"): the header was checked when the entry was opened.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mapping = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(descriptor)
    return np.ndarray(shape, dtype, mapping, offset)


def open_entry(path: Path, key: str, *, verify: bool = True) -> StoreEntry | None:
    """The entry at `path`, or None if it is absent, stale or damaged.

    Args:
        path: The entry's folder.
        key: From `entry_key`.
        verify: Compare every file's SHA-256, once per process and file; else meta, sizes and headers alone.
    """
    try:
        record = json.loads((path / META_FILE).read_bytes())
        content = record["content"]
        if record["sha256"] != _digest(content) or content["key"] != key:
            return None
        for name in _FILES:
            stat = (path / name).stat()
            if stat.st_size != content["files"][name]["bytes"]:
                return None
            seen = (str(path / name), stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if verify and seen not in _verified:
                if sha256_file(path / name) != content["files"][name]["sha256"]:
                    return None
                _verified.add(seen)
        grid = _grid(content)
        readers, planes = int(content["readers"]), bool(content["planes"])
        wanted: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...] = (
            (_stored_shape(len(seq.CHANNELS), grid.shape, planes), np.dtype(IMAGE_DTYPE)),
            (_stored_shape(max(readers, 1), grid.shape, planes), np.dtype(np.uint8)),
            ((int(content["voxels"]),), np.dtype("<i4")),
        )
        offsets = [_header(path / name, *expected) for name, expected in zip(_FILES, wanted, strict=True)]
        return StoreEntry(
            path, content["case_id"], grid, readers, VoxelIndex.from_json(content["index"]),
            (offsets[0], offsets[1], offsets[2]), planes, content["round_trip_dice"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _header(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """First data byte of a .npy file of the expected shape and type.

    Raises:
        ValueError: Another shape, type or order.
    """
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError("another .npy version")
        found = np.lib.format.read_array_header_1_0(stream)
        if found != (shape, False, dtype):
            raise ValueError("another array than recorded")
        return stream.tell()


def _digest(content: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())


def _grid(content: dict[str, Any]) -> WorkingGrid:
    def triple(name: str) -> Triple:
        i, j, k = content["grid"][name]
        return int(i), int(j), int(k)

    spacing = content["grid"]["spacing_mm"]
    return WorkingGrid(
        triple("native_shape"),
        np.asarray(content["grid"]["native_affine"], dtype=np.float64),
        triple("offset"),
        triple("crop"),
        None if spacing is None else (spacing[0], spacing[1], spacing[2]),
    )


class Store:
    """The prepared cases of one cohort under one recipe.

    Args:
        cohort_dir: The cohort's folder.
        recipe: How cases are prepared.
        store_dir: Where entries live; default ``<cohort>.store`` beside the cohort.
    """

    def __init__(self, cohort_dir: Path, recipe: Recipe, store_dir: Path | None = None) -> None:
        self.cohort_dir = cohort_dir
        self.recipe = recipe
        self.store_dir = store_dir or cohort_dir.with_name(f"{cohort_dir.name}.store")

    @property
    def folder(self) -> Path:
        """Where this recipe's entries live."""
        return self.store_dir / self.recipe.fingerprint[:16]

    def entry(self, case: Case, *, verify: bool = True) -> StoreEntry:
        """The case's entry, built if absent, stale or damaged.

        Raises:
            CaseError: The case's own files are damaged.
            DiffusionAdcError: The disk is full or the store cannot be written; nothing is left half-written.
        """
        path, key = self.folder / case.case_id, entry_key(case, self.recipe)
        found = open_entry(path, key, verify=verify)
        if found is None:
            with self._locked(case.case_id):
                # Another process may have built it while this one waited.
                found = open_entry(path, key, verify=verify)
                if found is None:
                    self._build(case, path, key)
                    found = open_entry(path, key)
        if found is None:
            raise CohortError(
                "a store entry that does not read back as written", do="check the disk of the store",
                research_id=case.research_id,
            )  # fmt: skip
        return found

    def entries(
        self,
        cases: Sequence[Case],
        *,
        verify: bool = True,
        progress: Callable[[Sequence[Case]], Any] | None = None,
    ) -> list[StoreEntry]:
        """One entry per case, in order; `progress` wraps the iterable (e.g. tqdm)."""
        return [self.entry(case, verify=verify) for case in (progress(cases) if progress else cases)]

    def forget(self, research_ids: Sequence[str]) -> None:
        """Delete every entry of these persons, under any recipe: they have withdrawn."""
        for research_id in research_ids:
            for pattern in (f"*/{research_id}_[0-9][0-9]", f"*/.{research_id}_[0-9][0-9].*"):
                for path in self.store_dir.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)
            for path in self.store_dir.glob(f"*/.locks/{research_id}_[0-9][0-9]"):
                path.unlink(missing_ok=True)

    def _build(self, case: Case, path: Path, key: str) -> None:
        volumes, affine = load_native(self.cohort_dir, case)
        grid = working_grid(np.asarray(volumes[seq.VALID], dtype=bool), affine, self.recipe)
        images = condition_images(to_working(volumes, grid), case).astype(IMAGE_DTYPE)
        native = presence_readings(self.cohort_dir, case) if case.has_target else []
        readings = working_readings(native, grid)
        voxels, index = index_voxels(images.astype(np.float32), readings)
        presence = readings.astype(np.uint8) if len(readings) else np.zeros((1, *grid.shape), np.uint8)
        if self.recipe.planes:
            images, presence = images.transpose(0, 3, 1, 2), presence.transpose(0, 3, 1, 2)
        with replacing_folder(path) as folder:
            files: dict[str, dict[str, Any]] = {}
            for name, array in zip(_FILES, (images, presence, voxels.astype("<i4")), strict=True):
                with (folder / name).open("wb") as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
                    stream.flush()
                    os.fsync(stream.fileno())
                files[name] = {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
            content = {
                "key": key,
                "case_id": case.case_id,
                "readers": len(readings),
                "planes": self.recipe.planes,
                "voxels": int(voxels.size),
                "index": index.to_json(),
                "round_trip_dice": round_trip_dice(native, readings, grid),
                "files": files,
                "grid": {
                    "native_shape": list(grid.native_shape),
                    "native_affine": grid.native_affine.tolist(),
                    "offset": list(grid.offset),
                    "crop": list(grid.crop),
                    "spacing_mm": None if grid.spacing_mm is None else list(grid.spacing_mm),
                },
            }
            record = {"content": content, "sha256": _digest(content)}
            (folder / META_FILE).write_text(json.dumps(record, sort_keys=True, allow_nan=False))

    @contextmanager
    def _locked(self, case_id: str) -> Iterator[None]:
        folder = self.folder / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / case_id, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CohortError(
                f"the store cannot be written ({os.strerror(error.errno or 0)})",
                do="choose another folder with data.store or check its permissions",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
