"""Valid NIfTI examinations in every form that a correct exporter may give them: none may be refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nifti_builder import SHAPE, Array, Desk

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import dwi_signal

Content = dict[str, Array]
Write = Callable[[Desk, Path, Content], Any]
UNIT = {"adc_unit": "1e-6"}
PAIR = {"b_values": {"dwi_low": "50", "dwi_high": "800"}}


@dataclass(frozen=True)
class Variant:
    """One valid examination.

    Attributes:
        name: What is special about it.
        lay: Writes it into a case folder; returns what the cohort must hold by sequence (1e-3 mm²/s for the ADC).
        options: What the user declares.
        status: Of the target.
    """

    name: str
    lay: Callable[[Desk, Path], Content]
    options: dict[str, Any] = field(default_factory=lambda: {**UNIT, **PAIR})
    status: str = "present"


def turned(array: Array, grid: Array, code: str) -> tuple[Array, Array]:
    """The same voxels in another axis order, by nibabel."""
    target = nib.orientations.axcodes2ornt(tuple(code))
    change = nib.orientations.ornt_transform(nib.io_orientation(grid), target)
    image = nib.Nifti1Image(array, grid).as_reoriented(change)
    return np.asarray(image.dataobj), image.affine


def big_endian(array: Array, grid: Array) -> nib.Nifti1Image:
    return nib.Nifti1Image(array, grid, nib.Nifti1Header(endianness=">"))


def recompress(path: Path, pack: Callable[[bytes], bytes]) -> None:
    path.write_bytes(pack(gzip.decompress(path.read_bytes())))


def members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[at : at + 900]) for at in range(0, len(data), 900))


def named(data: bytes) -> bytes:
    """A stream with the file's name in its header, as the gzip command writes it."""
    packed = gzip.compress(data, 9)
    return packed[:3] + bytes([packed[3] | 8]) + packed[4:10] + b"t1w.nii\0" + packed[10:]


def except_the_highest(array: Array, value: float) -> Array:
    return np.where(array == array.max(), value, array)


FILES: dict[str, Write] = {
    "as it is": lambda d, f, v: None,
    "sform only": lambda d, f, v: d.put(f, "adc", v["adc"], codes=(1, 0)),
    "qform only": lambda d, f, v: d.put(f, "adc", v["adc"], codes=(0, 1)),
    "sform of another code": lambda d, f, v: d.put(f, "adc", v["adc"], codes=(4, 2)),
    "a fourth axis of one": lambda d, f, v: d.put(f, "dwi_low", v["dwi_low"][..., None]),
    "five axes of one": lambda d, f, v: d.put(f, "t2w", v["t2w"][..., None, None]),
    "NIfTI-2": lambda d, f, v: d.put(f, "adc", v["adc"], kind=nib.Nifti2Image),
    "big-endian": lambda d, f, v: d.put(f, "adc", v["adc"], kind=big_endian),
    "float64": lambda d, f, v: d.put(f, "adc", v["adc"], dtype=np.float64),
    "int32": lambda d, f, v: d.put(f, "adc", v["adc"], dtype=np.int32),
    "uint16": lambda d, f, v: d.put(f, "adc", v["adc"], dtype=np.uint16),
    "slope not a number": lambda d, f, v: d.put(f, "adc", v["adc"], scl_slope=np.nan),
    "handedness unset": lambda d, f, v: d.put(f, "adc", v["adc"], pixdim=[0, 2, 2, 4, 0, 0, 0, 0]),
    "several gzip members": lambda d, f, v: recompress(f / "adc.nii.gz", members),
    "padded gzip": lambda d, f, v: recompress(f / "adc.nii.gz", lambda b: gzip.compress(b) + bytes(512)),
    "gzip with a name": lambda d, f, v: recompress(f / "t1w.nii.gz", named),
    "gzip without packing": lambda d, f, v: recompress(f / "t2w.nii.gz", lambda b: gzip.compress(b, 0)),
    "no spatial unit": lambda d, f, v: d.put(f, "t1w", v["t1w"], xyzt_units=0),
    "text in the header": lambda d, f, v: d.put(f, "adc", v["adc"], descrip=b"a note", aux_file=b"x"),
    "8-bit label": lambda d, f, v: d.put(f, "tumor_label", v["tumor_label"], dtype=np.uint8),
    "signed 8-bit label": lambda d, f, v: d.put(f, "tumor_label", v["tumor_label"], dtype=np.int8),
    "float label": lambda d, f, v: d.put(f, "tumor_label", v["tumor_label"], dtype=np.float64),
    "8-bit anatomy": lambda d, f, v: d.put(f, "t1w", v["t1w"] / 4, dtype=np.uint8),
    "placement off by rounding": lambda d, f, v: d.put(f, "dwi_low", v["dwi_low"], d.grid(moved=4e-4)),
    "zeros outside the fit": lambda d, f, v: d.put(f, "adc", outside(v["adc"])),
    "few negative voxels": lambda d, f, v: d.put(f, "adc", except_the_highest(v["adc"], -5)),
    "saturated voxels": lambda d, f, v: d.put(f, "adc", except_the_highest(v["adc"], 4095)),
    "other files beside": lambda d, f, v: (f / "report.json").write_text("{}"),
    "anatomy of another plane": lambda d, f, v: d.put(f, "t1w", *turned(v["t1w"], d.grid(), "PSR")),
    "anatomy partly outside": lambda d, f, v: d.put(f, "t1w", v["t1w"], d.grid(moved=0.3 * 2 * len(v["t1w"]))),
    "anatomy of finer pixels": lambda d, f, v: d.put(f, "t2w", np.kron(v["t2w"], np.ones((2, 2, 1))), finer(d)),
    **{
        f"{name} as {code}": lambda d, f, v, name=name, code=code: d.put(f, name, *turned(v[name], d.grid(), code))
        for name in ("tumor_label", "dwi_high")
        for code in ("LPS", "LAS", "RAI", "SRA", "PIR")
    },
}  # fmt: skip
SHAPES = (SHAPE, (17, 31, 3), (33, 16, 1))


def outside(adc: Array) -> Array:
    return adc * (np.arange(len(adc)) < 0.6 * len(adc))[:, None, None]


def finer(desk: Desk) -> Array:
    grid = desk.grid(spacing=(1.0, 1.0, 4.0))
    grid[:3, 3] -= (0.5, 0.5, 0)
    return grid


def kept(content: Content, adc: Array | None = None) -> Content:
    """What the cohort must hold: diffusion images to the voxel, the ADC in 1e-3 mm²/s."""
    out = {
        name: content[name].astype(np.float32)
        for name in seq.SEQUENCES
        if name.startswith("dwi") and name in content
    }
    values = (content[seq.ADC] if adc is None else adc) / 1000
    return (
        out
        | {seq.ADC: values}
        | ({seq.TUMOR_LABEL: content[seq.TUMOR_LABEL] > 0} if seq.TUMOR_LABEL in content else {})
    )


def _file_variants() -> Iterator[Variant]:
    for number, (kind, write) in enumerate(FILES.items()):
        for shape in SHAPES:

            def lay(
                desk: Desk,
                folder: Path,
                write: Write = write,
                seed: int = number,
                shape: Any = shape,
                kind: str = kind,
            ) -> Content:
                content = desk.exam(seed, shape)
                desk.add(folder.name, content)
                write(desk, folder, content)
                adc = {"zeros outside the fit": outside, "few negative voxels": lambda a: except_the_highest(a, -5),
                       "saturated voxels": lambda a: except_the_highest(a, 4095)}.get(kind, lambda a: a)  # fmt: skip
                return kept(content, adc(content["adc"]))

            yield Variant(f"{kind}, {'x'.join(map(str, shape))}", lay)


PLACED: dict[str, dict[str, Any]] = {
    "oblique": {"turn": 0.7}, "turned over": {"turn": 2.6}, "fine": {"turn": 0.1, "spacing": (0.5, 0.5, 3.0)},
    "anisotropic": {"spacing": (0.9, 2.2, 7.0)}, "coarse": {"spacing": (6.0, 6.0, 10.0)}, "far off": {"moved": 900.0},
}  # fmt: skip
MIRROR = np.diag([-1, 1, 1, 1.0])


def _grid_variants() -> Iterator[Variant]:
    units = (
        ("1e-6", 1.0, np.int16),
        ("1e-3", 1e-3, np.float32),
        ("1", 1e-6, np.float32),
        ("0.000001", 1.0, np.uint16),
    )
    for number, (kind, how) in enumerate(PLACED.items()):
        for unit, scale, dtype in units:
            for mirrored in (False, True):

                def lay(
                    desk: Desk,
                    folder: Path,
                    how: Any = how,
                    unit: Any = (scale, dtype),
                    mirrored: bool = mirrored,
                    seed: int = number,
                ) -> Content:
                    content = desk.exam(seed)
                    grid = desk.grid(**how) @ (MIRROR if mirrored else np.eye(4))
                    desk.add(folder.name, content, grid=grid, suffix=".nii" if mirrored else ".nii.gz")
                    desk.put(folder, "adc", content["adc"] * unit[0], grid, dtype=unit[1],
                             suffix=".nii" if mirrored else ".nii.gz")  # fmt: skip
                    return kept(content)

                hand = "left-handed" if mirrored else "right-handed"
                yield Variant(f"{kind}, {unit} mm²/s, {hand}", lay, {"adc_unit": unit, **PAIR})


def _series_variants() -> Iterator[Variant]:
    for b_values in ((0, 1000), (1000, 0), (50, 400, 800), (800, 800, 50, 800), (0, 50, 400, 800, 1500), (0.004, 995, 1005),
                     (100, 600), (0, 0, 0, 700, 700)):  # fmt: skip
        for dtype in (np.float32, np.float64):

            def lay(desk: Desk, folder: Path, b_values: Any = b_values, dtype: Any = dtype) -> Content:
                content = desk.exam(3)
                desk.add(folder.name, content, without=("dwi_low", "dwi_high"))
                s0 = content["t2w"] / 1.3
                images = [np.where(s0 > 0, dwi_signal(s0, b, content["adc"] / 1000), 0) for b in b_values]
                desk.put(folder, "dwi", np.stack(images, -1), dtype=dtype)
                (folder / "dwi.bval").write_text(" ".join(map(repr, b_values)) + "\n")
                return {seq.ADC: content["adc"] / 1000, seq.TUMOR_LABEL: content["tumor_label"] > 0}

            yield Variant(f"4-D with b {b_values}, {np.dtype(dtype).name}", lay, dict(UNIT))
    for missing in (
        ["t1w"],
        ["t2w"],
        ["t1w", "t2w"],
        ["dwi_low"],
        ["dwi_high"],
        ["t1w", "dwi_low"],
        ["t1w", "t2w", "dwi_high"],
    ):

        def lay_missing(desk: Desk, folder: Path, missing: Any = missing) -> Content:
            content = {name: array for name, array in desk.exam(4).items() if name not in missing}
            desk.add(folder.name, content)
            return kept(content)

        yield Variant(
            f"without {' and '.join(missing)}", lay_missing, {**UNIT, **PAIR, "allow_missing": tuple(missing)}
        )
    for seed in range(3):

        def lay_noisy(desk: Desk, folder: Path, seed: int = seed) -> Content:
            content = desk.exam(seed, (96, 80, 6), air=3.0)
            desk.add(folder.name, content)
            return kept(content)

        yield Variant(f"noise fitted in the air, {seed}", lay_noisy)


def _target(change: Callable[[Content], Content]) -> Callable[[Desk, Path], Content]:
    def lay(desk: Desk, folder: Path) -> Content:
        content = desk.exam(5)
        changed = change(content)
        desk.add(folder.name, {name: a for name, a in changed.items() if name != "presence"})
        presence = changed.get("presence", changed.get("tumor_label", content["tumor_label"])) > 0
        return kept(content | {"tumor_label": presence})

    return lay


def _one_voxel(label: Array) -> Array:
    out = np.zeros_like(label)
    out[tuple(np.argwhere(label)[0])] = 1
    return out


def _edited(content: Content) -> Content:
    out = {name: array for name, array in content.items() if name != "tumor_label"}
    return out | {"tumor_adc": content["adc"] * content["tumor_label"], "presence": content["tumor_label"]}


def _readers(desk: Desk, folder: Path) -> Content:
    content = desk.exam(5)
    desk.add(folder.name, content)
    for reader, shift in (("R1", 0), ("R2", 1), ("reader_3", 2)):
        desk.put(folder / "readers" / reader, "tumor_label", np.roll(content["tumor_label"], shift, 0))
    return kept(content)


def _target_variants() -> Iterator[Variant]:
    whole = {**UNIT, **PAIR}
    grades = {**whole, "label_values": "1-5"}
    yield Variant(
        "tumor-free",
        _target(lambda v: v | {"tumor_label": v["tumor_label"] * 0}),
        {**whole, "tumor_free_ok": True},
        "absent",
    )
    yield Variant("one voxel", _target(lambda v: v | {"tumor_label": _one_voxel(v["tumor_label"])}))
    yield Variant("all of the body", _target(lambda v: v | {"tumor_label": (v["adc"] > 0) * 1.0}))
    yield Variant("a grade", _target(lambda v: v | {"tumor_label": v["tumor_label"] * 4}), grades)
    yield Variant(
        "grades of several lesions",
        _target(
            lambda v: (
                v | {"tumor_label": v["tumor_label"] * 2 + _one_voxel(np.roll(v["tumor_label"], 5, 1)) * 5}
            )
        ),
        grades,
    )
    yield Variant(
        "one label of two",
        _target(lambda v: v | {"tumor_label": v["tumor_label"] * 3}),
        {**whole, "label_values": "1,3"},
    )
    yield Variant("an edited map", _target(_edited))
    yield Variant(
        "an edited map and its label", _target(lambda v: v | {"tumor_adc": v["adc"] * v["tumor_label"]})
    )
    yield Variant(
        "no target, declared",
        _target(lambda v: {n: a for n, a in v.items() if n != "tumor_label"}),
        {**whole, "allow_missing": ("tumor_label",)},
        "unknown",
    )
    yield Variant("three readers and the first one's map", _readers)


def variants() -> list[Variant]:
    """Every one of them."""
    return [*_file_variants(), *_grid_variants(), *_series_variants(), *_target_variants()]
