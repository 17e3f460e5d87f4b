"""Lays examinations out as NIfTI folders and ingests them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from diffusion_adc.domain.case import Case
from diffusion_adc.domain.signal import dwi_signal
from diffusion_adc.intake.ingest import IngestOptions, IngestReport, ingest
from diffusion_adc.records.cohort import load_volume, read_cohort

Array = NDArray[Any]
SHAPE = (24, 20, 6)


@dataclass(frozen=True)
class Desk:
    """A desk on which examinations are laid out as NIfTI folders and ingested."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "in"

    @property
    def out(self) -> Path:
        return self.root / "cohort"

    def grid(
        self, turn: float = 0.0, spacing: tuple[float, float, float] = (2.0, 2.0, 4.0), moved: float = 0.0
    ) -> Array:
        """RAS+ affine turned about the third axis and moved along the first one."""
        out = np.eye(4)
        cos, sin = np.cos(turn), np.sin(turn)
        out[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(spacing)
        out[:3, 3] = (-30 + moved, -25, 10)
        return out

    def exam(self, seed: int = 0, shape: tuple[int, int, int] = SHAPE, air: float = 0.0) -> dict[str, Array]:
        """An examination that agrees with itself; ADC in 1e-6 mm²/s as scanners store it.

        With `air`, magnitude noise of that σ surrounds the body and the scanner fits it too: noise over noise.
        """
        rng = np.random.default_rng(seed)
        i, j, _ = np.ogrid[: shape[0], : shape[1], : shape[2]]
        radius = ((i - shape[0] / 2) / (0.36 * shape[0])) ** 2 + ((j - shape[1] / 2) / (0.36 * shape[1])) ** 2
        body = np.broadcast_to(radius < 1, shape)
        adc = np.where(body, rng.uniform(0.8, 2.0, shape), 0.0)
        s0 = np.where(body, rng.uniform(300, 600, shape), 0.0)
        noise = [np.abs(rng.normal(0, air, shape) + 1j * rng.normal(0, air, shape)) for _ in range(4)]
        low, high = (np.where(body, dwi_signal(s0, b, adc), n) for b, n in ((50, noise[0]), (800, noise[1])))
        if air:
            fitted = 1000 * np.log(np.maximum(noise[0], 0.1) / np.maximum(noise[1], 0.1)) / 750
            adc = np.where(body, adc, fitted)
        label = np.zeros(shape)
        label[shape[0] // 2 : shape[0] // 2 + 3, shape[1] // 2 : shape[1] // 2 + 2, shape[2] // 2] = 1
        return {
            "t1w": s0 * 0.7 + noise[2], "t2w": s0 * 1.3 + noise[3], "dwi_low": low, "dwi_high": high,
            "adc": np.round(adc * 1000), "tumor_label": label,
        }  # fmt: skip

    def put(
        self, folder: Path, name: str, array: Array, grid: Array | None = None, *, dtype: Any = np.float32,
        suffix: str = ".nii.gz", codes: tuple[int, int] = (1, 1), kind: Any = nib.Nifti1Image, **fields: Any,
    ) -> Path:  # fmt: skip
        """Write one volume; `codes` are sform's and qform's, `fields` overwrite header fields."""
        image = kind(np.asarray(array, dtype=dtype), self.grid() if grid is None else grid)
        image.set_qform(image.affine, codes[1])
        image.set_sform(image.affine, codes[0])
        for field, value in fields.items():
            image.header[field] = value
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(image, folder / f"{name}{suffix}")
        return folder / f"{name}{suffix}"

    def add(
        self, folder: str = "CASE-001", content: dict[str, Array] | None = None, *, without: tuple[str, ...] = (),
        **how: Any,
    ) -> Path:  # fmt: skip
        """Lay one case folder out."""
        for name, array in (self.exam() if content is None else content).items():
            if name not in without:
                self.put(self.source / folder, name, array, **how)
        return self.source / folder

    def ingest(self, **options: Any) -> IngestReport:
        declared: dict[str, Any] = {"adc_unit": "1e-6", "b_values": {"dwi_low": "50", "dwi_high": "800"}}
        return ingest(self.source, self.out, IngestOptions(**{**declared, **options}))

    def only_case(self, **options: Any) -> Case:
        """The one case of the cohort after an ingest that refused nothing."""
        report = self.ingest(**options)
        assert not report.refused, report.refused
        (case,) = read_cohort(self.out).cases
        return case

    def refusal(self, **options: Any) -> str:
        """The one refusal of an ingest that took nothing in."""
        report = self.ingest(**options)
        assert not report.cases
        (message,) = report.refused
        assert "\n" not in message
        assert str(self.root) not in message
        return message

    def stored(self, case: Case, name: str, reader: str | None = None) -> Array:
        return load_volume(self.out, case, name, reader).array
