"""Rounding of weights and gradients against a table of all numbers that a format has."""

import functools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.model import WatchedModel
from foreshock.probes.numerics import LOW_PRECISION, NumericsProbe, noise_of, rounded, rounding_of, ulp
from foreshock.probes.statistics.not_applicable import is_not_applicable
from foreshock.probes.statistics.samples import sample_entries
from foreshock.zoo.models import GPT
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

BIAS, Z, UNDERFLOW, OVERFLOW, NOISE, RANGE = (
    f"numerics.{name}"
    for name in (
        "rounding_bias",
        "rounding_bias_z",
        "underflow_fraction",
        "overflow_fraction",
        "gradient_to_quantization_noise",
        "fp16_range_used",
    )
)


@functools.cache
def numbers(format_: torch.dtype) -> Tensor:
    """Every finite non-negative number of the format, rising, as float64: number i has the bits i."""
    bits = torch.arange(2 ** (8 * format_.itemsize - 1))
    every = bits.to(torch.uint8).view(format_) if format_.itemsize == 1 else bits.to(torch.int16).view(format_)
    return every.double()[torch.isfinite(every.double())]


def nearest(x: float, format_: torch.dtype) -> float:
    """Round to nearest, ties to even, by search; infinite from half a step beyond the largest number."""
    table = numbers(format_)
    size, sign = abs(x), math.copysign(1.0, x)
    if math.isnan(x) or math.isinf(x):
        return x
    beyond = table[-1] + (table[-1] - table[-2]) / 2
    # The largest number of float8_e4m3fn is even, those of the others are odd: a tie goes to it, or to what comes after.
    even = (len(table) - 1) % 2 == 0
    if size > beyond or (size == beyond and not even):
        return sign * math.inf
    above = int(torch.searchsorted(table, size).clamp_max(len(table) - 1))
    below = max(above - 1, 0)
    down, up = size - table[below].item(), table[above].item() - size
    chosen = below if abs(down) < abs(up) or (down == up and below % 2 == 0) else above
    return sign * table[chosen].item()


def spacing(x: float, format_: torch.dtype) -> float:
    table = numbers(format_)
    above = int(torch.searchsorted(table, abs(x), right=True).clamp(1, len(table) - 1))
    return (table[above] - table[above - 1]).item()


def rounding_twin(x: Tensor, format_: torch.dtype) -> tuple[float, float]:
    """Mean error in ulp and its z-score."""
    errors = [(q - v) / spacing(v, format_) for v in x.double().tolist() if v != 0 and not math.isinf(q := nearest(v, format_))]
    mean = sum(errors) / len(errors)
    spread = sum((e - mean) ** 2 for e in errors) / max(1, len(errors) - 1)
    return mean, mean / math.sqrt(spread / len(errors)) if spread else math.nan


def noise_twin(x: Tensor, format_: torch.dtype) -> tuple[float, float, float]:
    values = [v for v in x.double().tolist() if v != 0]
    q = [nearest(v, format_) for v in values]
    noise = math.sqrt(sum(((a - b) / values[0]) ** 2 for a, b in zip(q, values, strict=True)))
    signal = math.sqrt(sum((v / values[0]) ** 2 for v in values))
    under, over = (sum(map(test, q)) / len(q) for test in (lambda v: v == 0, math.isinf))
    return under, over, signal / noise if noise else math.nan


CENTRES = {torch.bfloat16: (-40, 38.4), torch.float16: (-9, 5), torch.float8_e4m3fn: (-4, 3), torch.float8_e5m2: (-6, 5)}


def values_of(format_: torch.dtype, kind: str, n: int = 300) -> Tensor:
    low, high = CENTRES[format_]
    table = numbers(format_)
    return {
        "normal": lambda: torch.randn(n).double(),
        "all sizes": lambda: 10 ** (torch.rand(n).double() * (high - low) + low) * torch.randn(n).sign(),
        "ties": lambda: ((table[1:] + table[:-1]) / 2)[:: max(1, len(table) // n)],
        "ends": lambda: (table[-1] * torch.linspace(0.9, 1.2, n).double()).clamp_max(3.4e38),
        "smallest": lambda: table[1] * torch.linspace(-3, 3, n).double(),
        "exact": lambda: table[:: max(1, len(table) // n)],
        "constant": lambda: torch.full((n,), 0.3).double(),
        "zeros among them": lambda: torch.randn(n).double() * (torch.arange(n) % 3 == 0),
    }[kind]()


KINDS = ("normal", "all sizes", "ties", "ends", "smallest", "exact", "constant", "zeros among them")


def assert_close(found: float, expected: float, rel: float = 1e-5, floor: float = 1e-9) -> None:
    if math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(expected, rel=rel, abs=floor)


@pytest.mark.parametrize("format_", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_table(format_: torch.dtype, kind: str) -> None:
    x = values_of(format_, kind).float()
    q = rounded(x, format_)
    expected = torch.tensor([nearest(v, format_) for v in x.double().tolist()], dtype=torch.float64)
    assert torch.equal(q, expected)
    inside = x.double().abs() < numbers(format_)[-1]
    gaps = torch.tensor([spacing(v, format_) for v in x.double().tolist()], dtype=torch.float64)
    assert torch.equal(ulp(x.double(), format_)[inside], gaps[inside])
    # Beside another row, which must make no difference.
    pair = torch.stack([x, torch.randn_like(x)])
    bias, z = rounding_of(pair, format_)[:, 0].tolist()
    expected_bias, expected_z = rounding_twin(x, format_)
    assert_close(bias, expected_bias if kind != "exact" else math.nan)
    assert_close(z, math.nan if kind == "exact" or math.isnan(expected_z) else expected_z, rel=1e-4)
    for found, wanted in zip(noise_of(pair, format_)[:, 0].tolist(), noise_twin(x, format_), strict=True):
        assert_close(found, wanted)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30), st.sampled_from(LOW_PRECISION))
def test_any_numbers(values: list[float], format_: torch.dtype) -> None:
    """Never a share outside of 0 to 1, never an error of more than half a step; NaN only of what is not finite."""
    x = torch.tensor([values])
    found = torch.cat([rounding_of(x, format_), noise_of(x, format_)])[:, 0]
    applies = torch.from_numpy(~is_not_applicable(found.numpy()))
    bias, _, under, over, noise = found.where(applies, torch.zeros(()))
    if torch.isfinite(x).all():
        assert not torch.isnan(found[applies]).any()
        assert abs(bias) <= 0.5 + 1e-6
        assert noise >= 0
    assert 0 <= under <= 1
    assert 0 <= over <= 1


@pytest.mark.parametrize("format_", LOW_PRECISION, ids=str)
def test_unbiased_rounding_is_told_from_biased(format_: torch.dtype) -> None:
    """Random weights err at random; weights that all lie a third of a step above a number err downwards."""
    bias, z = rounding_of(torch.randn(8, 4096), format_)
    assert bias.abs().max() < 0.03
    assert z.abs().max() < 4.0
    step = torch.finfo(format_).eps
    up = 1 + step / 3 + 0.1 * step * torch.rand(1, 4096)
    bias, z = rounding_of(up, format_)
    assert bias.item() == pytest.approx(-0.383, abs=0.01)
    assert z.item() < -100


@given(st.integers(-3, 3), st.integers(0, 2**16))
def test_powers_of_two_change_nothing(exponent: int, seed: int) -> None:
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed)) + 0.1
    for measure in (rounding_of, noise_of):
        assert torch.allclose(measure(x, torch.bfloat16), measure(x * 2.0**exponent, torch.bfloat16), equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format_", LOW_PRECISION, ids=str)
def test_what_is_not_finite_shows(format_: torch.dtype, value: float) -> None:
    x = torch.randn(2, 10) * 0.1
    clean = torch.cat([rounding_of(x, format_), noise_of(x, format_)])
    x[1, 4] = value
    found = torch.cat([rounding_of(x, format_), noise_of(x, format_)])
    assert torch.equal(found[:, 0], clean[:, 0])
    bias, z, under, over, noise = found[:, 1]
    assert torch.isnan(torch.stack([bias, z, noise])).all()
    assert not is_not_applicable(found[:, 1].numpy()).any()
    if math.isnan(value):
        assert under.isnan()
        assert over.isnan()
    else:
        assert (under, over) == (clean[2, 1], pytest.approx(0.1))


def gradient_step(model: nn.Module, gradient: Any) -> Any:
    def step() -> None:
        for p in model.parameters():
            p.grad = gradient(p)
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    return step


def expect(found: Any, name: str, weight: Tensor, gradient: Tensor, format_: torch.dtype) -> None:
    """All six, of the subsample."""
    w, g = sample_entries(weight), sample_entries(gradient)
    bias, z = rounding_twin(w, format_)
    under, over, noise = noise_twin(g, format_)
    expected = {BIAS: bias, Z: z, UNDERFLOW: under, OVERFLOW: over, NOISE: noise, RANGE: gradient.abs().max().item() / 65504}
    if (w.to(format_).double() == w.double()).all():
        expected[BIAS] = expected[Z] = math.nan
    expected = {signal: value for signal, value in expected.items() if not math.isnan(value)}
    assert {signal: value for (signal, module, _), value in found.items() if module == name} == {
        signal: pytest.approx(value, rel=1e-4, abs=1e-8) for signal, value in expected.items()
    }


def test_every_layer_of_a_gpt(sampler) -> None:
    """With the weights of the forward pass, not those after the step; bfloat16, where nothing says otherwise."""
    model = GPT(40, 2, 1, 16, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    layers = WatchedModel(model).linear_layers()
    weights = {layer.name: layer.weight().clone() for layer in layers}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step() -> None:
        tokens = torch.arange(32).reshape(2, 16)
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()

    found = sampler(NumericsProbe(), model).sample(step)
    assert found.modules(RANGE) == weights.keys()
    for layer in layers[:4]:
        expect(found, layer.name, weights[layer.name], layer.stored().grad, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_layers_own_low_precision(sampler, dtype: torch.dtype) -> None:
    """The format holds both exactly: what is left to tell is the range."""
    model = nn.Linear(9, 9, bias=False, dtype=dtype)
    found = sampler(NumericsProbe(), model).sample(gradient_step(model, lambda p: torch.full_like(p, 512.0)))
    assert found == {(UNDERFLOW, "", -1): 0.0, (OVERFLOW, "", -1): 0.0, (RANGE, "", -1): pytest.approx(512 / 65504)}


def test_autocast_names_the_format_layer_by_layer(sampler) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coarse, self.fine, self.full = (nn.Linear(9, 9, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.float16):
                y = self.fine(x)
            return self.full(y.float()) + self.coarse(x)

    model = Model()
    weights = {name: module.weight.detach().clone() for name, module in model.named_children()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(5, 9)).square().sum().backward()
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()

    found = sampler(NumericsProbe(), model).sample(step)
    for name, format_ in {"coarse": torch.bfloat16, "fine": torch.float16, "full": torch.bfloat16}.items():
        expect(found, name, weights[name], getattr(model, name).weight.grad, format_)


def test_formats_may_be_asked_for(sampler) -> None:
    model = nn.Linear(9, 9, bias=False)
    weight = model.weight.detach().clone()
    probe = NumericsProbe(weights=torch.float8_e4m3fn, gradients=torch.float8_e5m2)
    found = sampler(probe, model).sample(gradient_step(model, lambda p: torch.randn_like(p) * 1e4))
    assert found.of(BIAS, "") == pytest.approx(rounding_twin(weight.flatten(), torch.float8_e4m3fn)[0], rel=1e-4)
    under, over, noise = noise_twin(model.weight.grad.flatten(), torch.float8_e5m2)
    assert (found.of(UNDERFLOW, ""), found.of(OVERFLOW, "")) == (pytest.approx(under), pytest.approx(over))
    assert found.of(NOISE, "") == pytest.approx(noise, rel=1e-4)
    with pytest.raises(ValueError, match=r"torch\.float32 is not one of the formats known here: torch\.bfloat16"):
        NumericsProbe(weights=torch.float32)


def test_the_range_is_that_of_all_entries(sampler) -> None:
    model = nn.Linear(300, 300, bias=False)

    def gradient(p: nn.Parameter) -> Tensor:
        g = torch.zeros_like(p)
        g[123, 45] = -40000.0
        return g

    found = sampler(NumericsProbe(), model).sample(gradient_step(model, gradient))
    assert found.of(RANGE, "") == pytest.approx(40000 / 65504)


@pytest.mark.parametrize("fused", [False, True])
def test_with_a_loss_scale(sampler, fused: bool) -> None:
    """A fused optimizer is handed what the backward pass gave; a skipped step gives nothing."""
    model = nn.Linear(6, 6, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sample = sampler(NumericsProbe(), model).sample
    seen: list[float] = []

    def step() -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(5, 6)).square().mean() * (math.inf if poison else 1.0)).backward()
        seen.append(model.weight.grad.abs().max().item())
        scaler.step(optimizer)
        scaler.update(1024.0)

    poison = False
    assert sample(step).of(RANGE, "") == pytest.approx(seen[0] / 65504 / (1 if fused else 1024))
    poison = True
    assert sample(step) == {}


def test_parts_shared_frozen_and_unused_layers(sampler) -> None:
    model = nn.ModuleDict({name: nn.Linear(8, 24) for name in ("qkv", "first", "tied", "frozen", "unused")})
    model["tied"].weight = model["first"].weight
    model["frozen"].requires_grad_(False)
    optimizers = [torch.optim.SGD(model[name].parameters(), lr=0.1) for name in ("qkv", "first", "tied", "unused")]

    def step() -> None:
        for name, p in model.named_parameters():
            p.grad = None if name.startswith(("frozen", "unused")) else torch.randn_like(p)
        for optimizer in optimizers:
            optimizer.step()

    weights = {layer.name: layer.weight().clone() for layer in WatchedModel(model).linear_layers()}
    found = sampler(NumericsProbe(), model).sample(step)
    assert found.modules(RANGE) == {"qkv.q", "qkv.k", "qkv.v", "first"}
    expect(found, "qkv.k", weights["qkv.k"], model["qkv"].weight.grad[8:16], torch.bfloat16)
    expect(found, "first", weights["first"], model["first"].weight.grad, torch.bfloat16)
