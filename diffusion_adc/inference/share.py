"""One process's share of a cohort that several processes draw together, on one machine or many.

They meet in the maps' folder alone: no process waits for another one, and a share whose process died is drawn by
the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from diffusion_adc.domain.case import Case
from diffusion_adc.records import maps as files
from diffusion_adc.records.atomic import write_json
from diffusion_adc.records.processes import in_turn

_SHARES: Final = ".shares"
_LOCAL: Final = ("LOCAL_RANK", "SLURM_LOCALID")


@dataclass(frozen=True)
class Share:
    """Every `ranks`-th case from `rank` on.

    Attributes:
        out: MAPS.
        rank: This process.
        ranks: All of them; 1 for one alone, which leaves no trace of sharing.
    """

    out: Path
    rank: int = 0
    ranks: int = 1

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """The cases of this share."""
        return list(cases[self.rank :: self.ranks])

    def device(self, wanted: str) -> str:
        """``auto`` becomes this process's own GPU where there are several."""
        if wanted != "auto" or self.ranks == 1 or not torch.cuda.is_available():
            return wanted
        local = next((int(os.environ[name]) for name in _LOCAL if name in os.environ), self.rank)
        return f"cuda:{local % torch.cuda.device_count()}"

    def in_turn(self, lock: Path) -> AbstractContextManager[None]:
        """Hold `lock` where there are several processes."""
        return contextlib.nullcontext() if self.ranks == 1 else in_turn(lock)

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Write maps.json as incomplete."""
        with self._locked():
            self._file(self.rank).unlink(missing_ok=True)
            files.write_maps_manifest(self.out, {**manifest, **self._together(manifest)})

    def end(self, manifest: Mapping[str, Any], refused: Mapping[str, str]) -> None:
        """Write maps.json with the refusals known so far; complete once every share has ended.

        Args:
            manifest: The same in every process.
            refused: Reason by case ID.
        """
        with self._locked():
            said = {"refused": dict(refused), "manifest": self._digest(manifest)}
            if self.ranks == 1:
                together = {"complete": True, "refused": dict(refused)}
            else:
                write_json(self._file(self.rank), said)
                together = self._together(manifest)
            files.write_maps_manifest(self.out, {**manifest, **together})
            if together["complete"]:
                shutil.rmtree(self.out / _SHARES, ignore_errors=True)

    def _together(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        refused: dict[str, str] = {}
        ended, digest = 0, self._digest(manifest)
        for rank in range(self.ranks):
            try:
                said = json.loads(self._file(rank).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if said["manifest"] == digest:
                refused |= said["refused"]
                ended += 1
        return {"complete": ended == self.ranks, "refused": dict(sorted(refused.items()))}

    def _file(self, rank: int) -> Path:
        return self.out / _SHARES / f"{rank}of{self.ranks}.json"

    def _locked(self) -> AbstractContextManager[None]:
        return self.in_turn(self.out / _SHARES / "lock")

    def _digest(self, manifest: Mapping[str, Any]) -> str:
        return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
