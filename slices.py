"""Hands the flight recorder what the probes' tap saw of attention: a probe that yields no values and keeps a few slices."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from .interventions.bundle import AttentionSlice
from .probes.base import Block
from .probes.taps.attention import AttentionObserver
from .probes.taps.attention_calls import SeenCall

_FLOAT = 4


class SliceProbe(AttentionObserver):
    """Placed by ``watch()`` where ``capture`` was asked for; its cost counts as any probe's. In no preset."""

    name = "capture"
    presets = frozenset()
    signals = ()

    @override
    def collect(self, step: int) -> Iterator[Block]:
        yield from ()

    def slices(self, most_bytes: int) -> Sequence[AttentionSlice]:
        """Return what was seen in the sampled step that is about to end, a part of every call; a call may take an even share of
        ``most_bytes``, or one head of one sequence where that is more."""
        if self._tap is None:
            return ()
        calls = [call for call in self._tap.calls if call.sample.out is not None and call.grad_out and call.key_gradients]
        return [slice_of(call, most_bytes // len(calls)) for call in calls]


@torch.no_grad()
def slice_of(call: SeenCall, most_bytes: int) -> AttentionSlice:
    """Copy a part of a call: as many key heads as fit, evenly scattered, each with all its query heads, and both sequences; of
    one head that is still too large the first sequence alone."""
    sample, gradient = call.sample, call.key_gradients[0]
    assert sample.out is not None
    (b, h, r, d), (_, g, s, _) = sample.q.shape, sample.k.shape
    each = h // g
    by_head = sample.bias is not None and sample.bias.dim() == 4 and sample.bias.shape[1] > 1
    shared = 0 if sample.bias is None or by_head else sample.bias.numel() * _FLOAT
    head_bytes = _FLOAT * b * (2 * s * d + d + 1 + each * r * (3 * d + s * by_head))
    heads = max(1, min(g, (most_bytes - shared) // head_bytes))
    sequences = b if heads > 1 or head_bytes + shared <= most_bytes else 1
    chosen = [i * g // heads for i in range(heads)]

    def of_keys(x: Tensor) -> Tensor:
        return torch.stack([x[:sequences, i] for i in chosen], 1)

    def of_queries(x: Tensor) -> Tensor:
        return of_keys(x.unflatten(1, (g, each))).flatten(1, 2)

    bias = sample.bias
    if bias is not None:
        bias = bias[:sequences] if bias.dim() == 4 else bias
        bias = of_queries(bias) if by_head else bias.clone()
    return AttentionSlice(
        module=call.name,
        heads=tuple(call.at.head_numbers[i * each + j] for i in chosen for j in range(each)),
        q=of_queries(sample.q),
        k=of_keys(sample.k),
        v=of_keys(sample.v),
        out=of_queries(sample.out),
        grad_out=of_queries(call.grad_out[0]),
        shift=of_keys(gradient.shift),
        key_norm=of_keys(gradient.norm),
        bias=bias,
        scale=sample.scale,
        spacing=sample.output_spacing,
        roundoff=sample.roundoff,
        row_share=sample.row_share,
        delta_from_output=sample.delta_from_output,
    )
