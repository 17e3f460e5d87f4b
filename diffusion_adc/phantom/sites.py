"""Where tumors sit and of what they are made, by body region and primary tumor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diffusion_adc.phantom.growth import costs
from diffusion_adc.phantom.structures import BONE, BRAIN, FAT, MARROW, PROSTATE, UTERUS, Structure

GROUPS: Final = ("bone", "node", "liver", "lung", "primary")
"""Kinds of site, in the order in which they are drawn."""


@dataclass(frozen=True)
class Sites:
    """The sites of a body region."""

    bone: Mapping[str, float]
    """Shares of the bone sites."""
    node: Mapping[str, float]
    """Shares of the lymph node chains."""
    spread: Mapping[str, Mapping[str, float]]
    """Shares of `GROUPS` among the lesions, by primary."""
    organ: Mapping[str, tuple[tuple[str, str], ...]]
    """Site and tissue of the primary tumor, by primary."""
    median_count: float
    log_count_sd: float
    max_lesions: int
    diffuse: float = 0.0
    """Share of persons with myeloma whose first lesion is diffuse."""


def _spread(*shares: float) -> dict[str, float]:
    groups = ("bone", "node", "primary") if len(shares) == 3 else GROUPS
    return dict(zip(groups, shares, strict=True))


_PELVIC_ORGANS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "prostate": (("prostate_pz", "prostate_cancer"),), "cervix": (("cervix", "gynecologic_cancer"),),
    "endometrium": (("endometrium", "gynecologic_cancer"),), "ovary": (("ovary", "gynecologic_cancer"),),
    "bladder": (("bladder", "bladder_cancer"),), "rectum": (("rectum", "rectal_cancer"),),
}  # fmt: skip
_PELVIS: Final = Sites(
    bone={"sacrum": 0.26, "ilium": 0.30, "acetabulum": 0.12, "femur": 0.12, "ischium": 0.07, "pubis": 0.08,
          "lumbar": 0.05},
    node={"external_iliac": 0.34, "obturator": 0.22, "internal_iliac": 0.18, "common_iliac": 0.12, "inguinal": 0.06,
          "presacral": 0.04, "mesorectal": 0.04},
    spread={
        "prostate": _spread(0.66, 0.24, 0.10), "cervix": _spread(0.30, 0.48, 0.22),
        "endometrium": _spread(0.34, 0.40, 0.26), "ovary": _spread(0.25, 0.50, 0.25),
        "bladder": _spread(0.38, 0.42, 0.20), "rectum": _spread(0.36, 0.44, 0.20), "breast": _spread(0.90, 0.10, 0.0),
        "lung": _spread(0.90, 0.10, 0.0), "myeloma": _spread(1.0, 0.0, 0.0), "lymphoma": _spread(0.35, 0.65, 0.0),
        "other": _spread(0.75, 0.25, 0.0),
    },
    organ=_PELVIC_ORGANS, median_count=3.0, log_count_sd=0.6, max_lesions=12,
)  # fmt: skip
_WHOLE_BODY: Final = Sites(
    bone={"lumbar": 0.18, "thoracic": 0.20, "cervical_spine": 0.05, "sacrum": 0.09, "ilium": 0.12, "acetabulum": 0.04,
          "femur": 0.07, "ischium": 0.02, "pubis": 0.03, "rib": 0.10, "sternum": 0.03, "scapula": 0.03, "clavicle": 0.01,
          "humerus": 0.02, "skull": 0.01},
    node={"retroperitoneal": 0.21, "mediastinal": 0.12, "external_iliac": 0.12, "axillary": 0.09, "common_iliac": 0.08,
          "inguinal": 0.07, "obturator": 0.06, "internal_iliac": 0.06, "cervical": 0.06, "hilar": 0.04,
          "mesenteric": 0.04, "supraclavicular": 0.03, "mesorectal": 0.01, "presacral": 0.01},
    spread={
        "prostate": _spread(0.62, 0.24, 0.03, 0.03, 0.08), "breast": _spread(0.48, 0.20, 0.14, 0.08, 0.10),
        "lung": _spread(0.34, 0.28, 0.12, 0.10, 0.16), "rectum": _spread(0.12, 0.26, 0.32, 0.18, 0.12),
        "cervix": _spread(0.18, 0.48, 0.04, 0.12, 0.18), "endometrium": _spread(0.20, 0.40, 0.06, 0.14, 0.20),
        "ovary": _spread(0.10, 0.50, 0.14, 0.06, 0.20), "bladder": _spread(0.34, 0.34, 0.08, 0.10, 0.14),
        "myeloma": _spread(1.0, 0.0, 0.0, 0.0, 0.0), "lymphoma": _spread(0.22, 0.70, 0.03, 0.0, 0.05),
        "other": _spread(0.30, 0.20, 0.20, 0.10, 0.20),
    },
    organ={
        **_PELVIC_ORGANS, "breast": (("breast", "breast_cancer"),), "lung": (("lung_hilum", "lung_cancer"),),
        "lymphoma": (("brain", "cns_lymphoma"),),
        "other": (("liver", "hcc"), ("brain", "glioblastoma"), ("pancreas", "rectal_cancer")),
    },
    median_count=4.0, log_count_sd=0.85, max_lesions=48, diffuse=0.15,
)  # fmt: skip
SITES: Final = {"pelvis": _PELVIS, "whole_body": _WHOLE_BODY}
"""By the name of `options.ANATOMIES`."""

_SOFT: Final = (*FAT, Structure.MUSCLE)
_NODE: Final = (*FAT, Structure.SUBCUTANEOUS_FAT, Structure.LYMPH_NODE)
# Organ sites: host, what the tumor invades, and at what cost in mm.
_ORGAN: Final[dict[str, tuple[tuple[Structure, ...], tuple[Structure, ...], float]]] = {
    "prostate_pz": (PROSTATE, FAT, 3.0),
    "cervix": ((Structure.CERVIX,), (*FAT, Structure.MYOMETRIUM, Structure.JUNCTIONAL_ZONE), 3.0),
    "endometrium": (UTERUS, FAT, 3.0),
    "ovary": ((Structure.OVARY, Structure.FOLLICLE), (*FAT, Structure.BOWEL_WALL), 3.0),
    "bladder": ((Structure.BLADDER_WALL,), (Structure.URINE, *FAT), 3.0),
    "rectum": ((Structure.BOWEL_WALL,), (*FAT, Structure.FECES, Structure.BOWEL_FLUID), 3.0),
    "liver": ((Structure.LIVER,), (Structure.BLOOD,), 2.0),
    "lung": ((Structure.LUNG,), (Structure.BLOOD, Structure.VISCERAL_FAT, Structure.MUSCLE), 3.0),
    "lung_hilum": ((Structure.LUNG, Structure.VISCERAL_FAT), (Structure.BLOOD, Structure.LYMPH_NODE), 3.0),
    "breast": ((Structure.BREAST, Structure.SUBCUTANEOUS_FAT, *FAT), (Structure.SKIN, Structure.MUSCLE), 4.0),
    "brain": (BRAIN, (Structure.CSF,), 3.0),
    "pancreas": ((Structure.PANCREAS,), (*FAT, Structure.BLOOD), 3.0),
}


def hosts(group: str, site: str) -> tuple[Structure, ...]:
    """Structures in which a lesion starts."""
    if group == "bone":
        return MARROW
    return _NODE if group == "node" else _ORGAN[site][0]


def growth_costs(group: str, site: str, invasive: bool) -> dict[int, float]:
    """Costs of growth by structure number (see `growth.grow`)."""
    if group == "bone":
        return costs(BONE, _SOFT if invasive else (), 4.0)
    if group == "node":
        return costs(_NODE, (Structure.MUSCLE,), 6.0)
    host, beyond, cost = _ORGAN[site]
    return costs(host, beyond, cost)
