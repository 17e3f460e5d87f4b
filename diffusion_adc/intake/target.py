"""The reader's map: a label volume or an edited ADC map, from one reader or several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.units import voxel_volume_ml
from diffusion_adc.intake.nifti import (
    Loaded,
    Refusal,
    aligned,
    find_file,
    nearest_on,
    read_volume,
    same_voxels,
)
from diffusion_adc.intake.options import TARGETS, IngestOptions

READERS: Final = "readers"
_READER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", re.ASCII)
_SAME_ADC: Final = 1e-3
"""A kept value is the ADC map's own if it differs by no more than one stored step, 1e-3 mm²/s times 1e-3."""
_MOST_DIFFERENT: Final = 0.05

Maps = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Target:
    """What readers kept of one ADC map.

    Attributes:
        own: ``tumor_adc`` and ``tumor_label`` of the case itself, the first reader's where readers are named;
            empty where nobody edited the map.
        readers: The same by reader, in order.
        status: present, absent or unknown.
        warnings: What was taken in with a doubt.
        sha256: Of each source file.
    """

    own: Maps
    readers: Mapping[str, Maps]
    status: str
    warnings: tuple[str, ...]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class TargetFiles:
    """Where the targets of one case lie.

    Attributes:
        own: ``tumor_label`` and ``tumor_adc`` → file, whichever there are.
        readers: The same by reader.
    """

    own: Mapping[str, Path]
    readers: Mapping[str, Mapping[str, Path]]


def target_files(root: Path, folder: Path, options: IngestOptions, research_id: str) -> TargetFiles:
    """A case folder's targets, and its readers' under ``readers/<reader>/``.

    Raises:
        CaseError: X8 a reader's folder with another kind of name, or a link out of the data root; S01 two files.
    """

    def files(where: Path) -> dict[str, Path]:
        found = {name: find_file(root, where, options.stem(name), research_id, name) for name in TARGETS}
        return {name: path for name, path in found.items() if path is not None}

    below = folder / READERS
    names = sorted(path.name for path in below.iterdir() if path.is_dir()) if below.is_dir() else []
    for name in names:
        if not _READER.fullmatch(name):
            raise Refusal(research_id, seq.TUMOR_LABEL)(
                "X8", "a reader's folder with a name of another form", "letters, digits, - and _",
                "name readers by a code",
            )  # fmt: skip
    readers = {name: found for name in names if (found := files(below / name))}
    return TargetFiles(files(folder), readers)


def read_target(
    files: TargetFiles, adc: Loaded, adc_values: NDArray[np.float32], factor: float,
    options: IngestOptions, research_id: str,
) -> Target:  # fmt: skip
    """Read a case's target and its readers'.

    Args:
        files: Where they lie.
        adc: The ADC map as delivered.
        adc_values: (I, J, K) in 1e-3 mm²/s.
        factor: From the stored ADC unit to 1e-3 mm²/s.
        options: What the user declares.
        research_id: For messages.

    Raises:
        CaseError: S01 no target, undeclared; S19 an empty one, undeclared; S20, S22, S23 and the codes of
            `read_volume`.
    """

    def read(found: Mapping[str, Path]) -> dict[str, Loaded]:
        return {name: read_volume(path, research_id, name) for name, path in found.items()}

    own = read(files.own)
    readers = {reader: read(found) for reader, found in files.readers.items()}
    return target_of(own, readers, adc, adc_values, factor, options, research_id)


def target_of(
    own: Mapping[str, Loaded], readers: Mapping[str, Mapping[str, Loaded]], adc: Loaded,
    adc_values: NDArray[np.float32], factor: float, options: IngestOptions, research_id: str,
) -> Target:  # fmt: skip
    """The target that loaded volumes make: `own` and each reader's hold ``tumor_label``, ``tumor_adc`` or both.

    Raises:
        CaseError: S01 no target, undeclared; S19 an empty one, undeclared; S20, S22, S23.
    """
    reading = _Reading(adc, adc_values, factor, options, research_id)
    mine = reading.maps(own)
    by_reader: dict[str, Maps] = {}
    for name, loaded in readers.items():
        maps = reading.maps(loaded, f"{READERS}/{name}/")
        if maps is not None:
            by_reader[name] = maps
    if mine is not None and by_reader:
        first = next((name for name, maps in by_reader.items() if _equal(maps, mine)), None)
        if first is None:
            raise Refusal(research_id, seq.TUMOR_LABEL)(
                "S23", "a map of the case unlike every reader's", "one reader's map",
                "leave it out, or put it under its reader",
            )  # fmt: skip
        by_reader = {first: by_reader.pop(first), **by_reader}
    chosen = mine if mine is not None else next(iter(by_reader.values()), None)
    if chosen is None:
        if seq.TUMOR_LABEL not in options.allow_missing:
            raise Refusal(research_id, seq.TUMOR_LABEL)(
                "S01", f"no file {options.stem(seq.TUMOR_LABEL)}", "the reader's map",
                f"deliver it or declare --allow-missing {seq.TUMOR_LABEL}",
            )  # fmt: skip
        return Target({}, {}, "unknown", (), {})
    found = any(bool(maps[seq.TUMOR_LABEL].any()) for maps in (chosen, *by_reader.values()))
    status = "present" if found else "absent"
    return Target(chosen, by_reader, status, tuple(reading.warnings), reading.sha256)


def _equal(one: Maps, other: Maps) -> bool:
    return np.array_equal(one[seq.TUMOR_LABEL], other[seq.TUMOR_LABEL])


class _Reading:
    """Checks targets of one case against its ADC map."""

    def __init__(
        self,
        adc: Loaded,
        adc_values: NDArray[np.float32],
        factor: float,
        options: IngestOptions,
        research_id: str,
    ) -> None:
        self.adc, self.adc_values, self.factor = adc, adc_values, factor
        self.options, self.research_id = options, research_id
        self.warnings: list[str] = []
        self.sha256: dict[str, str] = {}

    def maps(self, given: Mapping[str, Loaded], where: str = "") -> Maps | None:
        """``tumor_adc`` and ``tumor_label`` from loaded volumes, None if there is neither."""
        loaded: dict[str, Loaded] = {}
        for name, volume in given.items():
            self.sha256[where + name] = volume.sha256
            loaded[name] = self._placed(volume, name)
        if not loaded:
            return None
        edited = loaded.get(seq.TUMOR_ADC)
        if seq.TUMOR_LABEL in loaded:
            label = loaded[seq.TUMOR_LABEL].array
            presence = label_presence(
                label, self.options.tumor_labels, self.research_id, self.options.organ_labels
            )
        else:
            presence = loaded[seq.TUMOR_ADC].array != 0
        if edited is not None:
            self._check_selection(edited.array * self.factor, presence)
        if not presence.any() and not self.options.tumor_free_ok:
            raise Refusal(self.research_id, next(iter(loaded)))(
                "S19", "an empty target", "tumor, or a declared tumor-free case",
                "declare --tumor-free-ok if it is true",
            )  # fmt: skip
        labels, _ = ndimage.label(presence, structure=np.ones((3, 3, 3)))
        # A kept voxel without a fitted ADC has no value to keep: the label says it was kept, the map is 0.
        kept = np.where(presence & (self.adc_values > 0), self.adc_values, np.float32(0))
        return {seq.TUMOR_ADC: kept, seq.TUMOR_LABEL: labels.astype(np.uint16)}

    def _placed(self, volume: Loaded, name: str) -> Loaded:
        """The volume on the ADC grid; a label on another one only where the user wants it brought there."""
        if name != seq.TUMOR_LABEL or self.options.target_resample is None or same_voxels(volume, self.adc):
            return aligned(volume, self.adc, self.research_id, name)
        placed = nearest_on(volume, self.adc)
        before, after = (np.count_nonzero(v.array) * voxel_volume_ml(v.affine) for v in (volume, placed))
        self.warnings.append(
            f"S20 {self.research_id} {name}: brought to the ADC grid by nearest neighbor as declared, "
            f"{before:.3f} mL became {after:.3f} mL"
        )
        return placed

    def _check_selection(self, edited: NDArray[np.floating], presence: NDArray[np.bool_]) -> None:
        """An edited map must hold the ADC map's own values where it keeps them, and 0 elsewhere."""
        expected = np.where(presence, self.adc_values.astype(np.float64), 0.0)
        differs = np.abs(edited - expected) > _SAME_ADC
        share = float(np.count_nonzero(differs)) / max(1, int(np.count_nonzero(presence | (edited != 0))))
        if share > _MOST_DIFFERENT:
            raise Refusal(self.research_id, seq.TUMOR_ADC)(
                "S23", f"{share:.0%} of kept voxels are not the ADC map's", "an exact selection",
                "deliver the label, or the map before smoothing",
            )  # fmt: skip
        if share > 0:
            self.warnings.append(
                f"S23 {self.research_id} tumor_adc: {share:.2%} of kept voxels are not the ADC map's; "
                "the ADC map's own values are stored"
            )


def label_presence(
    label: NDArray[np.floating],
    wanted: frozenset[int] | None,
    research_id: str,
    others: frozenset[int] = frozenset(),
) -> NDArray[np.bool_]:
    """Presence from a label volume.

    Args:
        label: (I, J, K).
        wanted: Labels that mean tumor; None accepts 0 and 1 only.
        research_id: For the message.
        others: Labels declared to be something else, an organ for instance.

    Raises:
        CaseError: S22, soft labels or labels nobody declared.
    """
    refused = Refusal(research_id, seq.TUMOR_LABEL)
    values = np.unique(label)
    if not np.array_equal(values, np.round(values)):
        raise refused("S22", "a soft label", "whole numbers", "threshold it where it was made")
    tumor = {1} if wanted is None else set(wanted)
    unknown = [int(v) for v in values if int(v) not in {0} | tumor | others]
    if unknown:
        raise refused(
            "S22", f"labels {unknown[:5]}", f"0 or {_ranges(tumor)}",
            "say which labels mean tumor, --label-values, and which do not, --other-labels",
        )  # fmt: skip
    return np.asarray(np.isin(label, list(tumor)))


def _ranges(labels: set[int]) -> str:
    low, high = min(labels), max(labels)
    return f"{low}-{high}" if len(labels) == high - low + 1 > 1 else ", ".join(map(str, sorted(labels)))
