"""One simulated person: build, age, marrow, organs. Everything the anatomy needs, drawn once per person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Build:
    """Body build of a person. Lengths in mm, volumes in mL."""

    sex: str
    age_years: float
    scale: float
    """Size of the skeleton relative to the standard pelvis."""
    hip_scale: float
    """Width of the pelvis relative to its height; larger in women."""
    fat_front_mm: float
    fat_side_mm: float
    fat_back_mm: float
    muscle: float
    """Muscle bulk relative to the standard."""
    fat_planes_mm: float
    """Width of the fat planes between muscles; grows with age."""
    red_marrow: float
    """0 fatty skeleton … 1 red skeleton; falls with age, rises with anemia."""
    bladder_ml: float
    prostate_ml: float
    premenopausal: bool
    hysterectomy: bool


def draw_build(rng: np.random.Generator, sex: str, age_years: float, hemoglobin_g_dl: float) -> Build:
    """A build for a person of this sex, age and hemoglobin.

    Red marrow recedes with age and comes back with anemia: the two measured drivers of marrow signal.
    """
    female = sex == "female"
    obesity = float(np.exp(0.38 * rng.standard_normal()))
    side = float(np.clip((26 if female else 19) * obesity, 9, 36))
    anemia = max(0.0, (13.0 if female else 14.0) - hemoglobin_g_dl)
    red = 0.62 - 0.0075 * (age_years - 40) + 0.085 * anemia + (0.05 if female else 0.0)
    red += 0.10 * rng.standard_normal()
    prostate = np.exp(np.log(24 + 0.55 * max(0.0, age_years - 40)) + 0.35 * rng.standard_normal())
    return Build(
        sex=sex,
        age_years=age_years,
        scale=float(np.clip(rng.normal(0.955 if female else 1.0, 0.03), 0.88, 1.06)),
        hip_scale=float(np.clip(rng.normal(1.05 if female else 1.0, 0.02), 0.95, 1.1)),
        fat_front_mm=float(np.clip(side * rng.uniform(0.6, 1.2), 8, 50)),
        fat_side_mm=side,
        fat_back_mm=float(np.clip(side * rng.uniform(0.7, 1.2), 8, 42)),
        muscle=float(np.clip(rng.normal(0.93 if female else 1.02, 0.06), 0.78, 1.15)),
        fat_planes_mm=float(np.clip(1.1 + 0.03 * (age_years - 45) + 0.4 * rng.standard_normal(), 0.8, 3.2)),
        red_marrow=float(np.clip(red, 0.02, 0.97)),
        bladder_ml=float(np.clip(np.exp(np.log(130) + 0.55 * rng.standard_normal()), 35, 420)),
        prostate_ml=float(np.clip(prostate, 16, 120)),
        premenopausal=female and age_years < 51 + 2 * float(rng.standard_normal()),
        hysterectomy=female and bool(rng.random() < 0.12),
    )
