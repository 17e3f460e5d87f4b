"""The certificate of a withdrawal: what was deleted, what stays and is blocked, what is left to people.

It names persons as keyed hashes under a salt of its own, which whoever holds the research IDs can check and
nobody else learns from. Its SHA-256 is over the content; with a key that hash is signed (Ed25519).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from diffusion_adc.custody.auditlog import canonical
from diffusion_adc.domain.errors import CohortError
from diffusion_adc.records.atomic import sha256_bytes, write_json


def write_certificate(path: Path, content: Mapping[str, Any], key: Ed25519PrivateKey | None = None) -> str:
    """Write a certificate; returns the SHA-256 of its content.

    Args:
        path: Where to.
        content: JSON values.
        key: Signs it; without one the certificate is unsigned and `sign_certificate` can sign it later.
    """
    digest = sha256_bytes(canonical(content))
    record = {"content": dict(content), "sha256": digest, "signature": None}
    write_json(path, record)
    if key is not None:
        sign_certificate(path, key)
    return digest


def sign_certificate(path: Path, key: Ed25519PrivateKey) -> bool:
    """Sign a certificate that has no signature yet; returns whether it was signed now.

    Raises:
        CohortError: The certificate is damaged.
    """
    record = read_certificate(path)
    if record["signature"] is not None:
        return False
    signature = {
        "ed25519": key.sign(bytes.fromhex(record["sha256"])).hex(),
        "public_key": key.public_key().public_bytes_raw().hex(),
    }
    write_json(path, {**record, "signature": signature})
    return True


def read_certificate(path: Path, public_key: Ed25519PublicKey | None = None) -> dict[str, Any]:
    """A certificate, its hash checked, and its signature if a key is given.

    Args:
        path: The file.
        public_key: Whose signature it must bear.

    Raises:
        CohortError: It is missing, was changed, or is not signed with that key.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["sha256"] != sha256_bytes(canonical(record["content"])):
            raise ValueError("changed")
        signature = record["signature"]
        if public_key is not None:
            public_key.verify(bytes.fromhex(signature["ed25519"]), bytes.fromhex(record["sha256"]))
    except (OSError, ValueError, KeyError, TypeError, InvalidSignature):
        raise CohortError(
            f"the certificate {path.name} is missing, changed or not signed with this key",
            "the certificate as `withdraw` wrote it", "restore it from a copy",
        ) from None  # fmt: skip
    return dict(record)
