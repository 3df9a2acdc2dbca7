"""The dynamic maximum: nothing changes without a tie; with ties, wherever they fall, the softmax stays what it is."""

import itertools

import pytest
import torch
from foreshock.kernels.flash import launch
from foreshock.kernels.flash.configurations import configuration
from foreshock.kernels.options import FAILING, STABILISED, STANDARD, TIE_TOLERANCE, Options, Variant

DYNAMIC = Variant(dynamic_maximum=True)
WIDTH = 96
TYPES = [torch.bfloat16, torch.float16, torch.float32]


def attended(scores: torch.Tensor, v: torch.Tensor, variant: Variant, mask=None, **options):
    """Attend with the given (rows, keys) as scores: key j is the unit vector j, so q holds them."""
    keys = scores.shape[-1]
    k = torch.eye(keys, WIDTH, dtype=v.dtype, device=v.device)
    q = torch.zeros(scores.shape[0], WIDTH, dtype=v.dtype, device=v.device)
    q[:, :keys] = scores.to(v.dtype)
    return launch.forward(q[None, None], k[None, None], v[None, None], Options(1.0, **options), variant, mask=mask, statistics=True)


def tile(device: torch.device) -> int:
    return configuration("forward", str(launch.architecture(device)), 2, WIDTH).block_n


def met_a_tie(scores: torch.Tensor, block: int) -> torch.Tensor:
    """Rows whose maximum so far was attained more than once at the end of some tile."""
    met = torch.zeros(len(scores), dtype=torch.bool)
    for end in range(block, scores.shape[-1] + block, block):
        seen = scores[:, :end]
        met |= (seen >= seen.amax(-1, keepdim=True) - 2 * TIE_TOLERANCE).sum(-1) > 1
    return met


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("low", [False, True])
def test_rows_that_meet_no_tie_are_bit_equal_to_the_standard_ones(dtype, low, device) -> None:
    scores = (torch.randn(256, WIDTH) * 3).to(dtype).float()
    v = torch.randn(WIDTH, WIDTH).to(device, dtype)
    plain = attended(scores, v, Variant(low_precision_accumulator=low))
    moved = attended(scores, v, Variant(dynamic_maximum=True, low_precision_accumulator=low))
    free = ~met_a_tie(scores, tile(device)).to(device)
    # Both kinds of row are there: bfloat16 scores tie often by chance.
    assert 20 < free.sum() < 256 or dtype != torch.bfloat16
    assert torch.equal(plain.out[0, 0, free], moved.out[0, 0, free])
    assert torch.equal(plain.log_sum_exp[0, 0, free], moved.log_sum_exp[0, 0, free])
    if dtype == torch.bfloat16 and low:
        assert not torch.equal(plain.out, moved.out)


def split_ties(device: torch.device) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """Scores with two or three equal maxima in every arrangement of tiles, some with a lower tie before or after."""
    block = tile(device)
    spots = sorted({0, block - 1, block, 2 * block - 1, min(2 * block, WIDTH - 1), WIDTH - 1} & set(range(WIDTH)))
    places = [*itertools.combinations(spots, 2), *itertools.combinations(spots, 3), (0,), (WIDTH - 1,)]
    rows = []
    for peak, lower in itertools.product((9.0, -7.5, 40.0, 0.0), (False, True)):
        for place in places:
            row = peak - 3 - 2 * torch.rand(WIDTH)
            if lower:  # two equal keys a little below: a tie only until the first of the maxima comes
                row[[3, WIDTH - 5]] = peak - 1
            row[list(place)] = peak
            rows.append(row)
    return torch.stack(rows), places * 8


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("variant", [DYNAMIC, STABILISED], ids=["alone", "stabilised"])
def test_ties_split_over_tiles_are_counted_and_change_nothing_else(dtype, variant, device, twin) -> None:
    scores, places = split_ties(device)
    scores = scores.to(dtype).float()
    v = torch.randn(WIDTH, WIDTH).to(device, dtype)
    got, plain = attended(scores, v, variant), attended(scores, v, STANDARD)
    counted = got.statistics.tie_count[0, 0].tolist()
    assert counted == [len(place) for place in places]
    exact = torch.softmax(scores.double(), -1).to(device) @ v.double()
    ours, theirs = (twin.rms(each.out[0, 0].double() - exact) for each in (got, plain))
    assert ours <= 1.15 * theirs
    torch.testing.assert_close(got.log_sum_exp, plain.log_sum_exp, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tied_keys_weigh_the_same_in_one_tile_and_in_two(dtype, device) -> None:
    """Values of +1 and -1 at the tied keys cancel exactly, if and only if the weights are equal."""
    block = tile(device)
    pairs = [(a, b) for a in range(0, WIDTH, 7) for b in range(a + 1, WIDTH, 5)]
    assert any(a // block != b // block for a, b in pairs)
    worst = 0.0
    for peak in (12.0, 60.0, -3.0, 0.3):
        for a, b in pairs[:: len(pairs) // 12]:
            scores = torch.full((1, WIDTH), -200.0)
            scores[0, [a, b]] = peak
            v = torch.zeros(WIDTH, WIDTH, device=device, dtype=dtype)
            v[a], v[b] = 1, -1
            worst = max(worst, float(attended(scores, v, DYNAMIC).out.abs().max()))
    # Without the tied P made a number of the type, its rounding would show: 2^-9 in bfloat16, 2^-12 in float16.
    assert worst < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tied_rows_are_divided_by_the_sum_of_what_multiplies_v(dtype, device) -> None:
    """With values of 1 the float32 output is then 1 to its last bits: out plus residual shows them."""
    scores = (torch.rand(64, WIDTH) * 4).to(dtype).float()
    scores[:, [2, 20]] = 5.0  # met in the first tile: what was summed before a tie is met, is not summed again
    v = torch.ones(WIDTH, WIDTH, device=device, dtype=dtype)
    got = attended(scores, v, STABILISED)
    assert (got.out.double() + got.residual.double() - 1).abs().max() < 1e-6
    plain = attended(scores, v, Variant(float32_delta=True))
    assert (plain.out.double() + plain.residual.double() - 1).abs().max() > 1e-5


@pytest.mark.parametrize("variant", [STANDARD, FAILING, DYNAMIC, STABILISED], ids=["standard", "failing", "dynamic", "stabilised"])
def test_rows_that_see_no_key_are_zero(variant, device) -> None:
    dtype = torch.bfloat16
    q, k, v, do = (torch.randn(1, 1, 40, 32).to(device, dtype) for _ in range(4))
    seen = torch.rand(1, 1, 40, 40, device=device) < 0.5
    seen[..., ::3, :] = False
    seen[..., 4, :] = False
    seen[..., 4, 39] = True
    options = Options(1.0)
    got = launch.forward(q, k, v, options, variant, mask=seen, statistics=True)
    gradients = launch.backward(do, q, k, v, got.out, got.residual, got.log_sum_exp, options, variant, mask=seen)
    assert not got.out[..., ::3, :].any()
    assert (got.log_sum_exp[..., ::3] == -torch.inf).all()
    assert torch.equal(got.out[0, 0, 4], v[0, 0, 39])
    assert got.statistics.tie_count[0, 0, [0, 3, 4]].tolist() == [0, 0, 1]
    assert not got.statistics.entropy[..., ::3].any()
    assert (got.statistics.maximum[..., ::3] == -torch.inf).all()
    assert not gradients[0][..., ::3, :].any()
    assert all(x.isfinite().all() for x in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", [STANDARD, DYNAMIC, STABILISED], ids=["standard", "dynamic", "stabilised"])
def test_logits_of_ten_thousand_overflow_nothing(dtype, variant, device, twin) -> None:
    length, width = 70, 64
    q, k, v, do = (torch.randn(1, 2, length, width) for _ in range(4))
    k[:, :, 40] = k[:, :, 3]  # the same key in two tiles: every row that prefers it is tied
    k[:, :, 41] = k[:, :, 3]
    q[:, 0] += 2 * k[:, 0, 3:4]
    q, k, v, do = (x.to(device, dtype) for x in (q, k, v, do))
    options = Options(1.0)
    options = Options(1e4 / float(twin.scores(q, k, options).abs().max()))
    got = launch.forward(q, k, v, options, variant, statistics=True)
    gradients = launch.backward(do, q, k, v, got.out, got.residual, got.log_sum_exp, options, variant)
    assert all(x.isfinite().all() for x in (got.out, got.log_sum_exp, *gradients))
    assert 9e3 < float(got.statistics.maximum.abs().max()) <= 1.01e4
    assert (got.statistics.tie_count[0, 0] == 3).sum() > 30
    wanted, sizes = twin.exact(q, k, v, do, options), twin.sizes(q, k, v, do, options)
    for mine, key in zip((got.out, *gradients), wanted, strict=True):
        # dQ of a row whose tied keys are one and the same is 0: what is left is measured against the terms that cancel.
        size = max(twin.rms(wanted[key]), sizes.get(key, 0.0))
        assert twin.rms(mine.double() - wanted[key]) <= 0.01 * size, key


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, where hardware says inf and goes on
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("peak", [3e38, -3e38, 1e-30, -1e-30, 0.0, 88.0, -88.0])
def test_no_finite_score_makes_a_tied_row_anything_but_finite(dtype, peak, device) -> None:
    """Through an additive mask, which reaches every float32."""
    scores = torch.zeros(3, WIDTH)
    mask = torch.full((1, 1, 3, WIDTH), -3e38, device=device)
    mask[..., [5, 50]] = peak
    v = (1 + torch.rand(WIDTH, WIDTH)).to(device, dtype)
    for variant in (STANDARD, DYNAMIC):
        got = attended(scores, v, variant, mask=mask)
        expected = v.double().mean(0) if peak == -3e38 else v[[5, 50]].double().mean(0)
        torch.testing.assert_close(got.out[0, 0].double(), expected.expand(3, -1), atol=0, rtol=2**-8)
