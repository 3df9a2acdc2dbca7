"""The output side of spectral alignment, and layers that are no plain matrix, against autograd and dense SVD in float64."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import reference_attention
from foreshock.probes.base import Sums
from foreshock.probes.model import WatchedModel
from foreshock.probes.spectral import TOKENS, SpectralProbe
from foreshock.probes.statistics.subspace import starting_basis
from foreshock.probes.statistics.tokens import sample_inputs, sample_outputs, scattered_rows
from foreshock.zoo.models import GPT
from foreshock.zoo.text import windows
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MEAN, DIVERSITY = "spectral_alignment.output_mean", "spectral_alignment.output_sign_diversity"
CPU = torch.device("cpu")


def left(w: Tensor, name: str) -> Tensor:
    """u_1 in float64, its sign that of W v_1, v_1 continuous with the starting basis."""
    u, _, v = torch.linalg.svd(w.detach().double(), full_matrices=False)
    return u[:, 0] * torch.sign(v[0] @ starting_basis(name, w.shape[1], CPU)[0].double())


def expected(deltas: Tensor, u: Tensor) -> tuple[float, float]:
    """Mean and sign diversity of the cosines of the tokens looked at, in float64; zero tokens left out."""
    tokens = deltas.detach().double().reshape(-1, deltas.shape[-1])
    rows = scattered_rows(len(tokens), TOKENS, CPU)
    tokens = tokens if rows is None else tokens[rows]
    tokens = tokens[tokens.norm(dim=1) != 0]
    cosines = (tokens @ u) / tokens.norm(dim=1)
    positive = (cosines > 0).double().mean().item()
    return cosines.mean().item(), 1 - abs(2 * positive - 1)


def assert_output(found: Any, name: str, deltas: Tensor, u: Tensor, tolerance: float = 1e-4) -> None:
    mean, diversity = expected(deltas, u)
    assert found.of(MEAN, name) == pytest.approx(mean, abs=tolerance), name
    # One token may lie at a right angle, on this side in one precision and on that side in the other.
    assert found.of(DIVERSITY, name) == pytest.approx(diversity, abs=2 / min(TOKENS, deltas.numel() // deltas.shape[-1]) + 1e-6)


class Kept(nn.Module):
    """Runs a layer and weighs its output, so that the gradient at it is known: ``deltas``."""

    def __init__(self, layer: nn.Module, deltas: Tensor) -> None:
        super().__init__()
        self.layer, self.deltas = layer, deltas

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.deltas).sum()


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25], ids=["usual", "tiny", "huge"])
@pytest.mark.parametrize("tokens", [(1,), (7, 5), (2, 700)], ids=str)
def test_output_statistics_equal_their_twin(tokens: tuple[int, ...], scale: float, sampler) -> None:
    deltas = (torch.randn(*tokens, 20) + 0.3) * scale
    model = Kept(nn.Linear(12, 20), deltas)
    found = sampler(SpectralProbe(), model).sample(lambda: model(torch.randn(*tokens, 12)).backward())
    assert_output(found, "layer", deltas, left(model.layer.weight, "layer"))


def test_the_product_of_both_sides_is_the_growth_of_sigma(sampler) -> None:
    """d sigma_1 = -lr * sum_t <u_1, delta_t> <v_1, x_t>: signs of both sides fit together, whatever sign the pair has."""
    for seed in range(4):
        torch.manual_seed(seed)
        layer = nn.Linear(6, 9, bias=False)
        x = torch.randn(1, 6)
        run = sampler(SpectralProbe(), layer)
        y = layer(x)
        before = torch.linalg.matrix_norm(layer.weight.detach().double(), 2)
        found = run.sample(lambda layer=layer, x=x: layer(x).square().sum().backward())
        delta = 2 * y.detach()
        product = found.of(MEAN, "") * delta.norm() * found.of("spectral_alignment.mean", "") * x.norm()
        lr = 1e-5
        after = torch.linalg.matrix_norm((layer.weight - lr * layer.weight.grad).detach().double(), 2)
        assert ((before - after) / lr).item() == pytest.approx(product.item(), rel=1e-2)


def test_outputs_of_a_gpt_in_training_equal_their_twins(sampler) -> None:
    model = GPT(32, 2, 2, 32, partial(reference_attention, is_causal=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    data, layers = windows(count=16, context=32), WatchedModel(model).linear_layers()
    gradients: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: Any, out: Tensor) -> None:
        out.register_hook(lambda gradient: gradients.update({module: gradient.clone()}))

    for layer in layers:
        layer.module.register_forward_hook(keep)

    def step() -> None:
        batch = data[torch.randint(len(data), (8,))]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()

    run = sampler(SpectralProbe(), model)
    judged = 0
    for sample in range(6):
        found = run.sample(step)
        for layer in layers:
            u, sigma, v = torch.linalg.svd(layer.weight().double(), full_matrices=False)
            if sample < 3 or sigma[0] < 1.05 * sigma[1]:
                continue
            judged += 1
            sign = torch.sign(v[0] @ run.probe._followed.basis(layer, layer.view())[0].double())
            mean, diversity = expected(gradients[layer.module], u[:, 0] * sign)
            assert found.of(MEAN, layer.name) == pytest.approx(mean, abs=0.01)
            assert found.of(DIVERSITY, layer.name) == pytest.approx(diversity, abs=0.06)
        optimizer.step()
    assert judged > 20


# -- what is one layer and what is three --------------------------------------------------------------------------------


class Attention(nn.Module):
    """A fused projection among the attributes that tell its heads."""

    def __init__(self, name: str, layer: nn.Module, **attributes: Any) -> None:
        super().__init__()
        setattr(self, name, layer)
        self.name = name
        for key, value in attributes.items():
            setattr(self, key, value)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


class Config:
    num_attention_heads = 4
    num_key_value_heads = 2


def by_rows(first: int, size: int) -> list[int]:
    return list(range(first, first + size))


def interleaved(heads: int, size: int, part: int) -> list[int]:
    return [head * 3 * size + part * size + i for head in range(heads) for i in range(size)]


FUSIONS: dict[str, tuple[Callable[[], Attention], dict[str, list[int]]]] = {
    "grouped": (
        lambda: Attention("qkv_proj", nn.Linear(12, 24), num_heads=4, num_key_value_heads=2),
        {"q": by_rows(0, 12), "k": by_rows(12, 6), "v": by_rows(18, 6)},
    ),
    "grouped, told by a config": (
        lambda: Attention("qkv_proj", nn.Linear(12, 24), config=Config()),
        {"q": by_rows(0, 12), "k": by_rows(12, 6), "v": by_rows(18, 6)},
    ),
    "grouped, wide heads": (
        lambda: Attention("wqkv", nn.Linear(12, 36), n_head=4, n_local_heads=1, head_dim=6),
        {"q": by_rows(0, 24), "k": by_rows(24, 6), "v": by_rows(30, 6)},
    ),
    "interleaved": (
        lambda: Attention("query_key_value", nn.Linear(12, 36), num_attention_heads=3),
        {part: interleaved(3, 4, i) for i, part in enumerate("qkv")},
    ),
    "interleaved, heads unknown": (lambda: Attention("query_key_value", nn.Linear(12, 36)), {}),
    "ChatGLM": (lambda: Attention("query_key_value", nn.Linear(12, 36), num_heads=3, multi_query_attention=False), {}),
    "InternLM2": (lambda: Attention("wqkv", nn.Linear(12, 36), num_heads=4, num_key_value_groups=1), {}),
    "sizes that do not fit": (lambda: Attention("qkv_proj", nn.Linear(12, 20), num_heads=4, num_key_value_heads=2), {}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_parts_of_fused_projections(fusion: str, dtype: torch.dtype, sampler) -> None:
    """Each part is the layer that its rows alone would make, on the input and on the output side."""
    make, parts = FUSIONS[fusion]
    model = make().to(dtype)
    layer = getattr(model, model.name)
    deltas = torch.randn(50, layer.out_features).to(dtype) + 0.2
    found = sampler(SpectralProbe(), model).sample(lambda: (model(torch.randn(50, 12).to(dtype)) * deltas).sum().backward())
    rows = {f"{model.name}.{part}": where for part, where in parts.items()} or {model.name: by_rows(0, layer.out_features)}
    assert found.modules("weight.spectral_norm") == found.modules(MEAN) == set(rows)
    layers = {each.name: each for each in WatchedModel(model).linear_layers()}
    for name, where in rows.items():
        w = layer.weight.detach()[where].float()
        assert torch.equal(layers[name].weight().float(), w)
        assert torch.equal(layers[name].own(deltas), deltas[:, where])
        assert layers[name].view().untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr(), "a copy"
        assert found.of("weight.spectral_norm", name) == pytest.approx(torch.linalg.matrix_norm(w, 2).item(), rel=1e-4)
        assert_output(found, name, deltas[:, where].float(), left(w, name), 2e-3)


# -- convolutions -------------------------------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "plain": lambda: nn.Conv2d(3, 5, 3),
    "one place": lambda: nn.Conv2d(3, 5, 1),
    "padded, strided": lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(2, 1)),
    "dilated": lambda: nn.Conv2d(2, 4, 3, dilation=(1, 2), padding=1),
    "same": lambda: nn.Conv2d(3, 5, (4, 3), padding="same", dilation=(1, 2)),
    "valid": lambda: nn.Conv2d(3, 5, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(3, 5, 3, padding=2, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(3, 5, 3, padding=(1, 2), padding_mode="replicate"),
    "circular": lambda: nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode="circular"),
}


@pytest.mark.parametrize("lies", [torch.contiguous_format, torch.channels_last], ids=["channels first", "channels last"])
@pytest.mark.parametrize("size", [(1, 6, 7), (4, 13, 11), None], ids=["few", "many", "no batch"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_a_patch_times_the_weight_is_the_output(kind: str, size: tuple[int, int, int] | None, lies: torch.memory_format) -> None:
    """The law of a linear layer's tokens: y = W x + b, for the same tokens on both sides."""
    conv = CONVOLUTIONS[kind]().to(memory_format=lies)
    x = torch.randn(conv.in_channels, 6, 7) if size is None else torch.randn(size[0], conv.in_channels, *size[1:])
    y = conv(x)
    (layer,) = WatchedModel(conv).linear_layers()
    inputs, outputs = sample_inputs(conv, x, 60), sample_outputs(conv, y, 60)
    assert len(inputs) == len(outputs) <= 60
    assert layer.weight().untyped_storage().data_ptr() == conv.weight.untyped_storage().data_ptr()
    assert torch.allclose(inputs @ layer.weight().t() + conv.bias, outputs, atol=1e-5)
    assert not outputs.requires_grad


def test_statistics_of_a_convolution_equal_their_twin(sampler) -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    deltas = torch.randn(2, 8, 9, 10) + 0.2
    model = Kept(conv, deltas)
    x = torch.randn(2, 3, 9, 10)
    found = sampler(SpectralProbe(), model).sample(lambda: model(x).backward())
    w = conv.weight.detach().flatten(1).double()
    assert found.of("weight.spectral_norm", "layer") == pytest.approx(torch.linalg.matrix_norm(w, 2).item(), rel=1e-5)
    v = torch.linalg.svd(w)[2][0]
    v = v * torch.sign(v @ starting_basis("layer", 27, CPU)[0].double())
    patches = F.unfold(x.double(), 3, padding=1).transpose(1, 2)
    assert found.of("spectral_alignment.mean", "layer") == pytest.approx(expected(patches, v)[0], abs=1e-4)
    assert_output(found, "layer", deltas.permute(0, 2, 3, 1), left(w, "layer"))


def test_convolutions_in_groups_are_left_out() -> None:
    model = nn.ModuleDict({"groups": nn.Conv2d(4, 4, 3, groups=2), "one": nn.Conv2d(4, 4, 3), "deep": nn.Conv3d(2, 2, 3)})
    assert [layer.name for layer in WatchedModel(model).linear_layers()] == ["one"]


def test_a_convolution_that_is_not_finite_shows(sampler) -> None:
    conv = nn.Conv2d(3, 8, 3)
    x = torch.randn(2, 3, 9, 10)
    x[0, 0, 4, 4] = math.nan
    found = sampler(SpectralProbe(), conv).sample(lambda: conv(x).sum().backward())
    assert math.isnan(found.of("spectral_alignment.mean", ""))
    assert math.isfinite(found.of(MEAN, ""))


# -- where gradients are odd --------------------------------------------------------------------------------------------


def test_zero_gradients_are_left_out_and_only_zeros_do_not_apply(sampler) -> None:
    deltas = torch.randn(40, 8)
    deltas[::3] = 0.0
    model = Kept(nn.Linear(12, 8), deltas)
    run = sampler(SpectralProbe(), model)
    assert_output(run.sample(lambda: model(torch.randn(40, 12)).backward()), "layer", deltas, left(model.layer.weight, "layer"))
    model.deltas = torch.zeros(40, 8)
    found = run.sample(lambda: model(torch.randn(40, 12)).backward())
    assert found.modules(MEAN) == found.modules(DIVERSITY) == set()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_show(bad: float, sampler) -> None:
    deltas = torch.randn(40, 8)
    deltas[3, 2] = bad
    model = Kept(nn.Linear(12, 8), deltas)
    found = sampler(SpectralProbe(), model).sample(lambda: model(torch.randn(40, 12)).backward())
    assert math.isnan(found.of(MEAN, "layer"))
    assert math.isnan(found.of(DIVERSITY, "layer"))


def test_a_weight_without_a_direction_has_no_output_side(sampler) -> None:
    model = Kept(nn.Linear(12, 8), torch.randn(40, 8))
    nn.init.zeros_(model.layer.weight)
    run = sampler(SpectralProbe(), model)
    assert run.sample(lambda: model(torch.randn(40, 12)).backward()).modules(MEAN) == set()
    nn.init.constant_(model.layer.weight, math.nan)
    assert math.isnan(run.sample(lambda: model(torch.randn(40, 12)).backward()).of(MEAN, "layer"))


@pytest.mark.parametrize("rank", [1, 2])
def test_weights_of_low_rank_and_constant_ones(rank: int, sampler) -> None:
    model = Kept(nn.Linear(12, 8), torch.randn(40, 8))
    with torch.no_grad():
        model.layer.weight.copy_(torch.randn(8, rank) @ torch.randn(rank, 12) if rank > 1 else torch.full((8, 12), 0.1))
    found = sampler(SpectralProbe(), model).sample(lambda: model(torch.randn(40, 12)).backward())
    assert_output(found, "layer", model.deltas, left(model.layer.weight, "layer"), 1e-3)


# -- how people train ---------------------------------------------------------------------------------------------------


def one_layer() -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(12, 12), nn.ReLU()), torch.randn(300, 12)


def output_of(run: Any, train: Callable[[], Any]) -> tuple[float, float]:
    found = run.sample(train)
    return found.of(MEAN, "0"), found.of(DIVERSITY, "0")


def test_the_first_micro_batch_and_the_first_backward_count(sampler) -> None:
    model, x = one_layer()
    run = sampler(SpectralProbe(), model)
    alone = output_of(run, lambda: model(x).square().sum().backward())

    def several() -> None:
        model.eval()
        model(x * 2).sum().backward()
        model.train()
        with torch.no_grad():
            model(-x)
        for micro in (x, -x):
            loss = model(micro).square().sum()
            loss.backward(retain_graph=True)
            (-loss).backward()

    assert output_of(run, several) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_recomputation_adds_nothing_and_loses_nothing(reentrant: bool, sampler) -> None:
    model, x = one_layer()
    x.requires_grad_()
    run = sampler(SpectralProbe(), model)
    alone = run.sample(lambda: model(x).square().sum().backward())
    again = run.sample(lambda: checkpoint(model, x, use_reentrant=reentrant).square().sum().backward())
    assert set(again) - set(alone) <= {(signal, "0", -1) for signal in ("weight.spectral_growth", "spectral_alignment.turn")}
    for signal in (MEAN, DIVERSITY, "spectral_alignment.mean", "spectral_alignment.std"):
        assert again.of(signal, "0") == pytest.approx(alone.of(signal, "0"), abs=1e-5)
    assert sum(again.histograms["0"].counts) == sum(alone.histograms["0"].counts)


def test_an_activation_in_place_after_the_layer(sampler) -> None:
    model, x = one_layer()
    run = sampler(SpectralProbe(), model)
    alone = output_of(run, lambda: model(x).square().sum().backward())
    model[1] = nn.ReLU(inplace=True)
    assert output_of(run, lambda: model(x).square().sum().backward()) == pytest.approx(alone, abs=1e-5)


def test_under_autocast_and_a_loss_scale(sampler) -> None:
    model, x = one_layer()
    run = sampler(SpectralProbe(), model)
    alone = output_of(run, lambda: model(x).square().sum().backward())

    def scaled() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x).float().square().sum()
        (loss * 2.0**16).backward()

    mean, diversity = output_of(run, scaled)
    assert mean == pytest.approx(alone[0], abs=5e-3)
    assert diversity == pytest.approx(alone[1], abs=0.03)


def test_a_shared_layer_is_seen_once_and_a_frozen_one_all_the_same(sampler) -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(6, 6).requires_grad_(False))
    found = sampler(SpectralProbe(), model).sample(lambda: model(torch.randn(40, 6)).square().sum().backward())
    assert found.modules(MEAN) == {"0", "3"}
    first = nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 6))
    found = sampler(SpectralProbe(), first).sample(lambda: first(torch.randn(40, 6)).square().sum().backward())
    assert found.modules(MEAN) == {"1"}, "no gradient ever reaches the output of the first"


def test_of_two_models_the_unwatched_one_is_left_alone(sampler) -> None:
    generator, critic = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
    run = sampler(SpectralProbe(), {"critic": critic})

    def both() -> None:
        fake = generator(torch.randn(30, 4))
        (critic(fake.detach()).mean() - critic(torch.randn(30, 6)).mean()).backward()
        assert not generator._forward_hooks
        (-critic(fake).mean()).backward()

    found = run.sample(both)
    assert found.modules(MEAN) == {"critic.0", "critic.1"}
    assert found.of(DIVERSITY, "critic.1") == 0.0


def test_hooks_on_outputs_do_not_outlive_the_step(sampler) -> None:
    model, x = one_layer()
    run = sampler(SpectralProbe(), model)
    kept: list[Tensor] = []
    run.sample(lambda: kept.append(model[0](x)))
    assert not kept[0]._backward_hooks
    kept[0].sum().backward()
    assert run.probe._output_cosines == {}


# -- ranks --------------------------------------------------------------------------------------------------------------


def test_sums_of_ranks_give_the_statistics_of_all_tokens() -> None:
    """Two ranks with 40 and 90 tokens; the sums added are the sums of 130."""
    model = Kept(nn.Linear(12, 8), torch.randn(130, 8) + 0.5)
    x, deltas = torch.randn(130, 12) * 1e-3 + torch.randn(12), model.deltas  # cosines near each other: spread 1e-3

    def sums(part: slice) -> list[Sums]:
        probe = SpectralProbe()
        probe.attach(WatchedModel(model))
        probe.arm(0)
        model.deltas = deltas[part]
        model(x[part]).backward()
        return [block for block in probe.collect(0) if isinstance(block, Sums)]

    one, other, both = sums(slice(0, 40)), sums(slice(40, 130)), sums(slice(0, 130))
    assert len(both) == 2
    for a, b, whole in zip(one, other, both, strict=True):
        assert a.keys == b.keys == whole.keys
        assert torch.allclose(whole.finish(a.sums + b.sums), whole.finish(whole.sums), atol=1e-6)
        assert whole.finish(whole.sums).dtype == torch.float32
