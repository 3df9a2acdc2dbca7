"""Forward and every gradient against float64, over a covering of the options: every pair of values meets in some case."""

import itertools
import random

import pytest
import torch
from foreshock.kernels.flash import launch
from foreshock.kernels.options import FAILING, STABILISED, STANDARD, Options, Variant

FACTORS = {
    "dtype": ["bfloat16", "float16", "float32"],
    "head_dim": [32, 64, 80, 96, 128, 256],
    "lengths": [(1, 1), (33, 65), (65, 33), (64, 64), (1, 40), (50, 1)],
    "variant": ["standard", "float32 delta", "dynamic maximum", "stabilised"],
    "causal": [False, True],
    "window": [None, 9, 40],
    "group": [1, 2, 4],
    "mask": [None, "boolean", "additive", "broadcast"],
    "softcap": [None, 3.0],
    "layout": ["contiguous", "heads last", "sliced", "columns"],
    "scale": [None, 0.4],
}
VARIANTS = {
    "standard": STANDARD,
    "failing": FAILING,
    "stabilised": STABILISED,
    "float32 delta": Variant(float32_delta=True),
    "dynamic maximum": Variant(dynamic_maximum=True),
}
# Root mean square errors, relative to the size of what is summed. The inputs are random, so these are the types' own rounding.
BOUNDS = {"bfloat16": 6e-3, "float16": 8e-4, "float32": 4e-6}
BESIDE_SDPA = {"bfloat16": 6e-4, "float16": 8e-5, "float32": 5e-7}


def covering() -> list[dict[str, object]]:
    """Cases in which every pair of values of two factors occurs; greedy, the same each time."""
    dice = random.Random(0)
    names = list(FACTORS)
    pairs = {
        (a, i, b, j)
        for a, b in itertools.combinations(range(len(names)), 2)
        for i in range(len(FACTORS[names[a]]))
        for j in range(len(FACTORS[names[b]]))
    }
    cases = []
    while pairs:
        a, i, b, j = min(pairs)
        tries = []
        for _ in range(60):
            chosen = [dice.randrange(len(FACTORS[name])) for name in names]
            chosen[a], chosen[b] = i, j
            tries.append(({(x, chosen[x], y, chosen[y]) for x, y in itertools.combinations(range(len(names)), 2)} & pairs, chosen))
        gained, chosen = max(tries, key=lambda each: len(each[0]))
        pairs -= gained
        cases.append({name: FACTORS[name][index] for name, index in zip(names, chosen, strict=True)})
    return cases


def laid_out(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Random numbers in (B, H, T, D) under other strides; "columns" has no unit stride in the last dimension."""
    batch, heads, length, width = shape
    if layout == "heads last":
        return torch.randn(batch, length, heads, width).to(device, dtype).transpose(1, 2)
    if layout == "sliced":
        return torch.randn(batch, heads, length + 3, width + 16).to(device, dtype)[:, :, 2:-1, 8:-8]
    if layout == "columns":
        return torch.randn(batch, heads, width, length).to(device, dtype).transpose(-1, -2)
    return torch.randn(shape).to(device, dtype)


def masks(kind: str | None, length_q: int, length_k: int, heads: int, device: torch.device) -> torch.Tensor | None:
    if kind == "boolean":
        return torch.rand(1, heads, length_q, length_k, device=device) < 0.8
    if kind == "additive":
        return torch.randn(1, 1, length_q, length_k, device=device)
    return torch.randn(length_k, device=device).half() if kind == "broadcast" else None


def name(case: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in case.items())


@pytest.mark.parametrize("case", covering(), ids=name)
def test_output_and_gradients_match_float64_and_are_no_worse_than_sdpa(case, device, twin) -> None:
    dtype, (length_q, length_k) = getattr(torch, case["dtype"]), case["lengths"]
    width, variant = case["head_dim"], VARIANTS[case["variant"]]
    heads = max(2, case["group"])
    heads_k = heads // case["group"]
    options = Options(case["scale"] or width**-0.5, case["causal"], case["window"], case["softcap"])
    q, do = (laid_out((1, heads, length_q, width), case["layout"], dtype, device) for _ in range(2))
    k, v = (laid_out((1, heads_k, length_k, width), case["layout"], dtype, device) for _ in range(2))
    mask = masks(case["mask"], length_q, length_k, heads, device)

    got = launch.forward(q, k, v, options, variant, mask=mask)
    gradients = launch.backward(do, q, k, v, got.out, got.residual, got.log_sum_exp, options, variant, mask=mask)
    ours = {"out": got.out, **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}

    wanted = twin.exact(q, k, v, do, options, mask)
    # Of a row or a key alone the errors are single numbers: no comparison.
    comparable = options.softcap is None and min(length_q, length_k) > 1
    theirs = twin.sdpa(q, k, v, do, options, mask) if comparable else None
    sizes = twin.sizes(q, k, v, do, options, mask)
    for key, right in wanted.items():
        assert ours[key].dtype == dtype
        assert ours[key].shape == right.shape
        error = twin.rms(ours[key].double() - right)
        # A gradient that is 0 in exact arithmetic (one key) is what is left of terms that cancel: measured against the terms.
        size = max(twin.rms(right), sizes.get(key, 0.0))
        assert error <= BOUNDS[case["dtype"]] * size, f"{key}: relative error {error / size:.2e}"
        if theirs is not None:
            others = twin.rms(theirs[key].double() - right)
            assert error <= 1.15 * others + BESIDE_SDPA[case["dtype"]] * size, f"{key}: {error:.2e}, SDPA {others:.2e}"
    expected = torch.logsumexp(twin.scores(q, k, options, mask), -1).float()
    torch.testing.assert_close(got.log_sum_exp, expected, atol=2e-3 if variant.dynamic_maximum else 2e-5, rtol=2e-6)


def test_every_pair_of_values_is_covered() -> None:
    cases = covering()
    for a, b in itertools.combinations(FACTORS, 2):
        for pair in itertools.product(FACTORS[a], FACTORS[b]):
            assert any((case[a], case[b]) == pair for case in cases)
    assert len(cases) < 60


@pytest.mark.parametrize(("batch", "length_q", "length_k"), [(0, 5, 5), (2, 0, 5), (2, 5, 0)])
def test_nothing_to_attend_to_is_no_error(batch, length_q, length_k, device) -> None:
    q = torch.randn(batch, 2, length_q, 32, device=device)
    k = torch.randn(batch, 1, length_k, 32, device=device)
    options = Options(1.0)
    got = launch.forward(q, k, k, options, STABILISED, statistics=True)
    assert got.out.shape == q.shape
    assert torch.equal(got.out, torch.zeros_like(q))
    assert (got.log_sum_exp == -torch.inf).all()
    gradients = launch.backward(q, q, k, k, got.out, got.residual, got.log_sum_exp, options, STABILISED)
    assert [tuple(x.shape) for x in gradients] == [tuple(x.shape) for x in (q, k, k)]


def test_a_batch_of_several_with_an_expanded_gradient(device, twin) -> None:
    q, k, v = (torch.randn(3, 2, 20, 32, device=device) for _ in range(3))
    do = torch.ones((), device=device).expand(q.shape)
    options = Options(0.2, is_causal=True)
    got = launch.forward(q, k, v, options, STANDARD)
    gradients = launch.backward(do, q, k, v, got.out, None, got.log_sum_exp, options, STANDARD)
    wanted = twin.exact(q, k, v, do, options)
    for mine, key in zip(gradients, ("dq", "dk", "dv"), strict=True):
        torch.testing.assert_close(mine.double(), wanted[key], atol=1e-5, rtol=1e-5)
