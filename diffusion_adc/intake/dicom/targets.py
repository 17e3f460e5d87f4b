"""Where a DICOM case's target is: in a folder beside the studies, or in the study itself."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.dicom.classify import kind_of
from diffusion_adc.intake.dicom.headers import looks_like_dicom
from diffusion_adc.intake.dicom.person import Study
from diffusion_adc.intake.dicom.pixels import Reader
from diffusion_adc.intake.dicom.rules import TARGET, Rule
from diffusion_adc.intake.dicom.slices import Slice
from diffusion_adc.intake.dicom_target import CAPTURES, SEGMENTATIONS, read_segmentation
from diffusion_adc.intake.nifti import Loaded, Refusal, read_volume
from diffusion_adc.intake.options import SUFFIXES, TARGETS, IngestOptions
from diffusion_adc.intake.target import READERS, Target, TargetFiles, read_target, target_files, target_of

SEG: Final = "seg"


class Targets:
    """The target of one study.

    Args:
        study: The study.
        options: What the user declares.
        rules: The user's; those for ``target`` name series of the study.
        research_id: For messages.
        reader: Decodes files.

    Attributes:
        series: UIDs of the study's series that are targets, no images.
    """

    def __init__(
        self, study: Study, options: IngestOptions, rules: Sequence[Rule], research_id: str, reader: Reader
    ) -> None:
        self.options, self.research_id, self.reader = options, research_id, reader
        self.folder = _folder(options.target)
        self.slices = [one for one in study.slices if self._named(one, rules)]
        self.series = frozenset(one.series_uid for one in self.slices)
        wanted = options.target.lower() if options.target is not None and self.folder is None else None
        self.objects = [
            other.path
            for other in study.others
            if (wanted == SEG and other.sop_class in SEGMENTATIONS)
            or (
                wanted not in (None, SEG)
                and (other.sop_class in SEGMENTATIONS or f"{other.sop_class}.".startswith(f"{CAPTURES}."))
                and fnmatch.fnmatchcase(other.described.lower(), str(wanted))
            )
        ]

    def _named(self, one: Slice, rules: Sequence[Rule]) -> bool:
        pattern = self.options.target
        if pattern is not None and self.folder is None and pattern.lower() != SEG:
            return fnmatch.fnmatchcase(one.described.lower(), pattern.lower())
        return any(rule.sequence == TARGET for rule in rules) and kind_of(one, rules).sequence == TARGET

    def read(self, adc: Loaded, exam_order: int, values: NDArray[np.float32], factor: float) -> Target:
        """The target on the ADC grid.

        Raises:
            CaseError: S01 none, undeclared, or several; S19, S20, S22, S23, S26 and what a file is refused for.
        """
        options, research_id = self.options, self.research_id
        if self.folder is not None:
            where = self._beside(self.folder, exam_order)
            if isinstance(where, TargetFiles):
                return read_target(where, adc, values, factor, options, research_id)
            own = read_segmentation(where, adc, research_id) if where else {}
        else:
            paths = sorted({one.path for one in self.slices} | set(self.objects))
            own = read_segmentation(paths, adc, research_id) if paths else {}
        return target_of(own, {}, adc, values, factor, options, research_id)

    def _beside(self, folder: Path, exam_order: int) -> TargetFiles | list[Path]:
        """NIfTI files named as targets, or DICOM files, for this person's examination below a folder."""
        refused = Refusal(self.research_id, seq.TUMOR_LABEL)
        names = [f"{self.research_id}_{exam_order:02d}", *([self.research_id] if exam_order == 1 else [])]
        for name in names:
            single = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
            if single:
                read_volume(single[0], self.research_id, seq.TUMOR_LABEL)
                return TargetFiles({seq.TUMOR_LABEL: single[0]}, {})
            own = folder / name
            if not own.is_dir():
                continue
            stems = tuple(f"{self.options.stem(t)}{suffix}" for t in TARGETS for suffix in SUFFIXES)
            holding = {path.parent for path in own.rglob("*") if path.name in stems and path.is_file()}
            homes = {p if p.parent.name != READERS else p.parent.parent for p in holding}
            if len(homes) > 1:
                raise refused("S01", f"{len(homes)} folders with a target", "one", "remove the wrong ones")
            if homes:
                return target_files(folder, homes.pop(), self.options, self.research_id)
            return [path for path in sorted(own.rglob("*")) if path.is_file() and looks_like_dicom(path)]
        return []


def _folder(target: str | None) -> Path | None:
    """The folder that ``--target`` names, None where it names series."""
    return Path(target) if target is not None and Path(target).is_dir() else None
