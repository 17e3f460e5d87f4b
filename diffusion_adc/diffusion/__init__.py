"""The mathematics in pure torch: noise path, denoiser, sampler."""

from .denoiser import Condition, Denoiser, LatentDenoiser, PresenceDenoiser
from .path import RectifiedFlow
from .sampler import EulerSampler, HeunSampler, Sampler, SamplerName, Velocity, make_sampler

__all__ = [
    "Condition",
    "Denoiser",
    "EulerSampler",
    "HeunSampler",
    "LatentDenoiser",
    "PresenceDenoiser",
    "RectifiedFlow",
    "Sampler",
    "SamplerName",
    "Velocity",
    "make_sampler",
]
