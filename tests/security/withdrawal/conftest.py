"""A data root as commands leave it: twenty persons, three of whom will withdraw, and what came from whom."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_adc.custody import erase, lineage
from diffusion_adc.custody import withdraw as withdrawal
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.clinical import Covariates
from diffusion_adc.domain.cohort import Cohort
from diffusion_adc.records import cohort as cohorts
from diffusion_adc.records.atomic import write_csv, write_json
from diffusion_adc.records.maps import MAP_VOLUMES, write_map_case, write_maps_manifest

SHAPE = (8, 8, 4)
AFFINE = np.diag([2.5, 2.5, 5.0, 1.0])
PERSONS = [f"KLN-{number:04d}" for number in range(1, 21)]
GONE = [PERSONS[2], PERSONS[9], PERSONS[16]]
KEY = "0123456789abcdef" * 2


@dataclass
class World:
    """A data root as commands leave it, and the list of what came from those who will withdraw."""

    root: Path
    theirs: set[str] = field(default_factory=set)
    """Files that came from the three alone, relative to the root; written down while they are made."""
    named: set[str] = field(default_factory=set)
    """Files that name them among others."""
    used: set[str] = field(default_factory=set)
    """Runs that used them."""

    persons: tuple[str, ...] = tuple(PERSONS)
    gone: tuple[str, ...] = tuple(GONE)

    def copy(self, root: Path) -> World:
        """The same elsewhere."""
        shutil.copytree(self.root, root)
        return World(root, set(self.theirs), set(self.named), set(self.used))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file's name below the root, and its bytes."""
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(self.root)), path.read_bytes()

    def state(self) -> dict[str, str]:
        """Every file's hash and every folder."""
        found = {name: hashlib.sha256(data).hexdigest() for name, data in self.files()}
        return found | {str(p.relative_to(self.root)): "" for p in self.root.rglob("*") if p.is_dir()}

    @property
    def digest(self) -> str:
        return str(json.loads((self.cohort / "cohort.json").read_text())["digest"])

    @property
    def cohort(self) -> Path:
        return self.root / "cohort"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def put(self, path: Path, data: bytes, person: str | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if person in GONE:
            self.theirs.add(str(path.relative_to(self.root)))

    def table(self, path: Path, rows: list[str], columns: str = "case_id") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, [{columns: row, "value": 1.5} for row in rows], (columns, "value"))
        if any(row.startswith(gone) for row in rows for gone in GONE):
            self.named.add(str(path.relative_to(self.root)))


def secret(case_id: str, kind: str, size: int = 256) -> bytes:
    """Bytes that only this case's file of this kind holds."""
    return np.random.default_rng(list(f"{case_id} {kind}".encode())).bytes(size)


def make_cohort(world: World) -> list[Case]:
    cases = []
    for number, person in enumerate(PERSONS):
        for exam in (1, 2) if number % 8 == 2 else (1,):
            rng = np.random.default_rng([number, exam])
            adc = rng.uniform(0.5, 2.0, SHAPE).astype(np.float32)
            label = np.zeros(SHAPE, np.uint16)
            label[2:4, 2:5, 1:3] = rng.integers(0, 2, (2, 3, 2))
            reading = {seq.TUMOR_LABEL: label, seq.TUMOR_ADC: np.where(label > 0, adc, 0)}
            case = Case(
                person, exam, split=("train", "val", "test")[number % 3], provenance="restricted",
                b_low=50, b_high=800, tumor_status="present",
            )  # fmt: skip
            volumes = {seq.ADC: adc, seq.DWI_HIGH: adc * 100, seq.VALID: adc > 0.6, **reading}
            cases.append(cohorts.write_case(world.cohort, case, volumes, AFFINE, {"R1": reading}))
            folder = world.cohort / "cases" / case.case_id
            if person in GONE:
                world.theirs |= {str(p.relative_to(world.root)) for p in folder.rglob("*") if p.is_file()}
    table = {person: Covariates(age_years=40.0 + n) for n, person in enumerate(PERSONS)}
    cohorts.write_manifest(world.cohort, Cohort(tuple(cases), table))
    world.named |= {"cohort/cases.csv", "cohort/clinical.csv"}
    page = "".join(f"<tr><td>{case.case_id}</td></tr>" for case in cases).encode()
    world.put(world.cohort / "ingest_report.html", page, GONE[0])
    world.put(world.cohort / ".cases.csv.k2x.part", "\n".join(PERSONS).encode(), GONE[0])
    for case in cases:
        name, person = case.case_id, case.research_id
        entry = world.root / "cohort.store" / "0f1e2d3c" / name
        for part in ("images.npy", "presence.npy", "voxels.npy"):
            world.put(entry / part, secret(name, part), person)
        world.put(entry / "meta.json", json.dumps({"case_id": name}).encode(), person)
        world.put(entry.parent / ".locks" / name, b"", person)
        world.put(world.root / "cohort.truth" / name / "truth.npz", secret(name, "truth"), person)
    half = GONE[1] + "_01"
    world.put(
        world.root / "cohort.store" / "0f1e2d3c" / f".{half}.q1.part" / "images.npy",
        secret(half, "half"),
        GONE[1],
    )
    world.put(
        world.root / ".cohort.ab12.part" / "cases" / half / "adc.nii.gz", secret(half, "staged"), GONE[1]
    )
    write_json(world.root / "cohort.truth" / "truth.json", {"cohort_digest": world.digest})
    return cases


def make_run(world: World, name: str, cases: list[Case], *, noted: bool = True, **more: Any) -> Path:
    run = world.runs / name
    gone = [case for case in cases if case.research_id in GONE]
    world.used |= {name} if gone or more.get("parents") else set()
    hashes = sorted(lineage.keyed_hash(case.case_id, KEY) for case in cases)
    record = {
        "state": "stopped", "steps": 8, "cohort_digest": world.digest, "provenance": "restricted",
        "case_key": KEY, "cases": hashes, **more,
    }  # fmt: skip
    write_json(run / "record.json", record)
    text = "name: demo\ncohort: cohort\ntracking: {mode: offline, project: adc}\nmodel: {class_path: x.Y}\n"
    world.put(run / "experiment.yaml", text.encode())
    for kind in ("best", "last"):
        weights = secret(name, kind, 4096)
        world.put(run / "checkpoints" / f"{kind}.ckpt", weights)
        write_json(
            run / "checkpoints" / f"{kind}.ckpt.json",
            {"sha256": hashlib.sha256(weights).hexdigest(), "step": 8},
        )
    world.put(run / "metrics.csv", b"step,val/loss\n8,0.5\n")
    shown = {f"step{number:07d}_largest.png": case for number, case in enumerate(cases)}
    for picture, case in shown.items():
        # Without a list of what it shows, a picture of a run that used them may be theirs.
        owner = case.research_id if noted else (GONE[0] if gone else None)
        world.put(run / "grids" / picture, secret(case.case_id, f"{name} grid"), owner)
    if noted:
        lineage.note_pictures(run / "grids", {p: case.case_id for p, case in shown.items()}, KEY)
    owner = GONE[0] if name in world.used else None
    tracker = run / "wandb" / "offline-run-20260101_000000-demo"
    world.put(tracker / "files" / "media" / "images" / "largest.png", secret(name, "media"), owner)
    world.put(tracker / "run-demo.wandb", secret(name, "wandb"), owner)
    for case in cases:
        world.put(
            run / "latents" / f"{case.case_id}.npy", secret(case.case_id, f"{name} latent"), case.research_id
        )
    return run


def make_maps(world: World, maps: Path, cases: list[Case], run: Path) -> None:
    rng = np.random.default_rng(1)
    for case in cases:
        volumes = {name: rng.integers(0, 2, SHAPE) for name in MAP_VOLUMES}
        write_map_case(maps, case.case_id, volumes, AFFINE, [], {"case_id": case.case_id})
        if case.research_id in GONE:
            world.theirs |= {str(p.relative_to(world.root)) for p in (maps / case.case_id).iterdir()}
    names = [case.case_id for case in cases]
    weights = hashlib.sha256((run / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    write_maps_manifest(
        maps, {"cases": names, "refused": {names[-1]: f"S25 {names[-1]}: damaged"}, "run": run.name,
               "cohort_digest": world.digest, "checkpoint_sha256": weights}
    )  # fmt: skip
    world.named.add(str((maps / "maps.json").relative_to(world.root)))
    world.table(maps / "cases.csv", names)
    world.table(maps / "lesions.csv", [name for name in names for _ in range(2)])
    for name in ("scores.json", "claim.json", "comparison.json", "figures/froc.png"):
        world.put(maps / name, f'{{"{name}": {{"dice": {{"value": 0.7}}}}}}'.encode(), GONE[0])
    for case in cases:
        world.put(
            maps / "pictures" / f"{case.case_id}.png", secret(case.case_id, str(maps)), case.research_id
        )
    world.put(maps / "index.html", "".join(f'<a href="#{name}">' for name in names).encode(), GONE[0])


def build(root: Path) -> World:
    world = World(root)
    cases = make_cohort(world)
    others = [case for case in cases if case.research_id not in GONE]
    run = make_run(world, "all", cases)
    make_maps(world, run / "maps" / "test", cases, run)
    make_run(world, "unlisted", cases, noted=False)
    free = make_run(world, "free", others[:10])
    make_maps(world, world.runs / "maps_of_free", cases, free)
    make_run(world, "child", others, parents=lineage.parents_of(run / "checkpoints" / "best.ckpt"))
    copied = (world.cohort / "cases" / f"{GONE[2]}_01" / "adc.nii.gz").read_bytes()
    world.put(world.runs / "free" / "for_a_talk.nii.gz", copied, GONE[2])
    world.table(world.runs / "comparison.csv", [case.case_id for case in cases])
    world.put(world.runs / "refused.log", "\n".join(f"S02 {p} adc: a gap" for p in PERSONS).encode())
    world.named.add("runs/refused.log")
    return world


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("template") / "data")


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    return template.copy(tmp_path / "data")


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """One time and one salt, so that two withdrawals can be compared to the byte."""
    for module in (erase, withdrawal):
        monkeypatch.setattr(module, "now", lambda: "2026-04-01T09:00:00Z")
    monkeypatch.setattr(withdrawal.secrets, "token_hex", lambda size=16: "5a" * size)
