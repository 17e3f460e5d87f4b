"""The manifest's rules: which cases there are, who is in which split, who has withdrawn."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from diffusion_adc.domain.case import ID_PATTERN, PROVENANCES, SPLITS, Case, check_research_id
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.errors import CohortError, UsageError

SPLIT_KINDS: Final = ("person", "temporal", "scanner")


@dataclass(frozen=True)
class Cohort:
    """Cases, their covariates and their withdrawals. Withdrawn persons are already gone from both.

    Raises:
        CohortError: A case appears twice, or a person stands in two splits.
    """

    cases: tuple[Case, ...]
    clinical: Mapping[str, Covariates] = field(default_factory=dict)
    """Covariates by research ID; a person without a row has none known."""
    provenance: str = "restricted"
    legal_basis: str = ""
    id_pattern: str = ID_PATTERN
    withdrawn: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.provenance not in PROVENANCES:
            raise CohortError(f"provenance {self.provenance!r}", f"one of {', '.join(PROVENANCES)}")
        kept = tuple(case for case in self.cases if case.research_id not in self.withdrawn)
        object.__setattr__(self, "cases", kept)
        clinical = {rid: row for rid, row in self.clinical.items() if rid not in self.withdrawn}
        object.__setattr__(self, "clinical", clinical)
        if self.provenance != "restricted" and any(case.provenance == "restricted" for case in kept):
            raise CohortError(
                f"a restricted case in a {self.provenance} cohort", "a cohort as restricted as its cases",
                "declare the cohort restricted",
            )  # fmt: skip
        seen: set[str] = set()
        split_of: dict[str, str] = {}
        for case in kept:
            check_research_id(case.research_id, self.id_pattern)
            if case.case_id in seen:
                raise CohortError("the same examination twice", research_id=case.research_id)
            seen.add(case.case_id)
            if split_of.setdefault(case.research_id, case.split) != case.split:
                raise CohortError(
                    f"one person in splits {split_of[case.research_id]} and {case.split}",
                    "all examinations of a person in one split",
                    research_id=case.research_id,
                )

    def split(self, name: str) -> tuple[Case, ...]:
        """The cases of one split, or all of them for ``all``.

        Raises:
            UsageError: No such split.
        """
        if name == "all":
            return self.cases
        if name not in SPLITS:
            raise UsageError(f"split {name!r}", f"one of {', '.join(SPLITS)}, all")
        return tuple(case for case in self.cases if case.split == name)

    def covariates(self, case: Case) -> Covariates:
        """The case's covariates; all unknown if the person has no row."""
        return self.clinical.get(case.research_id, Covariates())

    @property
    def digest(self) -> str:
        """SHA-256 over every case's row with its file hashes and over the clinical rows in use."""
        rows = [asdict(case) for case in sorted(self.cases, key=lambda c: c.case_id)]
        persons = {case.research_id for case in self.cases}
        table = {rid: row.record() for rid, row in sorted(self.clinical.items()) if rid in persons}
        text = json.dumps({"cases": rows, "clinical": table}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def resplit(
        self, kind: str, *, fractions: tuple[float, float, float] = (0.6, 0.15, 0.25), seed: int = 0
    ) -> Cohort:
        """The same cases under another split of the persons.

        Args:
            kind: ``person`` (by a keyed hash of the research ID), ``temporal`` (by the order of the person's
                last examination; the latest persons are the test set) or ``scanner`` (whole scanners are held
                out, the rarest for test; a person seen on a held-out scanner is held out).
            fractions: Shares of persons in train, val, test.
            seed: Of the person split.

        Raises:
            UsageError: Unknown kind, or fractions that do not add up to 1.
            CohortError: Too few scanners to hold any out, or no order of examinations to split by.
        """
        if kind not in SPLIT_KINDS:
            raise UsageError(f"split kind {kind!r}", f"one of {', '.join(SPLIT_KINDS)}")
        if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
            raise UsageError(f"split fractions {fractions}", "three shares that add up to 1")
        if kind == "scanner":
            split_of = self._scanner_split(fractions)
        else:
            persons = sorted({case.research_id for case in self.cases}, key=self._order(kind, seed))
            split_of = _cut(persons, fractions)
        return replace(
            self, cases=tuple(replace(case, split=split_of[case.research_id]) for case in self.cases)
        )

    def _order(self, kind: str, seed: int) -> Callable[[str], tuple[int, str]]:
        if kind == "person":
            return lambda rid: (0, hashlib.sha256(f"{seed}:{rid}".encode()).hexdigest())
        if len({case.study_order for case in self.cases}) < 2 <= len({c.research_id for c in self.cases}):
            raise CohortError(
                "no order of examinations", "study_order for a temporal split", "use the person split"
            )
        last: dict[str, int] = defaultdict(int)
        for case in self.cases:
            last[case.research_id] = max(last[case.research_id], case.study_order)
        return lambda rid: (last[rid], rid)

    def _scanner_split(self, fractions: tuple[float, float, float]) -> dict[str, str]:
        persons: dict[str, set[str]] = defaultdict(set)
        for case in self.cases:
            persons[case.scanner].add(case.research_id)
        if len(persons) < 2:
            raise CohortError(
                f"{len(persons)} scanner", "at least two for a scanner split", "use the person split"
            )
        total = len({case.research_id for case in self.cases})
        split_of: dict[str, str] = {}
        # Rarest scanner first, so that the held-out share stays near the wanted one.
        rarest = sorted(persons, key=lambda s: (len(persons[s]), s))
        test, rest = rarest[:1], rarest[1:]
        while len(rest) > 1 and len(set().union(*(persons[s] for s in test))) < fractions[2] * total:
            test.append(rest.pop(0))
        for scanner in test:
            split_of.update(dict.fromkeys(persons[scanner], "test"))
        others = sorted(
            {case.research_id for case in self.cases} - set(split_of), key=self._order("person", 0)
        )
        if not others:
            raise CohortError(
                "every person was seen on a held-out scanner", "persons left to train on",
                "use the person split",
            )  # fmt: skip
        share = fractions[0] + fractions[1]
        train = fractions[0] / share if share else 1.0
        return split_of | _cut(others, (train, 1.0 - train, 0.0))


def _cut(persons: Sequence[str], fractions: tuple[float, float, float]) -> dict[str, str]:
    first = round(fractions[0] * len(persons))
    second = first + round(fractions[1] * len(persons)) if fractions[2] > 0 else len(persons)
    return {rid: SPLITS[(index >= first) + (index >= second)] for index, rid in enumerate(persons)}
