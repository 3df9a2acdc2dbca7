"""The rounding-bias probe against its slow twin in float64, and on crafted inputs that are known to err to one side."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import Precision, reference_attention
from foreshock.probes.rounding_bias import RoundingBiasProbe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

SIGNALS = ("output_bias", "output_bias_z", "delta_bias", "delta_bias_z", "delta_same_sign", "tie_fraction", "tie_multiplicity")
COARSE = Precision(output=3)


def rotary(x: Tensor, pairing: str) -> Tensor:
    """Turn the pairs of (B, H, T, D) as rotary embeddings do."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[2])[:, None] * 0.7 ** torch.arange(half)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    if pairing == "halves":
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Layer(nn.Module):
    """Self-attention with its projections, whose rounding and rotation can be chosen."""

    def __init__(self, width: int = 16, heads: int = 2, groups: int = 2, turn: str = "", precision: Precision = COARSE) -> None:
        super().__init__()
        self.heads, self.groups, self.turn, self.precision = heads, groups, turn, precision
        self.q_proj = nn.Linear(width, width)
        self.k_proj, self.v_proj = (nn.Linear(width, width // heads * groups) for _ in range(2))
        self.between: Callable[[Tensor], Tensor] = lambda q: q
        self.attend: Callable[..., Tensor] | None = None

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (p(x).unflatten(-1, (self.groups, -1)).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        if self.turn:
            q, k = rotary(q, self.turn), rotary(k, self.turn)
        return self.between(q), k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads_of(x)
        if self.attend is not None:
            return self.attend(q, k, v)
        k, v = (y.repeat_interleave(self.heads // self.groups, 1) for y in (k, v))
        return reference_attention(q, k, v, is_causal=True, precision=self.precision)


def measured(sampler, model: nn.Module, x: Tensor, samples: int = 1, after: Callable[[], None] = lambda: None):
    run = sampler(RoundingBiasProbe(), model)
    outs: list[Tensor] = []

    def step() -> None:
        out = model(x)
        outs.append(out.detach())
        out.backward(gradient(out))

    for _ in range(samples):
        found = run.sample(step)
        after()
    return found, outs[-1]


def gradient(out: Tensor) -> Tensor:
    """dO of mostly one sign."""
    return (torch.randn(out.shape, generator=torch.Generator().manual_seed(3)) * 1e-3 - 2e-3).to(out.dtype)


def mean_and_z(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Of terms (B, H, R, D): the mean row sum; its distance from 0 in standard errors, variances over rows and columns added."""
    row = terms.sum(-1).transpose(0, 1).flatten(1)
    column = (terms.mean(2) * terms.shape[-1]).transpose(0, 1).flatten(1)
    variance = sum(x.var(1, correction=0) / x.shape[1] for x in (row, column))
    return row.mean(1), row.mean(1) / variance.sqrt()


def twin(layer: Layer, x: Tensor, out: Tensor, spacing: float, causal: bool = True) -> dict[str, Tensor]:
    """Every statistic per head, dense, in float64, by autograd where there is a gradient."""
    layer = layer.double()
    x = x.double()
    q, k, v = layer.heads_of(x)
    k, v = (y.repeat_interleave(layer.heads // layer.groups, 1) for y in (k, v))
    scale = q.shape[-1] ** -0.5
    s = scale * q @ k.mT
    if causal:
        s = s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    p = s.softmax(-1)
    exact, grad_out = p @ v, gradient(out).double()
    ulp = 2.0 ** exact.square().mean(-1, keepdim=True).sqrt().log2().floor() * spacing
    e = (grad_out * (out.double() - exact)).sum(-1)
    ds = p * (grad_out @ v.mT - (grad_out * out.double()).sum(-1, keepdim=True))
    pk = p @ k
    output_bias, output_bias_z = mean_and_z((out.double() - exact) / ulp / out.shape[-1])
    delta_bias, delta_bias_z = mean_and_z(grad_out * (out.double() - exact))

    def through_projection(dq: Tensor) -> Tensor:
        grad = torch.autograd.grad(q, layer.q_proj.weight, dq, retain_graph=True)[0]
        return grad.unflatten(0, (layer.heads, -1))

    wrong, whole = through_projection(-scale * e[..., None] * pk), through_projection(scale * ds @ k)
    directions = torch.linalg.svd(through_projection(pk))
    tied = (s >= s.amax(-1, keepdim=True) - 1e-3).sum(-1).double().transpose(0, 1).flatten(1)
    e = e.transpose(0, 1).flatten(1)
    n = e.shape[1]
    signs = torch.stack([(e > 0).sum(1), (e < 0).sum(1)]).amax(0)
    found = {
        "output_bias": output_bias,
        "output_bias_z": output_bias_z,
        "delta_bias": delta_bias,
        "delta_bias_z": delta_bias_z,
        "delta_same_sign": signs / n,
        "tie_fraction": (tied > 1).double().mean(1),
        "tie_multiplicity": tied.mean(1),
        "rank_one_share": directions.S[:, 0].square() / directions.S.square().sum(1),
        "query_gradient_error": wrong.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1),
        "left": directions.U[:, :, 0],
        "right": directions.Vh[:, 0],
    }
    layer.float()
    return {name: value.detach() for name, value in found.items()}


def assert_twin(found, expected: dict[str, Tensor], rtol: float = 1e-3, module: str = "") -> None:
    for name, values in expected.items():
        if name in ("left", "right"):
            continue
        there = found.heads(f"rounding.{name}", module or "attention")
        assert there.shape == values.shape, name
        assert there.tolist() == pytest.approx(values.tolist(), rel=rtol, abs=1e-3 if name.endswith("_z") else 1e-9), name


@pytest.mark.parametrize("turn", ["", "halves", "neighbours"])
@pytest.mark.parametrize("groups", [1, 2, 4], ids=["one key head", "grouped", "as many"])
def test_statistics_equal_their_twins(turn: str, groups: int, sampler) -> None:
    layer = Layer(width=32, heads=4, groups=groups, turn=turn)
    x = torch.randn(2, 40, 32)
    found, out = measured(sampler, layer, x)
    assert_twin(found, twin(layer, x, out, 2.0**-3))


def test_float32_recomputation_is_good_enough_for_bfloat16(sampler) -> None:
    """Bias in ulp against the twin's in float64: what float32 leaves is far below what a bfloat16 layer errs (0.3 ulp a row)."""
    layer = Layer(width=64, heads=1, groups=1, precision=Precision(output=7))
    x = torch.randn(2, 64, 64) * 4
    found, out = measured(sampler, layer, x)
    expected = twin(layer, x, out, 2.0**-7)
    off = found.heads("rounding.output_bias", "attention") - expected["output_bias"]
    assert off.abs().max() < 1e-4
    off = found.heads("rounding.delta_bias", "attention") - expected["delta_bias"]
    assert (off.abs() < 1e-4 * 3e-3 * 64).all(), "an ulp times |dO|"


@pytest.mark.parametrize("between", [lambda q: F.normalize(q, dim=-1), lambda q: q.roll(1, 2), lambda q: q * torch.arange(1, 9)])
def test_queries_that_are_not_the_projections_outputs(between: Callable[[Tensor], Tensor], sampler) -> None:
    layer = Layer()
    layer.between = between
    found, _ = measured(sampler, layer, torch.randn(2, 20, 16), samples=2)
    for name in ("rank_one_share", "query_gradient_error", "direction_similarity"):
        assert found.modules(f"rounding.{name}") == set()
    assert len(found.heads("rounding.delta_bias", "attention")) == 2


def test_a_factor_on_the_queries_makes_no_difference(sampler) -> None:
    layer, x = Layer(turn="halves"), torch.randn(2, 20, 16)
    layer.between = lambda q: q * 1.7
    found, out = measured(sampler, layer, x)
    assert_twin(found, twin(layer, x, out, 2.0**-3))


class Named(nn.Module):
    """Attention that has its projections under other names."""

    def __init__(self, **projections: nn.Module) -> None:
        super().__init__()
        for name, projection in projections.items():
            self.add_module(name, projection)

    def forward(self, x: Tensor) -> Tensor:
        found = [projection(x) for projection in self.children()]
        parts = found[0].chunk(3, -1) if len(found) == 1 else found
        q, k, v = (y.bfloat16().unflatten(-1, (2, -1)).transpose(1, 2) for y in parts)
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("projections", "known"),
    [
        ({"c_attn": nn.Linear(8, 24)}, True),
        ({name: nn.Linear(8, 8) for name in ("query", "key", "value")}, True),
        ({name: nn.Linear(8, 8, bias=False) for name in ("wq", "wk", "wv")}, True),
        ({name: nn.Linear(8, 8) for name in ("some", "other", "names")}, False),
        ({name: nn.Linear(8, 8) for name in ("k_proj", "q_proj", "v_proj")}, False),  # called q, used as k
    ],
    ids=["fused", "query", "wq, no bias", "unknown", "wrong"],
)
def test_projections_known_by_name_and_checked(projections: dict[str, nn.Module], known: bool, sampler) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Named(**projections)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x)

    found, _ = measured(sampler, Root(), torch.randn(2, 12, 8))
    assert found.modules("rounding.output_bias") == {"attention"}
    assert found.modules("rounding.query_gradient_error") == ({"attention"} if known else set())


def test_layers_side_by_side_are_told_apart(sampler) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Layer(), Layer()

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.one(x), self.two(x)])

    model, x = Two(), torch.randn(2, 20, 16)
    run = sampler(RoundingBiasProbe(), model)
    outs: list[Tensor] = []

    def step() -> None:
        outs[:] = model(x)
        torch.stack(outs).backward(torch.stack([gradient(out) for out in outs]))

    found = run.sample(step)
    for name, out in zip(("one", "two"), outs, strict=True):
        assert_twin(found, twin(getattr(model, name), x, out.detach(), 2.0**-3), module=name)


def test_direction_and_running_sum_from_sample_to_sample(sampler) -> None:
    layer, x = Layer(), torch.randn(2, 24, 16)
    run = sampler(RoundingBiasProbe(), layer)
    biases, pairs = [], []
    for sample in range(4):
        outs: list[Tensor] = []

        def step(outs: list[Tensor] = outs) -> None:
            outs.append(layer(x))
            outs[0].backward(gradient(outs[0]))

        if sample == 3:
            run.probe.rebind()
        found = run.sample(step)
        expected = twin(layer, x, outs[0].detach(), 2.0**-3)
        biases.append(expected["delta_bias"])
        pairs.append((expected["left"], expected["right"]))
        since = 3 if sample == 3 else 0
        total = found.heads("rounding.delta_bias_sum", "attention")
        assert total.tolist() == pytest.approx(torch.stack(biases[since:]).sum(0).tolist(), rel=1e-3)
        similarity = found.heads("rounding.direction_similarity", "attention")
        if sample in (0, 3):
            assert len(similarity) == 0
        else:
            cosines = [(a * b).sum(-1) for a, b in zip(pairs[-2], pairs[-1], strict=True)]
            assert similarity.tolist() == pytest.approx((cosines[0] * cosines[1]).abs().tolist(), rel=1e-3)
        with torch.no_grad():
            layer.k_proj.weight.add_(torch.randn(16, 16) * 0.1)


@pytest.mark.parametrize("source", ["float32", "random_sign"])
def test_where_delta_does_not_come_from_the_output_nothing_is_said_of_it(source: Any, sampler) -> None:
    layer = Layer(precision=Precision(output=3, delta_from=source))
    found, _ = measured(sampler, layer, torch.randn(2, 20, 16))
    assert {signal for signal, _, _ in found} == {
        *(f"rounding.{name}" for name in ("tie_fraction", "tie_multiplicity", "output_bias", "output_bias_z", "rank_one_share"))
    }


def test_rows_that_see_nothing_or_have_no_gradient_count_for_nothing(sampler) -> None:
    layer, x = Layer(heads=1, groups=1), torch.randn(1, 12, 16)
    mask = torch.ones(12, 12, dtype=torch.bool)
    mask[:4] = False

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)

    layer.attend = attend
    run = sampler(RoundingBiasProbe(), layer)
    outs: list[Tensor] = []

    def step() -> None:
        outs.append(layer(x))
        grad = gradient(outs[0])
        grad[:, :, 8:] = 0.0
        outs[0].backward(grad)

    found = run.sample(step)
    with torch.no_grad():
        q, k, v = (y.bfloat16().double() for y in layer.heads_of(x))
        exact = (q @ k.mT * 0.25).softmax(-1) @ v
        e = (gradient(outs[0]).double() * (outs[0].double() - exact)).sum(-1)
    assert found.heads("rounding.delta_bias", "attention").item() == pytest.approx(e[0, 0, 4:8].mean().item(), rel=1e-2)
    none = sampler(RoundingBiasProbe(), layer).sample(lambda: layer(x).backward(torch.zeros(1, 1, 12, 16).bfloat16()))
    assert none.modules("rounding.delta_bias") == none.modules("rounding.query_gradient_error") == set()
    assert none.modules("rounding.delta_bias_sum") == none.modules("rounding.output_bias") == {"attention"}


@pytest.mark.parametrize("where", ["x", "output", "gradient"])
def test_values_that_are_not_finite_show(where: str, sampler) -> None:
    layer, x = Layer(), torch.randn(2, 12, 16)
    if where == "x":
        x[1, 3, 2] = math.nan

    def broken(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if where == "output":
            v = torch.cat([v[:, :1], v[:, 1:] * math.inf], 1)
        return F.scaled_dot_product_attention(q, k, v)

    layer.attend = broken

    def step() -> None:
        out = layer(x)
        grad = torch.ones_like(out)
        if where == "gradient":
            grad[0, 1, 3] = math.nan
        out.backward(grad)

    found = sampler(RoundingBiasProbe(), layer).sample(step)
    shows = {"x": [True, True], "output": [False, True], "gradient": [False, True]}[where]
    for name in ("delta_bias", "delta_bias_z") if where == "gradient" else ("output_bias", "delta_bias", "delta_bias_z"):
        assert found.heads(f"rounding.{name}", "attention").isnan().tolist() == shows, name
    assert found.heads("rounding.query_gradient_error", "attention").isnan().tolist() == shows


@pytest.mark.parametrize("size", [1e-20, 1e-8, 1e6])
def test_gradients_of_any_size(size: float, sampler) -> None:
    layer, x = Layer(), torch.randn(2, 20, 16)
    usual = sampler(RoundingBiasProbe(), layer).sample(lambda: (out := layer(x)).backward(gradient(out)))
    scaled = sampler(RoundingBiasProbe(), layer).sample(lambda: (out := layer(x)).backward(gradient(out) * size))
    for name in ("delta_bias_z", "query_gradient_error", "delta_same_sign"):
        assert scaled.heads(f"rounding.{name}", "attention").tolist() == pytest.approx(
            usual.heads(f"rounding.{name}", "attention").tolist(), rel=1e-3
        ), name


# -- crafted inputs ----------------------------------------------------------------------------------------------------


class Told(nn.Module):
    """Attention whose output is what ``low`` makes of it, told to the probe; gradients are those of exact attention."""

    def __init__(self, low: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.low = low
        self.tell: Callable[..., None] = lambda *a, **o: None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        exact = F.softmax(q @ k.mT, -1) @ v
        out = exact + (self.low(q, k, v) - exact).detach()
        out = out if self.low is float32 else out.bfloat16()
        self.tell(q, k, v, out, name="crafted", scale=1.0)
        return out


def crafted(seed: int, one_sign: bool) -> list[Tensor]:
    """64 keys; in every row two exactly tied maxima, the rest 12 to 14 nats lower; V of one sign, or of random signs."""
    generator = torch.Generator().manual_seed(seed)
    pair = torch.eye(32).repeat_interleave(2, 0).expand(2, 4, 64, 32)
    noise = 0.12 * torch.randn(2, 4, 32, 32, generator=generator)
    k = torch.cat([13.0 * pair, noise.repeat_interleave(2, 2)], -1)
    q = torch.cat([pair, torch.randn(2, 4, 64, 32, generator=generator) * 0.5], -1)
    v = -1.0 - torch.rand(2, 4, 64, 64, generator=generator)
    if not one_sign:
        v = v * torch.where(torch.rand(v.shape, generator=generator) < 0.5, -1.0, 1.0)
    return [x.bfloat16().float().requires_grad_() for x in (q, k, v)]


def bfloat16_accumulator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """P V and the accumulator in bfloat16: what fails."""
    s = q @ k.mT
    p = torch.exp(s - s.amax(-1, keepdim=True))
    return ((p.bfloat16().float() @ v).bfloat16().float() / p.sum(-1, keepdim=True)).bfloat16().float()


def float32_accumulator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return float32(q, k, v).bfloat16().float()


def float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.mT, -1) @ v


def probe_crafted(sampler, low: Callable[..., Tensor], one_sign: bool, seed: int):
    q, k, v = crafted(seed, one_sign)
    model, probe = Told(low), RoundingBiasProbe()
    run = sampler(probe, model)
    model.tell = probe.tell

    def step() -> None:
        out = model(q, k, v)
        grad = -(0.5 + torch.rand(out.shape, generator=torch.Generator().manual_seed(seed))) / 64
        out.backward(grad.to(out.dtype))

    return run.sample(step)


@pytest.mark.parametrize("seed", range(3))
def test_crafted_inputs_show_sign_and_size(seed: int, sampler) -> None:
    """Of 0.25 ulp: half of the sums of two lie on a tie, and the tail pushes them all the same way, by half an ulp."""
    found = probe_crafted(sampler, bfloat16_accumulator, True, seed)
    of = {name: found.heads(f"rounding.{name}", "crafted") for name in SIGNALS}
    assert ((of["output_bias"] > -0.3) & (of["output_bias"] < -0.2)).all(), of
    assert (of["output_bias_z"] < -15).all(), of
    assert ((of["delta_bias"] > 1.4e-3) & (of["delta_bias"] < 2.4e-3)).all(), of
    assert (of["delta_bias_z"] > 15).all(), of
    assert (of["delta_same_sign"] == 1.0).all()
    assert (of["tie_fraction"] == 1.0).all()
    assert (of["tie_multiplicity"] == 2.0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("low", "one_sign"),
    [(bfloat16_accumulator, False), (float32_accumulator, False), (float32_accumulator, True), (float32, True), (float32, False)],
    ids=["random signs", "random signs, float32 accumulator", "float32 accumulator", "float32", "float32, random signs"],
)
def test_controls_show_nothing(low: Callable[..., Tensor], one_sign: bool, seed: int, sampler) -> None:
    found = probe_crafted(sampler, low, one_sign, seed)
    assert found.heads("rounding.output_bias_z", "crafted").abs().max() < 3
    assert found.heads("rounding.delta_bias_z", "crafted").abs().max() < 3


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 0.1, 1.0, 30.0]), rank=st.integers(1, 16))
def test_shares_and_cosines_stay_within_bounds(seed: int, size: float, rank: int, sampler) -> None:
    """Random, tiny, constant and rank-deficient inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(2, 15, rank, generator=generator) @ torch.randn(rank, 16, generator=generator)
    found, _ = measured(sampler, Layer(), x, samples=2)
    for name in ("rank_one_share", "direction_similarity", "tie_fraction", "delta_same_sign"):
        values = found.heads(f"rounding.{name}", "attention")
        assert ((values >= 0) & (values <= 1 + 1e-5)).all(), (name, values)
    assert not any(math.isnan(value) for value in found.values())
