"""Run the flash kernels on tensors: the way in for everything outside this room. Imports triton only when something runs.

Layout (B, H, T, D). Strides are free but for the last, which must be 1: another is copied. Grouped queries: k and v may have
fewer heads, a divisor of q's. Packed sequences: (1, H, total, D) with ``cu_seqlens``, int32 of the sequences' ends after a 0; what
lies after the last of them comes back 0, and each sequence counts its positions from its own first.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..options import Options, Variant

if TYPE_CHECKING:
    from .plan import Call

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """What the forward kernel saw while it computed; nothing is read a second time. All (B, H, T), on the inputs' device.

    Attributes:
        maximum: largest score of the row, scale, cap and mask included, natural units; -inf where a row sees no key.
        tie_count: keys within TIE_TOLERANCE of it (each maximum on the way was compared with the keys of its time, so a chain of
            near ties may count a key that lies a little lower); int32, 0 where a row sees no key.
        entropy: of the row's probabilities, nats; 0 where a row sees no key.
    """

    maximum: Tensor
    tie_count: Tensor
    entropy: Tensor

    @property
    def head_maximum(self) -> Tensor:
        """(B, H), the largest score of each head."""
        return self.maximum.amax(-1)


@dataclass(frozen=True, slots=True)
class Forward:
    """What ``forward`` returns.

    Attributes:
        out: (B, H, T, D) in q's type.
        log_sum_exp: (B, H, T) float32, natural logarithm; -inf where a row sees no key.
        residual: float32 O minus out, in q's type, where delta is to come from float32 O (and out is not float32 already).
        statistics: where they were asked for.
    """

    out: Tensor
    log_sum_exp: Tensor
    residual: Tensor | None
    statistics: RowStatistics | None


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
    statistics: bool = False,
) -> Forward:
    """Attend. Costs no (T, S) matrix; the residual is one more tensor of out's size, statistics three of (B, H, T).

    Args:
        q: (B, H, T, D); bfloat16, float16 or float32.
        k: (B, Hk, S, D), Hk a divisor of H.
        v: (B, Hk, S, D).
        options: what is computed.
        variant: how carefully.
        mask: broadcastable to (B, H, T, S): boolean (False hides) or additive, in natural units, after the soft cap.
        cu_seqlens_q: int32, for packed sequences; with cu_seqlens_k.
        cu_seqlens_k: int32.
        statistics: also return RowStatistics.

    Raises:
        ValueError: ``obstacle`` found one; the message says what mends it.
    """
    _refuse(obstacle(q, k, v, options, mask=mask, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k))
    call = _call(q, k, v, options, mask, cu_seqlens_q, cu_seqlens_k)
    q = call.q
    rows = q.shape[:-1]
    out = torch.zeros_like(q)
    residual = torch.zeros_like(out) if variant.float32_delta and q.dtype != torch.float32 else None
    log_sum_exp = torch.full(rows, float("-inf"), dtype=torch.float32, device=q.device)
    seen = None
    if statistics:
        entropy = torch.zeros(rows, dtype=torch.float32, device=q.device)
        seen = RowStatistics(torch.full_like(log_sum_exp, float("-inf")), torch.zeros_like(entropy, dtype=torch.int32), entropy)
    if q.numel() and call.k.numel():
        from . import plan

        outputs = {
            "out": out,
            "residual": residual,
            "log_sum_exp": log_sum_exp,
            "maximum": seen.maximum if seen else None,
            "tie_count": seen.tie_count if seen else None,
            "entropy": seen.entropy if seen else None,
        }
        with _device(q):
            plan.forward(call, variant, outputs).run()
    return Forward(out, log_sum_exp, residual, seen)


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
    row_residuals: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dQ, dK and dV, in the inputs' types and strides.

    Args:
        do: gradient of out.
        q: as given to ``forward``; so are k, v, options, variant, mask and cu_seqlens.
        k: see q.
        v: see q.
        out: as ``forward`` returned it; so are residual and log_sum_exp.
        residual: see out.
        log_sum_exp: see out.
        options: see q.
        variant: see q; only ``float32_delta`` matters here.
        mask: see q.
        cu_seqlens_q: see q.
        cu_seqlens_k: see q.
        row_residuals: float32, contiguous (B, H, T), is filled with sum_j dS_ij, before scale and cap. Exact arithmetic gives 0.

    Raises:
        ValueError: ``float32_delta`` without the residual it needs, or an obstacle.
    """
    _refuse(obstacle(q, k, v, options, mask=mask, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k))
    if variant.float32_delta and residual is None and out.dtype != torch.float32:
        raise ValueError("float32_delta needs the residual that forward() returned under the same variant, got None")
    call = _call(q, k, v, options, mask, cu_seqlens_q, cu_seqlens_k)
    dq, dk, dv = torch.zeros_like(call.q), torch.zeros_like(call.k), torch.zeros_like(call.v)
    if row_residuals is not None:
        row_residuals.zero_()
    if call.q.numel() and call.k.numel():
        from . import plan

        do = _unit_last(do)
        delta = torch.empty_like(log_sum_exp)
        with _device(q):
            plan.delta(call, do, out, residual if variant.float32_delta else None, delta).run()
            plan.keys(call, do, log_sum_exp, delta, dk, dv).run()
            plan.queries(call, do, log_sum_exp, delta, dq, row_residuals).run()
    return dq, dk, dv


def obstacle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    *,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> str | None:
    """Say in a sentence why Triton cannot run this call, and what mends it; None where it can. Launches nothing, never syncs."""
    found = _wrong_shapes(q, k, v) or _wrong_extras(q, k, mask, cu_seqlens_q, cu_seqlens_k)
    if found:
        return found
    if dropout_p:
        return f"dropout_p is {dropout_p}; the Triton kernels have no dropout: pass 0.0 or backend='torch'"
    try:
        import triton
    except ModuleNotFoundError:
        return "triton is not installed: pip install triton (Linux), or pass backend='torch'"
    if q.device.type != "cuda" and not triton.knobs.runtime.interpret:
        return f"Triton runs on a GPU and these tensors are on {q.device}: move them with .cuda(), or pass backend='torch'"
    if q.device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(q.device) < (8, 0):
        name = torch.cuda.get_device_name(q.device)
        return f"{name} is older than sm_80 (Ampere), the first these kernels know: pass backend='torch'"
    return None


def _wrong_shapes(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    if q.dtype not in DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        return f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; all must be one of bfloat16, float16, float32: convert with .to()"
    if not q.device == k.device == v.device:
        return f"q, k, v are on {q.device}, {k.device}, {v.device}; they must be on one device: move them with .to()"
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        return f"q, k, v have shapes {shapes}; they must be (B, H, T, D), (B, Hk, S, D), (B, Hk, S, D): pass backend='torch'"
    if not 1 <= q.shape[-1] <= MAX_HEAD_DIM:
        return f"the head dimension is {q.shape[-1]}; the Triton kernels take 1 to {MAX_HEAD_DIM}: pass backend='torch'"
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        return f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads evenly: repeat k and v to a divisor of {q.shape[1]}"
    return None


def _wrong_extras(
    q: Tensor, k: Tensor, mask: Tensor | None, cu_seqlens_q: Tensor | None, cu_seqlens_k: Tensor | None
) -> str | None:
    if mask is not None:
        whole = (*q.shape[:-1], k.shape[2])
        try:
            fits = torch.broadcast_shapes(mask.shape, whole) == whole
        except RuntimeError:
            fits = False
        if not fits:
            return f"the mask has shape {tuple(mask.shape)}, which does not broadcast to {whole}: reshape it to (B, H, T, S)"
        if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
            return f"the mask is {mask.dtype}; it must be boolean (False hides) or floating point (added): convert with .bool()"
        if mask.requires_grad:
            return "the mask requires a gradient, which the Triton kernels do not compute: detach it, or pass backend='torch'"
    if (cu_seqlens_q is None) != (cu_seqlens_k is None):
        return "cu_seqlens_q and cu_seqlens_k come together: pass both or neither"
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        if q.shape[0] != 1:
            return f"packed sequences have batch 1, got {q.shape[0]}: lay them one after the other along T"
        if mask is not None:
            return "a mask and packed sequences cannot be combined: pass backend='torch', or pad instead of packing"
        if cu_seqlens_q.shape != cu_seqlens_k.shape or cu_seqlens_q.ndim != 1 or len(cu_seqlens_q) < 1:
            shapes = f"{tuple(cu_seqlens_q.shape)} and {tuple(cu_seqlens_k.shape)}"
            return f"cu_seqlens_q and cu_seqlens_k have shapes {shapes}; both must be (sequences + 1,)"
        if cu_seqlens_q.dtype != torch.int32 or cu_seqlens_k.dtype != torch.int32:
            return f"cu_seqlens are {cu_seqlens_q.dtype}, {cu_seqlens_k.dtype}; they must be int32: convert with .int()"
    return None


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ValueError(reason)


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    mask: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
) -> "Call":
    from .plan import Call

    if mask is not None:
        mask = (mask.view(torch.uint8) if mask.dtype == torch.bool else mask).expand(*q.shape[:-1], k.shape[2])
    ends = [None if ends is None else ends.contiguous() for ends in (cu_seqlens_q, cu_seqlens_k)]
    return Call(_unit_last(q), _unit_last(k), _unit_last(v), options, mask, ends[0], ends[1], architecture(q.device))


def _unit_last(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _device(q: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(q.device) if q.device.type == "cuda" else nullcontext()


@lru_cache
def architecture(device: torch.device) -> str:
    """Return "sm_90", "gfx942", ... of a device, or "interpreter" for one that is no GPU."""
    if device.type != "cuda":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
