"""Coded concepts of the exported objects, each spelt once.

DCM: DICOM PS3.16. SCT: SNOMED CT (the retired SRT codes are never written). IBSI: Image Biomarker
Standardisation Initiative. UCUM: units. `PRIVATE` holds what no public scheme names: what draws say.
"""

from __future__ import annotations

from typing import Final

from highdicom.sr import CodedConcept

PRIVATE: Final = "99DIFFADC"
"""Designator of the project's own codes; PS3.16 section 8 reserves those that begin with 99 for this."""


def _dcm(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, "DCM", meaning)


def _sct(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, "SCT", meaning)


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, PRIVATE, meaning)


ADC: Final = _dcm("113041", "Apparent Diffusion Coefficient")
VOLUME: Final = _sct("118565006", "Volume")

# How the ADC came about (PS3.16 CID 4107, CID 4108)
QUANTITY: Final = _sct("246205007", "Quantity")
METHOD: Final = _sct("370129005", "Measurement Method")
MONO_EXPONENTIAL: Final = _dcm("113250", "Mono-exponential diffusion model")
FITTING: Final = _dcm("113241", "Model fitting method")
LOG_OF_RATIO: Final = _dcm("113260", "Log of ratio of two samples")
LEAST_SQUARES: Final = _dcm("113261", "Least squares fit of multiple samples")
SOURCE_B: Final = _dcm("113240", "Source image diffusion b-value")

# What is segmented
ABNORMAL: Final = _sct("49755003", "Morphologically Abnormal Structure")
NEOPLASM: Final = _sct("108369006", "Neoplasm")
ARTIFICIAL_INTELLIGENCE: Final = _dcm("123110", "Artificial Intelligence")

# Statistics over a lesion's voxels: derivations of a measurement (TID 1419)
MEAN: Final = _sct("373098007", "Mean")
MEDIAN: Final = _sct("373099004", "Median")
MINIMUM: Final = _sct("255605001", "Minimum")
MAXIMUM: Final = _sct("56851009", "Maximum")
STANDARD_DEVIATION: Final = _sct("386136009", "Standard Deviation")
P10: Final = CodedConcept("QG58", "IBSI", "10th percentile")
P90: Final = CodedConcept("8DWT", "IBSI", "90th percentile")
SKEWNESS: Final = CodedConcept("KE2A", "IBSI", "Skewness")
KURTOSIS: Final = CodedConcept("IPH6", "IBSI", "Excess kurtosis")
SUM_OF_VOXELS: Final = _dcm("126030", "Sum of segmented voxel method for volume")

# Statistics over draws
DRAWS_MEDIAN: Final = _own("DRAWS_MEDIAN", "Median over draws")
DRAWS_LOW80: Final = _own("DRAWS_LOW80", "Lower end of the 80 % interval over draws")
DRAWS_HIGH80: Final = _own("DRAWS_HIGH80", "Upper end of the 80 % interval over draws")
LESION_PROBABILITY: Final = _own("LESION_PROB", "Share of draws that hold the lesion")
EMPTY_DRAWS: Final = _own("EMPTY_DRAWS", "Share of draws without tumor")
LESION_COUNT: Final = _own("LESION_COUNT", "Number of lesions")
VIABLE: Final = _own("VOLUME_VIABLE", "Tumor volume with an ADC below 1400 um2/s")
TREATED: Final = _own("VOLUME_TREATED", "Tumor volume with an ADC of 1400 um2/s or more")

# Document
MR_IMAGING: Final = _sct("113091006", "Magnetic resonance imaging")
DERIVED_FROM: Final = _dcm("121322", "Source image for image processing operation")

# Units
SQUARE_MM_PER_S: Final = CodedConcept("mm2/s", "UCUM", "square millimeter per second")
SQUARE_UM_PER_S: Final = CodedConcept("um2/s", "UCUM", "square micrometer per second")
S_PER_SQUARE_MM: Final = CodedConcept("s/mm2", "UCUM", "second per square millimeter")
ML: Final = CodedConcept("mL", "UCUM", "milliliter")
ONE: Final = CodedConcept("1", "UCUM", "no units")


def band_volume(name: str) -> CodedConcept:
    """Tumor volume in an ADC band; `name` is ``0.4-0.9``, its edges in 1e-3 mm²/s."""
    low, high = (round(1000 * float(edge)) for edge in name.split("-"))
    return _own(f"VOLUME_{low}_{high}", f"Tumor volume with an ADC from {low} to below {high} um2/s")
