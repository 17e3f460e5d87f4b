"""One examination of one research ID."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError

ID_PATTERN: Final = r"[A-Za-z]{1,16}-?[0-9]{3,8}"
SPLITS: Final = ("train", "val", "test")
PROVENANCES: Final = ("synthetic", "public", "restricted")
TUMOR_STATUS: Final = ("present", "absent", "unknown")
_READER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def check_research_id(research_id: str, pattern: str = ID_PATTERN) -> str:
    """Return the research ID if it matches in full (ASCII digits only).

    Raises:
        CaseError: It does not.
    """
    if not re.fullmatch(pattern, research_id, re.ASCII):
        raise CaseError(
            "a research ID of another form", f"the pattern {pattern}", "rename the case", code="X8"
        )
    return research_id


@dataclass(frozen=True)
class Case:
    """One examination: a row of cases.csv. Validated when built.

    Raises:
        CaseError: A field contradicts another or is out of its vocabulary.
    """

    research_id: str
    exam_order: int
    """1 for the person's first examination."""
    study_order: int = 0
    """Chronological rank within the cohort; stands in for a date."""
    split: str = "train"
    anatomy: str = "unknown"
    provenance: str = "restricted"
    readers: tuple[str, ...] = ()
    """Readers who edited the map; the case's own tumor map is the first one's."""
    tumor_status: str = "unknown"
    b_low: float | None = None
    """s/mm²; None where not acquired or declared unknown."""
    b_high: float | None = None
    adc_unit_source: str = "stated"
    scanner: str = "unknown"
    field_t: float | None = None
    """Magnetic field in tesla."""
    declared: tuple[str, ...] = ()
    """What the user declared missing or unknown, e.g. ``missing:t1w``, ``unknown:b_high``."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file name inside the case folder, without suffix (``adc``, ``readers/R1/tumor_adc``)."""

    def __post_init__(self) -> None:
        check_research_id(self.research_id)
        for name in ("b_low", "b_high", "field_t"):  # 50 and 50.0 must give one digest
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("exam_order", "study_order"):  # so must a NumPy integer and what is read back
            object.__setattr__(self, name, index(getattr(self, name)))
        self._member("split", SPLITS)
        self._member("provenance", PROVENANCES)
        self._member("tumor_status", TUMOR_STATUS)
        if not 1 <= self.exam_order <= 99:
            raise self._refused(f"examination order {self.exam_order}", "1 to 99")
        if self.field_t is not None and not 0 < self.field_t <= 25:
            raise self._refused(f"a field of {self.field_t:g} T", "above 0 and at most 25 T")
        if self.files and seq.ADC not in self.files:
            raise self._refused("no ADC map", "an ADC map in every case", "S01", seq.ADC)
        if self.files and not {seq.DWI_LOW, seq.DWI_HIGH} & set(self.files):
            raise self._refused("no diffusion-weighted image", "at least one", "S01", seq.DWI_HIGH)
        for name, b in ((seq.DWI_LOW, self.b_low), (seq.DWI_HIGH, self.b_high)):
            if b is not None and not 0 <= b <= 10_000:
                raise self._refused(f"b = {b:g} s/mm²", "0 to 10 000 s/mm²", "S12", name)
        self._check_words()
        if self.b_low is not None and self.b_high is not None and self.b_low >= self.b_high:
            raise self._refused(
                f"b-values {self.b_low:g} and {self.b_high:g} s/mm²", "low below high", "S12", seq.DWI_HIGH
            )

    def _check_words(self) -> None:
        """Words become columns of a table and parts of paths: nothing may break out of either."""
        for reader in self.readers:
            if not _READER.fullmatch(reader):
                raise self._refused("a reader's name of another form", "letters, digits, - and _", "X8")
        for key, digest in self.files.items():
            *folders, name = key.split("/")
            reader_map = len(folders) == 2 and folders[0] == "readers" and folders[1] in self.readers
            if name not in seq.VOLUMES or not (reader_map or not folders) or not _SHA256.fullmatch(digest):
                raise self._refused("a file of another name or hash", "a volume of the case", "X8")
        for word in (self.anatomy, self.adc_unit_source, self.scanner, *self.declared):
            if not word.isprintable() or ";" in word or word != word.strip() or not word:
                raise self._refused("a word that a table cannot hold", "printable text without ';'")

    def _member(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise self._refused(f"{name} {value!r}", f"one of {', '.join(allowed)}")

    def _refused(
        self, found: str, expected: str, code: str | None = None, sequence: str | None = None
    ) -> CaseError:
        return CaseError(found, expected, code=code, research_id=self.research_id, sequence=sequence)

    @property
    def case_id(self) -> str:
        """Research ID and two-digit order of the examination."""
        return f"{self.research_id}_{self.exam_order:02d}"

    @property
    def available(self) -> tuple[bool, ...]:
        """For each of `SEQUENCES`, whether it was acquired."""
        return tuple(name in self.files for name in seq.SEQUENCES)

    @property
    def has_target(self) -> bool:
        """Whether a reader's map is stored."""
        return seq.TUMOR_LABEL in self.files
