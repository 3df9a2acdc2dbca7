"""Statistics of one attention call, recomputed in float32 from a subsample of its q, k, v, output and gradients.

Shapes: B sequences, H query heads, G key heads (G divides H), R sampled query rows, S keys, D head dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Relative root-mean-square error of rounding to nearest with unit roundoff 1, over significands uniform in the logarithm.
_RMS_OF_ROUNDING = 0.425
_FLOAT32_ROUNDOFF = 2.0**-24
# Rows with fewer keys than this have a low entropy for no reason of the model's.
_KEYS_FOR_ENTROPY = 8


@dataclass(frozen=True, slots=True)
class AttentionSample:
    """What is held of one call between its forward pass and the end of the step; all copies, bounded.

    Attributes:
        q: (B, H, R, D) sampled query rows.
        k, v: (B, G, S, D).
        out: (B, H, R, D) the layer's own output in those rows.
        bias: (R, S) or broadcastable to (B, H, R, S), added to the scores, -inf where a key is masked; None for none.
        scale: of the scores.
        roundoff: unit roundoff of dS and dK in the layer's own arithmetic.
        row_share: R over the number of query rows there were.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    bias: Tensor | None
    scale: float
    roundoff: float
    row_share: float


@dataclass(frozen=True, slots=True)
class KeyGradient:
    """The gradient of the keys, reduced when it passed: ``shift`` (B, G, D) is its sum over keys, ``norm`` (B, G) its norm."""

    shift: Tensor
    norm: Tensor


def forward_statistics(sample: AttentionSample) -> dict[str, Tensor]:
    """Return per-head (H,) tensors: max_logit, entropy_mean, entropy_min (nat; n/a is inf), common_logit_shift."""
    s_BHRS, p_BHRS = _scores_and_probabilities(sample)
    visible = torch.ones_like(s_BHRS, dtype=torch.bool) if sample.bias is None else ~torch.isneginf(sample.bias).expand_as(s_BHRS)
    magnitudes = torch.where(visible, s_BHRS.abs(), 0.0)
    # p log p at p = 0 is 0.
    entropy = -torch.where(p_BHRS > 0, p_BHRS * p_BHRS.log(), p_BHRS * 0.0).sum(-1)
    enough = visible.sum(-1) >= _KEYS_FOR_ENTROPY
    common = (sample.q @ _per_query_head(sample.k, sample.q).mean(2, keepdim=True).transpose(-2, -1)).abs() * sample.scale
    return {
        "max_logit": magnitudes.amax((0, 2, 3)),
        "entropy_mean": entropy.mean((0, 2)),
        "entropy_min": torch.where(enough, entropy, float("inf")).amin((0, 2)),
        "common_logit_shift": common.mean((0, 2, 3)),
    }


def key_shift_statistics(sample: AttentionSample, gradient: KeyGradient, grad_out: Tensor) -> dict[str, Tensor]:
    """Return per-key-head (G,) tensors: key_shift_residual and key_shift_excess.

    Softmax does not change when a constant is added to a row of S, so in exact arithmetic the keys' gradients sum to zero. What is
    left is rounding error. The excess divides it by what independent rounding of dS and dK alone would leave: about 1 when healthy.

    Args:
        sample: the call.
        gradient: of the keys, reduced.
        grad_out: (B, H, R, D), gradient of the output in the sampled rows.
    """
    s_BHRS, p_BHRS = _scores_and_probabilities(sample)
    v = _per_query_head(sample.v, sample.q)
    delta_BHR1 = (grad_out * sample.out).sum(-1, keepdim=True)
    ds_BHRS = p_BHRS * (grad_out @ v.transpose(-2, -1) - delta_BHR1)
    # Errors are taken as independent, so variances add. First that of each row's sum of dS: the rounding of dS itself, and what
    # float32 arithmetic leaves in the dot products of delta and dP and, for large logits, in P = exp(S - logsumexp).
    unit = _RMS_OF_ROUNDING * sample.roundoff
    dots = (grad_out * sample.out).square().sum(-1) + (p_BHRS.square() * (grad_out.square() @ v.square().transpose(-2, -1))).sum(-1)
    largest = torch.where(torch.isneginf(s_BHRS), 0.0, s_BHRS.abs()).amax(-1)
    row_BHR = (unit**2 + (_FLOAT32_ROUNDOFF * (1.0 + largest)) ** 2) * ds_BHRS.square().sum(-1) + _FLOAT32_ROUNDOFF**2 * dots
    # Sampled rows stand for all rows; query heads that share keys add.
    through_q = (row_BHR * sample.q.square().sum(-1)).sum(-1) * (sample.scale**2 / sample.row_share)
    through_q = through_q.reshape(through_q.shape[0], gradient.norm.shape[1], -1).sum(-1)
    expected = (through_q + (unit * gradient.norm).square()).sqrt()
    left = gradient.shift.norm(dim=-1)
    tiny = torch.finfo(torch.float32).tiny
    return {
        "key_shift_residual": (left / gradient.norm.clamp_min(tiny)).mean(0),
        "key_shift_excess": (left / expected.clamp_min(tiny)).mean(0),
    }


def _scores_and_probabilities(sample: AttentionSample) -> tuple[Tensor, Tensor]:
    s_BHRS = (sample.q @ _per_query_head(sample.k, sample.q).transpose(-2, -1)) * sample.scale
    if sample.bias is not None:
        s_BHRS = s_BHRS + sample.bias
    # A row that sees no key at all has no distribution: zeros instead of the NaN that softmax would give.
    blind = torch.isneginf(s_BHRS).all(-1, keepdim=True)
    p_BHRS = torch.where(blind, 0.0, torch.softmax(s_BHRS, -1))
    return s_BHRS, p_BHRS


def _per_query_head(x_BGSD: Tensor, q_BHRD: Tensor) -> Tensor:
    return x_BGSD.repeat_interleave(q_BHRD.shape[1] // x_BGSD.shape[1], 1)
