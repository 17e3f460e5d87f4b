"""A stored case as a `torchio.Subject`, without reading it.

The subject holds two images, ``images`` (7 channels, `sequences.CHANNELS`) and ``presence``, both mapped from
disk: nothing is loaded until a sampler crops a patch. Never hand such a subject to `tio.SubjectsDataset`, which
deep-copies it, nor through a pipe, which pickles the whole volume: pass the `StoreEntry` and build it here.
"""

from __future__ import annotations

from typing import Final

import torch
import torchio as tio

from diffusion_adc.data.store import StoreEntry
from diffusion_adc.domain import sequences as seq

ENTRY: Final = "entry"
"""Key of the `StoreEntry` a subject comes from."""


def open_subject(entry: StoreEntry, reader: int = 0) -> tio.Subject:
    """A subject over one store entry.

    Args:
        entry: The stored case.
        reader: Whose presence it carries.

    Returns:
        ``images`` float16 (7, I, J, K), ``presence`` uint8 (1, I, J, K), and the entry itself; both images
        with the working grid's affine.
    """
    affine = entry.grid.affine
    # Copy-on-write maps are writable for torch and private: an in-place write never reaches the file.
    images = torch.from_numpy(entry.images())
    presence = torch.from_numpy(entry.presence()[reader : reader + 1])
    return tio.Subject(
        {
            seq.IMAGES: tio.ScalarImage(tensor=images, affine=affine),
            seq.PRESENCE: tio.LabelMap(tensor=presence, affine=affine),
            ENTRY: entry,
        }
    )
