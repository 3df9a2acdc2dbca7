"""The benchmarks run and say what they mean; their figures are not tested, for they are the machine's."""

import pytest
import torch
from foreshock.benchmarks import overhead
from foreshock.benchmarks.peers import ItemHooks, WandbWatch
from foreshock.zoo.scenario import Training
from torch import Tensor, nn


def tiny(seed: int) -> Training:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(3, 8)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Training(model, optimizer, step)


def test_every_way_of_watching_is_compared_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WORKLOADS", {"tiny": tiny})
    monkeypatch.setattr(WandbWatch, "installed", staticmethod(lambda: False))
    said: list[str] = []
    costs = overhead.measure(["tiny"], ["eager"], ["light", "default"], steps=80, every=10, say=said.append)
    assert [(cost.watched_by, cost.every) for cost in costs[:2]] == [("light", 10), ("default", 10)]
    assert [cost.watched_by for cost in costs[2:]] == ["default, governor", ".item() hooks"]
    assert len(said) == len(costs)
    for cost in costs:
        assert cost.ratio > 0
        assert cost.spread[0] <= cost.spread[1]
        assert cost.statistics > 0
    # Of two layers there are not as many plain numbers as the default preset gives; where there are, the count is the same.
    assert costs[3].statistics <= costs[1].statistics


def test_item_hooks_stop_at_the_number_wanted_and_leave_the_model() -> None:
    run = tiny(0)
    hooks = ItemHooks(run.model, 7)
    for sampled in (True, False):
        hooks.before_step(sampled)
        hooks.after_step(sampled, run.step(0))
    assert hooks.statistics == 7
    assert not any(module._forward_hooks for module in run.model.modules())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": ["huge"]}, "'huge' is none of gpt"),
        ({"modes": ["fast"]}, "none of eager, compile"),
        ({"steps": 60}, "200 steps"),
    ],
)
def test_impossible_wishes_are_explained(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overhead.measure(**wrong)
