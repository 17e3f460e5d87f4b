"""Building blocks in pure torch: Haar transform, codecs, latent scale, encoder, denoiser network."""

from .codec import VALUE_CUT, Codec, HaarCodec, IdentityCodec
from .covariates import CandidateShift, CovariateToken
from .denoiser import DenoiserNetwork
from .encoder import Encoder, Features, set_base_prevalence
from .gate import CodecGateError, GateReport, codec_gate
from .haar import haar, inverse_haar
from .kl import KLCodec
from .scale import LatentScale, ScaleMismatchError

__all__ = [
    "VALUE_CUT",
    "CandidateShift",
    "Codec",
    "CodecGateError",
    "CovariateToken",
    "DenoiserNetwork",
    "Encoder",
    "Features",
    "GateReport",
    "HaarCodec",
    "IdentityCodec",
    "KLCodec",
    "LatentScale",
    "ScaleMismatchError",
    "codec_gate",
    "haar",
    "inverse_haar",
    "set_base_prevalence",
]
