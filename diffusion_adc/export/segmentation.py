"""Tumor presence as DICOM segmentations: the final one, and how many draws agree (PS3.3 A.51)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationFractionalTypeValues,
    SegmentationTypeValues,
    SegmentDescription,
)
from pydicom import Dataset

from diffusion_adc import __version__
from diffusion_adc.export import codes
from diffusion_adc.export.sources import SERIES, SOFTWARE, Outgoing, finish

NONE_FOUND: Final = "tumor (none found)"


def binary_segmentation(out: Outgoing) -> Dataset:
    """One segment per lesion of lesions.csv, numbered alike and tracked by the same UIDs as the report.

    A map without tumor is a finding, not a missing file: since a segmentation must hold a segment, it gets one
    whose frames are all empty.
    """
    count = len(out.lesions)
    if count:
        segments = [
            _segment(n, f"tumor lesion {n}", tracking_uid(out, n), f"lesion {n}") for n in range(1, count + 1)
        ]
    else:
        segments = [_segment(1, NONE_FOUND, tracking_uid(out, 0), "no lesion")]
    # Lesions exclude each other: a map of their numbers says the same as a mask for each, in a fraction of the room.
    pixels = out.labels.astype(np.uint8 if count < 256 else np.uint16)
    return _segmentation(out, "binary", pixels, segments, segmentation_type=SegmentationTypeValues.BINARY)


def fractional_segmentation(out: Outgoing) -> Dataset:
    """Mean presence over the draws; the largest stored value is the number of draws, so nothing is rounded."""
    largest = out.draws if 0 < out.draws <= 255 else 255
    return _segmentation(
        out, "fractional", out.probability,
        [_segment(1, "tumor presence probability", tracking_uid(out, "probability"), "tumor probability")],
        segmentation_type=SegmentationTypeValues.FRACTIONAL,
        fractional_type=SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=largest,
    )  # fmt: skip


def tracking_uid(out: Outgoing, lesion: int | str) -> str:
    """UID under which segmentation and report speak of one lesion."""
    return out.uid("lesion", lesion)


def _segment(number: int, label: str, uid: str, tracking_id: str) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.ABNORMAL,
        segmented_property_type=codes.NEOPLASM,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=SOFTWARE, family=codes.ARTIFICIAL_INTELLIGENCE, version=__version__
        ),
        tracking_uid=uid,
        tracking_id=tracking_id,
    )


def _segmentation(
    out: Outgoing, kind: str, pixels: Any, segments: list[SegmentDescription], **how: Any
) -> Dataset:
    empty = not np.any(pixels)
    dataset = Segmentation(
        source_images=out.sources,
        pixel_array=pixels,
        segment_descriptions=segments,
        content_label="TUMOR" if kind == "binary" else "TUMOR_PROB",
        content_description=SERIES[kind][1],
        omit_empty_frames=not empty,
        **how,
        **out.series_arguments(kind),
        **out.geometry_arguments(),
    )
    return finish(dataset, out)
