"""Names of the sequences, of a case's other volumes and of a batch's tensors: spelt here and nowhere else.

Axis legend used throughout the package: ``B`` batch, ``C`` channel, ``I J K`` voxel axes (TorchIO order,
RAS+ or not: the affine tells), ``S`` any spatial shape.
"""

from __future__ import annotations

from typing import Final

T1W: Final = "t1w"
T2W: Final = "t2w"
DWI_LOW: Final = "dwi_low"
DWI_HIGH: Final = "dwi_high"
ADC: Final = "adc"
SEQUENCES: Final = (T1W, T2W, DWI_LOW, DWI_HIGH, ADC)
"""The five sequences of an examination, in channel order."""

OPTIONAL_SEQUENCES: Final = (T1W, T2W, DWI_LOW, DWI_HIGH)
"""Each of these may be missing, but never both diffusion-weighted images at once."""

ADC_RECOMPUTED: Final = "adc_recomputed"
VALID: Final = "valid"
CHANNELS: Final = (*SEQUENCES, ADC_RECOMPUTED, VALID)
"""Channels of the image condition, in order."""

TUMOR_ADC: Final = "tumor_adc"
TUMOR_LABEL: Final = "tumor_label"
VOLUMES: Final = (*SEQUENCES, VALID, TUMOR_ADC, TUMOR_LABEL)
"""Every volume a case folder may hold."""

# Keys of a batch: a plain dict of tensors, where `data` and `stages` meet.
IMAGES: Final = "images"
"""float32 (B, C, I, J, K): `CHANNELS`, scaled, 0 where missing or invalid."""
AVAILABLE: Final = "available"
"""float32 (B, 5): 1 where the sequence of `SEQUENCES` was acquired, else 0."""
COVARIATES: Final = "covariates"
"""float32 (B, F): scaled covariates, 0 where unknown (`clinical.FEATURES` names them)."""
KNOWN: Final = "known"
"""float32 (B, F): 1 where the covariate is known and wanted, else 0."""
PRESENCE: Final = "presence"
"""float32 (B, 1, I, J, K): 1 where the voxel is part of the tumor map, else 0."""
LOCATION: Final = "location"
"""int64 (B, 6): first and last voxel index of the patch in the prepared volume (TorchIO's order)."""
COUNTS: Final = "counts"
"""float32 (B,): 0 where a patch repeats another one so that all processes have as many batches, else 1. Absent
where all count."""
CASE_INDEX: Final = "case_index"
"""int64 (B,): row of the case in the cohort; never an identifier."""
