"""What the user declares about the files: nothing is guessed, whatever is missing or unknown is said aloud."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import PROVENANCES
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.domain.units import adc_factor

UNKNOWN: Final = "unknown"
DWI: Final = "dwi"
"""A 4-D file with several b-values, split into `DWI_LOW` and `DWI_HIGH` by its ``.bval`` list."""
SUFFIXES: Final = (".nii.gz", ".nii")
TARGETS: Final = (seq.TUMOR_LABEL, seq.TUMOR_ADC)
DWIS: Final = (seq.DWI_LOW, seq.DWI_HIGH)
_NAMED: Final = (*seq.SEQUENCES, *TARGETS, DWI)
_MAY_BE_MISSING: Final = (*seq.OPTIONAL_SEQUENCES, seq.TUMOR_LABEL)
LAYOUTS: Final = ("auto", "dicom", "nifti", "nnunet", "picai", "prostate158", "isles22", "ucsf_pdgm")
PUBLIC_LAYOUTS: Final = ("nnunet", "picai", "prostate158", "isles22", "ucsf_pdgm")
REGISTRATIONS: Final = ("none", "rigid", "affine")
_STATE_THEIR_UNIT: Final = ("auto", "dicom", *PUBLIC_LAYOUTS)
"""Layouts whose files, vendor or definition state the ADC unit, so that nobody has to declare it."""
_MAX_JOBS: Final = 64
_STEM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True)
class IngestOptions:
    """What the user declares about the files.

    Attributes:
        layout: ``nifti``: a folder per case, files named by sequence; ``dicom``: a folder per person with studies
            below; a public set's name; ``auto`` tells the first two and nnU-Net's apart.
        names: File names by volume where they differ from the volume's own name.
        id_prefix: Joined to bare numbers with a hyphen.
        allow_missing: Optional sequences that may be missing; ``tumor_label`` allows cases without a target.
        b_values: ``dwi_low`` and ``dwi_high`` → s/mm² or ``unknown``; with a 4-D ``dwi``, the pair wanted.
        adc_unit: Size of the stored ADC's unit in mm²/s.
        label_values: Labels that mean tumor, ``1-5`` or ``1,3``; None accepts 0 and 1 only.
        other_labels: Labels of a target that are not tumor, an organ for instance; they are left out.
        provenance: restricted, public or synthetic.
        tumor_free_ok: An empty target means a tumor-free case; otherwise it is refused.
        overwrite: Replace a cohort that is already there.
        b_pair: The two b-values wanted of a series, low and high, s/mm².
        target: Folder with one target per research ID, or, for DICOM, ``seg`` or a pattern of the series' description.
        target_resample: ``nearest`` brings label volumes on another grid to the ADC grid; else they are refused.
        register: How T1w and T2w are brought to the ADC grid: by their headers, or by a transform found.
        clinical: Clinical table.
        clinical_mapping: YAML that says what its columns are.
        clinical_encoding: Of a CSV or TSV table; None: UTF-8, else CP932 where the header is recognized.
        rules: YAML that says which DICOM series is which sequence.
        jobs: Processes.
        language: Of the report, ``en`` or ``ja``.

    Raises:
        UsageError: Something is declared that does not exist.
    """

    layout: str = "nifti"
    names: Mapping[str, str] = field(default_factory=dict)
    id_prefix: str = ""
    allow_missing: tuple[str, ...] = ()
    b_values: Mapping[str, str] = field(default_factory=dict)
    adc_unit: str | None = None
    label_values: str | None = None
    other_labels: str | None = None
    provenance: str = "restricted"
    tumor_free_ok: bool = False
    overwrite: bool = False
    b_pair: tuple[float, float] | None = None
    target: str | None = None
    target_resample: str | None = None
    register: str = "none"
    clinical: Path | None = None
    clinical_mapping: Path | None = None
    clinical_encoding: str | None = None
    rules: Path | None = None
    jobs: int = 1
    language: str = "en"

    def __post_init__(self) -> None:
        self._check_words()
        if self.provenance not in PROVENANCES:
            raise UsageError(f"provenance {self.provenance!r}", f"one of {', '.join(PROVENANCES)}")
        for name in self.names:
            if name not in _NAMED:
                raise UsageError(f"--names {name}", f"one of {', '.join(_NAMED)}")
            if not _STEM.fullmatch(self.stem(name)):
                raise UsageError(f"--names {name}=…", "a file name of letters, digits, - and _")
        if not re.fullmatch(r"[A-Za-z]{0,16}", self.id_prefix, re.ASCII):
            raise UsageError(f"--id-prefix {self.id_prefix!r}", "at most 16 letters", "leave out the hyphen")
        for name in self.allow_missing:
            if name not in _MAY_BE_MISSING:
                raise UsageError(f"--allow-missing {name}", f"some of {', '.join(_MAY_BE_MISSING)}")
        for name in self.b_values:
            if name not in DWIS:
                raise UsageError(f"--b {name}", f"{seq.DWI_LOW} or {seq.DWI_HIGH}")
            self.b_value(name)
        if self.adc_unit is None and self.layout not in _STATE_THEIR_UNIT:
            raise UsageError(
                "no ADC unit", "--adc-unit 1, 1e-3 or 1e-6 (mm²/s)", "state the unit of the ADC maps"
            )
        for flag, text in (("--label-values", self.label_values), ("--other-labels", self.other_labels)):
            try:
                parse_labels(text)
            except ValueError:
                raise UsageError(f"{flag} {text}", "1-5 or 1,3") from None
        if both := (self.tumor_labels or frozenset({1})) & self.organ_labels:
            raise UsageError(
                f"--other-labels {min(both)}",
                "labels that are not tumor's",
                "or name tumor's: --label-values",
            )

    def _check_words(self) -> None:
        for word, allowed, flag in (
            (self.layout, LAYOUTS, "layout"), (self.register, REGISTRATIONS, "--register"),
            (self.target_resample, (None, "nearest"), "--target-resample"), (self.language, ("en", "ja"), "--lang"),
        ):  # fmt: skip
            if word not in allowed:
                raise UsageError(f"{flag} {word!r}", f"one of {', '.join(str(a) for a in allowed if a)}")
        if self.b_pair is not None and not 0 <= self.b_pair[0] < self.b_pair[1] <= 10_000:
            raise UsageError(f"--b-pair {self.b_pair}", "LOW,HIGH in s/mm², the lower one first")
        if not 1 <= self.jobs <= _MAX_JOBS:
            raise UsageError(f"--jobs {self.jobs}", f"1 to {_MAX_JOBS}")
        if self.adc_unit is not None:
            adc_factor(self.adc_unit)

    def stem(self, name: str) -> str:
        """The file name of a volume, without suffix."""
        text = self.names.get(name, name)
        return next((text.removesuffix(suffix) for suffix in SUFFIXES if text.endswith(suffix)), text)

    def b_value(self, name: str) -> float | None:
        """The declared b-value in s/mm², None if unknown or not declared."""
        text = self.b_values.get(name, UNKNOWN)
        if text == UNKNOWN:
            return None
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"--b {name}={text}", "a number in s/mm² or unknown") from None

    def wanted_b(self, name: str) -> float | None:
        """The b-value wanted of a series for `name`, s/mm²; None where the usual rule chooses."""
        if self.b_pair is not None and name in DWIS:
            return float(self.b_pair[DWIS.index(name)])
        return self.b_value(name)

    @property
    def tumor_labels(self) -> frozenset[int] | None:
        """Labels that mean tumor; None where only 0 and 1 are accepted."""
        return parse_labels(self.label_values)

    @property
    def organ_labels(self) -> frozenset[int]:
        """Labels that are declared not to mean tumor."""
        return parse_labels(self.other_labels) or frozenset()


def parse_labels(text: str | None) -> frozenset[int] | None:
    """``1-5`` or ``1,3`` → the labels; None stays None.

    Raises:
        ValueError: Anything else.
    """
    if text is None:
        return None
    labels: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        first, last = int(low), int(high) if dash else int(low)
        if not 1 <= first <= last < 2**16:
            raise ValueError("labels are 1 to 65535, the lower one first")
        labels |= set(range(first, last + 1))
    return frozenset(labels)
