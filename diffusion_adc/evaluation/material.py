"""What there is to score: a folder of tumor maps, its cohort and, for digital patients, the sealed truth.

One case is in memory at a time, and one method's map of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.domain.errors import CohortError
from diffusion_adc.domain.units import spacing_mm, voxel_volume_ml
from diffusion_adc.evaluation import scores as table
from diffusion_adc.evaluation.baselines import (
    Prediction,
    base_head_map,
    empty_map,
    from_draws,
    rule_map,
    unedited_adc,
)
from diffusion_adc.evaluation.reference import KnownLesions, Reference
from diffusion_adc.inference.recalibration import Recalibration
from diffusion_adc.inference.tumor_map import usable_voxels
from diffusion_adc.phantom.readers import oracle_draws
from diffusion_adc.phantom.truth import CaseTruth, read_case_truth, read_truth_manifest
from diffusion_adc.records import maps as files
from diffusion_adc.records.cohort import load_volume, presence_readings, read_cohort
from diffusion_adc.records.maps import map_case_ids, read_map_record, read_map_volume, read_maps_manifest

SEED: Final = 0
"""Of the bootstrap, the randomized PIT and the oracle's draws."""

ORACLE_DRAWS: Final = 9
"""Draws of the oracle where the maps hold none; otherwise as many as the maps."""


@dataclass(frozen=True)
class Study:
    """A cohort with its sealed truth, opened for scoring.

    Attributes:
        folder: COHORT.
        cohort: Its manifest.
        truth: COHORT.truth; None for real cases.
    """

    folder: Path
    cohort: Cohort
    truth: Path | None

    @classmethod
    def open(cls, folder: Path, truth: Path | None) -> Study:
        """Open a cohort.

        Raises:
            UsageError: A folder is none of its kind.
            CohortError: The truth belongs to another cohort.
        """
        cohort = read_cohort(folder)
        if truth is not None:
            digest = read_truth_manifest(truth).get("cohort_digest")
            if digest != cohort.digest and not cohort.withdrawn:
                raise CohortError(
                    "the sealed truth belongs to another cohort", "the cohort digest in truth.json",
                    "give the truth that was written beside this cohort",
                )  # fmt: skip
        return cls(folder, cohort, truth)

    @property
    def planted_ambiguity(self) -> bool | None:
        """Whether its readers were told to disagree; None for real cases."""
        if self.truth is None:
            return None
        return bool(read_truth_manifest(self.truth).get("options", {}).get("ambiguity", True))

    def case(self, case: Case) -> OpenCase:
        """Open one case.

        Raises:
            CaseError: A volume is missing or damaged.
            CohortError: The truth is on another grid.
        """
        volume = load_volume(self.folder, case, seq.ADC)
        adc = np.asarray(volume.array, dtype=np.float32)
        valid = usable_voxels(adc, load_volume(self.folder, case, seq.VALID).array)
        truth = None if self.truth is None else _truth(self.truth, case, adc.shape)
        lesions, ignored = (None, None) if truth is None else _lesions(truth)
        reference = Reference(
            case_id=case.case_id,
            research_id=case.research_id,
            adc=adc,
            valid=valid,
            # A case known to be tumor-free may have no map of its own: its reading is empty.
            readers=presence_readings(self.folder, case) or [np.zeros(adc.shape, dtype=bool)],
            voxel_ml=voxel_volume_ml(volume.affine),
            lesions=lesions,
            ignored=ignored,
            structures=None if truth is None else truth.organ_label,
            structure_names={} if truth is None else truth.organ_names,
            spacing_mm=spacing_mm(volume.affine),
            known=None if truth is None else KnownLesions.of(truth),
        )
        rng = np.random.default_rng(_case_seed(case))
        return OpenCase(
            self, case, reference, volume.affine, truth, rng.random(len(reference.readers)).tolist()
        )


@dataclass(frozen=True)
class OpenCase:
    """One case in memory.

    Attributes:
        study: Where it belongs.
        case: Its row of the cohort.
        reference: What it is scored against.
        affine: (4, 4), voxel index to RAS+ mm.
        truth: The sealed truth; None for a real case.
        uniforms: One uniform random number per reader, fixed by the case's name.
    """

    study: Study
    case: Case
    reference: Reference
    affine: NDArray[np.float64]
    truth: CaseTruth | None
    uniforms: list[float]

    def baselines(self) -> Iterator[tuple[str, Prediction]]:
        """B0, B1, and B2 where there is a high-b image."""
        adc, valid = self.reference.adc, self.reference.valid
        yield table.EMPTY, empty_map(adc)
        yield table.UNEDITED, unedited_adc(adc, valid)
        if seq.DWI_HIGH in self.case.files:
            high = np.asarray(load_volume(self.study.folder, self.case, seq.DWI_HIGH).array, dtype=np.float32)
            yield table.RULE, rule_map(high, adc, valid)

    def oracle(self, draws: int, seed: int = SEED) -> Prediction | None:
        """Draws of the complete reader model; None for a real case."""
        if self.truth is None:
            return None
        oracle = np.stack(oracle_draws(self.truth, draws, seed), axis=-1)
        return from_draws(oracle, self.reference.adc, self.reference.valid)


@dataclass(frozen=True)
class Maps:
    """A folder of tumor maps.

    Attributes:
        folder: MAPS.
        manifest: Its maps.json.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Maps:
        """Open a folder of maps.

        Raises:
            UsageError: It holds no tumor maps.
            CohortError: maps.json is damaged.
        """
        return cls(folder, read_maps_manifest(folder))

    @property
    def method(self) -> str:
        """Id of the method, `id` in maps.json; else the run's name, else the folder's."""
        return str(self.manifest.get("id") or self.manifest.get("run") or self.folder.resolve().name)

    def recalibration(self, name: str = "recalibration") -> Recalibration:
        """What validation cases recalibrate, ``recalibration`` of the map or ``base_recalibration`` of its base head.

        Raises:
            CohortError: The record is damaged.
        """
        try:
            return Recalibration.of((self.manifest.get("calibration") or {}).get(name))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CohortError("the calibration in maps.json is damaged", do="draw the maps again") from None

    def cases(self, cohort: Cohort) -> list[Case]:
        """The cases to score, after checking that maps and cohort belong together.

        Raises:
            CohortError: They do not, maps are missing, or no case has a reader's map.
        """
        # A withdrawal changes the cohort's digest; the maps of the persons who remain are still theirs.
        if self.manifest.get("cohort_digest") != cohort.digest and not cohort.withdrawn:
            raise CohortError(
                "the maps were drawn for another cohort", "the cohort digest in maps.json",
                "give the cohort they were drawn for, or draw them again",
            )  # fmt: skip
        known = {case.case_id: case for case in cohort.cases}
        drawn = set(map_case_ids(self.folder))
        strangers = sorted(
            case_id for case_id in drawn - set(known) if case_id.rsplit("_", 1)[0] not in cohort.withdrawn
        )
        if strangers:
            raise CohortError(
                f"a map of {strangers[0]}, which the cohort does not have", do="draw the maps again"
            )
        wanted = set(self.manifest.get("cases") or drawn) & set(known)
        missing = sorted(wanted - drawn - set(self.manifest.get("refused", ())))
        if missing:
            raise CohortError(
                f"maps of {len(missing)} of {len(wanted)} cases are missing, the first {missing[0]}",
                do="run `diffusion-adc draw` again; finished cases are kept",
            )
        cases = [known[case_id] for case_id in sorted(drawn & set(known))]
        scorable = [
            case for case in cases if case.readers or case.has_target or case.tumor_status == "absent"
        ]
        if not any(case.readers or case.has_target for case in scorable):
            raise CohortError(
                f"{len(cases)} maps and no reader's map to score them against",
                "at least one case with a target", "ingest the targets",
            )  # fmt: skip
        return scorable

    def predictions(self, opened: OpenCase) -> Iterator[tuple[str, Prediction]]:
        """The maps' own method, then its base head's map where that is stored and has a threshold.

        Raises:
            CaseError: A volume is missing or damaged.
            CohortError: It is on another grid or holds no probabilities.
        """
        case_id, reference = opened.case.case_id, opened.reference
        stored = read_map_record(self.folder, case_id)["sha256"]

        def read(name: str) -> NDArray[np.generic]:
            volume = read_map_volume(self.folder, case_id, name)
            shape = volume.array.shape[:3]
            if shape != reference.adc.shape or not np.allclose(volume.affine, opened.affine, atol=1e-3):
                raise CohortError(
                    f"{name} of {case_id} is on a grid of {shape} voxels",
                    f"the ADC map's grid of {reference.adc.shape} voxels", "draw the map again",
                )  # fmt: skip
            return volume.array

        def read_probability(name: str) -> NDArray[np.float32]:
            probability = np.asarray(read(name), dtype=np.float32)
            low, high = float(probability.min()), float(probability.max())
            # A sigmoid applied twice never falls below 0.5: everything would be a candidate and AP near 0.
            if not (0.0 <= low < 0.5 and high <= 1.0):
                raise CohortError(
                    f"{name} of {case_id} runs from {low:g} to {high:g}",
                    "probabilities that are near 0 outside tumor", "draw the map again",
                )  # fmt: skip
            return probability

        yield (
            table.MODEL,
            Prediction(
                tumor_adc=np.asarray(read(files.TUMOR_ADC), dtype=np.float32),
                probability=read_probability(files.PROBABILITY),
                threshold=float(self.manifest.get("tau", 0.5)),
                draws=read(files.DRAWS) if files.DRAWS in stored else None,
                lesion_threshold=float(self.manifest.get("lesion_tau", 0.0)),
            ),
        )
        if files.BASE_PROBABILITY in stored and self.manifest.get("base_tau") is not None:
            yield (
                table.BASE_HEAD,
                base_head_map(
                    read_probability(files.BASE_PROBABILITY), float(self.manifest["base_tau"]), reference.adc,
                    reference.valid, float(self.manifest.get("base_lesion_tau", 0.0)),
                ),
            )  # fmt: skip


def _case_seed(case: Case) -> list[int]:
    # By the case's name, so that its numbers do not depend on which other cases are scored.
    return [SEED, zlib.crc32(case.case_id.encode())]


def _lesions(truth: CaseTruth) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Lesions that count for detection, and those that are ignored, bool (I, J, K)."""
    ignored = np.isin(truth.lesion_label, truth.ambiguous_numbers)
    return (truth.lesion_label > 0) & ~ignored, ignored


def _truth(truth_dir: Path, case: Case, shape: Sequence[int]) -> CaseTruth:
    truth = read_case_truth(truth_dir, case.case_id)
    if truth.lesion_label.shape != tuple(shape):
        raise CohortError(
            f"the sealed truth of {case.case_id} has {truth.lesion_label.shape} voxels",
            f"the ADC map's {tuple(shape)}", "give the truth of this cohort",
        )  # fmt: skip
    return truth
