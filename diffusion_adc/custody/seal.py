"""``deliver seal``: a clinic's folder of persons becomes one encrypted, signed file without their names.

Everything is cleaned into a private folder first; the package appears whole or not at all, and after it is sealed the
clinic's own records say what was sent.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_adc.custody import auditlog
from diffusion_adc.custody.archive import Packer
from diffusion_adc.custody.clinic_table import outgoing_table
from diffusion_adc.custody.dicom_file import looks_like_dicom
from diffusion_adc.custody.keys import key_id
from diffusion_adc.custody.link_table import SENT, check_place, one_to_one, write_links
from diffusion_adc.custody.package import CLINICAL, MANIFEST, SIGNATURE, Manifest, PackedFile, sign
from diffusion_adc.custody.private_folder import locked, private_folder, private_work
from diffusion_adc.custody.seal_dicom import B_SIDECAR, ClinicRules, Notes, stage_dicom
from diffusion_adc.custody.seal_nifti import stage_nifti, stem
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError, UsageError
from diffusion_adc.records.atomic import sha256_file

Progress = Callable[[int, int], None]
_STAGED: Final = "staged"


@dataclass(frozen=True)
class Table:
    """The clinical table to send along.

    Args:
        path: CSV or TSV.
        id_column: Its column of clinic IDs.
    """

    path: Path
    id_column: str


@dataclass
class Sealed:
    """What became of each person.

    Attributes:
        manifest: What was signed.
        refused: One message per person who was left out, with its code.
        warnings: Doubts about those who were not.
    """

    manifest: Manifest
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def seal(
    source: Path,
    package: Path,
    *,
    ids: Mapping[str, str],
    recipients: Sequence[pyrage.x25519.Recipient],
    signing_key: Ed25519PrivateKey,
    rules: ClinicRules,
    link_table: Path,
    names: Mapping[str, str] | None = None,
    table: Table | None = None,
    progress: Progress | None = None,
) -> Sealed:
    """De-identify, list, sign and encrypt.

    Args:
        source: One folder per person, named by the clinic's ID; DICOM and NIfTI files below it.
        package: The file to make; must not exist.
        ids: Clinic ID → research ID.
        recipients: The institute's public keys; two while it rotates.
        signing_key: The clinic's.
        rules: The clinic's decisions and its secret.
        link_table: Folder, apart from source and package, for who is who and what was sent.
        names: NIfTI stem → sequence, where the files have other names.
        table: Clinical table to send along.
        progress: Called with (done, total).

    Raises:
        UsageError: No recipient, the package exists, the link table would leave the clinic, nobody is left, or a
            column or cell of the table may not leave.
        CaseError: C06, a person has another research ID in the link table.
        DiffusionAdcError: The disk is full or a folder cannot be written; nothing is left behind.
    """
    if not recipients:
        raise UsageError("no recipient", "the institute's public key")
    if package.exists() or package.is_symlink():
        raise UsageError(f"{package.name} exists already", "a new file", "name another file")
    check_place(link_table, source, package)
    ids = one_to_one(ids.items())
    folders = sorted(p for p in _entries(source) if p.is_dir() and not p.is_symlink())
    if not folders:
        raise UsageError("no person's folder in the source", "one folder per person")
    try:
        with private_work(), locked(link_table / SENT), private_folder(package.parent) as work:
            link_table.chmod(0o700)
            return _seal(
                folders, package, work, ids, recipients, signing_key, rules, link_table, names or {}, table,
                progress,
            )  # fmt: skip
    except OSError as error:
        raise DiffusionAdcError(
            f"the package could not be written ({os.strerror(error.errno or 0)})",
            do="free disk space or check the folder's permissions; nothing was left behind",
        ) from None


def _seal(
    folders: Sequence[Path],
    package: Path,
    work: Path,
    ids: Mapping[str, str],
    recipients: Sequence[pyrage.x25519.Recipient],
    signing_key: Ed25519PrivateKey,
    rules: ClinicRules,
    link_table: Path,
    names: Mapping[str, str],
    table: Table | None,
    progress: Progress | None,
) -> Sealed:
    staged, notes, refused = work / _STAGED, Notes(), list[str]()
    staged.mkdir(mode=0o700)
    present: dict[str, str] = {}
    for number, folder in enumerate(folders, 1):
        research_id = ids.get(folder.name)
        if research_id is None:
            refused.append(
                f"C06: folder {number} of {len(folders)} has no research ID; add it to the list of IDs"
            )
        else:
            own = Notes()
            try:
                _stage_person(folder, staged / research_id, research_id, rules, own, names)
                present[folder.name] = research_id
                notes.states += own.states
                notes.left_out.update(own.left_out)
                notes.slices |= own.slices
            except CaseError as error:
                shutil.rmtree(staged / research_id, ignore_errors=True)
                refused.append(str(error))
        if progress is not None:
            progress(number, len(folders))
    if not present:
        raise UsageError("nobody left to seal", "one person whose files may leave", " · ".join(refused[:3]))
    warnings = []
    if table is not None:
        content, listed, others = outgoing_table(table.path, table.id_column, present)
        (staged / CLINICAL).write_bytes(content)
        missing = sorted(set(present.values()) - listed)
        warnings += [f"{rid}: no row in the clinical table" for rid in missing]
        if others:
            warnings.append(f"{others} rows of the clinical table are of persons not in this delivery")
    sent = auditlog.read_log(link_table / SENT)
    manifest = _manifest(staged, sent, key_id(signing_key.public_key()), sorted(present.values()), notes)
    raw = manifest.to_bytes()
    members: list[tuple[str, bytes | Path]] = [(MANIFEST, raw), (SIGNATURE, sign(raw, signing_key))]
    members += [(file.path, staged / file.path) for file in manifest.files]
    sealed = work / "package"
    with sealed.open("wb") as stream:
        pyrage.encrypt_io(Packer(members), stream, list(recipients))
        stream.flush()
        os.fsync(stream.fileno())
    # The clinic's records first: a number that was noted and never sent shows up as missing, one used twice does not.
    write_links(link_table, present, manifest.sequence, manifest.package_id)
    auditlog.append(
        link_table / SENT,
        {
            "sequence": manifest.sequence, "manifest": auditlog.sha256_bytes(raw),
            "clinic_key": manifest.clinic_key, "package": sha256_file(sealed),
            "package_id": manifest.package_id, "persons": len(present), "files": len(manifest.files),
            "bytes": sum(f.size for f in manifest.files), "recipients": [str(r) for r in recipients],
            "means": "deliver seal", "when": manifest.created,
        },
    )  # fmt: skip
    os.link(sealed, package)  # unlike a rename it never replaces a file that appeared meanwhile
    _flush(package.parent)
    return Sealed(manifest, refused, warnings)


def _stage_person(
    folder: Path, out: Path, research_id: str, rules: ClinicRules, notes: Notes, names: Mapping[str, str]
) -> None:
    dicom: list[Path] = []
    nifti: list[Path] = []
    for path in _files(folder, notes):
        if stem(path) is not None:
            nifti.append(path)
        elif looks_like_dicom(path):
            dicom.append(path)
        elif path.name != B_SIDECAR and path.suffix != ".bval":
            notes.left_out["other files"] += 1
    count = stage_dicom(dicom, out, research_id, rules, notes) if dicom else 0
    count += stage_nifti(nifti, folder, out, research_id, rules, notes, names) if nifti else 0
    if not count:
        raise CaseError(
            "no image that may leave", "MR images as DICOM or NIfTI", code="S01", research_id=research_id
        )


def _files(folder: Path, notes: Notes) -> list[Path]:
    """Regular files below a folder; links are neither followed nor sent."""
    found: list[Path] = []
    for where, inner, own in os.walk(folder, followlinks=False):
        inner.sort()
        for name in sorted(own):
            path = Path(where) / name
            if path.is_symlink() or not path.is_file():
                notes.left_out["links and special files"] += 1
            else:
                found.append(path)
    return found


def _manifest(
    staged: Path,
    sent: Sequence[Mapping[str, object]],
    clinic_key: str,
    research_ids: Sequence[str],
    notes: Notes,
) -> Manifest:
    own = [entry for entry in sent if entry["clinic_key"] == clinic_key]
    paths = sorted(p for p in staged.rglob("*") if p.is_file())
    files = tuple(
        PackedFile(p.relative_to(staged).as_posix(), p.stat().st_size, sha256_file(p)) for p in paths
    )
    return Manifest(
        package_id=secrets.token_hex(16),
        sequence=len(own) + 1,
        previous=str(own[-1]["manifest"]) if own else auditlog.START,
        clinic_key=clinic_key,
        created=dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        research_ids=tuple(research_ids),
        files=files,
        states=tuple(notes.states),
        left_out={reason: count for reason, count in sorted(notes.left_out.items()) if count},
        slices=dict(sorted(notes.slices.items())),
    )


def _entries(source: Path) -> list[Path]:
    try:
        return list(source.iterdir())
    except OSError:
        raise UsageError("no source folder", "a folder with one folder per person") from None


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
