"""Building blocks in pure torch: Haar transform, codecs, latent scale, encoder, denoiser network."""

from .codec import Codec, HaarCodec, IdentityCodec
from .covariates import CovariateToken
from .denoiser import DenoiserNetwork
from .encoder import Encoder, Features, set_base_prevalence
from .gate import CodecGateError, GateReport, codec_gate
from .haar import haar, inverse_haar
from .scale import LatentScale, ScaleMismatchError

__all__ = [
    "Codec",
    "CodecGateError",
    "CovariateToken",
    "DenoiserNetwork",
    "Encoder",
    "Features",
    "GateReport",
    "HaarCodec",
    "IdentityCodec",
    "LatentScale",
    "ScaleMismatchError",
    "codec_gate",
    "haar",
    "inverse_haar",
    "set_base_prevalence",
]
