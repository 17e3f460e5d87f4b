"""Which unit an ADC series is stored in: what the files state, else the vendor's convention; never a guess.

The statement is cross-checked against physiology by `domain.units.resolve_adc_unit`; a contradiction refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.units import ADC_UNITS, adc_factor
from diffusion_adc.intake.dicom.slices import Slice
from diffusion_adc.intake.nifti import Refusal
from diffusion_adc.intake.options import IngestOptions

VENDOR_UNIT: Final[Mapping[str, str]] = {
    "Siemens": "1e-6", "GE": "1e-6", "Canon": "1e-6", "UIH": "1e-6", "Philips": "1e-3",
}  # fmt: skip
"""Unit of an ADC map that states none, after its own rescale: Siemens, GE, Canon and UIH store integers of
1e-6 mm²/s, a Philips console displays 1e-3 mm²/s (vendors' conformance notes, dcm2niix notes)."""

_UNIT: Final = re.compile(
    r"(?:(?:1e|1?x?10(?:\^|\*\*?|e)?)(?P<power>[+-]?[0-9]{1,2})[.*x·_]?)?mm(?:\^|\*\*)?2/s(?:ec)?", re.ASCII
)
_MICRO: Final = {"um2/s": "1e-6", "um^2/s": "1e-6", "um2/ms": "1e-3", "um^2/ms": "1e-3"}
_POWERS: Final = {0: "1", -3: "1e-3", -6: "1e-6"}
_SPELLING: Final = str.maketrans(
    {"µ": "u", "μ": "u", "²": "2", "×": "x", "−": "-", " ": "", "⁻": "-", "³": "3", "⁶": "6"}
)


def unit_in_text(text: str) -> str | None:
    """A unit of diffusion in a UCUM code or a rescale type: a key of `ADC_UNITS`, None where it is none.

    ``mm2/s``, ``10*-6.mm2/s``, ``10^-6 mm2/s``, ``1E-3 mm²/s``, ``um2/s``, ``µm²/ms``.
    """
    plain = text.strip().translate(_SPELLING).lower()
    if plain in _MICRO:
        return _MICRO[plain]
    match = _UNIT.fullmatch(plain)
    return None if match is None else _POWERS.get(int(match["power"] or 0))


def adc_unit(slices: Sequence[Slice], options: IngestOptions, research_id: str) -> tuple[str, str]:
    """Unit of an ADC series and who says so.

    Returns:
        Size in mm²/s (a key of `ADC_UNITS`); ``declared``, ``stated:real_world``, ``stated:rescale_type`` or
        ``vendor:<name>``.

    Raises:
        CaseError: S14, nobody states a unit, slices contradict each other or the declaration.
    """
    refused = Refusal(research_id, seq.ADC)
    stated = {(unit_in_text(one.scale.unit), one.scale.real_world) for one in slices}
    known = {entry for entry in stated if entry[0] is not None}
    declared = None
    if options.adc_unit is not None:
        factor = adc_factor(options.adc_unit)
        declared = next(key for key, value in ADC_UNITS.items() if value == factor)
    if len(known) > 1 or (known and len(stated) > 1):
        raise refused("S14", "slices that state different units", "one unit", "export the ADC map again")
    if known:
        unit, real_world = known.pop()
        assert unit is not None
        if declared is not None and declared != unit:
            raise refused(
                "S14", f"{unit} mm²/s stated in the files", f"{declared} mm²/s as declared",
                "correct the declaration, or the export",
            )  # fmt: skip
        return unit, "stated:real_world" if real_world else "stated:rescale_type"
    if declared is not None:
        return declared, "declared"
    vendor = slices[0].vendor
    if vendor not in VENDOR_UNIT:
        raise refused("S14", "no unit in the files", "a stated unit", "declare --adc-unit 1, 1e-3 or 1e-6")
    return VENDOR_UNIT[vendor], f"vendor:{vendor}"
