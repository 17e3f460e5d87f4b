"""Who is in a cohort: persons, examinations, splits and tumor-free cases, by error diffusion.

Every prefix of the cohort keeps the wanted shares as nearly as whole numbers allow, so a case's content
never depends on how many cases follow it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from diffusion_adc.domain.case import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusion_adc.phantom.options import PhantomOptions

ID_PREFIX: Final = "SIM-"
_SECOND_EXAM_PHASE: Final = 0.55
"""Where in the first interval the first person with two examinations stands."""


@dataclass(frozen=True)
class Slot:
    """One examination of the plan."""

    index: int
    person: int
    exam_order: int
    split: str
    tumor_free: bool

    @property
    def research_id(self) -> str:
        """Research ID of the person."""
        return f"{ID_PREFIX}{self.person + 1:05d}"

    @property
    def case_id(self) -> str:
        """Research ID and two-digit order of the examination."""
        return f"{self.research_id}_{self.exam_order:02d}"


def plan(options: PhantomOptions) -> tuple[Slot, ...]:
    """The cohort's examinations in order, one slot per case."""
    return tuple(islice(_slots(options), options.cases))


def slot(options: PhantomOptions, index: int) -> Slot:
    """The plan's slot of one index.

    Raises:
        IndexError: The index is not within the cohort.
    """
    if not 0 <= index < options.cases:
        raise IndexError(f"case {index} of a cohort of {options.cases}")
    return next(islice(_slots(options), index, None))


def _slots(options: PhantomOptions) -> Iterator[Slot]:
    shares = (
        options.train_share,
        options.val_share,
        max(0.0, 1.0 - options.train_share - options.val_share),
    )
    persons: Counter[str] = Counter()
    cases: Counter[str] = Counter()
    free: Counter[str] = Counter()
    seconds, index, person = 0, 0, 0
    while True:
        # The split furthest behind its share gets the next person.
        split = max(
            (name for name, share in zip(SPLITS, shares, strict=True) if share > 0),
            key=lambda name: shares[SPLITS.index(name)] * (person + 1) - persons[name],
        )
        persons[split] += 1
        twice = options.second_exam_share * (person + 1) - seconds > _SECOND_EXAM_PHASE
        seconds += twice
        exams = 2 if twice else 1
        wanted = options.tumor_free_share * (cases[split] + exams)
        tumor_free = free[split] + exams / 2 < wanted - 0.05 or options.tumor_free_share == 1.0
        tumor_free = tumor_free and options.tumor_free_share > 0
        for exam_order in range(1, exams + 1):
            yield Slot(index, person, exam_order, split, tumor_free)
            index += 1
        cases[split] += exams
        free[split] += exams * tumor_free
        person += 1
