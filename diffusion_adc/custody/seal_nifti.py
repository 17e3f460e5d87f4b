"""One person's NIfTI volumes → the same voxels and grid in new files, under the names of the sequences.

Written from the array and the grid alone: ``descrip``, ``aux_file``, ``db_name``, ``intent_name`` and the extensions of
a header are where converters leave names and dates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.custody.faces import FacePolicy, SeriesHead, looks_like_head
from diffusion_adc.custody.seal_dicom import ClinicRules, Notes
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.records.atomic import write_text
from diffusion_adc.records.nifti import read_stored, write_nifti

SUFFIXES: Final = (".nii.gz", ".nii")
_DWI: Final = "dwi"
_STEMS: Final = frozenset((*seq.VOLUMES, _DWI))
_ANATOMY: Final = frozenset({seq.T1W, seq.T2W})
_READERS: Final = "readers"
_CORNER_MM: Final = 0.1


def stem(path: Path) -> str | None:
    """A volume's name without its suffix, None for what is no NIfTI file."""
    return next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), None)


def stage_nifti(
    paths: Sequence[Path],
    root: Path,
    out: Path,
    research_id: str,
    rules: ClinicRules,
    notes: Notes,
    names: Mapping[str, str],
) -> int:
    """Write one person's volumes anew; returns how many.

    Args:
        paths: Of ``.nii`` and ``.nii.gz`` files.
        root: The person's folder.
        out: The person's folder in the package.
        research_id: For messages.
        rules: The clinic's.
        notes: Filled in.
        names: Own stem → the sequence it is; stems of the sequences' own names need no entry.

    Raises:
        CaseError: T7 a name that is no sequence's; T6 a face without a decision; S10 contradictory placement; S12 a
            b-value list that is none; S25 to S29 from the file itself.
    """
    readers = sorted({p.relative_to(root).parts[1] for p in paths if _is_reader(p, root)})
    for path in paths:
        parts, own = path.relative_to(root).parts, stem(path) or ""
        name = names.get(own, own)
        nested = _is_reader(path, root)
        if name not in _STEMS or (len(parts) != 1 and not nested):
            raise CaseError(
                "a volume under a name that is no sequence's", ", ".join(sorted(_STEMS)),
                "say which it is with --names", code="T7", research_id=research_id,
            )  # fmt: skip
        folder = out / _READERS / f"R{readers.index(parts[1]) + 1}" if nested else out
        stored = read_stored(path, research_id=research_id, sequence=name)
        array, affine = stored.values(), stored.affine
        if stored.sform is not None and stored.qform is not None:
            corner = np.array([*array.shape[:3], 1.0])
            if np.abs((stored.sform - stored.qform) @ corner).max() > _CORNER_MM:
                raise CaseError(
                    "two placements that contradict each other", "one", "correct the file", code="S10",
                    research_id=research_id, sequence=name,
                )  # fmt: skip
        if name in _ANATOMY:
            array, affine = _faces(array, affine, research_id, name, rules.faces, notes)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_nifti(folder / f"{name}.nii.gz", array, affine)
        _b_values(path, own, folder / f"{name}.bval", research_id)
    return len(paths)


def _is_reader(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return len(parts) == 3 and parts[0] == _READERS


def _faces(
    array: NDArray[np.generic],
    affine: NDArray[np.float64],
    research_id: str,
    name: str,
    policy: FacePolicy,
    notes: Notes,
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """The volume without what the clinic does not let go."""
    axis = int(np.argmax(np.abs(affine[2, :3])))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    others = [n for n in range(3) if n != axis]
    head = SeriesHead(axial=bool(abs(affine[2, axis]) > 0.7 * spacing[axis]))
    heights = affine[2, 3] + affine[2, axis] * np.arange(array.shape[axis])
    for n, height in enumerate(heights):
        head.positions[str(n)] = float(height)
        plane = np.take(array, n, axis=axis)
        if looks_like_head(plane.reshape(plane.shape[:2]), (spacing[others[0]], spacing[others[1]])):
            head.heads.add(str(n))
    head.low, head.high = float(heights.min()), float(heights.max())
    state, dropped = head.decide(policy)
    if state == "none":
        return array, affine
    if state == "undecided" or len(dropped) == array.shape[axis]:
        raise CaseError(
            "a volume that shows a head above the jaw", "the clinic's decision",
            "seal with --faces drop, or --faces accept with a reason", code="T6", research_id=research_id,
            sequence=name,
        )  # fmt: skip
    if dropped:
        gone = {int(n) for n in dropped}
        keep = [n for n in range(array.shape[axis]) if n not in gone]
        first, last = min(keep), max(keep)
        array = np.take(array, range(first, last + 1), axis=axis)
        affine = affine.copy()
        affine[:3, 3] += affine[:3, axis] * first
        notes.left_out["slices that show a face"] += len(gone)
    reason = policy.reason if state == "accepted" else ""
    notes.states.append({"series": f"{research_id}/{name}", "faces": state, "reason": reason})
    return array, affine


def _b_values(path: Path, own: str, out: Path, research_id: str) -> None:
    beside = path.with_name(f"{own}.bval")
    if not beside.is_file() or beside.is_symlink():
        return
    try:
        values = [float(word) for word in beside.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        values = []
    if not values or not all(0 <= value <= 2e9 for value in values):
        raise CaseError(
            "a .bval list that holds anything but b-values", "numbers in s/mm²", code="S12",
            research_id=research_id,
        )  # fmt: skip
    write_text(out, " ".join(f"{value:.10g}" for value in values) + "\n")
