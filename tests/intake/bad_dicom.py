"""Bad DICOM studies by their code: each spoils some series of a whole study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dicom_builder import Series, adc, exam, grid, study, t2
from pydicom.dataset import Dataset
from pydicom.uid import UID

CONTENT = exam()
Parts = dict[str, Series]
ALLOWED: tuple[str, ...] = ("tumor_label",)


def named() -> Parts:
    t1w, t2w, low, mid, high, own = study(CONTENT)
    return {"t1w": t1w, "t2w": t2w, "low": low, "mid": mid, "high": high, "adc": own}


def only(k: int, change: Callable[[Dataset], Any]) -> Callable[[Dataset, int], None]:
    def spoil(dataset: Dataset, n: int) -> None:
        if n == k:
            change(dataset)

    return spoil


def every(change: Callable[[Dataset], Any]) -> Callable[[Dataset, int], None]:
    return lambda dataset, n: change(dataset)


def move(mm: float, axis: int = 2) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        position = [float(v) for v in dataset.ImagePositionPatient]
        position[axis] += mm
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]

    return change


def put(**tags: Any) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for name, value in tags.items():
            setattr(dataset, name, value)

    return change


def cut(part: Series, ks: slice) -> Series:
    """Some slices of a series, at their own places."""
    start = ks.indices(part.array.shape[2])[0]
    affine = part.affine.copy()
    affine[:3, 3] += start * affine[:3, 2]
    return replace(part, array=part.array[:, :, ks], affine=affine)


def swap(parts: Parts, **changed: Series | None) -> list[Series]:
    return [part for part in (parts | changed).values() if part is not None]


def gap(name: str) -> Callable[[Parts, Path], Any]:
    """A missing middle slice."""
    return lambda p, f: (swap(p), lambda: files(f, p[name].number, p[name])[2].unlink())


def files(folder: Path, number: int, part: Series) -> list[Path]:
    return sorted((folder / f"series {number}").glob("IM*"))[-part.array.shape[2] :]


Spoil = Callable[[Parts], list[Series]]
BAD: list[tuple[str, str, str, Spoil]] = [
    ("S01", "adc", "no map", lambda p: swap(p, adc=None)),
    ("S01", "t1w", "no T1w", lambda p: swap(p, t1w=None)),
    ("S01", "t2w", "no T2w", lambda p: swap(p, t2w=None)),
    ("S01", "dwi_high", "no DWI", lambda p: swap(p, low=None, mid=None, high=None)),
    ("S01", "t2w", "two T2w", lambda p: [*swap(p), t2(CONTENT, 14)]),
    ("S01", "adc", "two maps", lambda p: [*swap(p), adc(CONTENT, 17)]),
    ("S02", "adc", "slice moved", lambda p: swap(p, adc=p["adc"].spoiled(only(2, move(1.0))))),
    ("S02", "adc", "slice farther", lambda p: swap(p, adc=p["adc"].spoiled(only(5, move(2.0))))),
    ("S02", "t2w", "slice moved", lambda p: swap(p, t2w=p["t2w"].spoiled(only(3, move(-0.9))))),
    ("S03", "adc", "map too short", lambda p: swap(p, adc=cut(p["adc"], slice(0, 5)))),
    ("S03", "adc", "map starts late", lambda p: swap(p, adc=cut(p["adc"], slice(2, 6)))),
    ("S03", "dwi", "DWI too short", lambda p: swap(p, high=cut(p["high"], slice(0, 4)))),
    ("S04", "t2w", "one slice upon another", lambda p: swap(p, t2w=p["t2w"].spoiled(only(5, move(-4.0))))),
    ("S04", "t2w", "two slices at one place", lambda p: [*swap(p), cut(replace(p["t2w"], array=p["t2w"].array // 2), slice(2, 3))]),
    ("S04", "adc", "another slice there", lambda p: [*swap(p), cut(replace(p["adc"], array=p["adc"].array // 2), slice(0, 1))]),
    ("S05", "adc", "another size", lambda p: [*swap(p), cut(replace(p["adc"], array=p["adc"].array[:10]), slice(0, 1))]),
    ("S05", "adc", "another spacing", lambda p: swap(p, adc=p["adc"].spoiled(only(1, put(PixelSpacing=["2.1", "2.1"]))))),
    ("S05", "adc", "the map twice", lambda p: [*swap(p), p["adc"]]),
    ("S05", "t2w", "half a repetition", lambda p: [*swap(p), cut(p["t2w"], slice(0, 3))]),
    ("S06", "adc", "stray orientation", lambda p: swap(p, adc=p["adc"].spoiled(only(2, put(ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"]))))),
    ("S06", "t2w", "tilted slice", lambda p: swap(p, t2w=p["t2w"].spoiled(only(0, put(ImageOrientationPatient=["1", "0", "0", "0", "0.9950042", "0.0998334"]))))),
    ("S06", "dwi", "stray orientation", lambda p: swap(p, mid=p["mid"].spoiled(only(4, put(ImageOrientationPatient=["0", "1", "0", "-1", "0", "0"]))))),
    ("S07", "adc", "other frame", lambda p: swap(p, adc=p["adc"].spoiled(only(2, put(FrameOfReferenceUID="1.2.3"))))),
    ("S07", "t2w", "other frame", lambda p: swap(p, t2w=p["t2w"].spoiled(only(1, put(FrameOfReferenceUID="1.2.3"))))),
    ("S07", "dwi", "other frame", lambda p: swap(p, low=p["low"].spoiled(only(1, put(FrameOfReferenceUID="1.2.3"))))),
    ("S08", "dwi", "map elsewhere", lambda p: swap(p, adc=replace(p["adc"], affine=grid(origin=(-20, -16, 200))))),
    ("S08", "dwi", "map moved aside", lambda p: swap(p, adc=replace(p["adc"], affine=grid(origin=(-15, -16, -10))))),
    ("S08", "dwi", "map between slices", lambda p: swap(p, adc=replace(p["adc"], affine=grid(origin=(-20, -16, -9))))),
    ("S08", "t2w", "T2w elsewhere", lambda p: swap(p, t2w=replace(p["t2w"], affine=grid(origin=(90, -16, -10))))),
    ("S09", "adc", "sheared", lambda p: swap(p, adc=p["adc"].spoiled(lambda d, k: move(0.4 * k, 0)(d)))),
    ("S09", "t2w", "sheared", lambda p: swap(p, t2w=p["t2w"].spoiled(lambda d, k: move(0.2 * k, 1)(d)))),
    ("S09", "adc", "no right angle", lambda p: swap(p, adc=p["adc"].spoiled(every(put(ImageOrientationPatient=["1", "0", "0", "0.0998334", "0.9950042", "0"]))))),
    ("S10", "", "no position", lambda p: swap(p, adc=p["adc"].spoiled(only(1, lambda d: delattr(d, "ImagePositionPatient"))))),
    ("S10", "", "no orientation", lambda p: swap(p, t2w=p["t2w"].spoiled(only(1, lambda d: delattr(d, "ImageOrientationPatient"))))),
    ("S10", "", "no spacing", lambda p: swap(p, low=p["low"].spoiled(only(1, lambda d: delattr(d, "PixelSpacing"))))),
    ("S12", "dwi", "no b at all", lambda p: [*swap(p, low=None, mid=None, high=None), *(replace(p[n], private=()) for n in ("low", "high"))]),
    ("S12", "dwi", "b of one missing", lambda p: swap(p, low=replace(p["low"], private=()))),
    ("S12", "dwi", "no high b", lambda p: swap(p, mid=None, high=None)),
    ("S12", "dwi", "impossible b", lambda p: swap(p, high=p["high"].but(DiffusionBValue=50_000.0))),
    ("S13", "dwi_low", "no low b", lambda p: swap(p, low=None)),
    ("S13", "dwi_low", "lowest 400", lambda p: swap(p, low=None, mid=p["mid"])),
    ("S13", "dwi_low", "only high", lambda p: swap(p, low=None, mid=None)),
    ("S14", "adc", "stated wrongly", lambda p: swap(p, adc=p["adc"].but(RescaleType="mm2/s"))),
    ("S14", "adc", "vendor of another unit", lambda p: [part.but(Manufacturer="Philips") for part in swap(p)]),
    ("S14", "adc", "unknown vendor", lambda p: [part.but(Manufacturer="Acme") for part in swap(p)]),
    ("S14", "adc", "scaled by 1000", lambda p: swap(p, adc=p["adc"].but(RescaleSlope="0.001", RescaleIntercept="0"))),
    ("S15", "", "lookup table", lambda p: swap(p, adc=p["adc"].spoiled(every(lookup)))),
    ("S15", "", "slope no number", lambda p: swap(p, adc=p["adc"].spoiled(every(real_world(float("nan")))))),
    ("S15", "", "slope infinite", lambda p: swap(p, adc=p["adc"].spoiled(every(real_world(float("inf")))))),
    ("S16", "adc", "scale twice", lambda p: swap(p, adc=p["adc"].but(RescaleSlope="1.3", RescaleIntercept="0"))),
    ("S16", "adc", "other person", lambda p: swap(p, adc=adc(exam(9)))),
    ("S16", "adc", "b swapped", lambda p: swap(p, low=replace(p["low"], array=p["high"].array), high=replace(p["high"], array=p["low"].array))),
    *(
        ("S17", "adc", f"every {n}th negative", lambda p, n=n: swap(p, adc=replace(p["adc"], array=negative(p["adc"].array, n))))
        for n in (9, 30, 60)
    ),
    *(
        ("S18", where, "infinite", lambda p, n=n: swap(p, **{n: p[n].but(RescaleSlope="1e308", RescaleIntercept="0")}))
        for n, where in (("adc", "adc"), ("t2w", "t2w"), ("mid", "dwi"))
    ),
    ("S19", "adc", "constant", lambda p: swap(p, adc=replace(p["adc"], array=np.full_like(p["adc"].array, 1000)))),
    ("S19", "t2w", "black", lambda p: swap(p, t2w=replace(p["t2w"], array=np.zeros_like(p["t2w"].array)))),
    ("S19", "dwi", "black", lambda p: swap(p, mid=replace(p["mid"], array=np.zeros_like(p["mid"].array)))),
    ("S26", "adc", "8 bit", lambda p: swap(p, adc=replace(p["adc"], array=(p["adc"].array / 8).astype(np.uint8)).but(RescaleSlope="8", RescaleIntercept="0"))),
    ("S26", "adc", "color", lambda p: swap(p, adc=p["adc"].spoiled(every(color)))),
    ("S26", "t2w", "color", lambda p: swap(p, t2w=p["t2w"].spoiled(every(color)))),
    ("S26", "adc", "palette", lambda p: swap(p, adc=p["adc"].but(PhotometricInterpretation="PALETTE COLOR"))),
    ("S28", "", "spacing 0", lambda p: swap(p, adc=p["adc"].spoiled(only(2, put(PixelSpacing=["0", "2"]))))),
    ("S28", "", "spacing negative", lambda p: swap(p, t2w=p["t2w"].spoiled(only(2, put(PixelSpacing=["2", "-2"]))))),
    ("S28", "", "spacing 60", lambda p: swap(p, low=p["low"].spoiled(every(put(PixelSpacing=["60", "60"]))))),
    ("S28", "adc", "slices 60 mm apart", lambda p: swap(p, adc=replace(p["adc"], affine=grid(spacing=(2, 2, 60))))),
    ("S29", "adc", "too few pixels", lambda p: swap(p, adc=p["adc"].spoiled(only(2, lambda d: put(PixelData=d.PixelData[:-8])(d))))),
    ("S29", "", "huge", lambda p: swap(p, adc=p["adc"].spoiled(only(2, put(Rows=60_000, Columns=60_000))))),
    ("S29", "", "no rows", lambda p: swap(p, t2w=p["t2w"].spoiled(only(2, put(Rows=0))))),
    ("S29", "t2w", "too many pixels", lambda p: swap(p, t2w=p["t2w"].spoiled(only(2, lambda d: put(PixelData=d.PixelData * 2)(d))))),
    ("S30", "adc", "MPEG", lambda p: swap(p, adc=p["adc"].spoiled(every(syntax("1.2.840.10008.1.2.4.102"))))),
    ("S30", "t2w", "JPEG-LS without decoder or private", lambda p: swap(p, t2w=p["t2w"].spoiled(every(syntax("1.2.840.10008.1.2.4.106"))))),
    ("S30", "dwi", "JPIP", lambda p: swap(p, low=p["low"].spoiled(every(syntax("1.2.840.10008.1.2.4.94"))))),
    ("S31", "", "another person's image", lambda p: swap(p, adc=p["adc"].but(PatientID="Y"))),
    ("S32", "adc", "stations apart", lambda p: stations(p, slice(0, 2), slice(4, 6))),
    ("S32", "adc", "stations off the lattice", lambda p: stations(p, slice(0, 3), slice(3, 6), move(1.6))),
    ("S32", "adc", "stations moved aside", lambda p: stations(p, slice(0, 3), slice(3, 6), move(1.0, 0))),
]  # fmt: skip


def stations(
    parts: Parts, lower: slice, upper: slice, change: Callable[[Dataset], Any] = lambda d: None
) -> list[Series]:
    """The map and its images in two stations of series of their own, the upper one changed."""
    out = [parts["t1w"], parts["t2w"]]
    for number, name in ((6, "low"), (6, "high"), (7, "adc")):
        out.append(replace(cut(parts[name], lower), number=number))
        out.append(replace(cut(parts[name], upper), number=number + 10).spoiled(every(change)))
    return out


def lookup(dataset: Dataset) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [2, 0, 16], b"\0\0\1\0", "US"
    dataset.ModalityLUTSequence = [table]


def real_world(slope: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        unit, mapping = Dataset(), Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "um2/s", "UCUM", "um2/s"
        mapping.MeasurementUnitsCodeSequence = [unit]
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = slope, 0.0
        dataset.RealWorldValueMappingSequence = [mapping]

    return change


def negative(array: np.ndarray, n: int) -> np.ndarray:
    """Every nth fitted voxel negative."""
    out = array.astype(np.int16)
    out.ravel()[np.flatnonzero(array)[::n]] *= -1
    return out


def color(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = bytes(3 * dataset.Rows * dataset.Columns)


def syntax(uid: str) -> Callable[[Dataset], None]:
    def change(dataset: Any) -> None:
        from pydicom.encaps import encapsulate

        dataset.file_meta.TransferSyntaxUID = UID(uid)
        dataset.PixelData = encapsulate([bytes(64)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True

    return change
