"""A real examination out and back in: ingested from DICOM, a human lesion as its map, exported, read again."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.export.dicom import export_dicom
from diffusion_adc.inference.tumor_map import build_tumor_map
from diffusion_adc.intake.ingest import IngestOptions, ingest
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.maps import read_map_record, write_map_case, write_maps_manifest

from .conftest import CHECKPOINT
from .test_dicom_out import by_position, groups, numbers

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", ROOT.parent / "shared" / "data"))
PERSON = REAL / "prostatex" / "ProstateX-0000"


@pytest.mark.skipif(not PERSON.is_dir(), reason="real data absent: set DIFFUSION_ADC_REAL_DATA to its folder")
def test_prostatex_goes_out_as_it_came_in(tmp_path: Path) -> None:
    shutil.copytree(PERSON / "dicom", tmp_path / "in" / "ProstateX-0000")
    cohort_dir, maps, out = tmp_path / "cohort", tmp_path / "maps", tmp_path / "out"
    options = IngestOptions(
        layout="dicom", allow_missing=("t1w", "tumor_label"), provenance="public", register="none"
    )
    taken = ingest(tmp_path / "in", cohort_dir, options)
    assert not taken.refused, taken.refused
    cohort = read_cohort(cohort_dir)
    (case,) = cohort.cases
    adc = load_volume(cohort_dir, case, seq.ADC)

    # The published lesion (on the T2w grid) at the ADC voxels' centers, nearest neighbor.
    lesion = nib.load(PERSON / "masks" / "lesion_human.nii.gz")
    index = np.indices(adc.array.shape).reshape(3, -1)
    to_mask = np.linalg.inv(lesion.affine) @ adc.affine
    near = np.rint(to_mask[:3, :3] @ index + to_mask[:3, 3:]).astype(int)
    inside = ((near >= 0) & (near < np.array(lesion.shape)[:, None])).all(axis=0)
    presence = np.zeros(index.shape[1], dtype=bool)
    presence[inside] = np.asarray(lesion.dataobj)[tuple(near[:, inside])] > 0
    presence = presence.reshape(adc.array.shape)
    assert presence.sum() == 26

    draws = np.repeat(presence[..., None], 9, axis=-1).astype(np.uint8)
    draws[..., 6:] &= np.random.default_rng(0).random(presence.shape)[..., None] < 0.7
    valid = load_volume(cohort_dir, case, seq.VALID).array
    tumor_map = build_tumor_map(adc.array, valid, adc.affine, draws, draws.mean(axis=-1), tau=0.5)
    about = {"run": "by hand", "checkpoint_sha256": CHECKPOINT, "seed": 1, "steps": 1}
    record = {"case_id": case.case_id, **about, **tumor_map.record()}
    write_map_case(maps, case.case_id, tumor_map.volumes(), adc.affine, tumor_map.lesions.rows, record)
    write_maps_manifest(maps, {**about, "cohort_digest": cohort.digest, "provenance": "public"})

    report = export_dicom(maps, cohort_dir, out, reference=PERSON / "dicom")
    assert not report.refused, report.refused
    assert report.rows[0]["source"] == "as ingested, checked against --reference"
    folder = out / case.case_id

    sources = {
        tuple(map(float, ds.ImagePositionPatient)): ds
        for ds in (pydicom.dcmread(p) for p in (PERSON / "dicom").rglob("*7.000000*/*") if p.is_file())
    }
    exported = [pydicom.dcmread(path) for path in sorted((folder / "adc_series").iterdir())]
    assert len(exported) == len(sources) == 19
    kept = []
    for ds in exported:
        source = sources[tuple(map(float, ds.ImagePositionPatient))]
        for name in ("ImageOrientationPatient", "PixelSpacing"):
            assert list(map(float, ds[name].value)) == list(map(float, source[name].value))
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
            assert ds[name].value == source[name].value
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        inside_tumor = ds.pixel_array >= 0
        assert np.array_equal(ds.pixel_array[inside_tumor], source.pixel_array[inside_tumor])
        kept.append(source.pixel_array[inside_tumor])
    values = np.concatenate(kept)
    assert values.size == 26

    reference = type("Positions", (), {"positions_mm": list(sources)})
    floats = by_position(folder / "adc_map.dcm", reference)  # type: ignore[arg-type]
    for (_, k), frame in floats.items():
        ds = next(d for d in exported if tuple(map(float, d.ImagePositionPatient)) == list(sources)[k])
        inside_tumor = ds.pixel_array >= 0
        assert np.array_equal(frame > 0, inside_tumor)
        assert np.allclose(frame[inside_tumor] * 1e6, ds.pixel_array[inside_tumor], rtol=1e-6)
    masks = by_position(folder / "segmentation.dcm", reference, segments=True)  # type: ignore[arg-type]
    assert sum(int(mask.sum()) for mask in masks.values()) == 26

    *lesions, whole = groups(pydicom.dcmread(folder / "report.dcm"))
    with (maps / case.case_id / "lesions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(lesions) == len(rows) == 1
    found = numbers(lesions[0])
    assert found["118565006", "DRAWS_MEDIAN"] == (float(rows[0]["volume_ml"]), "mL")
    assert found["118565006", ""][0] == pytest.approx(26 * 2 * 2 * 3 / 1000, rel=1e-3)
    assert found["113041", "373099004"][0] == pytest.approx(1000 * float(rows[0]["adc_median"]), abs=1e-9)
    assert found["113041", "373098007"][0] == pytest.approx(values.mean(), abs=0.01)
    assert round(found["113041", "373098007"][0]) == 1134  # the published figures of this lesion
    assert round(found["113041", "373099004"][0]) == 1052
    assert numbers(whole)["118565006", ""][0] == read_map_record(maps, case.case_id)["tdv_ml"]["map"]

    if shutil.which("dciodvfy"):
        for path in sorted(folder.rglob("*.dcm")):
            run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
            assert not [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]
