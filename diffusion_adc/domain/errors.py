"""Errors a user can meet: one line with what was found, what was expected and what to do.

Each class carries the exit code of the command line, so that a program driving a hundred runs can
tell a wrong configuration (2) from a failure while working (1) without reading the text.
"""

from __future__ import annotations


class DiffusionAdcError(Exception):
    """A failure that can be explained in one sentence.

    Args:
        found: What was found.
        expected: What was expected instead.
        do: What the user can do about it.
        code: Stable code of the input catalogue (``S02``, ``C06`` …), if one applies.
        research_id: The research ID concerned, never a name.
        sequence: The sequence concerned.
    """

    exit_code = 1

    def __init__(
        self,
        found: str,
        expected: str | None = None,
        do: str | None = None,
        *,
        code: str | None = None,
        research_id: str | None = None,
        sequence: str | None = None,
    ) -> None:
        self.found, self.expected, self.do = found, expected, do
        self.code, self.research_id, self.sequence = code, research_id, sequence
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The whole message on one line."""
        subject = " ".join(part for part in (self.code, self.research_id, self.sequence) if part)
        parts = [self.found]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.do:
            parts.append(self.do)
        text = (f"{subject}: " if subject else "") + "; ".join(parts)
        return " ".join(text.splitlines())  # a file's name may hold a line break

    def __reduce__(self) -> tuple[object, ...]:
        # Loader workers send exceptions through a pipe; keyword-only fields need help to survive it.
        state = (self.found, self.expected, self.do, self.code, self.research_id, self.sequence)
        return _rebuild, (type(self), state)


def _rebuild(kind: type[DiffusionAdcError], state: tuple[str | None, ...]) -> DiffusionAdcError:
    found, expected, do, code, research_id, sequence = state
    return kind(found or "", expected, do, code=code, research_id=research_id, sequence=sequence)


class UsageError(DiffusionAdcError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2


class CaseError(DiffusionAdcError):
    """One case cannot be used; the others can (exit code 3 at the end of the batch)."""

    exit_code = 3


class CohortError(DiffusionAdcError):
    """A cohort, store or map folder on disk is damaged or does not fit (exit code 1)."""


class NonFiniteError(DiffusionAdcError):
    """Training met NaN or infinity and stopped (exit code 4)."""

    exit_code = 4


class StoppedBySignal(DiffusionAdcError):
    """A signal stopped the work after it was saved; it can be resumed (exit code 75)."""

    exit_code = 75
