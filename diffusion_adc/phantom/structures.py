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
    # Above the pelvis.
    WHITE_MATTER = 50
    CORTICAL_GM = 51
    DEEP_GM = 52
    SPINAL_CORD = 53
    VITREOUS = 54
    SALIVARY_GLAND = 55
    TONSIL = 56
    THYROID = 57
    THYMUS = 58
    AIRWAY = 59
    LUNG = 60
    MYOCARDIUM = 61
    BREAST = 62
    LIVER = 63
    BILE = 64
    SPLEEN = 65
    KIDNEY_CORTEX = 66
    KIDNEY_MEDULLA = 67
    ADRENAL = 68
    PANCREAS = 69
    # Benign findings there.
    LIVER_HEMANGIOMA = 80
    CYST = 81
    INFARCT = 82
    TB_NODE = 83
    # Lesions take the numbers from here on, three tissues each (see `lesions`).
    LESION = 96


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
    Structure.WHITE_MATTER: "white_matter",
    Structure.CORTICAL_GM: "cortical_gm",
    Structure.DEEP_GM: "deep_gm",
    Structure.SPINAL_CORD: "spinal_cord",
    Structure.VITREOUS: "vitreous",
    Structure.SALIVARY_GLAND: "parotid",
    Structure.TONSIL: "tonsil",
    Structure.THYROID: "thyroid",
    Structure.THYMUS: "thymus",
    Structure.AIRWAY: "air",
    Structure.LUNG: "lung",
    Structure.MYOCARDIUM: "myocardium",
    Structure.BREAST: "breast_fibroglandular",
    Structure.LIVER: "liver",
    Structure.BILE: "gallbladder_bile",
    Structure.SPLEEN: "spleen",
    Structure.KIDNEY_CORTEX: "kidney_cortex",
    Structure.KIDNEY_MEDULLA: "kidney_medulla",
    Structure.ADRENAL: "adrenal",
    Structure.PANCREAS: "pancreas",
    Structure.LIVER_HEMANGIOMA: "liver_hemangioma",
    Structure.CYST: "cyst",
    Structure.INFARCT: "acute_infarct",
    Structure.TB_NODE: "tb_node",
}

FAT: Final = (Structure.VISCERAL_FAT, Structure.INTERMUSCULAR_FAT)
MARROW: Final = (Structure.MARROW_FATTY, Structure.MARROW_RED)
BONE: Final = (Structure.CORTICAL_BONE, *MARROW)
BRAIN: Final = (Structure.WHITE_MATTER, Structure.CORTICAL_GM, Structure.DEEP_GM)
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
    """Tissue row by structure number below `Structure.LESION`; 0 (air) for numbers not in use."""
    names = tissue_names()
    rows = [0] * int(Structure.LESION)
    for structure, tissue in TISSUE_OF.items():
        rows[structure] = names.index(tissue)
    return rows
