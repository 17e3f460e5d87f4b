"""The numbers as a structured report: TID 1500 with a TID 1411 group per lesion (PS3.16, PS3.3 A.35.13).

What lesions.csv and case.json say is repeated digit for digit, ADC in 1e-6 mm²/s. Statistics that they do not
hold (mean, extremes, spread, shape) are taken over the lesion's voxels in the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.uid import SegmentationStorage

from diffusion_adc import __version__
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.export import codes
from diffusion_adc.export.segmentation import tracking_uid
from diffusion_adc.export.sources import SOFTWARE, WARNING, Outgoing, finish

_PARAMETERS: Final = ("seed", "draws", "steps", "tau")
_SUMMARY: Final = (
    ("median", codes.DRAWS_MEDIAN), ("low80", codes.DRAWS_LOW80), ("high80", codes.DRAWS_HIGH80),
)  # fmt: skip


def structured_report(out: Outgoing, segmentation: Dataset) -> Dataset:
    """The report on one case; partial and unverified until a person has looked at it.

    Args:
        out: The case.
        segmentation: The binary segmentation that its lesion groups refer to.

    Raises:
        CaseError: S25, lesions.csv or case.json hold something that is no number.
    """
    groups = [_lesion(out, row, segmentation) for row in out.lesions]
    observer = ObserverContext(
        standard.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            uid=out.uid("observer"), name=SOFTWARE, manufacturer_name=SOFTWARE, model_name=SOFTWARE
        ),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.MR_IMAGING,
        imaging_measurements=[*groups, _case(out)],
        title=standard.DCM.ImagingMeasurementReport,
    )
    arguments = out.series_arguments("report")
    del (
        arguments["device_serial_number"],
        arguments["manufacturer_model_name"],
        arguments["software_versions"],
    )
    dataset = Comprehensive3DSR(
        evidence=[*out.sources, segmentation],
        content=content[0],
        is_complete=False,
        is_final=False,
        is_verified=False,
        **arguments,
    )
    dataset.ManufacturerModelName, dataset.SoftwareVersions = SOFTWARE, __version__
    return finish(dataset, out)


def _lesion(out: Outgoing, row: Mapping[str, str], segmentation: Dataset) -> Any:
    number = int(row["lesion"])
    values = out.tumor_adc[out.labels == number].astype(np.float64)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking_uid(out, number), f"lesion {number}"),
        referenced_segment=ReferencedSegment(
            SegmentationStorage,
            segmentation.SOPInstanceUID,
            number,
            source_series=SourceSeriesForSegmentation(out.reference.adc_series_uid),
        ),
        finding_category=codes.ABNORMAL,
        finding_type=codes.NEOPLASM,
        algorithm_id=_algorithm(out),
        measurements=[*_lesion_volume(out, row, values.size), *_lesion_adc(out, row, values)],
    )


def _lesion_volume(out: Outgoing, row: Mapping[str, str], voxels: int) -> Iterator[Measurement]:
    voxel_ml = voxel_volume_ml(out.reference.affine)
    yield Measurement(codes.VOLUME, round(voxels * voxel_ml, 6), codes.ML, method=codes.SUM_OF_VOXELS)
    columns = ("volume_ml", "volume_ml_low80", "volume_ml_high80")
    for column, (_, derivation) in zip(columns, _SUMMARY, strict=True):
        if row[column] != "":
            yield Measurement(codes.VOLUME, _number(out, row[column]), codes.ML, derivation=derivation)
    if row["probability"] != "":
        yield Measurement(codes.LESION_PROBABILITY, _number(out, row["probability"]), codes.ONE)


def _lesion_adc(out: Outgoing, row: Mapping[str, str], values: NDArray[np.float64]) -> Iterator[Measurement]:
    listed = (("adc_median", codes.MEDIAN), ("adc_p10", codes.P10), ("adc_p90", codes.P90))
    for column, derivation in listed:
        yield _adc(_number(out, row[column], scale=3), derivation)
    measured = (
        (values.mean(), codes.MEAN), (values.min(), codes.MINIMUM), (values.max(), codes.MAXIMUM),
        (values.std(), codes.STANDARD_DEVIATION),
    )  # fmt: skip
    for value, derivation in measured:
        yield _adc(round(1000 * float(value), 3), derivation)
    spread = values.std()
    if values.size > 2 and spread > 1e-9 * abs(
        values.mean()
    ):  # else a shape is a quotient of rounding errors
        z = (values - values.mean()) / spread
        yield Measurement(codes.SKEWNESS, round(float((z**3).mean()), 6), codes.ONE)
        yield Measurement(codes.KURTOSIS, round(float((z**4).mean() - 3), 6), codes.ONE)


def _case(out: Outgoing) -> Any:
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(out.uid("case"), "all lesions"),
        finding_category=codes.ABNORMAL,
        finding_type=codes.NEOPLASM,
        algorithm_id=_algorithm(out),
        measurements=list(_case_measurements(out)),
    )


def _case_measurements(out: Outgoing) -> Iterator[Measurement]:
    record = out.record
    yield Measurement(codes.LESION_COUNT, len(out.lesions), codes.ONE)
    yield from _summary(out, codes.VOLUME, record.get("tdv_ml"), codes.SUM_OF_VOXELS)
    yield from _summary(out, codes.ADC, record.get("gadc"))
    bands = record.get("bands")
    for name, summary in bands.items() if isinstance(bands, Mapping) else ():
        yield from _summary(out, codes.band_volume(name), summary)
    yield from _summary(out, codes.VIABLE, record.get("viable_ml"))
    yield from _summary(out, codes.TREATED, record.get("treated_ml"))
    if record.get("empty_draws") is not None:
        yield Measurement(codes.EMPTY_DRAWS, _number(out, record["empty_draws"]), codes.ONE)
    for b in out.reference.b_values:
        yield Measurement(codes.SOURCE_B, float(b), codes.S_PER_SQUARE_MM)


def _summary(
    out: Outgoing, name: CodedConcept, summary: object, method: CodedConcept | None = None
) -> Iterator[Measurement]:
    """The map's value and the draws'; what is undefined (the ADC of an empty map) is left out."""
    if not isinstance(summary, Mapping):
        return
    adc = name == codes.ADC
    unit, scale = (codes.SQUARE_UM_PER_S, 3) if adc else (codes.ML, 0)
    if summary.get("map") is not None:
        value = _number(out, summary["map"], scale=scale)
        yield Measurement(name, value, unit, method=method, derivation=codes.MEDIAN if adc else None)
    for key, derivation in _SUMMARY:
        if summary.get(key) is not None:
            yield Measurement(name, _number(out, summary[key], scale=scale), unit, derivation=derivation)


def _adc(value: float, derivation: CodedConcept) -> Measurement:
    return Measurement(codes.ADC, value, codes.SQUARE_UM_PER_S, derivation=derivation)


def _number(out: Outgoing, value: object, *, scale: int = 0) -> float:
    """The number as written, its decimal point moved `scale` places to the right: exact, unlike a product."""
    try:
        number = Decimal(str(value)).scaleb(scale)
        if number.is_finite():
            return float(number)
    except InvalidOperation:
        pass
    raise CaseError(
        "a table of lesions with something that is no number", "finite numbers", "draw the map again",
        code="S25", research_id=out.research_id, sequence="tumor_adc",
    )  # fmt: skip


def _algorithm(out: Outgoing) -> AlgorithmIdentification:
    return AlgorithmIdentification(SOFTWARE, __version__, parameters=_parameters(out))


def _parameters(out: Outgoing) -> Sequence[str]:
    said = [f"{name} {out.record[name]}" for name in _PARAMETERS if out.record.get(name) is not None]
    flags = out.record.get("flags")
    noted = flags if isinstance(flags, list) else []
    return [WARNING, f"checkpoint SHA-256 {out.checkpoint}", *said, *(f"flag {flag}" for flag in noted)]
