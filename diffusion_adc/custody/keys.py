"""Keys of the two zones; neither holds a secret of the other.

Clinic: an Ed25519 key that signs deliveries and a secret under which identifiers are hashed. Institute: an age
X25519 identity that opens them. What goes to the other side are two public files.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from diffusion_adc.custody.uids import SECRET_BYTES
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records.atomic import sha256_bytes

SIGNING, SIGNING_PUBLIC, SECRET = "signing.key", "signing.pub", "clinic.secret"
IDENTITY, RECIPIENT = "identity.age", "recipient.pub"
ROLES: Final[dict[str, tuple[str, ...]]] = {
    "clinic": (SIGNING, SIGNING_PUBLIC, SECRET),
    "institute": (IDENTITY, RECIPIENT),
}
_PUBLIC: Final = (SIGNING_PUBLIC, RECIPIENT)
_DATA_MARKS: Final = ("cohort.json", "delivery.json", "DICOMDIR")


def keygen(folder: Path, role: str) -> dict[str, str]:
    """Make one side's keys; private files are readable by their owner alone.

    Args:
        folder: New or without keys, apart from all data.
        role: ``clinic`` or ``institute``.

    Returns:
        What to send to the other side: file name → its one line.

    Raises:
        UsageError: Unknown role, keys are there already, or the folder is one with data.
    """
    if role not in ROLES:
        raise UsageError(f"role {role!r}", f"one of {', '.join(ROLES)}")
    folder = folder.expanduser().resolve()
    if any((place / mark).exists() for place in (folder, *folder.parents) for mark in _DATA_MARKS):
        raise UsageError("a key folder within data", "a folder apart from all data", "choose another folder")
    if any((folder / name).exists() for name in ROLES[role]):
        raise UsageError("keys are there already", "a folder without keys", "keep them, or choose another")
    made = _clinic() if role == "clinic" else _institute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in made.items():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        handle = os.open(folder / name, flags, 0o644 if name in _PUBLIC else 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return {name: text for name, text in made.items() if name in _PUBLIC}


def _clinic() -> dict[str, str]:
    key = Ed25519PrivateKey.generate()
    raw = serialization.Encoding.Raw
    private = key.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    return {
        SIGNING: private.hex(), SIGNING_PUBLIC: public.hex(), SECRET: secrets.token_hex(SECRET_BYTES),
    }  # fmt: skip


def _institute() -> dict[str, str]:
    identity = pyrage.x25519.Identity.generate()
    return {IDENTITY: str(identity), RECIPIENT: str(identity.to_public())}


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The clinic's signing key.

    Raises:
        UsageError: Unreadable, no such key, or readable by others.
    """
    return Ed25519PrivateKey.from_private_bytes(_hex(path, private=True))


def public_key(path: Path) -> Ed25519PublicKey:
    """A clinic's public key, as it sent it. Raises as `signing_key`."""
    return Ed25519PublicKey.from_public_bytes(_hex(path, private=False))


def clinic_secret(path: Path) -> bytes:
    """The clinic's secret for identifiers. Raises as `signing_key`."""
    return _hex(path, private=True)


def identities(paths: Iterable[Path]) -> list[pyrage.x25519.Identity]:
    """The institute's identities, the present one and those it is rotating out. Raises as `signing_key`."""
    found = []
    for path in paths:
        try:
            found.append(pyrage.x25519.Identity.from_str(_line(path, private=True)))
        except pyrage.IdentityError:
            raise _no_key(path) from None
    return found


def recipients(paths: Iterable[Path]) -> list[pyrage.x25519.Recipient]:
    """The institute's public keys; two while it rotates. Raises as `signing_key`."""
    found = []
    for path in paths:
        try:
            found.append(pyrage.x25519.Recipient.from_str(_line(path, private=False)))
        except pyrage.RecipientError:
            raise _no_key(path) from None
    if not found:
        raise UsageError("no recipient", "the public key of the institute")
    return found


def key_id(key: Ed25519PublicKey) -> str:
    """Short name of a clinic's key: the first 16 digits of the SHA-256 of its raw bytes."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return sha256_bytes(raw)[:16]


def is_signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the signature is the key's own over the message (RFC 8032)."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def apart_from(keys: Iterable[Path], *data: Path) -> None:
    """Refuse private keys that lie within a folder of data.

    Raises:
        UsageError: One does.
    """
    for key in keys:
        if any(key.resolve().is_relative_to(folder.resolve()) for folder in data):
            raise UsageError("a private key within the data", "keys apart from data", "move the key folder")


def _hex(path: Path, *, private: bool) -> bytes:
    try:
        raw = bytes.fromhex(_line(path, private=private))
    except ValueError:
        raise _no_key(path) from None
    if len(raw) != SECRET_BYTES:
        raise _no_key(path)
    return raw


def _line(path: Path, *, private: bool) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, encoding="ascii") as stream:
            mode, text = os.fstat(stream.fileno()).st_mode, stream.read(4096).strip()
    except (OSError, UnicodeDecodeError):
        raise _no_key(path) from None
    if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"{path.name} can be read by others", "a file of its owner alone", "chmod 600 the file"
        )
    return text


def _no_key(path: Path) -> UsageError:
    return UsageError(f"{path.name} is no key of the kind needed", "a file written by deliver keygen")
