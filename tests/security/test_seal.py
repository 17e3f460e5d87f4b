"""What seal refuses, leaves out and lifts; what a kill leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileDataset

from diffusion_adc.custody.deidentify import clean, identifying
from diffusion_adc.custody.link_table import SENT
from diffusion_adc.custody.seal import Table
from diffusion_adc.custody.seal_dicom import ClinicRules
from diffusion_adc.domain.errors import UsageError

pytestmark = pytest.mark.security

Figure = Callable[[str, Any], None]


def _read(zones: Any, package: Path, name: str) -> pydicom.FileDataset:
    if not (zones.root / "inbox" / "received").exists():
        zones.open(package)
    return pydicom.dcmread(zones.root / "inbox" / "received" / name)


def test_one_bad_person_never_stops_the_others(filled: Any, make_series: Callable[..., Any]) -> None:
    make_series(filled.source / "4711822" / "other", 1, patient="9999999", study="1.2.8", series="1.2.8.1")
    make_series(filled.source / "4700000", 1)
    _, done = filled.seal()
    assert done.manifest.research_ids == ("AB-0001", "AB-0003")
    assert len(done.refused) == 2
    assert done.refused[0].startswith("C06: folder 1 of 4")
    assert done.refused[1].startswith("S31 AB-0002: files of 2 persons")
    assert not [m for m in done.refused if "47" in m or "YAMADA" in m]


def test_what_stays_at_the_clinic_is_counted(
    zones: Any, make_mr: Callable[..., FileDataset], make_series: Callable[..., list[Path]], tmp_path: Path
) -> None:
    folder = zones.source / "P1"
    kept = make_series(folder / "dwi", 2)
    make_series(folder / "sc", 2, series="1.2.9", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    make_series(folder / "burned", 2, series="1.2.10", BurnedInAnnotation="YES")
    (folder / "letter.pdf").write_bytes(b"%PDF YAMADA")
    (folder / "link").symlink_to(kept[0])
    (folder / "away").symlink_to(tmp_path)
    package, done = zones.seal(ids={"P1": "AB-0001"})
    assert dict(done.manifest.left_out) == {
        "links and special files": 1, "objects that are no MR image": 2, "other files": 1,
        "series with text burned in": 2,
    }  # fmt: skip
    assert [f.path for f in done.manifest.files if f.path.endswith(".dcm")] == [
        "AB-0001/s01/001/0001.dcm", "AB-0001/s01/001/0002.dcm",
    ]  # fmt: skip
    assert zones.open(package).manifest.files == done.manifest.files


def test_text_in_the_pixels_waits_for_a_human(zones: Any, make_series: Callable[..., Any]) -> None:
    layer = Image.new("L", (128, 128))
    ImageDraw.Draw(layer).text((4, 4), "YAMADA TARO 1952", fill=255, font=ImageFont.load_default(12))
    image = (np.asarray(layer, dtype=np.uint16) * 8 + 40).astype(np.uint16)
    make_series(zones.source / "P1", 2, image=image)
    with pytest.raises(UsageError, match="T5 AB-0001: what looks like text in 2 of 2"):
        zones.seal(ids={"P1": "AB-0001"})
    rules = ClinicRules(zones.rules.secret, reviewed=frozenset({"AB-0001"}))
    _, done = zones.seal(ids={"P1": "AB-0001"}, rules=rules)
    assert done.manifest.research_ids == ("AB-0001",)


def test_studies_keep_their_order_without_their_dates(zones: Any, make_series: Callable[..., Any]) -> None:
    for study, date in (("1.5", "20210301"), ("1.6", "20190412"), ("1.7", "20190512")):
        make_series(zones.source / "P1" / study, 1, study=study, series=f"{study}.1", StudyDate=date)
    package, _ = zones.seal(ids={"P1": "AB-0001"})
    assert _read(zones, package, "AB-0001/s02/001/0001.dcm").StudyID == "02"
    notes = [
        json.loads((zones.root / "inbox/received/AB-0001" / f"s{n:02d}" / "study.json").read_text())
        for n in (1, 2, 3)
    ]
    assert [n["days_since_first"] for n in notes] == [0, 30, 689]
    assert [n["exam_order"] for n in notes] == [1, 2, 3]


def test_b_from_the_clinics_sidecar(zones: Any, make_series: Callable[..., Any]) -> None:
    folder = zones.source / "P1"
    make_series(folder, 2, b=None, SeriesDescription="trace")
    with pytest.raises(UsageError, match="S12 AB-0001"):
        zones.seal(ids={"P1": "AB-0001"})
    (folder / "b_value.json").write_text(json.dumps({"*": 800, "IM0001": 50}))
    package, done = zones.seal(ids={"P1": "AB-0001"})
    assert not done.manifest.left_out
    values = [_read(zones, package, f"AB-0001/s01/001/000{n}.dcm").DiffusionBValue for n in (1, 2)]
    assert values == [50, 800]
    for text in ('{"*": "YAMADA"}', "[", '{"*": -5}'):
        (folder / "b_value.json").write_text(text)
        with pytest.raises(UsageError, match="S12 AB-0001"):
            zones.seal("x.sealed", ids={"P1": "AB-0001"})


def test_table_goes_along(filled: Any, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("番号,age\n4711821,63\n4711823,70\n9,1\n")
    package, done = filled.seal(table=Table(path, "番号"))
    assert done.warnings == [
        "AB-0002: no row in the clinical table",
        "1 rows of the clinical table are of persons not in this delivery",
    ]
    filled.open(package)
    text = (filled.root / "inbox" / "received" / "clinical.csv").read_text()
    assert text == "research_id,age\nAB-0001,63\nAB-0003,70\n"


def test_enhanced_frames_keep_their_b(make_mr: Callable[..., FileDataset]) -> None:
    ds = make_mr(b=None, SeriesDescription="dwi")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2
    frames = []
    for b in (0, 1000):
        frame = Dataset()
        frame.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", str(b))
        frame.FrameContentSequence = [Dataset()]
        frame.FrameContentSequence[0].FrameComments, frame.FrameContentSequence[0].StackID = "YAMADA", "1"
        frame.FrameContentSequence[0].FrameAcquisitionDateTime = "20190412101500"
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    cleaned = clean(ds, secret=b"s" * 32, research_id="AB-0001")
    items = cleaned.dataset.PerFrameFunctionalGroupsSequence
    assert [item.MRDiffusionSequence[0].DiffusionBValue for item in items] == [0, 1000]
    assert cleaned.facts == {"b": [0, 1000], "b_source": ["private:siemens"]}
    assert [e.keyword for e in items[0].FrameContentSequence[0]] == ["StackID"]
    assert identifying(cleaned.dataset) == []
    items[0].FrameContentSequence[0].PatientName = "YAMADA"
    assert identifying(cleaned.dataset) == ["PatientName"]


_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from diffusion_adc.custody import keys
from diffusion_adc.custody.seal import seal
from diffusion_adc.custody.seal_dicom import ClinicRules
root, count = Path(sys.argv[2]), [0]
public = keys.recipients([root / "institute/keys/recipient.pub"])
key, secret = keys.signing_key(root / "clinic/keys/signing.key"), keys.clinic_secret(root / "clinic/keys/clinic.secret")
def trace(event, args):
    if event in ("open", "os.rename", "os.mkdir", "os.link", "shutil.rmtree", "os.remove"):
        count[0] += 1
        if count[0] == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(trace)
seal(root / "clinic/export", root / "handover/k.sealed", ids={"4711821": "AB-0001"}, recipients=public,
     signing_key=key, rules=ClinicRules(secret), link_table=root / "clinic/links")
"""


def test_killed_while_sealing(
    zones: Any, fill_zones: Callable[..., Any], scale: Callable[..., int], figure: Figure
) -> None:
    fill_zones(zones, 1, 1)
    total, sound = scale(30, 3), 0
    for n in range(total):
        arguments = [str(Path(__file__).parents[2]), str(zones.root), str(3 + n * 90 // total)]
        subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, check=False)
        killed = zones.root / "handover" / "k.sealed"
        if killed.exists():
            zones.open(killed, f"k{n}")
            killed.unlink()
        package, done = zones.seal(f"{n}.sealed")
        opened = zones.open(package, f"r{n}")
        sound += opened.manifest == done.manifest and not list(zones.root.rglob(".in-custody-*"))
    sent = (zones.root / "clinic" / "links" / SENT).read_text().splitlines()
    numbers = [json.loads(line)["sequence"] for line in sent]
    figure("delivery killed while sealing: next one whole, no leftovers", f"{sound}/{total}")
    assert sound == total
    assert numbers == list(range(1, len(numbers) + 1))
