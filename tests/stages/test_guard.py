from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion_adc.domain.errors import NonFiniteError
from diffusion_adc.stages.guard import NonFiniteGuard


def layer(gradient: float) -> nn.Linear:
    module = nn.Linear(2, 1)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    return module


def test_norm_of_a_finite_gradient() -> None:
    module = layer(2.0)
    norm = NonFiniteGuard(0).check(module.parameters(), [1], 0)
    assert float(norm) == pytest.approx((3 * 4) ** 0.5)
    assert module.weight.grad is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_skipped_step_moves_no_weight_and_too_many_stop(bad: float) -> None:
    guard = NonFiniteGuard(max_skipped=2)
    for _ in range(2):
        module = layer(bad)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
        before = [p.clone() for p in module.parameters()]
        guard.check(module.parameters(), [3, 8], 5)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    with pytest.raises(NonFiniteError, match=r"step 5 \(case indices \[3, 8\]\), 3 steps") as error:
        guard.check(layer(bad).parameters(), [3, 8], 5)
    assert error.value.exit_code == 4


def test_no_gradient_at_all_is_fine() -> None:
    assert float(NonFiniteGuard(0).check(nn.Linear(1, 1).parameters(), [], 0)) == 0
