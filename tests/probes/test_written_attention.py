"""Attention that a model writes out itself, against the same attention by a call that is seen whole."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.attention import AttentionProbe
from foreshock.zoo.models import GPT, Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, HEADS, LAYERS, CONTEXT = 16, 2, 2, 24
SIGNALS = ("attention.max_logit", "attention.entropy_mean", "attention.entropy_min")
SOFTMAX: dict[str, Callable[[Tensor], Tensor]] = {
    "F.softmax": lambda s: F.softmax(s, dim=-1),
    "torch.softmax": lambda s: torch.softmax(s, 3),
    "Tensor.softmax": lambda s: s.softmax(-1),
    "in float32": lambda s: F.softmax(s, dim=-1, dtype=torch.float32),
    "a module": nn.Softmax(-1),
}


def written(
    softmax: Callable[[Tensor], Tensor] = SOFTMAX["F.softmax"], masked: float = -math.inf, filled: bool = True
) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, masked) if filled else scores + torch.where(future, masked, 0.0)
        return softmax(scores).to(v.dtype) @ v

    return attend


def called(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def sampled(sampler: Any, attend: Attention, dtype: torch.dtype = torch.float32, scale: float = 6.0) -> Any:
    torch.manual_seed(0)
    model = GPT(WIDTH, HEADS, LAYERS, CONTEXT, attend)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.q.weight.mul_(scale)
            block.attention.k.weight.mul_(scale)
    model.to(dtype)
    tokens = torch.arange(3 * CONTEXT).reshape(3, CONTEXT)
    return sampler(AttentionProbe(), model).sample(lambda: model(tokens).float().square().mean().backward())


@pytest.mark.parametrize("kind", SOFTMAX)
def test_logits_and_entropy_are_those_of_the_call(kind: str, sampler) -> None:
    found, expected = sampled(sampler, written(SOFTMAX[kind])), sampled(sampler, called)
    assert found.modules(SIGNALS[0]) == {f"blocks.{layer}.attention" for layer in range(LAYERS)}
    assert dict(found) == {key: pytest.approx(value, rel=1e-5) for key, value in expected.items() if key[0] in SIGNALS}


@pytest.mark.parametrize(
    ("masked", "filled"), [(-1e9, True), (-1e4, False), (torch.finfo(torch.float32).min, False), (-65504.0, True)]
)
def test_masks_of_every_kind(masked: float, filled: bool, sampler) -> None:
    found, expected = sampled(sampler, written(masked=masked, filled=filled)), sampled(sampler, called)
    assert dict(found) == {key: pytest.approx(value, rel=1e-4) for key, value in expected.items() if key[0] in SIGNALS}


def test_in_bfloat16(sampler) -> None:
    found, expected = sampled(sampler, written(), torch.bfloat16), sampled(sampler, called, torch.bfloat16)
    assert found.keys() == {key for key in expected if key[0] in SIGNALS}
    assert dict(found) == {key: pytest.approx(expected[key], rel=0.05, abs=0.02) for key in found}


class Single(nn.Module):
    """One head, without an axis for it; twice in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + (self.q(x) @ self.k(x).mT).softmax(2) @ self.v(x)
        return x


def test_a_single_head_and_several_softmaxes_of_a_module(sampler) -> None:
    model, x = Single(), torch.randn(2, 11, 8)
    found = sampler(AttentionProbe(), model).sample(lambda: model(x).square().mean().backward())
    scores = (model.q(x) @ model.k(x).mT).detach()
    assert found.modules(SIGNALS[0]) == {"attention", "attention#2"}
    assert found[SIGNALS[0], "attention", 0] == pytest.approx(scores.abs().max().item(), rel=1e-5)
    p = scores.double().softmax(-1)
    assert found[SIGNALS[1], "attention", 0] == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "shape",
    [(6, 6), (3, 5, 9), (2, 4, 1, 1), (2, 3, 6, 9), (2, 2, 2, 5, 5)],
    ids=["classes", "classes of tokens", "one key", "no square", "five axes"],
)
def test_other_softmaxes_are_none_of_attention(shape: tuple[int, ...], sampler) -> None:
    model = nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.Softmax(-1))
    assert sampler(AttentionProbe(), model).sample(lambda: model(torch.randn(shape)).square().mean().backward()) == {}


def test_over_another_axis_or_without_gradients_it_is_none(sampler) -> None:
    x = torch.randn(2, 3, 5, 5)
    for model in (nn.Sequential(nn.Linear(5, 5), nn.Softmax(1)), nn.Sequential(nn.Softmax(-1), nn.Linear(5, 5))):
        assert sampler(AttentionProbe(), model).sample(lambda model=model: model(x).square().mean().backward()) == {}


def test_a_call_that_is_told_is_not_seen_twice(sampler) -> None:
    probe = AttentionProbe()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = k.view_as(k)
        out = written()(q, k, v)
        probe.tell(q, k, v, out, name="mine", is_causal=True)
        return out

    model = GPT(WIDTH, HEADS, LAYERS, CONTEXT, attend)
    tokens = torch.arange(CONTEXT)[None]
    found = sampler(probe, model).sample(lambda: model(tokens).square().mean().backward())
    assert found.modules(SIGNALS[0]) == {"mine", "mine#2"}
    assert found.modules("rounding.key_shift_residual") == {"mine", "mine#2"}


@pytest.mark.parametrize("reentrant", [False, True])
def test_within_activation_checkpoints_it_is_seen_once(reentrant: bool, sampler) -> None:
    model = GPT(WIDTH, HEADS, LAYERS, CONTEXT, written())
    for block in model.blocks:
        whole = block.forward
        block.forward = lambda x, whole=whole: checkpoint(whole, x, use_reentrant=reentrant)
    tokens = torch.arange(CONTEXT)[None]
    found = sampler(AttentionProbe(), model).sample(lambda: model(tokens).square().mean().backward())
    assert found.modules(SIGNALS[0]) == {f"blocks.{layer}.attention" for layer in range(LAYERS)}


def test_training_is_bit_identical(sampler) -> None:
    def weights(watched: bool) -> list[Tensor]:
        torch.manual_seed(1)
        model = GPT(WIDTH, HEADS, LAYERS, CONTEXT, written())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        tokens = torch.arange(2 * CONTEXT).reshape(2, CONTEXT)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()

        run = sampler(AttentionProbe(), model).sample if watched else lambda step: step()
        for _ in range(4):
            run(step)
        return [p.detach().clone() for p in model.parameters()]

    assert all(map(torch.equal, weights(True), weights(False)))
