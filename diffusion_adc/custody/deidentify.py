"""A DICOM image written from scratch with what may leave the clinic, and the check that nothing else is there.

`clean` runs at the clinic, `identifying` at the institute; both walk a dataset with the one set of rules of
`custody.tags`, so that what passes the check is exactly what the profile can produce.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian

from diffusion_adc.custody import diffusion_tags, tags
from diffusion_adc.custody.allow_list import Walk, code
from diffusion_adc.custody.pixels import stored_pixels
from diffusion_adc.custody.uids import is_keyed, keyed_uid
from diffusion_adc.domain.case import ID_PATTERN
from diffusion_adc.domain.errors import CaseError

MAX_AGE: Final = 90
"""Ages above 89 are pooled, whole years."""
_DATE: Final = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})", re.ASCII)
_AGE: Final = re.compile(r"([0-9]{1,3})([DWMY])", re.ASCII)
_META: Final = frozenset(
    [
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    ]
)
_DIFFUSION_WORDS: Final = frozenset({"DIFFUSION", "TRACEW", "DWI", "CALC_BVAL", "B0"})
_MAP_WORDS: Final = frozenset({"ADC", "EADC", "FA"})
_CODES: Final = ("113100", "113103", "113105", "113109")


@dataclass(frozen=True)
class Cleaned:
    """What leaves.

    Attributes:
        dataset: Complete, ready to be written.
        facts: JSON values lifted for the sidecar: ``b``, ``b_source``, ``direction``, ``philips_slope`` …
        kind: ``adc``, ``diffusion`` or ``anatomy``, for the face policy.
    """

    dataset: FileDataset
    facts: dict[str, Any]
    kind: str


def clean(
    dataset: Dataset,
    *,
    secret: bytes,
    research_id: str,
    study_order: int = 1,
    keep_age: bool = True,
    keep_sex: bool = True,
    b_sidecar: float | None = None,
) -> Cleaned:
    """De-identify one image: b and scale are lifted first, then only what `custody.tags` lists is written anew.

    Args:
        dataset: As read from a file, with its file meta. Left unchanged.
        secret: The clinic's; UIDs are hashed with it.
        research_id: Becomes PatientID and PatientName.
        study_order: 1 for the person's first examination; becomes StudyID, since the dates are gone.
        keep_age: Keep the age in whole years, 90 and above as 90.
        keep_sex: Keep the sex.
        b_sidecar: s/mm², what the clinic states beside the file.

    Raises:
        CaseError: T5 a kind of object that holds text, or one declared to have text burned in; S12 a
            diffusion-weighted image whose b nobody states; S26, S29, S30 as in `pixels.stored_pixels`.
    """

    def refused(code: str, found: str, expected: str, do: str) -> CaseError:
        return CaseError(found, expected, do, code=code, research_id=research_id)

    if str(dataset.get("SOPClassUID", "")) not in tags.STORAGE:
        raise refused("T5", "an object that is no MR image", "MR images only", "leave it out of the delivery")
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() not in ("", "NO"):
        raise refused("T5", "an image with text burned in", "BurnedInAnnotation NO", "leave the series out")
    if "PixelData" not in dataset or not {"ORIGINAL", "DERIVED", "MIXED"} & set(image_words(dataset)[:1]):
        raise refused("T5", "an image of unknown type", "ImageType ORIGINAL or DERIVED", "leave it out")
    walk = Walk(uid=lambda uid: keyed_uid(secret, uid))
    new = walk.filter(dataset)
    words, text = set(image_words(dataset)), str(new.get("SeriesDescription", "")).lower().split()
    adc = bool(_MAP_WORDS & words) or "adc" in text
    facts = _lift(dataset, new, b_sidecar, adc)
    diffusion = not adc and (bool(_DIFFUSION_WORDS & words) or "dwi" in text or "b" in facts)
    if diffusion and "b" not in facts and str(dataset.SOPClassUID) == tags.MR:
        raise refused(
            "S12", "a diffusion-weighted image without a b-value", "one in its header, its name or a sidecar",
            "state it in b_value.json beside the file",
        )  # fmt: skip
    _subject(dataset, new, research_id, study_order, keep_age, keep_sex)
    new.PixelData = stored_pixels(dataset, research_id)
    new["PixelData"].VR = "OB" if int(new.BitsAllocated) <= 8 else "OW"
    return Cleaned(_file(new), facts, "adc" if adc else "diffusion" if diffusion else "anatomy")


def identifying(dataset: Dataset) -> list[str]:
    """Why a dataset may still identify someone: keywords and reasons only, never a value. [] if nothing does.

    Everything `clean` would drop or change is a reason, except that numbers outside the allow-list pass.
    """
    walk = Walk(uid=lambda uid: uid if is_keyed(uid) else None)
    walk.filter(dataset)
    reasons = list(walk.problems)
    if str(dataset.get("SOPClassUID", "")) not in tags.STORAGE:
        reasons.append("SOPClassUID")
    if str(dataset.get("PatientIdentityRemoved", "")) != "YES":
        reasons.append("PatientIdentityRemoved")
    subject = str(dataset.get("PatientID", ""))
    if not re.fullmatch(ID_PATTERN, subject, re.ASCII):
        reasons.append("PatientID")
    if str(dataset.get("PatientName", "")) not in ("", subject):
        reasons.append("PatientName")
    meta = getattr(dataset, "file_meta", None)
    for element in meta or ():
        if element.keyword not in _META:
            reasons.append(element.keyword or "FileMeta")
    preamble = getattr(dataset, "preamble", None)
    if preamble and preamble.strip(b"\0"):
        reasons.append("Preamble")
    return sorted(set(reasons))


def image_words(dataset: Dataset) -> list[str]:
    """ImageType in upper case; the frames' types of an enhanced image follow."""
    words = [str(word).strip().upper() for word in dataset.get("ImageType") or ()]
    for item in dataset.get("SharedFunctionalGroupsSequence") or ():
        for frame in item.get("MRImageFrameTypeSequence") or ():
            words += [str(word).strip().upper() for word in frame.get("FrameType") or ()]
    return words


def _lift(dataset: Dataset, new: Dataset, sidecar: float | None, is_map: bool) -> dict[str, Any]:
    """Write b and direction to standard elements where only a private one has them; returns what the sidecar keeps.

    An ADC map's b says which images it came from: it stays out of the element that would make it an image of b.
    """
    facts: dict[str, Any] = dict(diffusion_tags.private_scale(dataset))
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames:
        found = [diffusion_tags.b_value(item, parent=dataset, named=False) for item in frames]
        for item, b in zip(new.get("PerFrameFunctionalGroupsSequence") or (), found, strict=True):
            if b is not None and b.source != "standard" and not is_map:
                item.MRDiffusionSequence = [Dataset()]
                item.MRDiffusionSequence[0].DiffusionBValue = b.b
        if any(found) and not is_map:
            facts["b"] = [None if b is None else b.b for b in found]
            facts["b_source"] = sorted({b.source for b in found if b is not None})
        return facts
    b = diffusion_tags.b_value(dataset, sidecar)
    if b is not None and not is_map:
        new.DiffusionBValue = b.b
        facts |= {"b": b.b, "b_source": b.source}
        if b.nominal is not None:
            facts["b_nominal"] = b.nominal
    elif b is not None:
        facts["map_b"] = b.b
    direction = diffusion_tags.direction(dataset)
    if direction is not None and not is_map:
        facts["direction"] = list(direction)
    return facts


def _subject(
    dataset: Dataset, new: Dataset, research_id: str, study_order: int, keep_age: bool, keep_sex: bool
) -> None:
    for keyword in tags.EMPTY:
        setattr(new, keyword, "")
    new.PatientID = new.PatientName = research_id
    new.StudyID = f"{study_order:02d}"
    years = _age(dataset) if keep_age else None
    if years is not None:
        new.PatientAge = f"{min(years, MAX_AGE):03d}Y"
    elif "PatientAge" in new:
        del new.PatientAge
    if not keep_sex:
        new.PatientSex = ""
    for n, segment in enumerate(new.get("SegmentSequence") or (), 1):
        segment.SegmentLabel = f"segment {segment.get('SegmentNumber', n)}"
    codes = [*_CODES, "113108"] if keep_age or keep_sex else list(_CODES)
    new.DeidentificationMethod = tags.PROFILE
    new.DeidentificationMethodCodeSequence = [
        code(value, "DCM", tags.code_meaning("DCM", value) or "") for value in sorted(codes)
    ]
    new.PatientIdentityRemoved = "YES"
    new.LongitudinalTemporalInformationModified = "REMOVED"
    new.BurnedInAnnotation = "NO"


def _age(dataset: Dataset) -> int | None:
    """Whole years, from the age or from the two dates that will be gone."""
    stated = _AGE.fullmatch(str(dataset.get("PatientAge", "")).strip())
    if stated:
        return int(int(stated[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[stated[2]])
    dates = [_DATE.match(str(dataset.get(k) or "")) for k in ("PatientBirthDate", "StudyDate")]
    if not all(dates):
        return None
    (y0, m0, d0), (y1, m1, d1) = ([int(n) for n in date.groups()] for date in dates if date)
    years = y1 - y0 - ((m1, d1) < (m0, d0))
    return years if 0 <= years <= 120 else None


def _file(new: Dataset) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = new.SOPClassUID
    meta.MediaStorageSOPInstanceUID = new.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return FileDataset(None, new, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]
