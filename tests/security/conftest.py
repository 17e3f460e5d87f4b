"""Counts and figures of the security tests: every count is printed and kept in one JSON, from which documents quote.

``FULL=1`` runs all counts, ``SECURITY=1`` a fifth of them, the everyday suite a fiftieth.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import gaussian_filter

from diffusion_adc.custody import keys
from diffusion_adc.custody.open import Opened, open_package
from diffusion_adc.custody.seal import Sealed, seal
from diffusion_adc.custody.seal_dicom import ClinicRules
from diffusion_adc.custody.tags import MR

# Examinations are laid out by the builders of the intake's tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "intake"))

FULL = os.environ.get("FULL") == "1"
SECURITY = os.environ.get("SECURITY") == "1"
_LEAST = 3


def _scaled(n_full: int, least: int = _LEAST) -> int:
    share = 1.0 if FULL else 0.2 if SECURITY else 0.02
    return min(n_full, max(least, math.ceil(n_full * share)))


@pytest.fixture(scope="session")
def scale() -> Callable[..., int]:
    """``scale(n_full, least=3)``: how many of the full count this run does."""
    return _scaled


@pytest.fixture(scope="session")
def figures_file(pytestconfig: pytest.Config) -> Path:
    """Where the figures are kept: ``DIFFUSION_ADC_FIGURES`` or pytest's cache, never the repository."""
    named = os.environ.get("DIFFUSION_ADC_FIGURES")
    if named:
        return Path(named)
    cache = getattr(pytestconfig, "cache", None)  # absent under -p no:cacheprovider
    folder = Path(tempfile.gettempdir()) if cache is None else cache.mkdir("figures")
    return folder / "security.json"


@pytest.fixture
def figure(
    figures_file: Path, keep_figure: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> Callable[[str, Any], None]:
    """``figure(name, value)``: print a figure and keep it under its name."""

    return partial(keep_figure, figures_file, capsys)


@dataclass(frozen=True)
class Zones:
    """Both sides' keys and folders, and what was sealed."""

    root: Path
    source: Path
    ids: dict[str, str]
    rules: ClinicRules

    @property
    def clinic(self) -> Path:
        return self.root / "clinic" / "keys"

    @property
    def institute(self) -> Path:
        return self.root / "institute" / "keys"

    def seal(self, name: str = "one.sealed", **options: Any) -> tuple[Path, Sealed]:
        package = self.root / "handover" / name
        done = seal(
            self.source,
            package,
            ids=options.pop("ids", self.ids),
            recipients=options.pop("recipients", None) or keys.recipients([self.institute / keys.RECIPIENT]),
            signing_key=options.pop("signing_key", None) or keys.signing_key(self.clinic / keys.SIGNING),
            rules=options.pop("rules", self.rules),
            link_table=options.pop("link_table", self.root / "clinic" / "links"),
            **options,
        )
        return package, done

    def open(self, package: Path, name: str = "received", **options: Any) -> Opened:
        return open_package(
            package,
            self.root / "inbox" / name,
            identities=options.pop("identities", None) or keys.identities([self.institute / keys.IDENTITY]),
            clinic_keys=options.pop("clinic_keys", None)
            or [keys.public_key(self.clinic / keys.SIGNING_PUBLIC)],
            ledger=options.pop("ledger", self.root / "institute" / "ledger.jsonl"),
            **options,
        )


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    """Keys of a clinic and an institute and an empty source; fill it with `write_mr`."""
    keys.keygen(tmp_path / "clinic" / "keys", "clinic")
    keys.keygen(tmp_path / "institute" / "keys", "institute")
    source = tmp_path / "clinic" / "export"
    source.mkdir(parents=True)
    secret = keys.clinic_secret(tmp_path / "clinic" / "keys" / keys.SECRET)
    return Zones(tmp_path, source, {}, ClinicRules(secret))


def mr_image(
    *,
    patient: str = "4711823",
    study: str = "1.2.392.1.1",
    series: str = "1.2.392.1.1.3",
    instance: int = 1,
    kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"),
    b: float | None = 800,
    image: np.ndarray | None = None,
    z: float = 0.0,
    **attributes: Any,
) -> FileDataset:
    """A classic MR image as a scanner writes it, with a name in it."""
    pixels = image if image is not None else _anatomy(instance)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MR, f"{series}.{instance}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, f"{study}.99"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "YAMADA^TARO", patient, "19521103"
    ds.StudyDate, ds.StudyTime, ds.PatientSex, ds.PatientAge = "20190412", "101500", "M", "066Y"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "MR", "SIEMENS", "Skyra"
    ds.InstitutionName, ds.SeriesDescription = "MACHIDA HOSPITAL", "ep2d_diff_tra YAMADA"
    ds.ImageType, ds.SeriesNumber, ds.InstanceNumber = list(kind), int(series.rsplit(".", 1)[-1]), instance
    ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "EP", "SK", "2D"
    ds.EchoTime, ds.RepetitionTime, ds.MagneticFieldStrength = "63", "5000", "3"
    ds.PixelSpacing, ds.SliceThickness = ["2.5", "2.5"], "5"
    ds.ImagePositionPatient = ["-40", "-40", f"{z + 5 * instance:.4f}"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    if b is not None:
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(int(b)))
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return FileDataset(None, ds, file_meta=meta, preamble=b"\0" * 128)  # type: ignore[arg-type]


def write_mr(folder: Path, count: int = 3, **options: Any) -> list[Path]:
    """A series of `count` images under a person's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for instance in range(1, count + 1):
        path = folder / f"IM{instance:04d}"
        mr_image(instance=instance, **options).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def fill(zones: Zones, persons: int = 3, count: int = 2) -> Zones:
    """Persons with one diffusion and one ADC series each."""
    for n in range(1, persons + 1):
        clinic_id = f"{4711820 + n}"
        study = f"1.2.392.7.{n}"
        for b, series in ((50, 1), (800, 2)):
            write_mr(
                zones.source / clinic_id / f"YAMADA_{n}" / f"b{b}", count, patient=clinic_id, study=study,
                series=f"{study}.{series}", b=b,
            )  # fmt: skip
        write_mr(
            zones.source / clinic_id / "ADC", count, patient=clinic_id, study=study, series=f"{study}.3",
            kind=("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), SeriesDescription="ADC map of Mr Yamada",
        )  # fmt: skip
        zones.ids[clinic_id] = f"AB-{n:04d}"
    return zones


def _anatomy(seed: int, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    inside = ((y - shape[0] / 2) / (0.55 * shape[0])) ** 2 + ((x - shape[1] / 2) / (0.55 * shape[1])) ** 2 < 1
    smooth = gaussian_filter(rng.normal(size=shape), 2)
    return np.clip(300 + 900 * smooth * inside + 20 * rng.normal(size=shape), 0, 4095).astype(np.uint16)


@pytest.fixture
def make_mr() -> Callable[..., FileDataset]:
    return mr_image


@pytest.fixture
def make_series() -> Callable[..., list[Path]]:
    return write_mr


@pytest.fixture
def filled(zones: Zones) -> Zones:
    """Three persons at the clinic."""
    return fill(zones)


@pytest.fixture
def fill_zones() -> Callable[..., Zones]:
    return fill
