"""T1-T6, T8: planted identifiers, and what must survive them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from diffusion_adc.custody import tags
from diffusion_adc.custody.deidentify import clean, identifying
from diffusion_adc.custody.dicom_file import write_dicom
from diffusion_adc.custody.seal_dicom import ClinicRules, Notes
from diffusion_adc.custody.seal_nifti import stage_nifti
from diffusion_adc.custody.uids import keyed_uid
from diffusion_adc.domain.errors import CaseError

pytestmark = pytest.mark.security

Figure = Callable[[str, Any], None]
SECRET, OTHER = b"s" * 32, b"o" * 32
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "cp932", "euc_jp", "iso2022_jp")
TEXT_VRS = ("LO", "SH", "PN", "ST", "LT", "UT", "UC", "UR", "AE", "CS")
OTHER_VRS = ("DA", "DT", "TM", "UI", "OB", "UN", "OW", "AS")
ALL = [
    (tag, vr, keyword)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
    if keyword and (tag >> 16) not in (0x0000, 0x0002, 0x7FE0, 0xFFFE, 0xFFFC) and (tag >> 16) % 2 == 0
]
KEPT = frozenset({*tags.NUMBERS, *tags.SEQUENCES, *tags.CODE_SEQUENCES, *tags.UIDS, *tags.CLASS_UIDS}) | {
    "BurnedInAnnotation"
}
"""Never planted in: their own values are compared, their types hold no text, or any value refuses the image."""
EXACT = (
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "EchoTime",
    "RepetitionTime", "MagneticFieldStrength", "Rows", "Columns", "BitsStored", "InstanceNumber", "SeriesNumber",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "ImageType", "PatientSex", "Manufacturer",
)  # fmt: skip


def _value(rng: random.Random, vr: str, n: int) -> tuple[Any, list[bytes]]:
    """A planted value and the bytes to look for."""
    word = f"CNRY{n:07d}"
    if vr in ("DA", "DT", "TM", "AS"):
        text = {
            "DA": f"18{n % 90 + 10}0{n % 8 + 1}1{n % 9}",
            "AS": "097Y",
            "TM": f"0{n % 9}3{n % 9}5{n % 9}.{n:06d}"[:13],
        }
        value = text.get(vr, f"1873{n % 12 + 1:02d}1100{n % 60:02d}")
        return value, [value.encode()] if len(value) > 6 else []
    if vr == "UI":
        value = f"1.2.392.99.{n}.77"
        return value, [value.encode()]
    if vr in ("OB", "UN", "OW"):
        return word.encode() + b"\0", [word.encode()]
    if vr == "PN":
        return f"{word}^TARO=山田{n}^太郎=やまだ^たろう", [word.encode(), *_spelt(f"山田{n}")]
    if vr in ("LO", "ST", "LT", "UT", "UC", "SH") and rng.random() < 0.3:
        text = f"田中{n}"
        return text, _spelt(text)
    return word, [word.encode()]


def _spelt(text: str) -> list[bytes]:
    return [text.encode(e) for e in ENCODINGS]


def _plant(rng: random.Random, ds: Dataset, count: int, start: int, depth: int = 0) -> list[list[bytes]]:
    """Plant values over the dictionary, in private blocks and nested sequences; returns what to look for."""
    wanted: list[list[bytes]] = []
    chosen = rng.sample(ALL, count * 3)
    for tag, vr, keyword in chosen:
        if len(wanted) >= count:
            break
        if keyword in KEPT or keyword in EXACT or tag in ds or vr not in (*TEXT_VRS, *OTHER_VRS):
            continue
        value, look = _value(rng, vr, start + len(wanted))
        ds.add(DataElement(tag, vr, value))
        wanted.append(look)
    block = ds.private_block(0x0021 + 2 * depth, f"CREATOR {start}", create=True)
    for n in range(3):
        value, look = _value(rng, rng.choice(("LO", "UN", "PN")), start + 500 + n)
        block.add_new(n, "UN", value if isinstance(value, bytes) else str(value).encode("utf-8"))
        wanted.append(look)
    wanted.append([f"CREATOR {start}".encode()])
    if depth < 3:
        item = Dataset()
        wanted += _plant(rng, item, max(count // 3, 3), start + 1000, depth + 1)
        keyword = ("ReferencedSeriesSequence", "RequestAttributesSequence", "DimensionIndexSequence")[
            depth % 3
        ]
        setattr(ds, keyword, Sequence([item]))
    return wanted


def _written(dataset: FileDataset, tmp_path: Path) -> bytes:
    path = tmp_path / "out.dcm"
    path.unlink(missing_ok=True)
    write_dicom(path, dataset)
    return path.read_bytes()


def test_t1_no_planted_value_survives(
    make_mr: Callable[..., FileDataset], tmp_path: Path, scale: Callable[..., int], figure: Figure
) -> None:
    rng, files = random.Random(5), scale(300, 8)
    planted = left = exact = compared = flagged = 0
    for n in range(files):
        ds = make_mr(instance=n % 20 + 1, series=f"1.2.392.5.{n}.4")
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"] if n % 3 else "ISO_IR 192"
        wanted = _plant(rng, ds, 30, 2000 * n)
        ds.file_meta.SourceApplicationEntityTitle = f"CNRYAE{n:06d}"
        ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.3", b"CNRYMETA"
        ds.preamble = b"CNRYPREAMBLE" + bytes(116)
        ds.PixelData = ds.PixelData + b"CNRYTRAILING"
        wanted += [[f"CNRYAE{n:06d}".encode()], [b"CNRYMETA"], [b"CNRYPREAMBLE"], [b"CNRYTRAILING"]]
        wanted += [[b"YAMADA"], [b"4711823"], [b"19521103"], [b"MACHIDA"], [ds.SOPInstanceUID.encode()]]
        flagged += bool(identifying(ds))
        raw = _written(clean(ds, secret=SECRET, research_id="AB-0001").dataset, tmp_path)
        planted += len(wanted)
        left += sum(any(form in raw for form in forms) for forms in wanted)
        back = pydicom.dcmread(io.BytesIO(raw))
        assert not identifying(back)
        assert raw[:128] == bytes(128)
        walked = repr(back.to_json_dict())
        left += sum("CNRY" in walked or "山田" in walked for _ in (0,))
        for keyword in EXACT:
            compared += 1
            exact += back[keyword].value == ds[keyword].value
        compared += 1
        exact += back.PixelData == ds.PixelData[: len(back.PixelData)] and float(back.DiffusionBValue) == 800
    figure(
        "T1 planted values left",
        f"{left} of {planted} in {files} files; {exact}/{compared} kept values exact",
    )
    assert left == 0
    assert exact == compared
    assert flagged == files


def test_t1_every_listed_text_attribute_refuses_text(
    make_mr: Callable[..., FileDataset], tmp_path: Path
) -> None:
    """A name in an attribute that may stay is not what may stay."""
    for keyword in (
        *tags.VOCABULARY,
        *tags.FIXED,
        "Manufacturer",
        "ManufacturerModelName",
        "SeriesDescription",
    ):
        if keyword == "ImageType":
            words: Any = ["DERIVED", "PRIMARY", "YAMADATARO"]
        else:
            words = "YAMADATARO" if keyword != "PatientAge" else "103Y"
        if keyword == "BurnedInAnnotation":
            continue
        ds = make_mr()
        with pydicom.config.disable_value_validation():
            setattr(ds, keyword, words)
            raw = _written(clean(ds, secret=SECRET, research_id="AB-0001").dataset, tmp_path)
        assert b"YAMADA" not in raw, keyword
        assert b"103Y" not in raw


def test_t2_b_of_every_vendor_is_lifted_and_its_place_is_gone(
    make_mr: Callable[..., FileDataset], tmp_path: Path, figure: Figure
) -> None:
    made = list(_vendors(make_mr))
    right = private = 0
    for ds, b in made:
        cleaned = clean(ds, secret=SECRET, research_id="AB-0001")
        back = pydicom.dcmread(io.BytesIO(_written(cleaned.dataset, tmp_path)))
        right += float(back.DiffusionBValue) == b
        private += sum(e.tag.is_private for e in back.iterall())
    figure("T2 b-values lifted", f"{right}/{len(made)}; private elements left {private}")
    assert right == len(made)
    assert private == 0


def _vendors(make_mr: Callable[..., FileDataset]) -> list[tuple[FileDataset, float]]:
    made: list[tuple[FileDataset, float]] = []

    def add(
        vendor: str, group: int, creator: str, element: int, vr: str, value: Any, b: float
    ) -> FileDataset:
        ds = make_mr(b=None, Manufacturer=vendor)
        ds.private_block(group, creator, create=True).add_new(element, vr, value)
        made.append((ds, b))
        return ds

    for b in (0, 50, 800, 1000):
        add("SIEMENS", 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", str(b), b)
        add("SIEMENS", 0x0019, "SIEMENS MR HEADER", 0x0C, "UN", f"{b} ".encode(), b)
        add("SIEMENS", 0x0029, "SIEMENS CSA HEADER", 0x10, "OB", _csa(str(b)), b)
        add("GE MEDICAL SYSTEMS", 0x0043, "GEMS_PARM_01", 0x39, "IS", [str(b), "8", "0", "0"], b)
        add("GE MEDICAL SYSTEMS", 0x0043, "GEMS_PARM_01", 0x39, "IS", [str(10**9 + b), "8", "0", "0"], b)
        add("Philips", 0x2001, "Philips Imaging DD 001", 0x03, "FL", float(b), b)
        add("Philips", 0x2001, "Philips Imaging DD 001", 0x03, "UN", struct.pack("<f", b), b)
        add("UIH", 0x0065, "Image Private Header", 0x09, "FD", float(b) + 1.25, b + 1.25)
        add("HITACHI", 0x0029, "HITACHI MR", 0x30, "FD", float(b), b)
        made.append(
            (make_mr(b=None, Manufacturer="TOSHIBA_MEC", ImageComments=f"b={b}(0.1,0.2,0.3) name"), b)
        )
        made.append((make_mr(b=None, SequenceName=f"*ep_b{b}t"), b))
        made.append((make_mr(b=None, SeriesDescription=f"DWI b={b}"), b))
    return made


def _csa(b: str) -> bytes:
    """A header of three entries as the vendor's format lays them out."""
    parts = [b"SV10\4\3\2\1", struct.pack("<II", 3, 77)]
    for name, words in (("EchoLinePosition", ["64"]), ("B_value", [b, "", ""]), ("Name", ["YAMADA"])):
        parts.append(name.encode().ljust(64, b"\0") + struct.pack("<i4siii", 1, b"IS\0\0", 6, len(words), 77))
        for word in words:
            data = word.encode() + b"\0" if word else b""
            parts.append(
                struct.pack("<4i", len(data), len(data), 77, len(data))
                + data.ljust(-(-len(data) // 4) * 4, b"\0")
            )
    return b"".join(parts)


def test_t2_a_diffusion_image_without_b_stays(make_mr: Callable[..., FileDataset]) -> None:
    with pytest.raises(CaseError, match=r"^S12 AB-0001"):
        clean(make_mr(b=None), secret=SECRET, research_id="AB-0001")


def test_t3_uids(make_mr: Callable[..., FileDataset], figure: Figure) -> None:
    originals = [f"1.2.840.113619.2.{n}.{n * 7919}" for n in range(1000)]
    one, two = ({keyed_uid(secret, uid) for uid in originals} for secret in (SECRET, OTHER))
    assert len(one) == len(two) == 1000
    assert not one & two
    assert not (one | two) & set(originals)
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in one)
    images = [clean(make_mr(instance=n), secret=SECRET, research_id="AB-0001").dataset for n in (1, 2)]
    assert images[0].SeriesInstanceUID == images[1].SeriesInstanceUID == keyed_uid(SECRET, "1.2.392.1.1.3")
    assert (
        images[0].SOPInstanceUID == images[0].file_meta.MediaStorageSOPInstanceUID != images[1].SOPInstanceUID
    )
    figure("T3 UIDs", "1000 hashed: 0 original, 1:1; two secrets share 0")


def test_t4_dates_and_ages(
    make_mr: Callable[..., FileDataset], tmp_path: Path, scale: Callable[..., int], figure: Figure
) -> None:
    forms = (
        "{y}{m:02d}{d:02d}", "{y}-{m:02d}-{d:02d}", "{y}/{m}/{d}", "{d}.{m}.{y}", "{y}年{m}月{d}日", "昭和{e}年{m}月{d}日",
        "S{e}.{m}.{d}", "平成{e}年", "{m}/{d}/{y}", "{d:02d}{m:02d}{y}", "{y}{m:02d}{d:02d}103000.000000", "R{e}/{m}/{d}",
    )  # fmt: skip
    rng, count, left = random.Random(2), scale(200, 24), 0
    for n in range(count):
        y, m, d = rng.randrange(1900, 2024), rng.randrange(1, 13), rng.randrange(1, 28)
        text = forms[n % 12].format(y=y, m=m, d=d, e=y % 60 + 1)
        ds = make_mr(
            SpecificCharacterSet="ISO_IR 192",
            ImageComments=text,
            StudyDescription=text,
            SeriesDescription=f"DWI {text}",
        )
        ds.PatientBirthDate, ds.StudyDate, ds.PatientAge = f"{y}{m:02d}{d:02d}", "20190412", None
        raw = _written(clean(ds, secret=SECRET, research_id="AB-0001").dataset, tmp_path)
        left += text.encode() in raw or f"{y}{m:02d}{d:02d}".encode() in raw
        back = pydicom.dcmread(io.BytesIO(raw))
        years = 2019 - y - ((m, d) > (4, 12))
        assert back.get("PatientAge") == (f"{min(years, 90):03d}Y" if years >= 0 else None)
        assert not back.StudyDate
    figure("T4 dates left", f"{left}/{count}")
    assert left == 0


REFUSED = {
    "secondary capture": "1.2.840.10008.5.1.4.1.1.7", "multi-frame capture": "1.2.840.10008.5.1.4.1.1.7.2",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1", "report": "1.2.840.10008.5.1.4.1.1.88.11",
    "enhanced report": "1.2.840.10008.5.1.4.1.1.88.22", "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "CDA": "1.2.840.10008.5.1.4.1.1.104.2", "raw data": "1.2.840.10008.5.1.4.1.1.66",
    "spectroscopy": "1.2.840.10008.5.1.4.1.1.4.2", "key objects": "1.2.840.10008.5.1.4.1.1.88.59",
}  # fmt: skip


def test_t5_objects_that_hold_text(make_mr: Callable[..., FileDataset], figure: Figure) -> None:
    refused = 0
    for uid in REFUSED.values():
        with pytest.raises(CaseError, match=r"^T5 "):
            clean(make_mr(SOPClassUID=uid), secret=SECRET, research_id="AB-0001")
        refused += 1
    for attributes in ({"BurnedInAnnotation": "YES"}, {"kind": ("SCREEN SAVE", "SECONDARY")}):
        with pytest.raises(CaseError, match=r"^T5 "):
            clean(make_mr(**attributes), secret=SECRET, research_id="AB-0001")
    ds = make_mr()
    ds.add_new(0x60003000, "OW", b"YAMADA\0\0")
    ds.add_new(0x60000022, "LO", "YAMADA")
    new = clean(ds, secret=SECRET, research_id="AB-0001").dataset
    assert not [e for e in new if e.tag.group == 0x6000]
    figure("T5 SOP classes refused", f"{refused}/{len(REFUSED)}")


def test_t8_nifti_headers(tmp_path: Path, figure: Figure) -> None:
    rng = np.random.default_rng(1)
    array, affine = rng.integers(0, 4000, (6, 5, 4)).astype(np.int16), np.diag([2.0, 2.0, 5.0, 1.0])
    image = nib.Nifti1Image(array, affine)
    fields = {
        "descrip": b"CNRYdescrip",
        "aux_file": b"CNRYaux",
        "db_name": b"CNRYdb",
        "intent_name": b"CNRYintent",
        "data_type": b"CNRYtype",
        "magic": None,
    }
    for name, value in fields.items():
        if value is not None:
            image.header[name] = value
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CNRYcomment"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"CNRYafni"))
    source = tmp_path / "YAMADA"
    source.mkdir()
    nib.save(image, source / "adc.nii.gz")
    (source / "adc.bval").write_text("800\n")
    rules = ClinicRules(SECRET)
    stage_nifti([source / "adc.nii.gz"], source, tmp_path / "out", "AB-0001", rules, Notes(), {})
    raw = (tmp_path / "out" / "adc.nii.gz").read_bytes()
    back = nib.load(tmp_path / "out" / "adc.nii.gz")
    found = sum(v is not None and v in back.header.structarr.tobytes() for v in fields.values())
    assert found == 0
    assert not back.header.extensions
    assert b"adc" not in raw[:40]
    assert np.array_equal(np.asarray(back.dataobj), array)
    assert np.array_equal(back.affine, affine)
    nib.save(image, source / "yamada.nii.gz")
    with pytest.raises(CaseError, match=r"^T7 AB-0001"):
        stage_nifti([source / "yamada.nii.gz"], source, tmp_path / "o2", "AB-0001", rules, Notes(), {})
    figure("T8 NIfTI header fields left", f"{found} of 5 fields and 2 extensions")


def test_numbers_outside_the_list_do_not_count_as_names(make_mr: Callable[..., FileDataset]) -> None:
    new = clean(make_mr(), secret=SECRET, research_id="AB-0001").dataset
    new.ImagingFrequency = "123.25"
    assert identifying(new) == []
    new.NumberOfStudyRelatedSeries = "4711823"
    assert identifying(new) == ["NumberOfStudyRelatedSeries"]
    assert keyword_for_tag(0x00100010) == "PatientName"
