"""What goes wrong in a loader's processes, said as one sentence with the process and the cases it was at.

An exception that cannot be pickled would leave the trainer waiting, and one that can arrives with a traceback in
its text. So a process sends a plain sentence instead of a batch, and the trainer raises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch.utils.data import DataLoader, get_worker_info

from diffusion_adc.domain.errors import CohortError, DiffusionAdcError

_TIMED_OUT: Final = "timed out after"
_DIED: Final = ("DataLoader worker", _TIMED_OUT)
_FEWER: Final = "lower data.init_args.workers, or set it to 0 to see the failure itself"


@dataclass(frozen=True)
class Failure:
    """What a loader process sends in place of a batch."""

    error: DiffusionAdcError


def sent(make: Callable[[], Any], cases: Callable[[], Sequence[int]]) -> Any:
    """`make()`, or in a loader process the `Failure` it ended with.

    Args:
        make: Makes the batch.
        cases: Case indices of the batch, asked for in trouble.
    """
    worker = get_worker_info()
    if worker is None:
        return make()
    try:
        return make()
    except Exception as error:
        at = f"loader process {worker.id}, {_named(cases)}"
        if isinstance(error, DiffusionAdcError):
            said = type(error)(
                f"{error.found} ({at})", error.expected, error.do, code=error.code,
                research_id=error.research_id, sequence=error.sequence,
            )  # fmt: skip
            return Failure(said)
        why = "ran out of memory" if isinstance(error, MemoryError) else f"failed ({type(error).__name__})"
        return Failure(CohortError(f"{at} {why}", do=_FEWER))


def _named(cases: Callable[[], Sequence[int]]) -> str:
    try:
        return f"case indices {sorted(set(cases()))}"
    except Exception:  # the failure itself is what matters
        return "case indices unknown"


def watched(batches: Iterator[Any], cases: Callable[[], Sequence[int]]) -> Iterator[Any]:
    """The batches of a loader; failures of its processes become errors.

    Args:
        batches: From torch's loader.
        cases: Case indices of the batch that is waited for.

    Raises:
        DiffusionAdcError: A process failed, died, or sent nothing in time.
    """
    try:
        # Through `map`, which keeps no batch alive while the next one is made.
        yield from map(_opened, batches)
    except RuntimeError as error:
        if not any(words in str(error) for words in _DIED):
            raise
        raise loader_died(error, _named(cases)) from error


def _opened(batch: Any) -> Any:
    if isinstance(batch, Failure):
        raise batch.error
    return batch


def loader_died(error: RuntimeError, at: str | None = None) -> CohortError:
    """One sentence for torch's own error about a loader process."""
    text = str(error)
    if _TIMED_OUT in text:
        what = "a loader process sent nothing in time"
    else:
        digits = "".join(char if char.isdigit() else " " for char in text.split("worker", 1)[-1]).split()
        what = f"loader process {digits[0] if digits else '?'} was killed, perhaps for memory"
    return CohortError(f"{what} (waiting for {at})" if at else what, do=_FEWER)


class WatchedLoader(DataLoader[Any]):
    """A loader over whole batches whose processes are watched."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        given = 0

        def cases() -> Sequence[int]:
            assert self.batch_size is not None
            indices = list(self.sampler)[given * self.batch_size : (given + 1) * self.batch_size]
            return self.dataset.case_indices(indices)  # type: ignore[attr-defined]

        for batch in watched(super().__iter__(), cases):
            given += 1
            yield batch
            del batch
