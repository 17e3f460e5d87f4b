"""Histogram of ADC in the tumor map, as an SVG that holds nothing but numbers."""

from __future__ import annotations

from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.inference.tumor_map import BANDS

BIN: Final = 0.05
"""10⁻³ mm²/s."""
WINDOW: Final = (0.0, 3.0)
BAND_COLORS: Final = ("#d73027", "#e6a400", "#1a9850")
_WIDTH, _HEIGHT = 720, 260
_LEFT, _BOTTOM, _TOP = 46, 40, 28


def volumes_per_bin(values: NDArray[np.floating], voxel_ml: float) -> NDArray[np.float64]:
    """Volume (mL) per bin of ADC values (N,) over `WINDOW`; what lies outside counts in the outermost bins."""
    count = round((WINDOW[1] - WINDOW[0]) / BIN)
    # Measured steps of a thousandth sit on bin edges; a hair to the right puts 0.4 into the band it opens.
    index = np.clip(np.floor((np.asarray(values, dtype=np.float64) + 1e-7) / BIN).astype(int), 0, count - 1)
    return np.bincount(index, minlength=count).astype(np.float64) * voxel_ml


def histogram(tumor: NDArray[np.floating], reader: NDArray[np.floating] | None, voxel_ml: float, labels: tuple[str, str, str]) -> str:  # fmt: skip
    """Bars for the map, a line for the reader's map, shaded bands of metastatic diffusion volume.

    Args:
        tumor: ADC values (N,) inside the map, 10⁻³ mm²/s.
        reader: The same inside the first reader's map, if there is one.
        voxel_ml: Volume of a voxel.
        labels: Names of the map, of the reader's map and of the vertical axis.
    """
    mine = volumes_per_bin(tumor, voxel_ml)
    theirs = None if reader is None else volumes_per_bin(reader, voxel_ml)
    top = max(float(mine.max()), 0.0 if theirs is None else float(theirs.max()), 1e-9)
    left, right, floor = _LEFT, _WIDTH - 8, _HEIGHT - _BOTTOM

    def x(adc: float) -> float:
        return left + (adc - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * (right - left)

    def y(ml: float) -> float:
        return floor - ml / top * (floor - _TOP)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(labels[0])}">']
    for (low, high), color in zip(BANDS, BAND_COLORS, strict=True):
        parts.append(
            f'<rect x="{x(low):.1f}" y="{_TOP}" width="{x(high) - x(low):.1f}" height="{floor - _TOP}" '
            f'fill="{color}" opacity="0.13"/><text x="{(x(low) + x(high)) / 2:.1f}" y="{_TOP - 8}" '
            f'text-anchor="middle">{low:g}–{high:g}</text>'
        )
    for index, ml in enumerate(mine):
        if ml > 0:
            low = index * BIN
            middle = low + BIN / 2
            color = next((c for (a, b), c in zip(BANDS, BAND_COLORS, strict=True) if a <= middle < b), "#777")
            parts.append(
                f'<rect class="bar" x="{x(low) + 0.5:.1f}" y="{y(ml):.1f}" width="{x(BIN) - x(0) - 1:.1f}" '
                f'height="{floor - y(ml):.1f}" fill="{color}"/>'
            )
    if theirs is not None:
        points = " ".join(
            f"{x(i * BIN):.1f},{y(ml):.1f} {x((i + 1) * BIN):.1f},{y(ml):.1f}" for i, ml in enumerate(theirs)
        )
        parts.append(
            f'<polyline class="reader" points="{points}" fill="none" stroke="#1f7fd6" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{right}" y="{_TOP + 14}" text-anchor="end" fill="#1f7fd6">{escape(labels[1])}</text>'
        )
    for tick in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        parts.append(f'<text x="{x(tick):.1f}" y="{floor + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<line x1="{left}" y1="{floor}" x2="{right}" y2="{floor}" stroke="currentColor"/>'
        f'<text x="{(left + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">ADC (10⁻³ mm²/s)</text>'
        f'<text x="{left - 6}" y="{_TOP + 6}" text-anchor="end">{top:.2g}</text>'
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="4" y="{_TOP - 12}">{escape(labels[2])}</text></svg>'
    )
    return "".join(parts)
