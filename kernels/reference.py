"""Plain PyTorch attention with its rounding points in the open: the judge of every kernel, and the body used on CPUs.

Forward, one head:   S = scale Q K^T,  m = rowmax S,  P_bar = exp(S - m),  l = rowsum P_bar,  O = (P_bar V) / l
Backward:            delta = rowsum(dO * O),  dP = dO V^T,  dS = P * (dP - delta),
                     dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO

Flash attention takes ``delta`` from the *stored, low-precision* O. There a systematic error enters (arXiv 2510.04212): with O
rounded, ``delta`` is off by ``rowsum(dO * (O_stored - O))``; when that has one sign, the errors in W_q's gradient add up step
after step along one direction until the loss explodes. ``Precision.delta_from`` chooses the source of delta.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rounding import BFLOAT16_MANTISSA_BITS, FLOAT32_MANTISSA_BITS, round_mantissa

DeltaSource = Literal["stored", "float32", "random_sign"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Explicit mantissa bits kept at each rounding point: 23 is float32, 7 bfloat16, 3 that of float8 e4m3.

    Attributes:
        inputs: q, k, v and dO as they enter the matrix products.
        scores: S and dP, the results of the first matrix products.
        probabilities: P as it enters P V and P^T dO.
        row_sum: l, the sum of P_bar over a row.
        output: O as it is stored and handed on.
        delta: delta itself.
        score_gradients: dS as it enters dQ and dK.
        gradients: dQ, dK and dV as they leave.
        delta_from: ``"stored"`` takes delta from the rounded O (what flash attention does, and what fails);
            ``"float32"`` from O before rounding (the cure); ``"random_sign"`` gives the stored O's error a random sign at
            equal size (the control that shows that the sign of the error kills, not its size).
    """

    inputs: int = FLOAT32_MANTISSA_BITS
    scores: int = FLOAT32_MANTISSA_BITS
    probabilities: int = FLOAT32_MANTISSA_BITS
    row_sum: int = FLOAT32_MANTISSA_BITS
    output: int = FLOAT32_MANTISSA_BITS
    delta: int = FLOAT32_MANTISSA_BITS
    score_gradients: int = FLOAT32_MANTISSA_BITS
    gradients: int = FLOAT32_MANTISSA_BITS
    delta_from: DeltaSource = "stored"

    @classmethod
    def everywhere(cls, bits: int, delta_from: DeltaSource = "stored") -> "Precision":
        """Round every intermediate to ``bits``."""
        b = bits
        return cls(b, b, b, b, b, b, b, b, delta_from)

    @classmethod
    def flash(cls, output: int = BFLOAT16_MANTISSA_BITS, delta_from: DeltaSource = "stored") -> "Precision":
        """Round where a bfloat16 flash attention does (operands of matrix products, dS, gradients), and O to ``output`` bits."""
        b = BFLOAT16_MANTISSA_BITS
        return cls(inputs=b, probabilities=b, output=output, score_gradients=b, gradients=b, delta_from=delta_from)


class _ReferenceAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        query, key, value, is_causal, scale, precision = args
        q, k, v = (round_mantissa(x, precision.inputs) for x in (query, key, value))
        s_BHTS = round_mantissa(scale * (q @ k.transpose(-2, -1)), precision.scores)
        if is_causal:
            blocked = torch.ones(s_BHTS.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            s_BHTS = s_BHTS.masked_fill(blocked, float("-inf"))
        p_bar = torch.exp(s_BHTS - s_BHTS.amax(-1, keepdim=True))
        l_BHT1 = round_mantissa(p_bar.sum(-1, keepdim=True), precision.row_sum)
        exact = (round_mantissa(p_bar, precision.probabilities) @ v) / l_BHT1
        stored = round_mantissa(exact, precision.output)
        ctx.save_for_backward(q, k, v, p_bar / l_BHT1, stored, exact)
        ctx.scale, ctx.precision = scale, precision
        return stored

    @staticmethod
    @once_differentiable  # the second derivative would be silently wrong: P is saved as a number
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p_BHTS, stored, exact = ctx.saved_tensors
        precision: Precision = ctx.precision
        do = round_mantissa(grad_outputs[0].contiguous(), precision.inputs)
        delta = (do * exact).sum(-1, keepdim=True)
        if precision.delta_from != "float32":
            error = (do * (stored - exact)).sum(-1, keepdim=True)
            if precision.delta_from == "random_sign":
                error = error * _signs_from_bits(error)
            delta = delta + error
        delta = round_mantissa(delta, precision.delta)
        dp_BHTS = round_mantissa(do @ v.transpose(-2, -1), precision.scores)
        ds_BHTS = round_mantissa(p_BHTS * (dp_BHTS - delta), precision.score_gradients)
        dq = ctx.scale * (ds_BHTS @ k)
        dk = ctx.scale * (ds_BHTS.transpose(-2, -1) @ q)
        dv = round_mantissa(p_BHTS, precision.probabilities).transpose(-2, -1) @ do
        bits = precision.gradients
        return round_mantissa(dq, bits), round_mantissa(dk, bits), round_mantissa(dv, bits), None, None, None


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
) -> Tensor:
    """Scaled dot-product attention in float32 arithmetic with explicit rounding, differentiable in q, k and v.

    Costs the (B, H, T, S) matrix of scores in memory, forward and backward: a judge, not a fast path. Visible to the
    attention probe wherever it is called, as ``torch.nn.functional.scaled_dot_product_attention`` is.

    Args:
        query: float32, (B, H, T, D).
        key: float32, (B, H, S, D).
        value: float32, (B, H, S, D).
        is_causal: mask keys after the query's position (both counted from the same origin).
        scale: factor on the scores; ``D ** -0.5`` by default.
        precision: where to round and to how many mantissa bits; none means float32 throughout.

    Returns:
        (B, H, T, D), float32.

    Raises:
        TypeError: an input is not float32.

    Source: arXiv 2510.04212, section 3 (the algorithm and the place of the error).
    """
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
        )
        return seen
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _ReferenceAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, is_causal, scale, precision or Precision()
    )
    return out
