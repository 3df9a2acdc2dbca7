"""The body for CPUs against float64, in one block and in many, and its variants."""

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import torch_body
from foreshock.kernels.options import FAILING, STABILISED, STANDARD, Options, Variant
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# (B, H, G, T, S, D, E)
SHAPES = [(2, 4, 2, 37, 37, 8, 8), (1, 3, 3, 1, 1, 1, 1), (3, 2, 1, 150, 70, 16, 5), (1, 1, 1, 1, 9, 4, 4), (2, 2, 2, 5, 1, 3, 3)]
OPTIONS = [
    {},
    {"is_causal": True},
    {"window": 9},
    {"window": 40, "is_causal": True},
    {"softcap": 1.0, "scale": 0.9},
    {"softcap": 2.0, "is_causal": True, "window": 12},
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, h, g, t, s, d, e = shape
    return tuple(torch.randn(*x, dtype=torch.float64).to(dtype) for x in ((b, h, t, d), (b, g, s, d), (b, g, s, e), (b, h, t, e)))


def run(q, k, v, do, variant=STABILISED, mask=None, dropout_p=0.0, seed=0, **options) -> tuple[Tensor, ...]:
    given = Options(options.pop("scale", q.shape[-1] ** -0.5), **options)
    more = {"mask": mask, "dropout_p": dropout_p, "seed": seed}
    out, lse, residual = torch_body.forward(q, k, v, given, variant, **more)
    return out, *torch_body.backward(do, q, k, v, out, residual, lse, given, variant, **more)


def assert_near(found, expected, rtol: float) -> None:
    for name, x, y in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert x.shape == y.shape
        if y.numel():
            off = (x.double() - y.double()).abs().max() / y.double().abs().max().clamp_min(0.1)
            assert off <= rtol, f"{name}: off by {off:.2g}"


@pytest.fixture(params=[None, 600], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(torch_body, "SCORES", request.param)
        monkeypatch.setattr(torch_body, "_LEAST_ROWS", 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_output_and_every_gradient_equal_the_float64_twin(dtype, options, blocks, twin, with_gradients) -> None:
    for shape in SHAPES:
        given = inputs(shape, dtype)
        expected = with_gradients(twin, *(x.double() for x in given), **options)
        assert_near(run(*given, **options), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["boolean", "added", "heads"])
def test_masks(kind, blocks, twin, with_gradients) -> None:
    given = inputs((2, 4, 2, 21, 17, 8, 8), torch.float32)
    mask = {
        "boolean": torch.rand(2, 1, 21, 17) > 0.4,
        "added": torch.randn(21, 17).masked_fill(torch.rand(21, 17) > 0.6, float("-inf")),
        "heads": torch.randn(1, 4, 1, 17),
    }[kind]
    if kind != "heads":
        mask[..., 3, :] = False if kind == "boolean" else float("-inf")  # a query that sees nothing
    for options in ({}, {"is_causal": True}):
        found = run(*given, mask=mask, **options)
        assert_near(found, with_gradients(twin, *(x.double() for x in given), attn_mask=mask, **options), 3e-6)
        if kind != "heads":
            assert (found[0][:, :, 3] == 0).all()
            assert (found[1][:, :, 3] == 0).all()


def test_long_rows_take_small_memory() -> None:
    """No tensor of the size of the scores is made."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, Tensor):
                    largest = max(largest, x.untyped_storage().nbytes())
            return out

    with Watch():
        run(*inputs((1, 2, 2, 2048, 2048, 8, 8), torch.float32), is_causal=True)
    assert largest <= 4 * torch_body.SCORES < 4 * 2 * 2048 * 2048 / 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_delta_comes_from_the_float32_output(dtype) -> None:
    """sum_j dK_j is -scale sum_i e_i q_i with the error e of delta: with the residual it is 100 times smaller."""
    q, k, v, do = inputs((1, 1, 1, 64, 24, 64, 64), dtype)
    q = torch.eye(64, dtype=dtype)[None, None] * 2
    v, do = v.abs() + 1, do.abs()
    given = Options(0.125)
    errors = {}
    for variant in (STANDARD, STABILISED):
        out, lse, residual = torch_body.forward(q, k, v, given, variant)
        assert (residual is not None) == variant.float32_delta
        # In float32, so that rounding dK hides nothing.
        wide = [x.float() for x in (do, q, k, v)]
        kept = None if residual is None else residual.float()
        dk = torch_body.backward(*wide, out.float(), kept, lse, given, variant)[1]
        errors[variant] = dk.sum(2).abs().mean().item()
    assert errors[STABILISED] < 0.01 * errors[STANDARD], errors


def test_the_failing_variant_is_biased_by_ties_and_the_dynamic_maximum_mends_it() -> None:
    means = {}
    for variant in (FAILING, Variant(dynamic_maximum=True, low_precision_accumulator=True), STANDARD):
        torch.manual_seed(0)
        q = torch.zeros(64, 1, 1, 2)
        k = torch.zeros(64, 1, 48, 2)
        q[..., 0], k[..., 0] = 1.0, -torch.rand(64, 1, 48) * 2
        k[:, :, [3, 11], 0] = 12.0
        v = torch.randn(64, 1, 48, 256).abs().add(0.5).bfloat16()
        out, _, _ = torch_body.forward(q.bfloat16(), k.bfloat16(), v, Options(1.0), variant)
        exact, _, _ = torch_body.forward(q.bfloat16().double(), k.bfloat16().double(), v.double(), Options(1.0), STANDARD)
        means[variant] = ((out.double() - exact) / torch.exp2(exact.log2().floor() - 7)).mean().item()
    failing, mended, standard = means.values()
    assert failing > 0.15, means
    assert abs(mended) < 0.015, means
    assert abs(standard) < 0.05, means


def test_dropout_drops_the_share_it_says_and_its_gradients_are_of_what_it_dropped(blocks, twin, with_gradients) -> None:
    q, k, _, _ = inputs((2, 4, 2, 30, 20, 4, 4), torch.float64)
    v = torch.eye(20, dtype=torch.float64).expand(2, 2, 20, 20)  # the output shows P itself
    do = torch.randn(2, 4, 30, 20, dtype=torch.float64)
    plain, dropped = run(q, k, v, do)[0], run(q, k, v, do, dropout_p=0.3, seed=5)
    kept = dropped[0] != 0
    assert 0.65 < kept.double().mean() < 0.75
    assert torch.allclose(dropped[0][kept], plain[kept] / 0.7)
    expected = with_gradients(twin, q, k, v, do, dropped=kept.double() / 0.7)
    assert_near(dropped, expected, 1e-12)
    assert torch.equal(run(q, k, v, do, dropout_p=0.3, seed=5)[1], dropped[1])
    assert not torch.equal(run(q, k, v, do, dropout_p=0.3, seed=6)[0], dropped[0])
    assert (run(q, k, v, do, dropout_p=1.0)[0] == 0).all()


def test_strided_inputs_and_outputs_laid_out_as_the_queries() -> None:
    x = torch.randn(2, 9, 3, 4, 8)  # (B, T, qkv, H, D)
    q, k, v = x.permute(2, 0, 3, 1, 4)
    do = torch.randn(2, 9, 4, 8).transpose(1, 2)
    found = run(q, k, v, do)
    expected = run(*(x.contiguous() for x in (q, k, v, do)))
    assert_near(found, expected, 1e-6)
    dense = torch.randn(2, 9, 4, 8).transpose(1, 2)
    assert run(dense, dense, dense, do)[0].stride() == dense.stride()


def test_bfloat16_is_no_worse_than_torchs_own(with_gradients) -> None:
    given = inputs((2, 4, 4, 64, 64, 32, 32), torch.bfloat16)
    exact = with_gradients(F.scaled_dot_product_attention, *(x.double() for x in given))
    theirs = with_gradients(F.scaled_dot_product_attention, *given)
    for name, x, y, z in zip(("out", "dq", "dk", "dv"), run(*given), theirs, exact, strict=True):
        ours, others = ((e.double() - z).norm().item() for e in (x, y))
        assert ours <= 1.02 * others, f"{name}: {ours:.3g}, torch {others:.3g}"
