"""Valid DICOM studies with what real scanners were seen to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dicom_builder import SHAPE, VENDOR_B, Array, Series, exam, study
from dicom_variants import Change, Variant, each, placed, put, written

from diffusion_adc.domain import sequences as seq


def _planes() -> dict[str, Array]:
    coronal = np.array([[-2.0, 0, 0, 20], [0, 0, -4.0, 10], [0, -2.0, 0, 16], [0, 0, 0, 1]])
    sagittal = np.array([[0, 0, 4.0, -10], [-2.0, 0, 0, 16], [0, -2.0, 0, 20], [0, 0, 0, 1]])
    return {"coronal": coronal, "sagittal": sagittal}


def quirks() -> Iterator[Variant]:
    """What real scanners were seen to write."""

    def laid(change: Change, shape: tuple[int, int, int] = SHAPE) -> Callable[[Path], dict[str, Array]]:
        def lay(folder: Path) -> dict[str, Array]:
            content = exam(19, shape)
            parts = change(study(content, b_values=(50, 800)))
            written(folder, parts)
            return {seq.ADC: parts[-1].array, seq.DWI_HIGH: parts[3].array}

        return lay

    def own(**tags: Any) -> Change:
        return lambda parts: [*parts[:-1], parts[-1].but(**tags)]

    def values(change: Callable[[Array], Array]) -> Change:
        return lambda parts: [*parts[:-1], replace(parts[-1], array=change(parts[-1].array))]

    def one_series(parts: list[Series]) -> list[Series]:
        return [replace(part, number=6) if part.number > 4 else part for part in parts]

    def twelve_bits(parts: list[Series]) -> list[Series]:
        halved = [part if part.number == 7 else replace(part, array=part.array // 2) for part in parts]
        return [part.spoiled(put(BitsStored=12, HighBit=11)) for part in halved]

    def again(parts: list[Series]) -> list[Series]:
        return [*parts[:-1], parts[-2], parts[-2], parts[-1]]

    def b_of(low: float, high: float, vendor: str = "standard") -> Change:
        def change(parts: list[Series]) -> list[Series]:
            arrays = exam(19)["b0" if low < 1 else "b50"], parts[3].array
            bare = [
                replace(parts[n], private=(), array=array) for n, array in zip((2, 3), arrays, strict=True)
            ]
            told = [VENDOR_B[vendor](part, b) for part, b in zip(bare, (low, high), strict=True)]
            return [*parts[:2], *told, parts[-1]]

        return change

    first = np.unravel_index(np.flatnonzero(exam(19)["adc"])[0], SHAPE)

    def with_value(value: int) -> Change:
        def change(array: Array) -> Array:
            out = array.astype(np.int16)
            out[first] = value
            return out

        return values(change)

    yield Variant(
        "an ADC map that calls itself trace as well",
        laid(own(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ADC"])),
    )
    yield Variant(
        "an ADC map with a b-value of its own", laid(lambda p: [*p[:-1], VENDOR_B["siemens"](p[-1], 800)])
    )
    yield Variant("ADC and images in one series", laid(one_series))
    yield Variant("a b of zero written as 0.004", laid(b_of(0.004, 800.0)))
    yield Variant("b-values as they were played out", laid(b_of(48.3, 806.0)))
    yield Variant("the high b acquired three times", laid(again))
    yield Variant("12 bits stored", laid(twelve_bits))
    yield Variant("a padding value", laid(own(PixelPaddingValue=0)))
    yield Variant("an outlier of 9170", laid(with_value(9170)))
    yield Variant(
        "window and comments",
        laid(each(put(WindowCenter="1200", WindowWidth="2000", ImageComments="quality good"))),
    )
    yield Variant(
        "cosines of six digits",
        laid(each(put(ImageOrientationPatient=["0.999999", "1e-06", "0", "0", "1", "-1e-06"]))),
    )
    yield Variant("sixty slices", laid(lambda parts: parts, (20, 16, 60)))
    yield Variant("two slices", laid(lambda parts: parts, (20, 16, 2)))
    yield Variant("one slice", laid(lambda parts: parts, (40, 36, 1)))
    for name, affine in _planes().items():
        yield Variant(name, laid(placed(affine)), affine=affine)
