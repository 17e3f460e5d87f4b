"""Public sets as their authors publish them → the files of each case, by name.

Each layout says what its files are and states what the set's documentation states: the ADC unit, the labels that
mean tumor, which sequences the set never has. What it states is recorded with the case as declared, and the user's
own word goes before it. b-values that the set does not give are unknown, never assumed.

Set, where its layout is described:
    picai        PI-CAI (Saha et al. 2024, Lancet Oncol 25:879), images and ``picai_labels``
    prostate158  Adams et al. 2022, Comput Biol Med 148:105817
    isles22      Hernandez Petzsche et al. 2022, Sci Data 9:762; strokes, no tumors
    ucsf_pdgm    Calabrese et al. 2022, Radiol Artif Intell 4:e220058
    nnunet       nnU-Net's raw datasets (Isensee et al. 2021, Nat Methods 18:203), both versions of dataset.json
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import check_research_id
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.intake.options import PUBLIC_LAYOUTS, SUFFIXES, TARGETS, IngestOptions

IMAGE_SUFFIXES: Final = (*SUFFIXES, ".mha")
_DEPTH: Final = 6
"""Folders below SOURCE that are searched: archives unpack into folders of their own."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one examination of a public set, and what the set says about them.

    Attributes:
        research_id: Of the person; empty where the set's name for it makes none, see `problem`.
        exam_order: 1 for the person's first examination.
        files: Volume → file; ``tumor_label`` among them where there is one target.
        readers: Reader → volume → file, where several readers drew.
        label_values: Labels that mean tumor; None for 0 and 1.
        other_labels: Labels that the set says are something else.
        adc_unit: Size of the stored unit in mm²/s, as the set's documentation states it.
        b: ``dwi_low``, ``dwi_high`` → s/mm² or ``unknown``.
        never: Sequences that no case of the set has.
        tumor_free_ok: The set has cases without tumor and gives them an empty label.
        target_resample: ``nearest`` where the set draws its labels on another sequence's grid.
        problem: Why the case cannot be used at all.
    """

    research_id: str
    exam_order: int
    files: Mapping[str, Path] = field(default_factory=dict)
    readers: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    label_values: str | None = None
    other_labels: str | None = None
    adc_unit: str | None = None
    b: Mapping[str, str] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    tumor_free_ok: bool = False
    target_resample: str | None = None
    problem: CaseError | None = None

    @property
    def images(self) -> dict[str, Path]:
        """The files that are no targets."""
        return {name: path for name, path in self.files.items() if name not in TARGETS}

    @property
    def targets(self) -> dict[str, Path]:
        """The case's own targets."""
        return {name: path for name, path in self.files.items() if name in TARGETS}

    def declared(self, options: IngestOptions) -> IngestOptions:
        """The user's options with what the set states where the user states nothing.

        Raises:
            CaseError: The case cannot be used: its `problem`.
        """
        if self.problem is not None:
            raise self.problem
        return replace(
            options, adc_unit=options.adc_unit or self.adc_unit,
            label_values=options.label_values or self.label_values,
            other_labels=options.other_labels or self.other_labels, b_values={**self.b, **options.b_values},
            allow_missing=tuple(dict.fromkeys((*options.allow_missing, *self.never))),
            tumor_free_ok=options.tumor_free_ok or self.tumor_free_ok,
            target_resample=options.target_resample or self.target_resample,
        )  # fmt: skip


def find(source: Path, layout: str, options: IngestOptions) -> list[CaseFiles]:
    """The cases of a public set below a folder, in the order of their names.

    Args:
        source: The unpacked set, or any folder that holds it.
        layout: One of `PUBLIC_LAYOUTS`.
        options: What the user declares; `names` maps volumes to file names (to channel names for ``nnunet``) where
            they are others than the set's own, `id_prefix` replaces the set's.

    Raises:
        UsageError: No case of that layout is there, or the layout does not exist.
    """
    if layout not in PUBLIC_LAYOUTS:
        raise UsageError(f"layout {layout!r}", f"one of {', '.join(PUBLIC_LAYOUTS)}")
    if layout == "nnunet":
        from diffusion_adc.intake.layout_nnunet import nnunet_cases

        cases = nnunet_cases(source, options)
    else:
        cases = _READ[layout](source, options)
    if not cases:
        raise UsageError(f"no case of the layout {layout} in {source.name or 'SOURCE'}", _EXPECTED[layout],
                         "check SOURCE and --layout")  # fmt: skip
    return sorted(cases, key=lambda case: (case.research_id, case.exam_order))


def image(folder: Path, stem: str) -> Path | None:
    """The image of that name in a folder, whichever suffix it has."""
    return next((path for suffix in IMAGE_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def stem_of(path: Path) -> str | None:
    """An image's name without its suffix, None for another file."""
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if path.name.endswith(suffix)), None)
    return None if suffix is None or path.name.startswith(".") else path.name.removesuffix(suffix)


def below(source: Path, root: Path | None = None, depth: int = _DEPTH) -> Iterable[Path]:
    """Files below a folder, in order; links out of it and hidden folders are left alone."""
    top = source.resolve() if root is None else root
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or not path.resolve().is_relative_to(top):
            continue
        if path.is_dir():
            if depth > 0:
                yield from below(path, top, depth - 1)
        else:
            yield path


def with_orders(found: Mapping[str, Mapping[str, CaseFiles]], prefix: str) -> list[CaseFiles]:
    """Cases by the set's name of the person and of the examination → research IDs and orders.

    Args:
        found: Person → examination, whose names sort as the examinations do → case.
        prefix: Joined to bare numbers with a hyphen.
    """
    out: list[CaseFiles] = []
    for number, (person, exams) in enumerate(sorted(found.items()), start=1):
        research_id = f"{prefix}-{person}" if person.isdigit() else person
        try:
            check_research_id(research_id)
        except CaseError as error:
            out += [
                replace(case, research_id="", exam_order=number, problem=error) for case in exams.values()
            ]
            continue
        for order, (_, case) in enumerate(sorted(exams.items()), start=1):
            out.append(replace(case, research_id=research_id, exam_order=order))
    return out


def _named(options: IngestOptions, name: str, default: str) -> str:
    return options.stem(name) if name in options.names else default


_PICAI_IMAGE: Final = re.compile(r"(\d{5})_(\d{7})_(t2w|adc|hbv)", re.ASCII)
_PICAI_LABEL: Final = re.compile(r"(\d{5})_(\d{7})", re.ASCII)
_PICAI_READERS: Final = ("human_expert/original", "human_expert/resampled", "Pooch25", "original")
"""Where human lesions lie, best first; the AI's are no reader's."""
_PICAI: Final = CaseFiles(
    "",
    1,
    label_values="1-5",
    adc_unit="1e-6",
    b={seq.DWI_HIGH: "unknown"},
    never=(seq.T1W, seq.DWI_LOW),
    tumor_free_ok=True,
    target_resample="nearest",
)
"""Labels are ISUP grades drawn on the T2w grid; an empty one is a case without significant cancer."""


def _picai(source: Path, options: IngestOptions) -> list[CaseFiles]:
    sequences = {"t2w": seq.T2W, "adc": seq.ADC, "hbv": seq.DWI_HIGH}
    images: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    labels: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for path in below(source):
        stem = stem_of(path)
        if stem is None:
            continue
        if match := _PICAI_IMAGE.fullmatch(stem):
            images[match[1], match[2]].setdefault(sequences[match[3]], path)
        elif match := _PICAI_LABEL.fullmatch(stem):
            where = next((r for r in _PICAI_READERS if path.parent.as_posix().endswith(r)), None)
            if where is not None:
                labels[match[1], match[2]][where] = path
        elif path.parent.name.isdigit() and len(path.parent.name) == 5:
            name = _picai_crop(stem, options)
            if name is not None:
                images[path.parent.name, ""].setdefault(name, path)
    found: dict[str, dict[str, CaseFiles]] = defaultdict(dict)
    for (person, study), files in images.items():
        drawn = labels.get((person, study), {})
        own = next((drawn[where] for where in _PICAI_READERS if where in drawn), None)
        found[person][study] = replace(
            _PICAI, files=files if own is None else {**files, seq.TUMOR_LABEL: own}
        )
    return with_orders(found, options.id_prefix or "PICAI")


def _picai_crop(stem: str, options: IngestOptions) -> str | None:
    """Crops are passed on in a folder per person, the lesion beside the images: which volume a name means."""
    defaults = {seq.T2W: "t2w", seq.ADC: "adc", seq.DWI_HIGH: "hbv", seq.TUMOR_LABEL: "lesion_human"}
    return next((name for name, default in defaults.items() if stem == _named(options, name, default)), None)


def _prostate158(source: Path, options: IngestOptions) -> list[CaseFiles]:
    """A folder per case (``020``): t2, adc, dwi on one grid, tumors by one or two readers, or ``empty``."""
    stems = {
        name: _named(options, name, default)
        for name, default in ((seq.T2W, "t2"), (seq.ADC, "adc"), (seq.DWI_HIGH, "dwi"))
    }
    found: dict[str, dict[str, CaseFiles]] = {}
    for folder in sorted({path.parent for path in below(source)}):
        adc = image(folder, stems[seq.ADC])
        if not re.fullmatch(r"\d{3}", folder.name, re.ASCII) or adc is None:
            continue
        files = {name: path for name, stem in stems.items() if (path := image(folder, stem)) is not None}
        drawn = {
            f"R{n}": {seq.TUMOR_LABEL: path}
            for n in (1, 2)
            if (path := image(folder, f"adc_tumor_reader{n}")) is not None
        }
        empty = image(folder, "empty")
        if len(drawn) == 1:
            files[seq.TUMOR_LABEL] = next(iter(drawn.values()))[seq.TUMOR_LABEL]
        elif not drawn and empty is not None:
            files[seq.TUMOR_LABEL] = empty
        # Label 3 follows the two zones of the prostate in the set's own numbering; some copies hold 1.
        found[folder.name] = {
            "": CaseFiles(
                "", 1, files, drawn if len(drawn) > 1 else {}, label_values="1-3", adc_unit="1e-6",
                b={seq.DWI_HIGH: "unknown"}, never=(seq.T1W, seq.DWI_LOW), tumor_free_ok=True,
            )
        }  # fmt: skip
    return with_orders(found, options.id_prefix or "PROSTATE")


_ISLES: Final = re.compile(r"sub-(strokecase\d{4})(?:_ses-(\d{4}))?_(adc|dwi|msk)", re.ASCII)
_ISLES_FOLDER: Final = re.compile(r"sub-(strokecase\d{4})", re.ASCII)


def _isles22(source: Path, options: IngestOptions) -> list[CaseFiles]:
    """BIDS names (``sub-strokecase0001_ses-0001_adc``, masks under derivatives), or adc, dwi, lesion in a folder."""
    names = {"adc": seq.ADC, "dwi": seq.DWI_HIGH, "msk": seq.TUMOR_LABEL, "lesion": seq.TUMOR_LABEL}
    files: dict[str, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for path in below(source):
        stem = stem_of(path)
        if stem is None:
            continue
        match, folder = _ISLES.fullmatch(stem), _ISLES_FOLDER.fullmatch(path.parent.name)
        if match:
            files[match[1]][match[2] or ""].setdefault(names[match[3]], path)
        elif folder and stem in names:
            files[folder[1]][""].setdefault(names[stem], path)
    # The release gives the trace image at b = 1000 s/mm² and ADC in 1e-3 mm²/s; FLAIR is no sequence of ours.
    stated = CaseFiles(
        "", 1, adc_unit="1e-3", b={seq.DWI_HIGH: "1000"}, never=(seq.T1W, seq.T2W, seq.DWI_LOW)
    )
    return with_orders(
        {
            person: {exam: replace(stated, files=own) for exam, own in exams.items()}
            for person, exams in files.items()
        },
        options.id_prefix,
    )


_UCSF: Final = re.compile(r"UCSF-PDGM-(\d{3,4})(?:_FU(\d{3})d)?_(T1|T2|DWI|ADC|tumor_segmentation)", re.ASCII)


def _ucsf_pdgm(source: Path, options: IngestOptions) -> list[CaseFiles]:
    """``UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_ADC``; follow-ups are marked ``_FU016d`` with their day."""
    names = {
        "T1": seq.T1W, "T2": seq.T2W, "DWI": seq.DWI_HIGH, "ADC": seq.ADC, "tumor_segmentation": seq.TUMOR_LABEL,
    }  # fmt: skip
    files: dict[str, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for path in below(source):
        match = _UCSF.fullmatch(stem_of(path) or "")
        if match:
            files[f"UCSFPDGM-{int(match[1]):04d}"][match[2] or ""].setdefault(names[match[3]], path)
    # Labels 1, 2 and 4: necrotic core, edema, enhancing tumor, one map of them here.
    return with_orders(
        {
            person: {
                exam: CaseFiles(
                    "",
                    1,
                    own,
                    label_values="1,2,4",
                    adc_unit="1e-6",
                    b={seq.DWI_HIGH: "unknown"},
                    never=(seq.DWI_LOW,),
                )
                for exam, own in exams.items()
            }
            for person, exams in files.items()
        },
        options.id_prefix,
    )


_READ: Final[Mapping[str, Callable[[Path, IngestOptions], list[CaseFiles]]]] = {
    "picai": _picai, "prostate158": _prostate158, "isles22": _isles22, "ucsf_pdgm": _ucsf_pdgm,
}  # fmt: skip
_EXPECTED: Final = {
    "picai": "10000/10000_1000000_adc.mha … and picai_labels beside them",
    "prostate158": "020/adc.nii.gz, 020/adc_tumor_reader1.nii.gz …",
    "isles22": "sub-strokecase0001/ses-0001/dwi/…_adc.nii.gz and derivatives",
    "ucsf_pdgm": "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_ADC.nii.gz …",
    "nnunet": "dataset.json, imagesTr and labelsTr",
}
