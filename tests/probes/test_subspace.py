"""Leading singular pairs against dense SVD in float64."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import reference_attention
from foreshock.probes.model import WatchedModel
from foreshock.probes.statistics import subspace
from foreshock.probes.statistics.subspace import LeadingPairs, leading_pairs, starting_basis
from foreshock.probes.taps.singular_pairs import ITERATIONS_COLD, ITERATIONS_WARM
from foreshock.zoo.models import GPT
from foreshock.zoo.text import windows
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

CPU = torch.device("cpu")
COLD = ITERATIONS_COLD[0]


def start(w: Tensor, name: str = "layer") -> Tensor:
    return starting_basis(name, w.shape[1], CPU)


def cold(w: Tensor, name: str = "layer") -> LeadingPairs:
    return leading_pairs([w], [start(w, name)], COLD)


def dense(w: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values, padded to two, and right singular vectors as rows, in float64."""
    _, sigma, v = torch.linalg.svd(w.detach().double(), full_matrices=False)
    return F.pad(sigma, (0, max(0, 2 - len(sigma)))), v


def cosine(pairs: LeadingPairs, w: Tensor) -> float:
    return (pairs.bases[0][0].double() @ dense(w)[1][0]).abs().item()


def assert_orthonormal(basis: Tensor) -> None:
    assert torch.allclose(basis @ basis.t(), torch.eye(len(basis)), atol=1e-5)


SHAPES = [(1, 40), (40, 1), (1, 1), (2, 2), (3, 2), (2, 3), (64, 64), (200, 30), (30, 200), (17, 251), (300, 300)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_against_dense_svd(shape: tuple[int, int], seed: int) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    pairs, (sigma, _) = cold(w), dense(w)
    assert pairs.sigma.shape == (1, 2)
    assert pairs.sigma[0, 0].item() == pytest.approx(sigma[0].item(), rel=1e-3)
    assert pairs.sigma[0, 1].item() == pytest.approx(sigma[1].item(), rel=2e-2, abs=1e-6 * sigma[0].item())
    assert pairs.sigma[0, 1] <= pairs.sigma[0, 0]
    assert_orthonormal(pairs.bases[0])
    if sigma[0] > 1.05 * sigma[1]:
        assert cosine(pairs, w) > 0.999


def test_a_float32_result_has_float32_accuracy_where_the_gap_is_clear() -> None:
    u, v = (torch.linalg.qr(torch.randn(n, 40).double())[0] for n in (90, 120))
    w = (u @ torch.diag(torch.linspace(3.0, 0.1, 40).double().square()) @ v.t()).float()
    pairs = cold(w)
    sigma, _ = dense(w)
    assert torch.allclose(pairs.sigma[0].double(), sigma[:2], rtol=3e-6)
    assert cosine(pairs, w) > 1 - 1e-6


@pytest.fixture(scope="module")
def training() -> list[dict[str, Tensor]]:
    """Weights of a small GPT at every tenth step of a hundred and twenty steps of training, biased values and all."""
    torch.manual_seed(0)
    model = GPT(32, 2, 2, 32, partial(reference_attention, is_causal=True), value_bias=-2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    data, kept = windows(count=32, context=32), []
    for step in range(121):
        if step % 10 == 0:
            kept.append({layer.name: layer.weight().clone() for layer in WatchedModel(model).linear_layers()})
        batch = data[torch.randint(len(data), (8,))]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    return kept


def test_follows_trained_weights(training: list[dict[str, Tensor]]) -> None:
    """In steady state, with two iterations a sample, however the weights move in ten steps of a rather high learning rate."""
    names = list(training[0])
    assert len(names) == 13
    bases = [start(training[0][name], name) for name in names]
    worst_sigma = worst_cosine = 0.0
    clear = 0
    for sample, weights in enumerate(training):
        iterations = ITERATIONS_COLD[sample] if sample < len(ITERATIONS_COLD) else ITERATIONS_WARM
        before = bases
        pairs = leading_pairs([weights[name] for name in names], bases, iterations)
        bases = pairs.bases
        for i, name in enumerate(names):
            sigma, v = dense(weights[name])
            assert bases[i][0] @ before[i][0] >= 0, f"{name}: the sign jumped at sample {sample}"
            overlap = (bases[i][0].double() @ before[i][0].double()).abs().item()
            assert pairs.turn[i].item() == pytest.approx(1 - overlap, abs=1e-5)
            if sample < 3:
                continue
            worst_sigma = max(worst_sigma, abs(pairs.sigma[i, 0].item() / sigma[0].item() - 1))
            if sigma[0] > 1.05 * sigma[1]:
                clear += 1
                worst_cosine = max(worst_cosine, 1 - (bases[i][0].double() @ v[0]).abs().item())
    assert clear > 50
    assert worst_sigma < 1e-3, f"sigma_1 is off by {worst_sigma:.2g}"
    assert worst_cosine < 1e-3, f"v_1 is off by 1 - cos = {worst_cosine:.2g}"


def test_a_thousand_samples_of_a_weight_at_rest() -> None:
    """Nothing creeps: the basis stays orthonormal, sigma_1 exact, and v_1 where it is, also where it starts between near-equals."""
    w = torch.randn(60, 50)
    sigma, v = dense(w)
    pairs = cold(w)
    for _ in range(1000):
        pairs = leading_pairs([w], pairs.bases, ITERATIONS_WARM)
    assert_orthonormal(pairs.bases[0])
    assert pairs.sigma[0].double().tolist() == pytest.approx(sigma[:2].tolist(), rel=1e-6)
    assert (pairs.bases[0][0].double() @ v[0]).abs().item() == pytest.approx(1.0, abs=1e-6)
    assert pairs.turn.item() < 1e-6


def test_a_wide_random_weight_is_exact_after_the_first_samples() -> None:
    w = torch.randn(600, 600)
    pairs = cold(w)
    for iterations in (*ITERATIONS_COLD[1:], ITERATIONS_WARM):
        pairs = leading_pairs([w], pairs.bases, iterations)
    assert pairs.sigma[0, 0].item() == pytest.approx(dense(w)[0][0].item(), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rank_deficient(rank: int) -> None:
    w = torch.randn(50, rank) @ torch.randn(rank, 60)
    pairs, (sigma, _) = cold(w), dense(w)
    assert pairs.sigma[0, 0].item() == pytest.approx(sigma[0].item(), rel=1e-5)
    assert pairs.sigma[0, 1].item() == pytest.approx(sigma[1].item(), rel=1e-3, abs=1e-6 * sigma[0].item())
    assert cosine(pairs, w) > 0.999
    assert_orthonormal(pairs.bases[0])


def test_constant_and_single_entry() -> None:
    w = torch.full((7, 11), -0.3)
    pairs = cold(w)
    assert pairs.sigma[0, 0].item() == pytest.approx(0.3 * math.sqrt(77), rel=1e-6)
    assert cosine(pairs, w) > 1 - 1e-6
    w = torch.zeros(7, 11)
    w[3, 5] = -2.0
    pairs = cold(w)
    assert pairs.sigma[0].tolist() == pytest.approx([2.0, 0.0])
    assert pairs.bases[0][0].abs()[5].item() == pytest.approx(1.0)
    assert_orthonormal(pairs.bases[0])


def test_zeros_have_no_direction_and_cost_none() -> None:
    """A layer that starts at zero: the basis stays the random one it was, so that the first direction to grow is found."""
    w = torch.zeros(7, 11)
    basis = start(w)
    pairs = leading_pairs([w], [basis], COLD)
    assert pairs.sigma.tolist() == [[0.0, 0.0]]
    assert pairs.turn.tolist() == [0.0]
    assert torch.equal(pairs.bases[0], basis)
    w[:, 9] = 0.1
    assert leading_pairs([w], pairs.bases, ITERATIONS_WARM).sigma[0, 0].item() == pytest.approx(0.1 * math.sqrt(7), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e-6, 1e6, 1e19, 1e30])
def test_tiny_and_huge_entries(scale: float) -> None:
    w = torch.randn(40, 30)
    usual, scaled = cold(w), cold(w * scale)
    assert (scaled.sigma / scale).tolist()[0] == pytest.approx(usual.sigma.tolist()[0], rel=1e-4)
    assert (scaled.bases[0][0] @ usual.bases[0][0]).item() == pytest.approx(1.0, abs=1e-3)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31), st.floats(-60, 60))
def test_scale_equivariance(out: int, into: int, seed: int, exponent: float) -> None:
    """sigma scales with W, directions and turn do not; exactly so for a power of two."""
    w = torch.randn(out, into, generator=torch.Generator().manual_seed(seed))
    scale = 2.0 ** round(exponent)
    one, other = cold(w), cold(w * scale)
    assert torch.allclose(other.sigma / scale, one.sigma, rtol=1e-5, atol=1e-6)
    sigma, _ = dense(w)
    if sigma[0] > 1.5 * sigma[1]:
        assert torch.allclose(other.bases[0][0], one.bases[0][0], atol=1e-4)
        assert torch.allclose(other.turn, one.turn, atol=1e-4)


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(-2, 2), min_size=81, max_size=81))
def test_small_matrices_are_solved_whatever_their_structure(out: int, into: int, entries: list[int]) -> None:
    """Small integers make zeros, repeated singular values and missing ranks; the Krylov space is soon the whole space."""
    w = torch.tensor(entries[: out * into]).float().reshape(out, into)
    pairs, (sigma, _) = cold(w), dense(w)
    assert pairs.sigma[0].tolist() == pytest.approx(sigma[:2].tolist(), rel=1e-5, abs=2e-6 * max(1.0, sigma[0].item()))
    assert_orthonormal(pairs.bases[0])
    reached = (w.double() @ pairs.bases[0][0].double()).norm().item()
    assert reached == pytest.approx(sigma[0].item(), rel=1e-5, abs=1e-6), "v_1 does not reach sigma_1"


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [pytest.param(torch.bfloat16, 1e-4, id="bfloat16"), pytest.param(torch.float16, 1e-4, id="float16"),
     pytest.param(torch.float64, 1e-4, id="float64"), pytest.param(torch.float8_e4m3fn, 1e-4, id="float8")],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1 << 22, 64], ids=["whole", "chunks"])
def test_other_dtypes_are_read_without_a_full_copy(
    dtype: torch.dtype, rtol: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subspace, "_CHUNK_ELEMENTS", chunk)
    w = (torch.randn(45, 20) + 0.3).to(dtype)
    for weight in (w, w.t()):
        pairs, (sigma, _) = cold(weight), dense(weight.float())
        assert pairs.sigma.dtype == pairs.bases[0].dtype == torch.float32
        assert pairs.sigma[0, 0].item() == pytest.approx(sigma[0].item(), rel=rtol)
        assert cosine(pairs, weight.float()) > 0.999


def test_views_of_any_stride() -> None:
    stored = torch.randn(30, 90)
    for view in (stored.t(), stored[10:20], stored[:, 5:25], stored[::3, ::2], stored.t()[30:60]):
        copied = cold(view.contiguous())
        found = cold(view)
        assert torch.allclose(found.sigma, copied.sigma, rtol=1e-5)
        assert torch.allclose(found.bases[0][0], copied.bases[0][0], atol=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(9, 6), (9, 1)], ids=str)
def test_a_weight_that_is_not_finite_shows_and_does_not_poison(value: float, shape: tuple[int, int]) -> None:
    healthy, other = torch.randn(shape), torch.randn(4, 5)
    before = leading_pairs([healthy, other], [start(healthy), start(other)], COLD)
    broken = healthy.clone()
    broken[3, 0] = value
    during = leading_pairs([broken, other], before.bases, ITERATIONS_WARM)
    assert not during.sigma[0].isfinite().any()
    assert during.turn[0].isnan()
    assert torch.equal(during.bases[0], before.bases[0])
    assert during.sigma[1].tolist() == pytest.approx(before.sigma[1].tolist(), rel=1e-5), "another layer was drawn in"
    after = leading_pairs([healthy, other], during.bases, ITERATIONS_WARM)
    assert after.sigma[0, 0].item() == pytest.approx(dense(healthy)[0][0].item(), rel=1e-3)
    assert after.turn[0].item() < 1e-3


def test_the_sign_is_continuous_even_where_the_weight_flips() -> None:
    w = torch.randn(20, 15) + 1.0
    pairs = cold(w)
    for _ in range(6):
        w = -w + 0.05 * torch.randn(20, 15)
        before, pairs = pairs, leading_pairs([w], pairs.bases, ITERATIONS_WARM)
        assert pairs.bases[0][0] @ before.bases[0][0] > 0.9
        assert pairs.turn.item() == pytest.approx(1 - (pairs.bases[0][0] @ before.bases[0][0]).item(), abs=1e-6)


def test_weights_and_bases_given_are_only_read() -> None:
    weights = [torch.randn(5, 4), torch.randn(4, 5).t(), torch.randn(3, 4).bfloat16(), torch.zeros(2, 4)]
    bases = [start(w, str(i)) for i, w in enumerate(weights)]
    copies = [x.clone() for x in weights + bases]
    leading_pairs(weights, bases, 3)
    assert all(torch.equal(x, copy) for x, copy in zip(weights + bases, copies, strict=True))


def test_the_starting_basis_depends_on_the_name_alone() -> None:
    state = torch.get_rng_state()
    first = starting_basis("blocks.0.q", 30, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(first, starting_basis("blocks.0.q", 30, CPU))
    assert not torch.equal(first, starting_basis("blocks.0.k", 30, CPU))
    assert first.shape == (2, 30)
    assert_orthonormal(first)
    assert starting_basis("x", 1, CPU).abs().tolist() == [[1.0]]


def test_many_layers_at_once_are_each_what_they_are_alone() -> None:
    weights = [torch.randn(shape) for shape in SHAPES]
    bases = [start(w, str(i)) for i, w in enumerate(weights)]
    together = leading_pairs(weights, bases, 5)
    for i, (w, basis) in enumerate(zip(weights, bases, strict=True)):
        alone = leading_pairs([w], [basis], 5)
        assert torch.equal(together.sigma[i], alone.sigma[0])
        assert torch.equal(together.bases[i], alone.bases[0])
