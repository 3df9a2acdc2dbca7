"""Hooks that stay: what compiling, copying, pickling and transforms make of them."""

import copy
import io
import pickle
from collections.abc import Iterator

import pytest
import torch
from foreshock.probes.base import unguarded
from foreshock.probes.model import WatchedModel
from foreshock.probes.taps.compiled import EagerStep, has_staying_hook, release
from foreshock.probes.taps.modules import InputTap, OutputTap
from torch import Tensor, nn

# What torch says of itself while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _compile_afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Tapped:
    """A compiled model whose inputs are tapped at every ``sample``."""

    def __init__(self, *layers: nn.Module, compiled: str = "taps") -> None:
        self.plain = nn.Sequential(*layers)
        self.model = torch.compile(self.plain, backend="eager", fullgraph=True)
        self.watched = WatchedModel(self.model, compiled)
        self.tap = InputTap()
        self.seen: list[tuple[nn.Module, Tensor]] = []

    def arm(self) -> None:
        self.seen.clear()
        self.tap.place(self.plain, lambda module, x: self.seen.append((module, x.clone())), unguarded, self.watched)

    def sample(self, x: Tensor) -> Tensor:
        self.arm()
        out = self.model(x)
        self.tap.remove()
        return out


def test_inputs_are_seen_of_matrix_products_only_and_only_while_armed() -> None:
    tapped = Tapped(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.LayerNorm(2))
    x = torch.randn(5, 3)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            tapped.sample(x)
            assert [module for module, _ in tapped.seen] == [tapped.plain[0], tapped.plain[2]]
            assert torch.equal(tapped.seen[0][1], x)
            assert torch.equal(tapped.seen[1][1], torch.tanh(tapped.plain[0](x)))
            tapped.seen.clear()
            tapped.model(x)
            assert tapped.seen == []


def test_a_model_in_place_on_the_output_of_a_layer() -> None:
    tapped = Tapped(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    tapped.sample(torch.randn(5, 3)).sum().backward()
    assert len(tapped.seen) == 2


@pytest.mark.parametrize("compiled", ["weights", "eager"])
def test_nothing_is_placed_where_it_was_not_asked_for(compiled: str) -> None:
    tapped = Tapped(nn.Linear(3, 4), compiled=compiled)
    tapped.sample(torch.randn(5, 3))
    assert tapped.seen == []
    assert not tapped.plain[0]._forward_pre_hooks


def test_a_hook_that_stays_is_released() -> None:
    tapped = Tapped(nn.Linear(3, 4))
    tapped.sample(torch.randn(5, 3))
    assert tapped.plain[0]._forward_pre_hooks
    assert has_staying_hook(tapped.plain[0])
    release(tapped.plain.modules())
    assert not tapped.plain[0]._forward_pre_hooks
    assert not has_staying_hook(tapped.plain[0])


def test_a_model_called_in_a_compiled_function_is_found_out() -> None:
    """Neither hooks of taps that see nothing in a graph come and go then."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    watched, inputs, outputs = WatchedModel(model), InputTap(), OutputTap()
    seen: list[nn.Module] = []
    function = torch.compile(lambda x: model(x), backend="eager")
    assert not watched.is_compiled()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for sample in range(3):
            inputs.place(model, lambda module, x: seen.append(module), unguarded, watched)
            outputs.place(set(model) - watched.compiled_modules(), lambda module, x: seen.append(module), unguarded)
            function(torch.randn(2, 3))
            inputs.remove()
            outputs.remove()
            function(torch.randn(2, 3))
            assert watched.is_compiled()
            assert seen == [model[0]] * (sample + 1)
    release(model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_a_copy_of_the_model_is_not_watched(way: str) -> None:
    tapped = Tapped(nn.Linear(3, 4))
    x = torch.randn(5, 3)
    tapped.sample(x)
    buffer = io.BytesIO()
    if way == "deepcopy":
        other = copy.deepcopy(tapped.plain)
    elif way == "pickle":
        dumped = pickle.dumps(tapped.plain)
        assert b"foreshock" not in dumped
        other = pickle.loads(dumped)
    else:
        torch.save(tapped.plain, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    tapped.arm()
    assert torch.equal(other(x), tapped.plain(x))
    assert torch.equal(torch.compile(other, backend="eager")(x), other(x))
    assert len(tapped.seen) == 1
    tapped.tap.remove()


def test_under_vmap_nothing_is_seen_and_nothing_breaks() -> None:
    tapped = Tapped(nn.Linear(3, 4))
    tapped.sample(torch.randn(5, 3))
    tapped.arm()
    x = torch.randn(2, 5, 3)
    found = torch.compile(torch.vmap(tapped.plain), backend="aot_eager")(x)
    assert torch.allclose(found, tapped.plain(x))
    tapped.tap.remove()


def test_eager_steps_may_overlap_and_end_twice() -> None:
    def stance() -> str:
        return torch._dynamo.eval_frame._stance.stance

    one, two = EagerStep(), EagerStep()
    one.end()
    one.begin()
    two.begin()
    two.end()
    two.end()
    assert stance() == "force_eager"
    one.end()
    assert stance() == "default"
