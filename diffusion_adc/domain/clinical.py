"""Clinical covariates: typed, any of them may be unknown.

Encoded as two vectors of the same length: the scaled values (0 where unknown) and a mask that says which
are known, so that a network can tell "unknown" from "zero".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import log1p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.errors import CaseError, UsageError

SEXES: Final = ("female", "male")
TREATMENTS: Final = ("none", "hormone", "chemotherapy", "radiotherapy", "surgery", "combined")
PRIMARIES: Final = (
    "prostate", "cervix", "endometrium", "ovary", "bladder", "rectum", "breast", "lung", "myeloma", "lymphoma",
    "other",
)  # fmt: skip
STAGES: Final = ("I", "II", "III", "IV")
# UICC TNM: an optional basis (c clinical, p pathological, y after treatment, r recurrence, a autopsy), then the
# category with its subdivisions.
TNM: Final = {
    "t_stage": re.compile(r"[cpyra]{0,2}T(?:X|0|is|a|[1-4](?:mi|[a-d])?[1-3]?)", re.ASCII),
    "n_stage": re.compile(r"[cpyra]{0,2}N(?:X|[0-3](?:mi|[a-c])?)", re.ASCII),
    "m_stage": re.compile(r"[cpyra]{0,2}M(?:X|[01][a-d]?)", re.ASCII),
}


@dataclass(frozen=True)
class Covariates:
    """What the clinical table says of one person; None = unknown.

    Raises:
        CaseError: A value lies outside its vocabulary or range.
    """

    age_years: float | None = None
    """Whole years; ages above 89 are stored as 90."""
    sex: str | None = None
    comorbidity: bool | None = None
    treatment: str | None = None
    primary: str | None = None
    stage: str | None = None
    recurrence: bool | None = None
    psa_ng_ml: float | None = None
    alp_u_l: float | None = None
    ldh_u_l: float | None = None
    hemoglobin_g_dl: float | None = None
    t_stage: str | None = None
    """TNM category as written, with its basis: ``pT2a``; so too `n_stage` and `m_stage`."""
    n_stage: str | None = None
    m_stage: str | None = None
    crp_mg_dl: float | None = None
    calcium_mg_dl: float | None = None
    creatinine_mg_dl: float | None = None
    psa_density_ng_ml2: float | None = None
    """PSA over prostate volume, ng/mL per mL."""
    prostate_volume_ml: float | None = None
    isup_grade: float | None = None
    """ISUP grade group 0 (no cancer) to 5; only public sets have it. Never a network's input: it is an outcome."""
    below_detection: tuple[str, ...] = ()
    """Names of the laboratory values that are a detection limit: the true value lies below."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("sex", SEXES), ("treatment", TREATMENTS), ("primary", PRIMARIES), ("stage", STAGES),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise CaseError(f"an unknown value of {name}", f"one of {', '.join(allowed)}", code="C08")
        for name, pattern in TNM.items():
            value = getattr(self, name)
            if value is not None and not pattern.fullmatch(value):
                raise CaseError(f"an unknown value of {name}", "a TNM category such as pT2a", code="C08")
        object.__setattr__(self, "below_detection", tuple(sorted(set(self.below_detection))))
        for name in self.below_detection:
            if name not in LABORATORY or getattr(self, name) is None:
                raise CaseError("a detection limit without its value", "a laboratory value", code="C02")
        for name in ("comorbidity", "recurrence"):
            value = getattr(self, name)
            if value is None:
                continue
            if value not in (True, False):
                raise CaseError(f"an unknown value of {name}", "true, false or empty", code="C08")
            object.__setattr__(self, name, bool(value))  # 1 and True must give one digest
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, float(value))  # 63 and 63.0 must give one digest
            if not low <= value <= high:
                code = "C04" if name == "age_years" else "C05"
                raise CaseError(f"{name} out of range", f"{low:g} to {high:g}", "check the unit", code=code)
        if self.isup_grade is not None and self.isup_grade % 1:
            raise CaseError("an unknown value of isup_grade", "a whole number 0 to 5", code="C08")
        if self.age_years is not None:  # whole years, the oldest pooled: rare ages identify
            object.__setattr__(self, "age_years", float(min(int(self.age_years), 90)))

    def record(self) -> dict[str, Any]:
        """Every core covariate, and of the later ones those known: a table without them keeps its digest."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if name in CORE or value not in (None, ())}


_RANGES: Final = {
    "age_years": (0.0, 120.0),
    "psa_ng_ml": (0.0, 20_000.0),
    "alp_u_l": (0.0, 20_000.0),
    "ldh_u_l": (0.0, 50_000.0),
    "hemoglobin_g_dl": (1.0, 30.0),
    "crp_mg_dl": (0.0, 100.0),
    "calcium_mg_dl": (2.0, 25.0),
    "creatinine_mg_dl": (0.05, 40.0),
    "psa_density_ng_ml2": (0.0, 500.0),
    "prostate_volume_ml": (1.0, 2000.0),
    "isup_grade": (0.0, 5.0),
}
LABORATORY: Final = (
    "psa_ng_ml", "alp_u_l", "ldh_u_l", "hemoglobin_g_dl", "crp_mg_dl", "calcium_mg_dl", "creatinine_mg_dl",
)  # fmt: skip
CORE: Final = tuple(f.name for f in fields(Covariates))[:11]
"""Covariates every table has a column for; the later ones have one where somebody's value is known."""
LATER: Final = tuple(f.name for f in fields(Covariates))[11:]


def _indicator(name: str, value: str) -> float:
    return float(value == name)


# Each covariate becomes one or more features of order 1; laboratory values are log-scaled because they
# span decades.
_ENCODERS: Final[dict[str, tuple[tuple[str, Callable[[Any], float]], ...]]] = {
    "age_years": (("age_years", lambda v: (float(v) - 65.0) / 15.0),),
    "sex": (("sex_male", lambda v: 1.0 if v == "male" else -1.0),),
    "comorbidity": (("comorbidity", lambda v: 1.0 if v else -1.0),),
    "treatment": tuple((f"treatment_{name}", partial(_indicator, name)) for name in TREATMENTS),
    "primary": tuple((f"primary_{name}", partial(_indicator, name)) for name in PRIMARIES),
    "stage": (("stage", lambda v: (STAGES.index(v) - 1.5) / 1.5),),
    "recurrence": (("recurrence", lambda v: 1.0 if v else -1.0),),
    "psa_ng_ml": (("psa_ng_ml", lambda v: log1p(v) / 3.0),),
    "alp_u_l": (("alp_u_l", lambda v: (log1p(v) - 4.5) / 1.0),),
    "ldh_u_l": (("ldh_u_l", lambda v: (log1p(v) - 5.3) / 1.0),),
    "hemoglobin_g_dl": (("hemoglobin_g_dl", lambda v: (float(v) - 13.0) / 2.0),),
}

NAMES: Final = tuple(_ENCODERS)
"""Covariates a network can be given."""
FEATURES: Final = tuple(name for encoder in _ENCODERS.values() for name, _ in encoder)
"""Names of the encoded features, in order."""


def encode(
    covariates: Covariates, wanted: Sequence[str] = NAMES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scaled features and the mask of those known, both float32 (F,) with F = ``len(FEATURES)``.

    Args:
        covariates: One person's covariates.
        wanted: Names of the covariates to use; the others count as unknown.

    Raises:
        UsageError: A wanted name is not a covariate.
    """
    for name in wanted:
        if name not in NAMES:
            raise UsageError(f"covariate {name!r}", f"some of {', '.join(NAMES)}")
    values, known = [], []
    for name, encoder in _ENCODERS.items():
        value = getattr(covariates, name) if name in wanted else None
        for _, function in encoder:
            values.append(0.0 if value is None else function(value))
            known.append(0.0 if value is None else 1.0)
    return np.asarray(values, dtype=np.float32), np.asarray(known, dtype=np.float32)
