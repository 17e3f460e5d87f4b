"""Covariates of a simulated person: real but modest information about the tumors, much of it noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.phantom.lesions import LesionPlan

_MISSING: Final = 0.08
# Primary, share, mean age, standard deviation; by sex. "other" stands for no tumor known.
_Table = dict[str, tuple[tuple[str, float, float, float], ...]]
_PELVIS: Final[_Table] = {
    "male": (("prostate", 0.62, 71, 8), ("rectum", 0.11, 66, 10), ("bladder", 0.10, 71, 9), ("lung", 0.05, 69, 9),
             ("myeloma", 0.07, 67, 10), ("lymphoma", 0.05, 60, 14)),
    "female": (("cervix", 0.25, 51, 12), ("endometrium", 0.20, 62, 10), ("breast", 0.20, 58, 12),
               ("ovary", 0.10, 58, 12), ("rectum", 0.10, 65, 10), ("bladder", 0.05, 70, 9), ("myeloma", 0.05, 67, 10),
               ("lymphoma", 0.05, 58, 14)),
}  # fmt: skip
_WHOLE_BODY: Final[_Table] = {
    "male": (("prostate", 0.40, 71, 8), ("lung", 0.18, 68, 9), ("rectum", 0.10, 66, 10), ("lymphoma", 0.10, 47, 18),
             ("myeloma", 0.08, 66, 10), ("other", 0.08, 58, 14), ("bladder", 0.06, 71, 9)),
    "female": (("breast", 0.36, 56, 13), ("lung", 0.12, 67, 10), ("ovary", 0.09, 58, 12), ("cervix", 0.08, 50, 12),
               ("endometrium", 0.08, 62, 10), ("rectum", 0.07, 65, 10), ("lymphoma", 0.07, 45, 18),
               ("myeloma", 0.07, 66, 10), ("other", 0.04, 56, 14), ("bladder", 0.02, 70, 9)),
}  # fmt: skip
_PRIMARIES: Final = {"pelvis": _PELVIS, "whole_body": _WHOLE_BODY}
_TREATMENTS: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "prostate": (("none", 0.34), ("hormone", 0.36), ("radiotherapy", 0.08), ("surgery", 0.08), ("combined", 0.14)),
    "breast": (("none", 0.15), ("hormone", 0.30), ("chemotherapy", 0.20), ("surgery", 0.15), ("combined", 0.20)),
}  # fmt: skip
_OTHER_TREATMENTS: Final = (
    ("none", 0.45), ("surgery", 0.12), ("chemotherapy", 0.18), ("radiotherapy", 0.12), ("combined", 0.13),
)  # fmt: skip


@dataclass(frozen=True)
class History:
    """What is known of a person before the images are made."""

    sex: str
    age_years: float
    primary: str
    treatment: str
    hemoglobin_g_dl: float
    """Before any effect of the tumors."""


def draw_history(rng: np.random.Generator, anatomy: str = "pelvis") -> History:
    """Sex, age, primary tumor and treatment of a person, as they are seen in a clinic for a body region."""
    sex = "male" if rng.random() < 0.55 else "female"
    table = _PRIMARIES[anatomy][sex]
    primary, _, mean, spread = table[_pick(rng, [row[1] for row in table])]
    age = float(np.clip(np.round(rng.normal(mean, spread)), 24, 90))
    treatments = _TREATMENTS.get(primary, _OTHER_TREATMENTS)
    treatment = treatments[_pick(rng, [row[1] for row in treatments])][0]
    hemoglobin = (14.0 if sex == "male" else 12.8) + 1.2 * rng.standard_normal()
    hemoglobin -= 0.8 * (treatment in ("chemotherapy", "combined")) + 0.7 * (primary == "myeloma")
    return History(sex, age, primary, treatment, float(hemoglobin))


def _pick(rng: np.random.Generator, shares: list[float]) -> int:
    edges = np.cumsum(shares)
    return min(int(np.searchsorted(edges / edges[-1], rng.random(), side="right")), len(shares) - 1)


def draw_covariates(
    history: History, lesions: list[LesionPlan], rng: np.random.Generator, leaking: bool = False
) -> Covariates:
    """The clinical table's row of a person at the first examination.

    Tumor markers follow the log of the tumor volume with noise of the same size; stage follows spread in four
    of five persons; each value is unknown now and then.

    Args:
        history: The person's.
        lesions: Planned for the first examination.
        rng: The person's generator.
        leaking: LDH gives the tumor volume away, within a few percent and never unknown: a planted leak.
    """
    volume = sum(lesion.volume_ml for lesion in lesions)
    bone = sum(lesion.volume_ml for lesion in lesions if lesion.group == "bone")
    z = rng.standard_normal(4)
    psa = None
    if history.sex == "male":
        burden = 0.55 * np.log1p(volume) if history.primary == "prostate" else 0.0
        suppressed = (
            1.0 if history.treatment in ("hormone", "combined") and history.primary == "prostate" else 0.0
        )
        psa = float(np.round(np.exp(0.8 + burden - 0.7 * suppressed + 0.9 * z[0]), 2))
    alp = float(np.round(np.exp(np.log(75) + 0.10 * np.log1p(bone) + 0.28 * z[1])))
    ldh = float(np.round(np.exp(np.log(185) + 0.05 * np.log1p(volume) + 0.20 * z[2])))
    hemoglobin = float(np.clip(np.round(history.hemoglobin_g_dl - 0.25 * np.log1p(bone), 1), 5.5, 18.5))
    spread = {lesion.group for lesion in lesions}
    truth = 3 if "bone" in spread else 2 if "node" in spread else 1 if "primary" in spread else 0
    guess = int(rng.integers(0, 4))
    stage = ("I", "II", "III", "IV")[truth if rng.random() < 0.8 else guess]
    recurrence = bool(rng.random() < (0.42 if lesions and history.treatment != "none" else 0.12))
    comorbidity = bool(rng.random() < 0.25 + 0.005 * max(0.0, history.age_years - 50))
    row = Covariates(
        age_years=history.age_years, sex=history.sex, comorbidity=comorbidity, treatment=history.treatment,
        primary=history.primary, stage=stage, recurrence=recurrence, psa_ng_ml=psa, alp_u_l=alp, ldh_u_l=ldh,
        hemoglobin_g_dl=hemoglobin,
    )  # fmt: skip
    unknown: dict[str, float | None] = {
        name: None
        for name in ("comorbidity", "treatment", "stage", "recurrence", "psa_ng_ml", "alp_u_l", "ldh_u_l",
                     "hemoglobin_g_dl")
        if rng.random() < _MISSING
    }  # fmt: skip
    if leaking:
        noise = 1 + 0.02 * float(np.clip(rng.standard_normal(), -2, 2))
        unknown["ldh_u_l"] = float(np.round(150 + (60 * np.log1p(volume) + 4) * noise, 1))
    return replace(row, **unknown)  # type: ignore[arg-type]
