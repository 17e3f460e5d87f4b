"""What a case's condition is changed to on purpose: covariates dropped, permuted or alone, sequences left out.

Scores of maps drawn under each say what the covariates and sequences contribute, and whether a covariate leaks the
answer (a stage read off this same examination does).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

import numpy as np

from diffusion_adc.data.prepare import PreparedCase
from diffusion_adc.domain import clinical
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.inference.settings import DrawSettings

_VALID: Final = seq.CHANNELS.index(seq.VALID)
_RECOMPUTED: Final = seq.CHANNELS.index(seq.ADC_RECOMPUTED)


def donor(cohort: Cohort, case: Case, seed: int) -> str:
    """Whose covariates a case gets when they are permuted: a fixed permutation without a fixed point.

    Raises:
        UsageError: The cohort has one person only.
    """
    persons = sorted(
        {c.research_id for c in cohort.cases}, key=lambda p: hashlib.sha256(f"{seed}\0{p}".encode()).digest()
    )
    if len(persons) < 2:
        raise UsageError("covariates permuted in a cohort of one person", "at least two persons")
    return persons[(persons.index(case.research_id) + 1) % len(persons)]


def intervened(
    prepared: PreparedCase, cohort: Cohort, case: Case, settings: DrawSettings, wanted: tuple[str, ...]
) -> PreparedCase:
    """The condition under the settings' intervention; the very same object where there is none.

    Args:
        prepared: The condition as it is.
        cohort: Where another person's covariates come from.
        case: The case.
        settings: ``covariates`` and ``drop_sequences``.
        wanted: Names of the covariates the model uses.

    Raises:
        UsageError: A report on covariates of a model that uses none, or no diffusion-weighted image would be left.
    """
    if settings.covariates != "given" and not wanted:
        raise UsageError(
            f"covariates {settings.covariates} for a model without covariates", "a model with data.covariates",
            "train one, or leave --covariates out",
        )  # fmt: skip
    if settings.covariates == "dropped":
        prepared = replace(prepared, known=np.zeros_like(prepared.known))
    elif settings.covariates == "permuted":
        person = next(c for c in cohort.cases if c.research_id == donor(cohort, case, settings.seed))
        values, known = clinical.encode(cohort.covariates(person), wanted)
        prepared = replace(prepared, covariates=values, known=known)
    elif settings.covariates == "alone":
        images = np.zeros_like(prepared.images)
        images[_VALID] = prepared.images[_VALID]
        prepared = replace(prepared, images=images, available=np.zeros_like(prepared.available))
    if settings.drop_sequences:
        prepared = _without(prepared, settings.drop_sequences, case)
    return prepared


def _without(prepared: PreparedCase, names: list[str], case: Case) -> PreparedCase:
    images, available = prepared.images.copy(), prepared.available.copy()
    for name in names:
        images[seq.SEQUENCES.index(name)] = 0
        available[seq.SEQUENCES.index(name)] = 0
    low, high = (available[seq.SEQUENCES.index(name)] > 0 for name in (seq.DWI_LOW, seq.DWI_HIGH))
    if not (low or high):
        raise UsageError(
            "no diffusion-weighted image left", "one of both b-values", "drop another sequence",
            research_id=case.research_id,
        )  # fmt: skip
    if not (low and high):
        images[_RECOMPUTED] = 0  # it would give the missing image away
    return replace(prepared, images=images, available=available)
