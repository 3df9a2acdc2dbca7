"""Rounding to named formats, three ways, against torch's casts and against the two neighbours of a number."""

import math

import pytest
import torch
from foreshock.kernels.rounding import BF16, E4M3, E5M2, FORMATS, FP16, FP32, Format, Rounding, mantissa_bits, round_to
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

NARROW = [BF16, FP16, E4M3, E5M2]
floats = st.floats(width=32, allow_nan=False)


def patterns() -> Tensor:
    """A sample of all float32 bit patterns, and those on and beside every midpoint of every narrow format."""
    spread = torch.arange(0, 0x7F800000, 9973).int().view(torch.float32)
    near = []
    for form in NARROW:
        grid = every_number(form)
        middle = (grid[1:].double() + grid[:-1].double()).div(2).float()
        beside = [torch.nextafter(middle, torch.tensor(x)) for x in (0.0, math.inf)]
        near += [grid, middle, *beside]
    top = torch.tensor([464.0, 464.1, 480.0, 61439.9, 61440.0, 65519.9, 65520.0, 65536.0, 3.4e38, math.inf])
    x = torch.cat([spread, *near, top])
    return torch.cat([x, -x, torch.tensor([math.nan])])


def every_number(form: Format) -> Tensor:
    """The finite numbers of a format from 0 up, from torch's own patterns; a sample of bfloat16's."""
    if form.dtype.itemsize == 1:
        numbers = torch.arange(128, dtype=torch.uint8).view(form.dtype).float()
    else:
        numbers = torch.arange(0, 0x7F80, 7, dtype=torch.int16).view(form.dtype).float()
    return numbers[numbers.isfinite()]


@pytest.mark.parametrize("name", FORMATS)
def test_nearest_is_torchs_cast_bit_for_bit(name: str) -> None:
    x = patterns()
    found, expected = round_to(x, name), x.to(FORMATS[name].dtype).float()
    differ = (found.view(torch.int32) != expected.view(torch.int32)) & ~(found.isnan() & expected.isnan())
    wrong = x[differ]
    assert not len(wrong), f"{len(wrong)} differ, such as {wrong[0].item()}: {found[differ][0]} instead of {expected[differ][0]}"


@pytest.mark.parametrize("form", NARROW, ids=lambda form: form.name)
@pytest.mark.parametrize("mode", ["nearest", "truncate", "stochastic"])
def test_lands_on_the_format(form: Format, mode: str) -> None:
    x = torch.cat([torch.randn(3000) * torch.exp2(torch.randint(-20, 9, (3000,)).float()), torch.randn(500) * 2.0**-24])
    found = round_to(x, Rounding(form, mode))
    assert torch.equal(found, found.to(form.dtype).float())
    assert torch.equal(round_to(found, Rounding(form, mode)), found), "what the format holds stays"
    assert (found != x).float().mean() > 0.5


@pytest.mark.parametrize("target", [BF16, FP16, E4M3, E5M2, 0, 3, 10, 22], ids=lambda t: getattr(t, "name", str(t)))
@settings(max_examples=30)
@given(x=floats)
def test_truncation_is_the_neighbour_towards_zero_and_stochastic_one_of_the_two(target: Format | int, x: float) -> None:
    t = torch.tensor([x])
    down = round_to(t, Rounding(target, "truncate"))
    form = target if isinstance(target, Format) else None
    assert torch.signbit(down) == torch.signbit(t)
    if math.isinf(x):
        assert down.item() == (math.copysign(form.largest, x) if form and form.saturates else x)
        return
    assert down.abs() <= t.abs()
    draws = {round_to(t, Rounding(target, "stochastic", seed)).item() for seed in range(16)} | {round_to(t, target).item()}
    for up in draws - {down.item()}:
        if math.isfinite(up):
            assert abs(up) > abs(x)
            between = torch.tensor([(up + down.item()) / 2])
            assert round_to(between, Rounding(target, "truncate")) == down, "nothing of the format lies between the two"
        else:
            assert form is None or abs(x) > form.largest
    if down == t:
        assert draws == {x}


@pytest.mark.parametrize("target", [FP16, BF16, E4M3, 5], ids=str)
@pytest.mark.parametrize("value", [1.3, -0.77, 3e-3 * math.pi, 7e-6])
def test_stochastic_is_unbiased(target: Format | int, value: float) -> None:
    x = torch.full((20_000,), value)
    found = round_to(x, Rounding(target, "stochastic"))
    low, high = found.min().item(), found.max().item()
    # Standard error of the mean of a two-valued variable; 5 of them.
    assert abs(found.double().mean().item() - x[0].double().item()) <= 5 * (high - low) / 2 / 20_000**0.5
    assert low <= x[0].item() <= high


def test_stochastic_draws_are_repeated_told_apart_and_private() -> None:
    x = torch.randn(4000)
    state = torch.get_rng_state()
    first = round_to(x, Rounding(3, "stochastic"))
    assert torch.equal(first, round_to(x, Rounding(3, "stochastic")))
    assert torch.equal(torch.get_rng_state(), state)
    for other in (round_to(x, Rounding(3, "stochastic", seed=1)), round_to(x, Rounding(3, "stochastic"), salt=1)):
        assert 0.1 < (other != first).float().mean() < 0.6
    generator = torch.Generator().manual_seed(3)
    drawn = round_to(x, Rounding(3, "stochastic"), generator=generator)
    assert torch.equal(drawn, round_to(x, Rounding(3, "stochastic"), generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(drawn, round_to(x, Rounding(3, "stochastic"), generator=generator))
    assert torch.equal(torch.get_rng_state(), state)


def test_overflow_as_stated() -> None:
    x = torch.tensor([1e30, -1e30, math.inf, -math.inf])
    assert round_to(x, "fp16").tolist() == [math.inf, -math.inf, math.inf, -math.inf]
    assert round_to(x, "e5m2").tolist() == [math.inf, -math.inf, math.inf, -math.inf]
    assert round_to(x, "e4m3").tolist() == [448.0, -448.0, 448.0, -448.0]
    assert round_to(x, Rounding("fp16", "truncate")).tolist() == [65504.0, -65504.0, math.inf, -math.inf]
    assert torch.isfinite(round_to(x[:2], 10)).all(), "a number of bits has float32's range"


def test_says_what_exists() -> None:
    with pytest.raises(ValueError, match="'fp8' is none of the formats fp32, bf16, fp16, e4m3, e5m2"):
        round_to(torch.zeros(1), "fp8")
    with pytest.raises(ValueError, match="mode is 'up'; rounding is one of nearest, truncate, stochastic"):
        Rounding(3, "up")
    with pytest.raises(ValueError, match=r"bits is 24; float32 can be rounded to 0\.\.23"):
        Rounding(24, "truncate")
    with pytest.raises(TypeError, match=r"takes float32, got torch\.float16"):
        round_to(torch.zeros(1).half(), "e4m3")
    assert [mantissa_bits(x) for x in (7, "fp16", E4M3, Rounding("e5m2", "truncate"))] == [7, 10, 3, 2]
    assert round_to(x := torch.randn(3), FP32) is x
