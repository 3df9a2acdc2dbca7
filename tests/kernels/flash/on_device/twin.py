"""Attention in float64 as a textbook has it, gradients by autograd, and what its error is compared with."""

import math

import torch
from torch import Tensor

Outcome = dict[str, Tensor]


def visible(options, length_q: int, length_k: int, device: torch.device) -> Tensor:
    """(T, S), True where the query sees the key."""
    i = torch.arange(length_q, device=device)[:, None]
    j = torch.arange(length_k, device=device)[None, :]
    seen = torch.ones(length_q, length_k, dtype=torch.bool, device=device)
    if options.is_causal:
        seen &= j <= i
    if options.window is not None:
        seen &= (i - j).abs() < options.window
    return seen


def scores(q: Tensor, k: Tensor, options, mask: Tensor | None = None) -> Tensor:
    """(B, H, T, S) in float64, -inf where hidden."""
    k = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    s = options.scale * (q.double() @ k.transpose(-1, -2))
    if options.softcap is not None:
        s = options.softcap * torch.tanh(s / options.softcap)
    if mask is not None and mask.dtype == torch.bool:
        s = s.masked_fill(~mask, -math.inf)
    elif mask is not None:
        s = s + mask.double()
    return s.masked_fill(~visible(options, q.shape[2], k.shape[2], q.device), -math.inf)


def probabilities(s: Tensor) -> Tensor:
    """Softmax; 0 in rows that see no key."""
    nothing = (s == -math.inf).all(-1, keepdim=True) if s.shape[-1] else s.new_ones((*s.shape[:-1], 1), dtype=torch.bool)
    return torch.softmax(s.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)


def exact(q: Tensor, k: Tensor, v: Tensor, do: Tensor, options, mask: Tensor | None = None) -> Outcome:
    """Output and gradients in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out = probabilities(scores(leaves[0], leaves[1], options, mask)) @ leaves[2].repeat_interleave(q.shape[1] // k.shape[1], 1)
    return {"out": out.detach(), **dict(zip(("dq", "dk", "dv"), torch.autograd.grad(out, leaves, do.double()), strict=True))}


def sdpa(q: Tensor, k: Tensor, v: Tensor, do: Tensor, options, mask: Tensor | None = None) -> Outcome:
    """The same of torch's own attention, in the inputs' type. It has no soft cap."""
    assert options.softcap is None
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    seen = visible(options, q.shape[2], k.shape[2], q.device)
    if mask is not None and mask.dtype != torch.bool:
        seen = mask.masked_fill(~seen, -math.inf).to(q.dtype)
    elif mask is not None:
        seen = seen & mask
    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(*leaves, attn_mask=seen, scale=options.scale, enable_gqa=q.shape[1] != k.shape[1])
    return {"out": out.detach(), **dict(zip(("dq", "dk", "dv"), torch.autograd.grad(out, leaves, do), strict=True))}


def sizes(q: Tensor, k: Tensor, v: Tensor, do: Tensor, options, mask: Tensor | None = None) -> dict[str, float]:
    """How large dQ and dK would be if the terms P * dP, which partly cancel, had random signs."""
    group = q.shape[1] // k.shape[1]
    p = probabilities(scores(q, k, options, mask))
    terms = (p * (do.double() @ v.double().repeat_interleave(group, 1).transpose(-1, -2))).square()
    dq = options.scale * (terms @ k.double().repeat_interleave(group, 1).square()).sqrt()
    dk = options.scale * (terms.transpose(-1, -2) @ q.double().square()).sqrt()
    return {"dq": rms(dq), "dk": rms(dk)}


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0
