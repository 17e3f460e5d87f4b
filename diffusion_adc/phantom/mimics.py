"""Benign findings that look like tumor, drawn into the body before the tumors."""

from __future__ import annotations

import numpy as np

from diffusion_adc.phantom.canvas import Canvas
from diffusion_adc.phantom.growth import costs, find_seed, grow
from diffusion_adc.phantom.person import Build
from diffusion_adc.phantom.structures import BONE, BRAIN, FAT, MARROW, Structure

MIMICS = (
    Structure.LYMPH_NODE, Structure.BPH_STROMAL, Structure.PROSTATITIS, Structure.ABSCESS, Structure.HEMATOMA,
    Structure.INSUFFICIENCY_FRACTURE, Structure.HEMANGIOMA, Structure.MODIC, Structure.RED_ISLAND, Structure.OVARY,
    Structure.ENDOMETRIUM, Structure.TB_NODE, Structure.LIVER_HEMANGIOMA, Structure.INFARCT, Structure.THYMUS,
)  # fmt: skip
"""Structures a reader may take for tumor."""


def paint_mimics(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Draw a random set of benign findings suited to age and sex."""
    soft = (*FAT, Structure.MUSCLE)
    old = build.age_years > 62
    if build.sex == "male" and rng.random() < 0.35:
        zone = (Structure.PROSTATE_PZ,)
        _one(canvas, rng, Structure.PROSTATITIS, "prostate_pz", zone, {}, rng.uniform(0.6, 4.0))
    if build.sex == "male" and rng.random() < 0.6:
        zone2 = (Structure.PROSTATE_TZ, Structure.BPH_GLANDULAR, Structure.BPH_STROMAL)
        _one(canvas, rng, Structure.BPH_STROMAL, "bph_stromal", zone2, {}, rng.uniform(0.3, 3.0))
    for _ in range(int(rng.poisson(1.1))):
        site = str(rng.choice(["ilium", "acetabulum", "sacrum", "femur", "ischium"]))
        _one(canvas, rng, Structure.RED_ISLAND, site, MARROW, {}, float(np.exp(rng.normal(0.9, 0.7))))
    if rng.random() < (0.3 if old else 0.12):
        _one(canvas, rng, Structure.MODIC, "endplate", MARROW, {}, rng.uniform(1.0, 5.0))
    if rng.random() < 0.12:
        site = str(rng.choice(["lumbar", "sacrum"]))
        _one(canvas, rng, Structure.HEMANGIOMA, site, MARROW, {}, rng.uniform(0.8, 4.0))
    if rng.random() < (0.16 if old and build.sex == "female" else 0.04):
        for _ in range(int(rng.integers(1, 3))):
            _one(canvas, rng, Structure.INSUFFICIENCY_FRACTURE, "sacrum", BONE, {}, rng.uniform(2.0, 8.0))
    if rng.random() < 0.06:
        _one(canvas, rng, Structure.ABSCESS, "node_mesorectal", soft, {}, float(np.exp(rng.normal(1.2, 0.6))))
    if rng.random() < 0.06:
        _one(canvas, rng, Structure.HEMATOMA, "ischium", soft, {}, float(np.exp(rng.normal(1.5, 0.6))))


def paint_upper_mimics(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Draw a random set of benign findings above the pelvis."""
    old = build.age_years > 62
    if rng.random() < (0.4 if old else 0.15):
        for _ in range(int(rng.integers(1, 3))):
            _one(canvas, rng, Structure.MODIC, "endplate", MARROW, {}, rng.uniform(1.0, 5.0))
    if rng.random() < 0.25:
        site = str(rng.choice(["thoracic", "lumbar"]))
        _one(canvas, rng, Structure.HEMANGIOMA, site, MARROW, {}, rng.uniform(0.8, 5.0))
    for _ in range(int(rng.poisson(1.6))):
        site = str(rng.choice(["thoracic", "lumbar", "rib", "humerus", "scapula", "sternum"]))
        _one(canvas, rng, Structure.RED_ISLAND, site, MARROW, {}, float(np.exp(rng.normal(0.7, 0.7))))
    if rng.random() < (0.15 if old else 0.06):
        for _ in range(int(rng.integers(1, 3))):
            _one(canvas, rng, Structure.INSUFFICIENCY_FRACTURE, "rib", BONE, {}, rng.uniform(0.4, 1.5))
    if rng.random() < (0.12 if old else 0.03):  # a fresh vertebral collapse
        site = str(rng.choice(["thoracic", "lumbar"]))
        _one(canvas, rng, Structure.INSUFFICIENCY_FRACTURE, site, BONE, {}, rng.uniform(4.0, 14.0))
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            _one(
                canvas,
                rng,
                Structure.CYST,
                "liver",
                (Structure.LIVER,),
                {},
                float(np.exp(rng.normal(0.5, 0.9))),
            )
    if rng.random() < 0.15:
        volume = float(np.exp(rng.normal(1.2, 0.7)))
        _one(canvas, rng, Structure.LIVER_HEMANGIOMA, "liver", (Structure.LIVER,), {}, volume)
    if rng.random() < (0.4 if old else 0.15):
        kidney = (Structure.KIDNEY_CORTEX, Structure.KIDNEY_MEDULLA, Structure.VISCERAL_FAT)
        _one(canvas, rng, Structure.CYST, "kidney", kidney, {}, float(np.exp(rng.normal(1.0, 0.9))))
    if rng.random() < (0.05 if old else 0.01):
        _one(canvas, rng, Structure.INFARCT, "brain", BRAIN, {}, float(np.exp(rng.normal(1.0, 0.8))))
    if rng.random() < 0.08:  # granulomatous nodes of both hila
        for _ in range(int(rng.integers(2, 5))):
            site = str(rng.choice(["node_mediastinal", "node_hilar"]))
            hosts = (*FAT, Structure.LYMPH_NODE)
            _one(canvas, rng, Structure.TB_NODE, site, hosts, {}, float(np.exp(rng.normal(0.4, 0.5))))
    if rng.random() < 0.03:
        _one(
            canvas,
            rng,
            Structure.ABSCESS,
            "liver",
            (Structure.LIVER,),
            {},
            float(np.exp(rng.normal(1.6, 0.7))),
        )


def _one(
    canvas: Canvas,
    rng: np.random.Generator,
    structure: Structure,
    site: str,
    hosts: tuple[Structure, ...],
    beyond: dict[int, float],
    volume_ml: float,
) -> None:
    anchors = canvas.anchors.get(site, [])
    if not anchors:
        return
    seed = find_seed(canvas, anchors[int(rng.integers(0, len(anchors)))], hosts, rng)
    if seed is None:
        return
    growth = grow(canvas, seed, volume_ml, {**costs(hosts), **beyond}, rng, lobes=2, roughness=0.3)
    if growth is not None:
        canvas.fill(growth.box, growth.inside, structure)
