"""Tissues: relaxation, diffusion and the noise-free signal of each.

Signal of the water of a tissue (inversion recovery echo-planar imaging, two diffusion compartments):

    S(b) = PD · |1 − 2·exp(−TI/T1) + exp(−TR/T1)| · exp(−TE/T2) · [(1−f)·exp(−b·D) + f·exp(−b·D*)]

(intravoxel incoherent motion: Le Bihan 1988, Radiology 168:497). Fat is a second compartment that diffuses
hardly and is nulled by ``TI = T1_fat · ln 2``. Times in ms, b in s/mm², D and ADC in 1e-3 mm²/s.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

_PELVIS_TISSUES: Final = 52
"""The first rows of the table. A person's tissues are drawn for these first and for the later ones after, so
that the table can grow without changing a pelvis."""
FAT: Final = "fat_lipid"
"""Row whose relaxation and diffusion hold for the fat compartment of every tissue."""
_J_COUPLING: Final = 1.8
"""Fat's apparent T2 grows in a train of refocusing pulses (Henkelman 1992, J Magn Reson Imaging 2:533)."""


@dataclass(frozen=True)
class Protocol:
    """Sequence timing in ms, b-values in s/mm²."""

    b_low: float = 50.0
    b_high: float = 900.0
    dwi_tr: float = 8000.0
    dwi_te: float = 70.0
    inversion: float = 173.0
    t1w_tr: float = 550.0
    t1w_te: float = 10.0
    t2w_tr: float = 4500.0
    t2w_te: float = 95.0


@dataclass(frozen=True)
class TissueTable:
    """Parameters by tissue, each array (N,) float64; row order as in `names`.

    Attributes:
        diffusion: D of the slow compartment, so calibrated that the noise-free two-point ADC equals `adc`.
        texture: Relative standard deviation within the tissue.
    """

    names: tuple[str, ...]
    t1: NDArray[np.float64]
    t2: NDArray[np.float64]
    water: NDArray[np.float64]
    fat: NDArray[np.float64]
    adc: NDArray[np.float64]
    adc_sd: NDArray[np.float64]
    f: NDArray[np.float64]
    d_star: NDArray[np.float64]
    texture: NDArray[np.float64]
    diffusion: NDArray[np.float64]

    def row(self, name: str) -> int:
        """Row of a tissue."""
        return self.names.index(name)


@dataclass(frozen=True)
class SignalTable:
    """Noise-free signals by tissue, each (N,) float64, fat and water apart for the diffusion images.

    The water's diffusion signal is ``amplitude · (slow · exp(−b·D) + fast(b))``.
    """

    t1w: NDArray[np.float64]
    t2w: NDArray[np.float64]
    slow: NDArray[np.float64]
    fast_low: NDArray[np.float64]
    fast_high: NDArray[np.float64]
    diffusion: NDArray[np.float64]
    fat_dwi: NDArray[np.float64]
    """Fat's signal at b = 0 before any suppression."""
    fat_residual: float
    """Share of it the inversion leaves."""


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = resources.files(__package__).joinpath("tissues.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def tissue_names() -> tuple[str, ...]:
    """Names of the tissues, in row order."""
    return tuple(row["name"] for row in _rows())


def load_tissues(field_t: float = 1.5, b_low: float = 50.0, b_high: float = 900.0) -> TissueTable:
    """Population means at a field of 1.5 or 3 T, diffusion calibrated for the two b-values."""
    suffix = "1p5t" if field_t < 2 else "3t"

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in _rows()])

    adc, f, d_star = column("adc_um2_ms"), column("ivim_f"), column("ivim_dstar")
    return TissueTable(
        names=tissue_names(),
        t1=column(f"t1_{suffix}_ms"),
        t2=column(f"t2_{suffix}_ms"),
        water=column("water_pd"),
        fat=column("fat_pd"),
        adc=adc,
        adc_sd=column("adc_sd"),
        f=f,
        d_star=d_star,
        texture=column("texture"),
        diffusion=calibrated_diffusion(adc, f, d_star, b_low, b_high),
    )


def calibrated_diffusion(
    adc: NDArray[np.float64],
    f: NDArray[np.float64],
    d_star: NDArray[np.float64],
    b_low: float,
    b_high: float,
) -> NDArray[np.float64]:
    """Slow diffusion D with which the two-compartment signal has the wanted two-point ADC.

    Perfusion lifts a two-point ADC above D; a tissue quoted with its measured ADC needs the smaller D.
    Bisection, since the two-point ADC grows monotonically with D.

    Returns:
        (N,) in 1e-3 mm²/s, at least 0.01.
    """
    low, high = np.full_like(adc, 1e-2), np.maximum(adc, 1e-2)
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = two_compartment_adc(middle, f, d_star, b_low, b_high) < adc
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def two_compartment_adc(
    diffusion: NDArray[np.float64],
    f: NDArray[np.float64],
    d_star: NDArray[np.float64],
    b_low: float,
    b_high: float,
) -> NDArray[np.float64]:
    """Noise-free two-point ADC of the two-compartment signal, 1e-3 mm²/s."""

    def attenuation(b: float) -> NDArray[np.float64]:
        fast = f * np.exp(-b * d_star / 1000)
        return np.asarray((1 - f) * np.exp(-b * diffusion / 1000) + fast)

    return np.asarray(1000 * np.log(attenuation(b_low) / attenuation(b_high)) / (b_high - b_low))


def person_tissues(mean: TissueTable, rng: np.random.Generator, b_low: float, b_high: float) -> TissueTable:
    """One person's tissues: ADC by its between-person spread, relaxation times and water by a few percent.

    Args:
        mean: Population means.
        rng: The person's generator.
        b_low: s/mm².
        b_high: s/mm².
    """
    n = len(mean.names)
    first = rng.standard_normal((4, min(n, _PELVIS_TISSUES)))
    z = np.clip(np.hstack([first, rng.standard_normal((4, n - first.shape[1]))]), -1.7, 1.7)
    adc = np.maximum(mean.adc + mean.adc_sd * z[0], 0.25 * mean.adc)
    t1 = mean.t1 * np.exp(0.05 * z[1])
    t1[mean.row(FAT)] = mean.t1[mean.row(FAT)]  # the protocol nulls the population's fat
    return TissueTable(
        names=mean.names,
        t1=t1,
        t2=mean.t2 * np.exp(0.06 * z[2]),
        water=np.minimum(mean.water * np.exp(0.04 * z[3]), 1.0),
        fat=mean.fat,
        adc=adc,
        adc_sd=mean.adc_sd,
        f=mean.f,
        d_star=mean.d_star,
        texture=mean.texture,
        diffusion=calibrated_diffusion(adc, mean.f, mean.d_star, b_low, b_high),
    )


def nulling_inversion_ms(table: TissueTable) -> float:
    """Inversion time that nulls fat for long TR: ``T1_fat · ln 2``."""
    return float(table.t1[table.row(FAT)] * np.log(2.0))


def inversion_recovery(t1: NDArray[np.float64], ti: float, tr: float) -> NDArray[np.float64]:
    """Longitudinal magnetization ``|1 − 2·exp(−TI/T1) + exp(−TR/T1)|``, relative to equilibrium."""
    return np.asarray(np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)))


def signals(table: TissueTable, protocol: Protocol) -> SignalTable:
    """Noise-free signal of every tissue under a protocol; proton density 1 gives 1 before weighting."""
    fat = table.row(FAT)
    t1_fat, t2_fat = table.t1[fat : fat + 1], table.t2[fat : fat + 1]

    def spin_echo(
        t1: NDArray[np.float64], t2: NDArray[np.float64], tr: float, te: float
    ) -> NDArray[np.float64]:
        return np.asarray((1 - np.exp(-tr / t1)) * np.exp(-te / t2))

    t1w = table.water * spin_echo(table.t1, table.t2, protocol.t1w_tr, protocol.t1w_te)
    t1w = t1w + table.fat * spin_echo(t1_fat, t2_fat, protocol.t1w_tr, protocol.t1w_te)
    t2w = table.water * spin_echo(table.t1, table.t2, protocol.t2w_tr, protocol.t2w_te)
    t2w = t2w + table.fat * spin_echo(t1_fat, t2_fat * _J_COUPLING, protocol.t2w_tr, protocol.t2w_te)
    amplitude = (
        table.water
        * inversion_recovery(table.t1, protocol.inversion, protocol.dwi_tr)
        * np.exp(-protocol.dwi_te / table.t2)
    )
    return SignalTable(
        t1w=t1w,
        t2w=t2w,
        slow=amplitude * (1 - table.f),
        fast_low=amplitude * table.f * np.exp(-protocol.b_low * table.d_star / 1000),
        fast_high=amplitude * table.f * np.exp(-protocol.b_high * table.d_star / 1000),
        diffusion=table.diffusion,
        fat_dwi=table.fat * np.exp(-protocol.dwi_te / t2_fat),
        fat_residual=float(inversion_recovery(t1_fat, protocol.inversion, protocol.dwi_tr)[0]),
    )


def dwi_water(table: SignalTable, b: float, fast: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise-free water signal at b: ``slow · exp(−b·D) + fast(b)``."""
    return np.asarray(table.slow * np.exp(-b * table.diffusion / 1000) + fast)
