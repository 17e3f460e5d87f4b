"""What a delivery says of itself: a manifest, signed by the clinic, that names every byte of it.

A package is one age file; inside is a tar of ``manifest.json``, ``manifest.sig`` and the files in the manifest's
order. age keeps the content secret and whole, but anyone can encrypt to a public key: who sent it, and that it is the
next one and not an old one again, is what the signature and the numbers are for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from diffusion_adc import __version__
from diffusion_adc.custody.archive import check_name
from diffusion_adc.custody.auditlog import START, canonical
from diffusion_adc.custody.keys import is_signed, key_id
from diffusion_adc.custody.tags import PROFILE
from diffusion_adc.domain.case import check_research_id
from diffusion_adc.domain.errors import DiffusionAdcError
from diffusion_adc.records.atomic import sha256_bytes

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
DELIVERY: Final = "delivery.json"
"""Copy of the manifest in the opened folder."""
SCHEMA: Final = 2
"""2 adds the number of slices of each series."""
MAX_MANIFEST: Final = 2**27
_CONTEXT: Final = b"diffusion_adc delivery 1\0"
"""Signed before the manifest, so that no signature made for another purpose fits."""
_SIGNATURE_BYTES: Final = 64
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
CLINICAL: Final = "clinical.csv"
"""The one file that belongs to no single person."""


class PackageRefused(DiffusionAdcError):
    """A package that must not be opened (exit code 1)."""


@dataclass(frozen=True)
class PackedFile:
    """One file of a package: name within it, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The signed contents list.

    Attributes:
        package_id: 32 random hexadecimal digits.
        sequence: 1 for the clinic's first delivery.
        previous: SHA-256 of the previous delivery's manifest; zeros for the first.
        clinic_key: Name of the signing key.
        research_ids: Whose files these are.
        files: In the order of the archive.
        states: What was decided per series: ``{"series", "faces", "reason"}``.
        left_out: Number of files left at the clinic, by reason.
        slices: Number of slices of each DICOM series, by its folder: what arrives must be as many.
    """

    package_id: str
    sequence: int
    previous: str
    clinic_key: str
    created: str
    research_ids: tuple[str, ...]
    files: tuple[PackedFile, ...]
    states: tuple[Mapping[str, str], ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    slices: Mapping[str, int] = field(default_factory=dict)
    software: str = f"diffusion_adc {__version__}"
    profile: str = PROFILE
    schema: int = SCHEMA

    def to_bytes(self) -> bytes:
        """The one spelling that is hashed and signed."""
        return canonical(asdict(self))


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """64 bytes, Ed25519 (RFC 8032)."""
    return key.sign(_CONTEXT + manifest)


def verified(raw: bytes, signature: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> tuple[Manifest, str]:
    """The manifest and its SHA-256, if a trusted clinic signed it.

    Args:
        raw: manifest.json as it arrived.
        signature: manifest.sig.
        trusted: Clinics' public keys by `keys.key_id`.

    Raises:
        PackageRefused: Not signed, signed by someone else, or not a manifest.
    """
    if len(signature) != _SIGNATURE_BYTES:
        raise refused("no signature", "the clinic's signature over the manifest")
    signer = next((name for name, key in trusted.items() if is_signed(key, signature, _CONTEXT + raw)), None)
    if signer is None:
        raise refused("a signature of no trusted clinic", f"one of {len(trusted)} trusted keys")
    manifest = _parsed(raw)
    if manifest.clinic_key != signer:
        raise refused("a manifest that names another key", "the key that signed it")
    return manifest, sha256_bytes(raw)


def _parsed(raw: bytes) -> Manifest:
    try:
        value: dict[str, Any] = json.loads(raw)
        files = tuple(PackedFile(**entry) for entry in value.pop("files"))
        ids, states = tuple(value.pop("research_ids")), tuple(value.pop("states"))
        manifest = Manifest(**value, files=files, research_ids=ids, states=states)
        sound = (
            manifest.schema == SCHEMA and isinstance(manifest.sequence, int) and manifest.sequence >= 1
            and _HEX.fullmatch(manifest.previous) and _ID.fullmatch(manifest.package_id)
            and (manifest.previous == START) == (manifest.sequence == 1) and manifest.to_bytes() == raw
            and all(isinstance(f.size, int) and f.size >= 0 and _HEX.fullmatch(f.sha256) for f in files)
            and all(isinstance(n, int) and n > 0 for n in manifest.slices.values())
            and set(manifest.slices) <= {f.path.rpartition("/")[0] for f in files}
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise refused("a manifest of another form", f"schema {SCHEMA}", "update the software of both sides")
    for research_id in manifest.research_ids:
        check_research_id(research_id)
    owners = {check_name(f.path).split("/")[0] for f in manifest.files} - {CLINICAL}
    if owners - set(manifest.research_ids) or len({f.path.lower() for f in files}) != len(files):
        raise refused("files of nobody on the list, or twice", "each file once, below its research ID")
    return manifest


def listed_slices(folder: Path) -> Mapping[str, int]:
    """Slices of each series of an opened delivery by its folder; nothing where `folder` is no opened delivery.

    Raises:
        PackageRefused: The delivery's own list cannot be read any more.
    """
    path = folder / DELIVERY
    return _parsed(path.read_bytes()).slices if path.is_file() else {}


def trusted_keys(keys: list[Ed25519PublicKey]) -> dict[str, Ed25519PublicKey]:
    """Public keys by name."""
    return {key_id(key): key for key in keys}


def refused(found: str, expected: str, do: str = "ask the clinic for the package again") -> PackageRefused:
    """A refusal of a whole package."""
    return PackageRefused(found, expected, do)
