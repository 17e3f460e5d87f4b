"""The tracker's settings of an experiment, and those of a run folder; without torch, so that `sync` starts quickly."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from diffusion_adc.callbacks.policy import Policy, tracked_experiment, tracked_record
from diffusion_adc.callbacks.reach import Mode, server_name
from diffusion_adc.callbacks.session import Identity, identity
from diffusion_adc.custody.lineage import check_decision, read_record
from diffusion_adc.domain.errors import UsageError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger

    from diffusion_adc.callbacks.tracker import Tracker

EXPERIMENT: Final = "experiment.yaml"
BOARD: Final = "tensorboard"


class Tracking:
    """Weights & Biases settings of an experiment.

    Args:
        mode: ``offline`` (default), ``online`` (with a key and a server that answers, else offline) or
            ``disabled``.
        project: Project the run belongs to.
        entity: Account or team; null for the key's own.
        pictures: Send sample grids as well.
        artifacts: Send checkpoints and models of online and synchronized runs.
        decision: Reference of the decision that lets pictures, research IDs and weights of a *restricted* cohort
            go to the servers below; without it they never do, whatever `pictures` says.
        servers: Hosts (``wandb.example.org``, with ``:port`` if it has one) that the decision is about.
        tensorboard: Write the metrics for TensorBoard too, into RUN/tensorboard; it sends nothing anywhere.

    Raises:
        UsageError: The decision is no reference, or there is one without servers.
    """

    def __init__(
        self,
        mode: Mode = "offline",
        project: str = "diffusion-adc",
        entity: str | None = None,
        pictures: bool = True,
        artifacts: bool = True,
        decision: str | None = None,
        servers: list[str] | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.mode: Mode = mode
        self.project, self.entity, self.pictures, self.artifacts = project, entity, pictures, artifacts
        self.decision = None if decision is None else check_decision(decision)
        self.servers = tuple(server.lower() for server in servers or ())
        if decision is not None and not self.servers:
            raise UsageError("tracking.decision without tracking.servers", "the servers that were decided on")
        self.tensorboard = tensorboard

    def policy(self, provenance: str) -> Policy:
        """What the tracker may have of a cohort of this provenance."""
        return Policy(provenance, server_name(), self.decision, self.servers, self.pictures, self.artifacts)

    def board(self, run_dir: Path) -> TensorBoardLogger | None:
        """Lightning's logger for TensorBoard, or None if it is not asked for.

        Args:
            run_dir: RUN; the events lie in RUN/tensorboard.

        Raises:
            UsageError: TensorBoard is not installed.
        """
        if not self.tensorboard:
            return None
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError(
                "tracking.tensorboard without TensorBoard", "the package tensorboard",
                'install "diffusion-adc[tensorboard]", or leave tracking.tensorboard off',
            )  # fmt: skip
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(run_dir, name=None, version=BOARD)

    def logger(
        self,
        run_dir: Path,
        name: str,
        experiment: Mapping[str, Any],
        *,
        provenance: str = "restricted",
        record: Mapping[str, Any] | None = None,
    ) -> Tracker | None:
        """The run's logger, or None if disabled; it starts with training.

        Host, program, arguments, git, console, code and machine statistics are never recorded: they name
        folders and people.

        Args:
            run_dir: RUN.
            name: Of the experiment.
            experiment: The resolved experiment; goes through the allow-list.
            provenance: Of the cohort; restricted where it is not said.
            record: The run's record; goes through the allow-list.
        """
        if self.mode == "disabled":
            return None
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        from diffusion_adc.callbacks.tracker import Tracker

        policy = self.policy(provenance)
        # Only one process is the tracker's; the others must not each make up an identity.
        first = getattr(rank_zero_only, "rank", 0) in (0, None)
        who = identity(run_dir, self.project, self.entity) if first else Identity("", self.project)
        config = tracked_experiment(experiment) | {"record": tracked_record(record or {})}
        return Tracker(
            run_dir, who, wanted=self.mode, label=policy.run_name(name, who.id), config=config, policy=policy
        )


def settings_of(run_dir: Path) -> tuple[Tracking, Policy, dict[str, Any]]:
    """The run's tracking settings, what they allow, and its experiment.

    Raises:
        UsageError: The settings are no settings.
    """
    try:
        experiment = yaml.safe_load((run_dir / EXPERIMENT).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        experiment = None
    experiment = experiment if isinstance(experiment, dict) else {}
    section = experiment.get("tracking")
    known = ("mode", "project", "entity", "pictures", "artifacts", "decision", "servers")
    chosen = (
        {name: section[name] for name in known if name in section} if isinstance(section, Mapping) else {}
    )
    tracking = Tracking(**chosen)
    return tracking, tracking.policy(str(read_record(run_dir).get("provenance", "restricted"))), experiment
