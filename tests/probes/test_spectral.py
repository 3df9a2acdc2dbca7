"""The spectral probe against its slow twin: dense SVD and plain statistics in float64 over the same tokens."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import reference_attention
from foreshock.probes.model import WatchedModel
from foreshock.probes.spectral import BINS, HISTOGRAM_RANGE, TOKENS, SpectralProbe
from foreshock.probes.statistics.subspace import starting_basis
from foreshock.probes.statistics.tokens import scattered_rows
from foreshock.zoo.models import GPT
from foreshock.zoo.text import windows
from torch import Tensor, nn

ALIGNMENT = ("mean", "std", "mean_abs", "positive_fraction", "sign_diversity")
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


class Conv1D(nn.Module):
    """GPT-2's linear layer: the weight is stored (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) * 0.3), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def principal(w: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and v_1 in float64, its sign continuous with ``before``."""
    _, sigma, v = torch.linalg.svd(w.detach().double(), full_matrices=False)
    return sigma, v[0] * torch.sign(v[0] @ before.double())


def alignments(x: Tensor, v: Tensor) -> Tensor:
    """SA of the tokens looked at, in float64; zero tokens left out."""
    tokens = x.detach().double().reshape(-1, x.shape[-1])
    rows = scattered_rows(len(tokens), TOKENS, tokens.device)
    tokens = tokens if rows is None else tokens[rows]
    tokens = tokens[tokens.norm(dim=1) != 0]
    return (tokens @ v) / tokens.norm(dim=1)


def statistics(sa: Tensor) -> dict[str, float]:
    positive = (sa > 0).double().mean().item()
    return {
        "mean": sa.mean().item(),
        "std": sa.std(correction=0).item(),
        "mean_abs": sa.abs().mean().item(),
        "positive_fraction": positive,
        "sign_diversity": 1 - abs(2 * positive - 1),
    }


def histogram(sa: Tensor, width: int) -> list[int]:
    place = np.clip(np.arcsinh(math.sqrt(width) * sa.numpy()), -HISTOGRAM_RANGE, HISTOGRAM_RANGE)
    return np.histogram(place, BINS, (-HISTOGRAM_RANGE, HISTOGRAM_RANGE))[0].tolist()


def assert_alignment(found, name: str, sa: Tensor, width: int, tolerance: float = 2e-5) -> None:
    for statistic, expected in statistics(sa).items():
        value = found.of(f"spectral_alignment.{statistic}", name)
        assert value == pytest.approx(expected, abs=tolerance), f"{name} {statistic}"
    counts, expected_counts = found.histograms[name].counts, histogram(sa, width)
    assert sum(counts) == sum(expected_counts)
    # One token may lie on the edge of a bin, on this side in one precision and on that side in the other.
    assert sum(abs(a - b) for a, b in zip(counts, expected_counts, strict=True)) <= 2, f"{counts}\n{expected_counts}"
    assert (found.histograms[name].low, found.histograms[name].high) == (-HISTOGRAM_RANGE, HISTOGRAM_RANGE)


def hooks_on(model: nn.Module) -> int:
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in HOOKS)


LAYERS = {
    "linear": lambda: nn.Linear(12, 20),
    "wide": lambda: nn.Linear(40, 3, bias=False),
    "one output": lambda: nn.Linear(9, 1),
    "one input": lambda: nn.Linear(1, 9),
    "conv1d": lambda: Conv1D(20, 12),
}


@pytest.mark.parametrize("tokens", [(1,), (7, 5), (3, 4, 50), (2, 700)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_statistic_equals_its_twin(kind: str, tokens: tuple[int, ...], sampler) -> None:
    layer = LAYERS[kind]()
    (linear,) = WatchedModel(nn.ModuleDict({"up": layer})).linear_layers()
    width = linear.weight().shape[1]
    run = sampler(SpectralProbe(), {"up": layer})
    x = torch.randn(*tokens, width) * torch.rand(*tokens, 1) * 5 + 0.2
    before, sigma_before = starting_basis("up", width, x.device)[0], None
    for sample in range(3):
        found = run.sample(lambda: layer(x), after=7)
        sigma, v = principal(linear.weight(), before)
        assert found.of("weight.spectral_norm", "up") == pytest.approx(sigma[0].item(), rel=1e-5)
        if len(sigma) > 1:
            assert found.of("spectral_alignment.gap", "up") == pytest.approx((sigma[0] / sigma[1]).item(), rel=1e-3)
        assert_alignment(found, "up", alignments(x, v), width, 2e-4)
        if sample == 0:
            assert found.modules("spectral_alignment.turn") == found.modules("weight.spectral_growth") == set()
        else:
            growth = (sigma[0] - sigma_before[0]) / sigma[0] / 7
            assert found.of("weight.spectral_growth", "up") == pytest.approx(growth.item(), abs=1e-6)
            assert found.of("spectral_alignment.turn", "up") == pytest.approx(1 - (v @ before).abs().item(), abs=2e-4)
        before, sigma_before = v, sigma
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight) * 0.02)


def test_a_matrix_of_rank_one_has_no_gap(sampler) -> None:
    layer = nn.Linear(6, 6)
    nn.init.constant_(layer.weight, 0.1)
    found = sampler(SpectralProbe(), layer).sample(lambda: layer(torch.randn(4, 6)))
    gap = found.get(("spectral_alignment.gap", "", -1))
    assert gap is None or gap > 1e6


def test_statistics_of_a_gpt_in_training_equal_their_twins(sampler) -> None:
    """Steady state on weights that move fast; the twin sees the same tokens of the same forward pass."""
    model = GPT(32, 2, 2, 32, partial(reference_attention, is_causal=True), value_bias=-2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    data, layers = windows(count=16, context=32), WatchedModel(model).linear_layers()
    inputs: dict[nn.Module, Tensor] = {}
    for layer in layers:
        layer.module.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0].detach().clone()}))

    def step() -> None:
        batch = data[torch.randint(len(data), (8,))]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()

    run = sampler(SpectralProbe(), model)
    before = {layer.name: starting_basis(layer.name, layer.weight().shape[1], torch.device("cpu"))[0] for layer in layers}
    worst: dict[str, tuple[float, str]] = dict.fromkeys(ALIGNMENT, (0.0, ""))
    judged = 0
    for sample in range(8):
        found = run.sample(step)
        for layer in layers:
            sigma, v = principal(layer.weight(), before[layer.name])
            before[layer.name] = v
            if sample < 3 or sigma[0] < 1.05 * sigma[1]:
                continue
            judged += 1
            assert found.of("weight.spectral_norm", layer.name) == pytest.approx(sigma[0].item(), rel=1e-3)
            for name, expected in statistics(alignments(inputs[layer.module], v)).items():
                off = abs(found.of(f"spectral_alignment.{name}", layer.name) - expected)
                worst[name] = max(worst[name], (off, f"{layer.name}, sample {sample}"))
        optimizer.step()
        for _ in range(9):
            step()
            optimizer.step()
    assert judged > 30
    for name, (off, where) in worst.items():
        allowed = 0.05 if name in ("positive_fraction", "sign_diversity") else 0.01
        assert off < allowed, f"{name} is off by {off:.3g} at {where}"


class Fused(nn.Module):
    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        setattr(self, name, layer)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


class Split(nn.Module):
    """Three layers under the names that the parts of a fused one get."""

    def __init__(self, weights: list[Tensor], name: str) -> None:
        super().__init__()
        parts = nn.ModuleDict()
        for part, weight in zip("qkv", weights, strict=True):
            parts[part] = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            parts[part].weight = nn.Parameter(weight.clone())
        setattr(self, name, parts)
        self.parts = list(parts.values())

    def forward(self, x: Tensor) -> None:
        for part in self.parts:
            part(x)


@pytest.mark.parametrize("name", ["c_attn", "qkv_proj", "Wqkv"])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_fused_projection_equals_three_layers(kind: str, name: str, sampler) -> None:
    d = 10
    layer = nn.Linear(d, 3 * d) if kind == "linear" else Conv1D(3 * d, d)
    w = layer.weight.detach() if kind == "linear" else layer.weight.detach().t()
    fused, split = Fused(layer, name), Split([w[:d], w[d : 2 * d], w[2 * d :]], name)
    x = torch.randn(6, 8, d)
    found, expected = (sampler(SpectralProbe(), model).sample(lambda model=model: model(x)) for model in (fused, split))
    assert found.modules("weight.spectral_norm") == {f"{name}.q", f"{name}.k", f"{name}.v"}
    assert set(found) == set(expected)
    for series, value in expected.items():
        assert found[series] == pytest.approx(value, abs=1e-5), series
    assert {n: h.counts for n, h in found.histograms.items()} == {n: h.counts for n, h in expected.histograms.items()}


@pytest.mark.parametrize(("name", "out"), [("query_key_value", 30), ("qkv", 20), ("up", 30)], ids=str)
def test_what_is_no_row_by_row_fusion_stays_whole(name: str, out: int, sampler) -> None:
    model = Fused(nn.Linear(10, out), name)
    found = sampler(SpectralProbe(), model).sample(lambda: model(torch.randn(4, 10)))
    assert found.modules("weight.spectral_norm") == {name}


def test_zero_tokens_are_left_out(sampler) -> None:
    layer = nn.Linear(12, 8)
    x = torch.randn(50, 12)
    x[::3] = 0.0
    found = sampler(SpectralProbe(), layer).sample(lambda: layer(x))
    _, v = principal(layer.weight, starting_basis("", 12, x.device)[0])
    sa = alignments(x, v)
    assert len(sa) == 33
    assert_alignment(found, "", sa, 12)


@pytest.mark.parametrize("shape", [(5, 12), (0, 12)], ids=["all zero", "no tokens"])
def test_without_a_token_to_look_at_alignment_does_not_apply(shape: tuple[int, int], sampler) -> None:
    model = nn.ModuleDict({"a": nn.Linear(12, 8), "b": nn.Linear(12, 8)})
    run = sampler(SpectralProbe(), model)

    def forward() -> None:
        model["a"](torch.zeros(shape))
        model["b"](torch.randn(5, 12))

    found = run.sample(forward)
    for statistic in ALIGNMENT:
        assert found.modules(f"spectral_alignment.{statistic}") == {"b"}
    assert found.modules("weight.spectral_norm") == {"a", "b"}
    assert sum(found.histograms["a"].counts) == 0
    assert sum(found.histograms["b"].counts) == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite_show(bad: float, sampler) -> None:
    layer = nn.Linear(12, 8)
    x = torch.randn(40, 12)
    x[3, 5] = bad
    found = sampler(SpectralProbe(), layer).sample(lambda: layer(x))
    for statistic in ALIGNMENT:
        assert math.isnan(found.of(f"spectral_alignment.{statistic}", "")), statistic
    assert sum(found.histograms[""].counts) == 39
    assert math.isfinite(found.of("weight.spectral_norm", ""))


def test_a_weight_that_is_not_finite_shows_and_recovers(sampler) -> None:
    layer = nn.Linear(12, 8)
    run = sampler(SpectralProbe(), layer)
    healthy = run.sample(lambda: layer(torch.randn(40, 12)))
    with torch.no_grad():
        kept = layer.weight[2, 3].item()
        layer.weight[2, 3] = math.nan
    broken = run.sample(lambda: layer(torch.randn(40, 12)))
    for signal in ("weight.spectral_norm", "weight.spectral_growth", "spectral_alignment.gap", "spectral_alignment.turn"):
        assert math.isnan(broken.of(signal, "")), signal
    with torch.no_grad():
        layer.weight[2, 3] = kept
    run.sample(lambda: layer(torch.randn(40, 12)))
    again = run.sample(lambda: layer(torch.randn(40, 12)))
    for signal in ("weight.spectral_norm", "spectral_alignment.gap"):
        assert again.of(signal, "") == pytest.approx(healthy.of(signal, ""), rel=1e-4)
    assert again.of("weight.spectral_growth", "") == pytest.approx(0.0, abs=1e-6)


def test_a_layer_that_starts_at_zero(sampler) -> None:
    layer = nn.Linear(12, 8)
    nn.init.zeros_(layer.weight)
    run = sampler(SpectralProbe(), layer)
    found = run.sample(lambda: layer(torch.randn(40, 12)))
    assert found.of("weight.spectral_norm", "") == 0.0
    assert found.modules("spectral_alignment.gap") == set()
    with torch.no_grad():
        layer.weight[:, 7] = 0.2
    found = run.sample(lambda: layer(torch.randn(40, 12)))
    assert found.of("weight.spectral_norm", "") == pytest.approx(0.2 * math.sqrt(8), rel=1e-4)
    assert found.of("weight.spectral_growth", "") == pytest.approx(1 / 10, rel=1e-4)


def test_alignment_does_not_depend_on_the_length_of_tokens(sampler) -> None:
    layer = nn.Linear(12, 8)
    x = torch.randn(60, 12)
    one = sampler(SpectralProbe(), layer).sample(lambda: layer(x))
    other = sampler(SpectralProbe(), layer).sample(lambda: layer(x * torch.logspace(-9, 9, 60)[:, None]))
    for statistic in ALIGNMENT:
        name = f"spectral_alignment.{statistic}"
        assert other.of(name, "") == pytest.approx(one.of(name, ""), abs=1e-6)


DTYPES = [
    pytest.param(torch.bfloat16, id="bfloat16"),
    pytest.param(torch.float16, id="float16"),
    pytest.param(torch.float64, id="float64"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_dtypes(dtype: torch.dtype, sampler) -> None:
    """The numbers are those of the weights and inputs as they are stored: float32 arithmetic, whatever the model's."""
    layer = nn.Linear(40, 30).to(dtype)
    x = (torch.randn(300, 40) + 0.3).to(dtype)
    found = sampler(SpectralProbe(), layer).sample(lambda: layer(x))
    sigma, v = principal(layer.weight.float(), starting_basis("", 40, x.device)[0])
    assert found.of("weight.spectral_norm", "") == pytest.approx(sigma[0].item(), rel=1e-5)
    assert_alignment(found, "", alignments(x.float(), v), 40, 1e-4)


@pytest.mark.parametrize("whole_step", [False, True], ids=["forward", "whole step"])
def test_autocast_does_not_coarsen_the_measuring(whole_step: bool, sampler) -> None:
    layer = nn.Linear(40, 30)
    x = torch.randn(200, 40)
    run = sampler(SpectralProbe(), layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=whole_step):
        run.probe.arm(0)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        found = run.collect()
    sigma, v = principal(layer.weight, starting_basis("", 40, x.device)[0])
    assert found.of("weight.spectral_norm", "") == pytest.approx(sigma[0].item(), rel=1e-5)
    assert_alignment(found, "", alignments(x, v), 40)


def means(run, train) -> float:
    return run.sample(train).of("spectral_alignment.mean", "")


def test_the_first_training_forward_of_the_step_is_the_one_seen(sampler) -> None:
    layer = nn.Linear(12, 8)
    x, other = torch.randn(40, 12) + 0.5, torch.randn(40, 12) - 0.5
    run = sampler(SpectralProbe(), layer)
    alone = means(run, lambda: layer(x))

    def validation_then_micro_batches() -> None:
        layer.eval()
        layer(other)
        layer.train()
        with torch.no_grad():
            layer(other)
        with torch.inference_mode():
            layer(other)
        for batch in (x, other, other):
            layer(batch)

    assert means(run, validation_then_micro_batches) == pytest.approx(alone, abs=1e-5)
    assert run.sample(lambda: None).modules("spectral_alignment.mean") == set()


def test_inputs_by_keyword_and_inputs_changed_in_place_afterwards(sampler) -> None:
    layer = nn.Linear(12, 8)
    x = torch.randn(300, 12) + 0.5
    run = sampler(SpectralProbe(), layer)
    alone = means(run, lambda: layer(x))
    assert means(run, lambda: layer(input=x)) == pytest.approx(alone, abs=1e-5)
    for count in (300, 100):
        expected = means(run, lambda count=count: layer(x[:count]))
        y = x[:count].clone()

        def forward_and_overwrite(y: Tensor = y) -> None:
            layer(y)
            y.zero_()

        assert means(run, forward_and_overwrite) == pytest.approx(expected, abs=1e-5)


def test_hooks_are_there_during_a_sampled_step_only(sampler) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Fused(nn.Linear(4, 12), "qkv"))
    probe = SpectralProbe()
    run = sampler(probe, model)
    assert hooks_on(model) == 0
    probe.arm(0)
    assert hooks_on(model) == 4, "one before and one after each layer"
    probe.disarm()
    probe.disarm()
    assert hooks_on(model) == 0
    run.sample(lambda: model(torch.randn(3, 4)))
    assert hooks_on(model) == 0


def test_a_probe_holds_on_to_little(sampler) -> None:
    """Between samples: two vectors a layer and one number, no input and no weight."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    run = sampler(SpectralProbe(), model)
    run.sample(lambda: model(torch.randn(500, 64)))

    def tensors(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        if isinstance(value, dict):
            return [t for item in value.values() for t in tensors(item)]
        return [t for item in value for t in tensors(item)] if isinstance(value, (list, tuple)) else []

    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(vars(run.probe))}.values())
    assert held <= 2 * 2 * 64 * 4 + 100


def test_replaced_and_resized_weights(sampler) -> None:
    layer = nn.Linear(12, 8)
    run = sampler(SpectralProbe(), layer)
    run.sample(lambda: layer(torch.randn(5, 12)))
    run.probe.rebind()
    nn.init.normal_(layer.weight)
    found = run.sample(lambda: layer(torch.randn(5, 12)))
    assert found.modules("spectral_alignment.turn") == found.modules("weight.spectral_growth") == set()
    assert found.of("weight.spectral_norm", "") == pytest.approx(torch.linalg.matrix_norm(layer.weight, 2).item(), rel=1e-4)
    layer.weight = nn.Parameter(torch.randn(8, 20))
    found = run.sample(lambda: layer(torch.randn(5, 20)))
    assert found.of("weight.spectral_norm", "") == pytest.approx(torch.linalg.matrix_norm(layer.weight, 2).item(), rel=2e-2)


def test_a_model_without_linear_layers_yields_nothing(sampler) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3))
    assert sampler(SpectralProbe(), model).sample(lambda: model(torch.tensor([1, 2]))) == {}
