"""Public sets' folders become cases with the right files, IDs and declarations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake.layouts import CaseFiles, find
from diffusion_adc.intake.metaimage import read_metaimage
from diffusion_adc.intake.options import IngestOptions

REAL = Path(os.environ.get("DIFFUSION_ADC_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def cases(root: Path, layout: str, **options: Any) -> dict[str, CaseFiles]:
    return {
        f"{case.research_id}_{case.exam_order:02d}": case
        for case in find(root, layout, IngestOptions(layout=layout, **options))
    }


def picai(root: Path) -> None:
    for person, study in (("10000", "1000000"), ("11054", "1001074"), ("11054", "1001075")):
        stem = f"images/fold0/{person}/{person}_{study}"
        touch(root, *(f"{stem}_{kind}.mha" for kind in ("adc", "hbv", "t2w", "cor", "sag")))
    labels = "picai_labels/csPCa_lesion_delineations"
    touch(
        root, f"{labels}/human_expert/original/10000_1000000.nii.gz", f"{labels}/human_expert/resampled/10000_1000000.nii.gz",
        f"{labels}/human_expert/resampled/11054_1001075.nii.gz", f"{labels}/AI/Bosma22a/11054_1001074.nii.gz",
        "picai_labels/clinical_information/marksheet.csv",
    )  # fmt: skip


def test_picai(tmp_path: Path) -> None:
    picai(tmp_path)
    found = cases(tmp_path, "picai")
    assert sorted(found) == ["PICAI-10000_01", "PICAI-11054_01", "PICAI-11054_02"]
    first = found["PICAI-10000_01"]
    assert {name: path.name for name, path in first.images.items()} == {
        "adc": "10000_1000000_adc.mha", "dwi_high": "10000_1000000_hbv.mha", "t2w": "10000_1000000_t2w.mha"
    }  # fmt: skip
    assert first.files[seq.TUMOR_LABEL].parent.name == "original"
    assert found["PICAI-11054_02"].files[seq.TUMOR_LABEL].parent.name == "resampled"
    assert not found["PICAI-11054_01"].targets, "an AI is no reader"
    declared = first.declared(IngestOptions(layout="picai"))
    assert (declared.adc_unit, declared.label_values, declared.target_resample) == ("1e-6", "1-5", "nearest")
    assert declared.allow_missing == ("t1w", "dwi_low")
    assert declared.b_values == {"dwi_high": "unknown"}
    assert declared.tumor_free_ok


def test_the_users_word_goes_before_the_sets(tmp_path: Path) -> None:
    picai(tmp_path)
    options = IngestOptions(layout="picai", adc_unit="1e-3", b_values={"dwi_high": "1400"}, id_prefix="PX")
    (first, *_) = find(tmp_path, "picai", options)
    assert first.research_id == "PX-10000"
    declared = first.declared(options)
    assert (declared.adc_unit, declared.b_value(seq.DWI_HIGH)) == ("1e-3", 1400.0)


def test_prostate158(tmp_path: Path) -> None:
    for number in ("020", "021", "022"):
        touch(tmp_path, *(f"train/{number}/{n}.nii.gz" for n in ("t2", "adc", "dwi", "t2_anatomy_reader1")))
    touch(tmp_path, "train/020/adc_tumor_reader1.nii.gz", "train/020/adc_tumor_reader2.nii.gz")
    touch(tmp_path, "train/021/adc_tumor_reader1.nii.gz", "train/022/empty.nii.gz", "train.csv")
    found = cases(tmp_path, "prostate158")
    assert sorted(found) == ["PROSTATE-020_01", "PROSTATE-021_01", "PROSTATE-022_01"]
    both = found["PROSTATE-020_01"]
    assert list(both.readers) == ["R1", "R2"]
    assert not both.targets
    assert found["PROSTATE-021_01"].files[seq.TUMOR_LABEL].name == "adc_tumor_reader1.nii.gz"
    assert found["PROSTATE-022_01"].files[seq.TUMOR_LABEL].name == "empty.nii.gz"
    assert both.files[seq.T2W].name == "t2.nii.gz"


def test_isles22(tmp_path: Path) -> None:
    for person in ("0001", "0002"):
        stem = f"ISLES-2022/sub-strokecase{person}/ses-0001"
        name = f"sub-strokecase{person}_ses-0001"
        touch(
            tmp_path,
            f"{stem}/dwi/{name}_dwi.nii.gz",
            f"{stem}/dwi/{name}_adc.nii.gz",
            f"{stem}/anat/{name}_FLAIR.nii.gz",
        )
        touch(tmp_path, f"ISLES-2022/derivatives/sub-strokecase{person}/ses-0001/{name}_msk.nii.gz")
    found = cases(tmp_path, "isles22")
    assert sorted(found) == ["strokecase0001_01", "strokecase0002_01"]
    case = found["strokecase0001_01"]
    assert set(case.files) == {"adc", "dwi_high", "tumor_label"}
    assert case.declared(IngestOptions(layout="isles22")).allow_missing == ("t1w", "t2w", "dwi_low")


def test_ucsf_pdgm(tmp_path: Path) -> None:
    for name in ("UCSF-PDGM-0004", "UCSF-PDGM-0431", "UCSF-PDGM-0431_FU001d"):
        kinds = (
            "T1",
            "T1_bias",
            "T1c",
            "T2",
            "FLAIR",
            "DWI",
            "ADC",
            "tumor_segmentation",
            "brain_segmentation",
        )
        touch(tmp_path, *(f"UCSF-PDGM-v5/{name}_nifti/{name}_{kind}.nii.gz" for kind in kinds))
    found = cases(tmp_path, "ucsf_pdgm")
    assert sorted(found) == ["UCSFPDGM-0004_01", "UCSFPDGM-0431_01", "UCSFPDGM-0431_02"]
    case = found["UCSFPDGM-0431_02"]
    assert case.files[seq.T1W].name == "UCSF-PDGM-0431_FU001d_T1.nii.gz"
    assert set(case.files) == {"t1w", "t2w", "dwi_high", "adc", "tumor_label"}
    assert case.label_values == "1,2,4"


def nnunet(root: Path, channels: dict[str, str], labels: dict[str, Any], names: tuple[str, ...]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    described = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    for name in names:
        touch(root, *(f"imagesTr/{name}_{int(n):04d}.nii.gz" for n in channels), f"labelsTr/{name}.nii.gz")


def test_nnunet(tmp_path: Path) -> None:
    channels = {"0": "T2", "1": "ADC", "2": "DWI_b800", "3": "b50", "4": "noNorm"}
    labels = {"background": 0, "gland": 1, "Tumor": 3}
    nnunet(tmp_path / "Dataset007", channels, labels, ("PROSTATE_114", "PROSTATE_114_02", "x_1"))
    touch(tmp_path, "Dataset007/imagesTs/PROSTATE_115_0001.nii.gz")
    found = cases(tmp_path, "nnunet")
    assert {"PROSTATE-114_01", "PROSTATE-114_02", "PROSTATE-115_01"} < set(found)
    case = found["PROSTATE-114_01"]
    assert {name: path.name[-11:-7] for name, path in case.images.items()} == {
        "t2w": "0000", "adc": "0001", "dwi_high": "0002", "dwi_low": "0003"
    }  # fmt: skip
    assert case.b == {"dwi_high": "800", "dwi_low": "50"}
    assert (case.label_values, case.other_labels) == ("3", "1")
    assert cases(tmp_path, "nnunet", label_values="1")["PROSTATE-114_01"].other_labels == "3"
    assert case.never == ("t1w",)
    (odd,) = (c for c in found.values() if not c.research_id)
    with pytest.raises(CaseError) as caught:
        odd.declared(IngestOptions(layout="nnunet"))
    assert caught.value.code == "X8"


@pytest.mark.parametrize(
    ("channels", "labels"),
    [
        ({"0": "T2"}, {"tumor": 1}),
        ({"0": "ADC", "1": "adc"}, {"tumor": 1}),
        ({"0": "ADC", "1": "DWI"}, {"a": 1, "b": 2}),
    ],
)
def test_a_description_that_does_not_decide_is_refused(
    tmp_path: Path, channels: dict[str, str], labels: dict[str, Any]
) -> None:
    nnunet(tmp_path, channels, labels, ("CASE_001",))
    with pytest.raises(UsageError):
        cases(tmp_path, "nnunet")


def test_names_say_what_a_channel_is(tmp_path: Path) -> None:
    nnunet(tmp_path, {"0": "map", "1": "trace", "2": "DWI"}, {"tumor": 1}, ("CASE_001",))
    (case,) = cases(tmp_path, "nnunet", names={"adc": "map", "dwi_high": "trace"}).values()
    assert {name: path.name[-11:-7] for name, path in case.images.items()} == {
        "adc": "0000",
        "dwi_high": "0001",
    }


@pytest.mark.parametrize("layout", ["picai", "prostate158", "isles22", "ucsf_pdgm", "nnunet"])
def test_another_folder_is_no_public_set(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, "CASE-001/adc.nii.gz")
    with pytest.raises(UsageError) as caught:
        cases(tmp_path, layout)
    assert str(tmp_path.parent) not in str(caught.value)


def test_links_out_of_the_source_are_not_followed(tmp_path: Path) -> None:
    picai(tmp_path / "elsewhere")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "images").symlink_to(tmp_path / "elsewhere" / "images")
    with pytest.raises(UsageError):
        cases(tmp_path / "source", "picai")


needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the private test data are not here")


@needs_real
def test_real_picai_crops() -> None:
    (case,) = cases(REAL / "picai_pair", "picai").values()
    assert case.research_id == "PICAI-10021"
    label = nib.load(case.files[seq.TUMOR_LABEL])
    adc = nib.load(case.files[seq.ADC])
    kept = np.asarray(label.dataobj) > 0
    assert kept.sum() * np.prod(label.header.get_zooms()) / 1000 == pytest.approx(8.73, abs=0.01)
    assert np.median(np.asarray(adc.dataobj)[kept]) == pytest.approx(704, abs=1)


@needs_real
def test_real_isles22() -> None:
    (case,) = cases(REAL / "isles22", "isles22").values()
    assert case.research_id == "strokecase0009"
    label = nib.load(case.files[seq.TUMOR_LABEL])
    kept = np.asarray(label.dataobj) > 0
    assert kept.sum() == 523
    assert np.median(np.asarray(nib.load(case.files[seq.ADC]).dataobj)[kept]) == pytest.approx(0.59, abs=0.01)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_metaimage_as_another_reader_sees_it(tmp_path: Path, compressed: bool, dtype: Any) -> None:
    array = np.random.default_rng(0).integers(0, 200, (7, 6, 5)).astype(dtype)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.7, 3.0))
    image.SetOrigin((-10.0, 20.0, 5.5))
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    path = tmp_path / "a.mha"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    stored = read_metaimage(path)
    assert np.array_equal(stored.values(), array.transpose(2, 1, 0))
    for index in ((0, 0, 0), (4, 5, 6), (1, 0, 3)):
        lps = image.TransformIndexToPhysicalPoint(index)
        assert (stored.affine @ (*index, 1))[:3] == pytest.approx((-lps[0], -lps[1], lps[2]))


def test_a_damaged_metaimage_is_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    good = path.read_bytes()
    start = good.index(b"LOCAL\n") + 6
    rng = np.random.default_rng(1)
    for _ in range(60):
        bad = bytearray(good)
        bad[int(rng.integers(start, len(good)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(CaseError, match="S25"):
            read_metaimage(path)
    for bad_bytes in (good[:-3], good + b"more", good[: start - 20], b"", good.replace(b"LOCAL", b"a.raw")):
        path.write_bytes(bad_bytes)
        with pytest.raises(CaseError, match="S25"):
            read_metaimage(path)
    path.write_bytes(good.replace(b"DimSize = 7 8 9", b"DimSize = 32767 32767 32767"))
    with pytest.raises(CaseError, match="S29"):
        read_metaimage(path)
