"""What of a run the tracker may have: an allow-list, and pictures and names only where that was decided.

Nothing is taken out of a text; what is not known to be harmless is never put in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_SECTIONS: Final = ("model", "data", "trainer", "ema", "grids", "checkpoints", "draws", "seed")
_WORDS: Final = frozenset(
    {
        "class_path", "codec", "target", "accelerator", "precision", "monitor", "mode", "strategy", "devices",
        "gradient_clip_algorithm", "profiler", "loss", "activation", "norm", "schedule", "sampler", "solver",
        "parameterization", "covariates",
    }
)  # fmt: skip
"""Settings whose value may be a word; a word under any other key stays here."""
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/-]{0,79}", re.ASCII)
ID_FORM: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{1,16}-?[0-9]{3,8}(?![0-9A-Za-z])", re.ASCII)
"""The form of research IDs, within a text."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_OPEN: Final = frozenset({"synthetic", "public"})
_RECORD: Final = ("experiment_sha256", "versions", "git_commit", "cohort_digest", "provenance", "seed", "steps",
                  "parameters", "state")  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What may be sent where.

    Attributes:
        provenance: Of the cohort; whatever is not ``synthetic`` or ``public`` counts as restricted.
        server: Host and port the run would go to.
        decision: Reference of the decision that lets pictures of a restricted cohort go to a server.
        servers: The servers that decision is about.
        pictures: The experiment's own wish.
        artifacts: Send checkpoints and models too.
    """

    provenance: str
    server: str
    decision: str | None = None
    servers: tuple[str, ...] = ()
    pictures: bool = True
    artifacts: bool = True

    @property
    def free(self) -> bool:
        """Whether persons' pictures, research IDs and weights learned from them may go to the server."""
        decided = self.decision is not None and self.server in self.servers
        return self.provenance in _OPEN or decided

    @property
    def may_send_pictures(self) -> bool:
        """Whether pictures are sent."""
        return self.pictures and self.free

    @property
    def may_send_models(self) -> bool:
        """Whether weights are sent; a network can remember what it has seen."""
        return self.artifacts and self.free

    def case_name(self, index: int, case_id: str) -> str:
        """How the tracker calls a case: by its ID where that may be known, else by its number in this run."""
        return case_id if self.free else f"case {index + 1}"

    def run_name(self, name: str, run_id: str) -> str:
        """The run's name where it is harmless, else its random ID; people name runs after persons."""
        harmless = _NAME.fullmatch(name) and not ID_FORM.search(name)
        return name if self.free and harmless else run_id


def tracked_experiment(values: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment as the tracker may have it: numbers, switches and known words; no path, no free text.

    Args:
        values: The resolved experiment.yaml.
    """
    return {key: kept for key in _SECTIONS if (kept := _kept(key, values.get(key))) is not None}


def tracked_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The run's record as the tracker may have it.

    Neither the cases' keyed hashes nor their key: together they would answer who was in the cohort.
    """
    kept = {key: record[key] for key in _RECORD if record.get(key) is not None}
    parents = [p.get("checkpoint_sha256") for p in record.get("parents", ()) if isinstance(p, Mapping)]
    return kept | ({"parent_checkpoints": parents} if parents else {})


def _kept(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = {
            str(name): _kept(str(name), item) for name, item in value.items() if _WORD.fullmatch(str(name))
        }
        return {name: item for name, item in inner.items() if item is not None} or None
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        items = [_kept(key, item) for item in value]
        return items if items and all(item is not None for item in items) else None
    if isinstance(value, str) and key in _WORDS and _WORD.fullmatch(value) and not value.startswith("/"):
        return None if ID_FORM.fullmatch(value) else value
    return None
