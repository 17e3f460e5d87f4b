"""A W&B run with settings that name no machine, no folder and nobody; the only place that starts the client."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_adc.callbacks.reach import Mode, patience_s
from diffusion_adc.records.atomic import write_json

TRACKER: Final = "tracker.json"
FOLDER: Final = "wandb"
_SHARED: Final = "/tmp"
"""Where links lie. Not TMPDIR: on clusters it names the user and changes with each job, but the place is sent to the
server and must be the same when a run is resumed."""
_LINK: Final = re.compile(rf"{_SHARED}/diffusion-adc-[0-9a-f]{{16}}")
PROGRAM: Final = "diffusion-adc"
"""Said instead of the program's path, which goes to the server even when machine information is off."""
INIT_S: Final = 10.0
"""Seconds for a server that answered a moment ago to accept the run."""
_FLUSH_S: Final = 1.0
"""Seconds after which a line is on disk: what a killed client leaves is all that `sync` can send."""
_KEPT_ENVIRONMENT: Final = frozenset(
    {"WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_SERVICE", "WANDB_SILENT", "WANDB_HTTP_TIMEOUT"}
)
_SWEEP_ENVIRONMENT: Final = frozenset(
    {"WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_SWEEP_PARAM_PATH"}
)


@dataclass(frozen=True)
class Identity:
    """Which run of the tracker a run folder is; written once, so that a resumed run stays the same run.

    Attributes:
        id: Random.
        project: Of the tracker.
        entity: Account or team; None for the key's own.
        link: While the client works, a symbolic link to the run folder under a name that says nothing. The client
            sends the place of every artifact's file on this disk; this is what it then sends. It also lets a run
            folder be moved before it is sent.
    """

    id: str
    project: str
    entity: str | None = None
    link: str = ""


def identity(run_dir: Path, project: str, entity: str | None = None) -> Identity:
    """The identity in RUN/tracker.json, made if there is none; a sweep's agent brings its own."""
    if "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID"):
        known = Identity(
            os.environ["WANDB_RUN_ID"],
            os.environ.get("WANDB_PROJECT", project),
            os.environ.get("WANDB_ENTITY"),
            _new_link(),
        )
    elif (stored := stored_identity(run_dir)) is not None:
        return stored
    else:
        known = Identity(_new_id(), project, entity, _new_link())
    write_json(run_dir / TRACKER, asdict(known))
    return known


def stored_identity(run_dir: Path) -> Identity | None:
    """The identity in RUN/tracker.json; None if it is missing or damaged."""
    try:
        values = json.loads((run_dir / TRACKER).read_text(encoding="utf-8"))
        known = Identity(str(values["id"]), str(values["project"]), values["entity"], str(values["link"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if _LINK.fullmatch(known.link) else None


def _new_id() -> str:
    """Letters only: with digits it could have the form of a research ID."""
    return "".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(10))


def _new_link() -> str:
    return f"{_SHARED}/diffusion-adc-{secrets.token_hex(8)}"


def make_link(run_dir: Path, who: Identity) -> Path:
    """Make the run's link, or find it made.

    Raises:
        OSError: Something that is not this user's link has its name.
    """
    link, target = Path(who.link), run_dir.resolve()
    if link.is_symlink() and link.lstat().st_uid == os.getuid():
        if link.resolve() == target:
            return link
        link.unlink()  # the run folder has moved since
    link.symlink_to(target, target_is_directory=True)
    return link


def drop_link(who: Identity) -> None:
    """Remove the run's link, if it is one and this user's."""
    link = Path(who.link)
    with contextlib.suppress(OSError):
        if _LINK.fullmatch(who.link) and link.is_symlink() and link.lstat().st_uid == os.getuid():
            link.unlink()


def environment(run_dir: Path, who: Identity) -> dict[str, str]:
    """The client's environment: folders inside the run, no notes, tags, names or addresses of this machine."""
    kept = _KEPT_ENVIRONMENT | (_SWEEP_ENVIRONMENT if "WANDB_SWEEP_ID" in os.environ else frozenset())
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") or k in kept}
    # Artifacts are staged in user folders by default; a run folder must be complete in itself.
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        clean[name] = str((run_dir / FOLDER / name.removeprefix("WANDB_").lower()).resolve())
    clean["WANDB_DATA_DIR"] = f"{who.link}/{FOLDER}/data_dir"
    # Before the settings apply, the client prints notices of its own, and reports its errors to its makers.
    return clean | {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


def harden_environment(run_dir: Path, who: Identity) -> None:
    """Make `environment` this process's own."""
    clean = environment(run_dir, who)
    for name in [name for name in os.environ if name not in clean]:
        del os.environ[name]
    os.environ.update(clean)


def open_run(
    run_dir: Path, who: Identity, *, name: str, mode: Mode, config: Mapping[str, Any], finish_s: float = 0.0
) -> Any:
    """Start or resume the tracker's run.

    Args:
        run_dir: RUN; everything the client writes lies in RUN/wandb.
        who: The run's identity.
        name: Shown; must be harmless.
        mode: As resolved.
        config: What passed the allow-list.
        finish_s: Seconds that finishing may take; 0 has no limit.

    Raises:
        Exception: Whatever the client raises.
    """
    (run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    make_link(run_dir, who)
    harden_environment(run_dir, who)
    import wandb

    settings = wandb.Settings(
        console="off", disable_git=True, disable_code=True, save_code=False, disable_job_creation=True,
        x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
        host="anon", username="anon", email="", program=PROGRAM, root_dir=str(run_dir.resolve()), silent=True,
        run_notes="", run_tags=(), run_group=None, run_job_type=None, finish_timeout=finish_s,
        init_timeout=max(INIT_S, patience_s()), x_transaction_log_flush_interval=_FLUSH_S,
    )  # fmt: skip
    # In a sweep the agent has said which run; saying it again makes the client warn.
    swept = "WANDB_SWEEP_ID" in os.environ
    named: dict[str, Any] = (
        {} if swept else {"project": who.project, "entity": who.entity, "id": who.id, "name": name}
    )
    return wandb.init(
        mode=mode if mode != "disabled" else "offline", config=dict(config), resume="allow",
        settings=settings, allow_val_change=True, **named,
    )  # fmt: skip


def abandon() -> None:
    """Stop the client's own process at once; what it wrote stays on disk for `sync`.

    Otherwise it goes on trying to reach a server, and the end of this process waits for it.
    """
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import module
        from wandb.sdk.lib.service import service_token

        setup, wandb_setup._singleton = wandb_setup._singleton, None
        module.unset_globals()
        connection = setup._connection if setup is not None else None
        if connection is None:
            return
        if connection._cleanup is not None:
            connection._cleanup()  # its hook at exit would wait
        if connection._proc is not None:
            service_token.clear_service_in_env()
            connection._proc._process.kill()
            connection._proc._process.wait(timeout=1)
