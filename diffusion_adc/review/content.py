"""What one case's page holds: volumes for the viewer, lesions, comparisons, projections.

Axes ``I J K`` of the case's grid; ADC in 10⁻³ mm²/s, volumes in mL.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CohortError
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.evaluation.picture import ADC_WINDOW, TUMOR_WINDOW, CaseView
from diffusion_adc.inference.lesions import connected_components
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import restored
from diffusion_adc.review import projection
from diffusion_adc.review.chart import histogram
from diffusion_adc.review.volumes import (
    Grid,
    adc_volume,
    gray_volume,
    nifti,
    packed_draws,
    presence_volume,
    probability_volume,
    tumor_levels,
)

PALETTE_STOPS: Final = ((215, 25, 28), (255, 230, 90), (26, 150, 65))
"""Tumor ADC from 0.4 over 1.1 to 1.8: red, yellow, green."""

_OPTIONAL: Final = (files.DRAWS, files.BASE_PROBABILITY)
"""What another method's maps need not have."""

Presence = NDArray[np.bool_]


@dataclass(frozen=True)
class Rival:
    """Another method's maps to compare with.

    Attributes:
        name: Shown.
        folder: Its maps.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class Compared:
    """One row of the comparison.

    Attributes:
        name: Shown.
        kind: ``map``, ``rival``, ``base`` or ``reader``.
        presence: bool (I, J, K).
        tdv_ml: Its volume.
        gadc: Median ADC inside; None where it is empty.
        lesions: Number of 26-connected components.
    """

    name: str
    kind: str
    presence: Presence
    tdv_ml: float
    gadc: float | None
    lesions: int


@dataclass(frozen=True)
class CaseContent:
    """Everything a page shows.

    Attributes:
        payload: JSON for the page's scripts.
        lesions: Rows of lesions.csv with their place.
        missed: Lesions of the first reader that the map does not touch: ``volume_ml``, ``voxel``.
        compared: The map, rivals, base head and readers.
        histogram: SVG.
        thumbnail: PNG.
        view: For the static picture.
    """

    payload: dict[str, Any]
    lesions: Sequence[Mapping[str, Any]]
    missed: Sequence[Mapping[str, Any]]
    compared: Sequence[Compared]
    histogram: str
    thumbnail: bytes
    view: CaseView


def spoken_name(row: Compared, words: Mapping[str, str]) -> str:
    """A row's name in words: ``reader R1``, ``rival: other run``, or the map's own."""
    sign = {"reader": " ", "rival": ": "}.get(row.kind)
    return row.name if sign is None else f"{words[row.kind]}{sign}{row.name}".strip(": ")


def tumor_palette() -> NDArray[np.uint8]:
    """Colors of the tumor map's levels 1 … 255, uint8 (255, 3)."""
    stops = np.asarray(PALETTE_STOPS, dtype=float)
    at = np.linspace(0, len(stops) - 1, 255)
    return np.stack([np.interp(at, range(len(stops)), stops[:, c]) for c in range(3)], axis=1).astype(
        np.uint8
    )


def case_content(
    maps_dir: Path, cohort_dir: Path, case: Case, words: Mapping[str, str], rivals: Sequence[Rival] = ()
) -> CaseContent:
    """Read one case and its maps.

    Raises:
        CaseError: A volume is missing or damaged.
        CohortError: The map, its lesions and the cohort do not belong together.
    """
    record = files.read_map_record(maps_dir, case.case_id)
    volumes = _volumes(maps_dir, cohort_dir, case)
    tumor = volumes[files.TUMOR_ADC]
    grid = Grid(files.read_map_volume(maps_dir, case.case_id, files.TUMOR_ADC).affine, tumor.shape)
    adc, presence = volumes[seq.ADC], tumor != 0
    if np.any(tumor[presence] != adc[presence]):
        raise CohortError(
            f"the map of {case.case_id} is no selection of the cohort's ADC", "maps drawn for this cohort",
            "check --cohort",
        )  # fmt: skip
    draws = volumes.get(files.DRAWS, np.zeros((*grid.shape, 0), dtype=np.uint8))
    readings = _readings(cohort_dir, case)
    compared = [
        _compared(words["map"], "map", presence, adc, grid),
        *_rivals(rivals, case, adc, grid),
        *_base(maps_dir, record, volumes, adc, grid, words),
        *(_compared(name, "reader", mask, adc, grid) for name, mask in readings),
    ]
    labels = connected_components(presence)
    lesions = _lesions(maps_dir, case.case_id, labels, grid)
    first = readings[0][1] if readings else None
    dwi = volumes[seq.DWI_HIGH if seq.DWI_HIGH in volumes else seq.DWI_LOW]
    body = np.clip(dwi / _top(dwi, grid) * 255, 0, 255).astype(np.uint8)
    turning = projection.rotating_mip(grid.turn(body), grid.spacing)
    levels = tumor_levels(tumor, TUMOR_WINDOW)
    spots = projection.rotating_mip(grid.turn(levels), grid.spacing)
    gray, colored = projection.gray_sheet(turning), projection.tumor_sheet(spots, turning, tumor_palette())
    payload = {
        "case": case.case_id,
        "shape": list(grid.turn(tumor).shape),
        "affine": grid.turned.round(6).tolist(),
        "spacing": [round(s, 6) for s in grid.spacing],
        "palette": [list(stop) for stop in PALETTE_STOPS],
        "backgrounds": _backgrounds(grid, volumes, words),
        "overlays": _overlays(grid, volumes, levels, compared, words),
        "labels": nifti(grid, labels.astype(np.uint16)),
        "draws": packed_draws(grid, draws),
        "lesions": [{k: row[k] for k in ("lesion", "voxel", "seed", "voxels")} for row in lesions],
        "mip": projection.record(turning, gray, colored),
        "source": {
            "case_id": case.case_id,
            "tumor_adc_sha256": record["sha256"][files.TUMOR_ADC],
            "checkpoint_sha256": str(record.get("checkpoint_sha256", "")),
        },
    }
    values = None if first is None else adc[first]
    return CaseContent(
        payload=payload,
        lesions=lesions,
        missed=_missed(first, presence, grid),
        compared=compared,
        histogram=histogram(
            adc[presence], values, voxel_volume_ml(grid.affine), (words["map"], words["reader"], "mL")
        ),
        thumbnail=projection.png(projection.thumbnail(colored, turning)),
        view=CaseView(
            title=case.case_id, affine=grid.affine, adc=adc, dwi=dwi, reader=first, tumor=presence,
            probability=volumes[files.PROBABILITY], draws=draws != 0,
            base_probability=volumes.get(files.BASE_PROBABILITY, np.zeros_like(adc)),
        ),
    )  # fmt: skip


def _top(dwi: NDArray[np.floating], grid: Grid) -> float:
    """What a projection shows as black: of maxima, not of voxels, or half the body would be black."""
    front = grid.turn(dwi).max(axis=1)
    seen = front[front > 0]
    return float(np.percentile(seen, 99)) if seen.size else 1.0


def _volumes(maps_dir: Path, cohort_dir: Path, case: Case) -> dict[str, NDArray[Any]]:
    found = {
        name: cohorts.load_volume(cohort_dir, case, name).array
        for name in seq.SEQUENCES
        if name in case.files
    }
    stored = files.read_map_record(maps_dir, case.case_id)["sha256"]
    for name in files.MAP_VOLUMES:
        if name in _OPTIONAL and name not in stored:
            continue
        array = files.read_map_volume(maps_dir, case.case_id, name).array
        if array.shape[:3] != found[seq.ADC].shape:
            raise CohortError(
                f"a map of {case.case_id} on another grid", "maps drawn for this cohort", "check --cohort"
            )
        found[name] = array
    return found


def _readings(cohort_dir: Path, case: Case) -> list[tuple[str, Presence]]:
    names = case.readers or (("",) if case.has_target else ())
    return list(zip(names, cohorts.presence_readings(cohort_dir, case), strict=True))


def _compared(name: str, kind: str, presence: Presence, adc: NDArray[np.floating], grid: Grid) -> Compared:
    values = adc[presence]
    ml = float(np.count_nonzero(presence)) * voxel_volume_ml(grid.affine)
    count = int(connected_components(presence).max(initial=0))
    return Compared(name, kind, presence, ml, float(np.median(values)) if values.size else None, count)


def _rivals(rivals: Sequence[Rival], case: Case, adc: NDArray[np.floating], grid: Grid) -> list[Compared]:
    rows = []
    for rival in rivals:
        if not (rival.folder / case.case_id / "case.json").is_file():
            continue
        volume = files.read_map_volume(rival.folder, case.case_id, files.TUMOR_ADC)
        if volume.array.shape != grid.shape:
            raise CohortError(
                f"a rival's map of {case.case_id} on another grid", "maps of the same cohort", "check --rival"
            )
        rows.append(_compared(rival.name, "rival", volume.array != 0, adc, grid))
    return rows


def _base(
    maps_dir: Path, record: Mapping[str, Any], volumes: Mapping[str, NDArray[Any]],
    adc: NDArray[np.floating], grid: Grid, words: Mapping[str, str],
) -> list[Compared]:  # fmt: skip
    """The base head at its own threshold; without a recorded one there is nothing to compare at."""
    tau = record.get("base_tau", files.read_maps_manifest(maps_dir).get("base_tau"))
    if files.BASE_PROBABILITY not in volumes or not isinstance(tau, int | float) or not 0 < tau <= 1:
        return []
    presence = volumes[files.BASE_PROBABILITY] >= np.float32(tau)
    return [_compared(words["base"], "base", presence, adc, grid)]


def _backgrounds(
    grid: Grid, volumes: Mapping[str, NDArray[Any]], words: Mapping[str, str]
) -> list[dict[str, Any]]:
    shown = []
    for name in seq.SEQUENCES:
        if name not in volumes:
            continue
        if name == seq.ADC:
            text, window, colors = adc_volume(grid, volumes[name]), ADC_WINDOW, "review_gray"
        else:
            text, window = gray_volume(grid, volumes[name])
            colors = "review_gray"
            if name in (seq.DWI_LOW, seq.DWI_HIGH):
                window, colors = (0.0, window[1]), "review_inverted"
        row = {"id": name, "name": words[f"sequence_{name}"], "key": str(seq.SEQUENCES.index(name) + 1)}
        shown.append({**row, "nifti": text, "window": list(window), "colors": colors})
    return shown


def _overlays(
    grid: Grid, volumes: Mapping[str, NDArray[Any]], levels: NDArray[np.uint8],
    compared: Sequence[Compared], words: Mapping[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    def layer(
        ident: str, name: str, text: str, colors: str, key: str, top: int, on: bool = False
    ) -> dict[str, Any]:
        return {
            "id": ident, "name": name, "nifti": text, "colors": colors, "key": key, "window": [0, top], "on": on,
        }  # fmt: skip

    rows = [
        layer("tumor", words["map"], nifti(grid, levels), "review_tumor", "t", 255, on=True),
        layer(
            "probability", words["probability"], probability_volume(grid, volumes[files.PROBABILITY]),
            "review_heat", "p", 255,
        ),
    ]  # fmt: skip
    if files.BASE_PROBABILITY in volumes:
        text = probability_volume(grid, volumes[files.BASE_PROBABILITY])
        rows.append(layer("base", words["base_probability"], text, "review_heat", "b", 255))
    keys = {"rival": "v", "reader": "r"}
    for kind, key in keys.items():
        for number, row in enumerate(c for c in compared if c.kind == kind):
            name = spoken_name(row, words)
            text = presence_volume(grid, row.presence)
            rows.append(layer(f"{kind}{number}", name, text, f"review_{kind}", key if number == 0 else "", 1))
    return rows


def _lesions(maps_dir: Path, case_id: str, labels: NDArray[np.int32], grid: Grid) -> list[dict[str, Any]]:
    """Rows of lesions.csv with ``voxels``, ``seed`` (stored index of a voxel inside) and ``voxel`` (turned)."""
    rows = _rows(maps_dir / case_id / "lesions.csv", case_id)
    seeds = central_voxels(labels)
    if [str(row["lesion"]) for row in rows] != [str(n) for n in range(1, len(seeds) + 1)]:
        raise CohortError(
            f"{len(rows)} rows in lesions.csv of {case_id} and {len(seeds)} lesions in its map", "one row each",
            "draw the maps again",
        )  # fmt: skip
    turned = grid.turned_index(seeds)
    counts = np.bincount(labels.ravel(), minlength=len(seeds) + 1)[1:]
    return [
        {
            **row,
            "lesion": n + 1,
            "seed": seeds[n].tolist(),
            "voxel": turned[n].tolist(),
            "voxels": int(counts[n]),
        }
        for n, row in enumerate(rows)
    ]


def _rows(path: Path, case_id: str) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows: list[dict[str, Any]] = []
            for row in csv.DictReader(stream, strict=True):
                cells: dict[str, Any] = {name: restored(row[name]) for name in files.LESION_COLUMNS}
                for name in files.LESION_COLUMNS[1:-1]:
                    cells[name] = float(cells[name])
                rows.append(cells)
            return rows
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise CohortError(
            f"lesions.csv of {case_id} is missing or damaged", "one row per lesion", "draw the maps again"
        ) from None


def central_voxels(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each label 1 … N its voxel nearest to its centroid, which itself may lie outside; int64 (N, 3)."""
    count = int(labels.max(initial=0))
    seeds = np.zeros((count, 3), dtype=np.int64)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = np.argwhere(labels[box] == number) + [line.start for line in box]
        seeds[number - 1] = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
    return seeds


def _missed(first: Presence | None, presence: Presence, grid: Grid) -> list[dict[str, Any]]:
    if first is None or not first.any():
        return []
    labels = connected_components(first)
    touched = np.unique(labels[presence])
    counts = np.bincount(labels.ravel())
    turned = grid.turned_index(central_voxels(labels))
    ml = voxel_volume_ml(grid.affine)
    return [
        {"number": n, "volume_ml": float(counts[n] * ml), "voxel": turned[n - 1].tolist()}
        for n in range(1, len(counts))
        if n not in touched
    ]
