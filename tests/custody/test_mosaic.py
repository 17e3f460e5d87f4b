"""A mosaic taken apart: every tile where its slice was."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from diffusion_adc.custody.mosaic import is_mosaic, untiled
from diffusion_adc.domain.errors import CaseError


def _mosaic(volume: np.ndarray, corner: np.ndarray, row: np.ndarray, column: np.ndarray) -> FileDataset:
    """Slices (K, rows, columns) tiled as the vendor does: the header's corner keeps the center of the big image."""
    count, rows, columns = volume.shape
    side = int(np.ceil(np.sqrt(count)))
    image = np.zeros((side * rows, side * columns), "<u2")
    for n in range(count):
        top, left = n // side * rows, n % side * columns
        image[top : top + rows, left : left + columns] = volume[n]
    spacing = (2.0, 3.0)
    shifted = (
        corner - row * spacing[1] * (side - 1) * columns / 2 - column * spacing[0] * (side - 1) * rows / 2
    )
    ds = Dataset()
    ds.ImageType, ds.SOPInstanceUID, ds.InstanceNumber = ["ORIGINAL", "PRIMARY", "MOSAIC"], "1.2.3", 1
    ds.ImagePositionPatient = [f"{v:.6f}" for v in shifted]
    ds.ImageOrientationPatient = [f"{v:.6f}" for v in (*row, *column)]
    ds.PixelSpacing, ds.SpacingBetweenSlices = [str(v) for v in spacing], "4"
    ds.Rows, ds.Columns = image.shape
    ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 12, 0, 1
    ds.PixelData = image.tobytes()
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset(None, ds, file_meta=meta, preamble=bytes(128))  # type: ignore[arg-type]


def test_tiles_lie_where_the_slices_were() -> None:
    volume = np.random.default_rng(0).integers(0, 4095, (7, 6, 4)).astype("<u2")
    angle = 0.3
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)])
    corner = np.array([-11.0, 5.0, 30.0])
    ds = _mosaic(volume, corner, row, column)
    assert is_mosaic(ds)
    tiles = list(untiled(ds, "AB-0001"))
    assert len(tiles) == 7
    assert len({t.SOPInstanceUID for t in tiles}) == 7
    for n, tile in enumerate(tiles):
        expected = corner + 4 * n * np.cross(row, column)
        assert np.allclose([float(v) for v in tile.ImagePositionPatient], expected, atol=1e-4)
        assert np.array_equal(np.frombuffer(tile.PixelData, "<u2").reshape(6, 4), volume[n])
        assert not is_mosaic(tile)
    assert ds.Rows == 18  # the source is unchanged


def test_mosaics_that_do_not_say_how_they_lie() -> None:
    ds = _mosaic(np.zeros((4, 4, 4), "<u2"), np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    del ds.SpacingBetweenSlices
    with pytest.raises(CaseError, match=r"^S10 AB-0001"):
        list(untiled(ds, "AB-0001"))
    del ds[0x0019100A]
    with pytest.raises(CaseError, match=r"^S29 AB-0001"):
        list(untiled(ds, "AB-0001"))
