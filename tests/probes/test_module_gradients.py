"""Gradient norms of modules against autograd's own gradients in float64."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.module_gradients import ModuleGradientProbe, norms
from foreshock.zoo.models import GPT
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

SIGNAL = "gradient.module_norm"


def expected(model: nn.Module) -> dict[str, float]:
    """The norms by module, the slow way, each parameter once."""
    squares: dict[str, float] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        for p in module.parameters(recurse=False):
            if p.grad is not None and id(p) not in seen:
                seen.add(id(p))
                squares[name] = squares.get(name, 0.0) + p.grad.to_dense().double().square().sum().item()
    return {name: math.sqrt(square) for name, square in squares.items()}


def assert_norms(found, model: nn.Module, rel: float = 1e-6, scale: float = 1.0) -> None:
    assert {module: found.of(SIGNAL, module) for module in found.modules(SIGNAL)} == {
        name: pytest.approx(value * scale, rel=rel, nan_ok=True) for name, value in expected(model).items()
    }


def step_of(model: nn.Module, x: Tensor, optimizers: list[torch.optim.Optimizer]) -> Callable[[], None]:
    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).float().square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def test_every_module_of_a_gpt(sampler) -> None:
    model = GPT(16, 2, 2, 12, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    tokens = torch.arange(24).reshape(2, 12)
    found = sampler(ModuleGradientProbe(), model).sample(step_of(model, tokens, [torch.optim.AdamW(model.parameters())]))
    assert len(found) == 2 * (4 + 2 + 2) + 4
    assert_norms(found, model)


def test_own_shared_frozen_and_unused_parameters(sampler) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.randn(6))
            self.first, self.second, self.frozen, self.unused = (nn.Linear(6, 6) for _ in range(4))
            self.second.weight = self.first.weight
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.frozen(self.second(self.first(x * self.gain)))

    model = Model()
    found = sampler(ModuleGradientProbe(), model).sample(
        step_of(model, torch.randn(5, 6), [torch.optim.SGD(model.parameters(), lr=0.1)])
    )
    assert found.modules(SIGNAL) == {"", "first", "second"}
    assert_norms(found, model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_dtypes_are_added_up_in_float32(sampler, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(8, 300, dtype=dtype), nn.Linear(300, 300, dtype=dtype))
    x = torch.randn(4, 8, dtype=dtype)
    found = sampler(ModuleGradientProbe(), model).sample(step_of(model, x, [torch.optim.SGD(model.parameters(), lr=0.1)]))
    assert_norms(found, model, rel=1e-5)


def test_mixed_dtypes_and_several_optimizers(sampler) -> None:
    """A module whose weight one optimizer steps, and whose bias another one."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].bfloat16()
    model[2].double()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [torch.optim.SGD(matrices, lr=0.1), torch.optim.AdamW(vectors, foreach=False)]

    def step() -> None:
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for optimizer in optimizers:
            optimizer.step()

    assert_norms(sampler(ModuleGradientProbe(), model).sample(step), model)


@pytest.mark.parametrize("repeated", [False, True])
def test_a_sparse_embedding(sampler, repeated: bool) -> None:
    """Rows looked up more than once come in pieces that must be added before they are squared."""
    model = nn.Sequential(nn.Embedding(50, 7, sparse=True), nn.Linear(7, 3))
    tokens = torch.tensor([[3, 3, 49, 0, 3, 0]] if repeated else [[3, 49, 0]])
    optimizers = [torch.optim.SparseAdam(model[0].parameters()), torch.optim.SGD(model[1].parameters(), lr=0.1)]
    found = sampler(ModuleGradientProbe(), model).sample(step_of(model, tokens, optimizers))
    assert model[0].weight.grad.is_sparse
    assert_norms(found, model)


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 3), st.booleans())
def test_sparse_gradients_of_any_kind(rows: list[int], dense: int, coalesced: bool) -> None:
    indices = torch.tensor([rows, [(3 * row) % 4 for row in rows]], dtype=torch.int64).reshape(2, -1)
    sparse = torch.sparse_coo_tensor(indices, torch.randn(len(rows), dense), (10, 4, dense), check_invariants=True)
    given_ = sparse.coalesce() if coalesced else sparse
    assert norms([given_]).item() == pytest.approx(sparse.to_dense().norm().item(), rel=1e-6)


def test_what_the_optimizer_is_handed_is_measured(sampler) -> None:
    """After clipping."""
    model = nn.Linear(6, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        model(torch.randn(5, 6)).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    assert sampler(ModuleGradientProbe(), model).sample(step).of(SIGNAL, "") == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_scale_is_divided_out_and_skipped_steps_give_nothing(sampler, fused: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sample = sampler(ModuleGradientProbe(), model).sample
    poison = False

    def step() -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(5, 6)).square().mean()).backward()
        if poison:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update(1024.0)

    found = sample(step)
    assert len(found) == 2
    assert_norms(found, model)  # both ways of stepping leave them divided
    poison = True
    assert sample(step) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_where_it_is(sampler, value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def step() -> None:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        model[1].bias.grad[1] = value
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    found = sampler(ModuleGradientProbe(), model).sample(step)
    assert found.of(SIGNAL, "0") == pytest.approx(math.sqrt(12))
    assert str(found.of(SIGNAL, "1")) == ("nan" if math.isnan(value) else "inf")


@given(st.floats(-18, 18), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_scale_equivariance(exponent: float, sizes: list[int]) -> None:
    """Within the range whose squares float32 holds: 1e-18 to 1e18."""
    tensors = [torch.ones(size) + torch.arange(size) / size for size in sizes]
    scaled = norms([t * 10**exponent for t in tensors]).double()
    assert torch.allclose(scaled, norms(tensors).double() * 10**exponent, rtol=1e-5, atol=0.0)
