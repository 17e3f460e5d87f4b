"""The tumor ADC as a float32 parametric map (PS3.3 A.75)."""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.enum import VOILUTFunctionValues
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodeContentItem
from numpy.typing import NDArray
from pydicom import Dataset

from diffusion_adc.export import codes
from diffusion_adc.export.sources import SERIES, Outgoing, decimals, finish

PADDING: Final = float(np.float32(-1e-6))
"""Stored where there is no tumor, mm²/s: NaN is not portable and 0 is a legal ADC."""
_CEILING: Final = 1.0
_WINDOW: Final = VOILUTTransformation(
    window_center=1.5e-3, window_width=3e-3, voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT
)
_PER_CANONICAL: Final = 1e-3
"""From 1e-3 mm²/s to mm²/s."""


def parametric_map(out: Outgoing) -> Dataset:
    """Float map whose stored value is the ADC in mm²/s: slope 1, intercept 0, never NaN.

    highdicom stores the frames sorted along the slice normal, whatever order they are given in.
    """
    dataset = ParametricMap(
        source_images=out.sources,
        pixel_array=stored_adc(out),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(out)],
        voi_lut_transformations=[_WINDOW],
        content_label="TUMOR_ADC",
        content_description=SERIES["parametric"][1],
        derivation=codes.ADC,
        **out.series_arguments("parametric"),
        **out.geometry_arguments(),
    )
    dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = PADDING
    dataset.Laterality = ""
    return finish(dataset, out)


def stored_adc(out: Outgoing) -> NDArray[np.float32]:
    """float32 (K, rows, columns) in mm²/s, `PADDING` outside the tumor."""
    values = out.tumor_adc.astype(np.float64) * _PER_CANONICAL
    return np.where(out.labels > 0, values, PADDING).astype(np.float32)


def _mapping(out: Outgoing) -> RealWorldValueMapping:
    mapping = RealWorldValueMapping(
        lut_label="ADC",
        lut_explanation="Apparent diffusion coefficient",
        unit=codes.SQUARE_MM_PER_S,
        value_range=(PADDING, _CEILING),  # readers refuse images with values outside the range
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.ADC,
    )
    b_values = out.reference.b_values
    said: list[Dataset] = [
        *mapping.QuantityDefinitionSequence,
        CodeContentItem(codes.METHOD, codes.MONO_EXPONENTIAL),
    ]
    if len(b_values) > 1:
        fit = codes.LOG_OF_RATIO if len(b_values) == 2 else codes.LEAST_SQUARES
        said.append(CodeContentItem(codes.FITTING, fit))
    said += [_source_b(b) for b in b_values]
    mapping.add_new("QuantityDefinitionSequence", "SQ", said)
    return mapping


def _source_b(b: float) -> Dataset:
    """A number outside a report is written flat, unlike one within (PS3.3 table 10-2)."""
    item = Dataset()
    item.ValueType = "NUMERIC"
    item.ConceptNameCodeSequence = [codes.SOURCE_B]
    (item.NumericValue,) = decimals(b)
    item.MeasurementUnitsCodeSequence = [codes.S_PER_SQUARE_MM]
    return item
