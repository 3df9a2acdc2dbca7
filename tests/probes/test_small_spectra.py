"""Singular values without waiting, against float64 SVD."""

import math

import pytest
import torch
from foreshock.probes.statistics.small_spectra import effective_rank, singular_values, stable_rank
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def turned(sigma: Tensor, n: int) -> Tensor:
    """A matrix (n, n) with these singular values."""
    u, v = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for _ in range(2))
    return ((u[:, : len(sigma)] * sigma) @ v[: len(sigma)]).float()


def matrices() -> dict[str, Tensor]:
    torch.manual_seed(1)
    causal = (2 * torch.randn(4, 64, 64)).masked_fill(torch.ones(64, 64, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
    return {
        "softmax": torch.randn(8, 32, 200).softmax(-1),
        "sharp softmax": (8 * torch.randn(8, 32, 200)).softmax(-1),
        "causal": causal[:, ::2],
        "all rows": causal,
        "gauss, tall": torch.randn(4, 32, 16),
        "odd": torch.randn(4, 7, 5),
        "rank 3": torch.randn(4, 32, 3) @ torch.randn(4, 3, 64),
        "constant": torch.full((1, 32, 50), 0.02),
        "one-hot": torch.eye(64)[torch.randint(64, (8, 32))],
        "graded": torch.stack([turned(0.8 ** torch.arange(32, dtype=torch.float64), 32) for _ in range(4)]),
        "steps": torch.stack([turned(torch.tensor([1.0, 1.0, 1.0, 1e-3, 1e-3], dtype=torch.float64), 20) for _ in range(4)]),
        "rising": torch.diag(torch.linspace(0.1, 1.0, 32))[None],
        "one row": torch.randn(3, 1, 9),
        "two": torch.randn(3, 2, 2),
        "one": torch.tensor([[[-3.0]]]),
    }


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("name", matrices())
def test_as_float64_svd(name: str, size: float) -> None:
    given = matrices()[name] * size
    expected = torch.linalg.svdvals(given.double())
    found = singular_values(given)
    assert found.shape == expected.shape
    assert ((found - expected).abs() / expected[..., :1]).max() < 1e-5
    assert (found.diff(dim=-1) <= 0).all()
    p = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(effective_rank(found).double(), torch.exp(-torch.xlogy(p, p).sum(-1)), rtol=1e-5)
    assert torch.allclose(stable_rank(found).double(), expected.square().sum(-1) / expected[..., 0].square(), rtol=1e-5)


@given(m=st.integers(1, 20), n=st.integers(1, 20), rank=st.integers(1, 20), spread=st.floats(0.0, 6.0), seed=st.integers(0, 99))
def test_any_spectrum(m: int, n: int, rank: int, spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator)
    given = left * 10 ** (-spread * torch.rand(rank, generator=generator)) @ right
    expected = torch.linalg.svdvals(given.double())
    assert ((singular_values(given) - expected).abs() / expected[0]).max() < 1e-5


def test_zeros_have_no_rank() -> None:
    sigma = singular_values(torch.zeros(1, 4, 6))
    assert (sigma == 0).all()
    assert stable_rank(sigma).isnan().all()
    assert effective_rank(sigma).isnan().all()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_shows_and_stays_where_it_is(broken: float) -> None:
    given = torch.randn(3, 6, 6)
    given[1, 2, 3] = broken
    sigma = singular_values(given)
    assert sigma.isnan().all(-1).tolist() == [False, True, False]
    assert torch.equal(sigma[0], singular_values(given[[0, 2]])[0])
