"""``foreshock.kernels.attention``: a drop-in for ``F.scaled_dot_product_attention`` that low precision does not bias.

Stabilised, it differs from SDPA in two places that softmax does not feel: delta = rowsum(dO * O) is taken from O before that was
rounded, and a row whose maximum is attained more than once is shifted (arXiv 2510.04212; ``options.Variant``).
"""

from typing import Literal

import torch
from torch import Tensor

from .operator import attention_forward
from .options import FAILING, STABILISED, STANDARD, Variant

Backend = Literal["auto", "triton", "torch"]
_BACKENDS = ("auto", "triton", "torch")

__all__ = ["FAILING", "STABILISED", "STANDARD", "Backend", "attention"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    stabilize: bool | Variant = True,
    window: int | None = None,
    softcap: float | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Compute scaled dot-product attention, differentiable once in query, key and value.

    Works eager and under ``torch.compile(fullgraph=True)``, with dynamic shapes; under autocast its inputs are cast as SDPA's are.
    Needs no (T, S) matrix. Attention probes see it.

    Args:
        query: (B, H, T, D), bfloat16, float16, float32 or float64; or with fewer or more leading dimensions, as SDPA takes it.
        key: (B, H, S, D), or (B, G, S, D) with ``enable_gqa``.
        value: (B, H, S, E), or (B, G, S, E) with ``enable_gqa``.
        attn_mask: broadcastable to (B, H, T, S): boolean, True where a key is seen, or added to the scores. No gradient.
            May be combined with ``is_causal``: a key is seen where both allow it.
        dropout_p: probability that a probability is dropped. Applied whenever above 0, as SDPA does; needs the torch body. What is
            dropped follows from one number drawn from torch's default CPU generator, so ``torch.manual_seed`` and activation
            checkpointing repeat it; the numbers dropped are not SDPA's.
        is_causal: query i sees keys j <= i, both counted from their first.
        scale: factor on the scores; ``D ** -0.5`` by default.
        enable_gqa: H may be a multiple of the key heads G.
        stabilize: True for the stabilised variant, False for the standard one, or any ``Variant``.
        window: a query sees the keys with ``|i - j| < window``.
        softcap: scores s become ``softcap tanh(s / softcap)``, before the mask.
        cu_seqlens_q: int32, (N + 1,): bounds of N sequences packed along T; B is 1. No mask beside them.
        cu_seqlens_k: the same along S; by default ``cu_seqlens_q``.
        backend: ``"triton"`` raises where Triton cannot run; ``"torch"``; ``"auto"`` takes Triton on a GPU where it can run.

    Returns:
        (B, H, T, E) in the inputs' dtype. A query that sees no key gets zeros, and gives zero gradients, as with SDPA.

    Raises:
        ValueError: shapes, dtypes or options that do not fit together, or ``backend="triton"`` where it cannot run: the message
            says why and what mends it.
        NotImplementedError: a mask that requires a gradient, a second derivative, ``torch.func.vmap``.
    """
    options = {
        "attn_mask": attn_mask,
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": enable_gqa,
        "stabilize": stabilize,
        "window": window,
        "softcap": softcap,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "backend": backend,
    }
    if torch.overrides.has_torch_function((query, key, value)):
        seen: Tensor = torch.overrides.handle_torch_function(attention, (query, key, value), query, key, value, **options)  # type: ignore[arg-type]
        return seen
    if found := wrong_arguments(query, key, value, attn_mask, enable_gqa, dropout_p, cu_seqlens_q, cu_seqlens_k):
        raise ValueError(found)
    if backend not in _BACKENDS:
        raise ValueError(f"backend is {backend!r}; it is one of {', '.join(_BACKENDS)}")
    if attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            "attn_mask requires a gradient, which foreshock's attention does not give: detach it, or use "
            "F.scaled_dot_product_attention"
        )
    variant = stabilize if isinstance(stabilize, Variant) else STABILISED if stabilize else STANDARD
    lead = query.shape[:-3]
    q, k, v, mask = _laid_out(query, key, value, attn_mask)
    # One number of torch's generator: what is dropped is repeated where the generator is.
    seed = torch.randint(1 << 31, (), device="cpu") if dropout_p else None
    out: Tensor
    out, _, _ = attention_forward(
        q,
        k,
        v,
        mask,
        cu_seqlens_q,
        cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k,
        seed,
        query.shape[-1] ** -0.5 if scale is None else float(scale),
        is_causal,
        window,
        softcap,
        float(dropout_p),
        variant.dynamic_maximum,
        variant.float32_delta,
        variant.low_precision_accumulator,
        backend,
    )
    if query.dim() == 4:
        return out
    return out.reshape(*lead, *out.shape[1:]) if query.dim() > 4 else out.reshape(*query.shape[:-1], out.shape[-1])


def wrong_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    enable_gqa: bool,
    dropout_p: float,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> str | None:
    """Say what does not fit together, if anything."""
    shapes = f"query, key and value are {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
    if q.dim() < 2 or not q.dim() == k.dim() == v.dim():
        return f"{shapes}; they need the same number of dimensions, at least 2: (B, H, T, D)"
    if k.shape[:-1] != v.shape[:-1] or q.shape[-1] != k.shape[-1]:
        return f"{shapes}; keys and values must match in all but the last dimension, queries and keys in the last"
    if q.dim() > 2 and q.shape[-3] != k.shape[-3]:
        if not enable_gqa:
            return f"{shapes}; the numbers of heads differ, which needs enable_gqa=True"
        if k.shape[-3] == 0 or q.shape[-3] % k.shape[-3]:
            return f"{shapes}; the queries' number of heads must be a multiple of the keys'"
    if q.shape[:-3] != k.shape[:-3]:
        return f"{shapes}; the batch dimensions must be equal: expand them"
    if not q.dtype == k.dtype == v.dtype and not torch.is_autocast_enabled(q.device.type):
        return f"query, key and value are {q.dtype}, {k.dtype} and {v.dtype}; they must be of one dtype"
    if not q.dtype.is_floating_point:
        return f"query, key and value are {q.dtype}; they must be floating point"
    if mask is not None and mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        return f"attn_mask is {mask.dtype}; it is boolean, True where a key is seen, or floating point, added to the scores"
    if not 0 <= dropout_p <= 1:
        return f"dropout_p is {dropout_p}; it is a probability"
    if cu_seqlens_q is None:
        return None if cu_seqlens_k is None else "cu_seqlens_k is given without cu_seqlens_q; packed keys need packed queries"
    if mask is not None:
        return "attn_mask and cu_seqlens_q are both given; packed sequences take no mask"
    if q.dim() != 4 or q.shape[0] != 1:
        return f"{shapes}; packed sequences are (1, H, total, D)"
    return None


def _laid_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the inputs in autocast's dtype, if it is on, with four dimensions and a unit stride in the last."""
    kind = q.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        q, k, v = (x if x.dtype == torch.float64 else x.to(dtype) for x in (q, k, v))
    if q.dim() != 4:
        if mask is not None and q.dim() > 4 and mask.dim() > 3:
            mask = mask.expand(*q.shape[:-3], *mask.shape[-3:]).flatten(0, -4)
        q, k, v = (x.flatten(0, -4) if x.dim() > 4 else x[(None,) * (4 - x.dim())] for x in (q, k, v))
    return *(x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v)), mask  # type: ignore[return-value]
