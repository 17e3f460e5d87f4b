"""Lesion candidates and their matching to reference lesions.

The matching is that of PI-CAI (``picai_eval`` 1.4): 26-connected candidates with one confidence each, a
hit at an intersection over union of at least 0.10, and the split-merge rule: among the candidates that
overlap a lesion enough, the assignment with the largest sum of (1 + IoU) decides which one is the hit; the
others are neither hit nor false positive. Three things are added or decided differently here:

- *ignored lesions* (a careful reader may keep them or not): their voxels do not count when overlap with
  other lesions is measured, they are not in the denominator, and a candidate that lies on one of them is
  neither hit nor false positive (a candidate that joins two lesions across an ignored one is still one);
- a hit carries the highest confidence among the candidates that overlap its lesion enough
  (``credit="best"``), so that a faint candidate with the better overlap cannot hide a confident one;
- the IoU is the quotient of two counts without a smoothing term, so that a candidate that reaches the
  threshold exactly is a hit in a volume of any size.

Axes ``I J K``; lesions and candidates are numbered from 1 in int32 volumes whose background is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diffusion_adc.inference.lesions import connected_components

MIN_IOU: Final = 0.10
"""Smallest intersection over union of a hit (PI-CAI: Saha et al., Lancet Oncol 2024;25:879)."""

IGNORED_SHARE: Final = 0.5
"""A candidate with at least this share of its voxels in ignored lesions is ignored (as COCO's crowd rule)."""

LOWEST_LEVEL: Final = 0.05
"""Candidates below the operating point are sought down to this probability."""

HIT: Final = "hit"
FALSE_POSITIVE: Final = "false_positive"
SPLIT: Final = "split"
IGNORED: Final = "ignored"

Confidence = Literal["max", "mean"]
Credit = Literal["best", "matched"]


@dataclass(frozen=True)
class Candidates:
    """Lesion candidates of one case.

    Attributes:
        labels: int32 (I, J, K), candidate number from 1, background 0.
        confidence: float64 (N,), confidence of candidate n at index n - 1.
        operating: bool (N,), True for the candidates of the map at its operating point.
    """

    labels: NDArray[np.int32]
    confidence: NDArray[np.float64]
    operating: NDArray[np.bool_]


@dataclass(frozen=True)
class Matching:
    """Outcome of one case; index n - 1 belongs to candidate or reference lesion n.

    Attributes:
        outcome: ``hit``, ``split``, ``ignored`` or ``false_positive`` per candidate.
        partner: int64 (N,), the reference lesion a hit belongs to, else 0.
        candidate_iou: float64 (N,), IoU of a hit with its lesion, else the best IoU with any lesion.
        confidence: float64 (N,), confidence per candidate as given.
        found: bool (M,), True for the reference lesions that were hit.
        found_confidence: float64 (M,), confidence credited to each found lesion, 0 for a missed one.
        found_iou: float64 (M,), IoU of the hit, 0 for a missed lesion.
    """

    outcome: tuple[str, ...]
    partner: NDArray[np.int64]
    candidate_iou: NDArray[np.float64]
    confidence: NDArray[np.float64]
    found: NDArray[np.bool_]
    found_confidence: NDArray[np.float64]
    found_iou: NDArray[np.float64]

    @property
    def hits(self) -> int:
        """Reference lesions found."""
        return int(self.found.sum())

    @property
    def misses(self) -> int:
        """Reference lesions not found."""
        return int(self.found.size - self.found.sum())

    @property
    def false_positives(self) -> int:
        """Candidates that lie on no lesion."""
        return sum(outcome == FALSE_POSITIVE for outcome in self.outcome)

    @property
    def false_confidence(self) -> NDArray[np.float64]:
        """Confidence of each false positive, float64 (F,)."""
        wrong = np.fromiter((o == FALSE_POSITIVE for o in self.outcome), dtype=bool, count=len(self.outcome))
        return self.confidence[wrong]


def components(mask: NDArray[np.generic]) -> tuple[NDArray[np.int32], int]:
    """26-connected components of a volume, numbered as in a map's own lesion table (largest first).

    Args:
        mask: (I, J, K), tumor where it is not 0.

    Returns:
        int32 (I, J, K) component numbers from 1, and how many there are.
    """
    foreground = np.asarray(mask) != 0
    labels = np.zeros(foreground.shape, dtype=np.int32)
    box = bounding_box(foreground)
    if box is None:
        return labels, 0
    labels[box] = connected_components(foreground[box])
    return labels, int(labels[box].max())


def bounding_box(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice] | None:
    """Smallest box around the True voxels of an (I, J, K) volume, widened by ``margin`` voxels inside it.

    Returns:
        Three slices, or None where no voxel is True.
    """
    found: list[slice] = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if line.size == 0:
            return None
        found.append(slice(max(int(line[0]) - margin, 0), min(int(line[-1]) + 1 + margin, mask.shape[axis])))
    return found[0], found[1], found[2]


def lesion_candidates(
    presence: NDArray[np.bool_],
    probability: NDArray[np.floating],
    *,
    threshold: float = 0.5,
    confidence: Confidence = "max",
    lowest: float = LOWEST_LEVEL,
) -> Candidates:
    """Candidates of a tumor map with one confidence each.

    The components of ``presence`` are the candidates at the operating point. Below it the map is cut at
    half the threshold, a quarter … down to ``lowest``; a component of such a cut that holds no candidate
    of a higher cut is a further candidate. The precision-recall curve so goes on below the operating
    point without ever counting one lesion twice.

    Args:
        presence: bool (I, J, K), the map at its operating point.
        probability: float (I, J, K) in [0, 1].
        threshold: The operating point's probability τ.
        confidence: ``max`` (default, as picai_eval) or ``mean`` of the probability in the candidate.
        lowest: Lowest cut; 1 leaves only the candidates at the operating point.

    Raises:
        ValueError: If the shapes differ or a probability lies outside [0, 1].
    """
    if presence.shape != probability.shape:
        raise ValueError(f"presence has shape {presence.shape}, probability {probability.shape}")
    if probability.size and not (float(probability.min()) >= 0.0 and float(probability.max()) <= 1.0):
        raise ValueError("probability must lie in [0, 1] and be finite")
    labels, count = components(presence)
    operating = count
    level, held = threshold / 2.0, int(presence.sum())
    while level >= lowest:
        mask = np.logical_or(probability >= level, presence)
        if int(mask.sum()) > held:  # a cut that adds nothing has no new candidate
            held = int(mask.sum())
            cut, parts = components(mask)
            taken = np.zeros(parts + 1, dtype=bool)
            taken[cut[labels > 0]] = True
            renumber = np.zeros(parts + 1, dtype=np.int32)
            new = np.flatnonzero(~taken[1:]) + 1
            renumber[new] = np.arange(count + 1, count + 1 + new.size, dtype=np.int32)
            labels = labels + renumber[cut]
            count += int(new.size)
        level /= 2.0
    return Candidates(
        labels=labels,
        confidence=_per_label(probability, labels, count, confidence),
        operating=np.arange(count) < operating,
    )


def _per_label(
    values: NDArray[np.floating], labels: NDArray[np.int32], count: int, statistic: Confidence
) -> NDArray[np.float64]:
    inside = labels > 0
    index = labels[inside] - 1
    chosen = values[inside].astype(np.float64)
    if statistic == "mean":
        voxels = np.bincount(index, minlength=count)
        return np.bincount(index, weights=chosen, minlength=count) / np.maximum(voxels, 1)
    largest = np.zeros(count, dtype=np.float64)
    np.maximum.at(largest, index, chosen)
    return largest


def match_lesions(
    candidates: NDArray[np.int32],
    confidence: NDArray[np.float64],
    reference: NDArray[np.int32],
    ignored: NDArray[np.bool_] | None = None,
    *,
    min_iou: float = MIN_IOU,
    credit: Credit = "best",
) -> Matching:
    """Match candidates to reference lesions.

    A candidate that is no hit is, in this order: ``split`` if it overlaps a reference lesion with at
    least ``min_iou``; ``ignored`` if it overlaps a component of ``ignored`` with at least ``min_iou`` or
    has half of its voxels in ``ignored``; ``false_positive`` otherwise. With ``credit="matched"`` and no
    ignored lesions the outcome is that of ``picai_eval.eval.evaluate_case``.

    Args:
        candidates: int32 (I, J, K), candidates numbered 1 … N.
        confidence: float (N,), confidence of each candidate.
        reference: int32 (I, J, K), reference lesions numbered 1 … M.
        ignored: bool (I, J, K), lesions that count for nothing; None if there are none.
        min_iou: Smallest intersection over union of a hit; reaching it exactly is a hit.
        credit: Confidence of a found lesion: ``best`` takes the highest among its matched candidate and
            the unmatched ones that overlap it enough, ``matched`` the matched candidate's own.

    Raises:
        ValueError: If shapes differ, or a number in ``candidates`` has no confidence.
    """
    if candidates.shape != reference.shape or (ignored is not None and ignored.shape != reference.shape):
        raise ValueError(f"candidates have shape {candidates.shape}, the reference {reference.shape}")
    n = int(confidence.size)
    if candidates.size and int(candidates.max()) > n:
        raise ValueError(f"{int(candidates.max())} candidates but {n} confidences")
    m = int(reference.max()) if reference.size else 0
    counted = candidates
    if ignored is not None:
        ignored = ignored & (reference == 0)
        counted = np.where(ignored, 0, candidates)
    iou = _iou_matrix(counted, reference, n, m)
    enough: NDArray[np.bool_] = np.asarray(iou >= min_iou)

    # As picai_eval: insufficient overlap weighs nothing, any sufficient one at least 1.
    rows, columns = linear_sum_assignment(np.where(enough, iou + 1.0, 0.0), maximize=True)
    matched = enough[rows, columns]
    rows, columns = rows[matched], columns[matched]

    partner = np.zeros(n, dtype=np.int64)
    partner[columns] = rows + 1
    on_lesion = np.asarray(enough.any(axis=0))
    on_ignored = _on_ignored(candidates, ignored, n, min_iou)
    outcome = tuple(
        HIT if partner[c] else SPLIT if on_lesion[c] else IGNORED if on_ignored[c] else FALSE_POSITIVE
        for c in range(n)
    )
    candidate_iou = iou.max(axis=0) if m and n else np.zeros(n)
    candidate_iou[columns] = iou[rows, columns]
    found = np.zeros(m, dtype=bool)
    found_confidence, found_iou = np.zeros(m), np.zeros(m)
    found[rows] = True
    found_iou[rows] = iou[rows, columns]
    found_confidence[rows] = confidence[columns]
    if credit == "best":
        free = enough & (partner == 0)
        best_free = np.where(free, confidence, 0.0).max(axis=1) if n else np.zeros(m)
        found_confidence = np.where(found, np.maximum(found_confidence, best_free), 0.0)
    return Matching(
        outcome=outcome,
        partner=partner,
        candidate_iou=candidate_iou,
        confidence=np.asarray(confidence, dtype=np.float64),
        found=found,
        found_confidence=found_confidence,
        found_iou=found_iou,
    )


def _iou_matrix(
    candidates: NDArray[np.int32], reference: NDArray[np.int32], n: int, m: int
) -> NDArray[np.float64]:
    """Intersection over union of every reference lesion (rows) with every candidate (columns).

    Counts are integers and the division is correctly rounded, so an IoU that equals the decimal
    threshold in exact arithmetic also equals it here.
    """
    candidate_voxels = np.bincount(candidates[candidates > 0], minlength=n + 1)[1:]
    reference_voxels = np.bincount(reference[reference > 0], minlength=m + 1)[1:]
    both = (candidates > 0) & (reference > 0)
    pairs = (reference[both].astype(np.int64) - 1) * n + candidates[both] - 1
    shared = np.bincount(pairs, minlength=m * n).reshape(m, n)
    union = reference_voxels[:, None] + candidate_voxels[None, :] - shared
    return shared / np.maximum(union, 1)


def _on_ignored(
    candidates: NDArray[np.int32], ignored: NDArray[np.bool_] | None, n: int, min_iou: float
) -> NDArray[np.bool_]:
    if ignored is None or n == 0 or not ignored.any():
        return np.zeros(n, dtype=bool)
    lesions, m = components(ignored)
    overlap = _iou_matrix(candidates, lesions, n, m)
    voxels = np.bincount(candidates[candidates > 0], minlength=n + 1)[1:]
    inside = np.bincount(candidates[(candidates > 0) & ignored], minlength=n + 1)[1:]
    share = inside / np.maximum(voxels, 1)
    return np.asarray((overlap >= min_iou).any(axis=0) | (share >= IGNORED_SHARE))
