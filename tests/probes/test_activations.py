"""Sizes of layer outputs against plain statistics in float64 over the same tokens."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.activations import TOKENS, ActivationsProbe
from foreshock.probes.base import Sums
from foreshock.probes.model import WatchedModel
from foreshock.probes.statistics.tokens import scattered_rows
from foreshock.zoo.models import GPT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CPU = torch.device("cpu")


class Given(nn.Linear):
    """A linear layer that gives out what it is told to, times a weight of one."""

    def __init__(self, out: Tensor) -> None:
        super().__init__(1, out.shape[-1])
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out * 1.0 + 0.0 * x


def twin(y: Tensor) -> dict[str, float]:
    """The statistics of the tokens looked at, in float64."""
    tokens = y.detach().double().reshape(-1, y.shape[-1])
    rows = scattered_rows(len(tokens), TOKENS, CPU)
    tokens = tokens if rows is None else tokens[rows]
    centred = tokens - tokens.mean()
    sizes = tokens.square().mean(0).sqrt()
    found = {
        "rms": tokens.square().mean().sqrt().item(),
        "max": tokens.abs().max().item(),
        "kurtosis": (centred**4).mean().item() / (centred**2).mean().item() ** 2,
        "outlier_channels": float((sizes > 6 * sizes.median()).sum()),
        "dead_fraction": (tokens == 0).all(0).double().mean().item(),
    }
    if len(tokens) > 1 and tokens.any():
        found["variation"] = ((tokens - tokens.mean(0)).square().sum() / tokens.square().sum()).item()
    return found


def of(found: Any, module: str) -> dict[str, float]:
    return {signal.partition(".")[2]: value for (signal, name, _), value in found.items() if name == module}


def assert_equal(found: Any, module: str, y: Tensor, *, activation: bool = False, rel: float = 1e-5) -> None:
    expected = twin(y)
    if not activation:
        expected.pop("dead_fraction")
    assert of(found, module) == pytest.approx(expected, rel=rel)


def measured(sampler: Any, y: Tensor) -> Any:
    layer = Given(y)
    return sampler(ActivationsProbe(), layer).sample(lambda: layer(torch.zeros(1)))


OUTPUTS: dict[str, Callable[[], Tensor]] = {
    "normal": lambda: torch.randn(3, 50, 20),
    "one token": lambda: torch.randn(20),
    "one channel": lambda: torch.randn(30, 1),
    "many tokens": lambda: torch.randn(2, 700, 12),
    "far from zero": lambda: torch.randn(200, 12) + 300.0,
    "heavy tails": lambda: torch.randn(100, 12) ** 7,
    "outlier channels": lambda: torch.randn(100, 12) * torch.tensor([1.0] * 9 + [50.0, 7.0, 0.01]),
    "tiny": lambda: torch.randn(100, 12) * 1e-6,
    "huge": lambda: torch.randn(100, 12) * 1e8,
    "one entry": lambda: F.one_hot(torch.arange(12), 40).float()[:1].expand(9, -1) + 1e-3,
    "low rank": lambda: torch.randn(100, 2) @ torch.randn(2, 12),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_statistic_equals_its_twin(kind: str, sampler) -> None:
    y = OUTPUTS[kind]()
    assert_equal(measured(sampler, y), "", y, rel=1e-3 if kind == "far from zero" else 1e-5)


def test_a_normal_output_has_a_kurtosis_of_three_and_no_outliers(sampler) -> None:
    found = of(measured(sampler, torch.randn(256, 400) + 0.5), "")
    assert found["kurtosis"] == pytest.approx(3.0, abs=0.1)
    assert found["rms"] == pytest.approx(math.sqrt(1.25), rel=0.02)
    assert found["outlier_channels"] == 0.0


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_beyond_the_range_of_fourth_powers_there_is_no_kurtosis(scale: float, sampler) -> None:
    y = torch.randn(100, 12) * scale
    expected = twin(y)
    del expected["dead_fraction"], expected["kurtosis"]
    assert of(measured(sampler, y), "") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e15])
def test_a_constant_output_has_no_kurtosis(value: float, sampler) -> None:
    found = of(measured(sampler, torch.full((50, 8), value)), "")
    assert "kurtosis" not in found
    assert found["rms"] == pytest.approx(abs(value), rel=1e-6)
    assert found["max"] == pytest.approx(abs(value), rel=1e-6)
    assert found.get("outlier_channels") == (0.0 if value else None), "nothing stands out of nothing"
    assert found.get("variation") == (pytest.approx(0.0, abs=1e-12) if value else None), "all tokens alike"


def test_variation_tells_representations_that_have_collapsed(sampler) -> None:
    """Features of 64 images: apart, alike but for a thousandth, and one image alone, which tells nothing."""
    apart, mean = torch.randn(64, 20), torch.randn(20)
    assert of(measured(sampler, apart), "")["variation"] > 0.9
    assert of(measured(sampler, mean + 0.001 * apart), "")["variation"] < 1e-5
    assert "variation" not in of(measured(sampler, apart[:1]), "")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_show(bad: float, sampler) -> None:
    y = torch.randn(40, 8)
    y[3, 5] = bad
    model = nn.Sequential(Given(y), nn.ReLU())
    found = sampler(ActivationsProbe(), model).sample(lambda: model(torch.zeros(1)))
    shown = of(found, "0") | {f"relu {name}": value for name, value in of(found, "1").items()}
    assert len(shown) == 11
    if bad == -math.inf:
        shown = {name: value for name, value in shown.items() if "relu" not in name}
    assert not any(math.isfinite(value) for value in shown.values()), shown


def test_no_tokens_no_values(sampler) -> None:
    assert measured(sampler, torch.zeros(0, 8)) == {}


@pytest.mark.parametrize("in_place", [False, True], ids=["", "in place"])
def test_dead_units_of_activations(in_place: bool, sampler) -> None:
    layer = nn.Linear(6, 10)
    with torch.no_grad():
        layer.bias[:3] = -100.0
    model = nn.Sequential(layer, nn.ReLU(in_place), nn.Linear(10, 2))
    x = torch.randn(400, 6)
    found = sampler(ActivationsProbe(), model).sample(lambda: model(x).sum().backward())
    assert_equal(found, "0", layer(x))
    assert_equal(found, "1", layer(x).relu(), activation=True)
    assert found.of("activation.dead_fraction", "1") == pytest.approx(0.3)
    assert found.modules("activation.dead_fraction") == {"1"}


def test_which_modules_are_looked_at(sampler) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.1), nn.Softmax(-1), nn.Linear(8, 3), nn.SiLU())
    found = sampler(ActivationsProbe(), model).sample(lambda: model(torch.randn(30, 8)))
    assert found.modules("activation.rms") == {"0", "2", "5", "6"}


def test_parts_of_a_fused_projection(sampler) -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(8, 24)})
    x = torch.randn(30, 8)
    found = sampler(ActivationsProbe(), model).sample(lambda: model["qkv"](x))
    for i, part in enumerate("qkv"):
        assert_equal(found, f"qkv.{part}", model["qkv"](x)[:, 8 * i : 8 * i + 8])


def test_channels_of_a_convolution_and_of_the_activation_behind_it(sampler) -> None:
    """Channels come second there; behind a linear layer in the same model they come last."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Linear(2, 4), nn.ReLU())
    with torch.no_grad():
        model[1].bias[:2] = -100.0
    x = torch.randn(4, 3, 9, 9)
    found = sampler(ActivationsProbe(), model).sample(lambda: model(x))
    model.train()
    assert_equal(found, "0", model[0](x).permute(0, 2, 3, 1), rel=1e-4)
    assert_equal(found, "2", model[:3](x).permute(0, 2, 3, 1), activation=True, rel=1e-4)
    assert found.of("activation.dead_fraction", "2") == pytest.approx(2 / 8)
    assert_equal(found, "5", model(x), activation=True, rel=1e-4)


def test_a_gpt_in_low_precision(sampler) -> None:
    model = GPT(32, 2, 2, 40, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)).bfloat16()
    outputs: dict[str, Tensor] = {}
    names = {layer.module: layer.name for layer in WatchedModel(model).linear_layers()}
    for module in names:
        module.register_forward_hook(lambda module, args, y: outputs.update({names[module]: y.detach().clone()}))
    found = sampler(ActivationsProbe(), model).sample(lambda: model(torch.arange(320).reshape(8, 40) % 256))
    assert found.modules("activation.rms") == set(outputs)
    for name, y in outputs.items():
        assert_equal(found, name, y, rel=1e-4)


def layer_and_input() -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU()), torch.randn(300, 6)


def test_the_first_training_forward_is_the_one_seen(sampler) -> None:
    model, x = layer_and_input()
    run = sampler(ActivationsProbe(), model)
    alone = run.sample(lambda: model(x))

    def micro_batches() -> None:
        model.eval()
        model(x * 9)
        model.train()
        with torch.no_grad():
            model(x * 7)
        for scale in (1, 2, 3):
            model(x * scale).sum().backward()

    assert run.sample(micro_batches) == alone
    assert run.sample(lambda: None) == {}


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_recomputation_adds_nothing(reentrant: bool, sampler) -> None:
    model, x = layer_and_input()
    x.requires_grad_()
    run = sampler(ActivationsProbe(), model)
    alone = run.sample(lambda: model(x).sum().backward())
    assert run.sample(lambda: checkpoint(model, x, use_reentrant=reentrant).sum().backward()) == alone


def test_under_autocast_the_values_are_those_given_out(sampler) -> None:
    model, x = layer_and_input()
    with torch.autocast("cpu", torch.bfloat16):
        found = sampler(ActivationsProbe(), model).sample(lambda: model(x))
        y = model[0](x)
    assert y.dtype == torch.bfloat16
    assert_equal(found, "0", y)


def test_a_module_in_several_places_and_several_models(sampler) -> None:
    act = nn.ReLU()
    watched, other = nn.Sequential(nn.Linear(6, 6), act, nn.Linear(6, 6), act), nn.Linear(6, 6)
    x = torch.randn(30, 6)

    def train() -> None:
        watched(other(x)).sum().backward()
        assert not other._forward_hooks

    found = sampler(ActivationsProbe(), {"a": watched}).sample(train)
    assert found.modules("activation.rms") == {"a.0", "a.1", "a.2"}
    assert_equal(found, "a.1", watched[:2](other(x)), activation=True)


def test_sums_of_ranks_give_the_statistics_of_all_tokens() -> None:
    y = torch.cat([torch.randn(40, 8) * 3 + 5, torch.randn(90, 8)])

    def sums(part: Tensor) -> list[Sums]:
        layer, probe = Given(part), ActivationsProbe()
        probe.attach(WatchedModel(layer))
        probe.arm(0)
        layer(torch.zeros(1))
        return [block for block in probe.collect(0) if isinstance(block, Sums)]

    pairs = zip(sums(y[:40]), sums(y[40:]), strict=True)
    found = [value for one, other in pairs for value in one.finish(one.sums + other.sums).tolist()]
    expected = twin(y)
    assert found == pytest.approx([expected[name] for name in ("rms", "kurtosis", "variation")], rel=1e-5)
