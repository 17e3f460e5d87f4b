"""What people look at in the tracker: slices with presence as masks, lesions with thumbnails, scores, pages."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.evaluation.picture import SHOWN_DRAWS, CaseView, canonical, telling_slice
from diffusion_adc.evaluation.scores import Scores
from diffusion_adc.evaluation.table import table_blocks
from diffusion_adc.records import maps as files

LARGEST_PAGE: Final = 15 << 20
"""Bytes of a page with its pictures inside."""
_THUMBNAIL: Final = 48
_LESION_ROWS: Final = 500
_LABEL: Final = {1: "tumor"}


@dataclass(frozen=True)
class Overlay:
    """An axial slice and the presences upon it.

    Attributes:
        pixels: (H, W) uint8, high-b DWI in inverted gray, the patient's right on the left, front up.
        masks: (H, W) uint8 of 0 and 1 by name.
    """

    pixels: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.uint8]]


def presence_overlay(view: CaseView) -> Overlay:
    """The case's telling slice with the reader's presence, the map's and the first draws'."""
    k = telling_slice(view)

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return canonical(array, view.affine)[::-1, ::-1, k].T

    masks = {"tumor_map": view.tumor}
    if view.reader is not None:
        masks["reader"] = view.reader
    for index in range(min(SHOWN_DRAWS, view.draws.shape[-1])):
        masks[f"draw_{index + 1}"] = view.draws[..., index] > 0
    return Overlay(
        inverted_gray(cut(view.dwi)), {name: cut(mask).astype(np.uint8) for name, mask in masks.items()}
    )


def inverted_gray(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) signal as 8-bit gray, dark where it is high; the brightest half percent saturates."""
    values = np.nan_to_num(np.asarray(plane, dtype=np.float64))
    body = values[values > 0]
    high = float(np.percentile(body, 99.5)) if body.size else 1.0
    return (255 - np.clip(255 * values / max(high, 1e-12), 0, 255)).astype(np.uint8)


def overlay_image(overlay: Overlay, caption: str) -> Any:
    """The overlay as wandb.Image: each presence a mask that can be switched on and off."""
    import wandb

    masks = {name: {"mask_data": mask, "class_labels": _LABEL} for name, mask in overlay.masks.items()}
    return wandb.Image(overlay.pixels, masks=masks, caption=caption)


@dataclass(frozen=True)
class Lesion:
    """A row of the lesion table; the thumbnail is (H, W, 3) uint8 or None."""

    case: str
    values: tuple[float | str | None, ...]
    thumbnail: NDArray[np.uint8] | None


def lesions(maps_dir: Path, policy: Policy) -> list[Lesion]:
    """Every lesion of the maps, the first `_LESION_ROWS` of them; pictures only where the policy allows them.

    Raises:
        CaseError: A volume is damaged.
    """
    found: list[Lesion] = []
    for index, case_id in enumerate(files.map_case_ids(maps_dir)):
        with (maps_dir / case_id / "lesions.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        volume = None
        if rows and policy.may_send_pictures:
            volume = files.read_map_volume(maps_dir, case_id, files.PROBABILITY)
        for row in rows[: _LESION_ROWS - len(found)]:
            values = tuple(_number(row.get(name)) for name in files.LESION_COLUMNS)
            picture = None
            if volume is not None:
                center = [float(row[f"centroid_{axis}_mm"]) for axis in "ras"]
                picture = thumbnail(np.asarray(volume.array), volume.affine, center)
            found.append(Lesion(policy.case_name(index, case_id), values, picture))
    return found


def thumbnail(
    probability: NDArray[Any], affine: NDArray[np.floating], center_mm: Sequence[float]
) -> NDArray[np.uint8]:
    """The probability around a point: (48, 48, 3), black to white over red, axial, front up.

    Args:
        probability: (I, J, K) in 0–1.
        affine: (4, 4) voxel index → RAS+ mm.
        center_mm: RAS+ position of the middle.
    """
    volume = canonical(probability, affine)
    index = canonical_index(probability.shape, affine, center_mm)
    k = int(np.clip(index[2], 0, volume.shape[2] - 1))
    half = _THUMBNAIL // 2
    padded = np.pad(np.asarray(volume[..., k], dtype=np.float64), half)
    i, j = (int(np.clip(index[axis], 0, volume.shape[axis] - 1)) for axis in (0, 1))
    crop = np.clip(padded[i : i + _THUMBNAIL, j : j + _THUMBNAIL][::-1, ::-1].T, 0, 1)
    return (255 * np.stack([np.clip(2 * crop, 0, 1), np.clip(2 * crop - 1, 0, 1), crop**3], axis=-1)).astype(
        np.uint8
    )


def canonical_index(
    shape: Sequence[int], affine: NDArray[np.floating], center_mm: Sequence[float]
) -> NDArray[np.int64]:
    """Index, in the canonical axes, of the voxel nearest to a point in RAS+ mm."""
    from nibabel.orientations import io_orientation

    voxel = np.linalg.solve(affine, [*center_mm, 1.0])[:3]
    found = np.zeros(3)
    for axis, (target, flip) in enumerate(io_orientation(affine)):
        found[int(target)] = voxel[axis] if flip > 0 else shape[axis] - 1 - voxel[axis]
    return np.round(found).astype(np.int64)


def lesion_table(rows: Sequence[Lesion]) -> Any:
    """The lesions as wandb.Table; the last column holds the thumbnails if there are any."""
    import wandb

    pictured = any(row.thumbnail is not None for row in rows)
    columns: list[str | int] = ["case", *files.LESION_COLUMNS, *(["thumbnail"] if pictured else [])]
    data = []
    for row in rows:
        picture = [] if not pictured else [None if row.thumbnail is None else wandb.Image(row.thumbnail)]
        data.append([row.case, *row.values, *picture])
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def score_tables(scores: Mapping[str, Scores], section: str = "test") -> dict[str, Any]:
    """The printed result blocks as one wandb.Table each, by panel name below `section`."""
    import wandb

    tables = {}
    for block in table_blocks(scores):
        name = re.sub(r"[^a-z0-9]+", "_", block.title.lower()).strip("_")
        tables[f"{section}/{name}"] = wandb.Table(
            columns=list(block.heading), data=[list(row) for row in block.rows]
        )
    return tables


def score_values(scores: Mapping[str, Scores], method: str, section: str = "test") -> dict[str, float]:
    """One method's scores as scalars ``SECTION/NAME``."""
    rows = scores.get(method, {})
    found = {}
    for name, entry in rows.items():
        value = entry.get("value") if isinstance(entry, Mapping) else entry
        if isinstance(value, int | float) and np.isfinite(value):
            found[f"{section}/{name}"] = float(value)
    return found


def _number(text: str | None) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def self_contained(page: Path) -> str:
    """A page of a site as one inert file: styles and pictures inside, no script, no link that leads anywhere.

    Args:
        page: HTML below whose folder its styles and pictures lie.

    Raises:
        ValueError: The result would be larger than `LARGEST_PAGE`.
    """
    builder = _Inert(page.parent)
    builder.feed(page.read_text(encoding="utf-8"))
    builder.close()
    text = "".join(builder.parts)
    if len(text.encode()) > LARGEST_PAGE:
        raise ValueError("the page is too large")
    return text


class _Inert(HTMLParser):
    _DROPPED: Final = frozenset({"script", "iframe", "object", "embed", "base", "form", "meta"})

    def __init__(self, root: Path) -> None:
        super().__init__(convert_charrefs=False)
        self.root, self.parts = root.resolve(), ['<meta charset="utf-8">']
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._DROPPED:
            self.silent += tag in ("script", "iframe", "object")
            return
        if self.silent:
            return
        values = dict(attrs)
        if tag == "link":
            style = self._file(values.get("href"))
            if values.get("rel") == "stylesheet" and style is not None:
                self.parts.append(f"<style>{style.decode('utf-8', 'replace')}</style>")
            return
        self.parts.append(f"<{tag}{''.join(self._attributes(values))}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in ("script", "iframe", "object"):
            self.silent -= 1

    def handle_endtag(self, tag: str) -> None:
        if tag in self._DROPPED:
            self.silent = max(0, self.silent - (tag in ("script", "iframe", "object")))
        elif not self.silent and tag != "link":
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")

    def _attributes(self, values: Mapping[str, str | None]) -> Iterator[str]:
        from html import escape

        for name, value in values.items():
            if name.startswith("on") or name in ("href", "srcset", "action"):
                continue
            text = value
            if name == "src":
                data = self._file(value)
                text = "" if data is None else f"data:image/png;base64,{base64.b64encode(data).decode()}"
            yield f" {name}" if text is None else f' {name}="{escape(text)}"'

    def _file(self, name: str | None) -> bytes | None:
        if not name:
            return None
        path = (self.root / name).resolve()
        return path.read_bytes() if path.is_relative_to(self.root) and path.is_file() else None
