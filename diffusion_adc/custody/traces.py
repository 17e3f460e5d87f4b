"""Everything on disk that came from certain persons: found by what each file says of its own sources.

Looked through are the cohort, the store and the sealed truth beside it, and all folders below RUNS. In there a
trace is: a file or folder named after a person's case; a table, log, page or JSON file that names one; a
picture whose sidecar holds one's keyed hash; a copy of one of the case's images under any name; what the
tracker keeps of a run that used one; a temporary that an interrupted command left.

Two cohorts of digital patients may use the same IDs for different patients. Runs and maps of a *synthetic*
cohort that is provably another one are therefore left alone; of persons, the research ID is the same everywhere.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from diffusion_adc.custody import lineage
from diffusion_adc.custody.redact import BY_HAND, PAGES, TEXTS, Names
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.atomic import sha256_file
from diffusion_adc.records.maps import SCORE_SUMS

STORE: Final = ".store"
TRUTH: Final = ".truth"
"""Endings of the folders beside a cohort."""
TRACKER: Final = "wandb"
_KEPT: Final = frozenset({cohorts.WITHDRAWN, cohorts.AUDIT, cohorts.CERTIFICATES, cohorts.JOURNAL})
_TABLES: Final = frozenset({"cases.csv", "clinical.csv", "cohort.json"})


@dataclass(frozen=True)
class Scope:
    """Where to look, and for whom.

    Attributes:
        cohort: The cohort's folder.
        research_ids: The persons.
        runs: Folder of runs, maps and pages; None if there is none.
        also: Further folders: opened deliveries, pages and maps kept elsewhere.
        digests: Every digest the cohort has had.
        images: SHA-256 of the persons' own image files by size in bytes.
    """

    cohort: Path
    research_ids: tuple[str, ...]
    runs: Path | None = None
    also: tuple[Path, ...] = ()
    digests: frozenset[str] = frozenset()
    images: Mapping[int, frozenset[str]] = field(default_factory=dict)


@dataclass
class Traces:
    """What was found; paths are absolute, kinds are words for the report.

    Attributes:
        delete: (kind, path) of files and whole folders.
        redact: Files to rewrite.
        sidecars: Picture lists to shorten once the pictures are gone.
        runs: Runs that used one of the persons.
        maps: Folders of maps made by such a run.
        tracker: Runs of the tracker, as project/run.
        by_hand: What is left to people.
        listed: Files looked at.
    """

    delete: list[tuple[str, Path]] = field(default_factory=list)
    redact: list[Path] = field(default_factory=list)
    sidecars: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    tracker: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    listed: int = 0

    @property
    def any_left(self) -> bool:
        """Whether a file is left that `withdraw` itself must remove or rewrite."""
        return bool(self.delete or self.redact)


def find_traces(scope: Scope) -> Traces:
    """Look through the scope; nothing is changed.

    Raises:
        UsageError: A folder that was named does not exist.
    """
    return _Search(scope).all()


class _Search:
    def __init__(self, scope: Scope) -> None:
        self.scope, self.names, self.traces = scope, Names(scope.research_ids), Traces()
        self.cohort = scope.cohort.resolve()
        for folder in (*(() if scope.runs is None else (scope.runs,)), *scope.also):
            if not folder.is_dir():
                raise UsageError(
                    f"no folder {folder.name}", "the folder of the runs", "check --runs and --also"
                )
        self.runs = None if scope.runs is None else scope.runs.resolve()
        self.also = [folder.resolve() for folder in scope.also]
        self.used: list[Path] = []
        self.checkpoints: set[str] = set()
        self.seen: set[Path] = set()
        self.gone: set[Path] = set()

    def all(self) -> Traces:
        records = sorted(self.runs.rglob(lineage.RECORD)) if self.runs is not None else []
        run_dirs = [path.parent for path in records]
        foreign = {run for run in run_dirs if self._is_foreign(lineage.read_record(run), run)}
        self.used = [run for run in run_dirs if run not in foreign and self._uses(run)]
        self._add_descendants([run for run in run_dirs if run not in foreign])
        for run in self.used:
            self._run(run)
        beside = self.cohort.parent
        self._walk(self.cohort, "case")
        stores = {beside / f"{self.cohort.name}{STORE}", *self._stores(run_dirs, foreign)}
        for store in sorted(stores):
            self._walk(store, "store entry")
        self._walk(beside / f"{self.cohort.name}{TRUTH}", "sealed truth")
        for ending in (".part", ".old"):
            for path in sorted(beside.glob(f".{glob.escape(self.cohort.name)}.*{ending}")):
                self._delete("temporary", path)
        if self.runs is not None:
            self._walk(self.runs, "map or picture", foreign)
        for folder in self.also:
            self._walk(folder, "file elsewhere")
        self._other_cohorts(beside)
        self.traces.runs = self.used
        self.traces.by_hand = list(dict.fromkeys(self.traces.by_hand))
        return self.traces

    # -- runs ------------------------------------------------------------------------------------------------

    def _is_foreign(self, record: Mapping[str, Any], run: Path | None) -> bool:
        """Provably of another synthetic cohort."""
        if record.get("provenance") != "synthetic" or record.get("cohort_digest") in self.scope.digests:
            return False
        return run is None or not self._names_cohort(run)

    def _names_cohort(self, run: Path) -> bool:
        experiment = _experiment(run)
        data = _section(_section(experiment, "data"), "init_args")
        return any(
            path.resolve() == self.cohort
            for value in (experiment.get("cohort"), data.get("cohort"))
            for path in self._places(value)
        )

    def _places(self, value: Any) -> list[Path]:
        """Where a path in an experiment may point: it is relative to where `fit` was called."""
        if not isinstance(value, str) or not value or "\0" in value:
            return []
        starts = [Path.cwd(), self.cohort.parent]
        starts += [] if self.runs is None else [self.runs, self.runs.parent]
        return [start / value for start in starts]

    def _uses(self, run: Path) -> bool:
        record = lineage.read_record(run)
        if not lineage.has_lineage(record):
            # A record that cannot be read proves nothing; of this cohort, it is better blocked than missed.
            return self._names_cohort(run)
        return bool(lineage.persons_used(record, self.scope.research_ids))

    def _add_descendants(self, candidates: list[Path]) -> None:
        """Runs that were started from a checkpoint of a run that used one of the persons."""
        while True:
            self.checkpoints = {d for run in self.used for d in lineage.checkpoint_hashes(run).values()}
            more = [run for run in candidates if run not in self.used and self._descends(run)]
            if not more:
                return
            self.used = sorted([*self.used, *more])

    def _descends(self, run: Path) -> bool:
        parents = lineage.read_record(run).get("parents")
        hashes = {str(p.get("checkpoint_sha256")) for p in parents or () if isinstance(p, dict)}
        if hashes & self.checkpoints:
            return True
        used = [run.resolve() for run in self.used]
        return any(
            path.resolve().is_relative_to(parent) and path.exists()
            for value in _strings(_experiment(run).get("model"))
            for path in self._places(value)
            for parent in used
        )

    def _run(self, run: Path) -> None:
        """What of a run that used the persons must go besides what is named after them."""
        tracker = run / TRACKER
        if tracker.is_dir():
            project = str(_section(_experiment(run), "tracking").get("project", "?"))
            for folder in sorted((*tracker.glob("offline-run-*"), *tracker.glob("run-*"))):
                if folder.is_dir() and not folder.is_symlink():
                    synced = folder.name.startswith("run-") or any(folder.glob("*.synced"))
                    name = folder.name.removeprefix("offline-").split("-", 2)[-1]
                    state = "uploaded" if synced else "kept offline; delete it there if it was ever uploaded"
                    self.traces.tracker.append(f"{project}/{name} ({state})")
            self._delete("tracker folder", tracker)
        hashes = self._hashes(run)
        folders = {path.parent for path in run.rglob(lineage.PICTURES)} | {run / "grids"}
        for folder in sorted(folders):
            noted = lineage.noted_pictures(folder)
            gone = [
                p
                for p in sorted(folder.glob("*.png"))
                if noted.get(p.name) is None or noted[p.name] in hashes
            ]
            for picture in gone:
                self._delete("sample grid", picture)
            if gone and noted:
                self.traces.sidecars.append(folder / lineage.PICTURES)

    def _hashes(self, run: Path) -> set[str]:
        record = lineage.read_record(run)
        if not lineage.has_lineage(record):
            return set()
        key = str(record["case_key"])
        return {
            lineage.keyed_hash(name, key)
            for person in self.scope.research_ids
            for name in lineage.case_names(person)
        }

    def _stores(self, run_dirs: Iterable[Path], foreign: set[Path]) -> Iterator[Path]:
        """Stores that runs on this cohort keep elsewhere."""
        for run in run_dirs:
            value = _section(_section(_experiment(run), "data"), "init_args").get("store")
            if run not in foreign and value and (run in self.used or self._names_cohort(run)):
                yield from (path.resolve() for path in self._places(value) if path.is_dir())

    # -- files -----------------------------------------------------------------------------------------------

    def _walk(self, root: Path, kind: str, foreign: Iterable[Path] = ()) -> None:
        skip = {path.resolve() for path in foreign}
        if root != self.cohort:
            skip.add(self.cohort)
        for folder, folders, files in os.walk(root):
            here = Path(folder)
            other = self._other_data(here, files) or ("maps.json" in files and self._foreign_maps(here))
            if here in skip or here in self.seen or other:
                folders.clear()
                continue
            self.seen.add(here)
            gone = [name for name in folders if self._deleted(here / name, kind)]
            folders[:] = sorted(set(folders) - set(gone) - (_KEPT if here == self.cohort else set()))
            named = list(map(self.names.within, gone))
            for name in sorted(files):
                if here == self.cohort and name in _KEPT | _TABLES:
                    continue
                self.traces.listed += 1
                if not self._deleted(here / name, kind):
                    named.append(self._text(here / name))
            if "maps.json" in files:
                self._maps(here, touched=any(named))

    def _deleted(self, path: Path, kind: str) -> bool:
        """Whether a path goes as it is: by its name, as a leftover temporary, or as a copy of an image."""
        if path in self.gone:
            return True
        if self.names.within(path.name):
            if path.is_symlink():
                self.traces.by_hand.append(
                    "the target of a link named after a person: only the link is deleted"
                )
            self._delete(_kind(path, kind), path)
        elif self._is_leftover(path):
            self._delete("temporary", path)
        elif self._is_copy(path):
            self._delete("copy of an image", path)
        else:
            return False
        return True

    def _is_leftover(self, path: Path) -> bool:
        """Temporaries of an interrupted command; those of a run that used nobody may be of one that is alive."""
        if not (path.name.startswith(".") and path.name.endswith((".part", ".old"))):
            return False
        ours = any(root in path.parents for root in (self.cohort, *self.used))
        return ours or (path.is_file() and self.names.in_file(path))

    def _is_copy(self, path: Path) -> bool:
        try:
            hashes = self.scope.images.get(path.stat().st_size) if path.is_file() else None
            return hashes is not None and sha256_file(path) in hashes
        except OSError:
            return False

    def _text(self, path: Path) -> bool:
        """Whether a text file names a person; what is to be done about it is noted."""
        suffix = path.suffix.lower()
        if suffix not in TEXTS or not self.names.in_file(path):
            return False
        if suffix in BY_HAND:
            self.traces.by_hand.append(f"a {suffix} file in {path.parent.name} names a person")
        elif suffix in PAGES:
            self._delete("page", path)
        else:
            self.traces.redact.append(path)
        return True

    def _foreign_maps(self, folder: Path) -> bool:
        manifest = _json(folder / "maps.json")
        inside = any(run in (folder, *folder.parents) for run in self.used)
        return not inside and self._is_foreign(manifest, None)

    def _maps(self, folder: Path, *, touched: bool) -> None:
        manifest = _json(folder / "maps.json")
        inside = any(run in (folder, *folder.parents) for run in self.used)
        if inside or str(manifest.get("checkpoint_sha256")) in self.checkpoints:
            self.traces.maps.append(folder)
        if touched:
            # Sums over cases, and pictures of them: without the person they must be computed again.
            for name in SCORE_SUMS:
                self._delete("scores", folder / name)

    def _delete(self, kind: str, path: Path) -> None:
        if path.exists() or path.is_symlink():
            self.traces.delete.append((kind, path))
            self.gone.add(path)

    def _other_data(self, here: Path, files: list[str]) -> bool:
        """Whether a folder is another cohort, or the store or truth of one."""
        owner = here.with_suffix("") if here.suffix in (STORE, TRUTH) else here
        if owner in (self.cohort, here):
            return "cohort.json" in files and here != self.cohort and here not in self.also
        return (owner / "cohort.json").is_file()

    def _other_cohorts(self, beside: Path) -> None:
        """Other cohorts of persons beside this one that hold one of them too."""
        for manifest in sorted(beside.glob("*/cohort.json")):
            folder = manifest.parent
            if folder.resolve() == self.cohort or _json(manifest).get("provenance") == "synthetic":
                continue
            if self.names.in_file(folder / "cases.csv"):
                self.traces.by_hand.append(
                    f"the cohort {folder.name} holds the person too: withdraw there as well"
                )


def _kind(path: Path, kind: str) -> str:
    """A word for the report from where a file lies."""
    if path.suffix == ".png":
        return "picture"
    if kind == "map or picture":
        return "map" if path.is_dir() else "file in a run"
    return kind


def _experiment(run: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
