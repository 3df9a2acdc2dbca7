"""Statistics of one attention call, recomputed in float32 from a subsample of its q, k, v, output and gradients.

Shapes: B sequences, H query heads, G key heads (G divides H), R sampled query rows, S keys, D head dimension. The (B, H, R, S)
tensors are passed over as few times as can be, and never with a mask: on a CPU a masked pass costs twenty plain ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .not_applicable import not_applicable

# Relative root-mean-square error of rounding to nearest with unit roundoff 1, over significands uniform in the logarithm.
_RMS_OF_ROUNDING = 0.425
_FLOAT32_ROUNDOFF = 2.0**-24
# Rows with fewer keys than this have a low entropy for no reason of the model's.
_KEYS_FOR_ENTROPY = 8
# What masked and far-off scores are raised to, below the row's highest. exp() of it, 9e-14, is nothing beside 1 in float32, and its
# square is still a normal number: underflow costs a CPU forty times the time, and 0 times -inf would be NaN in the entropy.
_FAR_BELOW = -30.0
_TINY = torch.finfo(torch.float32).tiny
# Scores to which an additive mask of -1e4 or less was added: no score of a model's own comes near.
_MASKED = -5e3


@dataclass(frozen=True, slots=True)
class AttentionSample:
    """What is held of one call between its forward pass and the end of the step; all copies, bounded, float32.

    Attributes:
        q: (B, H, R, D) sampled query rows.
        k, v: (B, G, S, D).
        out: (B, H, R, D), the layer's own output in those rows; None where it is out of reach.
        bias: (R, S) or broadcastable to (B, H, R, S), added to the scores, -inf where a key is masked; None for none.
        scale: of the scores.
        roundoff: unit roundoff of dS and dK in the layer's own arithmetic.
        output_spacing: distance of 1 to the next number of the format that the output is stored in.
        delta_from_output: whether the layer takes delta from its output as stored (flash attention does).
        row_share: R over the number of query rows there were.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor | None
    bias: Tensor | None
    scale: float
    roundoff: float
    output_spacing: float
    delta_from_output: bool
    row_share: float


@dataclass(frozen=True, slots=True)
class KeyGradient:
    """The gradient of the keys, reduced when it passed: ``shift`` (B, G, D) is its sum over keys, ``norm`` (B, G) its norm."""

    shift: Tensor
    norm: Tensor


@dataclass(frozen=True, slots=True)
class RecomputedRows:
    """The sampled rows of the softmax: probabilities p (B, H, R, S), and what the scores showed on the way, (B, H, R) each.

    ``largest`` is the largest |score| among visible keys; ``entropy`` is in nat; ``seeing`` is 1, and 0 for rows that see no key,
    which have zeros throughout (1e-13 in p).
    """

    p: Tensor
    largest: Tensor
    entropy: Tensor
    seeing: Tensor


def recompute(sample: AttentionSample) -> RecomputedRows:
    """Recompute scores and softmax of the sampled rows; one (B, H, R, S) tensor is kept."""
    s_BHRS = (sample.q @ per_query_head(sample.k, sample.q).transpose(-2, -1)) * sample.scale
    if sample.bias is None:
        highest, lowest = s_BHRS.amax(-1, keepdim=True), s_BHRS.amin(-1, keepdim=True)
    else:
        # Masked scores are sent to +inf, out of the minimum's way.
        lowest = (s_BHRS + torch.where(torch.isneginf(sample.bias), torch.inf, sample.bias)).amin(-1, keepdim=True)
        s_BHRS = s_BHRS + sample.bias
        highest = s_BHRS.amax(-1, keepdim=True)
    return _softmax_rows(s_BHRS, highest, lowest)


def _softmax_rows(s_BHRS: Tensor, highest: Tensor, lowest: Tensor) -> RecomputedRows:
    """Return the softmax of scores, -inf where masked, given the highest and lowest of each row that is not."""
    blind = torch.isneginf(highest)
    shifted = (s_BHRS - torch.where(blind, 0.0, highest)).clamp_min(_FAR_BELOW)
    e_BHRS = torch.exp(shifted)
    l_BHR1 = e_BHRS.sum(-1, keepdim=True)
    p_BHRS = e_BHRS / torch.where(blind, 1.0, l_BHR1)
    entropy = torch.where(blind, 0.0, l_BHR1.log() - (p_BHRS * shifted).sum(-1, keepdim=True))
    largest = torch.where(blind, 0.0, torch.maximum(highest.abs(), lowest.abs()))
    return RecomputedRows(p_BHRS, largest[..., 0], entropy[..., 0], 1.0 - blind[..., 0].float())


def forward_statistics(sample: AttentionSample, rows: RecomputedRows) -> dict[str, Tensor]:
    """Return per-query-head (H,) tensors: max_logit, entropy_mean, entropy_min (nat), common_logit_shift.

    Rows that see no key count for nothing; where none sees one, the first three do not apply.
    """
    mean_key = per_query_head(sample.k.mean(2, keepdim=True), sample.q)
    common = (sample.q * mean_key).sum(-1).abs() * sample.scale
    masked = torch.zeros((), device=sample.q.device) if sample.bias is None else torch.isneginf(sample.bias).sum(-1)
    return {**_logit_statistics(rows, sample.k.shape[2] - masked), "common_logit_shift": common.mean((0, 2))}


def score_statistics(scores_BHRS: Tensor) -> dict[str, Tensor]:
    """Return the same without the common shift, of scores as a softmax was given them: masked by adding or filling in."""
    masked = scores_BHRS <= _MASKED
    s_BHRS = torch.where(masked, float("-inf"), scores_BHRS)
    lowest = torch.where(masked, torch.inf, scores_BHRS).amin(-1, keepdim=True)
    rows = _softmax_rows(s_BHRS, s_BHRS.amax(-1, keepdim=True), lowest)
    return _logit_statistics(rows, scores_BHRS.shape[3] - masked.sum(-1))


def _logit_statistics(rows: RecomputedRows, visible: Tensor) -> dict[str, Tensor]:
    """The statistics of rows with so many visible keys, broadcastable to (B, H, R)."""
    enough = (visible >= _KEYS_FOR_ENTROPY).expand_as(rows.entropy)
    least = torch.where(enough, rows.entropy, torch.inf).amin((0, 2))
    seeing = (visible > 0).expand_as(rows.entropy).sum((0, 2))
    nothing = not_applicable(least.device)
    return {
        "max_logit": torch.where(seeing == 0, nothing, rows.largest.amax((0, 2))),
        "entropy_mean": torch.where(seeing == 0, nothing, rows.entropy.sum((0, 2)) / seeing),
        "entropy_min": torch.where(torch.isposinf(least), nothing, least),
    }


def key_shift_statistics(
    sample: AttentionSample, rows: RecomputedRows, gradient: KeyGradient, grad_out: Tensor, grad_p: Tensor
) -> dict[str, Tensor]:
    """Return per-key-head (G,) tensors: key_shift_residual and key_shift_excess.

    Softmax does not change when a constant is added to a row of S, so in exact arithmetic the keys' gradients sum to zero. What is
    left is rounding error. The excess divides it by what independent rounding errors alone would leave: about 1 when healthy.
    Means over the sequences whose keys have a gradient; where none has, or there is but one key, neither applies.

    Args:
        sample, rows: the call.
        gradient: of the keys, reduced.
        grad_out: (B, H, R, D), gradient of the output in the sampled rows, float32.
        grad_p: (B, H, R, S), gradient of the probabilities there.
    """
    if sample.k.shape[2] == 1:  # its gradient is nothing but rounding error
        return {}
    assert sample.out is not None
    v = per_query_head(sample.v, sample.q)
    groups = gradient.norm.shape[1]
    # Both statistics are ratios: scaled to 1, gradients of any size square without underflow. The sampled rows may have none.
    largest = torch.maximum(grad_out.abs().amax((0, 2, 3)).reshape(groups, -1).amax(1), gradient.norm.amax(0)).clamp_min(_TINY)
    norm, shift = gradient.norm / largest, gradient.shift / largest[:, None]
    size = largest.repeat_interleave(grad_out.shape[1] // groups)[:, None, None]
    grad_out, grad_p = grad_out / size, grad_p / size
    delta_BHR1 = (grad_out * sample.out).sum(-1, keepdim=True)
    ds_BHRS = rows.p * (grad_p - delta_BHR1)
    # Errors are taken as independent, so variances add. First that of each row's sum of dS: the rounding of dS itself, and what
    # float32 arithmetic leaves in the dot products of delta and dP and, for large logits, in P = exp(S - logsumexp).
    unit = _RMS_OF_ROUNDING * sample.roundoff
    dots = (grad_out * sample.out).square().sum(-1)
    dots = dots + (rows.p.square() @ v.square() * grad_out.square()).sum(-1)
    relative = unit**2 + (_FLOAT32_ROUNDOFF * (1.0 + rows.largest)) ** 2
    row_BHR = relative * ds_BHRS.square().sum(-1) + _FLOAT32_ROUNDOFF**2 * dots
    # Then what it does to dK. Sampled rows stand for all rows; query heads that share keys add.
    through_q = (row_BHR * sample.q.square().sum(-1)).sum(-1) * (sample.scale**2 / sample.row_share)
    through_q = through_q.reshape(through_q.shape[0], groups, -1).sum(-1)
    expected = (through_q + (unit * norm).square()).sqrt()
    left = shift.norm(dim=-1)
    present = (norm != 0).sum(0)
    found = {"key_shift_residual": left / norm.clamp_min(_TINY), "key_shift_excess": left / expected.clamp_min(_TINY)}
    return {name: torch.where(present == 0, not_applicable(left.device), x.sum(0) / present) for name, x in found.items()}


def coherence(shifts: Tensor) -> Tensor:
    """Return ``|sum r| / sum |r|`` over n samples of residuals (n, G, D), (G,): 1 where all err the same way, about
    ``1 / sqrt(n)`` where errors are random; n/a where there are none."""
    size = shifts.abs().amax((0, 2))[:, None]
    scaled = shifts / size.clamp_min(_TINY)
    found = scaled.sum(0).norm(dim=-1) / scaled.norm(dim=-1).sum(0)
    return torch.where(size[:, 0] == 0, not_applicable(found.device), found)


def per_query_head(x_BGSD: Tensor, q_BHRD: Tensor) -> Tensor:
    """Return (B, G, S, D) as (B, H, S, D), heads of q that share a key head side by side."""
    heads, groups = q_BHRD.shape[1], x_BGSD.shape[1]
    return x_BGSD if heads == groups else x_BGSD.repeat_interleave(heads // groups, 1)
