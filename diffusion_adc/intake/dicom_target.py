"""A reader's map in DICOM → a volume: segmentation, derived MR series, or pictures of it.

A segmentation (PS3.3 A.51) gives presence; a derived MR series gives the edited ADC map itself; a secondary capture
(PS3.3 A.8) gives presence only, whatever its gray values say: they were windowed, and a picture holds no measured
value. Frames are placed by their position, never by their number. What lies on the ADC map's own voxels comes back
on its grid; anything else on a grid of its own, to be refused or brought over as the user declared.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from diffusion_adc.domain import sequences as seq
from diffusion_adc.intake.dicom import geometry
from diffusion_adc.intake.dicom.headers import read_header, slices_of
from diffusion_adc.intake.dicom.pixels import Reader, check_pixels, readable
from diffusion_adc.intake.dicom.slices import BadFile, Slice
from diffusion_adc.intake.nifti import Loaded, Refusal

SEGMENTATIONS: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and Label Map Segmentation."""
CAPTURES: Final = "1.2.840.10008.5.1.4.1.1.7"
_TUMOR_CATEGORIES: Final = frozenset({"49755003", "M-01000"})
"""Morphologically abnormal structure, in SCT and in the retired SRT codes."""
_TUMOR_TYPES: Final = frozenset({
    "108369006", "86049000", "14799000", "363346000", "126906006", "399068003", "52988006", "4147007",
    "M-8FFFF", "M-80003", "M-80006", "M-01100",
})  # fmt: skip
"""Neoplasm, primary, secondary, malignant, of the prostate, lesion, mass."""
_MAX_BYTES: Final = 2**31
_MAX_FRAMES: Final = 20_000
_ON_GRID: Final = 1e-2
"""How far a pixel may lie from a voxel's center, in voxels, to be that voxel."""
_CHROMA: Final = 40
"""A pixel is colored if its channels differ by more; lossy compression tints gray ones by less."""
_MOST_OF_A_PICTURE: Final = 0.5
_RAS_LPS: Final = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class _Plane:
    """One frame and where it lies.

    Attributes:
        values: (row, column) presence or label.
        corner: Center of the first pixel, RAS+ mm.
        along: (3, 2) steps from pixel to pixel along a row and along a column, RAS+ mm.
        thickness: Slice thickness or spacing in mm; 0 if nobody says.
    """

    values: NDArray[Any]
    corner: NDArray[np.float64]
    along: NDArray[np.float64]
    thickness: float


def read_segmentation(paths: Sequence[Path], adc: Loaded, research_id: str) -> dict[str, Loaded]:
    """The target in one segmentation, one derived MR series or the captures of one.

    Args:
        paths: One segmentation file, or the files of one series.
        adc: The ADC map.
        research_id: For messages.

    Returns:
        ``tumor_label`` (0 and 1, float64) or ``tumor_adc`` (stored values after rescale), (I, J, K) each.

    Raises:
        CaseError: S01 none or several objects, S20 pictures without a place, S22 no tumor segment, soft labels or a
            picture that is no mask, S26 8-bit ADC, S29, S30, X7 and the codes of a series' geometry.
    """
    refused = Refusal(research_id, seq.TUMOR_LABEL)
    try:
        headers = [(path, read_header(path)) for path in paths]
        kinds = {_kind(header) for _, header in headers}
        if len(kinds) != 1 or (kinds == {"seg"} and len(headers) > 1):
            raise refused(
                "S01", f"{len(headers)} objects that could be the target" if headers else "no target",
                "one segmentation or one series", "name the right one by --target",
            )  # fmt: skip
        if kinds == {"series"}:
            return {seq.TUMOR_ADC: _series(headers, Refusal(research_id, seq.TUMOR_ADC))}
        planes, digest = _segmentation(paths[0]) if kinds == {"seg"} else _captures(paths)
    except BadFile as bad:
        raise bad.refusal(research_id, seq.TUMOR_LABEL) from None
    placed = _on_adc_grid(planes, adc)
    if placed is not None:
        return {seq.TUMOR_LABEL: Loaded(placed, adc.affine, "uint8", digest)}
    array, affine = _own_grid(planes, refused)
    return {seq.TUMOR_LABEL: Loaded(array, affine, "uint8", digest)}


def _kind(header: Dataset) -> str:
    sop_class = str(header.get("SOPClassUID") or "")
    if sop_class in SEGMENTATIONS:
        return "seg"
    return "capture" if sop_class.startswith(CAPTURES) else "series"


def _series(headers: Sequence[tuple[Path, Dataset]], refused: Refusal) -> Loaded:
    """An edited ADC map as MR images."""
    slices: list[Slice] = []
    for path, header in headers:
        found = slices_of(path, header)
        if not isinstance(found, list):
            raise refused("S26", f"{found.kind} as a target", "a segmentation, an MR series or captures",
                          "export the target as one of them")  # fmt: skip
        slices += found
    if any(one.bits_allocated == 8 for one in slices):
        raise refused(
            "S26", "an 8-bit ADC map", "measured values", "deliver the map itself or a segmentation"
        )
    grid = geometry.arrange(slices, refused)
    parts, doubles = geometry.volumes(grid, refused)
    if len(parts) != 1 or doubles:
        raise refused("S04", f"{len(parts)} images at each place", "one", "name the right series by --target")
    pixels = Reader().volume(parts[0])
    return Loaded(pixels.array, grid.affine, pixels.stored_as, pixels.sha256)


def _decoded(path: Path) -> tuple[Dataset, NDArray[Any], str]:
    """A file's dataset, its pixels (frame, row, column[, channel]) and its SHA-256; sizes are checked first."""
    raw = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(raw), force=True)
            _check_size(dataset)
            array = dataset.pixel_array
            if str(dataset.get("PhotometricInterpretation")).startswith("YBR"):
                from pydicom.pixels import convert_color_space

                array = convert_color_space(array, dataset.PhotometricInterpretation, "RGB")
    except BadFile:
        raise
    except Exception:  # the decoder's own text may hold what the file says
        raise BadFile("X7", "pixels that cannot be decoded", "a whole, undamaged file") from None
    plain = 2 if int(dataset.get("SamplesPerPixel") or 1) == 1 else 3
    return dataset, array if array.ndim > plain else array[None], hashlib.sha256(raw).hexdigest()


def _check_size(dataset: Dataset) -> None:
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.BitsAllocated)
    if samples == 1 and bits > 1:
        check_pixels(dataset)
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    count = int(dataset.Rows) * int(dataset.Columns) * frames * samples
    expected = -(-count * bits // 8)
    if not (0 < frames <= _MAX_FRAMES and 0 < expected <= _MAX_BYTES and 0 < samples <= 3):
        raise BadFile("S29", f"header dimensions {dataset.Columns} × {dataset.Rows} × {frames}", "an image's")
    syntax = pydicom.uid.UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_encapsulated and not expected <= len(dataset.PixelData) <= expected + 1:
        raise BadFile("S29", f"{len(dataset.PixelData)} bytes of pixels", f"{expected} as the header says")
    if syntax.is_encapsulated and not readable(str(syntax)):
        raise BadFile("S30", "pixels in a transfer syntax that no decoder here reads", "another one",
                      "export the object uncompressed")  # fmt: skip


def _segmentation(path: Path) -> tuple[list[_Plane], str]:
    dataset, frames, digest = _decoded(path)
    try:
        tumors = [int(s.SegmentNumber) for s in dataset.SegmentSequence if _is_tumor(s)]
        count, kind = len(dataset.SegmentSequence), str(dataset.get("SegmentationType") or "BINARY").upper()
        groups = dataset.PerFrameFunctionalGroupsSequence
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        if len(groups) != len(frames):
            raise BadFile(
                "S29", f"{len(frames)} frames and {len(groups)} descriptions", "a description per frame"
            )
        if not tumors:
            raise BadFile(
                "S22", f"{count} segments, none coded as a tumor",
                "a neoplasm, lesion or morphologically abnormal structure", "code the tumor's segment as one",
            )  # fmt: skip
        if kind == "FRACTIONAL":
            top = int(dataset.get("MaximumFractionalValue") or 255)
            if not np.isin(frames, (0, top)).all():
                raise BadFile("S22", "a soft segmentation", "a binary one", "threshold it where it was made")
        planes = []
        for values, group in zip(frames, groups, strict=True):
            if kind == "LABELMAP":
                present = np.isin(values, tumors)
            else:
                named = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
                if int(named[0].ReferencedSegmentNumber) not in tumors:
                    continue
                present = values > 0
            planes.append(_plane(present, group, shared))
    except BadFile:
        raise
    except Exception:
        raise BadFile(
            "X7", "a segmentation that does not say where its frames lie", "a whole object"
        ) from None
    return planes, digest


def _is_tumor(segment: Dataset) -> bool:
    def code(name: str) -> str:
        return str((segment.get(name) or [Dataset()])[0].get("CodeValue") or "")

    category = code("SegmentedPropertyCategoryCodeSequence")
    return category in _TUMOR_CATEGORIES or code("SegmentedPropertyTypeCodeSequence") in _TUMOR_TYPES


def _plane(values: NDArray[Any], group: Dataset, shared: Dataset) -> _Plane:
    def item(name: str) -> Dataset:
        return (group.get(name) or shared.get(name))[0]

    measures = item("PixelMeasuresSequence")
    return _placed(
        values, item("PlanePositionSequence").ImagePositionPatient,
        item("PlaneOrientationSequence").ImageOrientationPatient, measures.PixelSpacing,
        measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0,
    )  # fmt: skip


def _placed(values: NDArray[Any], position: Any, orientation: Any, spacing: Any, thickness: Any) -> _Plane:
    corner = np.array([float(x) for x in position])
    axes = np.array([float(x) for x in orientation]).reshape(2, 3)
    step = np.array([float(spacing[1]), float(spacing[0])])
    numbers = np.concatenate([corner, axes.ravel(), step])
    square = np.allclose(axes @ axes.T, np.eye(2), atol=1e-3)
    if corner.shape != (3,) or not np.isfinite(numbers).all() or not square or not (step > 0).all():
        raise BadFile("S09", "a frame without a usable placement", "position, orthonormal axes and spacing")
    return _Plane(values, _RAS_LPS @ corner, _RAS_LPS @ (axes.T * step), abs(float(thickness)))


def _captures(paths: Sequence[Path]) -> tuple[list[_Plane], str]:
    pictures, digests = [], []
    for path in paths:
        dataset, frames, digest = _decoded(path)
        digests.append(digest)
        wanted = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        if any(dataset.get(name) is None for name in wanted) or len(frames) != 1:
            raise BadFile(
                "S20", "a picture that does not say where it lies", "position, orientation and pixel spacing",
                "deliver the target as a segmentation or as an ADC map",
            )  # fmt: skip
        pixels = frames[0].astype(np.int64)
        position, orientation, spacing = (dataset.get(name) for name in wanted)
        pictures.append(
            _placed(
                pixels if pixels.ndim == 3 else pixels[..., None],
                position,
                orientation,
                spacing,
                dataset.get("SliceThickness") or 0,
            )
        )
    # One rule for all pictures of a series: a slice without tumor has no colored pixel although others do.
    colored = any(bool(_colored(picture.values).any()) for picture in pictures)
    planes = [
        replace(p, values=_colored(p.values) if colored else p.values.max(axis=2) > 0) for p in pictures
    ]
    share = float(np.mean([plane.values.mean() for plane in planes]))
    if share > _MOST_OF_A_PICTURE:
        raise BadFile("S22", f"pictures in which {share:.0%} is painted", "a tumor on a black or gray background",
                      "deliver the target as a segmentation")  # fmt: skip
    return planes, hashlib.sha256("".join(digests).encode()).hexdigest()


def _colored(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(pixels.max(axis=2) - pixels.min(axis=2) > _CHROMA)


def _on_adc_grid(planes: Sequence[_Plane], adc: Loaded) -> NDArray[np.float64] | None:
    """Presence on the ADC grid, None if a pixel is no voxel of it."""
    out = np.zeros(adc.array.shape, dtype=np.float64)
    inverse = np.linalg.inv(adc.affine)
    for plane in planes:
        rows, columns = plane.values.shape
        corner = inverse[:3, :3] @ plane.corner + inverse[:3, 3]
        steps = inverse[:3, :3] @ plane.along
        reach = np.array([columns, rows])
        if np.any(np.abs(steps - np.round(steps)) * reach > _ON_GRID * np.maximum(reach / 10, 1)):
            return None
        if np.any(np.abs(np.round(steps)).sum(axis=0) != 1) or np.any(
            np.abs(corner - np.round(corner)) > 10 * _ON_GRID
        ):
            return None
        r, c = np.nonzero(plane.values)
        index = np.round(corner).astype(int)[:, None] + np.round(steps).astype(int) @ np.stack([c, r])
        if np.any(index < 0) or np.any(index >= np.array(out.shape)[:, None]):
            return None
        out[tuple(index)] = 1.0
    return out


def _own_grid(planes: Sequence[_Plane], refused: Refusal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Presence on the frames' own grid: as many slices as the planes span, empty where no frame is."""
    first = planes[0]
    normal = np.cross(first.along[:, 0], first.along[:, 1])
    normal /= np.linalg.norm(normal)
    alike = all(
        p.values.shape == first.values.shape and np.allclose(p.along, first.along, atol=1e-4) for p in planes
    )
    at = np.array([float(normal @ (p.corner - first.corner)) for p in planes])
    aside = max(
        float(np.linalg.norm(p.corner - first.corner - a * normal)) for p, a in zip(planes, at, strict=True)
    )
    if not alike or aside > 0.1:
        raise refused("S20", "frames of several grids", "one grid", "export the segmentation on the ADC map")
    steps = np.diff(np.unique(np.round(at, 3)))
    spacing = float(steps.min()) if steps.size else first.thickness
    if not spacing > 0:
        raise refused("S20", "a single frame without a thickness", "its thickness", "export the object again")
    k = (at - at.min()) / spacing
    if float(np.abs(k - np.round(k)).max()) > 0.1 or k.max() > _MAX_FRAMES:
        raise refused("S02", "frames at uneven distances", "one distance", "export the segmentation again")
    rows, columns = first.values.shape
    out = np.zeros((columns, rows, int(round(float(k.max()))) + 1), dtype=np.float64)
    for plane, index in zip(planes, np.round(k).astype(int), strict=True):
        out[:, :, index] = np.maximum(out[:, :, index], plane.values.T)
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2] = first.along, normal * spacing
    affine[:3, 3] = first.corner + at.min() * normal
    return out, affine
