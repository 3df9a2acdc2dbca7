"""Plain PyTorch attention with its rounding points in the open: the judge of every kernel, and the body used on CPUs.

Forward, one head:   S = scale Q K^T,  m = rowmax S,  P_bar = exp(S - m),  l = rowsum P_bar,  O = (P_bar V) / l
Backward:            delta = rowsum(dO * O),  dP = dO V^T,  dS = P * (dP - delta),  dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO

Flash attention recomputes P from S and the saved logsumexp and takes ``delta`` from the *stored, low-precision* O. That delta
is where the systematic error of arXiv 2510.04212 enters: with O rounded, ``delta`` is off by ``rowsum(dO * (O_lp - O))``, and
when that has one sign, W_q drifts along one direction until the loss explodes. ``Precision.delta_from`` chooses the source.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .rounding import FLOAT32_MANTISSA_BITS, round_mantissa


@dataclass(frozen=True, slots=True)
class Precision:
    """Explicit mantissa bits kept at each rounding point (23 is float32, 7 bfloat16, 3 like float8 e4m3).

    Attributes:
        scores: S and dP, the results of the first matrix products.
        probabilities: P as it enters P V and dV, and dS as it enters dQ and dK.
        output: O as it is stored and handed on.
        inputs: q, k, v and dO as they enter the matrix products.
        gradients: dQ, dK and dV as they leave.
        delta_from: ``"stored"`` takes delta from the rounded O (what flash attention does and what fails);
            ``"float32"`` from O before rounding (the cure); ``"random_sign"`` gives the stored O's error of equal size a
            random sign (the control that shows that the sign of the error kills, not its size).
    """

    scores: int = FLOAT32_MANTISSA_BITS
    probabilities: int = FLOAT32_MANTISSA_BITS
    output: int = FLOAT32_MANTISSA_BITS
    inputs: int = FLOAT32_MANTISSA_BITS
    gradients: int = FLOAT32_MANTISSA_BITS
    delta_from: Literal["stored", "float32", "random_sign"] = "stored"
    row_sum: int = 23
    delta: int = 23
    norm_first: bool = False

    @classmethod
    def everywhere(cls, bits: int, delta_from: Literal["stored", "float32", "random_sign"] = "stored") -> "Precision":
        """Round every intermediate to ``bits``."""
        return cls(bits, bits, bits, bits, bits, delta_from)


class _ReferenceAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, is_causal: bool, scale: float, precision: Precision
    ) -> Tensor:
        q, k, v = (round_mantissa(x, precision.inputs) for x in (q_BHTD, k_BHSD, v_BHSD))
        s_BHTS = round_mantissa(scale * (q @ k.transpose(-2, -1)), precision.scores)
        if is_causal:
            blocked = torch.ones(s_BHTS.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            s_BHTS = s_BHTS.masked_fill(blocked, float("-inf"))
        p_bar = torch.exp(s_BHTS - s_BHTS.amax(-1, keepdim=True))
        l_BHT1 = p_bar.sum(-1, keepdim=True)
        l_BHT1 = round_mantissa(l_BHT1, precision.row_sum)
        exact = (round_mantissa(p_bar, precision.probabilities) @ v) / l_BHT1
        if precision.norm_first: exact = round_mantissa(p_bar/l_BHT1, precision.probabilities) @ v
        stored = round_mantissa(exact, precision.output)
        ctx.save_for_backward(q, k, v, p_bar / l_BHT1, stored, exact)
        ctx.scale, ctx.precision = scale, precision
        return stored

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, k, v, p_BHTS, stored, exact = ctx.saved_tensors
        precision: Precision = ctx.precision
        do = round_mantissa(grad_outputs[0].contiguous(), precision.inputs)
        delta = (do * exact).sum(-1, keepdim=True)
        if precision.delta_from != "float32":
            error = (do * (stored - exact)).sum(-1, keepdim=True)
            if precision.delta_from == "random_sign":
                error = error * _deterministic_signs(error)
            delta = delta + error
        delta = round_mantissa(delta, precision.delta)
        if precision.norm_first: p_BHTS = round_mantissa(p_BHTS, precision.probabilities)
        dp_BHTS = round_mantissa(do @ v.transpose(-2, -1), precision.scores)
        ds_BHTS = round_mantissa(p_BHTS * (dp_BHTS - delta), precision.probabilities)
        dq = ctx.scale * (ds_BHTS @ k)
        dk = ctx.scale * (ds_BHTS.transpose(-2, -1) @ q)
        dv = round_mantissa(p_BHTS, precision.probabilities).transpose(-2, -1) @ do
        bits = precision.gradients
        return round_mantissa(dq, bits), round_mantissa(dk, bits), round_mantissa(dv, bits), None, None, None


def _deterministic_signs(x: Tensor) -> Tensor:
    """Signs from the low mantissa bits of ``x`` itself: as good as random, and no generator is touched."""
    return 1.0 - 2.0 * (((x.contiguous().view(torch.int32) >> 3) ^ x.view(torch.int32)) & 1).to(x.dtype)


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    precision: Precision | None = None,
) -> Tensor:
    """Scaled dot-product attention in float32 arithmetic with explicit rounding, differentiable in q, k and v.

    Costs one (B, H, T, S) matrix of scores in memory, forward and backward: a judge, not a fast path.

    Args:
        query, key, value: float32, (B, H, T, D), (B, H, S, D), (B, H, S, D).
        is_causal: mask keys after the query's position (T and S counted from the same origin).
        scale: of the scores; ``D ** -0.5`` by default.
        precision: where to round and to how many mantissa bits; none means float32 throughout.

    Returns:
        (B, H, T, D), float32.

    Source: arXiv 2510.04212, section 3 (the algorithm and the place of the error).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _ReferenceAttention.apply(query, key, value, is_causal, scale, precision or Precision())
    return out
