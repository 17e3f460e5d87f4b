"""Checkpoints and exported models as the tracker's artifacts, with what they were made from.

Only to a server that is there: kept offline, an artifact is a second copy under an absolute path, so that a run
folder that was moved could no longer be sent. `sync` sends them from the run folder instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from diffusion_adc.callbacks.policy import tracked_record
from diffusion_adc.custody.lineage import CHECKPOINTS, read_record
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.sidecars import verified

MODEL: Final = "model"
"""RUN/model, where `export --to model` puts it."""


def lineage_of(run_dir: Path) -> dict[str, Any]:
    """What an artifact of the run says of its sources: cohort digest, experiment, code, parents' checkpoints."""
    return tracked_record(read_record(run_dir))


def verified_checkpoints(run_dir: Path) -> dict[str, Path]:
    """Checkpoints by name (``best``, ``last``) whose bytes are those of their sidecar."""
    paths = sorted((run_dir / CHECKPOINTS).glob("*.ckpt"))
    return {path.stem: path for path in paths if verified(path) is not None}


def log_models(run: Any, run_dir: Path, link: Path) -> list[str]:
    """Send the run's checkpoints and exported model, as made from its cohort.

    Args:
        run: The client's run, online.
        run_dir: RUN.
        link: The run's link: the client sends the files' places along.

    Returns:
        Names of the artifacts.
    """
    import wandb

    source = lineage_of(run_dir)
    digest = str(source.get("cohort_digest") or "")
    if digest:
        cohort = wandb.Artifact(
            f"cohort-{digest[:12]}",
            type="cohort",
            metadata={"digest": digest, "provenance": source["provenance"]},
        )
        with cohort.new_file("cohort.json", encoding="utf-8") as stream:
            json.dump({"digest": digest, "provenance": source["provenance"]}, stream)
        run.use_artifact(cohort)  # the digest stands for the cohort, whose files stay here
    sent = []
    checkpoints = verified_checkpoints(run_dir)
    if checkpoints:
        hashes = {name: sha256_file(path) for name, path in checkpoints.items()}
        artifact = wandb.Artifact(
            f"checkpoints-{run.id}", type="model", metadata={**source, "sha256": hashes}
        )
        for name, path in checkpoints.items():
            artifact.add_file(
                str(link / CHECKPOINTS / path.name), name=f"{name}.ckpt", policy="immutable", skip_cache=True
            )
        run.log_artifact(artifact)
        sent.append(artifact.name)
    if (run_dir / MODEL).is_dir():
        model = wandb.Artifact(f"model-{run.id}", type="model", metadata=source)
        model.add_dir(str(link / MODEL), policy="immutable", skip_cache=True)
        run.log_artifact(model)
        sent.append(model.name)
    return sent
