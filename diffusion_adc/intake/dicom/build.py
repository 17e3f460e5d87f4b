"""One study → an examination: chosen series read, checked and put on the ADC map's grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffusion_adc.custody.diffusion_tags import MAX_B
from diffusion_adc.custody.package import DELIVERY, PackageRefused, listed_slices
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import CaseError, CohortError
from diffusion_adc.intake import bvalues
from diffusion_adc.intake.dicom.choose import Chosen, choose, reach, spacing_along
from diffusion_adc.intake.dicom.geometry import Grid, normal, volumes
from diffusion_adc.intake.dicom.person import Study
from diffusion_adc.intake.dicom.pixels import Reader
from diffusion_adc.intake.dicom.rules import Rule
from diffusion_adc.intake.dicom.series import Candidate, candidates
from diffusion_adc.intake.dicom.slices import BadFile, Slice
from diffusion_adc.intake.dicom.unit import adc_unit
from diffusion_adc.intake.examination import Diffusion, Examination, Facts, ReadTarget
from diffusion_adc.intake.nifti import Loaded, Refusal, aligned
from diffusion_adc.intake.nifti_examination import series_diffusion
from diffusion_adc.intake.options import DWI, DWIS, UNKNOWN, IngestOptions
from diffusion_adc.intake.stations import Stitched, compose
from diffusion_adc.records.dicom_reference import DicomReference

_ANATOMY: Final = (
    ("whole_body", r"WHOLE|WHOLEBODY"), ("pelvis", r"PROSTATE|PELVIS|BLADDER|UTERUS|CERVIX|RECTUM"),
    ("head", r"BRAIN|HEAD|SKULL"), ("abdomen", r"ABDOMEN|LIVER|KIDNEY|PANCREAS"), ("breast", r"BREAST"),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What of a study is an examination, before any pixel is read.

    Attributes:
        study: The study.
        chosen: Its images.
        ignored: (series, reason).
    """

    study: Study
    chosen: Chosen
    ignored: tuple[tuple[str, str], ...]


def find_images(
    study: Study, rules: Sequence[Rule], options: IngestOptions, research_id: str, not_images: frozenset[str]
) -> Found:
    """Choose a study's images and see that none is missing undeclared.

    Args:
        study: The study.
        rules: The user's.
        options: What the user declares.
        research_id: For messages.
        not_images: UIDs of series that are targets.

    Raises:
        CaseError: See `choose.choose`; S01 and S13 for what is missing undeclared; S03 where slices of the map or
            of its images are gone that the delivery lists; X2 the delivery's list is damaged.
    """
    slices = [one for one in study.slices if one.series_uid not in not_images]
    found, ignored = candidates(slices, rules)
    chosen = choose([c for c in found if c.kind != "target"], research_id)
    ignored += [(other.kind, "no MR image") for other in study.others]
    for name in (seq.T1W, seq.T2W):
        if name not in chosen.anatomy and name not in options.allow_missing:
            raise Refusal(research_id, name)(
                "S01", "no series of this weighting", "every sequence, or --allow-missing",
                f"deliver it, name it by --rules, or declare --allow-missing {name}",
            )  # fmt: skip
    if not any(chosen.dwi):
        raise Refusal(research_id, seq.DWI_HIGH)(
            "S01", "no diffusion-weighted series", "the images the map was fitted to", "deliver them"
        )
    doubts = _check_delivered(study, chosen, research_id)
    return Found(study, replace(chosen, doubts=(*chosen.doubts, *doubts)), (*ignored, *chosen.ignored))


def _check_delivered(study: Study, chosen: Chosen, research_id: str) -> list[str]:
    """Whether each series is as long as the delivery says: slices gone from the end of all of them leave no other trace."""
    there = Counter(one.path.parent for one in study.slices)
    dwi = [entry for station in chosen.dwi for entry in station]
    doubts: list[str] = []
    for name, parts in ((seq.ADC, chosen.adc), (DWI, dwi), *chosen.anatomy.items()):
        for folder in sorted({one.path.parent for candidate, _ in parts for one in candidate.slices}):
            listed = _listed(folder, research_id)
            if there[folder] >= listed:
                continue
            found = f"{there[folder]} of {listed} slices that the delivery lists"
            if name in (seq.ADC, DWI):
                raise Refusal(research_id, name)("S03", found, "all of them", "open the delivery again")
            doubts.append(f"S03 {research_id} {name}: {found}; open the delivery again")
    return doubts


def _listed(folder: Path, research_id: str) -> int:
    """Slices of a series of an opened delivery, which lies in ``DELIVERY/<research ID>/<study>/<series>``; 0 elsewhere."""
    if len(folder.parents) < 3 or not (root := folder.parents[2]).joinpath(DELIVERY).is_file():
        return 0
    try:
        listed = _read_list(root, root.joinpath(DELIVERY).stat().st_mtime_ns)
    except PackageRefused:
        raise Refusal(research_id)(
            "X2", "the delivery's own list is damaged", "the list as it was opened", "open the delivery again"
        ) from None
    return listed.get(folder.relative_to(root).as_posix(), 0)


@lru_cache(maxsize=4)
def _read_list(root: Path, changed_ns: int) -> Mapping[str, int]:
    """The list of a delivery, read once as long as nobody changes it."""
    return listed_slices(root)


class Builder:
    """Reads the images of one examination.

    Args:
        reader: Decodes files.
        options: What the user declares.
        research_id: For messages.
    """

    def __init__(self, reader: Reader, options: IngestOptions, research_id: str) -> None:
        self.reader, self.options, self.research_id = reader, options, research_id
        self.doubts: list[str] = []

    def build(self, found: Found, exam_order: int, read_target: ReadTarget | None = None) -> Examination:
        """The examination; `read_target` may be put in later with `dataclasses.replace`.

        Raises:
            CaseError: A series that cannot be used, with its code.
        """
        chosen = found.chosen
        adc_slices = [one for c, _ in chosen.adc for one in c.slices]
        unit, unit_source = adc_unit(adc_slices, self.options, self.research_id)
        stations = [self._one(c, g, seq.ADC) for c, g in chosen.adc]
        adc, station, seams = self._composed(stations, seq.ADC)
        diffusion = self._diffusion(chosen, stations, adc)
        anatomy = {name: self._anatomy(name, parts, chosen) for name, parts in chosen.anatomy.items()}
        record: dict[str, Any] = {"seams": seams} if seams else {}
        scales = sorted({entry for one in adc_slices for entry in one.private_scale})
        if scales:
            record["private_scale_noted"] = [list(entry) for entry in scales]
        reference = self._reference(chosen, diffusion)
        doubts = [f"{d[:3]} {self.research_id}: {d[4:]}" for d in sorted(set(found.study.doubts))]
        return Examination(
            research_id=self.research_id, exam_order=exam_order, adc=adc, anatomy=anatomy, diffusion=diffusion,
            adc_unit=unit, adc_unit_source=unit_source, read_target=read_target or _no_target,
            facts=_facts(adc_slices[0]), station=station, reference=reference, ignored=found.ignored,
            warnings=(*doubts, *chosen.doubts, *self.doubts), record=record,
        )  # fmt: skip

    def _one(self, candidate: Candidate, grid: Grid, name: str) -> Loaded:
        loaded = self.load(candidate, grid, name)
        if len(loaded) > 1:
            raise Refusal(self.research_id, name)(
                "S05",
                f"{len(loaded)} images at each place",
                "one",
                "split the series, or name one by --rules",
            )
        return loaded[0]

    def load(self, candidate: Candidate, grid: Grid, name: str) -> list[Loaded]:
        """The volumes of a candidate.

        Raises:
            CaseError: S04, S05, S19, S26 and what a file may be refused for.
        """
        refused = Refusal(self.research_id, name)
        parts, doubles = volumes(grid, refused)
        try:
            for _, slices in doubles:
                first = self.reader.stored(slices[0])
                if not all(np.array_equal(first, self.reader.stored(other)) for other in slices[1:]):
                    raise refused(
                        "S04",
                        "two different images at one place",
                        "one image per place",
                        "remove the wrong one",
                    )
                self._doubt("S04", name, "an image that was there twice, taken once")
            return [self._volume(part, grid, name, refused) for part in parts]
        except BadFile as bad:
            raise bad.refusal(self.research_id, name) from None

    def _volume(self, slices: Sequence[Slice], grid: Grid, name: str, refused: Refusal) -> Loaded:
        pixels = self.reader.volume(slices)
        if name == seq.ADC and np.dtype(pixels.stored_as.split("/")[0]).itemsize == 1:
            raise refused(
                "S26", "an 8-bit ADC map", "measured values", "deliver the map itself, not a picture of it"
            )
        if pixels.array.min() == pixels.array.max():
            raise refused("S19", "a constant volume", "an image", "export the volume again")
        for doubt in pixels.doubts:
            self._doubt(doubt[:3], name, doubt[4:])
        return Loaded(pixels.array, grid.affine, pixels.stored_as, pixels.sha256)

    def _doubt(self, code: str, name: str, text: str) -> None:
        entry = f"{code} {self.research_id} {name}: {text}"
        if entry not in self.doubts:
            self.doubts.append(entry)

    def _composed(
        self, parts: Sequence[Loaded], name: str
    ) -> tuple[Loaded, NDArray[np.uint8] | None, list[dict[str, Any]]]:
        if len(parts) == 1:
            return parts[0], None, []
        whole = compose(parts, self.research_id, name)
        assert isinstance(whole, Stitched)
        for seam in whole.seams:
            for flag in seam.get("flags", []):
                self._doubt("S32", name, str(flag))
        sha = bvalues.joined_sha256([part.sha256 for part in parts])
        return Loaded(whole.array, whole.affine, parts[0].stored_as, sha), whole.station, list(whole.seams)

    def _diffusion(self, chosen: Chosen, stations: Sequence[Loaded], adc: Loaded) -> Diffusion:
        stated = [one.b for images in chosen.dwi for c, _ in images for one in c.slices if one.b is not None]
        if not all(b.plausible for b in stated):
            raise Refusal(self.research_id, DWI)(
                "S12", "an impossible b-value", f"0 to {MAX_B:g} s/mm²", "correct the files"
            )
        per_station = [
            [
                (c.b, aligned(loaded, own, self.research_id, DWI))
                for c, g in images
                for loaded in self.load(c, g, DWI)
            ]
            for images, own in zip(chosen.dwi, stations, strict=True)
        ]
        sources = "+".join(sorted({c.b_source for images in chosen.dwi for c, _ in images if c.b_source}))
        every = [volume for images in per_station for _, volume in images]
        sha = {DWI: bvalues.joined_sha256([volume.sha256 for volume in every])}
        types = {DWI: "/".join(sorted({volume.stored_as for volume in every}))}
        if any(b is None for images in per_station for b, _ in images):
            return self._undeclared(per_station, sha, types)
        images = self._stitched(per_station) if len(per_station) > 1 else per_station[0]
        for _, volume in images:
            aligned(volume, adc, self.research_id, DWI)
        array = np.stack([volume.array.astype(np.float32) for _, volume in images], axis=3)
        b_values = [float(b) for b, _ in images if b is not None]
        return series_diffusion(array, b_values, self.options, self.research_id, sources, sha, types)

    def _undeclared(
        self, per_station: list[list[tuple[float | None, Loaded]]], sha: dict[str, str], types: dict[str, str]
    ) -> Diffusion:
        """A single image without a b-value is taken where the user declares its b unknown, or states it."""
        declared = [name for name in DWIS if name in self.options.b_values]
        if len(per_station) == 1 and len(per_station[0]) == 1 and len(declared) == 1:
            (name,) = declared
            b = self.options.b_value(name)
            array = per_station[0][0][1].array.astype(np.float32)
            source = UNKNOWN if b is None else "declared"
            missing = next(other for other in DWIS if other != name)
            if missing in self.options.allow_missing:
                return Diffusion({name: array}, {name: b}, (), None, source, sha, types)
            raise Refusal(self.research_id, missing)(
                "S13" if missing == seq.DWI_LOW else "S01", "one diffusion-weighted image", "a low and a high b",
                f"deliver it or declare --allow-missing {missing}",
            )  # fmt: skip
        raise Refusal(self.research_id, DWI)(
            "S12", "diffusion-weighted images without a b-value", "a b-value in the files",
            "deliver them with their b-values; private elements may have been removed",
        )  # fmt: skip

    def _stitched(
        self, per_station: list[list[tuple[float | None, Loaded]]]
    ) -> list[tuple[float | None, Loaded]]:
        """The stations of each b-value in one volume; directions of one b are combined before."""
        combined: list[list[tuple[float, Loaded]]] = []
        for images in per_station:
            groups = bvalues.clusters([float(b) for b, _ in images if b is not None])
            entry = []
            for b, members in groups:
                stack = np.stack([images[n][1].array for n in members], axis=3)
                first = images[members[0]][1]
                array = bvalues.trace(stack, b).astype(np.float64)
                sha = bvalues.joined_sha256([images[n][1].sha256 for n in members])
                entry.append((b, Loaded(array, first.affine, first.stored_as, sha)))
            combined.append(entry)
        if len({len(entry) for entry in combined}) != 1 or not all(
            bvalues.close(one[0], other[0])
            for entry in combined[1:]
            for one, other in zip(combined[0], entry, strict=True)
        ):
            raise Refusal(self.research_id, DWI)(
                "S12", "stations with different b-values", "the same b-values at each station",
                "deliver every b of every station",
            )  # fmt: skip
        out: list[tuple[float | None, Loaded]] = []
        for n in range(len(combined[0])):
            whole, _, _ = self._composed([entry[n][1] for entry in combined], DWI)
            out.append((float(np.mean([entry[n][0] for entry in combined])), whole))
        return out

    def _anatomy(self, name: str, parts: Sequence[tuple[Candidate, Grid]], chosen: Chosen) -> Loaded:
        loaded = [self._one(candidate, grid, name) for candidate, grid in parts]
        low, high = reach(chosen.adc[0][1])[0], reach(chosen.adc[-1][1])[1]
        axis = normal(chosen.adc[0][0].slices[0])
        at = [float(np.dot(one.position, axis)) for candidate, _ in parts for one in candidate.slices]
        spacing = spacing_along(chosen.adc[0][1])
        half = 0.5 * spacing + 0.5 * spacing_along(parts[0][1])
        parallel = abs(float(axis @ normal(parts[0][0].slices[0]))) > 0.9
        missing = max(min(at) - low, high - max(at)) - half
        if parallel and missing > 0:
            self._doubt("S03", name, f"{missing:.1f} mm of the ADC map lie beyond its end slices")
        return self._composed(loaded, name)[0]

    def _reference(self, chosen: Chosen, diffusion: Diffusion) -> DicomReference | None:
        """What a DICOM export needs; None where the map was stitched from several series."""
        if len(chosen.adc) != 1:
            return None
        grid = chosen.adc[0][1]
        slices = [place[0] for place in grid.places]
        first = slices[0]
        try:
            return DicomReference(
                study_uid=first.study_uid, frame_of_reference_uid=first.frame_of_reference,
                adc_series_uid=first.series_uid, adc_sop_class=first.sop_class,
                adc_sop_uids=tuple(one.sop_uid for one in slices),
                positions_mm=tuple(one.position for one in slices), orientation=first.orientation,
                pixel_spacing_mm=first.spacing, rows=first.rows, columns=first.columns, layout=first.layout,
                adc_frames=tuple((one.frame or 0) + 1 for one in slices) if first.layout == "enhanced" else (),
                slice_thickness_mm=first.thickness,
                b_values=diffusion.measured or tuple(b for b in diffusion.b_values.values() if b is not None),
                manufacturer=first.vendor, model=first.model, field_t=first.field_t,
            )  # fmt: skip
        except CohortError:
            self._doubt("S07", seq.ADC, "UIDs that are none: no DICOM results can be written for this case")
            return None


def _facts(one: Slice) -> Facts:
    anatomy = next((word for word, pattern in _ANATOMY if re.search(pattern, one.body_part)), "unknown")
    return Facts(one.vendor, one.model, one.field_t, one.layout == "enhanced", anatomy)


def _no_target(values: NDArray[np.float32], factor: float) -> Any:
    raise CaseError("no way to read the target")
