"""Optimizers seen just before and just after they step, and only then."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from foreshock.probes.base import unguarded
from foreshock.probes.model import WatchedModel
from foreshock.probes.statistics.own_parameters import ModuleSums, OwnParameters
from foreshock.probes.taps.optimizer import Stepping, UpdateTap, vector
from torch import Tensor, nn
from torch.optim import optimizer as optim_hooks

CPU = torch.device("cpu")


class Seen:
    """What a tap saw: names of the parameters with their first entry, before and after."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.before: list[dict[str, float]] = []
        self.after: list[dict[str, float]] = []
        self.tap = UpdateTap()

    def entries(self, stepping: Stepping) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        return {self.names[id(p)]: p.flatten()[0].item() for p, _ in stepping.parameters}

    def place(self, parameters: Any, guard: Callable[..., None] = unguarded) -> None:
        def before(stepping: Stepping) -> None:
            self.before.append(self.entries(stepping))

        self.tap.place(parameters, guard, before, lambda stepping: self.after.append(self.entries(stepping)))


@pytest.fixture(autouse=True)
def no_hook_left_behind() -> Iterator[None]:
    yield
    assert not optim_hooks._global_optimizer_pre_hooks
    assert not optim_hooks._global_optimizer_post_hooks


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for p in model.parameters():
        nn.init.ones_(p)
    return model


def backward(model: nn.Module) -> None:
    model(torch.ones(5, 3)).sum().backward()


def test_an_optimizer_is_seen_before_and_after(model: nn.Module) -> None:
    seen = Seen(model)
    seen.place(model.parameters())
    backward(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)  # made after the hooks were placed
    optimizer.step()
    expected = {name: p.flatten()[0].item() for name, p in model.named_parameters()}
    assert seen.before == [dict.fromkeys(expected, 1.0)]
    assert seen.after == [expected]
    assert all(value < 1.0 for value in expected.values())
    seen.tap.remove()


def test_several_optimizers_and_strangers(model: nn.Module) -> None:
    stranger = nn.Linear(3, 2)
    seen = Seen(model)
    seen.place(model.parameters())
    first = torch.optim.SGD([*model[0].parameters(), *stranger.parameters()], lr=0.1)
    second = torch.optim.AdamW(model[1].parameters(), lr=0.1)
    other = torch.optim.SGD(stranger.parameters(), lr=0.1)
    backward(model)
    stranger(torch.ones(1, 3)).sum().backward()
    for optimizer in (other, second, first):
        optimizer.step()
    assert [set(step) for step in seen.before] == [{"1.weight", "1.bias"}, {"0.weight", "0.bias"}]
    assert [set(step) for step in seen.after] == [{"1.weight", "1.bias"}, {"0.weight", "0.bias"}]
    seen.tap.remove()


def test_the_first_step_of_each_parameter_counts(model: nn.Module) -> None:
    """Also where a parameter gets its gradient, or an optimizer, only later in the step."""
    seen = Seen(model)
    seen.place(model.parameters())
    whole = torch.optim.SGD(model.parameters(), lr=0.1)
    backward(model)
    model[1].bias.grad = None
    whole.step()
    backward(model)
    whole.step()
    whole.step()
    assert [set(step) for step in seen.before] == [{"0.weight", "0.bias", "1.weight"}, {"1.bias"}]
    assert [set(step) for step in seen.after] == [{"0.weight", "0.bias", "1.weight"}, {"1.bias"}]
    seen.tap.remove()
    backward(model)
    whole.step()
    assert len(seen.before) == 2
    seen.place(model.parameters())
    whole.step()
    assert len(seen.before[2]) == 4, "the next sampled step sees them all again"
    seen.tap.remove()


def test_an_optimizer_inside_another_one(model: nn.Module) -> None:
    """As wrappers of optimizers do: the outer step is the one seen, before the inner and after it."""

    class Outer(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            inner.step()

    inner = torch.optim.SGD(model.parameters(), lr=0.001)
    outer = Outer(model.parameters(), lr=1.0)
    seen = Seen(model)
    seen.place(model.parameters())
    backward(model)
    outer.step()
    assert len(seen.before) == len(seen.after) == 1
    assert seen.before[0]["0.weight"] == 1.0
    assert seen.after[0]["0.weight"] == model[0].weight[0, 0].item() < 1.0
    seen.tap.remove()


def test_a_step_that_raises_shows_no_after(model: nn.Module) -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise RuntimeError("no")

    seen = Seen(model)
    seen.place(model.parameters())
    backward(model)
    with pytest.raises(RuntimeError, match="no"):
        Failing(model.parameters(), lr=0.1).step()
    assert (len(seen.before), len(seen.after)) == (1, 0)
    seen.tap.remove()


def test_callbacks_run_inside_the_guard(model: nn.Module) -> None:
    """A fault in one neither reaches the optimizer nor changes its arguments."""
    caught: list[BaseException] = []

    def guard(work: Callable[[], None]) -> None:
        try:
            work()
        except ValueError as error:
            caught.append(error)

    def fault(stepping: Stepping) -> None:
        raise ValueError("ours")

    tap = UpdateTap()
    tap.place(model.parameters(), guard, fault, fault)
    backward(model)
    torch.optim.SGD(model.parameters(), lr=0.001).step()
    assert len(caught) == 2
    assert model[0].weight[0, 0] < 1.0
    tap.remove()
    tap.remove()


def test_the_loss_scale_and_the_skipped_step_of_a_fused_optimizer(model: nn.Module) -> None:
    found: list[tuple[float, bool]] = []

    def before(stepping: Stepping) -> None:
        scale = stepping.loss_scale(CPU)
        found.append((float(scale), stepping.takes_place(CPU).item()))

    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    fused = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    plain = torch.optim.AdamW(model.parameters(), lr=0.1)
    tap = UpdateTap()
    for optimizer, poison, expected in [
        (fused, False, (8.0, True)),
        (fused, True, (8.0, False)),
        (plain, False, (1.0, True)),
        (plain, True, None),
    ]:
        tap.place(model.parameters(), unguarded, before)
        model.zero_grad()
        scaler.scale(model(torch.ones(5, 3)).sum()).backward()
        if poison:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update(8.0)
        tap.remove()
        assert found == ([] if expected is None else [expected])
        found.clear()


def test_parts_by_device(model: nn.Module) -> None:
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    meta = nn.Parameter(torch.empty(2, device="meta"))
    stepping = Stepping(optimizer, [(g["params"][0], g) for g in optimizer.param_groups] + [(meta, {})])
    parts = stepping.by_device()
    assert {device.type: [p for p, _ in part.parameters] for device, part in parts.items()} == {
        "cpu": list(model.parameters()),
        "meta": [meta],
    }
    assert all(part.optimizer is optimizer for part in parts.values())


def test_sharded_parameters_are_left_out(model: nn.Module) -> None:
    model[0].weight.placements = ()  # what tells a DTensor
    seen = Seen(model)
    seen.place(model.parameters())
    backward(model)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert [set(step) for step in seen.before] == [{"0.bias", "1.weight", "1.bias"}]
    seen.tap.remove()


@pytest.mark.filterwarnings("ignore:.*script_method", "ignore:.*record_function")
def test_a_compiled_optimizer_step_does_not_take_the_hooks_into_its_graph(model: nn.Module) -> None:
    seen = Seen(model)
    seen.place(model.parameters())
    backward(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    torch.compile(optimizer.step, backend="eager")()
    seen.tap.remove()
    torch._dynamo.reset()
    assert (seen.before, seen.after) == ([], [])
    assert model[0].weight[0, 0] < 1.0


@pytest.mark.parametrize(
    "values",
    [[0.9, 0.25], [torch.tensor(0.9), torch.tensor(0.25)], [torch.tensor(0.9), 0.25], [torch.tensor([0.9]), 0.25]],
    ids=["numbers", "tensors", "both", "of one element"],
)
def test_hyperparameters_may_be_tensors(values: list[float | Tensor]) -> None:
    found = vector(values, CPU)
    assert (found.dtype, found.shape) == (torch.float64, (2,))
    assert found.tolist() == pytest.approx([0.9, 0.25], rel=1e-7)


class Shares(nn.Module):
    """Own parameters at the root, a shared weight, a frozen one, and one that comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))
        self.first, self.second, self.third = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.third.requires_grad_(False)
        self.register_parameter("nothing", None)


def test_owners_of_parameters() -> None:
    model = Shares()
    own = OwnParameters(WatchedModel({"a": model}))

    def owners() -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for p, name in own.owners().items()]

    expected = [("a", model.gain), ("a.first", model.first.weight), ("a.first", model.first.bias), ("a.second", model.second.bias)]
    assert [(n, id(p)) for n, p in owners()] == [(n, id(p)) for n, p in expected]
    model.third.weight.requires_grad_(True)
    model.gain.requires_grad_(False)
    expected = [*expected[1:], ("a.third", model.third.weight)]
    assert [(n, id(p)) for n, p in owners()] == [(n, id(p)) for n, p in expected], "what is trainable now counts"


def test_sums_over_the_parameters_of_a_module() -> None:
    sums = ModuleSums()
    assert list(sums.take()) == []
    sums.add(["a", "b", "a"], torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    sums.add(["c", "a"], torch.tensor([[4.0, torch.nan], [40.0, 50.0]]))
    ((modules, found),) = sums.take()
    assert modules == ("a", "b", "c")
    assert torch.allclose(found, torch.tensor([[torch.nan, 2.0, 4.0], [90.0, 20.0, 40.0]]), equal_nan=True)
    assert list(sums.take()) == [], "taken is taken"
