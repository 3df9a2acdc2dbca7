"""What a tile of the flash kernels is made of: exact rounding, soft-capped scores, who sees whom, the tied rows' shift.

Scores are kept in bits (log2 e times natural ones), for ``exp2`` is what the hardware has. Shapes: a tile of scores is
(queries, keys) or its transpose; i and j hold query and key positions in two-dimensional tensors that broadcast to it.
"""

import triton
import triton.language as tl

from ..options import BETA, LEAST_SHIFT_BITS, MOST_SHIFT_BITS, MOST_SHIFT_BITS_FLOAT16, TIE_TOLERANCE

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TOLERANCE_BITS = tl.constexpr(TIE_TOLERANCE * 1.4426950408889634)
_LARGEST = tl.constexpr(2.3e38)  # still a float32 when turned to bits
_BETA = tl.constexpr(BETA)
_LEAST = tl.constexpr(LEAST_SHIFT_BITS)
_MOST = tl.constexpr(MOST_SHIFT_BITS)
_MOST_FLOAT16 = tl.constexpr(MOST_SHIFT_BITS_FLOAT16)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """Round float32 to nearest, ties to even, on the grid of ``dtype``; the result is float32. The same on every device."""
    if dtype == tl.bfloat16:
        # In integers, for how a cast rounds has differed between devices and releases.
        bits = x.to(tl.uint32, bitcast=True)
        bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16
        x = tl.where(x != x, float("nan"), bits.to(tl.float32, bitcast=True))
    elif dtype == tl.float16:
        x = x.to(tl.float16).to(tl.float32)
    return x


@triton.jit
def tanh(x):
    """tanh from exp2, accurate to a few ulp near 0 too, where 1 - 2 / (1 + e^2x) would cancel."""
    t = tl.exp2(tl.abs(x) * (-2.0 * LOG2_E))
    far = (1.0 - t) / (1.0 + t)
    y = x * x
    near = tl.abs(x) * (1.0 + y * (-1.0 / 3.0 + y * (2.0 / 15.0 + y * (-17.0 / 315.0 + y * (62.0 / 2835.0)))))
    size = tl.where(y < 0.0625, near, far)
    return tl.where(x < 0, -size, size)


@triton.jit
def scored(product, scale, cap, CAPPED: tl.constexpr):
    """Turn q.k into scores in bits: ``product * scale``, or ``cap * tanh(product * scale)``; the launcher folds log2 e in."""
    s = product * scale
    if CAPPED:
        s = cap * tanh(s)
    return s


@triton.jit
def masked(s, mask, i, j, mask_stride_t, mask_stride_s, inside, MASK: tl.constexpr):
    """Apply the caller's mask, whose tile begins at ``mask``: boolean (1; False hides) or additive in natural units (2)."""
    if MASK == 1:
        seen = tl.load(mask + i * mask_stride_t + j * mask_stride_s, mask=inside, other=0)
        s = tl.where(seen != 0, s, float("-inf"))
    elif MASK == 2:
        added = tl.load(mask + i * mask_stride_t + j * mask_stride_s, mask=inside, other=0).to(tl.float32)
        # The least float32, with which many masks hide, must not become -inf in bits: a row full of it is uniform, not empty.
        finite = tl.minimum(tl.maximum(added, -_LARGEST), _LARGEST)
        s += tl.where(tl.abs(added) == float("inf"), added, finite) * LOG2_E
    return s


@triton.jit
def bounded(s, i, j, length_k, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """Hide keys beyond the last, after the query (causal) and outside the window."""
    seen = j < length_k
    if CAUSAL:
        seen = seen & (j <= i)
    if WINDOWED:
        seen = seen & (i - j < window)
        if not CAUSAL:
            seen = seen & (j - i < window)
    return tl.where(seen, s, float("-inf"))


@triton.jit
def tied_shift(m, dtype: tl.constexpr):
    """Return how many bits above its maximum ``m`` (in bits, finite) a tied row's shift lies.

    The rule is ``beta m`` for m > 0 and 0 for m < 0 (arXiv 2510.04212, section 5), held between two numbers of bits that are not
    whole. It is then moved by less than half an ulp, so that the tied P is a number of ``dtype``: it enters ``P V`` without a
    rounding, and weighs the same whether a tile held it with its equal or the running sums are scaled down to it later.
    """
    above = tl.where(m > 0, m * (_BETA - 1.0), -m)
    above = tl.maximum(above, _LEAST)
    above = tl.minimum(above, _MOST_FLOAT16 if dtype == tl.float16 else _MOST)
    if dtype != tl.float32:
        above = -tl.log2(rounded(tl.exp2(-above), dtype))
    return above


@triton.jit
def fetched(pointers, present, real, D: tl.constexpr, BLOCK_D: tl.constexpr, BOUNDED: tl.constexpr):
    """Load a tile of rows: 0 where they end (``present``) and where the head dimension ends (``real``), if either can happen."""
    if BOUNDED:
        tile = tl.load(pointers, mask=present & real, other=0.0)
    elif D < BLOCK_D:
        tile = tl.load(pointers, mask=real, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def sequence_of(cu_seqlens, sequences, tile, BLOCK: tl.constexpr):
    """Return the sequence that a tile belongs to, and the tile's number in it.

    Sequence n owns the tiles from ``cu_seqlens[n] // BLOCK + n`` on: as many as it needs or more, and where they begin is known
    without the other lengths, so that neither a copy to the host nor a scan is needed. A binary search: log2(sequences) loads.
    """
    low = tile * 0
    high = low + sequences
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(cu_seqlens + middle) // BLOCK + middle <= tile:
            low = middle
        else:
            high = middle
    return low, tile - tl.load(cu_seqlens + low) // BLOCK - low
