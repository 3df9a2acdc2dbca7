"""The rank probe against its slow twin, to 1e-4: dense float64 SVD of P, of the output and of W_q W_k^T."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreshock.probes.attention_rank import ROWS, AttentionRankProbe, largest_singular_value, token_similarity
from foreshock.probes.statistics.tokens import scattered_rows
from foreshock.zoo.models import GPT
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

HEADS = ("sink_mass", "stable_rank", "effective_rank", "output_effective_rank")


class Root(nn.Module):
    """One attention layer: projections, causal attention, grouped if there are fewer key heads."""

    def __init__(self, width: int = 24, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        self.attention = nn.Module()
        self.heads, self.groups = heads, groups
        self.q_proj = nn.Linear(width, width)
        self.k_proj, self.v_proj = (nn.Linear(width, width // heads * groups) for _ in range(2))
        self.mask: Tensor | None = None

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (p(x).unflatten(-1, (self.groups, -1)).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"is_causal": True} if self.mask is None else {"attn_mask": self.mask}
        return F.scaled_dot_product_attention(*self.parts(x), enable_gqa=True, **options)


def ranks(matrices: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.linalg.svdvals(matrices)
    p = s / s.sum(-1, keepdim=True)
    return s.square().sum(-1) / s[..., 0].square(), torch.exp(-torch.xlogy(p, p).sum(-1))


def cosine_of_pairs(x: Tensor) -> Tensor:
    """Mean over sequences of the mean cosine of two different tokens, one by one."""
    found = []
    for sequence in x:
        n, unit = len(sequence), sequence / sequence.norm(dim=1, keepdim=True)
        cosines = [unit[i] @ unit[j] for i in range(n) for j in range(n) if i != j]
        found.append(torch.stack(cosines).mean())
    return torch.stack(found).mean()


def twin(model: Root, x: Tensor) -> dict[str, Tensor]:
    model, x = model.double(), x.double()[:2]
    q, k, v = model.parts(x)
    k, v = (y.repeat_interleave(model.heads // model.groups, 1) for y in (k, v))
    s = q @ k.mT * q.shape[-1] ** -0.5
    p = s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(1), -math.inf).softmax(-1)
    rows = scattered_rows(p.shape[2], 64, p.device)
    seen = p if rows is None else p[:, :, rows]
    few = scattered_rows(seen.shape[2], ROWS, p.device)
    fewer = seen if few is None else seen[:, :, few]
    stable, effective = ranks(fewer)
    w_q, w_k = (p.weight.unflatten(0, (n, -1)) for p, n in ((model.q_proj, model.heads), (model.k_proj, model.groups)))
    w_k = w_k.repeat_interleave(model.heads // model.groups, 0)
    found = {
        "sink_mass": seen[..., 0].mean((0, 2)),
        "stable_rank": stable.mean(0),
        "effective_rank": effective.mean(0),
        "output_effective_rank": ranks(fewer @ v)[1].mean(0),
        "qk_spectral_norm": torch.linalg.svdvals(w_q.mT @ w_k)[:, 0],
        "token_similarity_in": cosine_of_pairs(x if rows is None else x[:, rows]),
        "token_similarity_out": cosine_of_pairs((seen @ v).transpose(1, 2).flatten(2)),
    }
    model.float()
    return {name: value.detach() for name, value in found.items()}


def assert_twin(found, expected: dict[str, Tensor]) -> None:
    for name, values in expected.items():
        signal = f"attention.{name}"
        there = found.of(signal, "attention") if values.dim() == 0 else found.heads(signal, "attention").tolist()
        assert there == pytest.approx(values.tolist(), rel=1e-4, abs=1e-6), name


def measured(sampler, model: nn.Module, x: Tensor):
    return sampler(AttentionRankProbe(), model).sample(lambda: model(x).square().sum().backward())


INPUTS: dict[str, Callable[[], Tensor]] = {
    "random": lambda: torch.randn(3, 40, 24),
    "short": lambda: torch.randn(2, 7, 24),
    "long": lambda: torch.randn(2, 150, 24),
    "sharp": lambda: 12 * torch.randn(2, 33, 24),
    "rank two": lambda: torch.randn(2, 33, 2) @ torch.randn(2, 24),
    "alike": lambda: torch.randn(24) + 1e-2 * torch.randn(2, 33, 24),
    "tiny": lambda: 1e-15 * torch.randn(2, 33, 24),
    "constant": lambda: torch.ones(2, 33, 24),
}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", INPUTS)
def test_statistics_equal_their_twins(name: str, groups: int, sampler) -> None:
    model, x = Root(groups=groups), INPUTS[name]()
    assert_twin(measured(sampler, model, x), twin(model, x))


def test_a_trained_model(sampler) -> None:
    model = Root()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    x = torch.randn(2, 40, 24)
    target = torch.randn(2, 4, 40, 6)
    for _ in range(40):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    assert_twin(measured(sampler, model, x), twin(model, x))


def test_what_the_ranks_tell() -> None:
    """A head that looks at the first key only has rank one; one that looks at itself has full rank."""
    from foreshock.probes.statistics.small_spectra import effective_rank, singular_values

    sink, own = torch.zeros(32, 40), torch.eye(32)
    sink[:, 0] = 1.0
    assert effective_rank(singular_values(sink)).item() == pytest.approx(1.0)
    assert effective_rank(singular_values(own)).item() == pytest.approx(32.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_layers_side_by_side_and_low_precision(dtype: torch.dtype, sampler) -> None:
    model = GPT(32, 2, 3, 40, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)).to(dtype)
    found = measured(sampler, model, torch.arange(80).reshape(2, 40))
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}.attention"
        q, k = (p.weight.detach().double().unflatten(0, (2, -1)) for p in (block.attention.q, block.attention.k))
        norms = found.heads("attention.qk_spectral_norm", name)
        assert norms.tolist() == pytest.approx(torch.linalg.svdvals(q.mT @ k)[:, 0].tolist(), rel=1e-5)
        assert all(len(found.heads(f"attention.{signal}", name)) == 2 for signal in HEADS)


def test_rows_that_see_nothing_count_for_nothing(sampler) -> None:
    model = Root(heads=1, groups=1)
    model.mask = torch.ones(12, 12, dtype=torch.bool)
    model.mask[:4] = False
    x = torch.randn(2, 12, 24)
    found = measured(sampler, model, x)
    q, k, _ = model.double().parts(x.double())
    p = (q @ k.mT * 24**-0.5).softmax(-1)[:, :, 4:]
    stable, effective = ranks(p)
    for name, value in {"sink_mass": p[..., 0].mean(), "stable_rank": stable.mean(), "effective_rank": effective.mean()}.items():
        assert found.heads(f"attention.{name}", "attention").tolist() == pytest.approx([value.item()], rel=1e-5)
    model.mask[:] = False
    nothing = measured(sampler, model.float(), x)
    assert nothing.modules("attention.effective_rank") == nothing.modules("attention.sink_mass") == set()


def test_values_that_are_not_finite_show(sampler) -> None:
    model, x = Root(heads=2, groups=2), torch.randn(2, 12, 24)
    with torch.no_grad():
        model.k_proj.bias[20] = math.nan
        model.q_proj.weight[20, 3] = math.nan
    found = measured(sampler, model, x)
    for name in (*HEADS, "qk_spectral_norm"):
        assert found.heads(f"attention.{name}", "attention").isnan().tolist() == [False, True], name


def test_token_similarity_leaves_out_tokens_without_direction() -> None:
    x = torch.randn(1, 3, 6, 5)
    x[0, 0, 4:] = 0.0
    x[0, 1] = 0.0
    expected = torch.stack([cosine_of_pairs(x[0, :1, :4]), cosine_of_pairs(x[0, 2:])]).mean()
    assert token_similarity(x).item() == pytest.approx(expected.item(), rel=1e-5)


@given(
    n=st.integers(1, 6),
    width=st.integers(1, 9),
    rank=st.integers(1, 9),
    seed=st.integers(0, 99),
    size=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_largest_singular_value_of_any_product(n: int, width: int, rank: int, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = size * torch.randn(n, width, rank, generator=generator) @ torch.randn(n, rank, 30, generator=generator)
    k = torch.randn(n, width, 30, generator=generator)
    found = largest_singular_value(q @ q.mT, k @ k.mT)
    expected = torch.linalg.svdvals(q.double().mT @ k.double())[:, 0]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_weights_of_zero_reach_nothing() -> None:
    assert largest_singular_value(torch.zeros(1, 3, 3), torch.eye(3)[None]).tolist() == [0.0]
