"""Writes DICOM studies of digital examinations: classic, enhanced multi-frame and mosaic, of several vendors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.signal import dwi_signal
from diffusion_adc.intake.ingest import IngestOptions, IngestReport, ingest
from diffusion_adc.records.cohort import load_volume, read_cohort

Array = NDArray[Any]
Spoil = Callable[[Dataset, int], Any]
SHAPE = (20, 16, 6)
ROOT = "1.2.826.0.1.3680043.10.1"
CLASSIC, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def exam(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> dict[str, Array]:
    """Stored integers of an examination that agrees with itself; ADC in 1e-6 mm²/s."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.ogrid[: shape[0], : shape[1], : shape[2]]
    distance = ((i - shape[0] / 2) / (0.36 * shape[0])) ** 2 + ((j - shape[1] / 2) / (0.36 * shape[1])) ** 2
    liver = (i > 0.62 * shape[0]) & (j < 0.45 * shape[1])  # no body is the same on both sides
    body = np.broadcast_to((distance < 1) & ~liver, shape)
    adc = np.where(body, rng.uniform(0.8, 2.0, shape), 0.0)
    s0 = np.where(body, rng.uniform(3000, 6000, shape), 0.0)
    label = np.zeros(shape, dtype=np.uint8)
    label[shape[0] // 2 : shape[0] // 2 + 3, shape[1] // 2 : shape[1] // 2 + 2, shape[2] // 2] = 1
    signals = {f"b{b}": np.round(dwi_signal(s0, b, adc)) for b in (0, 50, 400, 800, 1000)}
    stored = {"adc": np.round(adc * 1000), "t1w": np.round(s0 * 0.4), "t2w": np.round(s0 * 0.6), **signals}
    return {name: array.astype(np.uint16) for name, array in stored.items()} | {"label": label}


def grid(turn: float = 0.0, spacing: tuple[float, float, float] = (2.0, 2.0, 4.0), origin: tuple[float, ...] = (-20.0, -16.0, -10.0)) -> Array:  # fmt: skip
    """RAS+ affine of an axial series turned about the left–right axis."""
    cos, sin = np.cos(turn), np.sin(turn)
    out = np.eye(4)
    rotation = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    out[:3, :3] = rotation @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    out[:3, 3] = -np.array(origin) * (1, 1, -1)
    return out


@dataclass(frozen=True)
class Series:
    """One series to write.

    Attributes:
        number: Of the series.
        array: (I, J, K) stored integers.
        affine: RAS+ affine.
        tags: Attributes of every image, by keyword.
        private: (group, creator, offset, VR, value) of every image.
        spoil: Called with each dataset and its k before it is written.
    """

    number: int
    array: Array
    affine: Array = field(default_factory=grid)
    tags: Mapping[str, Any] = field(default_factory=dict)
    private: tuple[tuple[int, str, int, str, Any], ...] = ()
    spoil: Spoil | None = None
    uid: str | None = None

    def but(self, **tags: Any) -> Series:
        """The same with other attributes; None takes one away."""
        return replace(self, tags={**self.tags, **tags})

    def spoiled(self, spoil: Spoil) -> Series:
        """The same, each dataset changed before it is written."""
        return replace(self, spoil=spoil)


EPI = {"ScanningSequence": "EP", "EchoTime": 63, "RepetitionTime": 2700, "FlipAngle": 90}
T2 = {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "ScanningSequence": "SE", "EchoTime": 104, "RepetitionTime": 5660,
      "SequenceName": "*tse2d1_25", "FlipAngle": 160}  # fmt: skip
T1 = {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 600,
      "SequenceName": "*se2d1", "FlipAngle": 90}  # fmt: skip


def t1(content: Mapping[str, Array], number: int = 3) -> Series:
    return Series(number, content["t1w"], tags=T1)


def t2(content: Mapping[str, Array], number: int = 4) -> Series:
    return Series(number, content["t2w"], tags=T2)


def adc(content: Mapping[str, Array], number: int = 7) -> Series:
    tags = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "SequenceName": "*ep_b50_800", **EPI}
    return Series(number, content["adc"], tags=tags)


def dwi(content: Mapping[str, Array], b: float, number: int = 6, vendor: str = "siemens") -> Series:
    """A trace image of one b; images of one number are one series, as scanners write them."""
    tags: dict[str, Any] = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"], **EPI}
    key = f"b{b:g}" if f"b{b:g}" in content else f"b{round(b)}"
    one = Series(number, content[key], tags=tags)
    return VENDOR_B[vendor](one, b)


def _private(one: Series, *elements: tuple[int, str, int, str, Any], **tags: Any) -> Series:
    return replace(one.but(**tags), private=elements)


VENDOR_B: dict[str, Callable[[Series, float], Series]] = {
    "standard": lambda s, b: s.but(Manufacturer="SIEMENS", DiffusionBValue=float(b)),
    "siemens": lambda s, b: _private(s, (0x19, "SIEMENS MR HEADER", 0x0C, "IS", str(int(b))), Manufacturer="SIEMENS"),
    "name": lambda s, b: s.but(Manufacturer="SIEMENS", SequenceName=f"*ep_b{b:g}t"),
    "csa": lambda s, b: _private(s, (0x29, "SIEMENS CSA HEADER", 0x10, "OB", csa({"B_value": f"{b:g}"})), Manufacturer="SIEMENS"),
    "ge": lambda s, b: _private(s, (0x43, "GEMS_PARM_01", 0x39, "IS", [int(b), 8, 0, 0]), Manufacturer="GE MEDICAL SYSTEMS"),
    "ge biased": lambda s, b: _private(
        s, (0x43, "GEMS_PARM_01", 0x39, "IS", [int(b + 1e9), 8, 0, 0]), (0x43, "GEMS_PARM_01", 0x7F, "IS", "1000000000"),
        Manufacturer="GE MEDICAL SYSTEMS",
    ),
    "philips": lambda s, b: _private(s, (0x2001, "Philips Imaging DD 001", 0x03, "FL", float(b)), Manufacturer="Philips"),
    "canon": lambda s, b: s.but(Manufacturer="CANON_MEC", **({"ImageComments": f"b={b:g}(0,0,1)"} if b else {})),
    "uih": lambda s, b: _private(
        s, (0x65, "Image Private Header", 0x09, "FD", b * 1.01 + 1), (0x65, "Image Private Header", 0x0A, "FD", float(b)),
        Manufacturer="UIH",
    ),
    "hitachi": lambda s, b: _private(s, (0x29, "HMC", 0x30, "FD", float(b)), Manufacturer="Hitachi Medical Corporation"),
}  # fmt: skip


def csa(entries: Mapping[str, str]) -> bytes:
    """A Siemens CSA header (SV10) with the given entries."""
    out = b"SV10\4\3\2\1" + len(entries).to_bytes(4, "little") + (77).to_bytes(4, "little")
    for name, text in entries.items():
        out += (
            name.encode().ljust(64, b"\0") + (1).to_bytes(4, "little") + b"DS\0\0" + (3).to_bytes(4, "little")
        )
        out += (1).to_bytes(4, "little") + (77).to_bytes(4, "little")
        word = text.encode() + b"\0"
        out += len(word).to_bytes(4, "little") * 4 + word.ljust(-(-len(word) // 4) * 4, b"\0")
    return out


def study(content: Mapping[str, Array], vendor: str = "siemens", b_values: tuple[float, ...] = (50, 400, 800)) -> list[Series]:  # fmt: skip
    """A whole examination of five kinds of series."""
    return [t1(content), t2(content), *(dwi(content, b, vendor=vendor) for b in b_values), adc(content)]


def base(one: Series, study_uid: str, date: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    out.Modality, out.Manufacturer, out.ManufacturerModelName = "MR", "SIEMENS", "Testscan"
    out.PatientID, out.PatientName = "X", "X"
    out.StudyInstanceUID, out.FrameOfReferenceUID = study_uid, f"{study_uid}.9"
    out.SeriesInstanceUID = one.uid or f"{study_uid}.{one.number}"
    out.SeriesNumber, out.StudyDate, out.StudyTime = one.number, date, "120000"
    out.MagneticFieldStrength, out.BodyPartExamined = 3, "PROSTATE"
    out.SliceThickness = 3
    out.Rows, out.Columns = one.array.shape[1], one.array.shape[0]
    bits = one.array.dtype.itemsize * 8
    out.BitsAllocated = out.BitsStored = bits
    out.HighBit, out.SamplesPerPixel, out.PhotometricInterpretation = bits - 1, 1, "MONOCHROME2"
    out.PixelRepresentation = int(one.array.dtype.kind == "i")
    return out


def geometry(affine: Array) -> tuple[list[float], list[float], Array, Array]:
    """Orientation, pixel spacing, origin and step in LPS."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    return [*row.tolist(), *column.tolist()], [float(spacing[1]), float(spacing[0])], lps[:3, 3], lps[:3, 2]


def texts(values: Any) -> list[str]:
    return [f"{value:.10g}"[:16] for value in values]


def finish(out: FileDataset, one: Series, k: int, path: Path) -> None:
    for name, value in one.tags.items():
        if value is None:
            if name in out:
                delattr(out, name)
        else:
            setattr(out, name, value)
    for group, creator, offset, vr, value in one.private:
        out.private_block(group, creator, create=True).add_new(offset, vr, value)
    if one.spoil is not None:
        one.spoil(out, k)
    out.file_meta.MediaStorageSOPClassUID, out.file_meta.MediaStorageSOPInstanceUID = (
        out.SOPClassUID,
        out.SOPInstanceUID,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = UID(out.file_meta.TransferSyntaxUID)
    if syntax.is_compressed and not syntax.is_deflated:
        out.save_as(path, enforce_file_format=True)
        return
    if syntax.is_little_endian:
        out.save_as(path, enforce_file_format=True, little_endian=True, implicit_vr=syntax.is_implicit_VR)
        return
    out.file_meta.FileMetaInformationVersion, out.file_meta.ImplementationClassUID = b"\0\1", "1.2.3"
    pydicom.dcmwrite(path, out, force_encoding=True, little_endian=False, implicit_vr=False)


def write_classic(folder: Path, one: Series, study_uid: str, date: str, tag: int = 0) -> list[Path]:
    """One file per slice; instance numbers are scrambled, as some scanners scramble them."""
    orientation, spacing, origin, step = geometry(one.affine)
    paths = []
    for k in range(one.array.shape[2]):
        out = base(one, study_uid, date)
        out.SOPClassUID = CLASSIC
        out.SOPInstanceUID = f"{out.SeriesInstanceUID}.{tag}.{k}"
        out.InstanceNumber = (7 * k) % one.array.shape[2] + 1
        out.ImageOrientationPatient, out.PixelSpacing = texts(orientation), texts(spacing)
        out.ImagePositionPatient = texts(origin + k * step)
        out.PixelData = np.ascontiguousarray(one.array[:, :, k].T).tobytes()
        paths.append(folder / f"IM{tag:02d}{k:04d}")
        finish(out, one, k, paths[-1])
    return paths


def write_enhanced(path: Path, parts: list[tuple[Series, float | None]], study_uid: str, date: str) -> None:
    """Several volumes in one multi-frame file, each with its b-value or none (ADC)."""
    first = parts[0][0]
    out = base(first, study_uid, date)
    out.SOPClassUID, out.SOPInstanceUID, out.InstanceNumber = ENHANCED, f"{out.SeriesInstanceUID}.1", 1
    shared = Dataset()
    timing = Dataset()
    timing.RepetitionTime, timing.FlipAngle = (
        first.tags.get("RepetitionTime", 3000),
        first.tags.get("FlipAngle", 90),
    )
    shared.MRTimingAndRelatedParametersSequence = [timing]
    frames, pixels = [], []
    for one, b in parts:
        orientation, spacing, origin, step = geometry(one.affine)
        for k in range(one.array.shape[2]):
            frame = Dataset()
            position, plane, measures, kind, echo = (Dataset() for _ in range(5))
            position.ImagePositionPatient = texts(origin + k * step)
            plane.ImageOrientationPatient = texts(orientation)
            measures.PixelSpacing, measures.SliceThickness = texts(spacing), 3
            kind.FrameType = one.tags["ImageType"]
            kind.AcquisitionContrast = one.tags.get("AcquisitionContrast", "DIFFUSION")
            echo.EffectiveEchoTime = float(one.tags.get("EchoTime", 63))
            frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [plane]
            frame.PixelMeasuresSequence, frame.MRImageFrameTypeSequence = [measures], [kind]
            frame.MREchoSequence = [echo]
            diffusion = Dataset()
            diffusion.DiffusionDirectionality = "ISOTROPIC"
            if b is not None:
                diffusion.DiffusionBValue = float(b)
            frame.MRDiffusionSequence = [diffusion]
            if one.spoil is not None:
                one.spoil(frame, k)
            frames.append(frame)
            pixels.append(np.ascontiguousarray(one.array[:, :, k].T))
    out.SharedFunctionalGroupsSequence, out.PerFrameFunctionalGroupsSequence = [shared], frames
    out.NumberOfFrames, out.ImageType = len(frames), first.tags["ImageType"]
    out.PixelData = np.stack(pixels).tobytes()
    finish(out, replace(first, tags={}, spoil=None), 0, path)


def write_mosaic(path: Path, one: Series, study_uid: str, date: str) -> None:
    """A Siemens mosaic of the whole volume."""
    i, j, slices = one.array.shape
    n = int(np.ceil(np.sqrt(slices)))
    tiled = np.zeros((n * j, n * i), dtype=one.array.dtype)
    for k in range(slices):
        tiled[(k // n) * j : (k // n + 1) * j, (k % n) * i : (k % n + 1) * i] = one.array[:, :, k].T
    orientation, spacing, origin, step = geometry(one.affine)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    out = base(one, study_uid, date)
    out.Rows, out.Columns = tiled.shape
    out.SOPClassUID, out.SOPInstanceUID, out.InstanceNumber = (
        CLASSIC,
        f"{out.SeriesInstanceUID}.{path.name[2:]}",
        1,
    )
    out.ImageOrientationPatient, out.PixelSpacing = texts(orientation), texts(spacing)
    moved = row * spacing[1] * (n * i - i) / 2 + column * spacing[0] * (n * j - j) / 2
    out.ImagePositionPatient = texts(origin - moved)
    out.SpacingBetweenSlices = f"{np.linalg.norm(step):.10g}"
    out.PixelData = tiled.tobytes()
    words = list(one.tags["ImageType"])
    block = (0x19, "SIEMENS MR HEADER", 0x0A, "US", slices)
    finish(
        out,
        replace(one, tags={**one.tags, "ImageType": [*words, "MOSAIC"]}, private=(*one.private, block)),
        0,
        path,
    )


@dataclass(frozen=True)
class DicomDesk:
    """A desk on which DICOM studies are laid out and ingested."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "in"

    @property
    def out(self) -> Path:
        return self.root / "cohort"

    def add(
        self, parts: list[Series] | None = None, person: str = "CASE-001", number: int = 1, date: str = "20200102",
        seed: int = 0,
    ) -> Path:  # fmt: skip
        """Lay one study out, a folder per series; returns the study's folder."""
        folder = self.source / person / f"study{number}"
        uid = f"{ROOT}.{zlib.crc32(f'{person} {number}'.encode())}"
        for tag, one in enumerate(study(exam(seed)) if parts is None else parts):
            write_classic(folder / f"series {one.number}", one, uid, date, tag)
        return folder

    def ingest(self, **options: Any) -> IngestReport:
        declared = {"layout": "dicom", "provenance": "public", "allow_missing": ("tumor_label",)}
        return ingest(self.source, self.out, IngestOptions(**{**declared, **options}))

    def only_case(self, **options: Any) -> Case:
        report = self.ingest(**options)
        assert not report.refused, report.refused
        (case,) = read_cohort(self.out).cases
        return case

    def refusal(self, **options: Any) -> str:
        report = self.ingest(**options)
        assert not report.cases, report.warnings
        (message,) = report.refused
        assert "\n" not in message
        assert str(self.root) not in message
        return message

    def stored(self, case: Case, name: str) -> Array:
        return load_volume(self.out, case, name).array

    def affine(self, case: Case) -> Array:
        return load_volume(self.out, case, "adc").affine

    def record(self, case: Case) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.out / "cases" / case.case_id / "case.json").read_text())
        return record


def edit(path: Path, change: Callable[[Dataset], Any]) -> None:
    """Change one file in place."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
