from __future__ import annotations

import numpy as np
import pytest

from diffusion_adc.phantom.structures import ORGAN_NAMES, TISSUE_OF, Structure, tissue_rows
from diffusion_adc.phantom.tissues import (
    Protocol,
    calibrated_diffusion,
    dwi_water,
    inversion_recovery,
    load_tissues,
    nulling_inversion_ms,
    person_tissues,
    signals,
    two_compartment_adc,
)

# High-b water signal relative to muscle at b 900, STIR, TE 70 ms, TR 8000 ms, 1.5 T, from the parameter table.
RATIOS = {
    "prostate_pz": 4.8, "prostate_tz": 5.1, "prostate_cancer": 6.3, "urine": 2.7, "csf": 2.7, "bone_met_untreated": 5.6,
    "bone_met_treated": 4.3, "bone_met_sclerotic": 0.4, "marrow_fatty": 1.3, "marrow_red": 2.6, "node_metastasis": 5.7,
    "lymph_node": 5.1, "lymphoma": 7.7, "testis": 8.4, "abscess": 11.9, "bowel_wall": 2.6, "myeloma_focal": 5.1,
    "mucinous_cancer": 5.9, "necrosis": 5.2, "follicle": 3.8, "acute_infarct": 11.8, "cortical_gm": 6.3, "tonsil": 6.2,
    "spleen": 5.6, "tb_node": 5.5, "white_matter": 4.8, "liver_hemangioma": 4.0, "liver_metastasis": 4.0,
    "spinal_cord": 3.8, "cyst": 3.8, "kidney_cortex": 2.2, "kidney_medulla": 2.2, "parotid": 1.9, "liver": 1.35,
    "pancreas": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), sorted(RATIOS.items()))
def test_noise_free_high_b_signal_relative_to_muscle(name, expected):
    table = load_tissues()
    true = signals(table, Protocol(inversion=nulling_inversion_ms(table)))
    high = dwi_water(true, 900, true.fast_high)
    assert high[table.row(name)] / high[table.row("muscle")] == pytest.approx(expected, rel=0.25)


def test_spleen_and_untreated_metastasis_cannot_be_told_apart_by_diffusion():
    table = load_tissues()
    true = signals(table, Protocol(inversion=nulling_inversion_ms(table)))
    high = dwi_water(true, 900, true.fast_high)
    spleen, tumor = table.row("spleen"), table.row("bone_met_untreated")
    assert high[spleen] / high[tumor] == pytest.approx(1.0, abs=0.06)
    assert abs(table.adc[spleen] - table.adc[tumor]) < table.adc_sd[tumor]


def test_signal_equals_the_equation_written_out():
    table = load_tissues()
    protocol = Protocol(inversion=173)
    true = signals(table, protocol)
    n = table.row("prostate_cancer")
    for b, fast in ((50, true.fast_low), (900, true.fast_high)):
        expected = (
            0.88 * abs(1 - 2 * np.exp(-173 / 1250) + np.exp(-8000 / 1250)) * np.exp(-70 / 97)
            * (0.92 * np.exp(-b * table.diffusion[n] / 1000) + 0.08 * np.exp(-b * 20 / 1000))
        )  # fmt: skip
        assert dwi_water(true, b, fast)[n] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("b", [(50, 900), (0, 1000), (100, 800)])
def test_calibrated_diffusion_gives_the_tables_two_point_adc(b):
    table = load_tissues(1.5, *b)
    adc = two_compartment_adc(table.diffusion, table.f, table.d_star, *b)
    assert np.allclose(adc, table.adc, atol=1e-6)
    # Perfusion lifts the two-point ADC above D by 0 to 7 % at (50, 900).
    if b == (50, 900):
        assert np.all(table.diffusion <= table.adc + 1e-9)
        assert np.all(table.diffusion[table.adc > 0.2] >= 0.9 * table.adc[table.adc > 0.2])


def test_calibration_is_bounded_where_perfusion_alone_exceeds_the_adc():
    d = calibrated_diffusion(np.array([0.05]), np.array([0.3]), np.array([60.0]), 0, 900)
    assert 0 < d[0] < 0.05


def test_the_inversion_time_nulls_fat_and_only_fat():
    for field in (1.5, 3.0):
        table = load_tissues(field)
        null = inversion_recovery(table.t1, nulling_inversion_ms(table), 8000)
        assert null[table.row("fat_lipid")] < 1e-6
        assert null[table.row("muscle")] > 0.3
    assert nulling_inversion_ms(load_tissues(1.5)) == pytest.approx(173, abs=1)


def test_anatomical_contrasts_are_those_a_radiologist_knows():
    table = load_tissues()
    true = signals(table, Protocol(inversion=nulling_inversion_ms(table)))

    def order(values, *names):
        found = [values[table.row(n)] for n in names]
        assert found == sorted(found, reverse=True), dict(zip(names, found, strict=True))

    order(true.t1w, "fat", "marrow_fatty", "marrow_red", "bone_met_untreated", "urine", "cortical_bone")
    order(true.t2w, "urine", "prostate_pz", "prostate_cancer", "muscle", "cortical_bone")
    order(true.t2w, "prostate_pz", "prostate_tz", "bph_stromal", "muscle")


def test_persons_differ_within_the_tables_spread():
    mean = load_tissues()
    persons = [person_tissues(mean, np.random.default_rng(n), 50, 900) for n in range(300)]
    adc = np.array([p.adc for p in persons])
    sd = adc.std(axis=0)
    spread = mean.adc_sd > 0
    assert np.all(sd[spread] < mean.adc_sd[spread])
    assert np.all(sd[spread] > 0.7 * mean.adc_sd[spread])
    assert all(p.t1[mean.row("fat_lipid")] == mean.t1[mean.row("fat_lipid")] for p in persons)


def test_a_longer_table_leaves_a_persons_pelvic_tissues_as_they_were():
    mean = load_tissues()
    first = mean.row("necrosis") + 1
    z = np.clip(np.random.default_rng(8).standard_normal((4, first)), -1.7, 1.7)
    expected = np.maximum(mean.adc[:first] + mean.adc_sd[:first] * z[0], 0.25 * mean.adc[:first])
    person = person_tissues(mean, np.random.default_rng(8), 50, 900)
    assert np.array_equal(person.adc[:first], expected)
    assert np.array_equal(person.t2[:first], mean.t2[:first] * np.exp(0.06 * z[2]))


def test_every_structure_has_a_tissue_and_a_name():
    assert set(TISSUE_OF) == set(Structure) - {Structure.LESION}
    assert len(tissue_rows()) == int(Structure.LESION)
    assert ORGAN_NAMES[int(Structure.URINE)] == "urine"
