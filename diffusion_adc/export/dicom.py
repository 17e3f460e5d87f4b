"""Tumor maps → DICOM: a derived MR series, a float map, two segmentations and a report per case."""

from __future__ import annotations

import csv
import datetime as dt
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CaseError, CohortError, DiffusionAdcError, UsageError
from diffusion_adc.export.parametric import parametric_map
from diffusion_adc.export.reference import ReferenceFolder, placement
from diffusion_adc.export.report import structured_report
from diffusion_adc.export.segmentation import binary_segmentation, fractional_segmentation
from diffusion_adc.export.series import mr_series
from diffusion_adc.export.sources import Outgoing
from diffusion_adc.inference.lesions import connected_components
from diffusion_adc.inference.tumor_map import check_selection
from diffusion_adc.records import maps as map_files
from diffusion_adc.records.atomic import replacing_folder, sha256_file, write_json
from diffusion_adc.records.cohort import load_volume, read_cohort
from diffusion_adc.records.dicom_reference import DicomReference, read_dicom_reference
from diffusion_adc.records.nifti import Volume

MANIFEST: Final = "export.json"
MR_SERIES: Final = "adc_series"
PARAMETRIC_MAP: Final = "adc_map.dcm"
SEGMENTATION: Final = "segmentation.dcm"
PROBABILITY: Final = "probability.dcm"
REPORT: Final = "report.dcm"
Progress = Callable[[int, int], None]


@dataclass
class ExportReport:
    """What went out.

    Attributes:
        rows: One per case: case, lesions, objects, how its source was found.
        refused: One sentence per refused case.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The rows as tab-separated text, then the refusals."""
        columns = ("case", "lesions", "objects", "source")
        lines = ["\t".join(columns), *("\t".join(str(row[name]) for name in columns) for row in self.rows)]
        return "\n".join([*lines, *(f"refused: {message}" for message in self.refused)])


def export_dicom(
    maps: Path,
    cohort: Path,
    out: Path,
    *,
    reference: Path | None = None,
    cases: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write each map as DICOM objects of the study that its ADC map came from.

    OUT/<case_id>/ then holds ``adc_series/*.dcm``, ``adc_map.dcm``, ``segmentation.dcm``, ``probability.dcm``
    (not for maps without draws) and ``report.dcm``; OUT/export.json names run, checkpoint and every file's hash.
    A case's folder appears whole or not at all. The same map gives the same files.

    Args:
        maps: Folder with maps.json.
        cohort: The cohort the maps were drawn for.
        out: Empty, missing, or an earlier export.
        reference: Folder with the ADC series in DICOM. Checks the UIDs that intake kept; needed for a case from
            NIfTI, which must be found there voxel for voxel.
        cases: Case IDs; all of the maps if None.
        progress: Called with (done, total).

    Raises:
        UsageError: A folder does not hold what it should, or a case ID has no map.
        CohortError: The cohort is damaged.
        DiffusionAdcError: The disk is full or OUT cannot be written.
    """
    manifest = map_files.read_maps_manifest(maps)
    held = read_cohort(cohort)
    known = {case.case_id: case for case in held.cases}
    chosen = _chosen(maps, cases)
    _check_out(out)
    folder = None if reference is None else ReferenceFolder(_folder(reference))
    report, written = ExportReport(), {}
    for done, case_id in enumerate(chosen, start=1):
        try:
            if case_id not in known:
                raise CaseError(
                    f"{case_id} is not in the cohort", "a case of it", "export it with its cohort"
                )
            case = known[case_id]
            outgoing, how = _outgoing(maps, cohort, case, manifest, folder)
            written[case_id] = _write(out, outgoing)
            report.rows.append(
                {
                    "case": case_id,
                    "lesions": len(outgoing.lesions),
                    "objects": len(written[case_id]),
                    "source": how,
                }
            )
        except (CaseError, CohortError) as error:
            report.refused.append(str(error))
        if progress is not None:
            progress(done, len(chosen))
    about = {name: manifest.get(name) for name in ("run", "checkpoint_sha256", "cohort_digest", "provenance")}
    if written:
        write_json(out / MANIFEST, {**about, "cases": _earlier(out) | written, "research_use_only": True})
    return report


def _chosen(maps: Path, cases: Sequence[str] | None) -> list[str]:
    drawn = map_files.map_case_ids(maps)
    missing = sorted(set(cases or ()) - set(drawn))
    if missing or not drawn:
        raise UsageError(
            f"no map of {missing[0]}" if missing else "no map in the folder", "a case that was drawn",
            "draw it or choose another",
        )  # fmt: skip
    return drawn if cases is None else sorted(set(cases))


def _check_out(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise UsageError(f"{out.name} already holds something else", "an empty place", "choose another OUT")


def _folder(reference: Path) -> Path:
    if not reference.is_dir():
        raise UsageError(f"no folder {reference.name}", "a folder with DICOM files", "check --reference")
    return reference


def _earlier(out: Path) -> dict[str, Any]:
    """The cases of an earlier export into the same place whose folders are still there."""
    try:
        cases = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["cases"]
        return {case_id: files for case_id, files in cases.items() if (out / case_id).is_dir()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _outgoing(
    maps: Path, cohort: Path, case: Case, manifest: Mapping[str, Any], folder: ReferenceFolder | None
) -> tuple[Outgoing, str]:
    refused = _Refused(case.research_id)
    adc = load_volume(cohort, case, seq.ADC)
    record = map_files.read_map_record(maps, case.case_id)
    tumor_adc = map_files.read_map_volume(maps, case.case_id, map_files.TUMOR_ADC)
    drawn = map_files.PROBABILITY in record.get("sha256", {})
    probability = (
        map_files.read_map_volume(maps, case.case_id, map_files.PROBABILITY)
        if drawn
        else Volume((tumor_adc.array != 0).astype(np.float32), tumor_adc.affine)
    )
    _check_map(tumor_adc, probability, adc, refused)
    source, how = _source(cohort, case, adc, folder, refused)
    where = placement(adc.affine, adc.array.shape, source)
    if where is None:
        raise refused(
            "S20", "a DICOM reference on another grid", "the ADC map's own", "ingest the case again"
        )
    labels = connected_components(tumor_adc.array != 0)
    lesions = _lesions(maps, case.case_id, labels, tumor_adc.array, refused)
    moment = (maps / case.case_id / "case.json").stat().st_mtime
    return Outgoing(
        case_id=case.case_id,
        research_id=case.research_id,
        reference=source,
        tumor_adc=where.frames(tumor_adc.array),
        probability=where.frames(probability.array),
        labels=where.frames(labels),
        lesions=lesions,
        record=record,
        manifest=manifest,
        has_probability=drawn,
        drawn=dt.datetime.fromtimestamp(int(moment), dt.UTC),
    ), how


class _Refused:
    """Makes the refusal of one case."""

    def __init__(self, research_id: str) -> None:
        self.research_id = research_id

    def __call__(self, code: str, found: str, expected: str, do: str) -> CaseError:
        return CaseError(found, expected, do, code=code, research_id=self.research_id, sequence=seq.TUMOR_ADC)


def _check_map(tumor_adc: Volume, probability: Volume, adc: Volume, refused: _Refused) -> None:
    """Nothing but measured values goes out: no NaN, no other grid, no value that the scanner did not give."""
    for volume in (tumor_adc, probability):
        if volume.array.shape != adc.array.shape or not np.array_equal(volume.affine, adc.affine):
            raise refused("S20", "a tumor map on another grid", "the ADC map's own", "draw it again")
        if not np.isfinite(volume.array).all():
            raise refused("S18", "NaN or infinity in the tumor map", "finite values", "draw it again")
    if probability.array.min(initial=0) < 0 or probability.array.max(initial=0) > 1:
        raise refused("S22", "a probability outside 0 to 1", "a share of draws", "draw it again")
    try:
        check_selection(tumor_adc.array, adc.array)
    except DiffusionAdcError as error:
        raise refused("S23", error.found, "0 or the measured value", "do not use this map") from None
    if (tumor_adc.array < 0).any():
        raise refused("S17", "a negative ADC in the tumor map", "positive values", "draw it again")


def _source(
    cohort: Path, case: Case, adc: Volume, folder: ReferenceFolder | None, refused: _Refused
) -> tuple[DicomReference, str]:
    recorded = read_dicom_reference(cohort, case.case_id)
    if recorded is not None:
        if folder is None:
            return recorded, "as ingested"
        if folder.holds(recorded):
            return recorded, "as ingested, checked against --reference"
    if folder is None:
        raise refused(
            "S01", "a case that did not come from DICOM", "the ADC series in DICOM",
            "give its folder with --reference",
        )  # fmt: skip
    found = folder.same_map(adc.array, adc.affine)
    if len(found) != 1:
        raise refused(
            "S20" if not found else "S05",
            "no series below --reference has this ADC map's voxels and values" if not found
            else f"{len(found)} series below --reference are this very ADC map",
            "exactly one", "give the folder of the series that was converted",
        )  # fmt: skip
    return found[0], "found below --reference by voxels and values"


def _lesions(
    maps: Path, case_id: str, labels: NDArray[np.int32], tumor_adc: NDArray[np.float32], refused: _Refused
) -> tuple[dict[str, str], ...]:
    """lesions.csv, each row proven to speak of the lesion of its number."""
    bad = ("S25", "lesions.csv does not fit the tumor map", "one row per lesion, as drawn", "draw it again")
    try:
        with (maps / case_id / "lesions.csv").open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = tuple(reader)
        if tuple(reader.fieldnames or ()) != map_files.LESION_COLUMNS:
            raise refused(*bad)
        if [int(row["lesion"]) for row in rows] != list(range(1, int(labels.max(initial=0)) + 1)):
            raise refused(*bad)
        for row in rows:
            median = float(np.median(tumor_adc[labels == int(row["lesion"])].astype(np.float64)))
            if not abs(float(row["adc_median"]) - median) <= 1e-5:
                raise refused(*bad)
    except (OSError, ValueError, TypeError, csv.Error):
        raise refused(*bad) from None
    return rows


def _write(out: Path, outgoing: Outgoing) -> dict[str, str]:
    """Write one case's objects; SHA-256 by file name."""
    with warnings.catch_warnings():
        # A research ID is no person's name, as the library rightly remarks.
        warnings.filterwarnings(
            "ignore", message="The string .* is unlikely to represent", category=UserWarning
        )
        objects = _objects(outgoing)
    with replacing_folder(out / outgoing.case_id) as folder:
        (folder / MR_SERIES).mkdir()
        for name, dataset in objects.items():
            dataset.save_as(folder / name, enforce_file_format=True)
        return {name: sha256_file(folder / name) for name in objects}


def _objects(outgoing: Outgoing) -> dict[str, Dataset]:
    objects = {f"{MR_SERIES}/{k:03d}.dcm": dataset for k, dataset in enumerate(mr_series(outgoing), start=1)}
    objects[PARAMETRIC_MAP] = parametric_map(outgoing)
    segmentation = objects[SEGMENTATION] = binary_segmentation(outgoing)
    if outgoing.has_probability:
        objects[PROBABILITY] = fractional_segmentation(outgoing)
    objects[REPORT] = structured_report(outgoing, segmentation)
    return objects
