"""Many methods on the same cases: one table, paired differences, and the verdict that was fixed beforehand.

Methods are folders of maps; several folders of one id are training seeds, whose scores are averaged and whose spread is
given apart from the sampling interval. Folders that differ in the sampling seed alone tell how much a rerun moves TDV.
All methods of a cohort share the resampling weights, so that every difference is paired by person. The flow is held
against each rival, p-values corrected by Holm over the rivals (Scand J Stat 1979;6:65).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import CohortError, UsageError
from diffusion_adc.evaluation import scores as table
from diffusion_adc.evaluation.bootstrap import REPLICATES, Bootstrap, Estimate, bootstrap_p, holm
from diffusion_adc.evaluation.case import CaseResult, score_case
from diffusion_adc.evaluation.material import ORACLE_DRAWS, SEED, Maps, Study
from diffusion_adc.evaluation.reference import ARMS
from diffusion_adc.evaluation.scores import estimates
from diffusion_adc.evaluation.strata import SIZES
from diffusion_adc.inference.recalibration import Recalibration

Progress = Callable[[int, int], None]
Results = list[CaseResult | None]

FLOW: Final = "B8"
"""Id of the default method, the one a verdict is about."""

DIFFERENCES: Final = (
    "tdv_crps", "lesion_brier", "lesion_f1", "log_tdv_error", "gadc_error", "dice", "fp_volume_ml",
    *(f"lesion_sensitivity_{size}" for size in SIZES), *(f"crps_{arm}" for arm in ARMS),
    *(f"case_crps_{arm}" for arm in ARMS),
)  # fmt: skip
"""Scores of which the flow's difference from every rival is given."""

HIGHER_IS_BETTER: Final = frozenset({"lesion_f1", "dice", *(f"lesion_sensitivity_{size}" for size in SIZES)})

WITH_AMBIGUITY: Final = "with ambiguity"
WITHOUT_AMBIGUITY: Final = "without ambiguity"
REAL: Final = "real cases"


@dataclass(frozen=True)
class Method:
    """One row of the comparison on one cohort.

    Attributes:
        label: Id, with the number of steps where one id was drawn with several.
        estimates: By score; the mean over training seeds.
        spread: Standard deviation of the score over training seeds; empty for one.
        seeds: Number of training seeds.
        steps: Integration steps per draw; None without draws.
        evaluations: Network evaluations per draw.
        draws: Whether it draws at all; without, its TDV CRPS is the absolute error of its point forecast.
        rerun_cov: TDV coefficient of variation between two sampling seeds, percent; None without a second one.
    """

    label: str
    estimates: Mapping[str, Estimate]
    spread: Mapping[str, float] = field(default_factory=dict)
    seeds: int = 1
    steps: int | None = None
    evaluations: int | None = None
    draws: bool = True
    rerun_cov: Estimate | None = None


@dataclass(frozen=True)
class Arena:
    """All methods on the cases of one cohort.

    Attributes:
        name: Name of the cohort's folder.
        kind: `WITH_AMBIGUITY`, `WITHOUT_AMBIGUITY` or `REAL`.
        cases: Number of cases.
        persons: Number of persons.
        arm_cases: Cases with a lesion of each kind of planted ambiguity.
        methods: By label, in the order of the table.
    """

    name: str
    kind: str
    cases: int
    persons: int
    arm_cases: Mapping[str, int]
    methods: Mapping[str, Method]


@dataclass(frozen=True)
class Difference:
    """The flow minus a rival on one score.

    Attributes:
        rival, key: Which.
        estimate: Paired difference.
        p: Two-sided bootstrap p-value, corrected by Holm over the rivals; None where undefined.
    """

    rival: str
    key: str
    estimate: Estimate
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """The arenas, and the flow among their methods."""

    flow: str
    arenas: tuple[Arena, ...]

    def differences(self, arena: Arena) -> list[Difference]:
        """The flow minus every rival on every score of `DIFFERENCES` that both have."""
        found: list[Difference] = []
        own = arena.methods[self.flow].estimates
        rivals = [label for label in arena.methods if label not in (self.flow, table.ORACLE)]
        for key in DIFFERENCES:
            row = [
                (label, own[key] - arena.methods[label].estimates[key])
                for label in rivals
                if key in own and key in arena.methods[label].estimates
            ]
            row = [(label, d) for label, d in row if np.isfinite(d.value)]
            corrected = holm([bootstrap_p(d) for _, d in row])
            found += [Difference(label, key, d, p) for (label, d), p in zip(row, corrected, strict=True)]
        return found


def compare(
    maps_dirs: Sequence[Path],
    cohort_dirs: Sequence[Path],
    truth_dirs: Sequence[Path] = (),
    *,
    flow: str | None = None,
    bootstrap: int = REPLICATES,
    progress: Progress | None = None,
) -> Comparison:
    """Score folders of maps on the same cases and set them side by side.

    Args:
        maps_dirs: Folders of maps; each belongs to the cohort whose digest it names.
        cohort_dirs: One cohort, or several, such as one with planted ambiguity and one without.
        truth_dirs: Sealed truths of simulated cohorts, in any order.
        flow: Id of the method the verdict is about; `FLOW` if it is there, else that of the first folder.
        bootstrap: Replicates over persons.
        progress: Called with maps scored, case by case, and their number.

    Raises:
        UsageError: A folder is none of its kind, fewer than two methods, or a flow that is not there.
        CohortError: Maps of another cohort, of other cases than the rest, incomplete or damaged.
        CaseError: A volume is missing or damaged.
    """
    if bootstrap < 1:
        raise UsageError(f"{bootstrap} bootstrap replicates", "at least 1; intervals need 2000")
    if len(maps_dirs) < 2:
        raise UsageError(f"{len(maps_dirs)} folder of maps", "at least two to compare")
    opened = [Maps.open(folder) for folder in maps_dirs]
    studies = _studies(cohort_dirs, truth_dirs)
    by_study = _assigned(opened, studies)
    ids = [maps.method for maps in opened]
    chosen = flow or (FLOW if FLOW in ids else ids[0])
    if chosen not in ids:
        raise UsageError(
            f"no maps of {chosen}", f"one of {', '.join(dict.fromkeys(ids))}", "choose another --flow"
        )
    work = [(study, maps, _same_cases(maps, study)) for study, maps in by_study]
    total, count = sum(len(cases) * len(maps) for _, maps, cases in work), 0

    def scored() -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, total)

    arenas = tuple(_arena(study, maps, cases, chosen, bootstrap, scored) for study, maps, cases in work)
    labels = [label for label in arenas[0].methods if label == chosen or label.startswith(f"{chosen} ")]
    if not labels or any(labels[0] not in arena.methods for arena in arenas):
        raise UsageError(f"maps of {chosen} for some of the cohorts only", "maps for each", "draw the others")
    return Comparison(labels[0], arenas)


def _studies(cohort_dirs: Sequence[Path], truth_dirs: Sequence[Path]) -> list[Study]:
    from diffusion_adc.phantom.truth import read_truth_manifest

    truths = {read_truth_manifest(folder).get("cohort_digest"): folder for folder in truth_dirs}
    studies = [Study.open(folder, None) for folder in cohort_dirs]
    own = {study.cohort.digest for study in studies}
    strange = [folder for digest, folder in truths.items() if digest not in own]
    if strange and not (len(studies) == len(truths) == 1 and studies[0].cohort.withdrawn):
        raise CohortError(
            f"{strange[0].name} is the truth of none of the cohorts", "the cohort digest in truth.json",
            "give the truth that was written beside the cohort",
        )  # fmt: skip
    if strange:
        return [Study.open(cohort_dirs[0], truth_dirs[0])]
    return [Study(study.folder, study.cohort, truths.get(study.cohort.digest)) for study in studies]


def _assigned(opened: Sequence[Maps], studies: Sequence[Study]) -> list[tuple[Study, list[Maps]]]:
    digests = {study.cohort.digest: n for n, study in enumerate(studies)}
    parts: list[list[Maps]] = [[] for _ in studies]
    for maps in opened:
        place = digests.get(str(maps.manifest.get("cohort_digest")))
        if place is None and len(studies) == 1:
            place = 0  # refused there, unless a withdrawal has changed the digest
        if place is None:
            raise CohortError(
                f"{maps.folder.name} was drawn for none of the {len(studies)} cohorts", "the cohort digest in maps.json",
                "give its cohort too, or leave it out",
            )  # fmt: skip
        parts[place].append(maps)
    empty = [study.folder.name for study, part in zip(studies, parts, strict=True) if not part]
    if empty:
        raise UsageError(f"no maps for the cohort {empty[0]}", "maps of every cohort given", "leave it out")
    return list(zip(studies, parts, strict=True))


def _same_cases(maps: Sequence[Maps], study: Study) -> list[Case]:
    """The cases that every folder of maps has; a folder with others is refused."""
    cases = [m.cases(study.cohort) for m in maps]
    names = [{case.case_id for case in part} for part in cases]
    for m, own in zip(maps, names, strict=True):
        if own != names[0]:
            raise CohortError(
                f"{m.folder.name} holds {len(own)} cases and {maps[0].folder.name} {len(names[0])}, "
                f"{len(own & names[0])} of them in common",
                "maps of the same cases", "draw the same split with every method",
            )  # fmt: skip
    return cases[0]


def _arena(
    study: Study,
    maps: Sequence[Maps],
    cases: Sequence[Case],
    flow: str,
    replicates: int,
    scored: Callable[[], None],
) -> Arena:
    results: list[Results] = [[] for _ in maps]
    extra: dict[str, Results] = {
        m: [] for m in (table.EMPTY, table.UNEDITED, table.RULE, table.BASE_HEAD, table.ORACLE)
    }
    oracle_again: Results = []
    first_flow = next((n for n, m in enumerate(maps) if m.method == flow), 0)
    has_head = any(m.method == table.BASE_HEAD for m in maps)
    heads = maps[first_flow].recalibration("base_recalibration")
    recalibrations = [m.recalibration() for m in maps]
    twice = any(len(group) > 1 for group in _reruns(maps).values())
    for case in cases:
        opened = study.case(case)

        def score(prediction, corrections: Recalibration | None = None, opened=opened) -> CaseResult:  # type: ignore[no-untyped-def]
            return score_case(prediction, opened.reference, opened.uniforms, corrections)

        seen: dict[str, CaseResult] = {}
        draws = ORACLE_DRAWS
        for n, m in enumerate(maps):
            for method, prediction in m.predictions(opened):
                if method == table.MODEL:
                    results[n].append(score(prediction, recalibrations[n]))
                    if n == first_flow and prediction.draws is not None:
                        draws = prediction.draws.shape[-1]
                elif n == first_flow and not has_head:
                    seen[method] = score(prediction, heads)
            scored()
        for method, prediction in opened.baselines():
            seen[method] = score(prediction)
        oracle = opened.oracle(draws)
        if oracle is not None:
            seen[table.ORACLE] = score(oracle)
            again = opened.oracle(draws, SEED + 1) if twice else None
            oracle_again.append(None if again is None else score(again))
        for method, rows in extra.items():
            rows.append(seen.get(method))
    people = [case.research_id for case in cases]
    weights = Bootstrap(people, replicates, SEED)
    rule = extra[table.RULE] if any(r is not None for r in extra[table.RULE]) else None

    def estimated(rows: Results, correction: Recalibration | None = None) -> dict[str, Estimate]:
        return _estimates(rows, weights, rule, correction)

    methods: dict[str, Method] = {}
    for name, rows in extra.items():
        if name != table.ORACLE and any(r is not None for r in rows):
            corrected = heads if name == table.BASE_HEAD else None
            methods[name] = Method(name, estimated(rows, corrected), draws=False)
    for label, group in _rows(maps).items():
        methods[label] = _method(label, group, maps, results, recalibrations, weights, estimated)
    if any(r is not None for r in extra[table.ORACLE]):
        rerun = _rerun_cov([extra[table.ORACLE], oracle_again], weights) if twice else None
        methods[table.ORACLE] = Method(table.ORACLE, estimated(extra[table.ORACLE]), rerun_cov=rerun)
    some = next(rows for rows in results if rows)
    arms = {
        arm: sum(r is not None and bool(np.isfinite(r.arm_crps[n])) for r in some)
        for n, arm in enumerate(ARMS)
    }
    planted = study.planted_ambiguity
    kind = REAL if planted is None else WITH_AMBIGUITY if planted else WITHOUT_AMBIGUITY
    return Arena(study.folder.resolve().name, kind, len(cases), len(set(people)), arms, methods)


def _method(
    label: str,
    group: Sequence[int],
    maps: Sequence[Maps],
    results: Sequence[Results],
    recalibrations: Sequence[Recalibration],
    weights: Bootstrap,
    estimated: Callable[[Results, Recalibration | None], dict[str, Estimate]],
) -> Method:
    # One folder per checkpoint: a second sampling seed of it is no further training.
    checkpoints: dict[str, list[int]] = {}
    for n in group:
        checkpoints.setdefault(_checkpoint(maps[n]), []).append(n)
    trained = [estimated(results[folders[0]], recalibrations[folders[0]]) for folders in checkpoints.values()]
    shared = [key for key in trained[0] if all(key in one for one in trained)]
    reruns = [folders for folders in checkpoints.values() if len(folders) > 1]
    manifest = maps[group[0]].manifest
    draws = any(r is not None and r.draws is not None for r in results[group[0]])
    steps = int(manifest["steps"]) if draws and manifest.get("steps") else None
    twice = (manifest.get("settings") or {}).get("sampler") == "heun"
    return Method(
        label=label,
        estimates={key: Estimate.mean_of([one[key] for one in trained]) for key in shared},
        spread={key: float(np.std([one[key].value for one in trained], ddof=1)) for key in shared}
        if len(trained) > 1
        else {},
        seeds=len(trained),
        steps=steps,
        evaluations=None if steps is None else steps * (2 if twice else 1),
        draws=draws,
        rerun_cov=_rerun_cov([results[n] for n in reruns[0]], weights) if reruns else None,
    )


def _checkpoint(maps: Maps) -> str:
    return str(maps.manifest.get("checkpoint_sha256") or maps.folder.resolve())


def _reruns(maps: Sequence[Maps]) -> dict[tuple[str, object, str], list[int]]:
    """Folders that differ in nothing but the sampling seed, by method, steps and checkpoint."""
    groups: dict[tuple[str, object, str], list[int]] = {}
    for n, m in enumerate(maps):
        groups.setdefault((m.method, m.manifest.get("steps"), _checkpoint(m)), []).append(n)
    return groups


def _rows(maps: Sequence[Maps]) -> dict[str, list[int]]:
    """Folders by label: the id, with the steps where one id was drawn with several."""
    steps: dict[str, set[object]] = {}
    for m in maps:
        steps.setdefault(m.method, set()).add(m.manifest.get("steps"))
    rows: dict[str, list[int]] = {}
    for n, m in enumerate(maps):
        several = len(steps[m.method]) > 1
        label = f"{m.method} {m.manifest.get('steps')} steps" if several else m.method
        rows.setdefault(label, []).append(n)
    return rows


def _estimates(
    results: Results, weights: Bootstrap, rule: Results | None, corrected: Recalibration | None
) -> dict[str, Estimate]:
    lesion = None if corrected is None else corrected.lesion
    found = estimates(results, weights, rule, lesion)
    crps = np.array([np.nan if r is None else r.point_crps for r in results])
    found["tdv_crps"] = weights.mean(crps)
    for n, arm in enumerate(ARMS):
        inside = np.array([r is not None and bool(np.isfinite(r.arm_crps[n])) for r in results])
        if inside.any():
            found[f"case_crps_{arm}"] = weights.mean(np.where(inside, crps, np.nan))
    return found


def _rerun_cov(runs: Sequence[Results], weights: Bootstrap) -> Estimate:
    """Root mean square coefficient of variation of the reported TDV between two sampling seeds, percent."""

    def reported(result: CaseResult | None) -> float:
        if result is None:
            return float("nan")
        return result.tdv_ml if result.draws is None else result.draws.median

    a, b = (np.array([reported(r) for r in run]) for run in runs[:2])
    both = np.where(a + b > 0, a + b, np.nan)
    squared = weights.mean(2.0 * (a - b) ** 2 / both**2)
    return Estimate(100.0 * float(np.sqrt(squared.value)), 100.0 * np.sqrt(squared.replicates))
