"""The backward kernels of FlashAttention-2: delta, then dK and dV by tiles of keys, then dQ by tiles of queries.

    delta = rowsum(dO * O),  P = 2^(S - L),  dP = dO V^T,  dS = P * (dP - delta)
    dV = P^T dO,  dK = scale dS^T Q,  dQ = scale dS K       (with a cap c: dS times 1 - (s / c)^2)

**Where delta's O comes from.** The O that was stored in the inputs' type is off by its rounding, and that error's sum over a row
need not average out (arXiv 2510.04212). The forward kernel can store the residual O_float32 - O_stored too, in the same type:
stored + residual carries twice the significand, so delta comes from (nearly) float32 O, at the price of reading one more tensor
of O's size and without a second pass over the keys.

P and dS are rounded to the inputs' type where they enter a matrix product. Grouped queries: a program of the dK / dV kernel
goes through all heads that share its keys, so that sums stay in float32 registers and no atomics are needed.

Source: arXiv 2307.08691, algorithm 2.
"""

import triton
import triton.language as tl

from .tiles import LOG2_E, bounded, fetched, masked, scored, sequence_of


@triton.jit
def delta_kernel(
    do, out, residual, delta,
    do_stride_b, do_stride_h, do_stride_t, out_stride_b, out_stride_h, out_stride_t, heads, length, tiles,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """One program: delta of BLOCK_M rows of one head."""
    number = tl.program_id(0)
    start = (number % tiles) * BLOCK_M
    head = (number // tiles) % heads
    batch = (number // (tiles * heads)).to(tl.int64)
    local_i = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    here = start + local_i < length
    inside = here[:, None] & (d < D)[None, :]
    do += batch * do_stride_b + head.to(tl.int64) * do_stride_h + start.to(tl.int64) * do_stride_t
    do_MD = tl.load(do + local_i[:, None] * do_stride_t + d[None, :], mask=inside, other=0.0).to(tl.float32)
    spot = batch * out_stride_b + head.to(tl.int64) * out_stride_h + start.to(tl.int64) * out_stride_t
    spot = spot + local_i[:, None] * out_stride_t + d[None, :]
    o_MD = tl.load(out + spot, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        o_MD += tl.load(residual + spot, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta + (batch * heads + head) * length + start + local_i, tl.sum(do_MD * o_MD, 1), mask=here)


@triton.jit
def keys_kernel(
    do, q, k, v, dk, dv, log_sum_exp, delta, mask, cu_seqlens_q, cu_seqlens_k,
    do_stride_b, do_stride_h, do_stride_t, q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t, dk_stride_b, dk_stride_h, dk_stride_t, dv_stride_b, dv_stride_h, dv_stride_t,
    mask_stride_b, mask_stride_h, mask_stride_t, mask_stride_s,
    heads, group, length_q, length_k, tiles, sequences, window, scale, cap, slope,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, MASK: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One program: dK and dV of BLOCK_N keys of one key head. Tiles of scores are transposed here: (keys, queries)."""
    dtype: tl.constexpr = q.dtype.element_ty
    number = tl.program_id(0)
    tile = number % tiles
    heads_k = heads // group
    head_k = (number // tiles) % heads_k
    batch = (number // (tiles * heads_k)).to(tl.int64)
    rows_of_head = length_q
    row = batch * heads * length_q
    if PACKED:
        sequence, tile = sequence_of(cu_seqlens_k, sequences, tile, BLOCK_N)
        first_q = tl.load(cu_seqlens_q + sequence)
        length_q = tl.load(cu_seqlens_q + sequence + 1) - first_q
        first_k = tl.load(cu_seqlens_k + sequence)
        length_k = tl.load(cu_seqlens_k + sequence + 1) - first_k
        row += first_q
        do += first_q.to(tl.int64) * do_stride_t
        q += first_q.to(tl.int64) * q_stride_t
        k += first_k.to(tl.int64) * k_stride_t
        v += first_k.to(tl.int64) * v_stride_t
        dk += first_k.to(tl.int64) * dk_stride_t
        dv += first_k.to(tl.int64) * dv_stride_t
    start = tile * BLOCK_N
    if start >= length_k:
        return

    local_i = tl.arange(0, BLOCK_M)
    local_j = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    real = d < D
    here = start + local_j < length_k
    inside = here[:, None] & real[None, :]
    k += batch * k_stride_b + head_k.to(tl.int64) * k_stride_h + start.to(tl.int64) * k_stride_t
    v += batch * v_stride_b + head_k.to(tl.int64) * v_stride_h + start.to(tl.int64) * v_stride_t
    k_ND = tl.load(k + local_j[:, None] * k_stride_t + d[None, :], mask=inside, other=0.0)
    v_ND = tl.load(v + local_j[:, None] * v_stride_t + d[None, :], mask=inside, other=0.0)
    dk_ND = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv_ND = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)

    # Queries [low, edge) see some of the tile's keys, [edge, high) all of them.
    low = start * 0
    high = length_q
    if CAUSAL:
        low = start // BLOCK_M * BLOCK_M
    if WINDOWED:
        high = tl.minimum(high, start + BLOCK_N - 1 + window)
        if not CAUSAL:
            low = tl.maximum(start - window + 1, 0) // BLOCK_M * BLOCK_M
        edge = high
    elif CAUSAL:
        edge = tl.minimum(tl.cdiv(start + BLOCK_N - 1, BLOCK_M) * BLOCK_M, high)
    else:
        edge = low
    if start + BLOCK_N > length_k:
        edge = high
    for member in range(group):
        head = head_k.to(tl.int64) * group + member
        q_head = q + batch * q_stride_b + head * q_stride_h
        do_head = do + batch * do_stride_b + head * do_stride_h
        rows = row + head * rows_of_head
        for phase in tl.static_range(2):
            for i0 in range(low if phase == 0 else edge, edge if phase == 0 else high, BLOCK_M):
                present = i0 + local_i < length_q
                begin = tl.cast(i0, tl.int64)
                at = q_head + begin * q_stride_t + local_i[:, None] * q_stride_t + d[None, :]
                q_MD = tl.load(at, mask=present[:, None] & real[None, :], other=0.0)
                # A query past the end, or one that saw no key, has L = inf: its P are 0.
                lse = tl.load(log_sum_exp + rows + i0 + local_i, mask=present, other=float("inf")) * LOG2_E
                lse = tl.where(lse == float("-inf"), float("inf"), lse)
                s = scored(tl.dot(k_ND, tl.trans(q_MD), input_precision="ieee"), scale, cap, CAPPED)
                if CAPPED:
                    steepness = 1.0 - (s / cap) * (s / cap)
                if MASK != 0:
                    mask_rows = mask + batch * mask_stride_b + head * mask_stride_h + begin * mask_stride_t
                    mask_rows += start.to(tl.int64) * mask_stride_s
                    both = here[:, None] & present[None, :]
                    s = masked(s, mask_rows, local_i[None, :], local_j[:, None], mask_stride_t, mask_stride_s, both, MASK)
                if phase == 0:
                    s = bounded(s, (i0 + local_i)[None, :], (start + local_j)[:, None], length_k, window, CAUSAL, WINDOWED)
                p = tl.exp2(s - lse[None, :])
                at = do_head + begin * do_stride_t + local_i[:, None] * do_stride_t + d[None, :]
                do_MD = tl.load(at, mask=present[:, None] & real[None, :], other=0.0)
                dv_ND = tl.dot(p.to(dtype), do_MD, dv_ND, input_precision="ieee")
                dp = tl.dot(v_ND, tl.trans(do_MD), input_precision="ieee")
                shared = tl.load(delta + rows + i0 + local_i, mask=present, other=0.0)
                ds = p * (dp - shared[None, :])
                if CAPPED:
                    ds = ds * steepness
                dk_ND = tl.dot(ds.to(dtype), q_MD, dk_ND, input_precision="ieee")

    at = batch * dk_stride_b + head_k.to(tl.int64) * dk_stride_h + start.to(tl.int64) * dk_stride_t
    tl.store(dk + at + local_j[:, None] * dk_stride_t + d[None, :], (dk_ND * slope).to(dtype), mask=inside)
    at = batch * dv_stride_b + head_k.to(tl.int64) * dv_stride_h + start.to(tl.int64) * dv_stride_t
    tl.store(dv + at + local_j[:, None] * dv_stride_t + d[None, :], dv_ND.to(dtype), mask=inside)


@triton.jit
def queries_kernel(
    do, q, k, v, dq, log_sum_exp, delta, row_residual, mask, cu_seqlens_q, cu_seqlens_k,
    do_stride_b, do_stride_h, do_stride_t, q_stride_b, q_stride_h, q_stride_t, k_stride_b, k_stride_h, k_stride_t,
    v_stride_b, v_stride_h, v_stride_t, dq_stride_b, dq_stride_h, dq_stride_t,
    mask_stride_b, mask_stride_h, mask_stride_t, mask_stride_s,
    heads, group, length_q, length_k, tiles, sequences, window, scale, cap, slope,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, MASK: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One program: dQ of BLOCK_M queries of one head, and sum_j dS_ij (0 but for rounding) where ``row_residual`` is given."""
    dtype: tl.constexpr = q.dtype.element_ty
    number = tl.program_id(0)
    tile = number % tiles
    head = (number // tiles) % heads
    batch = (number // (tiles * heads)).to(tl.int64)
    if CAUSAL:
        tile = tiles - 1 - tile
    row = (batch * heads + head) * length_q
    if PACKED:
        sequence, tile = sequence_of(cu_seqlens_q, sequences, tile, BLOCK_M)
        first_q = tl.load(cu_seqlens_q + sequence)
        length_q = tl.load(cu_seqlens_q + sequence + 1) - first_q
        first_k = tl.load(cu_seqlens_k + sequence)
        length_k = tl.load(cu_seqlens_k + sequence + 1) - first_k
        row += first_q
        do += first_q.to(tl.int64) * do_stride_t
        q += first_q.to(tl.int64) * q_stride_t
        dq += first_q.to(tl.int64) * dq_stride_t
        k += first_k.to(tl.int64) * k_stride_t
        v += first_k.to(tl.int64) * v_stride_t
    start = tile * BLOCK_M
    if start >= length_q:
        return

    local_i = tl.arange(0, BLOCK_M)
    local_j = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    real = d < D
    here = start + local_i < length_q
    inside = here[:, None] & real[None, :]
    q += batch * q_stride_b + head.to(tl.int64) * q_stride_h + start.to(tl.int64) * q_stride_t
    do += batch * do_stride_b + head.to(tl.int64) * do_stride_h + start.to(tl.int64) * do_stride_t
    q_MD = tl.load(q + local_i[:, None] * q_stride_t + d[None, :], mask=inside, other=0.0)
    do_MD = tl.load(do + local_i[:, None] * do_stride_t + d[None, :], mask=inside, other=0.0)
    head_k = (head // group).to(tl.int64)
    k += batch * k_stride_b + head_k * k_stride_h
    v += batch * v_stride_b + head_k * v_stride_h
    if MASK != 0:
        mask += batch * mask_stride_b + head.to(tl.int64) * mask_stride_h + start.to(tl.int64) * mask_stride_t
    lse = tl.load(log_sum_exp + row + start + local_i, mask=here, other=float("inf")) * LOG2_E
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    shared = tl.load(delta + row + start + local_i, mask=here, other=0.0)
    dq_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    left_over = tl.zeros((BLOCK_M,), tl.float32)

    # As in the forward kernel: keys [low, whole) are seen by every query of the tile, [whole, high) by some.
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
            begin = tl.cast(j0, tl.int64)
            present = (j0 + local_j < length_k)[None, :]
            at = k + begin * k_stride_t + d[:, None] + local_j[None, :] * k_stride_t
            k_DN = fetched(at, present, real[:, None], D, BLOCK_D, phase == 1)
            at = v + begin * v_stride_t + d[:, None] + local_j[None, :] * v_stride_t
            v_DN = fetched(at, present, real[:, None], D, BLOCK_D, phase == 1)
            s = scored(tl.dot(q_MD, k_DN, input_precision="ieee"), scale, cap, CAPPED)
            if CAPPED:
                steepness = 1.0 - (s / cap) * (s / cap)
            if MASK != 0:
                both = here[:, None] & present
                mask_columns = mask + begin * mask_stride_s
                s = masked(s, mask_columns, local_i[:, None], local_j[None, :], mask_stride_t, mask_stride_s, both, MASK)
            if phase == 1:
                s = bounded(s, (start + local_i)[:, None], (j0 + local_j)[None, :], length_k, window, CAUSAL, WINDOWED)
            p = tl.exp2(s - lse[:, None])
            dp = tl.dot(do_MD, v_DN, input_precision="ieee")
            ds = p * (dp - shared[:, None])
            if row_residual is not None:
                left_over += tl.sum(ds, 1)
            if CAPPED:
                ds = ds * steepness
            dq_MD = tl.dot(ds.to(dtype), tl.trans(k_DN), dq_MD, input_precision="ieee")

    at = batch * dq_stride_b + head.to(tl.int64) * dq_stride_h + start.to(tl.int64) * dq_stride_t
    tl.store(dq + at + local_i[:, None] * dq_stride_t + d[None, :], (dq_MD * slope).to(dtype), mask=inside)
    if row_residual is not None:
        tl.store(row_residual + row + start + local_i, left_over, mask=here)
