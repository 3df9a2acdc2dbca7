"""Plain PyTorch attention with its rounding points in the open: the judge of every kernel.

Forward, one head:   S = scale Q K^T,  m = rowmax S,  P_bar = exp(S - m),  l = rowsum P_bar,  O = (P_bar V) / l
Backward:            delta = rowsum(dO * O),  dP = dO V^T,  dS = P * (dP - delta),
                     dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO

Flash attention takes ``delta`` from the *stored, low-precision* O. There a systematic error enters (arXiv 2510.04212): with O
rounded, ``delta`` is off by ``rowsum(dO * (O_stored - O))``; when that has one sign, the errors in W_q's gradient add up step
after step along one direction until the loss explodes. ``Precision.delta_from`` chooses the source of delta.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dynamic_maximum import tie_shift
from .masking import hidden_keys, masked
from .options import Options
from .precision import ROUNDING_POINTS, DeltaSource, Precision
from .rounding import round_to

__all__ = ["DeltaSource", "Precision", "reference_attention"]

stabilised = False
"""Whether every call takes delta from the float32 output, whatever its precision says: set by ``switch``."""


@dataclass(frozen=True, slots=True)
class _Rounder:
    precision: Precision

    def __call__(self, point: str, x: Tensor, part: int = 0) -> Tensor:
        """Round at a named point; parts of one point (q, k, v; tiles) draw different random bits."""
        return round_to(x, self.precision.target(point), salt=ROUNDING_POINTS.index(point) + 64 * part)


class _ReferenceAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        query, key, value, mask, options, precision = args
        at = _Rounder(precision)
        q, k, v = (at("inputs", x, part) for part, x in enumerate((query, key, value)))
        groups = query.shape[1] // max(1, key.shape[1])
        k, v = (x if groups == 1 else x.repeat_interleave(groups, 1) for x in (k, v))
        s_BHTS = at("scores", options.scale * (q @ k.transpose(-2, -1)))
        steep: Tensor | None = None  # the cap's derivative
        if options.softcap is not None:
            s_BHTS = options.softcap * torch.tanh(s_BHTS / options.softcap)
            steep = 1 - (s_BHTS / options.softcap).square()
        hidden = hidden_keys(range(q.shape[-2]), range(k.shape[-2]), options, q.device)
        s_BHTS = masked(s_BHTS, mask, hidden)
        p_bar, l_BHT1, product = _softmax_times_values(s_BHTS, v, at)
        exact = product / l_BHT1
        stored = at("output", exact)
        ctx.save_for_backward(q, k, v, p_bar / l_BHT1, stored, exact, steep)
        ctx.scale, ctx.at, ctx.groups = options.scale, at, groups
        return stored

    @staticmethod
    @once_differentiable  # the second derivative would be silently wrong: P is saved as a number
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p_BHTS, stored, exact, steep = ctx.saved_tensors
        at: _Rounder = ctx.at
        do = at("output_gradients", grad_outputs[0].contiguous(), 3)
        delta = (do * exact).sum(-1, keepdim=True)
        if at.precision.delta_from != "float32":
            error = (do * (stored - exact)).sum(-1, keepdim=True)
            if at.precision.delta_from == "random_sign":
                error = error * _signs_from_bits(error)
            delta = delta + error
        delta = at("delta", delta)
        dp_BHTS = at("probability_gradients", do @ v.transpose(-2, -1), 1)
        ds_BHTS = p_BHTS * (dp_BHTS - delta)
        ds_BHTS = at("score_gradients", ds_BHTS if steep is None else ds_BHTS * steep)
        dq = ctx.scale * (ds_BHTS @ k)
        dk = ctx.scale * (ds_BHTS.transpose(-2, -1) @ q)
        dv = at("probabilities", p_BHTS, 1).transpose(-2, -1) @ do
        if ctx.groups > 1:
            dk, dv = (x.unflatten(1, (-1, ctx.groups)).sum(2) for x in (dk, dv))
        gradients = (at("gradients", x, part) for part, x in enumerate((dq, dk, dv)))
        return *gradients, None, None, None


def _softmax_times_values(s_BHTS: Tensor, v_BHSD: Tensor, at: _Rounder) -> tuple[Tensor, Tensor, Tensor]:
    """Return P_bar, its row sums l (1 in a row that sees no key) and P_bar V, as tile after tile of keys gives them."""
    precision, keys = at.precision, s_BHTS.shape[-1]
    m_BHT1 = s_BHTS.amax(-1, keepdim=True) if keys else s_BHTS.new_full((*s_BHTS.shape[:-1], 1), float("-inf"))
    nowhere = m_BHT1 == float("-inf")
    shift = tie_shift(s_BHTS, m_BHT1, precision.shift_bounds, precision.beta) if precision.dynamic_maximum else None
    top = m_BHT1.masked_fill(nowhere, 0.0)
    p_bar = torch.exp(s_BHTS - top if shift is None else (s_BHTS - top) - shift)
    tile = precision.key_tile or max(1, keys)
    row_sum: Tensor | None = None
    product: Tensor | None = None
    before: Tensor | None = None
    for number, start in enumerate(range(0, max(1, keys), tile)):
        part = slice(start, start + tile)
        if tile >= keys:
            p, now = p_bar, top
        else:
            now = s_BHTS[..., : start + tile].amax(-1, keepdim=True)
            now = now.masked_fill(now == float("-inf"), 0.0)
            if shift is not None:  # a row with a tie is shifted by its whole maximum from the first tile on
                now = torch.where(shift != 0, top, now)
            p = torch.exp(s_BHTS[..., part] - now if shift is None else (s_BHTS[..., part] - now) - shift)
        rounded = at("probabilities", p, 2 + number)
        added = p.sum(-1, keepdim=True)
        if shift is not None and precision.sum_rounded:
            added = torch.where(shift != 0, rounded.sum(-1, keepdim=True), added)
        term = at("products", rounded @ v_BHSD[..., part, :], number)
        if before is not None and row_sum is not None and product is not None:
            fading = torch.exp(before - now)
            added, term = row_sum * fading + added, product * fading + term
        row_sum, product, before = at("row_sum", added, number), at("accumulator", term, number), now
    assert row_sum is not None
    assert product is not None
    return p_bar, row_sum.masked_fill(nowhere, 1.0), product


def _signs_from_bits(x: Tensor) -> Tensor:
    """Signs from low mantissa bits of ``x`` itself: as good as random, and no random generator is touched."""
    bits = x.contiguous().view(torch.int32)
    return 1.0 - 2.0 * (((bits >> 3) ^ bits) & 1).to(x.dtype)


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    precision: Precision | None = None,
    attn_mask: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention in float32 arithmetic with explicit rounding, differentiable in q, k and v.

    Costs the (B, H, T, S) matrix of scores in memory, forward and backward: a judge, not a fast path. Visible to the
    attention probe wherever it is called, as ``torch.nn.functional.scaled_dot_product_attention`` is.

    Args:
        query: float32, (B, H, T, D).
        key: float32, (B, G, S, D); H is a multiple of G, and query head h uses key head ``h // (H / G)``.
        value: float32, (B, G, S, E).
        is_causal: mask keys after the query's position (both counted from the same origin).
        scale: factor on the scores; ``D ** -0.5`` by default.
        precision: where to round and to what; none means float32 throughout.
        attn_mask: as SDPA's, broadcastable to (B, H, T, S): boolean, True where a key is seen, or added to the scores. No gradient.
        window: a query sees the keys with ``|i - j| < window``.
        softcap: scores s become ``softcap tanh(s / softcap)``, before the mask.
        cu_seqlens_q: int32, (N + 1,): where N sequences packed along T begin and end; B is 1.
        cu_seqlens_k: the same for S; ``cu_seqlens_q`` by default.

    Returns:
        (B, H, T, E), float32; zeros, with zero gradients, for a query that sees no key.

    Raises:
        TypeError: an input is not float32.
        ValueError: options that contradict each other or the shapes.

    Source: arXiv 2510.04212, section 3 (the algorithm and the place of the error).
    """
    if stabilised and precision is not None and precision.delta_from != "float32":
        precision = replace(precision, delta_from="float32")
    more: dict[str, Any] = {
        name: given
        for name, given in (
            ("attn_mask", attn_mask),
            ("window", window),
            ("softcap", softcap),
            ("cu_seqlens_q", cu_seqlens_q),
            ("cu_seqlens_k", cu_seqlens_k),
        )
        if given is not None
    }
    if torch.overrides.has_torch_function((query, key, value)):
        seen: Tensor = torch.overrides.handle_torch_function(
            reference_attention,
            (query, key, value),
            query,
            key,
            value,
            is_causal=is_causal,
            scale=scale,
            precision=precision,
            **more,
        )
        return seen
    precision = precision or Precision()
    if attn_mask is not None and attn_mask.requires_grad:
        raise ValueError("attn_mask requires a gradient; the reference gives none: detach it")
    if key.dim() == 4 and key.shape[1] and query.shape[1] % key.shape[1]:
        raise ValueError(f"{query.shape[1]} query heads cannot share {key.shape[1]} key heads: the first must be a multiple")
    options = Options(query.shape[-1] ** -0.5 if scale is None else scale, is_causal, window, softcap)
    if cu_seqlens_q is None:
        if cu_seqlens_k is not None:
            raise ValueError("cu_seqlens_k is given without cu_seqlens_q; packed keys need packed queries")
        return _apply(query, key, value, attn_mask, options, precision)
    if attn_mask is not None:
        raise ValueError("attn_mask and cu_seqlens_q are both given; packed sequences take no mask")
    ends = [cu_seqlens_q.tolist(), (cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k).tolist()]
    rows, keys = ([slice(a, b) for a, b in pairwise(each)] for each in ends)
    parts = [
        _apply(query[:, :, i], key[:, :, j], value[:, :, j], None, options, precision) for i, j in zip(rows, keys, strict=True)
    ]
    return torch.cat(parts, 2) if parts else query[..., :0, :] @ key[..., :0].transpose(-2, -1)


def _apply(*args: Any) -> Tensor:
    out: Tensor = _ReferenceAttention.apply(*args)  # type: ignore[no-untyped-call]
    return out
