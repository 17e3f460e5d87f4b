"""The mathematics in pure torch: noise path, denoiser, sampler."""

from .denoiser import Condition, Denoiser, LatentDenoiser, PresenceDenoiser
from .path import NoisePath, PathName, RectifiedFlow, VariancePreserving, make_path
from .sampler import (
    SAMPLERS,
    DirectSampler,
    EulerSampler,
    HeunSampler,
    Sampler,
    SamplerName,
    SchedulerSampler,
    Velocity,
    make_sampler,
)

__all__ = [
    "SAMPLERS",
    "Condition",
    "Denoiser",
    "DirectSampler",
    "EulerSampler",
    "HeunSampler",
    "LatentDenoiser",
    "NoisePath",
    "PathName",
    "PresenceDenoiser",
    "RectifiedFlow",
    "Sampler",
    "SamplerName",
    "SchedulerSampler",
    "VariancePreserving",
    "Velocity",
    "make_path",
    "make_sampler",
]
