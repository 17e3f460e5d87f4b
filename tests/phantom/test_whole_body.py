"""The whole body: a person from the vertex to the thighs, organs where they belong, in every age and sex."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffusion_adc.domain import sequences as seq
from diffusion_adc.phantom.anatomy import REGIONS, Anatomy, draw_body
from diffusion_adc.phantom.case import SimulatedCase, simulate_case
from diffusion_adc.phantom.covariates import draw_covariates, draw_history
from diffusion_adc.phantom.lesions import TISSUES_PER_LESION, plan_lesions
from diffusion_adc.phantom.options import ANATOMIES, PhantomOptions
from diffusion_adc.phantom.person import Build, draw_build
from diffusion_adc.phantom.simulate import simulate_cohort
from diffusion_adc.phantom.sites import GROUPS, SITES, growth_costs, hosts
from diffusion_adc.phantom.structures import MARROW, Structure
from diffusion_adc.phantom.tissues import load_tissues, tissue_names
from diffusion_adc.phantom.truth import read_case_truth, truth_dir_of, write_case_truth

GRID = {"size": (72, 72, 90), "spacing_mm": (6.2, 6.2, 11.0)}
"""Coarse, from the vertex to the thighs."""


def person(sex: str, age: float, seed: int = 1) -> Build:
    return replace(draw_build(np.random.default_rng(seed), sex, age, 13.5), scale=0.98, red_marrow=0.5)


def drawn(build: Build) -> Anatomy:
    args = ("whole_body", build, GRID["size"], GRID["spacing_mm"])
    return draw_body(*args, np.random.default_rng(2), np.random.default_rng(3))


@pytest.fixture(scope="module")
def man() -> Anatomy:
    return drawn(person("male", 70))


@pytest.fixture(scope="module")
def girl() -> Anatomy:
    return drawn(person("female", 24))


@pytest.fixture(scope="module")
def case() -> SimulatedCase:
    options = PhantomOptions(cases=4, seed=77, anatomy="whole_body", tumor_free_share=0, **GRID)
    return simulate_case(options, 1)


def ml(anatomy: Anatomy, *structures: Structure) -> float:
    return float(np.isin(anatomy.canvas.labels, structures).sum() * anatomy.canvas.voxel_ml)


def center(anatomy: Anatomy, structure: Structure) -> np.ndarray:
    index = np.argwhere(anatomy.canvas.labels == structure)
    return np.array([axis[index[:, n]].mean() for n, axis in enumerate(anatomy.canvas.axes)])


BOTH = [
    "WHITE_MATTER", "CORTICAL_GM", "DEEP_GM", "SPINAL_CORD", "CSF", "VITREOUS", "SALIVARY_GLAND", "TONSIL", "THYROID",
    "LUNG", "AIRWAY", "MYOCARDIUM", "BLOOD", "LIVER", "BILE", "SPLEEN", "KIDNEY_CORTEX", "KIDNEY_MEDULLA", "ADRENAL",
    "PANCREAS", "BOWEL_WALL", "BLADDER_WALL", "URINE", "NERVE", "LYMPH_NODE", "CORTICAL_BONE", "MARROW_FATTY",
    "MARROW_RED", "DISC", "CARTILAGE", "MUSCLE", "SUBCUTANEOUS_FAT", "VISCERAL_FAT", "SKIN",
]  # fmt: skip


@pytest.mark.parametrize("name", BOTH)
def test_every_organ_is_there_in_both_sexes(man: Anatomy, girl: Anatomy, name: str) -> None:
    assert ml(man, Structure[name]) > 0
    assert ml(girl, Structure[name]) > 0


def test_organs_follow_sex_and_age(man: Anatomy, girl: Anatomy) -> None:
    for structure in (Structure.PROSTATE_PZ, Structure.PROSTATE_TZ, Structure.TESTIS):
        assert ml(man, structure) > 1
        assert ml(girl, structure) == 0
    for structure in (Structure.BREAST, Structure.OVARY, Structure.THYMUS):
        assert ml(girl, structure) > 1
        assert ml(man, structure) == 0
    assert ml(girl, Structure.TONSIL) > ml(man, Structure.TONSIL)
    assert ml(man, Structure.CSF) > ml(girl, Structure.CSF)  # an old brain has wide sulci and ventricles


@pytest.mark.parametrize(
    ("structures", "low", "high"),
    [
        (("WHITE_MATTER", "CORTICAL_GM", "DEEP_GM"), 800, 1500), (("LIVER",), 850, 2200), (("SPLEEN",), 90, 380),
        (("KIDNEY_CORTEX", "KIDNEY_MEDULLA"), 170, 460), (("LUNG",), 2000, 5500), (("MYOCARDIUM",), 80, 300),
        (("MARROW_FATTY", "MARROW_RED"), 900, 2600), (("MUSCLE",), 9000, 28000), (("PANCREAS",), 15, 120),
        (("THYROID",), 6, 40), (("SPINAL_CORD",), 12, 60), (("ADRENAL",), 1, 20),
    ],
)  # fmt: skip
def test_organs_have_the_volume_of_a_persons(man, girl, structures, low, high) -> None:
    for anatomy in (man, girl):
        assert low < ml(anatomy, *(Structure[name] for name in structures)) < high


def test_organs_lie_where_they_belong(man: Anatomy) -> None:
    at = {s: center(man, s) for s in (Structure.WHITE_MATTER, Structure.THYROID, Structure.MYOCARDIUM, Structure.LIVER,
                                      Structure.SPLEEN, Structure.KIDNEY_CORTEX, Structure.URINE, Structure.TESTIS,
                                      Structure.SPINAL_CORD, Structure.BILE)}  # fmt: skip
    down = [Structure.WHITE_MATTER, Structure.THYROID, Structure.MYOCARDIUM, Structure.LIVER, Structure.KIDNEY_CORTEX,
            Structure.URINE, Structure.TESTIS]  # fmt: skip
    heights = [at[s][2] for s in down]
    assert heights == sorted(heights, reverse=True)
    assert at[Structure.LIVER][0] > 20  # x grows to the person's right
    assert at[Structure.BILE][0] > 20
    assert at[Structure.SPLEEN][0] < -40
    assert at[Structure.MYOCARDIUM][0] < -5
    assert at[Structure.SPINAL_CORD][1] < at[Structure.LIVER][1] - 40
    # From the vertex to the thighs, with air above the head and no body part of the head below the chest.
    labels, z = man.canvas.labels, man.canvas.axes[2]
    body = np.flatnonzero((labels > 0).any(axis=(0, 1)))
    assert 0 < (len(z) - 1 - body[-1]) * man.canvas.voxel_mm[2] < 60
    assert z[0] < -100
    assert np.isin(labels[:, :, 0], [Structure.CORTICAL_BONE, *MARROW]).any()  # the femora


def test_red_marrow_follows_the_build() -> None:
    share = []
    for red in (0.1, 0.8):
        anatomy = drawn(replace(person("male", 50), red_marrow=red))
        share.append(ml(anatomy, Structure.MARROW_RED) / ml(anatomy, *MARROW))
    assert share[0] < 0.3 < share[1]


def test_every_region_has_sites_and_every_site_a_host() -> None:
    assert set(REGIONS) == set(SITES) == set(ANATOMIES)
    for sites in SITES.values():
        for shares in (sites.bone, sites.node, *sites.spread.values()):
            assert sum(shares.values()) == pytest.approx(1.0, abs=0.011)
        for options in sites.organ.values():
            for site, tissue in options:
                assert tissue in tissue_names()
                assert hosts("primary", site)
                assert set(hosts("primary", site)) <= set(growth_costs("primary", site, False))
        assert Structure.LESION + TISSUES_PER_LESION * sites.max_lesions < 255


def test_anchors_of_every_site_are_marked(girl: Anatomy) -> None:
    anchors, sites = girl.canvas.anchors, SITES["whole_body"]
    for site in (
        *sites.bone,
        "breast",
        "lung",
        "lung_hilum",
        "liver",
        "brain",
        "pancreas",
        "kidney",
        "heart",
    ):
        assert anchors[site], site
    for chain in sites.node:
        assert anchors[f"node_{chain}"], chain


def test_lesions_arise_in_every_group_and_kind() -> None:
    table, groups, kinds, tissues = load_tissues(), set(), set(), set()
    for seed in range(150):
        history = draw_history(np.random.default_rng(seed), "whole_body")
        known = (history.primary, history.treatment, history.sex, table, True, SITES["whole_body"])
        for plan in plan_lesions(np.random.default_rng([seed, 1]), None, *known):
            groups.add(plan.group)
            kinds.add(plan.kind)
            tissues.add(plan.tissue)
    assert groups == set(GROUPS)
    assert {"untreated", "treated", "sclerotic"} <= kinds
    assert {"liver_metastasis", "lung_metastasis", "lymphoma", "breast_cancer", "myeloma_diffuse"} <= tissues


def spearman(a: list[float], b: list[float]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def test_one_column_leaks_only_where_it_is_asked_for() -> None:
    table, volume = load_tissues(), []
    honest, leaking = [], []
    for seed in range(120):
        history = draw_history(np.random.default_rng(seed), "whole_body")
        known = (history.primary, history.treatment, history.sex, table, True, SITES["whole_body"])
        plans = plan_lesions(np.random.default_rng([seed, 1]), None, *known) if seed % 3 else []
        volume.append(sum(plan.volume_ml for plan in plans))
        honest.append(draw_covariates(history, plans, np.random.default_rng([seed, 2])))
        leaking.append(draw_covariates(history, plans, np.random.default_rng([seed, 2]), leaking=True))
    known_rows = [n for n, row in enumerate(honest) if row.ldh_u_l is not None]
    modest = spearman([honest[n].ldh_u_l for n in known_rows], [volume[n] for n in known_rows])
    assert 0.05 < modest < 0.75
    assert all(row.ldh_u_l is not None for row in leaking)
    assert spearman([row.ldh_u_l for row in leaking], volume) > 0.95
    assert all(
        replace(a, ldh_u_l=None) == replace(b, ldh_u_l=None) for a, b in zip(honest, leaking, strict=True)
    )


def test_a_case_has_stations_readers_and_its_lesions(case: SimulatedCase, tmp_path) -> None:
    truth, slices = case.truth, GRID["size"][2]
    assert 4 <= len(truth.stations) <= 5
    assert [s.index for s in truth.stations] == list(range(len(truth.stations)))
    assert truth.stations[0].first == 0
    assert truth.stations[-1].last == slices - 1
    for below, above in zip(truth.stations, truth.stations[1:], strict=False):
        assert above.first == below.last + 1  # each voxel once
        assert above.acquired_first <= below.last < below.acquired_last  # and an overlap
    assert len({s.gain for s in truth.stations}) == len(truth.stations)
    assert np.array_equal(np.unique(truth.station_index), np.arange(len(truth.stations)))
    write_case_truth(tmp_path, truth)
    assert read_case_truth(tmp_path, truth.case_id).stations == truth.stations
    assert case.case.anatomy == "whole_body"
    assert len(case.readers) == 2
    assert truth.lesions
    assert {"white_matter", "spleen", "liver"} <= {
        truth.organ_names[int(n)] for n in np.unique(truth.organ_label)
    }
    assert np.allclose(case.affine[:3, :3], np.diag(GRID["spacing_mm"]))
    for name in seq.VOLUMES:
        assert case.volumes[name].shape == GRID["size"]


def test_brain_and_spleen_pass_for_tumor_and_fluid_does_not(case: SimulatedCase) -> None:
    organ, adc = case.truth.organ_label, np.asarray(case.volumes[seq.ADC])
    high, valid = np.asarray(case.volumes[seq.DWI_HIGH]), np.asarray(case.volumes[seq.VALID], dtype=bool)
    muscle = np.median(high[(organ == Structure.MUSCLE) & valid])
    for structure in (Structure.WHITE_MATTER, Structure.SPLEEN):
        inside = (organ == structure) & valid
        assert np.median(high[inside]) > 2.5 * muscle
        assert 0.4 < np.median(adc[inside]) < 1.4
    assert np.median(adc[(organ == Structure.URINE) & valid]) > 2.0


def test_the_same_bytes_for_any_number_of_workers(tmp_path) -> None:
    options = PhantomOptions(cases=2, seed=5, anatomy="whole_body", size=(36, 36, 80), spacing_mm=(12.0, 12.0, 12.0),
                             leaking_covariate=True)  # fmt: skip
    for jobs in (1, 2):
        simulate_cohort(tmp_path / str(jobs), options, jobs=jobs)
    for folder in (tmp_path / "1", truth_dir_of(tmp_path / "1")):
        other = folder.with_name(folder.name.replace("1", "2", 1))
        files = sorted(
            p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != "cohort.json"
        )
        assert files
        for path in files:
            assert (folder / path).read_bytes() == (other / path).read_bytes(), path
