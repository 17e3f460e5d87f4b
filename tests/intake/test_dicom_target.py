"""Targets in DICOM: segmentations, derived maps and pictures land on the ADC map's voxels or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from diffusion_adc.domain.errors import CaseError
from diffusion_adc.intake.dicom_target import read_segmentation
from diffusion_adc.intake.nifti import Loaded

Array = NDArray[Any]
SHAPE = (12, 10, 6)
"""Columns, rows, slices."""
SPACING, STEP = (2.0, 1.5), 4.0
MR, CAPTURE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.7"
STUDY, SERIES, FRAME = generate_uid(), generate_uid(), generate_uid()
ANGLE = 0.3
ROW = np.array([np.cos(ANGLE), np.sin(ANGLE), 0.0])
COLUMN = np.array([-np.sin(ANGLE), np.cos(ANGLE), 0.0])


def image(k: int, pixels: Array, sop_class: str = MR, rows_mm: float = SPACING[0], **fields: Any) -> Dataset:
    """One slice, oblique in plane."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.SOPClassUID, ds.SOPInstanceUID = UID(sop_class), generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "CASE-001", "CASE-001^", "", ""
    ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName = (
        "1",
        "",
        "",
        "",
        "",
    )
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "MR", 1, k + 1
    ds.ImageType = ["DERIVED", "SECONDARY", "ADC"]
    ds.ImagePositionPatient = [10.0, -20.0, 30.0 + STEP * k]
    ds.ImageOrientationPatient = [*ROW, *COLUMN]
    ds.PixelSpacing, ds.SliceThickness = [rows_mm, SPACING[1]], STEP
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.PixelData = pixels.tobytes()
    for name, value in fields.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def save(folder: Path, datasets: list[Dataset]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(len(datasets)).permutation(len(datasets))  # names say nothing of the place
    paths = [folder / f"{n:03d}.dcm" for n in range(len(datasets))]
    for path, index in zip(paths, order, strict=True):
        datasets[int(index)].save_as(path, enforce_file_format=True)
    return paths


@pytest.fixture
def adc() -> Loaded:
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = ROW * SPACING[1], COLUMN * SPACING[0], (0, 0, STEP)
    affine[:3, 3] = (10, -20, 30)
    values = np.random.default_rng(3).integers(500, 2500, SHAPE).astype(np.float64)
    return Loaded(values, np.diag([-1.0, -1, 1, 1]) @ affine, "uint16", "0" * 64)


def turned(adc: Loaded) -> Loaded:
    """The same voxels with another axis order, as another reader of the same files may have them."""
    flip = np.diag([-1.0, 1, -1, 1])
    flip[0, 3], flip[2, 3] = SHAPE[0] - 1, SHAPE[2] - 1
    return Loaded(adc.array[::-1, :, ::-1], adc.affine @ flip, "uint16", "0" * 64)


@pytest.fixture
def mask() -> Array:
    out = np.zeros(SHAPE, dtype=bool)
    out[2:5, 3:8, 1:4] = True
    out[9, 1, 4] = True
    return out


def sources(adc: Loaded) -> list[Dataset]:
    return [image(k, adc.array[:, :, k].T.astype(np.uint16)) for k in range(SHAPE[2])]


def segment(number: int, kind: str = "tumor") -> hd.seg.SegmentDescription:
    codes = {
        "tumor": (("49755003", "Morphologically Altered Structure"), ("108369006", "Neoplasm")),
        "organ": (("123037004", "Anatomical Structure"), ("41216001", "Prostate")),
    }[kind]
    category, type_ = (CodedConcept(value, "SCT", meaning) for value, meaning in codes)
    return hd.seg.SegmentDescription(
        segment_number=number, segment_label=f"{kind} {number}", segmented_property_category=category,
        segmented_property_type=type_, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )  # fmt: skip


def segmentation(
    folder: Path, adc: Loaded, arrays: list[Array], kinds: list[str], kind: str = "BINARY"
) -> list[Path]:
    stack = np.stack([array.transpose(2, 1, 0) for array in arrays], axis=-1)
    pixels = stack.astype(np.float32 if kind == "FRACTIONAL" else np.uint8)
    seg = hd.seg.Segmentation(
        source_images=sources(adc), pixel_array=pixels, segmentation_type=kind,
        segment_descriptions=[segment(n, k) for n, k in enumerate(kinds, start=1)],
        series_instance_uid=generate_uid(), series_number=100, sop_instance_uid=generate_uid(), instance_number=1,
        manufacturer="m", manufacturer_model_name="m", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    return save(folder, [seg])


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_lands_on_its_voxels(tmp_path: Path, adc: Loaded, mask: Array, kind: str) -> None:
    paths = segmentation(tmp_path, adc, [mask], ["tumor"], kind)
    found = read_segmentation(paths, adc, "CASE-001")
    assert list(found) == ["tumor_label"]
    assert np.array_equal(found["tumor_label"].array > 0, mask)
    assert np.array_equal(found["tumor_label"].affine, adc.affine)


def test_the_axis_order_of_the_map_does_not_matter(tmp_path: Path, adc: Loaded, mask: Array) -> None:
    paths = segmentation(tmp_path, adc, [mask], ["tumor"])
    found = read_segmentation(paths, turned(adc), "CASE-001")["tumor_label"]
    assert np.array_equal(found.array > 0, mask[::-1, :, ::-1])


def test_segments_of_lesions_are_one_map_and_organs_are_not_in_it(
    tmp_path: Path, adc: Loaded, mask: Array
) -> None:
    second, organ = np.zeros_like(mask), np.zeros_like(mask)
    second[7:9, 5:7, 2] = True
    organ[1:11, 1:9] = True
    organ &= ~(mask | second)
    paths = segmentation(tmp_path, adc, [mask, organ, second], ["tumor", "organ", "tumor"])
    found = read_segmentation(paths, adc, "CASE-001")["tumor_label"]
    assert np.array_equal(found.array > 0, mask | second)


def test_a_segmentation_on_another_grid_keeps_its_own(tmp_path: Path, adc: Loaded) -> None:
    affine = adc.affine.copy()
    affine[:3, 3] += 0.4 * affine[:3, 0]
    shifted = Loaded(adc.array, affine, "uint16", "0" * 64)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:6, 2:5, 2:5] = True
    paths = segmentation(tmp_path, adc, [mask], ["tumor"])
    found = read_segmentation(paths, shifted, "CASE-001")["tumor_label"]
    assert found.array.sum() == mask.sum()
    own = np.argwhere(found.array).mean(axis=0)
    expected = np.argwhere(mask).mean(axis=0)
    assert (found.affine @ (*own, 1))[:3] == pytest.approx((adc.affine @ (*expected, 1))[:3], abs=1e-4)


def test_an_edited_map_gives_its_values(tmp_path: Path, adc: Loaded, mask: Array) -> None:
    edited = np.where(mask, adc.array, 0).astype(np.uint16)
    paths = save(tmp_path, [image(k, edited[:, :, k].T.copy()) for k in range(SHAPE[2])])
    found = read_segmentation(paths, adc, "CASE-001")["tumor_adc"]
    assert np.array_equal(found.array, edited)
    assert np.allclose(found.affine, adc.affine)
    scaled = [
        image(k, edited[:, :, k].T.copy(), RescaleSlope=2.0, RescaleIntercept=1.0) for k in range(SHAPE[2])
    ]
    found = read_segmentation(save(tmp_path / "scaled", scaled), adc, "CASE-001")["tumor_adc"]
    assert np.array_equal(found.array, edited * 2.0 + 1.0)


@pytest.mark.parametrize("color", ["overlay", "rainbow", "gray", "gray rgb"])
def test_a_picture_gives_presence_only(tmp_path: Path, adc: Loaded, mask: Array, color: str) -> None:
    datasets = []
    for k in range(SHAPE[2]):
        kept = mask[:, :, k].T
        gray = np.where(kept, 90, 200 if color == "overlay" else 0).astype(np.uint8)
        pixels: Array = gray if color == "gray" else np.repeat(gray[..., None], 3, axis=2)
        if color in ("overlay", "rainbow"):
            pixels[kept] = (250, 80 + 20 * k, 10)
        datasets.append(image(k, pixels, CAPTURE))
    found = read_segmentation(save(tmp_path, datasets), adc, "CASE-001")
    assert list(found) == ["tumor_label"]
    assert np.array_equal(found["tumor_label"].array > 0, mask)
    assert set(np.unique(found["tumor_label"].array)) == {0.0, 1.0}


def pictures(value: int, **fields: Any) -> list[Dataset]:
    pixels = np.full((SHAPE[1], SHAPE[0]), value, dtype=np.uint8)
    pixels[0, 0] = 1
    return [image(k, pixels, CAPTURE, **fields) for k in range(SHAPE[2])]


def refused(kind: str, folder: Path, adc: Loaded, mask: Array) -> list[Path]:
    half = np.where(mask, 0.5, 0.0)
    if kind == "soft":
        return segmentation(folder, adc, [half], ["tumor"], "FRACTIONAL")
    if kind in ("organ", "two organs"):
        empty = np.zeros_like(mask)
        both = [mask] if kind == "organ" else [mask, empty | ~mask]
        return segmentation(folder, adc, both, ["organ"] * len(both))
    if kind == "8-bit map":
        return save(folder, [image(k, np.ones((10, 12), np.uint8)) for k in range(SHAPE[2])])
    if kind == "painted all over":
        return save(folder, pictures(200))
    if kind == "placeless":
        return save(folder, pictures(0, ImagePositionPatient=None))
    if kind == "two objects":
        return [
            *segmentation(folder, adc, [mask], ["tumor"]),
            *segmentation(folder / "b", adc, [mask], ["tumor"]),
        ]
    if kind == "mixed":
        return [*save(folder, pictures(0)), *segmentation(folder / "b", adc, [mask], ["tumor"])]
    if kind == "color map":
        return save(folder, [image(k, np.ones((10, 12, 3), np.uint8)) for k in range(SHAPE[2])])
    if kind == "cut":
        paths = segmentation(folder, adc, [mask], ["tumor"])
        ds = pydicom.dcmread(paths[0])
        ds.PixelData = ds.PixelData[:-4]
        ds.save_as(paths[0])
        return paths
    if kind == "gap":
        return save(folder, [image(k, np.full((10, 12), k, np.uint16)) for k in (0, 1, 3, 4, 5)])
    return []


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("soft", "S22"), ("organ", "S22"), ("two organs", "S22"), ("8-bit map", "S26"), ("painted all over", "S22"),
        ("placeless", "S20"), ("two objects", "S01"), ("mixed", "S01"), ("color map", "S26"), ("cut", "S29"),
        ("gap", "S02"), ("nothing", "S01"),
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused(tmp_path: Path, adc: Loaded, mask: Array, kind: str, code: str) -> None:
    paths = refused(kind, tmp_path, adc, mask)
    with pytest.raises(CaseError) as caught:
        read_segmentation(paths, adc, "CASE-001")
    assert caught.value.code == code
    assert caught.value.research_id == "CASE-001"
    assert str(tmp_path) not in str(caught.value)
