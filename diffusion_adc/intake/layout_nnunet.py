"""nnU-Net's raw datasets: ``dataset.json`` says what each channel is, ``imagesTr/NAME_0000`` holds it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.intake.layouts import CaseFiles, image, stem_of, with_orders
from diffusion_adc.intake.options import IngestOptions, parse_labels

_MAX_BYTES: Final = 2**24
_CHANNEL: Final = re.compile(r"(.+)_(\d{4})", re.ASCII)
_CASE: Final = re.compile(r"([A-Za-z]{1,16})?[-_]?(\d{3,8})(?:_(\d{2,8}))?", re.ASCII)
_WORDS: Final[Mapping[str, str]] = {
    "t1": seq.T1W, "t1w": seq.T1W, "t1n": seq.T1W, "t1pre": seq.T1W, "t2": seq.T2W, "t2w": seq.T2W, "adc": seq.ADC,
    "dwi": seq.DWI_HIGH, "dwihigh": seq.DWI_HIGH, "hbv": seq.DWI_HIGH, "highb": seq.DWI_HIGH, "dwilow": seq.DWI_LOW,
    "lowb": seq.DWI_LOW, "lbv": seq.DWI_LOW,
}  # fmt: skip
_B: Final = re.compile(r"(?:dwi|dw)?b(\d{1,4})", re.ASCII)
_LOW_B: Final = 100
_TUMOR: Final = ("tumor", "tumour", "lesion", "cancer", "carcinoma", "metasta", "glioma", "neoplasm", "pca")


def nnunet_cases(source: Path, options: IngestOptions) -> list[CaseFiles]:
    """The cases of a raw dataset, or of every ``DatasetNNN_…`` below a folder that holds one.

    Raises:
        UsageError: dataset.json is not readable, two channels claim one sequence, or no label means tumor.
    """
    root = source if (source / "dataset.json").is_file() else _only(source)
    if root is None:
        return []
    described = _description(root / "dataset.json")
    channels, b_values = _channels(described, options)
    label_values, other_labels = _labels(described, options.label_values)
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for part in ("Tr", "Ts"):
        folder = root / f"images{part}"
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            match = _CHANNEL.fullmatch(stem_of(path) or "")
            if match and match[2] in channels and path.resolve().is_relative_to(root.resolve()):
                files[match[1]][channels[match[2]]] = path
                label = image(root / f"labels{part}", match[1])
                if label is not None and label.resolve().is_relative_to(root.resolve()):
                    files[match[1]][seq.TUMOR_LABEL] = label
    never = tuple(name for name in seq.OPTIONAL_SEQUENCES if name not in channels.values())
    found: dict[str, dict[str, CaseFiles]] = defaultdict(dict)
    for name, own in files.items():
        person, exam = _person(name)
        found[person][exam] = CaseFiles(
            "",
            1,
            own,
            label_values=label_values,
            other_labels=other_labels,
            adc_unit="1e-6",
            b=b_values,
            never=never,
            tumor_free_ok=True,
        )
    return with_orders(found, options.id_prefix or "CASE")


def _only(source: Path) -> Path | None:
    found = [path.parent for path in sorted(source.glob("*/dataset.json"))]
    if len(found) > 1:
        raise UsageError(f"{len(found)} datasets in {source.name}", "one", "give the folder of one of them")
    return found[0] if found else None


def _description(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UsageError("an unreadable dataset.json", "JSON", "restore it") from None
    if not isinstance(described, dict):
        raise UsageError("a dataset.json that is no object", "nnU-Net's description", "restore it")
    return described


def _channels(described: Mapping[str, Any], options: IngestOptions) -> tuple[dict[str, str], dict[str, str]]:
    """Channel number (four digits) → sequence, and the b-values that the names give."""
    given = described.get("channel_names", described.get("modality"))
    if not isinstance(given, dict):
        raise UsageError("a dataset.json without channel_names", "what each channel is", "add it")
    wanted = {_plain(options.stem(name)): name for name in options.names if name in seq.SEQUENCES}
    channels: dict[str, str] = {}
    b_values: dict[str, str] = {}
    for number, text in given.items():
        if not str(number).isdigit():
            continue
        plain = _plain(str(text))
        name = wanted.get(plain) or (_sequence(plain) if plain not in wanted else None)
        if name is None or (name in wanted.values() and plain not in wanted):
            continue
        if name in channels.values():
            raise UsageError(
                f"two channels of dataset.json for {name}", "one", f"say which with --names {name}=CHANNEL"
            )
        channels[f"{int(number):04d}"] = name
        match = _B.fullmatch(plain)
        if name in (seq.DWI_LOW, seq.DWI_HIGH):
            b_values[name] = match[1] if match else "unknown"
    if seq.ADC not in channels.values():
        raise UsageError(
            "no channel of dataset.json is an ADC map", "one", "say which with --names adc=CHANNEL"
        )
    return channels, b_values


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _sequence(plain: str) -> str | None:
    match = _B.fullmatch(plain)
    if match:
        return seq.DWI_LOW if int(match[1]) <= _LOW_B else seq.DWI_HIGH
    return _WORDS.get(plain)


def _labels(described: Mapping[str, Any], declared: str | None) -> tuple[str | None, str | None]:
    """The labels that mean tumor, declared, named so, or the only one there is; and the others that are named."""
    given = described.get("labels")
    if not isinstance(given, dict):
        return declared, None
    # The first version of the format maps numbers to names, the second names to numbers or to regions.
    pairs = [(str(k), v) if not str(k).isdigit() else (str(v), int(k)) for k, v in given.items()]
    named = [(text.lower(), value) for text, value in pairs if isinstance(value, int) and value > 0]
    tumors = sorted(value for text, value in named if any(word in text for word in _TUMOR))
    if declared is not None:
        tumors = sorted(parse_labels(declared) or ())
    if not tumors and len(named) == 1:
        tumors = [named[0][1]]
    if not tumors and named:
        raise UsageError(
            f"{len(named)} labels in dataset.json, none named as a tumor", "a label that means tumor",
            "say which with --label-values",
        )  # fmt: skip
    others = sorted({value for _, value in named} - set(tumors))
    return ",".join(map(str, tumors)) or None, ",".join(map(str, others)) or None


def _person(name: str) -> tuple[str, str]:
    """Research ID and examination from a case's name: ``PROSTATE_114``, ``CASE-001_02``, ``10005_1000005``."""
    match = _CASE.fullmatch(name)
    if match is None:
        return name, ""
    letters, digits, exam = match.groups()
    return (f"{letters}-{digits}" if letters else digits), exam or ""
