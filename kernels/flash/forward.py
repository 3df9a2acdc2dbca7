"""The forward kernel: FlashAttention-2 with an online dynamic maximum.

    S = scale Q K^T (in bits),  m = rowmax S,  P_bar = 2^(S - shift),  l = rowsum P_bar,  O = (P_bar V) / l,  L = shift + log2 l

**The dynamic maximum, online.** A row carries (m, ties, shift, l, O~) over the tiles of keys: its maximum so far, how many keys
attained it (within TIE_TOLERANCE), and sums in units of 2^-shift. With each tile m and ties are brought up to date, the shift
follows from them alone (m, or m + ``tied_shift(m)`` where ties > 1), and l and O~ are multiplied by 2^(old shift - new shift).
O = O~ / l and L do not depend on the shift, so whatever sequence of shifts the tiles led through, the result is the softmax: there
is nothing to correct at the end. What the shift does change is rounding, and there

- a tie of keys in different tiles is met when the later one arrives: from then on the row is in the units of a tied one, in which
  the earlier key weighs 2^-above exactly as the later one does, for ``tied_shift`` makes that a number of P's own type;
- a tie that a greater score overtakes leaves only P's rounded in other units behind;
- a row that at no tile held a tie has shift = m + 0 throughout, and is bit for bit the standard algorithm's;
- m <= shift <= m + MOST_SHIFT_BITS, so P_bar of the maximum lies in [2^-MOST, 1]: no overflow, no underflow, l > 0;
- a row that sees no key has m = -inf: it is never tied, all its P are 0, and it ends with l = 0, O = 0, L = -inf.

From the tile on in which a row is tied, l sums the rounded P, those that multiply V. Costs a comparison and a select a score.

Sources: arXiv 2307.08691 (FlashAttention-2), arXiv 2510.04212, section 5 (the dynamic maximum).
"""

import triton
import triton.language as tl

from .tiles import LN_2, TOLERANCE_BITS, bounded, fetched, masked, rounded, scored, sequence_of, tied_shift


@triton.jit
def forward_kernel(
    q, k, v, out, residual, log_sum_exp, maximum, tie_count, entropy, mask, cu_seqlens_q, cu_seqlens_k,
    q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t, v_stride_b, v_stride_h, v_stride_t,
    out_stride_b, out_stride_h, out_stride_t, mask_stride_b, mask_stride_h, mask_stride_t, mask_stride_s,
    heads, group, length_q, length_k, tiles, sequences, window, scale, cap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, MASK: tl.constexpr, PACKED: tl.constexpr,
    DYNAMIC: tl.constexpr, LOW: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M queries of one head. Outputs that are None are compiled away."""
    dtype: tl.constexpr = q.dtype.element_ty
    number = tl.program_id(0)
    tile = number % tiles
    head = (number // tiles) % heads
    batch = (number // (tiles * heads)).to(tl.int64)
    if CAUSAL:
        tile = tiles - 1 - tile  # the longest rows first, so that no long one is left over at the end
    row = (batch * heads + head) * length_q  # of the statistics, which are contiguous (B, H, T)
    if PACKED:
        sequence, tile = sequence_of(cu_seqlens_q, sequences, tile, BLOCK_M)
        first_q = tl.load(cu_seqlens_q + sequence)
        length_q = tl.load(cu_seqlens_q + sequence + 1) - first_q
        first_k = tl.load(cu_seqlens_k + sequence)
        length_k = tl.load(cu_seqlens_k + sequence + 1) - first_k
        row += first_q
        q += first_q.to(tl.int64) * q_stride_t
        k += first_k.to(tl.int64) * k_stride_t
        v += first_k.to(tl.int64) * v_stride_t
        out += first_q.to(tl.int64) * out_stride_t
        if residual is not None:
            residual += first_q.to(tl.int64) * out_stride_t
    start = tile * BLOCK_M
    if start >= length_q:
        return

    local_i = tl.arange(0, BLOCK_M)
    local_j = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    real = d < D
    here = start + local_i < length_q
    # 64 bits where a tile begins, 32 inside it: tensors may be larger than 2^31 elements, tiles are not.
    q += batch * q_stride_b + head.to(tl.int64) * q_stride_h + start.to(tl.int64) * q_stride_t
    q_MD = tl.load(q + local_i[:, None] * q_stride_t + d[None, :], mask=here[:, None] & real[None, :], other=0.0)
    head_k = (head // group).to(tl.int64)
    k += batch * k_stride_b + head_k * k_stride_h
    v += batch * v_stride_b + head_k * v_stride_h
    if MASK != 0:
        mask += batch * mask_stride_b + head.to(tl.int64) * mask_stride_h + start.to(tl.int64) * mask_stride_t

    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    ties = tl.zeros((BLOCK_M,), tl.int32)
    shift = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M,), tl.float32)  # sum P_bar (S - shift), for the entropy
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

    # Keys [low, whole) are seen by every query of the tile, [whole, high) by some.
    low = start * 0
    high = length_k
    if CAUSAL:
        high = tl.minimum(high, start + BLOCK_M)
    if WINDOWED:
        low = tl.maximum(start - window + 1, 0) // BLOCK_N * BLOCK_N
        if not CAUSAL:
            high = tl.minimum(high, start + BLOCK_M - 1 + window)
        whole = low
    elif CAUSAL:
        whole = tl.minimum(start + 1, length_k) // BLOCK_N * BLOCK_N
    else:
        whole = length_k // BLOCK_N * BLOCK_N
    for phase in tl.static_range(2):
        for j0 in range(low if phase == 0 else whole, whole if phase == 0 else high, BLOCK_N):
            k_rows = k + tl.cast(j0, tl.int64) * k_stride_t
            v_rows = v + tl.cast(j0, tl.int64) * v_stride_t
            present = j0 + local_j < length_k
            at = k_rows + d[:, None] + local_j[None, :] * k_stride_t
            k_DN = fetched(at, present[None, :], real[:, None], D, BLOCK_D, phase == 1)
            s = scored(tl.dot(q_MD, k_DN, input_precision="ieee"), scale, cap, CAPPED)
            if MASK != 0:
                inside = here[:, None] & present[None, :]
                mask_columns = mask + tl.cast(j0, tl.int64) * mask_stride_s
                s = masked(s, mask_columns, local_i[:, None], local_j[None, :], mask_stride_t, mask_stride_s, inside, MASK)
            if phase == 1:
                s = bounded(s, (start + local_i)[:, None], (j0 + local_j)[None, :], length_k, window, CAUSAL, WINDOWED)

            m_new = tl.maximum(m, tl.max(s, 1))
            shift_new = m_new
            if DYNAMIC or tie_count is not None:
                near = m_new - TOLERANCE_BITS
                ties = tl.where(m >= near, ties, 0) + tl.sum((s >= near[:, None]).to(tl.int32), 1)
                ties = tl.where(m_new > float("-inf"), ties, 0)
            if DYNAMIC:
                shift_new = m_new + tl.where(ties > 1, tied_shift(m_new, dtype), 0.0)
            m = m_new
            # -inf - -inf is NaN: a row that has seen no key yet subtracts 0, and its P are 0 all the same.
            safe = tl.where(shift_new == float("-inf"), 0.0, shift_new)
            p = tl.exp2(s - safe[:, None])
            alpha = tl.exp2(shift - safe)
            p_low = p.to(dtype)
            if entropy is not None:
                # Where there is nothing to multiply, -inf must not be what it is multiplied by.
                weighted = (weighted + row_sum * tl.where(row_sum > 0, shift - safe, 0.0)) * alpha
                weighted += tl.sum(p * tl.where(p > 0, s - safe[:, None], 0.0), 1)
            if DYNAMIC:
                row_sum = row_sum * alpha + tl.sum(tl.where((ties > 1)[:, None], p_low.to(tl.float32), p), 1)
            else:
                row_sum = row_sum * alpha + tl.sum(p, 1)
            shift = shift_new
            at = v_rows + local_j[:, None] * v_stride_t + d[None, :]
            v_ND = fetched(at, present[:, None], real[None, :], D, BLOCK_D, phase == 1)
            if LOW:
                product = rounded(tl.dot(p_low, v_ND, input_precision="ieee"), dtype)
                acc = rounded(acc * alpha[:, None] + product, dtype)
            else:
                acc = tl.dot(p_low, v_ND, acc * alpha[:, None], input_precision="ieee")

    # l is 0 where no key was seen (never by underflow), and NaN where a score was.
    divisor = tl.where(row_sum == 0, 1.0, row_sum)
    o = acc / divisor[:, None]
    stored = o.to(dtype)
    begin = batch * out_stride_b + head.to(tl.int64) * out_stride_h + start.to(tl.int64) * out_stride_t
    spot = begin + local_i[:, None] * out_stride_t + d[None, :]
    tl.store(out + spot, stored, mask=here[:, None] & real[None, :])
    if residual is not None:
        tl.store(residual + spot, (o - stored.to(tl.float32)).to(dtype), mask=here[:, None] & real[None, :])
    rows = row + start + local_i
    empty = row_sum == 0
    tl.store(log_sum_exp + rows, tl.where(empty, float("-inf"), (shift + tl.log2(divisor)) * LN_2), mask=here)
    if maximum is not None:
        tl.store(maximum + rows, m * LN_2, mask=here)
    if tie_count is not None:
        tl.store(tie_count + rows, ties, mask=here)
    if entropy is not None:
        tl.store(entropy + rows, (tl.log2(divisor) - weighted / divisor) * LN_2, mask=here)
