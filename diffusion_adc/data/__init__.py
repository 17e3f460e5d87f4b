"""From a cohort on disk to batches: store, subjects, patches, transforms, `CohortDataModule`.

With `inference`, the only room that knows TorchIO.
"""

from diffusion_adc.data.module import CohortDataModule

__all__ = ["CohortDataModule"]
