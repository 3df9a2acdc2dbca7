"""Rounding errors of attention that have one sign: of its output, of delta, and of the gradient of W_q.

Trouble it reveals: the chain that ends in a loss explosion in arXiv 2510.04212. Rounding errors of the output O that have one sign
give delta = rowsum(dO * O) an error of one sign; it reaches the gradient of W_q along nearly the same rank-one matrix at every
token and step, so that what should cancel adds up, sigma_1 of W_q grows, and the loss explodes. Errors of random sign and the same
size do no harm.

Formula: with O_hp and delta_hp recomputed in float32, ``output_bias = mean (O_lp - O_hp)`` in ulp (at the row's root mean
square), ``e = delta_lp - delta_hp``, ``delta_bias = mean e``; z-scores that allow for rows which attend to the same keys and so
err alike, and count four float32 roundoffs as doubt; ``delta_same_sign``, the share of rows with the dominant sign;
``delta_bias_sum``, the sum of delta_bias over samples. With X the query projection's input: ``rank_one_share`` and
``direction_similarity`` (with the sample before) of the leading singular pair of ``(P K)^T X``, and ``query_gradient_error``,
the norm of ``scale * sum_i e_i (P K)_i^T x_i`` over that of the gradient which the same rows give. A rotary embedding is found
by comparing queries with what was projected, and undone; where the queries are not the projection's outputs otherwise, the last
three do not apply. Nor does delta where a layer is known not to take it from its output.
``tie_fraction``, ``tie_multiplicity``: rows whose maximum is attained more than once (within 1e-3), and how often it is on average.

Cost: on a sampled step, per call four products of the size of its 64 rows' scores, and Gram matrices of 128 rows. Memory:
taps/attention.py; H * (D + C) floats a call are kept from sample to sample.

Source: arXiv 2510.04212; what small runs show is in docs/chain.md.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from ..storage.records import SeriesKey
from .base import Block, Scalars, Sums
from .statistics.precision import without_autocast
from .statistics.rounding import (
    DELTA_NAMES,
    OUTPUT_NAMES,
    QueryGradient,
    delta_sums,
    errors,
    finish_delta,
    finish_output,
    output_sums,
    query_gradient,
)
from .taps.attention import AttentionObserver
from .taps.attention_calls import AttentionGroup


class RoundingBiasProbe(AttentionObserver):
    """Per head: ties, bias of output and delta with z-scores, and the error of W_q's gradient: size, rank, direction."""

    name = "rounding_bias"
    presets = frozenset({"full"})
    signals = (
        "rounding.tie_fraction",
        "rounding.tie_multiplicity",
        "rounding.output_bias",
        "rounding.output_bias_z",
        "rounding.delta_bias",
        "rounding.delta_bias_z",
        "rounding.delta_same_sign",
        "rounding.delta_bias_sum",
        "rounding.direction_similarity",
        "rounding.rank_one_share",
        "rounding.query_gradient_error",
    )
    needs_queries = True

    def __init__(self) -> None:
        super().__init__()
        self._totals: dict[str, Tensor] = {}
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}

    @override
    def rebind(self) -> None:
        self._totals.clear()
        self._pairs.clear()

    @override
    @torch.no_grad()
    def collect(self, step: int) -> Iterator[Block]:
        for group in self._tap.groups() if self._tap else ():
            if group.sample.out is not None:
                with without_autocast(group.sample.q.device):
                    blocks = list(self._blocks(group))
                yield from blocks

    def _blocks(self, group: AttentionGroup) -> Iterator[Block]:
        sample, rows, grad_out = group.sample, group.rows, group.grad_out
        found = errors(sample, rows, grad_out)
        yield Sums(_keys(group, OUTPUT_NAMES), output_sums(sample, rows, found), finish_output)
        if grad_out is None:
            return
        if found.delta is not None:
            sums = delta_sums(found)
            yield Sums(_keys(group, DELTA_NAMES), sums, finish_delta)
            yield Scalars(group.keys("rounding.delta_bias_sum"), self._added_up(group, finish_delta(sums)[: sample.q.shape[1]]))
        if group.x is not None and group.projected is not None:
            gradient = query_gradient(sample, rows, found, grad_out, group.grad_p, group.x, group.projected)
            yield Scalars(group.keys("rounding.rank_one_share"), gradient.rank_one_share.flatten())
            if gradient.error is not None:
                yield Scalars(group.keys("rounding.query_gradient_error"), gradient.error.flatten())
            yield from self._similarity(group, gradient)

    def _added_up(self, group: AttentionGroup, bias: Tensor) -> Tensor:
        """Add this sample's delta_bias to each call's running sum; what is not finite, or does not apply, adds nothing."""
        names = [call.name for call in group.calls]
        added = torch.where(torch.isfinite(bias), bias, 0.0).unflatten(0, (len(names), -1))
        before = [self._totals.get(name) for name in names]
        sums = torch.stack([new if old is None else old + new for old, new in zip(before, added, strict=True)])
        self._totals.update(zip(names, sums, strict=True))
        return sums.flatten()

    def _similarity(self, group: AttentionGroup, gradient: QueryGradient) -> Iterator[Block]:
        names = [call.name for call in group.calls]
        before = [self._pairs[name] for name in names if name in self._pairs]
        if len(before) == len(names) and all(b.shape == gradient.right.shape[1:] for _, b in before):
            left, right = (torch.stack(each) for each in zip(*before, strict=True))
            cosines = (left * gradient.left).sum(-1) * (right * gradient.right).sum(-1)
            # Where the share does not apply, its mark stands here too.
            unknown = ~torch.isfinite(gradient.rank_one_share)
            similarity = torch.where(unknown, gradient.rank_one_share, cosines.abs())
            yield Scalars(group.keys("rounding.direction_similarity"), similarity.flatten())
        self._pairs.update(zip(names, zip(gradient.left, gradient.right, strict=True), strict=True))


def _keys(group: AttentionGroup, names: tuple[str, ...]) -> tuple[SeriesKey, ...]:
    return tuple(key for name in names for key in group.keys(f"rounding.{name}"))
