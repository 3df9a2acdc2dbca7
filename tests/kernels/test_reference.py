"""Reference attention against slow twins: autograd in float64, and the formulas written out with one rounding point each."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from foreshock.kernels import Precision, reference_attention
from foreshock.kernels.reference import DeltaSource
from torch import Tensor
from torch.overrides import TorchFunctionMode

# (B, H, T, S, D): odd on purpose; one query, one key, one channel.
SHAPES = [(2, 3, 7, 7, 5), (1, 1, 1, 1, 1), (1, 2, 33, 33, 16), (2, 1, 5, 9, 3), (1, 2, 9, 4, 1), (1, 1, 1, 6, 2), (3, 1, 4, 1, 8)]
FIELDS = ["inputs", "scores", "probabilities", "row_sum", "output", "delta", "score_gradients", "gradients"]
MORE_FIELDS = ["products", "accumulator", "output_gradients", "probability_gradients"]
NAMES = ("out", "dq", "dk", "dv")


def inputs(b: int, h: int, t: int, s: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and the gradient of the output."""
    return torch.randn(b, h, t, d), torch.randn(b, h, s, d), torch.randn(b, h, s, d), torch.randn(b, h, t, d)


def with_gradients(attention, q: Tensor, k: Tensor, v: Tensor, do: Tensor, **options) -> dict[str, Tensor]:
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    out = attention(q, k, v, **options)
    return dict(zip(NAMES, (out.detach(), *torch.autograd.grad(out, (q, k, v), do)), strict=True))


def plain(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention as in a textbook; its gradients are autograd's."""
    s = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum("bhtd,bhsd->bhts", q, k)
    if is_causal:
        s = s.masked_fill(torch.arange(k.shape[2]) > torch.arange(q.shape[2])[:, None], float("-inf"))
    return torch.einsum("bhts,bhsd->bhtd", s.softmax(-1), v)


def assert_near(found: Tensor, expected: Tensor, rtol: float, name: str) -> None:
    error = (found.double() - expected.double()).abs()
    allowed = rtol * expected.double().abs().max().clamp_min(1e-3)
    where = torch.unravel_index(error.argmax(), error.shape)
    assert error.max() <= allowed, f"{name}: off by {error.max():.3g} > {allowed:.3g} at {[int(i) for i in where]}"


def rounded(x: Tensor, bits: int) -> Tensor:
    """Round float64 to ``bits`` explicit mantissa bits; exact, because ``torch.round`` takes ties to even."""
    significand, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(torch.ldexp(significand, torch.tensor(bits + 1))), exponent - bits - 1)


def written_out(q: Tensor, k: Tensor, v: Tensor, do: Tensor, where: str, bits: int, delta_from: DeltaSource) -> dict[str, Tensor]:
    """Every formula in float64, rounded at the one point ``where``."""

    def at(point: str, x: Tensor) -> Tensor:
        return rounded(x, bits) if point == where else x

    q, k, v, do = (at("inputs", x.double()) for x in (q, k, v, do))
    do = at("output_gradients", do)
    scale = q.shape[-1] ** -0.5
    s = at("scores", scale * (q @ k.mT))
    p_bar = (s - s.max(-1, keepdim=True).values).exp()
    row_sum = at("row_sum", p_bar.sum(-1, keepdim=True))
    exact = at("accumulator", at("products", at("probabilities", p_bar) @ v)) / row_sum
    out = at("output", exact)
    delta = at("delta", (do * (out if delta_from == "stored" else exact)).sum(-1, keepdim=True))
    p = p_bar / row_sum
    ds = at("score_gradients", p * (at("probability_gradients", at("scores", do @ v.mT)) - delta))
    gradients = (scale * ds @ k, scale * ds.mT @ q, at("probabilities", p).mT @ do)
    return dict(zip(NAMES, (out, *(at("gradients", g) for g in gradients)), strict=True))


@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_every_gradient_equal_the_float64_twin(shape: tuple[int, ...], is_causal: bool) -> None:
    given = inputs(*shape)
    found = with_gradients(reference_attention, *given, is_causal=is_causal)
    expected = with_gradients(plain, *(x.double() for x in given), is_causal=is_causal)
    for name in NAMES:
        assert found[name].dtype == torch.float32
        assert_near(found[name], expected[name], 3e-6, name)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.37}, {"scale": 0.0}, {"scale": -1.0}], ids=str)
def test_agrees_with_scaled_dot_product_attention(options: dict) -> None:
    given = inputs(2, 2, 17, 17, 8)
    found = with_gradients(reference_attention, *given, **options)
    expected = with_gradients(F.scaled_dot_product_attention, *given, **options)
    for name in NAMES:
        assert_near(found[name], expected[name], 1e-5, name)


def test_large_logits_do_not_overflow() -> None:
    q, k, v, do = inputs(1, 1, 8, 8, 4)
    found = with_gradients(reference_attention, q * 1e3, k * 1e3, v, do)
    expected = with_gradients(plain, q.double() * 1e3, k.double() * 1e3, v.double(), do.double())
    assert_near(found["out"], expected["out"], 1e-5, "out")


# What a rounding point changes. `inputs` and all that stands before O reaches everything; delta reaches dQ and dK alone.
REACH = {
    "inputs": "out dq dk dv",
    "scores": "out dq dk dv",
    "probabilities": "out dq dk dv",
    "row_sum": "out dq dk dv",
    "output": "out dq dk",
    "delta": "dq dk",
    "score_gradients": "dq dk",
    "gradients": "dq dk dv",
    "products": "out dq dk",
    "accumulator": "out dq dk",
    "output_gradients": "dq dk dv",
    "probability_gradients": "dq dk",
}


@pytest.mark.parametrize("field", FIELDS + MORE_FIELDS)
@pytest.mark.parametrize("delta_from", ["stored", "float32"])
def test_each_rounding_point_is_where_it_says(field: str, delta_from: DeltaSource) -> None:
    bits = 6
    given = inputs(1, 2, 24, 20, 8)
    exact = with_gradients(reference_attention, *given)
    found = with_gradients(reference_attention, *given, precision=replace(Precision(delta_from=delta_from), **{field: bits}))
    expected = written_out(*given, field, bits, delta_from)
    reach = REACH[field].split()
    if delta_from == "float32" and field == "output":
        reach = ["out"]
    for name in NAMES:
        moved = (found[name] - exact[name]).norm()
        if name not in reach:
            assert_near(found[name], exact[name], 1e-6, f"{field} must not reach {name}")
            continue
        assert moved > 1e-4 * exact[name].norm(), f"{field} does not reach {name}"
        # float32 noise makes some values fall on the other side of a tie; the rest must be this rounding and no other.
        apart = (found[name] - expected[name]).norm()
        assert apart < 0.1 * moved, f"{field}: {name} is {apart / moved:.2f} of the rounding's effect away from the twin"


def test_results_lie_on_the_grid_they_claim() -> None:
    found = with_gradients(reference_attention, *inputs(1, 2, 9, 9, 8), precision=Precision(output=3, gradients=5))
    for name, bits in zip(NAMES, (3, 5, 5, 5), strict=True):
        assert torch.equal(found[name].double(), rounded(found[name].double(), bits)), name


def test_named_precisions() -> None:
    assert {getattr(Precision.everywhere(3), field) for field in FIELDS} == {3}
    assert {Precision.everywhere(3).target(field) for field in ("output_gradients", "probability_gradients")} == {3}
    failing = Precision.failing("bf16")
    assert (failing.products, failing.accumulator, failing.key_tile, failing.scores) == ("bf16", "bf16", 64, 23)
    flash = Precision.flash(output=3, delta_from="float32")
    assert (flash.inputs, flash.probabilities, flash.score_gradients, flash.gradients) == (7, 7, 7, 7)
    assert (flash.scores, flash.row_sum, flash.delta, flash.output, flash.delta_from) == (23, 23, 23, 3, "float32")
    given = inputs(1, 1, 5, 5, 4)
    bare, full = (with_gradients(reference_attention, *given, precision=p) for p in (None, Precision.everywhere(23)))
    assert all(torch.equal(bare[name], full[name]) for name in NAMES)


def test_gradients_of_the_keys_sum_to_zero_in_exact_arithmetic() -> None:
    """Softmax does not feel a common shift of all keys: what the sum is not zero by is rounding error."""
    for is_causal in (False, True):
        dk = with_gradients(reference_attention, *inputs(2, 2, 19, 19, 8), is_causal=is_causal)["dk"]
        assert (dk.sum(2).norm() / dk.norm()).item() < 1e-6


def delta_errors(delta_from: DeltaSource) -> Tensor:
    """The error of delta in every row, read off the keys' gradients: sum_j dK_j = -scale sum_i e_i q_i, with q_i = unit vectors."""
    torch.manual_seed(0)
    rows, width = 64, 64
    q = torch.eye(rows, width)[None, None] * 1.7
    _, k, v, do = inputs(1, 1, rows, 24, width)
    v, do = v.abs() + 1.0, do.abs()
    precision = Precision(output=3, delta_from=delta_from)
    dk = with_gradients(reference_attention, q, k, v, do, precision=precision)["dk"]
    return -dk.sum(2)[0, 0] / (width**-0.5 * 1.7)


def stored_errors(value: float) -> Tensor:
    """The same where every V, and so every O, is ``value`` and dO is positive."""
    _, _, _, do = inputs(1, 1, 64, 8, 64)
    q, k = torch.eye(64)[None, None], torch.zeros(1, 1, 8, 64)
    v = torch.full((1, 1, 8, 64), value)
    dk = with_gradients(reference_attention, q, k, v, do.abs(), precision=Precision(output=3))["dk"]
    return -dk.sum(2)[0, 0] / 64**-0.5


def test_the_stored_output_gives_delta_an_error_of_the_sign_that_its_rounding_has() -> None:
    # 1.05 is kept as 1.0 and 1.1 as 1.125: delta = rowsum(dO * O) is short in every row, or too large in every row.
    assert (stored_errors(1.05) < 0).all()
    assert (stored_errors(1.10) > 0).all()
    assert (stored_errors(-1.05) > 0).all()
    assert stored_errors(1.125).abs().max() < 1e-4


def test_the_error_of_delta_is_kept_signed_at_random_or_removed() -> None:
    stored, control, cured = (delta_errors(source) for source in ("stored", "random_sign", "float32"))
    assert stored.abs().mean() > 0.05
    assert torch.allclose(control.abs(), stored.abs(), atol=1e-4), "the control must keep the size of each error"
    flipped = (control * stored < 0).float().mean()
    assert 0.25 < flipped < 0.75, f"{flipped:.0%} of the signs changed"
    assert cured.abs().max() < 1e-4


def test_the_random_signs_take_the_coherence_out_of_one_signed_errors() -> None:
    q, k, v, do = inputs(1, 1, 512, 64, 16)
    given = q, k, v * 0.05 + 1.05, do.abs()  # O near 1.05: rounded down to 1.0 nearly everywhere
    dq = {source: with_gradients(reference_attention, *given, precision=Precision(output=3, delta_from=source))["dq"]
          for source in ("stored", "random_sign", "float32")}  # fmt: skip
    drift = {source: (dq[source] - dq["float32"]) for source in ("stored", "random_sign")}
    size = {source: d.norm().item() for source, d in drift.items()}
    assert size["random_sign"] == pytest.approx(size["stored"], rel=1e-3)
    # dq_i is off by -scale e_i (P K)_i, and (P K)_i is much the same in every row.
    coherent, random = (d.sum(2).norm().item() / d.norm(dim=-1).sum().item() for d in drift.values())
    assert coherent > 0.5, coherent
    assert random < 0.15, random


def test_is_seen_by_a_torch_function_mode_under_its_own_name() -> None:
    seen: list[tuple[object, dict]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is reference_attention:
                seen.append((args, kwargs))
            return func(*args, **(kwargs or {}))

    q, k, v, _ = inputs(1, 1, 3, 3, 2)
    precision = Precision.flash()
    with Watch():
        out = reference_attention(q, k, v, is_causal=True, scale=0.5, precision=precision)
    ((args, kwargs),) = seen
    assert all(given is passed for given, passed in zip((q, k, v), args, strict=True))
    assert kwargs == {"is_causal": True, "scale": 0.5, "precision": precision}
    assert torch.equal(out, reference_attention(q, k, v, is_causal=True, scale=0.5, precision=precision))


def test_is_deterministic_and_leaves_inputs_and_the_random_stream_alone() -> None:
    given = inputs(2, 2, 9, 9, 8)
    copies = [x.clone() for x in given]
    state = torch.get_rng_state()
    for source in ("stored", "random_sign", "float32"):
        first, second = (
            with_gradients(reference_attention, *given, precision=Precision.flash(output=3, delta_from=source)) for _ in range(2)
        )
        assert all(torch.equal(first[name], second[name]) for name in NAMES)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, copy) for x, copy in zip(given, copies, strict=True))


def test_takes_views_and_hands_gradients_back_through_them() -> None:
    x = torch.randn(2, 7, 3, 4, 5, requires_grad=True)  # (B, T, qkv, H, D), as a fused projection leaves it
    q, k, v = x.permute(2, 0, 3, 1, 4)
    out = reference_attention(q, k, v, is_causal=True)
    do = torch.randn(2, 7, 4, 5).transpose(1, 2)
    (found,) = torch.autograd.grad(out, x, do)
    twin = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(plain(*twin.permute(2, 0, 3, 1, 4), is_causal=True), twin, do.double())
    assert_near(found, expected, 3e-6, "gradient of the fused projection")


def test_only_float32_is_taken_and_no_second_derivative_is_made_up() -> None:
    q, k, v, _ = inputs(1, 1, 3, 3, 2)
    with pytest.raises(TypeError, match=r"takes float32, got torch\.bfloat16"):
        reference_attention(q.bfloat16(), k.bfloat16(), v.bfloat16())
    q.requires_grad_()
    (gradient,) = torch.autograd.grad(reference_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice a function that was marked"):
        gradient.square().sum().backward()
