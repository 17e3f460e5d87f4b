"""A cohort → nnU-Net v2's raw folders with our own splits, so that it is trained on the very same persons.

OUT/nnUNet_raw/DatasetNNN_NAME/ holds ``dataset.json``, ``imagesTr``, ``labelsTr`` (train and validation cases) and
``imagesTs``; OUT/nnUNet_preprocessed/DatasetNNN_NAME/ holds ``splits_final.json``, where nnU-Net looks for its
folds. Channels are the sequences that every case has, the ADC map in 1e-6 mm²/s; the label is the first reader's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.atomic import replacing_folder, write_json
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort
from diffusion_adc.records.nifti import write_nifti

CHANNEL_NAMES: Final = {
    seq.ADC: "ADC",
    seq.DWI_HIGH: "DWI_high",
    seq.DWI_LOW: "DWI_low",
    seq.T2W: "T2w",
    seq.T1W: "T1w",
}
ADC_SCALE: Final = 1000.0
"""From 1e-3 to 1e-6 mm²/s, the integer form that scanners store and that ``ingest --layout nnunet`` reads."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class NnUnetExport:
    """What was written.

    Attributes:
        dataset: Folder of the raw dataset.
        training: Cases with a label.
        validation: Those among them that validate.
        test: Cases without a label.
        channels: Sequences, in nnU-Net's order.
    """

    dataset: Path
    training: int
    validation: int
    test: int
    channels: tuple[str, ...]


def export_nnunet(
    cohort_dir: Path,
    out: Path,
    *,
    number: int = 501,
    name: str = "diffusion_adc",
    split: str = "person",
    progress: Progress | None = None,
) -> NnUnetExport:
    """Write a cohort as a raw dataset.

    Args:
        cohort_dir: COHORT.
        out: A new or empty folder.
        number: Of the dataset, 1 to 999.
        name: Of the dataset.
        split: ``person`` (the cohort's own), ``temporal`` or ``scanner``.
        progress: Called with (done, total).

    Raises:
        UsageError: OUT holds something, or the number or name is none.
        CohortError: No training or validation case with a target.
        CaseError: A volume is missing or damaged.
    """
    if not 1 <= number <= 999 or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name, re.ASCII):
        raise UsageError(
            f"a dataset {number} named {name!r}", "1 to 999 and a word", "choose another number or name"
        )
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out.name} already holds something", "an empty place", "choose another OUT")
    cohort = read_cohort(cohort_dir)
    cohort = cohort if split == "person" else cohort.resplit(split)
    labeled = {
        part: [c for c in cohort.split(part) if c.has_target or c.tumor_status == "absent"]
        for part in ("train", "val")
    }
    if not labeled["train"] or not labeled["val"]:
        raise CohortError(
            "no training or no validation case with a target", "at least one each", "add cases with targets"
        )
    test = list(cohort.split("test"))
    every = [*labeled["train"], *labeled["val"], *test]
    channels = tuple(s for s in CHANNEL_NAMES if all(s in case.files for case in every))
    folder = f"Dataset{number:03d}_{name}"
    with replacing_folder(out) as place:
        raw = place / "nnUNet_raw" / folder
        for done, case in enumerate(every, start=1):
            known = done <= len(every) - len(test)
            _write_case(raw, cohort_dir, case, channels, "Tr" if known else "Ts", label=known)
            if progress is not None:
                progress(done, len(every))
        described = {
            "channel_names": {str(n): CHANNEL_NAMES[s] for n, s in enumerate(channels)},
            "labels": {"background": 0, "tumor": 1},
            "numTraining": len(every) - len(test),
            "file_ending": ".nii.gz",
        }
        write_json(raw / "dataset.json", described)
        prepared = place / "nnUNet_preprocessed" / folder
        prepared.mkdir(parents=True)
        fold = {part: sorted(case.case_id for case in cases) for part, cases in labeled.items()}
        write_json(prepared / "splits_final.json", [fold])
    return NnUnetExport(
        out / "nnUNet_raw" / folder, len(every) - len(test), len(labeled["val"]), len(test), channels
    )


def _write_case(
    raw: Path, cohort_dir: Path, case: Case, channels: tuple[str, ...], part: str, *, label: bool
) -> None:
    images, labels = raw / f"images{part}", raw / f"labels{part}"
    images.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(channels):
        volume = load_volume(cohort_dir, case, name)
        array = np.asarray(volume.array, dtype=np.float32)
        if name == seq.ADC:
            array = np.where(np.isfinite(array), array * np.float32(ADC_SCALE), np.float32(0))
        write_nifti(images / f"{case.case_id}_{number:04d}.nii.gz", array, volume.affine)
    if label:
        labels.mkdir(exist_ok=True)
        adc = load_volume(cohort_dir, case, seq.ADC)
        readings = presence_readings(cohort_dir, case) if case.has_target else []
        presence = readings[0] if readings else np.zeros(adc.array.shape, dtype=bool)
        write_nifti(labels / f"{case.case_id}.nii.gz", presence.astype(np.uint8), adc.affine)
