"""foreshock.kernels.attention in place of F.scaled_dot_product_attention: same results, in every way torch can call it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import FAILING, attention
from foreshock.kernels.operator import attention_backward, attention_forward
from torch import Tensor
from torch.overrides import TorchFunctionMode

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
NAMES = ("out", "dq", "dk", "dv")


def heads(b: int, h: int, g: int, t: int, s: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(torch.randn(*x, dtype=dtype) for x in ((b, h, t, d), (b, g, s, d), (b, g, s, d), (b, h, t, d)))


def masks(kind: str, t: int, s: int, dtype: torch.dtype) -> Tensor | None:
    seen = torch.rand(2, 1, t, s) > 0.4
    if kind == "boolean":
        seen[:, :, -1] = False  # a query that sees nothing
        return seen
    return torch.randn(t, s, dtype=dtype) if kind == "added" else None


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask", ["", "boolean", "added"])
def test_equals_torchs_own_and_is_no_worse_against_float64(dtype, mask, with_gradients) -> None:
    for (t, s), grouped, causal, scale in itertools.product([(9, 9), (1, 1), (5, 12)], [False, True], [False, True], [None, 0.3]):
        if mask and causal:
            continue  # torch takes one of them
        q, k, v, do = heads(2, 4, 2 if grouped else 4, t, s, 8, dtype)
        given = masks(mask, t, s, dtype)
        options = {"is_causal": causal, "scale": scale, "enable_gqa": grouped}
        found = with_gradients(attention, q, k, v, do, attn_mask=given, **options)
        theirs = with_gradients(F.scaled_dot_product_attention, q, k, v, do, attn_mask=given, **options)
        wide = given if given is None or given.dtype == torch.bool else given.double()
        exact = with_gradients(F.scaled_dot_product_attention, *(x.double() for x in (q, k, v, do)), attn_mask=wide, **options)
        for name, x, y, z in zip(NAMES, found, theirs, exact, strict=True):
            assert x.dtype == dtype
            assert torch.allclose(x, y, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]), name
            ours, others = ((e.double() - z).abs().max().item() for e in (x, y))
            assert dtype == torch.float64 or ours <= 1.1 * others + 4 * torch.finfo(dtype).eps * z.abs().max(), (
                f"{name}: {ours:.3g}, torch {others:.3g}"
            )


def test_both_masks_at_once(twin) -> None:
    q, k, v, _ = heads(2, 2, 2, 6, 6, 4)
    mask = torch.rand(6, 6) > 0.3
    assert torch.allclose(attention(q, k, v, mask, is_causal=True).double(), twin(q, k, v, mask, is_causal=True), atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (2, 3, 2, 5, 8)], ids=len)
def test_any_number_of_leading_dimensions(shape, with_gradients) -> None:
    q, k, v, do = (torch.randn(shape) for _ in range(4))
    for mask in (None, torch.rand(5, 5) > 0.3, torch.randn(*shape[:-1], 5)):
        found = with_gradients(attention, q, k, v, do, attn_mask=mask)
        for x, y in zip(found, with_gradients(F.scaled_dot_product_attention, q, k, v, do, attn_mask=mask), strict=True):
            assert torch.allclose(x, y, atol=1e-5)


def test_empty_batches_queries_and_keys(with_gradients) -> None:
    for shape in ((0, 2, 2, 3, 3, 4), (2, 2, 2, 0, 3, 4), (2, 2, 2, 3, 0, 4)):
        given = heads(*shape)
        for x, y in zip(*(with_gradients(f, *given) for f in (attention, F.scaled_dot_product_attention)), strict=True):
            assert torch.equal(x, y)


def test_packed_sequences(with_gradients) -> None:
    q, k, v, do = heads(1, 4, 2, 10, 10, 8, torch.bfloat16)
    ends = torch.tensor([0, 4, 4, 10], dtype=torch.int32)
    found = with_gradients(attention, q, k, v, do, is_causal=True, enable_gqa=True, cu_seqlens_q=ends)
    for part in (slice(0, 4), slice(4, 10)):
        alone = with_gradients(attention, *(x[:, :, part] for x in (q, k, v, do)), is_causal=True, enable_gqa=True)
        assert all(torch.equal(x[:, :, part], y) for x, y in zip(found, alone, strict=True))


def test_window_and_cap(twin) -> None:
    q, k, v, _ = heads(2, 2, 2, 9, 9, 4)
    options = {"window": 3, "softcap": 1.2, "is_causal": True, "scale": 1.0}
    assert torch.allclose(attention(q, k, v, **options).double(), twin(q, k, v, **options), atol=1e-6)


OPERATOR_CASES = {
    "bfloat16-causal": (torch.bfloat16, {"is_causal": True}),
    "masked-dropout": (torch.float16, {"mask": True, "dropout_p": 0.2}),
    "packed": (torch.float32, {"packed": True}),
}


@pytest.mark.parametrize(("dtype", "options"), OPERATOR_CASES.values(), ids=OPERATOR_CASES)
def test_torch_finds_nothing_wrong_with_the_operators(dtype, options) -> None:
    q, k, v, do = heads(1, 4, 2, 9, 7, 8, dtype)
    mask = torch.rand(9, 7) > 0.3 if "mask" in options else None
    cu_q, cu_k = (torch.tensor([0, 4, x], dtype=torch.int32) if "packed" in options else None for x in (9, 7))
    seed = torch.tensor(3) if "dropout_p" in options else None
    rest = (mask, cu_q, cu_k, seed, 0.3, options.get("is_causal", False), None, None, options.get("dropout_p", 0.0))
    rest = (*rest, True, True, False, "auto")
    kept = attention_forward(q, k, v, *rest)
    torch.library.opcheck(attention_forward, (*(x.clone().requires_grad_() for x in (q, k, v)), *rest))
    torch.library.opcheck(attention_backward, (do, q, k, v, *kept, *rest))


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiles_to_one_graph_for_all_lengths(backend, with_gradients) -> None:
    graphs = 0
    inner = torch._dynamo.lookup_backend(backend)

    def count(graph, inputs):
        nonlocal graphs
        graphs += 1
        return inner(graph, inputs)

    def layer(q, k, v):
        return attention(q * 2, k, v, is_causal=True) + 1

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=count)
    for t in (9, 17, 33):
        given = heads(2, 2, 2, t, t, 8, torch.bfloat16)
        for x, y in zip(with_gradients(compiled, *given), with_gradients(layer, *given), strict=True):
            assert torch.allclose(x, y, atol=0.02, rtol=0.02)
    assert graphs <= 2, "one for the first length and one for all others"


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own, of torch
def test_inductor(with_gradients) -> None:
    def layer(q, k, v):
        # Nothing beside it: inductor would have C++ compiled for half a minute.
        return attention(q, k, v, is_causal=True, enable_gqa=True)

    given = heads(2, 4, 2, 9, 9, 8)
    found = with_gradients(torch.compile(layer, fullgraph=True, dynamic=True), *given)
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(found, with_gradients(layer, *given), strict=True))


def test_autocast_casts_as_sdpa_does(with_gradients) -> None:
    q, k, v, do = heads(2, 2, 2, 9, 9, 8)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found = with_gradients(attention, q, k, v, do)
            theirs = with_gradients(F.scaled_dot_product_attention, q, k, v, do)
            assert [x.dtype for x in found] == [x.dtype for x in theirs]
            mixed = attention(q, k.to(dtype), v)
        plain = attention(*(x.to(dtype) for x in (q, k, v)))
        assert torch.equal(found[0], plain), "autocast must not reach the products within"
        assert torch.equal(mixed, plain)


def test_dropout_follows_torchs_generator_and_checkpoints(with_gradients) -> None:
    q, k, v, do = heads(1, 2, 2, 30, 30, 8)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(with_gradients(attention, q, k, v, do, dropout_p=0.4))
    assert all(torch.equal(x, y) for x, y in zip(outs[0], outs[1], strict=True))
    assert not torch.equal(outs[0][0], outs[2][0])
    assert not torch.equal(attention(q, k, v, dropout_p=0.4), attention(q, k, v, dropout_p=0.4))

    def checkpointed(q, k, v):
        return torch.utils.checkpoint.checkpoint(lambda *x: attention(*x, dropout_p=0.4), q, k, v, use_reentrant=False)

    torch.manual_seed(0)
    again = with_gradients(checkpointed, q, k, v, do)
    assert all(torch.equal(x, y) for x, y in zip(outs[0], again, strict=True))
    state = torch.get_rng_state()
    attention(q, k, v)
    assert torch.equal(torch.get_rng_state(), state), "without dropout no random number is drawn"


def test_variants_can_be_chosen() -> None:
    q, k, v, do = heads(1, 2, 2, 40, 40, 16, torch.bfloat16)
    k = k.requires_grad_()
    gradients = [torch.autograd.grad(attention(q, k, v, stabilize=x), k, do)[0] for x in (True, False)]
    assert not torch.equal(*gradients)
    assert torch.equal(attention(q, k, v), attention(q, k, v, stabilize=False))
    assert not torch.equal(attention(q, k, v), attention(q, k, v, stabilize=FAILING))


def test_is_seen_by_a_torch_function_mode() -> None:
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is attention:
                seen.append((args, kwargs))
            return func(*args, **(kwargs or {}))

    q, k, v, _ = heads(1, 1, 1, 3, 3, 2)
    with Watch():
        out = attention(q, k, v, None, 0.0, True)
    ((args, kwargs),) = seen
    assert all(x is y for x, y in zip(args, (q, k, v), strict=True))
    assert kwargs["is_causal"] is True
    assert torch.equal(out, attention(q, k, v, is_causal=True))


def test_refuses_what_it_would_get_wrong() -> None:
    q, k, v, _ = heads(1, 4, 2, 3, 3, 4)
    with pytest.raises(ValueError, match="numbers of heads differ, which needs enable_gqa=True"):
        attention(q, k, v)
    with pytest.raises(ValueError, match="must be a multiple of the keys'"):
        attention(q[:, :3], k, v, enable_gqa=True)
    with pytest.raises(ValueError, match="must be of one dtype"):
        attention(q, q.half(), q)
    with pytest.raises(ValueError, match="packed sequences take no mask"):
        attention(q, q, q, torch.ones(3, 3), cu_seqlens_q=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="backend is 'cuda'; it is one of auto, triton, torch"):
        attention(q, q, q, backend="cuda")
    with pytest.raises(NotImplementedError, match="attn_mask requires a gradient"):
        attention(q, q, q, torch.zeros(3, 3, requires_grad=True))
    with pytest.raises(NotImplementedError, match=r"cannot be mapped by torch\.func\.vmap"):
        torch.func.vmap(attention)(q[None], q[None], q[None])
    q.requires_grad_()
    (gradient,) = torch.autograd.grad(attention(q, q, q).square().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="has no second derivative"):
        gradient.sum().backward()


def test_triton_asked_for_and_not_possible_says_why() -> None:
    q, k, v, _ = heads(1, 1, 1, 3, 3, 4)
    with pytest.raises(ValueError, match=r"backend='triton' was asked for, but .* on cpu"):
        attention(q, k, v, backend="triton")
    with pytest.raises(ValueError, match=r"backend='triton' was asked for, but .*dropout"):
        attention(q, k, v, dropout_p=0.1, backend="triton")
    with pytest.raises(ValueError, match=r"backend='triton' was asked for, but .*float64"):
        attention(q.double(), k.double(), v.double(), backend="triton")
