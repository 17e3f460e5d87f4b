"""Another method's predictions → a folder of tumor maps, so that one evaluation scores them all.

A prediction is one NIfTI per case, named by the case ID: a label map (whole numbers), or probabilities in [0, 1]. It
must lie on the ADC map's own grid; nothing is resampled. The map is the measured ADC where the label, or the
probability, says tumor. A probability's threshold is fixed on predictions of validation cases where there are any
(`inference.threshold`), else it is even odds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.inference.threshold import case_curve, choose_threshold
from diffusion_adc.inference.tumor_map import build_tumor_map, usable_voxels
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort
from diffusion_adc.records.nifti import read_nifti

EVEN: Final = 0.5
LEVELS: Final = tuple(round(0.02 * n, 2) for n in range(1, 50))
_SAME_GRID_MM: Final = 1e-3
Progress = Callable[[int, int], None]


@dataclass
class IngestedMaps:
    """What came in.

    Attributes:
        written: Case IDs with a map.
        refused: One sentence per refused case, by case ID.
        tau: Threshold of probabilities; None for label maps.
    """

    written: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    tau: float | None = None


def ingest_maps(
    folder: Path,
    cohort_dir: Path,
    out: Path,
    *,
    method: str,
    split: str = "test",
    label_values: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> IngestedMaps:
    """Read a folder of predictions.

    Args:
        folder: ``<case_id>.nii.gz`` or ``.nii`` each.
        cohort_dir: The cohort they were made for.
        out: MAPS; new, or earlier maps of the same method.
        method: Its id in tables, such as ``nnunet``.
        split: train, val, test or all: the cases that are looked for; each must have a prediction or is refused.
        label_values: Labels that mean tumor; every label above 0 by default.
        progress: Called with (done, total).

    Raises:
        UsageError: No prediction for any case of the split, a method that is no name, or OUT holds other maps.
        CohortError: The cohort is damaged.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}", method, re.ASCII):
        raise UsageError("an id of a method that is no name", "up to 32 of A-Z a-z 0-9 . _ + -")
    cohort = read_cohort(cohort_dir)
    cases = sorted(cohort.cases if split == "all" else cohort.split(split), key=lambda case: case.case_id)
    found = {case.case_id: path for case in cases if (path := _file(folder, case.case_id)) is not None}
    if not found:
        raise UsageError(
            f"no prediction of a case of the split {split} in {folder.name}", "files named CASE_ID.nii.gz",
            "check the folder and --split",
        )  # fmt: skip
    if out.exists() and any(out.iterdir()) and files.read_maps_manifest(out).get("id") != method:
        raise UsageError(f"{out.name} holds other maps", "an empty place", "choose another --out")
    report = IngestedMaps()
    soft = any(_is_soft(read_nifti(path).array) for path in list(found.values())[:3])
    validation = [case for case in cohort.split("val") if case.has_target or case.tumor_status == "absent"]
    tau, fitted = _threshold(folder, cohort_dir, validation) if soft else (EVEN, 0)
    report.tau = tau if soft else None
    manifest: dict[str, Any] = {
        "id": method, "run": method, "values": "measured", "command": "ingest-maps", "split": split,
        "cohort_digest": cohort.digest, "provenance": cohort.provenance,
        "cases": [case.case_id for case in cases], "draws": 0, "tau": tau, "lesion_tau": 0.0,
        "threshold_cases": fitted,
        "thresholds_fitted_on_these_cases": bool(fitted) and split in ("val", "all"), "research_use_only": True,
    }  # fmt: skip
    files.write_maps_manifest(out, {**manifest, "complete": False, "refused": {}})
    for number, case in enumerate(cases, start=1):
        try:
            if case.case_id not in found:
                raise CaseError(
                    "no prediction", f"{case.case_id}.nii.gz", "predict it", research_id=case.research_id
                )
            path = found[case.case_id]
            _write(out, cohort_dir, case, path, tau, soft, label_values, method)
            report.written.append(case.case_id)
        except CaseError as error:
            report.refused[case.case_id] = str(error)
        if progress is not None:
            progress(number, len(cases))
    files.write_maps_manifest(out, {**manifest, "complete": True, "refused": report.refused})
    return report


def _file(folder: Path, case_id: str) -> Path | None:
    for ending in (".nii.gz", ".nii"):
        path = folder / f"{case_id}{ending}"
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    return None


def _is_soft(array: NDArray[np.generic]) -> bool:
    values = np.asarray(array, dtype=np.float64)
    return bool(np.any(values != np.round(values)))


def _prediction(
    path: Path, adc: NDArray[np.generic], affine: NDArray[np.floating], case: Case
) -> NDArray[np.float32]:
    volume = read_nifti(path, np.float32, research_id=case.research_id)
    array = np.asarray(volume.array, dtype=np.float32)
    if array.shape != adc.shape or not np.allclose(volume.affine, affine, atol=_SAME_GRID_MM):
        raise CaseError(
            f"a prediction on another grid ({'×'.join(map(str, array.shape))} voxels)",
            f"the ADC map's own grid ({'×'.join(map(str, adc.shape))} voxels, same affine)",
            "predict on the exported images", code="S20", research_id=case.research_id,
        )  # fmt: skip
    if not np.isfinite(array).all() or array.min(initial=0) < 0:
        raise CaseError(
            "a prediction with negative or non-finite values", "labels or probabilities",
            "export it again", code="S22", research_id=case.research_id,
        )  # fmt: skip
    return array


def _threshold(folder: Path, cohort_dir: Path, cases: Sequence[Case]) -> tuple[float, int]:
    """The threshold of probabilities and the number of validation cases behind it."""
    curves = []
    for case in cases:
        path = _file(folder, case.case_id)
        if path is None:
            continue
        adc = load_volume(cohort_dir, case, seq.ADC)
        usable = usable_voxels(
            np.asarray(adc.array, np.float32), load_volume(cohort_dir, case, seq.VALID).array
        )
        score = _prediction(path, adc.array, adc.affine, case)
        readings = presence_readings(cohort_dir, case) or [np.zeros(score.shape, dtype=bool)]
        curves.append(case_curve(score, readings, usable, voxel_volume_ml(adc.affine), LEVELS))
    if not any(curve.reference.any() for curve in curves):
        return EVEN, 0
    return choose_threshold(curves, LEVELS)[0], len(curves)


def _write(
    out: Path,
    cohort_dir: Path,
    case: Case,
    path: Path,
    tau: float,
    soft: bool,
    label_values: Sequence[int] | None,
    method: str,
) -> None:
    adc = load_volume(cohort_dir, case, seq.ADC)
    values = np.asarray(adc.array, dtype=np.float32)
    array = _prediction(path, values, adc.affine, case)
    if soft:
        if array.max(initial=0) > 1:
            raise CaseError("a probability above 1", "0 to 1", code="S22", research_id=case.research_id)
        probability = array
    else:
        wanted = array > 0 if label_values is None else np.isin(array, list(label_values))
        probability = wanted.astype(np.float32)
    usable = load_volume(cohort_dir, case, seq.VALID).array
    tumor_map = build_tumor_map(
        values, usable, adc.affine, (probability >= tau)[..., None], probability, tau, case.declared,
        deterministic=True,
    )  # fmt: skip
    volumes = {name: volume for name, volume in tumor_map.volumes().items() if name != files.BASE_PROBABILITY}
    record = {
        "case_id": case.case_id,
        "run": method,
        "prediction_sha256": sha256_file(path),
        "research_use_only": True,
        **tumor_map.record(),
    }
    files.write_map_case(out, case.case_id, volumes, tumor_map.affine, tumor_map.lesions.rows, record)
