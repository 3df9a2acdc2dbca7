"""What is watched: names people recognise, and the linear layers with their weights as (out, in)."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreshock.probes.model import WatchedModel
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Conv1D(nn.Module):
    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))


class Wrapper(nn.Module):
    """Puts a model under one name, as DDP (``module``), FSDP and checkpoint wrappers do."""

    def __init__(self, model: nn.Module, name: str = "module") -> None:
        super().__init__()
        setattr(self, name, model)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ModuleDict({"module": nn.Linear(4, 2)}))


def layers(model: Any) -> list[str]:
    return [layer.name for layer in WatchedModel(model).linear_layers()]


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bare": lambda model: model,
    "compiled": compiled,
    "DataParallel": nn.DataParallel,
    "module": Wrapper,
    "FSDP": lambda model: Wrapper(model, "_fsdp_wrapped_module"),
    "compiled DDP": lambda model: compiled(Wrapper(model)),
    "DDP of compiled": lambda model: Wrapper(compiled(model)),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrappers_do_not_show_in_names(wrapping: str) -> None:
    model = WRAPPED[wrapping](small())
    assert layers(model) == ["0", "1.module"]
    assert layers({"gen": model, "critic": small()}) == ["gen.0", "gen.1.module", "critic.0", "critic.1.module"]
    names = [name for name, _ in WatchedModel(model).named_modules()]
    assert set(names) == {"", "0", "1", "1.module"}
    assert {name for name, _ in WatchedModel({"gen": model}).named_modules()} == {"gen", "gen.0", "gen.1", "gen.1.module"}


def test_wrappers_further_inside_do_not_show_either() -> None:
    model = small()
    model[0] = Wrapper(compiled(model[0]), "_checkpoint_wrapped_module")
    assert layers(model) == ["0", "1.module"]


def test_a_child_that_is_called_module_among_others_keeps_its_name() -> None:
    """Dropping it could give two layers one name, and the store one series two values."""
    model = nn.ModuleDict()
    model["module"], model["0"] = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    root = nn.Sequential()
    root.add_module("module", model["module"])
    root.add_module("0", model["0"])
    assert layers(root) == ["module.0", "0"]


def test_several_models_by_dict_or_module_dict() -> None:
    parts = {"gen": nn.Linear(2, 3), "critic": nn.Sequential(nn.Linear(3, 1))}
    for given in (parts, nn.ModuleDict(parts)):
        watched = WatchedModel(given)
        assert list(watched.roots.values()) == list(parts.values())
        assert [name for name, _ in watched.named_modules()] == ["gen", "critic", "critic.0"]
        assert layers(given) == ["gen", "critic.0"]


def test_what_two_models_share_is_seen_once() -> None:
    shared = nn.Linear(4, 4)
    models = {"a": nn.Sequential(shared, nn.Linear(4, 1)), "b": nn.Sequential(shared)}
    watched = WatchedModel(models)
    assert layers(models) == ["a.0", "a.1"]
    assert len(list(watched.parameters())) == 4
    assert sum(module is shared for _, module in watched.named_modules()) == 1


def test_tied_weights_are_seen_once() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False), "again": nn.Linear(4, 7, bias=False)})
    model["head"].weight = model["again"].weight = model["embed"].weight
    assert layers(model) == ["head"]
    assert len(list(WatchedModel(model).parameters())) == 1


def test_only_trainable_parameters_count_but_frozen_layers_are_looked_at() -> None:
    model = small()
    model[0].requires_grad_(False)
    assert list(WatchedModel(model).parameters()) == list(model[1].parameters())
    assert layers(model) == ["0", "1.module"]


def test_weights_are_views_as_out_by_in() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 5), "conv": Conv1D(5, 3), "qkv": nn.Linear(4, 12), "c_attn": Conv1D(12, 4)})
    found = {layer.name: layer for layer in WatchedModel(model).linear_layers()}
    assert list(found) == ["linear", "conv", "qkv.q", "qkv.k", "qkv.v", "c_attn.q", "c_attn.k", "c_attn.v"]
    expected: dict[str, Tensor] = {
        "linear": model["linear"].weight,
        "conv": model["conv"].weight.t(),
        **{f"qkv.{part}": model["qkv"].weight[4 * i : 4 * i + 4] for i, part in enumerate("qkv")},
        **{f"c_attn.{part}": model["c_attn"].weight[:, 4 * i : 4 * i + 4].t() for i, part in enumerate("qkv")},
    }
    for name, w in expected.items():
        view = found[name].weight()
        assert torch.equal(view, w), name
        assert not view.requires_grad
        assert view.untyped_storage().data_ptr() == w.untyped_storage().data_ptr(), f"{name} is a copy"
    with torch.no_grad():
        model["linear"].weight[0, 0] = 77.0
    assert found["linear"].weight()[0, 0] == 77.0
    model["linear"].weight = nn.Parameter(torch.zeros(5, 3))
    assert found["linear"].weight().sum() == 0.0


@pytest.mark.parametrize(
    ("name", "shape", "split"),
    [("c_attn", (12, 4), True), ("in_proj", (12, 4), True), ("to_qkv", (12, 4), True), ("Wqkv", (12, 4), True),
     ("qkv_proj", (8, 4), False), ("qkv", (12, 6), False), ("query_key_value", (12, 4), False), ("up", (12, 4), False)],
)  # fmt: skip
def test_which_layers_are_fused(name: str, shape: tuple[int, int], split: bool) -> None:
    model = nn.ModuleDict({name: nn.Linear(shape[1], shape[0])})
    assert layers(model) == ([f"{name}.{part}" for part in "qkv"] if split else [name])


def test_look_alikes_are_no_conv1d() -> None:
    class NotQuite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3))

    NotQuite.__name__ = "Conv1D"
    assert layers(nn.ModuleDict({"a": NotQuite(), "b": nn.Conv1d(3, 3, 1), "c": nn.Bilinear(2, 2, 2)})) == []


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_without_a_spectrum_are_left_out() -> None:
    quantised = nn.Linear(4, 4)
    quantised.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    flat = nn.Linear(4, 4)
    flat.weight = nn.Parameter(torch.zeros(16))
    model = nn.ModuleDict(
        {"quantised": quantised, "flat": flat, "empty": nn.Linear(4, 0), "lazy": nn.LazyLinear(3), "kept": nn.Linear(2, 2)}
    )
    assert layers(model) == ["kept"]


PARAMETRISED = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("kind", PARAMETRISED)
def test_parametrised_weights_are_not_read(kind: str) -> None:
    """Reading one computes it: spectral_norm would take a step of its power iteration, which the training would feel."""
    model = nn.Sequential(*(PARAMETRISED[kind](nn.Linear(6, 6)) for _ in range(4)), nn.Linear(6, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    watched = WatchedModel(model)
    found = [layer.name for layer in watched.linear_layers()]
    for layer in watched.linear_layers():
        layer.weight()
    assert found == ["4"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"takes a torch\.nn\.Module, or a dict of names to modules; got NoneType\. Pass the model itself"),
        (nn.Linear, "got type"),
        ([nn.Linear(2, 2)], "got list"),
        (functools.partial(nn.Linear(2, 2)), "got partial"),
        ({"gen": nn.Linear(2, 2), "critic": 3}, "got int under 'critic'"),
        ({}, "empty dict of models; pass at least one"),
        (nn.ModuleDict(), "empty dict of models; pass at least one"),
    ],
    ids=["None", "class", "list", "partial", "dict with a number", "empty dict", "empty ModuleDict"],
)
def test_what_cannot_be_watched_is_explained(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        WatchedModel(given)
