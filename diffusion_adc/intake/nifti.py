"""One NIfTI file → checked values on the ADC map's own grid, or a refusal with its code.

ADC and diffusion-weighted images are never resampled: their voxels must stay identical with the scanner's.
T1w and T2w are brought to the ADC grid. Raw values are checked before any reader can turn NaN into 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.domain.units import spacing_mm
from diffusion_adc.intake.metaimage import read_metaimage
from diffusion_adc.intake.options import DWI, SUFFIXES, TARGETS
from diffusion_adc.records.nifti import StoredVolume, read_stored

_GRID_MM: Final = 1e-3
_GRID_VOXELS: Final = 1e-3
"""Two grids are one if no corner lies farther apart than this, in mm or in voxels."""
_CORNER_MM: Final = 0.1
"""Largest distance of a corner between a header's two placements."""
_SHEAR: Final = 1e-3
_LEAST_OVERLAP: Final = 0.5


class Refusal:
    """Makes refusals that name one person and sequence."""

    def __init__(self, research_id: str, sequence: str | None = None) -> None:
        self.research_id, self.sequence = research_id, sequence

    def __call__(self, code: str, found: str, expected: str, do: str = "correct the file") -> CaseError:
        """A refusal with its code."""
        return CaseError(found, expected, do, code=code, research_id=self.research_id, sequence=self.sequence)


@dataclass(frozen=True)
class Loaded:
    """A volume that passed every check that concerns it alone.

    Attributes:
        array: float64 (I, J, K), or (I, J, K, N) for a 4-D diffusion series.
        affine: (4, 4) voxel index → RAS+ mm.
        stored_as: Numeric type in the file.
        sha256: Of the file.
    """

    array: NDArray[np.float64]
    affine: NDArray[np.float64]
    stored_as: str
    sha256: str


def find_file(root: Path, folder: Path, stem: str, research_id: str, name: str) -> Path | None:
    """The file of a volume in a case folder; None if there is none.

    Raises:
        CaseError: S01 there are two, so that neither can be trusted; X8 it is a link out of the data root.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    refused = Refusal(research_id, name)
    if len(found) > 1:
        raise refused("S01", f"two files for {stem}", "one", "remove the one that does not belong there")
    if found and not found[0].resolve().is_relative_to(root.resolve()):
        raise refused("X8", "a link to a file outside the source folder", "the file itself", "copy it there")
    return found[0] if found else None


def read_volume(path: Path, research_id: str, name: str) -> Loaded:
    """Read one volume and check it.

    Raises:
        CaseError: S25, S26, S28, S29 from the file itself; S09 sheared; S10 contradictory placement; S18 NaN or
            infinite; S24 a fourth dimension; S19 constant; S26 an 8-bit ADC map.
    """
    refused = Refusal(research_id, name)
    read = read_metaimage if path.suffix == ".mha" else read_stored
    stored = read(path, research_id=research_id, sequence=name)
    if stored.raw.dtype.itemsize == 1 and name in (seq.ADC, seq.TUMOR_ADC):
        raise refused(
            "S26", "an 8-bit ADC map", "measured values", "deliver the map itself, not a picture of it"
        )
    if stored.raw.ndim != (4 if name == DWI else 3):
        expected = "4, one volume per b-value" if name == DWI else "3"
        raise refused(
            "S24", f"{stored.raw.ndim} dimensions", expected,
            "deliver one volume per sequence, or a series named dwi with its .bval list",
        )  # fmt: skip
    if stored.unit not in ("mm", "unknown"):
        raise refused("S28", f"a grid in {stored.unit}s", "millimeters", "export it in millimeters")
    _check_placement(stored, refused)
    axes = stored.affine[:3, :3] / np.linalg.norm(stored.affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > _SHEAR:
        raise refused("S09", f"axes off a right angle by {shear:.3g}", f"at most {_SHEAR:g}")
    array = np.asarray(stored.values(np.float64))
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise refused("S18", f"{bad} voxels are NaN or infinite", "finite values", "export the volume again")
    if name not in TARGETS:
        for part in np.moveaxis(array, 3, 0) if array.ndim == 4 else (array,):
            if part.min() == part.max():
                raise refused("S19", "a constant volume", "an image", "export the volume again")
    return Loaded(array, stored.affine, stored.raw.dtype.newbyteorder("=").name, stored.sha256)


def _corners(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(8, 4) homogeneous voxel indices of a grid's corners."""
    return np.array([(*corner, 1.0) for corner in product(*((0.0, n - 1.0) for n in shape[:3]))])


def _apart_mm(shape: tuple[int, ...], one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """How far two placements of one array lie apart at its farthest corner."""
    difference = _corners(shape) @ (one - other).T
    return float(np.linalg.norm(difference[:, :3], axis=1).max())


def _check_placement(stored: StoredVolume, refused: Refusal) -> None:
    if stored.sform is None and stored.qform is None:
        raise refused("S10", "a header without placement", "sform or qform", "export with geometry")
    if stored.sform is not None and stored.qform is not None:
        worst = _apart_mm(stored.raw.shape, stored.sform, stored.qform)
        if not worst <= _CORNER_MM:
            raise refused("S10", f"two placements {worst:.2f} mm apart", f"at most {_CORNER_MM} mm")


def same_grid(one: Loaded, other: Loaded) -> bool:
    """Whether two volumes share every voxel."""
    if one.array.shape[:3] != other.array.shape[:3]:
        return False
    tolerance = max(_GRID_MM, _GRID_VOXELS * min(spacing_mm(other.affine)))
    return _apart_mm(one.array.shape, one.affine, other.affine) <= tolerance


def aligned(volume: Loaded, adc: Loaded, research_id: str, name: str) -> Loaded:
    """The volume in the ADC map's axis order: the same voxels, permuted or flipped, never resampled.

    Raises:
        CaseError: Its voxels are not the ADC map's: S20 for targets, S08 for diffusion-weighted images.
    """
    turned = volume if same_grid(volume, adc) else _turned(volume, adc)
    if not same_grid(turned, adc):
        code = "S20" if name in TARGETS else "S08"
        raise Refusal(research_id, name)(
            code, f"shape {volume.array.shape[:3]} or placement unlike the ADC map's",
            f"the ADC grid {adc.array.shape}", "deliver it on the ADC map's own grid; it is never resampled",
        )  # fmt: skip
    return turned


def same_voxels(one: Loaded, other: Loaded) -> bool:
    """Whether two volumes share every voxel, in whichever axis order."""
    return same_grid(one, other) or same_grid(_turned(one, other), other)


def nearest_on(volume: Loaded, adc: Loaded) -> Loaded:
    """A label volume on the ADC grid: the value of the nearest voxel, 0 outside."""
    import SimpleITK as sitk  # noqa: N813

    moved = sitk.Resample(
        to_sitk(volume.array, volume.affine), to_sitk(adc.array, adc.affine), sitk.Transform(),
        sitk.sitkNearestNeighbor, 0.0,
    )  # fmt: skip
    array = sitk.GetArrayFromImage(moved).transpose(2, 1, 0).astype(np.float64)
    return replace(volume, array=array, affine=adc.affine)


def _turned(volume: Loaded, adc: Loaded) -> Loaded:
    axes = nib.orientations.io_orientation(np.linalg.inv(adc.affine) @ volume.affine)
    if np.isnan(axes).any():
        return volume
    turned = nib.orientations.apply_orientation(volume.array, axes)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(axes, volume.array.shape[:3])
    return replace(volume, array=np.ascontiguousarray(turned), affine=affine)


def on_adc_grid(
    volume: Loaded, adc: Loaded, research_id: str, name: str
) -> tuple[NDArray[np.float32], float]:
    """An anatomical volume on the ADC grid (linear), and the share of the grid that it covers.

    Raises:
        CaseError: S08, it covers less than half of the ADC grid.
    """
    import SimpleITK as sitk  # noqa: N813

    if same_grid(volume, adc):
        return volume.array.astype(np.float32), 1.0
    fixed = to_sitk(adc.array, adc.affine)
    cover = to_sitk(np.ones(volume.array.shape), volume.affine)
    cover = sitk.Resample(cover, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    overlap = float(sitk.GetArrayViewFromImage(cover).mean())
    if overlap < _LEAST_OVERLAP:
        raise Refusal(research_id, name)(
            "S08", f"{overlap:.0%} of the ADC grid covered", f"at least {_LEAST_OVERLAP:.0%}",
            "deliver the sequence of the same region",
        )  # fmt: skip
    moving = to_sitk(volume.array, volume.affine)
    resampled = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(resampled).transpose(2, 1, 0).astype(np.float32), overlap


def to_sitk(array: NDArray[np.floating], affine: NDArray[np.floating]) -> Any:
    """The array as a SimpleITK image: RAS+ millimeters become LPS+, a fresh header without text."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float32))
    placed = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(placed[:3, :3], axis=0)
    image.SetOrigin(placed[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((placed[:3, :3] / spacing).ravel().tolist())
    return image
