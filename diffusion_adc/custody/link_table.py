"""Who is who: the clinic's table of its own IDs and the research IDs. It never leaves the clinic.

`link_table.csv` and `sent.jsonl`, the chain of the deliveries sent, lie in a folder of their own that must be apart
from what is sealed and from where packages are handed over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from diffusion_adc.custody.uids import keyed_research_id
from diffusion_adc.domain.case import check_research_id
from diffusion_adc.domain.errors import CaseError, UsageError
from diffusion_adc.records.atomic import write_csv

LINKS: Final = "link_table.csv"
SENT: Final = "sent.jsonl"
COLUMNS: Final = ("clinic_id", "research_id", "sequence", "package_id")


def read_ids(path: Path) -> dict[str, str]:
    """A CSV of two columns, ``clinic_id`` and ``research_id``, everything read as text.

    Raises:
        UsageError: It cannot be read, has other columns, or names someone twice. No cell is shown.
        CaseError: X8, a research ID of another form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head, *rows = list(csv.reader(stream, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error):
        raise UsageError("a list of IDs that cannot be read", "a UTF-8 CSV") from None
    if [name.strip() for name in head] != list(COLUMNS[:2]) or any(len(row) != 2 for row in rows):
        raise UsageError("a list of IDs with other columns", ", ".join(COLUMNS[:2]))
    return one_to_one((row[0].strip(), row[1].strip()) for row in rows)


def assign_ids(clinic_ids: Iterable[str], secret: bytes, prefix: str) -> dict[str, str]:
    """Research IDs by keyed hash, for a clinic that keeps no list of its own.

    Raises:
        UsageError: Two persons got one ID (choose another prefix for one of them), or the prefix is no word.
    """
    return one_to_one((clinic_id, keyed_research_id(secret, clinic_id, prefix)) for clinic_id in clinic_ids)


def one_to_one(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs as a mapping, each side once.

    Raises:
        UsageError: Someone is named twice, or has no ID.
        CaseError: X8, a research ID of another form.
    """
    ids: dict[str, str] = {}
    used: set[str] = set()
    for number, (clinic_id, research_id) in enumerate(pairs, 1):
        check_research_id(research_id)
        if not clinic_id or clinic_id in ids or research_id.lower() in used:
            raise UsageError(
                f"row {number} of the IDs has no ID or one that is used already", "one row per person"
            )
        ids[clinic_id] = research_id
        used.add(research_id.lower())
    return ids


def check_place(folder: Path, source: Path, package: Path) -> None:
    """Refuse a place for the link table from which it would leave the clinic.

    Raises:
        UsageError: It lies within the source, where the package is handed over, or around either.
    """
    place = folder.resolve()
    handed_over = package.resolve().parent
    inside = place.is_relative_to(source.resolve()) or place.is_relative_to(handed_over)
    if inside or source.resolve().is_relative_to(place) or handed_over.is_relative_to(place):
        raise UsageError(
            "a place for the link table within the delivery", "a folder apart from source and package",
            "keep the link table where no delivery passes",
        )  # fmt: skip


def write_links(folder: Path, ids: Mapping[str, str], sequence: int, package_id: str) -> None:
    """Add persons to the link table; known ones keep their rows.

    Raises:
        CaseError: C06, a person has another research ID there, or the research ID belongs to someone else.
    """
    path = folder / LINKS
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    by_clinic = {row["clinic_id"]: row["research_id"] for row in rows}
    by_research = {row["research_id"]: row["clinic_id"] for row in rows}
    for clinic_id, research_id in sorted(ids.items(), key=lambda pair: pair[1]):
        if (
            by_clinic.get(clinic_id, research_id) != research_id
            or by_research.get(research_id, clinic_id) != clinic_id
        ):
            raise CaseError(
                "a research ID other than the one in the link table", "one ID per person for good",
                "correct the list of IDs", code="C06", research_id=research_id,
            )  # fmt: skip
        rows.append(dict(zip(COLUMNS, (clinic_id, research_id, str(sequence), package_id), strict=True)))
    write_csv(path, rows, COLUMNS)
