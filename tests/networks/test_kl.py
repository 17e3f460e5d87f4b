from __future__ import annotations

import pytest
import torch

from diffusion_adc.networks import (
    CandidateShift,
    CodecGateError,
    KLCodec,
    LatentScale,
    ScaleMismatchError,
    codec_gate,
)


def stirred(codec: KLCodec, seed: int = 0) -> KLCodec:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.normal_(0, 0.2)
    return codec


@pytest.mark.parametrize(
    ("dims", "levels", "factor", "expected"),
    [(2, 1, None, (2, 2)), (2, 2, None, (4, 4)), (3, 1, (2, 2, 1), (2, 2, 1)), (3, 2, None, (4, 4, 4))],
)
def test_shapes_and_window(
    dims: int, levels: int, factor: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    codec = stirred(KLCodec(dims, channels=3, width=6, levels=levels, factor=factor))
    shape = (96, 32) if dims == 2 else (96, 16, 8)
    presence = (torch.rand(1, 1, *shape) < 0.2).float()
    assert codec.factor == expected
    with torch.no_grad():
        latent = codec.encode(presence)
        assert tuple(latent.shape[1:]) == codec.latent_shape(shape)
        field = codec.decode(latent)
        assert field.shape == presence.shape
        assert float(field.abs().max()) <= 1
        # No statistics over space: the latent of a window is the window of the latent but for a margin.
        part = codec.encode(presence[:, :, 16:80])
        first, cells, margin = 16 // expected[0], 64 // expected[0], 6
        torch.testing.assert_close(
            part[:, :, margin:-margin], latent[:, :, first + margin : first + cells - margin],
            atol=1e-5, rtol=1e-4,
        )  # fmt: skip


def test_fingerprint_follows_the_weights_and_binds_the_statistics() -> None:
    codec, other = stirred(KLCodec(2, width=6)), stirred(KLCodec(2, width=6), seed=1)
    assert codec.fingerprint() != other.fingerprint()
    assert other.fingerprint_with(codec.state_dict()) == codec.fingerprint()
    scale = LatentScale(codec)
    scale.measure([(torch.rand(4, 1, 8, 8) < 0.2).float()], 1)
    again = LatentScale(codec)
    again.load_state_dict(scale.state_dict())
    with pytest.raises(ScaleMismatchError):
        LatentScale(other).load_state_dict(scale.state_dict())


def test_the_gate_refuses_an_untrained_codec() -> None:
    torch.manual_seed(0)
    with pytest.raises(CodecGateError, match="KLCodec keeps"):
        codec_gate(KLCodec(2, width=6), lesions=4)


@pytest.mark.parametrize("target", ["plain", "value"])
def test_loss_counts_lesions_more_and_the_divergence_is_exact(target: str) -> None:
    codec = stirred(KLCodec(2, target, width=6))
    presence = torch.zeros(2, 1, 16, 16)
    presence[0, 0, 3:6, 3:6] = 0.8 if target == "value" else 1
    field = codec.field(presence)
    assert bool(((field > 0) == (presence > 0)).all())
    one, many = (codec.loss(field, torch.Generator().manual_seed(0), weight, 0.5) for weight in (0.0, 20.0))
    assert float(one["reconstruction"]) != pytest.approx(float(many["reconstruction"]))
    mean, log_variance = codec.moments(field)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(one["kl"], exact.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one["loss"], one["reconstruction"] + 0.5 * one["kl"])


def test_covariates_cannot_make_a_lesion_where_the_images_see_nothing() -> None:
    head = CandidateShift(8)
    with torch.no_grad():
        head.case.weight.normal_(0, 50)  # as strong as it can be
    logit = torch.linspace(-12, 6, 400).reshape(1, 1, 20, 20)
    shifted = torch.cat([head(logit, torch.randn(1, 8)) for _ in range(50)]).detach()
    normal = (logit < -8).expand_as(shifted)
    assert float((shifted - logit).abs()[normal].max()) < 0.01
    assert float(torch.sigmoid(shifted[normal]).max()) < 0.001
    suspicious = (logit.abs() < 0.5).expand_as(shifted)
    assert float((shifted - logit).abs()[suspicious].max()) > 1  # where the images doubt, they do speak
