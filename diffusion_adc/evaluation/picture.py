"""One picture per case that shows at a glance what was drawn and what was missed.

Axial slices in radiological orientation (the patient's right on the left, anterior up). The high-b image is
inverted gray, ADC has the fixed window 0–3 × 10⁻³ mm²/s in every picture, tumor ADC runs from red (0.4) over
yellow to green (1.8), the bands of metastatic diffusion volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from diffusion_adc.records.atomic import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADC_WINDOW: Final = (0.0, 3.0)
TUMOR_WINDOW: Final = (0.4, 1.8)
SHOWN_DRAWS: Final = 3
_DPI: Final = 80
_FOUND, _FALSE, _MISSED = (0.30, 0.75, 0.45), (0.93, 0.35, 0.25), (0.20, 0.55, 0.95)


@dataclass(frozen=True)
class CaseView:
    """What a case's picture shows; all arrays on the case's own grid.

    Attributes:
        title: Shown above; holds no research ID for restricted cohorts.
        affine: (4, 4) voxel index → RAS+ mm.
        adc: (I, J, K) in 1e-3 mm²/s.
        dwi: (I, J, K) high-b image, or the low-b one if that was not acquired.
        reader: (I, J, K) bool, the first reader's presence; None without a target.
        tumor: (I, J, K) bool, the map at its threshold.
        probability: (I, J, K) mean of the draws.
        base_probability: (I, J, K) of the base head.
        draws: (I, J, K, N) presence draws.
    """

    title: str
    affine: NDArray[np.floating]
    adc: NDArray[np.floating]
    dwi: NDArray[np.floating]
    reader: NDArray[np.bool_] | None
    tumor: NDArray[np.bool_]
    probability: NDArray[np.floating]
    base_probability: NDArray[np.floating]
    draws: NDArray[np.integer] | NDArray[np.bool_]


def canonical(array: NDArray[Any], affine: NDArray[np.floating]) -> NDArray[Any]:
    """The array with axes flipped and permuted so that I, J, K run to the patient's right, front and head."""
    return apply_orientation(array, io_orientation(affine))


def telling_slice(view: CaseView) -> int:
    """The axial slice (canonical K) that shows most: most reader's tumor, else most map, else the middle."""
    for mask in (view.reader, view.tumor, view.probability > 0.1):
        if mask is not None and np.any(mask):
            return int(np.argmax(canonical(mask, view.affine).sum(axis=(0, 1))))
    return canonical(view.adc, view.affine).shape[2] // 2


def case_figure(view: CaseView, k: int | None = None) -> Figure:
    """The case's picture: ten panels of one axial slice.

    Args:
        view: What to show.
        k: Canonical axial slice; `telling_slice` if left out.

    Returns:
        A figure that the caller saves and need not close (it belongs to no global state).
    """
    from matplotlib.figure import Figure

    k = telling_slice(view) if k is None else k
    plane = _Plane(view, k)
    figure = Figure(figsize=(15, 5.4), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 5)
    adc_image = plane.gray(axes[0, 1], plane.cut(view.adc), ADC_WINDOW, "gray")
    tumor_image = None
    for axis, title, presence in _presences(view, axes):
        axis.set_title(title, fontsize=10)
        image = plane.tumor(axis, presence)
        tumor_image = image if image is not None else tumor_image
    axes[0, 0].set_title("DWI, high b (inverted)", fontsize=10)
    plane.dwi(axes[0, 0])
    axes[0, 1].set_title("scanner ADC", fontsize=10)
    figure.colorbar(adc_image, ax=axes[0, 1], shrink=0.75, label="10⁻³ mm²/s")
    for axis, title, probability in (
        (axes[0, 3], "base head, probability", view.base_probability),
        (axes[0, 4], f"probability, mean of {view.draws.shape[-1]} draws", view.probability),
    ):
        axis.set_title(title, fontsize=10)
        shown = plane.heat(axis, probability)
    figure.colorbar(shown, ax=axes[0, 4], shrink=0.75)
    if tumor_image is not None:
        figure.colorbar(tumor_image, ax=axes[1, 3], shrink=0.75, label="tumor ADC, 10⁻³ mm²/s")
    axes[1, 4].set_title("found · false · missed", fontsize=10)
    plane.errors(axes[1, 4])
    figure.suptitle(f"{view.title} — axial slice {k}", fontsize=11)
    return figure


def save_case_figure(view: CaseView, target: Path) -> None:
    """Write the case's picture as PNG, whole or not at all, without any text field where a name could hide."""
    with replacing_file(target) as temporary:
        case_figure(view).savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def _presences(
    view: CaseView, axes: NDArray[np.object_]
) -> Sequence[tuple[Axes, str, NDArray[np.generic] | None]]:
    rows: list[tuple[Axes, str, NDArray[np.generic] | None]] = [
        (axes[0, 2], "reader's tumor ADC" if view.reader is not None else "no reader's map", view.reader)
    ]
    for index in range(SHOWN_DRAWS):
        drawn = view.draws[..., index] > 0 if index < view.draws.shape[-1] else None
        rows.append((axes[1, index], f"draw {index + 1}", drawn))
    rows.append((axes[1, 3], "tumor map", view.tumor))
    return rows


def _body_box(fitted: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The in-plane box that holds all but the outermost 0.5 % of fitted voxels: air around it shows nothing."""
    box = []
    for axis in (0, 1):
        share = np.cumsum(fitted.sum(axis=tuple(a for a in (0, 1, 2) if a != axis), dtype=np.int64))
        if share[-1] == 0:
            box.append(slice(None))
            continue
        low, high = np.searchsorted(share, [0.005 * share[-1], 0.995 * share[-1]])
        margin = fitted.shape[axis] // 25 + 1
        box.append(slice(max(0, int(low) - margin), int(high) + margin + 1))
    return box[0], box[1]


class _Plane:
    """One axial slice of a view and the few ways to paint it."""

    def __init__(self, view: CaseView, k: int) -> None:
        self.view, self.k = view, k
        spacing = np.linalg.norm(view.affine[:3, :3], axis=0)
        order = np.argsort(io_orientation(view.affine)[:, 0])
        self.aspect = float(spacing[order[1]] / spacing[order[0]])
        body = view.dwi[view.dwi > 0]
        self.dwi_high = float(np.percentile(body, 99.5)) if body.size else 1.0
        self.box = _body_box(canonical(view.adc, view.affine) > 0)

    def cut(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        return canonical(array, self.view.affine)[(*self.box, self.k)][::-1].T

    def gray(self, axis: Axes, plane: NDArray[np.generic], window: tuple[float, float], cmap: str):  # type: ignore[no-untyped-def]
        axis.set_xticks([])
        axis.set_yticks([])
        return axis.imshow(
            plane, cmap=cmap, vmin=window[0], vmax=window[1], origin="lower", aspect=self.aspect
        )

    def dwi(self, axis: Axes) -> None:
        self.gray(axis, self.cut(self.view.dwi), (0.0, self.dwi_high), "gray_r")

    def tumor(self, axis: Axes, presence: NDArray[np.generic] | None):  # type: ignore[no-untyped-def]
        self.dwi(axis)
        if presence is None:
            return None
        plane = np.ma.masked_where(~self.cut(presence).astype(bool), self.cut(self.view.adc))
        return axis.imshow(
            plane, cmap="RdYlGn", vmin=TUMOR_WINDOW[0], vmax=TUMOR_WINDOW[1], origin="lower",
            aspect=self.aspect, interpolation="nearest",
        )  # fmt: skip

    def heat(self, axis: Axes, probability: NDArray[np.floating]):  # type: ignore[no-untyped-def]
        self.dwi(axis)
        plane = self.cut(probability).astype(float)
        return axis.imshow(
            np.ma.masked_less(plane, 0.05), cmap="magma", vmin=0, vmax=1, origin="lower",
            aspect=self.aspect, interpolation="nearest",
        )  # fmt: skip

    def errors(self, axis: Axes) -> None:
        self.dwi(axis)
        tumor = self.cut(self.view.tumor).astype(bool)
        reader = np.zeros_like(tumor) if self.view.reader is None else self.cut(self.view.reader).astype(bool)
        paint = np.zeros((*tumor.shape, 4))
        for mask, color in (
            (tumor & reader, _FOUND), (tumor & ~reader, _FALSE), (reader & ~tumor, _MISSED),
        ):  # fmt: skip
            paint[mask] = (*color, 0.9)
        axis.imshow(paint, origin="lower", aspect=self.aspect, interpolation="nearest")
