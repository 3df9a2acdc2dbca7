"""Rounding of float32 tensors to a narrower significand, written out in integer arithmetic.

The values stay float32; only the bits that the target format could not hold are gone. Ties go to the even neighbour, as
IEEE 754 and every GPU do by default. The exponent keeps float32's range, so neither overflow nor subnormals of the narrow
format are modelled: the failure this project reproduces is one of the significand.
"""

import torch
from torch import Tensor

FLOAT32_MANTISSA_BITS = 23
BFLOAT16_MANTISSA_BITS = 7


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
    if not 0 <= bits <= FLOAT32_MANTISSA_BITS:
        raise ValueError(f"bits is {bits}; float32 can be rounded to 0..{FLOAT32_MANTISSA_BITS} explicit mantissa bits")
    if x.dtype != torch.float32:
        raise TypeError(f"round_mantissa takes float32, got {x.dtype}; convert with .float() first")
    if bits == FLOAT32_MANTISSA_BITS:
        return x
    shift = FLOAT32_MANTISSA_BITS - bits
    pattern = x.detach().contiguous().view(torch.int32)
    # Half an ulp less one, plus the last kept bit: carries upward exactly when RNE rounds away from zero.
    odd = (pattern >> shift) & 1
    rounded = ((pattern + odd + ((1 << (shift - 1)) - 1)) >> shift) << shift
    return torch.where(torch.isfinite(x), rounded.view(torch.float32), x)
