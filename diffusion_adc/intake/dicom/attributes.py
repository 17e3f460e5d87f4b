"""Values of DICOM attributes in plain types: whatever a file holds, a checked value or None comes out."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from pydicom.dataset import Dataset

from diffusion_adc.custody.numbers import number
from diffusion_adc.intake.dicom.slices import BadFile

_MODEL: Final = re.compile(r"[^A-Za-z0-9 .+-]", re.ASCII)


def finite(value: Any, default: float) -> float:
    """A finite number, `default` where nothing is stated.

    Raises:
        BadFile: S15, it is not finite.
    """
    if value is None or value == "":
        return default
    found = float(value)
    if not math.isfinite(found):
        raise BadFile("S15", "a scale that is no number", "a finite slope and intercept")
    return found


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, else None."""
    if value is None or isinstance(value, str | bytes | int | float):
        return None
    found = tuple(float(item) for item in value)
    return found if len(found) == count and all(math.isfinite(n) for n in found) else None


def first(value: Any) -> float | None:
    """The first of one or several numbers, else None."""
    if value is None or isinstance(value, str | int | float):
        return number(value)
    items = list(value)
    return number(items[0]) if items else None


def tesla(value: Any) -> float | None:
    """A field strength in tesla, else None."""
    strength = number(value)
    if strength is not None and strength > 100:  # some scanners write gauss
        strength /= 10_000
    return strength if strength is not None and 0 < strength <= 25 else None


def model_name(value: Any) -> str:
    """A scanner model as plain words of at most 40 characters."""
    return " ".join(_MODEL.sub(" ", str(value or ""))[:40].split())


def words(value: Any) -> tuple[str, ...]:
    """The items of a text attribute in upper case."""
    if value is None or value == "":
        return ()
    items = [value] if isinstance(value, str) else list(value)
    return tuple(str(item).strip().upper() for item in items)


def uid_text(dataset: Dataset, name: str) -> str:
    """A UID, empty where there is none."""
    return str(dataset.get(name) or "")
