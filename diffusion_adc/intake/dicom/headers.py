"""One DICOM file → its slices: allow-listed attributes, checked for form, nothing that names a person kept.

A classic file is one slice, an enhanced one a slice per frame, a mosaic a slice per tile. Descriptions are held
in memory to match names as a last resort; they are never stored, printed or put into a message.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from diffusion_adc.custody import diffusion_tags
from diffusion_adc.custody.mosaic import MosaicError, is_mosaic, read_mosaic
from diffusion_adc.custody.numbers import number, whole
from diffusion_adc.intake.dicom.attributes import (
    finite,
    first,
    model_name,
    numbers,
    tesla,
    uid_text,
    words,
)
from diffusion_adc.intake.dicom.slices import BadFile, Other, Scale, Slice

CLASSIC: Final = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED: Final = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_CONVERTED: Final = "1.2.840.10008.5.1.4.1.1.4.4"
SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
MR: Final = (CLASSIC, ENHANCED, LEGACY_CONVERTED)
_MAX_FRAMES: Final = 20_000
_MAX_SIDE: Final = 4096
_WORD: Final = re.compile(r"[A-Za-z0-9_ .-]{1,32}", re.ASCII)
_VENDORS: Final = {
    "siemens": "Siemens", "ge ": "GE", "philips": "Philips", "toshiba": "Canon", "canon": "Canon",
    "uih": "UIH", "united imaging": "UIH", "hitachi": "Hitachi", "fujifilm": "Hitachi",
}  # fmt: skip
_OWN_SCALE: Final = ("Philips", "UIH")
"""Vendors with a scale factor of their own beside the standard one."""
_MAGIC_AT: Final = 128
_ODD: Final = re.compile(r"\.(dcm|dicom|ima|img|mrdc(\.\d+)?|\d+)$|^[^.]*$", re.ASCII | re.IGNORECASE)
_BARE: Final = ("DICOMDIR", "LOCKFILE", "VERSION", "README", "LICENSE", "LICENCE", "CHANGES", "INDEX")


def looks_like_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its magic word, or claims to be by its name."""
    name = path.name
    if name.startswith(".") or name.upper() in _BARE:
        return False
    with path.open("rb") as stream:
        head = stream.read(_MAGIC_AT + 4)
    if head[_MAGIC_AT:] == b"DICM":
        return True
    return bool(_ODD.search(name)) and len(head) > 0


def read_header(path: Path) -> Dataset:
    """The file's dataset without its pixels.

    Raises:
        BadFile: X7, it cannot be parsed: whatever the parser met.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as stream:
                magic = stream.read(_MAGIC_AT + 4)[_MAGIC_AT:] == b"DICM"
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=not magic)
            if not magic and "SOPClassUID" not in dataset:
                raise BadFile("X7", "a file that is no DICOM, by a DICOM file's name", "DICOM", "remove it")
            return dataset
        except BadFile:
            raise
        except Exception:
            raise unreadable() from None


def unreadable() -> BadFile:
    """Whatever the parser met: its text may hold what the file says, so it is dropped."""
    return BadFile("X7", "a damaged DICOM file", "a file that can be parsed")


def slices_of(path: Path, dataset: Dataset) -> list[Slice] | Other:
    """The slices of an MR file, or what else it is.

    Raises:
        BadFile: X7 unparsable values, S10 no placement, S28 impossible spacing, S29 impossible dimensions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sop_class = uid_text(dataset, "SOPClassUID")
            if sop_class not in MR:
                name = UID(sop_class).name if sop_class else ""
                kind = name if name and name != sop_class and _WORD.fullmatch(name[:32]) else "another object"
                return Other(
                    path, kind, sop_class, uid_text(dataset, "StudyInstanceUID"), _described(dataset)
                )
            if sop_class == CLASSIC:
                return list(_classic(path, dataset))
            return list(_frames(path, dataset))
        except BadFile:
            raise
        except Exception:
            raise unreadable() from None


def _classic(path: Path, dataset: Dataset) -> Iterator[Slice]:
    one = _slice(path, dataset, None, dataset, "classic", lambda name: dataset.get(name))
    if not is_mosaic(dataset):
        yield one
        return
    try:
        mosaic = read_mosaic(dataset)
    except MosaicError as error:
        raise BadFile(error.code, error.found, error.expected) from None
    for index, position in enumerate(mosaic.positions_mm):
        yield replace(
            one, frame=index, layout="mosaic", rows=mosaic.rows, columns=mosaic.columns, position=position
        )


def _frames(path: Path, dataset: Dataset) -> Iterator[Slice]:
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = whole(dataset.get("NumberOfFrames"))
    if not count or count != len(frames) or not 0 < count <= _MAX_FRAMES:
        raise BadFile(
            "S29", f"{count} frames and {len(frames)} descriptions of frames", "a description per frame"
        )

    for index, frame in enumerate(frames):

        def get(name: str, frame: Dataset = frame) -> Any:
            """An attribute from the frame's groups, else the shared ones, else the dataset itself."""
            for groups in (frame, shared[0]):
                for sequence in _GROUPS.get(name, ()):
                    items = groups.get(sequence)
                    if items and items[0].get(name) is not None:
                        return items[0].get(name)
            return dataset.get(name)

        yield _slice(path, dataset, index, _diffusion_of(frame, shared[0]), "enhanced", get)


_GROUPS: Final = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "SliceThickness": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "EchoTime": ("MREchoSequence",),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence",),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence",),
    "InversionTimes": ("MRModifierSequence",),
    "FrameType": ("MRImageFrameTypeSequence",),
    "ComplexImageComponent": ("MRImageFrameTypeSequence",),
    "AcquisitionContrast": ("MRImageFrameTypeSequence",),
    "VolumetricProperties": ("MRImageFrameTypeSequence",),
    "DiffusionDirectionality": ("MRDiffusionSequence",),
    "FrameAcquisitionNumber": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "RealWorldValueMappingSequence": (),
}


def _diffusion_of(frame: Dataset, shared: Dataset) -> Dataset:
    return frame if frame.get("MRDiffusionSequence") or not shared.get("MRDiffusionSequence") else shared


def _slice(
    path: Path,
    dataset: Dataset,
    frame: int | None,
    diffusion: Dataset,
    layout: str,
    get: Callable[[str], Any],
) -> Slice:
    position, orientation, spacing = (
        numbers(get(name), count)
        for name, count in (
            ("ImagePositionPatient", 3),
            ("ImageOrientationPatient", 6),
            ("PixelSpacing", 2),
        )
    )
    if position is None or orientation is None or spacing is None:
        raise BadFile("S10", "an image without placement", "position, orientation and pixel spacing")
    if not all(0 < value <= 50 for value in spacing):
        raise BadFile("S28", "an impossible pixel spacing", "above 0 and at most 50 mm")
    rows, columns = whole(dataset.get("Rows")), whole(dataset.get("Columns"))
    if not rows or not columns or not (0 < rows <= _MAX_SIDE and 0 < columns <= _MAX_SIDE):
        raise BadFile("S29", f"an image of {rows} rows and {columns} columns", f"1 to {_MAX_SIDE}")
    maker = str(dataset.get("Manufacturer") or "").lower() + " "
    vendor = next((name for key, name in _VENDORS.items() if maker.startswith(key)), "unknown")
    scales = diffusion_tags.private_scale(dataset) if vendor in _OWN_SCALE else {}
    frame_type = words(get("FrameType")) if layout == "enhanced" else ()
    inversion = number(dataset.get("InversionTime")) if layout == "classic" else first(get("InversionTimes"))
    acquisition = get("FrameAcquisitionNumber") if layout == "enhanced" else dataset.get("AcquisitionNumber")
    temporal = get("TemporalPositionIndex") if layout == "enhanced" else None
    parent = None if diffusion is dataset else dataset
    names = " ".join(str(dataset.get(name) or "") for name in ("SeriesDescription", "ProtocolName"))
    sequence_name = str(dataset.get("SequenceName") or dataset.get("PulseSequenceName") or "")
    return Slice(
        path=path, frame=frame, layout=layout, sop_class=uid_text(dataset, "SOPClassUID"),
        sop_uid=uid_text(dataset, "SOPInstanceUID"), series_uid=uid_text(dataset, "SeriesInstanceUID"),
        study_uid=uid_text(dataset, "StudyInstanceUID"),
        frame_of_reference=uid_text(dataset, "FrameOfReferenceUID"),
        series_number=whole(dataset.get("SeriesNumber")),
        instance_number=whole(dataset.get("InstanceNumber")), acquisition=whole(acquisition),
        temporal=whole(temporal if temporal is not None else dataset.get("TemporalPositionIdentifier")),
        vendor=vendor,
        model=model_name(dataset.get("ManufacturerModelName")),
        field_t=tesla(dataset.get("MagneticFieldStrength")),
        body_part=str(dataset.get("BodyPartExamined") or "").upper(),
        image_type=frame_type or words(dataset.get("ImageType")), scanning=words(dataset.get("ScanningSequence")),
        variant=words(dataset.get("SequenceVariant")), contrast=str(get("AcquisitionContrast") or "").upper(),
        component=str(get("ComplexImageComponent") or "").upper(),
        volumetric=str(get("VolumetricProperties") or "").upper(), sequence_name=sequence_name,
        echo_time=number(get("EffectiveEchoTime")) or number(get("EchoTime")),
        repetition_time=number(get("RepetitionTime")), inversion_time=inversion,
        flip_angle=number(get("FlipAngle")),
        contrast_agent=bool(dataset.get("ContrastBolusAgent") or dataset.get("ContrastBolusAgentSequence")),
        b=diffusion_tags.b_value(diffusion, parent=parent, named=layout != "enhanced"),
        directionality=str(get("DiffusionDirectionality") or "").upper(),
        position=position, orientation=orientation, spacing=spacing,  # type: ignore[arg-type]
        thickness=number(get("SliceThickness")),
        rows=rows, columns=columns, scale=_scale(dataset, frame, get),
        private_scale=tuple(sorted(scales.items())), bits_allocated=whole(dataset.get("BitsAllocated")) or 0,
        lossy=str(dataset.get("LossyImageCompression") or "") == "01", names=f"{names} {sequence_name}".lower(),
        described=_described(dataset), order=_order(dataset),
    )  # fmt: skip


def _described(dataset: Dataset) -> str:
    return str(dataset.get("SeriesDescription") or "")


def _order(dataset: Dataset) -> tuple[str, str]:
    """Date and time of the study; without a date, the number that the delivery puts in its place."""
    date = str(dataset.get("StudyDate") or "")
    text = str(dataset.get("StudyID") or "")
    if date or not re.fullmatch(r"[0-9]{1,2}", text, re.ASCII):
        return date, str(dataset.get("StudyTime") or "")
    return "", f"{int(text):02d}"


def _scale(dataset: Dataset, frame: int | None, get: Callable[[str], Any]) -> Scale:
    """The real-world value map where it states a unit, else the rescale; a lookup table is refused."""
    if dataset.get("ModalityLUTSequence"):
        raise BadFile("S15", "stored values behind a lookup table", "a linear scale")
    rescale = Scale(
        finite(get("RescaleSlope"), 1.0), finite(get("RescaleIntercept"), 0.0), str(get("RescaleType") or "")
    )
    for groups in _rwv_places(dataset, frame):
        for item in groups.get("RealWorldValueMappingSequence") or []:
            code = item.get("MeasurementUnitsCodeSequence")
            unit = str(code[0].get("CodeValue") or "") if code else ""
            slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
            if unit in ("", "1") or slope is None or intercept is None:
                continue  # "no units": the rescale says as much
            return Scale(finite(slope, 1.0), finite(intercept, 0.0), unit, True)
    return rescale


def _rwv_places(dataset: Dataset, frame: int | None) -> Iterator[Dataset]:
    if frame is not None:
        frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
        yield from frames[frame : frame + 1]
        yield from (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    yield dataset
