"""S14: an ADC unit is right or refused; never is a map taken in that is wrong by a power of ten."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import Series, adc, dwi, write_classic

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.signal import dwi_signal
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.work import Task, do
from diffusion_adc.records.cohort import load_volume

pytestmark = [pytest.mark.security, pytest.mark.timeout(1500)]

UNITS = {"1e-6": 1.0, "1e-3": 1e-3, "1": 1e-6}
"""Size of the unit in mm²/s → slope that belongs to stored integers of 1e-6 mm²/s."""
SPELT = {"1e-6": "10^-6 mm2/s", "1e-3": "10^-3 mm2/s", "1": "mm2/s"}
VENDORS = {"SIEMENS": "1e-6", "GE MEDICAL SYSTEMS": "1e-6", "Philips": "1e-3"}
"""Vendor → unit of its maps where a file states none."""
PHANTOMS = 50
SHAPE = (14, 12, 5)


def phantom(seed: int) -> np.ndarray:
    """ADC of a body of random tissues in 1e-3 mm²/s: marrow at one end, cysts at the other."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    body = ((i - 7) / 6) ** 2 + ((j - 6) / 5) ** 2 + np.zeros(SHAPE) < 1
    tissues = rng.choice([0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.6, 3.0], size=4)
    share = rng.dirichlet(np.ones(4) * rng.choice([0.3, 1.0, 5.0]))
    values = rng.choice(tissues, size=SHAPE, p=share) * rng.normal(1, 0.05, SHAPE)
    return np.where(body, np.round(1000 * values) / 1000, 0.0)


def lay(folder: Path, true: np.ndarray, unit: str, vendor: str, seed: int) -> str:
    """A map in `unit` with one image; what the files say of the unit changes with the seed."""
    said = ("nothing", "rightly", "another unit", "a word that is no unit")[seed % 4]
    other = list(UNITS)[(list(UNITS).index(unit) + 1 + seed // 4 % 2) % 3]
    words = {
        "nothing": None,
        "rightly": SPELT[unit],
        "another unit": SPELT[other],
        "a word that is no unit": "US",
    }
    s0 = np.where(true > 0, 3000.0, 0.0)
    content = {
        "adc": np.round(1000 * true).astype(np.uint16),
        "b800": np.round(dwi_signal(s0, 800, true)).astype(np.uint16),
    }
    scale = {} if UNITS[unit] == 1 else {"RescaleSlope": f"{UNITS[unit]:g}", "RescaleIntercept": "0"}
    own: Series = adc(content).but(Manufacturer=vendor, RescaleType=words[said], **scale)
    for tag, part in enumerate((own, dwi(content, 800, vendor="standard").but(Manufacturer=vendor))):
        write_classic(folder, part, "1.2.3.4", "20200101", tag)
    return said


def test_s14_right_or_refused(
    tmp_path: Path, scale: Callable[..., int], figure: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    # One image only: nothing is recomputed, so that no other check stands in for this one.
    options = IngestOptions(
        layout="dicom", provenance="public", allow_missing=("t1w", "t2w", "dwi_low", "tumor_label")
    )
    outcomes: Counter[str] = Counter()
    count = scale(PHANTOMS, 2)
    for (unit, vendor), seed in product(product(UNITS, VENDORS), range(count)):
        root = tmp_path / f"{unit}{vendor[:2]}{seed}"
        true, folder = phantom(seed), root / "in" / "CASE-001"
        said = lay(folder, true, unit, vendor, seed)
        done = do(Task(root / "in", ((folder, 1),), "CASE-001", dicom=True), root / "staged", options)
        told = unit if said == "rightly" else VENDORS[vendor] if said != "another unit" else None
        if done.refused:
            assert done.refused[0].startswith("S14 CASE-001 adc: "), done.refused
            outcomes["refused"] += 1
            assert told != unit, f"a right statement was refused: {unit} of {vendor}, {said}"
            continue
        ((case, _, _),) = done.cases
        stored = load_volume(root / "staged", case, seq.ADC).array
        right = np.allclose(stored, true, rtol=1e-4, atol=1e-6)
        outcomes["right" if right else "wrong"] += 1
        assert right, f"{unit} of {vendor}, {said}: median {np.median(stored[true > 0]):.3g}"
    text = (
        f"{outcomes['right']} right, {outcomes['refused']} refused, {outcomes['wrong']} wrong of {9 * count}"
    )
    figure("S14 units (3) x vendors (3) x phantoms", text)
    assert outcomes["wrong"] == 0
    assert outcomes["right"] >= 2 * count
