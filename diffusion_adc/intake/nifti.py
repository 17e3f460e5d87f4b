"""One folder of NIfTI files → the volumes of one case on the ADC map's own grid, or a refusal with its code.

ADC and diffusion-weighted images are never resampled: their voxels must stay identical with the scanner's.
T1w and T2w are brought to the ADC grid. Raw values are checked before any reader can turn NaN into 0.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.records.nifti import Volume, read_nifti

SUFFIXES: Final = (".nii.gz", ".nii")
_GRID_TOLERANCE: Final = 1e-3
"""Largest difference of two affines' entries, mm, for one grid."""
_CORNER_MM: Final = 0.1
"""Largest distance of a corner between a header's two placements, mm."""
_SHEAR: Final = 1e-3
_LEAST_OVERLAP: Final = 0.5


class Refusal:
    """Makes refusals that name one person and sequence."""

    def __init__(self, research_id: str, sequence: str | None = None) -> None:
        self.research_id, self.sequence = research_id, sequence

    def __call__(self, code: str, found: str, expected: str, do: str = "correct the file") -> CaseError:
        """A refusal with its code."""
        return CaseError(found, expected, do, code=code, research_id=self.research_id, sequence=self.sequence)


def find_file(folder: Path, name: str) -> Path | None:
    """The file of a volume in a case folder; None if there is none."""
    return next(
        (folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()), None
    )


def read_volume(path: Path, research_id: str, name: str) -> Volume:
    """Read one volume with its header checked.

    Raises:
        CaseError: S25, S26, S28, S29 from the file itself; S09 sheared; S10 contradictory placement; S18 NaN or
            infinite; S24 a fourth dimension; S19 constant.
    """
    refused = Refusal(research_id, name)
    volume = read_nifti(path, np.float64, research_id=research_id, sequence=name)
    header = _header(path)
    if header.get_data_dtype() == np.uint8 and name in (seq.ADC, seq.TUMOR_ADC):
        raise refused(
            "S26", "an 8-bit ADC map", "measured values", "deliver the map itself, not a picture of it"
        )
    if volume.array.ndim != 3:
        raise refused("S24", f"{volume.array.ndim} dimensions", "3", "deliver one volume per sequence")
    _check_placement(header, refused)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > _SHEAR:
        raise refused("S09", f"axes off a right angle by {shear:.3g}", f"at most {_SHEAR:g}")
    if not np.isfinite(volume.array).all():
        bad = int(np.count_nonzero(~np.isfinite(volume.array)))
        raise refused("S18", f"{bad} voxels are NaN or infinite", "finite values", "export the volume again")
    target = name in (seq.TUMOR_LABEL, seq.TUMOR_ADC)
    if not target and float(volume.array.min()) == float(volume.array.max()):
        raise refused("S19", "a constant volume", "an image", "export the volume again")
    return volume


def _header(path: Path) -> Any:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        return nib.Nifti1Image.header_class.from_fileobj(stream, check=False)


def _check_placement(header: Any, refused: Refusal) -> None:
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform == 0 and qform == 0:
        raise refused("S10", "a header without placement", "sform or qform", "export with geometry")
    if sform > 0 and qform > 0:
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
        corners[:, :3] *= np.asarray(header.get_data_shape()[:3]) - 1
        difference = corners @ (header.get_sform() - header.get_qform()).T
        worst = float(np.linalg.norm(difference[:, :3], axis=1).max())
        if worst > _CORNER_MM:
            raise refused("S10", f"two placements {worst:.2f} mm apart", f"at most {_CORNER_MM} mm")


def check_same_grid(volume: Volume, adc: Volume, research_id: str, name: str) -> None:
    """A volume must lie on the ADC map's grid, voxel by voxel.

    Raises:
        CaseError: S20 for targets, S08 for diffusion-weighted images.
    """
    if volume.array.shape != adc.array.shape or np.abs(volume.affine - adc.affine).max() > _GRID_TOLERANCE:
        code = "S20" if name in (seq.TUMOR_LABEL, seq.TUMOR_ADC) else "S08"
        raise Refusal(research_id, name)(
            code, f"shape {volume.array.shape} or placement unlike the ADC map's", f"the ADC grid {adc.array.shape}",
            "deliver it on the ADC map's own grid; it is never resampled",
        )  # fmt: skip


def on_adc_grid(
    volume: Volume, adc: Volume, research_id: str, name: str
) -> tuple[NDArray[np.float32], float]:
    """An anatomical volume on the ADC grid (linear), and the share of the grid that it covers.

    Raises:
        CaseError: S08, it covers less than half of the ADC grid.
    """
    import SimpleITK as sitk  # noqa: N813

    if volume.array.shape == adc.array.shape and np.abs(volume.affine - adc.affine).max() <= _GRID_TOLERANCE:
        return volume.array.astype(np.float32), 1.0
    moving, fixed = _sitk(volume), _sitk(adc)
    resampled = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, 0.0)
    cover = sitk.Resample(
        _sitk(Volume(np.ones_like(volume.array), volume.affine)),
        fixed,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        0.0,
    )
    overlap = float(sitk.GetArrayViewFromImage(cover).mean())
    if overlap < _LEAST_OVERLAP:
        raise Refusal(research_id, name)(
            "S08", f"{overlap:.0%} of the ADC grid covered", f"at least {_LEAST_OVERLAP:.0%}",
            "deliver the sequence of the same region",
        )  # fmt: skip
    return sitk.GetArrayFromImage(resampled).transpose(2, 1, 0).astype(np.float32), overlap


def _sitk(volume: Volume) -> Any:
    """The volume as a SimpleITK image: RAS+ millimeters become LPS+, a fresh header without text."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0), dtype=np.float32))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def label_presence(
    label: NDArray[np.floating], wanted: frozenset[int] | None, research_id: str
) -> NDArray[np.bool_]:
    """Presence from a label volume.

    Args:
        label: (I, J, K).
        wanted: Labels that mean tumor; None accepts 0 and 1 only.
        research_id: For the message.

    Raises:
        CaseError: S22, soft labels or labels nobody declared.
    """
    refused = Refusal(research_id, seq.TUMOR_LABEL)
    values = np.unique(label)
    if not np.array_equal(values, np.round(values)):
        raise refused("S22", "a soft label", "whole numbers", "threshold it where it was made")
    allowed = {0} | ({1} if wanted is None else set(wanted))
    unknown = [int(v) for v in values if int(v) not in allowed]
    if unknown:
        raise refused(
            "S22",
            f"labels {unknown[:5]}",
            f"0 or {sorted(allowed - {0})}",
            "say which labels mean tumor: --label-values",
        )
    return label > 0


def parse_labels(text: str | None) -> frozenset[int] | None:
    """``1-5`` or ``1,3`` → the labels; None stays None.

    Raises:
        ValueError: Anything else.
    """
    if text is None:
        return None
    labels: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        labels |= set(range(int(low), int(high) + 1)) if dash else {int(low)}
    if not labels or min(labels) < 1:
        raise ValueError("labels start at 1")
    return frozenset(labels)
