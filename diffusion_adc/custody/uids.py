"""Identifiers by keyed hash: the same person, study and image get the same new name, and only the clinic's secret
connects the two. Without the key nobody can try out all old identifiers (HMAC, RFC 2104; UIDs under 2.25, PS3.5 B.2).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from diffusion_adc.domain.errors import UsageError

SECRET_BYTES: Final = 32
_DIGITS: Final = 8
_PREFIX: Final = re.compile(r"[A-Za-z]{1,16}", re.ASCII)
_KEYED: Final = re.compile(r"2\.25\.[1-9][0-9]{0,38}", re.ASCII)


def keyed_uid(secret: bytes, uid: str) -> str:
    """The UID that stands in for `uid`: ``2.25.`` and 128 bits of HMAC-SHA256 under the clinic's secret."""
    number = int.from_bytes(_mac(secret, "uid", uid.strip(" \0"))[:16], "big")
    return f"2.25.{number or 1}"


def is_keyed(uid: str) -> bool:
    """Whether a UID has the form that `keyed_uid` gives."""
    return bool(_KEYED.fullmatch(uid))


def keyed_research_id(secret: bytes, clinic_id: str, prefix: str) -> str:
    """A research ID for a person whom no list names, e.g. ``AB-40217733``. Two persons may collide: check.

    Raises:
        UsageError: The prefix is not one to sixteen ASCII letters.
    """
    if not _PREFIX.fullmatch(prefix):
        raise UsageError("a prefix of another form", "1 to 16 letters A-Z, a-z")
    number = int.from_bytes(_mac(secret, "person", clinic_id)[:8], "big") % 10**_DIGITS
    return f"{prefix}-{number:0{_DIGITS}d}"


def _mac(secret: bytes, kind: str, text: str) -> bytes:
    if len(secret) < SECRET_BYTES:
        raise UsageError(f"a secret of {len(secret)} bytes", f"at least {SECRET_BYTES} random bytes")
    return hmac.new(secret, f"{kind}\0{text}".encode(), hashlib.sha256).digest()
