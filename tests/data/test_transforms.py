from __future__ import annotations

import numpy as np
import pytest
import torch
import torchio as tio

from diffusion_adc.data.collate import B_HIGH, B_LOW
from diffusion_adc.data.scaling import (
    ADC_CEILING,
    ADC_INDEX,
    HIGH_INDEX,
    LOW_INDEX,
    RECOMPUTED_INDEX,
    VALID_INDEX,
    condition_images,
)
from diffusion_adc.data.transforms import (
    AnatomyPerturbation,
    DwiPerturbation,
    LeftRightFlip,
    SmallAffine,
    augmentation,
    smooth_field,
)
from diffusion_adc.domain import sequences as seq
from diffusion_adc.domain.case import Case
from diffusion_adc.domain.errors import UsageError

from .conftest import AFFINE, simulated


def subject(b=(50.0, 900.0), shape=(32, 30, 8), affine=AFFINE, missing=()):
    volumes, label = simulated(shape, [((12, 18, 4), 3)], np.random.default_rng(0))
    kept = {k: v for k, v in volumes.items() if k not in missing}
    images = condition_images(kept, Case("TEST-0001", 1, b_low=50, b_high=900))
    presence = (label > 0)[None].astype(np.float32)
    return tio.Subject(
        {
            seq.IMAGES: tio.ScalarImage(tensor=torch.from_numpy(images), affine=affine),
            seq.PRESENCE: tio.LabelMap(tensor=torch.from_numpy(presence), affine=affine),
            seq.LOCATION: torch.tensor([0, 0, 0, *shape]),
            B_LOW: b[0],
            B_HIGH: b[1],
        }
    )


def images(s):
    return s[seq.IMAGES].data


def test_without_noise_the_adc_stays_and_the_log_ratio_with_it():
    before, s = images(subject()), subject()
    torch.manual_seed(1)
    after = images(DwiPerturbation(p_noise=0)(s))
    for channel in (ADC_INDEX, RECOMPUTED_INDEX, VALID_INDEX, 0, 1):
        assert torch.equal(after[channel], before[channel])
    inside = before[VALID_INDEX] > 0
    ratio = [torch.log(x[LOW_INDEX] / x[HIGH_INDEX])[inside] for x in (before, after)]
    assert torch.allclose(*ratio, atol=1e-4)
    assert float((after[LOW_INDEX] / before[LOW_INDEX])[inside].std()) > 0.01


def test_noise_moves_the_adc_by_what_it_does_to_the_formula():
    before, s = images(subject()).clone(), subject()
    torch.manual_seed(2)
    after = images(DwiPerturbation(noise=0.05, p_noise=1)(s))
    inside = (after[VALID_INDEX] > 0) & (before[ADC_INDEX] < 0.99) & (after[ADC_INDEX] < 0.99)

    def formula(x):
        return torch.log(x[LOW_INDEX] / x[HIGH_INDEX])[inside] / 0.85

    change = (after[ADC_INDEX] - before[ADC_INDEX])[inside] * ADC_CEILING
    assert float(change.abs().median()) > 0.001
    assert torch.allclose(change, formula(after) - formula(before), atol=2e-3)
    assert torch.allclose(after[RECOMPUTED_INDEX][inside] * ADC_CEILING, formula(after), atol=2e-3)
    assert torch.all(after[ADC_INDEX][after[VALID_INDEX] == 0] == 0)


@pytest.mark.parametrize("kind", ["unknown b", "missing"])
def test_no_noise_where_the_adc_could_not_follow(kind):
    s = subject(b=(50.0, -1.0)) if kind == "unknown b" else subject(missing=(seq.DWI_LOW,))
    before = images(s).clone()
    torch.manual_seed(2)
    after = images(DwiPerturbation(noise=0.5, p_noise=1)(s))
    assert torch.equal(after[ADC_INDEX], before[ADC_INDEX])
    assert torch.equal(after[VALID_INDEX], before[VALID_INDEX])
    if kind == "missing":
        assert not after[LOW_INDEX].any()


def test_affine_moves_everything_together_and_keeps_rims():
    s = subject()
    before = images(s).clone()
    presence = s[seq.PRESENCE].data.clone()
    torch.manual_seed(5)
    moved = SmallAffine(degrees=8, scale=0)(s)
    after = images(moved)
    assert not torch.equal(after, before)
    assert set(moved[seq.PRESENCE].data.unique().tolist()) <= {0.0, 1.0}
    assert float(moved[seq.PRESENCE].data.sum() / presence.sum()) == pytest.approx(1, abs=0.1)
    lesion = moved[seq.PRESENCE].data[0] > 0
    assert float(after[ADC_INDEX][lesion].median() * ADC_CEILING) == pytest.approx(0.9, abs=0.05)
    valid = after[VALID_INDEX] > 0
    assert set(after[VALID_INDEX].unique().tolist()) <= {0.0, 1.0}
    assert float(after[ADC_INDEX][valid].min()) * ADC_CEILING > 0.6  # no rim mixed with background


def test_affine_is_rigid_in_mm_on_anisotropic_pixels():
    """90° about the center of 2 × 4 mm pixels maps voxel offset (2, 0) to (0, 1)."""
    s = subject(shape=(17, 17, 1), affine=np.diag([2.0, 4.0, 5.0, 1.0]))
    data = torch.zeros_like(images(s))
    data[LOW_INDEX, 10, 8, 0] = 1
    s[seq.IMAGES].set_data(data)
    transform = SmallAffine(degrees=0, scale=0)
    transform.degrees = 90  # far outside its range, where a wrong aspect ratio shows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion_adc.data.transforms._between", lambda low, high: high)
        out = images(transform(s))[LOW_INDEX, :, :, 0]
    peaks = [tuple(p) for p in torch.nonzero(out > 0.9).tolist()]
    assert peaks in ([(8, 9)], [(8, 7)])


def test_a_zero_affine_is_the_identity():
    s = subject()
    before = images(s).clone()
    out = SmallAffine(degrees=0, scale=0)(s)
    assert torch.allclose(images(out), before, atol=1e-4)


def test_anatomy_changes_t1_and_t2_only():
    s = subject(missing=(seq.T1W,))
    before = images(s).clone()
    after = images(AnatomyPerturbation()(s))
    assert not after[0].any()
    assert not torch.equal(after[1], before[1])
    assert torch.equal(after[2:], before[2:])


@pytest.mark.parametrize("axis", [0, 1])
def test_left_right_flip_finds_its_axis(axis):
    affine = AFFINE if axis == 0 else AFFINE[:, [1, 0, 2, 3]]
    s = subject(affine=affine)
    before, presence = images(s).clone(), s[seq.PRESENCE].data.clone()
    out = LeftRightFlip(p=1)(s)
    assert torch.equal(images(out), before.flip(axis + 1))
    assert torch.equal(out[seq.PRESENCE].data, presence.flip(axis + 1))


def test_smooth_field_is_positive_and_moderate():
    torch.manual_seed(0)
    for shape in ((8, 9, 1), (1, 1, 1), (16, 16, 8)):
        field = smooth_field(shape, 0.3)
        assert field.shape == shape
        assert 0.4 < float(field.min()) <= float(field.max()) < 2.5


def test_light_augmentation_follows_the_seed_and_stays_finite():
    transform = augmentation("light", flip_left_right=True)
    seen = []
    for seed in (1, 1, 2, 3, 4, 5):
        torch.manual_seed(seed)
        out = transform(subject())
        assert torch.isfinite(images(out)).all()
        assert images(out).shape == (7, 32, 30, 8)
        assert torch.equal(out[seq.LOCATION], torch.tensor([0, 0, 0, 32, 30, 8]))
        seen.append(images(out))
    assert torch.equal(seen[0], seen[1])
    assert any(not torch.equal(seen[1], other) for other in seen[2:])


def test_names_are_checked():
    assert augmentation("none") is None
    with pytest.raises(UsageError, match="none, light"):
        augmentation("heavy")
