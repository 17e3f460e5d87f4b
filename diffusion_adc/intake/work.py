"""One person's files → cases: the piece of an ingest that a process of its own can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError
from diffusion_adc.intake.case import ingest_examination
from diffusion_adc.intake.layouts import CaseFiles
from diffusion_adc.intake.nifti import Refusal
from diffusion_adc.intake.nifti_examination import files_examination, folder_examination
from diffusion_adc.intake.options import IngestOptions
from diffusion_adc.intake.target import TargetFiles

DICOM: Final = "dicom"
Begin = Callable[[Path | None], None]


@dataclass(frozen=True)
class Task:
    """What one process does at a time.

    Attributes:
        root: The source folder.
        folders: The person's folders, each with the order of its first examination.
        research_id: Of the person.
        dicom: Whether the folders hold DICOM.
        files: A public layout's files instead of a folder's.
    """

    root: Path
    folders: tuple[tuple[Path, int], ...]
    research_id: str
    dicom: bool = False
    files: CaseFiles | None = None


@dataclass
class Done:
    """What became of a task.

    Attributes:
        cases: Cases written, each with the study it came from (its UID; empty outside DICOM) and the study's date
            and time, which rank the cohort's studies and are then forgotten.
        refused: Messages.
        warnings: Messages.
        error: What must stop the whole ingest.
    """

    cases: list[tuple[Case, str, tuple[str, str]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: DiffusionAdcError | None = None


def do(task: Task, staged: Path, options: IngestOptions, begin: Begin | None = None) -> Done:
    """Do a task. Nothing but a stop of the whole ingest is raised, and that only as `Done.error`.

    Args:
        task: The task.
        staged: Where the cohort is built.
        options: What the user declares.
        begin: Called with each file before it is read, and with None after, for a watcher.
    """
    done = Done()
    try:
        if task.dicom:
            _dicom(task, staged, options, begin, done)
        else:
            _nifti(task, staged, options, done)
    except CaseError as error:
        done.refused.append(str(error))
    except DiffusionAdcError as error:
        done.error = error
    except Exception as error:
        done.refused.append(_broken(task, error))
    return done


def _broken(task: Task, error: Exception) -> str:
    # A file hostile enough to break a reader must not stop the other cases, nor speak through its text.
    code, kind = ("X7", "DICOM") if task.dicom else ("S25", "NIfTI")
    return (
        f"{code} {task.research_id}: the files cannot be read ({type(error).__name__}); "
        f"expected readable {kind} files; deliver the case again"
    )


def _nifti(task: Task, staged: Path, options: IngestOptions, done: Done) -> None:
    (folder, exam_order) = task.folders[0]
    if task.files is None:
        exam = folder_examination(task.root, folder, options, task.research_id, exam_order)
    else:
        files = task.files
        declared = files.declared(options)
        if declared.adc_unit is None:
            raise Refusal(task.research_id, seq.ADC)(
                "S14", "no unit in the layout", "a stated unit", "declare --adc-unit 1, 1e-3 or 1e-6"
            )
        targets = TargetFiles(files.targets, files.readers)
        unit_source = "declared" if options.adc_unit else "layout"
        exam = files_examination(
            files.images, lambda: targets, declared, task.research_id, exam_order, unit_source=unit_source
        )
        options = declared
    case, warnings = ingest_examination(exam, staged, options)
    done.cases.append((case, "", ("", "")))
    done.warnings += warnings


def _orders(when: list[tuple[str, str]], first: int) -> tuple[list[int], str]:
    """The order of each study's examination, and the rule: dates, the delivery's own numbers, or neither."""
    if all(date for date, _ in when):
        return list(range(first, first + len(when))), "by date"
    numbers = [int(number) for date, number in when if not date and len(number) == 2 and number.isdigit()]
    if len(numbers) == len(set(numbers)) == len(when) and min(numbers) > 0 and first == 1:
        return numbers, "as numbered in the delivery"
    return list(range(first, first + len(when))), "by study UID, since dates are gone"


def _dicom(task: Task, staged: Path, options: IngestOptions, begin: Begin | None, done: Done) -> None:
    from diffusion_adc.intake.dicom.build import Builder, find_images
    from diffusion_adc.intake.dicom.person import Study, read_person
    from diffusion_adc.intake.dicom.pixels import Reader
    from diffusion_adc.intake.dicom.rules import read_rules
    from diffusion_adc.intake.dicom.targets import Targets

    rules = read_rules(options.rules)
    research_id = task.research_id
    studies: dict[int, list[Study]] = {}
    notes: list[tuple[str, str]] = []
    for folder, first in task.folders:
        found, ignored = read_person(
            task.root, folder, research_id, check_identity=options.provenance == "restricted", begin=begin
        )
        notes += ignored
        orders, rule = _orders([study.order for study in found], first)
        for order, study in zip(orders, found, strict=True):
            studies.setdefault(order, []).append(study)
        if len(found) > 1:
            done.warnings.append(f"S31 {research_id}: {len(found)} studies in one folder, ordered {rule}")
    for order, same in sorted(studies.items()):
        if len(same) > 1:
            raise Refusal(research_id)(
                "S31", f"examination {order} a second time", "one study per examination",
                "name the later folder …_02 or put both studies into one folder",
            )  # fmt: skip
        (study,) = same
        try:
            reader = Reader(begin)
            targets = Targets(study, options, rules, research_id, reader)
            found_images = find_images(study, rules, options, research_id, targets.series)
            exam = Builder(reader, options, research_id).build(found_images, order)
            exam = replace(
                exam, ignored=(*exam.ignored, *notes), read_target=partial(targets.read, exam.adc, order)
            )
            case, warnings = ingest_examination(exam, staged, options)
        except CaseError as error:
            done.refused.append(str(error))
        except DiffusionAdcError:
            raise
        except Exception as error:
            done.refused.append(_broken(task, error))
        else:
            done.cases.append((case, study.uid, study.order))
            done.warnings += warnings
