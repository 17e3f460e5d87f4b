"""The covariate token: what is known about the person, with a learned value for what is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CandidateShift", "CovariateToken"]


class CovariateToken(nn.Module):
    """A small network from covariates to a vector that modulates the denoiser.

    An unknown covariate is replaced by a learned null, so that 0 (a real value) and unknown differ. With
    nothing known the token is one learned vector: the model is then image-only.
    """

    def __init__(self, n_covariates: int, width: int = 64) -> None:
        """Args: n_covariates: F, 0 for an image-only model. width: Length D of the token."""
        super().__init__()
        self.n_covariates = n_covariates
        self.width = width
        if n_covariates == 0:
            return  # no parameters: a distributed strategy would wait for their gradients
        self.null = nn.Parameter(torch.zeros(n_covariates))
        self.mlp = nn.Sequential(nn.Linear(2 * n_covariates, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, covariates: Tensor, known: Tensor) -> Tensor:
        """Covariates and known flags, both (B, F) → token (B, D); values where `known` is 0 are ignored."""
        if self.n_covariates == 0:
            return covariates.new_zeros(covariates.shape[0], self.width)
        # torch.where, not a product: an unknown covariate may arrive as NaN.
        values = torch.where(known > 0.5, covariates, self.null.to(covariates.dtype))
        return self.mlp(torch.cat((values, known.to(values.dtype)), dim=1))

    @staticmethod
    def drop(known: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
        """Forgets covariates: each by itself, and all of a person at once, both with `probability`.

        Args:
            known: (B, F).
            probability: Chance of either kind of forgetting.
            generator: Source of randomness on the device of `known`.
        """
        one = torch.rand(known.shape, device=known.device, generator=generator) >= probability
        everything = torch.rand((known.shape[0], 1), device=known.device, generator=generator) >= probability
        return known * one * everything


class CandidateShift(nn.Module):
    """Covariates once more at case and lesion level: they move the logit of what the images already suspect.

    ``l' = l + sigmoid(l + 2) (c + d tanh(l / 2))`` with c and d in ±`LIMIT`: c is one number per case, and d makes
    it depend on how suspicious a candidate is. Where the images see nothing (l = -8) the change is below
    .01 whatever the covariates say: swapping a person's covariates cannot make a lesion out of normal tissue.
    """

    LIMIT = 2.0
    OFFSET = 2.0

    def __init__(self, width: int) -> None:
        """Args: width: Length D of the covariate token."""
        super().__init__()
        self.case = nn.Linear(width, 2)
        nn.init.zeros_(self.case.weight)
        nn.init.zeros_(self.case.bias)

    def forward(self, logit: Tensor, token: Tensor) -> Tensor:
        """Image-only logit (B, 1, *S) and token (B, D) → logit of the same shape."""
        both = self.LIMIT * torch.tanh(self.case(token))
        level, slope = both.reshape(*both.shape, *(1,) * (logit.ndim - 2)).split(1, dim=1)
        return logit + torch.sigmoid(logit + self.OFFSET) * (level + slope * torch.tanh(0.5 * logit))
