"""Optimizers around others, as ZeroRedundancyOptimizer is: what both step is measured once, as a whole."""

from typing import Any

import pytest
import torch
from foreshock.probes.adam import AdamProbe
from foreshock.probes.base import unguarded
from foreshock.probes.step.gradient_norm import GradientNorm, joined
from torch import Tensor, nn


class ZeroRedundancyOptimizer(torch.optim.Optimizer):
    """A rank's end of torch's class of that name: it steps its own part with an optimizer within, the rest comes from elsewhere."""

    def __init__(self, parameters: Any, mine: int) -> None:
        parameters = list(parameters)
        super().__init__(parameters, {"lr": 0.01})
        self.optim = torch.optim.AdamW(parameters[:mine], lr=0.01)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optim.step()


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("mine", [1, 2])
def test_the_gradient_norm_counts_each_gradient_once(mine: int) -> None:
    model = nn.Linear(3, 2)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), mine)
    measured = GradientNorm(model.parameters(), [], unguarded)
    for _ in range(2):
        stepped(model, optimizer)
        both = joined(measured.take())
        gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
        assert both is not None
        assert float(both[0]) == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-6)
    measured.remove()


def test_a_part_of_the_moments_is_not_taken_for_the_whole(sampler) -> None:
    """Alone, a rank that has the weight's moments and not the bias's says nothing; of a module that is all its own it does."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), 3)
    found = sampler(AdamProbe(), model).sample(lambda: stepped(model, optimizer))
    assert found.modules("adam.first_moment_norm") == {"0"}
    weight_and_bias = torch.cat([optimizer.optim.state[p]["exp_avg"].flatten() for p in model[0].parameters()])
    assert found.of("adam.first_moment_norm", "0") == pytest.approx(weight_and_bias.norm().item(), rel=1e-6)
