"""What arrives is as long as what was sealed: slices gone from the end of every series leave no other trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_builder import DicomDesk, exam, study

from diffusion_adc.custody import keys
from diffusion_adc.custody.open import open_package
from diffusion_adc.custody.package import DELIVERY
from diffusion_adc.custody.seal import seal
from diffusion_adc.custody.seal_dicom import ClinicRules
from diffusion_adc.intake.ingest import IngestOptions
from diffusion_adc.intake.work import Done, Task, do

PERSON = "CASE-001"


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An opened delivery of one study."""
    root = tmp_path_factory.mktemp("delivery")
    source = DicomDesk(root)
    source.add(study(exam(), b_values=(50, 800)))
    clinic, institute = root / "clinic", root / "institute"
    keys.keygen(clinic, "clinic")
    keys.keygen(institute, "institute")
    package = root / "handover" / "one.sealed"
    sealed = seal(
        source.source, package, ids={PERSON: PERSON}, recipients=keys.recipients([institute / keys.RECIPIENT]),
        signing_key=keys.signing_key(clinic / keys.SIGNING), link_table=root / "links",
        rules=ClinicRules(keys.clinic_secret(clinic / keys.SECRET), reviewed=frozenset({PERSON})),
    )  # fmt: skip
    assert not sealed.refused
    opened = open_package(
        package, root / "inbox" / "received", identities=keys.identities([institute / keys.IDENTITY]),
        clinic_keys=[keys.public_key(clinic / keys.SIGNING_PUBLIC)], ledger=root / "ledger.jsonl",
    )  # fmt: skip
    counts = opened.manifest.slices
    # b 50 and b 800 are one series of twelve images, as scanners write them.
    assert sorted(counts.values()) == [6, 6, 6, 12]
    assert sum(counts.values()) == sum(file.path.endswith(".dcm") for file in opened.manifest.files)
    return root / "inbox" / "received"


@pytest.fixture
def delivered(received: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    shutil.copytree(received, tmp_path / "received")
    return tmp_path / "received"


def ingested(delivered: Path) -> Done:
    options = IngestOptions(layout="dicom", provenance="restricted", allow_missing=("tumor_label",))
    task = Task(delivered, ((delivered / PERSON, 1),), PERSON, dicom=True)
    return do(task, delivered.parent / "staged", options)


def shorten(delivered: Path, *kinds: str) -> int:
    """Delete the topmost slice of each series of these kinds; how many files went."""
    gone = 0
    for folder in sorted(path for path in (delivered / PERSON).glob("*/*") if path.is_dir()):
        images = {path: pydicom.dcmread(path) for path in folder.glob("*.dcm")}
        top = max(float(image.ImagePositionPatient[2]) for image in images.values())
        for path, image in images.items():
            kind = "adc" if "ADC" in image.ImageType else "dwi" if "TRACEW" in image.ImageType else "anatomy"
            if kind in kinds and float(image.ImagePositionPatient[2]) == top:
                path.unlink()
                gone += 1
    return gone


def test_a_whole_delivery_gets_in(delivered: Path) -> None:
    done = ingested(delivered)
    assert (len(done.cases), done.refused) == (1, [])
    assert not [text for text in done.warnings if text.startswith("S03")]


def test_end_slices_gone_from_all_series_are_missed(delivered: Path) -> None:
    assert shorten(delivered, "adc", "dwi", "anatomy") == 5
    done = ingested(delivered)
    assert not done.cases
    (message,) = done.refused
    assert message.startswith(
        "S03 CASE-001 adc: 5 of 6 slices that the delivery lists; expected all of them;"
    )
    (delivered / DELIVERY).unlink()
    assert len(ingested(delivered).cases) == 1, "the sequences agree with each other: only the list can tell"


def test_end_slices_gone_from_the_images_alone_are_refused(delivered: Path) -> None:
    shorten(delivered, "dwi")
    (message,) = ingested(delivered).refused
    assert message.startswith("S03 CASE-001 dwi: ")


def test_end_slices_gone_from_the_anatomy_alone_are_warned_of(delivered: Path) -> None:
    shorten(delivered, "anatomy")
    done = ingested(delivered)
    assert not done.refused
    listed = [text for text in done.warnings if "that the delivery lists" in text]
    assert sorted(text.split(":")[0] for text in listed) == ["S03 CASE-001 t1w", "S03 CASE-001 t2w"]


@pytest.mark.parametrize("change", [{"slices": {"CASE-001/s01/001": 0}}, {"slices": {"x": 3}}, {"schema": 1}])
def test_a_changed_list_is_refused(delivered: Path, change: dict[str, Any]) -> None:
    path = delivered / DELIVERY
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (message,) = ingested(delivered).refused
    assert message.startswith("X2 CASE-001: the delivery's own list is damaged; expected ")
