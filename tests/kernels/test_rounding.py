"""Rounding of the significand against torch's own casts, which are the judge wherever a narrow format exists."""

import math

import pytest
import torch
from foreshock.kernels.rounding import round_mantissa
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

FORMATS = [
    pytest.param(7, torch.bfloat16, id="bfloat16"),
    pytest.param(10, torch.float16, id="float16"),
    pytest.param(3, torch.float8_e4m3fn, id="float8_e4m3"),
    pytest.param(2, torch.float8_e5m2, id="float8_e5m2"),
]

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
bit_counts = st.integers(0, 23)


def bits_of(x: Tensor) -> Tensor:
    return x.view(torch.int32)


def every_pattern_near_the_cut(bits: int, low: int, high: int) -> Tensor:
    """Floats with biased exponents low..high that differ in the kept bits and in what decides the rounding: all ties among them."""
    shift = 23 - bits
    half = 1 << (shift - 1)
    kept = torch.arange(1 << min(bits, 7)) << shift
    tails = torch.tensor([0, 1, half - 1, half, half + 1, (1 << shift) - 1]).unique()
    exponents = torch.arange(low, high + 1) << 23
    magnitude = (exponents[:, None, None] | kept[:, None] | tails).flatten().int()
    x = magnitude.view(torch.float32)
    return torch.cat([x, -x])


def assert_same_bits(found: Tensor, expected: Tensor, given: Tensor) -> None:
    wrong = (bits_of(found) != bits_of(expected)).nonzero().flatten()
    shown = [(given[i].item(), found[i].item(), expected[i].item()) for i in wrong[:5]]
    assert not len(wrong), f"{len(wrong)} of {len(given)} differ; (given, found, expected): {shown}"


@pytest.mark.parametrize(("bits", "dtype"), FORMATS)
def test_equals_the_cast_in_the_formats_normal_range(bits: int, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    # Exponents of the smallest normal number, and of the largest whose rounding cannot leave the format.
    low, high = math.frexp(info.tiny)[1] - 1 + 127, math.frexp(info.max)[1] - 2 + 127
    x = every_pattern_near_the_cut(bits, low, high)
    assert len(x) > 500
    assert_same_bits(round_mantissa(x, bits), x.to(dtype).float(), x)
    random = torch.randn(20_000) * torch.exp2(torch.randint(-5, 6, (20_000,)).float())
    random = random[(random.abs() >= info.tiny) & (random.abs() <= info.max / 2)]
    assert_same_bits(round_mantissa(random, bits), random.to(dtype).float(), random)


def test_equals_the_bfloat16_cast_on_subnormals_and_on_overflow() -> None:
    """bfloat16 shares float32's exponents, so its cast judges the whole of float32."""
    x = every_pattern_near_the_cut(7, 0, 254)
    rounded = round_mantissa(x, 7)
    assert_same_bits(rounded, x.to(torch.bfloat16).float(), x)
    assert rounded.isinf().any()


@given(floats, bit_counts)
def test_lands_on_the_nearest_of_the_two_neighbours_and_ties_on_the_even_one(x: float, bits: int) -> None:
    """The slow twin: scale the significand to an integer in float64, where ``round`` is exact and to even."""
    found = round_mantissa(torch.tensor([x]), bits).item()
    exponent = math.frexp(x)[1]
    # Subnormals have fewer bits: their last kept place is that of the smallest normal exponent.
    place = max(exponent - 1, -126) - bits
    expected = math.ldexp(round(math.ldexp(x, -place)), place) if x else x
    if bits == 0 and abs(math.ldexp(x, -place)) == 1.5 and place > -126:
        # No explicit bit is kept: even is the exponent field, as the integer arithmetic (and a cast to such a format) has it.
        expected = math.copysign(math.ldexp(2 if (place + 127) % 2 else 1, place), x)
    expected = math.copysign(math.inf, x) if abs(expected) >= 2.0**128 else expected
    assert found == expected, f"{x.hex()} at {bits} bits: {found.hex()} instead of {expected.hex()}"


@given(st.lists(floats, min_size=1, max_size=8), bit_counts)
def test_is_idempotent_sign_symmetric_and_monotone(values: list[float], bits: int) -> None:
    x = torch.tensor(values).sort().values
    once = round_mantissa(x, bits)
    assert torch.equal(bits_of(round_mantissa(once, bits)), bits_of(once))
    assert torch.equal(bits_of(round_mantissa(-x, bits)), bits_of(-once))
    assert (once.diff().nan_to_num(0.0) >= 0).all()


@given(st.floats(2.0**-60, 2.0**60, width=32), bit_counts, st.integers(-60, 60))
def test_does_not_care_about_powers_of_two(x: float, bits: int, exponent: int) -> None:
    if bits == 0:
        exponent -= exponent % 2  # at 0 bits a tie looks at the exponent's parity
    scaled = round_mantissa(torch.tensor([x * 2.0**exponent]), bits)
    assert torch.equal(scaled, round_mantissa(torch.tensor([x]), bits) * 2.0**exponent)


@pytest.mark.parametrize("bits", [0, 3, 7, 10, 22, 23])
def test_passes_what_is_not_finite(bits: int) -> None:
    odd_nan = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x400001], dtype=torch.int32).view(torch.float32)
    x = torch.cat([torch.tensor([math.inf, -math.inf, math.nan]), odd_nan])
    assert torch.equal(bits_of(round_mantissa(x, bits)), bits_of(x))
    zeros = torch.tensor([0.0, -0.0])
    assert torch.equal(bits_of(round_mantissa(zeros, bits)), bits_of(zeros))


def test_leaves_its_argument_alone_and_takes_any_shape_and_stride() -> None:
    x = torch.randn(3, 4, 5)
    before = x.clone()
    found = round_mantissa(x.transpose(0, 2), 3)
    assert torch.equal(x, before)
    assert found.shape == (5, 4, 3)
    assert torch.equal(found, round_mantissa(x, 3).transpose(0, 2))
    assert round_mantissa(torch.zeros(0, 2), 3).shape == (0, 2)
    assert round_mantissa(torch.tensor(1.09), 3).item() == 1.125
    assert round_mantissa(x, 23) is x


@settings(max_examples=20)
@given(st.integers().filter(lambda bits: not 0 <= bits <= 23))
def test_says_which_bits_are_allowed(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits is {bits}; float32 can be rounded to 0\.\.23"):
        round_mantissa(torch.zeros(1), bits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_says_which_dtype_is_allowed(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"takes float32, got {dtype}; convert with \.float\(\)"):
        round_mantissa(torch.zeros(1, dtype=dtype), 7)
