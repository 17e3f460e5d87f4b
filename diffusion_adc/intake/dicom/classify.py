"""What a slice shows: T1w, T2w, DWI, ADC, or something that is ignored and listed.

Facts of the acquisition decide (ImageType, pulse sequence, times, flip angle, b-value); names only where the
files state no fact. Rules of the user come before both. Sources: DICOM PS3.3 C.8.3.1 and C.8.13 (image types and
acquisition), the vendors' conventions named beside each table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.dicom.rules import IGNORE, Rule
from diffusion_adc.intake.dicom.slices import Slice

DWI: Final = "dwi"
_LOCALIZER: Final = {"LOCALIZER", "SCOUT"}
_PARTS: Final = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "B0 MAP", "FIELD_MAP"}
_REFORMATTED: Final = {
    "MPR", "MIP", "MINIP", "PROJECTION IMAGE", "CSA MPR", "CSAMANIPULATED", "SUB", "SUBTRACT", "SUBTRACTION",
    "RESAMPLED", "REFORMATTED", "MIP_THIN", "CSA RESAMPLED",
}  # fmt: skip
_MAPS: Final = {"FA", "RA", "CFA", "COLFA", "RD", "AD", "TENSOR", "TENSOR_B0", "EADC", "EXP", "TTP", "RELCBV", "RELCBF",
                "PBP", "T1 MAP", "T2 MAP", "T2_STAR MAP", "STDDEV", "GOF", "KURTOSIS"}  # fmt: skip
_CALCULATED: Final = re.compile(r"CALC|COMPUTED|SYNTH|EXTRAPOL", re.ASCII)
_TWO_B: Final = re.compile(r"(?:^|[*_])b[0-9]{1,5}_[0-9]{1,5}(?![0-9]*t)", re.ASCII)
"""Name of the pulse sequence of what was made from two b-values: ``*ep_b50_800``."""
_NAMED_CALCULATED: Final = re.compile(
    r"calc[_ ]?b|calculated|computed|synthetic|extrapolated|(?<![a-z])(?:calc|cdwi|sbv|cbv)(?![a-z])",
    re.ASCII,
)
_NAMED_ADC: Final = re.compile(r"(?<![a-z])adc(?![a-z])|apparent diffusion", re.ASCII)
_NAMED_EXPONENTIAL: Final = re.compile(r"(?<![a-z])eadc|exponential|exp[_ .-]?(?:adc|apparent)", re.ASCII)
_NAMED_DWI: Final = re.compile(r"dwi|diff|(?<![a-z])b[ =_]?[0-9]{2,4}(?![0-9])", re.ASCII)
_NAMED_T1: Final = re.compile(r"(?<![a-z0-9])t1(?![0-9])", re.ASCII)
_NAMED_T2: Final = re.compile(r"(?<![a-z0-9])t2(?![0-9*])", re.ASCII)
_NAMED_ELSE: Final = re.compile(
    r"(?<![a-z])(?:pd|flair|stir|swi|dce|perf|mra|tof|survey|scout|loc|localizer|map)(?![a-z])", re.ASCII
)
_FAT: Final = {"F", "FAT", "FF", "FAT_FRACTION", "FAT FRACTION", "F_ECHO"}
_OPPOSED: Final = {"OP", "OPP", "OPP_PHASE", "OUT_PHASE", "OPPOSED", "OUT_OF_PHASE"}
IN_PHASE: Final = {"IP", "IN_PHASE", "INPHASE"}
WATER: Final = {"W", "WATER"}
_TISSUE_T1_MS: Final = 1000.0
"""A middling T1 of soft tissue; above its Ernst angle (Ernst & Anderson 1966) a gradient echo is T1-weighted."""


@dataclass(frozen=True)
class Kind:
    """What a slice shows.

    Attributes:
        sequence: ``t1w``, ``t2w``, ``dwi``, ``adc``, ``target``; empty where it is ignored.
        reason: Why it is what it is, in words of ours.
    """

    sequence: str
    reason: str


def kind_of(one: Slice, rules: Sequence[Rule] = ()) -> Kind:
    """What a slice shows; the first of rules, image type, diffusion, weighting that says so."""
    for number, rule in enumerate(rules, start=1):
        if rule.holds(one):
            return Kind("" if rule.sequence == IGNORE else rule.sequence, f"rule {number}")
    words = set(one.image_type)
    for group, reason in (
        (_LOCALIZER, "localizer"), (_PARTS, "phase or part of a complex image"), (_REFORMATTED, "reformatted"),
    ):  # fmt: skip
        if words & group:
            return Kind("", reason)
    if one.component in ("PHASE", "REAL", "IMAGINARY"):
        return Kind("", "phase or part of a complex image")
    if one.volumetric in ("RESAMPLED", "MIXED"):
        return Kind("", "reformatted")
    if words & _MAPS:
        return Kind("", "another parametric map")
    if "ADC" in words:
        return Kind(seq.ADC, "image type ADC")
    diffusion = _diffusion(one, words)
    return diffusion if diffusion is not None else _weighting(one, words)


def _diffusion(one: Slice, words: set[str]) -> Kind | None:
    typed = bool(words & {"DIFFUSION", "TRACEW", "TRACE", "ISOTROPIC"}) or one.contrast == "DIFFUSION"
    epi = "EP" in one.scanning or "EPI" in words
    derived = "DERIVED" in words
    b = None if one.b is None else one.b.b
    if derived and not words & {"TRACEW", "TRACE"} and (typed or epi or b is not None):
        if _NAMED_EXPONENTIAL.search(one.names):
            return Kind("", "another parametric map")
        if _NAMED_ADC.search(one.names):  # some scanners say so nowhere else
            return Kind(seq.ADC, "derived, by name")
    # Some scanners write b = 0 into images of every kind: without diffusion encoding it says nothing.
    if not (typed or (b is not None and (b > 0 or epi))):
        return Kind(DWI, "by name") if epi and b is None and _NAMED_DWI.search(one.names) else None
    if any(_CALCULATED.search(word) for word in words) or _TWO_B.search(one.sequence_name):
        return Kind("", "calculated from other b-values")
    if _NAMED_CALCULATED.search(one.names):
        return Kind("", "calculated from other b-values, by name")
    return Kind(DWI, "diffusion encoding")


def _weighting(one: Slice, words: set[str]) -> Kind:
    by_contrast = {
        "T1": seq.T1W, "T2": seq.T2W, "PROTON_DENSITY": "", "T2_STAR": "", "FLUID_ATTENUATED": "", "STIR": "",
        "PERFUSION": "", "FLOW_ENCODED": "", "TOF": "", "TAGGING": "",
    }  # fmt: skip
    if one.contrast in by_contrast:
        sequence = by_contrast[one.contrast]
        kind = Kind(sequence, "acquisition contrast") if sequence else Kind("", one.contrast.lower())
    elif one.echo_time is None or one.repetition_time is None:
        kind = _by_name(one)
    elif "EP" in one.scanning:
        kind = Kind("", "echo-planar without diffusion encoding")
    elif "GR" in one.scanning and "SE" not in one.scanning:
        kind = _gradient_echo(one, one.echo_time, one.repetition_time)
    elif "SE" in one.scanning or "IR" in one.scanning or one.contrast == "UNKNOWN":
        kind = _spin_echo(one, one.echo_time, one.repetition_time)
    else:
        kind = _by_name(one)
    if kind.sequence == seq.T1W and one.contrast_agent:
        return Kind("", "T1w after a contrast agent")
    if kind.sequence and words & _FAT:
        return Kind("", "fat image")
    if kind.sequence and words & _OPPOSED:
        return Kind("", "opposed-phase image")
    return kind


def _spin_echo(one: Slice, te: float, tr: float) -> Kind:
    inversion = one.inversion_time or 0.0
    if inversion >= 1500:
        return Kind("", "fluid-attenuated")
    if 0 < inversion <= 400 and tr >= 1500:
        return Kind("", "short-inversion recovery")
    if te >= 55 and tr >= 1000:
        return Kind(seq.T2W, f"spin echo, TE {te:g} ms, TR {tr:g} ms")
    if te <= 35 and (tr <= 1200 or 400 < inversion < 1500):
        return Kind(seq.T1W, f"spin echo, TE {te:g} ms, TR {tr:g} ms")
    return Kind("", "proton density" if te <= 55 else "another weighting")


def _gradient_echo(one: Slice, te: float, tr: float) -> Kind:
    inversion, flip = one.inversion_time or 0.0, one.flip_angle
    if te > 12:
        return Kind("", "T2*-weighted")
    if 400 < inversion < 1500 and tr >= 1000:
        return Kind(seq.T1W, f"inversion-prepared gradient echo, TI {inversion:g} ms")
    if "SS" in one.variant and "SP" not in one.variant:
        return Kind("", "steady state, T2/T1-weighted")
    if flip is None:
        return _by_name(one)
    ernst = math.degrees(math.acos(math.exp(-tr / _TISSUE_T1_MS))) if tr > 0 else 0.0
    if flip >= ernst and tr <= 800:
        return Kind(seq.T1W, f"gradient echo, flip angle {flip:g}° above {ernst:.0f}°")
    return Kind("", "proton density")


def _by_name(one: Slice) -> Kind:
    if _NAMED_ELSE.search(one.names):
        return Kind("", "another weighting, by name")
    t1, t2 = _NAMED_T1.search(one.names), _NAMED_T2.search(one.names)
    if bool(t1) != bool(t2):
        return Kind(seq.T1W if t1 else seq.T2W, "by name")
    return Kind("", "weighting not stated")
