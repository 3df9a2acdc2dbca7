"""The reference's options, tiles and dynamic maximum, against attention written out in float64."""

from dataclasses import replace

import pytest
import torch
from foreshock.kernels import Precision, reference_attention
from foreshock.kernels.rounding import Rounding
from torch import Tensor

NAMES = ("out", "dq", "dk", "dv")
INF = float("inf")
# (B, H, G, T, S, D)
SHAPE = (2, 4, 2, 13, 11, 6)

OPTIONS = {
    "window": {"window": 3},
    "causal-window": {"window": 4, "is_causal": True},
    "softcap": {"softcap": 1.5, "is_causal": True},
    "boolean-mask": {"attn_mask": torch.rand(2, 1, 13, 11, generator=torch.Generator().manual_seed(1)) > 0.4},
    "added-mask": {"attn_mask": torch.randn(4, 13, 11, generator=torch.Generator().manual_seed(2))},
    "all": {
        "attn_mask": torch.rand(13, 11, generator=torch.Generator().manual_seed(3)) > 0.3,
        "is_causal": True,
        "window": 5,
        "softcap": 2.0,
        "scale": 0.8,
    },
}


def inputs(b: int, h: int, g: int, t: int, s: int, d: int, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.randn(b, h, t, d) * size, torch.randn(b, g, s, d), torch.randn(b, g, s, d), torch.randn(b, h, t, d)


def assert_near(found, expected, rtol: float) -> None:
    for name, x, y in zip(NAMES, found, expected, strict=True):
        off = (x.double() - y.double()).abs().max() / y.double().abs().max().clamp_min(1e-3)
        assert off <= rtol, f"{name}: off by {off:.2g}"


@pytest.mark.parametrize("key_tile", [None, 4])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dynamic_maximum", [False, True])
def test_output_and_every_gradient_equal_the_float64_twin(options, key_tile, dynamic_maximum, twin, with_gradients) -> None:
    given = inputs(*SHAPE)
    precision = Precision(key_tile=key_tile, dynamic_maximum=dynamic_maximum)
    found = with_gradients(reference_attention, *given, **options, precision=precision)
    expected = with_gradients(twin, *(x.double() for x in given), **options)
    assert_near(found, expected, 3e-6)


def test_a_query_that_sees_nothing_gets_zeros_and_gives_none(with_gradients) -> None:
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[2] = False
    for precision in (Precision(), Precision(key_tile=3), Precision(dynamic_maximum=True), Precision.failing(key_tile=2)):
        for given in (mask, torch.zeros(5, 4).masked_fill(~mask, -INF)):
            found = with_gradients(reference_attention, *inputs(1, 2, 2, 5, 4, 3), attn_mask=given, precision=precision)
            assert all(x.isfinite().all() for x in found)
            assert (found[0][:, :, 2] == 0).all()
            assert (found[1][:, :, 2] == 0).all()


def test_no_keys_no_queries_and_no_sequences(with_gradients) -> None:
    for shape in ((2, 2, 2, 3, 0, 4), (2, 2, 2, 0, 3, 4), (0, 2, 2, 3, 3, 4)):
        q, k, v, do = inputs(*shape)
        out, *gradients = with_gradients(reference_attention, q, k, v, do)
        assert out.shape == q.shape
        assert (out == 0).all()
        assert [x.shape for x in gradients] == [x.shape for x in (q, k, v)]


def test_packed_sequences_are_each_alone(with_gradients) -> None:
    q, k, v, do = inputs(1, 4, 2, 12, 14, 5)
    ends_q, ends_k = torch.tensor([0, 3, 3, 12], dtype=torch.int32), torch.tensor([0, 6, 7, 14], dtype=torch.int32)
    found = with_gradients(reference_attention, q, k, v, do, is_causal=True, cu_seqlens_q=ends_q, cu_seqlens_k=ends_k)
    for i, j in ((slice(0, 3), slice(0, 6)), (slice(3, 12), slice(7, 14))):
        alone = with_gradients(reference_attention, q[:, :, i], k[:, :, j], v[:, :, j], do[:, :, i], is_causal=True)
        for x, y, part in zip(found, alone, (i, i, j, j), strict=True):
            assert torch.allclose(x[:, :, part], y, atol=1e-6)
    assert (found[2][:, :, 6] == 0).all(), "a sequence without queries gives its keys nothing"


def test_tiles_change_nothing_but_where_it_rounds() -> None:
    q, k, v, _ = inputs(1, 2, 2, 9, 40, 8, size=4.0)
    exact, whole = reference_attention(q, k, v), reference_attention(q, k, v, precision=Precision(accumulator="bf16"))
    tiled = {n: reference_attention(q, k, v, precision=Precision(accumulator="bf16", key_tile=n)) for n in (1, 7, 40, 64)}
    assert torch.equal(tiled[40], whole)
    assert torch.equal(tiled[64], whole)
    errors = {n: (x - exact).norm().item() for n, x in tiled.items()}
    assert errors[1] > 1.5 * errors[40], errors
    assert torch.allclose(reference_attention(q, k, v, precision=Precision(key_tile=7)), exact, atol=1e-6)


@pytest.mark.parametrize("to", ["bf16", "fp16", "e4m3", Rounding(5, "truncate"), Rounding(5, "stochastic")], ids=str)
def test_every_format_and_way_reaches_every_point(to, with_gradients) -> None:
    """All results are near the exact ones, on the format's grid, and repeat."""
    given = inputs(1, 2, 2, 12, 12, 16)
    exact = with_gradients(reference_attention, *given)
    precision = replace(Precision.everywhere(to), products=to, accumulator=to, key_tile=5)
    found, again = (with_gradients(reference_attention, *given, precision=precision) for _ in range(2))
    for name, x, y, z in zip(NAMES, found, again, exact, strict=True):
        assert torch.equal(x, y), name
        assert 1e-5 < (x - z).norm() / z.norm() < 0.5, name


def test_stochastic_points_draw_different_bits() -> None:
    q, k, v, _ = inputs(1, 1, 1, 6, 6, 8)
    to = Rounding(2, "stochastic")
    outs = {
        point: reference_attention(q, k, v, precision=replace(Precision(), **{point: to}))
        for point in ("output", "products", "accumulator")
    }
    # The same numbers are rounded at the last two points: only the bits drawn tell them apart.
    assert not torch.equal(outs["products"], outs["accumulator"])


def tied(rows: int = 400, keys: int = 64, width: int = 16, late: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two keys tie exactly for the maximum of every row, 12 to 14 nats above the rest; V and dO have one sign."""
    q = torch.zeros(1, 1, rows, width)
    q[..., 0] = 4.0
    k = torch.zeros(1, 1, keys, width)
    k[..., 0] = -torch.rand(keys) * 2
    k[..., [5, keys - 3 if late else 9], 0] = 13.0 - 1.0
    v = (torch.randn(1, 1, keys, width).abs() + 0.5).bfloat16().float()
    return q, k, v, torch.randn(1, 1, rows, width).abs()


def mean_error(precision: Precision, late: bool = False, seeds: int = 100) -> float:
    """Mean error of O in bf16 ulps (2^-7 of its binade), over 256 outputs a seed with values of their own."""
    errors = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        q, k, v, _ = tied(rows=1, late=late, width=256)
        exact = reference_attention(q, k, v, scale=0.25).double()
        found = reference_attention(q, k, v, scale=0.25, precision=precision).double()
        errors.append((found - exact) / torch.exp2(exact.log2().floor() - 7))
    return torch.cat([x.flatten() for x in errors]).mean().item()


@pytest.mark.parametrize("late", [False, True], ids=["one tile", "across tiles"])
def test_ties_bias_the_failing_algorithm_and_the_dynamic_maximum_takes_it_away(late: bool) -> None:
    # P V of a tile in the accumulator's own bits would lose the tail before the second of two ties apart comes.
    failing = replace(Precision.failing(key_tile=32), products=23) if late else Precision.failing(key_tile=None)
    biased = mean_error(failing, late)
    mended = mean_error(replace(failing, dynamic_maximum=True), late)
    whole_bits = mean_error(replace(failing, dynamic_maximum=True, least_shift_bits=2.0, most_shift_bits=2.0), late)
    assert biased > 0.15, biased
    assert abs(mended) < 0.02, mended
    assert whole_bits > 0.15, f"a shift by whole bits mends nothing, yet left {whole_bits}"


@pytest.mark.parametrize("to", ["bf16", "fp16"])
def test_no_finite_logit_underflows_or_overflows(to: str, twin, with_gradients) -> None:
    for logit in (-1e4, -40.0, -1e-3, 0.0, 1e-3, 30.0, 1e4):
        q, k, v, do = inputs(1, 1, 1, 5, 8, 4)
        q, k = torch.zeros_like(q), torch.zeros_like(k)
        q[..., 0], k[..., 0] = 1.0, logit
        k[:, :, 5:, 0] = logit - 5.0 - abs(logit) / 2
        found = with_gradients(
            reference_attention, q, k, v, do, scale=1.0, precision=replace(Precision.failing(to), dynamic_maximum=True)
        )
        assert all(x.isfinite().all() for x in found), logit
        expected = twin(q, k, v, scale=1.0)
        assert (found[0] - expected).abs().max() < 0.03, logit


def test_rows_without_a_tie_keep_their_bits() -> None:
    q, k, v, _ = inputs(1, 2, 2, 20, 30, 8, size=3.0)
    for precision in (Precision.flash(), Precision.failing(key_tile=7)):
        q[:, :, 4], k[:, :, 7] = k[:, :, 3] * 4, k[:, :, 3]  # two keys tie in this row
        plain, mended = (reference_attention(q, k, v, precision=replace(precision, dynamic_maximum=x)) for x in (False, True))
        s = (q @ k.mT) * 8**-0.5
        no_tie = ((s.amax(-1, keepdim=True) - s) <= 2e-2).sum(-1) == 1
        assert 10 < no_tie.sum() < 40
        assert torch.equal(plain[no_tie], mended[no_tie])
        assert not torch.equal(plain[:, :, 4], mended[:, :, 4])


def test_says_what_does_not_fit() -> None:
    q, k, v, _ = inputs(1, 4, 3, 2, 2, 4)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key heads"):
        reference_attention(q, k, v)
    with pytest.raises(ValueError, match="attn_mask requires a gradient"):
        reference_attention(q, q, q, attn_mask=torch.zeros(2, 2, requires_grad=True))
    with pytest.raises(ValueError, match="window is 0"):
        reference_attention(q, q, q, window=0)
    with pytest.raises(ValueError, match="delta_from is 'float16'"):
        Precision(delta_from="float16")
    with pytest.raises(ValueError, match="key_tile is 0"):
        Precision(key_tile=0)
    with pytest.raises(ValueError, match="packed keys need packed queries"):
        reference_attention(q, q, q, cu_seqlens_k=torch.tensor([0, 2]))
