"""Norm and stable rank of weights against dense SVD in float64."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.model import WatchedModel
from foreshock.probes.taps.singular_pairs import ITERATIONS_COLD
from foreshock.probes.weights import WeightProbe
from foreshock.zoo.models import GPT
from foreshock.zoo.text import windows
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

NORM, RANK = "weight.norm", "weight.stable_rank"


def twin(w: Tensor) -> tuple[float, float]:
    sigma = torch.linalg.svdvals(w.detach().double())
    return sigma.square().sum().sqrt().item(), (sigma.square().sum() / sigma[0].square()).item()


def nothing() -> None:
    pass


def holding(w: Tensor) -> nn.Linear:
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
    layer.weight.data = w
    return layer


MATRICES: dict[str, Callable[[int, int], Tensor]] = {
    "random": torch.randn,
    "constant": lambda m, n: torch.full((m, n), 0.7),
    "identity": torch.eye,
    "rank one": lambda m, n: torch.randn(m, 1) @ torch.randn(1, n),
    "rank three": lambda m, n: torch.randn(m, 3) @ torch.randn(3, n),
    "one entry": lambda m, n: F.pad(torch.ones(1, 1), (n - 1, 0, 0, m - 1)),
    "heavy-tailed": lambda m, n: torch.randn(m, n) / torch.rand(m, n).clamp_min(1e-3),
    "spiked": lambda m, n: torch.randn(m, n) + 2.0,
    "tiny": lambda m, n: 1e-12 * torch.randn(m, n),
    "large": lambda m, n: 1e12 * torch.randn(m, n),
}


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (30, 200), (200, 30), (64, 64)], ids=str)
def test_against_dense_svd(sampler, kind: str, shape: tuple[int, int]) -> None:
    """From a random start: where singular values crowd below the first, sigma_1 is good to 1e-3."""
    w = MATRICES[kind](*shape)
    found = sampler(WeightProbe(), holding(w)).sample(nothing)
    norm, rank = twin(w)
    assert found.of(NORM, "") == pytest.approx(norm, rel=1e-5)
    assert found.of(RANK, "") == pytest.approx(rank, rel=2e-3)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(-10, 10), st.integers(0, 2**16))
def test_laws(m: int, n: int, exponent: float, seed: int) -> None:
    """The stable rank lies between one and the rank, whatever the scale."""
    w = torch.randn(m, n, generator=torch.Generator().manual_seed(seed)) + 0.1
    values = []
    for scaled in (w, w * 10**exponent):
        probe = WeightProbe()
        probe.attach(WatchedModel(holding(scaled)))
        probe.arm(0)
        (block,) = probe.collect(0)
        values.append(block.values.double())
    (norm, rank), (scaled_norm, scaled_rank) = values
    assert 1 - 1e-5 <= rank <= min(m, n) * (1 + 2e-3)
    assert scaled_norm.item() == pytest.approx(norm.item() * 10**exponent, rel=1e-4)
    assert scaled_rank.item() == pytest.approx(rank.item(), rel=1e-3)


def test_follows_training(sampler) -> None:
    """In steady state too, of the weights that the forward pass uses: those before the step."""
    model = GPT(32, 2, 2, 32, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), value_bias=-2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    data = windows(count=32, context=32)

    def step() -> None:
        batch = data[torch.randint(len(data), (8,))]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()

    sample = sampler(WeightProbe(), model).sample
    worst = 0.0
    for number in range(len(ITERATIONS_COLD) + 5):
        expected = {layer.name: twin(layer.weight()) for layer in WatchedModel(model).weight_matrices()}
        found = sample(step)
        assert len(found) == 2 * len(expected) == 2 * (13 + 2), "linear layers, and the tables of tokens and positions"
        for name, (norm, rank) in expected.items():
            assert found.of(NORM, name) == pytest.approx(norm, rel=1e-5)
            worst = max(worst, abs(found.of(RANK, name) / rank - 1) if number > 0 else 0.0)
        for _ in range(9):
            step()
    assert worst < 1e-3, f"the stable rank is off by {worst:.2g}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes(sampler, dtype: torch.dtype) -> None:
    w = torch.randn(80, 60).to(dtype)
    found = sampler(WeightProbe(), holding(w)).sample(nothing)
    norm, rank = twin(w)
    assert found.of(NORM, "") == pytest.approx(norm, rel=1e-5)
    assert found.of(RANK, "") == pytest.approx(rank, rel=2e-3)


def test_parts_convolutions_shared_and_frozen_weights(sampler) -> None:
    """What is frozen has a weight all the same."""
    model = nn.ModuleDict({
        "qkv": nn.Linear(10, 30),
        "first": nn.Linear(10, 20),
        "tied": nn.Linear(10, 20),
        "frozen": nn.Linear(7, 8).requires_grad_(False),
        "convolution": nn.Conv2d(3, 5, 3),
    })  # fmt: skip
    model["tied"].weight = model["first"].weight
    found = sampler(WeightProbe(), model).sample(nothing)
    layers = {layer.name: layer.weight() for layer in WatchedModel(model).linear_layers()}
    assert found.modules(NORM) == layers.keys() == {"qkv.q", "qkv.k", "qkv.v", "first", "frozen", "convolution"}
    for name, w in layers.items():
        assert (found.of(NORM, name), found.of(RANK, name)) == pytest.approx(twin(w), rel=2e-3)


def test_a_weight_of_zeros_has_no_stable_rank(sampler) -> None:
    assert sampler(WeightProbe(), holding(torch.zeros(4, 5))).sample(nothing) == {(NORM, "", -1): 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows_and_does_not_last(sampler, value: float) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    sample = sampler(WeightProbe(), model).sample
    clean = sample(nothing)
    before = model[1].weight.detach().clone()
    with torch.no_grad():
        model[1].weight[2, 3] = value
    found = sample(nothing)
    assert found.of(RANK, "0") == pytest.approx(clean.of(RANK, "0"), rel=1e-4)
    assert not math.isfinite(found.of(NORM, "1"))
    assert math.isnan(found.of(RANK, "1"))
    with torch.no_grad():
        model[1].weight.copy_(before)
    assert sample(nothing).of(RANK, "1") == pytest.approx(clean.of(RANK, "1"), rel=1e-3)


def test_replaced_weights_are_learned_anew(sampler) -> None:
    model = holding(torch.randn(50, 40))
    probe = WeightProbe()
    s = sampler(probe, model)
    for _ in range(12):
        s.sample(nothing)
    with torch.no_grad():
        model.weight.copy_(torch.randn(50, 40))
    probe.rebind()
    assert s.sample(nothing).of(RANK, "") == pytest.approx(twin(model.weight)[1], rel=2e-3)


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM, nn.GRUCell])
def test_matrices_of_recurrent_cells_are_measured_too(sampler, cell: type[nn.Module]) -> None:
    model = nn.ModuleDict({"cell": cell(6, 8), "head": nn.Linear(8, 3)})
    found = sampler(WeightProbe(), model).sample(nothing)
    matrices = {f"cell.{name}": w for name, w in model["cell"].named_parameters() if w.dim() == 2}
    assert found.modules(NORM) == {"head", *matrices}
    for name, w in matrices.items():
        assert (found.of(NORM, name), found.of(RANK, name)) == pytest.approx(twin(w), rel=2e-3)
