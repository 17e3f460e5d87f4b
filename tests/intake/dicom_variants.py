"""Valid DICOM studies in every form that a correct exporter may give them: none may be refused or doubted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from dicom_builder import (
    EPI,
    SHAPE,
    VENDOR_B,
    Array,
    Series,
    adc,
    dwi,
    exam,
    grid,
    study,
    t1,
    t2,
    write_classic,
    write_enhanced,
    write_mosaic,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from diffusion_adc.domain import sequences as seq

Change = Callable[[list[Series]], list[Series]]
UID = "1.2.3.4"
DATE = "20200101"
WHOLE = ("tumor_label",)
IMAGES_ONLY = ("t1w", "t2w", "tumor_label")


@dataclass(frozen=True)
class Variant:
    """One valid study.

    Attributes:
        name: What is special about it.
        lay: Writes it below a person's folder; returns what the cohort must hold by sequence, in stored units.
        allow_missing: Declared.
        affine: What the cohort's grid must be; None where it is the usual one.
        options: Further declarations.
    """

    name: str
    lay: Callable[[Path], dict[str, Array]]
    allow_missing: tuple[str, ...] = WHOLE
    affine: Array | None = None
    options: dict[str, Any] = field(default_factory=dict)


def each(change: Callable[[Dataset, int], Any]) -> Change:
    return lambda parts: [part.spoiled(change) for part in parts]


def placed(affine: Array) -> Change:
    return lambda parts: [replace(part, affine=affine) for part in parts]


def big_endian(dataset: Any, k: int) -> None:
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pixels = np.frombuffer(dataset.PixelData, dtype="<u2")
    dataset.PixelData = pixels.astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"


def syntax(uid: str) -> Callable[[Dataset, int], None]:
    def change(dataset: Any, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = uid

    return change


def packed(dataset: Any, k: int) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


def coarse(dataset: Dataset, k: int) -> None:
    """Positions as some exporters write them, to a hundredth of a millimeter."""
    dataset.ImagePositionPatient = [f"{float(v):.2f}" for v in dataset.ImagePositionPatient]


def put(**tags: Any) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, k: int) -> None:
        for name, value in tags.items():
            if value is None:
                if name in dataset:
                    delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    return change


def private(dataset: Dataset, k: int) -> None:
    dataset.private_block(0x0099, "ANY", create=True).add_new(1, "UN", b"\1\2\3")


def signed(parts: list[Series]) -> list[Series]:
    return [replace(part, array=part.array.astype(np.int16)) for part in parts]


def from_the_head() -> Array:
    flip = grid()
    flip[:3, 3] += 5 * flip[:3, 2]
    flip[:3, 2] *= -1
    return flip


AFFINES = {
    "oblique": grid(turn=0.4), "steep": grid(turn=-0.7), "anisotropic": grid(spacing=(1.5, 2.5, 5.0)),
    "fine": grid(spacing=(0.7, 0.7, 3.3)), "far off": grid(origin=(-20, 300, 700)),
}  # fmt: skip
FILES: dict[str, Change] = {
    "as it is": lambda parts: parts,
    **{name: placed(affine) for name, affine in AFFINES.items()},
    "slices from head to feet": placed(from_the_head()),
    "big-endian": each(big_endian),
    "implicit": each(syntax(ImplicitVRLittleEndian)),
    "deflated": each(syntax(DeflatedExplicitVRLittleEndian)),
    "run-length packed": each(packed),
    "coarse positions": each(coarse),
    "signed": signed,
    "no thickness": each(put(SliceThickness=None)),
    "thickness unlike the distance": each(put(SliceThickness="3.5", SpacingBetweenSlices="9")),
    "rescale of one": each(put(RescaleSlope="1", RescaleIntercept="0", RescaleType="US")),
    "field in gauss": each(put(MagneticFieldStrength="15000")),
    "no date": each(put(StudyDate=None, StudyTime=None)),
    "no series description": each(put(SeriesDescription=None, ProtocolName=None)),
    "Japanese descriptions": each(put(SpecificCharacterSet="ISO_IR 192", ProtocolName="前立腺")),
    "a private group": each(private),
    "instance numbers all one": each(put(InstanceNumber=1)),
    "no instance numbers": each(put(InstanceNumber=None)),
    "no series numbers": each(put(SeriesNumber=None)),
    "whole-body words": each(put(BodyPartExamined="WHOLEBODY", PatientPosition="FFS")),
    "no body part": each(put(BodyPartExamined=None)),
    "series back to front": lambda parts: parts[::-1],
}  # fmt: skip
SHAPES = (SHAPE, (17, 23, 6), (24, 12, 6))
KEPT = {seq.ADC: "adc", seq.DWI_HIGH: "b800"}


def kept(content: dict[str, Array], **other: Array) -> dict[str, Array]:
    return {name: content[key] for name, key in KEPT.items()} | other


def written(folder: Path, parts: list[Series]) -> None:
    for tag, part in enumerate(parts):
        write_classic(folder, part, UID, DATE, tag)


def _files() -> Iterator[Variant]:
    for seed, (kind, change) in enumerate(FILES.items()):
        for shape in SHAPES:

            def lay(
                folder: Path, seed: int = seed, change: Change = change, shape: Any = shape, kind: str = kind
            ) -> dict[str, Array]:
                content = exam(seed, shape)
                written(folder, change(study(content, b_values=(50, 800))))
                backwards = slice(None, None, -1 if kind == "slices from head to feet" else 1)
                return {name: array[..., backwards] for name, array in kept(content).items()}

            affine = AFFINES.get(kind, grid())
            yield Variant(f"{kind}, {'x'.join(map(str, shape))}", lay, affine=affine)


def _vendors() -> Iterator[Variant]:
    for vendor in VENDOR_B:
        for b_values in ((0, 800), (50, 800), (0, 50, 400, 800, 1000), (50, 400, 800)):
            if vendor == "canon" and 50 in b_values:
                continue  # it says nothing at b 0 and stands for all that say too little

            def lay(folder: Path, vendor: str = vendor, b_values: Any = b_values) -> dict[str, Array]:
                content = exam(7)
                images = [dwi(content, b, vendor=vendor) for b in b_values]
                own = adc(content).but(Manufacturer=images[0].tags["Manufacturer"], RescaleType="10^-6 mm2/s")
                written(folder, [*images, own])
                return kept(content)

            yield Variant(f"b {b_values} of {vendor}", lay, IMAGES_ONLY)


ORIGINAL = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], **EPI}


def _one_file(folder: Path, content: dict[str, Array]) -> None:
    """ADC and diffusion frames in one multi-frame file."""
    parts: list[tuple[Series, float | None]] = [
        (Series(6, content["b50"], tags=ORIGINAL), 50), (Series(6, content["b800"], tags=ORIGINAL), 800), (adc(content, 6), None),
    ]  # fmt: skip
    write_enhanced(folder / "frames", parts, UID, DATE)


def _file_per_b(folder: Path, content: dict[str, Array]) -> None:
    for number, (name, b) in enumerate((("b50", 50), ("b800", 800))):
        part = Series(6, content[name], tags=ORIGINAL, uid=f"{UID}.6{number}")
        write_enhanced(folder / f"dwi{number}", [(part, b)], UID, DATE)
    write_enhanced(folder / "adc", [(adc(content), None)], UID, DATE)


def _mosaics(folder: Path, content: dict[str, Array]) -> None:
    for number, part in enumerate((dwi(content, 50), dwi(content, 800), adc(content))):
        write_mosaic(folder / f"IM{number}", part, UID, DATE)


def _mixed(folder: Path, content: dict[str, Array]) -> None:
    written(folder, [dwi(content, 50), dwi(content, 800)])
    write_enhanced(folder / "adc", [(adc(content), None)], UID, DATE)


def _directions(folder: Path, content: dict[str, Array]) -> None:
    """Three equal directions at high b, not combined by the scanner."""
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], "Manufacturer": "SIEMENS"}
    written(
        folder,
        [
            dwi(content, 50),
            *(replace(dwi(content, 800), tags={**EPI, **tags}) for _ in range(3)),
            adc(content),
        ],
    )


def _layouts() -> Iterator[Variant]:
    for write in (_one_file, _file_per_b, _mosaics, _mixed, _directions):
        for shape in SHAPES:

            def lay(folder: Path, write: Any = write, shape: Any = shape) -> dict[str, Array]:
                content = exam(11, shape)
                write(folder, content)
                return kept(content)

            yield Variant(
                f"{write.__name__[1:].replace('_', ' ')}, {'x'.join(map(str, shape))}", lay, IMAGES_ONLY
            )


UNITS = {
    "mm2/s": "1e-6", "10^-3 mm2/s": "0.001", "10*-6.mm2/s": "1", "1E-6 mm²/s": "1", "um2/s": "1", "µm²/ms": "0.001",
    "x10-3 mm2/s": "0.001", "10^-6 mm^2/sec": "1",
}  # fmt: skip
"""A unit as files spell it → the slope that belongs to an integer of 1e-6 mm²/s."""


def _units() -> Iterator[Variant]:
    for unit, slope in UNITS.items():
        for vendor in ("SIEMENS", "Philips", "Acme"):

            def lay(
                folder: Path, unit: str = unit, slope: str = slope, vendor: str = vendor
            ) -> dict[str, Array]:
                content = exam(13)
                images = [dwi(content, b, vendor="standard").but(Manufacturer=vendor) for b in (50, 800)]
                own = adc(content).but(
                    Manufacturer=vendor,
                    SpecificCharacterSet="ISO_IR 192",
                    RescaleSlope=slope,
                    RescaleIntercept="0",
                    RescaleType=unit,
                )
                written(folder, [*images, own])
                return kept(content)

            yield Variant(f"{unit} of {vendor}", lay, IMAGES_ONLY)


def _content() -> Iterator[Variant]:
    def listed(*names: str) -> Callable[[Path], dict[str, Array]]:
        def lay(folder: Path) -> dict[str, Array]:
            content = exam(17)
            series = {
                "t1w": t1(content),
                "t2w": t2(content),
                "dwi_low": dwi(content, 50),
                "dwi_high": dwi(content, 800),
            }
            written(folder, [part for name, part in series.items() if name not in names] + [adc(content)])
            return {name: array for name, array in kept(content).items() if name not in names}

        return lay

    for missing in (
        ("t1w",),
        ("t2w",),
        ("t1w", "t2w"),
        ("dwi_low",),
        ("t1w", "dwi_low"),
        ("t1w", "t2w", "dwi_low"),
    ):
        yield Variant(f"without {' and '.join(missing)}", listed(*missing), (*missing, "tumor_label"))

    def with_more(*more: Series) -> Callable[[Path], dict[str, Array]]:
        def lay(folder: Path) -> dict[str, Array]:
            content = exam(17)
            written(folder, [*study(content, b_values=(50, 800)), *more])
            return kept(content)

        return lay

    content = exam(17)
    calculated = replace(
        dwi(content, 1000, 16), tags={**EPI, "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "CALC_BVAL"]}
    )
    plane = np.array([[0, 0, -2.0, 20], [-2.0, 0, 0, 16], [0, -4.0, 0, 10], [0, 0, 0, 1]])
    scout = Series(
        1, content["t1w"], tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ScanningSequence": "GR"}
    )
    yield Variant("a calculated b beside it", with_more(calculated))
    yield Variant("a localizer beside it", with_more(scout))
    yield Variant("a T2w of another plane beside it", with_more(replace(t2(content, 20), affine=plane)))
    yield Variant("a finer T2w", with_finer_anatomy)


def with_finer_anatomy(folder: Path) -> dict[str, Array]:
    content = exam(17)
    fine = grid(spacing=(1.0, 1.0, 4.0), origin=(-20.5, -16.5, -10.0))
    parts = study(content, b_values=(50, 800))
    parts[1] = replace(
        parts[1], array=np.kron(content["t2w"], np.ones((2, 2, 1), dtype=np.uint16)), affine=fine
    )
    written(folder, parts)
    return kept(content)


def variants() -> list[Variant]:
    """Every one of them."""
    return [*_files(), *_vendors(), *_layouts(), *_units(), *_content()]
