"""The tracker as Lightning's logger: it is told, it is never waited for, and its failures end nothing.

One thread talks to the client. Training puts work into a bounded queue and goes on; where the queue is full or
the client has died the work is dropped, and one line says so. RUN/metrics.csv is complete either way.
"""

from __future__ import annotations

import queue
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_adc.callbacks.policy import Policy
from diffusion_adc.callbacks.reach import Mode, obstacle, resolve
from diffusion_adc.callbacks.session import Identity, abandon, drop_link, open_run

STEP: Final = "trainer/global_step"
_QUEUE: Final = 4096
_LOCAL_S: Final = 120.0
"""Seconds an offline run may take to write its last lines; a second where the machine is not starved."""
_UPLOAD_S: Final = 300.0
"""Seconds a server that answers may take for what is still to be sent."""
_GONE_S: Final = 1.0
"""Seconds a client without a server is given to close its file."""

_FAILURES: Final = 3
"""Entries in a row that the client may refuse."""

Work = Callable[[Any], None]


class Tracker(Logger):
    """One run of the tracker.

    Args:
        run_dir: RUN.
        who: The run's identity; kept when it is resumed.
        wanted: Mode of the experiment; resolved when the run starts.
        label: The run's name as shown.
        config: What passed the allow-list.
        policy: What may be sent.
    """

    def __init__(
        self,
        run_dir: Path,
        who: Identity,
        *,
        wanted: Mode,
        label: str,
        config: Mapping[str, Any],
        policy: Policy,
    ) -> None:
        super().__init__()
        self.run_dir, self.who, self.wanted, self.label = run_dir, who, wanted, label
        self.config, self.policy = dict(config), policy
        self.mode: Mode | None = None
        self.dropped = 0
        self._jobs: queue.Queue[Work | None] = queue.Queue(_QUEUE)
        self._thread: threading.Thread | None = None
        self._run: Any = None
        self._lost = False

    @property
    def name(self) -> str:
        """The tracker's project."""
        return self.who.project

    @property
    def version(self) -> str:
        """The tracker's run ID."""
        return self.who.id

    @property
    def save_dir(self) -> str:
        """RUN."""
        return str(self.run_dir)

    @property
    def alive(self) -> bool:
        """Whether what is logged still reaches the client."""
        return self._thread is not None and not self._lost

    @property
    def lost(self) -> bool:
        """Whether the client died or was left behind."""
        return self._lost

    @rank_zero_only
    def start(self) -> None:
        """Resolve the mode and start the run, once; before data loaders fork, since a fork copies held locks."""
        if self.mode is not None:
            return
        resolved = resolve(self.wanted)
        self.mode = resolved.mode
        if resolved.line:
            print(resolved.line, file=sys.stderr, flush=True)
        if self.mode == "disabled":
            return
        if not self._open(self.mode) and self.mode == "online":
            abandon()
            self.mode = "offline"
            self._open("offline")
        if self._run is None:
            self._give_up("it does not start")
            return
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def _open(self, mode: Mode) -> bool:
        try:
            import PIL.Image  # noqa: F401  imported here, not in the thread: see `start`

            self._run = open_run(
                self.run_dir, self.who, name=self.label, mode=mode, config=self.config, finish_s=_UPLOAD_S
            )
        except (Exception, SystemExit):
            self._run = None
        return self._run is not None

    def submit(self, work: Work) -> None:
        """Have `work` done with the client's run, soon and elsewhere; never waits, never raises."""
        if not self.alive:
            return
        try:
            self._jobs.put_nowait(work)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        failed = 0
        while (work := self._jobs.get()) is not None:
            try:
                work(self._run)
                failed = 0
            except (Exception, SystemExit) as error:
                failed += 1
                # One bad panel is no reason to stop; a broken pipe is, and so is a client that takes nothing.
                if isinstance(error, OSError) or failed > _FAILURES:
                    self._give_up(type(error).__name__)
                    return
                print(f"tracker: one entry left out ({type(error).__name__})", file=sys.stderr, flush=True)

    def _give_up(self, why: str) -> None:
        if self._lost:  # a thread left behind may still come to its own end
            return
        self._lost = True
        text = f"tracker: lost ({why}); training goes on, metrics.csv is complete"
        print(text, file=sys.stderr, flush=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars at a step of the trainer."""
        self.start()
        values = {name: float(value) for name, value in metrics.items()}
        self.submit(lambda run: run.log(_at(values, step), step=step))

    @rank_zero_only
    def log_panels(self, make: Callable[[], Mapping[str, Any]], step: int | None = None) -> None:
        """Log what `make` builds (pictures, tables, pages) in the tracker's own time."""
        self.start()
        self.submit(lambda run: run.log(_at(make(), step), step=step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration went through the allow-list when the run started."""

    def save(self) -> None:
        """Lightning calls this before the loop: the time to start."""
        self.start()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run; bounded, and short where the server has gone."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        if not self._lost:
            code = 0 if status in ("success", "finished") else 1
            gone = self.mode == "online" and obstacle() is not None
            try:
                self._jobs.put(lambda run: _finish(run, code), timeout=_GONE_S)
                self._jobs.put(None, timeout=_GONE_S)
            except queue.Full:
                gone = True
            thread.join(_GONE_S if gone else _UPLOAD_S if self.mode == "online" else _LOCAL_S)
            if thread.is_alive():
                why = "the server has gone" if self.mode == "online" else "the client does not end"
                self._give_up(f"{why}; `diffusion-adc sync RUN` uploads what was kept")
        if self._lost:
            abandon()
        drop_link(self.who)
        if self.dropped:
            print(f"tracker: {self.dropped} entries left out, it was too slow", file=sys.stderr, flush=True)


def _at(values: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    return dict(values) if step is None else {**values, STEP: step}


def _finish(run: Any, code: int) -> None:
    try:
        run.finish(exit_code=code)
    except Exception as error:
        raise ConnectionError(type(error).__name__) from None
