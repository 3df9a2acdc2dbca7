"""Rounding of float32 tensors to narrower formats, written out: any significand, three ways to round, the formats' true ranges.

The values stay float32; only what the target format could not hold is gone. Two families:

- *n mantissa bits* (an ``int``, 0 to 23): the significand alone. The exponent keeps float32's range; neither overflow nor
  subnormals of a narrow format are modelled.
- a named ``Format`` (``"bf16"``, ``"fp16"``, ``"e4m3"``, ``"e5m2"``, ``"fp32"``): with its range, its subnormals and its
  overflow, equal bit for bit to torch's cast to it and back.

Nearest takes ties to the even neighbour, as IEEE 754 and every GPU do by default. Truncation goes towards zero. Stochastic
rounding goes away from zero with the probability of the fraction cut off; its random bits are a hash of place, value and seed, or
come from a generator that is passed in: never from torch's global ones, so that measuring does not change a training run.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FLOAT32_MANTISSA_BITS = 23
BFLOAT16_MANTISSA_BITS = 7
_FLOAT32_LEAST_EXPONENT = -126
_FLOAT32_LARGEST = torch.finfo(torch.float32).max

Mode = Literal["nearest", "truncate", "stochastic"]
_MODES = ("nearest", "truncate", "stochastic")


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format no wider than float32.

    Attributes:
        name: as it is said.
        mantissa_bits: explicit bits of the significand.
        least_exponent: of the smallest normal number, as a power of two; below it numbers are subnormal.
        largest: largest finite number.
        saturates: what is larger becomes ``largest``, infinity too (torch's casts to e4m3, which has no infinity, since 2.13);
            otherwise it becomes infinite.
        dtype: torch's, if it has one.
    """

    name: str
    mantissa_bits: int
    least_exponent: int = _FLOAT32_LEAST_EXPONENT
    largest: float = _FLOAT32_LARGEST
    saturates: bool = False
    dtype: torch.dtype | None = None


FP32 = Format("fp32", 23, dtype=torch.float32)
BF16 = Format("bf16", 7, largest=torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
FP16 = Format("fp16", 10, -14, 65504.0, dtype=torch.float16)
E4M3 = Format("e4m3", 3, -6, 448.0, saturates=True, dtype=torch.float8_e4m3fn)
E5M2 = Format("e5m2", 2, -14, 57344.0, dtype=torch.float8_e5m2)
FORMATS = {each.name: each for each in (FP32, BF16, FP16, E4M3, E5M2)}


@dataclass(frozen=True, slots=True)
class Rounding:
    """A format, or a number of mantissa bits, and the way to get there.

    Attributes:
        to: a ``Format``, its name, or explicit mantissa bits 0 to 23.
        mode: ``"nearest"`` (ties to even), ``"truncate"`` (towards zero) or ``"stochastic"``.
        seed: of the stochastic mode's hash.

    Raises:
        ValueError: a name, a number of bits or a mode that does not exist.
    """

    to: "int | str | Format"
    mode: Mode = "nearest"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.to, str) and self.to not in FORMATS:
            raise ValueError(f"{self.to!r} is none of the formats {', '.join(FORMATS)}; or give a number of mantissa bits")
        if isinstance(self.to, int):
            _check(self.to)
        if self.mode not in _MODES:
            raise ValueError(f"mode is {self.mode!r}; rounding is one of {', '.join(_MODES)}")

    @property
    def format(self) -> Format:
        """The format itself."""
        if isinstance(self.to, Format):
            return self.to
        return FORMATS[self.to] if isinstance(self.to, str) else Format(f"{self.to} bits", self.to)


Target = int | str | Format | Rounding
"""What can be rounded to; a bare number, name or format means to nearest."""


def mantissa_bits(target: Target) -> int:
    """Return the explicit mantissa bits that ``target`` keeps."""
    if isinstance(target, int):
        return target
    return (target if isinstance(target, Rounding) else Rounding(target)).format.mantissa_bits


def round_to(x: Tensor, target: Target, *, salt: int = 0, generator: torch.Generator | None = None) -> Tensor:
    """Round ``x`` to a format, a number of mantissa bits, or as a ``Rounding`` says.

    Overflow: to nearest and stochastically, what rounds beyond the format's largest number becomes infinite, or that number
    where the format saturates; truncation stops at that number, and only infinity stays infinite.

    Args:
        x: float32, any shape.
        target: see ``Target``.
        salt: tells apart the places of a program that round with one seed.
        generator: source of the stochastic mode's bits, on ``x``'s device, in place of the hash.

    Returns:
        A new float32 tensor (``x`` itself where nothing is to be done). Not differentiable. NaN stays NaN.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: no such target.
    """
    if isinstance(target, int):
        return round_mantissa(x, target)
    how = target if isinstance(target, Rounding) else Rounding(target)
    form, bits = how.format, how.format.mantissa_bits
    if how.mode == "nearest" and form.least_exponent == _FLOAT32_LEAST_EXPONENT:
        return round_mantissa(x, bits)
    if x.dtype != torch.float32:
        raise TypeError(f"round_to takes float32, got {x.dtype}; convert with .float() first")
    x = x.detach()
    if bits == FLOAT32_MANTISSA_BITS and form.largest == _FLOAT32_LARGEST:
        return x
    magnitude = x.abs().contiguous()
    random = _random_bits(x, how.seed, salt, generator) if how.mode == "stochastic" else None
    normal = _round_pattern(magnitude, bits, how.mode, random)
    if form.least_exponent > _FLOAT32_LEAST_EXPONENT:
        small = _round_to_multiple(magnitude, form.least_exponent - bits, how.mode, random)
        normal = torch.where(magnitude < 2.0**form.least_exponent, small, normal)
    if how.mode == "truncate":
        normal = torch.where(magnitude.isfinite(), normal.clamp(max=form.largest), normal)
    beyond = form.largest if form.saturates else float("inf")
    normal = torch.where(normal > form.largest, beyond, normal)
    return torch.where(x.isnan(), x, torch.copysign(normal, x))


def round_mantissa(x: Tensor, bits: int) -> Tensor:
    """Round ``x`` to ``bits`` explicit mantissa bits, to nearest, ties to even. NaN and infinities pass unchanged.

    Args:
        x: float32 tensor of any shape.
        bits: explicit mantissa bits to keep, 0 to 23: 7 is bfloat16's significand, 10 float16's, 3 float8 e4m3's.

    Returns:
        A new float32 tensor of ``x``'s shape (``x`` itself when ``bits`` is 23). Not differentiable.

    Raises:
        ValueError: ``bits`` lies outside 0..23.
        TypeError: ``x`` is not float32.
    """
    _check(bits)
    if x.dtype != torch.float32:
        raise TypeError(f"round_mantissa takes float32, got {x.dtype}; convert with .float() first")
    if bits == FLOAT32_MANTISSA_BITS:
        return x
    return torch.where(torch.isfinite(x), _round_pattern(x.detach().contiguous(), bits, "nearest", None), x)


def _check(bits: int) -> None:
    if not 0 <= bits <= FLOAT32_MANTISSA_BITS:
        raise ValueError(f"bits is {bits}; float32 can be rounded to 0..{FLOAT32_MANTISSA_BITS} explicit mantissa bits")


def _round_pattern(x: Tensor, bits: int, mode: Mode, random: Tensor | None) -> Tensor:
    """Round in integer arithmetic: what is added carries upward exactly when the rounding goes away from zero."""
    shift = FLOAT32_MANTISSA_BITS - bits
    if shift == 0:
        return x
    pattern = x.view(torch.int32)
    if mode == "nearest":
        # Half an ulp less one, plus the last kept bit.
        added: Tensor | int = ((pattern >> shift) & 1) + ((1 << (shift - 1)) - 1)
    else:
        added = 0 if random is None else (random & ((1 << shift) - 1)).int()
    rounded = ((pattern + added) >> shift) << shift
    return torch.where(x.isfinite(), rounded.view(torch.float32), x) if mode != "nearest" else rounded.view(torch.float32)


def _round_to_multiple(magnitude: Tensor, exponent: int, mode: Mode, random: Tensor | None) -> Tensor:
    """Round to a multiple of ``2^exponent``: what subnormals are. Scaling by a power of two is exact."""
    scaled = magnitude * 2.0**-exponent
    if mode == "nearest":
        return torch.round(scaled) * 2.0**exponent  # ties to even
    whole = scaled.trunc()
    if random is not None:
        # 24 random bits: as fine as float32 can compare.
        whole = whole + ((random >> 8).float() * 2.0**-24 < scaled - whole)
    return whole * 2.0**exponent


def _random_bits(x: Tensor, seed: int, salt: int, generator: torch.Generator | None) -> Tensor:
    """Return 32 random bits an element, as int64."""
    if generator is not None:
        return torch.randint(1 << 32, x.shape, device=x.device, generator=generator)
    place = torch.arange(x.numel(), device=x.device).view(x.shape)
    key = _mixed(torch.tensor((seed * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF, device=x.device))
    return _mixed(_mixed(place + key) ^ (x.contiguous().view(torch.int32).long() & 0xFFFFFFFF))


def _mixed(x: Tensor) -> Tensor:
    """Mix the low 32 bits of int64 (the "lowbias32" hash: each bit given flips each bit found about half the time)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
