"""A YAML of rules that says which DICOM series is which sequence; it comes before every fact of ours.

```yaml
rules:
  - sequence: t2w            # t1w, t2w, dwi, adc, target or ignore
    where: {description: "t2_tse_tra*", echo_time: [80, 130]}
  - sequence: ignore
    where: {series_number: 12}
```
The first rule whose every condition holds decides.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.dicom.slices import Slice

IGNORE: Final = "ignore"
TARGET: Final = "target"
KINDS: Final = (seq.T1W, seq.T2W, "dwi", seq.ADC, TARGET, IGNORE)
_TEXT: Final = ("description", "sequence_name", "model", "vendor", "body_part")
_NUMBER: Final = (
    "series_number", "echo_time", "repetition_time", "inversion_time", "flip_angle", "field_t", "b_value",
)  # fmt: skip
_WORDS: Final = ("image_type", "scanning_sequence", "sequence_variant")
_MAX_BYTES: Final = 100_000


@dataclass(frozen=True)
class Rule:
    """One rule: a sequence and its conditions."""

    sequence: str
    where: Mapping[str, Any]

    def holds(self, one: Slice) -> bool:
        """Whether every condition holds for a slice."""
        return all(_holds(one, key, wanted) for key, wanted in self.where.items())


def _holds(one: Slice, key: str, wanted: Any) -> bool:
    if key in _TEXT:
        text = one.described if key == "description" else str(getattr(one, key))
        return fnmatch.fnmatchcase(text.lower(), str(wanted).lower())
    if key in _WORDS:
        there = {
            "image_type": one.image_type, "scanning_sequence": one.scanning, "sequence_variant": one.variant,
        }[key]  # fmt: skip
        asked = wanted if isinstance(wanted, list) else [wanted]
        return {str(word).upper() for word in asked} <= set(there)
    value = (None if one.b is None else one.b.b) if key == "b_value" else getattr(one, key)
    if value is None:
        return False
    low, high = wanted if isinstance(wanted, list) else (wanted, wanted)
    return float(low) <= float(value) <= float(high)


def read_rules(path: Path | None) -> tuple[Rule, ...]:
    """The rules of a YAML file; none without a file.

    Raises:
        UsageError: It cannot be read, or holds anything but rules.
    """
    if path is None:
        return ()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path.name} is too long for rules", f"at most {_MAX_BYTES} bytes")
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"no rules in {path.name}", "a readable YAML file", "check --rules") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise UsageError(f"{path.name} is no YAML", "a list under rules", "correct the file") from None
    entries = loaded.get("rules") if isinstance(loaded, dict) else None
    if not isinstance(entries, list) or len(loaded) != 1:
        raise UsageError(f"{path.name} holds no rules", "a list under rules", "correct the file")
    return tuple(_rule(entry, number, path.name) for number, entry in enumerate(entries, start=1))


def _rule(entry: Any, number: int, name: str) -> Rule:
    where = entry.get("where") if isinstance(entry, dict) else None
    if not isinstance(where, dict) or not where or set(entry) != {"sequence", "where"}:
        raise UsageError(f"rule {number} of {name}", "sequence and where", "correct the rule")
    if entry["sequence"] not in KINDS:
        raise UsageError(f"rule {number} of {name}: another sequence", f"one of {', '.join(KINDS)}")
    for key, wanted in where.items():
        if key not in (*_TEXT, *_NUMBER, *_WORDS):
            raise UsageError(
                f"rule {number} of {name}: another condition",
                f"some of {', '.join((*_TEXT, *_NUMBER, *_WORDS))}",
            )
        if key in _NUMBER and not _numeric(wanted):
            raise UsageError(f"rule {number} of {name}: {key}", "a number or [lowest, highest]")
    return Rule(entry["sequence"], where)


def _numeric(wanted: Any) -> bool:
    items = wanted if isinstance(wanted, list) else [wanted, wanted]
    return len(items) == 2 and all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in items
    )
