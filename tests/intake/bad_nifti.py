"""Bad NIfTI files by their code: each spoils one case folder."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from diffusion_adc.domain.signal import dwi_signal

Volumes = dict[str, np.ndarray]


def affine(turn: float = 0.0, spacing: tuple[float, float, float] = (2.0, 2.0, 4.0)) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    ) @ np.diag(spacing)
    out[:3, 3] = (-30, -25, 10)
    return out


def volumes(shape: tuple[int, int, int] = (24, 20, 6), seed: int = 0) -> Volumes:
    """A consistent examination: a body in air, ADC in 1e-6 mm²/s as a scanner stores it."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.ogrid[: shape[0], : shape[1], : shape[2]]
    body = ((i - shape[0] / 2) / (0.4 * shape[0])) ** 2 + (
        (j - shape[1] / 2) / (0.4 * shape[1])
    ) ** 2 + np.zeros(shape) < 1
    adc = np.where(body, rng.uniform(0.8, 2.0, shape), 0)
    s0 = np.where(body, rng.uniform(300, 600, shape), 1)
    label = np.zeros(shape)
    label[shape[0] // 2 : shape[0] // 2 + 3, shape[1] // 2 : shape[1] // 2 + 2, shape[2] // 2] = 1
    return {
        "t1w": s0 * 0.7, "t2w": s0 * 1.3, "dwi_low": dwi_signal(s0, 50, adc), "dwi_high": dwi_signal(s0, 800, adc),
        "adc": np.round(adc * 1000), "tumor_label": label,
    }  # fmt: skip


def save(
    folder: Path,
    content: Volumes,
    grid: np.ndarray | None = None,
    suffix: str = ".nii.gz",
    dtype: Any = np.float32,
) -> Path:
    folder.mkdir(parents=True)
    for name, array in content.items():
        image = nib.Nifti1Image(np.asarray(array, dtype=dtype), affine() if grid is None else grid)
        image.set_qform(image.affine, 1)
        nib.save(image, folder / f"{name}{suffix}")
    return folder


def edit_header(path: Path, **fields: Any) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))


def put(
    folder: Path, name: str, array: np.ndarray, grid: np.ndarray | None = None, dtype: Any = np.float32
) -> None:
    image = nib.Nifti1Image(np.asarray(array, dtype=dtype), affine() if grid is None else grid)
    image.set_qform(image.affine, 1)
    nib.save(image, folder / f"{name}.nii.gz")


def moved(mm: float) -> np.ndarray:
    out = affine()
    out[0, 3] += mm
    return out


def sheared() -> np.ndarray:
    out = affine()
    out[0, 1] = 0.4
    return out


def with_value(array: np.ndarray, value: float, count: int = 1) -> np.ndarray:
    out = array.astype(float).copy()
    out.ravel()[np.flatnonzero(array)[:count]] = value
    return out


def shear_file(folder: Path, name: str) -> None:
    image = nib.Nifti1Image(volumes()[name].astype(np.float32), sheared())
    image.set_sform(sheared(), 1)
    image.header["qform_code"] = 0
    nib.save(image, folder / f"{name}.nii.gz")


def edited(folder: Path, array: np.ndarray) -> None:
    """An edited map in the place of the label."""
    (folder / "tumor_label.nii.gz").unlink()
    put(folder, "tumor_adc", array)


BAD: list[tuple[str, str, Callable[[Path, Volumes], Any]]] = [
    ("S01", "adc", lambda f, v: (f / "adc.nii.gz").unlink()),
    ("S01", "t1w", lambda f, v: (f / "t1w.nii.gz").unlink()),
    ("S01", "dwi_high", lambda f, v: (f / "dwi_high.nii.gz").unlink()),
    ("S13", "dwi_low", lambda f, v: (f / "dwi_low.nii.gz").unlink()),
    ("S08", "t2w", lambda f, v: put(f, "t2w", v["t2w"], moved(200))),
    ("S08", "t1w", lambda f, v: put(f, "t1w", v["t1w"], moved(-30))),
    ("S08", "dwi_high", lambda f, v: put(f, "dwi_high", v["dwi_high"], moved(1))),
    ("S08", "dwi_low", lambda f, v: put(f, "dwi_low", v["dwi_low"][:-1])),
    ("S09", "adc", lambda f, v: shear_file(f, "adc")),
    ("S09", "t1w", lambda f, v: shear_file(f, "t1w")),
    ("S09", "dwi_low", lambda f, v: shear_file(f, "dwi_low")),
    ("S10", "adc", lambda f, v: edit_header(f / "adc.nii.gz", qoffset_x=5.0)),
    ("S10", "t2w", lambda f, v: edit_header(f / "t2w.nii.gz", sform_code=0, qform_code=0)),
    ("S10", "dwi_high", lambda f, v: edit_header(f / "dwi_high.nii.gz", qoffset_z=11.0)),
    ("S14", "adc", lambda f, v: put(f, "adc", v["adc"] * 1e-3)),
    ("S14", "adc", lambda f, v: put(f, "adc", v["adc"] * 1e-6)),
    ("S14", "adc", lambda f, v: put(f, "adc", v["adc"] * 10)),
    ("S16", "adc", lambda f, v: put(f, "dwi_low", v["dwi_high"]) or put(f, "dwi_high", v["dwi_low"] * 0.8)),
    ("S16", "adc", lambda f, v: put(f, "adc", v["adc"] * 1.3)),
    ("S16", "adc", lambda f, v: put(f, "adc", v["adc"] * 0.8)),
    ("S17", "adc", lambda f, v: put(f, "adc", with_value(v["adc"], -200, 40))),
    ("S17", "adc", lambda f, v: put(f, "adc", with_value(v["adc"], -1, 60))),
    ("S17", "adc", lambda f, v: put(f, "adc", with_value(v["adc"], -900, 500))),
    ("S18", "adc", lambda f, v: put(f, "adc", with_value(v["adc"], np.nan))),
    ("S18", "dwi_high", lambda f, v: put(f, "dwi_high", with_value(v["dwi_high"], np.inf))),
    ("S18", "t1w", lambda f, v: put(f, "t1w", with_value(v["t1w"], -np.inf))),
    ("S19", "dwi_low", lambda f, v: put(f, "dwi_low", np.full_like(v["dwi_low"], 7))),
    ("S19", "t1w", lambda f, v: put(f, "t1w", np.zeros_like(v["t1w"]))),
    ("S19", "tumor_label", lambda f, v: put(f, "tumor_label", np.zeros_like(v["tumor_label"]))),
    ("S20", "tumor_label", lambda f, v: put(f, "tumor_label", v["tumor_label"], moved(2))),
    ("S20", "tumor_label", lambda f, v: put(f, "tumor_label", v["tumor_label"][:, :-1])),
    ("S20", "tumor_label", lambda f, v: put(f, "tumor_label", v["tumor_label"], affine(spacing=(2, 2, 5)))),
    ("S22", "tumor_label", lambda f, v: put(f, "tumor_label", v["tumor_label"] * 3)),
    ("S22", "tumor_label", lambda f, v: put(f, "tumor_label", v["tumor_label"] * 0.4)),
    ("S22", "tumor_label", lambda f, v: put(f, "tumor_label", -v["tumor_label"])),
    ("S24", "adc", lambda f, v: put(f, "adc", np.stack([v["adc"]] * 2, -1))),
    ("S24", "dwi_high", lambda f, v: put(f, "dwi_high", np.stack([v["dwi_high"]] * 3, -1))),
    ("S24", "t1w", lambda f, v: put(f, "t1w", np.stack([v["t1w"]] * 2, -1))),
    ("S25", "adc", lambda f, v: (f / "adc.nii.gz").write_bytes((f / "adc.nii.gz").read_bytes()[:-40])),
    ("S25", "t2w", lambda f, v: (f / "t2w.nii.gz").write_bytes(b"no image")),
    ("S25", "tumor_label", lambda f, v: (f / "tumor_label.nii.gz").write_bytes(b"")),
    ("S26", "adc", lambda f, v: put(f, "adc", v["adc"] / 10, dtype=np.uint8)),
    ("S26", "dwi_high", lambda f, v: put(f, "dwi_high", v["dwi_high"], dtype=np.complex64)),
    ("S26", "t1w", lambda f, v: put(f, "t1w", v["t1w"], dtype=np.complex128)),
    ("S28", "adc", lambda f, v: edit_header(f / "adc.nii.gz", pixdim=[1, 2, 2, 0, 1, 1, 1, 1])),
    ("S28", "t1w", lambda f, v: edit_header(f / "t1w.nii.gz", pixdim=[1, 2, 70, 4, 1, 1, 1, 1])),
    ("S28", "dwi_low", lambda f, v: edit_header(f / "dwi_low.nii.gz", pixdim=[1, np.nan, 2, 4, 1, 1, 1, 1])),
    ("S29", "adc", lambda f, v: edit_header(f / "adc.nii.gz", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    ("S29", "t2w", lambda f, v: edit_header(f / "t2w.nii.gz", dim=[3, 24, 20, 600, 1, 1, 1, 1])),
    ("S29", "dwi_high", lambda f, v: edit_header(f / "dwi_high.nii.gz", dim=[3, -24, 20, 6, 1, 1, 1, 1])),
    *(
        (
            "S23",
            "tumor_adc",
            lambda f, v, change=change: edited(f, change(v["adc"] * v["tumor_label"], v["adc"])),
        )
        for change in (lambda t, a: t * 1.1, lambda t, a: t * 1e-3, lambda t, a: a * 0.5)
    ),
    *(
        (
            "S27",
            name,
            lambda f, v, name=name, value=value: edit_header(
                f / f"{name}.nii.gz", scl_slope=1, scl_inter=value
            ),
        )
        for name, value in (("adc", np.nan), ("t2w", np.inf), ("dwi_low", -np.inf))
    ),
]
