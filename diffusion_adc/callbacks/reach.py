"""Whether the tracker's server can be used, found out before the client starts: its own attempt takes 100 s."""

from __future__ import annotations

import base64
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

Mode = Literal["offline", "online", "disabled"]
DEFAULT_SERVER: Final = "https://api.wandb.ai"
PROBE_S: Final = 2.0
"""Seconds the server is given to answer, unless ``WANDB_HTTP_TIMEOUT`` says otherwise."""
_QUERY: Final = "query Viewer { viewer { id } }"
_OFF: Final[dict[str, Mode]] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Resolved:
    """How the tracker runs, and the line that says why if it is not as wanted."""

    mode: Mode
    line: str | None = None


def patience_s() -> float:
    """Seconds the server is given to answer: ``WANDB_HTTP_TIMEOUT``, or `PROBE_S`."""
    try:
        return float(os.environ.get("WANDB_HTTP_TIMEOUT", PROBE_S))
    except ValueError:
        return PROBE_S


def server_url() -> str:
    """The server's address: ``WANDB_BASE_URL`` or the public one."""
    return (os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).rstrip("/")


def server_name(url: str | None = None) -> str:
    """Host and port of an address, as written on an allow-list."""
    parts = urllib.parse.urlsplit(url or server_url())
    host = (parts.hostname or "").lower()
    return f"{host}:{parts.port}" if parts.port else host


def within(seconds: float, work: Callable[[], _T]) -> _T | None:
    """The result of `work`, or None if it takes longer; it then goes on in a thread that stops nobody."""
    done: list[_T] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    return done[0] if done else None


def obstacle(url: str | None = None, key: str | None = None, seconds: float | None = None) -> str | None:
    """Why the server cannot be used; None if it answers and knows the key.

    Args:
        url: Of the server; `server_url` by default.
        key: ``WANDB_API_KEY`` by default.
        seconds: `patience_s` by default; for the whole attempt, the name look-up included, which no socket timeout covers.
    """
    url = url or server_url()
    key = key or os.environ.get("WANDB_API_KEY")
    if not key:
        return "no WANDB_API_KEY"
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        return "the server's address is not http"
    limit = patience_s() if seconds is None else seconds
    answer = within(limit, lambda: _asked(url, key, limit))
    return "the server does not answer" if answer is None else (answer or None)


def _asked(url: str, key: str, seconds: float) -> str:
    """Empty if the key is known, else the obstacle."""
    token = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{url}/graphql",
        json.dumps({"query": _QUERY, "variables": {}}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            known = (json.load(reply).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        return (
            "the server refuses the key" if error.code in (401, 403) else f"the server answers {error.code}"
        )
    except Exception:  # whatever a network, a proxy or a stranger on that port can do
        return "the server does not answer"
    return "" if known else "the server refuses the key"


def resolve(wanted: Mode) -> Resolved:
    """The mode before the client starts: online only with a key and a server that answers.

    ``WANDB_MODE`` can only make it quieter. A trial of a W&B sweep is online unless that says otherwise: who
    started the agent asked for it.
    """
    quieter = _OFF.get(os.environ.get("WANDB_MODE", ""))
    if "disabled" in (wanted, quieter):
        return Resolved("disabled")
    if quieter == "offline" or (wanted == "offline" and "WANDB_SWEEP_ID" not in os.environ):
        return Resolved("offline")
    reason = obstacle()
    if reason is None:
        return Resolved("online")
    return Resolved("offline", f"tracker: offline, {reason}; `diffusion-adc sync RUN` uploads the run later")
