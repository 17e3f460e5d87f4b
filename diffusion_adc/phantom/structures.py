"""Numbers and names of the anatomical structures, and the tissue each is made of."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from diffusion_adc.phantom.tissues import tissue_names


class Structure(IntEnum):
    """Numbers in the fine label map and in the sealed organ labels."""

    AIR = 0
    SUBCUTANEOUS_FAT = 1
    VISCERAL_FAT = 2
    SKIN = 3
    MUSCLE = 4
    INTERMUSCULAR_FAT = 5
    TENDON = 6
    CORTICAL_BONE = 7
    MARROW_FATTY = 8
    MARROW_RED = 9
    CARTILAGE = 10
    DISC = 11
    CSF = 12
    NERVE = 13
    BLADDER_WALL = 14
    URINE = 15
    BOWEL_WALL = 16
    BOWEL_FLUID = 17
    FECES = 18
    BOWEL_GAS = 19
    PROSTATE_PZ = 20
    PROSTATE_TZ = 21
    BPH_GLANDULAR = 22
    SEMINAL_VESICLE = 23
    TESTIS = 24
    ERECTILE_TISSUE = 25
    ENDOMETRIUM = 26
    MYOMETRIUM = 27
    JUNCTIONAL_ZONE = 28
    CERVIX = 29
    OVARY = 30
    FOLLICLE = 31
    BLOOD = 32
    LYMPH_NODE = 33
    NODE_HILUM = 34
    IMPLANT = 35
    # Benign findings that look like tumor.
    BPH_STROMAL = 40
    PROSTATITIS = 41
    ABSCESS = 42
    HEMATOMA = 43
    INSUFFICIENCY_FRACTURE = 44
    HEMANGIOMA = 45
    MODIC = 46
    RED_ISLAND = 47
    # Lesions take the numbers from here on, three tissues each (see `lesions`).
    LESION = 64


TISSUE_OF: Final[dict[Structure, str]] = {
    Structure.AIR: "air",
    Structure.SUBCUTANEOUS_FAT: "fat",
    Structure.VISCERAL_FAT: "fat",
    Structure.SKIN: "skin",
    Structure.MUSCLE: "muscle",
    Structure.INTERMUSCULAR_FAT: "fat",
    Structure.TENDON: "tendon",
    Structure.CORTICAL_BONE: "cortical_bone",
    Structure.MARROW_FATTY: "marrow_fatty",
    Structure.MARROW_RED: "marrow_red",
    Structure.CARTILAGE: "cartilage",
    Structure.DISC: "disc",
    Structure.CSF: "csf",
    Structure.NERVE: "nerve",
    Structure.BLADDER_WALL: "bladder_wall",
    Structure.URINE: "urine",
    Structure.BOWEL_WALL: "bowel_wall",
    Structure.BOWEL_FLUID: "bowel_fluid",
    Structure.FECES: "feces",
    Structure.BOWEL_GAS: "air",
    Structure.PROSTATE_PZ: "prostate_pz",
    Structure.PROSTATE_TZ: "prostate_tz",
    Structure.BPH_GLANDULAR: "bph_glandular",
    Structure.SEMINAL_VESICLE: "seminal_vesicle",
    Structure.TESTIS: "testis",
    Structure.ERECTILE_TISSUE: "erectile_tissue",
    Structure.ENDOMETRIUM: "endometrium",
    Structure.MYOMETRIUM: "myometrium",
    Structure.JUNCTIONAL_ZONE: "junctional_zone",
    Structure.CERVIX: "cervix",
    Structure.OVARY: "ovary_stroma",
    Structure.FOLLICLE: "follicle",
    Structure.BLOOD: "blood",
    Structure.LYMPH_NODE: "lymph_node",
    Structure.NODE_HILUM: "fat",
    Structure.IMPLANT: "implant",
    Structure.BPH_STROMAL: "bph_stromal",
    Structure.PROSTATITIS: "prostatitis",
    Structure.ABSCESS: "abscess",
    Structure.HEMATOMA: "hematoma",
    Structure.INSUFFICIENCY_FRACTURE: "insufficiency_fracture",
    Structure.HEMANGIOMA: "hemangioma",
    Structure.MODIC: "modic",
    Structure.RED_ISLAND: "marrow_red",
}

FAT: Final = (Structure.VISCERAL_FAT, Structure.INTERMUSCULAR_FAT)
MARROW: Final = (Structure.MARROW_FATTY, Structure.MARROW_RED)
BONE: Final = (Structure.CORTICAL_BONE, *MARROW)
PROSTATE: Final = (
    Structure.PROSTATE_PZ, Structure.PROSTATE_TZ, Structure.BPH_GLANDULAR, Structure.BPH_STROMAL,
    Structure.PROSTATITIS,
)  # fmt: skip
UTERUS: Final = (
    Structure.ENDOMETRIUM, Structure.MYOMETRIUM, Structure.JUNCTIONAL_ZONE, Structure.CERVIX,
)  # fmt: skip

ORGAN_NAMES: Final[dict[int, str]] = {int(s): s.name.lower() for s in Structure if s is not Structure.LESION}
"""Name by number of the sealed organ labels."""


def tissue_rows() -> list[int]:
    """Tissue row by structure number; 0 (air) for numbers not in use. 64 entries."""
    names = tissue_names()
    rows = [0] * int(Structure.LESION)
    for structure, tissue in TISSUE_OF.items():
        rows[structure] = names.index(tissue)
    return rows
