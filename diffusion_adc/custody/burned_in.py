"""Is there text in the pixels? Names burned into a picture survive every cleaning of the header.

Letters differ from anatomy and noise in four ways: they are as bright as anything in the image, of one height,
thin, and stand in a row. The detector looks for such rows in the outer bands, where scanners and workstations
write. It flags for a human; it removes nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BAND: Final = 0.25
"""Share of the height or width, on each side, that is searched."""
_BRIGHT: Final = (0.5, 0.75, 0.93)
"""Thresholds as shares of the range: a dim background and a bright one each hide letters from one of them."""
_GLYPH_HEIGHT: Final = (4, 48)
_MIN_GLYPHS: Final = 4
_MIN_BLOBS: Final = 3
_BASELINE: Final = 0.25
"""Largest difference of bottoms and of heights within a row, as a share of the height (at least one pixel)."""
_GAP: Final = 2.0
"""Largest gap between neighbors in a row, as a share of the height."""
_WIDEST: Final = 4.5
"""Letters of small print touch: a blob counts as many as it is wide."""
_FILL: Final = (0.12, 0.92)
_RIM: Final = 0.7
"""Letters are surrounded by something clearly darker: largest mean around a glyph, as a share of its own."""


def has_text(image: NDArray[np.generic]) -> bool:
    """Whether one slice (rows, columns) seems to have text near its borders, bright on dark or dark on bright."""
    data = np.asarray(image, dtype=np.float32)
    low, high = float(data.min()), float(data.max())
    if not high > low:
        return False
    scaled = (data - low) / (high - low)
    return any(_rows_of_letters(picture, cut) for picture in (scaled, 1 - scaled) for cut in _BRIGHT)


def _rows_of_letters(scaled: NDArray[np.float32], cut: float) -> bool:
    band = np.zeros(scaled.shape, dtype=bool)
    rows, columns = (max(int(n * _BAND), 8) for n in scaled.shape)
    band[:rows], band[-rows:], band[:, :columns], band[:, -columns:] = True, True, True, True
    labels, count = ndimage.label(scaled > cut, structure=np.ones((3, 3), dtype=bool))
    if count < _MIN_BLOBS:
        return False
    glyphs = []
    for n, box in enumerate(ndimage.find_objects(labels), 1):
        height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
        if not _GLYPH_HEIGHT[0] <= height <= _GLYPH_HEIGHT[1] or width > _WIDEST * height:
            continue
        inside = band[box].any() and _is_letter(scaled, labels, n, box)
        if inside:
            glyphs.append(
                (box[0].stop, box[1].start, box[1].stop, height, max(1, round(width / (0.75 * height))))
            )
    return _longest_row(glyphs) >= _MIN_GLYPHS


def _is_letter(
    scaled: NDArray[np.float32], labels: NDArray[np.int32], n: int, box: tuple[slice, slice]
) -> bool:
    own = labels[box] == n
    if not _FILL[0] <= own.mean() <= _FILL[1] and not (own.shape[1] <= 3 and own.shape[0] >= 5):
        return False
    grown = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
    mask = labels[grown] == n
    around = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_dilation(mask)
    if not around.any():
        return False
    ring = scaled[grown][around]
    return float(np.median(ring)) <= _RIM * float(scaled[grown][mask].mean())


def _longest_row(glyphs: list[tuple[int, int, int, int, int]]) -> int:
    """Most letters that stand side by side on one line with one height."""
    best, glyphs = 0, sorted(glyphs, key=lambda g: g[1])
    for bottom, _, right, height, letters in glyphs:
        blobs, run, end = 1, letters, right
        tolerance = max(1.0, _BASELINE * height)
        for other_bottom, left, other_right, other_height, more in glyphs:
            near = end <= left <= end + max(3.0, _GAP * height)
            if near and abs(other_bottom - bottom) <= tolerance and abs(other_height - height) <= tolerance:
                blobs, run, end = blobs + 1, run + more, other_right
        best = max(best, run if blobs >= _MIN_BLOBS else 0)
    return best
