"""Quality report of a cohort: one row per case, read from its files as anything later would read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.domain.signal import two_point_adc
from diffusion_adc.domain.units import physiological_unit
from diffusion_adc.intake import organs, quality
from diffusion_adc.records.cohort import load_volume, read_cohort


def check_cohort(cohort_dir: Path) -> list[dict[str, Any]]:
    """Check every case of a cohort.

    Returns:
        Per case: ``case``, ``sequences``, ``b`` (low/high, s/mm²), ``unit_source``, ``adc_median`` (1e-3 mm²/s, valid voxels), ``valid_share``,
        ``negative_share``, ``adc_ratio`` and ``adc_r`` against the recomputed ADC, ``organs`` (tissues of known ADC
        that were found in a known region, 1e-3 mm²/s, ``!`` where one is out of its range), ``code`` and
        ``message`` of what is wrong, both empty where nothing is.

    Raises:
        UsageError: No cohort there.
        CohortError: Its tables are damaged.
    """
    return [_check_case(cohort_dir, case) for case in read_cohort(cohort_dir).cases]


def _check_case(cohort_dir: Path, case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": case.case_id,
        "sequences": ",".join(name for name in seq.SEQUENCES if name in case.files),
        "b": "/".join("?" if b is None else f"{b:g}" for b in (case.b_low, case.b_high)),
        "unit_source": case.adc_unit_source,
        "adc_median": None, "valid_share": None, "negative_share": None, "adc_ratio": None, "adc_r": None,
        "organs": "", "code": "", "message": "",
    }  # fmt: skip
    try:
        volumes = {key: load_volume(cohort_dir, case, *_split(key)) for key in case.files}
    except DiffusionAdcError as error:
        return row | {"code": error.code or "S25", "message": error.found}
    adc = np.asarray(volumes[seq.ADC].array, dtype=np.float32)
    for key, volume in volumes.items():
        same = np.array_equal(volume.affine, volumes[seq.ADC].affine)
        if volume.array.shape != adc.shape or not same:
            return row | {"code": "S08", "message": f"{key} is not on the ADC map's grid"}
    valid = np.asarray(volumes[seq.VALID].array, dtype=bool) if seq.VALID in volumes else adc > 0
    row["adc_median"] = float(np.median(adc[valid])) if valid.any() else None
    row["valid_share"] = float(valid.mean())
    body = quality.body_mask({name: volumes[name].array for name in seq.SEQUENCES if name in volumes})
    row["negative_share"] = quality.negative_share(adc, body)
    if np.any(valid & ~(adc > 0)):
        return row | {"code": "S17", "message": "voxels without a positive ADC are marked valid"}
    if quality.too_negative(row["negative_share"]):
        return row | {"code": "S17", "message": "more than 0.5 % of the body has a negative ADC"}
    if physiological_unit(adc[valid]) != "1e-3":
        return row | {"code": "S14", "message": "the median ADC is not that of a body in 1e-3 mm²/s"}
    if {seq.DWI_LOW, seq.DWI_HIGH} <= set(volumes) and case.b_low is not None and case.b_high is not None:
        low, high = (np.asarray(volumes[n].array, np.float32) for n in (seq.DWI_LOW, seq.DWI_HIGH))
        own = two_point_adc(low, high, case.b_low, case.b_high)
        agreement = quality.adc_agreement(adc, own, valid & body)
        if agreement is not None:
            row |= {"adc_ratio": agreement.ratio, "adc_r": agreement.correlation}
            if agreement.verdict == quality.REFUSE:
                return row | {"code": "S16", "message": "scanner and recomputed ADC disagree"}
    arrays = {name: volume.array for name, volume in volumes.items()}
    seen = organs.find_organs(case.anatomy, adc, arrays, valid & body, volumes[seq.ADC].affine)
    row["organs"] = ", ".join(organ.text + ("!" if organ.off else "") for organ in seen)
    if organs.refuted(seen):
        return row | {"code": "S16", "message": f"expected {', '.join(organ.expected for organ in seen)}"}
    return row


def _split(key: str) -> tuple[str, str | None]:
    parts = key.split("/")
    return parts[-1], parts[1] if len(parts) == 3 else None
