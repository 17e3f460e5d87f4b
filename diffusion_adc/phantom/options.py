"""What a simulated cohort is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from diffusion_adc.domain.errors import UsageError

ANATOMIES: Final = ("pelvis", "whole_body")
_GRIDS: Final[dict[str, tuple[tuple[int, int, int], tuple[float, float, float]]]] = {
    "pelvis": ((160, 160, 40), (2.5, 2.5, 5.0)),
    "whole_body": ((192, 192, 200), (2.3, 2.3, 5.0)),
}
"""Size and spacing of each anatomy's own grid: 200 mm of pelvis; one meter from the vertex to the thighs."""
_LATER: Final = ("leaking_covariate",)
"""Options that came later: recorded only where they are used, so that older cohorts keep their identity."""


@dataclass(frozen=True)
class PhantomOptions:
    """A cohort of digital patients. The same options give the same bytes on any number of workers.

    Raises:
        UsageError: An option is out of its range.
    """

    cases: int = 40
    """Number of examinations; about one person in ten is examined twice."""
    seed: int = 0
    """Everything random follows from the seed and the case's index."""
    anatomy: str = "pelvis"
    """Body region: pelvis, or whole_body (head to mid-thigh in four or five stations)."""
    readers: int = 2
    """Simulated readers per case."""
    ambiguity: bool = True
    """Readers disagree by a known law; off: every reader keeps exactly the true lesions."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Voxels of the ADC map's grid (I, J, K); 0x0x0 = the anatomy's own: pelvis 160x160x40, whole body
    192x192x200."""
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Voxel spacing in mm; 0x0x0 = the anatomy's own: pelvis 2.5x2.5x5, whole body 2.3x2.3x5. A whole body
    needs about 1000 mm along K to reach from the vertex to the thighs; a coarse one is 96x96x100 at 4.6x4.6x10."""
    tumor_free_share: float = 0.3
    """Share of cases without any tumor, kept in every split."""
    field_t: float = 1.5
    """Magnetic field in tesla: 1.5 or 3."""
    b_low: float = 50.0
    """Low b-value in s/mm²."""
    b_high: float = 900.0
    """High b-value in s/mm²."""
    grade_signal: bool = True
    """A lesion's grade shifts its ADC a little; off: grade and image are independent."""
    artifacts: bool = True
    """Distortion, misregistration, ghosts, failed fat suppression and implants; noise is always there."""
    second_exam_share: float = 0.1
    """Share of persons examined twice."""
    train_share: float = 0.6
    """Share of persons in the train split."""
    val_share: float = 0.15
    """Share of persons in the validation split; the rest is test."""

    leaking_covariate: bool = False
    """LDH is nearly determined by the tumor volume: a planted leak that a covariate report must find."""

    def __post_init__(self) -> None:
        # A YAML file gives lists; a frozen value keeps tuples so that equal options compare equal.
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        object.__setattr__(self, "spacing_mm", tuple(float(s) for s in self.spacing_mm))
        if self.anatomy not in ANATOMIES:
            raise UsageError(f"anatomy {self.anatomy!r}", f"one of {', '.join(ANATOMIES)}")
        size, spacing = _GRIDS[self.anatomy]
        object.__setattr__(self, "size", self.size if any(self.size) else size)
        object.__setattr__(self, "spacing_mm", self.spacing_mm if any(self.spacing_mm) else spacing)
        self._between("cases", self.cases, 1, 99_999)
        self._between("seed", self.seed, 0, 2**63 - 1)
        self._between("readers", self.readers, 1, 20)
        if len(self.size) != 3 or min(self.size) < 4 or max(self.size) > 512:
            raise UsageError(f"size {self.size}", "three numbers of voxels from 4 to 512")
        if len(self.spacing_mm) != 3 or min(self.spacing_mm) < 0.8 or max(self.spacing_mm) > 12:
            raise UsageError(f"spacing {self.spacing_mm} mm", "three spacings from 0.8 to 12 mm")
        if self.field_t not in (1.5, 3.0):
            raise UsageError(f"a field of {self.field_t:g} T", "1.5 or 3 T")
        if not 0 <= self.b_low < self.b_high <= 3000:
            raise UsageError(f"b-values {self.b_low:g} and {self.b_high:g} s/mm²", "0 ≤ low < high ≤ 3000")
        for name in ("tumor_free_share", "second_exam_share", "train_share", "val_share"):
            self._between(name, getattr(self, name), 0.0, 1.0)
        if self.train_share + self.val_share > 1 + 1e-9:
            raise UsageError("train and val shares above 1 together", "a share left for test")

    @staticmethod
    def _between(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise UsageError(f"{name} = {value}", f"{low:g} to {high:g}")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; an option that came later only where it is used."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in values.items() if v or k not in _LATER}
