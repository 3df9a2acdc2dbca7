"""Re-computes the captured rows of one key head in one step: errors of delta, the key-shift residual, and what chance leaves of it.

Softmax does not change when one number is added to a row of its scores, so in exact arithmetic every row of dS sums to zero, and
the keys' gradients sum to zero too. What is left of that sum is rounding error and nothing else: the *residual*
``r = sum_j dK_j``. If a layer takes delta from its rounded output, delta is off by ``e_i = dO_i . (O_stored - O)_i``, and by that
alone the residual is ``-scale sum_i e_i q_i``. SIGNALS: ``rounding.key_shift_residual``.

Shapes: B sequences, E query heads that share the key head, R captured rows, S keys, D head dimension. Everything is float64.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..kernels.precision import Precision
from ..kernels.reference import reference_attention
from ..kernels.rounding import BFLOAT16_MANTISSA_BITS, FLOAT32_MANTISSA_BITS, round_mantissa
from .bundle import AttentionSlice

_FLOAT32_ROUNDOFF = 2.0**-24
# Relative root-mean-square error of rounding to nearest with unit roundoff 1, over significands uniform in the logarithm.
_RMS_OF_ROUNDING = 0.425
# A format finer than this is float32, or close to it: what a low precision would do is then shown for bfloat16.
_FINE = 2.0**-16


@dataclass(frozen=True, slots=True)
class Residuals:
    """The residual over the norm of the keys' gradient, root mean square over sequences.

    ``layer`` is the layer's own, over all rows; the others are re-computed from the captured rows: exactly, in float32, and in
    ``low`` precision with delta from the stored output and from the float32 output.
    """

    layer: float
    float64: float
    float32: float
    low: float
    low_float32_delta: float


@dataclass(frozen=True, slots=True)
class Recomputed:
    """One key head in one step.

    Attributes:
        errors, errors_float32, errors_low: (N,) of delta, N = B E R: the layer's, and those of O re-computed in float32 and in
            low precision.
        effects: (N, D), ``scale (P K)_i``: an error e_i puts ``-e_i`` times it into dQ_i.
        gradient: norm of the sum of dQ over the rows.
        shift: (B, D), the layer's residual.
        parts: (B, ER, D), ``-scale e_i q_i``; their sum is the residual that the layer's rounded output would leave.
        chance: (B, ER, D), ``scale q_i`` times the standard deviation of row i's sum of dS under independent rounding errors.
        key_chance: (B,), the same of what rounding dK itself adds, for each of the D numbers.
        residuals: re-computed in several precisions.
        distance: of the stored O from the re-computed one, over its norm.
        row_share: the captured rows, of all.
    """

    errors: Tensor
    errors_float32: Tensor
    errors_low: Tensor
    effects: Tensor
    gradient: float
    shift: Tensor
    parts: Tensor
    chance: Tensor
    key_chance: Tensor
    residuals: Residuals
    distance: float
    row_share: float

    @property
    def finite(self) -> bool:
        """Whether everything in it is."""
        tensors = self.errors, self.effects, self.shift, self.chance, self.key_chance
        return math.isfinite(self.gradient) and all(bool(each.isfinite().all()) for each in tensors)

    @property
    def expected(self) -> Tensor:
        """(B,), the mean square of the residual's norm under independent rounding errors."""
        return self.chance.square().sum((1, 2)) + self.shift.shape[-1] * self.key_chance.square()

    def covariance(self) -> Tensor:
        """(B, D, D), of the residual if every e_i had a random sign, with the rest of the rounding."""
        identity = torch.eye(self.shift.shape[-1], dtype=torch.float64)
        found = self.parts.mT @ self.parts + self.chance.mT @ self.chance + self.key_chance.square()[:, None, None] * identity
        # Rows that were not captured have directions of their own; and it must have an inverse.
        spread = found.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * identity
        return found + ((1 - self.row_share) + 1e-9) * spread


@torch.no_grad()
def recomputed(call: AttentionSlice, place: int) -> Recomputed:
    """Re-compute the key head at ``place`` among those captured of a call."""
    each = call.q.shape[1] // call.k.shape[1]
    of_queries = slice(place * each, (place + 1) * each)
    q, out, do = (x[:, of_queries].double() for x in (call.q, call.out, call.grad_out))
    k, v = (x[:, place : place + 1].double() for x in (call.k, call.v))
    bias = call.bias
    if bias is not None and bias.dim() == 4 and bias.shape[1] > 1:
        bias = bias[:, of_queries]
    s_BERS = call.scale * (q @ k.mT) if bias is None else call.scale * (q @ k.mT) + bias.double()
    p_BERS = _softmax(s_BERS)
    o = p_BERS @ v
    dp_BERS = do @ v.mT
    ds_BERS = p_BERS * (dp_BERS - (do * o).sum(-1, keepdim=True))
    o32 = _softmax(call.scale * (q.float() @ k.float().mT) + (0.0 if bias is None else bias)) @ v.float()
    low, stored, cured = _low(call, q, k, v, do, bias)
    errors, float32, coarse = ((do * (x.double() - o)).sum(-1) for x in (out, o32, low))
    norm, shift = call.key_norm[:, place].double(), call.shift[:, place].double()
    mine = (call.scale * ds_BERS.mT @ q).sum(1)
    return Recomputed(
        errors=errors.flatten(),
        errors_float32=float32.flatten(),
        errors_low=coarse.flatten(),
        effects=(call.scale * p_BERS @ k).flatten(0, 2),
        gradient=float((call.scale * ds_BERS @ k).sum((0, 1, 2)).norm()),
        shift=shift,
        parts=(-call.scale * errors[..., None] * q).flatten(1, 2),
        chance=(call.scale * _row_chance(call, ds_BERS, p_BERS, s_BERS, dp_BERS, do, v)[..., None] * q).flatten(1, 2),
        key_chance=_RMS_OF_ROUNDING * call.roundoff * norm / math.sqrt(q.shape[-1]),
        residuals=Residuals(
            layer=_ratio(shift, norm),
            float64=_ratio(mine.sum(1), mine.norm(dim=(1, 2))),
            float32=_ratio(*_float32(call, q, k, v, do, o32, bias)),
            low=_ratio(*stored),
            low_float32_delta=_ratio(*cured),
        ),
        distance=float((out - o).norm() / o.norm()) if float(o.norm()) > 0 else 0.0,
        row_share=call.row_share,
    )


def _softmax(s_BERS: Tensor) -> Tensor:
    """Rows that see no key are zero."""
    return torch.where(s_BERS.isneginf().all(-1, keepdim=True), 0.0, torch.softmax(s_BERS, -1))


def _row_chance(
    call: AttentionSlice, ds_BERS: Tensor, p_BERS: Tensor, s_BERS: Tensor, dp_BERS: Tensor, do: Tensor, v: Tensor
) -> Tensor:
    """Return the standard deviation of each row's sum of dS, (B, E, R), captured rows standing for all.

    Errors are independent, so variances add: the rounding of dS to the layer's format, as large as it comes out here; that of P
    on its way into O, and so into delta; and what float32 leaves in the dot products of delta and dP and, for large scores, in
    P = exp(S - logsumexp).
    """
    # As flash attention rounds it: before it is divided by its sum, so that the largest is exactly 1.
    top = p_BERS.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    variance = _rounding_error(call, ds_BERS).square().sum(-1)
    variance += (_rounding_error(call, p_BERS / top) * top * dp_BERS).square().sum(-1)
    largest = torch.where(s_BERS.isneginf(), 0.0, s_BERS).abs().amax(-1)
    dots = (do * (p_BERS @ v)).square().sum(-1) + (p_BERS.square() @ v.square() * do.square()).sum(-1)
    variance += _FLOAT32_ROUNDOFF**2 * (dots + (1 + largest).square() * ds_BERS.square().sum(-1))
    return (variance / call.row_share).sqrt()


def _rounding_error(call: AttentionSlice, x: Tensor) -> Tensor:
    """Return what rounding to the layer's format does to float64 numbers."""
    bits = _bits(2 * call.roundoff)
    return (round_mantissa(x.float(), bits) if bits < FLOAT32_MANTISSA_BITS else x.float()).double() - x


def _float32(
    call: AttentionSlice, q: Tensor, k: Tensor, v: Tensor, do: Tensor, o32: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the residual (B, D) and the norm of dK (B,), all of it in float32."""
    q, k, v, do = (x.float() for x in (q, k, v, do))
    p_BERS = _softmax(call.scale * (q @ k.mT) + (0.0 if bias is None else bias))
    ds_BERS = p_BERS * (do @ v.mT - (do * o32).sum(-1, keepdim=True))
    dk = (call.scale * ds_BERS.mT @ q).sum(1)
    return dk.sum(1), dk.norm(dim=(1, 2))


def _low(
    call: AttentionSlice, q: Tensor, k: Tensor, v: Tensor, do: Tensor, bias: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return O as low precision gives it, and residual and norm of dK with delta from it and from the float32 output.

    The precision is the layer's own, as a flash attention uses it; bfloat16 where the layer's is float32.
    """
    fine = call.spacing < _FINE
    inner = BFLOAT16_MANTISSA_BITS if fine else _bits(2 * call.roundoff)
    output = BFLOAT16_MANTISSA_BITS if fine else _bits(call.spacing)
    flash = Precision(inputs=inner, probabilities=inner, output=output, score_gradients=inner, gradients=inner)
    found = []
    for precision in (flash, replace(flash, delta_from="float32")):
        with torch.enable_grad():
            given = [x.float().requires_grad_(x is k) for x in (q, k, v)]
            out = reference_attention(*given, scale=call.scale, attn_mask=bias, precision=precision)
            (dk,) = torch.autograd.grad(out, given[1], do.float())
        found.append((out.detach(), (dk[:, 0].sum(1), dk[:, 0].norm(dim=(1, 2)))))
    return found[0][0], found[0][1], found[1][1]


def _bits(spacing: float) -> int:
    return min(FLOAT32_MANTISSA_BITS, max(1, round(-math.log2(spacing))))


def _ratio(residual: Tensor, norm: Tensor) -> float:
    """Return the root mean square over sequences of a residual over a norm."""
    sizes = residual.double().square().sum(-1), norm.double().square()
    return math.sqrt(float(sizes[0].sum() / sizes[1].sum())) if float(sizes[1].sum()) > 0 else 0.0
