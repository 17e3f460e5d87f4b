"""Sends an offline run to the tracker's server, after looking for what must not go there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusion_adc.callbacks.artifacts import log_models
from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.callbacks.reach import obstacle
from diffusion_adc.callbacks.scan import Finding, scan
from diffusion_adc.callbacks.session import (
    Identity,
    abandon,
    drop_link,
    environment,
    make_link,
    open_run,
    stored_identity,
)
from diffusion_adc.callbacks.settings import settings_of
from diffusion_adc.custody.lineage import refuse_tainted
from diffusion_adc.domain.errors import DiffusionAdcError, UsageError

_SHOWN = 5
_SYNC_S = 3600.0


class SyncRefused(DiffusionAdcError):
    """The run holds what must not be sent (exit code 1).

    Attributes:
        findings: All of it: kinds and places.
    """

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        shown = ", ".join(f"{f.kind} in {f.where}" for f in findings[:_SHOWN])
        more = f" and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        super().__init__(
            f"this run must not be sent: {shown}{more}",
            "no identifier, path or forbidden picture",
            "delete what is named, or the run's wandb folder; nothing was sent",
            code="T11",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return SyncRefused, (self.findings,)


@dataclass(frozen=True)
class Synced:
    """What was sent, or would be.

    Attributes:
        project: Of the tracker.
        run_id: Of the tracker.
        server: Where to.
        folders: Names of the tracker's folders.
        files: Files looked at.
        artifacts: Names of the artifacts sent.
        sent: False for a dry run.
    """

    project: str
    run_id: str
    server: str
    folders: tuple[str, ...]
    files: int
    artifacts: tuple[str, ...] = ()
    sent: bool = False

    def line(self) -> str:
        """For the terminal."""
        what = f"{self.project}/{self.run_id}: {self.files} files in {len(self.folders)} parts"
        if not self.sent:
            return f"{what}, nothing that must stay here; would go to {self.server}"
        return f"{what} and {len(self.artifacts)} artifacts sent to {self.server}"


def sync(run_dir: Path, *, dry_run: bool = False, allow_tainted: str | None = None) -> Synced:
    """Scan a run folder, then have the client send it, its checkpoints and its model.

    Args:
        run_dir: RUN.
        dry_run: Scan only; no connection is made.
        allow_tainted: Reference of the decision to send a run that used data of a person who has withdrawn.

    Raises:
        UsageError: No run of the tracker here, no key, no server, or a tainted run.
        SyncRefused: Something in it must not be sent.
        DiffusionAdcError: The client failed.
    """
    who = stored_identity(run_dir)
    if who is None:
        raise UsageError(
            f"{run_dir.name} holds no run of the tracker", "a run trained with tracking.mode=offline"
        )
    _, policy, experiment = settings_of(run_dir)
    refuse_tainted(run_dir, allow_tainted, use="sync", cohort=_cohort(experiment))
    seen = scan(run_dir, policy)
    if not seen.runs:
        raise UsageError(f"{run_dir.name} has no tracker folder", "RUN/wandb", "there is nothing to send")
    if seen.findings:
        raise SyncRefused(seen.findings)
    folders = tuple(path.name for path in seen.runs)
    done = Synced(who.project, who.id, policy.server, folders, seen.files)
    if dry_run:
        return done
    reason = obstacle()
    if reason is not None:
        raise UsageError(
            f"cannot send: {reason}", "WANDB_API_KEY and a server that answers", "nothing was sent"
        )
    make_link(run_dir, who)
    try:
        _send(run_dir, who, seen.runs)
        sent = _send_models(run_dir, who, policy, experiment) if policy.may_send_models else ()
    finally:
        drop_link(who)
    return replace(done, artifacts=sent, sent=True)


def _send(run_dir: Path, who: Identity, folders: Sequence[Path]) -> None:
    places = [str(path.resolve()) for path in folders]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--include-online", *places],
            env=environment(run_dir, who), cwd=run_dir, capture_output=True, text=True, timeout=_SYNC_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DiffusionAdcError("the client did not finish in an hour", do="run the command again") from None
    if ended.returncode != 0 or not all(any(path.glob("*.synced")) for path in folders):
        raise DiffusionAdcError(
            f"the client could not send the run (exit code {ended.returncode})", "every part sent",
            "run the command again; what was sent is not sent twice",
        )  # fmt: skip


def _send_models(
    run_dir: Path, who: Identity, policy: Policy, experiment: Mapping[str, Any]
) -> tuple[str, ...]:
    name = policy.run_name(str(experiment.get("name", "run")), who.id)
    try:
        run = open_run(run_dir, who, name=name, mode="online", config={}, finish_s=_SYNC_S)
        folder = Path(run.dir).parent
        names = tuple(log_models(run, run_dir, Path(who.link)))
        run.finish()
    except Exception as error:
        abandon()
        raise DiffusionAdcError(
            f"the run was sent, its checkpoints were not ({type(error).__name__})", do="run the command again"
        ) from None
    shutil.rmtree(folder, ignore_errors=True)  # all in it was sent as it was made
    return names


def _cohort(experiment: dict[str, object]) -> Path | None:
    cohort = experiment.get("cohort")
    return Path(cohort) if isinstance(cohort, str) and Path(cohort).is_dir() else None
