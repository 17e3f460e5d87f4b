"""The point of the model: from the same image it draws either of two answers, as often as readers gave them."""

from __future__ import annotations

import torch

from diffusion_adc.domain.sequences import PRESENCE
from diffusion_adc.stages import PresenceFlowStage

SIZE = 16
LESION = (slice(5, 11), slice(4, 10))
SHARES = torch.tensor([0.3, 0.7])


def cases(number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of two kinds of lesion, the readers' edits (the whole lesion or nothing), the kind."""
    kind = torch.randint(2, (number,), generator=generator)
    images = 0.1 * torch.randn((number, 7, SIZE, SIZE), generator=generator)
    images[:, 3, *LESION] += 1.0
    images[:, 4, *LESION] += (2.0 * kind - 1.0)[:, None, None]
    keep = torch.rand((number,), generator=generator) < SHARES[kind]
    presence = torch.zeros(number, 1, SIZE, SIZE)
    presence[:, 0, *LESION] = keep.float()[:, None, None]
    return images, presence, kind


def test_draws_both_modes_about_as_often_as_readers_do() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    stage = PresenceFlowStage(2, [16, 16], denoiser_width=16, denoiser_levels=2, dice_weight=0.0)
    stage.measure_latents([{PRESENCE: cases(256, generator)[1]}])
    optimizer = torch.optim.AdamW(stage.parameters(), lr=6e-3)
    available = torch.ones(16, 5)
    steps = 350
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5)
    for _ in range(steps):
        images, presence, _ = cases(16, generator)
        features = stage.encode(images, available)
        loss = stage.base_loss(features.base_logit, presence) + stage.flow_loss(features, presence, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    stage.eval()
    images, _, kind = cases(32, generator)
    draws = 16
    with torch.no_grad():
        features = stage.encode(images, torch.ones(32, 5))
        noise = torch.randn(stage.noise_shape(32 * draws, (SIZE, SIZE)), generator=generator)
        drawn = stage.draw(features, noise, steps=8) > 0
    share = drawn[:, 0, *LESION].float().mean((1, 2))  # of the lesion's voxels, per draw
    outside = (drawn.sum((1, 2, 3)) - drawn[:, 0, *LESION].sum((1, 2))).float().mean()
    whole, nothing = share > 0.9, share < 0.1
    figures = [float((whole.view(32, draws)[kind == k]).float().mean()) for k in (0, 1)]
    print(f"kept {SHARES.tolist()}, drawn {figures}, halves {float((~(whole | nothing)).float().mean()):.3f}")
    assert abs(figures[0] - float(SHARES[0])) < 0.15
    assert abs(figures[1] - float(SHARES[1])) < 0.15
    assert float((whole | nothing).float().mean()) > 0.85
    assert float(outside) < 1
