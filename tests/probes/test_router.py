"""The load of a router against plain counts, and what counts as a router."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.model import WatchedModel
from foreshock.probes.router import TOKENS, RouterProbe, routers_in
from foreshock.probes.statistics.tokens import scattered_rows
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ENTROPY, BUSIEST = "router.load_entropy", "router.max_load"


class Mixture(nn.Module):
    """A small real mixture of experts: softmax over the k best, every expert run on its own tokens."""

    def __init__(self, width: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(experts)
        )
        self.chosen = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        weights, numbers = self.router(flat).topk(self.top_k, dim=-1)
        self.chosen = numbers
        weights = weights.softmax(-1)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, place = (numbers == i).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(flat[rows]) * weights[rows, place, None])
        return out.view_as(x)


def twin(chosen: Tensor, experts: int) -> tuple[float, float]:
    rows = scattered_rows(len(chosen), TOKENS, torch.device("cpu"))
    shares = (chosen if rows is None else chosen[rows]).flatten().bincount(minlength=experts).double()
    shares = shares / shares.sum()
    return -sum(p * math.log(p) for p in shares.tolist() if p), shares.max().item()


def assert_load(found: Any, name: str, chosen: Tensor, experts: int) -> None:
    entropy, busiest = twin(chosen, experts)
    assert found.of(ENTROPY, name) == pytest.approx(entropy, abs=1e-5)
    assert found.of(BUSIEST, name) == pytest.approx(busiest, abs=1e-6)


@pytest.mark.parametrize("tokens", [(1, 1), (3, 40), (2, 3000)], ids=str)
@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (8, 2), (5, 5)])
def test_the_load_of_a_mixture_in_training(experts: int, top_k: int, tokens: tuple[int, int], sampler) -> None:
    model = nn.Sequential(nn.Linear(6, 6), Mixture(6, experts, top_k))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    run = sampler(RouterProbe(), model)
    x = torch.randn(*tokens, 6)
    for _ in range(3):
        found = run.sample(lambda: model(x).square().mean().backward())
        assert set(found) == {(ENTROPY, "1.router", -1), (BUSIEST, "1.router", -1)}
        assert_load(found, "1.router", model[1].chosen, experts)
        optimizer.step()


def test_even_and_collapsed_loads(sampler) -> None:
    mixture = Mixture(4, 4, 1)
    run = sampler(RouterProbe(), mixture)
    nn.init.eye_(mixture.router.weight)
    even = run.sample(lambda: mixture(torch.eye(4)[None].repeat(3, 5, 1)).sum().backward())
    assert even.of(ENTROPY, "router") == pytest.approx(math.log(4))
    assert even.of(BUSIEST, "router") == 0.25
    one = run.sample(lambda: mixture(torch.eye(4)[:1].repeat(20, 1)).sum().backward())
    assert one.of(ENTROPY, "router") == 0.0
    assert one.of(BUSIEST, "router") == 1.0


class Attributes(nn.Module):
    """A block that holds what it is given."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)


class IndexGate(nn.Module):
    """DeepSeek's gate: a weight of its own, gives out the numbers of the experts chosen."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.n_routed_experts, self.top_k = experts, 2
        self.weight = nn.Parameter(torch.randn(experts, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, numbers = F.linear(x.flatten(0, -2), self.weight).topk(2, dim=-1)
        return numbers, weights, None


class TopKRouter(nn.Module):
    """Mixtral's router in newer transformers: logits, scores and indices at once."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = experts, 2
        self.weight = nn.Parameter(torch.randn(experts, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = F.linear(x, self.weight)
        scores, numbers = logits.softmax(-1).topk(2, dim=-1)
        return logits, scores, numbers


def experts(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(6, 6) for _ in range(count))


class BatchedExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 8
        self.gate_up_proj = nn.Parameter(torch.randn(8, 6, 12))


LAYOUTS: dict[str, tuple[Any, dict[str, tuple[int, int]]]] = {
    "Mixtral": (
        lambda: Attributes(
            block_sparse_moe=Attributes(gate=nn.Linear(6, 8, bias=False), experts=experts(8), num_experts=8, top_k=2)
        ),
        {"block_sparse_moe.gate": (8, 2)},
    ),
    "Mixtral, experts in one": (
        lambda: Attributes(mlp=Attributes(gate=TopKRouter(8, 6), experts=BatchedExperts(), top_k=2)),
        {"mlp.gate": (8, 2)},
    ),
    "Qwen, with a shared expert": (
        lambda: Attributes(
            mlp=Attributes(gate=nn.Linear(6, 8), experts=experts(8), num_experts=8, top_k=4, shared_expert_gate=nn.Linear(6, 1))
        ),
        {"mlp.gate": (8, 4)},
    ),
    "Switch": (
        lambda: Attributes(mlp=Attributes(router=Attributes(classifier=nn.Linear(6, 4), num_experts=4), experts=nn.ModuleDict())),
        {"mlp.router": (4, 1)},
    ),
    "DeepSeek": (lambda: Attributes(mlp=Attributes(gate=IndexGate(8, 6), experts=experts(8))), {"mlp.gate": (8, 2)}),
    "told by a config": (
        lambda: Attributes(gate=nn.Linear(6, 8), config=Attributes(num_local_experts=8, num_experts_per_tok=3)),
        {"gate": (8, 3)},
    ),
    "SwiGLU": (lambda: Attributes(gate_proj=nn.Linear(6, 8), up_proj=nn.Linear(6, 8), down_proj=nn.Linear(8, 6)), {}),
    "a gate without experts": (lambda: Attributes(gate=nn.Linear(6, 8), up=nn.Linear(6, 8)), {}),
    "a SwiGLU gate inside an expert": (
        lambda: Attributes(
            gate=nn.Linear(6, 2), experts=nn.ModuleList(Attributes(gate=nn.Linear(6, 8), up=nn.Linear(6, 8)) for _ in range(2))
        ),
        {"gate": (2, 1)},
    ),
    "sizes that do not fit": (lambda: Attributes(gate=nn.Linear(6, 7), experts=experts(8)), {}),
    "a gate of one": (lambda: Attributes(gate=nn.Linear(6, 1), experts=experts(1)), {}),
    "expert gates of multi-task models": (lambda: Attributes(gate=nn.Sequential(nn.Linear(6, 8)), num_experts=8), {"gate": (8, 1)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_counts_as_a_router(layout: str, sampler) -> None:
    make, expected = LAYOUTS[layout]
    model = make()
    routers = routers_in(WatchedModel(model))
    assert {router.name: (router.experts, router.choices) for router in routers.values()} == expected
    x = torch.randn(50, 6)
    found = sampler(RouterProbe(), model).sample(lambda: [module(x) for module in routers])
    assert found.modules(BUSIEST) == set(expected)
    for module, router in routers.items():
        assert_load(
            found,
            router.name,
            F.linear(x, module.weight, getattr(module, "bias", None)).topk(router.choices, -1).indices,
            router.experts,
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_router_outputs_that_are_not_finite_show(bad: float, sampler) -> None:
    model = Attributes(gate=nn.Linear(6, 4), experts=experts(4))
    x = torch.randn(30, 6)
    x[3, 2] = bad
    found = sampler(RouterProbe(), model).sample(lambda: model.gate(x))
    assert math.isnan(found.of(ENTROPY, "gate"))
    assert math.isnan(found.of(BUSIEST, "gate"))


def test_no_tokens_and_no_routers(sampler) -> None:
    model = Attributes(gate=nn.Linear(6, 4), experts=experts(4))
    assert sampler(RouterProbe(), model).sample(lambda: model.gate(torch.zeros(0, 6))) == {}
    assert sampler(RouterProbe(), nn.Linear(6, 4)).sample(lambda: None) == {}


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_micro_batches_recomputation_and_validation(reentrant: bool, sampler) -> None:
    model = Mixture(6, 4, 2)
    x = torch.randn(60, 6, requires_grad=True)
    run = sampler(RouterProbe(), model)
    alone = run.sample(lambda: model(x).sum().backward())

    def several() -> None:
        model.eval()
        model(-x)
        model.train()
        for scale in (1, -1):
            with torch.autocast("cpu", torch.bfloat16, enabled=False):
                checkpoint(model, x * scale, use_reentrant=reentrant).sum().backward()

    assert run.sample(several) == alone


def test_loads_of_ranks_add_up() -> None:
    model = Attributes(gate=nn.Linear(6, 4), experts=experts(4))
    x = torch.randn(130, 6)

    def block(part: Tensor) -> Any:
        probe = RouterProbe()
        probe.attach(WatchedModel(model))
        probe.arm(0)
        model.gate(part)
        (found,) = probe.collect(0)
        return found

    one, other, both = block(x[:40]), block(x[40:]), block(x)
    assert torch.allclose(one.finish(one.sums + other.sums), both.finish(both.sums))
