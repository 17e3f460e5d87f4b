"""Another method's predictions in, and the cohort out to nnU-Net."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffusion_adc.cli import main
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.export.nnunet import export_nnunet
from diffusion_adc.inference.foreign import ingest_maps
from diffusion_adc.intake.layout_nnunet import nnunet_cases
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort
from diffusion_adc.records.maps import map_case_ids, read_map_record, read_map_volume, read_maps_manifest
from diffusion_adc.records.nifti import read_nifti, write_nifti


def readers_as_predictions(cohort_dir: Path, folder: Path, split: str = "test", soft: bool = False) -> None:
    cohort = read_cohort(cohort_dir)
    for case in cohort.split(split):
        adc = load_volume(cohort_dir, case, seq.ADC)
        reading = presence_readings(cohort_dir, case)[0]
        array = reading * np.float32(0.3) + np.float32(0.01) if soft else reading.astype(np.uint8)
        write_nifti(folder / f"{case.case_id}.nii.gz", array, adc.affine)


def test_a_reader_s_labels_come_back_as_the_reader_s_map(tiny_cohort: Path, tmp_path: Path) -> None:
    readers_as_predictions(tiny_cohort, tmp_path / "labels")
    out = tmp_path / "maps"
    words = [
        "ingest-maps",
        str(tmp_path / "labels"),
        "--cohort",
        str(tiny_cohort),
        "--out",
        str(out),
        "--id",
        "nnunet",
    ]
    assert main(words) == 0
    manifest = read_maps_manifest(out)
    assert manifest["id"] == "nnunet"
    assert manifest["complete"] is True
    cohort = read_cohort(tiny_cohort)
    for case in cohort.split("test"):
        written = read_map_volume(out, case.case_id, "tumor_adc").array
        assert np.array_equal(written, load_volume(tiny_cohort, case, seq.TUMOR_ADC).array)
        assert set(read_map_record(out, case.case_id)["sha256"]) == {"tumor_adc", "probability"}
    assert main(["evaluate", str(out), "--cohort", str(tiny_cohort)]) == 0
    scores = json.loads((out / "scores.json").read_text())["model"]
    assert scores["dice"]["value"] == pytest.approx(1)
    assert scores["value_violations"]["value"] == 0


def test_probabilities_are_cut_where_validation_says(tiny_cohort: Path, tmp_path: Path) -> None:
    for split in ("val", "test"):
        readers_as_predictions(tiny_cohort, tmp_path / "soft", split, soft=True)
    report = ingest_maps(tmp_path / "soft", tiny_cohort, tmp_path / "maps", method="other")
    assert report.tau is not None
    assert 0.01 < report.tau < 0.31
    for case_id in report.written:
        case = next(c for c in read_cohort(tiny_cohort).cases if c.case_id == case_id)
        written = read_map_volume(tmp_path / "maps", case_id, "tumor_adc").array
        assert np.array_equal(written, load_volume(tiny_cohort, case, seq.TUMOR_ADC).array)


def test_another_grid_and_missing_or_senseless_predictions_are_refused(
    tiny_cohort: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labels"
    readers_as_predictions(tiny_cohort, folder)
    first, second = (case.case_id for case in read_cohort(tiny_cohort).split("test"))
    volume = read_nifti(folder / f"{first}.nii.gz", np.uint8)
    moved = volume.affine.copy()
    moved[0, 3] += 2.5
    write_nifti(folder / f"{first}.nii.gz", volume.array, moved)
    report = ingest_maps(folder, tiny_cohort, tmp_path / "maps", method="x")
    assert report.written == [second]
    assert "S20" in report.refused[first]
    assert map_case_ids(tmp_path / "maps") == [second]
    write_nifti(folder / f"{first}.nii.gz", volume.array[:-1], volume.affine)
    assert "S20" in ingest_maps(folder, tiny_cohort, tmp_path / "maps", method="x").refused[first]
    negative = volume.array.astype(np.float32) - 1
    write_nifti(folder / f"{first}.nii.gz", negative, volume.affine)
    assert "S22" in ingest_maps(folder, tiny_cohort, tmp_path / "maps", method="x").refused[first]
    (folder / f"{first}.nii.gz").unlink()
    assert "no prediction" in ingest_maps(folder, tiny_cohort, tmp_path / "maps", method="x").refused[first]
    with pytest.raises(UsageError, match="holds other maps"):
        ingest_maps(folder, tiny_cohort, tmp_path / "maps", method="y")
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no prediction of a case"):
        ingest_maps(tmp_path / "none", tiny_cohort, tmp_path / "new", method="x")
    with pytest.raises(UsageError, match="no name"):
        ingest_maps(folder, tiny_cohort, tmp_path / "new", method="../x")


def test_nnunet_folders_hold_every_person_on_one_side(tiny_cohort: Path, tmp_path: Path) -> None:
    assert main(["export", str(tiny_cohort), "--to", "nnunet", "--out", str(tmp_path / "nn")]) == 0
    raw = tmp_path / "nn/nnUNet_raw/Dataset501_diffusion_adc"
    described = json.loads((raw / "dataset.json").read_text())
    assert described["numTraining"] == 4
    assert described["channel_names"]["0"] == "ADC"
    assert "T1w" not in described["channel_names"].values()  # no case has one
    (fold,) = json.loads(
        (tmp_path / "nn/nnUNet_preprocessed/Dataset501_diffusion_adc/splits_final.json").read_text()
    )
    cohort = read_cohort(tiny_cohort)
    sides = {part: {c.case_id for c in cohort.split(part)} for part in ("train", "val", "test")}
    assert set(fold["train"]) == sides["train"]
    assert set(fold["val"]) == sides["val"]
    assert {p.name[:-12] for p in (raw / "imagesTs").iterdir()} == sides["test"]
    assert {p.name[:-7] for p in (raw / "labelsTr").iterdir()} == sides["train"] | sides["val"]
    # Our own intake reads them back: same sequences, ADC in 1e-6 mm²/s.
    found = nnunet_cases(raw, IngestOptions(layout="nnunet"))
    assert len(found) == 6
    case = cohort.split("train")[0]
    adc = read_nifti(raw / "imagesTr" / f"{case.case_id}_0000.nii.gz").array
    stored = np.asarray(load_volume(tiny_cohort, case, seq.ADC).array)
    np.testing.assert_allclose(adc, stored * 1000, rtol=1e-6)
    with pytest.raises(UsageError, match="already holds"):
        export_nnunet(tiny_cohort, tmp_path / "nn")
    with pytest.raises(UsageError, match="dataset 0"):
        export_nnunet(tiny_cohort, tmp_path / "other", number=0)
