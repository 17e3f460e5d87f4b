"""``deliver open``: a sealed package becomes a folder, or nothing at all.

age releases plaintext before it knows that the stream is whole; so everything goes to a private folder and takes
its name only when the last byte, every hash and the clinic's signature are right.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from diffusion_adc.custody import auditlog
from diffusion_adc.custody.archive import Caps, Unpacker
from diffusion_adc.custody.package import (
    DELIVERY,
    MANIFEST,
    MAX_MANIFEST,
    SIGNATURE,
    Manifest,
    refused,
    trusted_keys,
    verified,
)
from diffusion_adc.custody.private_folder import locked, private_folder, private_work
from diffusion_adc.domain.errors import CaseError, DiffusionAdcError, UsageError

_CONTENT: Final = "content"


@dataclass(frozen=True)
class Opened:
    """What arrived.

    Attributes:
        manifest: The clinic's signed list.
        missing: Numbers of earlier deliveries of this clinic that never arrived.
    """

    manifest: Manifest
    missing: tuple[int, ...]


def open_package(
    package: Path,
    out: Path,
    *,
    identities: Sequence[pyrage.x25519.Identity],
    clinic_keys: Sequence[Ed25519PublicKey],
    ledger: Path,
    withdrawn: Iterable[str] = (),
    caps: Caps | None = None,
) -> Opened:
    """Decrypt, verify and unpack a delivery.

    Args:
        package: The sealed file.
        out: Folder to make; must not exist.
        identities: The institute's age identities; two while it rotates keys.
        clinic_keys: Ed25519 keys of the clinics that are trusted.
        ledger: Hash-chained log of the deliveries received (``.jsonl``), apart from `out`.
        withdrawn: Research IDs whose use was stopped.
        caps: Of the archive.

    Raises:
        PackageRefused: Not for this institute, damaged, not signed by a trusted clinic, delivered before, out of
            its clinic's chain, or its files are not those of its manifest.
        ArchiveRefused: X2, X4, X5 the archive within is damaged or hostile.
        CaseError: A withdrawn person is in it.
        UsageError: `out` exists, or holds the ledger.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(
            f"{out.name} exists already", "a new folder", "name another folder for this delivery"
        )
    if ledger.resolve().is_relative_to(out.resolve()):
        raise UsageError("a ledger within the delivery", "a ledger apart from it")
    with private_work(), locked(ledger), private_folder(out.parent) as folder:
        _settle(ledger)
        receiver = _Receiver(folder / _CONTENT, clinic_keys, frozenset(withdrawn), auditlog.read_log(ledger))
        _decrypt(package, receiver, identities, caps)
        manifest, digest = receiver.complete()
        _flush_tree(folder / _CONTENT)
        entry = {
            "clinic_key": manifest.clinic_key, "sequence": manifest.sequence, "manifest": digest,
            "follows": manifest.previous,
            "package_id": manifest.package_id, "persons": len(manifest.research_ids),
            "files": len(manifest.files), "bytes": sum(f.size for f in manifest.files),
            "folder": os.path.relpath(out.resolve(), ledger.resolve().parent), "means": "deliver open",
        }  # fmt: skip
        # The ledger first: a package whose folder never appeared may come again, one that did appear may not.
        _note(ledger, entry | {"state": "opening"})
        (folder / _CONTENT).rename(out)
        _flush(out.parent)
        _note(ledger, entry | {"state": "arrived"})
    return Opened(manifest, _missing(auditlog.read_log(ledger), manifest.clinic_key))


class _Receiver:
    """Judges each member before it is written."""

    def __init__(
        self,
        root: Path,
        keys: Sequence[Ed25519PublicKey],
        withdrawn: frozenset[str],
        log: Sequence[Mapping[str, Any]],
    ) -> None:
        self.root, self._keys, self._withdrawn, self._log = root, keys, withdrawn, log
        self._raw = b""
        self._manifest: Manifest | None = None
        self._digest = ""
        self._count = 0
        root.mkdir(mode=0o700)

    def begin(self, name: str, size: int) -> Path | None:
        if self._manifest is None:
            wanted = SIGNATURE if self._raw else MANIFEST
            if name != wanted or size > MAX_MANIFEST:
                raise refused("a package without its signed list at the front", f"{MANIFEST}, {SIGNATURE}")
            return None
        files = self._manifest.files
        if self._count >= len(files) or files[self._count].path != name:
            raise refused("a file that the list does not name here", "the files of the list, in its order")
        if files[self._count].size != size:
            raise refused("a file of another size", "the size of the list")
        return self.root / name

    def end(self, name: str, size: int, sha256: str, content: bytes | None) -> None:
        if name == MANIFEST and not self._raw:
            self._raw = content or b""
        elif self._manifest is None:
            self._manifest, self._digest = verified(self._raw, content or b"", trusted_keys(list(self._keys)))
            self._admit(self._manifest)
        else:
            if self._manifest.files[self._count].sha256 != sha256:
                raise refused("a file of another content", "the SHA-256 of the list")
            self._count += 1

    def _admit(self, manifest: Manifest) -> None:
        gone = sorted(self._withdrawn & set(manifest.research_ids))
        if gone:
            raise CaseError(
                "a delivery of a person whose use was stopped", "nobody who withdrew",
                "ask the clinic to seal it again without this person", research_id=gone[0],
            )  # fmt: skip
        known = {
            entry["sequence"]: entry["manifest"]
            for entry in self._log
            if entry["clinic_key"] == manifest.clinic_key and entry["state"] == "arrived"
        }
        repeated = any(
            entry["state"] == "arrived" and entry["package_id"] == manifest.package_id for entry in self._log
        )
        if repeated or self._digest in known.values() or manifest.sequence in known:
            raise refused(
                f"delivery {manifest.sequence} of this clinic for the second time", "a new delivery",
                "use the folder that it was opened to",
            )  # fmt: skip
        before = known.get(manifest.sequence - 1)
        after = next(
            (e["follows"] for e in self._log if e["clinic_key"] == manifest.clinic_key
             and e["sequence"] == manifest.sequence + 1 and e["state"] == "arrived"), None,
        )  # fmt: skip
        if (before is not None and before != manifest.previous) or after not in (None, self._digest):
            raise refused("a delivery that does not follow the one before", "the clinic's own chain")

    def complete(self) -> tuple[Manifest, str]:
        if self._manifest is None:
            raise refused("an empty package", f"{MANIFEST}, {SIGNATURE} and the files")
        if self._count != len(self._manifest.files):
            found = len(self._manifest.files) - self._count
            raise refused(f"{found} files missing", "every file of the list")
        handle = os.open(self.root / DELIVERY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(self._raw)
            stream.flush()
            os.fsync(stream.fileno())
        return self._manifest, self._digest


def _decrypt(
    package: Path, receiver: _Receiver, identities: Sequence[pyrage.x25519.Identity], caps: Caps | None
) -> None:
    unpacker = Unpacker(receiver.begin, receiver.end, caps)
    try:
        handle = os.open(package, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as stream:
            pyrage.decrypt_io(stream, unpacker, list(identities))
        unpacker.close()
    except DiffusionAdcError:
        raise
    except (pyrage.DecryptError, ValueError):
        raise refused(
            "a package that is damaged or not for this institute", "an unchanged file for a key given"
        ) from None
    except OSError as error:
        # age reports a damaged stream as an error without a number; the disk's own errors have one.
        if error.errno is None:
            raise refused("a damaged package", "an unchanged file") from None
        raise DiffusionAdcError(
            f"the package cannot be read or unpacked ({os.strerror(error.errno)})",
            do="check the file, the disk and the permissions; nothing was left behind",
        ) from None
    finally:
        unpacker.abandon()


def _note(ledger: Path, entry: Mapping[str, Any]) -> None:
    auditlog.append(ledger, {**entry, "when": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})


def _settle(ledger: Path) -> None:
    """A kill between the folder's appearance and its entry: the folder is there, so the delivery has arrived."""
    log = auditlog.read_log(ledger)
    arrived = {entry["manifest"] for entry in log if entry["state"] == "arrived"}
    for entry in log:
        content = ledger.resolve().parent / str(entry["folder"]) / DELIVERY
        if entry["state"] == "opening" and entry["manifest"] not in arrived and content.is_file():
            kept = {k: v for k, v in entry.items() if k not in ("n", "previous", "hash", "when")}
            _note(ledger, kept | {"state": "arrived"})


def _missing(log: Sequence[Mapping[str, Any]], clinic_key: str) -> tuple[int, ...]:
    arrived = {e["sequence"] for e in log if e["clinic_key"] == clinic_key and e["state"] == "arrived"}
    return tuple(n for n in range(1, max(arrived, default=0)) if n not in arrived)


def _flush_tree(folder: Path) -> None:
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
