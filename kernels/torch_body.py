"""Attention's body in PyTorch, forward and backward: what runs on CPUs, and wherever Triton cannot.

It works through blocks of queries, so that the scores in memory stay near ``SCORES`` numbers however long the rows, and works
them out again in the backward pass. Arithmetic is float32 (float64 for float64), also for bfloat16 and float16, which are rounded
only on the way in and out: P is never rounded, a tie in a row biases nothing, and the dynamic maximum has nothing to mend. It acts,
as P V and the accumulator are rounded, only with ``low_precision_accumulator``: the failing algorithm, here for experiments.

Cost beside the inputs and outputs: log-sum-exp, for half-precision inputs the residual that brings delta's O back, and some blocks
of ``SCORES`` float32 numbers. Matrix products: two forward, five backward; keys hidden by causality or a window are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .dynamic_maximum import tie_shift
from .masking import hidden_keys, visible_span
from .options import LEAST_SHIFT_BITS, MOST_SHIFT_BITS, MOST_SHIFT_BITS_FLOAT16, Options, Variant

SCORES = 1 << 19
_LEAST_ROWS = 64
_KEY_TILE = 64
_HALF = (torch.bfloat16, torch.float16)


def keeps_residual(dtype: torch.dtype, variant: Variant) -> bool:
    """Tell whether the backward pass needs more than the output as stored."""
    return variant.float32_delta and dtype in _HALF


def empty_output(q: Tensor, v: Tensor) -> Tensor:
    """Return an output that is laid out in memory as q is, as the Triton kernels leave it."""
    return torch.empty_like(q) if q.shape[3] == v.shape[3] else q.new_empty(*q.shape[:3], v.shape[3])


@dataclass(frozen=True, slots=True)
class _Call:
    """What stays the same from block to block. Shapes: N sequences, G key heads, R query heads a key head, T, S, D, E."""

    q_NGRTD: Tensor
    k_NGSD: Tensor
    v_NGSE: Tensor
    mask_NGRTS: Tensor | None
    options: Options
    variant: Variant
    dropout_p: float
    dice: torch.Generator | None

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, options: Options, variant: Variant, mask: Tensor | None, dropout_p: float, seed: int
    ) -> "_Call":
        groups = k.shape[1]
        q_NGRTD = q.unflatten(1, (groups, q.shape[1] // max(1, groups)))
        if mask is not None:
            mask = mask.expand(*q.shape[:3], k.shape[2]).unflatten(1, q_NGRTD.shape[1:3])
        dice = torch.Generator(q.device).manual_seed(seed) if dropout_p else None
        return cls(q_NGRTD, k, v, mask, options, variant, dropout_p, dice)

    @property
    def arithmetic(self) -> torch.dtype:
        return torch.float64 if self.q_NGRTD.dtype == torch.float64 else torch.float32

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Yield slices of sequences and key heads whose scores fit together, one block of rows of each."""
        sequences, groups = self.k_NGSD.shape[:2]
        fit = max(1, SCORES // max(1, self._block_rows() * self._row_size()))
        step = min(fit, max(1, groups))
        more = max(1, fit // step) if step == groups else 1
        for n in range(0, sequences, more):
            for g in range(0, groups, step):
                yield slice(n, n + more), slice(g, g + step)

    def blocks(self) -> Iterator[range]:
        """Yield ranges of rows."""
        rows, step = self.q_NGRTD.shape[3], self._block_rows()
        for start in range(0, rows, step):
            yield range(start, min(start + step, rows))

    def _row_size(self) -> int:
        return self.q_NGRTD.shape[2] * self.k_NGSD.shape[2]

    def _block_rows(self) -> int:
        rows = max(1, self.q_NGRTD.shape[3])
        fit = max(_LEAST_ROWS, SCORES // max(1, self._row_size()))
        if self.options.is_causal or self.options.window is not None:
            fit = min(fit, max(_LEAST_ROWS, rows // 8))  # finer blocks skip more hidden keys
        return min(rows, fit)

    def scores(self, q_NGMD: Tensor, k_NGSD: Tensor, part: tuple[slice, slice], rows: range, keys: range) -> Tensor:
        """Return the masked scores of a block, (n, g, R, t, s), from its queries, already scaled."""
        s_NGMS = q_NGMD @ k_NGSD[:, :, keys.start : keys.stop].mT
        if (cap := self.options.softcap) is not None:
            s_NGMS.div_(cap).tanh_().mul_(cap)
        s_NGRTS: Tensor = s_NGMS.unflatten(2, (-1, len(rows)))
        if self.mask_NGRTS is not None:
            mask = self.mask_NGRTS[(*part, slice(None), _cut(rows), _cut(keys))]
            s_NGRTS = s_NGRTS.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else s_NGRTS.add_(mask)
        hidden = hidden_keys(rows, keys, self.options, q_NGMD.device)
        return s_NGRTS.masked_fill_(hidden, float("-inf")) if hidden is not None else s_NGRTS

    def may_see_nothing(self, keys: range) -> bool:
        """Tell whether a query may see no key at all."""
        return self.mask_NGRTS is not None or self.options.window is not None or not len(keys)

    def dropped(self, like: Tensor) -> Tensor:
        """Return 0 or ``1 / (1 - p)`` for each P of a block: the same again when the backward pass asks in the same order."""
        kept = torch.empty_like(like).bernoulli_(1 - self.dropout_p, generator=self.dice)
        return kept.div_(1 - self.dropout_p) if self.dropout_p < 1 else kept


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    variant: Variant,
    *,
    mask: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute attention.

    Args:
        q: (B, H, T, D) of any floating dtype and strides.
        k: (B, G, S, D); H is a multiple of G.
        v: (B, G, S, E).
        options: what is computed.
        variant: how carefully.
        mask: SDPA's, broadcastable to (B, H, T, S).
        cu_seqlens_q: int32 bounds of sequences packed along T (B is 1).
        cu_seqlens_k: the same along S; by default ``cu_seqlens_q``.
        dropout_p: probability that a P is dropped.
        seed: of the generator that drops, which is private.

    Returns:
        O, (B, H, T, E) in q's dtype, zeros for a query that sees no key; log-sum-exp, (B, H, T) float32 (float64 for float64),
        minus infinity there; the residual O - float32 O, in q's dtype, if the backward pass will want it.
    """
    out = empty_output(q, v)
    log_sum_exp = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    residual = torch.empty_like(out) if keeps_residual(q.dtype, variant) else None
    for i, j in _sequences(q, k, cu_seqlens_q, cu_seqlens_k):
        call = _Call.of(q[:, :, i], k[:, :, j], v[:, :, j], options, variant, mask, dropout_p, seed + i.start)
        kept = None if residual is None else residual[:, :, i]
        _forward(call, out[:, :, i], log_sum_exp[:, :, i], kept)
    return out, log_sum_exp, residual


def backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    residual: Tensor | None,
    log_sum_exp: Tensor,
    options: Options,
    variant: Variant,
    *,
    mask: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dQ, dK and dV in their inputs' dtype, from ``forward``'s arguments and results and dO, (B, H, T, E)."""
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for i, j in _sequences(q, k, cu_seqlens_q, cu_seqlens_k):
        call = _Call.of(q[:, :, i], k[:, :, j], v[:, :, j], options, variant, mask, dropout_p, seed + i.start)
        rows = (do[:, :, i], out[:, :, i], None if residual is None else residual[:, :, i], log_sum_exp[:, :, i])
        _backward(call, rows, dq[:, :, i], dk[:, :, j], dv[:, :, j])
    return dq, dk, dv


def _forward(call: _Call, out: Tensor, log_sum_exp: Tensor, residual: Tensor | None) -> None:
    shape = call.q_NGRTD.shape[1:3]
    out, log_sum_exp = out.unflatten(1, shape), log_sum_exp.unflatten(1, shape)
    residual = None if residual is None else residual.unflatten(1, shape)
    for part in call.parts():
        k, v = call.k_NGSD[part].to(call.arithmetic), call.v_NGSE[part].to(call.arithmetic)
        for rows in call.blocks():
            at = (*part, slice(None), _cut(rows))
            keys = visible_span(rows, k.shape[2], call.options)
            q = call.q_NGRTD[at].to(call.arithmetic).mul(call.options.scale).flatten(2, 3)
            s = call.scores(q, k, part, rows, keys)
            m = s.amax(-1, keepdim=True) if len(keys) else s.new_full((*s.shape[:-1], 1), float("-inf"))
            nowhere = m == float("-inf") if call.may_see_nothing(keys) else None
            if nowhere is not None:
                m.masked_fill_(nowhere, 0.0)
            if call.variant.low_precision_accumulator:
                row_sum, exact, shift = _low_precision(call, s, m, v[:, :, _cut(keys)])
                m = m + shift
            else:
                p = s.sub_(m).exp_()
                row_sum = p.sum(-1, keepdim=True)
                if call.dropout_p:
                    p.mul_(call.dropped(p))
                exact = (p.flatten(2, 3) @ v[:, :, _cut(keys)]).unflatten(2, p.shape[2:4])
            exact = exact.div_(row_sum if nowhere is None else row_sum.masked_fill(nowhere, 1.0))
            out[at] = exact.to(out.dtype)
            if residual is not None:
                residual[at] = (exact - out[at]).to(out.dtype)
            log_sum_exp[at] = (m + row_sum.log()).squeeze(-1)


def _low_precision(call: _Call, s: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return l, P_bar V and the shift beyond m; P, P V and the accumulator are rounded to the input dtype, tile by tile of keys."""
    dtype = call.q_NGRTD.dtype
    shift = torch.zeros_like(m)
    if call.variant.dynamic_maximum and s.shape[-1]:
        most = MOST_SHIFT_BITS_FLOAT16 if dtype == torch.float16 else MOST_SHIFT_BITS
        top = s.amax(-1, keepdim=True)  # m is 0 where it is minus infinity
        shift = tie_shift(s, top, (LEAST_SHIFT_BITS, most))
    row_sum, product = torch.zeros_like(m), s.new_zeros(*s.shape[:-1], v.shape[-1])
    before = torch.full_like(m, float("-inf"))
    for start in range(0, s.shape[-1], _KEY_TILE):
        tile = s[..., start : start + _KEY_TILE]
        now = torch.maximum(before, tile.amax(-1, keepdim=True))
        now = torch.where(shift != 0, m, now)
        safe = now.masked_fill(now == float("-inf"), 0.0)
        p = ((tile - safe) - shift).exp()
        rounded = p.to(dtype).to(p.dtype)
        fading = (before - safe).exp()
        row_sum = row_sum * fading + torch.where(shift != 0, rounded, p).sum(-1, keepdim=True)
        if call.dropout_p:
            rounded = (rounded * call.dropped(rounded)).to(dtype).to(p.dtype)
        term = (rounded.flatten(2, 3) @ v[:, :, start : start + _KEY_TILE]).unflatten(2, p.shape[2:4])
        product = (product * fading + term.to(dtype)).to(dtype).to(p.dtype)
        before = now
    return row_sum, product, shift


def _backward(call: _Call, rows_of: tuple[Tensor, Tensor, Tensor | None, Tensor], dq: Tensor, dk: Tensor, dv: Tensor) -> None:
    shape = call.q_NGRTD.shape[1:3]
    do, out, residual, log_sum_exp = (None if x is None else x.unflatten(1, shape) for x in rows_of)
    assert do is not None
    assert out is not None
    assert log_sum_exp is not None
    dq, arithmetic, scale = dq.unflatten(1, shape), call.arithmetic, call.options.scale
    for part in call.parts():
        k, v = call.k_NGSD[part].to(arithmetic), call.v_NGSE[part].to(arithmetic)
        dk_part, dv_part = torch.zeros_like(k), torch.zeros_like(v)
        for rows in call.blocks():
            at = (*part, slice(None), _cut(rows))
            keys = visible_span(rows, k.shape[2], call.options)
            seen = (slice(None), slice(None), _cut(keys))
            q = call.q_NGRTD[at].to(arithmetic).mul(scale).flatten(2, 3)
            do_block, o_block = do[at].to(arithmetic), out[at].to(arithmetic)
            if residual is not None:
                o_block = o_block + residual[at]
            delta = (do_block * o_block).sum(-1, keepdim=True)
            do_NGME = do_block.flatten(2, 3)
            s = call.scores(q, k, part, rows, keys)
            steep = None if (cap := call.options.softcap) is None else _steepness(s, cap)
            lse = log_sum_exp[at].unsqueeze(-1)
            if call.may_see_nothing(keys):
                lse = lse.masked_fill(lse == float("-inf"), 0.0)
            p = s.sub_(lse).exp_()
            ds = (do_NGME @ v[seen].mT).unflatten(2, p.shape[2:4])
            if call.dropout_p:
                dropped = call.dropped(p)
                dv_part[seen] += (p * dropped).flatten(2, 3).mT @ do_NGME
                ds.mul_(dropped)
            else:
                dv_part[seen] += p.flatten(2, 3).mT @ do_NGME
            ds.sub_(delta).mul_(p)
            if steep is not None:
                ds.mul_(steep)
            ds_NGMS = ds.flatten(2, 3)
            dq[at] = (ds_NGMS @ k[seen]).mul_(scale).unflatten(2, p.shape[2:4]).to(dq.dtype)
            dk_part[seen] += ds_NGMS.mT @ q
        dk[part], dv[part] = dk_part.to(dk.dtype), dv_part.to(dv.dtype)


def _steepness(s: Tensor, cap: float) -> Tensor:
    """Return the cap's derivative at capped scores; 0 at masked ones."""
    return (1 - (s / cap).square()).masked_fill_(s == float("-inf"), 0.0)


def _sequences(q: Tensor, k: Tensor, cu_q: Tensor | None, cu_k: Tensor | None) -> Iterator[tuple[slice, slice]]:
    """Yield the slices of T and S that belong together."""
    if cu_q is None:
        yield slice(0, q.shape[2]), slice(0, k.shape[2])
        return
    ends = (cu_q.tolist(), (cu_q if cu_k is None else cu_k).tolist())
    for i, j in zip(*(pairwise(each) for each in ends), strict=True):
        yield slice(*i), slice(*j)


def _cut(part: range) -> slice:
    return slice(part.start, part.stop)
