"""The laws of measuring, for every probe there is: nothing drawn, nothing waited for, nothing changed, wherever it runs."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import reference_attention
from foreshock.probes.model import WatchedModel
from foreshock.probes.registry import known_probes
from foreshock.probes.statistics.not_applicable import not_applicable
from foreshock.probes.statistics.tokens import scattered_rows
from foreshock.probes.step.buffer import pack
from foreshock.zoo.models import GPT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

PROBES = sorted(known_probes())

# What makes the host wait for a GPU, besides copies to the host.
WAITING = (
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal", "bincount", "linalg_eigh", "_linalg_eigh",
    "_linalg_svd", "linalg_cholesky_ex", "_linalg_solve_ex", "linalg_inv_ex", "repeat_interleave",
)  # fmt: skip


class NoWaiting(TorchDispatchMode):
    """Refuses operations that would make the host wait, while it is the measuring that runs and not the model."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        assert not name.startswith(WAITING), f"{name} makes the host wait"
        assert not by_mask, "indexing by a mask makes the host wait"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(patch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(name: str) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"Tensor.{name} makes the host wait")

        return method

    with patch.context() as context, NoWaiting():
        for name in (
            "item",
            "tolist",
            "numpy",
            "cpu",
            "__bool__",
            "__float__",
            "__int__",
            "__index__",
            "__array__",
            "__contains__",
        ):
            context.setattr(torch.Tensor, name, refuse(name))
        yield


class Mixture(nn.Module):
    """Three experts and their router, added to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(width, 3), nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        return x + sum(expert(x) * shares[..., i : i + 1] for i, expert in enumerate(self.experts))


def wide(into: int, out: int) -> nn.Module:
    """Layers, one of which has more singular values than are worked out exactly."""
    return nn.Sequential(nn.Linear(into, 80), nn.Linear(80, 70), nn.Linear(70, out))


class OfNumbers(nn.Module):
    """A model of tokens that is given them as floating-point numbers, as images come."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, numbers: Tensor) -> Tensor:
        return self.model(numbers.long())


def model_and_step() -> tuple[nn.Module, Callable[[], None]]:
    """A GPT with grouped queries and dropout in one layer, our attention, experts and wide layers in the other; a step of it."""

    def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, dropout_p=0.1, enable_gqa=True)

    model = GPT(16, 2, 2, 40, grouped)
    model.blocks[1].attention.attend = lambda q, k, v: reference_attention(q, k, v, is_causal=True)
    model.blocks[1].norm_2 = nn.Sequential(model.blocks[1].norm_2, Mixture(16), wide(16, 16))
    tokens = torch.arange(320.0).reshape(8, 40) % 256
    whole = OfNumbers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        whole(tokens).square().mean().backward()
        optimizer.step()

    return whole, step


def sampled_step(name: str, model: nn.Module, step: Callable[[], None], samples: int = 1) -> list[Any]:
    """Blocks of the last of some sampled steps."""
    probe = known_probes()[name]()
    probe.attach(WatchedModel(model))
    blocks: list[Any] = []
    for number in range(samples):
        probe.arm(number)
        step()
        blocks = list(probe.collect(number))
        probe.disarm()
    return blocks


def values(blocks: list[Any]) -> Tensor:
    packed = pack(blocks)
    assert packed is not None
    return torch.from_numpy(packed.copy.numpy())


@pytest.mark.parametrize("name", PROBES)
def test_nothing_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples, the first of which may set up what is kept; at the second all that is ours is watched, in hooks too."""
    model, step = model_and_step()
    probe = known_probes()[name]()
    probe.attach(WatchedModel(model))
    probe.arm(0)
    step()
    first = list(probe.collect(0))
    probe.disarm()

    def watched(work: Callable[[], None]) -> None:
        with no_waiting(monkeypatch):
            work()

    probe.guard = watched
    with no_waiting(monkeypatch):
        probe.arm(1)
    step()
    with no_waiting(monkeypatch):
        blocks = list(probe.collect(1))
    probe.disarm()
    assert len(blocks) >= len(first) > 0


def test_the_watch_for_waiting_sees_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3)
    waits = {
        "item": lambda: x[0].item(),
        "branch": lambda: 1 if x[0] > 0 else 2,
        "list": lambda: x.tolist(),
        "float": lambda: float(x[0]),
        "mask": lambda: x[x > 0],
        "nonzero": lambda: torch.where(x > 0),
        "eigh": lambda: torch.linalg.eigh(torch.eye(2)),
        "any": lambda: torch.isnan(x).any() or None,
    }
    for wait in waits.values():
        with no_waiting(monkeypatch), pytest.raises(AssertionError, match="makes the host wait"):
            wait()


@pytest.mark.parametrize("name", PROBES)
def test_nothing_is_drawn_from_the_global_generators(name: str) -> None:
    model, step = model_and_step()
    probe = known_probes()[name]()
    probe.attach(WatchedModel(model))
    for number in range(3):
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        probe.arm(number)
        assert torch.equal(torch.get_rng_state(), states[0])
        step()  # draws for its dropout
        after = torch.get_rng_state()
        list(probe.collect(number))
        probe.disarm()
        assert torch.equal(torch.get_rng_state(), after)
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


@pytest.mark.parametrize("name", PROBES)
def test_weights_gradients_and_the_random_stream_are_bit_identical(name: str) -> None:
    kept = []
    for probed in (False, True):
        torch.manual_seed(5)
        model, step = model_and_step()
        for _ in range(2):
            if probed:
                sampled_step(name, model, step)
            else:
                step()
        kept.append([torch.get_rng_state(), *model.parameters(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_gives_no_signal_it_does_not_declare(name: str) -> None:
    given = {key.signal for block in sampled_step(name, *model_and_step(), samples=2) for key in block.keys}
    assert given <= set(known_probes()[name].signals)


@pytest.mark.parametrize("name", PROBES)
def test_the_same_step_gives_the_same_numbers(name: str) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(values(sampled_step(name, *model_and_step(), samples=2)))
    assert torch.equal(found[0].view(torch.int32), found[1].view(torch.int32))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("name", PROBES)
def test_surroundings_make_no_difference(name: str, surroundings: str) -> None:
    """Large trainings set a default dtype or device; no tensor of ours may come out as something else for it."""
    found = []
    for there in (False, True):
        for kept in (not_applicable, scattered_rows):
            kept.cache_clear()
        torch.manual_seed(5)
        model = nn.Sequential(wide(12, 24), nn.Tanh(), Mixture(24), nn.Linear(24, 36, bias=False))
        x = torch.randn(2, 300, 12)
        pad = torch.ones(2, 1, 300, 300, dtype=torch.bool).tril()
        add = torch.zeros(2, 1, 300, 300)

        def forward(module: nn.Module, args: Any, out: Tensor, pad: Tensor = pad, add: Tensor = add) -> Tensor:
            q, k, v = out.unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4)
            options: tuple[dict[str, Any], ...] = ({"is_causal": True}, {"attn_mask": pad}, {"attn_mask": add})
            return torch.stack([F.scaled_dot_product_attention(q, k, v, **each) for each in options])

        model.register_forward_hook(forward)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

        def step(model: nn.Module = model, x: Tensor = x, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        probe = known_probes()[name]()
        probe.attach(WatchedModel(model))
        if there:
            with SURROUNDINGS[surroundings]():
                probe.arm(0)
                step()
                blocks = list(probe.collect(0))
                probe.disarm()
                found.append(values(blocks))
        else:
            found.append(values(sampled_step(name, model, step)))
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6, equal_nan=True), (found[0] - found[1]).abs().max()


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_may_be_disarmed_at_any_time(name: str) -> None:
    model, step = model_and_step()
    probe = known_probes()[name]()
    probe.disarm()
    probe.attach(WatchedModel(model))
    probe.disarm()
    assert list(probe.collect(0)) == []
    probe.arm(0)
    probe.disarm()
    probe.disarm()
    step()
    assert list(probe.collect(0)) == []
    probe.rebind()
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in model.modules())
