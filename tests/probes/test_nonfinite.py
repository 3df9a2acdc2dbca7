"""The first value that is not finite is named with its module and direction, and nothing else is."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.nonfinite import NonfiniteProbe
from foreshock.zoo.models import GPT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

COUNT = "nonfinite.count"


class Break(nn.Module):
    """Hands on what it is given, but for one value on the way there or back."""

    def __init__(self, bad: float = math.nan, *, rows: int = 1, forward: bool = True) -> None:
        super().__init__()
        self.bad, self.rows, self.on_the_way_there, self.broken = bad, rows, forward, True

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        if not self.broken:
            return y
        if self.on_the_way_there:
            y.flatten(0, -2)[: self.rows, 0] = self.bad
            return y

        def spoil(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient.flatten(0, -2)[: self.rows, 0] = self.bad
            return gradient

        if y.requires_grad:
            y.register_hook(spoil)
        return y


def gpt() -> tuple[GPT, Tensor]:
    model = GPT(16, 2, 2, 40, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return model, torch.arange(320).reshape(8, 40) % 256


def training(model: nn.Module, x: Tensor, lr: float = 0.1) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def counts(found: Any) -> dict[str, float]:
    assert {signal for signal, _, head in found if head != -1} == set()
    return {module: value for (signal, module, _), value in found.items() if signal == COUNT}


def test_a_healthy_model_stores_nothing(sampler) -> None:
    run = sampler(NonfiniteProbe(), gpt()[0])
    model, x = gpt()
    run = sampler(NonfiniteProbe(), model)
    for _ in range(3):
        assert run.sample(training(model, x)) == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_output_of_a_gpt(bad: float, sampler) -> None:
    """Everything behind it is spoiled too, and all gradients and weights are: only the first is told."""
    model, x = gpt()
    model.blocks[1].up = nn.Sequential(model.blocks[1].up, Break(bad, rows=5))
    assert counts(sampler(NonfiniteProbe(), model).sample(training(model, x))) == {"blocks.1.up.1.forward": 5.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_gradient_of_a_gpt(bad: float, sampler) -> None:
    model, x = gpt()
    model.blocks[1].up = nn.Sequential(model.blocks[1].up, Break(bad, rows=5, forward=False), nn.Tanh())
    # Spoiled between the breaking module and what it was given: the first gradient seen behind it is that of `up` itself.
    found = counts(sampler(NonfiniteProbe(), model).sample(training(model, x)))
    assert found in ({"blocks.1.up.0.backward": 5.0}, {"blocks.1.up.1.backward": 5.0})


def test_code_between_modules_shows_at_the_next_ones_input(sampler) -> None:
    model, x = gpt()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v).clone()
        out[0, 1, :3, 2] = math.nan
        return out

    model.blocks[1].attention.attend = attend
    assert counts(sampler(NonfiniteProbe(), model).sample(training(model, x))) == {"blocks.1.attention.o.input": 3.0}


def test_a_bad_batch_shows_at_the_first_layers_input(sampler) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    x = torch.randn(10, 4)
    x[2:5, 1] = math.inf
    assert counts(sampler(NonfiniteProbe(), model).sample(training(model, x))) == {"0.input": 3.0}


def test_an_update_that_breaks_a_weight(sampler) -> None:
    """It shows in the step itself; at the next sample the weight that is still broken comes first, not what it does to outputs."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    x = torch.randn(10, 4)
    run = sampler(NonfiniteProbe(), model)

    def step() -> None:
        training(model, x)()
        with torch.no_grad():
            model[2].weight[0, 1] = math.nan

    assert counts(run.sample(step)) == {"2.optimizer": 1.0}
    assert counts(run.sample(lambda: model(x).sum().backward())) == {"2.optimizer": 1.0}
    unsampled = sampler(NonfiniteProbe(), model)
    assert counts(unsampled.sample(training(model, x))) == {"2.optimizer": 1.0}, "as it was found, not what came of it"


def test_a_weight_that_stays_broken_explains_the_others(sampler) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    run, train = sampler(NonfiniteProbe(), model), training(model, torch.randn(10, 4))
    with torch.no_grad():
        model[2].weight[0, 1] = math.nan
    assert counts(run.sample(train)) == {"2.optimizer": 1.0}
    for _ in range(3):  # all weights are broken by now
        assert counts(run.sample(train)) == {"2.optimizer": 2.0}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    assert counts(run.sample(train)) == {"2.optimizer": 0.0}
    with torch.no_grad():
        model[0].bias[0] = math.inf
    assert counts(run.sample(lambda: None)) == {"0.optimizer": 1.0, "2.optimizer": 0.0}


def test_what_was_told_once_is_told_until_it_heals_and_further(sampler) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Break(rows=2), nn.Linear(4, 1))
    x = torch.randn(10, 4)
    run = sampler(NonfiniteProbe(), model)
    assert counts(run.sample(lambda: model(x).sum().backward())) == {"1.forward": 2.0}
    model[1].broken = False
    assert counts(run.sample(lambda: model(x).sum().backward())) == {"1.forward": 0.0}
    model[1].broken, model[1].on_the_way_there = True, False
    found = counts(run.sample(lambda: model(x).sum().backward()))
    assert found == {"1.forward": 0.0, "0.backward": 2.0} or found == {"1.forward": 0.0, "1.backward": 2.0}


def test_a_loss_scale_too_high_shows_at_the_head(sampler) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).half()
    x = torch.randn(10, 8).half()
    found = counts(sampler(NonfiniteProbe(), model).sample(lambda: (model(x).float().square().sum() * 2.0**24).backward()))
    assert found == {"2.backward": 10.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_large_values_of_any_format_are_finite(dtype: torch.dtype, sampler) -> None:
    """Sums of many large numbers must not overflow by themselves; float16 ends at 65,504."""
    big = 6e4 if dtype == torch.float16 else 1e30
    model = nn.Sequential(nn.ReLU(), nn.Hardtanh(-big, big))
    x = torch.full((4, 3000), big, dtype=dtype, requires_grad=True)
    assert sampler(NonfiniteProbe(), model).sample(lambda: model(x)) == {}
    bad = x.detach().clone()
    bad[3, 2999] = math.inf
    assert counts(sampler(NonfiniteProbe(), model).sample(lambda: model(bad))) == {"0.input": 1.0}


def test_opposite_infinities_and_odd_tensors(sampler) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {
                "text": "",
                "none": None,
                "empty": x[:0],
                "number": 1,
                "whole": x.long(),
                "pair": (x.sum(), [x.cfloat()]),
                "x": x * 1,
            }

    x = torch.ones(4, 6)
    assert sampler(NonfiniteProbe(), Odd()).sample(lambda: None) == {}
    model = Odd()
    assert sampler(NonfiniteProbe(), model).sample(lambda: model(x)) == {}
    x[1, :2] = torch.tensor([math.inf, -math.inf])
    assert counts(sampler(NonfiniteProbe(), model).sample(lambda: model(x))) == {"input": 1.0}


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("there", [True, False], ids=["forward", "backward"])
def test_checkpointed_blocks_keep_their_order(there: bool, reentrant: bool, sampler) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
            self.blocks[1].append(Break(rows=2, forward=there))
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return self.head(x)

    model = Model()
    x = torch.randn(10, 4, requires_grad=True)
    found = counts(sampler(NonfiniteProbe(), model).sample(lambda: model(x).sum().backward()))
    (name,) = found
    assert found[name] == 2.0
    assert name in ({"blocks.1.2.forward"} if there else {"blocks.1.1.backward", "blocks.1.2.backward"})


def test_the_first_micro_batch_is_looked_at_and_validation_is_not(sampler) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    x, bad = torch.randn(10, 4), torch.full((10, 4), math.nan)
    run = sampler(NonfiniteProbe(), model)

    def several() -> None:
        model.eval()
        with torch.no_grad():
            model(bad)
        model.train()
        for batch in (x, bad):
            model(batch).sum().backward()

    assert run.sample(several) == {}


def test_under_autocast_shared_modules_frozen_parts_and_several_models(sampler) -> None:
    shared = nn.Linear(4, 4)
    one, other = nn.Sequential(shared, nn.Tanh(), shared).requires_grad_(False), nn.Sequential(nn.Linear(4, 4), Break(rows=3))
    unwatched = nn.Linear(4, 4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = other(one(unwatched(torch.randn(10, 4)))).float().sum()
        loss.backward()
        assert not unwatched._forward_hooks

    assert counts(sampler(NonfiniteProbe(), {"a": one, "b": other}).sample(step)) == {"b.1.forward": 3.0}


def test_nothing_is_kept_after_the_step(sampler) -> None:
    model, x = gpt()
    run = sampler(NonfiniteProbe(), model)
    run.sample(training(model, x))
    assert not any(module._forward_hooks for module in model.modules())
    assert run.probe._entries == []
    assert run.probe._outputs == {}
