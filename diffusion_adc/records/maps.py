"""Tumor maps on disk: a folder per case and one manifest that says which run drew them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.records.atomic import replacing_folder, write_csv, write_json
from diffusion_adc.records.nifti import Volume, read_nifti, write_nifti

TUMOR_ADC: Final = "tumor_adc"
PROBABILITY: Final = "probability"
DRAWS: Final = "draws"
BASE_PROBABILITY: Final = "base_probability"
MAP_VOLUMES: Final[Mapping[str, type[np.generic]]] = {
    TUMOR_ADC: np.float32,
    PROBABILITY: np.float32,
    DRAWS: np.uint8,
    BASE_PROBABILITY: np.float32,
}
"""Stored type by volume; draws are (I, J, K, draws)."""

SCORE_TABLES: Final = ("cases.csv", "lesions.csv", "histograms.csv")
"""In MAPS after an evaluation: rows of cases."""
SCORE_SUMS: Final = (
    "scores.json", "false_positives.csv", "claim.json", "comparison.json",
    "figures/froc.png", "figures/bland_altman.png", "figures/reliability.png", "figures/pit.png", "figures/nfe.png",
)  # fmt: skip
"""In MAPS after an evaluation or a comparison: sums over cases, and pictures of them."""

LESION_COLUMNS: Final = (
    "lesion", "probability", "volume_ml", "volume_ml_low80", "volume_ml_high80", "adc_median", "adc_p10",
    "adc_p90", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "region",
)  # fmt: skip


def write_map_case(
    maps_dir: Path,
    case_id: str,
    volumes: Mapping[str, NDArray[np.generic]],
    affine: NDArray[np.floating],
    lesions: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> None:
    """Write one case's tumor map as a whole folder; a killed run leaves the folder out, never half of it.

    Args:
        maps_dir: The maps' folder.
        case_id: Names the folder.
        volumes: By name of `MAP_VOLUMES`; all on the case's own grid.
        affine: (4, 4) of the case's ADC map, unchanged.
        lesions: Rows with `LESION_COLUMNS`.
        record: JSON for case.json; the SHA-256 of each volume is added under ``sha256``.
    """
    with replacing_folder(maps_dir / case_id) as folder:
        digests = {
            name: write_nifti(folder / f"{name}.nii.gz", np.asarray(array, dtype=MAP_VOLUMES[name]), affine)
            for name, array in volumes.items()
        }
        write_csv(folder / "lesions.csv", lesions, LESION_COLUMNS)
        write_json(folder / "case.json", {**record, "sha256": digests})


def write_maps_manifest(maps_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write maps.json: run, checkpoint hash, cohort digest, command, τ, draws, steps, seed, split."""
    write_json(maps_dir / "maps.json", manifest)


def read_maps_manifest(maps_dir: Path) -> dict[str, Any]:
    """Read maps.json.

    Raises:
        UsageError: The folder holds no tumor maps.
        CohortError: maps.json is damaged.
    """
    try:
        manifest: Any = json.loads((maps_dir / "maps.json").read_text(encoding="utf-8"))
        if isinstance(manifest, dict):
            return manifest
        raise ValueError("not a manifest")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"no tumor maps in {maps_dir.name or '.'}",
            "a folder with maps.json",
            "make one with `diffusion-adc draw`",
        ) from None
    except (OSError, ValueError):
        raise CohortError("maps.json is damaged", "JSON", "draw the maps again") from None


def map_case_ids(maps_dir: Path) -> list[str]:
    """Case IDs with a complete folder, sorted."""
    return sorted(
        path.parent.name for path in maps_dir.glob("*/case.json") if not path.parent.name.startswith(".")
    )


def read_map_record(maps_dir: Path, case_id: str) -> dict[str, Any]:
    """The case.json of one map.

    Raises:
        CohortError: It is missing or damaged.
    """
    try:
        record: Any = json.loads((maps_dir / case_id / "case.json").read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
        raise ValueError("not a record")
    except (OSError, ValueError):
        raise CohortError(f"the map of {case_id} is missing or damaged", do="draw it again") from None


def read_map_volume(maps_dir: Path, case_id: str, name: str) -> Volume:
    """One volume of one map, its hash checked; draws are (I, J, K, draws).

    Raises:
        CaseError: S25 missing, damaged or not the one recorded.
        CohortError: case.json is missing or damaged, or records no such volume.
    """
    digests = read_map_record(maps_dir, case_id).get("sha256")
    if not isinstance(digests, dict) or name not in digests:
        raise CohortError(f"the map of {case_id} has no {name}", "one with its SHA-256", "draw it again")
    digest = digests[name]
    volume = read_nifti(
        maps_dir / case_id / f"{name}.nii.gz", MAP_VOLUMES[name], sha256=digest, sequence=name
    )
    if name == DRAWS and volume.array.ndim == 3:  # a single draw loses its last axis on disk
        return Volume(volume.array[..., None], volume.affine)
    return volume
