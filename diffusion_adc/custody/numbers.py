"""Numbers as DICOM attributes hold them: text, decimal strings, empty values."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """One finite number, else None."""
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """One whole number, else None."""
    found = number(value)
    return None if found is None or found != int(found) else int(found)
