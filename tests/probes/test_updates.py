"""Updates of weights against full copies in float64."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.model import WatchedModel
from foreshock.probes.statistics.samples import ENTRIES, entries_and_block, sample_entries
from foreshock.probes.updates import UpdateProbe, stable_rank_of_blocks
from foreshock.zoo.models import GPT
from foreshock.zoo.text import windows
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

RMS, RATIO, RANK, STALE = "update.rms", "update.ratio", "update.stable_rank", "numerics.stale_update_fraction"
DESCENT = "update.descent"


def moved(layer: nn.Linear, update: Tensor) -> Callable[[], None]:
    """A step of plain gradient descent that adds ``update`` to the weight."""

    def step() -> None:
        layer.weight.grad = -update.to(layer.weight.dtype)
        torch.optim.SGD([layer.weight], lr=1.0).step()

    return step


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def cosine(a: Tensor, b: Tensor) -> float:
    return ((a.double() * b.double()).sum() / (a.double().norm() * b.double().norm())).item()


def stable_rank(x: Tensor) -> float:
    sigma = torch.linalg.svdvals(x.double())
    return (sigma.square().sum() / sigma[0].square()).item()


def block_of(x: Tensor) -> Tensor:
    places, entries, shape = entries_and_block(*x.shape, x.device)
    return x.take(places[entries:]).unflatten(0, shape)


class Twin:
    """Keeps what no probe may: all of every layer, and steps."""

    def __init__(self, model: nn.Module, train: Callable[[], None]) -> None:
        self.model, self.train = model, train

    def weights(self) -> dict[str, Tensor]:
        return {layer.name: layer.weight().double().clone() for layer in WatchedModel(self.model).weight_matrices()}

    def __call__(self) -> None:
        before = self.weights()
        self.train()
        after = self.weights()
        self.update = {name: after[name] - before[name] for name in before}
        self.ratio = {name: rms(self.update[name]) / rms(before[name]) for name in before}
        self.sampled = {name: rms(sample_entries(self.update[name])) / rms(sample_entries(before[name])) for name in before}
        gradients = {layer.name: layer.view_of(layer.stored().grad) for layer in WatchedModel(self.model).weight_matrices()}
        self.descent = {name: -cosine(sample_entries(self.update[name]), sample_entries(gradients[name])) for name in before}
        self.stale = {
            name: (sample_entries(self.update[name])[sample_entries(gradients[name]) != 0] == 0).double().mean().item()
            for name in before
        }


def training(model: GPT, lr: float = 3e-3, **options: object) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), **options)  # type: ignore[arg-type]
    data = windows(count=32, context=32)

    def step() -> None:
        batch = data[torch.randint(len(data), (4,))]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten()).backward()
        optimizer.step()

    return step


def gpt(width: int = 72) -> GPT:
    return GPT(width, 2, 2, 32, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))


@pytest.mark.parametrize("fused", [False, True])
def test_a_gpt_in_training(sampler, fused: bool) -> None:
    """The same entries, to rounding; all entries, to the noise floor."""
    model = gpt()
    twin = Twin(model, training(model, fused=fused))
    sample = sampler(UpdateProbe(), model).sample
    for _ in range(6):
        found = sample(twin)
        names = twin.update.keys()
        assert len(names) == 13 + 2, "linear layers, and the tables of tokens and positions"
        assert all(found.modules(signal) == names for signal in (RMS, RATIO, RANK, DESCENT, STALE))
        for name, update in twin.update.items():
            assert found.of(RMS, name) == pytest.approx(rms(sample_entries(update)), rel=1e-6)
            assert found.of(RMS, name) == pytest.approx(rms(update), rel=0.1)
            assert found.of(RATIO, name) == pytest.approx(twin.sampled[name], rel=1e-6)
            assert found.of(RATIO, name) == pytest.approx(twin.ratio[name], rel=0.1)
            assert found.of(RANK, name) == pytest.approx(stable_rank(block_of(update)), rel=2e-3)
            assert found.of(STALE, name) == pytest.approx(twin.stale[name], abs=1e-6)
            assert found.of(DESCENT, name) == pytest.approx(twin.descent[name], abs=1e-6)


class Along(torch.optim.Optimizer):
    """Adds what it is given to the weight, whatever the gradient says."""

    def __init__(self, weight: nn.Parameter, update: Tensor) -> None:
        super().__init__([weight], {})
        self.update = update

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.param_groups[0]["params"][0].add_(self.update)


def test_which_way_an_update_goes(sampler) -> None:
    """Downhill, uphill, sideways; of no update and no gradient there is no telling."""
    layer = nn.Linear(8, 8, bias=False)
    gradient, sideways = torch.randn(8, 8), torch.randn(8, 8)
    sideways -= gradient * (sideways * gradient).sum() / gradient.square().sum()

    def descent(update: Tensor, gradient: Tensor) -> float:
        def step() -> None:
            layer.weight.grad = gradient.clone()
            Along(layer.weight, update).step()

        return sampler(UpdateProbe(), layer).sample(step).get((DESCENT, "", -1), math.nan)

    assert descent(-0.1 * gradient, gradient) == pytest.approx(1.0, abs=1e-5)
    assert descent(0.1 * gradient, gradient) == pytest.approx(-1.0, abs=1e-5)
    assert descent(0.1 * sideways, gradient) == pytest.approx(0.0, abs=1e-5)
    assert math.isnan(descent(torch.zeros(8, 8), gradient))
    assert math.isnan(descent(gradient, torch.zeros(8, 8)))


def test_bfloat16_weights_go_stale_where_updates_are_small(sampler) -> None:
    model = gpt().bfloat16()
    shares = {}
    for lr in (1e-6, 1e-5, 1e-4, 1e-3):
        twin = Twin(model, training(model, lr, weight_decay=0.0))
        found = sampler(UpdateProbe(), model).sample(twin)
        for name in twin.update:
            assert found.of(STALE, name) == pytest.approx(twin.stale[name], abs=1e-6)
            assert found.of(RMS, name) == pytest.approx(rms(sample_entries(twin.update[name])), rel=1e-5)
        shares[lr] = found.of(STALE, "blocks.0.up")
    assert shares[1e-6] > 0.9 > shares[1e-5] > shares[1e-4] > shares[1e-3]
    assert shares[1e-3] < 0.1


@pytest.mark.parametrize(
    ("dtype", "size", "expected"),
    [
        (torch.float32, 2.0**-23, 0.0),
        (torch.float32, 2.0**-26, 1.0),
        (torch.bfloat16, 2.0**-7, 0.0),
        (torch.bfloat16, 2.0**-10, 1.0),
        (torch.float64, 2.0**-30, 0.0),
    ],
)
def test_stale_is_judged_in_the_dtype_of_the_weight(sampler, dtype: torch.dtype, size: float, expected: float) -> None:
    layer = nn.Linear(8, 8, bias=False, dtype=dtype)
    nn.init.ones_(layer.weight)
    found = sampler(UpdateProbe(), layer).sample(moved(layer, torch.full((8, 8), size)))
    assert found.of(STALE, "") == expected
    assert found.of(RMS, "") == pytest.approx(0.0 if expected else size)


def test_float32_weights_that_somebody_keeps_in_bfloat16_go_stale_as_those_do(sampler) -> None:
    layer, free = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
        free.weight.copy_(layer.weight)
    update = torch.full((64, 64), 2.0**-12)
    kept = sampler(UpdateProbe(), layer)
    assert kept.sample(moved(layer, update)).of(STALE, "") == 0.0, "weights of a bfloat16 checkpoint begin so too"
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    before = layer.weight.detach().clone()
    lost = ((before + update).bfloat16() == before.bfloat16()).double().mean().item()
    assert 0.3 < lost < 0.7
    assert kept.sample(moved(layer, update)).of(STALE, "") == pytest.approx(lost)
    trained = sampler(UpdateProbe(), free)
    for _ in range(3):
        assert trained.sample(moved(free, update)).of(STALE, "") == 0.0


def test_updates_of_recurrent_cells_are_measured_too(sampler) -> None:
    model = nn.LSTM(6, 8, num_layers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: w.detach().clone() for name, w in model.named_parameters()}

    def step() -> None:
        model(torch.randn(5, 3, 6))[0].square().sum().backward()
        optimizer.step()

    found = sampler(UpdateProbe(), model).sample(step)
    matrices = {name: w for name, w in model.named_parameters() if w.dim() == 2}
    assert found.modules(RMS) == matrices.keys()
    for name, w in matrices.items():
        assert found.of(RMS, name) == pytest.approx(rms(w.detach() - before[name]), rel=1e-5)
        assert found.of(RATIO, name) == pytest.approx(rms(w.detach() - before[name]) / rms(before[name]), rel=1e-5)


def test_only_entries_with_a_gradient_can_be_stale(sampler) -> None:
    layer = nn.Linear(8, 8, bias=False)
    nn.init.ones_(layer.weight)
    update = torch.zeros(8, 8)
    update[0, :3], update[0, 3] = 0.5, 1e-12
    assert sampler(UpdateProbe(), layer).sample(moved(layer, update)).of(STALE, "") == pytest.approx(0.25)
    found = sampler(UpdateProbe(), layer).sample(moved(layer, torch.zeros(8, 8)))
    assert found == {(RMS, "", -1): 0.0, (RATIO, "", -1): 0.0}, "nothing was to be moved, and the rest says so"


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_learning_rate_of_zero_makes_nothing_stale(sampler, lr: float | Tensor) -> None:
    """As warm-up begins."""
    layer = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, foreach=False)

    def step() -> None:
        layer(torch.ones(1, 8)).sum().backward()
        optimizer.step()

    found = sampler(UpdateProbe(), layer).sample(step)
    assert found == {(RMS, "", -1): 0.0, (RATIO, "", -1): 0.0}


def test_a_weight_that_starts_at_zero_has_no_ratio(sampler) -> None:
    layer = nn.Linear(8, 8, bias=False)
    nn.init.zeros_(layer.weight)
    found = sampler(UpdateProbe(), layer).sample(moved(layer, torch.eye(8)))
    assert {signal for signal, _, _ in found} == {RMS, RANK, DESCENT, STALE}
    assert found.of(RANK, "") == pytest.approx(8.0, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_updates_have_that_rank_in_a_block(sampler, rank: int) -> None:
    layer = nn.Linear(500, 400, bias=False)
    nn.init.zeros_(layer.weight)
    u, v = (torch.linalg.qr(torch.randn(n, rank))[0] for n in (400, 500))
    update = u @ v.t()
    found = sampler(UpdateProbe(), layer).sample(moved(layer, update))
    assert found.of(RANK, "") == pytest.approx(stable_rank(block_of(update)), rel=1e-3)
    assert 0.55 * rank < found.of(RANK, "") <= rank * (1 + 1e-5)
    assert stable_rank(update) == pytest.approx(rank, rel=1e-5)


@pytest.mark.parametrize("shape", [(400, 500), (4000, 100), (100, 4000)])
def test_an_update_without_structure(sampler, shape: tuple[int, int]) -> None:
    layer = nn.Linear(*reversed(shape), bias=False)
    nn.init.zeros_(layer.weight)
    found = sampler(UpdateProbe(), layer).sample(moved(layer, torch.randn(shape)))
    assert found.of(RANK, "") == pytest.approx(16.0, rel=0.2)


MATRICES: dict[str, Callable[[int, int], Tensor]] = {
    "random": torch.randn,
    "signs": lambda m, n: torch.randn(m, n).sign(),
    "constant": lambda m, n: torch.full((m, n), -0.3),
    "one entry": lambda m, n: F.pad(torch.ones(1, 1), (0, n - 1, 0, m - 1)),
    "identity": torch.eye,
    "rank two": lambda m, n: torch.randn(m, 2) @ torch.randn(2, n),
    "graded": lambda m, n: torch.randn(m, n) * torch.logspace(0, -6, n),
    "spiked": lambda m, n: torch.randn(m, n) + 5.0,
    "large": lambda m, n: torch.randn(m, n) * 1e30,
    "tiny": lambda m, n: torch.randn(m, n) * 1e-30,
}


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9), (64, 64), (64, 20), (33, 64)], ids=str)
def test_stable_rank_against_dense_svd(kind: str, shape: tuple[int, int]) -> None:
    x = torch.stack([MATRICES[kind](*shape) for _ in range(3)])
    expected = torch.tensor([stable_rank(each) for each in x])
    assert torch.allclose(stable_rank_of_blocks(x), expected, rtol=2e-3)


@given(st.integers(2, 40), st.integers(2, 40), st.floats(-20, 20), st.integers(0, 2**16))
def test_laws_of_the_stable_rank(m: int, n: int, exponent: float, seed: int) -> None:
    """Between one and the rank, whatever the scale, and the same of the transpose."""
    x = torch.randn(1, m, n, generator=torch.Generator().manual_seed(seed))
    rank = stable_rank_of_blocks(x)
    assert 1 - 1e-5 <= rank.item() <= min(m, n) * (1 + 1e-5)
    assert torch.allclose(stable_rank_of_blocks(x * 10**exponent), rank, rtol=1e-4)
    assert torch.allclose(stable_rank_of_blocks(x.mT), rank, rtol=1e-4)


def test_one_matrix_that_is_not_finite_leaves_the_others_alone() -> None:
    x = torch.randn(4, 9, 9)
    clean = stable_rank_of_blocks(x)
    x[1, 3, 3], x[2, 0, 0] = torch.nan, torch.inf
    found = stable_rank_of_blocks(x)
    assert torch.isnan(found).tolist() == [False, True, True, False]
    assert torch.equal(found[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows_where_it_is(sampler, value: float) -> None:
    model = nn.Sequential(nn.Linear(9, 9, bias=False), nn.Linear(9, 9, bias=False))

    def step() -> None:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        model[1].weight.grad[2, 3] = value
        torch.optim.SGD(model.parameters(), lr=0.1).step()

    found = sampler(UpdateProbe(), model).sample(step)
    assert found.of(RMS, "0") == pytest.approx(0.1)
    assert not any(math.isfinite(found.of(signal, "1")) for signal in (RMS, RATIO, RANK))
    assert math.isnan(found.of(STALE, "1")) == math.isnan(value)


def test_views_parts_shared_frozen_and_unused_layers(sampler) -> None:
    class Conv1D(nn.Module):
        def __init__(self, nf: int, nx: int) -> None:
            super().__init__()
            self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf))

    model = nn.ModuleDict({
        "c_attn": Conv1D(240, 80),
        "qkv": nn.Linear(70, 210),
        "first": nn.Linear(70, 90),
        "tied": nn.Linear(70, 90),
        "frozen": nn.Linear(5, 5),
        "unused": nn.Linear(5, 5),
        "convolution": nn.Conv2d(8, 70, 3).to(memory_format=torch.channels_last),
    })  # fmt: skip
    model["tied"].weight = model["first"].weight
    model["frozen"].requires_grad_(False)
    optimizers = [torch.optim.AdamW(model["qkv"].parameters()), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)]

    def train() -> None:
        for name, p in model.named_parameters():
            p.grad = None if name.startswith(("frozen", "unused")) else torch.randn_like(p) * (torch.rand_like(p) < 0.5)
        optimizers[0].step()
        optimizers[1].step()

    before = {layer.name: layer.weight().clone() for layer in WatchedModel(model).linear_layers()}
    qkv_after: list[Tensor] = []
    handle = optimizers[0].register_step_post_hook(lambda *_: qkv_after.append(model["qkv"].weight.detach().clone()))
    found = sampler(UpdateProbe(), model).sample(train)
    handle.remove()
    layers = {layer.name: layer for layer in WatchedModel(model).linear_layers()}
    expected = {f"{name}.{part}" for name in ("c_attn", "qkv") for part in "qkv"} | {"first", "convolution"}
    assert found.modules(RMS) == expected
    for name in expected:
        after = qkv_after[0].chunk(3)["qkv".index(name[-1])] if name.startswith("qkv") else layers[name].weight()
        update = after.double() - before[name].double()
        assert found.of(RMS, name) == pytest.approx(rms(sample_entries(update)), rel=1e-6), name
        assert found.of(RANK, name) == pytest.approx(stable_rank(block_of(update)), rel=2e-3), name
        assert found.of(STALE, name) == 0.0, "entries without a gradient do not count"


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_give_nothing(sampler, fused: bool) -> None:
    """Those of a GradScaler, and those from which an intervention took the gradients away."""
    model = nn.Linear(6, 6)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    sample = sampler(UpdateProbe(), model).sample
    poison = False

    def step() -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(5, 6)).square().mean()).backward()
        if poison:
            model.weight.grad[0, 0] = torch.nan
        scaler.step(optimizer)
        scaler.update(64.0)

    assert len(sample(step)) == 5
    poison = True
    assert sample(step) == {}
    poison = False
    handle = optimizer.register_step_pre_hook(lambda *_: optimizer.zero_grad())
    assert sample(step) == {}
    handle.remove()
    assert len(sample(step)) == 5


def test_it_is_a_subsample_that_is_kept() -> None:
    assert entries_and_block(5000, 7000, torch.device("cpu"))[0].numel() <= ENTRIES + 64 * 64
