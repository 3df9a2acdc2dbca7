"""Statistics of the rounding errors of attention calls, on a subsample: O, delta, and what they do to W_q's gradient.

Shapes as in attention_statistics.py; here H are the heads of L layers side by side, N = B * R the rows of a head, C the width of
the query projection's input. Nothing of a weight's size is made: norms of sums of outer products ``sum_i a_i^T x_i`` come from
the (N, N) Gram matrices of the a and the x.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import AttentionSample, RecomputedRows, per_query_head
from .not_applicable import not_applicable
from .subspace import leading_eigenvector

# Scores this near the row's maximum are tied with it.
TIE = 1e-3
# An error of so many float32 roundoffs of the row's size may be the recomputation's own, and of one sign: it raises no z.
_FLOAT32_FLOOR = 4 * 2.0**-24
_FLOAT32_SPACING = 2.0**-23
# Errors of delta are as small as gradients: scaled, their squares stay within float32 on their way to the host.
_DELTA_UNIT = 2.0**30
# Share of the queries' energy by which they may differ from what was recomputed (rounding leaves some 1e-5): above it, what lies
# between projection and attention is not known.
_MISFIT = 1e-2
_TINY = torch.finfo(torch.float32).tiny

OUTPUT_NAMES = ("tie_fraction", "tie_multiplicity", "output_bias", "output_bias_z")
DELTA_NAMES = ("delta_bias", "delta_bias_z", "delta_same_sign")


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors in the sampled rows, entry by entry, (B, H, R, D), and which rows count, (B, H, R).

    Attributes:
        output: ``O_lp - O_hp`` in ulp; 0 in rows that see no key, which ``seeing`` marks with 0.
        delta: ``dO * (O_lp - O_hp)``, whose sum over D is ``delta_lp - delta_hp``; None where that is not known.
        doubt: the part of it that may be the recomputation's, (B, H, R).
        felt: 1 for rows that see a key and have a gradient.
    """

    output: Tensor
    seeing: Tensor
    delta: Tensor | None = None
    doubt: Tensor | None = None
    felt: Tensor | None = None


def errors(sample: AttentionSample, rows: RecomputedRows, grad_out: Tensor | None) -> Errors:
    """Compare the layer's output with float32's, and delta = rowsum(dO * O) taken from either."""
    assert sample.out is not None
    exact = rows.p @ per_query_head(sample.v, sample.q)
    seeing = rows.seeing
    difference = torch.where(seeing[..., None] == 0, 0.0, sample.out - exact)
    # The ulp is that of the row's size: an entry near zero says nothing about the size of the sums that made it.
    size = exact.square().mean(-1, keepdim=True).sqrt()
    output = difference / (_power_of_two_below(size) * _spacing(sample))
    if grad_out is None or not sample.delta_from_output:
        return Errors(output, seeing)
    felt = seeing * torch.where(grad_out.abs().amax(-1) == 0, 0.0, 1.0)
    doubt = _FLOAT32_FLOOR * grad_out.norm(dim=-1) * exact.norm(dim=-1) * felt
    return Errors(output, seeing, grad_out * difference, doubt, felt)


def output_sums(sample: AttentionSample, rows: RecomputedRows, found: Errors) -> Tensor:
    """Return sums, (9, H), float64, additive over ranks; ``finish_output`` makes statistics of them."""
    highest = rows.p.amax(-1, keepdim=True)
    nan = 0.0 * highest[..., 0]  # NaN where a row is: comparisons drop it
    tied = (rows.p >= highest * (1.0 - TIE)).sum(-1) * found.seeing + nan
    several = torch.where(tied > 1, 1.0, 0.0) + nan
    doubt = (_FLOAT32_FLOOR / _spacing(sample)) * found.seeing
    return torch.cat([_bias_sums(found.output / found.output.shape[-1], found.seeing, doubt), _summed(several, tied)])


def finish_output(sums: Tensor) -> Tensor:
    """Return the values of OUTPUT_NAMES, (4 * H,); n/a where no row sees a key."""
    bias, (several, tied) = sums[:7], sums[7:]
    rows = bias[0]
    return _where_any(rows, torch.stack([several / rows, tied / rows, *_mean_and_z(bias)]))


def delta_sums(found: Errors) -> Tensor:
    """Return sums, (9, H), float64, additive over ranks; ``finish_delta`` makes statistics of them."""
    assert found.delta is not None
    assert found.doubt is not None
    assert found.felt is not None
    terms = found.delta * found.felt[..., None] * _DELTA_UNIT
    e = terms.sum(-1)
    nan = 0.0 * e
    positive, negative = torch.where(e > 0, 1.0, 0.0) + nan, torch.where(e < 0, 1.0, 0.0) + nan
    return torch.cat([_bias_sums(terms, found.felt, found.doubt * _DELTA_UNIT), _summed(positive, negative)])


def finish_delta(sums: Tensor) -> Tensor:
    """Return the values of DELTA_NAMES, (3 * H,); n/a where no row has a gradient, the last where no row errs."""
    bias, (positive, negative) = sums[:7], sums[7:]
    mean, z = _mean_and_z(bias)
    erring = positive + negative
    same = torch.where(erring == 0, not_applicable(sums.device), (torch.maximum(positive, negative) / erring).float())
    return torch.cat([_where_any(bias[0], torch.stack([mean / _DELTA_UNIT, z])), same])


def _bias_sums(terms: Tensor, counted: Tensor, doubt: Tensor) -> Tensor:
    """Return the sums that mean and z come from, (7, H): over rows their number, the row sums of the terms, their squares and
    the doubt; over the columns of each sequence (an entry of the head, all rows) their number, their means and squares.

    Args:
        terms: (B, H, R, D), zero in rows that do not count.
        counted, doubt: (B, H, R).
    """
    row = terms.sum(-1).double()
    rows_BH = counted.sum(-1, keepdim=True)
    # Scaled by D, the mean over columns of a sequence is its mean over rows.
    column = (terms.sum(2) / rows_BH.clamp_min(1.0) * terms.shape[-1]).double()
    columns = torch.where(rows_BH == 0, 0.0, 1.0).expand_as(column)
    return torch.cat([_summed(counted, row, row.square(), doubt), _summed(columns, column, column.square())])


def _mean_and_z(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean row, and how many standard errors it is from 0.

    Rows are no independent draws: those that attend to the same keys make the same error in the same entries. Nor are the
    entries of a row, which share P. The variances of the mean over rows and over columns are added, which errs to the safe side.
    """
    rows, total, squares, doubt, columns, column_total, column_squares = sums
    mean = total / rows
    by_row = (squares / rows - mean.square()).clamp_min(0.0) / rows
    by_column = (column_squares / columns - (column_total / columns).square()).clamp_min(0.0) / columns
    return mean, mean / (by_row + by_column + (doubt / rows).square()).sqrt().clamp_min(_TINY)


@dataclass(frozen=True, slots=True)
class QueryGradient:
    """What the errors do to W_q's gradient; (L, h) each, h heads a layer, NaN-marked n/a where it is not known.

    Attributes:
        rank_one_share: energy of the leading singular pair of ``(P K)^T X``.
        error: norm of the error ``-scale * sum_i e_i (P K)_i^T x_i`` over the gradient's, both of the sampled rows; None where
            delta's error is not known.
        left, right: the leading pair, (L, h, D) and (L, h, C), of unit length.
    """

    rank_one_share: Tensor
    error: Tensor | None
    left: Tensor
    right: Tensor


def query_gradient(
    sample: AttentionSample,
    rows: RecomputedRows,
    found: Errors,
    grad_out: Tensor,
    grad_p: Tensor,
    x: Tensor,
    projected: Tensor,
) -> QueryGradient:
    """Follow the errors into W_q's gradient.

    Args:
        sample, rows, found, grad_out, grad_p: the calls, B sequences.
        x: (L, B, R, C), what the query projections were given.
        projected: (B, H, R, D), what they gave, recomputed in float32.
    """
    assert sample.out is not None
    layers = x.shape[0]
    k = per_query_head(sample.k, sample.q)
    delta = (grad_out * sample.out).sum(-1, keepdim=True)
    pk, dq = rows.p @ k, (rows.p * (grad_p - delta)) @ k * sample.scale
    turned = _with_rotation_undone(*(each.unflatten(1, (layers, -1)) for each in (sample.q, projected)), pk, dq)
    # (L, h, N, D): rows of one sequence after the other, as in x.
    pk, dq = (each.permute(1, 2, 0, 3, 4).flatten(2, 3).double() for each in turned.vectors)
    x = x.flatten(1, 2)
    gram = x.double() @ x.double().mT
    unknown = not_applicable(x.device)
    error = None
    if found.delta is not None:
        e = found.delta.sum(-1).unflatten(1, (layers, -1)).permute(1, 2, 0, 3).flatten(2) * sample.scale
        whole = _norm_of_outer_products(dq, gram)
        error = (_norm_of_outer_products(pk * e[..., None], gram) / whole).float()
        error = torch.where((whole == 0) | turned.unknown, unknown, error)
    small = (pk.mT @ gram[:, None] @ pk).flatten(0, 1)
    left = leading_eigenvector(small)
    energy = small.diagonal(dim1=1, dim2=2).sum(1)
    leading = (left[:, None] @ small @ left[:, :, None])[:, 0, 0]
    share = (leading / energy).float().unflatten(0, (layers, -1))
    share = torch.where((energy == 0).unflatten(0, (layers, -1)) | turned.unknown, unknown, share)
    left = left.unflatten(0, (layers, -1))
    right = (pk @ left[..., None])[..., 0].float() @ x
    return QueryGradient(share, error, left.float(), right / right.norm(dim=-1, keepdim=True).clamp_min(_TINY))


@dataclass(frozen=True, slots=True)
class _Turned:
    """Vectors (B, L, h, R, D) as they were before the rotation, and (L, 1) whether it is unknown what it was."""

    vectors: tuple[Tensor, ...]
    unknown: Tensor


def _with_rotation_undone(q: Tensor, projected: Tensor, *vectors: Tensor) -> _Turned:
    """Undo what was done to queries between their projection and attention, if it was nothing or a rotary embedding.

    A rotary embedding turns the pairs of a row by angles that are the same for all heads: the angles are those that fit best.
    Pairs may be the two halves of a head's entries, or neighbours; a common factor changes nothing here.

    Args:
        q, projected: (B, L, h, R, D), the queries as attention takes them and as the projection gave them.
        vectors: (B, L * h, R, D).
    """
    whole = q.square().sum((0, 2, 3, 4), keepdim=True)
    factor = (whole / projected.square().sum((0, 2, 3, 4), keepdim=True).clamp_min(_TINY)).sqrt()
    projected = projected * factor
    given = tuple(each.unflatten(1, q.shape[1:3]) for each in vectors)

    def misfit(expected: Tensor) -> Tensor:
        return (q - expected).square().sum((0, 2, 3, 4), keepdim=True) / whole.clamp_min(_TINY)

    least, best = misfit(projected), given
    # Nothing done fits worse than the best of many angles, rounding being what it is: it is taken where it fits at all.
    plain = least <= _MISFIT
    for pairing in (-2, -1) if q.shape[-1] % 2 == 0 else ():
        q1, q2 = _pairs(q, pairing)
        p1, p2 = _pairs(projected, pairing)
        cos, sin = ((a).sum(2, keepdim=True) for a in (q1 * p1 + q2 * p2, q2 * p1 - q1 * p2))
        length = torch.hypot(cos, sin).clamp_min(_TINY)
        cos, sin = cos / length, sin / length
        off = misfit(_joined(cos * p1 - sin * p2, sin * p1 + cos * p2, pairing))
        better = ~plain & (off < least)
        turned = []
        for each, so_far in zip(given, best, strict=True):
            v1, v2 = _pairs(each, pairing)
            turned.append(torch.where(better, _joined(cos * v1 + sin * v2, cos * v2 - sin * v1, pairing), so_far))
        least, best = torch.where(better, off, least), tuple(turned)
    return _Turned(best, (least > _MISFIT)[0, :, :, 0, 0])


def _pairs(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the first and second members of the pairs that D falls into: two halves (axis -2), or neighbours (-1)."""
    split = x.unflatten(-1, (2, -1) if axis == -2 else (-1, 2))
    return split.select(axis, 0), split.select(axis, 1)


def _joined(first: Tensor, second: Tensor, axis: int) -> Tensor:
    return torch.stack([first, second], axis if axis == -1 else -2).flatten(-2)


def _norm_of_outer_products(a: Tensor, gram: Tensor) -> Tensor:
    """Return ``|sum_i a_i^T x_i|`` for a (L, h, N, D) and the Gram matrix of x, (L, N, N); (L, h), float64."""
    return ((a @ a.mT) * gram[:, None]).sum((2, 3)).clamp_min(0.0).sqrt()


def _summed(*parts: Tensor) -> Tensor:
    return torch.stack([part.double().sum((0, 2)) for part in parts])


def _where_any(rows: Tensor, values: Tensor) -> Tensor:
    return torch.where(rows == 0, not_applicable(values.device), values.float()).flatten()


def _spacing(sample: AttentionSample) -> float:
    return max(sample.output_spacing, _FLOAT32_SPACING)


def _power_of_two_below(x: Tensor) -> Tensor:
    return torch.exp2(torch.floor(torch.log2(x.clamp_min(_TINY))))
