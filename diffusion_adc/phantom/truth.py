"""What only a simulation can know of a case, sealed beside the cohort: true lesions, organs, the readers' law."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.phantom.structures import ORGAN_NAMES
from diffusion_adc.records.atomic import sha256_bytes, write_bytes, write_json

SCHEMA_VERSION: Final = 1
OPENED_BY: Final = "evaluate --truth"
ARMS: Final = ("whole", "part", "pair")


@dataclass(frozen=True)
class LesionTruth:
    """One true lesion and the law by which readers keep it."""

    number: int
    """Its value in `CaseTruth.lesion_label`."""
    site: str
    group: str
    """``bone``, ``node``, ``liver``, ``lung`` or ``primary``."""
    kind: str
    """``untreated``, ``treated``, ``sclerotic`` or ``mucinous``."""
    grade: int
    """1 to 5."""
    arm: str
    """``whole``: kept or not; ``part``: kept, and then either all of it or its core; ``pair``: kept or not,
    depending on the partner."""
    keep_probability: float
    """Probability that a reader keeps it at all."""
    whole_probability: float
    """Given that it is kept, probability that all of it is kept and not only its core; 1 but in arm ``part``."""
    partner: int
    """Number of the lesion it is kept together with; 0 = none."""
    ambiguous: bool
    """Readers disagree whether it is there, or the ADC map cannot show it: ignored when detection is scored."""
    mappable: bool
    """At least half of it has a valid ADC."""
    volume_ml: float
    core_ml: float
    contrast: float
    """Mean high-b signal relative to the muscle reference, measured in the images."""
    adc_median: float
    """Measured, 1e-3 mm²/s; 0 if nowhere valid."""
    adc_true: float
    """Noise-free two-point ADC of its main tissue, 1e-3 mm²/s."""
    centroid_mm: tuple[float, float, float]
    """In the cohort's RAS+ coordinates."""


@dataclass(frozen=True)
class PairTruth:
    """Joint law of two lesions that readers judge together."""

    first: int
    second: int
    correlation: float
    """Share of readers who decide about both with one coin."""
    both: float
    only_first: float
    only_second: float
    neither: float
    distance_mm: float
    near: bool
    """Within one training patch."""


@dataclass(frozen=True)
class MimicTruth:
    """A benign structure that a reader may take for tumor."""

    number: int
    """Its value in `CaseTruth.mimic_label`."""
    organ: str
    weight: float
    """Probability to be the one, given that a reader includes a mimic."""
    volume_ml: float


@dataclass(frozen=True)
class StationTruth:
    """One station of a composed series; slices count from the feet upward, both ends included."""

    index: int
    first: int
    """First slice that the composed series takes from it."""
    last: int
    acquired_first: int
    """First slice acquired; the overlap's other half belongs to the station below."""
    acquired_last: int
    gain: float
    """Of the diffusion images."""
    gain_t1w: float
    gain_t2w: float
    shift_mm: float
    """Along J."""


@dataclass(frozen=True, eq=False)
class CaseTruth:
    """The truth of one case; every array (I, J, K) on the cohort's grid."""

    case_id: str
    ambiguity: bool
    spacing_mm: tuple[float, float, float]
    lesions: tuple[LesionTruth, ...]
    pairs: tuple[PairTruth, ...]
    mimics: tuple[MimicTruth, ...]
    lesion_label: NDArray[np.uint8]
    """Lesion numbers, 0 elsewhere."""
    core: NDArray[np.bool_]
    """The part of each lesion that a reader who trims it keeps."""
    organ_label: NDArray[np.uint8]
    """Structure numbers without tumors (`structures.ORGAN_NAMES`)."""
    mimic_label: NDArray[np.uint8]
    """Mimic numbers, 0 elsewhere."""
    reading_adc: NDArray[np.float32]
    """The scanner's ADC where a reader may put tumor, 0 where invalid or out of reach; 1e-3 mm²/s."""
    stations: tuple[StationTruth, ...] = ()
    """Of a whole body; a pelvis is one station."""

    @property
    def ambiguous_numbers(self) -> tuple[int, ...]:
        """Lesions ignored when detection is scored."""
        return tuple(lesion.number for lesion in self.lesions if lesion.ambiguous)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in mL."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def station_index(self) -> NDArray[np.uint8]:
        """(K,) station of each slice."""
        out = np.zeros(self.lesion_label.shape[2], dtype=np.uint8)
        for station in self.stations:
            out[station.first : station.last + 1] = station.index
        return out

    @property
    def organ_names(self) -> Mapping[int, str]:
        """Name by number of `organ_label`."""
        return ORGAN_NAMES


_ARRAYS: Final = ("lesion_label", "core", "organ_label", "mimic_label", "reading_adc")


def truth_dir_of(cohort_dir: Path) -> Path:
    """``OUT.truth`` beside the cohort ``OUT``."""
    return cohort_dir.with_name(cohort_dir.name + ".truth")


def write_case_truth(truth_dir: Path, truth: CaseTruth) -> str:
    """Write one case's truth; returns the SHA-256 of its arrays' file."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **{name: getattr(truth, name) for name in _ARRAYS})
    digest = write_bytes(truth_dir / truth.case_id / "truth.npz", stream.getvalue())
    stations = {"stations": [asdict(station) for station in truth.stations]} if truth.stations else {}
    write_json(truth_dir / truth.case_id / "truth.json", {
        "schema_version": SCHEMA_VERSION, "case_id": truth.case_id, "ambiguity": truth.ambiguity,
        "spacing_mm": list(truth.spacing_mm), "arrays_sha256": digest,
        "lesions": [asdict(lesion) for lesion in truth.lesions], "pairs": [asdict(pair) for pair in truth.pairs],
        "mimics": [asdict(mimic) for mimic in truth.mimics], **stations,
    })  # fmt: skip
    return digest


def read_case_truth(truth_dir: Path, case_id: str) -> CaseTruth:
    """Read one case's truth.

    Raises:
        CohortError: It is missing or damaged.
    """
    folder = truth_dir / case_id
    try:
        record = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        raw = (folder / "truth.npz").read_bytes()
        if sha256_bytes(raw) != record["arrays_sha256"]:
            raise ValueError("not the file recorded")
        with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
        if record["schema_version"] != SCHEMA_VERSION:
            raise CohortError(
                f"truth schema {record['schema_version']}", f"{SCHEMA_VERSION}", "simulate the cohort again"
            )
        lesions = tuple(
            LesionTruth(**{**row, "centroid_mm": tuple(row["centroid_mm"])}) for row in record["lesions"]
        )
        return CaseTruth(
            case_id=record["case_id"], ambiguity=record["ambiguity"], spacing_mm=tuple(record["spacing_mm"]),
            lesions=lesions, pairs=tuple(PairTruth(**row) for row in record["pairs"]),
            mimics=tuple(MimicTruth(**row) for row in record["mimics"]),
            stations=tuple(StationTruth(**row) for row in record.get("stations", ())), **arrays,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise CohortError(
            f"no readable truth of {case_id} ({type(error).__name__})", "truth.json and truth.npz",
            "simulate the cohort again",
        ) from None  # fmt: skip


def write_truth_manifest(
    truth_dir: Path, options: Mapping[str, Any], law: Mapping[str, Any], digest: str
) -> None:
    """Write truth.json: who may open it, how the cohort was made, the readers' law, the cohort's digest."""
    write_json(truth_dir / "truth.json", {
        "schema_version": SCHEMA_VERSION, "opened_by": OPENED_BY, "cohort_digest": digest, "options": dict(options),
        "reader_law": dict(law), "organ_names": {str(n): name for n, name in ORGAN_NAMES.items()},
    })  # fmt: skip


def read_truth_manifest(truth_dir: Path) -> dict[str, Any]:
    """Read truth.json.

    Raises:
        UsageError: The folder is no sealed truth.
    """
    try:
        manifest = json.loads((truth_dir / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = {}
    if manifest.get("opened_by") != OPENED_BY:
        raise UsageError(
            f"no sealed truth in {truth_dir.name or '.'}", "the folder COHORT.truth of a simulated cohort",
            "only digital patients have one",
        )  # fmt: skip
    return dict(manifest)
