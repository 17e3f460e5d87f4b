"""Whole volumes: encode once, keep the features, integrate the flow over the whole latent.

A volume that fits into one window is drawn in one piece. A larger one is tiled: the encoder in disjoint cores
with a halo, the flow in overlapping tiles whose **velocities** are blended at every step, all reading one
noise field. Blending finished draws instead would average different decisions about one lesion.

Axes ``C I J K`` for volumes, ``B C …`` for the network; a 2-D stage takes the slices (last axis) as its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from diffusion_adc.diffusion.path import NoisePath
from diffusion_adc.diffusion.sampler import Sampler, make_sampler
from diffusion_adc.domain.errors import UsageError
from diffusion_adc.inference.noise import noise_field
from diffusion_adc.inference.settings import DrawSettings
from diffusion_adc.inference.tiles import Blend, Box, fit_window, tile_boxes
from diffusion_adc.networks.encoder import Features

CPU_BATCH_VOXELS: Final = 250_000
"""Voxels per network call when no batch is given: ten slices of 160 × 160 ran 5 to 10 % faster than forty."""
GPU_BATCH_VOXELS: Final = 4_000_000
"""The same on an accelerator, which wants large batches."""


class VelocityModel(Protocol):
    """What drawing needs of a stage."""

    spatial_dims: int
    path: NoisePath
    sampler_name: str
    """The sampler used when the settings name none."""

    @property
    def alignment(self) -> tuple[int, ...]:
        """Voxels per spatial axis of which a volume's sides and a tile's start must be multiples."""

    @property
    def receptive_margin(self) -> tuple[int, ...]:
        """Voxels per spatial axis after which a border no longer matters to the encoder."""

    def noise_shape(self, batch: int, shape: Sequence[int]) -> tuple[int, ...]:
        """(B, C, *S/factor) of the noise for a volume of spatial shape S."""

    def encode(
        self, images: Tensor, available: Tensor, covariates: Tensor | None = None, known: Tensor | None = None
    ) -> Features:
        """Images (B, C, *S), flags (B, 5), covariates and known flags (B, F) → features."""

    def velocity(self, z: Tensor, t: Tensor | float, features: Features) -> Tensor:
        """Latents (B · n, C, *s) at time t, n draws of each of the B rows of features → their velocity."""

    def arrange(self, noise: Tensor, draw: int) -> Tensor:
        """The noise (C, I, J, K) of draw number `draw` as the model wants it, same shape."""

    def to_presence(self, z: Tensor) -> Tensor:
        """Latent at t = 0 → signed field (B, 1, *S), > 0 where present."""


class ConditionVolume(Protocol):
    """The condition of one case on the working grid."""

    @property
    def images(self) -> Any:
        """float32 (C, I, J, K)."""

    @property
    def available(self) -> Any:
        """(5,)."""

    @property
    def covariates(self) -> Any:
        """(F,)."""

    @property
    def known(self) -> Any:
        """(F,)."""


@dataclass(frozen=True)
class DrawnVolume:
    """Draws of one case on the working grid.

    Attributes:
        signed: float32 (D, I, J, K), > 0 where present.
        base_logit: float32 (I, J, K).
    """

    signed: Tensor
    base_logit: Tensor

    @property
    def presence(self) -> Tensor:
        """Boolean (D, I, J, K)."""
        return self.signed > 0


class VolumeDrawing:
    """One case, encoded and ready to be drawn from.

    Args:
        model: A stage, in evaluation mode, on the device where it is to run.
        condition: The case on the working grid.
        case_id: Chooses the noise.
        settings: How to draw.
        device: Where the model is.
    """

    def __init__(
        self,
        model: VelocityModel,
        condition: ConditionVolume,
        case_id: str,
        settings: DrawSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.case_id, self.settings = model, case_id, settings
        self.device = torch.device(device)
        self.flat = model.spatial_dims == 2
        images = torch.as_tensor(condition.images, dtype=torch.float32)
        self.shape = tuple(images.shape[1:])
        self.align = (*model.alignment, 1) if self.flat else tuple(model.alignment)
        self.padded = tuple(a * math.ceil(n / a) for n, a in zip(self.shape, self.align, strict=True))
        padding = [p for n, m in zip(self.shape[::-1], self.padded[::-1], strict=True) for p in (0, m - n)]
        # Zeros are what the condition holds outside the body and for missing sequences.
        images = torch.nn.functional.pad(images, padding)
        self.rows = images.permute(3, 0, 1, 2) if self.flat else images[None]
        vectors = (condition.available, condition.covariates, condition.known)
        self.vectors = [torch.as_tensor(v, dtype=torch.float32)[None].to(self.device) for v in vectors]
        self.spatial = tuple(self.rows.shape[2:])
        self.latent = tuple(model.noise_shape(1, self.spatial)[1:])
        self.factor = tuple(s // n for s, n in zip(self.spatial, self.latent[1:], strict=True))
        self.boxes = self._flow_boxes()
        self.blend = Blend(self.latent[1:], self.boxes, self.device) if len(self.boxes) > 1 else None
        with torch.no_grad():
            self.features = self._encoded()

    @property
    def base_logit(self) -> Tensor:
        """Presence logit of the base head, float32 (I, J, K) on the CPU."""
        return self._volume(self.features.base_logit)

    def draws(self, on_step: Callable[[int], None] | None = None, workers: int = 1) -> Iterator[Tensor]:
        """Signed fields, float32 (I, J, K) on the CPU, draw by draw in order.

        Args:
            on_step: Called with the number of integration steps done, after each; from any worker.
            workers: Draws made at once, in threads. On a CPU with one torch thread each this scales better
                than threads inside an operation, whose barriers stall on a busy machine, and a draw's bits
                do not depend on how many there are.
        """
        sampler = self._sampler()
        size = 1 if self.flat else self._batch()
        jobs = [
            range(first, min(first + size, self.settings.draws))
            for first in range(0, self.settings.draws, size)
        ]

        def make(numbers: range) -> list[Tensor]:
            with torch.no_grad():  # gradients are switched off per thread
                return (
                    self._slices(sampler, numbers[0], on_step)
                    if self.flat
                    else self._whole(sampler, numbers, on_step)
                )

        if workers == 1:
            for job in jobs:
                yield from make(job)
            return
        with ThreadPoolExecutor(workers) as pool:
            for fields in pool.map(make, jobs):
                yield from fields

    def _whole(self, sampler: Sampler, numbers: range, on_step: Callable[[int], None] | None) -> list[Tensor]:
        noise = torch.stack([self._noise(draw) for draw in numbers]).to(self.device)
        z = self._integrate(sampler, noise, self.features, on_step, len(numbers))
        return [self._volume(self.model.to_presence(row[None])) for row in z]

    def _slices(self, sampler: Sampler, draw: int, on_step: Callable[[int], None] | None) -> list[Tensor]:
        noise = self._noise(draw).permute(3, 0, 1, 2).to(self.device)
        batch, fields = self._batch(), []
        for first in range(0, noise.shape[0], batch):
            rows = slice(first, first + batch)
            report = on_step if first + batch >= noise.shape[0] else None
            z = self._integrate(sampler, noise[rows], _rows(self.features, rows), report, 1)
            fields.append(self.model.to_presence(z))
        return [self._volume(torch.cat(fields))]

    def _integrate(
        self,
        sampler: Sampler,
        noise: Tensor,
        features: Features,
        on_step: Callable[[int], None] | None,
        draws: int,
    ) -> Tensor:
        def velocity(z: Tensor, t: float) -> Tensor:
            if self.blend is None:
                return self.model.velocity(z, t, features)
            return self.blend.mean((box, self._tile(z, t, features, box)) for box in self.boxes)

        after = None if on_step is None else lambda _step, _z: on_step(draws)
        return sampler.draw(velocity, noise, after)

    def _tile(self, z: Tensor, t: float, features: Features, box: Box) -> Tensor:
        start = [part.start for part in box]
        size = [part.stop - part.start for part in box]
        return self.model.velocity(z[(slice(None), slice(None), *box)], t, features.window(start, size))

    def _sampler(self) -> Sampler:
        name = self.settings.sampler or self.model.sampler_name
        try:
            return make_sampler(name, self.model.path, self.settings.steps)  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(str(error), do="choose another sampler or number of steps") from None

    def _batch(self) -> int:
        voxels = CPU_BATCH_VOXELS if self.device.type == "cpu" else GPU_BATCH_VOXELS
        return self.settings.batch or max(1, voxels // math.prod(self.spatial))

    def _noise(self, draw: int) -> Tensor:
        channels, *cells = self.latent
        noise = noise_field(
            (channels, *cells, self.padded[2]) if self.flat else self.latent,
            seed=self.settings.seed,
            case_id=self.case_id,
            draw=draw,
            slice_correlation=self.settings.correlation(self.model.spatial_dims),
        )
        return self.model.arrange(noise, draw)

    def _flow_boxes(self) -> list[Box]:
        align = self.model.alignment
        window = fit_window(self.spatial, self.settings.max_window_voxels, align)
        cells = [w // f for w, f in zip(window, self.factor, strict=True)]
        steps = [max(1, a // f) for a, f in zip(align, self.factor, strict=True)]
        return tile_boxes(self.latent[1:], cells, self.settings.overlap, steps)

    def _encoded(self) -> Features:
        """Features of the whole volume; slices in batches, large planes or volumes in cores with a halo."""
        batch = self._batch() if self.flat else 1
        cores = self._cores()
        whole: Features | None = None
        for first in range(0, self.rows.shape[0], batch):
            rows = slice(first, first + batch)
            images = self.rows[rows].to(self.device)
            vectors = [v.expand(images.shape[0], -1) for v in self.vectors]
            for outer, core in cores:
                part = self.model.encode(images[(slice(None), slice(None), *outer)], *vectors)
                if images.shape[0] == self.rows.shape[0] and len(cores) == 1:
                    return part
                whole = self._placed(whole, part, rows, outer, core)
        assert whole is not None, "a volume has at least one slice"
        return whole

    def _cores(self) -> list[tuple[Box, Box]]:
        """Encoder tiles: the box that is encoded and the core of it that is kept, in voxels."""
        align = self.model.alignment
        window = fit_window(self.spatial, self.settings.max_window_voxels, align)
        halo = [a * math.ceil(m / a) for m, a in zip(self.model.receptive_margin, align, strict=True)]
        return [
            (
                tuple(
                    slice(max(0, part.start - h), min(side, part.stop + h))
                    for part, h, side in zip(core, halo, self.spatial, strict=True)
                ),
                core,
            )
            for core in _disjoint(self.spatial, window)
        ]

    def _placed(self, whole: Features | None, part: Features, rows: slice, outer: Box, core: Box) -> Features:
        if whole is None:
            total = self.rows.shape[0]
            whole = replace(
                part,
                maps=part.maps.new_empty((total, part.maps.shape[1], *self.latent[1:])),
                base_logit=part.base_logit.new_empty((total, 1, *self.spatial)),
                token=part.token[:1].expand(total, -1),
            )
        cells = tuple(slice(c.start // f, c.stop // f) for c, f in zip(core, self.factor, strict=True))
        start = [(c.start - o.start) // f for c, o, f in zip(core, outer, self.factor, strict=True)]
        kept = part.window(start, [c.stop - c.start for c in cells])
        whole.maps[(rows, slice(None), *cells)] = kept.maps
        whole.base_logit[(rows, slice(None), *core)] = kept.base_logit
        return whole

    def _volume(self, rows: Tensor) -> Tensor:
        """Rows (B, 1, *S) of the network → (I, J, K) without the padding, on the CPU."""
        volume = rows[:, 0].permute(1, 2, 0) if self.flat else rows[0, 0]
        i, j, k = self.shape
        return volume[:i, :j, :k].float().cpu()


def _rows(features: Features, rows: slice) -> Features:
    return replace(
        features, maps=features.maps[rows], base_logit=features.base_logit[rows], token=features.token[rows]
    )


def _disjoint(shape: Sequence[int], window: Sequence[int]) -> list[Box]:
    axes = [
        [slice(start, min(start + size, side)) for start in range(0, side, size)]
        for side, size in zip(shape, window, strict=True)
    ]
    boxes: list[Box] = [()]
    for axis in axes:
        boxes = [(*box, part) for box in boxes for part in axis]
    return boxes


def draw_presence(
    model: VelocityModel,
    condition: ConditionVolume,
    case_id: str,
    settings: DrawSettings,
    device: torch.device | str = "cpu",
) -> DrawnVolume:
    """All draws of one case on the working grid.

    Args:
        model: A stage in evaluation mode.
        condition: The case's condition volumes.
        case_id: Chooses the noise.
        settings: How to draw.
        device: Where the model is.
    """
    drawing = VolumeDrawing(model, condition, case_id, settings, device)
    return DrawnVolume(torch.stack(list(drawing.draws())), drawing.base_logit)
